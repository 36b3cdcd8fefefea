//! Direct reply-to: answers that go straight to the asker's channel, without a queue.
//!
//! A consumer of the pseudo-queue gets a token; what is published to the default exchange with that token as routing key
//! is delivered to it at once, or dropped: it is as transient as the asker's connection. A peer that does not read its
//! answers holds at most its window of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use waypost_model::event::{Body, Delivery, Event};
use waypost_model::{Batch, ChannelId, ConsumerId, Outbox, QueueId, Route, Seq};

/// The pseudo-queue that clients consume from.
pub const PSEUDO_QUEUE: &str = "amq.rabbitmq.reply-to";

/// What a delivery of a direct reply carries as its queue.
pub const REPLY_QUEUE: QueueId = QueueId(u64::MAX);

/// The token in a routing key or queue name, if it is that of a direct reply.
#[must_use]
pub fn token_of(name: &[u8]) -> Option<&str> {
    let rest = name.strip_prefix(PSEUDO_QUEUE.as_bytes())?.strip_prefix(b".")?;
    std::str::from_utf8(rest).ok()
}

/// Someone who waits for replies.
#[derive(Debug)]
pub struct ReplyConsumer {
    outbox: Arc<Outbox>,
    channel: ChannelId,
    consumer: ConsumerId,
    credit: AtomicI64,
    next: Mutex<Seq>,
}

/// All of them, by token.
#[derive(Debug, Default)]
pub struct Replies {
    waiting: RwLock<Waiting>,
    /// Replies that found nobody, or somebody who does not read.
    pub dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    by_token: BTreeMap<Box<str>, Arc<ReplyConsumer>>,
    tokens: BTreeMap<ConsumerId, Box<str>>,
}

impl Replies {
    /// Adds one.
    pub fn add(&self, token: &str, outbox: Arc<Outbox>, channel: ChannelId, consumer: ConsumerId, window: u64) {
        let entry = ReplyConsumer {
            outbox,
            channel,
            consumer,
            credit: AtomicI64::new(i64::try_from(window).unwrap_or(i64::MAX)),
            next: Mutex::new(Seq(0)),
        };
        let mut w = self.waiting.write().unwrap_or_else(PoisonError::into_inner);
        w.by_token.insert(token.into(), Arc::new(entry));
        w.tokens.insert(consumer, token.into());
    }

    /// Forgets one; harmless if it is not there.
    pub fn remove(&self, consumer: ConsumerId) {
        let mut w = self.waiting.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = w.tokens.remove(&consumer) {
            w.by_token.remove(&token);
        }
    }

    /// Who waits under that token.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<Arc<ReplyConsumer>> {
        self.waiting.read().unwrap_or_else(PoisonError::into_inner).by_token.get(token).cloned()
    }

    /// Gives byte credit back.
    pub fn sent(&self, consumer: ConsumerId, bytes: u64) {
        let found = {
            let w = self.waiting.read().unwrap_or_else(PoisonError::into_inner);
            w.tokens.get(&consumer).and_then(|t| w.by_token.get(t)).cloned()
        };
        if let Some(c) = found {
            c.credit.fetch_add(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }

    /// Delivers the messages `from..to`, or drops them.
    pub fn deliver(&self, to_whom: &ReplyConsumer, route: &Arc<Route>, batch: &Arc<Batch>, from: u32, to: u32) {
        let count = to - from;
        let cost = batch.payload_len(from, to) + 64 * u64::from(count);
        if to_whom.credit.load(Ordering::Relaxed) <= 0 {
            self.dropped.fetch_add(u64::from(count), Ordering::Relaxed);
            return;
        }
        to_whom.credit.fetch_sub(i64::try_from(cost).unwrap_or(i64::MAX), Ordering::Relaxed);
        // Held while pushing, so that places rise in the order of the events.
        let mut next = to_whom.next.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *next;
        *next = first.plus(u64::from(count));
        to_whom.outbox.push(Event::Deliver(Delivery {
            channel: to_whom.channel,
            consumer: to_whom.consumer,
            queue: REPLY_QUEUE,
            first,
            count,
            route: Arc::clone(route),
            body: Body::Mem { batch: Arc::clone(batch), from },
            redelivered: false,
            delivery_count: 0,
            cost,
        }));
    }
}
