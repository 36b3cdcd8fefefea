//! A file of a [`FaultDisk`].

use std::io::{self, IoSlice};

use super::super::{BLOCK, DiskFile};
use super::{Change, Event, FaultDisk, Inode, State, apply, fires, punch};
use crate::sync::lock;

/// See the module.
pub(super) struct FaultFile {
    pub disk: FaultDisk,
    pub inode: usize,
    pub name: String,
    pub life: u64,
    /// Takes whole blocks only.
    pub direct: bool,
}

fn blocks(offset: u64, len: usize) -> std::ops::Range<u64> {
    offset / BLOCK as u64..(offset + len as u64).div_ceil(BLOCK as u64)
}

impl FaultFile {
    /// Past the cache, only whole blocks are taken.
    fn check(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let whole = |n: usize| n.is_multiple_of(BLOCK);
        if self.direct && !(whole(offset as usize) && whole(buf.as_ptr().addr()) && whole(buf.len())) {
            return Err(io::Error::other("past the cache, but not of whole blocks"));
        }
        Ok(())
    }

    /// What is read or written goes into the cache, or out of it.
    fn pass_cache(&self, inode: &mut Inode, offset: u64, len: usize) {
        for block in blocks(offset, len) {
            if self.direct {
                inode.cached.remove(&block);
            } else {
                inode.cached.insert(block);
            }
        }
    }

    /// What it is called now; else what it was called when it was opened.
    fn name(&self, s: &State) -> String {
        s.names.iter().find(|(_, inode)| **inode == self.inode).map_or(&self.name, |(name, _)| name).clone()
    }

    fn state(&self) -> io::Result<std::sync::MutexGuard<'_, State>> {
        let s = lock(&self.disk.state);
        if s.life == self.life { Ok(s) } else { Err(io::Error::other("the handle is from before the crash")) }
    }
}

impl DiskFile for FaultFile {
    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut s = self.state()?;
        bufs.iter().try_for_each(|b| self.check(offset, b))?;
        let mut data = Vec::new();
        bufs.iter().for_each(|b| data.extend_from_slice(b));
        let powered = s.operate();
        if powered.is_err() || fires(&mut s.faults.fail_write) {
            // A failing write may leave a part behind.
            let cut = s.below(data.len() as u64 + 1) as usize;
            data.truncate(cut);
            s.inodes[self.inode].limbo.push(Change::Bytes(offset, data));
            return powered.and(Err(io::Error::other("injected: write")));
        }
        if s.faults.short_writes && data.len() > 1 && s.below(3) == 0 {
            let cut = 1 + s.below(data.len() as u64 - 1) as usize;
            data.truncate(cut);
        }
        let (used, end) = (s.used(), offset + data.len() as u64);
        let grows = end.saturating_sub(s.inodes[self.inode].current.len() as u64);
        if s.faults.capacity.is_some_and(|c| used + grows > c) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (file, len) = (self.name(&s), data.len());
        s.events.push(Event::Write { file, offset, len });
        let change = Change::Bytes(offset, data);
        let inode = &mut s.inodes[self.inode];
        apply(&mut inode.current, &change);
        inode.pending.push(change);
        self.pass_cache(inode, offset, len);
        // The page holds the new bytes now: what a failed sync dropped there cannot come back behind them.
        inode.limbo = std::mem::take(&mut inode.limbo).into_iter().flat_map(|c| punch(c, offset, end)).collect();
        Ok(len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.check(offset, buf)?;
        let mut s = self.state()?;
        let inode = &mut s.inodes[self.inode];
        let bytes = inode.current.get(offset as usize..).unwrap_or_default();
        let n = bytes.len().min(buf.len());
        buf[..n].copy_from_slice(&bytes[..n]);
        if !self.direct {
            self.pass_cache(inode, offset, n);
        }
        Ok(n)
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        let is_cached =
            self.state().is_ok_and(|s| blocks(offset, buf.len()).all(|b| s.inodes[self.inode].cached.contains(&b)));
        is_cached && self.read_at(offset, buf).is_ok_and(|n| n == buf.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut s = self.state()?;
        let result = s.operate();
        let ok = result.is_ok() && !fires(&mut s.faults.fail_sync);
        let file = self.name(&s);
        s.events.push(Event::Sync { file, ok });
        let inode = &mut s.inodes[self.inode];
        let pending = std::mem::take(&mut inode.pending);
        if ok {
            pending.iter().for_each(|c| apply(&mut inode.durable, c));
            return Ok(());
        }
        inode.limbo.extend(pending);
        result.and(Err(io::Error::other("injected: sync")))
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut s = self.state()?;
        s.operate()?;
        let grows = bytes.saturating_sub(s.inodes[self.inode].current.len() as u64);
        if s.faults.capacity.is_some_and(|c| s.used() + grows > c) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = &mut s.inodes[self.inode];
        apply(&mut inode.current, &Change::Size(bytes));
        inode.pending.push(Change::Size(bytes));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.state()?.inodes[self.inode].current.len() as u64)
    }
}
