//! Round robin over peers with room: PUSH (RFC 30), DEALER and REQ (RFC 28). Never drops; blocks when nobody has room.

use super::{PeerId, Queues};
use crate::wire::chunk::Chunk;

/// Messages of at least this size are shared between queues instead of copied.
const SHARE_BYTES: usize = 4 * 1024;

/// Peers in turn.
#[derive(Debug, Default)]
pub struct Balancer {
    peers: Vec<PeerId>,
    next: usize,
}

impl Balancer {
    /// Adds a peer, behind the others.
    pub fn attach(&mut self, peer: PeerId) {
        if !self.peers.contains(&peer) {
            self.peers.push(peer);
        }
    }

    /// Forgets a peer.
    pub fn detach(&mut self, peer: PeerId) {
        let Some(at) = self.peers.iter().position(|&one| one == peer) else { return };
        self.peers.remove(at);
        if at < self.next {
            self.next -= 1;
        }
    }

    /// The peers.
    #[must_use]
    pub fn peers(&self) -> &[PeerId] {
        &self.peers
    }

    /// Sends messages, each to the next peer that has room, until there is none. What is left stays in `chunk`. Returns how
    /// many went.
    pub fn send(&mut self, chunk: &mut Chunk, queues: &mut impl Queues) -> u64 {
        let before = chunk.messages();
        while !chunk.is_empty() {
            let available = self.peers.iter().filter(|&&peer| queues.room(peer) > 0).count();
            match available {
                0 => break,
                // As they are, in one piece.
                1 => {
                    let Some(peer) = self.next_with_room(queues) else { break };
                    let run = chunk.split_to(queues.room(peer));
                    queues.push(peer, run);
                }
                _ => self.deal(chunk, queues),
            }
        }
        u64::from(before - chunk.messages())
    }

    /// One message, to one peer; `None` if nobody has room. For REQ, which remembers whom it asked.
    pub fn send_one(&mut self, chunk: &mut Chunk, queues: &mut impl Queues) -> Option<PeerId> {
        let peer = self.next_with_room(queues)?;
        queues.push(peer, chunk.split_to(1));
        Some(peer)
    }

    /// One message each, until somebody runs out of room.
    fn deal(&mut self, chunk: &mut Chunk, queues: &mut impl Queues) {
        let (mut bytes, mut messages) = (0, 0);
        let mut large = None;
        for message in chunk.each() {
            let Some(peer) = self.next_with_room(queues) else { break };
            if message.len() >= SHARE_BYTES {
                large = Some(peer);
                break;
            }
            queues.push_copy(peer, message, 1);
            bytes += message.len();
            messages += 1;
        }
        let _ = chunk.split_at(bytes, messages);
        if let Some(peer) = large {
            queues.push(peer, chunk.split_to(1));
        }
    }

    fn next_with_room(&mut self, queues: &impl Queues) -> Option<PeerId> {
        for _ in 0..self.peers.len() {
            let peer = *self.peers.get(self.next)?;
            self.next = if self.next + 1 < self.peers.len() { self.next + 1 } else { 0 };
            if queues.room(peer) > 0 {
                return Some(peer);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{A, B, Boxes, C, messages};
    use super::*;

    fn balancer(peers: &[PeerId]) -> Balancer {
        let mut b = Balancer::default();
        peers.iter().for_each(|&peer| b.attach(peer));
        b
    }

    #[test]
    fn rfc30_each_message_goes_to_the_next_peer() {
        let (mut b, mut boxes) = (balancer(&[A, B, C]), Boxes::new(10));
        b.send(&mut messages(&["1", "2", "3", "4"]), &mut boxes);
        b.send(&mut messages(&["5"]), &mut boxes);
        assert_eq!(
            (boxes.take(A), boxes.take(B), boxes.take(C)),
            (vec!["1".into(), "4".into()], vec!["2".into(), "5".into()], vec!["3".into()])
        );
    }

    #[test]
    fn rfc30_a_full_peer_is_passed_over_and_nothing_is_dropped() {
        let (mut b, mut boxes) = (balancer(&[A, B]), Boxes::new(3));
        boxes.limits.insert(A, 1);
        let mut chunk = messages(&["1", "2", "3", "4", "5", "6"]);
        b.send(&mut chunk, &mut boxes);
        assert_eq!((boxes.take(A).len(), boxes.take(B).len(), chunk.messages()), (1, 3, 2));
        b.send(&mut chunk, &mut boxes);
        assert!(chunk.is_empty());
        assert_eq!(boxes.take(A).len() + boxes.take(B).len(), 2);
    }

    #[test]
    fn nobody_there_blocks() {
        let mut chunk = messages(&["1"]);
        balancer(&[]).send(&mut chunk, &mut Boxes::new(9));
        assert_eq!(chunk.messages(), 1);
    }

    #[test]
    fn who_leaves_does_not_disturb_the_turn() {
        let (mut b, mut boxes) = (balancer(&[A, B, C]), Boxes::new(10));
        b.send(&mut messages(&["1", "2"]), &mut boxes);
        b.detach(A);
        b.send(&mut messages(&["3", "4"]), &mut boxes);
        assert_eq!((boxes.take(C), boxes.take(B)), (vec!["3".into()], vec!["2".into(), "4".into()]));
    }

    #[test]
    fn large_messages_are_dealt_too() {
        let (mut b, mut boxes) = (balancer(&[A, B]), Boxes::new(10));
        let big = "x".repeat(SHARE_BYTES);
        b.send(&mut messages(&["1", &big, &big, "2"]), &mut boxes);
        assert_eq!((boxes.take(A).len(), boxes.take(B).len()), (2, 2));
    }
}
