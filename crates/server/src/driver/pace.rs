//! How much to read at once: little from quiet peers, much from busy ones.

/// Adapts the size of reads to what they bring.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadSize {
    bytes: usize,
    /// Reads in a row that would have fitted half the size.
    small: u8,
}

impl ReadSize {
    /// What a connection begins with and falls back to.
    const MIN: usize = 2 * 1024;
    /// Beyond this, larger reads save no more system time but leave the processor's cache.
    const MAX: usize = 128 * 1024;
    /// How many small reads in a row halve the size.
    const PATIENCE: u8 = 16;

    /// The smallest.
    pub(super) fn new() -> ReadSize {
        ReadSize { bytes: Self::MIN, small: 0 }
    }

    /// How much to ask for next, bytes.
    pub(super) fn bytes(self) -> usize {
        self.bytes
    }

    /// A read brought `n` bytes.
    pub(super) fn took(&mut self, n: usize) {
        if n >= self.bytes {
            self.bytes = (self.bytes * 4).min(Self::MAX);
            self.small = 0;
        } else if n < self.bytes / 2 && self.bytes > Self::MIN {
            self.small += 1;
            if self.small == Self::PATIENCE {
                self.bytes = (self.bytes / 2).max(Self::MIN);
                self.small = 0;
            }
        } else {
            self.small = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_fast_and_shrinks_slowly() {
        let mut size = ReadSize::new();
        for _ in 0..4 {
            size.took(size.bytes());
        }
        assert_eq!(size.bytes(), ReadSize::MAX);
        for _ in 0..15 {
            size.took(10);
        }
        assert_eq!(size.bytes(), ReadSize::MAX);
        for _ in 0..200 {
            size.took(10);
        }
        assert_eq!(size.bytes(), ReadSize::MIN);
    }
}
