//! How long the committer waits for those whom it has just told of a commit.
//!
//! Clients that send as soon as they are answered would otherwise fall into two halves: one is committed while the other is on
//! its way, each with a sync of its own. With a moment's patience all of them share one. Of small commits nobody waits for
//! anything: their syncs cost less than the delay.

use std::time::{Duration, Instant};

/// Commits below that are not worth a wait.
const BULK_BYTES_MIN: u64 = 48 << 10;
/// So much is not held back: a larger commit gains little, and the disk could be writing already.
pub const GATHERED_BYTES_MAX: u64 = 512 << 10;
/// The longest wait, whatever a commit takes.
const WAIT_MAX: Duration = Duration::from_micros(500);
/// After waits in vain, at most two to this power of commits go without one.
const FAILURES_MAX: u32 = 6;

/// See the module.
#[derive(Debug, Default)]
pub struct Patience {
    /// Bytes of the last commit, and since when it is under way.
    last: Option<(u64, Instant)>,
    wait: Option<Wait>,
    /// Commits that still go without a wait.
    skip: u32,
    /// Waits in vain, one after the other.
    failures: u32,
}

#[derive(Debug)]
struct Wait {
    /// What is there if all come again who were answered.
    expected: u64,
    /// What shows that many of them do.
    enough: u64,
    until: Instant,
}

impl Patience {
    /// Notes that so many bytes are being committed.
    pub fn taken(&mut self, bytes: u64, now: Instant) {
        self.wait = None;
        self.last = Some((bytes, now));
    }

    /// Notes that everybody knows of that commit, while so many bytes wait already.
    pub fn told(&mut self, waiting: u64, now: Instant) {
        let Some((bytes, begun)) = self.last.take() else { return };
        let expected = (bytes + waiting).min(GATHERED_BYTES_MAX);
        if bytes < BULK_BYTES_MIN || waiting >= expected {
            return;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        let until = now + (now.saturating_duration_since(begun) / 2).min(WAIT_MAX);
        self.wait = Some(Wait { expected, enough: waiting + (expected - waiting) / 2, until });
    }

    /// Whether a commit of so many bytes should wait for more.
    pub fn wants_more(&self, waiting: u64) -> bool {
        self.wait.as_ref().is_some_and(|w| waiting < w.expected)
    }

    /// How long a commit that is due should still wait, of so many bytes; `None`: it should not.
    pub fn rest(&mut self, waiting: u64, now: Instant) -> Option<Duration> {
        let wait = self.wait.as_ref()?;
        if waiting < wait.expected && now < wait.until {
            return Some(wait.until - now);
        }
        if waiting >= wait.enough {
            self.failures = 0;
        } else {
            self.failures = (self.failures + 1).min(FAILURES_MAX);
            self.skip = 1 << self.failures;
        }
        self.wait = None;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const TOOK: Duration = Duration::from_micros(400);

    /// Somebody was told of a commit of `last` bytes while `waiting` were there already.
    fn told(patience: &mut Patience, last: u64, waiting: u64) -> Instant {
        let begun = Instant::now();
        patience.taken(last, begun);
        patience.told(waiting, begun + TOOK);
        begun + TOOK
    }

    #[test]
    fn waits_until_all_are_there_who_were_answered_or_half_of_a_commit_has_passed() {
        let mut patience = Patience::default();
        let now = told(&mut patience, 192 * KIB, 128 * KIB);
        assert_eq!(patience.rest(128 * KIB, now), Some(TOOK / 2));
        assert!(patience.wants_more(256 * KIB));
        assert_eq!(patience.rest(256 * KIB, now + TOOK / 4), Some(TOOK / 4));
        assert!(!patience.wants_more(320 * KIB));
        assert_eq!(patience.rest(320 * KIB, now + TOOK / 4), None);
        let now = told(&mut patience, 192 * KIB, 128 * KIB);
        assert_eq!(patience.rest(256 * KIB, now + TOOK / 2), None, "the time is over");
        assert_eq!(patience.rest(256 * KIB, now), None, "and the commit on its way");
    }

    #[test]
    fn the_wait_is_short_however_long_a_commit_takes() {
        let mut patience = Patience::default();
        let begun = Instant::now();
        patience.taken(192 * KIB, begun);
        let now = begun + Duration::from_secs(1);
        patience.told(0, now);
        assert_eq!(patience.rest(KIB, now), Some(WAIT_MAX));
    }

    #[test]
    fn nobody_waits_for_little_nor_where_there_is_much() {
        let mut patience = Patience::default();
        for (last, waiting) in [(4 * KIB, 4 * KIB), (BULK_BYTES_MIN - 1, 0), (64 * KIB, GATHERED_BYTES_MAX)] {
            let now = told(&mut patience, last, waiting);
            assert_eq!(patience.rest(waiting, now), None, "{last} {waiting}");
        }
        let now = told(&mut patience, 2048 * KIB, 256 * KIB);
        assert_eq!(patience.rest(256 * KIB, now), Some(TOOK / 2));
        assert_eq!(patience.rest(GATHERED_BYTES_MAX, now), None);
    }

    #[test]
    fn who_waits_in_vain_does_so_more_and_more_seldom() {
        let mut patience = Patience::default();
        let mut waits = Vec::new();
        for commit in 0..1000 {
            let now = told(&mut patience, 128 * KIB, 0);
            if patience.rest(64, now).is_some() {
                assert_eq!(patience.rest(64, now + TOOK), None);
                waits.push(commit);
            }
        }
        let pauses: Vec<i32> = waits.windows(2).map(|w| w[1] - w[0]).collect();
        assert_eq!(pauses[..7], [3, 5, 9, 17, 33, 65, 65]);
        // One that is worth it makes it forget that.
        loop {
            let now = told(&mut patience, 128 * KIB, 0);
            if patience.rest(64, now).is_some() {
                assert_eq!(patience.rest(64 * KIB, now + TOOK), None);
                break;
            }
        }
        let now = told(&mut patience, 128 * KIB, 0);
        assert_eq!(patience.rest(64, now), Some(TOOK / 2));
    }
}
