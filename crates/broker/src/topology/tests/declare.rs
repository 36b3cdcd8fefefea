use waypost_model::RefusalKind;
use waypost_model::command::QueueDeclare;
use waypost_model::table::{Table, Value};

use super::*;
use crate::settings::{Overflow, QueueKind};

#[test]
fn redeclaring_compares_properties_and_arguments_with_rabbitmqs_texts() {
    let mut n = Node::new();
    n.queue("q", Table::new().with("x-message-ttl", 1000)).unwrap();
    n.queue("q", Table::new().with("x-message-ttl", 1000_i64)).unwrap();
    let text = |r: Result<QueueId, Refusal>| r.unwrap_err().to_string();
    assert_eq!(
        text(n.queue("q", Table::new().with("x-message-ttl", 5))),
        "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received '5' but current \
         is '1000'"
    );
    assert_eq!(
        text(n.queue("q", Table::new())),
        "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received none but current \
         is the value '1000' of type 'signedint'"
    );
    assert_eq!(
        text(n.declare(&QueueDeclare { durable: false, ..queue("q", Table::new()) })),
        "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is \
         'true'"
    );
    assert_eq!(
        text(n.queue("q", Table::new().with("x-queue-type", "quorum"))),
        "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received 'quorum' but \
         current is 'classic'"
    );
    let missing = n.t.find_declared("guest", "/", &QueueDeclare { passive: true, ..queue("no", Table::new()) }, ME);
    assert_eq!(missing.unwrap_err().to_string(), "NOT_FOUND - no queue 'no' in vhost '/'");
}

#[test]
fn queue_arguments_are_validated() {
    let mut n = Node::new();
    let mut refused = |key: &str, v: Value, why: &str| {
        let r = n.queue("q", Table::new().with(key, v)).unwrap_err();
        assert_eq!(r.kind, RefusalKind::PreconditionFailed);
        assert_eq!(r.text, format!("invalid arg '{key}' for queue 'q' in vhost '/': {why}"));
        assert!(!n.t.has_queue("/", "q"));
    };
    refused("x-message-ttl", "1".into(), "\"expected integer, got longstr\"");
    refused("x-message-ttl", (-1).into(), "{value_negative,-1}");
    refused("x-message-ttl", 315_360_000_001_i64.into(), "{value_too_large,315360000001}");
    refused("x-expires", 0.into(), "{value_zero,0}");
    refused("x-max-priority", 256.into(), "{max_value_exceeded,256}");
    refused("x-overflow", "nothing".into(), "invalid_overflow");
    refused("x-dead-letter-routing-key", "k".into(), "routing_key_but_no_dlx_defined");
    refused("x-single-active-consumer", 1.into(), "{unacceptable_type,signedint}");
    refused("x-queue-type", "jms".into(), "\"unsupported queue type 'jms'\"");
    refused("x-message-deduplication", true.into(), "\"this server does not have it\"");
    refused("x-delayed-retry-min", 1.into(), "\"this server does not have it\"");
    let hints = Table::new().with("x-queue-mode", "lazy").with("x-queue-version", 2).with("note", "kept");
    n.queue("q", hints.clone()).unwrap();
    assert_eq!(n.t.queue_view("/", "q").unwrap().arguments, hints);
}

#[test]
fn queue_types_bring_their_defaults() {
    let mut n = Node::new();
    let quorum = || Table::new().with("x-queue-type", "quorum");
    let id = n.queue("q", quorum()).unwrap();
    let s = n.t.queue(id).unwrap();
    assert_eq!((s.kind, s.delivery_limit, s.overflow), (QueueKind::Quorum, Some(20), Overflow::DropHead));
    let id = n.queue("unlimited", quorum().with("x-delivery-limit", -1)).unwrap();
    assert_eq!(n.t.queue(id).unwrap().delivery_limit, None);
    let transient = QueueDeclare { durable: false, ..queue("r", quorum()) };
    assert_eq!(n.declare(&transient).unwrap_err().text, "invalid property 'non-durable' for queue 'r' in vhost '/'");
    let exclusive = QueueDeclare { exclusive: true, ..queue("r", quorum()) };
    assert_eq!(
        n.declare(&exclusive).unwrap_err().text,
        "invalid property 'exclusive-owner' for queue 'r' in vhost '/'"
    );
}

#[test]
fn server_names_are_new_each_time_and_reserved_names_refused() {
    let mut n = Node::new();
    let a = n.queue("", Table::new()).unwrap();
    let b = n.queue("", Table::new()).unwrap();
    let name = n.t.queue_name(a).unwrap();
    assert_ne!(name, n.t.queue_name(b).unwrap());
    assert!(name.starts_with("amq.gen-") && name.len() == 8 + 22, "{name}");
    let r = n.queue(&name, Table::new()).unwrap_err();
    assert_eq!(r.to_string(), format!("ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'"));
    let r = n.exchange("amq.x", "direct", Table::new()).unwrap_err();
    assert_eq!(r.to_string(), "ACCESS_REFUSED - exchange name 'amq.x' contains reserved prefix 'amq.*'");
}

#[test]
fn exclusive_queues_are_locked_and_belong_to_their_connection() {
    let mut n = Node::new();
    let d = QueueDeclare { exclusive: true, ..queue("mine", Table::new()) };
    let id = n.declare(&d).unwrap();
    assert!(!n.t.queue(id).unwrap().durable);
    let r = n.t.find_declared("guest", "/", &d, OTHER).unwrap_err();
    assert_eq!(r.kind, RefusalKind::ResourceLocked);
    assert!(r.text.starts_with("cannot obtain exclusive access to locked queue 'mine' in vhost '/'. It could"));
    assert!(n.t.usable_queue("/", "mine", OTHER).is_err());
    assert_eq!((n.t.queues_of(ME), n.t.queues_of(OTHER)), (vec![id], vec![]));
    n.delete_queue(id);
    assert!(n.t.queues_of(ME).is_empty());
}

#[test]
fn exchanges_are_compared_protected_and_deleted() {
    let mut n = Node::new();
    n.exchange("x", "topic", Table::new()).unwrap();
    assert!(n.exchange("x", "topic", Table::new()).unwrap().is_empty());
    let text = |r: Result<Change, Refusal>| r.unwrap_err().to_string();
    assert_eq!(
        text(n.exchange("x", "fanout", Table::new())),
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x' in vhost '/': received 'fanout' but current \
         is 'topic'"
    );
    assert_eq!(text(n.exchange("y", "odd", Table::new())), "PRECONDITION_FAILED - invalid exchange type 'odd'");
    assert_eq!(
        text(n.exchange("", "direct", Table::new())),
        "ACCESS_REFUSED - operation not permitted on the default exchange"
    );
    assert_eq!(
        text(n.delete_exchange("amq.direct")),
        "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed"
    );
    assert_eq!(
        text(n.exchange("y", "direct", Table::new().with("alternate-exchange", 1))),
        "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange 'y' in vhost '/'"
    );
    n.queue("q", Table::new()).unwrap();
    n.bind("x", to_queue("q"), "k", Table::new()).unwrap();
    let r = n.t.delete_exchange("guest", "/", "x", true).unwrap_err();
    assert_eq!(r.to_string(), "PRECONDITION_FAILED - exchange 'x' in vhost '/' in use");
    n.delete_exchange("x").unwrap();
    n.delete_exchange("x").unwrap();
    assert_eq!(n.t.bindings("/").len(), 1, "only the queue's own name is left");
}

#[test]
fn auto_delete_exchanges_go_with_their_last_binding_and_take_others_along() {
    let mut n = Node::new();
    for name in ["a", "b"] {
        let mut d = exchange(name, "fanout", Table::new());
        d.auto_delete = true;
        let c = n.t.declare_exchange("guest", "/", &d).unwrap();
        n.keep(c);
    }
    let q = n.queue("q", Table::new()).unwrap();
    n.bind("a", to_exchange("b"), "", Table::new()).unwrap();
    n.bind("b", to_queue("q"), "", Table::new()).unwrap();
    assert_eq!(n.route("a", "k"), ["q"]);
    n.delete_queue(q);
    assert!(n.t.exchange_view("/", "a").is_none() && n.t.exchange_view("/", "b").is_none());
    assert_eq!(n.journal.len(), Node::new().journal.len() + 1, "only the reserved numbers stay");
}

#[test]
fn bindings_need_both_ends_and_sensible_arguments() {
    let mut n = Node::new();
    n.queue("q", Table::new()).unwrap();
    n.exchange("h", "headers", Table::new()).unwrap();
    n.exchange("c", "x-consistent-hash", Table::new()).unwrap();
    let mut text = |s: &str, d: Destination, k: &str, a: Table| n.bind(s, d, k, a).unwrap_err().to_string();
    assert_eq!(text("no", to_queue("q"), "", Table::new()), "NOT_FOUND - no exchange 'no' in vhost '/'");
    assert_eq!(text("h", to_queue("no"), "", Table::new()), "NOT_FOUND - no queue 'no' in vhost '/'");
    assert_eq!(
        text("", to_queue("q"), "", Table::new()),
        "ACCESS_REFUSED - operation not permitted on the default exchange"
    );
    assert!(text("h", to_queue("q"), "", Table::new().with("x-match", "some")).contains("Invalid x-match field value"));
    assert!(text("c", to_queue("q"), "heavy", Table::new()).contains("The binding key must be an integer"));
    assert!(text("c", to_queue("q"), "0", Table::new()).contains("The binding key must be greater than 0"));
    n.unbind("no", to_queue("no"), "", Table::new()).unwrap();
}

#[test]
fn limits_hold_for_new_queues_only() {
    let mut n = Node::new();
    let limits = crate::topology::VhostLimits { max_queues: Some(1), max_connections: None };
    let c = n.t.put_vhost_limits("/", limits).unwrap();
    n.keep(c);
    n.queue("a", Table::new()).unwrap();
    n.queue("a", Table::new()).unwrap();
    assert_eq!(
        n.queue("b", Table::new()).unwrap_err().to_string(),
        "PRECONDITION_FAILED - cannot declare queue 'b': queue limit in vhost '/' (1) is reached"
    );
}

#[test]
fn ids_carry_the_shard_and_are_never_used_again() {
    let mut n = Node::new();
    let a = n.queue("a", Table::new()).unwrap();
    n.delete_queue(a);
    let b = n.queue("a", Table::new()).unwrap();
    assert_eq!(a.shard(), b.shard());
    n.delete_queue(b);
    let mut again = n.reload();
    let c = again.queue("a", Table::new()).unwrap();
    assert!(a < b && b < c && c.shard() == a.shard());
}
