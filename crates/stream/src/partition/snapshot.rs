//! What a partition knows of producers and transactions, written down now and then: after a start only the batches
//! behind it are read.

use waypost_model::Millis;

use super::aborted::{AbortedList, WrittenChunk};
use super::producers::{Producer, Written};
use super::{Marker, Partition};
use crate::batch::Batch;
use crate::codec::{Malformed, Reader, Writer};

const FORMAT: u64 = 2;
/// The one before: all aborted transactions in the snapshot itself.
const FORMAT_ONE_LIST: u64 = 1;

/// What is to be kept of a partition's state, each part as a definition of its own, all of them in one append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The state but for most aborted transactions.
    pub state: Box<[u8]>,
    /// Chunks of aborted transactions that were not kept before.
    pub chunks: Vec<WrittenChunk>,
}

impl Partition {
    /// The state as of the end of the log; see [`Partition::restore`]. Once it is kept, [`Partition::note_snapshot`] is to
    /// be told before anything else is changed.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut w = Writer::default().number(FORMAT).number(self.end).number(self.producers.all().len() as u64);
        for (id, p) in self.producers.all() {
            w = w.number(*id as u64).number(p.epoch as u64).number(p.last_time.0).number(p.written.len() as u64);
            for batch in &p.written {
                w = w.number(batch.first as u64).number(batch.last as u64).number(batch.offset);
            }
        }
        w = w.number(self.transactions.open.len() as u64);
        for (id, first) in &self.transactions.open {
            w = w.number(*id as u64).number(*first);
        }
        let state = self.transactions.aborted.write_rest(w).finish();
        Snapshot { state, chunks: self.transactions.aborted.unkept() }
    }

    /// The journal has taken the snapshot.
    pub fn note_snapshot(&mut self) {
        self.since_snapshot = 0;
        self.transactions.aborted.note_kept();
    }

    /// Numbers of chunks that were kept and that nobody needs any more.
    #[must_use]
    pub fn dropped_chunks(&self) -> Vec<u64> {
        self.transactions.aborted.dropped().to_vec()
    }

    /// The journal was told to remove them.
    pub fn note_dropped(&mut self) {
        self.transactions.aborted.note_dropped();
    }

    /// Numbers of all chunks that are kept.
    #[must_use]
    pub fn kept_chunks(&self) -> Vec<u64> {
        self.transactions.aborted.kept().collect()
    }

    /// Takes over a snapshot and the chunks that go with it, in order of their numbers. The offset from which on batches
    /// are still to be replayed comes back.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn restore(&mut self, state: &[u8], chunks: &[(u64, &[u8])]) -> Result<u64, Malformed> {
        let mut r = Reader(state);
        let format = r.number()?;
        let end = r.number()?;
        for _ in 0..r.count(32)? {
            let (id, epoch, last_time) = (r.number()? as i64, r.number()? as i16, Millis(r.number()?));
            let mut producer = Producer { epoch, last_time, written: std::collections::VecDeque::new() };
            for _ in 0..r.count(24)? {
                let (first, last, offset) = (r.number()? as i32, r.number()? as i32, r.number()?);
                producer.written.push_back(Written { first, last, offset });
            }
            self.producers.restore(id, producer);
        }
        for _ in 0..r.count(16)? {
            let id = r.number()? as i64;
            self.transactions.open.insert(id, r.number()?);
        }
        self.transactions.aborted = match format {
            FORMAT => AbortedList::read_rest(&mut r, chunks)?,
            FORMAT_ONE_LIST => AbortedList::read_all(&mut r)?,
            _ => return Err(Malformed),
        };
        self.transactions.aborted.forget_before(self.start.max(self.compacted.map_or(0, |c| c.upto)));
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
