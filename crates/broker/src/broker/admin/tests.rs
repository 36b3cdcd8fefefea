use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use waypost_model::command::{Binding, Destination, ExchangeDeclare, QueueDeclare};
use waypost_model::journal::{AppendError, BodyStore, Journal, Loaded, Op, Recovered, SpillRef};
use waypost_model::table::Table;
use waypost_model::{Batch, Call, ChannelId, Command, Event, Millis, Outbox, QueueId, RefusalKind, Seq, Turn};

use super::*;
use crate::broker::{BrokerConfig, Connection, PeerInfo};
use crate::topology::{ApplyTo, PermissionSpec, PolicySort, PolicySpec, UserLimits, VhostLimits, VhostMetadata};

const NOW: Millis = Millis(1_000);

/// A journal that remembers definitions and is durable at once.
#[derive(Default)]
struct Memory {
    last: AtomicU64,
    defined: Mutex<Vec<(Box<[u8]>, Option<Box<[u8]>>)>>,
}

impl Journal for Memory {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        let mut defined = self.defined.lock().unwrap();
        for op in ops {
            if let Op::Define { key, value } = op {
                defined.push((key, value));
            }
        }
        Ok(Lsn(self.last.fetch_add(1, Ordering::SeqCst) + 1))
    }

    fn reserve(&self) -> Lsn {
        Lsn(self.last.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn fill(&self, _: Lsn, ops: Vec<Op>) -> Result<(), AppendError> {
        self.append(ops).map(drop)
    }

    fn durable(&self) -> Lsn {
        Lsn(self.last.load(Ordering::SeqCst))
    }

    fn spill(&self, _: &Batch, _: u32, _: u32) -> std::io::Result<SpillRef> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn release_spill(&self, _: SpillRef) {}
}

impl BodyStore for Memory {
    fn load(&self, _: QueueId, _: Seq, _: u32) -> std::io::Result<Loaded> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn load_spilled(&self, _: SpillRef) -> std::io::Result<Arc<Batch>> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

fn open(journal: &Arc<Memory>) -> Broker {
    let mut latest = std::collections::BTreeMap::new();
    for (key, value) in journal.defined.lock().unwrap().iter().cloned() {
        match value {
            Some(value) => latest.insert(key, value),
            None => latest.remove(&key),
        };
    }
    let recovered = Recovered { definitions: latest.into_iter().collect(), clean: true, ..Recovered::default() };
    let config = BrokerConfig { memory_budget_bytes: 1 << 20, seed: [7; 32] };
    let (journal, bodies) = (Arc::clone(journal), Arc::clone(journal));
    Broker::open(config, journal, bodies, recovered, NOW).unwrap()
}

fn broker() -> Broker {
    open(&Arc::default())
}

fn queue(name: &str) -> QueueDeclare {
    QueueDeclare {
        name: name.into(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: Table::new(),
    }
}

fn exchange(name: &str) -> ExchangeDeclare {
    ExchangeDeclare {
        name: name.into(),
        kind: "topic".into(),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::new(),
    }
}

fn binding(key: &str) -> Binding {
    Binding {
        source: "x".into(),
        destination: Destination::Queue("q".into()),
        routing_key: key.as_bytes().into(),
        arguments: Table::new(),
    }
}

fn login(broker: &Broker) -> (Connection, Arc<Outbox>) {
    let outbox = Arc::new(Outbox::default());
    let info = PeerInfo {
        protocol: "amqp",
        remote: "127.0.0.1:1000".parse().unwrap(),
        local: "127.0.0.1:5672".parse().unwrap(),
        tls: false,
        certificate_name: None,
        loopback: true,
        default_vhost: "/".into(),
    };
    let mut conn = broker.connect(info, Arc::clone(&outbox), NOW);
    let authenticate = Call::Authenticate {
        mechanism: "PLAIN".into(),
        username: "guest".into(),
        password: b"guest".as_slice().into(),
    };
    for call in [authenticate, Call::OpenVhost { vhost: "/".into(), client_properties: Table::new() }] {
        let command = Command::Call { channel: ChannelId::CONNECTION, token: 0, call };
        broker.execute(&mut conn, &mut Turn { batch: None, commands: vec![command] }, NOW);
    }
    (conn, outbox)
}

fn closes(outbox: &Outbox) -> Vec<String> {
    let mut events = std::collections::VecDeque::new();
    outbox.drain(&mut events, None);
    let refusals = events.into_iter().filter_map(|e| match e {
        Event::Close { refusal } => Some(refusal.to_string()),
        _ => None,
    });
    refusals.collect()
}

#[test]
fn the_operator_needs_no_permissions_and_users_do() {
    let b = broker();
    let nobody = UserUpdate { password: NewPassword::Plain(b"pw"), tags: None, loopback_only: None };
    b.put_user("eve", &nobody, NOW).unwrap();
    let refused = b.put_queue(Actor::User("eve"), "/", &queue("q"), NOW).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::AccessRefused);
    b.put_queue(Actor::Operator, "/", &queue("q"), NOW).unwrap();
    let of_shop = PermissionSpec { configure: "^shop".into(), write: String::new(), read: String::new() };
    b.put_permission("eve", "/", &of_shop, NOW).unwrap();
    b.put_queue(Actor::User("eve"), "/", &queue("shop.q"), NOW).unwrap();
    assert!(b.purge_queue(Actor::User("eve"), "/", "q", NOW).is_err());
    assert_eq!(b.queues(Some("/")).unwrap().len(), 2);
}

#[test]
fn no_client_can_act_as_the_operator() {
    let b = broker();
    assert!(b.login("", b"", true).is_err());
    let update = UserUpdate { password: NewPassword::Plain(b"pw"), tags: None, loopback_only: None };
    assert!(b.put_user("", &update, NOW).is_err());
}

#[test]
fn definitions_are_listed_and_come_back_after_a_restart() {
    let journal = Arc::default();
    let b = open(&journal);
    let lsn = b.put_exchange(Actor::Operator, "/", &exchange("x"), NOW).unwrap();
    assert!(lsn.is_some_and(|lsn| lsn <= b.durable()));
    b.put_queue(Actor::Operator, "/", &queue("q"), NOW).unwrap();
    b.put_binding(Actor::Operator, "/", &binding("a.#"), NOW).unwrap();
    assert_eq!(b.put_queue(Actor::Operator, "/", &queue("q"), NOW).unwrap().1, None, "nothing changed");
    b.put_vhost("other", VhostMetadata::default(), NOW).unwrap();
    b.put_vhost_limits("other", VhostLimits { max_connections: Some(3), max_queues: None }, NOW).unwrap();
    drop(b);
    let b = open(&journal);
    assert_eq!(b.exchange("/", "x").unwrap().kind, "topic");
    assert_eq!(b.bindings_from("/", "x").unwrap().len(), 1);
    assert_eq!(b.bindings_to("/", &Destination::Queue("q".into())).unwrap().len(), 2);
    assert_eq!(b.queue("/", "q").unwrap().state.counts.ready, 0);
    assert_eq!(b.vhost("other").unwrap().limits.max_connections, Some(3));
    let all = b.overview();
    assert_eq!((all.vhosts, all.queues, all.bindings, all.users), (2, 1, 1, 1));
}

#[test]
fn what_is_not_there_is_404() {
    let b = broker();
    let kinds = [
        b.queues(Some("none")).map(drop),
        b.queue("/", "none").map(drop),
        b.exchange("/", "none").map(drop),
        b.delete_exchange(Actor::Operator, "/", "none", false, NOW).map(drop),
        b.delete_queue_of(Actor::Operator, "/", "none", false, false, NOW).map(drop),
        b.delete_queue_of(Actor::Operator, "none", "q", false, false, NOW).map(drop),
        b.purge_queue(Actor::Operator, "/", "none", NOW).map(drop),
        b.policy("/", "none", PolicySort::User).map(drop),
        b.user("none").map(drop),
        b.delete_user("none", NOW).map(drop),
        b.permission("guest", "none").map(drop),
        b.delete_permission("guest", "none", NOW).map(drop),
        b.vhost("none").map(drop),
        b.connection("none").map(drop),
        b.close_connection("none", "why"),
    ];
    for (i, result) in kinds.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().kind, RefusalKind::NotFound, "case {i}");
    }
    b.put_exchange(Actor::Operator, "/", &exchange("x"), NOW).unwrap();
    b.put_queue(Actor::Operator, "/", &queue("q"), NOW).unwrap();
    let unbound = b.delete_binding(Actor::Operator, "/", &binding("k"), NOW).unwrap_err();
    assert_eq!(unbound.kind, RefusalKind::NotFound);
}

#[test]
fn a_policy_applies_at_once() {
    let b = broker();
    b.put_queue(Actor::Operator, "/", &queue("logs.a"), NOW).unwrap();
    let spec = PolicySpec {
        pattern: "^logs".into(),
        apply_to: ApplyTo::Queues,
        priority: 0,
        definition: Table::new().with("max-length", 10),
    };
    b.put_policy("/", "capped", &spec, PolicySort::User, NOW).unwrap();
    let report = b.queue("/", "logs.a").unwrap();
    assert_eq!(report.view.settings.max_length, Some(10));
    assert_eq!(report.view.policy.as_deref(), Some("capped"));
    assert!(b.effective_policy("/", "logs.a").get("max-length").is_some());
    b.delete_policy("/", "capped", PolicySort::User, NOW).unwrap();
    assert_eq!(b.queue("/", "logs.a").unwrap().view.settings.max_length, None);
}

#[test]
fn passwords_are_kept_replaced_and_taken_away() {
    let b = broker();
    let update = |password| UserUpdate { password, tags: Some(vec!["monitoring".into()]), loopback_only: None };
    assert!(b.put_user("ann", &update(NewPassword::Keep), NOW).is_err(), "new, without a password");
    b.put_user("ann", &update(NewPassword::Plain(b"one")), NOW).unwrap();
    b.put_user_limits("ann", UserLimits { max_connections: Some(1), max_channels: None }, NOW).unwrap();
    b.put_user("ann", &update(NewPassword::Keep), NOW).unwrap();
    assert_eq!(b.login("ann", b"one", false).unwrap().limits.max_connections, Some(1));
    let hash = b.hash_password(b"two", NOW).unwrap();
    b.put_user("ann", &update(NewPassword::Hash(hash)), NOW).unwrap();
    assert!(b.login("ann", b"one", true).is_err() && b.login("ann", b"two", true).is_ok());
    b.put_user("ann", &update(NewPassword::Clear), NOW).unwrap();
    assert!(b.login("ann", b"two", true).is_err());
    assert_eq!(b.counters.authentication_failures.load(Ordering::Relaxed), 2);
}

#[test]
fn connections_are_listed_and_closed() {
    let b = broker();
    let (conn, outbox) = login(&b);
    let listed = b.connections();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].user.as_deref(), listed[0].vhost.as_deref()), (Some("guest"), Some("/")));
    b.close_connection(&listed[0].name, "CLOSED_VIA_TEST").unwrap();
    assert_eq!(closes(&outbox), ["CONNECTION_FORCED - CLOSED_VIA_TEST"]);
    b.delete_vhost("/", NOW).unwrap();
    assert_eq!(closes(&outbox), ["CONNECTION_FORCED - vhost '/' was deleted"]);
    b.delete_user("guest", NOW).unwrap();
    assert_eq!(closes(&outbox), ["CONNECTION_FORCED - user 'guest' was deleted"]);
    b.disconnect(conn, NOW);
    assert!(b.connections().is_empty());
}
