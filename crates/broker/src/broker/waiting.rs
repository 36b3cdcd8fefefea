//! Which drivers to wake when the journal's watermark moves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use waypost_model::Lsn;

use super::Peer;

/// A connection's part in it.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// The highest ticket that it waits for.
    until: AtomicU64,
    listed: AtomicBool,
}

/// The connections that wait for some ticket.
#[derive(Default)]
pub(super) struct Waiting {
    list: Mutex<Vec<Arc<Peer>>>,
}

impl Waiting {
    /// Has `peer` woken by every move of the watermark until it has reached `lsn`. To be called before the event that
    /// names the ticket is pushed: a driver that has seen the event and finds the watermark too low is then sure to be
    /// woken.
    pub fn add(&self, peer: &Arc<Peer>, lsn: Lsn) {
        peer.waits.until.fetch_max(lsn.0, SeqCst);
        if !peer.waits.listed.swap(true, SeqCst) {
            self.lock().push(Arc::clone(peer));
        }
    }

    /// The watermark has moved to `durable`.
    pub fn wake(&self, durable: Lsn) {
        let mut peers = std::mem::take(&mut *self.lock());
        peers.retain(|peer| {
            // First off the list, then look: whoever adds itself in between either sees that it is off, or had raised
            // its ticket before we look.
            peer.waits.listed.store(false, SeqCst);
            let more = peer.waits.until.load(SeqCst) > durable.0;
            peer.outbox.nudge();
            more && !peer.waits.listed.swap(true, SeqCst)
        });
        if !peers.is_empty() {
            self.lock().append(&mut peers);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Peer>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
