//! The log that makes the store's frames durable: its contract, and the one on the local disk.
//!
//! The store writes every frame to its own segments, from which bodies are read, and hands the same bytes to the [`Log`].
//! Locally these segments *are* the log, and what makes a frame durable is a sync. A log that is replicated elsewhere
//! takes the bytes, answers later, and is read when the store is opened again: the segments then are a copy that follows
//! it. `docs/storage-format.md`, "The log behind the store", tells what a store makes of each answer.

use std::io;
use std::sync::{Arc, Mutex};

use crate::disk::DiskFile;
pub use crate::segment::SEGMENT_HEADER;
use crate::segment::{FRAMES_AT, SegmentId};
use crate::sync::lock;

/// A place in the log, the same in every copy of it. Places of frames rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The segment.
    pub segment: SegmentId,
    /// Bytes from its beginning.
    pub offset: u64,
}

impl Position {
    /// Where the first frame of all lies.
    pub const START: Position = Position { segment: SegmentId(1), offset: FRAMES_AT };
}

/// A frame: one commit of the store, all or nothing. It says of itself where it lies, under which epoch it was written
/// and which frame comes before it, and every byte of it is covered by a checksum.
#[derive(Clone, Copy)]
pub struct LogFrame<'a> {
    /// The writer's epoch.
    pub epoch: u32,
    /// Where it lies: behind the frame before, or at the beginning of the segment that follows.
    pub at: Position,
    /// Where the frame before ends; [`Position::START`] if there is none. A log takes the frame only if it ends there itself,
    /// counting what it has under way: so a frame that was refused leaves no gap.
    pub follows: Position,
    /// The header of its segment, without which the first frame's predecessor cannot be checked.
    pub segment_header: &'a [u8; SEGMENT_HEADER],
    /// Its bytes, in parts.
    pub bytes: &'a [&'a [u8]],
}

impl LogFrame<'_> {
    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> Position {
        Position { segment: self.at.segment, offset: self.at.offset + self.len() }
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes.iter().map(|b| b.len() as u64).sum()
    }

    /// Whether it has no bytes, which no frame of a store is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How an append ended.
#[derive(Debug)]
pub enum Outcome {
    /// It is durable, and so is every frame before it. Nothing but a release takes it away again.
    Durable,
    /// It is not in the log and will not be, and nor is any frame behind it; each of them is answered likewise. The log is
    /// as it was: the store hands them in again, in order, once all are answered.
    Failed(io::Error),
    /// Nobody knows whether it is in the log: a sync failed, an answer did not come in time. What the log holds is known
    /// only when the store has been opened again.
    Unknown(io::Error),
    /// The log belongs to a later epoch, the one given. The frame is not in it.
    Fenced(u32),
}

/// What became of a frame.
#[derive(Debug)]
pub struct Answer {
    /// Which frame: where it lies.
    pub at: Position,
    /// What became of it.
    pub outcome: Outcome,
}

/// Where the frames of a log are to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// In the store's own segments, and nowhere else.
    Own,
    /// They were called back, all of them: what the store's segments hold behind the last one is not in the log.
    Read,
}

/// Called when an answer may be there that was not there before.
pub type Waker = Box<dyn Fn() + Send + Sync>;

/// An ordered, durable sequence of frames with one writer at a time.
///
/// - Frames become durable in the order in which they are appended, without gaps. Answers may come in any order.
/// - From a [`Log::fence`] on no append of an earlier epoch is taken. The log alone decides that: two writers that both
///   believe that they own it cannot both append.
/// - An append is answered once. A log may try again by itself for as long as it knows that it has not been taken;
///   what it does not know it must not try again.
pub trait Log: Send + Sync {
    /// Takes the log over for a writer whose last epoch was `last`: returns a higher one than that and than every epoch in
    /// the log. Blocks.
    ///
    /// # Errors
    /// Any error of the system behind the log; who owns it is not known then.
    fn fence(&self, last: u32) -> io::Result<u32>;

    /// Calls back with every frame from `from` on, in order, after a fence. Blocks. `from` lies where a frame ended for
    /// which the log was not released yet.
    ///
    /// # Errors
    /// Any error of the system behind the log, and the callback's; that the log does not reach back to `from`.
    fn read(&self, from: Position, found: &mut dyn FnMut(&LogFrame<'_>) -> io::Result<()>) -> io::Result<Frames>;

    /// How many frames may be under way, at least 1.
    fn window(&self) -> usize;

    /// Begins to append a frame that has been written to the store's `segment`. Does not wait; there is an answer for it
    /// later. Not called with more than [`Log::window`] frames under way.
    fn append(&self, frame: &LogFrame<'_>, segment: &Arc<dyn DiskFile>);

    /// An answer, if there is one. The local log syncs here.
    fn answer(&self) -> Option<Answer>;

    /// Says whom to call when an answer has come. A log that has its answers whenever it is asked need not call.
    fn on_answer(&self, waker: Waker);

    /// The store needs no frame before this position any more. The log may keep them.
    fn release(&self, before: Position);
}

/// The log on the local disk: the store's own segments, made durable by syncs. The lock of the directory keeps other
/// writers out, so that the epoch has only to rise.
#[derive(Default)]
pub struct LocalLog {
    written: Mutex<Option<(Position, Arc<dyn DiskFile>)>>,
}

impl Log for LocalLog {
    fn fence(&self, last: u32) -> io::Result<u32> {
        last.checked_add(1).ok_or_else(|| io::Error::other("no epoch is left"))
    }

    fn read(&self, _: Position, _: &mut dyn FnMut(&LogFrame<'_>) -> io::Result<()>) -> io::Result<Frames> {
        Ok(Frames::Own)
    }

    /// What is written during a sync is not covered by it for certain.
    fn window(&self) -> usize {
        1
    }

    fn append(&self, frame: &LogFrame<'_>, segment: &Arc<dyn DiskFile>) {
        *lock(&self.written) = Some((frame.at, Arc::clone(segment)));
    }

    fn answer(&self) -> Option<Answer> {
        let (at, segment) = lock(&self.written).take()?;
        let outcome = match segment.sync_data() {
            Ok(()) => Outcome::Durable,
            // The system may have dropped what it could not write and call the rest clean: no second try can help.
            Err(e) => Outcome::Unknown(e),
        };
        Some(Answer { at, outcome })
    }

    fn on_answer(&self, _: Waker) {}

    fn release(&self, _: Position) {}
}
