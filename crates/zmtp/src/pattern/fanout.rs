//! To everybody who subscribed: PUB and XPUB, RFC 29.

use super::subscriptions::{NodeId, Subscriptions};
use super::{PeerId, Queues};
use crate::wire::chunk::Chunk;
use crate::wire::frame;

/// Runs up to this size are copied for each subscriber, larger ones are shared.
const COPY_BYTES: usize = 512;

/// What happens to a message for a subscriber whose queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// It is dropped for this subscriber, as the specification has it.
    Drop,
    /// All wait for this subscriber.
    Block,
}

/// What came of publishing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Copies that went into queues.
    pub copies: u64,
    /// Copies that were dropped because a queue was full.
    pub dropped: u64,
    /// Messages that nobody wanted.
    pub unwanted: u64,
}

/// Publishes by subscription.
#[derive(Debug, Default)]
pub struct Fanout {
    /// Who wants what.
    pub subscriptions: Subscriptions,
    /// Nodes that the current run matches, and those of the message at hand.
    matched: Vec<NodeId>,
    next: Vec<NodeId>,
    /// Receivers of the current run.
    receivers: Vec<PeerId>,
}

impl Fanout {
    /// Publishes messages. With [`Overflow::Block`], what cannot go yet stays in `chunk`.
    pub fn publish(&mut self, chunk: &mut Chunk, overflow: Overflow, queues: &mut impl Queues) -> Published {
        let mut done = Published::default();
        while !chunk.is_empty() {
            let run = self.next_run(chunk);
            self.collect();
            let run_messages = run.messages();
            let n = self.room(run_messages, overflow, queues);
            let mut run = run;
            let sent = run.split_to(n);
            self.deliver(&sent, overflow, queues, &mut done);
            let _ = chunk.split_at(sent.len(), sent.messages());
            if n < run_messages {
                break;
            }
        }
        done
    }

    /// The longest run of messages at the front that match the same subscriptions; leaves those in `matched`.
    fn next_run(&mut self, chunk: &Chunk) -> Chunk {
        if self.subscriptions.is_flat() {
            self.subscriptions.matching(&[], &mut self.matched);
            return chunk.clone();
        }
        let (mut bytes, mut messages) = (0, 0);
        for message in chunk.each() {
            let topic = frame::first(message).map(|f| f.body).unwrap_or_default();
            if messages == 0 {
                self.subscriptions.matching(topic, &mut self.matched);
            } else {
                self.subscriptions.matching(topic, &mut self.next);
                if self.next != self.matched {
                    break;
                }
            }
            bytes += message.len();
            messages += 1;
        }
        chunk.clone().split_at(bytes, messages)
    }

    fn collect(&mut self) {
        self.receivers.clear();
        for &id in &self.matched {
            self.receivers.extend_from_slice(self.subscriptions.subscribers(id));
        }
        if self.matched.len() > 1 {
            self.receivers.sort_unstable();
            self.receivers.dedup();
        }
    }

    /// How many messages of the run may go now.
    fn room(&self, run: u32, overflow: Overflow, queues: &impl Queues) -> u32 {
        match overflow {
            Overflow::Drop => run,
            Overflow::Block => self.receivers.iter().map(|&peer| queues.room(peer)).fold(run, u32::min),
        }
    }

    fn deliver(&self, run: &Chunk, overflow: Overflow, queues: &mut impl Queues, done: &mut Published) {
        let messages = run.messages();
        if self.receivers.is_empty() {
            done.unwanted += u64::from(messages);
            return;
        }
        for &peer in &self.receivers {
            let fits = if overflow == Overflow::Drop { queues.room(peer).min(messages) } else { messages };
            done.copies += u64::from(fits);
            done.dropped += u64::from(messages - fits);
            if fits == 0 {
                continue;
            }
            let part = if fits < messages { run.clone().split_to(fits) } else { run.clone() };
            if part.len() <= COPY_BYTES {
                queues.push_copy(peer, part.bytes(), fits);
            } else {
                queues.push(peer, part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{A, B, Boxes, C, messages};
    use super::*;

    fn fanout(all: &[(PeerId, &str)]) -> Fanout {
        let mut f = Fanout::default();
        all.iter().for_each(|(peer, prefix)| {
            f.subscriptions.subscribe(*peer, prefix.as_bytes()).unwrap();
        });
        f
    }

    #[test]
    fn each_gets_what_it_wants_once_and_in_order() {
        let (mut f, mut boxes) = (fanout(&[(A, "a"), (A, "ab"), (B, "b"), (C, "")]), Boxes::new(100));
        let mut chunk = messages(&["ab|1", "a|2", "b|3", "c|4", "ab|5"]);
        let done = f.publish(&mut chunk, Overflow::Drop, &mut boxes);
        assert_eq!(boxes.take(A), ["ab|1", "a|2", "ab|5"]);
        assert_eq!(boxes.take(B), ["b|3"]);
        assert_eq!(boxes.take(C), ["ab|1", "a|2", "b|3", "c|4", "ab|5"]);
        assert_eq!(done, Published { copies: 9, dropped: 0, unwanted: 0 });
    }

    #[test]
    fn rfc29_a_full_queue_drops_for_its_subscriber_only() {
        let (mut f, mut boxes) = (fanout(&[(A, ""), (B, "")]), Boxes::new(100));
        boxes.limits.insert(A, 1);
        let done = f.publish(&mut messages(&["1", "2", "3"]), Overflow::Drop, &mut boxes);
        assert_eq!((boxes.take(A), boxes.take(B).len()), (vec!["1".to_owned()], 3));
        assert_eq!(done.dropped, 2);
    }

    #[test]
    fn blocking_waits_for_those_who_want_the_message() {
        let (mut f, mut boxes) = (fanout(&[(A, "a"), (B, "")]), Boxes::new(100));
        boxes.limits.insert(A, 1);
        let mut chunk = messages(&["a1", "b1", "a2", "b2"]);
        f.publish(&mut chunk, Overflow::Block, &mut boxes);
        assert_eq!((boxes.take(B), chunk.messages()), (vec!["a1".to_owned(), "b1".to_owned()], 2));
        boxes.take(A);
        let done = f.publish(&mut chunk, Overflow::Block, &mut boxes);
        assert_eq!((boxes.take(A), boxes.take(B)), (vec!["a2".to_owned()], vec!["a2".to_owned(), "b2".to_owned()]));
        assert_eq!((done.dropped, chunk.is_empty()), (0, true));
    }

    #[test]
    fn what_nobody_wants_is_counted_and_does_not_block() {
        let mut boxes = Boxes::new(0);
        let mut chunk = messages(&["1", "2"]);
        assert_eq!(fanout(&[]).publish(&mut chunk, Overflow::Block, &mut boxes).unwanted, 2);
        assert!(chunk.is_empty());
    }
}
