//! Turns queued appends into a frame.
//!
//! Two passes: the first assigns messages to groups (one open group per queue, so that what came interleaved lies
//! together; bytes that several operations name are placed once) and groups to chunks (a large one has its own, small
//! ones share), the second copies bytes, each once and large messages not at all, and computes the checksums. Buffers are used again from frame to
//! frame.

use std::sync::Arc;

use waypost_model::journal::{Enqueue, Op};
use waypost_model::{Lsn, QueueId};

use crate::chunk::{self, CHUNK_BYTES_MAX, CHUNK_ENTRIES_MAX, Lengths};
use crate::frame::{self, ALIGN, FRAME_HEADER, FrameHeader, align};
use crate::gather::Gather;
use crate::hash::IdMap;
use crate::ranges::Range;
use crate::table::{self, Extent, Run, TableWriter, Target};
use crate::wire::put_varint;

/// Groups share a chunk up to this much: about what a read of a single message costs anyway. So a commit of single
/// messages for many queues has few chunks, of which recovery reads little.
const SHARED_BYTES_MAX: u64 = 4 << 10;
/// And up to this many messages.
const SHARED_ENTRIES_MAX: u32 = 512;
/// A group with more targets than this is closed: its entry in the table would outgrow it.
const TARGETS_MAX: usize = 4096;
/// How many of a group's last targets are looked through for one that can be extended.
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

/// A part of an operation's messages: which append, which of its operations, from and to.
type Part = (u32, u32, u32, u32);

/// Messages for the same queues.
#[derive(Default)]
struct Group {
    pieces: Vec<Part>,
    lengths: Lengths,
    runs: Vec<Run>,
    /// Entries count from the group's beginning; once it is laid out, from the chunk's.
    targets: Vec<Target>,
}

/// One or more groups.
struct Chunk {
    groups: std::ops::Range<usize>,
    lengths: Lengths,
    /// How many messages in queues it holds.
    shares: u32,
    /// From the beginning of the frame's chunks, bytes.
    at: u64,
    len: u32,
}

impl Group {
    fn clear(&mut self) {
        self.pieces.clear();
        self.runs.clear();
        self.targets.clear();
        self.lengths = Lengths::default();
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
    group: u32,
    entry: u32,
    count: u32,
}

/// Makes frames.
#[derive(Default)]
pub struct Encoder {
    groups: Vec<Group>,
    used: usize,
    chunks: Vec<Chunk>,
    by_queue: IdMap<u64, u32>,
    by_source: IdMap<(usize, u32, u32), (u32, u32)>,
    placed: Vec<Placed>,
    routes: IdMap<usize, u32>,
    head: Vec<u8>,
    payload: Gather,
    /// Of head and payload together.
    len: u64,
    /// Where in `head` the chunk table lies, and in it the checksums.
    table: std::ops::Range<usize>,
    crcs_at: usize,
}

impl Encoder {
    /// Assigns the messages of these appends to chunks and says how long the frame will be, and how long its chunk table.
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
                        table::put_route(&mut routes, &e.route);
                    }
                    self.place(e, (a as u32, o as u32), route);
                }
            }
        }
        self.lay_out(&routes);
        let payload = self.chunks.last().map_or(0, |c| align(c.at + u64::from(c.len)));
        (align(self.head.len() as u64) + payload, self.table.len() as u64)
    }

    /// Assigns groups to chunks and writes the chunk table, but for the checksums.
    fn lay_out(&mut self, routes: &[u8]) {
        self.chunks.clear();
        let ops_end = self.head.len();
        self.crcs_at = ops_end;
        if self.used > 0 {
            self.share_chunks();
            put_varint(&mut self.head, self.routes.len() as u64);
            self.head.extend_from_slice(routes);
            put_varint(&mut self.head, self.chunks.len() as u64);
            let (out, mut writer) = (&mut self.head, TableWriter::default());
            for c in &self.chunks {
                let groups = &self.groups[c.groups.clone()];
                let (runs, targets) =
                    (|| groups.iter().flat_map(|g| &g.runs), || groups.iter().flat_map(|g| &g.targets));
                writer.begin(out, c.len, c.lengths.entries(), runs().count());
                runs().for_each(|r| writer.put_run(out, r));
                writer.put_targets(out, targets().count());
                targets().for_each(|t| writer.put_target(out, t));
            }
            self.crcs_at = table::put_checksums(out, self.chunks.len());
        }
        self.table = ops_end..self.head.len();
    }

    fn share_chunks(&mut self) {
        for (i, g) in self.groups[..self.used].iter_mut().enumerate() {
            let shares = g.targets.iter().fold(0u32, |n, t| n.saturating_add(t.count));
            let fits = |c: &Chunk| {
                c.lengths.payload() + g.lengths.payload() <= SHARED_BYTES_MAX
                    && c.lengths.entries() + g.lengths.entries() <= SHARED_ENTRIES_MAX
            };
            match self.chunks.last_mut() {
                Some(c) if fits(c) => {
                    g.targets.iter_mut().for_each(|t| t.entry += c.lengths.entries());
                    c.lengths.append(&g.lengths);
                    c.groups.end = i + 1;
                    c.shares = c.shares.saturating_add(shares);
                }
                _ => self.chunks.push(Chunk { groups: i..i + 1, lengths: g.lengths, shares, at: 0, len: 0 }),
            }
        }
        let mut at = 0;
        for c in &mut self.chunks {
            (c.at, c.len) = (at, c.lengths.encoded_len() as u32);
            at = align(at + u64::from(c.len));
        }
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

    /// Adds targets to groups that already hold these messages; not if they were something else there.
    fn share(&mut self, e: &Enqueue, route: u32, start: u32, n: u32) -> bool {
        let places = &self.placed[start as usize..(start + n) as usize];
        let same = places.iter().all(|p| {
            let c = &self.groups[p.group as usize];
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
                self.groups[p.group as usize].add_targets(e, skip, p.entry, p.count);
                skip += p.count;
            }
        }
        same
    }

    /// Places messages from `from` on into the queue's open group until it is full; returns the first not placed.
    fn place_some(&mut self, e: &Enqueue, op: (u32, u32), route: u32, from: u32) -> u32 {
        let queue = e.targets.first().map_or(u64::MAX, |(q, _)| q.0);
        let open = self.by_queue.get(&queue).copied();
        let index = match open {
            Some(i) if self.groups[i as usize].targets.len() + e.targets.len() <= TARGETS_MAX => i,
            _ => self.open_group(queue),
        };
        let slots = &e.batch.slots()[from as usize..e.to as usize];
        let c = &mut self.groups[index as usize];
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
            self.open_group(queue);
            return from;
        }
        c.pieces.push((op.0, op.1, from, from + count));
        c.add_run(e, route, &own);
        c.add_targets(e, from - e.from, entry, count);
        self.placed.push(Placed { group: index, entry, count });
        from + count
    }

    fn open_group(&mut self, queue: u64) -> u32 {
        if self.used == self.groups.len() {
            self.groups.push(Group::default());
        }
        self.groups[self.used].clear();
        self.by_queue.insert(queue, self.used as u32);
        self.used += 1;
        self.used as u32 - 1
    }

    /// Writes what was planned for the same appends. Returns the header; the bytes are in [`Encoder::bytes`].
    pub fn encode(&mut self, appends: &[Pending], place: Place) -> FrameHeader {
        let payload_at = align(self.head.len() as u64);
        self.head.resize(payload_at as usize, 0);
        self.payload.clear();
        for (i, c) in self.chunks.iter().enumerate() {
            let groups = &self.groups[c.groups.clone()];
            let parts = groups.iter().flat_map(|g| &g.pieces).filter_map(|&(a, o, from, to)| {
                match &appends[a as usize].ops[o as usize] {
                    Op::Enqueue(e) => Some((&e.batch, from, to)),
                    _ => None,
                }
            });
            let seed = chunk::seed(place.segment, place.offset + payload_at + c.at);
            let crc = self.payload.put_chunk(&c.lengths, parts, seed);
            self.payload.align();
            let crc_at = self.crcs_at + 4 * i;
            self.head[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        }
        let mut header = FrameHeader {
            len: (payload_at + self.payload.len()) as u32,
            crc: 0,
            epoch: place.epoch,
            segment: place.segment,
            offset: (place.offset / ALIGN) as u32,
            prev: place.prev,
            synced: (place.synced / ALIGN) as u32,
            ops_len: (self.table.start - FRAME_HEADER) as u32,
            table_len: self.table.len() as u32,
            appends: appends.len() as u32,
            first_lsn: appends.first().map_or(0, |a| a.lsn.0),
        };
        header.seal(&mut self.head);
        self.len = u64::from(header.len);
        header
    }

    /// The frame: its head, and its chunks.
    pub fn slices(&self) -> Vec<&[u8]> {
        self.payload.slices(&self.head)
    }

    /// How long the frame is that was encoded last.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The frame is written: messages that were not copied are let go.
    pub fn written(&mut self) {
        self.payload.release();
    }

    /// The chunk table of the frame.
    pub fn table(&self) -> &[u8] {
        &self.head[self.table.clone()]
    }

    /// What the frame's messages take.
    pub fn extent(&self) -> Extent {
        Extent::of(self.table.len(), self.chunks.iter().map(|c| c.len))
    }

    /// Calls back with where the messages of the frame lie, which was encoded for this segment and offset.
    pub fn ranges(&self, segment: u32, frame_at: u64, mut f: impl FnMut(QueueId, Range)) {
        let payload_at = frame_at + self.head.len() as u64;
        for c in &self.chunks {
            let offset = ((payload_at + c.at) / ALIGN) as u32;
            for t in self.groups[c.groups.clone()].iter().flat_map(|g| &g.targets) {
                let (first, count, entry) = (t.first.0, t.count, t.entry);
                f(t.queue, Range { first, count, segment, offset, len: c.len, entry, shares: c.shares });
            }
        }
    }
}
