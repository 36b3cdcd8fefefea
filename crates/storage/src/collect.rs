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

/// What one thread has read, in the order of the segments.
pub struct Collected<'a> {
    live: &'a Live,
    pub queues: Vec<QueueId>,
    by_queue: IdMap<u64, u32>,
    pub routes: Vec<Arc<Route>>,
    /// Indices of `routes`, by their bytes in a chunk table. Peers choose those, so the hash is a keyed one.
    pub interned: HashMap<Box<[u8]>, u32>,
    pub facts: Vec<Facts>,
    pub chunks: Vec<ChunkPlace>,
    /// By the queue's shard.
    pub shards: Vec<Vec<Piece>>,
    /// Operations behind the checkpoint's position.
    pub ops: Vec<LogOp>,
    /// Which of `routes` those of the table at hand are.
    table_routes: Vec<u32>,
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
            routes: Vec::new(),
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
        let live =
            if frame.old { self.live.get(&target.queue.0).map_or(&[][..], |s| &s.live) } else { &[(0, u64::MAX)] };
        let from = if live.len() == 1 { 0 } else { live.partition_point(|(_, stop)| *stop <= first) };
        for (start, stop) in live[from..].iter().take_while(|(start, _)| *start < end) {
            let (from, to) = (first.max(*start), end.min(*stop));
            if from >= to {
                continue;
            }
            if *chunk == NONE {
                *chunk = index(self.chunks.len())?;
                let offset = ((frame.payload_at + c.at) / ALIGN) as u32;
                self.chunks.push(ChunkPlace { segment: frame.segment.0, offset, len: c.len, shares: c.shares });
            }
            let entry = (entries.start as u64 + (from - first)) as u16;
            let count = (to - from) as u16;
            let piece = Piece {
                first: from,
                queue: self.queue(target.queue)?,
                chunk: *chunk,
                facts: self.facts(Facts { attrs: run.attrs, at: run.at, uniform: run.uniform })?,
                route: self.route(frame, run.route as usize)?,
                payload: payload(run, u32::from(count)),
                count,
                entry,
            };
            self.shards[usize::from(target.queue.shard().0)].push(piece);
        }
        Ok(())
    }

    fn queue(&mut self, queue: QueueId) -> Result<u32, Malformed> {
        if let Some(known) = self.by_queue.get(&queue.0) {
            return Ok(*known);
        }
        let n = index(self.queues.len())?;
        self.queues.push(queue);
        self.by_queue.insert(queue.0, n);
        Ok(n)
    }

    fn facts(&mut self, facts: Facts) -> Result<u32, Malformed> {
        if self.facts.last() != Some(&facts) {
            self.facts.push(facts);
        }
        index(self.facts.len() - 1)
    }

    fn route(&mut self, frame: &Noted<'_>, n: usize) -> Result<u32, Malformed> {
        const UNKNOWN: Malformed = Malformed("chunk: unknown route");
        let known = self.table_routes.get_mut(n).ok_or(UNKNOWN)?;
        if *known == NONE {
            let bytes = &frame.table_bytes[frame.table.routes[n].clone()];
            *known = match self.interned.get(bytes) {
                Some(known) => *known,
                None => {
                    let n = index(self.routes.len())?;
                    self.routes.push(Arc::new(decode_route(bytes)?));
                    self.interned.insert(bytes.into(), n);
                    n
                }
            };
        }
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
