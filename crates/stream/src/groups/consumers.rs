//! Groups of the newer protocol among all groups.

use std::sync::Arc;

use waypost_model::Millis;

use super::consumer::{Beaten, ConsumerGroup, ConsumerGroupView, Heartbeat, Resolved, Wanted};
use super::{GROUPS_MAX, GroupFault, Groups, State, room};

/// The protocol of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Members join, one of them deals out.
    Classic,
    /// The server deals out.
    Consumer,
}

impl Kind {
    /// As the protocol writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Classic => "classic",
            Kind::Consumer => "consumer",
        }
    }
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: Arc<str>,
    /// Its protocol.
    pub kind: Kind,
    /// The type of what it is for: `consumer`, `connect`, …
    pub protocol_type: Box<str>,
    /// What it is at, as the protocol writes it.
    pub state: &'static str,
}

/// The type of what groups of the newer protocol are for: there is one.
const CONSUMER: &str = "consumer";

impl Groups {
    /// Does something with a group of the newer protocol, if there is one with members.
    pub(super) fn with_consumers<R>(
        &self,
        vhost: &str,
        group: &str,
        f: impl FnOnce(&mut ConsumerGroup) -> R,
    ) -> Option<R> {
        self.lock().consumers.get_mut(&(vhost.into(), group.into())).map(f)
    }

    /// What is to be found out of topics before a group hears this heartbeat; nothing, if it knows enough.
    #[must_use]
    pub fn wants(&self, vhost: &str, group: &str, beat: &Heartbeat, now: Millis) -> Option<Wanted> {
        let known = self.with_consumers(vhost, group, |g| g.wants(beat, now));
        known.unwrap_or_else(|| ConsumerGroup::default().wants(beat, now))
    }

    /// A member of the newer protocol joins, stays, or leaves. `resolved`: the answer to [`Groups::wants`].
    ///
    /// # Errors
    /// [`GroupFault`].
    pub fn consumer_heartbeat(
        &self,
        vhost: &str,
        group: &str,
        beat: Heartbeat,
        resolved: Option<Resolved>,
        now: Millis,
    ) -> Result<Beaten, GroupFault> {
        if group.is_empty() {
            return Err(GroupFault::InvalidGroup);
        }
        beat.check()?;
        room::check(beat.bytes())?;
        let mut inner = self.lock();
        let key: (Arc<str>, Arc<str>) = (vhost.into(), group.into());
        let classic = inner.groups.get(&key).map(super::Group::state);
        if classic.is_some_and(|state| state != State::Empty) {
            return Err(GroupFault::ClassicGroup);
        }
        if !inner.consumers.contains_key(&key) {
            if beat.epoch != 0 {
                return Err(GroupFault::UnknownMember);
            }
            if inner.groups.len() + inner.consumers.len() >= GROUPS_MAX {
                return Err(GroupFault::TooManyGroups);
            }
        }
        if beat.epoch >= 0 && (beat.names.is_some() || beat.epoch == 0) {
            let before = inner.consumers.get(&key).map_or(0, |g| g.bytes_of(&beat.member_id));
            inner.take_room(beat.bytes(), before)?;
        }
        inner.ids += 1;
        let new_id = format!("{}-{:08x}-{:x}", beat.who.client_id, inner.seed as u32, inner.ids);
        let known = inner.consumers.entry(key.clone()).or_default();
        let beaten = known.beat(beat, new_id.into(), resolved, now);
        let is_empty = known.is_empty();
        if is_empty {
            inner.consumers.remove(&key);
        } else {
            // One that was empty makes way.
            inner.groups.remove(&key);
        }
        beaten
    }

    /// Whether a member of that epoch may look at what its group has committed. Who does not say that it is one may.
    ///
    /// # Errors
    /// [`GroupFault`].
    pub fn may_fetch(&self, vhost: &str, group: &str, member: Option<&str>, epoch: i32) -> Result<(), GroupFault> {
        let Some(member) = member.filter(|member| !member.is_empty() || epoch >= 0) else { return Ok(()) };
        self.with_consumers(vhost, group, |g| g.may_commit(member, epoch)).unwrap_or(Ok(()))
    }

    /// A group of the newer protocol as it is.
    #[must_use]
    pub fn describe_consumers(&self, vhost: &str, group: &str) -> Option<ConsumerGroupView> {
        self.with_consumers(vhost, group, |g| g.view())
    }

    /// All groups of a vhost.
    #[must_use]
    pub fn list(&self, vhost: &str) -> Vec<Listed> {
        let inner = self.lock();
        let classic = inner.groups.iter().filter(|((v, _), _)| &**v == vhost).map(|((_, id), g)| Listed {
            id: Arc::clone(id),
            kind: Kind::Classic,
            protocol_type: g.protocol_type.clone(),
            state: g.state().as_str(),
        });
        let consumers = inner.consumers.iter().filter(|((v, _), _)| &**v == vhost).map(|((_, id), g)| Listed {
            id: Arc::clone(id),
            kind: Kind::Consumer,
            protocol_type: CONSUMER.into(),
            state: g.state(),
        });
        classic.chain(consumers).collect()
    }
}
