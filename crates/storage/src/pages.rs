//! Room for what goes past the system's cache: whole blocks, in large pages where the system has them and the room is large. Each
//! page is pinned for each read and write, and a large one is five hundred small ones; but it takes memory as a whole.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Smaller room is of small pages.
const LARGE_BYTES_MIN: usize = 4 << 20;

/// Zeros at first, beginning at a block's boundary. Pages take memory once they are touched.
pub struct Pages(MmapMut);

impl Pages {
    /// Room for so many bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// The system has none.
    pub fn new(bytes: usize) -> io::Result<Pages> {
        let pages = MmapMut::map_anon(bytes)?;
        // Small pages serve as well.
        #[cfg(target_os = "linux")]
        let _ = if bytes >= LARGE_BYTES_MIN { pages.advise(memmap2::Advice::HugePage) } else { Ok(()) };
        Ok(Pages(pages))
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::BLOCK;

    #[test]
    fn begin_at_a_blocks_boundary_and_with_zeros() {
        for bytes in [1, BLOCK, 3 << 20, 4 << 20] {
            let pages = Pages::new(bytes).unwrap();
            assert_eq!(pages.as_ptr().addr() % BLOCK, 0);
            assert!(pages.len() >= bytes && pages.iter().all(|b| *b == 0));
        }
    }
}
