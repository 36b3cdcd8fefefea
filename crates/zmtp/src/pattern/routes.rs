//! Addressing by identity: ROUTER, RFC 28.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{PeerId, Queues};
use crate::fault::Fault;
use crate::wire::chunk::Chunk;
use crate::wire::frame::{self, MORE};

/// Messages of at least this size are shared with the peer's queue instead of copied.
const SHARE_BYTES: usize = 16 * 1024;

/// What happens when a peer comes with the identity of one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicate {
    /// The new one is refused, as in libzmq.
    Refuse,
    /// The old one is closed.
    Replace,
}

/// What came of routing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Routed {
    /// Messages that went into a queue.
    pub sent: u64,
    /// Messages for nobody who is there, or without an identity in front.
    pub unroutable: u64,
    /// Messages whose peer's queue was full.
    pub dropped: u64,
}

/// Peers by identity.
#[derive(Debug, Default)]
pub struct Routes {
    by_identity: BTreeMap<Box<[u8]>, PeerId>,
    by_peer: BTreeMap<PeerId, Box<[u8]>>,
    /// The next invented identity: a zero, then this.
    next: u32,
}

impl Routes {
    /// Adds a peer, under its own identity or an invented one. Returns the peer that has to go for it, if any.
    ///
    /// # Errors
    /// [`Fault::IdentityTaken`].
    pub fn attach(&mut self, peer: PeerId, identity: &[u8], duplicate: Duplicate) -> Result<Option<PeerId>, Fault> {
        let old = self.by_identity.get(identity).copied().filter(|&old| old != peer);
        if old.is_some() && duplicate == Duplicate::Refuse {
            return Err(Fault::IdentityTaken);
        }
        if let Some(old) = old {
            self.by_peer.remove(&old);
        }
        self.detach(peer);
        let identity: Box<[u8]> = if identity.is_empty() { self.invent() } else { identity.into() };
        self.by_identity.insert(identity.clone(), peer);
        self.by_peer.insert(peer, identity);
        Ok(old)
    }

    fn invent(&mut self) -> Box<[u8]> {
        loop {
            self.next = self.next.wrapping_add(1);
            let [a, b, c, d] = self.next.to_be_bytes();
            let identity: Box<[u8]> = [0, a, b, c, d].into();
            if !self.by_identity.contains_key(&identity) {
                return identity;
            }
        }
    }

    /// Forgets a peer.
    pub fn detach(&mut self, peer: PeerId) {
        if let Some(identity) = self.by_peer.remove(&peer) {
            self.by_identity.remove(&identity);
        }
    }

    /// The identity of a peer.
    #[must_use]
    pub fn identity(&self, peer: PeerId) -> Option<&[u8]> {
        self.by_peer.get(&peer).map(|identity| &**identity)
    }

    /// The peer of an identity.
    #[must_use]
    pub fn peer(&self, identity: &[u8]) -> Option<PeerId> {
        self.by_identity.get(identity).copied()
    }

    /// Puts the peer's identity before each message that came from it; `None` if it is not there.
    #[must_use]
    pub fn wrap(&self, peer: PeerId, chunk: &Chunk) -> Option<Chunk> {
        let identity = self.by_peer.get(&peer)?;
        let mut first = Vec::with_capacity(frame::HEADER_BYTES_MAX + identity.len());
        frame::put_frame(&mut first, MORE, identity);
        let mut out = Vec::with_capacity(chunk.len() + first.len() * chunk.messages() as usize);
        for message in chunk.each() {
            out.extend_from_slice(&first);
            out.extend_from_slice(message);
        }
        let range = 0..out.len();
        Some(Chunk::new(Arc::new(out), range, chunk.messages()))
    }

    /// Sends each message to the peer that its first frame names, without that frame. Never blocks.
    pub fn route(&self, chunk: &Chunk, queues: &mut impl Queues) -> Routed {
        let (mut done, mut at) = (Routed::default(), 0);
        for message in chunk.each() {
            let from = at;
            at += message.len();
            let Some(head) = frame::first(message) else { continue };
            let rest = message.get(head.len..).unwrap_or_default();
            match self.peer(head.body).filter(|_| head.more()) {
                None => done.unroutable += 1,
                Some(peer) if queues.room(peer) == 0 => done.dropped += 1,
                Some(peer) => {
                    done.sent += 1;
                    if rest.len() < SHARE_BYTES {
                        queues.push_copy(peer, rest, 1);
                    } else {
                        queues.push(peer, chunk.part(from + head.len..at, 1));
                    }
                }
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{A, B, Boxes, C, messages, texts};
    use super::*;

    #[test]
    fn rfc28_messages_carry_their_peers_identity_and_find_back() {
        let (mut routes, mut boxes) = (Routes::default(), Boxes::new(10));
        assert_eq!(routes.attach(A, b"ann", Duplicate::Refuse), Ok(None));
        assert_eq!(routes.attach(B, b"", Duplicate::Refuse), Ok(None));
        let wrapped = routes.wrap(A, &messages(&["|hi", "there"])).unwrap();
        assert_eq!(texts(&wrapped), [vec!["ann", "", "hi"], vec!["ann", "there"]]);
        let from_b = routes.wrap(B, &messages(&["x"])).unwrap();
        assert_eq!(texts(&from_b), [["\\x00\\x00\\x00\\x00\\x01", "x"]]);
        assert_eq!(routes.route(&wrapped, &mut boxes).sent, 2);
        assert_eq!(routes.route(&from_b, &mut boxes).sent, 1);
        assert_eq!((boxes.take(A), boxes.take(B)), (vec!["|hi".to_owned(), "there".to_owned()], vec!["x".to_owned()]));
    }

    #[test]
    fn rfc28_unroutable_and_full_are_dropped_and_counted() {
        let (mut routes, mut boxes) = (Routes::default(), Boxes::new(1));
        routes.attach(A, b"a", Duplicate::Refuse).unwrap();
        let done = routes.route(&messages(&["b|1", "a|2", "a|3", "a"]), &mut boxes);
        assert_eq!(done, Routed { sent: 1, unroutable: 2, dropped: 1 });
        routes.detach(A);
        assert_eq!(routes.route(&messages(&["a|4"]), &mut boxes).unroutable, 1);
    }

    #[test]
    fn large_messages_are_routed_without_their_identity_too() {
        let (mut routes, mut boxes) = (Routes::default(), Boxes::new(9));
        routes.attach(A, b"a", Duplicate::Refuse).unwrap();
        let big = "x".repeat(SHARE_BYTES * 2);
        let done = routes.route(&messages(&[&format!("a||{big}"), "a|y"]), &mut boxes);
        assert_eq!(done.sent, 2);
        assert_eq!(boxes.take(A), [format!("|{big}"), "y".to_owned()]);
    }

    #[test]
    fn a_taken_identity_is_refused_or_taken_over() {
        let mut routes = Routes::default();
        routes.attach(A, b"me", Duplicate::Refuse).unwrap();
        assert_eq!(routes.attach(B, b"me", Duplicate::Refuse), Err(Fault::IdentityTaken));
        assert_eq!(routes.peer(b"me"), Some(A));
        assert_eq!(routes.attach(C, b"me", Duplicate::Replace), Ok(Some(A)));
        routes.detach(A);
        assert_eq!(routes.peer(b"me"), Some(C), "the old one's end changes nothing");
    }
}
