//! What can be chosen.

/// The smallest segment.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// The largest segment: places in it are 32-bit numbers of 8 bytes.
pub const SEGMENT_BYTES_MAX: u64 = 8 << 30;

/// How the engine behaves. Every limit says what happens when it is reached.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Size of a segment, bytes; from 64 KiB to 8 GiB. A single larger append gets a larger segment of its own.
    pub segment_bytes: u64,
    /// Bytes of appends that may wait for the committer; then `append` blocks until it has caught up. At most half a
    /// segment is used, so that what waits always finds room in the segment that was allocated ahead.
    pub queued_bytes_max: u64,
    /// Bytes of settlements that may wait for somebody else's commit; then they get one of their own.
    pub lazy_bytes_max: u64,
    /// Milliseconds that settlements may wait for somebody else's commit.
    pub lazy_ms: u64,
    /// Messages are refused while the disk has less than this left, bytes.
    pub disk_free_min: u64,
    /// A sealed segment with less than this part of its bytes live is rewritten, percent.
    pub rewrite_below_percent: u8,
    /// Segments are rewritten, emptiest first, while the store takes more than this many percent of its live bytes
    /// and `disk_slack_bytes` on top.
    pub disk_use_percent: u32,
    /// See `disk_use_percent`.
    pub disk_slack_bytes: u64,
    /// Released segments that are kept for reuse.
    pub spares_max: usize,
    /// Bytes of chunks that were read and are kept in memory.
    pub cache_bytes: u64,
    /// Bytes that transient messages may take in the scratch log; then spilling fails and they stay in memory.
    pub scratch_bytes_max: u64,
    /// Commits of at least this many bytes are written past the system's cache, where that is possible.
    pub direct_bytes_min: u64,
    /// Whether the next segment is filled with zeros while commits are small, so that their syncs have nothing to write but
    /// what was committed: the first write to a block that was only reserved changes the file's metadata too.
    pub zero_ahead: bool,
    /// Bytes that are given up when a checkpoint meets a full disk.
    pub reserve_bytes: u64,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            segment_bytes: 64 << 20,
            queued_bytes_max: 16 << 20,
            lazy_bytes_max: 1 << 20,
            lazy_ms: 10,
            disk_free_min: 256 << 20,
            rewrite_below_percent: 25,
            disk_use_percent: 175,
            disk_slack_bytes: 512 << 20,
            spares_max: 4,
            cache_bytes: 16 << 20,
            scratch_bytes_max: 4 << 30,
            direct_bytes_min: 64 << 10,
            zero_ahead: true,
            reserve_bytes: 8 << 20,
        }
    }
}

impl EngineConfig {
    /// Small values, for tests and simulations.
    #[must_use]
    pub fn small() -> EngineConfig {
        EngineConfig {
            segment_bytes: SEGMENT_BYTES_MIN,
            queued_bytes_max: SEGMENT_BYTES_MIN,
            lazy_bytes_max: 4 << 10,
            disk_free_min: 0,
            disk_slack_bytes: 4 * SEGMENT_BYTES_MIN,
            cache_bytes: 64 << 10,
            scratch_bytes_max: 1 << 20,
            direct_bytes_min: 2 << 10,
            reserve_bytes: 16 << 10,
            ..EngineConfig::default()
        }
    }

    /// Brings what is out of bounds into them.
    pub(crate) fn clamped(mut self) -> EngineConfig {
        self.segment_bytes = self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX).next_multiple_of(4096);
        self.queued_bytes_max = self.queued_bytes_max.min(self.segment_bytes / 2).max(1);
        self
    }

    /// Bytes of appends that go into one frame, beyond a single larger append.
    pub(crate) fn frame_bytes_max(&self) -> u64 {
        (self.segment_bytes / 4).min(8 << 20)
    }
}
