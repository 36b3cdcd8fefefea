//! What is kept of a group for the time after a restart: its generation, its members, and what each of them reads. What they
//! know beside the protocol that was chosen they say again before another one is.

use waypost_model::Millis;

use super::{Group, Id, State};
use crate::codec::{Malformed, Reader, Writer};
use crate::groups::book::Kept;
use crate::groups::member::{Join, Member, Who};

/// How it is written.
const FORMAT: u64 = 1;
/// Fewest bytes of a member.
const MEMBER_BYTES_MIN: usize = 64;
/// The largest group that is kept, bytes: it is written whenever its members have come together. Those of a larger one join again.
const KEPT_BYTES_MAX: usize = 1 << 20;

impl Group {
    /// What is to be kept, if everybody knows what to read.
    pub fn to_keep(&self) -> Option<Box<[u8]>> {
        if self.state != State::Stable || self.members.is_empty() || self.bytes() > KEPT_BYTES_MAX {
            return None;
        }
        let w = Writer::default().number(FORMAT).number(self.generation as u64);
        let w = w.bytes(self.protocol_type.as_bytes()).bytes(self.protocol.as_bytes()).bytes(self.leader.as_bytes());
        let w = w.number(self.members.len() as u64);
        let member = |w: Writer, (id, m): (&Id, &Member)| {
            let w = w.bytes(id.as_bytes()).number(m.instance.is_some().into());
            let w = w.bytes(m.instance.as_deref().unwrap_or_default().as_bytes());
            let w = w.bytes(m.who.client_id.as_bytes()).bytes(m.who.host.as_bytes());
            let w = w.number(m.session_ms).number(m.rebalance_ms);
            w.bytes(m.said_of(&self.protocol)).bytes(&m.assignment)
        };
        Some(self.members.iter().fold(w, member).finish())
    }

    /// A group as it was kept. Its members have their time again to say that they are there.
    ///
    /// # Errors
    /// It was not written by [`Group::to_keep`].
    pub fn recalled(kept: &[u8], now: Millis) -> Result<Group, Malformed> {
        let mut r = Reader(kept);
        if r.number()? != FORMAT {
            return Err(Malformed);
        }
        let generation = i32::try_from(r.number()?).map_err(|_| Malformed)?;
        let (protocol_type, protocol, leader) = (r.text()?.into(), r.text()?.into(), r.text()?.into());
        let mut group = Group { state: State::Stable, generation, protocol_type, protocol, leader, ..Group::default() };
        for _ in 0..r.count(MEMBER_BYTES_MIN)? {
            let (id, member) = member(&mut r, &group, now)?;
            let instance = member.instance.clone();
            group.instances.extend(instance.map(|instance| (instance, id.clone())));
            group.members.insert(id, member);
        }
        r.end()?;
        if group.members.is_empty() { Err(Malformed) } else { Ok(group) }
    }
}

fn member(r: &mut Reader<'_>, group: &Group, now: Millis) -> Result<(Id, Member), Malformed> {
    let (id, has_instance, instance): (Id, _, Box<str>) = (r.text()?.into(), r.number()?, r.text()?.into());
    let who = Who { client_id: r.text()?.into(), host: r.text()?.into() };
    let milliseconds = |n: u64| i32::try_from(n).map_err(|_| Malformed);
    let (session_timeout_ms, rebalance_timeout_ms) = (milliseconds(r.number()?)?, milliseconds(r.number()?)?);
    let said = r.bytes()?.to_vec();
    let join = Join {
        member_id: id.clone(),
        instance: (has_instance != 0).then_some(instance),
        who,
        session_timeout_ms,
        rebalance_timeout_ms,
        protocol_type: group.protocol_type.clone(),
        protocols: vec![(group.protocol.clone(), said)],
        id_required: false,
        may_skip_assignment: false,
    };
    let mut member = Member::new(join, now);
    member.assignment = r.bytes()?.to_vec();
    Ok((id, member))
}
