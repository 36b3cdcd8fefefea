//! Devices: two sockets and what goes between them, as data. A driver gives them what peers send and reads a peer only
//! when [`Device::wants`] says so; that is all the back-pressure there is.

mod forwarder;
mod router;
mod streamer;

pub use forwarder::Forwarder;
pub use router::Router;
pub use streamer::Streamer;

use crate::engine::{Event, PeerInfo};
use crate::fault::Fault;
use crate::pattern::fanout::Published;
use crate::pattern::{PeerId, Queues};
use crate::socket_type::SocketType;

/// A side of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Towards producers, publishers, clients.
    Front,
    /// Towards consumers, subscribers, workers.
    Back,
}

/// What happened in a device since it was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Messages that came, by either end.
    pub received: u64,
    /// Messages that went into a peer's queue; with subscribers, each copy.
    pub sent: u64,
    /// Messages dropped because a peer's queue was full.
    pub dropped: u64,
    /// Messages dropped because nobody wanted them, or the peer they were for was not there.
    pub unroutable: u64,
    /// How often messages had to wait because no peer had room.
    pub blocked: u64,
}

impl Counters {
    /// Adds what came of publishing.
    pub fn note(&mut self, done: Published) {
        self.sent += done.copies;
        self.dropped += done.dropped;
        self.unroutable += done.unwanted;
    }
}

/// A device.
#[derive(Debug)]
pub enum Device {
    /// PULL to PUSH.
    Streamer(Streamer),
    /// XSUB to XPUB.
    Forwarder(Forwarder),
    /// ROUTER to DEALER, both ways.
    Router(Router),
}

impl Device {
    /// What the device is at an end.
    #[must_use]
    pub const fn socket_type(&self, end: End) -> SocketType {
        match (self, end) {
            (Self::Streamer(_), End::Front) => SocketType::Pull,
            (Self::Streamer(_), End::Back) => SocketType::Push,
            (Self::Forwarder(_), End::Front) => SocketType::Xsub,
            (Self::Forwarder(_), End::Back) => SocketType::Xpub,
            (Self::Router(_), End::Front) => SocketType::Router,
            (Self::Router(_), End::Back) => SocketType::Dealer,
        }
    }

    /// We are about to connect to a peer: it has a queue from now on, whether or not the connection stands.
    pub fn announce(&mut self, end: End, peer: PeerId) {
        match (self, end) {
            (Self::Streamer(d), End::Back) => d.balancer.attach(peer),
            (Self::Router(d), End::Back) => d.balancer.attach(peer),
            _ => {}
        }
    }

    /// A peer's handshake is done. Returns another peer that is to be closed for it, if any.
    ///
    /// # Errors
    /// A [`Fault`]: the peer cannot be taken.
    pub fn attach(
        &mut self,
        end: End,
        peer: PeerId,
        info: &PeerInfo,
        queues: &mut impl Queues,
    ) -> Result<Option<PeerId>, Fault> {
        self.announce(end, peer);
        match (self, end) {
            (Self::Forwarder(d), End::Front) => d.attach_publisher(peer, queues),
            (Self::Router(d), End::Front) => return d.attach_client(peer, &info.identity),
            _ => {}
        }
        Ok(None)
    }

    /// A connection has ended. `Gone` if the peer will not come back under this number.
    pub fn detach(&mut self, end: End, peer: PeerId, gone: Gone, queues: &mut impl Queues) {
        match (self, end) {
            (Self::Streamer(d), End::Back) if gone == Gone::ForGood => d.balancer.detach(peer),
            (Self::Router(d), End::Back) if gone == Gone::ForGood => d.balancer.detach(peer),
            (Self::Router(d), End::Front) if gone == Gone::ForGood => d.detach_client(peer),
            (Self::Forwarder(d), End::Front) => d.detach_publisher(peer),
            (Self::Forwarder(d), End::Back) => d.detach_subscriber(peer, queues),
            _ => {}
        }
    }

    /// Something came from a peer. [`Event::Opened`] is not for here, but for [`Device::attach`].
    ///
    /// # Errors
    /// A [`Fault`], which ends the peer's connection.
    pub fn receive(&mut self, end: End, peer: PeerId, event: Event, queues: &mut impl Queues) -> Result<(), Fault> {
        match self {
            Self::Streamer(d) => d.receive(end, peer, event, queues),
            Self::Forwarder(d) => return d.receive(end, peer, event, queues),
            Self::Router(d) => d.receive(end, peer, event, queues),
        }
        Ok(())
    }

    /// There may be room again: what waits goes on. Returns whether anything did.
    pub fn pump(&mut self, queues: &mut impl Queues) -> bool {
        match self {
            Self::Streamer(d) => d.pump(queues),
            Self::Forwarder(d) => d.pump(queues),
            Self::Router(d) => d.pump(queues),
        }
    }

    /// Whether the peer is to be read: nothing of it waits.
    #[must_use]
    pub fn wants(&self, end: End, peer: PeerId) -> bool {
        match (self, end) {
            (Self::Streamer(d), End::Front) => !d.waiting.has(peer),
            (Self::Forwarder(d), End::Front) => !d.waiting.has(peer),
            (Self::Router(d), End::Front) => !d.waiting.has(peer),
            _ => true,
        }
    }

    /// Whether anything waits for room.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        match self {
            Self::Streamer(d) => !d.waiting.is_empty(),
            Self::Forwarder(d) => !d.waiting.is_empty(),
            Self::Router(d) => !d.waiting.is_empty(),
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        match self {
            Self::Streamer(d) => d.counters,
            Self::Forwarder(d) => d.counters,
            Self::Router(d) => d.counters,
        }
    }
}

/// Whether a peer will come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It connected to us: its number is free.
    ForGood,
    /// We connect to it, and will again.
    ForNow,
}
