//! From what the chunk tables said to the index and to what the broker is told, shard by shard.

use std::ops::Range as Span;
use std::sync::{Arc, Mutex};

use waypost_model::journal::RecoveredRun;
use waypost_model::{QueueId, Route, SHARDS, Seq, SeqRange};

use crate::chunk;
use crate::collect::{BYTES_UNKNOWN, ChunkPlace, Collected, Facts, Live, Piece};
use crate::error::OpenError;
use crate::frame::{ALIGN, LogOp};
use crate::hash::IdMap;
use crate::index::{Index, QueueIndex};
use crate::parallel::in_parallel;
use crate::ranges::{Range, RangeList};
use crate::segment::{Segment, SegmentId};
use crate::sync::lock;

/// Below so many pieces more threads would not pay.
const PARALLEL_PIECES_MIN: usize = 50_000;

/// What a shard's queues held.
#[derive(Default)]
pub struct ShardFound {
    pub runs: Vec<RecoveredRun>,
    pub next_seq: Vec<(QueueId, Seq)>,
}

/// What all threads have read, in one.
struct Restore<'a> {
    live: &'a Live,
    index: &'a Index,
    routes: Vec<Arc<Route>>,
    facts: Vec<Facts>,
    chunks: Vec<ChunkPlace>,
    /// All queues by shard and id, and which of them are each shard's.
    queues: Vec<QueueId>,
    shards: Vec<Span<usize>>,
    /// By shard, to be taken.
    pieces: Vec<Mutex<Vec<Vec<Piece>>>>,
    ops: Vec<Vec<LogOp>>,
}

/// Builds the index, carries the operations out, and tells what there is, by shard. Pieces of a later part replace none
/// of an earlier one.
///
/// # Errors
/// [`OpenError`].
pub fn restore(index: &Index, live: &Live, parts: Vec<Collected<'_>>) -> Result<Vec<ShardFound>, OpenError> {
    let total: usize = parts.iter().flat_map(|p| &p.shards).map(Vec::len).sum();
    if u32::try_from(total).is_err() {
        let source = std::io::ErrorKind::OutOfMemory.into();
        return Err(OpenError::Io { file: "more messages than can be counted".into(), source });
    }
    let mut r = Restore {
        live,
        index,
        routes: Vec::new(),
        facts: Vec::new(),
        chunks: Vec::new(),
        queues: Vec::new(),
        shards: Vec::new(),
        pieces: (0..SHARDS).map(|_| Mutex::default()).collect(),
        ops: (0..SHARDS).map(|_| Vec::new()).collect(),
    };
    r.join(parts);
    let found: Vec<_> = (0..SHARDS).map(|_| Mutex::default()).collect();
    let threads = if total < PARALLEL_PIECES_MIN { 1 } else { SHARDS };
    in_parallel(SHARDS, threads, Vec::new, |room, n| *lock(&found[n]) = Some(r.shard(n, room)));
    let result = |f: Mutex<Option<_>>| f.into_inner().unwrap_or_default().unwrap_or_else(|| Ok(ShardFound::default()));
    found.into_iter().map(result).collect()
}

impl Restore<'_> {
    /// Numbers everything anew.
    fn join(&mut self, parts: Vec<Collected<'_>>) {
        self.queues = self.live.keys().map(|id| QueueId(*id)).collect();
        self.queues.extend(parts.iter().flat_map(Collected::queues).flatten());
        self.queues.sort_unstable_by_key(|q| (q.shard(), *q));
        self.queues.dedup();
        let mut from = 0;
        for n in 0..SHARDS {
            let to = self.queues.partition_point(|q| usize::from(q.shard().0) <= n);
            self.shards.push(from..to);
            from = to;
        }
        let numbers: IdMap<u64, u32> = self.queues.iter().enumerate().map(|(n, q)| (q.0, n as u32)).collect();
        let mut interned = std::collections::HashMap::new();
        for part in parts {
            let number = |q: Option<QueueId>| q.and_then(|q| numbers.get(&q.0)).copied().unwrap_or_default();
            let queues: Vec<u32> = part.queues().map(number).collect();
            let mut routes = vec![0; part.routes.len()];
            for (bytes, n) in part.interned {
                routes[n as usize] = *interned.entry(bytes).or_insert_with(|| {
                    self.routes.push(Arc::clone(&part.routes[n as usize]));
                    self.routes.len() as u32 - 1
                });
            }
            let (facts, chunks) = (self.facts.len() as u32, self.chunks.len() as u32);
            self.facts.extend(part.facts);
            self.chunks.extend(part.chunks);
            for (n, mut pieces) in part.shards.into_iter().enumerate() {
                for p in &mut pieces {
                    p.queue = queues[p.queue as usize];
                    p.route = routes[p.route as usize];
                    p.facts += facts;
                    p.chunk += chunks;
                }
                lock(&self.pieces[n]).push(pieces);
            }
            for op in part.ops {
                let queue = match &op {
                    LogOp::Settle(range) | LogOp::Requeued { range, .. } => range.queue,
                    LogOp::Forget(queue) => *queue,
                    LogOp::Define { .. } => continue,
                };
                self.ops[usize::from(queue.shard().0)].push(op);
            }
        }
    }

    /// `pieces` is room for a shard's pieces, used again and again.
    fn shard(&self, n: usize, pieces: &mut Vec<Piece>) -> Result<ShardFound, OpenError> {
        let queues = self.shards[n].clone();
        let ends = by_queue(std::mem::take(&mut *lock(&self.pieces[n])), &queues, pieces);
        let mut from = 0;
        let mut spans = Vec::with_capacity(ends.len());
        for (queue, end) in queues.clone().zip(ends) {
            let kept = self.in_order(&mut pieces[from..end]);
            spans.push(from..from + kept);
            self.enter(self.queues[queue], &pieces[from..from + kept]);
            from = end;
        }
        self.replay(n);
        let mut found = ShardFound::default();
        found.runs.reserve(spans.iter().map(Span::len).sum());
        let shard = self.index.shard(n);
        for (queue, span) in queues.zip(spans) {
            let id = self.queues[queue];
            let Some(q) = shard.get(&id.0) else { continue };
            found.next_seq.push((id, Seq(q.next)));
            self.tell(id, q, &pieces[span], &mut found.runs)?;
        }
        Ok(found)
    }

    /// Sorts the pieces of a queue and takes out what is there twice; says how many are left.
    fn in_order(&self, pieces: &mut [Piece]) -> usize {
        if pieces.is_sorted_by(|a, b| a.end() <= b.first) {
            return pieces.len();
        }
        // Of two copies the cold one counts, so that the other segment can go.
        let is_cold = |p: &Piece| SegmentId(self.chunks[p.chunk as usize].segment).is_cold();
        pieces.sort_by(|a, b| a.first.cmp(&b.first).then_with(|| is_cold(b).cmp(&is_cold(a))));
        let (mut kept, mut last) = (0, 0);
        for i in 0..pieces.len() {
            let (p, from) = (pieces[i], pieces[i].first.max(last));
            if from < p.end() {
                pieces[kept] = p.part(from, p.end(), self.facts[p.facts as usize].uniform);
                kept += 1;
                last = p.end();
            }
        }
        kept
    }

    fn enter(&self, id: QueueId, pieces: &[Piece]) {
        let state = self.live.get(&id.0);
        let next = pieces.last().map_or(0, Piece::end).max(state.map_or(0, |s| s.next));
        let mut charge = Charge { index: self.index, segment: None, messages: 0, bytes: 0 };
        let live = RangeList::of(pieces.len(), pieces.iter().map(|p| self.range(p)), |r| charge.note(r));
        charge.settle();
        self.index.shard(usize::from(id.shard().0)).insert(id.0, QueueIndex { live, next, ..QueueIndex::default() });
        for (first, end, count) in state.map_or(&[][..], |s| &s.failed) {
            let mut from = *first;
            while from < *end {
                let n = (*end - from).min(u64::from(u32::MAX)) as u32;
                self.index.requeued(&SeqRange { queue: id, first: Seq(from), count: n }, *count);
                from += u64::from(n);
            }
        }
    }

    fn range(&self, p: &Piece) -> Range {
        let c = &self.chunks[p.chunk as usize];
        let (count, entry) = (u32::from(p.count), u32::from(p.entry));
        Range { first: p.first, count, segment: c.segment, offset: c.offset, len: c.len, entry, shares: c.shares }
    }

    fn replay(&self, n: usize) {
        for op in &self.ops[n] {
            match op {
                LogOp::Settle(range) => self.index.settled(range),
                LogOp::Requeued { range, delivery_count } => self.index.requeued(range, *delivery_count),
                LogOp::Forget(queue) => self.index.forgotten(*queue),
                LogOp::Define { .. } => {}
            }
        }
    }

    /// What is live is a part of the pieces, and both are in order.
    fn tell(
        &self,
        id: QueueId,
        q: &QueueIndex,
        mut pieces: &[Piece],
        out: &mut Vec<RecoveredRun>,
    ) -> Result<(), OpenError> {
        for live in q.live.iter() {
            while let Some(piece) = pieces.first() {
                let (mut from, end) = (piece.first.max(live.first), piece.end().min(live.end()));
                while from < end {
                    let (delivery_count, to) = q.failed_at(from, end);
                    self.tell_part(id, piece, from..to, delivery_count, out)?;
                    from = to;
                }
                if piece.end() > live.end() {
                    break;
                }
                pieces = &pieces[1..];
            }
        }
        Ok(())
    }

    fn tell_part(
        &self,
        queue: QueueId,
        piece: &Piece,
        places: Span<u64>,
        delivery_count: u32,
        out: &mut Vec<RecoveredRun>,
    ) -> Result<(), OpenError> {
        let facts = &self.facts[piece.facts as usize];
        let part = piece.part(places.start, places.end, facts.uniform);
        let payload_bytes = match part.payload {
            BYTES_UNKNOWN => self.payload(&part)?,
            known => u64::from(known),
        };
        let range = SeqRange { queue, first: Seq(part.first), count: u32::from(part.count) };
        let route = &self.routes[part.route as usize];
        if let Some(last) = out.last_mut()
            && last.range.queue == queue
            && last.range.first.plus(u64::from(last.range.count)) == range.first
            && (last.attrs, last.at, last.delivery_count) == (facts.attrs, facts.at, delivery_count)
            && Arc::ptr_eq(&last.route, route)
            && let Some(count) = last.range.count.checked_add(range.count)
        {
            last.range.count = count;
            last.payload_bytes += payload_bytes;
            return Ok(());
        }
        let (route, attrs, at) = (Arc::clone(route), facts.attrs, facts.at);
        out.push(RecoveredRun { range, route, attrs, at, delivery_count, payload_bytes });
        Ok(())
    }

    /// Bytes of a part of a run, from the chunk: only where messages differ in length and some are gone.
    fn payload(&self, piece: &Piece) -> Result<u64, OpenError> {
        let range = self.range(piece);
        let name = SegmentId(range.segment).file_name();
        let offset = u64::from(range.offset) * ALIGN;
        let Some(segment) = self.index.segment(range.segment) else {
            return Err(OpenError::Missing { file: name });
        };
        let batch = chunk::read(&*segment.file, segment.id, offset, range.len).map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData => OpenError::damaged(&*name, offset, e.to_string()),
            _ => OpenError::Io { file: name.clone(), source: e },
        })?;
        if (range.entry + range.count) as usize > batch.len() {
            return Err(OpenError::damaged(name, offset, "the chunk has fewer messages than the footer says"));
        }
        Ok(batch.payload_len(range.entry, range.entry + range.count))
    }
}

/// Orders pieces by queue, and else leaves them as they are; says where each queue's end.
fn by_queue(parts: Vec<Vec<Piece>>, queues: &Span<usize>, sorted: &mut Vec<Piece>) -> Vec<usize> {
    let mut at = vec![0; queues.len() + 1];
    let number = |p: &Piece| p.queue as usize - queues.start;
    parts.iter().flatten().for_each(|p| at[number(p) + 1] += 1);
    for i in 1..at.len() {
        at[i] += at[i - 1];
    }
    sorted.resize(at[queues.len()], Piece::default());
    for p in parts.into_iter().flatten() {
        let slot = &mut at[number(&p)];
        sorted[*slot] = p;
        *slot += 1;
    }
    // What was a queue's beginning has moved to its end.
    at.pop();
    at
}

/// Charges segments for what lies in them, a stretch at a time.
struct Charge<'a> {
    index: &'a Index,
    segment: Option<Arc<Segment>>,
    messages: u64,
    bytes: u64,
}

impl Charge<'_> {
    fn note(&mut self, range: &Range) {
        if self.segment.as_ref().is_none_or(|s| s.id.0 != range.segment) {
            self.settle();
            self.segment = self.index.segment(range.segment);
        }
        self.messages += u64::from(range.count);
        self.bytes += range.bytes();
    }

    fn settle(&mut self) {
        if let Some(segment) = self.segment.take() {
            segment.add_live(self.messages, self.bytes);
        }
        (self.messages, self.bytes) = (0, 0);
    }
}
