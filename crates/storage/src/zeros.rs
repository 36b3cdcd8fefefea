//! Filling the next segment with zeros, ahead of the log.
//!
//! The first write to a block that was only reserved changes the file's metadata, which its sync then writes too, through the
//! file system's journal. Where the block was written before there is nothing to sync but the data. Recycled segments are like
//! that; new ones become so here, while commits are small. What is committed in large pieces would only be written twice.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::commit::is_full;
use crate::disk::{BLOCK, DiskFile};
use crate::engine::Shared;
use crate::maintain::Maintenance;
use crate::pages::Pages;
use crate::segment::SegmentId;
use crate::sync::lock;

/// What is written at once: a commit may have to wait for it. Smaller pieces cost more than they save.
const PIECE_BYTES: u64 = 1 << 20;
/// Commits that are larger on average gain less than the zeros cost.
const COMMIT_BYTES_MAX: u64 = 256 << 10;
/// A segment is filled once this part of the one before is used: a log that hardly grows needs no zeros.
const USED_PART: u64 = 4;

/// How far a segment is filled.
pub struct Zeroed {
    id: SegmentId,
    direct: Arc<dyn DiskFile>,
    at: u64,
    zeros: Pages,
}

impl Zeroed {
    /// Writes the next piece, and says whether there was one.
    fn go_on(&mut self, capacity: u64) -> io::Result<bool> {
        let len = (capacity.saturating_sub(self.at)).min(PIECE_BYTES) as usize / BLOCK * BLOCK;
        if len == 0 {
            return Ok(false);
        }
        let written = self.direct.write_at(self.at, &[IoSlice::new(&self.zeros[..len])])?;
        self.at += (written / BLOCK * BLOCK) as u64;
        Ok(true)
    }
}

impl Shared {
    /// Writes some zeros to the prepared segment, if that is worth it, and says whether there may be more to do.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn zero_ahead(&self, m: &mut Maintenance) -> io::Result<bool> {
        // The committer takes the segment under this lock: from then on nothing of it is touched here.
        let prepared = lock(&self.prepared);
        let Some((file, header)) = prepared.as_ref().filter(|(_, h)| self.fresh.load(Relaxed) == h.id.0) else {
            m.zeroed = None;
            return Ok(false);
        };
        if m.zeroed.as_ref().is_none_or(|z| z.id != header.id) {
            m.zeroed = None;
            if !self.is_worth_zeros() {
                return Ok(false);
            }
            let Some(direct) = self.disk.open_direct(&header.id.file_name()) else { return Ok(false) };
            // The first block has the header, and was written with it.
            let zeros = Pages::new(PIECE_BYTES as usize)?;
            m.zeroed = Some(Zeroed { id: header.id, direct, at: BLOCK as u64, zeros });
        }
        let Some(zeroed) = &mut m.zeroed else { return Ok(false) };
        match zeroed.go_on(header.capacity) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            // Whole blocks are not what this disk wants; or it reserves nothing, and has no room for zeros.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput || is_full(&e) => {}
            Err(e) => return Err(e),
        }
        self.fresh.store(0, Relaxed);
        m.zeroed = None;
        let file = Arc::clone(file);
        drop(prepared);
        file.sync_data()?;
        Ok(false)
    }

    fn is_worth_zeros(&self) -> bool {
        let Some(active) = self.index.segment(self.active_id()).filter(|_| self.cfg.zero_ahead) else { return false };
        active.commits().1 >= active.capacity() / USED_PART && active.commits_are_below(COMMIT_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EngineConfig;
    use crate::disk::Disk;
    use crate::disk::fault::refusing::Refusing;
    use crate::disk::fault::{Event, FaultDisk};
    use crate::engine::Engine;
    use waypost_model::journal::{Journal, Op};

    /// The offsets up to which the second segment was written before a frame lay there.
    fn zeros(cfg: EngineConfig, value: usize, spare: bool) -> u64 {
        let disk = FaultDisk::new(3);
        if spare {
            Engine::open(Arc::new(disk.clone()), cfg.clone()).unwrap().0.close().unwrap();
            disk.kill();
            disk.remove("seg-00000002").unwrap();
            disk.put("spare-00000009", vec![7; cfg.segment_bytes as usize]);
        }
        let (e, _) = Engine::open(Arc::new(disk.clone()), cfg.clone()).unwrap();
        let mut used = 0;
        while used < cfg.segment_bytes / 2 {
            let value = vec![1; value].into_boxed_slice();
            e.append(vec![Op::Define { key: b"k".as_slice().into(), value: Some(value) }]).unwrap();
            let _ = e.commit_once();
            used = e.metrics().written_bytes;
            e.maintain_once();
        }
        for _ in 0..10 {
            e.maintain_once();
        }
        let to = |event| match event {
            Event::Write { file, offset, len } if file == "seg-00000002" && offset > 0 => offset + len as u64,
            _ => 0,
        };
        disk.take_events().into_iter().map(to).max().unwrap_or(0)
    }

    #[test]
    fn a_new_segment_is_filled_while_commits_are_small() {
        let cfg = || EngineConfig::small();
        assert_eq!(zeros(cfg(), 1000, false), cfg().segment_bytes);
        assert_eq!(zeros(cfg(), 1000, true), 0, "it was written before");
        assert_eq!(zeros(EngineConfig { zero_ahead: false, ..cfg() }, 1000, false), 0);
        let large = EngineConfig { segment_bytes: 4 << 20, ..cfg() };
        assert_eq!(zeros(large, 600_000, false), 0);
    }

    #[test]
    fn a_disk_without_room_for_zeros_goes_on_without_them() {
        let disk = FaultDisk::new(3);
        let (e, _) = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap();
        let next = SegmentId(2);
        let shared = &e.shared;
        shared.fresh.store(next.0, Relaxed);
        let direct: Arc<dyn DiskFile> =
            Arc::new(Refusing(disk.open(&next.file_name()).unwrap(), io::ErrorKind::StorageFull));
        let zeroed = Zeroed { id: next, direct, at: BLOCK as u64, zeros: Pages::new(PIECE_BYTES as usize).unwrap() };
        lock(&shared.maintenance).zeroed = Some(zeroed);
        assert!(!shared.zero_once() && !e.is_stopped());
        assert!(lock(&shared.maintenance).zeroed.is_none(), "it is not tried again");
        assert_eq!(shared.fresh.load(Relaxed), 0);
    }
}
