//! How many offsets are kept, and how much they take.

use super::offsets::Key;
use super::offsets::{Committed, OFFSETS_BYTES_MAX, OFFSETS_MAX};

/// See the module.
#[derive(Debug)]
pub(super) struct Tally {
    pub count: usize,
    pub bytes: usize,
    /// How many there may be: [`OFFSETS_MAX`].
    pub count_max: usize,
    /// How much they may take: [`OFFSETS_BYTES_MAX`].
    pub bytes_max: usize,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { count: 0, bytes: 0, count_max: OFFSETS_MAX, bytes_max: OFFSETS_BYTES_MAX }
    }
}

/// What an offset of a group takes beside what all take alike, bytes: what is named, and what clients keep with it.
pub(super) fn bytes_of(group: &str, (topic, _): &Key, committed: &Committed) -> usize {
    group.len() + topic.len() + committed.metadata.len()
}

impl Tally {
    pub fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
    }

    pub fn remove(&mut self, bytes: usize) {
        debug_assert!(self.count > 0 && self.bytes >= bytes);
        self.count -= 1;
        self.bytes -= bytes;
    }

    /// Whether so much more may be kept. Whoever asks for no more than before goes on, however much there is.
    pub fn has_room(&self, more: usize, more_bytes: usize) -> bool {
        (more == 0 || self.count + more <= self.count_max)
            && (more_bytes == 0 || self.bytes + more_bytes <= self.bytes_max)
    }
}
