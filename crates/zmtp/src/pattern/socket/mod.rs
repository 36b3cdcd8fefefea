//! The eleven socket types (RFC 28 to 31), put together from the machines beside this one. One message at a time: for
//! programs and tests; devices use the machines themselves, with whole chunks.

mod lockstep;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use super::balance::Balancer;
use super::fanout::{Fanout, Overflow};
use super::routes::{Duplicate, Routes};
use super::subscriptions::Subscriptions;
use super::{PeerId, Queues};
use crate::device::Gone;
use crate::engine::{Event, PeerInfo, Wish};
use crate::fault::Fault;
use crate::socket_type::SocketType;
use crate::wire::chunk::Chunk;
use crate::wire::frame;
use lockstep::Lockstep;

/// Why a message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No peer has room: try again later.
    #[error("no peer has room")]
    Blocked,
    /// REQ and REP send and receive in turn.
    #[error("not its turn")]
    Turn,
    /// This type only receives.
    #[error("this socket type does not send")]
    Unsupported,
}

/// A socket.
#[derive(Debug)]
pub struct Socket {
    kind: SocketType,
    /// What came, in fair order: a message per peer in turn.
    incoming: VecDeque<(PeerId, VecDeque<Chunk>)>,
    /// PUSH, DEALER, REQ, PAIR.
    balancer: Balancer,
    /// PUB, XPUB.
    fanout: Fanout,
    overflow: Overflow,
    /// ROUTER.
    routes: Routes,
    duplicate: Duplicate,
    /// SUB, XSUB: what was subscribed to here, under our own number; and to whom that was told.
    wishes: Subscriptions,
    publishers: Vec<PeerId>,
    lockstep: Lockstep,
    /// Messages dropped by the rules of the type.
    pub dropped: u64,
}

/// Under which a socket's own subscriptions are counted.
const SELF: PeerId = PeerId(u32::MAX);

impl Socket {
    /// A socket without peers.
    #[must_use]
    pub fn new(kind: SocketType) -> Socket {
        Socket {
            kind,
            incoming: VecDeque::new(),
            balancer: Balancer::default(),
            fanout: Fanout::default(),
            overflow: Overflow::Drop,
            routes: Routes::default(),
            duplicate: Duplicate::Refuse,
            wishes: Subscriptions::default(),
            publishers: Vec::new(),
            lockstep: Lockstep::default(),
            dropped: 0,
        }
    }

    /// With another policy for subscribers that are slow, and for identities that are taken.
    #[must_use]
    pub fn with(self, overflow: Overflow, duplicate: Duplicate) -> Socket {
        Socket { overflow, duplicate, ..self }
    }

    /// We are about to connect to a peer: it has a queue from now on (RFC 28 and 30).
    pub fn announce(&mut self, peer: PeerId) {
        use SocketType::{Dealer, Pair, Push, Req};
        if matches!(self.kind, Push | Dealer | Req | Pair) {
            self.balancer.attach(peer);
        }
    }

    /// A peer's handshake is done. Returns another peer that is to be closed for it, if any.
    ///
    /// # Errors
    /// A [`Fault`]: the peer cannot be taken.
    pub fn attach(&mut self, peer: PeerId, info: &PeerInfo, queues: &mut impl Queues) -> Result<Option<PeerId>, Fault> {
        match self.kind {
            SocketType::Pair if self.balancer.peers().iter().any(|&other| other != peer) => Err(Fault::PairTaken),
            SocketType::Router => self.routes.attach(peer, &info.identity, self.duplicate),
            SocketType::Sub | SocketType::Xsub => {
                self.publishers.push(peer);
                self.wishes.for_each(|prefix| queues.subscription(peer, prefix, Wish::Subscribe));
                Ok(None)
            }
            _ => {
                self.announce(peer);
                Ok(None)
            }
        }
    }

    /// A connection has ended. What came from a peer that is gone for good goes with it (RFC 28 and 30).
    pub fn detach(&mut self, peer: PeerId, gone: Gone) {
        self.publishers.retain(|&one| one != peer);
        let kind = self.kind;
        let mut last = Vec::new();
        self.fanout.subscriptions.remove(peer, |prefix| last.push([&[0], prefix].concat()));
        if gone == Gone::ForGood {
            self.balancer.detach(peer);
            self.routes.detach(peer);
            self.incoming.retain(|(from, _)| *from != peer);
        }
        self.lockstep.detach(peer);
        if kind == SocketType::Xpub {
            // RFC 29: the application hears of what nobody wants any more.
            last.iter().for_each(|body| self.put(peer, Chunk::message([&body[..]])));
        }
    }

    /// Something came from a peer.
    ///
    /// # Errors
    /// A [`Fault`], which ends the peer's connection.
    pub fn receive(&mut self, peer: PeerId, event: Event) -> Result<(), Fault> {
        match event {
            Event::Opened(_) => Ok(()),
            Event::Subscribe(prefix) => self.wish(peer, &prefix, Wish::Subscribe),
            Event::Cancel(prefix) => self.wish(peer, &prefix, Wish::Cancel),
            Event::Messages(mut chunk) => {
                while !chunk.is_empty() {
                    self.message(peer, chunk.split_to(1))?;
                }
                Ok(())
            }
        }
    }

    fn message(&mut self, peer: PeerId, message: Chunk) -> Result<(), Fault> {
        use SocketType::{Pub, Push, Req, Xpub};
        let first = frame::first(message.bytes());
        let wish = first.filter(|f| !f.more()).and_then(|f| f.body.split_first());
        match (self.kind, wish) {
            (Pub | Xpub, Some((1, prefix))) => self.wish(peer, prefix, Wish::Subscribe)?,
            (Pub | Xpub, Some((0, prefix))) => self.wish(peer, prefix, Wish::Cancel)?,
            // RFC 28: a REQ hears only whom it has asked.
            (Req, _) if !self.lockstep.awaits(peer) => self.dropped += 1,
            (Pub | Push, _) => self.dropped += 1,
            _ => self.put(peer, message),
        }
        Ok(())
    }

    fn wish(&mut self, peer: PeerId, prefix: &[u8], wish: Wish) -> Result<(), Fault> {
        if !self.kind.publishes() {
            return Ok(());
        }
        let subscriptions = &mut self.fanout.subscriptions;
        let (news, octet) = match wish {
            Wish::Subscribe => (subscriptions.subscribe(peer, prefix).map_err(|over| Fault::Subscriptions(over.0))?, 1),
            Wish::Cancel => (subscriptions.cancel(peer, prefix), 0),
        };
        if news && self.kind == SocketType::Xpub {
            self.put(peer, Chunk::message([&[&[octet], prefix].concat()[..]]));
        }
        Ok(())
    }

    fn put(&mut self, peer: PeerId, message: Chunk) {
        match self.incoming.iter_mut().find(|(from, _)| *from == peer) {
            Some((_, waiting)) => waiting.push_back(message),
            None => self.incoming.push_back((peer, VecDeque::from([message]))),
        }
    }

    /// Whether the peer is to be read: nothing of it waits for the application.
    #[must_use]
    pub fn wants(&self, peer: PeerId) -> bool {
        !self.incoming.iter().any(|(from, _)| *from == peer)
    }

    /// The next message for the application.
    pub fn recv(&mut self) -> Option<Chunk> {
        if self.kind == SocketType::Rep && self.lockstep.is_answering() {
            return None;
        }
        loop {
            let (peer, mut waiting) = self.incoming.pop_front()?;
            let message = waiting.pop_front();
            if !waiting.is_empty() {
                self.incoming.push_back((peer, waiting));
            }
            let message = match (self.kind, message?) {
                (SocketType::Router, message) => self.routes.wrap(peer, &message),
                (SocketType::Req, message) => self.lockstep.answered(&message),
                (SocketType::Rep, message) => self.lockstep.asked(peer, &message),
                (_, message) => Some(message),
            };
            match message {
                Some(message) => return Some(message),
                // Without the envelope that its type needs.
                None => self.dropped += 1,
            }
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// [`SendError`]; the message was not sent. What the type's rules drop counts as sent.
    pub fn send(&mut self, message: Chunk, queues: &mut impl Queues) -> Result<(), SendError> {
        let mut message = message;
        match self.kind {
            SocketType::Push | SocketType::Dealer | SocketType::Pair => {
                self.balancer.send_one(&mut message, queues).map(drop).ok_or(SendError::Blocked)
            }
            SocketType::Req => self.lockstep.ask(&message, &mut self.balancer, queues),
            SocketType::Rep => {
                let (peer, mut answer) = self.lockstep.answer(&message).ok_or(SendError::Turn)?;
                self.send_or_drop(peer, &mut answer, queues);
                Ok(())
            }
            SocketType::Router => {
                let done = self.routes.route(&message, queues);
                self.dropped += done.dropped + done.unroutable;
                Ok(())
            }
            SocketType::Pub | SocketType::Xpub => {
                let done = self.fanout.publish(&mut message, self.overflow, queues);
                self.dropped += done.dropped;
                if message.is_empty() { Ok(()) } else { Err(SendError::Blocked) }
            }
            SocketType::Xsub => {
                for peer in self.publishers.clone() {
                    self.send_or_drop(peer, &mut message.clone(), queues);
                }
                Ok(())
            }
            SocketType::Pull | SocketType::Sub => Err(SendError::Unsupported),
        }
    }

    fn send_or_drop(&mut self, peer: PeerId, message: &mut Chunk, queues: &mut impl Queues) {
        if queues.room(peer) > 0 {
            queues.push(peer, message.split_to(1));
        } else {
            self.dropped += 1;
        }
    }

    /// Subscribes, on a SUB or XSUB. Counted: cancel as often.
    ///
    /// # Errors
    /// A [`Fault`] when there are more subscriptions than a socket may have.
    pub fn subscribe(&mut self, prefix: &[u8], queues: &mut impl Queues) -> Result<(), Fault> {
        if self.wishes.subscribe(SELF, prefix).map_err(|over| Fault::Subscriptions(over.0))? {
            self.publishers.iter().for_each(|&peer| queues.subscription(peer, prefix, Wish::Subscribe));
        }
        Ok(())
    }

    /// Takes a subscription back.
    pub fn cancel(&mut self, prefix: &[u8], queues: &mut impl Queues) {
        if self.wishes.cancel(SELF, prefix) {
            self.publishers.iter().for_each(|&peer| queues.subscription(peer, prefix, Wish::Cancel));
        }
    }
}
