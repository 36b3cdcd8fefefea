//! Frames: one commit each. The header and the operations; the chunk table is in [`crate::table`].

use waypost_model::journal::Op;
use waypost_model::{QueueId, Seq, SeqRange};

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
