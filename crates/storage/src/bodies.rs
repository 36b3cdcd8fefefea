//! The bodies of messages. Of many at once, chunks that lie close together are one read.

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
        let mut part: Option<Part> = None;
        while let Some(at) = found.get(next) {
            let has = part.take().filter(|part| part.has(at.segment.id, at.at(), at.end()));
            let body = match has.map_or_else(|| self.part(&found[next..], why), |part| Ok(Some(part))) {
                Ok(Some(has)) => {
                    let body = body(at, &has, &mut opened);
                    if has.end() == at.end() {
                        self.spans.pass(at.segment.id, at.end());
                    }
                    part = Some(has);
                    body
                }
                Ok(None) => self.single(at, why),
                Err(e) => Err(e),
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
    fn part(&self, found: &[Found], why: Reading) -> io::Result<Option<Part>> {
        let Some(first) = found.first() else { return Ok(None) };
        if let Some(kept) = self.spans.with(first.segment.id, first.at(), first.end()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EngineConfig;
    use crate::disk::fault::FaultDisk;
    use crate::spans::{AHEAD_KEPT_MAX, AHEAD_MAX, FREE_MAX, IDLE_MAX, KEPT_MAX, PASSED_MAX, REFUSED_MAX};
    use waypost_model::journal::{Enqueue, Op};
    use waypost_model::{Attrs, Millis, Route};

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
        let (kept, ahead, free) = e.shared.spans.counts();
        assert!(kept <= KEPT_MAX && ahead <= AHEAD_KEPT_MAX && free <= FREE_MAX);
    }

    #[test]
    fn what_is_missing_or_damaged_ends_the_list() {
        let disk = FaultDisk::new(5);
        let e = store(&disk, 40);
        assert_eq!(e.load_bodies(&places([1000])).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(e.load_bodies(&places([0, 1, 1000, 2])).unwrap().len(), 2);
        let found = e.shared.find(QueueId(7), Seq(20)).unwrap();
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
        let (kept, _, free) = e.shared.spans.counts();
        assert!(free >= 1 && kept + free <= KEPT_MAX + FREE_MAX, "{kept} {free}");
    }

    #[test]
    fn what_was_read_ahead_is_at_hand_and_nothing_else() {
        let disk = FaultDisk::new(5);
        let e = store(&disk, 150);
        let asked = places(0..150);
        assert!(e.bodies_at_hand(&asked).is_empty());
        let ahead = e.read_ahead(&asked);
        assert!(ahead > 1 && ahead < 150, "{ahead}: up to the end of a segment");
        // Twice is once.
        assert_eq!(e.read_ahead(&asked), ahead);
        let found = e.bodies_at_hand(&asked);
        assert_eq!(found.len(), ahead);
        assert!(found.iter().zip(0..).all(|(loaded, place)| loaded.as_ref() == body(place)));
        assert_eq!(e.bodies_at_hand(&asked[ahead - 1..]).len(), 1);
        assert!(e.bodies_at_hand(&asked[ahead..]).is_empty());
        check(&e, &asked);
    }

    #[test]
    fn what_was_read_before_goes_into_the_systems_cache_and_is_at_hand_from_then_on() {
        let disk = FaultDisk::new(5);
        let e = store(&disk, 1500);
        let segment = e.shared.find(QueueId(7), Seq(5)).unwrap().segment;
        // How many messages were read ahead, and how many were at hand.
        let read_all = || {
            let (mut at, mut to, mut ahead, mut at_hand) = (0, 0, 0, 0);
            while at < 1400 {
                if to < at + 20 {
                    let count = e.read_ahead(&places(to.max(at)..1500)) as u64;
                    to = to.max(at) + count;
                    ahead += count;
                }
                at_hand += e.bodies_at_hand(&places(at..at + 10)).len();
                check(&e, &places(at..at + 10));
                at += 10;
            }
            (ahead, at_hand)
        };
        for (cached, reading) in [(false, "first"), (true, "second")] {
            let (ahead, at_hand) = read_all();
            assert!(ahead >= 1400 && at_hand > 1300, "{reading}: {ahead} {at_hand}");
            assert_eq!(segment.is_cached(0, 2_000_000), cached, "{reading}");
        }
        // But for the ends of segments, which nobody has read beyond.
        let (ahead, at_hand) = read_all();
        assert!(ahead < 300 && at_hand > 1300, "{ahead} {at_hand}");
    }

    /// Reads ahead from this message on, and takes the first message if it `comes`; how many are at hand.
    fn ahead(e: &Engine, from: u64, to: u64, comes: bool) -> (u64, Vec<LoadedBody>) {
        let asked = places(from..to);
        let count = e.read_ahead(&asked);
        (count as u64, if comes { e.bodies_at_hand(&asked[..1]) } else { Vec::new() })
    }

    #[test]
    fn whoever_reads_on_always_has_something_ahead() {
        let disk = FaultDisk::new(5);
        let e = store(&disk, 3000);
        let (mut at, mut to) = (0, 0);
        while at < 2990 {
            if to < at + 20 {
                let count = ahead(&e, to, 3000, false).0;
                // The last piece may be too little for a read of its own.
                assert!(count > 0 || to > 2990, "{to}");
                to += count;
            }
            // Answers end where they end, in one piece or in the next.
            check(&e, &places(at..at + 10));
            at += 10;
            let (kept, ahead, free) = e.shared.spans.counts();
            assert!(kept <= KEPT_MAX && ahead <= 2 + PASSED_MAX && free <= FREE_MAX, "{kept} {ahead} {free}");
        }
    }

    #[test]
    fn what_nobody_comes_for_takes_so_much_memory_and_no_more() {
        let disk = FaultDisk::new(5);
        let e = store(&disk, 3000);
        let (mut from, mut ends) = (0, Vec::new());
        loop {
            let (count, _) = ahead(&e, from, 3000, false);
            if count == 0 {
                break;
            }
            from += count;
            ends.push(from);
        }
        assert_eq!(ends.len(), AHEAD_KEPT_MAX);
        // Somebody may still come, but one day it goes.
        assert_eq!(e.bodies_at_hand(&places([0])).len(), 1);
        let refused = (0..1000).take_while(|_| ahead(&e, from, 3000, false).0 == 0).count();
        assert_eq!(refused, REFUSED_MAX as usize - 2);
        assert!(e.bodies_at_hand(&places([0])).is_empty());
        assert_eq!(e.bodies_at_hand(&places([ends[0]])).len(), 1);
    }

    #[test]
    fn once_nobody_reads_any_more_the_memory_is_given_back() {
        let disk = FaultDisk::new(5);
        let e = store(&disk, 400);
        let asked = places(0..400);
        assert!(e.read_ahead(&asked) > 0);
        check(&e, &asked);
        let trim = |times| (0..times).for_each(|_| e.shared.spans.trim());
        trim(IDLE_MAX - 1);
        let held = e.bodies_at_hand(&asked[399..]);
        trim(IDLE_MAX - 1);
        let (kept, ahead, free) = e.shared.spans.counts();
        assert!(kept + ahead > 0 && free > 0);
        trim(1);
        assert_eq!(e.shared.spans.counts(), (0, 0, 0));
        // But for what somebody has.
        assert!(held.iter().all(|loaded| loaded.as_ref() == body(399)));
        check(&e, &asked);
    }

    #[test]
    fn what_somebody_is_still_being_sent_counts() {
        let disk = FaultDisk::new(5);
        let e = store(&disk, 3000);
        let (mut from, mut held) = (0, Vec::new());
        loop {
            let (count, bodies) = ahead(&e, from, 3000, true);
            if count == 0 {
                break;
            }
            held.extend(bodies);
            from += count;
            // All of it was had.
            e.bodies_at_hand(&places(from - count..from));
        }
        assert_eq!(held.len(), AHEAD_MAX);
        held.clear();
        assert!(ahead(&e, from, 3000, false).0 > 0);
    }

    #[test]
    fn damage_ends_what_is_at_hand_too() {
        let disk = FaultDisk::new(5);
        let e = store(&disk, 40);
        let found = e.shared.find(QueueId(7), Seq(20)).unwrap();
        disk.flip_bit(&found.segment.id.file_name(), (found.at() + 500) * 8);
        let asked = places(0..40);
        assert_eq!(e.read_ahead(&asked), 40, "nobody has looked at it");
        assert_eq!(e.bodies_at_hand(&asked).len() as u64, found.range.first);
        assert!(e.bodies_at_hand(&places([20])).is_empty());
        assert_eq!(e.load_bodies(&places([20])).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
