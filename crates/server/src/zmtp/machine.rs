//! What a device's thread drives: a device in memory, or one with the broker behind it.

use std::sync::Arc;

use waypost_model::Millis;
use waypost_zmtp::device::{Counters, Device, End, Gone};
use waypost_zmtp::engine::PeerInfo;
use waypost_zmtp::{Event, Fault, PeerId};

use super::peers::Peers;

/// See the methods of the same names of [`Device`].
pub(super) trait Machine: Send {
    fn announce(&mut self, end: End, peer: PeerId);
    fn attach(&mut self, end: End, peer: PeerId, info: &PeerInfo, peers: &mut Peers) -> Result<Option<PeerId>, Fault>;
    fn detach(&mut self, end: End, peer: PeerId, gone: Gone, peers: &mut Peers);
    fn receive(&mut self, end: End, peer: PeerId, event: Event, peers: &mut Peers) -> Result<(), Fault>;
    fn pump(&mut self, peers: &mut Peers) -> bool;
    fn wants(&self, end: End, peer: PeerId) -> bool;
    fn is_blocked(&self) -> bool;
    fn counters(&self) -> Counters;

    /// Its thread is about to run: this wakes it.
    fn start(&mut self, _waker: &Arc<mio::Waker>) {}

    /// When [`Machine::turn`] wants to be called at the latest.
    fn deadline(&self) -> Option<Millis> {
        None
    }

    /// Whether nothing is under way that a stop should wait for, beside what waits in queues.
    fn is_settled(&self) -> bool {
        !self.is_blocked()
    }

    /// Looks after what does not come from peers. Called once per turn of the loop. Returns whether anything happened.
    fn turn(&mut self, _peers: &mut Peers, _now: Millis) -> bool {
        false
    }

    /// That many messages have left for the peer's socket.
    fn left(&mut self, _peer: PeerId, _messages: u32) {}
}

impl Machine for Device {
    fn announce(&mut self, end: End, peer: PeerId) {
        self.announce(end, peer);
    }

    fn attach(&mut self, end: End, peer: PeerId, info: &PeerInfo, peers: &mut Peers) -> Result<Option<PeerId>, Fault> {
        self.attach(end, peer, info, peers)
    }

    fn detach(&mut self, end: End, peer: PeerId, gone: Gone, peers: &mut Peers) {
        self.detach(end, peer, gone, peers);
    }

    fn receive(&mut self, end: End, peer: PeerId, event: Event, peers: &mut Peers) -> Result<(), Fault> {
        self.receive(end, peer, event, peers)
    }

    fn pump(&mut self, peers: &mut Peers) -> bool {
        self.pump(peers)
    }

    fn wants(&self, end: End, peer: PeerId) -> bool {
        self.wants(end, peer)
    }

    fn is_blocked(&self) -> bool {
        self.is_blocked()
    }

    fn counters(&self) -> Counters {
        self.counters()
    }
}
