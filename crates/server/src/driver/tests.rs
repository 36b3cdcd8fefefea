//! The driver with a toy session and a toy core, over real sockets.
//!
//! The toy protocol: a line `p` publishes, `c` consumes, `x` closes, `s` says `hello`. What the core delivers is written
//! as it is.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use waypost_model::command::Consume;
use waypost_model::journal::{BodyStore, Loaded, SpillRef};
use waypost_model::table::Table;
use waypost_model::{
    Attrs, Batch, Body, Call, ChannelId, Command, ConsumerId, Delivery, Publish, QueueId, Reply, Route, Seq,
};

use super::*;

struct Toy {
    state: SessionState,
    published: bool,
    deadline: Option<Millis>,
}

impl Session for Toy {
    fn receive(&mut self, input: &mut ReadBuf, _: Millis, turn: &mut Turn, out: &mut Transmit) {
        self.state = SessionState::Open;
        while let Some(n) = input.unread().iter().position(|b| *b == b'\n') {
            match input.unread()[0] {
                b'p' => {
                    self.published = true;
                    turn.commands.push(Command::Publish(Publish {
                        channel: ChannelId(1),
                        route: Arc::new(Route::default()),
                        batch: Some(Arc::new(Batch::single(&[0, 0], b"toy"))),
                        from: 0,
                        to: 1,
                        attrs: Attrs::default(),
                        mandatory: false,
                        confirm: None,
                    }));
                }
                b'c' => turn.commands.push(Command::Call {
                    channel: ChannelId(1),
                    token: 0,
                    call: Call::Consume(Consume {
                        queue: "q".into(),
                        tag: "t".into(),
                        no_ack: true,
                        exclusive: false,
                        arguments: Table::new(),
                        window_bytes: 0,
                    }),
                }),
                b'x' => {
                    out.buf().extend_from_slice(b"bye");
                    self.state = SessionState::Closed;
                }
                _ => out.buf().extend_from_slice(b"hello"),
            }
            input.consume(n + 1);
        }
        input.seal(&mut Vec::new()).unwrap();
    }

    fn handle(&mut self, event: Event, _: Millis, _: &mut Turn, out: &mut Transmit) {
        match event {
            Event::Deliver(Delivery { body: Body::Mem { batch, from }, count, .. }) => {
                (from..from + count).for_each(|i| out.splice(&batch, batch.body_range(i)));
            }
            Event::Reply { .. } => out.buf().extend_from_slice(b"done"),
            Event::Close { refusal } => {
                out.buf().extend_from_slice(refusal.text.as_bytes());
                self.state = SessionState::Closed;
            }
            other => panic!("not expected: {other:?}"),
        }
    }

    fn durable(&mut self, _: Lsn, _: &mut Transmit) {}
    fn waits_for(&self) -> Option<Lsn> {
        None
    }
    fn flush(&mut self, _: &mut Transmit) {}
    fn deadline(&self) -> Option<Millis> {
        self.deadline
    }
    fn on_deadline(&mut self, _: Millis, _: &mut Turn, out: &mut Transmit) {
        self.deadline = None;
        out.buf().extend_from_slice(b"tick");
    }
    fn state(&self) -> SessionState {
        self.state
    }
    fn has_published(&self) -> bool {
        self.published
    }
}

#[derive(Default)]
struct ToyCore {
    published: AtomicU64,
    windows: Mutex<Vec<u64>>,
    sent: Mutex<Vec<Sent>>,
    disconnected: AtomicBool,
    durable: AtomicU64,
    paused: AtomicBool,
    store: Option<Arc<dyn BodyStore>>,
}

impl Core for ToyCore {
    type Conn = ();

    fn execute(&self, (): &mut (), turn: &mut Turn, _: Millis) {
        for command in turn.commands.drain(..) {
            match command {
                Command::Publish(_) => drop(self.published.fetch_add(1, Ordering::SeqCst)),
                Command::Sent(sent) => self.sent.lock().unwrap().push(sent),
                Command::Call { call: Call::Consume(c), .. } => self.windows.lock().unwrap().push(c.window_bytes),
                other => panic!("not expected: {other:?}"),
            }
        }
    }
    fn disconnect(&self, (): (), _: Millis) {
        self.disconnected.store(true, Ordering::SeqCst);
    }
    fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::SeqCst))
    }
    fn pressure(&self) -> Pressure {
        if self.paused.load(Ordering::SeqCst) { Pressure::Hard } else { Pressure::None }
    }
    fn ahead(&self, _: &mut Self::Conn) -> bool {
        false
    }
    fn spreads(&self, _: &Self::Conn) -> bool {
        false
    }
    fn bodies(&self) -> &Arc<dyn BodyStore> {
        self.store.as_ref().unwrap()
    }
}

/// Every place holds its own number; places from 100 on are damaged.
struct Numbers;

impl BodyStore for Numbers {
    fn load(&self, _: QueueId, first: Seq, _: u32) -> io::Result<Loaded> {
        if first.0 >= 100 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let batch = Arc::new(Batch::single(&[0, 0], first.0.to_string().as_bytes()));
        Ok(Loaded { batch, from: 0, to: 1 })
    }

    fn load_spilled(&self, _: SpillRef) -> io::Result<Arc<Batch>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

struct Pair {
    core: Arc<ToyCore>,
    outbox: Arc<Outbox>,
    peer: TcpStream,
    task: tokio::task::JoinHandle<End>,
}

async fn pair_with(core: ToyCore, deadline_ms: Option<u64>) -> Pair {
    let core = Arc::new(core);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let outbox = Arc::new(Outbox::default());
    let clock = Clock::start();
    let deadline = deadline_ms.map(|ms| clock.now().plus(ms));
    let toy = Toy { state: SessionState::Opening, published: false, deadline };
    let remote = socket.peer_addr().unwrap();
    let connection = Connection::new(Arc::clone(&core), (), toy, socket, remote, Arc::clone(&outbox), clock);
    Pair { core, outbox, peer, task: tokio::spawn(connection.run()) }
}

async fn pair() -> Pair {
    pair_with(ToyCore { store: Some(Arc::new(Numbers)), ..ToyCore::default() }, None).await
}

impl Pair {
    async fn say(&mut self, text: &str) {
        self.peer.write_all(text.as_bytes()).await.unwrap();
    }

    async fn hears(&mut self, text: &str) {
        let mut heard = vec![0; text.len()];
        let read = self.peer.read_exact(&mut heard);
        tokio::time::timeout(Duration::from_secs(5), read).await.expect("in time").unwrap();
        assert_eq!(String::from_utf8_lossy(&heard), text);
    }

    async fn hears_nothing(&mut self) {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(60), self.peer.read(&mut byte)).await;
        assert!(read.is_err(), "heard {byte:?}");
    }
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..1000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to be");
}

fn delivery(first: u64, count: u32, body: Body) -> Event {
    Event::Deliver(Delivery {
        channel: ChannelId(1),
        consumer: ConsumerId(1),
        queue: QueueId(1),
        first: Seq(first),
        count,
        route: Arc::new(Route::default()),
        body,
        redelivered: false,
        delivery_count: 0,
        cost: u64::from(count) * 67,
    })
}

fn in_memory(text: &[u8]) -> Body {
    Body::Mem { batch: Arc::new(Batch::single(&[0, 0], text)), from: 0 }
}

fn reply(after: Option<u64>) -> Event {
    Event::Reply { channel: ChannelId(1), token: 0, reply: Reply::Done, after: after.map(Lsn) }
}

#[tokio::test]
async fn frames_may_come_in_pieces() {
    let mut pair = pair().await;
    pair.say("s").await;
    pair.hears_nothing().await;
    pair.say("\np\np\ns\n").await;
    pair.hears("hellohello").await;
    assert_eq!(pair.core.published.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn credit_returns_when_bytes_have_left() {
    let mut pair = pair().await;
    pair.say("c\n").await;
    until(|| !pair.core.windows.lock().unwrap().is_empty()).await;
    assert_eq!(*pair.core.windows.lock().unwrap(), [credit::WINDOW_BYTES]);
    pair.outbox.push(delivery(0, 1, in_memory(b"one")));
    pair.hears("one").await;
    until(|| !pair.core.sent.lock().unwrap().is_empty()).await;
    let sent = pair.core.sent.lock().unwrap()[0];
    assert_eq!((sent.consumer, sent.messages, sent.bytes), (ConsumerId(1), 1, 67));
}

#[tokio::test]
async fn a_peer_that_does_not_read_gives_no_credit_back() {
    let pair = pair().await;
    let big = Arc::new(Batch::single(&[0, 0], &vec![b'x'; 1 << 20]));
    for n in 0..64 {
        pair.outbox.push(delivery(n, 1, Body::Mem { batch: Arc::clone(&big), from: 0 }));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let sent: u32 = pair.core.sent.lock().unwrap().iter().map(|s| s.messages).sum();
    assert!(sent < 32, "{sent} of 64 MiB cannot have left");
    drop(pair.peer);
    assert!(matches!(pair.task.await.unwrap(), End::Io(_) | End::PeerGone));
    assert!(pair.core.disconnected.load(Ordering::SeqCst));
}

#[tokio::test]
async fn answers_wait_for_the_journal_and_hold_back_what_follows() {
    let mut pair = pair().await;
    pair.outbox.push(reply(Some(3)));
    pair.outbox.push(delivery(0, 1, in_memory(b"after")));
    pair.hears_nothing().await;
    pair.core.durable.store(3, Ordering::SeqCst);
    pair.outbox.nudge();
    pair.hears("doneafter").await;
}

#[tokio::test]
async fn who_leaves_many_answers_waiting_is_not_read() {
    let mut pair = pair().await;
    let flood = UNWRITTEN_MAX / 128 + 10;
    (0..flood).for_each(|_| pair.outbox.push(reply(Some(3))));
    pair.hears_nothing().await;
    pair.say("p\n").await;
    // Another round.
    pair.outbox.nudge();
    pair.hears_nothing().await;
    assert_eq!(pair.core.published.load(Ordering::SeqCst), 0);
    pair.core.durable.store(3, Ordering::SeqCst);
    pair.outbox.nudge();
    pair.hears(&"done".repeat(flood)).await;
    until(|| pair.core.published.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn stored_bodies_keep_the_order() {
    let mut pair = pair().await;
    pair.outbox.push(delivery(7, 3, Body::Stored));
    pair.outbox.push(delivery(0, 1, in_memory(b"-")));
    pair.outbox.push(delivery(20, 2, Body::Stored));
    pair.hears("789-2021").await;
    until(|| pair.core.sent.lock().unwrap().iter().map(|s| s.messages).sum::<u32>() == 6).await;
    assert_eq!(pair.core.sent.lock().unwrap().iter().map(|s| s.bytes).sum::<u64>(), 6 * 67);
}

#[tokio::test]
async fn what_is_gone_is_skipped_and_what_is_damaged_closes() {
    let mut pair = pair().await;
    let at = SpillRef { segment: 0, offset: 0, len: 0 };
    pair.outbox.push(delivery(0, 1, Body::Spilled { at, skip: 0 }));
    pair.outbox.push(delivery(99, 2, Body::Stored));
    pair.outbox.push(delivery(0, 1, in_memory(b"never")));
    pair.hears("99stored messages cannot be read").await;
    drop(pair.peer);
    assert!(matches!(pair.task.await.unwrap(), End::Closed));
}

#[tokio::test]
async fn publishers_are_not_read_while_an_alarm_is_up() {
    let mut pair = pair().await;
    pair.say("p\n").await;
    until(|| pair.core.published.load(Ordering::SeqCst) == 1).await;
    pair.core.paused.store(true, Ordering::SeqCst);
    pair.say("p\n").await;
    // A read may have been under way.
    pair.say("p\ns\n").await;
    pair.hears_nothing().await;
    pair.outbox.push(delivery(0, 1, in_memory(b"still written")));
    pair.hears("still written").await;
    pair.core.paused.store(false, Ordering::SeqCst);
    pair.hears("hello").await;
    assert_eq!(pair.core.published.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn last_words_are_heard_though_more_was_sent() {
    let mut pair = pair().await;
    pair.say("x\n").await;
    let junk = vec![b'p'; 300_000];
    let _ = pair.peer.write_all(&junk).await;
    pair.hears("bye").await;
    drop(pair.peer);
    assert!(matches!(pair.task.await.unwrap(), End::Closed));
    assert!(pair.core.disconnected.load(Ordering::SeqCst));
}

#[tokio::test]
async fn deadlines_are_kept() {
    let mut pair = pair_with(ToyCore::default(), Some(200)).await;
    pair.hears_nothing().await;
    pair.hears("tick").await;
}

#[tokio::test]
async fn who_hangs_up_is_gone() {
    let pair = pair().await;
    drop(pair.peer);
    assert!(matches!(pair.task.await.unwrap(), End::PeerGone));
    assert!(pair.core.disconnected.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_stopped_task_leaves_nothing_behind() {
    let pair = pair().await;
    pair.task.abort();
    assert!(pair.task.await.unwrap_err().is_cancelled());
    assert!(pair.core.disconnected.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_flood_does_not_starve_others() {
    let mut flood = pair().await;
    let writer = tokio::spawn(async move {
        let line = [&[b'p'; 127][..], b"\n"].concat();
        let lines = line.repeat(512);
        while flood.peer.write_all(&lines).await.is_ok() {}
    });
    let mut other = pair().await;
    for _ in 0..100 {
        other.say("s\n").await;
        other.hears("hello").await;
    }
    writer.abort();
}
