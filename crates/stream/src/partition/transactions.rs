//! Transactions as one partition sees them: which are open, which were aborted.

use std::collections::BTreeMap;

use waypost_model::Millis;

use crate::batch::{Batch, control};

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

/// A transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Whose it was.
    pub producer_id: i64,
    /// Its first record.
    pub first: u64,
    /// Its marker.
    pub last: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// The first record of each open one, by producer.
    pub open: BTreeMap<i64, u64>,
    /// In order of their markers.
    pub aborted: Vec<Aborted>,
}

impl Transactions {
    /// A record of a transaction was written.
    pub fn begin(&mut self, producer_id: i64, offset: u64) {
        self.open.entry(producer_id).or_insert(offset);
    }

    /// A marker was written at `offset`.
    pub fn end(&mut self, producer_id: i64, marker: Marker, offset: u64) {
        // A producer that wrote nothing here may end its transaction all the same.
        if let Some(first) = self.open.remove(&producer_id)
            && marker == Marker::Abort
        {
            self.aborted.push(Aborted { producer_id, first, last: offset });
        }
    }

    pub fn first_open(&self) -> Option<u64> {
        self.open.values().min().copied()
    }

    pub fn open_since(&self, producer_id: i64) -> Option<u64> {
        self.open.get(&producer_id).copied()
    }

    /// Those with records in `from..to`.
    pub fn aborted(&self, from: u64, to: u64) -> Vec<Aborted> {
        let at = self.aborted.partition_point(|a| a.last < from);
        self.aborted[at..].iter().filter(|a| a.first < to).copied().collect()
    }

    pub fn forget_before(&mut self, start: u64) {
        self.aborted.retain(|a| a.last >= start);
    }
}
