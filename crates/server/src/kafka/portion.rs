//! Answers that tell of many things one by one, as much as fits: what is asked for in one request may be everything that
//! groups hold. What does not fit is to be asked for again, which clients do by themselves.

use waypost_stream::groups::GROUP_BYTES_MAX;

use super::codes;
use super::room::{Held, Room};

/// Bytes of an answer, beside the first thing that it tells of.
const BYTES_MAX: usize = 16 << 20;
/// An answer that is no longer needs no room: whoever asks for little is told it, however much others hold.
const FREE_BYTES: usize = 1 << 20;
/// Bytes of the first thing, which all that the members of a group may say fits in, and of a list that cannot be told in parts:
/// below what clients take by default (librdkafka's `receive.message.max.bytes` is 100 MB).
pub(super) const WHOLE_BYTES_MAX: usize = 80 << 20;

/// See the module.
pub(super) struct Portion {
    used: usize,
    held: Held,
}

impl Portion {
    /// An answer, as far as there is room for it among those of all connections.
    pub(super) fn new(room: &Room) -> Portion {
        Portion { used: 0, held: room.take(0) }
    }

    /// How long the next thing may be, bytes.
    pub(super) fn left(&self) -> usize {
        if self.used == 0 { WHOLE_BYTES_MAX } else { BYTES_MAX.saturating_sub(self.used) }
    }

    /// Adds something of so many bytes.
    ///
    /// # Errors
    /// The code for what does not fit: one that clients ask again for, unless it would never fit.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), i16> {
        if bytes > WHOLE_BYTES_MAX {
            return Err(codes::GROUP_MAX_SIZE_REACHED);
        }
        if bytes > self.left() || !self.hold(bytes) {
            return Err(codes::COORDINATOR_LOAD_IN_PROGRESS);
        }
        self.used += bytes;
        Ok(())
    }

    /// The code for something that was found to be longer than what is left.
    pub(super) fn refusal(&mut self, bytes: usize) -> i16 {
        self.add(bytes).err().unwrap_or(codes::COORDINATOR_LOAD_IN_PROGRESS)
    }

    /// The same as [`Portion::add`], but that the first is told however long it is: whoever asks cannot do without.
    ///
    /// # Errors
    /// The code for what does not fit now, for which clients ask again.
    pub(super) fn add_whole(&mut self, bytes: usize) -> Result<(), i16> {
        let fits = self.used == 0 || bytes <= self.left();
        if !fits || !self.hold(bytes) {
            return Err(codes::COORDINATOR_LOAD_IN_PROGRESS);
        }
        self.used += bytes;
        Ok(())
    }

    fn hold(&mut self, bytes: usize) -> bool {
        let more = (self.used + bytes).saturating_sub(FREE_BYTES + self.held.bytes());
        more == 0 || self.held.grow(more)
    }

    /// What is held of the room.
    pub(super) fn held(self) -> Held {
        self.held
    }
}

const _: () = assert!(WHOLE_BYTES_MAX > GROUP_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: i16 = codes::COORDINATOR_LOAD_IN_PROGRESS;

    fn held_in_all() -> usize {
        Room::default().take(usize::MAX).bytes()
    }

    #[test]
    fn the_first_is_told_whole_and_others_as_far_as_they_fit() {
        let room = Room::default();
        let mut portion = Portion::new(&room);
        assert_eq!(portion.add(WHOLE_BYTES_MAX + 1), Err(codes::GROUP_MAX_SIZE_REACHED));
        assert_eq!(portion.add(WHOLE_BYTES_MAX), Ok(()));
        assert_eq!(portion.add(1), Err(LATER));
        let mut portion = Portion::new(&room);
        assert_eq!((portion.add(1), portion.add(BYTES_MAX - 1)), (Ok(()), Ok(())));
        assert_eq!(portion.add(1), Err(LATER));
        drop(portion.held());
        let mut portion = Portion::new(&room);
        assert_eq!(portion.add_whole(2 * WHOLE_BYTES_MAX), Ok(()));
        assert_eq!(portion.add_whole(1), Err(LATER));
    }

    #[test]
    fn what_others_hold_is_not_given_twice() {
        let room = Room::default();
        let mut held = room.take(usize::MAX);
        let mut portion = Portion::new(&room);
        // Little is told all the same.
        assert_eq!((portion.add(1), portion.add_whole(FREE_BYTES - 1)), (Ok(()), Ok(())));
        assert_eq!((portion.add(1), portion.add_whole(1)), (Err(LATER), Err(LATER)));
        held.settle(0);
        assert_eq!((portion.add(1), portion.add_whole(2)), (Ok(()), Ok(())));
        assert_eq!(room.take(usize::MAX).bytes(), held_in_all() - 3);
    }
}
