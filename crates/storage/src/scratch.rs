//! The scratch log: transient messages that had to leave memory. Never synced, deleted at start.

use std::io;
use std::sync::{Arc, Mutex};

use waypost_model::Batch;
use waypost_model::journal::SpillRef;

use crate::chunk::{self, Lengths, Piece};
use crate::disk::{Disk, DiskFile, read_exact, write_all};
use crate::hash::IdMap;
use crate::sync::lock;

struct ScratchSegment {
    file: Arc<dyn DiskFile>,
    used: u64,
    /// Ranges that were not released.
    ranges: u64,
}

#[derive(Default)]
struct State {
    segments: IdMap<u64, ScratchSegment>,
    active: u64,
    bytes: u64,
}

/// The scratch log.
pub struct Scratch {
    state: Mutex<State>,
    segment_bytes: u64,
    bytes_max: u64,
}

fn name(segment: u64) -> String {
    format!("scratch-{segment:08x}")
}

impl Scratch {
    pub fn new(segment_bytes: u64, bytes_max: u64) -> Scratch {
        Scratch { state: Mutex::default(), segment_bytes, bytes_max }
    }

    /// Bytes that its files take.
    pub fn bytes(&self) -> u64 {
        lock(&self.state).bytes
    }

    pub fn spill(&self, disk: &dyn Disk, batch: &Batch, from: u32, to: u32) -> io::Result<SpillRef> {
        let slots = batch.slots().get(from as usize..to as usize).ok_or(io::ErrorKind::InvalidInput)?;
        let mut lengths = Lengths::default();
        slots.iter().for_each(|s| lengths.note(s));
        let bytes = lengths.encoded_len();
        let len = u32::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let (file, at) = self.claim(disk, bytes, len)?;
        let mut out = Vec::new();
        let piece = Piece { batch, from, to };
        chunk::encode(&mut out, &lengths, std::iter::once(piece), chunk::seed(at.segment as u32, at.offset));
        // The lock is not held: other spills go to their own places meanwhile.
        write_all(&*file, at.offset, &mut [&out]).inspect_err(|_| self.release(disk, at))?;
        Ok(at)
    }

    fn claim(&self, disk: &dyn Disk, bytes: u64, len: u32) -> io::Result<(Arc<dyn DiskFile>, SpillRef)> {
        let mut s = lock(&self.state);
        if s.bytes + bytes > self.bytes_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let active = s.active;
        let fits = s.segments.get(&active).is_some_and(|g| g.used + bytes <= self.segment_bytes);
        if !fits {
            let next = active + 1;
            let file = disk.create(&name(next))?;
            s.segments.insert(next, ScratchSegment { file, used: 0, ranges: 0 });
            s.active = next;
            if s.segments.get(&active).is_some_and(|g| g.ranges == 0) {
                s.drop_segment(disk, active);
            }
        }
        s.bytes += bytes;
        let segment = s.active;
        let g = s.segments.get_mut(&segment).ok_or(io::ErrorKind::NotFound)?;
        let at = SpillRef { segment, offset: g.used, len };
        g.used += bytes;
        g.ranges += 1;
        Ok((Arc::clone(&g.file), at))
    }

    pub fn release(&self, disk: &dyn Disk, at: SpillRef) {
        let mut s = lock(&self.state);
        let is_active = s.active == at.segment;
        let Some(g) = s.segments.get_mut(&at.segment) else { return };
        g.ranges = g.ranges.saturating_sub(1);
        if g.ranges == 0 && !is_active {
            s.drop_segment(disk, at.segment);
        } else if g.ranges == 0 {
            // The active one begins again: its file takes no more room than it did.
            let used = std::mem::take(&mut g.used);
            s.bytes -= used;
        }
    }

    pub fn load(&self, at: SpillRef) -> io::Result<Arc<Batch>> {
        let file = lock(&self.state).segments.get(&at.segment).map(|g| Arc::clone(&g.file));
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; at.len as usize];
        read_exact(&*file, at.offset, &mut bytes)?;
        if !chunk::is_intact(&bytes, chunk::seed(at.segment as u32, at.offset)) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a spilled range's checksum is wrong"));
        }
        chunk::decode(bytes, u32::MAX).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

impl State {
    fn drop_segment(&mut self, disk: &dyn Disk, segment: u64) {
        if let Some(g) = self.segments.remove(&segment) {
            self.bytes -= g.used;
            // What cannot be removed now is removed at the next start.
            let _ = disk.remove(&name(segment));
        }
    }
}
