//! Buffers, used again once nobody holds them.

use std::sync::Arc;

/// Buffers of a device: connections read into them, queues hold parts of them.
#[derive(Debug, Default)]
pub struct Pool {
    spare: Vec<Vec<u8>>,
    held: Vec<Arc<Vec<u8>>>,
    next: usize,
}

impl Pool {
    /// How many buffers it remembers of each sort; further ones are simply freed by their last holder.
    pub const BUFFERS_MAX: usize = 32;
    /// A larger buffer is not kept: a single large message must not cost its size for ever.
    pub const BUFFER_BYTES_MAX: usize = 1024 * 1024;

    /// An empty buffer with room for `capacity` octets.
    pub fn take(&mut self, capacity: usize) -> Vec<u8> {
        let mut buffer = self.spare.pop().or_else(|| self.recycle()).unwrap_or_default();
        buffer.clear();
        buffer.reserve(capacity);
        buffer
    }

    /// A buffer that nobody shares is given back.
    pub fn give(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < Self::BUFFERS_MAX && buffer.capacity() <= Self::BUFFER_BYTES_MAX && buffer.capacity() > 0
        {
            self.spare.push(buffer);
        }
    }

    /// Shares a buffer, and remembers it.
    pub fn share(&mut self, buffer: Vec<u8>) -> Arc<Vec<u8>> {
        let keep = self.held.len() < Self::BUFFERS_MAX && buffer.capacity() <= Self::BUFFER_BYTES_MAX;
        let shared = Arc::new(buffer);
        if keep {
            self.held.push(Arc::clone(&shared));
        }
        shared
    }

    /// Gives memory back.
    pub fn release(&mut self) {
        self.spare = Vec::new();
        self.held = Vec::new();
    }

    fn recycle(&mut self) -> Option<Vec<u8>> {
        for _ in 0..self.held.len() {
            self.next = if self.next + 1 < self.held.len() { self.next + 1 } else { 0 };
            if Arc::strong_count(self.held.get(self.next)?) == 1 {
                return Arc::try_unwrap(self.held.swap_remove(self.next)).ok();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_only_when_nobody_holds_it() {
        let mut pool = Pool::default();
        let first = pool.take(100);
        let at = first.as_ptr();
        let shared = pool.share(first);
        let second = pool.take(100);
        assert_ne!(second.as_ptr(), at);
        drop(shared);
        let third = pool.take(100);
        assert_eq!(third.as_ptr(), at);
    }

    #[test]
    fn large_buffers_are_let_go() {
        let mut pool = Pool::default();
        pool.give(Vec::with_capacity(Pool::BUFFER_BYTES_MAX * 2));
        assert!(pool.take(1).capacity() < Pool::BUFFER_BYTES_MAX);
    }
}
