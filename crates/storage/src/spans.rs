//! Reading many messages at once: chunks that lie close together are one read, past the system's cache, into a buffer that is
//! used again. Reading a log from front to back costs no more than the disk's own copy so. What is read a second time comes
//! through the system's cache, which keeps it for the third: finding pages for what nobody will read again costs several times
//! as much as reading it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use waypost_model::Slot;
use waypost_model::journal::LoadedBody;
use waypost_model::{QueueId, Seq};

use crate::chunk::{self, CHUNK_ENTRIES_MAX};
use crate::disk::{BLOCK, Disk, first_block, read_most};
use crate::engine::Shared;
use crate::frame::ALIGN;
use crate::ranges::Range;
use crate::segment::{Segment, SegmentId};
use crate::sync::lock;

/// The longest span, but for a single larger chunk.
const SPAN_BYTES_MAX: u64 = 1 << 20;
/// What is less is read chunk by chunk, through the caches.
const SPAN_BYTES_MIN: u64 = 128 << 10;
/// Bytes of others that are read along rather than read around.
const GAP_BYTES_MAX: u64 = 32 << 10;
/// Spans that are kept, for others who read the same a little later.
const KEPT_MAX: usize = 8;
/// Buffers that wait to be used again.
const FREE_MAX: usize = 8;
const BUFFER_BYTES: usize = SPAN_BYTES_MAX as usize + 3 * BLOCK;

/// Bytes of a segment as they were read; not checked.
struct Span {
    segment: SegmentId,
    at: u64,
    bytes: Arc<Buffer>,
    /// The system keeps it as well.
    cached: bool,
}

/// Whole blocks at a block's boundary in memory.
struct Buffer {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
    free: Arc<Free>,
}

type Free = Mutex<Vec<Vec<u8>>>;

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(self.from..self.from + self.len).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = lock(&self.free);
        if self.bytes.len() == BUFFER_BYTES && free.len() < FREE_MAX {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Spans that were read lately, and room for the next ones.
#[derive(Default)]
pub struct Spans {
    free: Arc<Free>,
    kept: Mutex<VecDeque<Span>>,
}

impl Spans {
    /// A span that has all of these bytes.
    fn with(&self, segment: SegmentId, at: u64, end: u64) -> Option<(u64, Arc<Buffer>)> {
        let has = |s: &&Span| s.segment == segment && s.at <= at && end <= s.at + s.bytes.len as u64;
        lock(&self.kept).iter().find(has).map(|s| (s.at, Arc::clone(&s.bytes)))
    }

    /// Reads the blocks that hold these bytes. Commits of less than `direct_bytes_min` bytes were written through the system's
    /// cache.
    fn read(
        &self,
        disk: &dyn Disk,
        direct_bytes_min: u64,
        segment: &Segment,
        (at, end): (u64, u64),
    ) -> io::Result<(u64, Arc<Buffer>)> {
        let at = at / BLOCK as u64 * BLOCK as u64;
        let len = (end - at).next_multiple_of(BLOCK as u64) as usize;
        let needed = len + BLOCK;
        let free = lock(&self.free).pop().filter(|b| b.len() >= needed);
        let mut bytes = free.unwrap_or_else(|| vec![0; needed.max(BUFFER_BYTES)]);
        let from = first_block(&bytes);
        let into = &mut bytes[from..from + len];
        let (len, cached) = fill(disk, direct_bytes_min, segment, (at, end), into)?;
        if at + (len as u64) < end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        segment.note_read(at, end);
        // The log may end in the last block, and go on there: what lies behind is not what it will be.
        let len = (end - at) as usize;
        let bytes = Arc::new(Buffer { bytes, from, len, free: Arc::clone(&self.free) });
        self.keep(Span { segment: segment.id, at, bytes: Arc::clone(&bytes), cached });
        Ok((at, bytes))
    }

    /// Of what the system keeps only the last: the buffers of the others serve again while they are warm.
    fn keep(&self, span: Span) {
        let mut kept = lock(&self.kept);
        kept.retain(|s| !(span.cached && s.cached));
        kept.truncate(KEPT_MAX - 1);
        kept.push_front(span);
    }
}

/// Reads the blocks that hold these bytes, as many as there are, and says whether the system keeps them as well.
fn fill(
    disk: &dyn Disk,
    direct_bytes_min: u64,
    segment: &Segment,
    (at, end): (u64, u64),
    into: &mut [u8],
) -> io::Result<(usize, bool)> {
    if segment.was_read(at, end) {
        return Ok((read_most(&*segment.file, at, into)?, true));
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

/// Where a message lies.
struct Found {
    range: Range,
    segment: Arc<Segment>,
    entry: u32,
}

impl Found {
    fn at(&self) -> u64 {
        u64::from(self.range.offset) * ALIGN
    }

    fn end(&self) -> u64 {
        self.at() + u64::from(self.range.len)
    }
}

/// The chunk that was looked at last: where it begins in which segment, and its messages.
type Opened = Option<((SegmentId, u64), Vec<Slot>)>;

impl Shared {
    /// The bodies of these messages, of as many as can be read one after the other.
    ///
    /// # Errors
    /// Why the first cannot be read.
    pub fn load_bodies(&self, places: &[(QueueId, Seq)]) -> io::Result<Vec<LoadedBody>> {
        let found: Vec<Found> = places.iter().map_while(|(queue, place)| self.find(*queue, *place)).collect();
        let (mut bodies, mut opened, mut next) = (Vec::with_capacity(found.len()), None, 0);
        if found.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut span: Option<(SegmentId, u64, u64, Arc<Buffer>)> = None;
        while let Some(at) = found.get(next) {
            let has =
                |s: &&(SegmentId, u64, u64, Arc<Buffer>)| s.0 == at.segment.id && s.1 <= at.at() && at.end() <= s.2;
            let body = match span.as_ref().filter(has) {
                Some((_, from, _, bytes)) => body(at, *from, bytes, &mut opened),
                None => match self.span(&found[next..]) {
                    Ok(Some((from, bytes))) => {
                        let body = body(at, from, &bytes, &mut opened);
                        span = Some((at.segment.id, from, from + bytes.len as u64, bytes));
                        body
                    }
                    Ok(None) => self.single(at),
                    Err(e) => Err(e),
                },
            };
            match body {
                Ok(body) => bodies.push(body),
                Err(e) if bodies.is_empty() => return Err(e),
                Err(_) => break,
            }
            next += 1;
        }
        Ok(bodies)
    }

    fn find(&self, queue: QueueId, place: Seq) -> Option<Found> {
        let (range, segment) = self.index.locate(queue, place)?;
        let entry = range.entry + (place.0 - range.first) as u32;
        Some(Found { range, segment, entry })
    }

    /// Bytes that begin with the first of these, at least; `None` if they are too few to be read together.
    fn span(&self, found: &[Found]) -> io::Result<Option<(u64, Arc<Buffer>)>> {
        let Some(first) = found.first() else { return Ok(None) };
        if let Some(kept) = self.spans.with(first.segment.id, first.at(), first.end()) {
            return Ok(Some(kept));
        }
        let mut end = first.end();
        for next in found {
            let follows =
                next.segment.id == first.segment.id && next.at() >= first.at() && next.at() <= end + GAP_BYTES_MAX;
            if !follows || next.end() - first.at() > SPAN_BYTES_MAX {
                break;
            }
            end = end.max(next.end());
        }
        if end - first.at() < SPAN_BYTES_MIN {
            return Ok(None);
        }
        self.spans.read(&*self.disk, self.cfg.direct_bytes_min, &first.segment, (first.at(), end)).map(Some)
    }

    fn single(&self, found: &Found) -> io::Result<LoadedBody> {
        let batch = self.read_chunk(&found.range, &found.segment)?;
        if found.entry as usize >= batch.len() {
            return Err(damaged(found, "fewer messages than its table says"));
        }
        Ok(LoadedBody::of(&batch, found.entry))
    }
}

fn damaged(found: &Found, what: &str) -> io::Error {
    let what = format!("{} is damaged at offset {}: {what}", found.segment.id, found.at());
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Checks the chunk, unless that was just done, and finds the message in it.
fn body(found: &Found, from: u64, bytes: &Arc<Buffer>, opened: &mut Opened) -> io::Result<LoadedBody> {
    let key = (found.segment.id, found.at());
    let start = (found.at() - from) as usize;
    if opened.as_ref().is_none_or(|(k, _)| *k != key) {
        let all: &[u8] = (**bytes).as_ref();
        let chunk = all.get(start..start + found.range.len as usize).unwrap_or_default();
        if !chunk::is_intact(chunk, chunk::seed(found.segment.id.0, found.at())) {
            return Err(damaged(found, "a chunk's checksum is wrong"));
        }
        let slots = chunk::slots(chunk, CHUNK_ENTRIES_MAX).map_err(|e| damaged(found, e.0))?;
        *opened = Some((key, slots));
    }
    let slot = opened.as_ref().and_then(|(_, slots)| slots.get(found.entry as usize));
    let slot = slot.ok_or_else(|| damaged(found, "fewer messages than its table says"))?;
    let body = start + slot.body as usize;
    let bytes: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::clone(bytes) as _;
    Ok(LoadedBody::new(bytes, body..body + slot.body_len as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EngineConfig;
    use crate::disk::fault::FaultDisk;
    use crate::engine::Engine;
    use waypost_model::journal::{BodyStore, Enqueue, Journal, Op};
    use waypost_model::{Attrs, Batch, Millis, Route};

    const BODY: usize = 30_000;

    fn enqueue(queue: u64, place: u64, body: &[u8]) -> Op {
        Op::Enqueue(Enqueue {
            targets: Box::new([(QueueId(queue), Seq(place))]),
            batch: Arc::new(Batch::single(&[0, 0], body)),
            from: 0,
            to: 1,
            route: Arc::new(Route::new("", "")),
            attrs: Attrs::default(),
            at: Millis(1),
        })
    }

    fn body(place: u64) -> Vec<u8> {
        vec![(place as u8).wrapping_add(1); BODY + place as usize]
    }

    /// Messages of queue 7, with some of queue 8 in between, over several segments.
    fn store(disk: &FaultDisk, messages: u64) -> Engine {
        let cfg = EngineConfig { segment_bytes: 2 << 20, ..EngineConfig::small() };
        let (e, _) = Engine::open(Arc::new(disk.clone()), cfg).unwrap();
        for place in 0..messages {
            e.append(vec![enqueue(7, place, &body(place))]).unwrap();
            e.append(vec![enqueue(8, place, &[9; 20])]).unwrap();
            if place % 3 == 0 {
                let _ = e.commit_once();
                e.maintain_once();
            }
        }
        let _ = e.commit_once();
        e
    }

    fn places(from: impl IntoIterator<Item = u64>) -> Vec<(QueueId, Seq)> {
        from.into_iter().map(|p| (QueueId(7), Seq(p))).collect()
    }

    fn check(e: &Engine, asked: &[(QueueId, Seq)]) {
        let bodies = e.load_bodies(asked).unwrap();
        assert_eq!(bodies.len(), asked.len());
        for ((_, place), loaded) in asked.iter().zip(&bodies) {
            assert!(loaded.as_ref() == body(place.0), "{place:?}");
        }
    }

    #[test]
    fn many_messages_come_back_as_they_were_whatever_lies_between_them() {
        let disk = FaultDisk::new(5);
        let e = store(&disk, 150);
        check(&e, &places(0..150));
        // With gaps that are read along, gaps that are read around, and backwards.
        check(&e, &places((0..150).filter(|p| p % 2 == 0)));
        check(&e, &places((0..150).filter(|p| p % 10 < 5)));
        check(&e, &places((0..150).rev()));
        check(&e, &places([149]));
        assert!(lock(&e.shared().spans.kept).len() <= KEPT_MAX);
        assert!(lock(&e.shared().spans.free).len() <= FREE_MAX);
    }

    #[test]
    fn what_is_missing_or_damaged_ends_the_list() {
        let disk = FaultDisk::new(5);
        let e = store(&disk, 40);
        assert_eq!(e.load_bodies(&places([1000])).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(e.load_bodies(&places([0, 1, 1000, 2])).unwrap().len(), 2);
        let found = e.shared().find(QueueId(7), Seq(20)).unwrap();
        disk.flip_bit(&found.segment.id.file_name(), (found.at() + 500) * 8);
        // Its neighbours in the chunk are lost with it.
        let (from, to) = (found.range.first, found.range.end());
        assert_eq!(e.load_bodies(&places(0..40)).unwrap().len() as u64, from);
        assert_eq!(e.load_bodies(&places(20..40)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        check(&e, &places(to..40));
    }

    #[test]
    fn what_is_written_behind_a_span_that_was_read_is_read_as_it_is_now() {
        let disk = FaultDisk::new(5);
        let e = store(&disk, 0);
        for round in 0..20 {
            let from = round * 10;
            for place in from..from + 9 {
                e.append(vec![enqueue(7, place, &body(place))]).unwrap();
            }
            let _ = e.commit_once();
            e.maintain_once();
            check(&e, &places(from..from + 9));
            // Most of the time in the block in which the last one ended.
            e.append(vec![enqueue(7, from + 9, b"little")]).unwrap();
            let _ = e.commit_once();
            assert_eq!(e.load_bodies(&places([from + 9])).unwrap()[0].as_ref(), b"little", "{round}");
        }
    }

    #[test]
    fn buffers_are_used_again() {
        let disk = FaultDisk::new(5);
        let e = store(&disk, 400);
        for _ in 0..3 {
            check(&e, &places(0..400));
        }
        let spans = &e.shared().spans;
        let (kept, free) = (lock(&spans.kept).len(), lock(&spans.free).len());
        assert!(free >= 1 && kept + free <= KEPT_MAX + FREE_MAX, "{kept} {free}");
    }
}
