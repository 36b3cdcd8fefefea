//! The node's one clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use waypost_model::Millis;

/// Wall-clock time that never jumps: read once from the system, from then on moved by the monotonic clock. A step of the
/// system's clock would otherwise look like hours of silence and end every connection at once.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    /// The wall clock at `started`, ms since the Unix epoch.
    base_ms: u64,
}

impl Clock {
    /// A clock that agrees with the system's now.
    #[must_use]
    pub fn start() -> Clock {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { started: Instant::now(), base_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX) }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Millis {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Millis(self.base_ms).plus(elapsed)
    }

    /// The first instant at which [`Clock::now`] gives `at` or more. What is too far off is cut to a day.
    #[must_use]
    pub fn instant(&self, at: Millis) -> Instant {
        const DAY_MS: u64 = 86_400_000;
        let now = self.now();
        let at = Millis(at.0.min(now.plus(DAY_MS).0));
        self.started + Duration::from_millis(at.since(Millis(self.base_ms)))
    }

    /// Time since the clock was started.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_never_early() {
        let clock = Clock::start();
        let at = clock.now().plus(3);
        while Instant::now() < clock.instant(at) {
            std::hint::spin_loop();
        }
        assert!(clock.now() >= at);
    }

    #[test]
    fn the_end_of_time_is_tomorrow() {
        let clock = Clock::start();
        assert!(clock.instant(Millis(u64::MAX)) <= Instant::now() + Duration::from_secs(86_401));
    }
}
