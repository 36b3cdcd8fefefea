//! Who takes part, and what was sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use waypost_broker::broker::Connection;
use waypost_model::command::Sent;
use waypost_model::{ConsumerId, Lsn, Outbox, QueueId, Seq};

/// The services.
pub const SERVICES: [&str; 2] = ["cart", "web"];

/// The instances that there may be of each: id, version, zone.
pub const INSTANCES: [(&str, &str, &str); 6] = [
    ("i0", "1.0.0", "a"),
    ("i1", "1.2.0", "b"),
    ("i2", "2.0.0", "a"),
    ("i3", "2.1.0", "b"),
    ("i4", "2.2.0", "a"),
    ("i5", "3.0.0", "b"),
];

/// What messages ask for, and which instances match.
pub const SELECTORS: [(&str, [bool; 6]); 4] = [
    ("", [true; 6]),
    ("version=^2", [false, false, true, true, true, false]),
    ("zone=b", [false, true, false, true, false, true]),
    ("version=^1&zone=a", [true, false, false, false, false, false]),
];

/// A connection: of a sender, or of one instance.
pub struct Peer {
    pub conn: Connection,
    pub outbox: Arc<Outbox>,
    /// Of which service, and which of [`INSTANCES`].
    pub instance: Option<(usize, usize)>,
    pub consumer: Option<ConsumerId>,
    pub prefetch: usize,
    /// What it holds, by place.
    pub held: BTreeMap<(QueueId, Seq), u64>,
    /// What has not left for its socket yet.
    pub owed: VecDeque<Sent>,
    /// It was refused something, or its consumer was cancelled.
    pub failed: bool,
    /// Publishes that wait for their confirm.
    pub open: BTreeMap<u64, u64>,
    /// Confirmed from that ticket on.
    pub accepted: BTreeMap<u64, Lsn>,
    pub published: u64,
}

/// For whom a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    One,
    Key(u8),
    All,
}

/// What is known of a message, or of somebody's copy of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It must come.
    Must,
    /// It may come.
    May,
    /// It is settled; a crash may take that back.
    Settled,
    /// It is settled for good.
    Over,
    /// It was rejected: a dead letter is owed. A crash may take that back.
    Rejected,
    /// It was rejected before a crash: it comes again, or its dead letter does.
    Either,
}

/// A message.
#[derive(Debug, Clone)]
pub struct Message {
    pub service: usize,
    pub selector: usize,
    pub mode: Mode,
    pub confirmed: bool,
    /// Of a message for one.
    pub fate: Fate,
    /// Of one for all: by instance.
    pub copies: BTreeMap<usize, Fate>,
}

impl Message {
    pub fn matches(&self, instance: usize) -> bool {
        SELECTORS[self.selector].1[instance]
    }

    /// What is known of what an instance gets.
    pub fn fate_mut(&mut self, instance: usize) -> &mut Fate {
        match self.mode {
            Mode::All => self.copies.entry(instance).or_insert(Fate::May),
            Mode::One | Mode::Key(_) => &mut self.fate,
        }
    }

    /// The recipients of a message for all that must get it.
    pub fn owed(&self) -> BTreeSet<usize> {
        self.copies.iter().filter(|(_, fate)| **fate == Fate::Must).map(|(i, _)| *i).collect()
    }
}
