//! The batches of a partition: 32 bytes each.

use std::collections::VecDeque;

use waypost_model::Millis;

/// One batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The offset of its first record.
    pub base: u64,
    /// The offset of its last record.
    pub last: u64,
    /// The latest time of its records.
    pub time: Millis,
    /// How long it is.
    pub bytes: u32,
}

const _: () = assert!(size_of::<Entry>() == 32);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: VecDeque<Entry>,
    bytes: u64,
}

impl Index {
    pub fn push(&mut self, entry: Entry) {
        debug_assert!(self.entries.back().is_none_or(|e| e.last < entry.base));
        self.bytes += u64::from(entry.bytes);
        self.entries.push_back(entry);
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// From the batch on that has this offset, or the first one behind it.
    pub fn from(&self, offset: u64) -> impl Iterator<Item = &Entry> {
        let at = self.entries.partition_point(|e| e.last < offset);
        self.entries.range(at..)
    }

    /// The last batch that ends before `offset`.
    pub fn back_before(&self, offset: u64) -> Option<Entry> {
        let at = self.entries.partition_point(|e| e.last < offset).checked_sub(1)?;
        self.entries.get(at).copied()
    }

    /// Drops batches that end before `offset`; the first and the last place of what was dropped.
    pub fn drop_before(&mut self, offset: u64) -> Option<(u64, u64)> {
        let mut gone: Option<(u64, u64)> = None;
        while let Some(entry) = self.entries.front().copied()
            && entry.last < offset
        {
            self.entries.pop_front();
            self.bytes -= u64::from(entry.bytes);
            gone = Some((gone.map_or(entry.last, |(first, _)| first), entry.last));
        }
        gone
    }

    pub fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }
}
