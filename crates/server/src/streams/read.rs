//! Records become messages, a few batches at a time.

use std::io;
use std::sync::Arc;

use waypost_model::Millis;
use waypost_stream::batch::Batch;
use waypost_stream::partition::{Aborted, Isolation, Piece};
use waypost_stream::records::{Record, Records, first_of_time};
use waypost_stream::streams::{Cell, Streams};

/// Batches are taken up to so many bytes at a time, and at least one.
const TAKE_BYTES: usize = 256 * 1024;
/// Records are decoded up to so many bytes at a time, unless the reader wants fewer: the rest of the batch is decoded
/// once more later.
pub(super) const DECODED_BYTES: usize = 1 << 20;
/// What a record takes beside its parts, about.
const RECORD_BYTES: usize = 100;

/// A place in a partition, from which somebody reads on.
pub(super) struct Cursor {
    pub cell: Arc<Cell>,
    pub partition: i32,
    /// The next offset.
    pub next: u64,
    /// Nothing before this time counts, until the first that does.
    pub since: Option<i64>,
}

/// What is there behind a cursor.
pub(super) struct Planned {
    cell: Arc<Cell>,
    pieces: Vec<Piece>,
    aborted: Vec<Aborted>,
    from: u64,
    since: Option<i64>,
}

/// Records, and where to go on.
pub(super) struct Chunk {
    pub records: Vec<Record>,
    pub next: u64,
    /// Still none of the time that is looked for.
    pub since: Option<i64>,
    /// Batches whose records nobody can read, or not to their end: their producer wrote something else.
    pub unreadable: u64,
}

impl Cursor {
    /// What is there to be read, if anything is. Only what transactions have committed.
    pub fn plan(&mut self, now: Millis) -> Option<Planned> {
        self.cell.note_use(now);
        let (next, planned) = self.cell.with(|partition| {
            // What retention has taken is behind us.
            let next = self.next.max(partition.offsets().start);
            let span = partition.read(next, TAKE_BYTES, Isolation::ReadCommitted).ok();
            let found = span.filter(|s| !s.batches.is_empty());
            (next, found.map(|s| (s.batches, partition.aborted(next, s.upto))))
        });
        self.next = next;
        let (pieces, aborted) = planned?;
        Some(Planned { cell: Arc::clone(&self.cell), pieces, aborted, from: next, since: self.since })
    }
}

impl Planned {
    /// Whether reading takes no disk and no codec.
    pub fn is_at_hand(&self) -> bool {
        self.pieces.iter().all(|piece| match piece {
            Piece::Memory(messages) => Batch::split(messages.body(0)).is_ok_and(|(batch, _)| batch.codec() == 0),
            Piece::Stored(..) => false,
        })
    }

    /// Reads and decodes, up to about so many bytes, and at least one record. What cannot be decoded is counted and left
    /// behind: nobody looks into records before they are stored. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// Those of the store.
    pub fn read(self, streams: &Streams, max_bytes: usize) -> io::Result<Chunk> {
        let mut chunk = Chunk { records: Vec::new(), next: self.from, since: self.since, unreadable: 0 };
        let mut bytes = 0;
        for piece in &self.pieces {
            let (messages, at) = match self.cell.load(piece, &**streams.bodies()) {
                Ok(loaded) => loaded,
                // Retention was faster.
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => return Err(e),
            };
            let body = messages.body(at);
            let (batch, _) = Batch::split(body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if self.counts(&batch) {
                match self.take(&batch, &mut chunk, &mut bytes, max_bytes) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(_) => chunk.unreadable += 1,
                }
            }
            chunk.next = chunk.next.max(batch.last_offset().unsigned_abs() + 1);
        }
        Ok(chunk)
    }

    /// Whether a batch has records that count: no marker, and none of a transaction that was aborted.
    fn counts(&self, batch: &Batch<'_>) -> bool {
        let base = batch.base_offset().unsigned_abs();
        let of = |a: &Aborted| a.producer_id == batch.producer_id() && (a.first..a.last).contains(&base);
        let aborted = batch.is_transactional() && self.aborted.iter().any(of);
        !batch.is_control() && !aborted
    }

    /// Takes a batch's records; false if that was enough before its end.
    fn take(&self, batch: &Batch<'_>, chunk: &mut Chunk, bytes: &mut usize, max_bytes: usize) -> io::Result<bool> {
        for record in Records::of(batch)? {
            let record = record?;
            let offset = record.offset.unsigned_abs();
            if offset < self.from || chunk.since.is_some_and(|since| record.timestamp < since) {
                continue;
            }
            chunk.since = None;
            chunk.next = offset + 1;
            *bytes += weight(&record);
            chunk.records.push(record);
            if *bytes >= max_bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Somebody who only looks. Blocks for as long as the disk does.
pub(crate) struct Look<'a> {
    pub cell: &'a Arc<Cell>,
    pub streams: &'a Streams,
    pub now: Millis,
}

impl Look<'_> {
    /// Records from an offset on, at most so many; fewer, where they are long.
    ///
    /// # Errors
    /// Those of the store; a damaged batch.
    pub(crate) fn records(&self, from: u64, limit: usize) -> io::Result<Vec<Record>> {
        let mut cursor = Cursor { cell: Arc::clone(self.cell), partition: 0, next: from, since: None };
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < limit
            && bytes < DECODED_BYTES
            && let Some(planned) = cursor.plan(self.now)
        {
            let chunk = planned.read(self.streams, DECODED_BYTES)?;
            bytes += chunk.records.iter().map(weight).sum::<usize>();
            records.extend(chunk.records);
            cursor.next = chunk.next;
        }
        records.truncate(limit);
        Ok(records)
    }

    /// The offset and the time of the first record of this time or later, ms; none if all are older. What cannot be
    /// decoded is passed over.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn first_since(&self, ms: u64) -> io::Result<Option<(i64, i64)>> {
        let time = i64::try_from(ms).unwrap_or(i64::MAX);
        let mut from = self.cell.with(|p| p.offsets().start);
        let mut missing = None;
        while let Some((entry, piece)) = self.cell.with(|p| p.batch_of_time(Millis(ms), from)) {
            let (messages, at) = match self.cell.load(&piece, &**self.streams.bodies()) {
                Ok(loaded) => loaded,
                // Retention or compaction was faster: it is elsewhere by now, or gone.
                Err(e) if e.kind() == io::ErrorKind::NotFound && missing.as_ref() != Some(&piece) => {
                    from = from.max(self.cell.with(|p| p.offsets().start));
                    missing = Some(piece);
                    continue;
                }
                Err(e) => return Err(e),
            };
            let split = Batch::split(messages.body(at));
            let (batch, _) = split.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if let Ok(Some(found)) = first_of_time(&batch, time, from) {
                return Ok(Some(found));
            }
            from = entry.last + 1;
        }
        Ok(None)
    }
}

/// Bytes that a record takes, about.
fn weight(record: &Record) -> usize {
    let parts = record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len);
    let headers = record.headers.iter().map(|(n, v)| n.len() + v.as_ref().map_or(0, Vec::len));
    RECORD_BYTES + parts + headers.sum::<usize>()
}
