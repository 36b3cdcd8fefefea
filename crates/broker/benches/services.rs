//! What a message to a service costs, from the turn that publishes it to its settlement.
//! `cargo bench -p waypost-broker --bench services`.
//!
//! Plain loops over the public interface, as drivers use it; the best of several rounds is told.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use waypost_broker::broker::{Broker, BrokerConfig, Connection, PeerInfo};
use waypost_model::command::{Consume, Outcome, Publish, QueueDeclare, Sent, Settle};
use waypost_model::journal::{AppendError, BodyStore, Journal, Loaded, Op, Recovered, SpillRef};
use waypost_model::props::PropsOwned;
use waypost_model::table::{Table, Value};
use waypost_model::{
    AttrFlags, Attrs, Batch, BatchBuilder, Call, ChannelId, Command, Event, Lsn, Millis, Outbox, QueueId, Route, Seq,
    Turn,
};

const ROUNDS: usize = 5;
/// Messages of a turn, as one read of a socket brings them.
const TURN: usize = 100;
const TURNS: usize = 2000;

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
        Ok(SpillRef { segment: 0, offset: 0, len: to - from })
    }

    fn release_spill(&self, _: SpillRef) {}
}

impl BodyStore for Sink {
    fn load(&self, _: QueueId, _: Seq, _: u32) -> std::io::Result<Loaded> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn load_spilled(&self, _: SpillRef) -> std::io::Result<Arc<Batch>> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// Processor time of this thread, ns: what others do on the same machine does not count.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

struct Client {
    conn: Connection,
    outbox: Arc<Outbox>,
    events: VecDeque<Event>,
}

struct Bench {
    broker: Broker,
    now: Millis,
}

impl Bench {
    fn new() -> Bench {
        let sink = Arc::new(Sink::default());
        let config = BrokerConfig { memory_budget_bytes: 1 << 30, seed: [3; 32] };
        let opened = Broker::open(config, sink.clone(), sink, Recovered::default(), Millis(1_000_000));
        match opened {
            Ok(broker) => Bench { broker, now: Millis(1_000_000) },
            Err(e) => panic!("{e}"),
        }
    }

    fn client(&self) -> Client {
        let info = PeerInfo::on_this_machine("bench");
        let outbox = Arc::new(Outbox::default());
        let conn = self.broker.connect(info, Arc::clone(&outbox), self.now);
        let mut c = Client { conn, outbox, events: VecDeque::new() };
        let (username, password) = ("guest".into(), (*b"guest").into());
        self.call(&mut c, 0, Call::Authenticate { mechanism: "PLAIN".into(), username, password });
        self.call(&mut c, 0, Call::OpenVhost { vhost: "/".into(), client_properties: Table::new() });
        self.call(&mut c, 1, Call::OpenChannel);
        c
    }

    fn call(&self, c: &mut Client, channel: u16, call: Call) {
        let commands = vec![Command::Call { channel: ChannelId(channel), token: 0, call }];
        self.broker.execute(&mut c.conn, &mut Turn { batch: None, commands }, self.now);
        c.outbox.drain(&mut c.events, None);
        let refused = c.events.drain(..).find(|e| matches!(e, Event::Refused { .. }));
        assert!(refused.is_none(), "{refused:?}");
    }

    fn consume(&self, c: &mut Client, queue: &str, prefetch: u16, arguments: Table) {
        self.call(c, 1, Call::Qos { prefetch_count: prefetch, global: false });
        let (queue, tag) = (queue.into(), "c".into());
        let consume = Consume { queue, tag, no_ack: false, exclusive: false, arguments, window_bytes: 1 << 40 };
        self.call(c, 1, Call::Consume(consume));
    }

    fn declare(&self, c: &mut Client, name: &str) {
        let (durable, exclusive, auto_delete) = (false, false, false);
        let arguments = Table::new();
        let d = QueueDeclare { name: name.into(), passive: false, durable, exclusive, auto_delete, arguments };
        self.call(c, 1, Call::QueueDeclare(d));
    }

    /// Takes deliveries, and says in one turn that they were sent and are done with.
    fn settle(&self, c: &mut Client) -> u32 {
        c.outbox.drain(&mut c.events, None);
        let (mut commands, mut got) = (Vec::new(), 0);
        for event in c.events.drain(..) {
            let Event::Deliver(d) = event else { continue };
            got += d.count;
            commands.push(Command::Sent(Sent {
                consumer: d.consumer,
                queue: d.queue,
                messages: d.count,
                bytes: d.cost,
            }));
            commands.push(Command::Settle(Settle {
                channel: d.channel,
                queue: d.queue,
                consumer: d.consumer,
                first: d.first,
                count: d.count,
                outcome: Outcome::Accepted,
            }));
        }
        if !commands.is_empty() {
            self.broker.execute(&mut c.conn, &mut Turn { batch: None, commands }, self.now);
        }
        got
    }
}

/// A message of a turn: its route, and its key.
type Kind = (Arc<Route>, Option<u64>);

fn publishes(kinds: &[Kind]) -> Turn {
    let mut b = BatchBuilder::default();
    let plain = PropsOwned::default().to_bytes();
    for (_, key) in kinds {
        match key {
            None => b.push(&plain, &[7; 16]),
            Some(key) => {
                let headers = Table::new().with("x-key", Value::LongStr(format!("key-{key}").into()));
                b.push(&PropsOwned { headers: Some(headers), ..PropsOwned::default() }.to_bytes(), &[7; 16]);
            }
        }
    }
    let mut commands: Vec<Command> = Vec::new();
    for (i, (route, key)) in (0u32..).zip(kinds) {
        let flags = if key.is_some() { AttrFlags::HEADERS } else { AttrFlags::default() };
        let attrs = Attrs { flags, ..Attrs::default() };
        if let Some(Command::Publish(last)) = commands.last_mut()
            && Arc::ptr_eq(&last.route, route)
            && last.attrs == attrs
        {
            last.to = i + 1;
            continue;
        }
        commands.push(Command::Publish(Publish {
            channel: ChannelId(1),
            route: Arc::clone(route),
            batch: None,
            from: i,
            to: i + 1,
            attrs,
            mandatory: false,
            confirm: None,
        }));
    }
    Turn { batch: Some(Arc::new(b.finish())), commands }
}

fn measure(name: &str, bench: &Bench, sender: &mut Client, takers: &mut [Client], kinds: impl Fn(usize) -> Kind) {
    let mut best = f64::INFINITY;
    let mut n = 0;
    for _ in 0..ROUNDS {
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            let of_turn: Vec<Kind> = (0..TURN).map(|i| kinds(n + i)).collect();
            n += TURN;
            turns.push(publishes(&of_turn));
        }
        let mut got = 0;
        let start = cpu_ns();
        for mut turn in turns {
            bench.broker.execute(&mut sender.conn, &mut turn, bench.now);
            got += takers.iter_mut().map(|c| bench.settle(c)).sum::<u32>();
        }
        let took = cpu_ns().saturating_sub(start);
        while got < (TURN * TURNS) as u32 {
            let more = takers.iter_mut().map(|c| bench.settle(c)).sum::<u32>();
            assert!(more > 0, "{got} of {}", TURN * TURNS);
            got += more;
        }
        best = best.min(took as f64 / (TURN * TURNS) as f64);
    }
    println!("{name:<64} {:>8.3} µs per message", best / 1e3);
}

fn instance(i: usize) -> Table {
    let meta = Table::new().with("shelf", Value::LongStr((i % 20).to_string().into()));
    let said = Table::new()
        .with("id", Value::LongStr(format!("i{i}").into()))
        .with("tags", Value::LongStr(format!("t{}", i % 20).into()))
        .with("version", Value::LongStr(format!("{}.0.0", 1 + i % 20).into()))
        .with("meta", Value::Table(meta));
    Table::new().with("x-service", Value::Table(said))
}

fn selector(i: usize) -> String {
    match i % 3 {
        0 => format!("s?tag=t{}", i % 20),
        1 => format!("s?meta-shelf={}", i % 20),
        _ => format!("s?version=^{}", 1 + i % 20),
    }
}

/// One taker, one message per command: what plain queue and mailbox differ in.
fn one_taker(name: &str, exchange: &str, key: &str, queue: &str, arguments: Table, run: usize) {
    let bench = Bench::new();
    let mut sender = bench.client();
    bench.declare(&mut sender, queue);
    let mut taker = bench.client();
    bench.consume(&mut taker, queue, 1000, arguments);
    let routes = [Arc::new(Route::new(exchange, key)), Arc::new(Route::new(exchange, key))];
    let takers = &mut [taker];
    measure(name, &bench, &mut sender, takers, |i| (Arc::clone(&routes[i / run % 2]), None));
}

fn many(name: &str, keyed: usize, selectors: usize) {
    let bench = Bench::new();
    let mut sender = bench.client();
    bench.declare(&mut sender, "s-queue");
    let mut takers: Vec<Client> = (0..50).map(|_| bench.client()).collect();
    for (i, c) in takers.iter_mut().enumerate() {
        bench.consume(c, "s-queue", 100, instance(i));
    }
    let routes: Vec<Arc<Route>> = (0..selectors.max(1))
        .map(|i| Arc::new(Route::new("amq.services", if selectors == 0 { "s".to_owned() } else { selector(i) })))
        .collect();
    let kind = |i: usize| {
        let key = (keyed > 0 && i % 100 < keyed).then_some(i as u64);
        (Arc::clone(&routes[(i + i / 20) % routes.len()]), key)
    };
    measure(name, &bench, &mut sender, &mut takers, kind);
}

fn main() {
    for (run, what) in [(1, "one message per command"), (100, "100 messages per command")] {
        one_taker(&format!("plain queue, {what}"), "", "s-queue", "s-queue", Table::new(), run);
        one_taker(&format!("mailbox, nobody an instance, {what}"), "amq.services", "s", "s-queue", Table::new(), run);
        one_taker(&format!("mailbox, one instance, {what}"), "amq.services", "s", "s-queue", instance(0), run);
    }
    many("50 instances, no selector", 0, 0);
    many("50 instances, 20 selectors", 0, 20);
    many("50 instances, 20 selectors, 10 % unique keys", 10, 20);
    many("50 instances, 20 selectors, all with unique keys", 100, 20);
}
