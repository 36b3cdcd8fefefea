//! What the chunk tables say of live messages, as flat as it can be: after many small commits there is a piece for nearly
//! every message.

use std::collections::HashMap;
use std::ops::Range as Span;
use std::sync::Arc;

use waypost_model::{Attrs, Millis, QueueId, Route, SHARDS};

use crate::checkpoint::QueueState;
use crate::frame::{ALIGN, LogOp};
use crate::hash::IdMap;
use crate::segment::SegmentId;
use crate::table::{ChunkEntry, ChunkTable, Run, Target, decode_route};
use crate::wire::Malformed;

/// Bytes that only the chunk itself can tell: messages of different lengths, of which some are gone.
pub const BYTES_UNKNOWN: u32 = u32::MAX;
/// No index yet.
const NONE: u32 = u32::MAX;

/// All that a queue may hold: behind the checkpoint's position, everything is live unless an operation says otherwise.
const WHOLE: (u64, u64) = (0, u64::MAX);

/// The queues of a checkpoint.
pub type Live = IdMap<u64, QueueState>;

/// Where a chunk lies.
#[derive(Clone, Copy, Debug)]
pub struct ChunkPlace {
    pub segment: u32,
    /// In units of [`ALIGN`].
    pub offset: u32,
    pub len: u32,
    pub shares: u32,
}

/// What the messages of a run have in common beside the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub attrs: Attrs,
    pub at: Millis,
    /// Whether all have the same length.
    pub uniform: bool,
}

/// Messages of one queue that belong to one run and lie one behind the other in one chunk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Piece {
    pub first: u64,
    /// Indices into the lists of [`Collected`].
    pub queue: u32,
    pub chunk: u32,
    pub facts: u32,
    pub route: u32,
    /// Bytes of properties and bodies, or [`BYTES_UNKNOWN`].
    pub payload: u32,
    /// Both fit: a chunk has at most 32,768 messages.
    pub count: u16,
    pub entry: u16,
}

const _: () = assert!(size_of::<Piece>() == 32);
const _: () = assert!(crate::chunk::CHUNK_ENTRIES_MAX <= u16::MAX as u32);

impl Piece {
    /// One behind the last place.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// The messages from `from` to `to`, which must lie inside.
    pub fn part(&self, from: u64, to: u64, uniform: bool) -> Piece {
        debug_assert!(self.first <= from && from < to && to <= self.end());
        let count = (to - from) as u16;
        let payload = match () {
            () if count == self.count => self.payload,
            () if uniform && self.payload != BYTES_UNKNOWN => self.payload / u32::from(self.count) * u32::from(count),
            () => BYTES_UNKNOWN,
        };
        Piece { first: from, count, entry: self.entry + (from - self.first) as u16, payload, ..*self }
    }
}

/// A queue that a chunk table named. What is asked of it for each message lies together.
struct KnownQueue<'a> {
    id: QueueId,
    /// What of it was live at the checkpoint: the first interval, and the others.
    live: (u64, u64),
    more: &'a [(u64, u64)],
    /// The route of its last piece, which is probably the next one's; [`NONE`] if it has no piece.
    route: u32,
}

/// What one thread has read, in the order of the segments.
pub struct Collected<'a> {
    live: &'a Live,
    queues: Vec<KnownQueue<'a>>,
    by_queue: IdMap<u64, u32>,
    last_queue: u32,
    pub routes: Vec<Arc<Route>>,
    /// Their bytes in a chunk table.
    route_bytes: Vec<Arc<[u8]>>,
    /// Indices of `routes` by these bytes. Peers choose them, so the hash is a keyed one.
    pub interned: HashMap<Arc<[u8]>, u32>,
    pub facts: Vec<Facts>,
    pub chunks: Vec<ChunkPlace>,
    /// By the queue's shard.
    pub shards: Vec<Vec<Piece>>,
    /// Operations behind the checkpoint's position.
    pub ops: Vec<LogOp>,
    /// Which of `routes` those of the table at hand are.
    table_routes: Vec<u32>,
}

/// A part of a chunk that is one piece.
struct Part {
    queue: u32,
    first: u64,
    count: u16,
    entry: u16,
}

/// A frame's chunks, as they are noted.
pub struct Noted<'t> {
    pub segment: SegmentId,
    /// Where its chunks begin in the segment.
    pub payload_at: u64,
    pub table: &'t ChunkTable,
    pub table_bytes: &'t [u8],
    /// Whether it lies before the checkpoint's position: then the checkpoint says what is live of it.
    pub old: bool,
}

impl<'a> Collected<'a> {
    pub fn new(live: &'a Live) -> Collected<'a> {
        Collected {
            live,
            queues: Vec::new(),
            by_queue: IdMap::default(),
            last_queue: NONE,
            routes: Vec::new(),
            route_bytes: Vec::new(),
            interned: HashMap::new(),
            facts: Vec::new(),
            chunks: Vec::new(),
            shards: vec![Vec::new(); SHARDS],
            ops: Vec::new(),
            table_routes: Vec::new(),
        }
    }

    /// Notes what is live of a frame's chunks.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn note(&mut self, frame: &Noted<'_>) -> Result<(), Malformed> {
        self.table_routes.clear();
        self.table_routes.resize(frame.table.routes.len(), NONE);
        let mut result = Ok(());
        for c in &frame.table.chunks {
            let mut chunk = NONE;
            frame.table.parts(c, |target, run, entries| {
                if let Err(e) = self.note_part(frame, c, &mut chunk, (target, run, entries)) {
                    result = Err(e);
                }
            });
        }
        result
    }

    fn note_part(
        &mut self,
        frame: &Noted<'_>,
        c: &ChunkEntry,
        chunk: &mut u32,
        (target, run, entries): (&Target, &Run, Span<u32>),
    ) -> Result<(), Malformed> {
        let first = target.first.0 + u64::from(entries.start - target.entry);
        let end = first + u64::from(entries.end - entries.start);
        let queue = self.queue(target.queue)?;
        let known = &self.queues[queue as usize];
        let (mut interval, mut more) = if frame.old { (known.live, known.more) } else { (WHOLE, &[][..]) };
        if interval.1 <= first {
            more = &more[more.partition_point(|(_, stop)| *stop <= first)..];
            let Some((next, rest)) = more.split_first() else { return Ok(()) };
            (interval, more) = (*next, rest);
        }
        loop {
            let (from, to) = (first.max(interval.0), end.min(interval.1));
            if from >= to {
                return Ok(());
            }
            let entry = (u64::from(entries.start) + (from - first)) as u16;
            let part = Part { queue, first: from, count: (to - from) as u16, entry };
            self.push(frame, (c, chunk), target.queue, run, &part)?;
            let Some((next, rest)) = more.split_first() else { return Ok(()) };
            (interval, more) = (*next, rest);
        }
    }

    fn push(
        &mut self,
        frame: &Noted<'_>,
        (c, chunk): (&ChunkEntry, &mut u32),
        id: QueueId,
        run: &Run,
        part: &Part,
    ) -> Result<(), Malformed> {
        if *chunk == NONE {
            *chunk = index(self.chunks.len())?;
            let offset = ((frame.payload_at + c.at) / ALIGN) as u32;
            self.chunks.push(ChunkPlace { segment: frame.segment.0, offset, len: c.len, shares: c.shares });
        }
        let Part { queue, first, count, entry } = *part;
        let facts = self.facts(Facts { attrs: run.attrs, at: run.at, uniform: run.uniform })?;
        let route = self.route(frame, run.route as usize, queue)?;
        let payload = payload(run, u32::from(count));
        let piece = Piece { first, queue, chunk: *chunk, facts, route, payload, count, entry };
        self.shards[usize::from(id.shard().0)].push(piece);
        Ok(())
    }

    /// The queues that are named, in the order of their numbers; `None` for one without live messages.
    pub fn queues(&self) -> impl Iterator<Item = Option<QueueId>> {
        self.queues.iter().map(|q| (q.route != NONE).then_some(q.id))
    }

    fn queue(&mut self, id: QueueId) -> Result<u32, Malformed> {
        // Queues that got messages in turn got the next ones in the same turn: no need to look far.
        let next = self.last_queue.wrapping_add(1);
        if self.queues.get(next as usize).is_some_and(|q| q.id == id) {
            self.last_queue = next;
            return Ok(next);
        }
        if let Some(known) = self.by_queue.get(&id.0) {
            self.last_queue = *known;
            return Ok(*known);
        }
        let n = index(self.queues.len())?;
        let live = self.live.get(&id.0).map_or(&[][..], |s| &s.live);
        let (live, more) = live.split_first().map_or(((0, 0), live), |(first, more)| (*first, more));
        self.queues.push(KnownQueue { id, live, more, route: NONE });
        self.by_queue.insert(id.0, n);
        self.last_queue = n;
        Ok(n)
    }

    fn facts(&mut self, facts: Facts) -> Result<u32, Malformed> {
        if self.facts.last() != Some(&facts) {
            self.facts.push(facts);
        }
        index(self.facts.len() - 1)
    }

    /// The number of the table's `n`-th route, which a queue's messages have.
    fn route(&mut self, frame: &Noted<'_>, n: usize, queue: u32) -> Result<u32, Malformed> {
        const UNKNOWN: Malformed = Malformed("chunk: unknown route");
        let last = &mut self.queues[queue as usize].route;
        let known = self.table_routes.get_mut(n).ok_or(UNKNOWN)?;
        if *known == NONE {
            let bytes = &frame.table_bytes[frame.table.routes[n].clone()];
            *known = match self.route_bytes.get(*last as usize) {
                Some(same) if **same == *bytes => *last,
                _ => match self.interned.get(bytes) {
                    Some(other) => *other,
                    None => {
                        let n = index(self.routes.len())?;
                        let kept: Arc<[u8]> = bytes.into();
                        self.routes.push(Arc::new(decode_route(bytes)?));
                        self.route_bytes.push(Arc::clone(&kept));
                        self.interned.insert(kept, n);
                        n
                    }
                },
            };
        }
        *last = *known;
        Ok(*known)
    }
}

/// More than 4 billion pieces would not fit into memory either.
fn index(n: usize) -> Result<u32, Malformed> {
    u32::try_from(n).ok().filter(|n| *n != NONE).ok_or(Malformed("store: more messages than can be counted"))
}

/// Bytes of `count` messages of a run.
fn payload(run: &Run, count: u32) -> u32 {
    let bytes = match () {
        () if count == run.count => run.payload,
        () if run.uniform => run.payload / u64::from(run.count) * u64::from(count),
        () => return BYTES_UNKNOWN,
    };
    u32::try_from(bytes).unwrap_or(BYTES_UNKNOWN)
}
