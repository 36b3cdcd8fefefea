//! The bodies of messages. Of many at once, chunks that lie close together are one read.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use waypost_model::journal::{BodyStore, Journal, Loaded, LoadedBody, SpillRef};
use waypost_model::{Batch, QueueId, Seq, Slot};

use crate::chunk::{self, CHUNK_ENTRIES_MAX};
use crate::engine::{Engine, Shared};
use crate::frame::ALIGN;
use crate::ranges::Range;
use crate::segment::{Segment, SegmentId};
use crate::spans::{AHEAD_BYTES_MAX, Part, Reading, SPAN_BYTES_MAX};

/// What is less is read chunk by chunk, through the caches.
const SPAN_BYTES_MIN: u64 = 128 << 10;
/// Bytes of others that are read along rather than read around.
const GAP_BYTES_MAX: u64 = 32 << 10;
/// Of a buffer of which less than one part in so many is asked for, that is copied: who takes it slowly holds not much more than is
/// counted.
const WORTH_PARTS: u64 = 4;

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
        self.bodies(places, Reading::Now)
    }

    /// The bodies of those first of these messages that the disk need not be asked for.
    pub fn bodies_at_hand(&self, places: &[(QueueId, Seq)]) -> Vec<LoadedBody> {
        self.bodies(places, Reading::AtHand).unwrap_or_default()
    }

    /// Reads those first of these messages that lie close together, for whoever asks for them next, and says how many those are.
    pub fn read_ahead(&self, places: &[(QueueId, Seq)]) -> usize {
        if !self.spans.may_read_ahead() {
            return 0;
        }
        let found: Vec<Found> = places.iter().map_while(|(queue, place)| self.find(*queue, *place)).collect();
        let Some(first) = found.first() else { return 0 };
        let (end, count) = extent(first, &found, AHEAD_BYTES_MAX);
        // A very long chunk is not kept.
        if end - first.at() > AHEAD_BYTES_MAX {
            return 0;
        }
        // It can be taken from there when somebody comes.
        if first.segment.was_read(first.at(), end) && first.segment.is_cached(first.at(), end) {
            return 0;
        }
        let is_there = self.spans.has(first.segment.id, first.at(), end);
        // Whoever waits for it will learn why it cannot be read.
        if is_there || self.read_part(first, end, Reading::Ahead).is_ok_and(|part| part.is_some()) { count } else { 0 }
    }

    fn bodies(&self, places: &[(QueueId, Seq)], why: Reading) -> io::Result<Vec<LoadedBody>> {
        let found: Vec<Found> = places.iter().map_while(|(queue, place)| self.find(*queue, *place)).collect();
        let (mut bodies, mut opened, mut next) = (Vec::with_capacity(found.len()), None, 0);
        if found.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        // What is at hand, and the first that came out of it.
        let mut has: Option<(Part, usize)> = None;
        while let Some(at) = found.get(next) {
            if !has.as_ref().is_some_and(|(part, _)| part.has(at.segment.id, at.at(), at.end())) {
                has.take().iter().for_each(|(part, first)| let_go(part, &mut bodies[*first..]));
                has = match self.part(&found[next..], why) {
                    Ok(part) => part.map(|part| (part, next)),
                    Err(e) if bodies.is_empty() => return Err(e),
                    Err(_) => break,
                };
            }
            let body = match &has {
                Some((part, _)) => body(at, part, &mut opened),
                None => self.single(at, why),
            };
            if has.as_ref().is_some_and(|(part, _)| part.end() == at.end()) {
                self.spans.pass(at.segment.id, at.end());
            }
            match body {
                Ok(body) => bodies.push(body),
                Err(e) if bodies.is_empty() => return Err(e),
                Err(_) => break,
            }
            next += 1;
        }
        has.iter().for_each(|(part, first)| let_go(part, &mut bodies[*first..]));
        Ok(bodies)
    }

    fn find(&self, queue: QueueId, place: Seq) -> Option<Found> {
        let (range, segment) = self.index.locate(queue, place)?;
        let entry = range.entry + (place.0 - range.first) as u32;
        Some(Found { range, segment, entry })
    }

    /// Bytes that begin with the first of these, at least; `None` if they are too few to be read together.
    fn part(&self, found: &[Found], why: Reading) -> io::Result<Option<Part>> {
        let Some(first) = found.first() else { return Ok(None) };
        if let Some(kept) = self.spans.with(&first.segment, first.at(), first.end()) {
            return Ok(Some(kept));
        }
        self.read_part(first, extent(first, found, SPAN_BYTES_MAX).0, why)
    }

    fn read_part(&self, first: &Found, end: u64, why: Reading) -> io::Result<Option<Part>> {
        if end - first.at() < SPAN_BYTES_MIN {
            return Ok(None);
        }
        self.spans.read(&*self.disk, self.cfg.direct_bytes_min, &first.segment, (first.at(), end), why).map(Some)
    }

    fn single(&self, found: &Found, why: Reading) -> io::Result<LoadedBody> {
        if why == Reading::AtHand {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let batch = self.read_chunk(&found.range, &found.segment)?;
        if found.entry as usize >= batch.len() {
            return Err(damaged(found, "fewer messages than its table says"));
        }
        Ok(LoadedBody::of(&batch, found.entry))
    }
}

/// Up to where those of `found` lie that are to be read with the first, and how many they are: close to each other, and not too
/// much.
fn extent(first: &Found, found: &[Found], bytes_max: u64) -> (u64, usize) {
    let (mut end, mut count) = (first.end(), 0);
    for next in found {
        let follows =
            next.segment.id == first.segment.id && next.at() >= first.at() && next.at() <= end + GAP_BYTES_MAX;
        if !follows || count > 0 && next.end() - first.at() > bytes_max {
            break;
        }
        end = end.max(next.end());
        count += 1;
    }
    (end, count)
}

fn damaged(found: &Found, what: &str) -> io::Error {
    let what = format!("{} is damaged at offset {}: {what}", found.segment.id, found.at());
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// These were taken out of it, and nothing else will be. Those that were read ahead are so few that nothing has to be copied.
fn let_go(part: &Part, bodies: &mut [LoadedBody]) {
    let taken: u64 = bodies.iter().map(|body| body.as_ref().len() as u64).sum();
    if part.bytes.was_read_ahead() || taken.saturating_mul(WORTH_PARTS) >= part.bytes.footprint() {
        return;
    }
    for body in bodies {
        let copy = body.as_ref().to_vec();
        let all = 0..copy.len();
        *body = LoadedBody::new(Arc::new(copy), all);
    }
}

/// Checks the chunk, unless that was just done, and finds the message in it.
fn body(found: &Found, part: &Part, opened: &mut Opened) -> io::Result<LoadedBody> {
    let key = (found.segment.id, found.at());
    let start = (found.at() - part.at) as usize;
    if opened.as_ref().is_none_or(|(k, _)| *k != key) {
        let all: &[u8] = (*part.bytes).as_ref();
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
    let bytes: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::clone(&part.bytes) as _;
    Ok(LoadedBody::new(bytes, body..body + slot.body_len as usize))
}

impl BodyStore for Engine {
    fn load(&self, queue: QueueId, first: Seq, count: u32) -> io::Result<Loaded> {
        let s = &self.shared;
        s.metrics.loads.fetch_add(1, Relaxed);
        let mut found = s.index.locate(queue, first);
        if found.is_none() && self.durable() < s.inbox.last() && s.inbox.wait_committed(|| self.durable()) {
            found = s.index.locate(queue, first);
        }
        let (range, segment) = found.ok_or(io::ErrorKind::NotFound)?;
        let batch = s.read_chunk(&range, &segment)?;
        let from = range.entry + (first.0 - range.first) as u32;
        let to = from + count.max(1).min((range.end() - first.0) as u32);
        if to as usize > batch.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk is shorter than its table says"));
        }
        Ok(Loaded { batch, from, to })
    }

    fn load_bodies(&self, places: &[(QueueId, Seq)]) -> io::Result<Vec<LoadedBody>> {
        self.shared.metrics.loads.fetch_add(places.len() as u64, Relaxed);
        self.shared.load_bodies(places)
    }

    fn bodies_at_hand(&self, places: &[(QueueId, Seq)]) -> Vec<LoadedBody> {
        let found = self.shared.bodies_at_hand(places);
        self.shared.metrics.loads.fetch_add(found.len() as u64, Relaxed);
        found
    }

    fn read_ahead(&self, places: &[(QueueId, Seq)]) -> usize {
        self.shared.read_ahead(places)
    }

    fn load_spilled(&self, at: SpillRef) -> io::Result<Arc<Batch>> {
        self.shared.scratch.load(at)
    }
}
