//! What sockets do with messages (RFC 28 to 31), over peers that are only numbers with queues.
//!
//! Each rule is one small machine: [`fair`] takes from many in turn (PULL, DEALER, ROUTER, SUB), [`balance`] spreads over
//! many and blocks (PUSH, DEALER, REQ), [`fanout`] copies by subscription and drops or blocks (PUB, XPUB), [`routes`]
//! addresses one by its identity and drops (ROUTER). [`socket`] puts them together to the eleven socket types.

pub mod balance;
pub mod fair;
pub mod fanout;
pub mod routes;
pub mod socket;
pub mod subscriptions;

#[cfg(test)]
pub(crate) mod testing;

use crate::engine::Wish;
use crate::wire::chunk::Chunk;

/// A peer of a socket. Numbers may be used again once a peer is detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// The queues towards peers, as patterns need them.
pub trait Queues {
    /// How many messages the peer's queue has room for.
    fn room(&self, peer: PeerId) -> u32;

    /// Adds messages.
    fn push(&mut self, peer: PeerId, chunk: Chunk);

    /// Adds messages by copying them: cheaper where they are few and small.
    fn push_copy(&mut self, peer: PeerId, bytes: &[u8], messages: u32);

    /// Tells a publisher of a subscription.
    fn subscription(&mut self, peer: PeerId, prefix: &[u8], wish: Wish);
}
