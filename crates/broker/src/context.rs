//! What a shard is given for each call: the time, the journal, and where to put what it cannot do itself.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::Waker;

use waypost_model::Millis;
use waypost_model::journal::Journal;

use crate::effect::Effect;

/// The surroundings of one call into a shard.
pub struct Cx<'a> {
    /// The time.
    pub now: Millis,
    /// Where operations go. Appended to while the shard is held.
    pub journal: &'a dyn Journal,
    /// Wishes for after the call.
    pub effects: &'a mut Vec<Effect>,
    /// The node's budget of message bytes in memory.
    pub memory: &'a MemoryBudget,
    /// Whom to wake after the call.
    pub wakes: &'a mut Wakes,
}

/// Drivers that have got deliveries. Woken while the shard is held they would wait for it, and find a part of what comes:
/// each is woken once, when all is said, at the latest when this is dropped.
#[derive(Debug, Default)]
pub struct Wakes(Vec<Waker>);

impl Wakes {
    /// One more, if it sleeps.
    pub fn add(&mut self, waker: Option<Waker>) {
        self.0.extend(waker);
    }

    /// Wakes them.
    pub fn wake(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.wake();
    }
}

/// Message bytes that queues hold in memory, over all shards, and how many they may.
#[derive(Debug)]
pub struct MemoryBudget {
    used: AtomicI64,
    limit: AtomicU64,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> MemoryBudget {
        MemoryBudget { used: AtomicI64::new(0), limit: AtomicU64::new(limit) }
    }

    /// Counts bytes in (positive) or out (negative).
    pub fn add(&self, bytes: i64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes held now.
    #[must_use]
    pub fn used(&self) -> u64 {
        u64::try_from(self.used.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Whether queues are to move bytes out of memory.
    #[must_use]
    pub fn exceeded(&self) -> bool {
        self.used() > self.limit()
    }
}
