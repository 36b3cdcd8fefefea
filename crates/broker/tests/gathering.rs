//! Messages to one mailbox that come in a row are handed over together, and nobody can tell but by the speed.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use support::{Client, Message, Node, message, text};
use waypost_model::event::Body;
use waypost_model::table::{Table, Value};
use waypost_model::{Batch, Command, Delivery, Event, Publish, Route};

/// What came in one read: all in one buffer, routes known again by their pointers.
fn read(c: &mut Client, said: &[(&str, &str, Message)]) -> Vec<Command> {
    let mut routes: BTreeMap<(&str, &str), Arc<Route>> = BTreeMap::new();
    let mut batch = waypost_model::BatchBuilder::default();
    let mut commands = Vec::new();
    for (n, (exchange, key, m)) in (0u32..).zip(said) {
        let Command::Publish(p) = c.publishing(exchange, key, std::slice::from_ref(m), true) else { panic!() };
        let own = p.batch.unwrap();
        batch.extend(&own, 0, 1);
        let route = Arc::clone(routes.entry((exchange, key)).or_insert(p.route));
        commands.push(Publish { route, batch: None, from: n, to: n + 1, ..p });
    }
    let batch: Arc<Batch> = Arc::new(batch.finish());
    let one = |p: Publish| Command::Publish(Publish { batch: Some(Arc::clone(&batch)), ..p });
    commands.into_iter().map(one).collect()
}

fn says(id: &str, zone: &str) -> Table {
    let table = Table::new().with("id", text(id)).with("zone", text(zone));
    Table::new().with("x-service", Value::Table(table))
}

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    let of = |d: &Delivery| {
        let Body::Mem { batch, from } = &d.body else { panic!("not in memory") };
        let text = |i| String::from_utf8_lossy(batch.body(i)).into_owned();
        (*from..*from + d.count).map(text).collect::<Vec<_>>()
    };
    deliveries.iter().flat_map(of).collect()
}

fn accepted(events: &[Event]) -> Vec<(u64, u64)> {
    let of = |e: &Event| match e {
        Event::Accepted { first, last, .. } => Some((*first, *last)),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

#[test]
fn what_asks_for_the_same_goes_together_and_in_order() {
    let node = Node::new();
    let (mut sender, mut eu, mut us) = (node.client(), node.client(), node.client());
    sender.queue("cart-queue", Table::new());
    eu.consume_with(1, "cart-queue", false, says("eu", "eu"));
    us.consume_with(1, "cart-queue", false, says("us", "us"));
    let keys = ["cart?zone=eu", "cart?zone=us"];
    let said: Vec<_> = (0..12).map(|n| ("amq.services", keys[n % 2], message(&n.to_string()))).collect();
    let turn = read(&mut sender, &said);
    sender.turn(turn);
    for (c, odd, key) in [(&mut eu, 0, keys[0]), (&mut us, 1, keys[1])] {
        let deliveries = c.deliveries();
        assert_eq!(bodies(&deliveries), (0..6).map(|n| (n * 2 + odd).to_string()).collect::<Vec<_>>());
        assert_eq!(deliveries.len(), 1);
        assert_eq!(&*deliveries[0].route.routing_key, key.as_bytes());
    }
    assert_eq!(accepted(&sender.events()), [(1, 12)]);
}

#[test]
fn other_ways_into_the_mailbox_keep_their_place() {
    let node = Node::new();
    let (mut sender, mut any) = (node.client(), node.client());
    sender.queue("cart-queue", Table::new());
    any.consume_with(1, "cart-queue", true, says("i", "eu"));
    let said = [("amq.services", "cart", "1"), ("", "cart-queue", "2"), ("amq.services", "cart", "3")];
    let said: Vec<_> = said.iter().map(|(x, k, m)| (*x, *k, message(m))).collect();
    let mut turn = read(&mut sender, &said);
    turn.extend(read(&mut sender, &[("services", "cart", message("4"))]));
    sender.turn(turn);
    assert_eq!(bodies(&any.deliveries()), ["1", "2", "3", "4"]);
    let told = accepted(&sender.events());
    assert_eq!(told.iter().map(|(first, last)| last - first + 1).sum::<u64>(), 4);
    assert!(told.windows(2).all(|w| w[0].1 < w[1].0), "{told:?}");
}

#[test]
fn what_makes_no_sense_refuses_itself_and_what_follows() {
    let node = Node::new();
    let mut sender = node.client();
    sender.queue("cart-queue", Table::new());
    let bad = message("bad").header("x-wait", text("soon"));
    let said = [message("1"), message("2").header("x-wait", text("5000")), bad, message("3")];
    let said: Vec<_> = said.into_iter().map(|m| ("amq.services", "cart", m)).collect();
    let turn = read(&mut sender, &said);
    sender.turn(turn);
    let events = sender.events();
    assert_eq!(accepted(&events), [(1, 2)]);
    assert!(matches!(events.last(), Some(Event::Refused { .. })), "{events:?}");
    assert_eq!(node.ready("cart-queue"), 2);
}

#[test]
fn what_is_confirmed_survives_a_restart() {
    let node = Node::new();
    let mut sender = node.client();
    sender.queue("cart-queue", Table::new());
    let keys = ["cart?zone=eu", "cart?zone=us"];
    let m = |n: usize| message(&n.to_string()).persistent();
    let said: Vec<_> = (0..8).map(|n| ("amq.services", keys[n % 2], m(n))).collect();
    let turn = read(&mut sender, &said);
    sender.turn(turn);
    assert_eq!(accepted(&sender.events()), [(1, 8)]);
    let node = node.restart(false);
    assert_eq!(node.ready("cart-queue"), 8);
}

#[test]
fn keys_that_come_together_keep_their_order_and_their_owner() {
    let node = Node::new();
    let (mut sender, mut a, mut b) = (node.client(), node.client(), node.client());
    sender.queue("cart-queue", Table::new());
    a.consume_with(1, "cart-queue", false, says("a", "eu"));
    b.consume_with(1, "cart-queue", false, says("b", "eu"));
    let keyed = |n: usize| message(&format!("{}:{n}", n % 7)).header("x-key", text(&format!("k{}", n % 7)));
    let said: Vec<_> = (0..42).map(|n| ("amq.services", "cart", keyed(n))).collect();
    let turn = read(&mut sender, &said);
    sender.turn(turn);
    assert_eq!(accepted(&sender.events()), [(1, 42)]);
    let (to_a, to_b) = (a.deliveries(), b.deliveries());
    assert!(to_a.len() == 1 && to_b.len() == 1, "{} {}", to_a.len(), to_b.len());
    let (to_a, to_b) = (bodies(&to_a), bodies(&to_b));
    assert_eq!(to_a.len() + to_b.len(), 42);
    for key in 0..7 {
        let of = |all: &[String]| -> Vec<usize> {
            let mine = all.iter().filter_map(|b| b.split_once(':')).filter(|(k, _)| *k == key.to_string());
            mine.map(|(_, n)| n.parse().unwrap()).collect()
        };
        let (in_a, in_b) = (of(&to_a), of(&to_b));
        assert!(in_a.is_empty() || in_b.is_empty());
        assert_eq!([in_a, in_b].concat(), (0..6).map(|n| n * 7 + key).collect::<Vec<_>>());
    }
}

#[test]
fn a_key_beside_the_same_headers_is_a_key() {
    let node = Node::new();
    let (mut sender, mut eu) = (node.client(), node.client());
    sender.queue("cart-queue", Table::new());
    eu.consume_with(1, "cart-queue", false, says("eu", "eu"));
    let zone = || message("m").header("x-zone", text("eu"));
    let said = [zone(), zone().header("x-key", text("k")), zone()].map(|m| ("amq.services", "cart", m));
    let turn = read(&mut sender, &said);
    sender.turn(turn);
    assert_eq!(accepted(&sender.events()), [(1, 3)]);
    assert_eq!(bodies(&eu.deliveries()).len(), 3);
}
