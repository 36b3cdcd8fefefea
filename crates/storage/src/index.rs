//! What is live in each queue, and where; and which segments hold it.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use waypost_model::{QueueId, SHARDS, Seq, SeqRange};

use crate::hash::IdMap;
use crate::ranges::{Range, RangeList};
use crate::segment::{Segment, SegmentId};

/// One queue.
#[derive(Debug, Default)]
pub struct QueueIndex {
    pub live: RangeList,
    /// The lowest place never given out.
    pub next: u64,
    /// Failed deliveries of live messages: first place to (one behind the last, how many).
    pub failed: BTreeMap<u64, (u64, u32)>,
}

impl QueueIndex {
    /// Notes that messages failed at least `count` times.
    pub fn note_failed(&mut self, first: u64, end: u64, count: u32) {
        if first >= end {
            return;
        }
        let mut parts = Vec::new();
        self.live.overlapping(first, end, |r| {
            let (start, stop) = (r.first.max(first), r.end().min(end));
            match parts.last_mut() {
                Some((_, last)) if *last == start => *last = stop,
                _ => parts.push((start, stop)),
            }
        });
        for (start, stop) in parts {
            for (a, b, known) in self.take_failed(start, stop) {
                if known > count {
                    self.failed.insert(a, (b, known));
                }
            }
            self.fill_failed(start, stop, count);
        }
    }

    /// Forgets about the failures of places that are gone.
    pub fn clear_failed(&mut self, first: u64, end: u64) {
        if first < end && !self.failed.is_empty() {
            self.take_failed(first, end);
        }
    }

    /// How often a message failed, and up to where that holds.
    pub fn failed_at(&self, place: u64, end: u64) -> (u32, u64) {
        if let Some((_, (stop, count))) = self.failed.range(..=place).next_back()
            && *stop > place
        {
            return (*count, (*stop).min(end));
        }
        let next = self.failed.range(place..end).next().map_or(end, |(start, _)| *start);
        (0, next)
    }

    /// Takes what is known of `first..end` out, cutting what goes beyond.
    fn take_failed(&mut self, first: u64, end: u64) -> Vec<(u64, u64, u32)> {
        let mut hit = Vec::new();
        let before = self.failed.range(..first).next_back().map(|(s, v)| (*s, *v));
        hit.extend(before.filter(|(_, (stop, _))| *stop > first));
        hit.extend(self.failed.range(first..end).map(|(s, v)| (*s, *v)));
        let mut inside = Vec::with_capacity(hit.len());
        for (start, (stop, count)) in hit {
            self.failed.remove(&start);
            if start < first {
                self.failed.insert(start, (first, count));
            }
            if stop > end {
                self.failed.insert(end, (stop, count));
            }
            inside.push((start.max(first), stop.min(end), count));
        }
        inside
    }

    /// Enters `count` where `first..end` has no higher one.
    fn fill_failed(&mut self, first: u64, end: u64, count: u32) {
        let mut at = first;
        let higher: Vec<_> = self.failed.range(first..end).map(|(s, v)| (*s, v.0)).collect();
        for (start, stop) in higher.into_iter().chain([(end, end)]) {
            if at < start {
                self.failed.insert(at, (start, count));
            }
            at = stop;
        }
    }
}

/// All queues, by shard, and all segments.
pub struct Index {
    shards: Vec<Mutex<IdMap<u64, QueueIndex>>>,
    segments: RwLock<IdMap<u32, Arc<Segment>>>,
}

/// One shard's queues, held.
pub type ShardGuard<'a> = MutexGuard<'a, IdMap<u64, QueueIndex>>;

impl Default for Index {
    fn default() -> Index {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Index { shards, segments: RwLock::default() }
    }
}

impl Index {
    /// A shard by its number; below [`SHARDS`].
    pub fn shard(&self, n: usize) -> ShardGuard<'_> {
        // A panic while a shard was held leaves it between two ranges at worst; reads check what they find.
        self.shards[n].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard_of(&self, queue: QueueId) -> ShardGuard<'_> {
        self.shard(usize::from(queue.shard().0))
    }

    pub fn add_segment(&self, segment: Arc<Segment>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(segment.id.0, segment);
    }

    pub fn remove_segment(&self, id: SegmentId) -> Option<Arc<Segment>> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&id.0)
    }

    pub fn segment(&self, id: u32) -> Option<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// All segments, by id.
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        let mut all: Vec<_> = self.segments.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.sort_by_key(|s| s.id);
        all
    }

    fn charge(&self, range: &Range) {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(s) = segments.get(&range.segment) {
            s.add_live(u64::from(range.count), range.bytes());
        }
    }

    fn discharge(&self, range: &Range) {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(s) = segments.get(&range.segment) {
            s.sub_live(u64::from(range.count), range.bytes());
        }
    }

    /// Messages entered a queue.
    pub fn enqueued(&self, queue: QueueId, range: Range) {
        let mut shard = self.shard_of(queue);
        let q = shard.entry(queue.0).or_default();
        q.next = q.next.max(range.end());
        q.live.insert(range, |r| self.charge(r));
    }

    /// Messages left a queue.
    pub fn settled(&self, range: &SeqRange) {
        let mut shard = self.shard_of(range.queue);
        let end = range.first.0.saturating_add(u64::from(range.count));
        if let Some(q) = shard.get_mut(&range.queue.0) {
            q.live.remove(range.first.0, end, |r| self.discharge(r));
            q.clear_failed(range.first.0, end);
        }
    }

    /// Messages went back to a queue.
    pub fn requeued(&self, range: &SeqRange, delivery_count: u32) {
        let end = range.first.0.saturating_add(u64::from(range.count));
        if let Some(q) = self.shard_of(range.queue).get_mut(&range.queue.0) {
            q.note_failed(range.first.0, end, delivery_count);
        }
    }

    /// A queue is gone.
    pub fn forgotten(&self, queue: QueueId) {
        if let Entry::Occupied(q) = self.shard_of(queue).entry(queue.0) {
            q.remove().live.iter().for_each(|r| self.discharge(r));
        }
    }

    /// Where a message lies; the segment cannot be reused while the handle is held.
    pub fn locate(&self, queue: QueueId, place: Seq) -> Option<(Range, Arc<Segment>)> {
        let shard = self.shard_of(queue);
        let range = shard.get(&queue.0)?.live.get(place.0)?;
        let segment = self.segment(range.segment)?;
        Some((range, segment))
    }

    /// The live messages among `first..end` that lie in a segment.
    pub fn live_in(&self, queue: QueueId, first: u64, end: u64, segment: SegmentId) -> Vec<Range> {
        let mut found = Vec::new();
        if let Some(q) = self.shard_of(queue).get(&queue.0) {
            q.live.overlapping(first, end, |r| {
                if r.segment == segment.0 {
                    found.push(r.part(r.first.max(first), r.end().min(end)));
                }
            });
        }
        found
    }

    /// Messages were copied to `to`: what of them is still live and lies where `moved` says points there from now on.
    pub fn relocated(&self, queue: QueueId, to: Range, moved: impl Fn(u32) -> bool) {
        let mut shard = self.shard_of(queue);
        let Some(q) = shard.get_mut(&queue.0) else { return };
        let mut parts = Vec::new();
        q.live.overlapping(to.first, to.end(), |r| {
            if moved(r.segment) {
                parts.push((r.first.max(to.first), r.end().min(to.end())));
            }
        });
        for (start, end) in parts {
            q.live.remove(start, end, |r| self.discharge(r));
            q.live.insert(to.part(start, end), |r| self.charge(r));
        }
    }
}
