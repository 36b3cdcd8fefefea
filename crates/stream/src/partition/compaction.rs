//! The compacted part of a partition: which batches are due, and how what is left of them takes their place.
//!
//! It lies in a queue of its own, another one each time. One append points the partition to it and settles what it
//! replaces, so that a crash leaves the old part or the new one. A queue that no partition points to is forgotten at a
//! start.

use waypost_model::journal::{AppendError, Journal, Op, RecoveredRun};
use waypost_model::{Lsn, Millis, QueueId, Seq};

use super::index::Index;
use super::{Aborted, Entry, Partition, Snapshot};
use crate::config::TopicConfig;

/// Where the compacted part lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Its queue.
    pub queue: QueueId,
    /// It holds what is left of everything before this offset.
    pub upto: u64,
}

/// What is to be compacted.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Batches with the queues that they lie in, from the beginning of the partition on.
    pub batches: Vec<(Entry, QueueId)>,
    /// Where those begin that no compaction has seen.
    pub dirty_from: u64,
    /// One behind the last record there is.
    pub end: u64,
    /// Transactions whose records go.
    pub aborted: Vec<Aborted>,
}

/// A compacted part that is written.
#[derive(Debug)]
pub(crate) struct Replacement {
    pub compacted: Compacted,
    pub entries: Vec<Entry>,
}

impl Partition {
    /// What recovery found of the compacted part. To be told before anything is asked.
    #[must_use]
    pub fn with_compacted(mut self, compacted: Option<Compacted>, runs: &[RecoveredRun]) -> Partition {
        let Some(compacted) = compacted else { return self };
        let mut index = Index::default();
        super::recover(&mut index, runs, self.start);
        debug_assert!(index.iter().all(|e| e.last < compacted.upto));
        for entry in self.index.iter().filter(|e| e.last >= compacted.upto) {
            index.push(Entry { base: entry.base.max(compacted.upto.min(entry.last)), ..*entry });
        }
        self.index = index;
        self.end = self.end.max(compacted.upto);
        self.durable = self.end;
        self.compacted = Some(compacted);
        self
    }

    /// Where the compacted part lies, if there is one.
    #[must_use]
    pub fn compacted(&self) -> Option<Compacted> {
        self.compacted
    }

    /// The queue of a batch.
    pub(super) fn queue_of(&self, last: u64) -> QueueId {
        self.compacted.filter(|c| last < c.upto).map_or(self.queue, |c| c.queue)
    }

    /// What is due, by the topic's configuration: enough of it is dirty, or some of it for too long. The newest records
    /// stay as they are for `segment.ms`, up to `segment.bytes` of them, as if they lay in an active segment. `durable`: how
    /// far the journal is.
    pub(crate) fn compaction(&self, config: &TopicConfig, now: Millis, durable: Lsn) -> Option<Plan> {
        if self.replaced.is_some_and(|lsn| lsn > durable) {
            // The part that was written last cannot be read yet.
            return None;
        }
        let rules = &config.compaction;
        let before = |ms: u64| now.0.saturating_sub(ms);
        let overdue = |e: &Entry| e.time.0 <= before(rules.max_lag_ms);
        let (mut active_bytes, mut active_from) = (0, u64::MAX);
        for e in self.index.iter().rev() {
            active_bytes += u64::from(e.bytes);
            if active_bytes > rules.segment_bytes || e.time.0 <= before(rules.segment_ms) || overdue(e) {
                break;
            }
            active_from = e.base;
        }
        let end = active_from.min(self.offsets().last_stable);
        let dirty_from = self.compacted.map_or(0, |c| c.upto);
        let (mut cut, mut dirty, mut late) = (dirty_from, 0, false);
        for e in self.index.from(dirty_from) {
            if e.last >= end || e.time.0 > before(rules.min_lag_ms) {
                break;
            }
            cut = e.last + 1;
            dirty += u64::from(e.bytes);
            late |= overdue(e);
        }
        let batches: Vec<_> =
            self.index.iter().take_while(|e| e.last < cut).map(|e| (*e, self.queue_of(e.last))).collect();
        let all: u64 = batches.iter().map(|(e, _)| u64::from(e.bytes)).sum();
        let enough = u128::from(dirty) * 1_000_000 >= u128::from(all) * u128::from(rules.dirty_millionths);
        let due = dirty > 0 && (enough || late);
        due.then(|| Plan { batches, dirty_from, end: self.end, aborted: self.transactions.aborted.within(0, cut) })
    }

    /// Puts a compacted part in the place of all batches before its end. `define` says how the journal is to be told
    /// where it lies, and of the snapshot that goes with it.
    ///
    /// # Errors
    /// The journal takes nothing: nothing was changed, and the part is to be forgotten.
    pub(crate) fn replace(
        &mut self,
        replacement: Replacement,
        define: impl FnOnce(Compacted, Snapshot) -> Vec<Op>,
        journal: &dyn Journal,
    ) -> Result<Lsn, AppendError> {
        let Replacement { compacted, entries } = replacement;
        let mut ops = define(compacted, self.snapshot());
        // Retention may have been faster.
        let gone = entries.partition_point(|e| e.last < self.start);
        let (gone, kept) = entries.split_at(gone);
        if let (Some(first), Some(last)) = (gone.first(), gone.last()) {
            super::settle(compacted.queue, first.last, last.last, &mut ops);
        }
        let replaced = |e: &&Entry| e.last < compacted.upto && self.queue_of(e.last) == self.queue;
        let (first, last) = (self.index.iter().find(replaced), self.index.iter().rfind(replaced));
        if let (Some(first), Some(last)) = (first, last) {
            super::settle(self.queue, first.last, last.last, &mut ops);
        }
        ops.extend(self.compacted.map(|c| Op::Forget(c.queue)));
        let lsn = journal.append(ops)?;
        self.note_snapshot();
        // Their records are gone. A reader that is told of them would skip what the same producer wrote later, if their
        // markers are gone too. (Who restores the snapshot forgets them by itself.)
        self.transactions.aborted.forget_before(compacted.upto);
        let mut index = Index::default();
        kept.iter().for_each(|e| index.push(*e));
        self.index.from(compacted.upto).for_each(|e| index.push(*e));
        self.index = index;
        self.compacted = Some(compacted);
        self.replaced = Some(lsn);
        self.tail.drop_before(compacted.upto);
        Ok(lsn)
    }

    /// A batch of the compacted part, for the journal.
    pub(crate) fn message_of(&self, queue: QueueId, entry: Entry, part: super::Part) -> Op {
        let (batch, from) = part;
        super::enqueue((queue, Seq(entry.last)), batch, from, &self.route, entry.time)
    }
}
