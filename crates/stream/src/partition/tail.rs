//! The last batches of a partition, kept in memory for those who read at the end.
//!
//! What was written past the system's cache would have to be read from the disk by whoever is only a little behind. So a
//! partition keeps some megabytes as long as all of them together keep little, a little while they keep more, and nothing
//! beyond that: then the end is read from the disk, too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use waypost_model::Batch as Messages;

/// Bytes that a partition keeps while there are many, or one batch.
const OWN_BYTES: usize = 256 << 10;
/// Bytes that it keeps at most.
const BYTES_MAX: usize = 8 << 20;
/// Bytes of all partitions together, up to which they keep more than their own.
const ALL_BYTES_MAX: usize = 64 << 20;
/// Bytes of all partitions together. Whoever writes beyond that keeps nothing.
const CROWD_BYTES_MAX: usize = 256 << 20;

/// What a batch takes beside its bytes.
const BATCH_BYTES: usize = 128;

fn taken(messages: &Messages) -> usize {
    messages.footprint() + BATCH_BYTES
}

/// What the partitions that share it keep together.
#[derive(Clone, Debug, Default)]
pub struct Tails(Arc<AtomicUsize>);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// By their last offset.
    batches: VecDeque<(u64, Arc<Messages>)>,
    bytes: usize,
    all: Tails,
}

impl Tail {
    pub fn share(&mut self, all: &Tails) {
        all.0.fetch_add(self.bytes, Ordering::Relaxed);
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.all = all.clone();
    }

    pub fn push(&mut self, last: u64, messages: Arc<Messages>) {
        let bytes = taken(&messages);
        self.bytes += bytes;
        self.all.0.fetch_add(bytes, Ordering::Relaxed);
        self.batches.push_back((last, messages));
        while self.is_too_long() {
            self.drop_front();
        }
    }

    fn is_too_long(&self) -> bool {
        let all = self.all.0.load(Ordering::Relaxed);
        let is_longer = |own: usize| self.bytes > own && self.batches.len() > 1;
        is_longer(BYTES_MAX)
            || (is_longer(OWN_BYTES) && all > ALL_BYTES_MAX)
            || (!self.batches.is_empty() && all > CROWD_BYTES_MAX)
    }

    fn drop_front(&mut self) {
        if let Some((_, gone)) = self.batches.pop_front() {
            self.bytes -= taken(&gone);
            self.all.0.fetch_sub(taken(&gone), Ordering::Relaxed);
        }
    }

    /// The batch that ends with this offset.
    pub fn find(&self, last: u64) -> Option<&Arc<Messages>> {
        let at = self.batches.binary_search_by_key(&last, |(last, _)| *last).ok()?;
        self.batches.get(at).map(|(_, messages)| messages)
    }

    /// Lets go of batches that end before `offset`.
    pub fn drop_before(&mut self, offset: u64) {
        while self.batches.front().is_some_and(|(last, _)| *last < offset) {
            self.drop_front();
        }
    }

    /// Lets go of everything, and of the room for it.
    pub fn clear(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
        self.batches = VecDeque::new();
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(bytes: usize) -> Arc<Messages> {
        Arc::new(Messages::single(&[0, 0], &vec![1; bytes]))
    }

    fn fill(tail: &mut Tail, from: u64, count: u64) {
        (from..from + count).for_each(|last| tail.push(last, batch(100_000)));
    }

    #[test]
    fn it_is_long_while_there_is_room_and_short_when_there_is_none() {
        let all = Tails::default();
        let mut tails: Vec<Tail> = (0..12).map(|_| Tail::default()).collect();
        for (n, tail) in tails.iter_mut().enumerate() {
            tail.share(&all);
            fill(tail, 0, 200);
            assert!(tail.find(199).is_some() && tail.find(0).is_none());
            assert!(tail.bytes <= BYTES_MAX);
            match n {
                0..7 => assert!(tail.bytes > BYTES_MAX - 200_000, "{n}: {}", tail.bytes),
                // The one that meets the limit has something in between.
                7..9 => {}
                _ => assert!(tail.bytes <= OWN_BYTES, "{n}: {}", tail.bytes),
            }
        }
        assert!(all.0.load(Ordering::Relaxed) <= ALL_BYTES_MAX + 12 * OWN_BYTES);
        // Those that hold too much give it back as they go on; those that go, at once.
        all.0.fetch_add(ALL_BYTES_MAX, Ordering::Relaxed);
        fill(&mut tails[0], 200, 1);
        assert!(tails[0].bytes <= OWN_BYTES);
        all.0.fetch_sub(ALL_BYTES_MAX, Ordering::Relaxed);
        tails[1].clear();
        tails.truncate(2);
        assert_eq!(all.0.load(Ordering::Relaxed), tails[0].bytes);
        tails.clear();
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_of_them_together_have_a_limit_however_many_they_are_and_however_long_their_batches() {
        let all = Tails::default();
        let mut tails: Vec<Tail> = (0..1000).map(|_| Tail::default()).collect();
        for (n, tail) in tails.iter_mut().enumerate() {
            tail.share(&all);
            tail.push(0, batch(1 << 20));
            assert!(all.0.load(Ordering::Relaxed) <= CROWD_BYTES_MAX);
            assert_eq!(tail.find(0).is_some(), n < 255, "{n}");
        }
        // Once others have given theirs back there is room again.
        tails.truncate(900);
        tails.drain(..500);
        tails[0].push(1, batch(1 << 20));
        assert!(tails[0].find(1).is_some());
        drop(tails);
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_batch_stays_however_long_it_is() {
        let mut tail = Tail::default();
        tail.push(5, batch(2 * BYTES_MAX));
        assert!(tail.find(5).is_some());
        tail.push(9, batch(10));
        assert!(tail.find(5).is_none() && tail.find(9).is_some());
        tail.drop_before(10);
        assert_eq!((tail.find(9).is_none(), tail.bytes), (true, 0));
    }
}
