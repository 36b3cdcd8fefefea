//! One step of the committer: take what is queued, write one frame, hand it to the log, and see what the log answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::{io, mem};

use waypost_model::Lsn;
use waypost_model::journal::Op;

use crate::answers::{Span, UnderWay};
use crate::blocks::Blocks;
use crate::config::EngineConfig;
use crate::disk::{Disk, DiskFile};
use crate::encoder::{Encoder, Pending, Place};
use crate::engine::Shared;
use crate::frame::FrameHeader;
use crate::log::{LogFrame, Position};
use crate::recovery::Tail;
use crate::segment::{FOOTER_ENTRY, FRAMES_AT, SEGMENT_HEADER, Seal, Segment, SegmentHeader, put_footer_entry};
use crate::sync::lock;

/// What a step of the committer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Nothing was queued, and the log owes no answer.
    Idle,
    /// The log owes an answer for a frame that it has been given.
    UnderWay,
    /// Everything up to this ticket is durable.
    Committed(Lsn),
    /// There is no room, not even in what is kept back. Nothing is lost; try again when there is.
    NoRoom,
    /// The store has stopped.
    Stopped,
}

/// What became of the queued appends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There were none, or the log takes no more now.
    Nothing,
    Appended,
    NoRoom,
}

/// The end of the log, where frames are written.
pub struct Writer {
    encoder: Encoder,
    blocks: Blocks,
    pub active: Arc<Segment>,
    header: SegmentHeader,
    header_bytes: [u8; SEGMENT_HEADER],
    pub end: u64,
    /// Where the last frame ends: here, or in the segment before.
    log_end: Position,
    /// Up to where the active segment's frames are durable.
    pub synced: u64,
    last_crc: u32,
    footer: Vec<u8>,
    pub epoch: u32,
    /// Taken from the inbox and not yet written.
    taken: Vec<Pending>,
    /// Frames that the log was given, up to the first that is durable together with all before it.
    pub under_way: VecDeque<UnderWay>,
}

impl Writer {
    /// Goes on in a segment whose frames are durable, behind the last frame, which may lie in the segment before.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn new(tail: Tail, log_end: Position, epoch: u32, disk: &dyn Disk, cfg: &EngineConfig) -> io::Result<Writer> {
        let Tail { segment, mut header, end, last_crc, footer, .. } = tail;
        let blocks = Blocks::resume(disk, (segment.id, &*segment.file), end, cfg.direct_bytes_min)?;
        Ok(Writer {
            encoder: Encoder::default(),
            blocks,
            active: segment,
            header_bytes: header.encode(),
            header,
            end,
            log_end,
            synced: end,
            last_crc,
            footer,
            epoch,
            taken: Vec::new(),
            under_way: VecDeque::new(),
        })
    }

    /// Whether the log takes no frame before it has answered.
    pub fn is_blocked(&self, window: usize) -> bool {
        self.under_way.len() >= window || self.under_way.iter().any(UnderWay::has_failed)
    }

    fn has_room(&self, frame: u64, table: u64) -> bool {
        self.end + frame + self.footer.len() as u64 + FOOTER_ENTRY + table <= self.active.capacity()
    }

    /// Goes on in another segment; the active one has been sealed.
    fn activate(&mut self, disk: &dyn Disk, active: Arc<Segment>, mut header: SegmentHeader) {
        self.header_bytes = header.encode();
        // Behind the header, room for the seal: a recycled file may have an old one there, which is of no use.
        let mut begun = self.header_bytes.to_vec();
        begun.resize(FRAMES_AT as usize, 0);
        self.blocks.begin(disk, active.id, begun);
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
        let mut writer = lock(&self.writer);
        if self.is_stopped() {
            return CommitOutcome::Stopped;
        }
        let result = self.append_next(&mut writer).and_then(|step| Ok((step, self.take_answers(&mut writer)?)));
        let under_way = !writer.under_way.is_empty();
        drop(writer);
        let (step, durable) = match result {
            Ok(done) => done,
            Err(e) => {
                self.stop("log", &e);
                return CommitOutcome::Stopped;
            }
        };
        if step != Step::Nothing {
            self.inbox.set_stuck(step == Step::NoRoom);
        }
        match (durable, step) {
            (Some(last), _) => {
                self.durable.store(last.0, Release);
                self.inbox.committed();
                CommitOutcome::Committed(last)
            }
            (None, Step::NoRoom) => CommitOutcome::NoRoom,
            (None, _) if under_way => CommitOutcome::UnderWay,
            (None, _) => CommitOutcome::Idle,
        }
    }

    fn append_next(&self, writer: &mut Writer) -> io::Result<Step> {
        if writer.is_blocked(self.log.window()) {
            return Ok(Step::Nothing);
        }
        if writer.taken.is_empty() {
            self.inbox.take(self.cfg.frame_bytes_max(), &mut writer.taken);
        }
        let taken = mem::take(&mut writer.taken);
        let Some(last) = taken.last().map(|p| p.lsn) else { return Ok(Step::Nothing) };
        let frame = match self.write_frame(writer, &taken) {
            Ok(Some(frame)) => frame,
            other => {
                writer.taken = taken;
                return other.map(|_| Step::NoRoom);
            }
        };
        self.note(writer);
        // Freeing what was written, and the operations' effects, may come before the frame is durable: a checkpoint that
        // has seen them waits for it.
        self.apply(taken);
        writer.under_way.push_back(UnderWay::new(frame, last));
        Ok(Step::Appended)
    }

    /// Writes the frame and hands it to the log; `None` if there is no room for it.
    fn write_frame(&self, writer: &mut Writer, taken: &[Pending]) -> io::Result<Option<Span>> {
        let (frame, table) = writer.encoder.plan(taken);
        if !writer.has_room(frame, table) && !self.make_room(writer, frame, table)? {
            return Ok(None);
        }
        let place = Place {
            epoch: writer.epoch,
            segment: writer.active.id.0,
            offset: writer.end,
            prev: writer.last_crc,
            synced: writer.synced,
        };
        let header = writer.encoder.encode(taken, place);
        debug_assert_eq!(u64::from(header.len), frame, "what was planned is what is written");
        let bytes = &writer.encoder.slices()[..];
        writer.blocks.write(&*writer.active.file, writer.end, bytes)?;
        let (at, follows) = (Position { segment: writer.active.id, offset: writer.end }, writer.log_end);
        let segment_header = &writer.header_bytes;
        let frame = LogFrame { epoch: writer.epoch, at, follows, segment_header, bytes };
        let span = Span { at, follows, end: frame.end() };
        self.log.append(&frame, &writer.active.file);
        writer.encoder.written();
        writer.log_end = span.end;
        self.count(&header, taken.len());
        put_footer_entry(&mut writer.footer, writer.end, header.payload_at(), writer.encoder.table());
        writer.last_crc = header.crc;
        Ok(Some(span))
    }

    fn count(&self, frame: &FrameHeader, appends: usize) {
        self.metrics.commits.fetch_add(1, Relaxed);
        self.metrics.appends.fetch_add(appends as u64, Relaxed);
        self.metrics.written_bytes.fetch_add(u64::from(frame.len), Relaxed);
    }

    /// Notes in the index where the frame's messages lie, and moves the end of the log behind the frame.
    fn note(&self, writer: &mut Writer) {
        let mut messages = 0;
        writer.encoder.ranges(writer.active.id.0, writer.end, |queue, range| {
            messages += u64::from(range.count);
            self.index.enqueued(queue, range);
        });
        writer.active.note_frame(writer.encoder.extent());
        writer.active.note_commit(writer.encoder.len());
        self.metrics.messages.fetch_add(messages, Relaxed);
        writer.end += writer.encoder.len();
    }

    /// Carries out what is no message.
    fn apply(&self, taken: Vec<Pending>) {
        for op in taken.into_iter().flat_map(|p| p.ops) {
            match op {
                Op::Enqueue(_) => {}
                Op::Settle(range) => self.index.settled(&range),
                Op::Requeued { range, delivery_count } => self.index.requeued(&range, delivery_count),
                Op::Forget(queue) => self.index.forgotten(queue),
                Op::Define { key, value: Some(value) } => lock(&self.definitions).insert(&key, &value),
                Op::Define { key, value: None } => lock(&self.definitions).remove(&key),
            }
        }
    }

    /// Seals the active segment and goes on in the next; a frame that is larger than a segment gets a larger one.
    fn make_room(&self, writer: &mut Writer, frame: u64, table: u64) -> io::Result<bool> {
        let needed = (FRAMES_AT + frame + FOOTER_ENTRY + table).next_multiple_of(4096);
        if writer.end == FRAMES_AT {
            return no_room(writer.active.grow(needed));
        }
        let mut prepared = lock(&self.prepared);
        let next = writer.active.id.next();
        if prepared.is_none() && !no_room(self.prepare(&mut prepared, next))? {
            return Ok(false);
        }
        let Some((file, header)) = prepared.as_ref() else { return Ok(false) };
        let capacity = file.size()?;
        let segment = Arc::new(Segment::new(next, Arc::clone(file), capacity, false));
        if needed > capacity && !no_room(segment.grow(needed))? {
            return Ok(false);
        }
        writer.seal()?;
        writer.active.set_sealed();
        self.index.add_segment(Arc::clone(&segment));
        writer.activate(&*self.disk, segment, *header);
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
