//! Chunks: the bytes of many messages, as they lie in a segment or in the scratch log.
//!
//! ```text
//! crc u32 | entries u32 | kind u8, 3 bytes 0 | properties u32 | body u32 | lengths | properties and body, …
//! ```
//! Kind 0: all messages have the two lengths of the header. Kind 1: a pair of u16 per message. Kind 2: a pair of u32.

use std::io;
use std::sync::Arc;

use waypost_model::{Batch, Slot};

use crate::disk::{DiskFile, read_exact};
use crate::segment::SegmentId;
use crate::wire::{Malformed, Reader, put_u32};

/// A chunk is closed when it holds this much; a single larger message still gets one.
pub const CHUNK_BYTES_MAX: u64 = 256 << 10;
/// A chunk is closed when it holds this many messages, so that its slots stay small beside its bytes.
pub const CHUNK_ENTRIES_MAX: u32 = 32 << 10;
/// Bytes before the lengths.
pub const CHUNK_HEADER: usize = 20;
/// Bytes of the checksum, with which a chunk begins and which does not cover itself.
pub const CRC_BYTES: usize = 4;

/// What is known of the lengths of a chunk's messages before it is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lengths {
    entries: u32,
    first: (u32, u32),
    uniform: bool,
    max: u32,
    payload: u64,
}

impl Lengths {
    /// Takes note of a message.
    pub fn note(&mut self, slot: &Slot) {
        let pair = (slot.props_len, slot.body_len);
        if self.entries == 0 {
            self.first = pair;
            self.uniform = true;
        }
        self.uniform &= pair == self.first;
        self.max = self.max.max(pair.0).max(pair.1);
        self.entries += 1;
        self.payload += u64::from(pair.0) + u64::from(pair.1);
    }

    /// Takes note of another chunk's messages, which follow in this one.
    pub fn append(&mut self, other: &Lengths) {
        if self.entries == 0 {
            *self = *other;
            return;
        }
        self.uniform &= other.uniform && self.first == other.first;
        self.max = self.max.max(other.max);
        self.entries += other.entries;
        self.payload += other.payload;
    }

    /// How many messages.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Bytes of properties and bodies.
    pub fn payload(&self) -> u64 {
        self.payload
    }

    /// Whether all have the same lengths.
    pub fn is_uniform(&self) -> bool {
        self.uniform
    }

    /// How long the chunk will be.
    pub fn encoded_len(&self) -> u64 {
        let each = [0, 4, 8][usize::from(self.kind())];
        CHUNK_HEADER as u64 + each * u64::from(self.entries) + self.payload
    }

    fn kind(&self) -> u8 {
        match (self.uniform, self.max) {
            (true, _) => 0,
            (false, 0..=0xffff) => 1,
            (false, _) => 2,
        }
    }
}

/// A run of messages to write: part of a batch.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    pub batch: &'a Batch,
    pub from: u32,
    pub to: u32,
}

impl<'a> Piece<'a> {
    fn slots(&self) -> &'a [Slot] {
        &self.batch.slots()[self.from as usize..self.to as usize]
    }
}

/// Ties a chunk to its place, so that one read from elsewhere does not pass.
pub fn seed(segment: u32, offset: u64) -> u32 {
    segment.wrapping_mul(0x9e37_79b9) ^ (offset as u32) ^ ((offset >> 32) as u32)
}

/// Appends a chunk to `out` and returns its checksum.
pub fn encode<'a>(
    out: &mut Vec<u8>,
    lengths: &Lengths,
    pieces: impl Iterator<Item = Piece<'a>> + Clone,
    seed: u32,
) -> u32 {
    let start = out.len();
    out.reserve(CHUNK_HEADER + lengths.payload as usize + 8 * lengths.entries as usize);
    put_head(out, lengths, pieces.clone());
    for piece in pieces {
        piece.slots().iter().for_each(|s| copy_message(out, piece.batch.data(), s));
    }
    let crc = crc32c::crc32c_append(seed, &out[start + CRC_BYTES..]);
    out[start..start + CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Appends what stands before the messages of a chunk; its checksum is not yet there.
pub fn put_head<'a>(out: &mut Vec<u8>, lengths: &Lengths, pieces: impl Iterator<Item = Piece<'a>>) {
    let kind = lengths.kind();
    put_u32(out, 0);
    put_u32(out, lengths.entries);
    out.extend_from_slice(&[kind, 0, 0, 0]);
    let (props, body) = if kind == 0 { lengths.first } else { (0, 0) };
    put_u32(out, props);
    put_u32(out, body);
    if kind != 0 {
        for slot in pieces.flat_map(|p| p.slots()) {
            if kind == 1 {
                out.extend_from_slice(&(slot.props_len as u16).to_le_bytes());
                out.extend_from_slice(&(slot.body_len as u16).to_le_bytes());
            } else {
                put_u32(out, slot.props_len);
                put_u32(out, slot.body_len);
            }
        }
    }
}

/// Appends properties and body of a message.
pub fn copy_message(out: &mut Vec<u8>, data: &[u8], s: &Slot) {
    let (props, body) = (s.props as usize, s.body as usize);
    if props + s.props_len as usize == body {
        out.extend_from_slice(&data[props..body + s.body_len as usize]);
    } else {
        out.extend_from_slice(&data[props..props + s.props_len as usize]);
        out.extend_from_slice(&data[body..body + s.body_len as usize]);
    }
}

/// Whether the checksum of a chunk fits its bytes and its place.
pub fn is_intact(bytes: &[u8], seed: u32) -> bool {
    match bytes.split_first_chunk::<4>() {
        Some((crc, rest)) if bytes.len() >= CHUNK_HEADER => {
            crc32c::crc32c_append(seed, rest) == u32::from_le_bytes(*crc)
        }
        _ => false,
    }
}

/// Reads a chunk that lies in a segment, and checks it.
///
/// # Errors
/// Any I/O error; `InvalidData` if it is damaged.
pub fn read(file: &dyn DiskFile, segment: SegmentId, offset: u64, len: u32) -> io::Result<Arc<Batch>> {
    let invalid = |what: &dyn std::fmt::Display| {
        let what = format!("{segment} is damaged at offset {offset}: {what}");
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    let mut bytes = vec![0; len as usize];
    read_exact(file, offset, &mut bytes)?;
    if !is_intact(&bytes, seed(segment.0, offset)) {
        return Err(invalid(&"a chunk's checksum is wrong"));
    }
    decode(bytes, CHUNK_ENTRIES_MAX).map_err(|e| invalid(&e))
}

/// Turns the bytes of a chunk of at most `entries_max` messages into a batch, without copying them. The checksum has
/// been looked at before.
///
/// # Errors
/// [`Malformed`] if the lengths do not fit the bytes.
pub fn decode(bytes: Vec<u8>, entries_max: u32) -> Result<Arc<Batch>, Malformed> {
    let slots = slots(&bytes, entries_max)?;
    Ok(Arc::new(Batch::new(bytes, slots).map_err(|_| Malformed("chunk: message outside"))?))
}

/// Where the messages of a chunk lie in it. The checksum has been looked at before.
///
/// # Errors
/// [`Malformed`] if the lengths do not fit the bytes.
pub fn slots(bytes: &[u8], entries_max: u32) -> Result<Vec<Slot>, Malformed> {
    let mut r = Reader::new(bytes);
    let _crc = r.u32()?;
    let entries = r.u32()?;
    let kind = r.u32()?;
    let (props, body) = (r.u32()?, r.u32()?);
    let pair = match kind {
        0 => 0,
        1 => 4,
        2 => 8,
        _ => return Err(Malformed("chunk: unknown kind")),
    };
    let table = u64::from(entries) * pair;
    // Messages of no bytes at all are limited by the number of entries that a chunk can have.
    if entries > entries_max || table > r.left() as u64 {
        return Err(Malformed("chunk: more entries than there is room for"));
    }
    let mut lengths = Reader::new(r.take(table as usize)?);
    let mut at = (bytes.len() - r.left()) as u64;
    let mut slots = Vec::with_capacity(entries as usize);
    for _ in 0..entries {
        let (props_len, body_len) = match kind {
            0 => (props, body),
            1 => (u32::from(u16::from_le_bytes(lengths.array()?)), u32::from(u16::from_le_bytes(lengths.array()?))),
            _ => (lengths.u32()?, lengths.u32()?),
        };
        let body_at = at + u64::from(props_len);
        let end = body_at + u64::from(body_len);
        if end > bytes.len() as u64 || end > u64::from(u32::MAX) {
            return Err(Malformed("chunk: message beyond the end"));
        }
        slots.push(Slot { props: at as u32, props_len, body: body_at as u32, body_len });
        at = end;
    }
    Ok(slots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_model::BatchBuilder;

    fn round_trip(messages: &[(Vec<u8>, Vec<u8>)]) {
        let mut b = BatchBuilder::default();
        let mut lengths = Lengths::default();
        for (p, d) in messages {
            b.push(p, d);
        }
        let batch = b.finish();
        batch.slots().iter().for_each(|s| lengths.note(s));
        let mut out = Vec::new();
        let piece = Piece { batch: &batch, from: 0, to: batch.len() as u32 };
        encode(&mut out, &lengths, std::iter::once(piece), 7);
        assert!(is_intact(&out, 7));
        assert!(!is_intact(&out, 8));
        let back = decode(out, CHUNK_ENTRIES_MAX).unwrap();
        assert_eq!(back.len(), messages.len());
        for (i, (p, d)) in messages.iter().enumerate() {
            assert_eq!((back.props(i as u32), back.body(i as u32)), (&p[..], &d[..]));
        }
    }

    #[test]
    fn the_three_kinds_come_back() {
        round_trip(&[(vec![0, 0], vec![1; 16]), (vec![0, 0], vec![2; 16])]);
        round_trip(&[(vec![0, 0], vec![1; 16]), (vec![0, 0], vec![]), (vec![9; 5], vec![2; 700])]);
        round_trip(&[(vec![0, 0], vec![1; 16]), (vec![0, 0], vec![2; 70_000])]);
    }

    #[test]
    fn absurd_counts_are_refused() {
        let mut bytes = vec![0u8; CHUNK_HEADER];
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(decode(bytes, CHUNK_ENTRIES_MAX).is_err());
    }
}
