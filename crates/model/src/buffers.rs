//! Large buffers that are used again: pages that the system gives anew cost more than what is written into them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A smaller buffer costs little to make.
const BUFFER_BYTES_MIN: usize = 64 << 10;

/// Buffers that wait to be used again, by whoever shares them.
#[derive(Debug)]
pub struct Buffers {
    free: Mutex<Free>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Free {
    /// The one that came last is taken first: its bytes may still be near the processor.
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    /// How many were never taken since that was last looked at.
    idle: usize,
}

impl Buffers {
    /// Keeps at most `bytes_max` bytes of buffers.
    #[must_use]
    pub fn new(bytes_max: usize) -> Buffers {
        Buffers { free: Mutex::default(), bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty buffer with room for `bytes` bytes and at most half as many more, if there is one.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<Vec<u8>> {
        if bytes < BUFFER_BYTES_MIN {
            return None;
        }
        let mut free = self.lock();
        let fits = |b: &Vec<u8>| b.capacity() >= bytes && b.capacity() - bytes <= bytes / 2;
        let at = free.buffers.iter().rposition(fits)?;
        let buffer = free.buffers.remove(at);
        free.bytes -= buffer.capacity();
        free.idle = free.idle.min(at);
        Some(buffer)
    }

    /// Gives a buffer that nobody needs. It is freed if it is small, or if there are enough.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        let mut free = self.lock();
        if bytes < BUFFER_BYTES_MIN || free.bytes.saturating_add(bytes) > self.bytes_max {
            return;
        }
        buffer.clear();
        free.bytes += bytes;
        free.buffers.push(buffer);
    }

    /// Frees those that nobody took since this was last called.
    pub fn trim(&self) {
        let mut free = self.lock();
        let idle = free.idle.min(free.buffers.len());
        let gone: Vec<Vec<u8>> = free.buffers.drain(..idle).collect();
        free.bytes -= gone.iter().map(Vec::capacity).sum::<usize>();
        free.idle = free.buffers.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: usize) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(bytes);
        buffer.push(7);
        buffer
    }

    #[test]
    fn what_is_given_is_taken_again_if_it_fits() {
        let buffers = Buffers::new(1 << 20);
        assert!(buffers.take(100_000).is_none());
        buffers.give(of(100_000));
        buffers.give(of(1000));
        assert!(buffers.take(100_001).is_none() && buffers.take(66_000).is_none() && buffers.take(900).is_none());
        let taken = buffers.take(70_000).unwrap();
        assert!(taken.is_empty() && taken.capacity() >= 100_000);
        assert!(buffers.take(70_000).is_none());
    }

    #[test]
    fn no_more_is_kept_than_may_be_and_nothing_for_ever() {
        let buffers = Buffers::new(1 << 20);
        (0..100).for_each(|_| buffers.give(of(100_000)));
        let held = |b: &Buffers| {
            let free = b.lock();
            (free.buffers.len(), free.bytes)
        };
        assert_eq!(held(&buffers), (10, 1_000_000));
        buffers.trim();
        assert_eq!(held(&buffers).0, 10, "it is not known yet which of them are used");
        let some: Vec<_> = (0..4).map(|_| buffers.take(100_000).unwrap()).collect();
        some.into_iter().for_each(|b| buffers.give(b));
        buffers.trim();
        assert_eq!(held(&buffers), (4, 400_000));
        buffers.trim();
        assert_eq!(held(&buffers), (0, 0));
    }
}
