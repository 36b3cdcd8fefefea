//! Turns queued appends into a frame.
//!
//! Two passes: the first assigns messages to chunks (one open chunk per queue, so that what came interleaved lies
//! together; bytes that several operations name are placed once), the second copies bytes, each once, and computes the
//! checksums. Buffers are used again from frame to frame.

use std::sync::Arc;

use waypost_model::Lsn;
use waypost_model::journal::{Enqueue, Op};

use crate::chunk::{self, CHUNK_BYTES_MAX, CHUNK_ENTRIES_MAX, CHUNK_HEADER, Lengths, Piece};
use crate::frame::{self, Extent, FRAME_HEADER, FrameHeader, Run, Target, align};
use crate::hash::IdMap;
use crate::wire::put_varint;

/// A chunk with more targets than this is closed: its entry in the table would outgrow it.
const TARGETS_MAX: usize = 4096;
/// How many of a chunk's last targets are looked through for one that can be extended.
const TARGETS_SEARCHED: usize = 16;

/// An append that waits for its commit.
#[derive(Debug)]
pub struct Pending {
    pub lsn: Lsn,
    pub ops: Vec<Op>,
}

/// Where a frame will lie.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub epoch: u32,
    pub segment: u32,
    pub offset: u64,
    pub prev: u32,
    pub synced: u64,
}

/// A planned chunk; after [`Encoder::encode`] also its place in the frame.
#[derive(Default)]
pub struct Planned {
    pieces: Vec<(u32, u32, u32, u32)>,
    lengths: Lengths,
    runs: Vec<Run>,
    pub targets: Vec<Target>,
    /// From the beginning of the frame, bytes.
    pub at: u64,
    pub len: u32,
}

impl Planned {
    fn clear(&mut self) {
        self.pieces.clear();
        self.runs.clear();
        self.targets.clear();
        self.lengths = Lengths::default();
    }

    /// How many messages in queues it holds.
    pub fn shares(&self) -> u32 {
        self.targets.iter().fold(0, |n, t| n.saturating_add(t.count))
    }

    /// Notes that `count` messages from `entry` on belong to the targets, extending what is there where possible.
    fn add_targets(&mut self, e: &Enqueue, skip: u32, entry: u32, count: u32) {
        let known = self.targets.len();
        for (i, (queue, first)) in e.targets.iter().enumerate() {
            let first = first.plus(u64::from(skip));
            let fits = |t: &Target| {
                t.queue == *queue && t.entry + t.count == entry && t.first.plus(u64::from(t.count)) == first
            };
            // The same targets in the same order are the common case.
            let same = if known == e.targets.len() { Some(i) } else { None };
            let hit = same.filter(|i| fits(&self.targets[*i])).or_else(|| {
                let from = known.saturating_sub(TARGETS_SEARCHED);
                (from..known).rev().find(|i| fits(&self.targets[*i]))
            });
            match hit {
                Some(i) => self.targets[i].count += count,
                None => self.targets.push(Target { queue: *queue, first, entry, count }),
            }
        }
    }

    fn add_run(&mut self, e: &Enqueue, route: u32, lengths: &Lengths) {
        let (count, payload) = (lengths.entries(), lengths.payload());
        if let Some(last) = self.runs.last_mut()
            && (last.route, last.attrs, last.at) == (route, e.attrs, e.at)
        {
            let each = |count: u32, payload: u64| (payload / u64::from(count), payload % u64::from(count));
            last.uniform &= lengths.is_uniform() && each(last.count, last.payload) == each(count, payload);
            last.count += count;
            last.payload += payload;
            return;
        }
        self.runs.push(Run { count, route, attrs: e.attrs, at: e.at, payload, uniform: lengths.is_uniform() });
    }
}

/// Messages that were placed: where others that name the same bytes find them.
#[derive(Clone, Copy)]
struct Placed {
    chunk: u32,
    entry: u32,
    count: u32,
}

/// Makes frames.
#[derive(Default)]
pub struct Encoder {
    chunks: Vec<Planned>,
    used: usize,
    by_queue: IdMap<u64, u32>,
    by_source: IdMap<(usize, u32, u32), (u32, u32)>,
    placed: Vec<Placed>,
    routes: IdMap<usize, u32>,
    head: Vec<u8>,
    payload: Vec<u8>,
    table: (usize, usize),
}

impl Encoder {
    /// Assigns the messages of these appends to chunks and says how long the frame will be at most, and how long its
    /// chunk table.
    pub fn plan(&mut self, appends: &[Pending]) -> (u64, u64) {
        self.used = 0;
        self.by_queue.clear();
        self.by_source.clear();
        self.placed.clear();
        self.routes.clear();
        self.head.clear();
        self.head.resize(FRAME_HEADER, 0);
        let mut routes = Vec::new();
        for (a, append) in appends.iter().enumerate() {
            for (o, op) in append.ops.iter().enumerate() {
                frame::put_op(&mut self.head, op);
                if let Op::Enqueue(e) = op {
                    let next = self.routes.len() as u32;
                    let route = *self.routes.entry(Arc::as_ptr(&e.route) as usize).or_insert(next);
                    if route == next {
                        frame::put_route(&mut routes, &e.route);
                    }
                    self.place(e, (a as u32, o as u32), route);
                }
            }
        }
        let ops_end = self.head.len();
        if self.used > 0 {
            put_varint(&mut self.head, self.routes.len() as u64);
            self.head.extend_from_slice(&routes);
        }
        self.table = (ops_end, 0);
        self.bound()
    }

    /// Upper bounds of the frame's and the chunk table's length.
    fn bound(&self) -> (u64, u64) {
        let (mut payload, mut table) = (0u64, 16u64);
        for c in &self.chunks[..self.used] {
            payload += align(CHUNK_HEADER as u64 + c.lengths.payload() + 8 * u64::from(c.lengths.entries()));
            table += 40 + 48 * c.runs.len() as u64 + 32 * c.targets.len() as u64;
        }
        (align(self.head.len() as u64 + table) + payload, self.head.len() as u64 - self.table.0 as u64 + table)
    }

    fn place(&mut self, e: &Enqueue, op: (u32, u32), route: u32) {
        let source = (Arc::as_ptr(&e.batch) as usize, e.from, e.to);
        if let Some((start, n)) = self.by_source.get(&source).copied()
            && self.share(e, route, start, n)
        {
            return;
        }
        let start = self.placed.len() as u32;
        let mut from = e.from;
        while from < e.to {
            from = self.place_some(e, op, route, from);
        }
        self.by_source.insert(source, (start, self.placed.len() as u32 - start));
    }

    /// Adds targets to chunks that already hold these messages; not if they were something else there.
    fn share(&mut self, e: &Enqueue, route: u32, start: u32, n: u32) -> bool {
        let places = &self.placed[start as usize..(start + n) as usize];
        let same = places.iter().all(|p| {
            let c = &self.chunks[p.chunk as usize];
            let mut entry = 0;
            let run = c.runs.iter().find(|r| {
                entry += r.count;
                entry > p.entry
            });
            c.targets.len() + e.targets.len() <= TARGETS_MAX
                && run.is_some_and(|r| (r.route, r.attrs, r.at) == (route, e.attrs, e.at) && p.entry + p.count <= entry)
        });
        if same {
            let mut skip = 0;
            for p in places {
                self.chunks[p.chunk as usize].add_targets(e, skip, p.entry, p.count);
                skip += p.count;
            }
        }
        same
    }

    /// Places messages from `from` on into the queue's open chunk until it is full; returns the first not placed.
    fn place_some(&mut self, e: &Enqueue, op: (u32, u32), route: u32, from: u32) -> u32 {
        let queue = e.targets.first().map_or(u64::MAX, |(q, _)| q.0);
        let open = self.by_queue.get(&queue).copied();
        let index = match open {
            Some(i) if self.chunks[i as usize].targets.len() + e.targets.len() <= TARGETS_MAX => i,
            _ => self.open_chunk(queue),
        };
        let slots = &e.batch.slots()[from as usize..e.to as usize];
        let c = &mut self.chunks[index as usize];
        let entry = c.lengths.entries();
        let mut own = Lengths::default();
        for slot in slots {
            let bytes = c.lengths.payload() + slot.payload_len() as u64;
            let full = bytes > CHUNK_BYTES_MAX || c.lengths.entries() >= CHUNK_ENTRIES_MAX;
            if full && c.lengths.entries() > 0 {
                break;
            }
            c.lengths.note(slot);
            own.note(slot);
        }
        let count = own.entries();
        if count == 0 {
            self.open_chunk(queue);
            return from;
        }
        c.pieces.push((op.0, op.1, from, from + count));
        c.add_run(e, route, &own);
        c.add_targets(e, from - e.from, entry, count);
        self.placed.push(Placed { chunk: index, entry, count });
        from + count
    }

    fn open_chunk(&mut self, queue: u64) -> u32 {
        if self.used == self.chunks.len() {
            self.chunks.push(Planned::default());
        }
        self.chunks[self.used].clear();
        self.by_queue.insert(queue, self.used as u32);
        self.used += 1;
        self.used as u32 - 1
    }

    /// Writes what was planned for the same appends. Returns the header; the bytes are in [`Encoder::bytes`].
    pub fn encode(&mut self, appends: &[Pending], place: Place) -> FrameHeader {
        let ops_len = self.table.0 - FRAME_HEADER;
        let crcs_at = self.lay_out();
        self.table.1 = self.head.len() - self.table.0;
        let payload_at = align(self.head.len() as u64);
        self.head.resize(payload_at as usize, 0);
        self.payload.clear();
        for (i, c) in self.chunks[..self.used].iter_mut().enumerate() {
            c.at += payload_at;
            let pieces = c.pieces.iter().filter_map(|&(a, o, from, to)| match &appends[a as usize].ops[o as usize] {
                Op::Enqueue(e) => Some(Piece { batch: &e.batch, from, to }),
                _ => None,
            });
            let seed = chunk::seed(place.segment, place.offset + c.at);
            let crc = chunk::encode(&mut self.payload, &c.lengths, pieces, seed);
            self.payload.resize(align(self.payload.len() as u64) as usize, 0);
            self.head[crcs_at + 4 * i..crcs_at + 4 * i + 4].copy_from_slice(&crc.to_le_bytes());
        }
        let mut header = FrameHeader {
            len: (payload_at + self.payload.len() as u64) as u32,
            crc: 0,
            epoch: place.epoch,
            segment: place.segment,
            offset: (place.offset / frame::ALIGN) as u32,
            prev: place.prev,
            synced: (place.synced / frame::ALIGN) as u32,
            ops_len: ops_len as u32,
            table_len: self.table.1 as u32,
            appends: appends.len() as u32,
            first_lsn: appends.first().map_or(0, |a| a.lsn.0),
        };
        header.seal(&mut self.head);
        header
    }

    /// Writes the chunk table but for the checksums, for which it leaves room; says where that is.
    fn lay_out(&mut self) -> usize {
        if self.used == 0 {
            return self.head.len();
        }
        put_varint(&mut self.head, self.used as u64);
        let mut at = 0;
        for c in &mut self.chunks[..self.used] {
            c.at = at;
            c.len = c.lengths.encoded_len() as u32;
            frame::put_chunk(&mut self.head, at, c.len, c.lengths.entries(), &c.runs, &c.targets);
            at = align(at + u64::from(c.len));
        }
        let crcs_at = self.head.len();
        self.head.resize(crcs_at + 4 * self.used, 0);
        crcs_at
    }

    /// The frame: its head, and its chunks.
    pub fn bytes(&self) -> [&[u8]; 2] {
        [&self.head, &self.payload]
    }

    /// The chunk table of the frame.
    pub fn table(&self) -> &[u8] {
        &self.head[self.table.0..self.table.0 + self.table.1]
    }

    /// What the frame's messages take.
    pub fn extent(&self) -> Extent {
        Extent::of(self.table.1, self.chunks().iter().map(|c| c.len))
    }

    /// The chunks, with their places in the frame.
    pub fn chunks(&self) -> &[Planned] {
        &self.chunks[..self.used]
    }
}
