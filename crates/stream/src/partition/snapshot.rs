//! What a partition knows of producers and transactions, written down now and then: after a start only the batches
//! behind it are read.

use waypost_model::Millis;

use super::producers::{Producer, Written};
use super::transactions::Aborted;
use super::{Marker, Partition};
use crate::batch::Batch;
use crate::codec::{Malformed, Reader, Writer};

const FORMAT: u64 = 1;

impl Partition {
    /// The state as of the end of the log, to be kept as a definition; see [`Partition::restore`].
    #[must_use]
    pub fn snapshot(&mut self) -> Box<[u8]> {
        self.since_snapshot = 0;
        let mut w = Writer::default().number(FORMAT).number(self.end).number(self.producers.all.len() as u64);
        for (id, p) in &self.producers.all {
            w = w.number(*id as u64).number(p.epoch as u64).number(p.last_time.0).number(p.written.len() as u64);
            for batch in &p.written {
                w = w.number(batch.first as u64).number(batch.last as u64).number(batch.offset);
            }
        }
        w = w.number(self.transactions.open.len() as u64);
        for (id, first) in &self.transactions.open {
            w = w.number(*id as u64).number(*first);
        }
        w = w.number(self.transactions.aborted.len() as u64);
        for a in &self.transactions.aborted {
            w = w.number(a.producer_id as u64).number(a.first).number(a.last);
        }
        w.finish()
    }

    /// Takes over a snapshot. The offset from which on batches are still to be replayed comes back.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<u64, Malformed> {
        let mut r = Reader(snapshot);
        if r.number()? != FORMAT {
            return Err(Malformed);
        }
        let end = r.number()?;
        for _ in 0..r.count(32)? {
            let (id, epoch, last_time) = (r.number()? as i64, r.number()? as i16, Millis(r.number()?));
            let mut producer = Producer { epoch, last_time, written: std::collections::VecDeque::new() };
            for _ in 0..r.count(24)? {
                let (first, last, offset) = (r.number()? as i32, r.number()? as i32, r.number()?);
                producer.written.push_back(Written { first, last, offset });
            }
            self.producers.all.insert(id, producer);
        }
        for _ in 0..r.count(16)? {
            let id = r.number()? as i64;
            self.transactions.open.insert(id, r.number()?);
        }
        for _ in 0..r.count(24)? {
            let (producer_id, first, last) = (r.number()? as i64, r.number()?, r.number()?);
            self.transactions.aborted.push(Aborted { producer_id, first, last });
        }
        r.end().map(|()| end)
    }

    /// Tells of a batch that recovery found, from what is stored: producers and transactions.
    pub fn replay(&mut self, batch: &Batch<'_>) {
        let base = batch.base_offset().unsigned_abs();
        if let Some(marker) = Marker::read(batch) {
            let time = Millis(u64::try_from(batch.max_timestamp()).unwrap_or(0));
            self.producers.marked(batch.producer_id(), batch.producer_epoch(), time);
            self.transactions.end(batch.producer_id(), marker, base);
            self.transactions.settle(self.durable);
            return;
        }
        self.producers.replay(batch, base);
        if batch.is_transactional() {
            self.transactions.begin(batch.producer_id(), base);
        }
    }

    /// How many batches were appended since the last snapshot.
    #[must_use]
    pub fn since_snapshot(&self) -> u32 {
        self.since_snapshot
    }
}
