//! What waits out of memory, what is copied, and what a restart finds.

use waypost_model::event::Body;
use waypost_model::{Attrs, Batch, Seq, Slot};

use super::world::{PERSISTENT, Q, settings};
use super::{Setup, World};
use crate::context::MemoryBudget;
use crate::shard::QUEUE_MEMORY;

#[test]
fn a_backlog_of_single_messages_is_one_run() {
    let mut w = World::with(|_| {});
    for i in 0..1000 {
        // As from a socket: a small message in a large buffer.
        let body = format!("{i:05}");
        let mut data = vec![0; 65_536];
        data[2..7].copy_from_slice(body.as_bytes());
        let slot = Slot { props: 0, props_len: 2, body: 2, body_len: 5 };
        w.publish_batch(Batch::new(data, vec![slot]).unwrap(), Attrs::default());
    }
    w.consume(Setup::default());
    let d = w.deliveries();
    assert_eq!(d.len(), 1);
    let Body::Mem { batch, .. } = &d[0].body else { panic!("in memory") };
    assert!(batch.footprint() < 24 * 1000, "{}", batch.footprint());
    assert_eq!(w.open(&d[0])[567].body, "00567");
}

#[test]
fn what_was_taken_from_a_batch_does_not_pin_it() {
    let mut w = World::with(|_| {});
    let c = w.consume(Setup { prefetch: Some(90), ..Setup::default() });
    let bodies: Vec<String> = (0..100).map(|i| format!("{i:0500}")).collect();
    w.publish(&bodies.iter().map(String::as_str).collect::<Vec<_>>());
    w.events();
    w.ack(c, 0, 1);
    let d = w.deliveries();
    let Body::Mem { batch, .. } = &d[0].body else { panic!("in memory") };
    assert!(batch.footprint() < 10 * 600, "{}", batch.footprint());
    assert_eq!(w.open(&d[0])[0].body, bodies[90]);
}

#[test]
fn persistent_messages_drop_their_bytes_past_the_budget() {
    let mut w = World::with(|s| s.durable = true);
    w.memory = MemoryBudget::new(1 << 20);
    let body = "x".repeat(1000);
    let bodies = vec![body.as_str(); 50];
    for _ in 0..100 {
        w.publish_with(&bodies, PERSISTENT);
    }
    assert!(w.memory.used() <= (1 << 20) + (256 << 10), "{}", w.memory.used());
    assert_eq!(w.shard.info(Q).unwrap().memory, w.memory.used());
    let c = w.consume(Setup { prefetch: Some(5000), ..Setup::default() });
    let d = w.deliveries();
    assert!(d.iter().any(|d| matches!(d.body, Body::Stored) && d.count > 1000), "stored runs have become one");
    let seen: Vec<_> = d.iter().flat_map(|d| w.open(d)).collect();
    assert!(seen.iter().map(|s| s.seq).eq(0..5000) && seen.iter().all(|s| s.body == body));
    w.ack(c, 0, 5000);
    assert_eq!(w.memory.used(), 0);
    assert!(w.journal.with(|s| s.live.is_empty()));
}

#[test]
fn transient_messages_are_spilled_and_their_room_released() {
    let mut w = World::with(|_| {});
    w.memory = MemoryBudget::new(1 << 20);
    let big = "y".repeat(300);
    for i in 0..20_000 {
        w.publish(&[&format!("{i}{big}")]);
    }
    assert!(w.memory.used() <= (1 << 20) + (512 << 10), "{}", w.memory.used());
    let pieces = w.journal.with(|s| s.spills.len());
    assert!((20..120).contains(&pieces), "{pieces} pieces");
    let c = w.consume(Setup { prefetch: Some(7), ..Setup::default() });
    let mut next = 0;
    loop {
        let seen = w.seen();
        if seen.is_empty() {
            break;
        }
        for s in &seen {
            assert_eq!((s.seq, &s.body), (next, &format!("{next}{big}")));
            next += 1;
        }
        w.ack(c, seen[0].seq, seen.len() as u32);
    }
    assert_eq!(next, 20_000);
    assert_eq!((w.memory.used(), w.journal.with(|s| s.spills.len())), (0, 0));
}

#[test]
fn what_waits_for_the_disk_stays_in_memory() {
    let mut w = World::with(|s| s.durable = true);
    w.memory = MemoryBudget::new(0);
    w.journal.with(|s| s.automatic = false);
    for _ in 0..100 {
        w.publish_with(&[&"z".repeat(10_000)], PERSISTENT);
    }
    assert!(w.memory.used() >= 1_000_000);
    w.journal.with(|s| s.durable = s.last);
    w.call(|s, cx| s.relieve(cx));
    assert_eq!(w.memory.used(), 0);
}

#[test]
fn very_unequal_sizes_are_not_averaged() {
    let mut w = World::with(|s| s.durable = true);
    w.memory = MemoryBudget::new(0);
    let big = "b".repeat(1 << 20);
    w.publish_with(&["s", "s", &big, &big, "s"], PERSISTENT);
    w.call(|s, cx| s.relieve(cx));
    assert_eq!(w.memory.used(), 0);
    w.consume(Setup { window: 1000, ..Setup::default() });
    assert_eq!(w.seen().len(), 3, "the first large one uses the window up");
}

#[test]
fn byte_limits_stay_exact_without_bytes() {
    let mut w = World::with(|s| {
        s.durable = true;
        s.max_length_bytes = Some(12);
    });
    w.memory = MemoryBudget::new(0);
    w.publish_with(&["1", "22", "333", "4444"], PERSISTENT);
    w.call(|s, cx| s.relieve(cx));
    assert_eq!((w.ready(), w.memory.used()), (4, 0));
    w.publish_with(&["55555"], PERSISTENT);
    let counts = w.shard.counts(Q).unwrap();
    assert_eq!((counts.ready, counts.ready_bytes), (3, 12));
}

#[test]
fn a_restart_finds_what_was_not_settled() {
    let mut w = World::with(|s| s.durable = true);
    let c = w.consume(Setup::default());
    w.publish_with(&["0", "1", "2", "3"], PERSISTENT);
    w.publish(&["transient"]);
    w.ack(c, 1, 1);
    let runs = w.journal.recovered(Q);
    for clean in [false, true] {
        let mut after = World::empty();
        after.call(|shard, cx| {
            shard.restore(settings(|s| s.durable = true), runs.clone(), Seq(4), clean, cx);
        });
        assert_eq!(after.ready(), 3);
        after.consume(Setup::default());
        let seen: Vec<(u64, u32, bool)> =
            after.deliveries().iter().map(|d| (d.first.0, d.count, d.redelivered)).collect();
        assert_eq!(seen, [(0, 1, !clean), (2, 2, !clean)]);
        after.publish(&["next"]);
        assert_eq!(after.seen()[0].seq, 4);
    }
}

#[test]
fn a_stored_message_got_without_acknowledgement_is_settled_when_loaded() {
    let mut w = World::with(|s| s.durable = true);
    w.memory = MemoryBudget::new(0);
    w.publish_with(&["a"], PERSISTENT);
    w.call(|s, cx| s.relieve(cx));
    let got = w.get(true).unwrap();
    assert!(got.leaving && matches!(got.delivery.body, Body::Stored));
    assert_eq!(w.journal.with(|s| s.live.len()), 1);
    w.call(|s, cx| s.left(Q, got.delivery.first, 1, cx));
    assert!(w.journal.with(|s| s.live.is_empty()));
}

#[test]
fn a_queue_keeps_its_share_only() {
    let mut w = World::with(|s| s.durable = true);
    let body = "x".repeat(100_000);
    for _ in 0..800 {
        w.publish_with(&[&body], PERSISTENT);
    }
    let used = w.memory.used();
    assert!(used <= QUEUE_MEMORY + 512 * 1024 && used > QUEUE_MEMORY / 2, "{used}");
}

#[test]
fn an_idle_queue_is_small() {
    assert!(size_of::<super::super::queue::Queue>() + 2 * (8 + 4 + 8) <= 700);
}

#[test]
fn what_is_held_for_long_is_not_held_in_memory() {
    let mut w = World::with(|s| s.durable = true);
    let a = w.consume(Setup::default());
    let big = "b".repeat(100_000);
    for _ in 0..100 {
        w.publish_with(&["small", &big], PERSISTENT);
    }
    assert!(w.memory.used() < 2 << 20, "{}", w.memory.used());
    w.events();
    w.call(|s, cx| s.release_channel(&[a], cx));
    let c = w.consume(Setup { window: 1 << 30, ..Setup::default() });
    let seen = w.seen();
    assert!(seen.iter().map(|s| s.seq).eq(0..200) && seen.iter().all(|s| s.redelivered));
    assert_eq!((seen[150].body.as_str(), seen[151].body.len()), ("small", 100_000));
    w.ack(c, 0, 200);
    assert_eq!((w.memory.used(), w.unsettled()), (0, 0));
}

#[test]
fn bytes_in_memory_are_counted_to_the_last() {
    let mut w = World::with(|_| {});
    let c = w.consume(Setup { prefetch: Some(5), ..Setup::default() });
    let mut bodies = vec!["x"; 50];
    bodies[49] = "last";
    w.publish(&bodies);
    for i in 0..10 {
        w.ack(c, i * 5, 4);
        w.settle(c, i * 5 + 4, 1, waypost_model::command::Outcome::Released);
        w.ack(c, i * 5 + 4, 1);
    }
    let counts = w.shard.counts(Q).unwrap();
    assert_eq!((counts.ready, counts.unsettled, w.memory.used()), (0, 0, 0));
}
