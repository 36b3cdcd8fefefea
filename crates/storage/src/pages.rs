//! Room for what goes past the system's cache: whole blocks, in large pages where the system has them and the room is large. Each
//! page is pinned for each read and write, and a large one is five hundred small ones; but it takes memory as a whole.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::disk::BLOCK;

/// How long large pages are, and at what boundaries they begin. Smaller room is of small pages.
pub const LARGE: usize = 2 << 20;

/// Zeros at first, beginning at a block's boundary. Pages take memory once they are touched.
pub struct Pages {
    map: MmapMut,
    from: usize,
    len: usize,
}

impl Pages {
    /// Room for so many bytes, rounded up to whole blocks.
    ///
    /// # Errors
    /// The system has none.
    pub fn new(bytes: usize) -> io::Result<Pages> {
        let len = bytes.max(1).next_multiple_of(BLOCK);
        if len < LARGE {
            return Ok(Pages { map: MmapMut::map_anon(len)?, from: 0, len });
        }
        // What lies before the boundary and behind the end is never touched.
        let map = MmapMut::map_anon(len + LARGE)?;
        // Small pages serve as well.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let from = map.as_ptr().addr().next_multiple_of(LARGE) - map.as_ptr().addr();
        Ok(Pages { map, from, len })
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.get(self.from..self.from + self.len).unwrap_or_default()
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.map.get_mut(self.from..self.from + self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begin_at_a_boundary_and_with_zeros() {
        for bytes in [0, 1, BLOCK, BLOCK + 1, LARGE - 1, LARGE, 3 << 20, 4 << 20] {
            let mut pages = Pages::new(bytes).unwrap();
            assert_eq!(pages.as_ptr().addr() % if bytes > LARGE - BLOCK { LARGE } else { BLOCK }, 0);
            assert_eq!(pages.len(), bytes.max(1).next_multiple_of(BLOCK));
            assert!(pages.iter().all(|b| *b == 0));
            pages.fill(7);
        }
    }
}
