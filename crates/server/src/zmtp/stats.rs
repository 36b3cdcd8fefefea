//! What metrics and listings see of a device.

use std::sync::atomic::{AtomicU64, Ordering};

use waypost_zmtp::device::Counters;

/// Figures of a device, written by its thread after each turn.
#[derive(Debug)]
pub struct DeviceStats {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    received: AtomicU64,
    sent: AtomicU64,
    dropped: AtomicU64,
    unroutable: AtomicU64,
    blocked: AtomicU64,
    discarded: AtomicU64,
    connections: AtomicU64,
    refused: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

/// Figures of a device at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// See [`Counters`].
    pub counters: Counters,
    /// Messages that were lost because their peer left, or its connection broke in the middle of one.
    pub discarded: u64,
    /// Connections whose handshake is done.
    pub connections: u64,
    /// Connections that ended by a fault of the peer's.
    pub refused: u64,
    /// What was read from sockets.
    pub received_bytes: u64,
    /// What was written to sockets.
    pub sent_bytes: u64,
}

impl DeviceStats {
    pub(super) fn new(name: String, kind: &'static str) -> DeviceStats {
        let zero = || AtomicU64::new(0);
        DeviceStats {
            name,
            kind,
            received: zero(),
            sent: zero(),
            dropped: zero(),
            unroutable: zero(),
            blocked: zero(),
            discarded: zero(),
            connections: zero(),
            refused: zero(),
            received_bytes: zero(),
            sent_bytes: zero(),
        }
    }

    pub(super) fn publish(&self, f: &Figures) {
        let c = &f.counters;
        for (place, value) in [
            (&self.received, c.received),
            (&self.sent, c.sent),
            (&self.dropped, c.dropped),
            (&self.unroutable, c.unroutable),
            (&self.blocked, c.blocked),
            (&self.discarded, f.discarded),
            (&self.connections, f.connections),
            (&self.refused, f.refused),
            (&self.received_bytes, f.received_bytes),
            (&self.sent_bytes, f.sent_bytes),
        ] {
            place.store(value, Ordering::Relaxed);
        }
    }

    /// The figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let read = |place: &AtomicU64| place.load(Ordering::Relaxed);
        Figures {
            counters: Counters {
                received: read(&self.received),
                sent: read(&self.sent),
                dropped: read(&self.dropped),
                unroutable: read(&self.unroutable),
                blocked: read(&self.blocked),
            },
            discarded: read(&self.discarded),
            connections: read(&self.connections),
            refused: read(&self.refused),
            received_bytes: read(&self.received_bytes),
            sent_bytes: read(&self.sent_bytes),
        }
    }
}
