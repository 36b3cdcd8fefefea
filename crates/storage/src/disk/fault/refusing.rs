//! A file that cannot be written.

use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;

use super::super::DiskFile;

/// Answers every write with an error of this kind; the rest is the other file's.
pub struct Refusing(pub Arc<dyn DiskFile>, pub ErrorKind);

impl DiskFile for Refusing {
    fn write_at(&self, _: u64, _: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(self.1.into())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.0.allocate(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
}
