//! The end of a segment, in whole blocks.
//!
//! Frames end anywhere; the disk and the system's cache know blocks. Each write begins with what its first block holds
//! already, the same bytes again, and ends with zeros: so no block has to be read before it can be written. A large frame goes
//! past the system's cache, where that is possible: finding pages for it costs more than the write itself.

use std::io::{self, IoSlice};
use std::mem;
use std::sync::Arc;

use crate::disk::{BLOCK, Disk, DiskFile, read_exact, write_all};
use crate::pages::{LARGE, Pages};
use crate::segment::SegmentId;

/// What one write past the cache takes; a longer frame is written in several.
const PIECE_BYTES: usize = LARGE;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// See the module.
pub struct Blocks {
    direct: Option<Arc<dyn DiskFile>>,
    direct_bytes_min: u64,
    /// What the block holds in which the log ends.
    begun: Vec<u8>,
    piece: Piece,
}

impl Blocks {
    /// Goes on at `end` of a segment.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn resume(
        disk: &dyn Disk,
        (id, file): (SegmentId, &dyn DiskFile),
        end: u64,
        direct_bytes_min: u64,
    ) -> io::Result<Blocks> {
        let mut begun = vec![0; (end % BLOCK as u64) as usize];
        read_exact(file, end - begun.len() as u64, &mut begun)?;
        let direct = disk.open_direct(&id.file_name());
        Ok(Blocks { direct, direct_bytes_min, begun, piece: Piece::default() })
    }

    /// Goes on in another segment, of which these bytes are known.
    pub fn begin(&mut self, disk: &dyn Disk, id: SegmentId, begun: Vec<u8>) {
        self.direct = disk.open_direct(&id.file_name());
        self.begun = begun;
    }

    /// Writes a frame at `at`, where the last one ended.
    ///
    /// # Errors
    /// Any I/O error; what is there then is not known.
    pub fn write(&mut self, file: &dyn DiskFile, at: u64, frame: &[&[u8]]) -> io::Result<()> {
        let begun = mem::take(&mut self.begun);
        debug_assert_eq!(at % BLOCK as u64, begun.len() as u64, "the log ends elsewhere");
        let start = at - begun.len() as u64;
        let len: u64 = frame.iter().map(|part| part.len() as u64).sum();
        let used = ((at + len) % BLOCK as u64) as usize;
        let mut parts: Vec<&[u8]> = Vec::with_capacity(frame.len() + 2);
        parts.push(&begun);
        parts.extend_from_slice(frame);
        self.begun = last(&parts, used);
        if used > 0 {
            parts.push(&ZEROS[used..]);
        }
        if self.direct.is_some() && len >= self.direct_bytes_min {
            self.write_direct(file, start, &parts)
        } else {
            write_all(file, start, &mut parts)
        }
    }

    fn write_direct(&mut self, file: &dyn DiskFile, mut at: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut rest = parts.iter().copied();
        let mut part = rest.next().unwrap_or_default();
        loop {
            let piece = self.piece.fill(|room| {
                while part.is_empty() {
                    part = rest.next()?;
                }
                let (now, later) = part.split_at(part.len().min(room));
                part = later;
                Some(now)
            })?;
            if piece.is_empty() {
                return Ok(());
            }
            let written = match self.direct.as_ref().map(|d| d.write_at(at, &[IoSlice::new(piece)])) {
                Some(Ok(n)) => n,
                // What the disk wants is not what we know of it; from now on through the cache.
                Some(Err(e)) if e.kind() == io::ErrorKind::InvalidInput => {
                    self.direct = None;
                    0
                }
                Some(Err(e)) if e.kind() == io::ErrorKind::Interrupted => 0,
                Some(Err(e)) => return Err(e),
                None => 0,
            };
            // A short write ends anywhere, so that the rest of it goes through the cache.
            write_all(file, at + written as u64, &mut [piece.get(written..).unwrap_or_default()])?;
            at += piece.len() as u64;
        }
    }
}

/// The last `n` bytes.
fn last(parts: &[&[u8]], n: usize) -> Vec<u8> {
    let mut found = vec![0; n];
    let mut left = n;
    for part in parts.iter().rev() {
        let take = left.min(part.len());
        found[left - take..left].copy_from_slice(&part[part.len() - take..]);
        left -= take;
    }
    found
}

/// Room for bytes that are written past the cache. Used again, so that its pages are there.
#[derive(Default)]
struct Piece(Option<Pages>);

impl Piece {
    /// Takes what there is, as far as it fits.
    ///
    /// # Errors
    /// The system has no memory.
    fn fill<'a>(&mut self, mut next: impl FnMut(usize) -> Option<&'a [u8]>) -> io::Result<&[u8]> {
        let room = match &mut self.0 {
            Some(room) => room,
            none => none.insert(Pages::new(PIECE_BYTES)?),
        };
        let mut len = 0;
        while len < room.len()
            && let Some(bytes) = next(room.len() - len)
        {
            room[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        }
        Ok(&room[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fault::refusing::Refusing;
    use crate::disk::fault::{Event, FaultDisk, Faults};

    fn bytes(from: usize, n: usize) -> Vec<u8> {
        (from..from + n).map(|i| (i % 251) as u8 + 1).collect()
    }

    /// Frames of these lengths, behind 128 bytes, of which those from `direct_bytes_min` on go past the cache.
    fn written(disk: &FaultDisk, direct_bytes_min: u64, lengths: &[usize]) -> Vec<u8> {
        let (id, size) = (SegmentId(1), 4 << 20);
        let file = disk.create(&id.file_name()).unwrap();
        file.allocate(size).unwrap();
        let mut all = bytes(0, 128);
        write_all(&*file, 0, &mut [&all]).unwrap();
        let mut blocks = Blocks::resume(disk, (id, &*file), 128, direct_bytes_min).unwrap();
        for len in lengths {
            let frame = bytes(all.len(), *len);
            let (a, b) = frame.split_at(len / 3);
            blocks.write(&*file, all.len() as u64, &[a, b]).unwrap();
            all.extend_from_slice(&frame);
            assert_eq!(disk.content(&id.file_name()).unwrap()[..all.len()], all);
        }
        all
    }

    #[test]
    fn frames_of_any_length_lie_one_behind_the_other() {
        let lengths = [8, 4096, 5000, 3968 - 8 - 5000 % 4096, 100_000, 1 << 20, 16, (2 << 20) + 24, 40];
        for direct_bytes_min in [0, 4096, u64::MAX] {
            for short_writes in [false, true] {
                let disk = FaultDisk::new(7);
                disk.set_faults(Faults { short_writes, ..Faults::default() });
                let all = written(&disk, direct_bytes_min, &lengths);
                // Behind the last frame there are zeros to the end of its block, and nothing was lost when it goes on.
                let file = disk.open(&SegmentId(1).file_name()).unwrap();
                let blocks = Blocks::resume(&disk, (SegmentId(1), &*file), all.len() as u64, 0).unwrap();
                assert_eq!(blocks.begun, &all[all.len() / BLOCK * BLOCK..]);
            }
        }
    }

    #[test]
    fn every_write_is_of_whole_blocks() {
        let disk = FaultDisk::new(1);
        let _ = disk.take_events();
        let _ = written(&disk, 4096, &[8, 70_000, 24, 4000, 4096]);
        let writes: Vec<(u64, usize)> = disk
            .take_events()
            .into_iter()
            .filter_map(|e| match e {
                Event::Write { offset, len, .. } => Some((offset, len)),
                _ => None,
            })
            .skip(1)
            .collect();
        assert_eq!(writes, [(0, 4096), (0, 73_728), (69_632, 4096), (69_632, 8192), (73_728, 8192)]);
    }

    #[test]
    fn what_a_disk_cannot_write_past_its_cache_goes_through_it() {
        let disk = FaultDisk::new(1);
        let file = disk.create("seg-00000001").unwrap();
        file.allocate(1 << 20).unwrap();
        let mut blocks = Blocks::resume(&disk, (SegmentId(1), &*file), 0, 0).unwrap();
        blocks.direct = Some(Arc::new(Refusing(Arc::clone(&file), io::ErrorKind::InvalidInput)));
        let frame = bytes(0, 100_000);
        blocks.write(&*file, 0, &[&frame]).unwrap();
        assert_eq!(disk.content("seg-00000001").unwrap()[..100_000], frame);
        assert!(blocks.direct.is_none());
    }
}
