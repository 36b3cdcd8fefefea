//! Messages to one mailbox that come in a row are handed over together, and nobody can tell but by the speed.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use support::{Client, Message, Node, message, text};
use waypost_model::event::Body;
use waypost_model::table::{Table, Value};
use waypost_model::{Command, Delivery, Event, Publish, Route, Turn};

/// What came in one read: all in one buffer, which is the turn's, and routes known again by their pointers.
fn read(c: &mut Client, said: &[(&str, &str, Message)]) -> Turn {
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
    let commands = commands.into_iter().map(Command::Publish).collect();
    Turn { batch: Some(Arc::new(batch.finish())), commands }
}

/// The same with the buffer beside each publish: they come one by one.
fn apart(turn: &Turn) -> Turn {
    let own = |command: &Command| match command {
        Command::Publish(p) => Command::Publish(Publish { batch: turn.batch.clone(), ..p.clone() }),
        other => panic!("{other:?}"),
    };
    Turn { batch: None, commands: turn.commands.iter().map(own).collect() }
}

fn carry_out(c: &mut Client, mut turn: Turn) {
    let broker = Arc::clone(&c.broker);
    broker.execute(&mut c.conn, &mut turn, c.now);
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
    carry_out(&mut sender, turn);
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
    turn.commands.extend(apart(&read(&mut sender, &[("services", "cart", message("4"))])).commands);
    carry_out(&mut sender, turn);
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
    carry_out(&mut sender, turn);
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
    carry_out(&mut sender, turn);
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
    carry_out(&mut sender, turn);
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
    carry_out(&mut sender, turn);
    assert_eq!(accepted(&sender.events()), [(1, 3)]);
    assert_eq!(bodies(&eu.deliveries()).len(), 3);
}

/// Messages of all sorts, in an order that the seed decides.
fn mixture(seed: u64) -> Vec<(&'static str, &'static str, Message)> {
    let mut state = seed;
    let mut below = |n: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    let ways = ["cart", "cart?zone=eu", "cart?zone=us", "cart?zone=nowhere", "shop", "shop?zone=eu"];
    let one = |n: u64| {
        let m = message(&n.to_string());
        let m = match below(8) {
            0 | 1 => m.header("x-key", text(&format!("k{}", below(5)))),
            2 => m.header("x-zone", text("us")),
            3 => m.header("x-wait", text("5000")),
            4 if below(4) == 0 => m.header("x-deliver", text("all")),
            5 if below(40) == 0 => m.header("x-wait", text("soon")),
            _ => m,
        };
        match below(30) {
            0 => ("", "cart-queue", m),
            _ => ("amq.services", ways[below(6) as usize], m),
        }
    };
    (0..200).map(one).collect()
}

/// What each of two instances got, and what the sender was told.
fn outcome(turn: Turn) -> (Vec<Vec<String>>, Vec<(u64, u64)>, usize) {
    let node = Node::new();
    let (mut sender, mut eu, mut us) = (node.client(), node.client(), node.client());
    for queue in ["cart-queue", "shop-queue"] {
        sender.queue(queue, Table::new());
        eu.consume_with(1, queue, false, says("eu", "eu"));
        us.consume_with(1, queue, false, says("us", "us"));
    }
    carry_out(&mut sender, turn);
    let told = sender.events();
    let got = [&mut eu, &mut us].map(|c| bodies(&c.deliveries())).to_vec();
    (got, accepted(&told), told.len())
}

#[test]
fn neighbours_end_as_they_would_one_by_one() {
    for seed in 0..60 {
        // The same routes both times: what a connection remembers of them depends on where they lie in memory.
        let turn = read(&mut Node::new().client(), &mixture(seed));
        assert_eq!(outcome(apart(&turn)), outcome(turn), "seed {seed}");
    }
}

#[test]
fn small_messages_with_many_ways_to_go_want_company() {
    let node = Node::new();
    let mut sender = node.client();
    sender.queue("cart-queue", Table::new());
    let keys: Vec<String> = (0..20).map(|n| format!("cart?tag=t{n}")).collect();
    let mut spreads = |ways: usize, size: usize| {
        let m = message(&"m".repeat(size));
        let said: Vec<_> = (0..100).map(|n| ("amq.services", &*keys[n % ways], m.clone())).collect();
        let turn = read(&mut sender, &said);
        carry_out(&mut sender, turn);
        sender.conn.spreads()
    };
    assert!(spreads(20, 16));
    assert!(!spreads(1, 16), "all of them go together however few they are");
    assert!(!spreads(20, 2000), "they are not copied to lie beside each other");
}
