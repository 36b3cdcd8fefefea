//! Segments: header and seal, and what is known of one while the store is open.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use crate::disk::{BLOCK, Disk, DiskFile, read_most, write_all};
use crate::table::Extent;
use crate::wire::{Reader, put_u32, put_u64};

/// The version that this release writes, and the only one that it reads: version 1 was never released.
pub const FORMAT_VERSION: u32 = 2;
/// Where the first frame lies.
pub const FRAMES_AT: u64 = 128;
/// Bytes of a segment's header.
pub const SEGMENT_HEADER: usize = 64;
/// Where the seal lies.
const SEAL_AT: u64 = SEGMENT_HEADER as u64;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"WPSG");
const SEAL_MAGIC: u32 = u32::from_le_bytes(*b"WPSL");

const _: () = assert!(FRAMES_AT.is_multiple_of(crate::frame::ALIGN));

/// The number of a segment. Cold segments are counted apart and have the highest bit set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentId(pub u32);

impl SegmentId {
    const COLD: u32 = 1 << 31;

    /// The `n`-th cold segment.
    pub fn cold(n: u32) -> SegmentId {
        SegmentId(n | Self::COLD)
    }

    /// Whether it holds survivors, and no operations.
    pub fn is_cold(self) -> bool {
        self.0 & Self::COLD != 0
    }

    /// Its number among those of its kind.
    pub fn number(self) -> u32 {
        self.0 & !Self::COLD
    }

    /// The one that follows in the log.
    pub fn next(self) -> SegmentId {
        SegmentId(self.0 + 1)
    }

    /// The name of its file.
    pub fn file_name(self) -> String {
        format!("{}-{:08x}", if self.is_cold() { "cold" } else { "seg" }, self.number())
    }

    /// The segment whose file has this name.
    pub fn of_file(name: &str) -> Option<SegmentId> {
        let (kind, number) = name.split_once('-')?;
        let number = u32::from_str_radix(number, 16).ok().filter(|n| n & Self::COLD == 0)?;
        let id = match kind {
            "seg" => SegmentId(number),
            "cold" => SegmentId::cold(number),
            _ => return None,
        };
        (id.file_name() == name).then_some(id)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file_name())
    }
}

/// The first 64 bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub id: SegmentId,
    pub epoch: u32,
    /// Bytes that are allocated.
    pub capacity: u64,
    /// The first frame's predecessor.
    pub crc: u32,
}

/// What is wrong with a segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// It is not there, or its checksum is wrong.
    Damaged,
    /// Another release wrote it, in this version of the format.
    Version(u32),
    /// It belongs to another segment.
    Foreign(u32),
}

impl SegmentHeader {
    /// The header's bytes; `crc` is set.
    pub fn encode(&mut self) -> [u8; SEGMENT_HEADER] {
        let mut out = Vec::with_capacity(SEGMENT_HEADER);
        put_u32(&mut out, HEADER_MAGIC);
        put_u32(&mut out, FORMAT_VERSION);
        put_u32(&mut out, self.id.0);
        put_u32(&mut out, self.epoch);
        put_u64(&mut out, self.capacity);
        out.resize(SEGMENT_HEADER - 4, 0);
        self.crc = crc32c::crc32c(&out);
        put_u32(&mut out, self.crc);
        let mut header = [0; SEGMENT_HEADER];
        header.copy_from_slice(&out);
        header
    }

    /// Reads the header of the segment `id`.
    ///
    /// # Errors
    /// [`HeaderFault`].
    pub fn parse(bytes: &[u8], id: SegmentId) -> Result<SegmentHeader, HeaderFault> {
        let head = bytes.get(..SEGMENT_HEADER).ok_or(HeaderFault::Damaged)?;
        let crc = crc32c::crc32c(&head[..SEGMENT_HEADER - 4]);
        if head[SEGMENT_HEADER - 4..] != crc.to_le_bytes() {
            return Err(HeaderFault::Damaged);
        }
        let mut r = Reader::new(head);
        let mut next = || r.u32().map_err(|_| HeaderFault::Damaged);
        let (magic, version, found, epoch) = (next()?, next()?, next()?, next()?);
        let capacity = r.u64().map_err(|_| HeaderFault::Damaged)?;
        match () {
            () if magic != HEADER_MAGIC => Err(HeaderFault::Damaged),
            () if version != FORMAT_VERSION => Err(HeaderFault::Version(version)),
            () if found != id.0 => Err(HeaderFault::Foreign(found)),
            () => Ok(SegmentHeader { id, epoch, capacity, crc }),
        }
    }
}

/// Says that a segment is complete and where its footer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// One behind the last frame: there the footer begins.
    pub end: u64,
    pub footer_len: u64,
    pub footer_crc: u32,
    /// The last frame's checksum, or the header's if there is none.
    pub last_crc: u32,
}

impl Seal {
    /// Takes a seal away. Nothing is synced.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn erase(file: &dyn DiskFile) -> io::Result<()> {
        write_all(file, SEAL_AT, &mut [&[0; SEGMENT_HEADER]])
    }

    /// The seal's bytes.
    pub fn encode(&self, header: &SegmentHeader) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        put_u32(&mut out, SEAL_MAGIC);
        put_u32(&mut out, header.id.0);
        put_u32(&mut out, header.crc);
        put_u64(&mut out, self.end);
        put_u64(&mut out, self.footer_len);
        put_u32(&mut out, self.footer_crc);
        put_u32(&mut out, self.last_crc);
        out.resize(60, 0);
        let crc = crc32c::crc32c(&out);
        put_u32(&mut out, crc);
        out
    }

    /// Reads the seal that belongs to a header; `None` if there is no intact one.
    pub fn parse(bytes: &[u8], header: &SegmentHeader) -> Option<Seal> {
        let bytes = bytes.get(SEAL_AT as usize..FRAMES_AT as usize)?;
        if bytes[60..] != crc32c::crc32c(&bytes[..60]).to_le_bytes() {
            return None;
        }
        let mut r = Reader::new(bytes);
        let belongs = r.u32() == Ok(SEAL_MAGIC) && r.u32() == Ok(header.id.0) && r.u32() == Ok(header.crc);
        let seal =
            Seal { end: r.u64().ok()?, footer_len: r.u64().ok()?, footer_crc: r.u32().ok()?, last_crc: r.u32().ok()? };
        belongs.then_some(seal)
    }

    /// Writes footer and seal. Nothing is synced.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn write(&self, file: &dyn DiskFile, header: &SegmentHeader, footer: &[u8]) -> io::Result<()> {
        write_all(file, self.end, &mut [footer])?;
        write_all(file, SEAL_AT, &mut [&self.encode(header)])
    }
}

/// The first 128 bytes of a file, as far as it has them.
///
/// # Errors
/// Any I/O error.
pub fn read_head(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let mut head = vec![0; FRAMES_AT as usize];
    let n = read_most(file, 0, &mut head)?;
    head.truncate(n);
    Ok(head)
}

/// Appends a frame's chunk table to a footer.
pub fn put_footer_entry(footer: &mut Vec<u8>, frame_at: u64, payload_at: u64, table: &[u8]) {
    if table.is_empty() {
        return;
    }
    put_u64(footer, frame_at + payload_at);
    put_u32(footer, table.len() as u32);
    footer.extend_from_slice(table);
}

/// What a footer entry takes beside the chunk table.
pub const FOOTER_ENTRY: u64 = 12;

/// A segment while the store is open.
pub struct Segment {
    pub id: SegmentId,
    pub file: Arc<dyn DiskFile>,
    capacity: AtomicU64,
    live: AtomicU64,
    /// Of their chunks alone; see [`Segment::live_bytes`].
    live_bytes: AtomicI64,
    /// Bytes of all chunks that were ever written to it, and of what describes them.
    chunk_bytes: AtomicU64,
    table_bytes: AtomicU64,
    /// Frames that it was given since the start, and their bytes.
    commits: AtomicU64,
    commit_bytes: AtomicU64,
    /// Which of its [`PARTS`] have been read to their end, a bit each.
    read: AtomicU64,
    sealed: AtomicBool,
}

/// Parts of a segment of which it is known whether they were read.
const PARTS: u64 = 64;

impl Segment {
    pub fn new(id: SegmentId, file: Arc<dyn DiskFile>, capacity: u64, sealed: bool) -> Segment {
        Segment {
            id,
            file,
            capacity: AtomicU64::new(capacity),
            live: AtomicU64::new(0),
            live_bytes: AtomicI64::new(0),
            chunk_bytes: AtomicU64::new(0),
            table_bytes: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            commit_bytes: AtomicU64::new(0),
            read: AtomicU64::new(0),
            sealed: AtomicBool::new(sealed),
        }
    }

    /// Bytes that its file takes.
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Makes room for `bytes` bytes.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn grow(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)?;
        if self.capacity.fetch_max(bytes, Ordering::Relaxed) < bytes {
            // Its parts are others now.
            self.read.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Messages in queues that it holds.
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Acquire)
    }

    /// About how many bytes they take. What describes a chunk (in frame and footer) is charged to its messages: of small
    /// ones it is the larger part, and a segment that has lost nothing must not look as if there were room to win.
    pub fn live_bytes(&self) -> u64 {
        if self.live() == 0 {
            return 0;
        }
        let live = self.live_bytes.load(Ordering::Relaxed).max(0) as u128;
        let chunks = u128::from(self.chunk_bytes.load(Ordering::Relaxed)).max(1);
        let tables = u128::from(self.table_bytes.load(Ordering::Relaxed));
        u64::try_from(live + live * tables / chunks).unwrap_or(u64::MAX)
    }

    /// Takes note of a frame's messages.
    pub fn note_frame(&self, extent: Extent) {
        self.chunk_bytes.fetch_add(extent.chunks, Ordering::Relaxed);
        self.table_bytes.fetch_add(extent.all.saturating_sub(extent.chunks), Ordering::Relaxed);
    }

    /// Takes note of a commit of so many bytes.
    pub fn note_commit(&self, bytes: u64) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.commit_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Commits since the start, and their bytes.
    pub fn commits(&self) -> (u64, u64) {
        (self.commits.load(Ordering::Relaxed), self.commit_bytes.load(Ordering::Relaxed))
    }

    /// Whether there were any, of less than `bytes` on average.
    pub fn commits_are_below(&self, bytes: u64) -> bool {
        let (commits, committed) = self.commits();
        committed < commits.saturating_mul(bytes)
    }

    /// Whether these bytes were read before, as far as is known. Of the part in which they end it is not, unless they begin there.
    pub fn was_read(&self, at: u64, end: u64) -> bool {
        let size = self.part_bytes();
        let touched = bits(at / size, (end / size).max(at / size + 1));
        self.read.load(Ordering::Relaxed) & touched == touched
    }

    /// Whether the system has these bytes in its cache, as far as a look at the block in the middle tells: the last of a segment has
    /// its footer behind it, which was written through the cache.
    pub fn is_cached(&self, at: u64, end: u64) -> bool {
        let block = u64::midpoint(at, end) / BLOCK as u64 * BLOCK as u64;
        self.file.read_cached(block, &mut [0; BLOCK])
    }

    /// Takes note of these bytes' being read. A part in which they end is not through yet: whoever goes on there has not read it
    /// before.
    pub fn note_read(&self, at: u64, end: u64) {
        let size = self.part_bytes();
        self.read.fetch_or(bits(at / size, end / size), Ordering::Relaxed);
    }

    fn part_bytes(&self) -> u64 {
        self.capacity().div_ceil(PARTS).max(1)
    }

    pub fn add_live(&self, messages: u64, bytes: u64) {
        self.live.fetch_add(messages, Ordering::AcqRel);
        self.live_bytes.fetch_add(bytes as i64, Ordering::Relaxed);
    }

    pub fn sub_live(&self, messages: u64, bytes: u64) {
        let before = self.live.fetch_sub(messages, Ordering::AcqRel);
        debug_assert!(before >= messages, "more messages left {} than were in it", self.id);
        self.live_bytes.fetch_sub(bytes as i64, Ordering::Relaxed);
    }

    /// Whether nothing will be added to it.
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    pub fn set_sealed(&self) {
        self.sealed.store(true, Ordering::Release);
    }
}

/// From one place to another, as far as there are such.
fn bits(from: u64, to: u64) -> u64 {
    let below = |n: u64| if n >= PARTS { u64::MAX } else { (1 << n) - 1 };
    below(to) & !below(from)
}

/// Makes the file of a segment: allocates or reuses, writes the header, syncs, and gives it its name.
///
/// # Errors
/// Any I/O error. The temporary file is left behind then.
pub fn prepare(
    disk: &dyn Disk,
    id: SegmentId,
    epoch: u32,
    capacity: u64,
    spare: Option<&str>,
) -> io::Result<(Arc<dyn DiskFile>, SegmentHeader)> {
    const NAME: &str = "next.tmp";
    let file = match spare {
        Some(name) => {
            disk.rename(name, NAME)?;
            disk.open(NAME)?
        }
        None => disk.create(NAME)?,
    };
    file.allocate(capacity)?;
    let mut header = SegmentHeader { id, epoch, capacity, crc: 0 };
    let bytes = header.encode();
    write_all(&*file, 0, &mut [&bytes])?;
    file.sync_data()?;
    disk.rename(NAME, &id.file_name())?;
    disk.sync_dir()?;
    Ok((file, header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_from_front_to_back_has_read_nothing_before() {
        let disk = crate::disk::fault::FaultDisk::new(1);
        let capacity = 1 << 20;
        for step in [4096, 10_000, 16 << 10, 100_000, capacity] {
            let segment = Segment::new(SegmentId(1), disk.create("seg-00000001").unwrap(), capacity, true);
            let spans = || (0..capacity).step_by(step as usize).map(|at| (at, (at + step).min(capacity)));
            for (at, end) in spans() {
                assert!(!segment.was_read(at, end), "{step} {at}");
                segment.note_read(at, end);
            }
            for (at, end) in spans() {
                assert!(segment.was_read(at, end), "{step} {at}");
            }
            // What lies behind the last frame nobody reads.
            let segment = Segment::new(SegmentId(1), disk.create("seg-00000002").unwrap(), capacity, true);
            segment.note_read(0, capacity - 100);
            assert!(segment.was_read(1000, capacity - 100) && !segment.was_read(capacity - 200, capacity - 100));
            segment.grow(2 * capacity).unwrap();
            assert!(!segment.was_read(0, 2 * capacity), "it has grown since");
        }
    }

    #[test]
    fn names_and_ids_agree() {
        for id in [SegmentId(1), SegmentId(0x1234), SegmentId::cold(7)] {
            assert_eq!(SegmentId::of_file(&id.file_name()), Some(id));
        }
        for other in ["seg-1", "seg-FFFFFFFF", "spare-00000001", "seg-ffffffff", "LOCK"] {
            assert_eq!(SegmentId::of_file(other), None);
        }
    }

    #[test]
    fn a_header_is_for_its_own_segment_and_version() {
        let mut h = SegmentHeader { id: SegmentId(3), epoch: 2, capacity: 65536, crc: 0 };
        let bytes = h.encode();
        assert_eq!(SegmentHeader::parse(&bytes, SegmentId(3)), Ok(h));
        assert_eq!(SegmentHeader::parse(&bytes, SegmentId(4)), Err(HeaderFault::Foreign(3)));
        for version in [FORMAT_VERSION - 1, FORMAT_VERSION + 1] {
            let mut other = bytes[..60].to_vec();
            other[4..8].copy_from_slice(&version.to_le_bytes());
            other.extend_from_slice(&crc32c::crc32c(&other.clone()).to_le_bytes());
            assert_eq!(SegmentHeader::parse(&other, SegmentId(3)), Err(HeaderFault::Version(version)));
            other[5] = 1;
            assert_eq!(SegmentHeader::parse(&other, SegmentId(3)), Err(HeaderFault::Damaged));
        }
    }
}
