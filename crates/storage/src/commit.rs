//! One step of the committer: take what is queued, write one frame, sync, move the watermark.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Instant;
use std::{io, mem};

use waypost_model::Lsn;
use waypost_model::journal::Op;

use crate::disk::{DiskFile, write_all};
use crate::encoder::{Encoder, Pending, Place};
use crate::engine::Shared;
use crate::frame::FrameHeader;
use crate::recovery::Tail;
use crate::segment::{FOOTER_ENTRY, FRAMES_AT, Seal, Segment, SegmentHeader, put_footer_entry};
use crate::sync::lock;

/// What a step of the committer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Nothing was queued.
    Idle,
    /// Everything up to this ticket is on disk.
    Committed(Lsn),
    /// There is no room, not even in what is kept back. Nothing is lost; try again when there is.
    NoRoom,
    /// The store has stopped.
    Stopped,
}

/// The end of the log.
pub struct Log {
    encoder: Encoder,
    pub active: Arc<Segment>,
    header: SegmentHeader,
    pub end: u64,
    synced: u64,
    last_crc: u32,
    footer: Vec<u8>,
    pub epoch: u32,
    /// Taken from the inbox and not yet written.
    taken: Vec<Pending>,
}

impl Log {
    /// A log that goes on where recovery found its end, which has been synced.
    pub fn new(tail: Tail, epoch: u32) -> Log {
        let Tail { segment, header, end, last_crc, footer, .. } = tail;
        let (encoder, taken) = (Encoder::default(), Vec::new());
        Log { encoder, active: segment, header, end, synced: end, last_crc, footer, epoch, taken }
    }

    fn has_room(&self, frame: u64, table: u64) -> bool {
        self.end + frame + self.footer.len() as u64 + FOOTER_ENTRY + table <= self.active.capacity()
    }

    /// Goes on in another segment; the active one has been sealed.
    fn activate(&mut self, active: Arc<Segment>, header: SegmentHeader) {
        self.active = active;
        self.header = header;
        self.end = FRAMES_AT;
        self.synced = FRAMES_AT;
        self.last_crc = header.crc;
        self.footer.clear();
    }

    fn seal(&self) -> io::Result<()> {
        let seal = Seal {
            end: self.end,
            footer_len: self.footer.len() as u64,
            footer_crc: crc32c::crc32c(&self.footer),
            last_crc: self.last_crc,
        };
        seal.write(&*self.active.file, &self.header, &self.footer)?;
        self.active.file.sync_data()
    }
}

impl Shared {
    /// One step of the committer.
    pub fn commit_once(&self) -> CommitOutcome {
        let mut log = lock(&self.log);
        if self.is_stopped() {
            return CommitOutcome::Stopped;
        }
        if log.taken.is_empty() {
            self.inbox.take(self.cfg.frame_bytes_max(), &mut log.taken);
        }
        let Some(last) = log.taken.last().map(|p| p.lsn) else { return CommitOutcome::Idle };
        let outcome = self.commit_taken(&mut log);
        drop(log);
        match outcome {
            Ok(true) => {
                self.inbox.set_stuck(false);
                self.durable.store(last.0, Release);
                self.inbox.committed();
                CommitOutcome::Committed(last)
            }
            Ok(false) => {
                self.inbox.set_stuck(true);
                CommitOutcome::NoRoom
            }
            Err(e) => {
                self.stop("log", &e);
                CommitOutcome::Stopped
            }
        }
    }

    fn commit_taken(&self, log: &mut Log) -> io::Result<bool> {
        let taken = mem::take(&mut log.taken);
        let result = self.write_frame(log, &taken);
        if !matches!(result, Ok(Some(_))) {
            log.taken = taken;
            return result.map(|_| false);
        }
        self.note(log, &taken);
        // Freeing what was written, and the operations' effects, may come before the sync: a checkpoint that has seen
        // them waits for it.
        self.apply(taken);
        let started = Instant::now();
        log.active.file.sync_data()?;
        self.metrics.synced(started.elapsed());
        log.synced = log.end;
        Ok(true)
    }

    /// Writes the frame; `None` if there is no room for it.
    fn write_frame(&self, log: &mut Log, taken: &[Pending]) -> io::Result<Option<FrameHeader>> {
        let (frame, table) = log.encoder.plan(taken);
        if !log.has_room(frame, table) && !self.make_room(log, frame, table)? {
            return Ok(None);
        }
        let place = Place {
            epoch: log.epoch,
            segment: log.active.id.0,
            offset: log.end,
            prev: log.last_crc,
            synced: log.synced,
        };
        let header = log.encoder.encode(taken, place);
        debug_assert_eq!(u64::from(header.len), frame, "what was planned is what is written");
        write_all(&*log.active.file, log.end, &mut log.encoder.bytes())?;
        self.metrics.commits.fetch_add(1, Relaxed);
        self.metrics.appends.fetch_add(taken.len() as u64, Relaxed);
        self.metrics.written_bytes.fetch_add(u64::from(header.len), Relaxed);
        put_footer_entry(&mut log.footer, log.end, header.payload_at(), log.encoder.table());
        log.last_crc = header.crc;
        Ok(Some(header))
    }

    /// Notes in the index where the frame's messages lie, and moves the end of the log behind the frame.
    fn note(&self, log: &mut Log, taken: &[Pending]) {
        let mut messages = 0;
        log.encoder.ranges(log.active.id.0, log.end, |queue, range| {
            messages += u64::from(range.count);
            self.index.enqueued(queue, range);
        });
        log.active.note_frame(log.encoder.extent());
        self.metrics.messages.fetch_add(messages, Relaxed);
        debug_assert!(!taken.is_empty());
        let [head, payload] = log.encoder.bytes();
        log.end += (head.len() + payload.len()) as u64;
    }

    /// Carries out what is no message.
    fn apply(&self, taken: Vec<Pending>) {
        for op in taken.into_iter().flat_map(|p| p.ops) {
            match op {
                Op::Enqueue(_) => {}
                Op::Settle(range) => self.index.settled(&range),
                Op::Requeued { range, delivery_count } => self.index.requeued(&range, delivery_count),
                Op::Forget(queue) => self.index.forgotten(queue),
                Op::Define { key, value: Some(value) } => drop(lock(&self.definitions).insert(key, value)),
                Op::Define { key, value: None } => drop(lock(&self.definitions).remove(&key)),
            }
        }
    }

    /// Seals the active segment and goes on in the next; a frame that is larger than a segment gets a larger one.
    fn make_room(&self, log: &mut Log, frame: u64, table: u64) -> io::Result<bool> {
        let needed = (FRAMES_AT + frame + FOOTER_ENTRY + table).next_multiple_of(4096);
        if log.end == FRAMES_AT {
            return no_room(log.active.grow(needed));
        }
        let mut prepared = lock(&self.prepared);
        let next = log.active.id.next();
        if prepared.is_none() && !no_room(self.prepare(&mut prepared, next))? {
            return Ok(false);
        }
        let Some((file, header)) = prepared.as_ref() else { return Ok(false) };
        let capacity = file.size()?;
        let segment = Arc::new(Segment::new(next, Arc::clone(file), capacity, false));
        if needed > capacity && !no_room(segment.grow(needed))? {
            return Ok(false);
        }
        log.seal()?;
        log.active.set_sealed();
        self.index.add_segment(Arc::clone(&segment));
        log.activate(segment, *header);
        self.set_active(next);
        *prepared = None;
        drop(prepared);
        self.wake_maintenance();
        Ok(true)
    }
}

/// A full disk is no error here.
fn no_room(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if is_full(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether an error says that the disk (or the quota) is full.
pub fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Seals a recovered segment again: its footer may be torn, or only in memory.
pub fn reseal(tail: &Tail) -> io::Result<()> {
    let seal = Seal {
        end: tail.end,
        footer_len: tail.footer.len() as u64,
        footer_crc: crc32c::crc32c(&tail.footer),
        last_crc: tail.last_crc,
    };
    seal.write(&*tail.segment.file, &tail.header, &tail.footer)?;
    let file: &dyn DiskFile = &*tail.segment.file;
    file.sync_data()
}
