//! A broker over a journal in memory whose watermark the test moves, and clients that speak turns and events.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use waypost_broker::broker::{Broker, BrokerConfig, Connection, PeerInfo};
use waypost_model::command::{
    Binding, Consume, Destination, ExchangeDeclare, Outcome, Publish, QueueDeclare, Sent, Settle,
};
use waypost_model::journal::{AppendError, BodyStore, Journal, Loaded, Op, Recovered, RecoveredRun, SpillRef};
use waypost_model::props::{PropsOwned, ShortStr};
use waypost_model::table::{Table, Value};
use waypost_model::{
    AttrFlags, Attrs, Batch, BatchBuilder, Body, Call, ChannelId, Command, Delivery, Event, Lsn, Millis, Outbox,
    QueueId, Reply, Route, Seq, SeqRange, Turn,
};

/// A message as the journal keeps it.
#[derive(Clone)]
struct Kept {
    batch: Arc<Batch>,
    index: u32,
    route: Arc<Route>,
    attrs: Attrs,
    at: Millis,
    delivery_count: u32,
}

#[derive(Default)]
struct Log {
    last: u64,
    durable: u64,
    appends: BTreeMap<u64, Vec<Op>>,
    live: BTreeMap<(QueueId, Seq), Kept>,
    next: BTreeMap<QueueId, Seq>,
    definitions: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Log {
    fn apply(&mut self, op: Op) {
        match op {
            Op::Enqueue(e) => {
                for (queue, first) in &e.targets {
                    for index in e.from..e.to {
                        let seq = first.plus(u64::from(index - e.from));
                        let (batch, route) = (Arc::clone(&e.batch), Arc::clone(&e.route));
                        let kept = Kept { batch, index, route, attrs: e.attrs, at: e.at, delivery_count: 0 };
                        self.live.insert((*queue, seq), kept);
                        self.next.insert(*queue, seq.plus(1));
                    }
                }
            }
            Op::Settle(r) => (0..u64::from(r.count)).for_each(|n| drop(self.live.remove(&(r.queue, r.first.plus(n))))),
            Op::Requeued { range, delivery_count } => {
                for n in 0..u64::from(range.count) {
                    if let Some(k) = self.live.get_mut(&(range.queue, range.first.plus(n))) {
                        k.delivery_count = delivery_count;
                    }
                }
            }
            Op::Forget(queue) => {
                self.live.retain(|(q, _), _| *q != queue);
                self.next.remove(&queue);
            }
            Op::Define { key, value: Some(v) } => drop(self.definitions.insert(key, v)),
            Op::Define { key, value: None } => drop(self.definitions.remove(&key)),
        }
    }
}

/// A journal in memory. Nothing is durable until [`Memory::sync`], unless `eager`.
#[derive(Default)]
pub struct Memory {
    log: Mutex<Log>,
    pub full: AtomicBool,
    /// Not even settlements are taken.
    pub crammed: AtomicBool,
    pub eager: AtomicBool,
}

impl Memory {
    /// Everything that was appended is durable now.
    pub fn sync(&self) {
        let mut log = self.log.lock().unwrap();
        log.durable = log.last;
    }

    /// How many messages are live.
    pub fn live(&self) -> usize {
        self.log.lock().unwrap().live.len()
    }

    /// The appends so far.
    pub fn appends(&self) -> usize {
        self.log.lock().unwrap().appends.len()
    }

    /// What a restart finds when everything was written.
    pub fn recovered(&self, clean: bool) -> Recovered {
        let log = self.log.lock().unwrap();
        let runs = log.live.iter().map(|((queue, seq), k)| RecoveredRun {
            range: SeqRange { queue: *queue, first: *seq, count: 1 },
            route: Arc::clone(&k.route),
            attrs: k.attrs,
            at: k.at,
            delivery_count: k.delivery_count,
            payload_bytes: k.batch.slots()[k.index as usize].payload_len() as u64,
        });
        Recovered {
            definitions: log.definitions.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            runs: runs.collect(),
            next_seq: log.next.iter().map(|(q, s)| (*q, *s)).collect(),
            clean,
        }
    }
}

impl Journal for Memory {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        let messages = ops.iter().any(|op| matches!(op, Op::Enqueue(_)));
        if self.crammed.load(Ordering::SeqCst) || self.full.load(Ordering::SeqCst) && messages {
            return Err(AppendError::Full);
        }
        let ticket = self.reserve();
        self.fill(ticket, ops)?;
        Ok(ticket)
    }

    fn room(&self, _bytes: u64) -> Result<(), AppendError> {
        let full = self.full.load(Ordering::SeqCst) || self.crammed.load(Ordering::SeqCst);
        if full { Err(AppendError::Full) } else { Ok(()) }
    }

    fn room_for_definitions(&self) -> Result<(), AppendError> {
        if self.crammed.load(Ordering::SeqCst) { Err(AppendError::Full) } else { Ok(()) }
    }

    fn reserve(&self) -> Lsn {
        let mut log = self.log.lock().unwrap();
        log.last += 1;
        Lsn(log.last)
    }

    fn fill(&self, ticket: Lsn, ops: Vec<Op>) -> Result<(), AppendError> {
        let mut log = self.log.lock().unwrap();
        ops.iter().for_each(|op| log.apply(op.clone()));
        log.appends.insert(ticket.0, ops);
        if self.eager.load(Ordering::SeqCst) {
            log.durable = log.last;
        }
        Ok(())
    }

    fn durable(&self) -> Lsn {
        Lsn(self.log.lock().unwrap().durable)
    }

    fn spill(&self, _: &Batch, _: u32, _: u32) -> std::io::Result<SpillRef> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn release_spill(&self, _: SpillRef) {}
}

impl BodyStore for Memory {
    fn load(&self, queue: QueueId, first: Seq, _: u32) -> std::io::Result<Loaded> {
        let log = self.log.lock().unwrap();
        let k = log.live.get(&(queue, first)).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(Loaded { batch: Arc::clone(&k.batch), from: k.index, to: k.index + 1 })
    }

    fn load_spilled(&self, _: SpillRef) -> std::io::Result<Arc<Batch>> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// A node under test.
pub struct Node {
    pub journal: Arc<Memory>,
    pub broker: Arc<Broker>,
    pub now: Millis,
}

impl Node {
    /// A new one, whose journal is durable at once.
    pub fn new() -> Node {
        let node = Node::lazy();
        node.journal.eager.store(true, Ordering::SeqCst);
        node.journal.sync();
        node
    }

    /// A new one, where the test says when the journal is durable.
    pub fn lazy() -> Node {
        Node::over(Arc::new(Memory::default()), Recovered::default(), Millis(1_000_000))
    }

    fn over(journal: Arc<Memory>, recovered: Recovered, now: Millis) -> Node {
        let config = BrokerConfig { memory_budget_bytes: 1 << 20, seed: [3; 32] };
        let broker = Broker::open(config, journal.clone(), journal.clone(), recovered, now).unwrap();
        Node { journal, broker: Arc::new(broker), now }
    }

    /// The same after a restart; connections are gone.
    pub fn restart(self, clean: bool) -> Node {
        let recovered = self.journal.recovered(clean);
        Node::over(Arc::clone(&self.journal), recovered, self.now)
    }

    /// The disk has caught up.
    pub fn sync(&self) {
        self.journal.sync();
        self.broker.advance(self.now);
    }

    /// Time passes.
    pub fn pass(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
        self.broker.tick(self.now);
    }

    /// A client with channel 1 open.
    pub fn client(&self) -> Client {
        let mut c = self.client_saying(Table::new());
        c.expect_done(3);
        c
    }

    /// The same, with client properties; what the broker says to them is left to be looked at.
    pub fn client_saying(&self, client_properties: Table) -> Client {
        let outbox = Arc::new(Outbox::default());
        let info = PeerInfo::on_this_machine("test");
        let conn = self.broker.connect(info, Arc::clone(&outbox), self.now);
        let mut c = Client {
            broker: Arc::clone(&self.broker),
            conn,
            outbox,
            events: VecDeque::new(),
            now: self.now,
            token: 0,
            published: 0,
        };
        let (username, password) = ("guest".into(), (*b"guest").into());
        c.call(0, Call::Authenticate { mechanism: "PLAIN".into(), username, password });
        c.call(0, Call::OpenVhost { vhost: "/".into(), client_properties });
        c.call(1, Call::OpenChannel);
        c
    }

    /// Ready messages of a queue.
    pub fn ready(&self, queue: &str) -> u64 {
        self.broker.queue("/", queue).unwrap().state.counts.ready
    }
}

/// A client.
pub struct Client {
    pub broker: Arc<Broker>,
    pub conn: Connection,
    pub outbox: Arc<Outbox>,
    pub events: VecDeque<Event>,
    pub now: Millis,
    token: u32,
    pub published: u64,
}

/// A message to publish.
#[derive(Clone, Default)]
pub struct Message {
    pub body: Vec<u8>,
    pub persistent: bool,
    pub expiration: Option<u32>,
    pub headers: Option<Table>,
    pub mandatory: bool,
    pub reply_to: Option<String>,
}

pub fn message(body: &str) -> Message {
    Message { body: body.as_bytes().to_vec(), ..Message::default() }
}

impl Message {
    pub fn persistent(mut self) -> Message {
        self.persistent = true;
        self
    }

    pub fn header(mut self, key: &str, value: Value) -> Message {
        self.headers.get_or_insert_default().set(key, value);
        self
    }

    pub fn mandatory(mut self) -> Message {
        self.mandatory = true;
        self
    }

    pub fn expiring(mut self, ms: u32) -> Message {
        self.expiration = Some(ms);
        self
    }

    fn props(&self) -> Vec<u8> {
        PropsOwned {
            delivery_mode: self.persistent.then_some(2),
            expiration: self.expiration.and_then(|e| ShortStr::new(e.to_string())),
            headers: self.headers.clone(),
            reply_to: self.reply_to.as_ref().and_then(ShortStr::new),
            ..PropsOwned::default()
        }
        .to_bytes()
    }

    fn attrs(&self) -> Attrs {
        let mut flags = AttrFlags::default();
        if self.persistent {
            flags = flags.with(AttrFlags::PERSISTENT);
        }
        if let Some(h) = &self.headers {
            flags = flags.with(AttrFlags::HEADERS);
            if h.get("CC").is_some() || h.get("BCC").is_some() {
                flags = flags.with(AttrFlags::SENDER_SELECTED);
            }
        }
        Attrs { flags, priority: 0, expiration: self.expiration }
    }
}

/// A long string.
pub fn text(s: &str) -> Value {
    Value::LongStr(s.as_bytes().to_vec())
}

/// The properties' headers of a delivered message.
pub fn headers(d: &Delivery) -> Table {
    let Body::Mem { batch, from } = &d.body else { panic!("not in memory") };
    waypost_model::props::Props(batch.props(*from)).headers().unwrap().unwrap_or_default()
}

/// The body of the first message of a delivery.
pub fn body(d: &Delivery) -> String {
    let Body::Mem { batch, from } = &d.body else { panic!("not in memory") };
    String::from_utf8_lossy(batch.body(*from)).into_owned()
}

impl Client {
    pub fn turn(&mut self, commands: Vec<Command>) {
        let broker = Arc::clone(&self.broker);
        broker.execute(&mut self.conn, &mut Turn { batch: None, commands }, self.now);
    }

    pub fn call(&mut self, channel: u16, call: Call) {
        self.token += 1;
        let token = self.token;
        self.turn(vec![Command::Call { channel: ChannelId(channel), token, call }]);
    }

    /// The events so far.
    pub fn events(&mut self) -> Vec<Event> {
        self.outbox.drain(&mut self.events, None);
        self.events.drain(..).collect()
    }

    pub fn expect_done(&mut self, n: usize) {
        let events = self.events();
        let done = events.iter().filter(|e| matches!(e, Event::Reply { .. })).count();
        assert_eq!((done, events.len()), (n, n), "{events:?}");
    }

    /// The refusal that must have come, alone or behind others.
    pub fn refusal(&mut self) -> waypost_model::Refusal {
        let events = self.events();
        match events
            .iter()
            .find_map(|e| if let Event::Refused { refusal, .. } = e { Some(refusal.clone()) } else { None })
        {
            Some(r) => r,
            None => panic!("no refusal: {events:?}"),
        }
    }

    pub fn queue(&mut self, name: &str, arguments: Table) {
        self.declare(name, true, false, false, arguments);
        self.expect_done(1);
    }

    pub fn declare(&mut self, name: &str, durable: bool, exclusive: bool, auto_delete: bool, arguments: Table) {
        let d = QueueDeclare { name: name.into(), passive: false, durable, exclusive, auto_delete, arguments };
        self.call(1, Call::QueueDeclare(d));
    }

    pub fn exchange(&mut self, name: &str, kind: &str, arguments: Table) {
        let (name, kind) = (name.into(), kind.into());
        let d = ExchangeDeclare {
            name,
            kind,
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments,
        };
        self.call(1, Call::ExchangeDeclare(d));
        self.expect_done(1);
    }

    pub fn bind(&mut self, source: &str, queue: &str, key: &str) {
        self.call(
            1,
            Call::Bind(Binding {
                source: source.into(),
                destination: Destination::Queue(queue.into()),
                routing_key: key.as_bytes().into(),
                arguments: Table::new(),
            }),
        );
        self.expect_done(1);
    }

    pub fn publishing(&mut self, exchange: &str, key: &str, messages: &[Message], confirmed: bool) -> Command {
        let mut batch = BatchBuilder::default();
        messages.iter().for_each(|m| batch.push(&m.props(), &m.body));
        let n = messages.len() as u32;
        if confirmed {
            self.published += u64::from(n);
        }
        Command::Publish(Publish {
            channel: ChannelId(1),
            route: Arc::new(Route::new(exchange, key)),
            batch: Some(Arc::new(batch.finish())),
            from: 0,
            to: n,
            attrs: messages[0].attrs(),
            mandatory: messages[0].mandatory,
            confirm: confirmed.then_some(self.published),
        })
    }

    pub fn publish(&mut self, exchange: &str, key: &str, m: Message) {
        let p = self.publishing(exchange, key, &[m], false);
        self.turn(vec![p]);
    }

    pub fn publish_confirmed(&mut self, exchange: &str, key: &str, messages: &[Message]) {
        let p = self.publishing(exchange, key, messages, true);
        self.turn(vec![p]);
    }

    pub fn consume_with(&mut self, channel: u16, queue: &str, no_ack: bool, arguments: Table) {
        let (queue, tag) = (queue.into(), "tag".into());
        self.call(
            channel,
            Call::Consume(Consume { queue, tag, no_ack, exclusive: false, arguments, window_bytes: 1 << 20 }),
        );
    }

    pub fn consume(&mut self, queue: &str) {
        self.consume_with(1, queue, false, Table::new());
    }

    /// Deliveries among the events so far.
    pub fn deliveries(&mut self) -> Vec<Delivery> {
        self.events().into_iter().filter_map(|e| if let Event::Deliver(d) = e { Some(d) } else { None }).collect()
    }

    pub fn bodies(&mut self) -> Vec<String> {
        self.deliveries().iter().map(body).collect()
    }

    pub fn settlement(d: &Delivery, outcome: Outcome) -> Command {
        let Delivery { channel, queue, consumer, first, count, .. } = *d;
        Command::Settle(Settle { channel, queue, consumer, first, count, outcome })
    }

    pub fn settle(&mut self, d: &Delivery, outcome: Outcome) {
        self.turn(vec![Client::settlement(d, outcome)]);
    }

    pub fn sent(&mut self, d: &Delivery) {
        self.turn(vec![Command::Sent(Sent { consumer: d.consumer, queue: d.queue, messages: d.count, bytes: d.cost })]);
    }

    pub fn get(&mut self, queue: &str, no_ack: bool) -> Option<(Delivery, Option<Lsn>)> {
        self.call(1, Call::Get { queue: queue.into(), no_ack });
        self.events().into_iter().find_map(|e| match e {
            Event::Reply { reply: Reply::Got { delivery, .. }, after, .. } => Some((delivery, after)),
            _ => None,
        })
    }

    pub fn disconnect(self) {
        self.broker.disconnect(self.conn, self.now);
    }
}
