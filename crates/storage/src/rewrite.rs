//! Copies the survivors of mostly dead segments, sorted by queue, to a cold segment.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use waypost_model::journal::{Enqueue, Op};
use waypost_model::{Lsn, QueueId, Route, Seq};

use crate::disk::{discard, read_exact, write_all};
use crate::encoder::{Encoder, Pending, Place};
use crate::engine::Shared;
use crate::frame::{ALIGN, ChunkEntry, Extent, Run};
use crate::maintain::Maintenance;
use crate::ranges::Range;
use crate::recovery::{read_footer, read_footer_entries};
use crate::segment::{FRAMES_AT, Seal, Segment, SegmentHeader, SegmentId, put_footer_entry, read_head};

const COLD_TMP: &str = "cold.tmp";
/// A frame is written when the chunks that it copies from take this much memory.
const SOURCE_BYTES_MAX: u64 = 16 << 20;
/// A segment that is at least this live is left alone, however full the disk: there is nothing to win.
const LIVE_PERCENT_MAX: u64 = 90;

/// A part of a run that is still live.
struct Survivor {
    queue: QueueId,
    range: Range,
    route: Arc<Route>,
    run: Run,
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
        let mut survivors = Vec::new();
        for v in &victims {
            self.survivors(v, &mut survivors)?;
        }
        survivors.sort_by_key(|s| (s.queue, s.range.first));
        let result = self.write_cold(m, survivors, &victims);
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

    /// What is live in a segment, by its footer.
    fn survivors(&self, segment: &Segment, out: &mut Vec<Survivor>) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", segment.id));
        let head = read_head(&*segment.file)?;
        let header = SegmentHeader::parse(&head, segment.id).map_err(|_| invalid("header"))?;
        let seal = Seal::parse(&head, &header).ok_or_else(|| invalid("seal"))?;
        let footer = read_footer(&*segment.file, &seal, segment.file.size()?)?.ok_or_else(|| invalid("footer"))?;
        read_footer_entries(&footer, |payload_at, table| {
            for c in &table.chunks {
                self.chunk_survivors(segment, ((payload_at + c.at) / ALIGN) as u32, c, &table.routes, out);
            }
        })
        .map_err(|e| invalid(e.0))
    }

    fn chunk_survivors(
        &self,
        segment: &Segment,
        offset: u32,
        c: &ChunkEntry,
        routes: &[Arc<Route>],
        out: &mut Vec<Survivor>,
    ) {
        for t in &c.targets {
            let end = t.first.0 + u64::from(t.count);
            for range in self.index.live_in(t.queue, t.first.0, end, segment.id) {
                if range.offset != offset {
                    continue;
                }
                let mut run_at = 0;
                for run in &c.runs {
                    let (from, to) = (run_at.max(range.entry), (run_at + run.count).min(range.entry + range.count));
                    run_at += run.count;
                    if from < to {
                        let place = |entry: u32| range.first + u64::from(entry - range.entry);
                        let range = range.part(place(from), place(to));
                        let route = routes.get(run.route as usize).cloned().unwrap_or_default();
                        out.push(Survivor { queue: t.queue, range, route, run: *run });
                    }
                }
            }
        }
    }

    fn write_cold(&self, m: &mut Maintenance, survivors: Vec<Survivor>, victims: &[Arc<Segment>]) -> io::Result<()> {
        let id = SegmentId::cold(m.head.next_cold);
        let file = self.disk.create(COLD_TMP)?;
        let mut header = SegmentHeader { id, epoch: self.epoch, capacity: 0, crc: 0 };
        write_all(&*file, 0, &mut [&header.encode()])?;
        let (last_crc, encoder) = (header.crc, Encoder::default());
        let (footer, moved, extents) = (Vec::new(), Vec::new(), Vec::new());
        let mut cold = Cold { id, file, header, encoder, end: FRAMES_AT, last_crc, footer, moved, extents };
        let (mut ops, mut bytes) = (Vec::new(), 0);
        for s in survivors {
            let frame_full = bytes >= SOURCE_BYTES_MAX.min(self.cfg.frame_bytes_max());
            if frame_full {
                cold.write(std::mem::take(&mut ops))?;
                bytes = 0;
            }
            ops.push(self.copy(&s)?);
            bytes += u64::from(s.range.len);
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

    /// The operation that enters survivors again, with the bytes of the chunk that they lie in.
    fn copy(&self, s: &Survivor) -> io::Result<Op> {
        let segment = self.index.segment(s.range.segment).ok_or(io::ErrorKind::NotFound)?;
        let batch = self.read_chunk(&s.range, &segment)?;
        let (from, to) = (s.range.entry, s.range.entry + s.range.count);
        if to as usize > batch.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk is shorter than its footer says"));
        }
        let targets = Box::new([(s.queue, Seq(s.range.first))]);
        let route = Arc::clone(&s.route);
        Ok(Op::Enqueue(Enqueue { targets, batch, from, to, route, attrs: s.run.attrs, at: s.run.at }))
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
        write_all(&*self.file, self.end, &mut self.encoder.bytes())?;
        for chunk in self.encoder.chunks() {
            let shares = chunk.shares();
            let offset = ((self.end + chunk.at) / ALIGN) as u32;
            self.moved.extend(chunk.targets.iter().map(|t| {
                let (first, count, entry) = (t.first.0, t.count, t.entry);
                (t.queue, Range { first, count, segment, offset, len: chunk.len, entry, shares })
            }));
        }
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
        let offset = u64::from(range.offset) * ALIGN;
        let mut bytes = vec![0; range.len as usize];
        read_exact(&*segment.file, offset, &mut bytes)?;
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if !crate::chunk::is_intact(&bytes, crate::chunk::seed(range.segment, offset)) {
            return Err(invalid(format!("{} is damaged at offset {offset}: a chunk's checksum is wrong", segment.id)));
        }
        let batch = crate::chunk::decode(bytes, crate::chunk::CHUNK_ENTRIES_MAX)
            .map_err(|e| invalid(format!("{} is damaged at offset {offset}: {e}", segment.id)))?;
        self.cache.put(key, &batch);
        Ok(batch)
    }
}
