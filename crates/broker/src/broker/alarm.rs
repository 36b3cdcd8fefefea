//! Alarms: memory or disk run short, publishers wait, consumers go on.

use std::sync::atomic::Ordering;

use waypost_model::Event;

use super::{Broker, Peer};

/// What runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Alarm {
    /// Memory is above its watermark.
    pub memory: bool,
    /// Free disk space is below its limit.
    pub disk: bool,
}

impl Alarm {
    const fn bits(self) -> u8 {
        self.memory as u8 | (self.disk as u8) << 1
    }

    const fn from_bits(bits: u8) -> Alarm {
        Alarm { memory: bits & 1 != 0, disk: bits & 2 != 0 }
    }

    /// Whether anything runs short.
    #[must_use]
    pub const fn any(self) -> bool {
        self.memory || self.disk
    }

    fn reason(self) -> &'static str {
        match (self.memory, self.disk) {
            (true, true) => "low on memory & disk",
            (false, true) => "low on disk",
            _ => "low on memory",
        }
    }
}

impl Broker {
    /// Raises or clears alarms. Connections that have published are told.
    pub fn set_alarm(&self, alarm: Alarm) {
        let before = Alarm::from_bits(self.alarm.swap(alarm.bits(), Ordering::SeqCst));
        if before == alarm {
            return;
        }
        for peer in self.peers() {
            if !peer.published.load(Ordering::Relaxed) {
                // It is not held back, but its driver may be asleep on the old state.
                peer.outbox.nudge();
            } else if alarm.any() {
                peer.outbox.push(Event::Blocked { reason: alarm.reason().into() });
            } else {
                peer.outbox.push(Event::Unblocked);
            }
        }
    }

    /// What runs short now.
    #[must_use]
    pub fn alarm(&self) -> Alarm {
        Alarm::from_bits(self.alarm.load(Ordering::Relaxed))
    }

    /// Whether connections that publish are not to be read.
    #[must_use]
    pub fn publishing_paused(&self) -> bool {
        self.alarm.load(Ordering::Relaxed) != 0
    }

    /// A connection has published for the first time.
    pub(super) fn tell_alarm(&self, peer: &Peer) {
        let alarm = self.alarm();
        if alarm.any() {
            peer.outbox.push(Event::Blocked { reason: alarm.reason().into() });
        }
    }
}
