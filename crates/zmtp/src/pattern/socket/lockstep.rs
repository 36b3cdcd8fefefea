//! One request, one reply: REQ and REP, RFC 28.

use super::SendError;
use crate::pattern::balance::Balancer;
use crate::pattern::{PeerId, Queues};
use crate::wire::chunk::Chunk;
use crate::wire::frame::{self, MORE};

/// Where a REQ or REP stands.
#[derive(Debug, Default)]
pub(super) enum Lockstep {
    /// REQ may ask, REP may receive.
    #[default]
    Idle,
    /// REQ: the peer was asked.
    Asked(PeerId),
    /// REP: the peer awaits an answer, which its envelope leads back.
    Answering(PeerId, Vec<u8>),
}

impl Lockstep {
    pub(super) fn awaits(&self, peer: PeerId) -> bool {
        matches!(self, Self::Asked(asked) if *asked == peer)
    }

    pub(super) fn is_answering(&self) -> bool {
        matches!(self, Self::Answering(..))
    }

    /// Who was asked is gone: nothing will come, so that one may ask again. An answer to who is gone is dropped when it
    /// is sent.
    pub(super) fn detach(&mut self, peer: PeerId) {
        if self.awaits(peer) {
            *self = Self::Idle;
        }
    }

    /// REQ asks, with an empty frame in front.
    pub(super) fn ask(
        &mut self,
        message: &Chunk,
        balancer: &mut Balancer,
        queues: &mut impl Queues,
    ) -> Result<(), SendError> {
        if !matches!(self, Self::Idle) {
            return Err(SendError::Turn);
        }
        let mut wire = Vec::with_capacity(message.len() + 2);
        frame::put_frame(&mut wire, MORE, &[]);
        wire.extend_from_slice(message.bytes());
        let mut whole = Chunk::parse(wire).ok_or(SendError::Turn)?;
        let peer = balancer.send_one(&mut whole, queues).ok_or(SendError::Blocked)?;
        *self = Self::Asked(peer);
        Ok(())
    }

    /// REQ got something from whom it asked: the reply without the empty frame; `None` if that is not there.
    pub(super) fn answered(&mut self, message: &Chunk) -> Option<Chunk> {
        let head = frame::first(message.bytes()).filter(|f| f.more() && f.body.is_empty())?;
        *self = Self::Idle;
        Some(message.part(head.len..message.len(), 1))
    }

    /// REP got a request: what is behind its envelope; `None` if it has none.
    pub(super) fn asked(&mut self, peer: PeerId, message: &Chunk) -> Option<Chunk> {
        let mut at = 0;
        for f in frame::frames(message.bytes()) {
            at += f.len;
            if f.body.is_empty() && f.more() {
                let envelope = message.bytes().get(..at)?.to_vec();
                *self = Self::Answering(peer, envelope);
                return Some(message.part(at..message.len(), 1));
            }
        }
        None
    }

    /// REP answers; `None` if nobody asked.
    pub(super) fn answer(&mut self, message: &Chunk) -> Option<(PeerId, Chunk)> {
        let Self::Answering(peer, mut wire) = std::mem::take(self) else { return None };
        wire.extend_from_slice(message.bytes());
        Chunk::parse(wire).map(|whole| (peer, whole))
    }
}
