//! The waiting messages of one priority, in order of their places.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use waypost_model::BatchBuilder;

use super::run::{Bytes, Run, Sizes};

/// A tail is closed when it has that many bytes: the unit in which messages are spilled, and the most that one waiting
/// message may pin.
pub(super) const TAIL_BYTES: usize = 64 * 1024;

/// A tail is closed when it has that many messages: empty ones have no bytes.
const TAIL_MESSAGES: usize = 16 * 1024;

/// What is copied weighs less than `1/LOOSE_PART` of what it pinned.
const LOOSE_PART: u64 = 2;

/// Of a batch of which less than that part still waits, the rest is copied out.
const REST_PART: u64 = 8;

/// See the module.
///
/// Fresh messages come at the back of a deque; what comes back from consumers, always before the fresh ones in the end
/// but in any order, is in a map of its own. What is removed from the middle of the deque (it expired) leaves an empty
/// run, so that nothing is moved; the front and the back of the deque are never empty runs.
#[derive(Debug, Default)]
pub(super) struct Level {
    fresh: VecDeque<Run>,
    returned: Option<BTreeMap<u64, Run>>,
    tail: Option<Box<Tail>>,
    removed: usize,
}

/// Copies of small messages, which belong to the last runs of the deque, all of them marked [`Bytes::Tail`].
#[derive(Debug)]
struct Tail {
    builder: BatchBuilder,
    first: u64,
}

/// Whether a new run may become one with the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Merge {
    /// If the facts are equal.
    Allowed,
    /// A consumer waits for the last run to become durable: it must not wait for more than that.
    Apart,
}

/// What became of a kept run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is the last run.
    Own,
    /// It is part of the last run, which ended before at this place.
    Merged { old_last: u64 },
}

impl Level {
    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.returned.is_none()
    }

    /// The last fresh run.
    pub fn back(&self) -> Option<&Run> {
        self.fresh.back()
    }

    /// All runs, returned ones first.
    pub fn iter(&self) -> impl Iterator<Item = &Run> {
        self.returned.iter().flat_map(|r| r.values()).chain(self.fresh.iter().filter(|r| r.count > 0))
    }

    /// The first run; its bytes may be [`Bytes::Tail`].
    pub fn front(&self) -> Option<&Run> {
        let fresh = self.fresh.front();
        match self.returned.as_ref().and_then(|r| r.values().next()) {
            Some(r) if fresh.is_none_or(|f| r.first < f.first) => Some(r),
            _ => fresh,
        }
    }

    /// The earliest deadlines are among these if deadlines rise with places.
    pub fn fronts(&self) -> impl Iterator<Item = &Run> {
        self.returned.iter().filter_map(|r| r.values().next()).chain(self.fresh.front())
    }

    /// Keeps a run of fresh messages, behind all others. What pins much more than itself is copied.
    pub fn keep(&mut self, mut run: Run, merge: Merge, sizes: Sizes) -> Kept {
        let loose = match &run.bytes {
            Bytes::Mem(batch) => run.memory().saturating_mul(LOOSE_PART) < batch.footprint() as u64,
            _ => false,
        };
        if loose {
            self.copy_to_tail(&mut run);
        } else {
            self.seal();
        }
        if merge == Merge::Allowed
            && let Some(back) = self.fresh.back_mut()
        {
            let old_last = back.last();
            if back.absorb(&run, sizes) {
                return Kept::Merged { old_last };
            }
        }
        self.fresh.push_back(run);
        Kept::Own
    }

    fn copy_to_tail(&mut self, run: &mut Run) {
        let Bytes::Mem(batch) = &run.bytes else {
            return;
        };
        let bytes = usize::try_from(run.payload).unwrap_or(usize::MAX);
        let full =
            |t: &Tail| t.builder.bytes() >= TAIL_BYTES || t.builder.len() >= TAIL_MESSAGES || !t.builder.fits(bytes);
        let mut builder = BatchBuilder::default();
        if self.tail.as_deref().is_some_and(full) {
            self.seal();
            // Where one has filled up, the next will: it need not grow step by step.
            let messages = TAIL_BYTES / (bytes / run.count.max(1) as usize).max(1);
            builder = BatchBuilder::with_capacity(TAIL_BYTES + bytes, messages.min(TAIL_MESSAGES) + run.count as usize);
        }
        let first = run.first.0;
        let tail = self.tail.get_or_insert_with(|| Box::new(Tail { builder, first }));
        let from = u32::try_from(tail.builder.len()).unwrap_or(0);
        tail.builder.extend(batch, run.from, run.from + run.count);
        run.bytes = Bytes::Tail;
        run.from = from;
    }

    /// Makes the tail a batch that can be read.
    pub fn seal(&mut self) {
        let Some(tail) = self.tail.take() else { return };
        let mut builder = tail.builder;
        builder.shrink();
        let batch = Arc::new(builder.finish());
        for run in self.fresh.iter_mut().rev().take_while(|r| r.first.0 >= tail.first) {
            if matches!(run.bytes, Bytes::Tail) {
                run.bytes = Bytes::Mem(Arc::clone(&batch));
            }
        }
    }

    /// Keeps a run that was delivered and came back, at its place. Returns the run that it has become part of, if any,
    /// by its last place before.
    pub fn give_back(&mut self, run: Run, sizes: Sizes) -> Kept {
        let returned = self.returned.get_or_insert_default();
        if let Some((_, before)) = returned.range_mut(..run.first.0).next_back() {
            let old_last = before.last();
            if before.absorb(&run, sizes) {
                return Kept::Merged { old_last };
            }
        }
        returned.insert(run.first.0, run);
        Kept::Own
    }

    /// The neighbours that a returned run at this place has or would have.
    pub fn neighbours(&self, first: u64) -> (Option<&Run>, Option<&Run>) {
        let before = self.returned.iter().find_map(|r| r.range(..first).next_back()).map(|(_, r)| r);
        let after = self.returned.iter().find_map(|r| r.range(first..).next()).map(|(_, r)| r);
        (before, after)
    }

    fn front_is_returned(&self) -> bool {
        match (&self.returned, self.fresh.front()) {
            (Some(r), Some(f)) => r.keys().next().is_some_and(|first| *first < f.first.0),
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// The first run, readable.
    pub fn front_sealed(&mut self) -> Option<&Run> {
        if !self.front_is_returned() && self.fresh.front().is_some_and(|f| matches!(f.bytes, Bytes::Tail)) {
            self.seal();
        }
        self.front()
    }

    /// Takes the first messages, at most `n` of the first run, readable.
    pub fn take_front(&mut self, n: u32) -> Option<Run> {
        if self.front_is_returned() {
            return self.take_returned_front(n);
        }
        self.front_sealed()?;
        let front = self.fresh.front_mut()?;
        if n < front.count {
            let taken = front.split_front(n);
            front.tighten(REST_PART);
            return Some(taken);
        }
        let taken = self.fresh.pop_front();
        self.trim();
        taken
    }

    fn take_returned_front(&mut self, n: u32) -> Option<Run> {
        let returned = self.returned.as_mut()?;
        let (_, mut run) = returned.pop_first()?;
        let taken = if n < run.count {
            let taken = run.split_front(n);
            run.tighten(REST_PART);
            returned.insert(run.first.0, run);
            taken
        } else {
            run
        };
        if returned.is_empty() {
            self.returned = None;
        }
        Some(taken)
    }

    /// Takes the run that holds `place`, readable, from wherever it is.
    pub fn take_at(&mut self, place: u64) -> Option<Run> {
        if let Some(returned) = &mut self.returned
            && let Some((&first, run)) = returned.range(..=place).next_back()
            && place < run.end()
        {
            let taken = returned.remove(&first);
            if returned.is_empty() {
                self.returned = None;
            }
            return taken;
        }
        let i = self.fresh.partition_point(|r| r.first.0 <= place).checked_sub(1)?;
        if self.fresh.get(i).is_none_or(|r| r.count == 0 || place >= r.end()) {
            return None;
        }
        if self.fresh.get(i).is_some_and(|r| matches!(r.bytes, Bytes::Tail)) {
            self.seal();
        }
        let run = self.fresh.get_mut(i)?;
        let mark = Run { count: 0, bytes: Bytes::Stored, payload: 0, body: 0, ..run.clone() };
        let taken = std::mem::replace(run, mark);
        self.removed += 1;
        self.trim();
        Some(taken)
    }

    /// Takes the last fresh run, readable.
    pub fn take_back(&mut self) -> Option<Run> {
        self.seal();
        let taken = self.fresh.pop_back();
        self.trim();
        taken
    }

    /// Takes everything, in order of places within returned and fresh; bytes may be [`Bytes::Tail`] without a tail.
    pub fn take_all(&mut self) -> impl Iterator<Item = Run> + use<> {
        let all = std::mem::take(self);
        let returned = all.returned.unwrap_or_default();
        returned.into_values().chain(all.fresh.into_iter().filter(|r| r.count > 0))
    }

    /// Restores that front and back are no empty runs and that those between are the lesser part, and gives back the
    /// memory of a deque that was long.
    fn trim(&mut self) {
        if self.removed > 0 {
            while self.fresh.front().is_some_and(|r| r.count == 0) {
                self.fresh.pop_front();
                self.removed -= 1;
            }
            while self.fresh.back().is_some_and(|r| r.count == 0) {
                self.fresh.pop_back();
                self.removed -= 1;
            }
            if self.removed > 32 && self.removed > self.fresh.len() / 2 {
                self.fresh.retain(|r| r.count > 0);
                self.removed = 0;
            }
        }
        if self.fresh.is_empty() && self.fresh.capacity() > 16 {
            self.fresh = VecDeque::new();
        } else if self.fresh.capacity() > 64 && self.fresh.len() < self.fresh.capacity() / 8 {
            self.fresh.shrink_to(self.fresh.len() * 2);
        }
    }
}
