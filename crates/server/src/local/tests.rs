//! Local clients against a broker over the real engine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use waypost_broker::broker::admin::Actor;
use waypost_broker::broker::{Broker, BrokerConfig};
use waypost_model::command::{Outcome, QueueDeclare};
use waypost_model::props::{PropsOwned, ShortStr};
use waypost_model::table::{Table, Value};
use waypost_model::{RefusalKind, Route};
use waypost_storage::{Engine, EngineConfig, RealDisk};

use super::*;

struct World {
    local: Local,
    broker: Arc<Broker>,
    engine: Arc<Engine>,
    publishers: Arc<Publishers>,
    _dir: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.engine.close();
    }
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open_or_create(dir.path()).unwrap();
    let config = EngineConfig { disk_free_min: 0, ..EngineConfig::default() };
    let (engine, recovered) = Engine::open(Arc::new(disk), config).unwrap();
    let engine = Arc::new(engine);
    let clock = Clock::start();
    let config = BrokerConfig { memory_budget_bytes: 1 << 20, seed: [7; 32] };
    let broker = Broker::open(config, engine.clone(), engine.clone(), recovered, clock.now()).unwrap();
    let broker = Arc::new(broker);
    engine
        .start_committer({
            let broker = Arc::downgrade(&broker);
            move |_| {
                if let Some(broker) = broker.upgrade() {
                    broker.advance(clock.now());
                }
            }
        })
        .unwrap();
    let core = Arc::new(BrokerCore::new(Arc::clone(&broker), engine.clone()));
    let local = Local::new(core, clock);
    let publishers = Arc::new(Publishers::new(local.clone()));
    World { local, broker, engine, publishers, _dir: dir }
}

impl World {
    fn queue(&self, name: &str, arguments: Table) {
        let declare = QueueDeclare {
            name: name.into(),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments,
        };
        self.broker.put_queue(Actor::Operator, "/", &declare, self.local.clock.now()).unwrap();
    }

    fn publish(&self, queue: &str, message: &Message) -> Posted {
        self.publishers.publish("/", &Arc::new(Route::new("", queue)), message, true).unwrap()
    }

    fn subscribe(&self, queue: &str, prefetch: u16, window_bytes: u64) -> Subscriber {
        let terms = Terms {
            queue: queue.into(),
            tag: "t".into(),
            no_ack: false,
            prefetch,
            window_bytes,
            arguments: Table::new(),
        };
        Subscriber::start(&self.local, Actor::Operator, "/", &terms).unwrap()
    }
}

fn message(body: &str) -> Message {
    let props = PropsOwned { delivery_mode: Some(2), ..PropsOwned::default() };
    Message { props, body: Bytes::from(body.to_owned()) }
}

async fn take(subscriber: &mut Subscriber) -> Received {
    match tokio::time::timeout(Duration::from_secs(10), subscriber.next()).await {
        Ok(Incoming::Message(received)) => received,
        other => panic!("no message: {other:?}"),
    }
}

async fn nothing(subscriber: &mut Subscriber) {
    let next = tokio::time::timeout(Duration::from_millis(50), subscriber.next()).await;
    assert!(next.is_err(), "{next:?}");
}

#[tokio::test]
async fn what_becomes_of_a_message_is_known_at_once() {
    let w = world();
    w.queue("q", Table::new().with("x-max-length", Value::I32(1)).with("x-overflow", Value::from("reject-publish")));
    assert!(matches!(w.publish("q", &message("1")), Posted::Taken(Some(_))));
    assert_eq!(w.publish("q", &message("2")), Posted::Full);
    assert_eq!(w.publish("nobody", &message("3")), Posted::Unroutable);
    let refusal = w.publishers.publish("/", &Arc::new(Route::new("missing", "")), &message("4"), false).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NotFound);
    let refusal = w.publishers.publish("nowhere", &Arc::new(Route::new("", "q")), &message("5"), false).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NotFound);
    assert_eq!(w.publish("q", &message("6")), Posted::Full, "a refusal harms nobody else");
    assert!(w.broker.connections().is_empty(), "they are in no list");
}

#[tokio::test]
async fn prefetch_and_settlement() {
    let w = world();
    w.queue("q", Table::new());
    let mut s = w.subscribe("q", 2, 1 << 20);
    for body in ["a", "b", "c"] {
        w.publish("q", &message(body));
    }
    let (a, b) = (take(&mut s).await, take(&mut s).await);
    assert_eq!((a.body(), b.body()), (&b"a"[..], &b"b"[..]));
    nothing(&mut s).await;
    s.settle(b.receipt, Outcome::Accepted);
    assert_eq!(take(&mut s).await.body(), b"c");
    s.settle(a.receipt, Outcome::Released);
    let again = take(&mut s).await;
    assert_eq!((again.body(), again.redelivered), (&b"a"[..], true));
    drop(s);
    let mut s = w.subscribe("q", 0, 1 << 20);
    assert_eq!((take(&mut s).await.body_bytes(), take(&mut s).await.body_bytes()), ("a".into(), "c".into()));
}

#[tokio::test]
async fn the_window_bounds_bytes_and_nothing_leaks() {
    let w = world();
    w.queue("q", Table::new());
    let large = "x".repeat(10_000);
    for _ in 0..50 {
        w.publish("q", &message(&large));
    }
    let mut s = w.subscribe("q", 0, 20_000);
    let (a, b) = (take(&mut s).await, take(&mut s).await);
    nothing(&mut s).await;
    s.settle(a.receipt, Outcome::Accepted);
    s.settle(b.receipt, Outcome::Accepted);
    // Each credit comes back in full: otherwise it would run dry on the way.
    for _ in 2..50 {
        let next = take(&mut s).await;
        s.settle(next.receipt, Outcome::Accepted);
    }
}

#[tokio::test]
async fn what_lives_on_disk_is_loaded() {
    let w = world();
    w.queue("q", Table::new());
    let body = |i: usize| format!("{i}").repeat(50_000);
    // More than the queue may hold in memory.
    for i in 0..60 {
        w.publish("q", &message(&body(i)));
    }
    let mut s = w.subscribe("q", 0, 1 << 30);
    for i in 0..60 {
        assert_eq!(take(&mut s).await.body(), body(i).as_bytes(), "{i}");
    }
}

#[tokio::test]
async fn a_deleted_queue_ends_its_subscriber() {
    let w = world();
    w.queue("q", Table::new());
    let mut s = w.subscribe("q", 0, 1000);
    w.broker.delete_queue_of(Actor::Operator, "/", "q", false, false, w.local.clock.now()).unwrap();
    let over = tokio::time::timeout(Duration::from_secs(5), s.next()).await.unwrap();
    assert!(matches!(over, Incoming::Over(_)), "{over:?}");
}

fn answer_to(request: &Received, body: &str) -> (Arc<Route>, Message) {
    let props = request.props();
    let correlation_id = props.correlation_id().and_then(ShortStr::new);
    let message =
        Message { props: PropsOwned { correlation_id, ..PropsOwned::default() }, body: Bytes::from(body.to_owned()) };
    (Arc::new(Route::new("", props.reply_to().unwrap())), message)
}

#[tokio::test]
async fn requests_find_their_answers() {
    let w = world();
    w.queue("q", Table::new());
    let requests = Requests::new(w.local.clone(), Arc::clone(&w.publishers));
    let to = Arc::new(Route::new("", "q"));
    let first = requests.ask("/", &to, message("1"), true).unwrap();
    let second = requests.ask("/", &to, message("2"), true).unwrap();
    let mut s = w.subscribe("q", 0, 1 << 20);
    let (r1, r2) = (take(&mut s).await, take(&mut s).await);
    // In the other order, and once more for one that has its answer.
    for (request, body) in [(&r2, "two"), (&r1, "one"), (&r1, "again")] {
        let (route, answer) = answer_to(request, body);
        assert_eq!(w.publishers.publish("/", &route, &answer, true).unwrap(), Posted::Taken(None));
    }
    let wait = Duration::from_secs(10);
    assert_eq!(first.answer(wait).await.unwrap().body(), b"one");
    assert_eq!(second.answer(wait).await.unwrap().body(), b"two");
}

#[tokio::test]
async fn requests_give_up_and_leave_nothing() {
    let w = world();
    w.queue("q", Table::new());
    let requests = Requests::new(w.local.clone(), Arc::clone(&w.publishers));
    let nobody = Arc::new(Route::new("", "nobody"));
    assert!(matches!(requests.ask("/", &nobody, message("1"), true), Err(AskError::Unroutable)));
    let to = Arc::new(Route::new("", "q"));
    let mut own = message("2");
    own.props.correlation_id = ShortStr::new("mine");
    let asked = requests.ask("/", &to, own.clone(), true).unwrap();
    assert_eq!(asked.correlation().as_str(), Some("mine"));
    assert!(matches!(requests.ask("/", &to, own.clone(), true), Err(AskError::Twice)));
    assert!(asked.answer(Duration::from_millis(20)).await.is_none());
    let asked = requests.ask("/", &to, own, true).unwrap();
    requests.close();
    assert!(asked.answer(Duration::from_secs(10)).await.is_none(), "told at once");
}
