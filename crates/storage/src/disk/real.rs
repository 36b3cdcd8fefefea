//! A directory of the operating system.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, DiskFile, LockError};

/// How many buffers one write may have (`IOV_MAX`).
#[cfg(any(target_os = "linux", target_os = "android"))]
const BUFFERS_MAX: usize = 1024;

/// A directory of the operating system.
pub struct RealDisk {
    root: PathBuf,
    dir: File,
}

impl RealDisk {
    /// Opens a directory, and makes it (and its parents) if it is not there.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn open_or_create(root: &Path) -> io::Result<RealDisk> {
        if !root.is_dir() {
            fs::create_dir_all(root)?;
            if let Some(parent) = root.parent().filter(|p| !p.as_os_str().is_empty()) {
                sync_directory(&File::open(parent)?)?;
            }
        }
        RealDisk::open_existing(root)
    }

    /// Opens a directory that is there.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn open_existing(root: &Path) -> io::Result<RealDisk> {
        Ok(RealDisk { root: root.to_path_buf(), dir: File::open(root)? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).open(self.path(name))?)))
    }

    fn open_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(File::open(self.path(name))?)))
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn open_direct(&self, name: &str) -> Option<Arc<dyn DiskFile>> {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(self.path(name)).ok()?;
        Some(Arc::new(RealFile(file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Arc::new(RealFile(options.open(self.path(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        sync_directory(&self.dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>, LockError> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(self.path("LOCK"))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(e) if e == rustix::io::Errno::WOULDBLOCK => {
                let mut text = String::new();
                // The number is only a courtesy in the error message.
                let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(LockError::Held { holder });
            }
            Err(e) => return Err(LockError::Io(e.into())),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Box::new(file))
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        // More of them at once is an error.
        let bufs = bufs.get(..BUFFERS_MAX).unwrap_or(bufs);
        Ok(rustix::io::pwritev(&self.0, bufs, offset)?)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match bufs.iter().find(|b| !b.is_empty()) {
            Some(b) => self.0.write_at(b, offset),
            None => Ok(0),
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        let flags = rustix::io::ReadWriteFlags::NOWAIT;
        let wanted = buf.len();
        rustix::io::preadv2(&self.0, &mut [std::io::IoSliceMut::new(buf)], offset, flags).is_ok_and(|n| n == wanted)
    }

    #[cfg(target_vendor = "apple")]
    fn sync_data(&self) -> io::Result<()> {
        // fsync on Apple's systems does not empty the drive's cache.
        Ok(rustix::fs::fcntl_fullfsync(&self.0)?)
    }

    #[cfg(not(target_vendor = "apple"))]
    fn sync_data(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            // A file system that cannot reserve: room is then found missing at the write.
            Err(e) if e == rustix::io::Errno::OPNOTSUPP => extend(&self.0, bytes),
            Err(e) => Err(e.into()),
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        extend(&self.0, bytes)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

fn extend(file: &File, bytes: u64) -> io::Result<()> {
    if file.metadata()?.len() < bytes { file.set_len(bytes) } else { Ok(()) }
}

fn sync_directory(dir: &File) -> io::Result<()> {
    #[cfg(target_vendor = "apple")]
    return Ok(rustix::fs::fcntl_fullfsync(dir)?);
    #[cfg(not(target_vendor = "apple"))]
    return dir.sync_all();
}
