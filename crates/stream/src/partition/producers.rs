//! Idempotent producers: what each has written last, so that a batch that is sent again is not written again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use waypost_model::Millis;

use crate::batch::Batch;

/// How many batches of a producer are remembered: as many as a producer may have under way.
const WINDOW: usize = 5;
/// Producers that are remembered; beyond, the one that has been silent longest goes.
const PRODUCERS_MAX: usize = 10_000;
/// The same of all partitions that share it, counted in each; beyond, those of whoever has a new one go. About 256 MiB.
const ALL_PRODUCERS_MAX: usize = 1_000_000;
/// The id of those who do not ask for idempotence.
const NOBODY: i64 = -1;

/// Why a producer may not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError {
    /// Another one with the same id, and a later epoch, has written.
    #[error("producer epoch {epoch} is older than {current}")]
    Fenced {
        /// The batch's epoch.
        epoch: i16,
        /// The latest.
        current: i16,
    },
    /// Batches are missing before this one, or it is not one of the last that were written.
    #[error("sequence {sequence} comes after {last}")]
    OutOfOrder {
        /// The batch's first sequence.
        sequence: i32,
        /// The last one that was written; -1 for none of this epoch.
        last: i32,
    },
}

/// What was found of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    New,
    /// It was written before, at this offset.
    Duplicate(u64),
}

/// A producer, for those who look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerInfo {
    /// Its id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The last sequence that it wrote; -1 for none of this epoch.
    pub last_sequence: i32,
    /// When that was.
    pub last_time: Millis,
    /// The first offset of its open transaction.
    pub transaction_start: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Producer {
    pub epoch: i16,
    pub last_time: Millis,
    pub written: VecDeque<Written>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub first: i32,
    pub last: i32,
    pub offset: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Producers {
    all: BTreeMap<i64, Producer>,
    crowd: Crowd,
}

/// How many producers the partitions remember that share it.
#[derive(Clone, Debug, Default)]
pub struct Crowd(Arc<AtomicUsize>);

impl Drop for Producers {
    fn drop(&mut self) {
        self.crowd.0.fetch_sub(self.all.len(), Ordering::Relaxed);
    }
}

/// Sequences begin anew behind the largest.
fn plus(sequence: i32, n: i32) -> i32 {
    (i64::from(sequence) + i64::from(n)).rem_euclid(i64::from(i32::MAX) + 1) as i32
}

impl Producers {
    /// Whether a batch may be written now.
    pub fn check(&self, batch: &Batch<'_>) -> Result<Checked, ProducerError> {
        if batch.producer_id() == NOBODY {
            return Ok(Checked::New);
        }
        // Whose past is forgotten may go on anywhere.
        let Some(known) = self.all.get(&batch.producer_id()) else { return Ok(Checked::New) };
        let (epoch, sequence) = (batch.producer_epoch(), batch.base_sequence());
        if epoch < known.epoch {
            return Err(ProducerError::Fenced { epoch, current: known.epoch });
        }
        if epoch > known.epoch {
            return if sequence == 0 {
                Ok(Checked::New)
            } else {
                Err(ProducerError::OutOfOrder { sequence, last: -1 })
            };
        }
        let Some(newest) = known.written.back() else { return Ok(Checked::New) };
        if sequence == plus(newest.last, 1) {
            return Ok(Checked::New);
        }
        let end = plus(sequence, batch.last_delta());
        if let Some(same) = known.written.iter().find(|w| (w.first, w.last) == (sequence, end)) {
            return Ok(Checked::Duplicate(same.offset));
        }
        // Also what comes before all that is known: it may have been refused while those behind it were taken, and a
        // producer that is told that it is a duplicate takes it for written.
        Err(ProducerError::OutOfOrder { sequence, last: newest.last })
    }

    /// A batch was written.
    pub fn appended(&mut self, batch: &Batch<'_>, offset: u64, now: Millis) {
        if batch.producer_id() == NOBODY {
            return;
        }
        let producer = self.enter(batch.producer_id(), batch.producer_epoch(), now);
        let first = batch.base_sequence();
        producer.written.push_back(Written { first, last: plus(first, batch.last_delta()), offset });
        if producer.written.len() > WINDOW {
            producer.written.pop_front();
        }
    }

    /// A batch was found by recovery.
    pub fn replay(&mut self, batch: &Batch<'_>, offset: u64) {
        let time = Millis(u64::try_from(batch.max_timestamp()).unwrap_or(0));
        self.appended(batch, offset, time);
    }

    /// A marker was written: it counts for the epoch, not for the sequence.
    pub fn marked(&mut self, id: i64, epoch: i16, now: Millis) {
        self.enter(id, epoch, now);
    }

    /// Counts them among those of others.
    pub fn share(&mut self, crowd: &Crowd) {
        crowd.0.fetch_add(self.all.len(), Ordering::Relaxed);
        self.crowd.0.fetch_sub(self.all.len(), Ordering::Relaxed);
        self.crowd = crowd.clone();
    }

    pub fn all(&self) -> &BTreeMap<i64, Producer> {
        &self.all
    }

    /// One that was written down.
    pub fn restore(&mut self, id: i64, producer: Producer) {
        let before = self.all.insert(id, producer);
        self.crowd.0.fetch_add(usize::from(before.is_none()), Ordering::Relaxed);
    }

    fn enter(&mut self, id: i64, epoch: i16, now: Millis) -> &mut Producer {
        if !self.all.contains_key(&id) {
            let crowded = self.crowd.0.load(Ordering::Relaxed) >= ALL_PRODUCERS_MAX;
            if crowded || self.all.len() >= PRODUCERS_MAX {
                self.forget_the_most_silent();
            }
            self.crowd.0.fetch_add(1, Ordering::Relaxed);
        }
        let producer =
            self.all.entry(id).or_insert_with(|| Producer { epoch, last_time: now, written: VecDeque::new() });
        if epoch > producer.epoch {
            producer.epoch = epoch;
            producer.written.clear();
        }
        producer.last_time = now;
        producer
    }

    fn forget_the_most_silent(&mut self) {
        let silent = self.all.iter().min_by_key(|(_, p)| p.last_time).map(|(id, _)| *id);
        if silent.is_some_and(|id| self.all.remove(&id).is_some()) {
            self.crowd.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub fn expire(&mut self, before: Millis, busy: impl Fn(i64) -> bool) {
        let all = self.all.len();
        self.all.retain(|id, p| p.last_time >= before || busy(*id));
        self.crowd.0.fetch_sub(all - self.all.len(), Ordering::Relaxed);
    }

    pub fn list(&self, open_since: impl Fn(i64) -> Option<u64>) -> Vec<ProducerInfo> {
        let info = |(id, p): (&i64, &Producer)| ProducerInfo {
            id: *id,
            epoch: p.epoch,
            last_sequence: p.written.back().map_or(-1, |w| w.last),
            last_time: p.last_time,
            transaction_start: open_since(*id),
        };
        self.all.iter().map(info).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_what_all_remember_the_most_silent_of_the_partition_goes_for_a_new_one() {
        let crowd = Crowd::default();
        let [mut first, mut second] = [Producers::default(), Producers::default()];
        first.marked(1, 0, Millis(1));
        first.share(&crowd);
        second.share(&crowd);
        let others = ALL_PRODUCERS_MAX - 3;
        crowd.0.fetch_add(others, Ordering::Relaxed);
        let counted = |crowd: &Crowd| crowd.0.load(Ordering::Relaxed) - others;
        first.marked(2, 0, Millis(3));
        first.marked(1, 0, Millis(4));
        second.marked(1, 0, Millis(2));
        assert_eq!(counted(&crowd), 3);
        // No more room: who is known goes on, and who is new takes the place of another one, if there is one.
        first.marked(2, 1, Millis(3));
        first.marked(3, 0, Millis(5));
        assert_eq!((first.all().keys().copied().collect::<Vec<_>>(), counted(&crowd)), (vec![1, 3], 3));
        let mut third = Producers::default();
        third.share(&crowd);
        third.marked(9, 0, Millis(6));
        assert_eq!((third.all().len(), counted(&crowd)), (1, 4));
        third.expire(Millis(7), |_| false);
        drop(first);
        assert_eq!(counted(&crowd), 1);
    }
}
