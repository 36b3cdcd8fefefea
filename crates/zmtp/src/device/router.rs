//! ROUTER to DEALER: requests to workers in turn, answers back to whom they belong. Envelopes pass untouched.

use super::{Counters, End};
use crate::engine::Event;
use crate::fault::Fault;
use crate::pattern::balance::Balancer;
use crate::pattern::fair::FairQueue;
use crate::pattern::routes::{Duplicate, Routes};
use crate::pattern::{PeerId, Queues};
use crate::wire::chunk::Chunk;

/// A router.
#[derive(Debug)]
pub struct Router {
    routes: Routes,
    duplicate: Duplicate,
    pub(super) balancer: Balancer,
    /// Requests, their envelopes complete.
    pub(super) waiting: FairQueue,
    pub(super) counters: Counters,
}

impl Router {
    /// A router with this policy for identities that are taken.
    #[must_use]
    pub fn new(duplicate: Duplicate) -> Router {
        Router {
            routes: Routes::default(),
            duplicate,
            balancer: Balancer::default(),
            waiting: FairQueue::default(),
            counters: Counters::default(),
        }
    }

    pub(super) fn attach_client(&mut self, peer: PeerId, identity: &[u8]) -> Result<Option<PeerId>, Fault> {
        self.routes.attach(peer, identity, self.duplicate)
    }

    pub(super) fn detach_client(&mut self, peer: PeerId) {
        self.routes.detach(peer);
    }

    pub(super) fn receive(&mut self, end: End, peer: PeerId, event: Event, queues: &mut impl Queues) {
        let Event::Messages(chunk) = event else { return };
        self.counters.received += u64::from(chunk.messages());
        match end {
            End::Front => self.request(peer, &chunk, queues),
            End::Back => {
                let done = self.routes.route(&chunk, queues);
                self.counters.sent += done.sent;
                self.counters.dropped += done.dropped;
                self.counters.unroutable += done.unroutable;
            }
        }
    }

    fn request(&mut self, peer: PeerId, chunk: &Chunk, queues: &mut impl Queues) {
        let Some(wrapped) = self.routes.wrap(peer, chunk) else { return };
        let Self { balancer, waiting, counters, .. } = self;
        counters.blocked +=
            u64::from(waiting.offer(peer, wrapped, |chunk| counters.sent += balancer.send(chunk, queues)));
    }

    pub(super) fn pump(&mut self, queues: &mut impl Queues) -> bool {
        let Self { balancer, waiting, counters, .. } = self;
        waiting.drain(|_, chunk| counters.sent += balancer.send(chunk, queues))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::testing::{A, B, Boxes, messages};

    #[test]
    fn a_request_finds_its_worker_and_the_answer_its_client() {
        let (mut r, mut boxes) = (Router::new(Duplicate::Refuse), Boxes::new(5));
        r.attach_client(A, b"ann").unwrap();
        r.receive(End::Front, A, Event::Messages(messages(&["|hello"])), &mut boxes);
        assert!(r.waiting.has(A), "nobody there yet");
        r.balancer.attach(B);
        assert!(r.pump(&mut boxes));
        assert_eq!(boxes.take(B), ["ann||hello"]);
        r.receive(End::Back, B, Event::Messages(messages(&["ann||world", "bob||who"])), &mut boxes);
        assert_eq!(boxes.take(A), ["|world"]);
        assert_eq!((r.counters.sent, r.counters.unroutable), (2, 1));
    }
}
