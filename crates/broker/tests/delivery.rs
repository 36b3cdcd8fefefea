//! Rules of publishing, confirming and delivering, seen from outside the broker.

mod support;

use support::{Node, message, text};
use waypost_broker::broker::Alarm;
use waypost_model::command::Outcome;
use waypost_model::table::{Table, Value};
use waypost_model::{Call, Event, Reply};

#[test]
fn what_is_published_is_delivered_in_order() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new());
    c.consume("q");
    for n in 0..5 {
        c.publish("", "q", message(&n.to_string()));
    }
    assert_eq!(c.bodies(), ["0", "1", "2", "3", "4"]);
}

#[test]
fn persistent_messages_wait_for_the_disk_and_confirms_name_their_ticket() {
    let node = Node::lazy();
    let mut c = node.client();
    c.declare("q", true, false, false, Table::new());
    c.events();
    node.sync();
    c.consume("q");
    c.events();
    c.publish_confirmed("", "q", &[message("a").persistent(), message("b").persistent()]);
    let events = c.events();
    assert!(
        matches!(&events[..], [Event::Accepted { first: 1, last: 2, lsn: Some(lsn), .. }] if *lsn > node.broker.durable()),
        "{events:?}"
    );
    node.sync();
    assert_eq!(c.deliveries().iter().map(|d| d.count).sum::<u32>(), 2);
}

#[test]
fn transient_messages_behind_a_persistent_one_keep_their_place() {
    let node = Node::lazy();
    let mut c = node.client();
    c.declare("q", true, false, false, Table::new());
    node.sync();
    c.consume("q");
    c.events();
    c.publish("", "q", message("first").persistent());
    c.publish("", "q", message("second"));
    assert_eq!(c.bodies(), Vec::<String>::new());
    node.sync();
    assert_eq!(c.bodies(), ["first", "second"]);
}

#[test]
fn a_return_comes_before_its_confirm() {
    let node = Node::new();
    let mut c = node.client();
    c.publish_confirmed("", "nowhere", &[message("x").mandatory()]);
    let events = c.events();
    assert!(
        matches!(&events[..], [Event::Returned { .. }, Event::Accepted { first: 1, last: 1, lsn: None, .. }]),
        "{events:?}"
    );
}

#[test]
fn the_alternate_exchange_takes_what_nobody_else_does() {
    let node = Node::new();
    let mut c = node.client();
    c.exchange("spare", "fanout", Table::new());
    c.exchange("main", "direct", Table::new().with("alternate-exchange", text("spare")));
    c.queue("q", Table::new());
    c.queue("rest", Table::new());
    c.bind("main", "q", "known");
    c.bind("spare", "rest", "");
    c.publish_confirmed("main", "known", &[message("a").mandatory()]);
    c.publish_confirmed("main", "unknown", &[message("b").mandatory()]);
    assert!(!c.events().iter().any(|e| matches!(e, Event::Returned { .. })));
    assert_eq!((node.ready("q"), node.ready("rest")), (1, 1));
}

#[test]
fn cc_and_bcc_add_routes_and_bcc_is_not_seen() {
    let node = Node::new();
    let mut c = node.client();
    for q in ["a", "b", "c"] {
        c.queue(q, Table::new());
    }
    let keys = |k: &str| Value::Array(vec![text(k)]);
    c.publish("", "a", message("x").header("CC", keys("b")).header("BCC", keys("c")));
    for q in ["a", "b", "c"] {
        let (d, _) = c.get(q, true).unwrap();
        let h = support::headers(&d);
        assert!(h.get("CC").is_some() && h.get("BCC").is_none(), "{q}: {h:?}");
    }
}

#[test]
fn a_refused_channel_ignores_what_was_pipelined_until_it_is_closed() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new());
    let bad = c.publishing("no such exchange", "", &[message("lost")], false);
    let good = c.publishing("", "q", &[message("ignored")], false);
    c.turn(vec![bad, good]);
    assert_eq!(c.refusal().kind.code(), 404);
    assert_eq!(node.ready("q"), 0);
    c.call(1, Call::QueuePurge { queue: "q".into() });
    assert!(c.events().is_empty());
    c.call(1, Call::CloseChannel);
    c.events();
    c.call(1, Call::OpenChannel);
    c.expect_done(1);
    c.publish("", "q", message("taken"));
    assert_eq!(node.ready("q"), 1);
}

#[test]
fn publishers_are_told_of_alarms_and_others_are_not() {
    let node = Node::new();
    let (mut publisher, mut other) = (node.client(), node.client());
    publisher.publish("", "nowhere", message("x"));
    node.broker.set_alarm(Alarm { memory: true, disk: false });
    assert!(matches!(&publisher.events()[..], [Event::Blocked { reason }] if &**reason == "low on memory"));
    assert!(other.events().is_empty());
    other.publish("", "nowhere", message("x"));
    assert!(matches!(&other.events()[..], [Event::Blocked { .. }]));
    node.broker.set_alarm(Alarm::default());
    assert!(matches!(&publisher.events()[..], [Event::Unblocked]));
    assert!(matches!(&other.events()[..], [Event::Unblocked]));
}

#[test]
fn a_stored_message_is_got_with_its_body_after_a_restart() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new());
    c.publish("", "q", message("kept").persistent());
    c.publish("", "q", message("lost"));
    let node = node.restart(false);
    assert_eq!(node.ready("q"), 1);
    let mut c = node.client();
    let (d, after) = c.get("q", true).unwrap();
    assert!(d.redelivered && after.is_none());
    assert_eq!(support::body(&d), "kept");
    assert_eq!(node.journal.live(), 0);
    assert!(c.get("q", true).is_none());
}

#[test]
fn a_clean_restart_flags_what_a_consumer_gave_back_and_nothing_else() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new());
    c.publish("", "q", message("seen").persistent());
    c.publish("", "q", message("new").persistent());
    c.get("q", false).unwrap();
    c.disconnect();
    let node = node.restart(true);
    let mut c = node.client();
    let got: Vec<bool> = (0..2).map(|_| c.get("q", true).unwrap().0.redelivered).collect();
    assert_eq!(got, [true, false]);
}

#[test]
fn places_go_on_after_a_restart() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new());
    c.publish("", "q", message("a").persistent());
    c.get("q", true).unwrap();
    let node = node.restart(false);
    let mut c = node.client();
    c.publish("", "q", message("b").persistent());
    assert_eq!(c.get("q", true).unwrap().0.first.0, 1);
}

#[test]
fn a_get_of_what_is_not_durable_says_what_to_wait_for() {
    let node = Node::lazy();
    let mut c = node.client();
    c.declare("q", true, false, false, Table::new());
    node.sync();
    c.events();
    c.publish("", "q", message("x").persistent());
    let (_, after) = c.get("q", false).unwrap();
    assert!(after.is_some_and(|lsn| lsn > node.broker.durable()));
}

#[test]
fn direct_replies_go_to_the_asker_and_end_with_it() {
    let node = Node::new();
    let (mut asker, mut server) = (node.client(), node.client());
    asker.consume_with(1, "amq.rabbitmq.reply-to", true, Table::new());
    let events = asker.events();
    let [Event::Reply { reply: Reply::Consuming { reply_to: Some(to), .. }, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    server.publish("", to, message("answer").mandatory());
    assert_eq!(asker.bodies(), ["answer"]);
    assert!(server.events().is_empty());
    let to = to.clone();
    asker.disconnect();
    server.publish("", &to, message("late").mandatory());
    assert!(matches!(&server.events()[..], [Event::Returned { .. }]));
}

#[test]
fn channel_credit_that_a_deleted_queue_held_serves_the_other_consumers() {
    let node = Node::new();
    let (mut c, mut other) = (node.client(), node.client());
    c.queue("a", Table::new());
    c.queue("b", Table::new());
    c.call(1, Call::Qos { prefetch_count: 1, global: true });
    c.consume("a");
    c.consume("b");
    c.events();
    other.publish("", "a", message("holds the credit"));
    assert_eq!(c.bodies(), ["holds the credit"]);
    other.publish("", "b", message("waits"));
    assert!(c.bodies().is_empty());
    other.call(1, Call::QueueDelete { queue: "a".into(), if_unused: false, if_empty: false });
    assert_eq!(c.bodies(), ["waits"]);
}

#[test]
fn channel_credit_that_comes_back_by_a_timeout_serves_the_other_consumers() {
    let mut node = Node::new();
    let mut c = node.client();
    c.queue("a", Table::new().with("x-consumer-timeout", Value::I64(60_000)));
    c.queue("b", Table::new());
    c.call(1, Call::Qos { prefetch_count: 1, global: true });
    c.consume("a");
    c.consume("b");
    c.publish("", "a", message("held for too long"));
    c.publish("", "b", message("waits"));
    assert_eq!(c.bodies(), ["held for too long"]);
    node.pass(70_000);
    assert_eq!(c.bodies(), ["waits"]);
}

#[test]
fn messages_return_to_their_place_and_are_flagged() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new());
    for body in ["a", "b", "c"] {
        c.publish("", "q", message(body));
    }
    let (a, _) = c.get("q", false).unwrap();
    let (b, _) = c.get("q", false).unwrap();
    c.settle(&b, Outcome::Released);
    c.settle(&a, Outcome::Released);
    let got: Vec<_> = (0..3).map(|_| c.get("q", true).unwrap().0).map(|d| (support::body(&d), d.redelivered)).collect();
    assert_eq!(got, [("a".into(), true), ("b".into(), true), ("c".into(), false)]);
}

#[test]
fn what_never_left_for_the_socket_returns() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new());
    let mut gone = node.client();
    gone.consume_with(1, "q", true, Table::new());
    gone.events();
    c.publish("", "q", message("a"));
    c.publish("", "q", message("b"));
    let d = gone.deliveries();
    gone.sent(&d[0]);
    gone.disconnect();
    assert_eq!(node.ready("q"), 1);
    assert_eq!(support::body(&c.get("q", true).unwrap().0), "b");
}

#[test]
fn what_a_lost_connection_gives_back_is_not_delivered_to_its_other_channels() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new().with("x-single-active-consumer", Value::Bool(true)));
    c.publish("", "q", message("a"));
    c.publish("", "q", message("b"));
    let mut gone = node.client();
    gone.call(2, Call::OpenChannel);
    for channel in [1, 2] {
        gone.call(channel, Call::Qos { prefetch_count: 1, global: false });
        gone.consume_with(channel, "q", false, Table::new());
    }
    assert_eq!(gone.bodies(), ["a"]);
    gone.disconnect();
    let got: Vec<_> = (0..2).map(|_| c.get("q", true).unwrap().0).map(|d| (support::body(&d), d.redelivered)).collect();
    assert_eq!(got, [("a".into(), true), ("b".into(), false)]);
}

#[test]
fn a_clean_stop_does_not_forget_what_a_crash_left_in_doubt() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new());
    for body in ["a", "b"] {
        c.publish("", "q", message(body).persistent());
    }
    let mut node = node.restart(false);
    node.client().publish("", "q", message("c").persistent());
    for _ in 0..2 {
        node = node.restart(true);
        let mut c = node.client();
        let got = (0..3).map(|_| c.get("q", false).unwrap().0.redelivered);
        assert_eq!(got.collect::<Vec<_>>(), [true, true, false]);
    }
}

#[test]
fn consumers_that_come_and_go_leave_nothing_behind() {
    let node = Node::new();
    let mut c = node.client();
    for round in 0..500 {
        let queue = format!("q{round}");
        c.queue(&queue, Table::new());
        c.publish("", &queue, message("x"));
        c.consume(&queue);
        let held = c.deliveries();
        if round % 2 == 0 {
            c.call(1, Call::Cancel { consumer: held[0].consumer });
            c.settle(&held[0], Outcome::Accepted);
        } else {
            c.call(1, Call::QueueDelete { queue: queue.into(), if_unused: false, if_empty: false });
        }
        c.events();
    }
    assert!(c.conn.consumers() < 130, "{} are remembered", c.conn.consumers());
}
