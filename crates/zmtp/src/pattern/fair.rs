//! Fair queueing: what came and could not go on yet, a turn per peer.

use std::collections::VecDeque;

use super::PeerId;
use crate::wire::chunk::Chunk;

/// Messages that one peer may have handled in its turn while others wait.
pub const TURN_MESSAGES: u32 = 256;

/// What came from each peer and waits. It has no limit of its own: who has something here is not read.
#[derive(Debug, Default)]
pub struct FairQueue {
    waiting: VecDeque<(PeerId, Chunk)>,
}

impl FairQueue {
    /// Whether nothing waits at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether something of this peer waits. Such a peer is not to be read.
    #[must_use]
    pub fn has(&self, peer: PeerId) -> bool {
        self.waiting.iter().any(|(who, _)| *who == peer)
    }

    /// Messages that wait.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.waiting.iter().map(|(_, chunk)| u64::from(chunk.messages())).sum()
    }

    /// Gives what came from a peer to `send`, unless others wait already; what it leaves waits. Returns whether anything
    /// has to.
    pub fn offer(&mut self, peer: PeerId, mut chunk: Chunk, send: impl FnOnce(&mut Chunk)) -> bool {
        if self.is_empty() {
            send(&mut chunk);
        }
        let waits = !chunk.is_empty();
        self.put(peer, chunk);
        waits
    }

    /// Adds what came from a peer.
    pub fn put(&mut self, peer: PeerId, chunk: Chunk) {
        if !chunk.is_empty() {
            self.waiting.push_back((peer, chunk));
        }
    }

    /// Gives what waits to `send`, a turn of [`TURN_MESSAGES`] per peer, until it takes no more. What it leaves in the
    /// chunk stays. Returns whether anything went.
    pub fn drain(&mut self, mut send: impl FnMut(PeerId, &mut Chunk)) -> bool {
        let mut any = false;
        while let Some((peer, mut rest)) = self.waiting.pop_front() {
            let alone = !self.waiting.iter().any(|(who, _)| *who != peer);
            let mut turn = rest.split_to(if alone { u32::MAX } else { TURN_MESSAGES });
            let before = turn.messages();
            send(peer, &mut turn);
            any |= turn.messages() < before;
            if !turn.is_empty() {
                // Blocked: the turn goes on where it was.
                self.waiting.push_front((peer, rest));
                self.waiting.push_front((peer, turn));
                self.waiting.retain(|(_, chunk)| !chunk.is_empty());
                return any;
            }
            if rest.is_empty() {
                continue;
            }
            // Behind the others, but before what came later from the same peer.
            let place = self.waiting.iter().position(|(who, _)| *who == peer).unwrap_or(self.waiting.len());
            self.waiting.insert(place, (peer, rest));
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{A, B, messages, texts};
    use super::*;

    fn numbered(name: &str, n: u32) -> Chunk {
        let all: Vec<String> = (0..n).map(|i| format!("{name}{i}")).collect();
        messages(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn nobody_waits_for_more_than_a_turn_of_the_others() {
        let mut queue = FairQueue::default();
        queue.put(A, numbered("a", 1000));
        queue.put(B, numbered("b", 3));
        let mut order = Vec::new();
        queue.drain(|peer, chunk| order.push((peer, chunk.split_to(u32::MAX).messages())));
        assert_eq!(order, [(A, TURN_MESSAGES), (B, 3), (A, 1000 - TURN_MESSAGES)]);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_is_blocked_stays_in_order() {
        let mut queue = FairQueue::default();
        queue.put(A, numbered("a", 600));
        queue.put(B, numbered("b", 600));
        let mut seen = Vec::new();
        let mut credit = 0;
        while !queue.is_empty() {
            credit += 7;
            queue.drain(|_, chunk| {
                let gone = chunk.split_to(credit);
                credit -= gone.messages();
                seen.extend(texts(&gone).into_iter().map(|frames| frames.concat()));
            });
        }
        for name in ["a", "b"] {
            let own: Vec<_> = seen.iter().filter(|text| text.starts_with(name)).cloned().collect();
            assert_eq!(own, (0..600).map(|i| format!("{name}{i}")).collect::<Vec<_>>());
        }
    }
}
