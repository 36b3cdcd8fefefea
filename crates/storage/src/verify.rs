//! Reads a whole directory, offline, and says whether every byte that matters is what was written.

use std::io;
use std::path::Path;

use crate::disk::Disk;
use crate::disk::real::RealDisk;
use crate::error::OpenError;
use crate::recovery::{read_footer, recover};
use crate::scan::scan;
use crate::segment::{Seal, SegmentHeader, SegmentId, put_footer_entry, read_head};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments, with those that nobody needs any more.
    pub segments: u64,
    /// Frames in them.
    pub frames: u64,
    /// Chunks in them; each one's checksum was computed.
    pub chunks: u64,
    /// Bytes that were checked.
    pub bytes: u64,
    /// Messages in queues.
    pub messages: u64,
    /// Queues.
    pub queues: u64,
    /// Definitions.
    pub definitions: u64,
    /// Bytes of a torn last write, which the next open cuts.
    pub cut_bytes: u64,
    /// Whether the last stop was clean.
    pub clean: bool,
    /// What is wrong, each with file and offset. Empty: all is well.
    pub problems: Vec<String>,
}

/// Checks a directory that nobody has open. Nothing is written.
///
/// # Errors
/// If the directory cannot be read.
pub fn verify_dir(dir: &Path) -> io::Result<Report> {
    verify(&RealDisk::open_existing(dir)?)
}

/// Checks a disk that nobody has open. Nothing is written.
///
/// # Errors
/// If the directory cannot be read. What is wrong with single files stands in the report.
pub fn verify(disk: &dyn Disk) -> io::Result<Report> {
    let mut report = Report::default();
    let names = disk.list()?;
    let mut segments: Vec<SegmentId> = names.iter().filter_map(|n| SegmentId::of_file(n)).collect();
    segments.sort();
    let needed = match recover(disk) {
        Ok(opened) => {
            report.messages = opened.recovered.runs.iter().map(|r| u64::from(r.range.count)).sum();
            report.queues = opened.recovered.next_seq.len() as u64;
            report.definitions = opened.definitions.len() as u64;
            report.clean = opened.recovered.clean;
            report.cut_bytes = opened.cut_bytes;
            segments.retain(|id| !opened.leftovers.contains(&id.file_name()));
            true
        }
        Err(e) => {
            report.problems.push(e.to_string());
            false
        }
    };
    for id in segments {
        report.segments += 1;
        // Without a checkpoint nobody knows which segments are needed; each is looked at then all the same.
        if let Err(e) = check_segment(disk, id, &mut report) {
            let text = e.to_string();
            if needed || !report.problems.contains(&text) {
                report.problems.push(text);
            }
        }
    }
    Ok(report)
}

fn check_segment(disk: &dyn Disk, id: SegmentId, report: &mut Report) -> Result<(), OpenError> {
    let name = id.file_name();
    let file = disk.open_read(&name).map_err(OpenError::io(&*name))?;
    let size = file.size().map_err(OpenError::io(&*name))?;
    let head = read_head(&*file).map_err(OpenError::io(&*name))?;
    let header =
        SegmentHeader::parse(&head, id).map_err(|fault| OpenError::damaged(&*name, 0, format!("header: {fault:?}")))?;
    let mut footer = Vec::new();
    let end = scan(&*file, &header, size, |f| {
        report.frames += 1;
        report.chunks += f.table.chunks.len() as u64;
        put_footer_entry(&mut footer, f.offset, f.header.payload_at(), f.table_bytes);
    })
    .map_err(OpenError::io(&*name))?;
    report.bytes += end.end;
    let Some(seal) = Seal::parse(&head, &header) else { return Ok(()) };
    if (seal.end, seal.last_crc) != (end.end, end.last_crc) {
        return Err(OpenError::damaged(name, end.end, end.reason));
    }
    let written = read_footer(&*file, &seal, size).map_err(OpenError::io(&*name))?;
    if written.as_ref() != Some(&footer) {
        return Err(OpenError::damaged(name, seal.end, "the footer is not that of the frames"));
    }
    Ok(())
}
