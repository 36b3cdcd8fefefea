//! The few file operations under the engine, so that tests can fail, tear, reorder and forget them.
//!
//! A disk is one flat directory. Nothing but [`DiskFile::sync_data`] makes content durable, nothing but
//! [`Disk::sync_dir`] makes names durable.

use std::io::{self, IoSlice};
use std::sync::Arc;

pub mod fault;
pub mod real;

/// What is written past the system's cache ([`Disk::open_direct`]) begins and ends at multiples of this, in the file and in
/// memory.
pub const BLOCK: usize = 4096;

/// A directory that belongs to one engine.
pub trait Disk: Send + Sync {
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// Any I/O error; `NotFound` if there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading only.
    ///
    /// # Errors
    /// Any I/O error; `NotFound` if there is none.
    fn open_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reads and writes past the system's cache, in whole [`BLOCK`]s. What it writes is seen by every reader
    /// of the file, and made durable by a sync through any handle of it. `None` where the system has no such thing.
    fn open_direct(&self, _name: &str) -> Option<Arc<dyn DiskFile>> {
        None
    }

    /// Makes an empty file, in place of whatever had the name.
    ///
    /// # Errors
    /// Any I/O error.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, in place of whatever had it.
    ///
    /// # Errors
    /// Any I/O error.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name; open handles stay usable.
    ///
    /// # Errors
    /// Any I/O error.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names of all files, in no particular order.
    ///
    /// # Errors
    /// Any I/O error.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes creations, renames and removals so far durable.
    ///
    /// # Errors
    /// Any I/O error.
    fn sync_dir(&self) -> io::Result<()>;

    /// Bytes that can still be allocated.
    ///
    /// # Errors
    /// Any I/O error.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Takes the directory for this process; held until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError`].
    fn lock(&self) -> Result<Box<dyn Send + Sync>, LockError>;
}

/// An open file. Reads and writes are positioned; several threads may use one at once.
pub trait DiskFile: Send + Sync {
    /// Writes a prefix of the buffers and says how long it was.
    ///
    /// # Errors
    /// Any I/O error.
    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Reads up to `buf.len()` bytes; 0 only at the end of the file.
    ///
    /// # Errors
    /// Any I/O error.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Fills `buf` if all of it is in the system's cache; false, if not or if that cannot be told.
    fn read_cached(&self, _offset: u64, _buf: &mut [u8]) -> bool {
        false
    }

    /// Makes everything written to the file so far durable.
    ///
    /// # Errors
    /// Any I/O error. What is on disk afterwards is unknown; a later success does not change that.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes sure that the first `bytes` bytes can be written without more room, extending the file.
    ///
    /// # Errors
    /// Any I/O error; `StorageFull` if there is no room.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// The length of the file, bytes.
    ///
    /// # Errors
    /// Any I/O error.
    fn size(&self) -> io::Result<u64>;
}

/// Why a directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("in use by another process{}", .holder.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Held {
        /// Its process id, where known.
        holder: Option<u32>,
    },
    /// It could not be tried.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Removes a file that may be there. The directory must be synced before the name is used again and renamed: else a
/// crash could give the old content the new name.
///
/// # Errors
/// Any I/O error but `NotFound`.
pub fn discard(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.remove(name) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Writes all of `bufs` at `offset`.
///
/// # Errors
/// Any I/O error; `WriteZero` if the file takes no more.
pub fn write_all(file: &dyn DiskFile, mut offset: u64, bufs: &mut [&[u8]]) -> io::Result<()> {
    let mut rest = bufs;
    loop {
        while rest.first().is_some_and(|b| b.is_empty()) {
            rest = &mut rest[1..];
        }
        if rest.is_empty() {
            return Ok(());
        }
        let slices: Vec<IoSlice<'_>> = rest.iter().map(|b| IoSlice::new(b)).collect();
        let mut n = match file.write_at(offset, &slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        offset += n as u64;
        for b in rest.iter_mut() {
            let take = n.min(b.len());
            *b = &b[take..];
            n -= take;
        }
    }
}

/// Fills `buf` from `offset`.
///
/// # Errors
/// Any I/O error; `UnexpectedEof` if the file ends before.
pub fn read_exact(file: &dyn DiskFile, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    if read_most(file, offset, buf)? == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Fills `buf` from `offset` as far as the file goes, and says how far that was.
///
/// # Errors
/// Any I/O error.
pub fn read_most(file: &dyn DiskFile, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(offset + done as u64, &mut buf[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
