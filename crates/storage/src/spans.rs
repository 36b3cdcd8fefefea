//! Spans of segments as they were read: past the system's cache, into buffers that are used again. Reading a log from front to
//! back costs no more than the disk's own copy so. What is read a second time comes through the system's cache, which keeps it
//! for the third: finding pages for what nobody will read again costs several times as much as reading it.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::disk::{BLOCK, Disk, read_most};
use crate::pages::{LARGE, Pages};
use crate::segment::{Segment, SegmentId};
use crate::sync::lock;

/// The longest span that somebody waits for, but for a single larger chunk.
pub const SPAN_BYTES_MAX: u64 = 1 << 20;
/// The longest span that is read ahead: the fewer there are, the fewer threads are woken for them.
pub const AHEAD_BYTES_MAX: u64 = (2 * LARGE - 2 * BLOCK) as u64;
/// Spans that are kept, for others who read the same a little later; none that is a single longer chunk.
pub const KEPT_MAX: usize = 8;
/// The same of those that were read ahead.
pub const AHEAD_KEPT_MAX: usize = 8;
/// Of those, how many may be through: the fewer, the warmer the buffers.
pub const PASSED_MAX: usize = 1;
/// Spans that were read ahead, with those that are kept no more and whose bytes somebody is still being sent.
pub const AHEAD_MAX: usize = 2 * AHEAD_KEPT_MAX;
/// Once so many have found no room for theirs, one that nobody comes for goes.
pub const REFUSED_MAX: u32 = 64;
/// Buffers that wait to be used again.
pub const FREE_MAX: usize = 4;
/// Once nobody has come between so many looks, all memory is given back: at the pace of [`Spans::trim`], after ten seconds.
pub const IDLE_MAX: u32 = 50;
/// How long buffers are that serve again, for what is asked for and for what is read ahead: large pages, one and two.
const BUFFER_BYTES: [usize; 2] = [LARGE, 2 * LARGE];
const _: () = assert!(SPAN_BYTES_MAX as usize + 2 * BLOCK <= LARGE);

/// Why something is read, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Somebody waits for it.
    Now,
    /// The same, who cannot wait for the disk.
    AtHand,
    /// Somebody will probably ask for it.
    Ahead,
}

/// Bytes of a segment as they were read; not checked.
#[derive(Clone)]
pub struct Part {
    segment: SegmentId,
    /// Where they begin.
    pub at: u64,
    pub bytes: Arc<Buffer>,
}

impl Part {
    /// One behind the last of them.
    pub fn end(&self) -> u64 {
        self.at + self.bytes.len()
    }

    /// Whether it has all of these.
    pub fn has(&self, segment: SegmentId, at: u64, end: u64) -> bool {
        self.segment == segment && self.at <= at && end <= self.end()
    }
}

/// A part that is kept.
struct Span {
    /// It keeps no file from being removed or used again: where nobody reads on, it would hold the disk's room for ever.
    segment: Weak<Segment>,
    part: Part,
    /// The system keeps it as well.
    cached: bool,
    stage: Stage,
}

impl Span {
    /// Whether nobody will come for it, since its segment has gone.
    fn is_over(&self) -> bool {
        self.segment.strong_count() == 0
    }
}

/// How far a span is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It was read ahead, and nobody has come yet.
    New,
    Begun,
    /// Somebody has had the last of it.
    Passed,
}

/// Whole blocks.
pub struct Buffer {
    pages: Option<Pages>,
    len: usize,
    shared: Arc<Shared>,
    ahead: bool,
}

/// What the buffers know of each other.
#[derive(Default)]
struct Shared {
    /// By [`BUFFER_BYTES`]. The one that came last is taken first: its bytes may still be near the processor.
    free: [Mutex<Vec<Pages>>; BUFFER_BYTES.len()],
    /// Those that were read ahead.
    ahead: AtomicUsize,
}

impl Shared {
    /// Where buffers for so many bytes wait, and how long those are; none for a very long chunk's.
    fn free_for(&self, bytes: usize) -> Option<(usize, &Mutex<Vec<Pages>>)> {
        BUFFER_BYTES.into_iter().zip(&self.free).find(|(size, _)| *size >= bytes)
    }
}

impl Buffer {
    /// Room for so many bytes.
    fn new(shared: &Arc<Shared>, len: usize, ahead: bool) -> io::Result<Buffer> {
        let size = shared.free_for(len);
        let free = size.and_then(|(_, free)| lock(free).pop());
        let pages = free.map_or_else(|| Pages::new(size.map_or(len, |(bytes, _)| bytes)), Ok)?;
        if ahead {
            shared.ahead.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Buffer { pages: Some(pages), len, shared: Arc::clone(shared), ahead })
    }

    fn room(&mut self) -> &mut [u8] {
        self.pages.as_mut().and_then(|pages| pages.get_mut(..self.len)).unwrap_or_default()
    }

    /// How many bytes it holds.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// How many it takes.
    pub fn footprint(&self) -> u64 {
        self.pages.as_ref().map_or(0, |pages| pages.len() as u64)
    }

    /// Whether it is one of those of which there are [`AHEAD_MAX`].
    pub fn was_read_ahead(&self) -> bool {
        self.ahead
    }

    /// Whether it serves again once nobody needs it, as all do but those of very long chunks.
    fn serves_again(&self) -> bool {
        self.shared.free_for(self.len).is_some()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.pages.as_ref().and_then(|pages| pages.get(..self.len)).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.ahead {
            self.shared.ahead.fetch_sub(1, Ordering::Relaxed);
        }
        let Some(pages) = self.pages.take() else { return };
        if let Some((_, free)) = self.shared.free_for(pages.len()) {
            let mut free = lock(free);
            if free.len() < FREE_MAX {
                free.push(pages);
            }
        }
    }
}

/// Spans that were read lately, and room for the next ones.
#[derive(Default)]
pub struct Spans {
    shared: Arc<Shared>,
    kept: Mutex<Kept>,
}

/// The newest first.
#[derive(Default)]
struct Kept {
    asked_for: VecDeque<Span>,
    ahead: VecDeque<Span>,
    /// How many found no room among those, since one went.
    refused: u32,
    /// How often [`Spans::trim`] was called since somebody came.
    idle: u32,
}

impl Kept {
    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Span> {
        self.asked_for.iter_mut().chain(&mut self.ahead)
    }

    /// Of what the system keeps as well, only the last is kept here: the buffers of the others serve again while they are warm.
    fn add(&mut self, span: Span) {
        self.asked_for.retain(|s| !(span.cached && s.cached || s.is_over()));
        self.asked_for.truncate(KEPT_MAX - 1);
        self.asked_for.push_front(span);
    }

    /// There was room for it when it was looked; others may have come since.
    fn add_ahead(&mut self, span: Span) {
        self.ahead.truncate(AHEAD_KEPT_MAX - 1);
        self.ahead.push_front(span);
    }

    /// Whether there is room for one that is read ahead: somebody may still come for the others.
    fn make_room_ahead(&mut self) -> bool {
        let mut passed = 0;
        self.ahead.retain(|s| {
            passed += usize::from(s.stage == Stage::Passed);
            !s.is_over() && (s.stage != Stage::Passed || passed <= PASSED_MAX)
        });
        if self.ahead.len() < AHEAD_KEPT_MAX {
            return true;
        }
        self.refused += 1;
        let goes = self.ahead.iter().rposition(|s| s.stage == Stage::Passed);
        let goes = goes.or_else(|| (self.refused >= REFUSED_MAX).then_some(AHEAD_KEPT_MAX - 1));
        if let Some(goes) = goes {
            self.ahead.remove(goes);
            self.refused = 0;
        }
        goes.is_some()
    }
}

impl Spans {
    /// One that has all of these bytes.
    pub fn with(&self, segment: &Segment, at: u64, end: u64) -> Option<Part> {
        let mut kept = lock(&self.kept);
        kept.idle = 0;
        let span = kept.iter_mut().find(|s| s.part.has(segment.id, at, end))?;
        if span.stage == Stage::New {
            segment.note_read(span.part.at, span.part.end());
            span.stage = Stage::Begun;
        }
        Some(span.part.clone())
    }

    /// Takes note that somebody has had the last of the span that ends there.
    pub fn pass(&self, segment: SegmentId, end: u64) {
        let mut kept = lock(&self.kept);
        kept.ahead
            .iter_mut()
            .filter(|s| s.part.segment == segment && s.part.end() == end)
            .for_each(|s| s.stage = Stage::Passed);
    }

    /// Whether there is a span that has all of these bytes.
    pub fn has(&self, segment: SegmentId, at: u64, end: u64) -> bool {
        lock(&self.kept).iter_mut().any(|s| s.part.has(segment, at, end))
    }

    /// Whether more may be read ahead.
    pub fn may_read_ahead(&self) -> bool {
        self.shared.ahead.load(Ordering::Relaxed) < AHEAD_MAX && lock(&self.kept).make_room_ahead()
    }

    /// Reads the blocks that hold these bytes, and keeps them. Commits of less than `direct_bytes_min` bytes were written
    /// through the system's cache.
    ///
    /// # Errors
    /// Any I/O error; `WouldBlock` if the disk would have to be waited for.
    pub fn read(
        &self,
        disk: &dyn Disk,
        direct_bytes_min: u64,
        segment: &Arc<Segment>,
        (at, end): (u64, u64),
        why: Reading,
    ) -> io::Result<Part> {
        let at = at / BLOCK as u64 * BLOCK as u64;
        if why == Reading::AtHand && !segment.was_read(at, end) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = (end - at).next_multiple_of(BLOCK as u64) as usize;
        let mut bytes = Buffer::new(&self.shared, len, why == Reading::Ahead)?;
        let (read, cached) = fill(disk, direct_bytes_min, segment, (at, end), (bytes.room(), why))?;
        if at + (read as u64) < end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if why != Reading::Ahead {
            segment.note_read(at, end);
        }
        // The log may end in the last block, and go on there: what lies behind is not what it will be.
        bytes.len = (end - at) as usize;
        let part = Part { segment: segment.id, at, bytes: Arc::new(bytes) };
        if !part.bytes.serves_again() {
            return Ok(part);
        }
        let stage = if why == Reading::Ahead { Stage::New } else { Stage::Begun };
        let span = Span { segment: Arc::downgrade(segment), part: part.clone(), cached, stage };
        let mut kept = lock(&self.kept);
        kept.idle = 0;
        if why == Reading::Ahead {
            kept.add_ahead(span)
        } else {
            kept.add(span)
        }
        Ok(part)
    }

    /// Gives back the memory of all that is kept, if nobody has come for long. To be called five times a second.
    pub fn trim(&self) {
        let mut kept = lock(&self.kept);
        kept.idle = kept.idle.wrapping_add(1);
        // Also what comes back later from those who were being sent it.
        if kept.idle.is_multiple_of(IDLE_MAX) {
            (kept.asked_for, kept.ahead) = Default::default();
            self.shared.free.iter().for_each(|free| lock(free).clear());
        }
    }

    /// How many are kept, how many of those that were read ahead, and how many buffers wait.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize, usize) {
        let kept = lock(&self.kept);
        (
            kept.asked_for.len(),
            kept.ahead.len(),
            self.shared.free.iter().map(|free| lock(free).len()).max().unwrap_or(0),
        )
    }
}

/// Reads the blocks that hold these bytes, as many as there are, and says whether the system keeps them as well.
fn fill(
    disk: &dyn Disk,
    direct_bytes_min: u64,
    segment: &Segment,
    (at, end): (u64, u64),
    (into, why): (&mut [u8], Reading),
) -> io::Result<(usize, bool)> {
    if segment.was_read(at, end) {
        return match why {
            Reading::AtHand if segment.file.read_cached(at, into) => Ok((into.len(), true)),
            Reading::AtHand => Err(io::ErrorKind::WouldBlock.into()),
            Reading::Now | Reading::Ahead => Ok((read_most(&*segment.file, at, into)?, true)),
        };
    }
    if segment.commits_are_below(direct_bytes_min) && segment.file.read_cached(at, into) {
        return Ok((into.len(), true));
    }
    match disk.open_direct(&segment.id.file_name()).map(|file| read_most(&*file, at, into)) {
        Some(Ok(n)) => Ok((n, false)),
        Some(Err(e)) if e.kind() != io::ErrorKind::InvalidInput => Err(e),
        // Whole blocks are not what this disk wants, or it has no such thing.
        _ => Ok((read_most(&*segment.file, at, into)?, false)),
    }
}
