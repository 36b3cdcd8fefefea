//! What members say of themselves, and what is dealt out to them, is kept as long as they are members: it has a limit, each
//! and all together.

use std::sync::Arc;

use super::book::Name;
use super::consumer::{Heartbeat, MEMBER_ID_BYTES_MAX};
use super::member::{Join, Member, Sync, Who};
use super::{GroupFault, Inner};

/// Longest that a member may say of itself, bytes: ids, protocols with what belongs to them, names of topics.
pub const MEMBER_BYTES_MAX: usize = 1 << 20;
/// What all members of a group say together, and what is dealt out to them, bytes: the leader of a classic group is told it in one
/// answer, and so is whoever has it described.
pub const GROUP_BYTES_MAX: usize = 64 << 20;
/// What all members of a node say together, and what is dealt out to those of the classic protocol, bytes.
pub const ALL_BYTES_MAX: usize = 256 << 20;
/// What a member takes beside that, about.
const MEMBER_BYTES: usize = 256;
/// The same of a name or a protocol.
const ITEM_BYTES: usize = 48;

/// What a member of the classic protocol says.
fn of_classic(who: &Who, instance: Option<&str>, protocols: &[(Box<str>, Vec<u8>)]) -> usize {
    let said: usize = protocols.iter().map(|(name, said)| name.len() + said.len() + ITEM_BYTES).sum();
    // Who it is stands in its id, too.
    MEMBER_BYTES + 2 * who.client_id.len() + who.host.len() + text(instance) + said
}

fn text(text: Option<&str>) -> usize {
    text.map_or(0, str::len)
}

impl Join {
    pub(super) fn bytes(&self) -> usize {
        of_classic(&self.who, self.instance.as_deref(), &self.protocols) + self.protocol_type.len()
    }
}

impl Sync {
    pub(super) fn bytes(&self) -> usize {
        self.assignments.iter().map(|(_, assignment)| assignment.len()).sum()
    }
}

impl Member {
    pub(super) fn bytes(&self) -> usize {
        of_classic(&self.who, self.instance.as_deref(), &self.protocols) + self.assignment.len()
    }

    /// The bytes that its view takes.
    pub(super) fn view_bytes(&self, protocol: &str) -> usize {
        of_classic(&self.who, self.instance.as_deref(), &[]) + self.said_of(protocol).len() + self.assignment.len()
    }
}

impl Heartbeat {
    pub(super) fn bytes(&self) -> usize {
        let texts = [self.instance.as_deref(), self.rack.as_deref(), self.pattern.as_deref()];
        of_consumer(&self.who, texts, self.names.iter().flatten())
    }
}

/// What a member of the newer protocol says.
pub(super) fn of_consumer<'a>(who: &Who, texts: [Option<&str>; 3], names: impl Iterator<Item = &'a Arc<str>>) -> usize {
    let names: usize = names.map(|name| name.len() + ITEM_BYTES).sum();
    MEMBER_BYTES + who.client_id.len() + who.host.len() + texts.map(text).iter().sum::<usize>() + names
}

impl Inner {
    /// Whether there is room for what somebody in a group says, who said so much before.
    pub(super) fn has_room(&self, group: &Name, said: usize, before: usize) -> bool {
        let more = said.saturating_sub(before);
        let of_group = self.groups.bytes_of(group) + self.consumers.bytes_of(group);
        let all = self.groups.bytes() + self.consumers.bytes();
        more == 0 || (of_group + more <= GROUP_BYTES_MAX && all + more <= ALL_BYTES_MAX)
    }

    /// The id of a new member.
    pub(super) fn new_id(&mut self, who: &Who) -> Box<str> {
        self.ids += 1;
        format!("{}-{:08x}-{:x}", who.client_id, self.seed as u32, self.ids).into()
    }

    /// The id of a new member of the newer protocol. Its client may have a long name.
    pub(super) fn new_consumer_id(&mut self, who: &Who) -> Box<str> {
        Some(self.new_id(who))
            .filter(|id| id.len() <= MEMBER_ID_BYTES_MAX)
            .unwrap_or_else(|| self.new_id(&Who::default()))
    }
}

pub(super) fn check(said: usize) -> Result<(), GroupFault> {
    let fits = said <= MEMBER_BYTES_MAX;
    fits.then_some(()).ok_or(GroupFault::InvalidRequest("a member says at most a megabyte of itself"))
}
