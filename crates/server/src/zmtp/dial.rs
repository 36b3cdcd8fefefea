//! Connecting, and connecting again: with growing, random delays, so that a peer that restarts is not overrun.

use waypost_model::Millis;

use super::endpoint::Endpoint;

const DELAY_FIRST_MS: u64 = 50;
const DELAY_MAX_MS: u64 = 5_000;

/// A peer that we connect to.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) endpoint: Endpoint,
    pub(super) state: DialState,
    delay_ms: u64,
    random: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DialState {
    /// The next try is due then.
    Waiting(Millis),
    /// A name is being looked up, or a connection made.
    Trying,
    /// Connected.
    Up,
}

impl Dial {
    pub(super) fn new(endpoint: Endpoint, seed: u64, now: Millis) -> Dial {
        Dial { endpoint, state: DialState::Waiting(now), delay_ms: DELAY_FIRST_MS, random: seed | 1 }
    }

    /// When something is to be done.
    pub(super) fn due(&self) -> Option<Millis> {
        match self.state {
            DialState::Waiting(at) => Some(at),
            DialState::Trying | DialState::Up => None,
        }
    }

    /// The handshake is done: the next failure starts from the shortest delay.
    pub(super) fn opened(&mut self) {
        self.state = DialState::Up;
        self.delay_ms = DELAY_FIRST_MS;
    }

    /// It did not work, or no longer does. Waits between half and all of a delay that doubles.
    pub(super) fn failed(&mut self, now: Millis) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let half = self.delay_ms / 2;
        self.state = DialState::Waiting(now.plus(half + self.random % (half + 1)));
        self.delay_ms = (self.delay_ms * 2).min(DELAY_MAX_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_a_maximum_and_begin_anew_after_a_success() {
        let mut dial = Dial::new(Endpoint::Ipc("x".into()), 7, Millis(0));
        let wait = |dial: &mut Dial| {
            dial.failed(Millis(1000));
            dial.due().unwrap().since(Millis(1000))
        };
        let mut bound = DELAY_FIRST_MS;
        for _ in 0..12 {
            let waited = wait(&mut dial);
            assert!((bound / 2..=bound).contains(&waited), "{waited} of {bound}");
            bound = (bound * 2).min(DELAY_MAX_MS);
        }
        dial.opened();
        assert!(wait(&mut dial) <= DELAY_FIRST_MS);
    }
}
