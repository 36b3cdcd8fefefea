//! PULL to PUSH: work that is handed out, never dropped, never doubled.

use super::{Counters, End};
use crate::engine::Event;
use crate::pattern::balance::Balancer;
use crate::pattern::fair::FairQueue;
use crate::pattern::{PeerId, Queues};

/// A streamer.
#[derive(Debug, Default)]
pub struct Streamer {
    pub(super) balancer: Balancer,
    pub(super) waiting: FairQueue,
    pub(super) counters: Counters,
}

impl Streamer {
    pub(super) fn receive(&mut self, end: End, peer: PeerId, event: Event, queues: &mut impl Queues) {
        let Event::Messages(chunk) = event else { return };
        self.counters.received += u64::from(chunk.messages());
        if end == End::Back {
            // A PULL has nothing to say.
            self.counters.unroutable += u64::from(chunk.messages());
            return;
        }
        let Self { balancer, waiting, counters } = self;
        counters.blocked +=
            u64::from(waiting.offer(peer, chunk, |chunk| counters.sent += balancer.send(chunk, queues)));
    }

    pub(super) fn pump(&mut self, queues: &mut impl Queues) -> bool {
        let Self { balancer, waiting, counters } = self;
        waiting.drain(|_, chunk| counters.sent += balancer.send(chunk, queues))
    }
}
