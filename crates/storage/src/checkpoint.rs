//! The checkpoint: what recovery knows without reading the log before a position.
//!
//! ```text
//! magic u32 | version u32 | crc u32 over the rest | 0 u32 | body length u64 | body
//! ```

use std::io;

use crate::definitions::Definitions;
use crate::disk::{Disk, read_exact, write_all};
use crate::hash::IdMap;
use crate::index::{Index, QueueIndex};
use crate::log::Position;
use crate::segment::{FORMAT_VERSION, SegmentId};
use crate::wire::{Malformed, Reader, put_bytes, put_u32, put_u64, put_varint};

/// Its name.
pub const CHECKPOINT: &str = "checkpoint";
const CHECKPOINT_TMP: &str = "checkpoint.tmp";
const MAGIC: u32 = u32::from_le_bytes(*b"WPCK");
const HEADER: usize = 24;

/// The part that is not per queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointHead {
    /// Rises with every checkpoint.
    pub generation: u64,
    /// Rises with every open.
    pub epoch: u32,
    /// Whether the log ends exactly at `position`, and nobody had the store open since.
    pub clean: bool,
    /// Operations behind it are replayed.
    pub position: Position,
    /// The number of the next cold segment.
    pub next_cold: u32,
    /// The segments that are needed, but for those of the log behind `position`.
    pub segments: Vec<SegmentId>,
}

/// One queue at the time of the checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    pub next: u64,
    /// First place and one behind the last, in order.
    pub live: Vec<(u64, u64)>,
    /// Failed deliveries: first place, one behind the last, how many.
    pub failed: Vec<(u64, u64, u32)>,
}

/// A checkpoint that was read.
#[derive(Debug)]
pub struct Checkpoint {
    pub head: CheckpointHead,
    pub definitions: Definitions,
    pub queues: IdMap<u64, QueueState>,
}

/// Why there is no checkpoint.
#[derive(Debug)]
pub enum CheckpointFault {
    Io(io::Error),
    /// It was written in this other version of the format.
    Version(u32),
    Damaged(Malformed),
}

impl From<Malformed> for CheckpointFault {
    fn from(e: Malformed) -> CheckpointFault {
        CheckpointFault::Damaged(e)
    }
}

/// The bytes of a checkpoint. Queues are noted shard by shard, each as it is at that moment.
pub fn encode(head: &CheckpointHead, definitions: &Definitions, index: &Index) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    put_u64(&mut out, head.generation);
    put_u32(&mut out, head.epoch);
    out.push(u8::from(head.clean));
    put_u32(&mut out, head.position.segment.0);
    put_u64(&mut out, head.position.offset);
    put_u32(&mut out, head.next_cold);
    put_varint(&mut out, head.segments.len() as u64);
    head.segments.iter().for_each(|s| put_u32(&mut out, s.0));
    put_varint(&mut out, definitions.len() as u64);
    for (key, value) in definitions.iter() {
        put_bytes(&mut out, key);
        put_bytes(&mut out, value);
    }
    for n in 0..waypost_model::SHARDS {
        let shard = index.shard(n);
        put_varint(&mut out, shard.len() as u64);
        for (id, queue) in shard.iter() {
            put_queue(&mut out, *id, queue);
        }
    }
    seal(&mut out);
    out
}

fn seal(out: &mut [u8]) {
    let body = (out.len() - HEADER) as u64;
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&body.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[..8]), &out[12..]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
}

/// Places that follow each other are one interval, wherever they lie.
fn put_queue(out: &mut Vec<u8>, id: u64, queue: &QueueIndex) {
    put_varint(out, id);
    put_varint(out, queue.next);
    let mut intervals: Vec<(u64, u64)> = Vec::new();
    for r in queue.live.iter() {
        match intervals.last_mut() {
            Some((_, end)) if *end == r.first => *end = r.end(),
            _ => intervals.push((r.first, r.end())),
        }
    }
    put_varint(out, intervals.len() as u64);
    let mut at = 0;
    for (first, end) in intervals {
        put_varint(out, first - at);
        put_varint(out, end - first);
        at = end;
    }
    put_varint(out, queue.failed.len() as u64);
    for (first, (end, count)) in &queue.failed {
        put_varint(out, *first);
        put_varint(out, end - first);
        put_varint(out, u64::from(*count));
    }
}

fn read_queue(r: &mut Reader<'_>) -> Result<(u64, QueueState), Malformed> {
    const BEYOND: Malformed = Malformed("checkpoint: place beyond 64 bits");
    let id = r.varint()?;
    let mut state = QueueState { next: r.varint()?, ..QueueState::default() };
    let mut at = 0u64;
    for _ in 0..r.count(2)? {
        let first = at.checked_add(r.varint()?).ok_or(BEYOND)?;
        at = first.checked_add(r.varint()?).ok_or(BEYOND)?;
        state.live.push((first, at));
    }
    for _ in 0..r.count(3)? {
        let first = r.varint()?;
        let end = first.checked_add(r.varint()?).ok_or(BEYOND)?;
        state.failed.push((first, end, r.varint_u32()?));
    }
    Ok((id, state))
}

/// Reads a checkpoint from its bytes.
///
/// # Errors
/// [`CheckpointFault`].
pub fn decode(bytes: &[u8]) -> Result<Checkpoint, CheckpointFault> {
    let mut r = Reader::new(bytes);
    let (magic, version) = (r.u32()?, r.u32()?);
    if magic != MAGIC || version == 0 {
        return Err(Malformed("checkpoint: magic").into());
    }
    if version != FORMAT_VERSION {
        return Err(CheckpointFault::Version(version));
    }
    let (crc, _zero, body) = (r.u32()?, r.u32()?, r.u64()?);
    if crc != crc32c::crc32c_append(crc32c::crc32c(&bytes[..8]), &bytes[12..]) || body != r.left() as u64 {
        return Err(Malformed("checkpoint: checksum").into());
    }
    let mut head = CheckpointHead {
        generation: r.u64()?,
        epoch: r.u32()?,
        clean: r.u8()? != 0,
        position: Position { segment: SegmentId(r.u32()?), offset: r.u64()? },
        next_cold: r.u32()?,
        segments: Vec::new(),
    };
    for _ in 0..r.count(4)? {
        head.segments.push(SegmentId(r.u32()?));
    }
    let mut definitions = Definitions::default();
    for _ in 0..r.count(2)? {
        let (key, value) = (r.bytes()?, r.bytes()?);
        definitions.insert(key, value);
    }
    let mut queues = IdMap::default();
    for _ in 0..waypost_model::SHARDS {
        for _ in 0..r.count(4)? {
            queues.extend([read_queue(&mut r)?]);
        }
    }
    if !r.is_empty() {
        return Err(Malformed("checkpoint: bytes left over").into());
    }
    Ok(Checkpoint { head, definitions, queues })
}

/// Reads the checkpoint of a directory; `None` if there is none.
///
/// # Errors
/// [`CheckpointFault`].
pub fn read(disk: &dyn Disk) -> Result<Option<Checkpoint>, CheckpointFault> {
    let file = match disk.open_read(CHECKPOINT) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(CheckpointFault::Io(e)),
    };
    let len = file.size().map_err(CheckpointFault::Io)?;
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| Malformed("checkpoint: length"))?];
    read_exact(&*file, 0, &mut bytes).map_err(CheckpointFault::Io)?;
    decode(&bytes).map(Some)
}

/// Replaces the checkpoint of a directory. When it returns well, the new one is durable.
///
/// # Errors
/// Any I/O error; the old one is still there, or the new one, but which of them survives a crash is not known.
pub fn write(disk: &dyn Disk, bytes: &[u8]) -> io::Result<()> {
    let file = disk.create(CHECKPOINT_TMP)?;
    // Allocating first makes a full disk show before anything is replaced, and is an error that leaves no doubt.
    file.allocate(bytes.len() as u64)?;
    write_all(&*file, 0, &mut [bytes])?;
    file.sync_data()?;
    disk.rename(CHECKPOINT_TMP, CHECKPOINT)?;
    disk.sync_dir()
}
