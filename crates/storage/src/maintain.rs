//! What goes on beside the commits: preparing segments, checkpoints, releasing, rewriting.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;
use std::{io, mem};

use waypost_model::Lsn;

use crate::checkpoint::{self, CheckpointHead};
use crate::commit::is_full;
use crate::disk::{DiskFile, discard};
use crate::engine::Shared;
use crate::log::Position;
use crate::segment::{Segment, SegmentHeader, SegmentId, prepare};
use crate::sync::{lock, wait};
use crate::zeros::Zeroed;

/// How often maintenance looks whether there is something to do.
const MAINTENANCE_EVERY: Duration = Duration::from_millis(200);
/// Between two pieces of zeros.
const ZEROS_PAUSE: Duration = Duration::from_millis(2);
/// The name of the room that is kept back for checkpoints.
const RESERVE: &str = "reserve";

/// A segment that is allocated and has its header, but no frames.
pub type Prepared = (Arc<dyn DiskFile>, SegmentHeader);

/// What only maintenance knows.
pub struct Maintenance {
    /// The last checkpoint.
    pub head: CheckpointHead,
    /// Released segments whose files somebody may still be reading.
    pub retired: Vec<Arc<Segment>>,
    pub has_reserve: bool,
    /// How far the prepared segment is filled with zeros.
    pub zeroed: Option<Zeroed>,
}

/// What a step of maintenance did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Whether the next segment was prepared.
    pub prepared: bool,
    /// Whether a checkpoint was written.
    pub checkpointed: bool,
    /// How many segments were released.
    pub released: u32,
    /// How many segments had their survivors rewritten.
    pub rewritten: u32,
    /// Whether zeros were written to the next segment.
    pub zeroed: bool,
}

impl Maintained {
    /// Whether anything was done.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Maintained::default()
    }
}

impl Shared {
    /// Until the end: rounds now and then, and whenever one is due.
    pub fn run_maintenance(&self) {
        let mut due = lock(&self.maintenance_due.0);
        while !self.ending.load(Acquire) && !self.is_stopped() {
            if !std::mem::take(&mut *due) {
                due = wait(&self.maintenance_due.1, due, Some(MAINTENANCE_EVERY));
                *due = false;
            }
            drop(due);
            self.spans.trim();
            let mut zeroed = self.maintain_once().zeroed;
            due = lock(&self.maintenance_due.0);
            // Commits come first: they find the disk free most of the time.
            while zeroed && !*due && !self.ending.load(Acquire) {
                due = wait(&self.maintenance_due.1, due, Some(ZEROS_PAUSE));
                drop(due);
                zeroed = self.zero_once();
                due = lock(&self.maintenance_due.0);
            }
        }
    }

    /// One round of maintenance. An I/O error other than a full disk stops the store.
    pub fn maintain_once(&self) -> Maintained {
        let mut done = Maintained::default();
        if self.is_stopped() {
            return done;
        }
        let mut m = lock(&self.maintenance);
        if let Err(e) = self.round(&mut m, &mut done)
            && !is_full(&e)
        {
            self.stop("maintenance", &e);
        }
        done
    }

    /// What an open needs of a round before the first append: room. Copying and releasing wait for the first round.
    pub fn prepare_start(&self, m: &mut Maintenance) {
        let result = self.prepare_ahead().and_then(|_| self.keep_reserve(m));
        if let Err(e) = result
            && !is_full(&e)
        {
            self.stop("maintenance", &e);
        }
    }

    fn round(&self, m: &mut Maintenance, done: &mut Maintained) -> io::Result<()> {
        done.prepared = self.prepare_ahead()?;
        self.recycle(m);
        let mut checkpoint = |m: &mut Maintenance| {
            let released = self.checkpoint(m, false)?;
            done.checkpointed |= released.is_some();
            done.released += released.unwrap_or(0);
            io::Result::Ok(())
        };
        if self.checkpoint_is_due(m) {
            checkpoint(m)?;
        }
        let rewritten = self.rewrite(m)?;
        if rewritten > 0 {
            checkpoint(m)?;
        }
        done.rewritten = rewritten;
        self.keep_reserve(m)?;
        done.zeroed = self.zero_ahead(m)?;
        Ok(())
    }

    /// The same as the last step of a round, which has more to do than there is between two pieces.
    pub fn zero_once(&self) -> bool {
        let mut m = lock(&self.maintenance);
        let zeroed = if self.is_stopped() { Ok(false) } else { self.zero_ahead(&mut m) };
        zeroed.unwrap_or_else(|e| {
            self.stop("maintenance", &e);
            false
        })
    }

    fn keep_reserve(&self, m: &mut Maintenance) -> io::Result<()> {
        if m.has_reserve || self.inbox.full.load(Relaxed) { Ok(()) } else { self.make_reserve(m) }
    }

    /// Prepares the next segment if there is none, and says whether messages can be taken. Returns whether it did.
    fn prepare_ahead(&self) -> io::Result<bool> {
        let mut prepared = lock(&self.prepared);
        let missing = prepared.is_none();
        let mut full = false;
        if missing {
            // The committer changes the active segment only while it holds `prepared`.
            let next = SegmentId(self.active_id());
            match self.prepare(&mut prepared, next.next()) {
                Ok(()) => {}
                Err(e) if is_full(&e) => full = true,
                Err(e) => return Err(e),
            }
        }
        drop(prepared);
        full |= self.disk.free_bytes()? < self.cfg.disk_free_min;
        self.inbox.full.store(full, Relaxed);
        Ok(missing && !full)
    }

    /// Prepares the segment `id`, from a spare if there is one.
    pub fn prepare(&self, slot: &mut Option<Prepared>, id: SegmentId) -> io::Result<()> {
        let spare = lock(&self.spares).pop();
        let epoch = self.epoch;
        match prepare(&*self.disk, id, epoch, self.cfg.segment_bytes, spare.as_deref()) {
            Ok(next) => {
                self.fresh.store(if spare.is_none() { id.0 } else { 0 }, Relaxed);
                *slot = Some(next);
                Ok(())
            }
            Err(e) => {
                // A half-made file would hold the very room that is missing.
                discard(&*self.disk, "next.tmp").and_then(|()| self.disk.sync_dir())?;
                Err(e)
            }
        }
    }

    fn checkpoint_is_due(&self, m: &Maintenance) -> bool {
        m.head.position.segment.0 < self.active_id()
            || self.index.segments().iter().any(|s| s.is_sealed() && s.live() == 0)
    }

    /// Writes a checkpoint and releases the segments that it makes superfluous; says how many. `None` if the log owes
    /// answers and nobody is there who would take them: then there is none yet.
    pub fn checkpoint(&self, m: &mut Maintenance, clean: bool) -> io::Result<Option<u32>> {
        let (position, file) = {
            let writer = lock(&self.writer);
            (Position { segment: writer.active.id, offset: writer.end }, Arc::clone(&writer.active.file))
        };
        let is_before = |id: SegmentId| id.is_cold() || id < position.segment;
        let (mut dead, mut needed) = (Vec::new(), Vec::new());
        for s in self.index.segments().iter().filter(|s| s.is_sealed() && is_before(s.id)) {
            if s.live() == 0 { dead.push(s.id) } else { needed.push(s.id) }
        }
        let mut head = m.head.clone();
        head.generation += 1;
        head.epoch = self.epoch;
        (head.clean, head.position, head.segments) = (clean, position, needed);
        let bytes = {
            let definitions = lock(&self.definitions);
            checkpoint::encode(&head, &definitions, &self.index)
        };
        if !self.wait_noted() {
            return if self.is_stopped() { Err(io::Error::other("the store has stopped")) } else { Ok(None) };
        }
        // What lies before the position is read from here, not from the log.
        if self.copies {
            file.sync_data()?;
        }
        self.write_checkpoint(m, &bytes)?;
        self.log.release(position);
        self.metrics.checkpoints.fetch_add(1, Relaxed);
        m.head = head;
        for id in &dead {
            m.retired.extend(self.index.remove_segment(*id));
        }
        self.metrics.released.fetch_add(dead.len() as u64, Relaxed);
        self.recycle(m);
        Ok(Some(dead.len() as u32))
    }

    /// Waits until all is durable of which the index shows an effect; false if that will not be.
    fn wait_noted(&self) -> bool {
        // The committer holds the writer from a frame's first effect until it is noted as under way.
        let last = lock(&self.writer).under_way.back().map(|f| f.last);
        last.is_none_or(|last| self.inbox.wait_durable(last, || Lsn(self.durable.load(Acquire)))) && !self.is_stopped()
    }

    /// With a full disk, the reserve is given up for it.
    fn write_checkpoint(&self, m: &mut Maintenance, bytes: &[u8]) -> io::Result<()> {
        let result = checkpoint::write(&*self.disk, bytes);
        match result {
            Err(e) if is_full(&e) && m.has_reserve => {
                m.has_reserve = false;
                self.disk.remove(RESERVE)?;
                checkpoint::write(&*self.disk, bytes)
            }
            other => other,
        }
    }

    fn make_reserve(&self, m: &mut Maintenance) -> io::Result<()> {
        let file = self.disk.create(RESERVE)?;
        match file.allocate(self.cfg.reserve_bytes) {
            Ok(()) => m.has_reserve = true,
            Err(e) => {
                let _ = self.disk.remove(RESERVE);
                return Err(e);
            }
        }
        Ok(())
    }

    /// Reuses or removes the files of released segments that nobody reads any more.
    fn recycle(&self, m: &mut Maintenance) {
        for segment in mem::take(&mut m.retired) {
            if Arc::strong_count(&segment) > 1 {
                m.retired.push(segment);
                continue;
            }
            let name = segment.id.file_name();
            let mut spares = lock(&self.spares);
            let reuse = !segment.id.is_cold()
                && segment.capacity() == self.cfg.segment_bytes
                && spares.len() < self.cfg.spares_max
                && m.has_reserve;
            let spare = format!("spare-{:08x}", segment.id.number());
            if reuse && self.disk.rename(&name, &spare).is_ok() {
                spares.push(spare);
            } else {
                // What cannot be removed now is found unlisted, and removed, at the next start.
                let _ = self.disk.remove(&name);
            }
        }
    }
}
