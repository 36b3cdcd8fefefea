//! One partition.
//!
//! What is appended has its offsets at once and is visible once it is durable: the *high watermark* is one behind the
//! last durable record. A consumer that reads only what is committed sees up to the *last stable offset*, one behind
//! the last record that no open transaction precedes.

mod aborted;
mod compaction;
mod index;
mod journal;
mod packed;
mod producers;
mod retention;
mod snapshot;
mod tail;
mod transactions;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use waypost_model::journal::{AppendError, Journal, Op, RecoveredRun};
use waypost_model::{Batch as Messages, Lsn, Millis, QueueId, Route, Seq};

pub use aborted::{Aborted, WrittenChunk};
pub use compaction::Compacted;
pub(crate) use compaction::{Plan, Replacement};
pub use index::Entry;
pub use packed::Packed;
pub use producers::{ProducerError, ProducerInfo};
pub use snapshot::Snapshot;
pub(crate) use transactions::Ending;
pub use transactions::Marker;

use crate::batch::{Batch, BatchError};
use crate::config::TopicConfig;
use crate::transactions::TransactionFault;
use index::Index;
pub(crate) use journal::Part;
use journal::{enqueue, recover, settle};
pub(crate) use packed::NO_PROPERTIES;
use producers::{Checked, Crowd, Producers};
use retention::Overdue;
use tail::{Tail, Tails};
use transactions::Transactions;

/// What partitions of a node count together: what they keep in memory has limits for all of them.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    tails: Tails,
    producers: Crowd,
}

/// Why a batch is not appended. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendFault {
    /// The batch is no batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Longer than the topic allows.
    #[error("the batch has {bytes} bytes, the topic allows {max}")]
    TooLarge {
        /// How long it is.
        bytes: usize,
        /// `max.message.bytes`.
        max: usize,
    },
    /// Its timestamps are further from now than the topic allows.
    #[error("a timestamp is out of the range that the topic allows")]
    Timestamp,
    /// Its producer may not write it.
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// It belongs to a transaction that does not have it.
    #[error(transparent)]
    Transaction(#[from] TransactionFault),
    /// The topic is being deleted.
    #[error("the topic is gone")]
    Deleted,
    /// The journal takes nothing.
    #[error(transparent)]
    Journal(#[from] AppendError),
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of its first record.
    pub base_offset: u64,
    /// What must be durable before it may be confirmed; `None` if it has been for long (a duplicate).
    pub lsn: Option<Lsn>,
    /// The time that counts for its records, if that is the log's.
    pub append_time: Option<Millis>,
}

/// A range of batches that a reader may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The batches, in order.
    pub batches: Vec<Piece>,
    /// How long they are together.
    pub bytes: usize,
    /// One behind the last of them; where the reader is, if there are none.
    pub upto: u64,
}

/// A batch to be read.
#[derive(Clone, Debug)]
pub enum Piece {
    /// In memory.
    Memory(Arc<Messages>),
    /// In the journal, at this place of one of the partition's queues.
    Stored(QueueId, Seq),
}

impl PartialEq for Piece {
    fn eq(&self, other: &Piece) -> bool {
        match (self, other) {
            (Piece::Memory(a), Piece::Memory(b)) => a.data() == b.data(),
            (Piece::Stored(a, at), Piece::Stored(b, place)) => (a, at) == (b, place),
            _ => false,
        }
    }
}

impl Eq for Piece {}

/// What a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Everything that is durable.
    ReadUncommitted,
    /// What no open transaction precedes.
    ReadCommitted,
}

/// An offset that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("offset {asked} is not between {start} and {end}")]
pub struct OutOfRange {
    /// The offset asked for.
    pub asked: u64,
    /// The first one there is.
    pub start: u64,
    /// One behind the last.
    pub end: u64,
}

/// The figures of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// The first record that is there.
    pub start: u64,
    /// One behind the last durable record.
    pub high_watermark: u64,
    /// One behind the last record that no open transaction precedes; at most the high watermark.
    pub last_stable: u64,
    /// One behind the last record, durable or not.
    pub end: u64,
}

/// A batch that has its place, see [`Partition::lay`].
#[derive(Debug)]
struct Laid {
    entry: Entry,
    messages: Arc<Messages>,
}

/// See the module.
#[derive(Debug)]
pub struct Partition {
    queue: QueueId,
    route: Arc<Route>,
    start: u64,
    end: u64,
    /// One behind the last record that is known to be durable.
    durable: u64,
    /// What is on its way to the disk: ticket, and the end of the log with it.
    pending: VecDeque<(Lsn, u64)>,
    index: Index,
    /// Where batches lie that compaction has left.
    compacted: Option<Compacted>,
    /// By which append that came about.
    replaced: Option<Lsn>,
    producers: Producers,
    transactions: Transactions,
    tail: Tail,
    since_snapshot: u32,
    overdue: Option<Overdue>,
}

impl Partition {
    /// An empty partition, whose batches are messages of `queue`.
    #[must_use]
    pub fn new(queue: QueueId, route: Arc<Route>) -> Partition {
        Partition {
            queue,
            route,
            start: 0,
            end: 0,
            durable: 0,
            pending: VecDeque::new(),
            index: Index::default(),
            compacted: None,
            replaced: None,
            producers: Producers::default(),
            transactions: Transactions::default(),
            tail: Tail::default(),
            since_snapshot: 0,
            overdue: None,
        }
    }

    /// A partition as recovery found it. `start` is the first offset as it was last noted, `next` one behind the last
    /// place that was ever taken. What producers did is told by [`Partition::replay`], batch by batch, before anything
    /// is appended.
    #[must_use]
    pub fn recovered(queue: QueueId, route: Arc<Route>, runs: &[RecoveredRun], start: u64, next: Seq) -> Partition {
        let mut partition = Partition::new(queue, route);
        partition.start = start;
        let base = recover(&mut partition.index, runs, start);
        partition.end = next.0.max(base);
        partition.durable = partition.end;
        partition
    }

    /// Counts what it keeps in memory with what others keep.
    pub fn share(&mut self, shared: &Shared) {
        self.tail.share(&shared.tails);
        self.producers.share(&shared.producers);
    }

    /// The queue of the journal that holds the batches.
    #[must_use]
    pub fn queue(&self) -> QueueId {
        self.queue
    }

    /// Where it begins and ends.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        let last_stable = self.transactions.first_unstable(self.durable).unwrap_or(u64::MAX).min(self.durable);
        Offsets { start: self.start, high_watermark: self.durable, last_stable, end: self.end }
    }

    /// Bytes of all batches.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.index.bytes()
    }

    /// Producers that have written lately.
    #[must_use]
    pub fn producers(&self) -> Vec<ProducerInfo> {
        self.producers.list(|id| self.transactions.open_since(id))
    }

    /// Appends one batch of a producer's, unhurried.
    ///
    /// # Errors
    /// [`AppendFault`].
    pub fn append(
        &mut self,
        batch: &Batch<'_>,
        config: &TopicConfig,
        journal: &dyn Journal,
        now: Millis,
    ) -> Result<Appended, AppendFault> {
        self.append_packed(Packed::copy(batch), config, journal, now)
    }

    /// The same, of a batch that is stored where it lies. Unhurried: [`Journal::hurry`] is to follow.
    ///
    /// # Errors
    /// [`AppendFault`].
    pub fn append_packed(
        &mut self,
        packed: Packed,
        config: &TopicConfig,
        journal: &dyn Journal,
        now: Millis,
    ) -> Result<Appended, AppendFault> {
        let batch = packed.batch();
        batch.check()?;
        let max = config.max_message_bytes;
        if batch.bytes().len() > max {
            return Err(AppendFault::TooLarge { bytes: batch.bytes().len(), max });
        }
        let append_time = config.log_append_time.then_some(now);
        if append_time.is_none() && !config.takes_time(batch.max_timestamp(), now) {
            return Err(AppendFault::Timestamp);
        }
        if !batch.is_transactional() && self.transactions.open_since(batch.producer_id()).is_some() {
            return Err(TransactionFault::State.into());
        }
        match self.producers.check(&batch)? {
            Checked::Duplicate(base_offset) => {
                // It counts as written once the first one of them is on disk.
                let lsn = self.pending.iter().find(|(_, end)| *end > base_offset).map(|(lsn, _)| *lsn);
                return Ok(Appended { base_offset, lsn, append_time: None });
            }
            Checked::New => {}
        }
        let base = self.end;
        let (lsn, messages) = self.write(packed, (append_time, now), journal)?;
        let batch = Batch::known(messages.body(0));
        self.producers.appended(&batch, base, now);
        if batch.is_transactional() {
            self.transactions.begin(batch.producer_id(), base);
        }
        Ok(Appended { base_offset: base, lsn: Some(lsn), append_time })
    }

    fn write(
        &mut self,
        packed: Packed,
        times: (Option<Millis>, Millis),
        journal: &dyn Journal,
    ) -> Result<(Lsn, Arc<Messages>), AppendFault> {
        let (op, laid) = self.lay(packed, times);
        let messages = Arc::clone(&laid.messages);
        let lsn = journal.append_unhurried(vec![op])?;
        self.laid(laid, lsn);
        Ok((lsn, messages))
    }

    /// A batch at the end of the log: what the journal is to be told. Nothing is changed before [`Partition::laid`]. One
    /// without times of its own is as old as its arrival.
    fn lay(&self, packed: Packed, (append_time, now): (Option<Millis>, Millis)) -> (Op, Laid) {
        let batch = packed.batch();
        let (base, last) = (self.end, self.end + u64::try_from(batch.last_delta()).unwrap_or(0));
        let time = append_time.unwrap_or_else(|| u64::try_from(batch.max_timestamp()).map_or(now, Millis));
        let bytes = u32::try_from(batch.bytes().len()).unwrap_or(u32::MAX);
        let messages = Arc::new(packed.into_message(base, append_time));
        let op = enqueue((self.queue, Seq(last)), Arc::clone(&messages), 0, &self.route, time);
        (op, Laid { entry: Entry { base, last, time, bytes }, messages })
    }

    /// The journal has taken it.
    fn laid(&mut self, laid: Laid, lsn: Lsn) {
        let Laid { entry, messages } = laid;
        self.index.push(entry);
        self.end = entry.last + 1;
        self.since_snapshot = self.since_snapshot.saturating_add(1);
        self.pending.push_back((lsn, self.end));
        self.tail.push(entry.last, messages);
    }

    /// Gives up the batches that are kept in memory: nobody has written or read for a while.
    pub fn rest(&mut self) {
        self.tail.clear();
        self.pending.shrink_to_fit();
        self.index.shrink();
    }

    /// The journal is durable so far: whether more is visible now.
    pub fn advance(&mut self, durable: Lsn) -> bool {
        let before = self.durable;
        while let Some((lsn, end)) = self.pending.front().copied()
            && lsn <= durable
        {
            self.pending.pop_front();
            self.durable = end;
        }
        self.transactions.settle(self.durable);
        self.durable > before
    }

    /// The ticket that the next record waits for, if any does.
    #[must_use]
    pub fn waits_for(&self) -> Option<Lsn> {
        self.pending.front().map(|(lsn, _)| *lsn)
    }

    /// The places of all batches that end at `offset` or behind it.
    #[must_use]
    pub fn places_from(&self, offset: u64) -> Vec<(QueueId, Seq)> {
        self.index.from(offset).map(|e| (self.queue_of(e.last), Seq(e.last))).collect()
    }

    /// What a reader at `offset` may have: whole batches, the first one even if it is larger than `max_bytes`. None, if
    /// there is nothing behind it yet.
    ///
    /// # Errors
    /// [`OutOfRange`]: what is asked for was deleted, or was never there.
    pub fn read(&self, offset: u64, max_bytes: usize, isolation: Isolation) -> Result<Span, OutOfRange> {
        let offsets = self.offsets();
        let visible = match isolation {
            Isolation::ReadUncommitted => offsets.high_watermark,
            Isolation::ReadCommitted => offsets.last_stable,
        };
        if offset < self.start || offset > offsets.high_watermark {
            return Err(OutOfRange { asked: offset, start: self.start, end: offsets.high_watermark });
        }
        let (mut bytes, mut batches, mut upto) = (0, Vec::new(), offset);
        for entry in self.index.from(offset).take_while(|e| e.last < visible) {
            let with = bytes + entry.bytes as usize;
            if with > max_bytes && !batches.is_empty() {
                break;
            }
            (bytes, upto) = (with, entry.last + 1);
            batches.push(self.piece(entry.last));
        }
        Ok(Span { batches, bytes, upto })
    }

    fn piece(&self, last: u64) -> Piece {
        match self.tail.find(last) {
            Some(messages) => Piece::Memory(Arc::clone(messages)),
            None => Piece::Stored(self.queue_of(last), Seq(last)),
        }
    }

    /// The transactions that were aborted and have records between these offsets.
    #[must_use]
    pub fn aborted(&self, from: u64, to: u64) -> Vec<Aborted> {
        self.transactions.aborted.within(from, to)
    }

    /// The batch in which the first record of that time or later, and not before offset `from`, must be looked for. What
    /// makes it young enough may lie before `from`: then the search goes on behind it.
    #[must_use]
    pub fn batch_of_time(&self, time: Millis, from: u64) -> Option<(Entry, Piece)> {
        let visible = self.index.iter().take_while(|e| e.last < self.durable);
        let entry = visible.skip_while(|e| e.last < from).find(|e| e.time >= time)?;
        Some((*entry, self.piece(entry.last)))
    }

    /// The last batch that is visible.
    #[must_use]
    pub fn last_batch(&self) -> Option<Entry> {
        self.index.back_before(self.durable)
    }

    /// The latest time of all visible records, with the batch that has it.
    #[must_use]
    pub fn latest_time(&self) -> Option<(Entry, Piece)> {
        let visible = self.index.iter().take_while(|e| e.last < self.durable);
        let entry = visible.reduce(|best, e| if e.time > best.time { e } else { best })?;
        Some((*entry, self.piece(entry.last)))
    }

    /// Removes everything before `offset`, which may not be beyond the high watermark. The batch that it lies in stays.
    /// What is to be handed to the journal comes back, together with a note of the new start.
    ///
    /// # Errors
    /// [`OutOfRange`].
    pub fn delete_before(&mut self, offset: u64) -> Result<Vec<Op>, OutOfRange> {
        if offset > self.durable {
            return Err(OutOfRange { asked: offset, start: self.start, end: self.durable });
        }
        if offset <= self.start {
            return Ok(Vec::new());
        }
        let gone = self.index.drop_before(offset);
        self.start = offset;
        Ok(self.forget(gone))
    }

    fn forget(&mut self, gone: Option<(u64, u64)>) -> Vec<Op> {
        self.transactions.aborted.forget_before(self.start);
        self.tail.drop_before(self.start);
        let (Some((first, last)), mut ops) = (gone, Vec::new()) else { return Vec::new() };
        let upto = self.compacted.map_or(0, |c| c.upto);
        if let Some(compacted) = self.compacted
            && first < upto
        {
            settle(compacted.queue, first, last.min(upto - 1), &mut ops);
        }
        if last >= upto {
            settle(self.queue, first.max(upto), last, &mut ops);
        }
        ops
    }

    /// Forgets producers that have been silent since `before`.
    pub fn expire_producers(&mut self, before: Millis) {
        let open = &self.transactions;
        self.producers.expire(before, |id| open.open_since(id).is_some());
    }
}
