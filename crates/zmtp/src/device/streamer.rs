//! PULL to PUSH: work that is handed out, never dropped, never doubled.

use super::{Counters, End};
use crate::engine::Event;
use crate::pattern::balance::Balancer;
use crate::pattern::fair::FairQueue;
use crate::pattern::{PeerId, Queues};
use crate::wire::chunk::Chunk;

/// A streamer.
#[derive(Debug, Default)]
pub struct Streamer {
    pub(super) balancer: Balancer,
    pub(super) waiting: FairQueue,
    pub(super) counters: Counters,
}

impl Streamer {
    pub(super) fn receive(&mut self, end: End, peer: PeerId, event: Event, queues: &mut impl Queues) {
        let Event::Messages(mut chunk) = event else { return };
        self.counters.received += u64::from(chunk.messages());
        if end == End::Back {
            // A PULL has nothing to say.
            self.counters.unroutable += u64::from(chunk.messages());
            return;
        }
        if self.waiting.is_empty() {
            self.send(&mut chunk, queues);
        }
        if !chunk.is_empty() {
            self.counters.blocked += 1;
            self.waiting.put(peer, chunk);
        }
    }

    pub(super) fn pump(&mut self, queues: &mut impl Queues) -> bool {
        let mut waiting = std::mem::take(&mut self.waiting);
        let any = waiting.drain(|_, chunk| self.send(chunk, queues));
        self.waiting = waiting;
        any
    }

    fn send(&mut self, chunk: &mut Chunk, queues: &mut impl Queues) {
        let before = chunk.messages();
        self.balancer.send(chunk, queues);
        self.counters.sent += u64::from(before - chunk.messages());
    }
}
