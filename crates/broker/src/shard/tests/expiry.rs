//! Times to live, of messages and of queues.

use waypost_model::command::Outcome;
use waypost_model::{Attrs, Millis};

use super::world::{PERSISTENT, Q, dead_letter};
use super::{Setup, World};
use crate::effect::Effect;

fn expiring(ms: u32) -> Attrs {
    Attrs { expiration: Some(ms), ..Attrs::default() }
}

#[test]
fn the_shorter_time_wins() {
    let mut w = World::with(|s| {
        s.message_ttl_ms = Some(100);
        s.dead_letter = dead_letter();
    });
    w.publish_with(&["queue's"], expiring(1000));
    w.publish_with(&["own"], expiring(50));
    assert_eq!(w.shard.next_deadline(), Some(Millis(1050)));
    w.advance(50);
    w.tick();
    assert_eq!(w.dead(), [("own".into(), "expired")], "also behind another one");
    w.advance(49);
    w.tick();
    assert_eq!(w.ready(), 1);
    w.advance(1);
    w.tick();
    assert_eq!(w.dead(), [("queue's".into(), "expired")]);
    assert_eq!(w.shard.next_deadline(), None);
}

#[test]
fn what_has_expired_is_not_delivered_even_before_the_tick() {
    let mut w = World::with(|s| s.message_ttl_ms = Some(10));
    w.publish(&["a"]);
    w.advance(5);
    w.publish(&["b"]);
    w.advance(5);
    w.consume(Setup::default());
    assert_eq!(w.bodies(), ["b"]);
    w.publish(&["c"]);
    w.advance(20);
    assert_eq!(w.bodies(), ["c"]);
}

#[test]
fn gets_skip_the_dead() {
    let mut w = World::with(|_| {});
    w.publish_with(&["a"], expiring(1));
    w.publish(&["b"]);
    w.advance(1);
    let got = w.get(true).unwrap();
    assert_eq!(got.delivery.first.0, 1);
    assert_eq!(got.remaining, 0);
}

#[test]
fn time_zero_is_now_or_never() {
    let mut w = World::with(|s| {
        s.dead_letter = dead_letter();
        s.durable = true;
    });
    let zero = Attrs { expiration: Some(0), ..PERSISTENT };
    w.journal.with(|s| s.automatic = false);
    w.publish_with(&["nobody there"], zero);
    assert_eq!(w.dead(), [("nobody there".into(), "expired")]);
    w.consume(Setup::default());
    w.publish_with(&["somebody there"], zero);
    assert_eq!(w.bodies(), ["somebody there"]);
    assert_eq!(w.ready(), 0);
}

#[test]
fn a_requeued_message_keeps_its_deadline() {
    let mut w = World::with(|s| {
        s.message_ttl_ms = Some(100);
        s.dead_letter = dead_letter();
    });
    let c = w.consume(Setup { prefetch: Some(1), ..Setup::default() });
    w.publish(&["a", "b"]);
    w.call(|s, cx| s.cancel(c, cx));
    w.advance(60);
    w.settle(c, 0, 1, Outcome::Released);
    w.advance(40);
    w.tick();
    assert_eq!(w.dead().len(), 2);
    assert_eq!((w.ready(), w.unsettled(), w.memory.used()), (0, 0, 0));
}

#[test]
fn a_message_that_died_while_it_was_out_dies_on_return() {
    let mut w = World::with(|s| s.dead_letter = dead_letter());
    let c = w.consume(Setup::default());
    w.publish_with(&["a"], expiring(10));
    w.advance(10);
    w.settle(c, 0, 1, Outcome::Released);
    assert_eq!(w.dead(), [("a".into(), "expired")]);
}

#[test]
fn many_deadlines_in_any_order() {
    let mut w = World::with(|s| s.dead_letter = dead_letter());
    let mut all: Vec<u32> = (1..=1000).map(|i| i * 7919 % 1009).collect();
    for ms in &all {
        w.publish_with(&[&ms.to_string()], expiring(*ms));
    }
    all.sort_unstable();
    let mut seen = Vec::new();
    while let Some(at) = w.shard.next_deadline() {
        w.now = at;
        w.tick();
        for (body, reason) in w.dead() {
            let ms: u32 = body.parse().unwrap();
            assert_eq!((reason, u64::from(ms)), ("expired", w.now.0 - 1000));
            seen.push(ms);
        }
    }
    assert_eq!(seen, all);
    assert_eq!(w.memory.used(), 0);
}

#[test]
fn priorities_have_deadlines_too() {
    let mut w = World::with(|s| {
        s.max_priority = Some(3);
        s.dead_letter = dead_letter();
    });
    for (ms, priority) in [(30, 0), (20, 3), (10, 1)] {
        w.publish_with(&[&ms.to_string()], Attrs { priority, ..expiring(ms) });
    }
    w.advance(10);
    w.tick();
    assert_eq!(w.dead(), [("10".into(), "expired")]);
    w.advance(20);
    w.tick();
    assert_eq!(w.dead(), [("20".into(), "expired"), ("30".into(), "expired")]);
}

#[test]
fn an_unused_queue_goes() {
    let mut w = World::with(|s| s.expires_ms = Some(100));
    w.advance(90);
    w.call(|s, cx| s.touch(Q, cx));
    w.advance(90);
    w.tick();
    assert!(w.effects.is_empty());
    let c = w.consume(Setup::default());
    w.advance(500);
    w.tick();
    assert!(w.effects.is_empty(), "somebody consumes");
    w.call(|s, cx| s.cancel(c, cx));
    w.advance(99);
    w.tick();
    assert!(w.effects.is_empty());
    w.advance(1);
    w.tick();
    assert!(matches!(&w.effects[..], [Effect::Expired(Q)]));
}
