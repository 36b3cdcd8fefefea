//! Members: what they say of themselves and what they wait for.

use waypost_model::Millis;

use super::answers::{Joined, Slot, Synced};
use super::{GroupFault, PROTOCOLS_MAX};

/// Who a client is, for listings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// What it calls itself.
    pub client_id: Box<str>,
    /// Where it comes from.
    pub host: Box<str>,
}

/// What a member says when it joins.
#[derive(Clone, Debug)]
pub struct Join {
    /// Its id; empty if it has none yet.
    pub member_id: Box<str>,
    /// The instance that it is, whatever its id.
    pub instance: Option<Box<str>>,
    /// Who it is.
    pub who: Who,
    /// How long it may be silent, milliseconds.
    pub session_timeout_ms: i32,
    /// How long it may take to join again, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect`, …
    pub protocol_type: Box<str>,
    /// The protocols that it knows, the best first, with what it has to say about each.
    pub protocols: Vec<(Box<str>, Vec<u8>)>,
    /// A new member is given an id and must come again with it.
    pub id_required: bool,
    /// The client understands that a leader may have nothing to deal out.
    pub may_skip_assignment: bool,
}

impl Join {
    /// What must hold of it whatever the group is.
    pub(super) fn check(&self) -> Result<(), GroupFault> {
        let fits = self.protocols.len() <= PROTOCOLS_MAX;
        fits.then_some(()).ok_or(GroupFault::InvalidRequest("a member knows at most 32 protocols"))
    }
}

/// What a member says when it asks for its part.
#[derive(Clone, Debug)]
pub struct Sync {
    /// Its id.
    pub member_id: Box<str>,
    /// The instance that it is.
    pub instance: Option<Box<str>>,
    /// The generation that it joined.
    pub generation: i32,
    /// What it takes the type of the protocol and the protocol to be.
    pub protocol: Option<(Box<str>, Box<str>)>,
    /// From the leader: what everybody is to read, by id.
    pub assignments: Vec<(Box<str>, Vec<u8>)>,
}

/// Who leaves: by id, or by instance.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// Its id; may be empty if the instance is given.
    pub member_id: Box<str>,
    /// The instance.
    pub instance: Option<Box<str>>,
}

/// A member, for those who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its id.
    pub id: Box<str>,
    /// The instance that it is.
    pub instance: Option<Box<str>>,
    /// Who it is.
    pub who: Who,
    /// What it said about the chosen protocol.
    pub metadata: Vec<u8>,
    /// What it is to read.
    pub assignment: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub instance: Option<Box<str>>,
    pub who: Who,
    pub session_ms: u64,
    pub rebalance_ms: u64,
    pub protocols: Vec<(Box<str>, Vec<u8>)>,
    pub assignment: Vec<u8>,
    /// When its silence is too long.
    pub deadline: Millis,
    pub joining: Option<Slot<Joined>>,
    pub syncing: Option<Slot<Synced>>,
}

impl Member {
    pub fn new(join: Join, now: Millis) -> Member {
        let session_ms = u64::try_from(join.session_timeout_ms).unwrap_or(0);
        // Old clients have one time-out for both.
        let rebalance_ms = u64::try_from(join.rebalance_timeout_ms).unwrap_or(session_ms);
        Member {
            instance: join.instance,
            who: join.who,
            session_ms,
            rebalance_ms,
            protocols: join.protocols,
            assignment: Vec::new(),
            deadline: now.plus(session_ms),
            joining: None,
            syncing: None,
        }
    }

    pub fn beat(&mut self, now: Millis) {
        self.deadline = now.plus(self.session_ms);
    }

    pub fn knows(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| **name == *protocol)
    }

    pub fn said_of(&self, protocol: &str) -> &[u8] {
        self.protocols.iter().find(|(name, _)| **name == *protocol).map_or(&[], |(_, said)| said)
    }

    pub fn metadata(&self, protocol: &str) -> Vec<u8> {
        self.said_of(protocol).to_vec()
    }
}
