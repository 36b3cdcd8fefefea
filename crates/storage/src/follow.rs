//! Brings the store's segments in line with a log that is kept elsewhere, before recovery reads them: frames that the
//! log has are written where they are missing, frames that it does not have are cut.

use std::io;
use std::sync::Arc;

use crate::checkpoint::CheckpointHead;
use crate::disk::{Disk, DiskFile, discard, read_most, write_all};
use crate::error::OpenError;
use crate::frame::{self, FRAME_HEADER, FrameHeader};
use crate::log::{Frames, Log, LogFrame, Position};
use crate::scan::scan;
use crate::segment::{FRAMES_AT, Seal, SegmentHeader, SegmentId, prepare, put_footer_entry, read_head};

/// Reads the log from the checkpoint's position on; says where its frames are. A log whose frames are nowhere but here
/// leaves everything as it is.
///
/// # Errors
/// [`OpenError::Io`], also if the log does not continue what is here.
pub fn follow(disk: &dyn Disk, log: &dyn Log, head: Option<&CheckpointHead>) -> Result<Frames, OpenError> {
    let from = head.map_or(Position::START, |h| h.position);
    let mut copy = Copy { disk, at: from, file: None };
    let read = log.read(from, &mut |frame| match head {
        Some(_) => copy.take(frame),
        None => Err(io::Error::other("it has frames, but there is no checkpoint here that it could continue")),
    });
    let frames = read.map_err(OpenError::io("the log"))?;
    if frames == Frames::Read && head.is_some() {
        copy.cut().map_err(OpenError::io("the copy of the log"))?;
    }
    Ok(frames)
}

struct Copy<'a> {
    disk: &'a dyn Disk,
    /// One behind the last frame that the log and this copy have.
    at: Position,
    /// The segment that it lies in, once it was opened.
    file: Option<Arc<dyn DiskFile>>,
}

impl Copy<'_> {
    fn take(&mut self, frame: &LogFrame<'_>) -> io::Result<()> {
        if frame.at == (Position { segment: self.at.segment.next(), offset: FRAMES_AT }) {
            self.go_on(frame)?;
        }
        let header = FrameHeader::parse(frame.bytes[0], frame.len());
        let fits = |h: &FrameHeader| u64::from(h.len) == frame.len() && h.segment == frame.at.segment.0;
        if frame.at != self.at || !header.is_some_and(|h| fits(&h)) {
            let (found, expected) = (frame.at, self.at);
            return Err(io::Error::other(format!("a frame for {found:?} follows what ends at {expected:?}")));
        }
        let file = self.file()?;
        let mut at = frame.at.offset;
        for bytes in frame.bytes {
            let mut here = vec![0; bytes.len()];
            if read_most(&*file, at, &mut here)? < here.len() || here != **bytes {
                write_all(&*file, at, &mut [bytes])?;
            }
            at += bytes.len() as u64;
        }
        self.at.offset = at;
        Ok(())
    }

    fn file(&mut self) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&self.at.segment.file_name())?;
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Ends the segment and begins the next one with the header that it has in the log.
    fn go_on(&mut self, frame: &LogFrame<'_>) -> io::Result<()> {
        self.seal()?;
        let id = frame.at.segment;
        let wanted = SegmentHeader::parse(frame.segment_header, id)
            .map_err(|fault| io::Error::other(format!("the header of {id}: {fault:?}")))?;
        let here = match self.disk.open(&id.file_name()) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let file = match here {
            Some(file) if read_head(&*file)?.starts_with(frame.segment_header) => file,
            _ => prepare(self.disk, id, wanted.epoch, wanted.capacity, None)?.0,
        };
        self.file = Some(file);
        self.at = frame.at;
        Ok(())
    }

    /// Gives the segment the seal of what it holds, if it has another or none.
    fn seal(&mut self) -> io::Result<()> {
        let (file, id) = (self.file()?, self.at.segment);
        let head = read_head(&*file)?;
        let header =
            SegmentHeader::parse(&head, id).map_err(|fault| io::Error::other(format!("{id}: header: {fault:?}")))?;
        if Seal::parse(&head, &header).is_some_and(|s| s.end == self.at.offset) {
            return Ok(());
        }
        let mut footer = Vec::new();
        let size = self.at.offset;
        let end = scan(&*file, &header, size, |f| {
            put_footer_entry(&mut footer, f.offset, f.header.payload_at(), f.table_bytes);
        })?;
        if end.end != self.at.offset {
            return Err(io::Error::other(format!("{id}: {} at {}", end.reason, end.end)));
        }
        let (footer_len, footer_crc) = (footer.len() as u64, crc32c::crc32c(&footer));
        let seal = Seal { end: end.end, footer_len, footer_crc, last_crc: end.last_crc };
        seal.write(&*file, &header, &footer)?;
        file.sync_data()
    }

    /// Takes away what this copy has and the log has not.
    fn cut(&mut self) -> io::Result<()> {
        let file = self.file()?;
        let head = read_head(&*file)?;
        let header = SegmentHeader::parse(&head, self.at.segment).ok();
        if header.and_then(|h| Seal::parse(&head, &h)).is_some_and(|s| s.end != self.at.offset) {
            Seal::erase(&*file)?;
        }
        cut_frame(&*file, self.at.offset)?;
        file.sync_data()?;
        let next = self.at.segment.next();
        for id in self.disk.list()?.iter().filter_map(|n| SegmentId::of_file(n)) {
            if id == next {
                let file = self.disk.open(&id.file_name())?;
                Seal::erase(&*file)?;
                cut_frame(&*file, FRAMES_AT)?;
                file.sync_data()?;
            } else if !id.is_cold() && id > next {
                discard(self.disk, &id.file_name())?;
            }
        }
        self.disk.sync_dir()
    }
}

/// A frame is nothing without its beginning.
fn cut_frame(file: &dyn DiskFile, at: u64) -> io::Result<()> {
    let mut begin = [0; FRAME_HEADER];
    let n = read_most(file, at, &mut begin)?;
    if frame::begins(&begin[..n]) { write_all(file, at, &mut [&[0; FRAME_HEADER]]) } else { Ok(()) }
}
