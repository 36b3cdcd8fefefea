//! How much to read at once: little from quiet peers, much from busy ones, nothing from those that do not read.

use waypost_model::{Event, Reply};

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
    /// Unless what is read is spread over so many that each would get little of it.
    const MAX_SPREAD: usize = 512 * 1024;
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

    /// A read brought `n` bytes; `spread` tells whether each of its parts went another way.
    pub(super) fn took(&mut self, n: usize, spread: bool) {
        let max = if spread { Self::MAX_SPREAD } else { Self::MAX };
        if n >= self.bytes || self.bytes > max {
            self.bytes = (self.bytes * 4).min(max);
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

/// What an answer costs beside the bytes that it holds.
const ANSWER_BYTES: usize = 128;

/// Bytes that an event keeps in memory until it is written, if what the peer sent has brought it. Deliveries do not
/// count: they are bounded by credit. Farewells do not either, for they overtake others.
pub(super) fn answer_bytes(event: &Event) -> usize {
    match event {
        Event::Deliver(_) | Event::Close { .. } => 0,
        // The batch is kept whole, however little of it comes back.
        Event::Returned { batch, .. } => ANSWER_BYTES + batch.footprint(),
        Event::Reply { reply: Reply::Got { delivery, .. }, .. } => {
            ANSWER_BYTES + usize::try_from(delivery.cost).unwrap_or(usize::MAX / 2)
        }
        _ => ANSWER_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_fast_and_shrinks_slowly() {
        let mut size = ReadSize::new();
        for _ in 0..4 {
            size.took(size.bytes(), false);
        }
        assert_eq!(size.bytes(), ReadSize::MAX);
        for _ in 0..15 {
            size.took(10, false);
        }
        assert_eq!(size.bytes(), ReadSize::MAX);
        for _ in 0..200 {
            size.took(10, false);
        }
        assert_eq!(size.bytes(), ReadSize::MIN);
    }

    #[test]
    fn what_is_spread_is_read_in_larger_pieces_as_long_as_they_are_full() {
        let mut size = ReadSize::new();
        for _ in 0..5 {
            size.took(size.bytes(), true);
        }
        assert_eq!(size.bytes(), ReadSize::MAX_SPREAD);
        for _ in 0..16 {
            size.took(ReadSize::MAX, true);
        }
        assert_eq!(size.bytes(), ReadSize::MAX_SPREAD / 2);
        size.took(ReadSize::MAX, false);
        assert_eq!(size.bytes(), ReadSize::MAX);
    }
}
