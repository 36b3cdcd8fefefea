//! The live messages of one queue and where they lie: ordered ranges of 32 bytes.
//!
//! What was settled is not in the list, so the list is the queue's liveness too: settling in order shrinks its first
//! range, settling out of order splits one. Ranges lie in blocks, so that a split in the middle of a deep backlog moves
//! some kilobytes and not the backlog.

use std::collections::VecDeque;

/// How many ranges a block holds at most.
const BLOCK_RANGES_MAX: usize = 128;

/// Messages with consecutive places that lie one behind the other in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The place of the first message.
    pub first: u64,
    /// How many; at least 1.
    pub count: u32,
    /// The segment; see [`crate::segment::SegmentId`].
    pub segment: u32,
    /// Where the chunk lies, in units of 8 bytes.
    pub offset: u32,
    /// How long the chunk is, bytes.
    pub len: u32,
    /// Which of the chunk's messages is the first.
    pub entry: u32,
    /// How many messages in queues the chunk holds; its bytes are charged to them in equal parts.
    pub shares: u32,
}

const _: () = assert!(size_of::<Range>() == 32);

impl Range {
    /// One behind the last place.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// The part of the chunk's bytes that is charged to this range.
    pub fn bytes(&self) -> u64 {
        u64::from(self.len) * u64::from(self.count) / u64::from(self.shares.max(1))
    }

    /// The messages from `from` to `to`, which must lie inside.
    pub fn part(&self, from: u64, to: u64) -> Range {
        debug_assert!(self.first <= from && from < to && to <= self.end());
        let entry = self.entry + (from - self.first) as u32;
        Range { first: from, count: (to - from) as u32, entry, ..*self }
    }

    fn continues(&self, next: &Range) -> bool {
        self.end() == next.first
            && (self.segment, self.offset) == (next.segment, next.offset)
            && self.entry + self.count == next.entry
    }
}

/// Ordered ranges that do not overlap.
#[derive(Debug, Default)]
pub struct RangeList {
    /// None is empty.
    blocks: VecDeque<Vec<Range>>,
}

impl RangeList {
    /// A list of ranges that are in order and do not overlap, of about so many. Calls back with each.
    pub fn of(len: usize, ranges: impl Iterator<Item = Range>, mut added: impl FnMut(&Range)) -> RangeList {
        let mut list = RangeList::default();
        for (n, range) in ranges.enumerate() {
            added(&range);
            if list.blocks.back().is_none_or(|b| b.len() == BLOCK_RANGES_MAX) {
                list.blocks.push_back(Vec::with_capacity(len.saturating_sub(n).clamp(1, BLOCK_RANGES_MAX)));
            }
            list.push_back(range);
        }
        // Where many ranges became one.
        if let Some(last) = list.blocks.back_mut() {
            last.shrink_to_fit();
        }
        list
    }

    pub fn iter(&self) -> impl Iterator<Item = &Range> {
        self.blocks.iter().flatten()
    }

    /// Adds a range; of places that are there already nothing changes. Calls back with each part that was added.
    pub fn insert(&mut self, range: Range, mut added: impl FnMut(&Range)) {
        let last = self.blocks.back().and_then(|b| b.last()).map_or(0, Range::end);
        if range.first >= last {
            added(&range);
            self.push_back(range);
            return;
        }
        let mut present: Vec<(u64, u64)> = Vec::new();
        self.overlapping(range.first, range.end(), |r| present.push((r.first, r.end())));
        let mut from = range.first;
        present.push((range.end(), range.end()));
        for (start, end) in present {
            if from < start.min(range.end()) {
                let part = range.part(from, start.min(range.end()));
                added(&part);
                self.insert_free(part);
            }
            from = from.max(end);
        }
    }

    /// Takes places out; calls back with each part that was there.
    pub fn remove(&mut self, first: u64, end: u64, mut removed: impl FnMut(&Range)) {
        let mut from = first;
        while from < end {
            let Some((b, i)) = self.find(from) else { return };
            let range = self.blocks[b][i];
            if range.first >= end {
                return;
            }
            let (start, stop) = (range.first.max(first), range.end().min(end));
            removed(&range.part(start, stop));
            let head = (range.first < start).then(|| range.part(range.first, start));
            let tail = (stop < range.end()).then(|| range.part(stop, range.end()));
            match (head, tail) {
                (None, None) => self.remove_at(b, i),
                (Some(keep), None) | (None, Some(keep)) => self.blocks[b][i] = keep,
                (Some(head), Some(tail)) => {
                    self.blocks[b][i] = head;
                    self.insert_at(b, i + 1, tail);
                }
            }
            from = stop;
        }
    }

    /// Calls back with each range that has a place in `first..end`.
    pub fn overlapping(&self, first: u64, end: u64, mut f: impl FnMut(&Range)) {
        let Some((b, i)) = self.find(first) else { return };
        let ranges = self.blocks.iter().skip(b).enumerate().flat_map(|(n, block)| &block[if n == 0 { i } else { 0 }..]);
        ranges.take_while(|r| r.first < end).for_each(&mut f);
    }

    /// The range that holds a place.
    pub fn get(&self, place: u64) -> Option<Range> {
        let (b, i) = self.find(place)?;
        let range = self.blocks[b][i];
        (range.first <= place).then_some(range)
    }

    /// The first range that ends behind `place`.
    fn find(&self, place: u64) -> Option<(usize, usize)> {
        let b = self.blocks.partition_point(|b| b.last().is_none_or(|r| r.end() <= place));
        let block = self.blocks.get(b)?;
        Some((b, block.partition_point(|r| r.end() <= place)))
    }

    fn push_back(&mut self, range: Range) {
        match self.blocks.back_mut() {
            Some(block) => {
                if let Some(last) = block.last_mut()
                    && last.continues(&range)
                {
                    last.count += range.count;
                } else if block.len() < BLOCK_RANGES_MAX {
                    block.push(range);
                } else {
                    self.blocks.push_back(vec![range]);
                }
            }
            None => self.blocks.push_back(vec![range]),
        }
    }

    /// Adds a range none of whose places is there.
    fn insert_free(&mut self, range: Range) {
        match self.find(range.first) {
            Some((b, i)) => self.insert_at(b, i, range),
            None => self.push_back(range),
        }
    }

    fn insert_at(&mut self, b: usize, i: usize, range: Range) {
        let block = &mut self.blocks[b];
        block.insert(i, range);
        if block.len() > BLOCK_RANGES_MAX {
            let upper = block.split_off(block.len() / 2);
            self.blocks.insert(b + 1, upper);
        }
    }

    fn remove_at(&mut self, b: usize, i: usize) {
        self.blocks[b].remove(i);
        if self.blocks[b].is_empty() {
            self.blocks.remove(b);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn range(first: u64, count: u32, offset: u32) -> Range {
        Range { first, count, segment: 1, offset, len: 100, entry: 0, shares: count }
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(ops in prop::collection::vec((any::<bool>(), 0u64..400, 1u32..60), 1..300)) {
            let mut list = RangeList::default();
            let mut model: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
            for (n, (insert, first, count)) in ops.into_iter().enumerate() {
                if insert {
                    let mut added = 0;
                    list.insert(range(first, count, n as u32), |r| added += r.count);
                    let mut expected = 0;
                    for i in 0..count {
                        model.entry(first + u64::from(i)).or_insert_with(|| { expected += 1; (n as u32, i) });
                    }
                    prop_assert_eq!(added, expected);
                } else {
                    let mut removed = 0;
                    list.remove(first, first + u64::from(count), |r| removed += r.count);
                    let before = model.len();
                    model.retain(|k, _| !(first..first + u64::from(count)).contains(k));
                    prop_assert_eq!(removed as usize, before - model.len());
                }
                let flat: Vec<_> = list.iter()
                    .flat_map(|r| (0..r.count).map(|i| (r.first + u64::from(i), (r.offset, r.entry + i))))
                    .collect();
                prop_assert_eq!(&flat, &model.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
                prop_assert!(list.blocks.iter().all(|b| !b.is_empty() && b.len() <= BLOCK_RANGES_MAX));
            }
            for place in 0..460 {
                prop_assert_eq!(list.get(place).map(|r| r.offset), model.get(&place).map(|v| v.0));
            }
        }
    }
}
