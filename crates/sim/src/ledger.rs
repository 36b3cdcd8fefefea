//! What must be true of each copy of each message.

use std::collections::{BTreeMap, BTreeSet};

/// What is known of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It must be there.
    Must,
    /// It may be there.
    May,
    /// It must not come (again).
    Gone,
}

/// A message in a queue, as publishers and consumers know it.
#[derive(Debug, Clone)]
pub struct Copy {
    /// What is known.
    pub fate: Fate,
    /// Its publish asked for persistence and its queue is durable.
    pub persistent: bool,
    /// Its publisher has been told that it is safe.
    pub confirmed: bool,
    /// When it dies by its own or its queue's time to live.
    pub deadline: Option<u64>,
    /// It came by way of a delayed exchange: not before.
    pub due: Option<u64>,
    /// It may come more than once: it was put there by a step that a crash or a full disk can repeat.
    pub repeats: bool,
    /// A consumer rejected it, and its dead letter is owed.
    pub rejected: bool,
    /// How often it went back to its queue.
    pub returns: u32,
}

/// All copies, by queue name and uid. An incarnation of a queue that is deleted takes its copies along.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The copies.
    pub copies: BTreeMap<(&'static str, u64), Copy>,
    /// What reached the dead-letter queue: uid, queue and reason, with the count that it carried.
    pub buried: BTreeMap<(u64, String, String), i64>,
    /// Rejections of a message by consumers of the retry queue, since the last crash.
    pub rejections: BTreeMap<u64, i64>,
    /// Messages whose dead letters a crash may have repeated or taken back.
    pub unsure: BTreeSet<u64>,
}

impl Ledger {
    /// A queue and all in it are gone.
    pub fn forget(&mut self, queue: &str) {
        self.copies.retain(|(q, _), _| *q != queue);
    }
}
