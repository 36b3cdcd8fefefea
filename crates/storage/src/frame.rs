//! Frames: one commit each. The header, the operations, and the chunk table that footers repeat.

use std::sync::Arc;

use waypost_model::journal::Op;
use waypost_model::{AttrFlags, Attrs, Millis, QueueId, Route, Seq, SeqRange};

use crate::wire::{Malformed, Reader, put_bytes, put_u32, put_u64, put_varint};

/// Bytes before the operations.
pub const FRAME_HEADER: usize = 56;
/// Frames and chunks begin at multiples of this.
pub const ALIGN: u64 = 8;

const MAGIC: u32 = u32::from_le_bytes(*b"WPFR");
const OP_SETTLE: u8 = 1;
const OP_REQUEUED: u8 = 2;
const OP_FORGET: u8 = 3;
const OP_DEFINE: u8 = 4;
const OP_UNDEFINE: u8 = 5;

/// The next multiple of [`ALIGN`].
pub fn align(n: u64) -> u64 {
    n.next_multiple_of(ALIGN)
}

/// Over header, operations and chunk table, but for the place of the checksum itself.
pub fn checksum(meta: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&meta[..8]), &meta[12..])
}

/// Whether these bytes begin like a frame.
pub fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC.to_le_bytes())
}

/// The fixed part of a frame. What it says is not trusted before the checksum was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The whole frame, bytes; a multiple of [`ALIGN`].
    pub len: u32,
    /// Over the rest of the header, the operations and the chunk table.
    pub crc: u32,
    /// Rises with every open of the store.
    pub epoch: u32,
    /// Which segment it was written for.
    pub segment: u32,
    /// Where in the segment, in units of [`ALIGN`].
    pub offset: u32,
    /// The predecessor's `crc`, or the segment header's.
    pub prev: u32,
    /// Up to where the segment was durable when this was written, in units of [`ALIGN`].
    pub synced: u32,
    pub ops_len: u32,
    pub table_len: u32,
    /// How many appends it holds.
    pub appends: u32,
    /// The ticket of the first of them, in the process that wrote it.
    pub first_lsn: u64,
}

impl FrameHeader {
    /// Writes the header into the first bytes of `out`, which already holds operations and chunk table, and returns
    /// the checksum.
    pub fn seal(&mut self, out: &mut [u8]) -> u32 {
        let mut head = Vec::with_capacity(FRAME_HEADER);
        for v in [MAGIC, self.len, 0, self.epoch, self.segment, self.offset, self.prev, self.synced] {
            put_u32(&mut head, v);
        }
        for v in [self.ops_len, self.table_len, self.appends, 0] {
            put_u32(&mut head, v);
        }
        put_u64(&mut head, self.first_lsn);
        out[..FRAME_HEADER].copy_from_slice(&head);
        let meta = FRAME_HEADER + self.ops_len as usize + self.table_len as usize;
        self.crc = checksum(&out[..meta]);
        out[8..12].copy_from_slice(&self.crc.to_le_bytes());
        self.crc
    }

    /// Reads a header and checks that its lengths agree with each other and with the room that is left.
    pub fn parse(bytes: &[u8], room: u64) -> Option<FrameHeader> {
        let mut r = Reader::new(bytes);
        if r.u32().ok()? != MAGIC {
            return None;
        }
        let mut next = || r.u32().ok();
        let (len, crc, epoch, segment) = (next()?, next()?, next()?, next()?);
        let (offset, prev, synced) = (next()?, next()?, next()?);
        let (ops_len, table_len, appends, flags) = (next()?, next()?, next()?, next()?);
        let first_lsn = r.u64().ok()?;
        let h = FrameHeader { len, crc, epoch, segment, offset, prev, synced, ops_len, table_len, appends, first_lsn };
        let fits = u64::from(len) <= room && h.payload_at() <= u64::from(len) && u64::from(len) % ALIGN == 0;
        (fits && flags == 0).then_some(h)
    }

    /// Where in the frame the chunks begin.
    pub fn payload_at(&self) -> u64 {
        align(FRAME_HEADER as u64 + u64::from(self.ops_len) + u64::from(self.table_len))
    }
}

/// Messages of a chunk that belong to one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub queue: QueueId,
    pub first: Seq,
    /// Which of the chunk's messages has the place `first`.
    pub entry: u32,
    pub count: u32,
}

/// Messages of a chunk with equal facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub count: u32,
    /// Index into the table's routes.
    pub route: u32,
    pub attrs: Attrs,
    pub at: Millis,
    /// Bytes of properties and bodies.
    pub payload: u64,
    /// Whether all have the same length.
    pub uniform: bool,
}

/// A chunk, as the chunk table tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// From the beginning of the frame's chunks, bytes.
    pub at: u64,
    pub len: u32,
    pub crc: u32,
    pub entries: u32,
    pub runs: Vec<Run>,
    pub targets: Vec<Target>,
}

impl ChunkEntry {
    /// How many messages in queues it holds: one that went to two queues counts twice.
    pub fn shares(&self) -> u32 {
        self.targets.iter().fold(0, |n, t| n.saturating_add(t.count))
    }
}

/// A frame's routes and chunks.
#[derive(Clone, Debug, Default)]
pub struct ChunkTable {
    pub routes: Vec<Arc<Route>>,
    pub chunks: Vec<ChunkEntry>,
    pub extent: Extent,
}

/// What a frame's messages take in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of its chunks, without what fills up to the next one's beginning.
    pub chunks: u64,
    /// Bytes of everything but operations: chunks, header, and the chunk table, which the footer repeats.
    pub all: u64,
}

impl Extent {
    /// Of a frame with a chunk table of `table` bytes and chunks of these lengths.
    pub fn of(table: usize, chunks: impl Iterator<Item = u32>) -> Extent {
        let (chunks, filled) = chunks.fold((0, 0), |(n, filled), len| (n + u64::from(len), filled + align(len.into())));
        Extent { chunks, all: FRAME_HEADER as u64 + 2 * table as u64 + filled }
    }
}

pub fn put_route(out: &mut Vec<u8>, route: &Route) {
    put_bytes(out, route.exchange.as_bytes());
    put_bytes(out, &route.routing_key);
}

/// Writes a chunk's entry. The checksums follow behind all entries, since they are known last.
pub fn put_chunk(out: &mut Vec<u8>, at: u64, len: u32, entries: u32, runs: &[Run], targets: &[Target]) {
    put_varint(out, at);
    put_varint(out, u64::from(len));
    put_varint(out, u64::from(entries));
    put_varint(out, runs.len() as u64);
    for run in runs {
        put_varint(out, u64::from(run.count));
        put_varint(out, u64::from(run.route));
        out.extend_from_slice(&[run.attrs.flags.0, run.attrs.priority, u8::from(run.uniform)]);
        put_varint(out, run.attrs.expiration.map_or(0, |e| u64::from(e) + 1));
        put_varint(out, run.at.0);
        put_varint(out, run.payload);
    }
    put_varint(out, targets.len() as u64);
    for t in targets {
        put_varint(out, t.queue.0);
        put_varint(out, t.first.0);
        put_varint(out, u64::from(t.entry));
        put_varint(out, u64::from(t.count));
    }
}

fn read_run(r: &mut Reader<'_>) -> Result<Run, Malformed> {
    let (count, route) = (r.varint_u32()?, r.varint_u32()?);
    let [flags, priority, uniform] = r.array()?;
    let expiration = match r.varint()? {
        0 => None,
        e => Some(u32::try_from(e - 1).map_err(|_| Malformed("run: expiration"))?),
    };
    let attrs = Attrs { flags: AttrFlags(flags), priority, expiration };
    Ok(Run { count, route, attrs, at: Millis(r.varint()?), payload: r.varint()?, uniform: uniform != 0 })
}

fn read_target(r: &mut Reader<'_>) -> Result<Target, Malformed> {
    let (queue, first) = (QueueId(r.varint()?), Seq(r.varint()?));
    let (entry, count) = (r.varint_u32()?, r.varint_u32()?);
    first.0.checked_add(u64::from(count)).ok_or(Malformed("target: beyond the last place"))?;
    Ok(Target { queue, first, entry, count })
}

fn read_chunk(r: &mut Reader<'_>, routes: usize) -> Result<ChunkEntry, Malformed> {
    let (at, len, entries) = (r.varint()?, r.varint_u32()?, r.varint_u32()?);
    let n = r.count(8)?;
    let mut runs = Vec::with_capacity(n);
    let mut left = entries;
    for _ in 0..n {
        let run = read_run(r)?;
        left = left.checked_sub(run.count).ok_or(Malformed("chunk: runs beyond its messages"))?;
        if run.route as usize >= routes {
            return Err(Malformed("chunk: unknown route"));
        }
        runs.push(run);
    }
    let n = r.count(4)?;
    let mut targets = Vec::with_capacity(n);
    for _ in 0..n {
        let t = read_target(r)?;
        if u64::from(t.entry) + u64::from(t.count) > u64::from(entries) || t.count == 0 {
            return Err(Malformed("chunk: target beyond its messages"));
        }
        targets.push(t);
    }
    if left != 0 {
        return Err(Malformed("chunk: messages without a run"));
    }
    Ok(ChunkEntry { at, len, crc: 0, entries, runs, targets })
}

/// Reads a chunk table. `payload` is the room that the frame has for chunks; without it (footers, whose checksum
/// answers for it) the places are not compared.
///
/// # Errors
/// [`Malformed`].
pub fn read_table(bytes: &[u8], payload: Option<u64>) -> Result<ChunkTable, Malformed> {
    let mut table = ChunkTable::default();
    if bytes.is_empty() {
        return Ok(table);
    }
    let mut r = Reader::new(bytes);
    for _ in 0..r.count(2)? {
        let exchange = std::str::from_utf8(r.bytes()?).map_err(|_| Malformed("route: no UTF-8"))?;
        table.routes.push(Arc::new(Route { exchange: exchange.into(), routing_key: r.bytes()?.into(), address: None }));
    }
    for _ in 0..r.count(8)? {
        let chunk = read_chunk(&mut r, table.routes.len())?;
        let end = chunk.at.checked_add(u64::from(chunk.len)).ok_or(Malformed("chunk: beyond the frame"))?;
        if payload.is_some_and(|room| end > room) || chunk.at % ALIGN != 0 {
            return Err(Malformed("chunk: beyond the frame"));
        }
        table.chunks.push(chunk);
    }
    for chunk in &mut table.chunks {
        chunk.crc = r.u32()?;
    }
    table.extent = Extent::of(bytes.len(), table.chunks.iter().map(|c| c.len));
    if r.is_empty() { Ok(table) } else { Err(Malformed("chunk table: bytes left over")) }
}

/// An operation that recovery replays; messages are in the chunk table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOp {
    Settle(SeqRange),
    Requeued { range: SeqRange, delivery_count: u32 },
    Forget(QueueId),
    Define { key: Box<[u8]>, value: Option<Box<[u8]>> },
}

/// Writes an operation; messages are none.
pub fn put_op(out: &mut Vec<u8>, op: &Op) {
    let put_range = |out: &mut Vec<u8>, r: &SeqRange| {
        put_varint(out, r.queue.0);
        put_varint(out, r.first.0);
        put_varint(out, u64::from(r.count));
    };
    match op {
        Op::Enqueue(_) => {}
        Op::Settle(range) => {
            out.push(OP_SETTLE);
            put_range(out, range);
        }
        Op::Requeued { range, delivery_count } => {
            out.push(OP_REQUEUED);
            put_range(out, range);
            put_varint(out, u64::from(*delivery_count));
        }
        Op::Forget(queue) => {
            out.push(OP_FORGET);
            put_varint(out, queue.0);
        }
        Op::Define { key, value } => {
            out.push(if value.is_some() { OP_DEFINE } else { OP_UNDEFINE });
            put_bytes(out, key);
            if let Some(v) = value {
                put_bytes(out, v);
            }
        }
    }
}

fn read_range(r: &mut Reader<'_>) -> Result<SeqRange, Malformed> {
    Ok(SeqRange { queue: QueueId(r.varint()?), first: Seq(r.varint()?), count: r.varint_u32()? })
}

/// Reads the operations of a frame.
///
/// # Errors
/// [`Malformed`].
pub fn read_ops(bytes: &[u8]) -> Result<Vec<LogOp>, Malformed> {
    let mut r = Reader::new(bytes);
    let mut ops = Vec::new();
    while !r.is_empty() {
        ops.push(match r.u8()? {
            OP_SETTLE => LogOp::Settle(read_range(&mut r)?),
            OP_REQUEUED => LogOp::Requeued { range: read_range(&mut r)?, delivery_count: r.varint_u32()? },
            OP_FORGET => LogOp::Forget(QueueId(r.varint()?)),
            OP_DEFINE => LogOp::Define { key: r.bytes()?.into(), value: Some(r.bytes()?.into()) },
            OP_UNDEFINE => LogOp::Define { key: r.bytes()?.into(), value: None },
            _ => return Err(Malformed("operation: unknown kind")),
        });
    }
    Ok(ops)
}
