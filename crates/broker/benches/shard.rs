//! What a shard costs per message and per run. `cargo bench -p waypost-broker --bench shard`.
//!
//! Plain loops over the public interface, the outbox drained as a driver would; the best of several rounds is told.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use waypost_broker::context::{Cx, MemoryBudget, Wakes};
use waypost_broker::settings::{Overflow, QueueKind, QueueSettings};
use waypost_broker::shard::{ChannelCredit, ConsumerArguments, Incoming, NewConsumer, Shard};
use waypost_model::command::{Outcome, Sent, Settle};
use waypost_model::journal::{AppendError, Journal, Op, SpillRef};
use waypost_model::{
    AttrFlags, Attrs, Batch, BatchBuilder, ChannelId, ConnId, ConsumerId, Event, Lsn, Millis, Outbox, QueueId, Route,
    ShardId,
};

const ROUNDS: usize = 7;
const Q: QueueId = QueueId(64);

/// Takes everything and is durable at once.
#[derive(Default)]
struct Sink(AtomicU64);

impl Journal for Sink {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        black_box(ops);
        Ok(Lsn(self.0.fetch_add(1, Ordering::Relaxed) + 1))
    }

    fn reserve(&self) -> Lsn {
        Lsn(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn fill(&self, _: Lsn, _: Vec<Op>) -> Result<(), AppendError> {
        Ok(())
    }

    fn durable(&self) -> Lsn {
        Lsn(self.0.load(Ordering::Relaxed))
    }

    fn spill(&self, _: &Batch, from: u32, to: u32) -> std::io::Result<SpillRef> {
        let segment = self.0.fetch_add(1, Ordering::Relaxed);
        Ok(SpillRef { segment, offset: 0, len: to - from })
    }

    fn release_spill(&self, _: SpillRef) {}
}

struct Bench {
    shard: Shard,
    journal: Sink,
    memory: MemoryBudget,
    outbox: Arc<Outbox>,
    route: Arc<Route>,
    events: VecDeque<Event>,
}

impl Bench {
    fn new(durable: bool) -> Bench {
        let mut b = Bench {
            shard: Shard::new(ShardId(0)),
            journal: Sink::default(),
            memory: MemoryBudget::new(1 << 30),
            outbox: Arc::default(),
            route: Arc::new(Route::new("", "q")),
            events: VecDeque::new(),
        };
        b.call(|s, cx| s.create_queue(settings(Q, durable), cx));
        b
    }

    fn call<R>(&mut self, f: impl FnOnce(&mut Shard, &mut Cx<'_>) -> R) -> R {
        let mut effects = Vec::new();
        let (journal, effects, memory) = (&self.journal, &mut effects, &self.memory);
        let mut cx = Cx { now: Millis(1), journal, effects, memory, wakes: &mut Wakes::default() };
        let result = f(&mut self.shard, &mut cx);
        self.shard.flush(&mut cx);
        result
    }

    fn consume(&mut self, no_ack: bool) -> ConsumerId {
        let new = NewConsumer {
            conn: ConnId(1),
            channel: ChannelId(1),
            tag: "c".into(),
            outbox: Arc::clone(&self.outbox),
            token: 0,
            no_ack,
            exclusive: false,
            arguments: ConsumerArguments::default(),
            prefetch: None,
            credit: Arc::new(ChannelCredit::default()),
            window_bytes: 1 << 40,
            instance: None,
        };
        match self.call(|s, cx| s.consume(Q, new, cx)) {
            Ok(id) => id,
            Err(refusal) => panic!("{refusal}"),
        }
    }

    fn enqueue(&mut self, batch: &Arc<Batch>, attrs: Attrs) {
        let run = Incoming {
            route: Arc::clone(&self.route),
            batch: Arc::clone(batch),
            from: 0,
            to: batch.len() as u32,
            attrs,
            at: Millis(1),
            due: None,
        };
        self.call(|s, cx| s.enqueue(&[Q], run, cx));
    }

    /// Takes deliveries and says that they were sent, or settles them.
    fn drain(&mut self, no_ack: bool) {
        let mut events = std::mem::take(&mut self.events);
        self.outbox.drain(&mut events, None);
        for event in events.drain(..) {
            let Event::Deliver(d) = event else { continue };
            let sent = Sent { consumer: d.consumer, queue: d.queue, messages: d.count, bytes: d.cost };
            let settle = Settle {
                channel: d.channel,
                queue: d.queue,
                consumer: d.consumer,
                first: d.first,
                count: d.count,
                outcome: Outcome::Accepted,
            };
            drop(d);
            self.call(|s, cx| {
                s.sent(&sent, cx);
                if !no_ack {
                    s.settle(&settle, cx);
                }
            });
        }
        self.events = events;
    }
}

fn settings(id: QueueId, durable: bool) -> Arc<QueueSettings> {
    Arc::new(QueueSettings {
        id,
        vhost: "/".into(),
        name: "q".into(),
        durable,
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
    })
}

fn batch(messages: usize, size: usize) -> Arc<Batch> {
    let mut b = BatchBuilder::default();
    for _ in 0..messages {
        b.push(&[0, 0], &vec![b'x'; size]);
    }
    Arc::new(b.finish())
}

/// Messages as they come from a socket: `size` bytes of body each, in a read buffer of 64 KiB.
fn socket_batch(messages: usize, size: usize) -> Arc<Batch> {
    let slots = (0..messages)
        .map(|i| {
            let at = (i * (size + 60)) as u32;
            waypost_model::Slot { props: at, props_len: 2, body: at + 20, body_len: size as u32 }
        })
        .collect();
    match Batch::new(vec![0; 64 * 1024], slots) {
        Ok(b) => Arc::new(b),
        Err(e) => panic!("{e}"),
    }
}

/// Best time of several rounds, in ns per unit.
fn measure(what: &str, units: usize, mut round: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        round();
        best = best.min(start.elapsed().as_nanos() as f64 / units as f64);
    }
    println!("{what:<66} {best:>9.1} ns");
}

fn flow(what: &str, durable: bool, no_ack: bool, batch: &Arc<Batch>, per: usize) {
    let attrs = if durable { Attrs { flags: AttrFlags::PERSISTENT, ..Attrs::default() } } else { Attrs::default() };
    let mut b = Bench::new(durable);
    b.consume(no_ack);
    b.drain(no_ack);
    let runs = 200_000 / batch.len().min(200);
    measure(what, runs * per, || {
        for _ in 0..runs {
            b.enqueue(batch, attrs);
            b.drain(no_ack);
        }
    });
}

fn backlog(what: &str, batch: &Arc<Batch>, durable: bool, messages: usize) {
    let attrs = if durable { Attrs { flags: AttrFlags::PERSISTENT, ..Attrs::default() } } else { Attrs::default() };
    let runs = messages / batch.len();
    measure(what, runs * batch.len(), || {
        let mut b = Bench::new(durable);
        for _ in 0..runs {
            b.enqueue(batch, attrs);
        }
        black_box(&b.shard);
    });
}

fn main() {
    println!("per message:");
    flow("800 x 16 B: enqueue, deliver, sent", false, true, &batch(800, 16), 800);
    flow("800 x 16 B: enqueue, deliver, acknowledge", false, false, &batch(800, 16), 800);
    flow("800 x 16 B: the same, persistent", true, false, &batch(800, 16), 800);
    backlog("800 x 16 B: enqueue into a backlog of a million", &socket_batch(800, 16), false, 1_000_000);
    backlog("the same, persistent", &socket_batch(800, 16), true, 1_000_000);
    backlog("the same, transient, 5 million (most of it spilled)", &socket_batch(800, 16), false, 5_000_000);
    backlog("1 x 16 B: enqueue into a backlog of a million", &socket_batch(1, 16), false, 1_000_000);
    println!("per run:");
    flow("1 x 16 B: enqueue, deliver, sent", false, true, &batch(1, 16), 1);
    flow("1 x 16 B: enqueue, deliver, acknowledge", false, false, &batch(1, 16), 1);
    flow("1 x 16 B of a 64 KiB buffer: the same", false, false, &socket_batch(1, 16), 1);
    flow("1 x 16 B: the same, persistent", true, false, &socket_batch(1, 16), 1);
}
