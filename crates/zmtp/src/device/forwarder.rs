//! XSUB to XPUB: publishers on one side, subscribers on the other, subscriptions passed on.

use super::{Counters, End};
use crate::engine::{Event, Wish};
use crate::fault::Fault;
use crate::pattern::fair::FairQueue;
use crate::pattern::fanout::{Fanout, Overflow};
use crate::pattern::{PeerId, Queues};
use crate::wire::chunk::Chunk;
use crate::wire::frame;

/// A forwarder.
#[derive(Debug)]
pub struct Forwarder {
    fanout: Fanout,
    publishers: Vec<PeerId>,
    overflow: Overflow,
    pub(super) waiting: FairQueue,
    pub(super) counters: Counters,
}

impl Forwarder {
    /// A forwarder with this policy for subscribers that are slow.
    #[must_use]
    pub fn new(overflow: Overflow) -> Forwarder {
        Forwarder {
            fanout: Fanout::default(),
            publishers: Vec::new(),
            overflow,
            waiting: FairQueue::default(),
            counters: Counters::default(),
        }
    }

    /// A publisher hears of all subscriptions that there are.
    pub(super) fn attach_publisher(&mut self, peer: PeerId, queues: &mut impl Queues) {
        if !self.publishers.contains(&peer) {
            self.publishers.push(peer);
        }
        self.fanout.subscriptions.for_each(|prefix| queues.subscription(peer, prefix, Wish::Subscribe));
    }

    pub(super) fn detach_publisher(&mut self, peer: PeerId) {
        self.publishers.retain(|&one| one != peer);
    }

    /// What only this subscriber wanted is cancelled at the publishers.
    pub(super) fn detach_subscriber(&mut self, peer: PeerId, queues: &mut impl Queues) {
        let publishers = &self.publishers;
        self.fanout.subscriptions.remove(peer, |prefix| tell(publishers, prefix, Wish::Cancel, queues));
    }

    pub(super) fn receive(
        &mut self,
        end: End,
        peer: PeerId,
        event: Event,
        queues: &mut impl Queues,
    ) -> Result<(), Fault> {
        match (end, event) {
            (End::Front, Event::Messages(chunk)) => {
                self.counters.received += u64::from(chunk.messages());
                self.publish(peer, chunk, queues);
                Ok(())
            }
            (End::Back, Event::Messages(chunk)) => self.subscriber_says(peer, &chunk, queues),
            (End::Back, Event::Subscribe(prefix)) => self.wish(peer, &prefix, Wish::Subscribe, queues),
            (End::Back, Event::Cancel(prefix)) => self.wish(peer, &prefix, Wish::Cancel, queues),
            _ => Ok(()),
        }
    }

    fn publish(&mut self, peer: PeerId, chunk: Chunk, queues: &mut impl Queues) {
        let Self { fanout, overflow, waiting, counters, .. } = self;
        let waits = waiting.offer(peer, chunk, |chunk| counters.note(fanout.publish(chunk, *overflow, queues)));
        counters.blocked += u64::from(waits);
    }

    pub(super) fn pump(&mut self, queues: &mut impl Queues) -> bool {
        let Self { fanout, overflow, waiting, counters, .. } = self;
        waiting.drain(|_, chunk| counters.note(fanout.publish(chunk, *overflow, queues)))
    }

    /// ZMTP 3.0 has subscriptions in messages; anything else is for the publishers.
    fn subscriber_says(&mut self, peer: PeerId, chunk: &Chunk, queues: &mut impl Queues) -> Result<(), Fault> {
        for message in chunk.each() {
            let Some(first) = frame::first(message) else { continue };
            match first.body.split_first() {
                Some((1, prefix)) if !first.more() => self.wish(peer, prefix, Wish::Subscribe, queues)?,
                Some((0, prefix)) if !first.more() => self.wish(peer, prefix, Wish::Cancel, queues)?,
                _ => self.upstream(message, queues),
            }
        }
        Ok(())
    }

    fn upstream(&mut self, message: &[u8], queues: &mut impl Queues) {
        self.counters.received += 1;
        for &publisher in &self.publishers {
            if queues.room(publisher) > 0 {
                queues.push_copy(publisher, message, 1);
                self.counters.sent += 1;
            } else {
                self.counters.dropped += 1;
            }
        }
    }

    fn wish(&mut self, peer: PeerId, prefix: &[u8], wish: Wish, queues: &mut impl Queues) -> Result<(), Fault> {
        let subscriptions = &mut self.fanout.subscriptions;
        let news = match wish {
            Wish::Subscribe => subscriptions.subscribe(peer, prefix).map_err(|over| Fault::Subscriptions(over.0))?,
            Wish::Cancel => subscriptions.cancel(peer, prefix),
        };
        if news {
            tell(&self.publishers, prefix, wish, queues);
        }
        Ok(())
    }
}

fn tell(publishers: &[PeerId], prefix: &[u8], wish: Wish, queues: &mut impl Queues) {
    publishers.iter().for_each(|&publisher| queues.subscription(publisher, prefix, wish));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::testing::{A, B, Boxes, C, messages};

    const NEW: PeerId = PeerId(9);

    fn say(f: &mut Forwarder, peer: PeerId, text: &str, boxes: &mut Boxes) {
        f.receive(End::Back, peer, Event::Messages(messages(&[text])), boxes).unwrap();
    }

    #[test]
    fn subscriptions_go_upstream_once_are_replayed_and_cancelled_with_their_last_subscriber() {
        let (mut f, mut boxes) = (Forwarder::new(Overflow::Drop), Boxes::new(9));
        f.attach_publisher(A, &mut boxes);
        say(&mut f, B, "\u{1}t", &mut boxes);
        say(&mut f, C, "\u{1}t", &mut boxes);
        say(&mut f, C, "\u{1}u", &mut boxes);
        assert_eq!(boxes.wishes(), ["1+t", "1+u"]);
        f.attach_publisher(NEW, &mut boxes);
        assert_eq!(boxes.wishes(), ["9+t", "9+u"]);
        f.detach_publisher(A);
        f.detach_subscriber(C, &mut boxes);
        assert_eq!(boxes.wishes(), ["9-u"]);
        say(&mut f, B, "\0t", &mut boxes);
        assert_eq!(boxes.wishes(), ["9-t"]);
    }

    #[test]
    fn other_messages_of_subscribers_reach_all_publishers() {
        let (mut f, mut boxes) = (Forwarder::new(Overflow::Drop), Boxes::new(1));
        f.attach_publisher(A, &mut boxes);
        f.attach_publisher(C, &mut boxes);
        say(&mut f, B, "hello", &mut boxes);
        say(&mut f, B, "\u{1}more|frames", &mut boxes);
        assert_eq!((boxes.take(A), boxes.take(C)), (vec!["hello".to_owned()], vec!["hello".to_owned()]));
        assert_eq!(f.counters.dropped, 2);
    }

    #[test]
    fn a_blocked_publisher_is_not_read_and_goes_on_in_order() {
        let (mut f, mut boxes) = (Forwarder::new(Overflow::Block), Boxes::new(2));
        say(&mut f, B, "\u{1}", &mut boxes);
        f.receive(End::Front, A, Event::Messages(messages(&["1", "2", "3"])), &mut boxes).unwrap();
        assert!(f.waiting.has(A) && !f.pump(&mut boxes));
        assert_eq!(boxes.take(B), ["1", "2"]);
        assert!(f.pump(&mut boxes) && !f.waiting.has(A));
        assert_eq!(boxes.take(B), ["3"]);
        assert_eq!((f.counters.blocked, f.counters.dropped, f.counters.sent), (1, 0, 3));
    }
}
