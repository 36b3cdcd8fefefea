//! Copies the survivors of mostly dead segments, sorted by queue, to a cold segment.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use waypost_model::journal::{Enqueue, Op};
use waypost_model::{Attrs, Batch, BatchBuilder, Lsn, Millis, QueueId, Route, Seq};

use crate::chunk;
use crate::disk::{discard, write_all};
use crate::encoder::{Encoder, Pending, Place};
use crate::engine::Shared;
use crate::frame::ALIGN;
use crate::hash::IdMap;
use crate::maintain::Maintenance;
use crate::ranges::Range;
use crate::recovery::{read_footer, read_footer_entries};
use crate::segment::{FRAMES_AT, Seal, Segment, SegmentHeader, SegmentId, put_footer_entry, read_head};
use crate::table::{ChunkEntry, ChunkTable, Extent, decode_route};
use crate::wire::Malformed;

const COLD_TMP: &str = "cold.tmp";
/// Survivors are copied to batches of about this many bytes.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// What a survivor takes in a frame beside its bytes, about.
const SURVIVOR_BYTES: u64 = 24;
/// A segment that is at least this live is left alone, however full the disk: there is nothing to win.
const LIVE_PERCENT_MAX: u64 = 90;

/// A part of a run that is still live; what it names lies in [`Survivors`].
#[derive(Clone, Copy)]
struct Survivor {
    queue: QueueId,
    first: u64,
    /// Queue and place of the first survivor that is the same messages: in several queues, they stay one.
    home: (QueueId, u64),
    batch: u32,
    from: u32,
    count: u32,
    route: u32,
    attrs: Attrs,
    at: Millis,
}

/// What is still live of the segments to rewrite, copied while they are read from front to back: sorted by queue, a small
/// message's neighbours come from everywhere.
#[derive(Default)]
struct Survivors {
    found: Vec<Survivor>,
    routes: Vec<Arc<Route>>,
    interned: HashMap<Box<[u8]>, u32>,
    batches: Vec<Arc<Batch>>,
    open: BatchBuilder,
}

impl Survivors {
    fn route(&mut self, bytes: &[u8]) -> Result<u32, Malformed> {
        if let Some(known) = self.interned.get(bytes) {
            return Ok(*known);
        }
        let n = self.routes.len() as u32;
        self.routes.push(Arc::new(decode_route(bytes)?));
        self.interned.insert(bytes.into(), n);
        Ok(n)
    }

    /// Copies messages of a batch; says where they are now.
    fn copy(&mut self, batch: &Batch, from: u32, to: u32) -> (u32, u32) {
        let bytes = usize::try_from(batch.payload_len(from, to)).unwrap_or(usize::MAX);
        if !self.open.is_empty() && self.open.bytes().saturating_add(bytes) > BATCH_BYTES_MAX {
            self.seal();
        }
        let at = self.open.len() as u32;
        self.open.extend(batch, from, to);
        (self.batches.len() as u32, at)
    }

    fn seal(&mut self) {
        self.batches.push(Arc::new(std::mem::take(&mut self.open).finish()));
    }

    /// The operation that enters survivors again, which are the same messages.
    fn op(&self, same: &[Survivor]) -> Option<Op> {
        let s = same.first()?;
        let (batch, route) = (self.batches.get(s.batch as usize)?, self.routes.get(s.route as usize)?);
        let targets = same.iter().map(|s| (s.queue, Seq(s.first))).collect();
        let (batch, route) = (Arc::clone(batch), Arc::clone(route));
        Some(Op::Enqueue(Enqueue {
            targets,
            batch,
            from: s.from,
            to: s.from + s.count,
            route,
            attrs: s.attrs,
            at: s.at,
        }))
    }

    fn bytes(&self, same: &[Survivor]) -> u64 {
        let batch = same.first().and_then(|s| self.batches.get(s.batch as usize).map(|b| (s, b)));
        batch.map_or(0, |(s, b)| b.payload_len(s.from, s.from + s.count) + SURVIVOR_BYTES * u64::from(s.count))
            + SURVIVOR_BYTES * same.len() as u64
    }
}

/// A cold segment in the making.
struct Cold {
    id: SegmentId,
    file: Arc<dyn crate::disk::DiskFile>,
    header: SegmentHeader,
    encoder: Encoder,
    end: u64,
    last_crc: u32,
    footer: Vec<u8>,
    moved: Vec<(QueueId, Range)>,
    extents: Vec<Extent>,
}

impl Shared {
    /// Rewrites the emptiest segments if that is due; says how many.
    pub fn rewrite(&self, m: &mut Maintenance) -> io::Result<u32> {
        let victims = self.victims();
        if victims.is_empty() {
            return Ok(0);
        }
        let mut survivors = Survivors::default();
        for v in &victims {
            self.survivors(v, &mut survivors)?;
        }
        survivors.seal();
        survivors.found.sort_unstable_by_key(|s| (s.home, s.queue, s.first));
        let result = self.write_cold(m, &survivors, &victims);
        if result.is_err() {
            discard(&*self.disk, COLD_TMP).and_then(|()| self.disk.sync_dir())?;
        }
        result.map(|()| victims.len() as u32)
    }

    /// Which segments to rewrite together: survivors of about one segment.
    fn victims(&self) -> Vec<Arc<Segment>> {
        let all = self.index.segments();
        let active = self.active_id();
        let (mut total, mut live) = (0u64, 0u64);
        all.iter().for_each(|s| (total, live) = (total + s.capacity(), live + s.live_bytes()));
        let allowed = live.saturating_mul(u64::from(self.cfg.disk_use_percent)) / 100;
        let pressed = total > allowed.saturating_add(self.cfg.disk_slack_bytes);
        let percent = |s: &Segment| s.live_bytes().saturating_mul(100) / s.capacity().max(1);
        let below = if pressed { LIVE_PERCENT_MAX } else { u64::from(self.cfg.rewrite_below_percent) };
        let mut candidates: Vec<_> = all
            .into_iter()
            // The last sealed one may still empty by itself.
            .filter(|s| s.is_sealed() && s.live() > 0 && (s.id.is_cold() || s.id.0 + 1 < active))
            .filter(|s| percent(s) < below)
            .collect();
        candidates.sort_by_key(|s| (percent(s), s.id));
        let mut taken = 0;
        let fits = |s: &Arc<Segment>| {
            taken += s.live_bytes();
            taken <= self.cfg.segment_bytes
        };
        let victims: Vec<_> = candidates.into_iter().take_while(fits).collect();
        // A copy of one nearly empty segment into another wins nothing if the file is small already.
        let gain: u64 = victims.iter().map(|s| s.capacity() - s.live_bytes().min(s.capacity())).sum();
        if gain >= self.cfg.segment_bytes / 2 { victims } else { Vec::new() }
    }

    /// Copies what is live in a segment.
    fn survivors(&self, segment: &Segment, out: &mut Survivors) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", segment.id));
        let head = read_head(&*segment.file)?;
        let header = SegmentHeader::parse(&head, segment.id).map_err(|_| invalid("header"))?;
        let seal = Seal::parse(&head, &header).ok_or_else(|| invalid("seal"))?;
        let footer = read_footer(&*segment.file, &seal, segment.file.size()?)?.ok_or_else(|| invalid("footer"))?;
        let mut failed = None;
        read_footer_entries(&footer, |payload_at, table, bytes| {
            let routes: Vec<&[u8]> = table.routes.iter().map(|r| &bytes[r.clone()]).collect();
            for c in &table.chunks {
                if failed.is_none()
                    && let Err(e) = self.chunk_survivors(segment, payload_at + c.at, (table, c, &routes), out)
                {
                    failed = Some(e);
                }
            }
            Ok(())
        })
        .map_err(|e| invalid(e.0))?;
        failed.map_or(Ok(()), Err)
    }

    fn chunk_survivors(
        &self,
        segment: &Segment,
        at: u64,
        (table, c, routes): (&ChunkTable, &ChunkEntry, &[&[u8]]),
        out: &mut Survivors,
    ) -> io::Result<()> {
        let offset = (at / ALIGN) as u32;
        let mut live: Vec<(Survivor, u32)> = Vec::new();
        table.parts(c, |t, run, entries| {
            let first = t.first.0 + u64::from(entries.start - t.entry);
            let end = first + u64::from(entries.end - entries.start);
            for r in self.index.live_in(t.queue, first, end, segment.id) {
                if r.offset == offset {
                    let (queue, first, count, route) = (t.queue, r.first, r.count, run.route);
                    let (attrs, at) = (run.attrs, run.at);
                    let home = (queue, first);
                    live.push((Survivor { queue, first, home, batch: 0, from: 0, count, route, attrs, at }, r.entry));
                }
            }
        });
        if live.is_empty() {
            return Ok(());
        }
        let batch = chunk::read(&*segment.file, segment.id, at, c.len)?;
        // What is in several queues is copied once.
        let mut copied: IdMap<(u32, u32), (u32, u32, (QueueId, u64))> = IdMap::default();
        for (mut s, entry) in live {
            if (entry + s.count) as usize > batch.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk is shorter than its footer says"));
            }
            let route = routes.get(s.route as usize).copied().unwrap_or_default();
            s.route = out.route(route).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            let copy = || {
                let (batch, from) = out.copy(&batch, entry, entry + s.count);
                (batch, from, s.home)
            };
            (s.batch, s.from, s.home) = *copied.entry((entry, s.count)).or_insert_with(copy);
            out.found.push(s);
        }
        Ok(())
    }

    fn write_cold(&self, m: &mut Maintenance, survivors: &Survivors, victims: &[Arc<Segment>]) -> io::Result<()> {
        let id = SegmentId::cold(m.head.next_cold);
        let file = self.disk.create(COLD_TMP)?;
        let mut header = SegmentHeader { id, epoch: self.epoch, capacity: 0, crc: 0 };
        write_all(&*file, 0, &mut [&header.encode()])?;
        let (last_crc, encoder) = (header.crc, Encoder::default());
        let (footer, moved, extents) = (Vec::new(), Vec::new(), Vec::new());
        let mut cold = Cold { id, file, header, encoder, end: FRAMES_AT, last_crc, footer, moved, extents };
        let (mut ops, mut bytes) = (Vec::new(), 0);
        for same in survivors.found.chunk_by(|a, b| (a.home, a.batch, a.from) == (b.home, b.batch, b.from)) {
            let frame_full = bytes >= self.cfg.frame_bytes_max();
            if frame_full {
                cold.write(std::mem::take(&mut ops))?;
                bytes = 0;
            }
            ops.extend(survivors.op(same));
            bytes += survivors.bytes(same);
        }
        cold.write(ops)?;
        let size = cold.finish()?;
        self.disk.rename(COLD_TMP, &id.file_name())?;
        self.disk.sync_dir()?;
        m.head.next_cold += 1;
        self.metrics.rewritten_bytes.fetch_add(size, Relaxed);
        let segment = Segment::new(id, cold.file, size, true);
        cold.extents.iter().for_each(|e| segment.note_frame(*e));
        self.index.add_segment(Arc::new(segment));
        for (queue, range) in cold.moved {
            self.index.relocated(queue, range, |s| victims.iter().any(|v| v.id.0 == s));
        }
        Ok(())
    }
}

impl Cold {
    fn write(&mut self, ops: Vec<Op>) -> io::Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        let appends = [Pending { lsn: Lsn(0), ops }];
        self.encoder.plan(&appends);
        let (segment, synced) = (self.id.0, FRAMES_AT);
        let place = Place { epoch: self.header.epoch, segment, offset: self.end, prev: self.last_crc, synced };
        let header = self.encoder.encode(&appends, place);
        write_all(&*self.file, self.end, &mut self.encoder.slices())?;
        self.encoder.written();
        self.encoder.ranges(segment, self.end, |queue, range| self.moved.push((queue, range)));
        put_footer_entry(&mut self.footer, self.end, header.payload_at(), self.encoder.table());
        self.extents.push(self.encoder.extent());
        self.end += u64::from(header.len);
        self.last_crc = header.crc;
        Ok(())
    }

    /// Writes footer and seal, and syncs; says how long the file is.
    fn finish(&mut self) -> io::Result<u64> {
        let footer_crc = crc32c::crc32c(&self.footer);
        let footer_len = self.footer.len() as u64;
        let seal = Seal { end: self.end, footer_len, footer_crc, last_crc: self.last_crc };
        seal.write(&*self.file, &self.header, &self.footer)?;
        self.file.sync_data()?;
        Ok(self.end + footer_len)
    }
}

impl Shared {
    /// A chunk, from memory or from disk, checked.
    pub fn read_chunk(&self, range: &Range, segment: &Segment) -> io::Result<Arc<waypost_model::Batch>> {
        let key = (range.segment, range.offset);
        if let Some(batch) = self.cache.get(key) {
            self.metrics.cache_hits.fetch_add(1, Relaxed);
            return Ok(batch);
        }
        let batch = chunk::read(&*segment.file, segment.id, u64::from(range.offset) * ALIGN, range.len)?;
        self.cache.put(key, &batch);
        Ok(batch)
    }
}
