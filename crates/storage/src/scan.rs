//! Reads the frames of a segment one after the other, and tells a torn tail from damage.

use std::io;

use crate::chunk;
use crate::disk::{DiskFile, read_most};
use crate::frame::{self, ALIGN, FRAME_HEADER, FrameHeader, LogOp};
use crate::segment::{FRAMES_AT, SegmentHeader};
use crate::table::ChunkTable;
use crate::wire::Malformed;

/// How much is read at once.
const WINDOW: usize = 1 << 20;

/// A frame that belongs to the log.
pub struct ScannedFrame<'a> {
    /// Where it begins.
    pub offset: u64,
    pub header: FrameHeader,
    pub ops: Vec<LogOp>,
    pub table: &'a ChunkTable,
    /// The bytes of the chunk table.
    pub table_bytes: &'a [u8],
}

/// Where the frames of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanEnd {
    /// One behind the last frame.
    pub end: u64,
    /// The last frame's checksum, or the header's if there is none.
    pub last_crc: u32,
    /// What is wrong with what follows.
    pub reason: &'static str,
    /// Whether what follows has the right checksum, but no meaning: no torn write looks like this.
    pub malformed: bool,
}

/// Why a frame does not belong.
enum Fault {
    Checksum(&'static str),
    Malformed(Malformed),
}

impl From<Malformed> for Fault {
    fn from(e: Malformed) -> Fault {
        Fault::Malformed(e)
    }
}

/// Reads forward through a file, some at a time.
struct Window<'a> {
    file: &'a dyn DiskFile,
    at: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// `len` bytes from `offset` on, or fewer at the end of the file.
    fn get(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let inside = offset >= self.at && offset + len as u64 <= self.at + self.bytes.len() as u64;
        if !inside {
            self.bytes.resize(len.max(WINDOW), 0);
            let n = read_most(self.file, offset, &mut self.bytes)?;
            self.bytes.truncate(n);
            self.at = offset;
        }
        let start = (offset - self.at) as usize;
        let end = (start + len).min(self.bytes.len());
        Ok(&self.bytes[start.min(end)..end])
    }
}

/// Calls back with each frame, in order, until one does not belong.
///
/// # Errors
/// Any I/O error.
pub fn scan(
    file: &dyn DiskFile,
    segment: &SegmentHeader,
    size: u64,
    mut found: impl FnMut(ScannedFrame<'_>),
) -> io::Result<ScanEnd> {
    let mut window = Window { file, at: 0, bytes: Vec::new() };
    let mut end = ScanEnd { end: FRAMES_AT, last_crc: segment.crc, reason: "end of file", malformed: false };
    let mut epoch = 0;
    let mut table = ChunkTable::default();
    loop {
        let room = size.saturating_sub(end.end);
        let head = window.get(end.end, FRAME_HEADER)?;
        let Some(header) = FrameHeader::parse(head, room) else {
            end.reason = "no frame header";
            return Ok(end);
        };
        if header.prev != end.last_crc || header.epoch < epoch {
            end.reason = "the frame does not continue the one before";
            return Ok(end);
        }
        let bytes = window.get(end.end, header.len as usize)?;
        match check(bytes, &header, segment.id.0, end.end, &mut table) {
            Ok(ops) => {
                let at = FRAME_HEADER + header.ops_len as usize;
                let table_bytes = &bytes[at..at + header.table_len as usize];
                found(ScannedFrame { offset: end.end, header, ops, table: &table, table_bytes });
            }
            Err(fault) => {
                (end.reason, end.malformed) = match fault {
                    Fault::Checksum(what) => (what, false),
                    Fault::Malformed(Malformed(what)) => (what, true),
                };
                return Ok(end);
            }
        }
        epoch = header.epoch;
        end.last_crc = header.crc;
        end.end += u64::from(header.len);
    }
}

/// Whether header, operations and chunk table are what was written for this place.
fn is_intact(bytes: &[u8], h: &FrameHeader, segment: u32, offset: u64) -> bool {
    let meta = FRAME_HEADER + h.ops_len as usize + h.table_len as usize;
    h.segment == segment
        && u64::from(h.offset) * ALIGN == offset
        && bytes.get(..meta).is_some_and(|b| frame::checksum(b) == h.crc)
}

/// Checks a frame, and reads its operations and its chunk table.
fn check(
    bytes: &[u8],
    h: &FrameHeader,
    segment: u32,
    offset: u64,
    table: &mut ChunkTable,
) -> Result<Vec<LogOp>, Fault> {
    if bytes.len() < h.len as usize || !is_intact(bytes, h, segment, offset) {
        return Err(Fault::Checksum("the frame's checksum is wrong"));
    }
    let ops_end = FRAME_HEADER + h.ops_len as usize;
    let ops = frame::read_ops(&bytes[FRAME_HEADER..ops_end])?;
    let payload_at = h.payload_at();
    let room = u64::from(h.len) - payload_at;
    table.read(&bytes[ops_end..ops_end + h.table_len as usize], Some(room))?;
    for c in &table.chunks {
        let at = payload_at + c.at;
        let chunk = &bytes[at as usize..(at + u64::from(c.len)) as usize];
        let seed = chunk::seed(segment, offset + at);
        if chunk.get(..4) != Some(&c.crc.to_le_bytes()) || !chunk::is_intact(chunk, seed) {
            return Err(Fault::Checksum("a chunk's checksum is wrong"));
        }
    }
    Ok(ops)
}

/// Looks behind `end` for a frame of this segment that was written when what lies at `end` was already durable; says
/// where it is.
///
/// # Errors
/// Any I/O error.
pub fn find_witness(file: &dyn DiskFile, segment: &SegmentHeader, size: u64, end: u64) -> io::Result<Option<u64>> {
    let mut window = Window { file, at: 0, bytes: Vec::new() };
    let mut at = frame::align(end);
    loop {
        let bytes = window.get(at, WINDOW)?;
        let words = bytes.chunks_exact(ALIGN as usize);
        let hits: Vec<u64> = words.enumerate().filter(|(_, w)| frame::begins(w)).map(|(i, _)| i as u64).collect();
        let read = bytes.len() as u64;
        for hit in hits {
            let place = at + hit * ALIGN;
            let head = window.get(place, FRAME_HEADER)?;
            let header = FrameHeader::parse(head, size.saturating_sub(place));
            let testifies = |h: &FrameHeader| u64::from(h.synced) * ALIGN > end && h.segment == segment.id.0;
            if let Some(h) = header.filter(testifies) {
                let meta = FRAME_HEADER + h.ops_len as usize + h.table_len as usize;
                if is_intact(window.get(place, meta)?, &h, segment.id.0, place) {
                    return Ok(Some(place));
                }
            }
        }
        if read < WINDOW as u64 {
            return Ok(None);
        }
        at += read;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::EngineConfig;
    use crate::disk::fault::FaultDisk;
    use crate::engine::Engine;
    use crate::segment::SegmentId;

    #[test]
    fn what_has_the_right_checksum_but_no_meaning_is_damage_and_no_torn_tail() {
        let disk = FaultDisk::new(1);
        drop(Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap());
        disk.kill();
        let name = SegmentId(1).file_name();
        let mut file = disk.content(&name).unwrap();
        let segment = SegmentHeader::parse(&file, SegmentId(1)).unwrap();
        // One operation of a kind that there is not.
        let mut frame = vec![0; FRAME_HEADER + 8];
        frame[FRAME_HEADER] = 99;
        let place = (FRAMES_AT / ALIGN) as u32;
        let mut header = FrameHeader {
            len: frame.len() as u32,
            crc: 0,
            epoch: segment.epoch,
            segment: 1,
            offset: place,
            prev: segment.crc,
            synced: place,
            ops_len: 1,
            table_len: 0,
            appends: 1,
            first_lsn: 1,
        };
        header.seal(&mut frame);
        file[FRAMES_AT as usize..FRAMES_AT as usize + frame.len()].copy_from_slice(&frame);
        disk.put(&name, file);
        let opened = Engine::open(Arc::new(disk), EngineConfig::small()).map(|_| ());
        assert_eq!(opened.unwrap_err().to_string(), "seg-00000001 is damaged at offset 128: operation: unknown kind");
    }
}
