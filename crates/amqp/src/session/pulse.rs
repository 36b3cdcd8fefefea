//! Heartbeats, both ways (§4.2.7): a frame goes out when nothing else did for half an interval; a peer that was silent
//! for two intervals is given up.

use waypost_model::Millis;

/// How many intervals a peer may be silent while it has not taken what we wrote: such a peer may not be read either,
/// so that its heartbeats lie unseen.
const INTERVALS_UNREAD: u64 = 10;

/// When bytes last went either way.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// 0 is off.
    interval_ms: u64,
    last_in: Millis,
    last_out: Millis,
    /// A silence that is tolerated is looked at again then.
    look_again: Millis,
}

/// What the passing of time asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Nothing,
    Send,
    PeerIsGone,
}

impl Pulse {
    pub fn start(&mut self, interval_s: u16, now: Millis) {
        self.interval_ms = u64::from(interval_s) * 1000;
        self.last_in = now;
        self.last_out = now;
    }

    pub fn heard(&mut self, now: Millis) {
        self.last_in = now;
    }

    pub fn last_heard(&self) -> Millis {
        self.last_in
    }

    pub fn wrote(&mut self, now: Millis) {
        self.last_out = now;
    }

    pub fn deadline(&self) -> Option<Millis> {
        if self.interval_ms == 0 {
            return None;
        }
        let silent = self.last_in.plus(2 * self.interval_ms).max(self.look_again);
        Some(self.last_out.plus(self.interval_ms / 2).min(silent))
    }

    /// `unwritten`: earlier bytes still wait for the socket. `paused`: the peer is not read, by our own choice.
    pub fn check(&mut self, now: Millis, unwritten: bool, paused: bool) -> Beat {
        if self.interval_ms == 0 {
            return Beat::Nothing;
        }
        let allowed = if unwritten { INTERVALS_UNREAD } else { 2 } * self.interval_ms;
        if now.since(self.last_in) >= allowed && !paused {
            return Beat::PeerIsGone;
        }
        self.look_again = now.plus(self.interval_ms / 2);
        if now.since(self.last_out) < self.interval_ms / 2 {
            return Beat::Nothing;
        }
        self.last_out = now;
        // Bytes that wait will do as well as a heartbeat, and heartbeats behind them would only pile up.
        if unwritten { Beat::Nothing } else { Beat::Send }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s4_2_7_half_an_interval_out_two_in() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.deadline(), None);
        pulse.start(10, Millis(0));
        assert_eq!(pulse.deadline(), Some(Millis(5_000)));
        assert_eq!(pulse.check(Millis(4_999), false, false), Beat::Nothing);
        assert_eq!(pulse.check(Millis(5_000), false, false), Beat::Send);
        pulse.wrote(Millis(18_000));
        assert_eq!(pulse.deadline(), Some(Millis(20_000)));
        assert_eq!(pulse.check(Millis(20_000), false, false), Beat::PeerIsGone);
        pulse.heard(Millis(19_999));
        assert_eq!(pulse.check(Millis(20_000), false, false), Beat::Nothing);
    }

    #[test]
    fn silence_is_tolerated_while_the_peer_is_not_read() {
        let mut pulse = Pulse::default();
        pulse.start(10, Millis(0));
        assert_eq!(pulse.check(Millis(25_000), true, false), Beat::Nothing);
        assert!(pulse.deadline() > Some(Millis(25_000)));
        assert_eq!(pulse.check(Millis(99_000), false, true), Beat::Send);
        assert!(pulse.deadline() > Some(Millis(99_000)));
        assert_eq!(pulse.check(Millis(100_000), true, false), Beat::PeerIsGone);
    }
}
