//! The peers of a device, by number.

use waypost_zmtp::device::End;
use waypost_zmtp::engine::Limits;
use waypost_zmtp::{Chunk, Engine, Fault, Outgoing, PeerId, Queues, Wish};

use super::dial::Dial;
use super::socket::Stream;

/// Octets of subscriptions that may wait for a publisher; one that does not read more is closed.
const SUBSCRIPTION_BACKLOG_MAX: usize = 64 * 1024 * 1024;
/// Octets of answers to pings that may wait before a peer is no longer read.
const PONG_BACKLOG_MAX: usize = 64 * 1024;

/// A peer.
pub(super) struct Peer {
    pub(super) end: End,
    pub(super) out: Outgoing,
    pub(super) conn: Option<Conn>,
    /// How to reach it, if it is us who connect.
    pub(super) dial: Option<Dial>,
    /// In the list of those to be read.
    pub(super) listed: bool,
    /// In the list of those to be written to.
    dirty: bool,
}

impl Peer {
    /// Whether it takes what it makes us say.
    pub(super) fn listens(&self) -> bool {
        // What the engine has to say goes into `out` only while the socket takes anything.
        let unsaid = self.conn.as_ref().map_or(0, |conn| conn.engine.control_len());
        self.out.control_len() + unsaid <= PONG_BACKLOG_MAX
    }
}

/// A connection of a peer.
pub(super) struct Conn {
    pub(super) stream: Stream,
    pub(super) engine: Engine,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer will send no more: what is there must be read to its end, no event will come.
    pub(super) ending: bool,
    /// Our connect is under way.
    pub(super) connecting: bool,
    /// The handshake is done and the device knows the peer.
    pub(super) attached: bool,
    /// What went wrong while something was sent to it.
    pub(super) fault: Option<Fault>,
}

/// All peers.
#[derive(Default)]
pub(super) struct Peers {
    slots: Vec<Option<Peer>>,
    free: Vec<u32>,
    dirty: Vec<PeerId>,
}

impl Peers {
    pub(super) fn add(&mut self, end: End, limits: Limits) -> PeerId {
        let peer = Peer { end, out: Outgoing::new(limits), conn: None, dial: None, listed: false, dirty: false };
        if let Some(id) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(id as usize)
        {
            *slot = Some(peer);
            return PeerId(id);
        }
        self.slots.push(Some(peer));
        // Far fewer connections than that have a file descriptor.
        PeerId(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
    }

    pub(super) fn remove(&mut self, id: PeerId) -> Option<Peer> {
        let peer = self.slots.get_mut(id.0 as usize)?.take()?;
        self.free.push(id.0);
        Some(peer)
    }

    pub(super) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = PeerId> + use<> {
        (0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX)).map(PeerId)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().flatten()
    }

    /// How many there are, dialled ones included.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Something is to be written to the peer.
    pub(super) fn touch(&mut self, id: PeerId) {
        if let Some(peer) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut)
            && !peer.dirty
        {
            peer.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Takes one of those that something is to be written to.
    pub(super) fn pop_dirty(&mut self) -> Option<PeerId> {
        let id = self.dirty.pop()?;
        if let Some(peer) = self.get_mut(id) {
            peer.dirty = false;
        }
        Some(id)
    }
}

impl Queues for Peers {
    fn room(&self, peer: PeerId) -> u32 {
        self.get(peer).map_or(0, |peer| peer.out.room())
    }

    fn push(&mut self, peer: PeerId, chunk: Chunk) {
        self.touch(peer);
        if let Some(peer) = self.get_mut(peer) {
            peer.out.push(chunk);
        }
    }

    fn push_copy(&mut self, peer: PeerId, bytes: &[u8], messages: u32) {
        self.touch(peer);
        if let Some(peer) = self.get_mut(peer) {
            peer.out.push_copy(bytes, messages);
        }
    }

    fn subscription(&mut self, peer: PeerId, prefix: &[u8], wish: Wish) {
        self.touch(peer);
        let Some(Peer { conn: Some(conn), out, .. }) = self.get_mut(peer) else { return };
        let waiting = out.control_len() + conn.engine.control_len();
        if waiting > SUBSCRIPTION_BACKLOG_MAX {
            conn.fault = Some(Fault::Deaf(waiting));
        } else if let Err(fault) = conn.engine.subscription(prefix, wish) {
            conn.fault = Some(fault);
        }
    }
}
