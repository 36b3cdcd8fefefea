//! One shard with its surroundings, and shorthands.

use std::collections::VecDeque;
use std::sync::Arc;

use waypost_model::command::{Outcome, Sent, Settle};
use waypost_model::event::Body;
use waypost_model::{
    AttrFlags, Attrs, Batch, BatchBuilder, ChannelId, ConnId, ConsumerId, Delivery, Event, Millis, Outbox, QueueId,
    Route, Seq, ShardId,
};

use super::journal::FakeJournal;
use crate::context::{Cx, MemoryBudget, Wakes};
use crate::effect::Effect;
use crate::settings::{DeadLetterTo, Overflow, QueueKind, QueueSettings};
use crate::shard::{ChannelCredit, ConsumerArguments, Enqueued, Got, Incoming, NewConsumer, Shard};

pub const Q: QueueId = QueueId(64);

pub struct World {
    pub shard: Shard,
    pub journal: FakeJournal,
    pub effects: Vec<Effect>,
    pub memory: MemoryBudget,
    pub now: Millis,
    pub outbox: Arc<Outbox>,
    pub tags: u32,
}

/// How a consumer differs from the plain one.
pub struct Setup {
    pub no_ack: bool,
    pub exclusive: bool,
    pub priority: i32,
    pub prefetch: Option<u32>,
    pub credit: Arc<ChannelCredit>,
    pub window: u64,
    pub outbox: Option<Arc<Outbox>>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            no_ack: false,
            exclusive: false,
            priority: 0,
            prefetch: None,
            credit: Arc::default(),
            window: 1 << 40,
            outbox: None,
        }
    }
}

/// A message as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub consumer: ConsumerId,
    pub seq: u64,
    pub body: String,
    pub redelivered: bool,
}

pub fn settings(change: impl FnOnce(&mut QueueSettings)) -> Arc<QueueSettings> {
    let mut s = QueueSettings {
        id: Q,
        vhost: "/".into(),
        name: "q".into(),
        durable: false,
        exclusive: None,
        auto_delete: false,
        kind: QueueKind::Classic,
        message_ttl_ms: None,
        expires_ms: None,
        max_length: None,
        max_length_bytes: None,
        max_age_ms: None,
        overflow: Overflow::DropHead,
        dead_letter: None,
        max_priority: None,
        single_active_consumer: false,
        delivery_limit: None,
        consumer_timeout_ms: None,
        delay_of: None,
        service: None,
        implicit: false,
    };
    change(&mut s);
    Arc::new(s)
}

pub fn dead_letter() -> Option<DeadLetterTo> {
    Some(DeadLetterTo { exchange: "dlx".into(), routing_key: None })
}

pub const PERSISTENT: Attrs = Attrs { flags: AttrFlags::PERSISTENT, priority: 0, expiration: None };

impl World {
    pub fn empty() -> World {
        World {
            shard: Shard::new(ShardId(0)),
            journal: FakeJournal::default(),
            effects: Vec::new(),
            memory: MemoryBudget::new(1 << 40),
            now: Millis(1000),
            outbox: Arc::default(),
            tags: 0,
        }
    }

    /// A world with one queue.
    pub fn with(change: impl FnOnce(&mut QueueSettings)) -> World {
        let mut w = World::empty();
        w.journal.with(|s| s.automatic = true);
        w.call(|s, cx| s.create_queue(settings(change), cx));
        w
    }

    pub fn call<R>(&mut self, f: impl FnOnce(&mut Shard, &mut Cx<'_>) -> R) -> R {
        let (now, journal, effects, memory) = (self.now, &self.journal, &mut self.effects, &self.memory);
        let mut cx = Cx { now, journal, effects, memory, wakes: &mut Wakes::default() };
        let result = f(&mut self.shard, &mut cx);
        self.shard.flush(&mut cx);
        result
    }

    pub fn publish_with(&mut self, bodies: &[&str], attrs: Attrs) -> Enqueued {
        let mut b = BatchBuilder::default();
        bodies.iter().for_each(|body| b.push(&[0, 0], body.as_bytes()));
        self.publish_batch(b.finish(), attrs)
    }

    pub fn publish_batch(&mut self, batch: Batch, attrs: Attrs) -> Enqueued {
        let run = Incoming {
            route: Arc::new(Route::new("", "q")),
            from: 0,
            to: batch.len() as u32,
            batch: Arc::new(batch),
            attrs,
            at: self.now,
            due: None,
        };
        self.call(|s, cx| s.enqueue(&[Q], run, cx))
    }

    pub fn publish(&mut self, bodies: &[&str]) -> Enqueued {
        self.publish_with(bodies, Attrs::default())
    }

    pub fn consume(&mut self, setup: Setup) -> ConsumerId {
        self.try_consume(setup).unwrap()
    }

    pub fn try_consume(&mut self, setup: Setup) -> Result<ConsumerId, waypost_model::Refusal> {
        self.tags += 1;
        let new = NewConsumer {
            conn: ConnId(1),
            channel: ChannelId(1),
            tag: format!("c{}", self.tags).into(),
            outbox: setup.outbox.unwrap_or_else(|| Arc::clone(&self.outbox)),
            token: self.tags,
            no_ack: setup.no_ack,
            exclusive: setup.exclusive,
            arguments: ConsumerArguments { priority: setup.priority },
            prefetch: setup.prefetch,
            credit: setup.credit,
            window_bytes: setup.window,
            instance: None,
        };
        self.call(|s, cx| s.consume(Q, new, cx))
    }

    pub fn events(&self) -> Vec<Event> {
        let mut events = VecDeque::new();
        self.outbox.drain(&mut events, None);
        events.into()
    }

    pub fn deliveries(&self) -> Vec<Delivery> {
        let deliver = |e| match e {
            Event::Deliver(d) => Some(d),
            _ => None,
        };
        self.events().into_iter().filter_map(deliver).collect()
    }

    /// All messages that were delivered since the last look.
    pub fn seen(&self) -> Vec<Seen> {
        self.deliveries().iter().flat_map(|d| self.open(d)).collect()
    }

    pub fn bodies(&self) -> Vec<String> {
        self.seen().into_iter().map(|s| s.body).collect()
    }

    pub fn open(&self, d: &Delivery) -> Vec<Seen> {
        (0..d.count)
            .map(|i| {
                let seq = d.first.plus(u64::from(i));
                let body = self.body(&d.body, d.queue, seq, i);
                Seen { consumer: d.consumer, seq: seq.0, body, redelivered: d.redelivered }
            })
            .collect()
    }

    pub fn body(&self, body: &Body, queue: QueueId, seq: Seq, i: u32) -> String {
        let bytes = match body {
            Body::Mem { batch, from } => batch.body(from + i).to_vec(),
            Body::Stored => self.journal.with(|s| s.live[&(queue, seq)].body.clone()),
            Body::Spilled { at, skip } => self.journal.with(|s| s.spills[&at.segment][(skip + i) as usize].clone()),
        };
        String::from_utf8(bytes).unwrap()
    }

    pub fn settle(&mut self, consumer: ConsumerId, first: u64, count: u32, outcome: Outcome) {
        let s = Settle { channel: ChannelId(1), queue: Q, consumer, first: Seq(first), count, outcome };
        self.call(|shard, cx| shard.settle(&s, cx));
    }

    pub fn ack(&mut self, consumer: ConsumerId, first: u64, count: u32) {
        self.settle(consumer, first, count, Outcome::Accepted);
    }

    pub fn sent(&mut self, consumer: ConsumerId, messages: u32, bytes: u64) {
        self.call(|shard, cx| shard.sent(&Sent { consumer, queue: Q, messages, bytes }, cx));
    }

    pub fn get(&mut self, no_ack: bool) -> Option<Got> {
        self.call(|s, cx| s.get(Q, ConnId(1), ChannelId(1), no_ack, cx)).unwrap()
    }

    pub fn ready(&self) -> u64 {
        self.shard.counts(Q).unwrap().ready
    }

    pub fn unsettled(&self) -> u64 {
        self.shard.counts(Q).unwrap().unsettled
    }

    pub fn advance(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
    }

    pub fn tick(&mut self) {
        self.call(|s, cx| s.tick(cx));
    }

    /// What died, with the reason, since the last look; it has left then.
    pub fn dead(&mut self) -> Vec<(String, &'static str)> {
        let mut dead = Vec::new();
        for effect in std::mem::take(&mut self.effects) {
            let (l, reason) = match effect {
                Effect::DeadLetter(d) => (d.messages, d.reason.as_str()),
                Effect::Due(l) => (l, "due"),
                other => {
                    self.effects.push(other);
                    continue;
                }
            };
            for i in 0..l.count {
                let body = self.body(&l.body, l.settings.id, l.first.plus(u64::from(i)), i);
                dead.push((body, reason));
            }
            self.call(|s, cx| s.left(l.settings.id, l.first, l.count, cx));
        }
        dead
    }
}
