//! Publishes of one read that lead to the same queues share a look at their shard. Nobody may tell.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use support::{Client, Node};
use waypost_model::table::Table;
use waypost_model::{AttrFlags, Attrs, Batch, BatchBuilder, Call, ChannelId, Command, Event, Publish, Route, Turn};

const MESSAGES: u32 = 400;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// Messages with their numbers as bodies, as they lie in a read buffer.
fn batch() -> Arc<Batch> {
    let mut b = BatchBuilder::default();
    (0..MESSAGES).for_each(|n| b.push(&[0, 0], &n.to_be_bytes()));
    Arc::new(b.finish())
}

fn node() -> (Node, Client) {
    let node = Node::new();
    let mut c = node.client();
    c.exchange("t", "topic", Table::new());
    c.exchange("f", "fanout", Table::new());
    for q in ["a", "b", "c"] {
        c.queue(q, Table::new());
        c.bind("f", q, "");
    }
    c.bind("t", "a", "k.#");
    c.bind("t", "b", "*.2");
    c.call(2, Call::OpenChannel);
    c.expect_done(1);
    (node, c)
}

/// Publishes over two channels, the first with confirms, with routes to one queue, to several, to none, and to an
/// exchange that is not there.
fn publishes(seed: u64, until: u32) -> Vec<Publish> {
    let mut rng = Rng(seed);
    let mut routes: Vec<Arc<Route>> = (0..8).map(|n| Arc::new(Route::new("t", format!("k.{n}")))).collect();
    routes.extend([("t", "nowhere"), ("f", ""), ("", "c"), ("", "c")].map(|(x, k)| Arc::new(Route::new(x, k))));
    let missing = Arc::new(Route::new("missing", ""));
    let (mut from, mut confirmed, mut list) = (0, 0, Vec::new());
    while from < until {
        let to = (from + 1 + rng.below(3) as u32).min(until);
        let route = if rng.below(90) == 0 { &missing } else { &routes[rng.below(routes.len() as u64) as usize] };
        let channel = ChannelId(1 + rng.below(8) as u16 / 7);
        let mut confirm = None;
        if channel.0 == 1 {
            confirmed += u64::from(to - from);
            confirm = Some(confirmed);
        }
        let flags = if rng.below(2) == 0 { AttrFlags::PERSISTENT } else { AttrFlags::default() };
        let attrs = Attrs { flags, ..Attrs::default() };
        let (route, mandatory) = (Arc::clone(route), rng.below(4) == 0);
        list.push(Publish { channel, route, batch: None, from, to, attrs, mandatory, confirm });
        from = to;
    }
    list
}

/// What the publisher was told, in words; routes and batches by what is in them.
fn told(c: &mut Client) -> Vec<String> {
    let mut said = Vec::new();
    for e in c.events() {
        said.push(match e {
            Event::Accepted { channel, first, last, lsn } => format!("{channel:?} {first}..{last} {}", lsn.is_some()),
            Event::Returned { channel, route, from, to, .. } => format!("{channel:?} {route:?} {from}..{to}"),
            other => format!("{other:?}"),
        });
    }
    said
}

fn contents(c: &mut Client, queue: &str) -> Vec<(u32, bool, String)> {
    let mut found = Vec::new();
    while let Some((d, _)) = c.get(queue, true) {
        let waypost_model::Body::Mem { batch, from } = &d.body else { panic!("not in memory") };
        let number = u32::from_be_bytes(batch.body(*from).try_into().unwrap());
        found.push((number, d.redelivered, format!("{:?}", d.route)));
    }
    found
}

#[test]
fn together_or_one_by_one_comes_to_the_same() {
    for seed in 0..60 {
        let batch = batch();
        let publishes = publishes(seed, MESSAGES);
        let ((alone, mut one), (together, mut all)) = (node(), node());
        for p in publishes.clone() {
            let commands = vec![Command::Publish(p)];
            let broker = Arc::clone(&one.broker);
            broker.execute(&mut one.conn, &mut Turn { batch: Some(Arc::clone(&batch)), commands }, one.now);
        }
        let commands = publishes.into_iter().map(Command::Publish).collect();
        let broker = Arc::clone(&all.broker);
        broker.execute(&mut all.conn, &mut Turn { batch: Some(Arc::clone(&batch)), commands }, all.now);
        assert_eq!(told(&mut one), told(&mut all), "seed {seed}");
        let (mut one, mut all) = (alone.client(), together.client());
        for queue in ["a", "b", "c"] {
            assert_eq!(contents(&mut one, queue), contents(&mut all, queue), "seed {seed}, queue {queue}");
        }
    }
}

#[test]
fn what_follows_a_refusal_on_its_channel_is_ignored() {
    let (node, mut c) = node();
    node.journal.full.store(true, Ordering::SeqCst);
    let publish = |n: u32, persistent: bool| {
        let flags = if persistent { AttrFlags::PERSISTENT } else { AttrFlags::default() };
        let attrs = Attrs { flags, ..Attrs::default() };
        let (channel, route) = (ChannelId(1), Arc::new(Route::new("t", format!("k.x{n}"))));
        Command::Publish(Publish {
            channel,
            route,
            batch: None,
            from: n,
            to: n + 1,
            attrs,
            mandatory: false,
            confirm: None,
        })
    };
    let commands = vec![publish(0, false), publish(1, true), publish(2, false), publish(3, false)];
    let broker = Arc::clone(&c.broker);
    broker.execute(&mut c.conn, &mut Turn { batch: Some(batch()), commands }, c.now);
    assert!(!c.refusal().hard);
    let found: Vec<u32> = contents(&mut node.client(), "a").into_iter().map(|(n, ..)| n).collect();
    assert_eq!(found, [0], "the channel is closed from the second on");
}
