//! From a directory to an index: reads, checks, and changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use waypost_model::journal::{Recovered, RecoveredRun};
use waypost_model::{QueueId, Route, Seq, SeqRange};

use crate::checkpoint::{self, Checkpoint, CheckpointFault, CheckpointHead, Definitions, Position, QueueState};
use crate::chunk;
use crate::disk::{Disk, DiskFile, read_exact};
use crate::error::OpenError;
use crate::frame::{ALIGN, ChunkEntry, ChunkTable, LogOp, Run, read_table};
use crate::hash::IdMap;
use crate::index::Index;
use crate::ranges::Range;
use crate::scan::{ScanEnd, find_witness, scan};
use crate::segment::{FRAMES_AT, HeaderFault, Seal, Segment, SegmentHeader, SegmentId, put_footer_entry, read_head};
use crate::wire::{Malformed, Reader};

/// The segment that the log goes on in.
pub struct Tail {
    pub segment: Arc<Segment>,
    pub header: SegmentHeader,
    pub end: u64,
    pub last_crc: u32,
    /// Chunk tables of its frames.
    pub footer: Vec<u8>,
    /// Whether it is complete.
    pub sealed: bool,
    /// Whether it has a seal, though its footer may be torn: then it is sealed again and the log goes on in the next.
    pub has_seal: bool,
}

/// What a directory holds.
pub struct Opened {
    /// The last checkpoint; `None` in a new directory.
    pub head: Option<CheckpointHead>,
    pub definitions: Definitions,
    pub index: Index,
    pub recovered: Recovered,
    pub tail: Option<Tail>,
    /// The segment behind the tail, if it was prepared.
    pub prepared: Option<(Arc<dyn DiskFile>, SegmentHeader)>,
    /// Bytes behind the tail's last frame that were written but never durable, and are cut.
    pub cut_bytes: u64,
    /// Files that nobody needs; names.
    pub leftovers: Vec<String>,
    /// Files that can be used for segments; names.
    pub spares: Vec<String>,
}

/// Where the messages of a live chunk came from.
struct ChunkFacts {
    routes: Arc<Vec<Arc<Route>>>,
    runs: Vec<Run>,
    len: u32,
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    live: std::collections::BTreeMap<u64, QueueState>,
    pieces: IdMap<u64, Vec<Range>>,
    /// By segment and offset.
    chunks: IdMap<(u32, u32), ChunkFacts>,
    routes: HashMap<Route, Arc<Route>>,
    ops: Vec<LogOp>,
}

/// Reads a directory.
///
/// # Errors
/// [`OpenError`].
pub fn recover(disk: &dyn Disk) -> Result<Opened, OpenError> {
    let names = disk.list().map_err(OpenError::io("the data directory"))?;
    let found = match checkpoint::read(disk) {
        Ok(c) => c,
        Err(CheckpointFault::Io(source)) => return Err(OpenError::io(checkpoint::CHECKPOINT)(source)),
        Err(CheckpointFault::Newer(version)) => {
            return Err(OpenError::Newer { file: checkpoint::CHECKPOINT.into(), version });
        }
        Err(CheckpointFault::Damaged(Malformed(what))) => {
            return Err(OpenError::damaged(checkpoint::CHECKPOINT, 0, what));
        }
    };
    let Some(Checkpoint { head, definitions, queues }) = found else {
        return new_directory(disk, &names);
    };
    let mut r = Recovery {
        disk,
        live: queues,
        pieces: IdMap::default(),
        chunks: IdMap::default(),
        routes: HashMap::new(),
        ops: Vec::new(),
    };
    r.run(head, definitions, &names)
}

/// A directory without a checkpoint is new, or its making was interrupted: then it has at most a first, empty segment.
fn new_directory(disk: &dyn Disk, names: &[String]) -> Result<Opened, OpenError> {
    let opened = Opened {
        head: None,
        definitions: Definitions::new(),
        index: Index::default(),
        recovered: Recovered { clean: true, ..Recovered::default() },
        tail: None,
        prepared: None,
        cut_bytes: 0,
        // A first segment is made again, in place of what may be there.
        leftovers: leftovers(names, |_| false),
        spares: Vec::new(),
    };
    for id in names.iter().filter_map(|n| SegmentId::of_file(n)) {
        let name = id.file_name();
        let file = disk.open_read(&name).map_err(OpenError::io(&*name))?;
        let mut frames = 0;
        if let Ok(header) = read_header(&*file, id).map(|(h, _)| h) {
            let size = file.size().map_err(OpenError::io(&*name))?;
            scan(&*file, &header, size, |_| frames += 1).map_err(OpenError::io(&*name))?;
        }
        if frames > 0 || id != SegmentId(1) {
            return Err(OpenError::Missing { file: checkpoint::CHECKPOINT.into() });
        }
    }
    Ok(opened)
}

/// Files of ours that nobody needs, and segments for which `dead` holds.
fn leftovers(names: &[String], dead: impl Fn(SegmentId) -> bool) -> Vec<String> {
    let ours = |n: &str| n.ends_with(".tmp") || n.starts_with("scratch-");
    names.iter().filter(|n| ours(n) || SegmentId::of_file(n).is_some_and(&dead)).cloned().collect()
}

fn read_header(file: &dyn DiskFile, id: SegmentId) -> Result<(SegmentHeader, Vec<u8>), OpenError> {
    let name = id.file_name();
    let head = read_head(file).map_err(OpenError::io(&*name))?;
    match SegmentHeader::parse(&head, id) {
        Ok(header) => Ok((header, head)),
        Err(HeaderFault::Newer(version)) => Err(OpenError::Newer { file: name, version }),
        Err(HeaderFault::Foreign(other)) => Err(OpenError::damaged(name, 0, format!("it holds {}", SegmentId(other)))),
        Err(HeaderFault::Damaged) => Err(OpenError::damaged(name, 0, "the header's checksum is wrong")),
    }
}

/// Reads the footer that a seal tells of; `None` if its checksum is wrong.
pub fn read_footer(file: &dyn DiskFile, seal: &Seal, size: u64) -> std::io::Result<Option<Vec<u8>>> {
    if seal.end.checked_add(seal.footer_len).is_none_or(|end| end > size) {
        return Ok(None);
    }
    let mut footer = vec![0; seal.footer_len as usize];
    read_exact(file, seal.end, &mut footer)?;
    Ok((crc32c::crc32c(&footer) == seal.footer_crc).then_some(footer))
}

/// Calls back with each frame's chunk table and the place of its chunks.
///
/// # Errors
/// [`Malformed`].
pub fn read_footer_entries(footer: &[u8], mut f: impl FnMut(u64, ChunkTable)) -> Result<(), Malformed> {
    let mut r = Reader::new(footer);
    while !r.is_empty() {
        let payload_at = r.u64()?;
        let len = r.u32()? as usize;
        f(payload_at, read_table(r.take(len)?, None)?);
    }
    Ok(())
}

impl Recovery<'_> {
    fn run(&mut self, head: CheckpointHead, definitions: Definitions, names: &[String]) -> Result<Opened, OpenError> {
        let present: Vec<SegmentId> = names.iter().filter_map(|n| SegmentId::of_file(n)).collect();
        let start = head.position.segment;
        let is_listed = |id: &SegmentId| head.segments.contains(id);
        let dead = |id: SegmentId| !is_listed(&id) && (id.is_cold() || id < start);
        let mut opened = Opened {
            head: None,
            definitions,
            index: Index::default(),
            recovered: Recovered::default(),
            tail: None,
            prepared: None,
            cut_bytes: 0,
            leftovers: leftovers(names, dead),
            spares: names.iter().filter(|n| n.starts_with("spare-")).cloned().collect(),
        };
        for id in head.segments.iter().filter(|id| id.is_cold() || **id < start) {
            let segment = self.listed(*id)?;
            opened.index.add_segment(segment);
        }
        let last = present.iter().filter(|id| !id.is_cold()).max().copied().unwrap_or(start).max(start);
        let mut id = start;
        while id <= last {
            let tail = self.behind(id, head.position)?;
            self.follow(&mut opened, tail)?;
            id = id.next();
        }
        let end = opened.tail.as_ref().map(|t| Position { segment: t.segment.id, offset: t.end });
        opened.recovered.clean = head.clean && end == Some(head.position);
        self.finish(&mut opened)?;
        opened.head = Some(head);
        Ok(opened)
    }

    fn open(&self, id: SegmentId) -> Result<(Arc<dyn DiskFile>, u64), OpenError> {
        let name = id.file_name();
        let file = self.disk.open(&name).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => OpenError::Missing { file: name.clone() },
            _ => OpenError::Io { file: name.clone(), source: e },
        })?;
        let size = file.size().map_err(OpenError::io(name))?;
        Ok((file, size))
    }

    /// A segment before the checkpoint's position: only its footer is read.
    fn listed(&mut self, id: SegmentId) -> Result<Arc<Segment>, OpenError> {
        let (file, size) = self.open(id)?;
        let (header, head) = read_header(&*file, id)?;
        let name = id.file_name();
        let Some(seal) = Seal::parse(&head, &header) else {
            return Err(OpenError::damaged(name, 64, "the seal's checksum is wrong"));
        };
        let footer = read_footer(&*file, &seal, size).map_err(OpenError::io(&*name))?;
        let footer = footer.ok_or_else(|| OpenError::damaged(&*name, seal.end, "the footer's checksum is wrong"))?;
        let segment = Arc::new(Segment::new(id, file, size, true));
        read_footer_entries(&footer, |at, table| {
            segment.note_frame(table.extent);
            self.note(id, at, table, true);
        })
        .map_err(|e| OpenError::damaged(&*name, seal.end, e.to_string()))?;
        Ok(segment)
    }

    /// A segment from the checkpoint's position on: every frame is read.
    fn behind(&mut self, id: SegmentId, position: Position) -> Result<(Tail, u64, ScanEnd), OpenError> {
        let (file, size) = self.open(id)?;
        let (header, head) = read_header(&*file, id)?;
        let name = id.file_name();
        let start = if id == position.segment { position.offset } else { FRAMES_AT };
        let mut footer = Vec::new();
        let segment = Arc::new(Segment::new(id, Arc::clone(&file), size, false));
        let end = scan(&*file, &header, size, |f| {
            segment.note_frame(f.table.extent);
            put_footer_entry(&mut footer, f.offset, f.header.payload_at(), f.table_bytes);
            let old = f.offset < start;
            self.note(id, f.offset + f.header.payload_at(), f.table, old);
            if !old {
                self.ops.extend(f.ops);
            }
        })
        .map_err(OpenError::io(&*name))?;
        if end.end < start {
            return Err(OpenError::damaged(
                name,
                end.end,
                format!("{}, but the checkpoint reaches to {start}", end.reason),
            ));
        }
        let seal = Seal::parse(&head, &header);
        let mut sealed = false;
        if let Some(seal) = seal {
            if (seal.end, seal.last_crc) != (end.end, end.last_crc) {
                return Err(OpenError::damaged(
                    name,
                    end.end,
                    format!("{}, but the seal says {}", end.reason, seal.end),
                ));
            }
            sealed = read_footer(&*file, &seal, size).map_err(OpenError::io(&*name))?.as_ref() == Some(&footer);
        }
        let has_seal = seal.is_some();
        let witness = find_witness(&*file, &header, size, end.end).map_err(OpenError::io(&*name))?;
        if let Some(at) = witness {
            let what = format!("{}, but the frame at {at} was written when this was durable", end.reason);
            return Err(OpenError::damaged(name, end.end, what));
        }
        if sealed {
            segment.set_sealed();
        }
        Ok((Tail { segment, header, end: end.end, last_crc: end.last_crc, footer, sealed, has_seal }, size, end))
    }

    /// Takes the next segment behind the checkpoint's position: it continues the log, or is prepared for that.
    fn follow(&self, opened: &mut Opened, next: (Tail, u64, ScanEnd)) -> Result<(), OpenError> {
        let (next, size, _) = next;
        match &opened.tail {
            Some(tail) if opened.prepared.is_some() || (!tail.sealed && next.end > FRAMES_AT) => {
                let name = tail.segment.id.file_name();
                return Err(OpenError::damaged(name, tail.end, "the log goes on in the next segment, but not here"));
            }
            // Nothing was written there yet, so the tail's seal may still lack its sync.
            Some(_) if next.end == FRAMES_AT => {
                let file = Arc::clone(&next.segment.file);
                opened.prepared = Some((file, next.header));
                return Ok(());
            }
            _ => {}
        }
        opened.cut_bytes = if next.sealed { 0 } else { written_behind(&next, size)? };
        opened.index.add_segment(Arc::clone(&next.segment));
        opened.tail = Some(next);
        Ok(())
    }

    /// Notes the chunks of a frame. `old`: what is live of them stands in the checkpoint.
    fn note(&mut self, id: SegmentId, payload_at: u64, table: ChunkTable, old: bool) {
        if table.chunks.is_empty() {
            return;
        }
        let intern = |routes: &mut HashMap<Route, Arc<Route>>, r: Arc<Route>| match routes.get(&*r) {
            Some(known) => Arc::clone(known),
            None => {
                routes.insert(Route::clone(&r), Arc::clone(&r));
                r
            }
        };
        let routes: Vec<_> = table.routes.into_iter().map(|r| intern(&mut self.routes, r)).collect();
        let routes = Arc::new(routes);
        for c in table.chunks {
            let offset = ((payload_at + c.at) / ALIGN) as u32;
            if self.note_chunk(id, offset, &c, old) {
                let facts = ChunkFacts { routes: Arc::clone(&routes), runs: c.runs, len: c.len };
                self.chunks.insert((id.0, offset), facts);
            }
        }
    }

    fn note_chunk(&mut self, id: SegmentId, offset: u32, c: &ChunkEntry, old: bool) -> bool {
        let shares = c.shares();
        let mut any = false;
        for t in &c.targets {
            let (first, end) = (t.first.0, t.first.0 + u64::from(t.count));
            let whole = Range { first, count: t.count, segment: id.0, offset, len: c.len, entry: t.entry, shares };
            let state = self.live.get(&t.queue.0);
            if old {
                let live = state.map_or(&[][..], |s| &s.live);
                let from = live.partition_point(|(_, stop)| *stop <= first);
                for (start, stop) in live[from..].iter().take_while(|(start, _)| *start < end) {
                    let part = whole.part(first.max(*start), end.min(*stop));
                    self.pieces.entry(t.queue.0).or_default().push(part);
                    any = true;
                }
            } else {
                self.pieces.entry(t.queue.0).or_default().push(whole);
                any = true;
                let state = self.live.entry(t.queue.0).or_default();
                state.next = state.next.max(end);
            }
        }
        any
    }

    /// Builds the index, replays the operations, and tells what is there.
    fn finish(&mut self, opened: &mut Opened) -> Result<(), OpenError> {
        for (id, state) in &self.live {
            let mut shard = opened.index.shard(usize::from(QueueId(*id).shard().0));
            shard.entry(*id).or_default().next = state.next;
        }
        for (id, mut pieces) in std::mem::take(&mut self.pieces) {
            // Of two copies the cold one counts, so that the other segment can go.
            pieces.sort_by_key(|p| (p.first, !SegmentId(p.segment).is_cold()));
            pieces.into_iter().for_each(|p| opened.index.enqueued(QueueId(id), p));
        }
        for (id, state) in &self.live {
            for (first, end, count) in &state.failed {
                let (mut from, queue) = (*first, QueueId(*id));
                while from < *end {
                    let n = (*end - from).min(u64::from(u32::MAX)) as u32;
                    opened.index.requeued(&SeqRange { queue, first: Seq(from), count: n }, *count);
                    from += u64::from(n);
                }
            }
        }
        for op in std::mem::take(&mut self.ops) {
            match op {
                LogOp::Settle(range) => opened.index.settled(&range),
                LogOp::Requeued { range, delivery_count } => opened.index.requeued(&range, delivery_count),
                LogOp::Forget(queue) => opened.index.forgotten(queue),
                LogOp::Define { key, value: Some(value) } => drop(opened.definitions.insert(key, value)),
                LogOp::Define { key, value: None } => drop(opened.definitions.remove(&key)),
            }
        }
        self.tell(opened)
    }

    fn tell(&self, opened: &mut Opened) -> Result<(), OpenError> {
        let recovered = &mut opened.recovered;
        recovered.definitions = opened.definitions.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut queues: Vec<(u64, usize)> = Vec::new();
        for n in 0..waypost_model::SHARDS {
            queues.extend(opened.index.shard(n).keys().map(|id| (*id, n)));
        }
        queues.sort_unstable();
        for (id, n) in queues {
            let shard = opened.index.shard(n);
            let Some(q) = shard.get(&id) else { continue };
            recovered.next_seq.push((QueueId(id), Seq(q.next)));
            for range in q.live.iter() {
                self.tell_range(QueueId(id), range, q, &mut recovered.runs)?;
            }
        }
        Ok(())
    }

    fn tell_range(
        &self,
        queue: QueueId,
        range: &Range,
        q: &crate::index::QueueIndex,
        out: &mut Vec<RecoveredRun>,
    ) -> Result<(), OpenError> {
        let Some(facts) = self.chunks.get(&(range.segment, range.offset)) else { return Ok(()) };
        let mut run_at = 0;
        for run in &facts.runs {
            let (start, end) = (run_at.max(range.entry), (run_at + run.count).min(range.entry + range.count));
            run_at += run.count;
            if start >= end {
                continue;
            }
            let place = |entry: u32| range.first + u64::from(entry - range.entry);
            let mut from = place(start);
            while from < place(end) {
                let (delivery_count, to) = q.failed_at(from, place(end));
                let entry = range.entry + (from - range.first) as u32;
                let count = (to - from) as u32;
                let payload_bytes = self.payload(range, facts, run, entry, count)?;
                let route = facts.routes.get(run.route as usize).cloned().unwrap_or_default();
                let range = SeqRange { queue, first: Seq(from), count };
                let (attrs, at) = (run.attrs, run.at);
                push_run(out, RecoveredRun { range, route, attrs, at, delivery_count, payload_bytes });
                from = to;
            }
        }
        Ok(())
    }

    /// Bytes of a part of a run. Only where messages differ in length and some are gone must the chunk be read.
    fn payload(&self, range: &Range, facts: &ChunkFacts, run: &Run, entry: u32, count: u32) -> Result<u64, OpenError> {
        if count == run.count {
            return Ok(run.payload);
        }
        if run.uniform {
            return Ok(run.payload / u64::from(run.count) * u64::from(count));
        }
        let name = SegmentId(range.segment).file_name();
        let offset = u64::from(range.offset) * ALIGN;
        let file = self.disk.open_read(&name).map_err(OpenError::io(&*name))?;
        let mut bytes = vec![0; facts.len as usize];
        read_exact(&*file, offset, &mut bytes).map_err(OpenError::io(&*name))?;
        let damaged = |what: &str| OpenError::damaged(&*name, offset, what);
        if !chunk::is_intact(&bytes, chunk::seed(range.segment, offset)) {
            return Err(damaged("a chunk's checksum is wrong"));
        }
        let batch = chunk::decode(bytes, chunk::CHUNK_ENTRIES_MAX).map_err(|e| damaged(e.0))?;
        if entry as usize + count as usize > batch.len() {
            return Err(damaged("the chunk has fewer messages than the footer says"));
        }
        Ok(batch.payload_len(entry, entry + count))
    }
}

/// Adds a run, to the one before where it continues that with equal facts. Routes are interned.
fn push_run(out: &mut Vec<RecoveredRun>, run: RecoveredRun) {
    if let Some(last) = out.last_mut()
        && last.range.queue == run.range.queue
        && last.range.first.plus(u64::from(last.range.count)) == run.range.first
        && (last.attrs, last.at, last.delivery_count) == (run.attrs, run.at, run.delivery_count)
        && Arc::ptr_eq(&last.route, &run.route)
        && let Some(count) = last.range.count.checked_add(run.range.count)
    {
        last.range.count = count;
        last.payload_bytes += run.payload_bytes;
        return;
    }
    out.push(run);
}

/// How many bytes behind the last frame still begin like a frame of this segment: what was lost in a torn write.
fn written_behind(tail: &Tail, size: u64) -> Result<u64, OpenError> {
    let mut head = [0; crate::frame::FRAME_HEADER];
    let name = tail.segment.id.file_name();
    let n = crate::disk::read_most(&*tail.segment.file, tail.end, &mut head).map_err(OpenError::io(name))?;
    let torn = crate::frame::FrameHeader::parse(&head[..n], size - tail.end);
    Ok(torn.filter(|h| h.segment == tail.header.id.0 && h.prev == tail.last_crc).map_or(0, |h| u64::from(h.len)))
}
