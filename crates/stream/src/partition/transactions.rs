//! Transactions as one partition sees them: which are open, which were aborted.

use std::collections::{BTreeMap, VecDeque};

use waypost_model::journal::Op;
use waypost_model::{Lsn, Millis};

use super::aborted::AbortedList;
use super::{Aborted, Laid, Packed, Partition};
use crate::batch::{Batch, BatchError, control};

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// What it wrote counts.
    Commit,
    /// What it wrote is skipped.
    Abort,
}

impl Marker {
    /// The batch that says so, without its offset.
    #[must_use]
    pub fn batch(self, producer_id: i64, producer_epoch: i16, now: Millis) -> Vec<u8> {
        let kind = match self {
            Marker::Abort => 0,
            Marker::Commit => 1,
        };
        control(kind, producer_id, producer_epoch, i64::try_from(now.0).unwrap_or(i64::MAX))
    }

    /// The marker that a batch is, if it is one.
    #[must_use]
    pub fn read(batch: &Batch<'_>) -> Option<Marker> {
        match batch.control_kind()? {
            0 => Some(Marker::Abort),
            1 => Some(Marker::Commit),
            _ => None,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// The first record of each open one, by producer.
    pub open: BTreeMap<i64, u64>,
    pub aborted: AbortedList,
    /// Those whose marker is on its way to the disk: first record, marker. Until it is there, they count as open: a crash
    /// may still undo the marker.
    ending: VecDeque<(u64, u64)>,
}

impl Transactions {
    /// A record of a transaction was written.
    pub fn begin(&mut self, producer_id: i64, offset: u64) {
        self.open.entry(producer_id).or_insert(offset);
    }

    /// A marker was written at `offset`.
    pub fn end(&mut self, producer_id: i64, marker: Marker, offset: u64) {
        // A producer that wrote nothing here may end its transaction all the same.
        let Some(first) = self.open.remove(&producer_id) else { return };
        self.ending.push_back((first, offset));
        if marker == Marker::Abort {
            self.aborted.push(Aborted { producer_id, first, last: offset });
        }
    }

    /// The first record of a transaction that is open, or whose end is not durable, while `durable` is one behind the
    /// last durable record.
    pub fn first_unstable(&self, durable: u64) -> Option<u64> {
        let ending = self.ending.iter().filter(|(_, marker)| *marker >= durable).map(|(first, _)| first);
        self.open.values().chain(ending).min().copied()
    }

    /// Everything before `durable` is durable, markers included.
    pub fn settle(&mut self, durable: u64) {
        while self.ending.front().is_some_and(|(_, marker)| *marker < durable) {
            self.ending.pop_front();
        }
    }

    pub fn open_since(&self, producer_id: i64) -> Option<u64> {
        self.open.get(&producer_id).copied()
    }
}

/// The end of a transaction here, not counted yet.
#[derive(Debug)]
pub(crate) struct Ending {
    laid: Laid,
    producer_id: i64,
    producer_epoch: i16,
    marker: Marker,
    now: Millis,
}

impl Partition {
    /// The marker that ends a producer's transaction here, and what the journal is to be told of it; nothing, where none
    /// is open. It counts with [`Partition::ended`], and nothing else may be appended before.
    ///
    /// # Errors
    /// None that a marker of ours can have.
    pub(crate) fn end(
        &self,
        producer_id: i64,
        producer_epoch: i16,
        marker: Marker,
        now: Millis,
    ) -> Result<Option<(Op, Ending)>, BatchError> {
        if self.transactions.open_since(producer_id).is_none() {
            return Ok(None);
        }
        let bytes = marker.batch(producer_id, producer_epoch, now);
        let (batch, _) = Batch::split(&bytes)?;
        let (op, laid) = self.lay(Packed::copy(&batch), (None, now));
        Ok(Some((op, Ending { laid, producer_id, producer_epoch, marker, now })))
    }

    /// The journal has taken it.
    pub(crate) fn ended(&mut self, ending: Ending, lsn: Lsn) {
        let Ending { laid, producer_id, producer_epoch, marker, now } = ending;
        let offset = laid.entry.base;
        self.laid(laid, lsn);
        self.producers.marked(producer_id, producer_epoch, now);
        self.transactions.end(producer_id, marker, offset);
    }
}
