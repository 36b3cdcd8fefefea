//! Counters of the engine.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets of the sync histogram: bucket `n` counts syncs of 2^n to 2^(n+1) microseconds (the first, less than 2).
pub const SYNC_BUCKETS: usize = 24;

#[derive(Default)]
pub(crate) struct Metrics {
    pub commits: AtomicU64,
    pub appends: AtomicU64,
    pub messages: AtomicU64,
    pub syncs: AtomicU64,
    pub sync_micros: AtomicU64,
    pub sync_buckets: [AtomicU64; SYNC_BUCKETS],
    pub written_bytes: AtomicU64,
    pub rewritten_bytes: AtomicU64,
    pub checkpoints: AtomicU64,
    pub released: AtomicU64,
    pub loads: AtomicU64,
    pub cache_hits: AtomicU64,
    pub recovery_micros: AtomicU64,
}

impl Metrics {
    pub fn synced(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.syncs.fetch_add(1, Relaxed);
        self.sync_micros.fetch_add(micros, Relaxed);
        let bucket = (micros.max(1).ilog2() as usize).min(SYNC_BUCKETS - 1);
        self.sync_buckets[bucket].fetch_add(1, Relaxed);
    }
}

/// The engine's figures at one moment. Counters count from the open.
#[derive(Clone, Debug, Default)]
pub struct MetricsSnapshot {
    /// Frames written.
    pub commits: u64,
    /// Appends in them.
    pub appends: u64,
    /// Messages in them; one that goes to two queues counts twice.
    pub messages: u64,
    /// Syncs of the log.
    pub syncs: u64,
    /// Time spent in them, microseconds.
    pub sync_micros: u64,
    /// How many syncs took 2^n to 2^(n+1) microseconds.
    pub sync_buckets: [u64; SYNC_BUCKETS],
    /// Bytes written to the log.
    pub written_bytes: u64,
    /// Bytes written to cold segments.
    pub rewritten_bytes: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Segments released.
    pub released: u64,
    /// Messages read back: calls.
    pub loads: u64,
    /// Of them, how many needed no read.
    pub cache_hits: u64,
    /// How long recovery took, microseconds.
    pub recovery_micros: u64,
    /// Segments there are, without spares.
    pub segments: u64,
    /// Bytes that their files take.
    pub segment_bytes: u64,
    /// Bytes in them that belong to messages in queues, about.
    pub live_bytes: u64,
    /// The others.
    pub dead_bytes: u64,
    /// Bytes of appends that wait for the committer.
    pub queued_bytes: u64,
    /// Bytes in the scratch log.
    pub scratch_bytes: u64,
    /// Whether messages are refused for lack of room.
    pub full: bool,
    /// Whether the store stopped after an I/O error.
    pub stopped: bool,
}
