//! From a directory to an index: reads, checks, and changes nothing.

use std::sync::{Arc, Mutex};

use waypost_model::journal::{Recovered, RecoveredRuns};

use crate::checkpoint::{self, Checkpoint, CheckpointFault, CheckpointHead};
use crate::collect::{Collected, Live, Noted};
use crate::definitions::Definitions;
use crate::disk::{Disk, DiskFile, read_exact};
use crate::error::OpenError;
use crate::frame::LogOp;
use crate::index::Index;
use crate::log::Position;
use crate::parallel::in_parallel;
use crate::restore::restore;
use crate::scan::{find_witness, scan};
use crate::segment::{FRAMES_AT, HeaderFault, Seal, Segment, SegmentHeader, SegmentId, put_footer_entry, read_head};
use crate::sync::lock;
use crate::table::ChunkTable;
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

/// Below so many segments to look into more threads would not pay.
const PARALLEL_SEGMENTS_MIN: usize = 3;

struct Recovery<'a> {
    disk: &'a dyn Disk,
    live: &'a Live,
}

/// Reads a directory.
///
/// # Errors
/// [`OpenError`].
pub fn recover(disk: &dyn Disk) -> Result<Opened, OpenError> {
    recover_from(disk, read_checkpoint(disk)?)
}

/// Reads the checkpoint of a directory; `None` if there is none.
///
/// # Errors
/// [`OpenError`].
pub fn read_checkpoint(disk: &dyn Disk) -> Result<Option<Checkpoint>, OpenError> {
    checkpoint::read(disk).map_err(|fault| match fault {
        CheckpointFault::Io(source) => OpenError::io(checkpoint::CHECKPOINT)(source),
        CheckpointFault::Version(version) => OpenError::Version { file: checkpoint::CHECKPOINT.into(), version },
        CheckpointFault::Damaged(Malformed(what)) => OpenError::damaged(checkpoint::CHECKPOINT, 0, what),
    })
}

/// Reads a directory that has this checkpoint.
///
/// # Errors
/// [`OpenError`].
pub fn recover_from(disk: &dyn Disk, found: Option<Checkpoint>) -> Result<Opened, OpenError> {
    let names = disk.list().map_err(OpenError::io("the data directory"))?;
    let Some(Checkpoint { head, definitions, queues }) = found else {
        return new_directory(disk, &names);
    };
    Recovery { disk, live: &queues }.run(head, definitions, &names)
}

/// A directory without a checkpoint is new, or its making was interrupted: then it has at most a first, empty segment.
fn new_directory(disk: &dyn Disk, names: &[String]) -> Result<Opened, OpenError> {
    let opened = Opened {
        head: None,
        definitions: Definitions::default(),
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
        match read_header(&*file, id) {
            Ok((header, _)) => {
                let size = file.size().map_err(OpenError::io(&*name))?;
                scan(&*file, &header, size, |_| frames += 1).map_err(OpenError::io(&*name))?;
            }
            // Torn in the making.
            Err(OpenError::Damaged { .. }) => {}
            Err(e) => return Err(e),
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
        Err(HeaderFault::Version(version)) => Err(OpenError::Version { file: name, version }),
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

/// Calls back with each frame's chunk table, the bytes that it was read from, and the place of its chunks.
///
/// # Errors
/// [`Malformed`], also the callback's.
pub fn read_footer_entries(
    footer: &[u8],
    mut f: impl FnMut(u64, &ChunkTable, &[u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut r = Reader::new(footer);
    let mut table = ChunkTable::default();
    while !r.is_empty() {
        let payload_at = r.u64()?;
        let len = r.u32()? as usize;
        let bytes = r.take(len)?;
        table.read(bytes, None)?;
        f(payload_at, &table, bytes)?;
    }
    Ok(())
}

impl Recovery<'_> {
    fn run(&self, head: CheckpointHead, definitions: Definitions, names: &[String]) -> Result<Opened, OpenError> {
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
        let listed: Vec<_> = head.segments.iter().filter(|id| id.is_cold() || **id < start).copied().collect();
        let mut collected = self.listed_all(&listed, &opened.index)?;
        let mut behind = Collected::new(self.live);
        let last = present.iter().filter(|id| !id.is_cold()).max().copied().unwrap_or(start).max(start);
        let mut id = start;
        while id <= last {
            let tail = self.behind(id, head.position, &mut behind)?;
            self.follow(&mut opened, tail)?;
            id = id.next();
        }
        for op in &behind.ops {
            if let LogOp::Define { key, value } = op {
                match value {
                    Some(value) => opened.definitions.insert(key, value),
                    None => opened.definitions.remove(key),
                };
            }
        }
        collected.push(behind);
        let end = opened.tail.as_ref().map(|t| Position { segment: t.segment.id, offset: t.end });
        opened.recovered.clean = head.clean && end == Some(head.position);
        self.tell(&mut opened, collected)?;
        opened.head = Some(head);
        Ok(opened)
    }

    /// Builds the index, and tells what is there.
    fn tell(&self, opened: &mut Opened, collected: Vec<Collected<'_>>) -> Result<(), OpenError> {
        let recovered = &mut opened.recovered;
        let definitions = opened.definitions.sorted().into_iter();
        recovered.definitions = definitions.map(|(k, v)| (k.into(), v.into())).collect();
        let mut runs = Vec::new();
        for shard in restore(&opened.index, self.live, collected)? {
            runs.push(shard.runs);
            recovered.next_seq.extend(shard.next_seq);
        }
        recovered.runs = RecoveredRuns::new(runs);
        recovered.next_seq.sort_unstable();
        Ok(())
    }

    /// The segments before the checkpoint's position, by several threads.
    fn listed_all(&self, ids: &[SegmentId], index: &Index) -> Result<Vec<Collected<'_>>, OpenError> {
        let failed = Mutex::new(Vec::new());
        let threads = if ids.len() < PARALLEL_SEGMENTS_MIN { 1 } else { ids.len() };
        let read = |collected: &mut Collected<'_>, n: usize| match self.listed(ids[n], collected) {
            Ok(segment) => index.add_segment(segment),
            Err(e) => lock(&failed).push((n, e)),
        };
        let collected = in_parallel(ids.len(), threads, || Collected::new(self.live), read);
        let failed = failed.into_inner().unwrap_or_default();
        match failed.into_iter().min_by_key(|(n, _)| *n) {
            Some((_, e)) => Err(e),
            None => Ok(collected),
        }
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
    fn listed(&self, id: SegmentId, collected: &mut Collected<'_>) -> Result<Arc<Segment>, OpenError> {
        let (file, size) = self.open(id)?;
        let (header, head) = read_header(&*file, id)?;
        let name = id.file_name();
        let Some(seal) = Seal::parse(&head, &header) else {
            return Err(OpenError::damaged(name, 64, "the seal's checksum is wrong"));
        };
        let footer = read_footer(&*file, &seal, size).map_err(OpenError::io(&*name))?;
        let footer = footer.ok_or_else(|| OpenError::damaged(&*name, seal.end, "the footer's checksum is wrong"))?;
        let segment = Arc::new(Segment::new(id, file, size, true));
        read_footer_entries(&footer, |payload_at, table, table_bytes| {
            segment.note_frame(table.extent);
            collected.note(&Noted { segment: id, payload_at, table, table_bytes, old: true })
        })
        .map_err(|e| OpenError::damaged(&*name, seal.end, e.to_string()))?;
        Ok(segment)
    }

    /// A segment from the checkpoint's position on: every frame is read.
    fn behind(
        &self,
        id: SegmentId,
        position: Position,
        collected: &mut Collected<'_>,
    ) -> Result<(Tail, u64), OpenError> {
        let (file, size) = self.open(id)?;
        let (header, head) = read_header(&*file, id)?;
        let name = id.file_name();
        let start = if id == position.segment { position.offset } else { FRAMES_AT };
        let (mut footer, mut noted) = (Vec::new(), Ok(()));
        let segment = Arc::new(Segment::new(id, Arc::clone(&file), size, false));
        let end = scan(&*file, &header, size, |f| {
            segment.note_frame(f.table.extent);
            let payload_at = f.header.payload_at();
            put_footer_entry(&mut footer, f.offset, payload_at, f.table_bytes);
            let (table, table_bytes, old) = (f.table, f.table_bytes, f.offset < start);
            let payload_at = f.offset + payload_at;
            let result = collected.note(&Noted { segment: id, payload_at, table, table_bytes, old });
            if noted.is_ok() {
                noted = result.map_err(|e| (f.offset, e));
            }
            if !old {
                collected.ops.extend(f.ops);
            }
        })
        .map_err(OpenError::io(&*name))?;
        if end.malformed {
            return Err(OpenError::damaged(name, end.end, end.reason));
        }
        noted.map_err(|(at, e)| OpenError::damaged(&*name, at, e.to_string()))?;
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
        Ok((Tail { segment, header, end: end.end, last_crc: end.last_crc, footer, sealed, has_seal }, size))
    }

    /// Takes the next segment behind the checkpoint's position: it continues the log, or is prepared for that.
    fn follow(&self, opened: &mut Opened, next: (Tail, u64)) -> Result<(), OpenError> {
        let (next, size) = next;
        let prepared = opened.prepared.as_ref().map(|(_, header)| header.id);
        match &opened.tail {
            // The log was about to go on in the prepared segment, and the one behind it had been prepared, when it ended: the
            // first frame there was not written, or not whole.
            Some(tail)
                if tail.sealed && next.end == FRAMES_AT && prepared.map(SegmentId::next) == Some(next.header.id) =>
            {
                opened.leftovers.push(next.segment.id.file_name());
                return Ok(());
            }
            Some(tail) if prepared.is_some() || (!tail.sealed && next.end > FRAMES_AT) => {
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
}

/// How many bytes behind the last frame still begin like a frame of this segment: what was lost in a torn write.
fn written_behind(tail: &Tail, size: u64) -> Result<u64, OpenError> {
    let mut head = [0; crate::frame::FRAME_HEADER];
    let name = tail.segment.id.file_name();
    let n = crate::disk::read_most(&*tail.segment.file, tail.end, &mut head).map_err(OpenError::io(name))?;
    let torn = crate::frame::FrameHeader::parse(&head[..n], size - tail.end);
    Ok(torn.filter(|h| h.segment == tail.header.id.0 && h.prev == tail.last_crc).map_or(0, |h| u64::from(h.len)))
}
