//! When a shard next wants to be looked at.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use waypost_model::{Millis, SHARDS, ShardId};

use super::Broker;

/// The next deadline of each shard, and somebody to tell when an earlier one appears.
pub(super) struct Timers {
    due: Box<[AtomicU64]>,
    /// The time that whoever sleeps for us will wake up at.
    armed: AtomicU64,
    watcher: Mutex<Option<Box<dyn Fn(Millis) + Send + Sync>>>,
}

const NEVER: u64 = u64::MAX;

impl Timers {
    pub fn new() -> Timers {
        Timers {
            due: (0..SHARDS).map(|_| AtomicU64::new(NEVER)).collect(),
            armed: AtomicU64::new(NEVER),
            watcher: Mutex::new(None),
        }
    }

    /// A shard's deadline after a call into it.
    pub fn note(&self, shard: ShardId, deadline: Option<Millis>) {
        let at = deadline.map_or(NEVER, |d| d.0);
        let due = &self.due[usize::from(shard.0)];
        if due.load(Ordering::Relaxed) == at {
            return;
        }
        due.store(at, Ordering::SeqCst);
        if at < self.armed.load(Ordering::SeqCst) {
            self.armed.store(at, Ordering::SeqCst);
            if let Some(tell) = &*self.watcher.lock().unwrap_or_else(PoisonError::into_inner) {
                tell(Millis(at));
            }
        }
    }

    fn next(&self) -> u64 {
        self.due.iter().map(|d| d.load(Ordering::SeqCst)).min().unwrap_or(NEVER)
    }
}

impl Broker {
    /// Has `tell` called whenever a deadline appears that is earlier than what [`Broker::tick`] last returned.
    pub fn on_earlier_deadline(&self, tell: Box<dyn Fn(Millis) + Send + Sync>) {
        *self.timers.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
    }

    /// When [`Broker::tick`] should be called next, if nothing changes.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        let next = self.timers.next();
        (next != NEVER).then_some(Millis(next))
    }

    /// Does what is due: messages and queues expire, delayed messages go on their way, what had no room is tried again,
    /// and memory is given back where it runs short. Returns when to come again; to be called about once a second also
    /// when nothing is due.
    pub fn tick(&self, now: Millis) -> Option<Millis> {
        // Whatever appears from here on is told: an earlier deadline must not slip between the look and the sleep.
        self.timers.armed.store(NEVER, Ordering::SeqCst);
        let mut w = self.work(now);
        self.retry_stuck(&mut w);
        for shard in (0..SHARDS).map(|i| ShardId(i as u8)) {
            if self.lock(shard).owes_ops() {
                self.with_shard(shard, &mut w, |s, cx| s.offer_again(cx));
            }
        }
        if self.memory.exceeded() {
            for i in 0..SHARDS {
                self.with_shard(ShardId(i as u8), &mut w, |s, cx| s.relieve(cx));
            }
        }
        for i in 0..SHARDS {
            if self.timers.due[i].load(Ordering::SeqCst) <= now.0 {
                self.with_shard(ShardId(i as u8), &mut w, |s, cx| s.tick(cx));
                self.carry_out(&mut w);
            }
        }
        let next = self.timers.next();
        self.timers.armed.fetch_min(next, Ordering::SeqCst);
        (next != NEVER).then_some(Millis(next))
    }
}
