//! Room for records that are on their way to peers, of all connections together. Whoever finds none is still answered, by
//! one batch at a time: peers that take nothing neither fill the memory nor stop the others. Another one is for requests
//! that come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most bytes, beside one batch per connection.
const BYTES_MAX: usize = 256 << 20;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room(Arc<AtomicUsize>);

/// A part of it, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    room: Room,
    bytes: usize,
}

impl Room {
    /// As much of what is wanted as there is.
    pub(super) fn take(&self, wanted: usize) -> Held {
        let granted = |taken: usize| wanted.min(BYTES_MAX.saturating_sub(taken));
        let add = |taken: usize| Some(taken.saturating_add(granted(taken)));
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        let bytes = before.map_or(0, granted);
        Held { room: self.clone(), bytes }
    }
}

impl Held {
    /// Takes so much more, if there is as much; or if nobody else has any, however much it is.
    pub(super) fn grow(&mut self, more: usize) -> bool {
        let own = self.bytes;
        let add = |taken: usize| {
            let with = taken.saturating_add(more);
            (taken == own || with <= BYTES_MAX).then_some(with)
        };
        let grown = self.room.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        self.bytes += if grown { more } else { 0 };
        grown
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// It came to so many bytes; more than were held, if a single batch is so long.
    pub(super) fn settle(&mut self, bytes: usize) {
        let taken = &self.room.0;
        if bytes > self.bytes {
            taken.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            taken.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.settle(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_given_what_others_hold() {
        let room = Room::default();
        let mut first = room.take(BYTES_MAX - 10);
        let second = room.take(100);
        assert_eq!((first.bytes(), second.bytes(), room.take(1).bytes()), (BYTES_MAX - 10, 10, 0));
        first.settle(50);
        assert_eq!(room.take(BYTES_MAX).bytes(), BYTES_MAX - 60);
        // A batch longer than what was left.
        let mut third = room.take(0);
        third.settle(BYTES_MAX);
        assert_eq!(room.take(1).bytes(), 0);
        drop((first, second, third));
        assert_eq!(room.take(BYTES_MAX).bytes(), BYTES_MAX);
    }

    #[test]
    fn who_grows_is_given_all_or_nothing() {
        let room = Room::default();
        let (mut first, mut second) = (room.take(0), room.take(0));
        assert!(first.grow(BYTES_MAX - 10) && second.grow(10));
        assert!(!first.grow(1) && !second.grow(1));
        drop(second);
        assert!(first.grow(2 * BYTES_MAX));
        drop(first);
        assert!(room.take(0).grow(BYTES_MAX));
    }
}
