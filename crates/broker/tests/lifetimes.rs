//! Rules of how queues and messages end: dead letters, limits, owners, transactions.

mod support;

use std::sync::atomic::Ordering;

use support::{Client, Node, headers, message, text};
use waypost_model::command::{Command, Outcome};
use waypost_model::table::{Table, Value};
use waypost_model::{Call, Event};

fn dead_letters_to(key: &str) -> Table {
    Table::new().with("x-dead-letter-exchange", text("")).with("x-dead-letter-routing-key", text(key))
}

fn deaths(t: &Table) -> Vec<(String, String, i64)> {
    let get = |v: &Value, k: &str| v.as_table().and_then(|t| t.get(k)?.as_str().map(str::to_owned)).unwrap_or_default();
    let count = |v: &Value| v.as_table().and_then(|t| t.get("count")?.as_i64()).unwrap_or(0);
    let all = t.get("x-death").and_then(Value::as_array).unwrap_or_default();
    all.iter().map(|v| (get(v, "queue"), get(v, "reason"), count(v))).collect()
}

#[test]
fn a_rejected_message_dies_into_the_dead_letter_queue() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("q", dead_letters_to("dead"));
    c.queue("dead", Table::new());
    c.publish("", "q", message("x").persistent());
    let (d, _) = c.get("q", false).unwrap();
    c.settle(&d, Outcome::Rejected);
    let (dead, _) = c.get("dead", true).unwrap();
    assert_eq!(deaths(&headers(&dead)), [("q".into(), "rejected".into(), 1)]);
    assert_eq!(node.journal.live(), 0);
}

#[test]
fn a_retry_loop_counts_its_rounds() {
    let mut node = Node::new();
    let mut c = node.client();
    c.queue("work", dead_letters_to("retry"));
    c.queue("retry", dead_letters_to("work").with("x-message-ttl", Value::I64(100)));
    c.publish("", "work", message("x"));
    for round in 1..=3 {
        let (d, _) = c.get("work", false).unwrap();
        c.settle(&d, Outcome::Rejected);
        assert_eq!(node.ready("work"), 0);
        node.pass(100);
        assert_eq!((node.ready("work"), node.ready("retry")), (1, 0), "round {round}");
    }
    let (d, _) = c.get("work", true).unwrap();
    let deaths = deaths(&headers(&d));
    assert_eq!(deaths, [("retry".into(), "expired".into(), 3), ("work".into(), "rejected".into(), 3)]);
}

#[test]
fn a_circle_without_a_consumer_is_cut() {
    let mut node = Node::new();
    let mut c = node.client();
    c.queue("a", dead_letters_to("b").with("x-message-ttl", Value::I64(10)));
    c.queue("b", dead_letters_to("a").with("x-message-ttl", Value::I64(10)));
    c.publish("", "a", message("x"));
    node.pass(10);
    assert_eq!((node.ready("a"), node.ready("b")), (0, 1));
    node.pass(10);
    assert_eq!((node.ready("a"), node.ready("b")), (0, 0));
    assert_eq!(node.broker.counters.dead_letters_dropped.load(Ordering::Relaxed), 1);
}

#[test]
fn dead_letters_that_find_no_room_are_kept_and_tried_again() {
    let mut node = Node::new();
    let mut c = node.client();
    c.queue("q", dead_letters_to("dead"));
    c.queue("dead", Table::new());
    c.publish("", "q", message("x").persistent());
    let (d, _) = c.get("q", false).unwrap();
    node.journal.full.store(true, Ordering::SeqCst);
    c.settle(&d, Outcome::Rejected);
    assert_eq!((node.ready("dead"), node.journal.live()), (0, 1));
    node.journal.full.store(false, Ordering::SeqCst);
    node.pass(1000);
    assert_eq!((node.ready("dead"), node.journal.live()), (1, 1));
}

#[test]
fn limits_drop_the_oldest_or_refuse_the_newest() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("drop", dead_letters_to("dead").with("x-max-length", Value::I64(2)));
    c.queue("refuse", Table::new().with("x-max-length", Value::I64(2)).with("x-overflow", text("reject-publish")));
    c.queue("dead", Table::new());
    let three = [message("0"), message("1"), message("2")];
    c.publish_confirmed("", "drop", &three);
    assert!(matches!(&c.events()[..], [Event::Accepted { first: 1, last: 3, .. }]));
    assert_eq!(support::body(&c.get("drop", true).unwrap().0), "1");
    assert_eq!(deaths(&headers(&c.get("dead", true).unwrap().0)), [("drop".into(), "maxlen".into(), 1)]);
    c.publish_confirmed("", "refuse", &three);
    let events = c.events();
    assert!(
        matches!(&events[..], [Event::Accepted { first: 4, last: 5, .. }, Event::Rejected { first: 6, last: 6, .. }]),
        "{events:?}"
    );
}

#[test]
fn a_delivery_limit_ends_in_the_dead_letter_queue() {
    let node = Node::new();
    let mut c = node.client();
    let quorum = dead_letters_to("dead").with("x-queue-type", text("quorum")).with("x-delivery-limit", Value::I64(2));
    c.queue("q", quorum);
    c.queue("dead", Table::new());
    c.publish("", "q", message("x").persistent());
    let mut counts = Vec::new();
    while let Some((d, _)) = c.get("q", false) {
        counts.push(d.delivery_count);
        c.settle(&d, Outcome::Released);
    }
    assert_eq!(counts, [0, 1, 2]);
    assert_eq!(deaths(&headers(&c.get("dead", true).unwrap().0)), [("q".into(), "delivery_limit".into(), 1)]);
}

#[test]
fn messages_die_at_their_time_and_not_before() {
    let mut node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new());
    c.publish("", "q", message("x").expiring(100));
    node.pass(99);
    assert_eq!(node.ready("q"), 1);
    node.pass(1);
    assert_eq!(node.ready("q"), 0);
}

#[test]
fn an_exclusive_queue_is_its_connections_and_goes_with_it() {
    let node = Node::new();
    let (mut owner, mut other) = (node.client(), node.client());
    owner.declare("mine", false, true, false, Table::new());
    owner.expect_done(1);
    other.consume("mine");
    assert_eq!(other.refusal().kind.code(), 405);
    owner.publish("", "mine", message("x"));
    owner.disconnect();
    assert!(node.broker.queue("/", "mine").is_err());
    assert_eq!(node.broker.memory().used(), 0);
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let node = Node::new();
    let (mut a, mut b) = (node.client(), node.client());
    a.declare("q", false, false, true, Table::new());
    a.consume("q");
    b.consume("q");
    a.disconnect();
    assert!(node.broker.queue("/", "q").is_ok());
    b.disconnect();
    assert!(node.broker.queue("/", "q").is_err());
}

#[test]
fn an_idle_queue_expires_and_a_used_one_does_not() {
    let mut node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new().with("x-expires", Value::I64(1000)));
    c.now = node.now.plus(900);
    node.pass(900);
    c.get("q", true);
    node.pass(900);
    assert!(node.broker.queue("/", "q").is_ok());
    node.pass(100);
    assert!(node.broker.queue("/", "q").is_err());
}

#[test]
fn a_transaction_is_taken_as_a_whole() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("a", Table::new());
    c.queue("b", Table::new());
    c.publish("", "a", message("settled").persistent());
    let (d, _) = c.get("a", false).unwrap();
    let before = node.journal.appends();
    let commands = vec![
        c.publishing("", "a", &[message("1").persistent()], false),
        c.publishing("", "b", &[message("2").persistent()], false),
        Client::settlement(&d, Outcome::Accepted),
    ];
    c.call(1, Call::Commit(commands));
    c.expect_done(1);
    assert_eq!((node.ready("a"), node.ready("b"), node.journal.live()), (1, 1, 2));
    assert_eq!(node.journal.appends() - before, 1);
}

#[test]
fn a_transaction_is_refused_as_a_whole() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("a", Table::new());
    let publishes = |c: &mut Client, keys: [&str; 2]| -> Vec<Command> {
        keys.iter().map(|x| c.publishing(x, "a", &[message("1").persistent()], false)).collect()
    };
    let commands = publishes(&mut c, ["", "no such exchange"]);
    c.call(1, Call::Commit(commands));
    assert_eq!(c.refusal().kind.code(), 404);
    assert_eq!((node.ready("a"), node.journal.live()), (0, 0));
    let mut c = node.client();
    node.journal.full.store(true, Ordering::SeqCst);
    let commands = publishes(&mut c, ["", ""]);
    c.call(1, Call::Commit(commands));
    assert_eq!(c.refusal().kind.code(), 406);
    assert_eq!((node.ready("a"), node.journal.live()), (0, 0));
}

#[test]
fn a_full_disk_refuses_messages_and_lets_consumers_go_on() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new());
    c.publish("", "q", message("before").persistent());
    node.journal.full.store(true, Ordering::SeqCst);
    c.publish_confirmed("", "q", &[message("refused").persistent()]);
    assert!(matches!(&c.events()[..], [Event::Rejected { first: 1, last: 1, .. }]));
    let (d, _) = c.get("q", false).unwrap();
    c.settle(&d, Outcome::Accepted);
    assert_eq!(node.journal.live(), 0);
    node.journal.full.store(false, Ordering::SeqCst);
    c.publish_confirmed("", "q", &[message("again").persistent()]);
    assert!(matches!(&c.events()[..], [Event::Accepted { first: 2, last: 2, .. }]));
}

#[test]
fn delayed_messages_wait_and_survive_a_restart() {
    let node = Node::new();
    let mut c = node.client();
    c.exchange("later", "x-delayed-message", Table::new().with("x-delayed-type", text("direct")));
    c.queue("q", Table::new());
    c.bind("later", "q", "k");
    c.publish("later", "k", message("x").persistent().header("x-delay", Value::I32(500)));
    assert_eq!(node.ready("q"), 0);
    let mut node = node.restart(false);
    node.pass(499);
    assert_eq!(node.ready("q"), 0);
    node.pass(1);
    assert_eq!((node.ready("q"), node.journal.live()), (1, 1));
}
