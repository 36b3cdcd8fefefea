//! How long to wait before another try.

use std::time::Duration;

/// The first wait, about.
const FIRST: Duration = Duration::from_millis(500);

/// No wait of ours is longer.
const LONGEST: Duration = Duration::from_secs(60);

/// The wait after so many failures (from 1): doubled each time, and spread over half to one and a half of that, so that
/// many that failed together do not come again together. `random` is any number.
pub(super) fn after(failures: u32, random: u32) -> Duration {
    let doubled = FIRST.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let thousandths = 500 + random % 1000;
    doubled.min(LONGEST).saturating_mul(thousandths) / 1000
}

/// A number that nobody has to be able to guess.
pub(super) fn random() -> u32 {
    getrandom::u32().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_bounded() {
        assert_eq!(after(1, 500), Duration::from_millis(500));
        assert_eq!(after(3, 500), Duration::from_secs(2));
        assert_eq!((after(2, 0), after(2, 999)), (Duration::from_millis(500), Duration::from_micros(1_499_000)));
        for failures in [10, 32, 33, u32::MAX] {
            assert_eq!(after(failures, 500), LONGEST);
        }
    }
}
