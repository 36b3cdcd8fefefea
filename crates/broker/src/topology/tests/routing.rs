use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use waypost_model::props::PropsOwned;
use waypost_model::table::{Table, Value};

use super::*;
use crate::topology::kinds::topic::Topic;
use crate::topology::kinds::{Sink, Target};
use waypost_model::Seeded;

fn props(headers: Table) -> Vec<u8> {
    PropsOwned { headers: Some(headers), ..PropsOwned::default() }.to_bytes()
}

fn list(items: &[&str]) -> Value {
    Value::Array(items.iter().map(|s| Value::from((*s).to_owned())).collect())
}

/// `*` is one word, `#` any number; by the book.
fn matches(pattern: &[&[u8]], key: &[&[u8]]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((&b"#", rest)), _) => matches(rest, key) || (!key.is_empty() && matches(pattern, &key[1..])),
        (Some((p, rest)), Some((k, keys))) => (*p == b"*" || p == k) && matches(rest, keys),
        _ => false,
    }
}

fn naive(pattern: &[u8], key: &[u8]) -> bool {
    let split = |s: &[u8]| match s {
        [] => Vec::new(),
        s => s.split(|b| *b == b'.').map(<[u8]>::to_vec).collect::<Vec<_>>(),
    };
    let (p, k) = (split(pattern), split(key));
    matches(&p.iter().map(|w| &w[..]).collect::<Vec<_>>(), &k.iter().map(|w| &w[..]).collect::<Vec<_>>())
}

fn words(alphabet: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(proptest::sample::select(alphabet), 0..5).prop_map(|w| w.join(".").into_bytes())
}

proptest! {
    #[test]
    fn the_trie_agrees_with_the_definition_and_frees_its_nodes(
        patterns in proptest::collection::vec(words(&["a", "b", "*", "#", ""]), 1..12),
        keys in proptest::collection::vec(words(&["a", "b", "c", ""]), 1..6),
        removed in 0usize..12,
    ) {
        let mut trie = Topic::new(Seeded(1));
        for (i, p) in patterns.iter().enumerate() {
            trie.add(p, Target::Queue(QueueId(i as u64)));
        }
        let removed = removed.min(patterns.len());
        for (i, p) in patterns.iter().enumerate().take(removed) {
            trie.remove(p, Target::Queue(QueueId(i as u64)));
        }
        for key in &keys {
            let mut sink = Sink::default();
            trie.route(key, &mut sink);
            sink.queues.sort_unstable();
            let expected: Vec<QueueId> =
                (removed..patterns.len()).filter(|i| naive(&patterns[*i], key)).map(|i| QueueId(i as u64)).collect();
            prop_assert_eq!(sink.queues, expected);
        }
        for (i, p) in patterns.iter().enumerate().skip(removed) {
            trie.remove(p, Target::Queue(QueueId(i as u64)));
        }
        prop_assert_eq!(trie.nodes(), 0);
    }

    #[test]
    fn the_router_agrees_with_a_naive_one(
        kinds in proptest::collection::vec(0usize..3, 4),
        alternates in proptest::collection::vec(proptest::option::of(0usize..4), 4),
        bindings in proptest::collection::vec((0usize..4, any::<bool>(), 0usize..4, words(&["a", "b", "*", "#"])), 0..16),
        undone in 0usize..8,
        key in words(&["a", "b"]),
    ) {
        let mut n = Node::new();
        for (i, kind) in kinds.iter().enumerate() {
            let mut arguments = Table::new();
            if let Some(a) = alternates[i] {
                arguments.set("alternate-exchange", format!("x{a}"));
            }
            n.exchange(&format!("x{i}"), ["direct", "fanout", "topic"][*kind], arguments).unwrap();
            n.queue(&format!("q{i}"), Table::new()).unwrap();
        }
        let mut edges: BTreeSet<(usize, bool, usize, Vec<u8>)> = BTreeSet::new();
        let text = |k: &[u8]| String::from_utf8(k.to_vec()).unwrap();
        let to = |queue: bool, i: usize| if queue { to_queue(&format!("q{i}")) } else { to_exchange(&format!("x{i}")) };
        for (from, queue, dest, k) in &bindings {
            n.bind(&format!("x{from}"), to(*queue, *dest), &text(k), Table::new()).unwrap();
            edges.insert((*from, *queue, *dest, k.clone()));
        }
        for (from, queue, dest, k) in bindings.iter().take(undone) {
            n.unbind(&format!("x{from}"), to(*queue, *dest), &text(k), Table::new()).unwrap();
            edges.remove(&(*from, *queue, *dest, k.clone()));
        }
        let (mut todo, mut seen, mut queues) = (vec![0], BTreeSet::from([0]), BTreeSet::new());
        while let Some(x) = todo.pop() {
            let hit = |k: &[u8]| match kinds[x] { 0 => k == key, 1 => true, _ => naive(k, &key) };
            let mut chosen: Vec<_> = edges.iter().filter(|e| e.0 == x && hit(&e.3)).map(|e| (e.1, e.2)).collect();
            if chosen.is_empty() {
                chosen.extend(alternates[x].map(|a| (false, a)));
            }
            for (queue, dest) in chosen {
                if queue { queues.insert(format!("q{dest}")); } else if seen.insert(dest) { todo.push(dest); }
            }
        }
        let expected: Vec<String> = queues.into_iter().collect();
        prop_assert_eq!(&n.route("x0", &text(&key)), &expected);
        prop_assert_eq!(&n.reload().route("x0", &text(&key)), &expected);
        let way = n.t.route_message("/", &route("x0", &text(&key)), &[0, 0], false).unwrap();
        prop_assert_eq!(&n.names(&way.queues), &expected);
        prop_assert_eq!(&n.names(&n.t.route_explain("/", &route("x0", &text(&key)), &[0, 0]).unwrap().queues), &expected);
    }
}

#[test]
fn a_pattern_of_hashes_only_takes_no_longer() {
    let mut trie = Topic::new(Seeded(1));
    let pattern = (0..60).map(|_| "#.a").collect::<Vec<_>>().join(".");
    trie.add(pattern.as_bytes(), Target::Queue(QueueId(1)));
    let key = (0..120).map(|_| "a").collect::<Vec<_>>().join(".");
    let mut sink = Sink::default();
    trie.route(key.as_bytes(), &mut sink);
    assert_eq!(sink.queues.len(), 1);
    sink.queues.clear();
    trie.route(format!("{key}.b").as_bytes(), &mut sink);
    assert!(sink.queues.is_empty());
}

#[test]
fn headers_are_compared_as_rabbitmq_compares_them() {
    let mut n = Node::new();
    let mut bind = |name: &str, a: Table| {
        n.queue(name, Table::new()).unwrap();
        n.bind("amq.headers", to_queue(name), "", a).unwrap();
    };
    bind("all", Table::new().with("x-match", "all").with("a", 1).with("b", "t"));
    bind("any", Table::new().with("x-match", "any").with("a", 1).with("b", "t"));
    bind("there", Table::new().with("c", Value::Void));
    bind("x-ignored", Table::new().with("x-key", "v").with("a", 2));
    bind("x-counts", Table::new().with("x-match", "all-with-x").with("x-key", "v"));
    bind("any-x", Table::new().with("x-match", "any-with-x").with("x-key", "w").with("a", 3));
    bind("nothing", Table::new());
    bind("none-of-any", Table::new().with("x-match", "any"));
    assert_eq!(n.t.route("/", "amq.headers", b"k").unwrap(), Routed::PerMessage);
    let go = |h: Table| n.names(&n.t.route_message("/", &route("amq.headers", ""), &props(h), false).unwrap().queues);
    assert_eq!(go(Table::new()), ["nothing"]);
    assert_eq!(go(Table::new().with("a", 1_i64).with("b", "t")), ["all", "any", "nothing"]);
    assert_eq!(go(Table::new().with("a", Value::F64(1.0))), ["nothing"]);
    assert_eq!(go(Table::new().with("a", "1").with("c", false)), ["nothing", "there"]);
    assert_eq!(go(Table::new().with("a", 2)), ["nothing", "x-ignored"]);
    assert_eq!(go(Table::new().with("a", 3).with("x-key", "v")), ["any-x", "nothing", "x-counts"]);
}

#[test]
fn consistent_hashing_spreads_by_weight_and_moves_little() {
    let mut n = Node::new();
    n.exchange("c", "x-consistent-hash", Table::new()).unwrap();
    for (q, weight) in [("a", "1"), ("b", "1"), ("c", "2")] {
        n.queue(q, Table::new()).unwrap();
        n.bind("c", to_queue(q), weight, Table::new()).unwrap();
    }
    let spread = |n: &Node| (0..8000).map(|i| n.route("c", &format!("key-{i}")).remove(0)).collect::<Vec<_>>();
    let before = spread(&n);
    let share = |all: &[String], q: &str| all.iter().filter(|x| *x == q).count();
    assert!((1800..2200).contains(&share(&before, "a")) && (3700..4300).contains(&share(&before, "c")));
    assert_eq!(spread(&n.reload()), before, "a restart moves nothing");
    n.unbind("c", to_queue("a"), "1", Table::new()).unwrap();
    let after = spread(&n);
    assert!(before.iter().zip(&after).all(|(b, a)| b == a || b == "a"), "only what was on a moved");
}

#[test]
fn consistent_hashing_can_look_at_a_header() {
    let mut n = Node::new();
    n.exchange("c", "x-consistent-hash", Table::new().with("hash-header", "who")).unwrap();
    for q in ["a", "b"] {
        n.queue(q, Table::new()).unwrap();
        n.bind("c", to_queue(q), "1", Table::new()).unwrap();
    }
    assert_eq!(n.t.route("/", "c", b"k").unwrap(), Routed::PerMessage);
    let go = |k: &str, v: &str| n.t.route_message("/", &route("c", k), &props(Table::new().with("who", v)), false);
    assert_eq!(go("1", "ann"), go("2", "ann"));
    let seen: BTreeSet<_> = (0..50).map(|i| go("k", &i.to_string()).unwrap().queues).collect();
    assert_eq!(seen.len(), 2);
    assert!(n.exchange("d", "x-consistent-hash", Table::new().with("hash-property", "size")).is_err());
}

#[test]
fn delayed_messages_wait_in_the_exchanges_own_queue() {
    let mut n = Node::new();
    assert!(n.exchange("d", "x-delayed-message", Table::new()).is_err());
    let c = n.exchange("d", "x-delayed-message", Table::new().with("x-delayed-type", "topic")).unwrap();
    let hidden = c.created_queues[0].clone();
    assert!(hidden.durable && hidden.delay_of.is_some());
    assert!(n.t.queues("/").is_empty() && n.t.queue_settings().len() == 1);
    n.queue("q", Table::new()).unwrap();
    n.bind("d", to_queue("q"), "a.*", Table::new()).unwrap();
    let r = route("d", "a.b");
    assert_eq!(n.t.route("/", "d", b"a.b").unwrap(), Routed::PerMessage);
    let way = |p: &[u8]| n.t.route_message("/", &r, p, false).unwrap();
    let late = way(&props(Table::new().with("x-delay", 500)));
    assert_eq!((late.delayed[0].queue, late.delayed[0].delay_ms, late.queues.len()), (hidden.id, 500, 0));
    assert_eq!(way(&props(Table::new().with("x-delay", "20"))).delayed[0].delay_ms, 20);
    assert_eq!(n.names(&way(&props(Table::new().with("x-delay", 0))).queues), ["q"]);
    let due = n.t.route_due(&hidden, &r, &props(Table::new().with("x-delay", 500)), false).unwrap();
    assert_eq!(n.names(&due.queues), ["q"]);
    let again = n.reload();
    let kept = again.t.queue(hidden.id).unwrap();
    assert_eq!(again.names(&again.t.route_due(kept, &r, &[0, 0], false).unwrap().queues), ["q"]);
    assert_eq!(n.delete_exchange("d").unwrap().deleted_queues, [hidden.id]);
    assert!(n.t.route_due(&hidden, &r, &[0, 0], false).is_err());
}

#[test]
fn cc_and_bcc_are_further_keys() {
    let mut n = Node::new();
    for q in ["a", "b", "c"] {
        n.queue(q, Table::new()).unwrap();
    }
    let headers = Table::new().with("CC", list(&["b"])).with("BCC", list(&["c", "a"])).with("x", 1);
    let way = n.t.route_message("/", &route("", "a"), &props(headers), true).unwrap();
    assert_eq!(n.names(&way.queues), ["a", "b", "c"]);
    let left = PropsOwned::decode(&way.strip_bcc.unwrap()).unwrap().headers.unwrap();
    assert_eq!(left.iter().map(|(k, _)| k).collect::<Vec<_>>(), ["CC", "x"]);
    let r = n.t.route_message("/", &route("", "a"), &props(Table::new().with("CC", "b")), true).unwrap_err();
    assert_eq!(r.kind, waypost_model::RefusalKind::PreconditionFailed);
}

#[test]
fn an_explanation_names_every_choice_and_what_did_not_match() {
    let mut n = Node::new();
    n.exchange("x", "direct", Table::new().with("alternate-exchange", "amq.fanout")).unwrap();
    n.queue("q", Table::new()).unwrap();
    n.bind("x", to_queue("q"), "other", Table::new()).unwrap();
    n.bind("amq.fanout", to_queue("q"), "", Table::new()).unwrap();
    let e = n.t.route_explain("/", &route("x", "key"), &[0, 0]).unwrap();
    let hops: Vec<_> = e.hops.iter().map(|h| (&*h.exchange, h.destination.clone())).collect();
    assert_eq!(hops, [("x", to_exchange("amq.fanout")), ("amq.fanout", to_queue("q"))]);
    assert_eq!(e.unmatched[0].reason, "the routing key is not equal to the binding key");
    n.bind("x", to_exchange("amq.services"), "cart?zone=a", Table::new()).unwrap();
    let e = n.t.route_explain("/", &route("x", "cart?zone=a"), &[0, 0]).unwrap();
    assert_eq!((e.hops.len(), e.services), (1, vec![Box::from(&b"cart?zone=a"[..])]));
}

#[test]
fn churn_leaves_nothing_behind() {
    let mut n = Node::new();
    n.queue("first", Table::new()).unwrap();
    let (journal, mut per_round) = (n.journal.clone(), BTreeMap::new());
    for round in 0..3 {
        n.exchange("x", "topic", Table::new()).unwrap();
        for i in 0..200 {
            n.queue(&format!("q{i}"), Table::new()).unwrap();
            n.bind("x", to_queue(&format!("q{i}")), &format!("a.{i}.#"), Table::new()).unwrap();
            n.bind("amq.direct", to_queue(&format!("q{i}")), &format!("{i}"), Table::new()).unwrap();
        }
        per_round.insert(round, n.t.bindings("/").len());
        for i in 0..200 {
            let id = n.t.usable_queue("/", &format!("q{i}"), ME).unwrap().id;
            n.delete_queue(id);
        }
        n.delete_exchange("x").unwrap();
        assert_eq!(n.journal, journal);
        assert_eq!(n.t.queue_settings().len(), 1);
    }
    assert!(per_round.values().all(|b| *b == 601));
}
