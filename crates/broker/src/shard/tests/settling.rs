//! Acknowledged, rejected, returned.

use waypost_model::Event;
use waypost_model::command::Outcome;

use super::world::{PERSISTENT, Q, dead_letter};
use super::{Setup, World};
use crate::settings::QueueKind;

#[test]
fn what_is_released_goes_back_to_its_place() {
    let mut w = World::with(|_| {});
    let c = w.consume(Setup { prefetch: Some(3), ..Setup::default() });
    w.publish(&["0", "1", "2", "3", "4"]);
    assert_eq!(w.bodies(), ["0", "1", "2"]);
    w.call(|s, cx| s.cancel(c, cx));
    w.settle(c, 2, 1, Outcome::Released);
    w.settle(c, 0, 1, Outcome::Released);
    let d = w.consume(Setup::default());
    let seen = w.seen();
    let what: Vec<_> = seen.iter().map(|s| (s.seq, s.redelivered)).collect();
    assert_eq!(what, [(0, true), (2, true), (3, false), (4, false)]);
    assert!(seen.iter().all(|s| s.consumer == d));
    w.ack(c, 1, 1);
    assert_eq!(w.unsettled(), 4);
}

#[test]
fn a_partial_settlement_splits_a_run() {
    let mut w = World::with(|s| s.durable = true);
    let c = w.consume(Setup::default());
    w.publish_with(&["0", "1", "2", "3", "4"], PERSISTENT);
    w.ack(c, 1, 2);
    assert_eq!(w.unsettled(), 3);
    // What is settled already is ignored, and so is what was never delivered.
    w.ack(c, 0, 100);
    assert_eq!(w.unsettled(), 0);
    assert!(w.journal.with(|s| s.live.is_empty()));
}

#[test]
fn nobody_settles_for_others() {
    let mut w = World::with(|_| {});
    let a = w.consume(Setup { prefetch: Some(1), ..Setup::default() });
    let b = w.consume(Setup { prefetch: Some(1), ..Setup::default() });
    w.publish(&["0", "1"]);
    w.ack(b, 0, 1);
    assert_eq!(w.unsettled(), 2);
    w.ack(a, 0, 1);
    assert_eq!(w.unsettled(), 1);
}

#[test]
fn settlements_of_a_turn_are_one_append() {
    let mut w = World::with(|s| s.durable = true);
    let c = w.consume(Setup::default());
    w.publish_with(&["0", "1", "2"], PERSISTENT);
    let before = w.journal.with(|s| s.appends);
    let (now, journal, effects, memory) = (w.now, &w.journal, &mut w.effects, &w.memory);
    let mut cx = crate::context::Cx { now, journal, effects, memory, wakes: &mut Default::default() };
    for i in [1, 0, 2] {
        let s = waypost_model::Settle {
            channel: Default::default(),
            queue: Q,
            consumer: c,
            first: waypost_model::Seq(i),
            count: 1,
            outcome: Outcome::Accepted,
        };
        w.shard.settle(&s, &mut cx);
    }
    w.shard.flush(&mut cx);
    assert_eq!(w.journal.with(|s| (s.appends - before, s.live.len())), (1, 0));
}

#[test]
fn a_lost_channel_gives_everything_back() {
    let mut w = World::with(|_| {});
    let a = w.consume(Setup { prefetch: Some(2), ..Setup::default() });
    let b = w.consume(Setup { prefetch: Some(2), no_ack: false, ..Setup::default() });
    w.publish(&["0", "1", "2", "3", "4"]);
    w.events();
    w.call(|s, cx| s.release_channel(&[a], cx));
    assert_eq!((w.ready(), w.unsettled()), (3, 2));
    w.call(|s, cx| s.release_channel(&[b], cx));
    w.consume(Setup::default());
    assert_eq!(w.bodies(), ["0", "1", "2", "3", "4"]);
}

#[test]
fn what_never_left_returns() {
    let mut w = World::with(|_| {});
    let c = w.consume(Setup { no_ack: true, ..Setup::default() });
    w.publish(&["0", "1", "2"]);
    w.events();
    w.sent(c, 1, 67);
    w.call(|s, cx| s.release_channel(&[c], cx));
    assert_eq!((w.ready(), w.shard.counts(Q).unwrap().unsent), (2, 0));
    w.consume(Setup::default());
    assert_eq!(w.bodies(), ["1", "2"]);
}

#[test]
fn rejected_messages_are_dead_letters_or_nothing() {
    let mut w = World::with(|s| s.dead_letter = dead_letter());
    let c = w.consume(Setup::default());
    w.publish(&["0", "1"]);
    w.settle(c, 0, 2, Outcome::Rejected);
    assert_eq!(w.shard.counts(Q).unwrap().leaving, 2);
    assert_eq!(w.dead(), [("0".into(), "rejected"), ("1".into(), "rejected")]);
    assert_eq!(w.shard.counts(Q).unwrap().leaving, 0);

    let mut w = World::with(|_| {});
    let c = w.consume(Setup::default());
    w.publish(&["0"]);
    w.settle(c, 0, 1, Outcome::Rejected);
    assert!(w.dead().is_empty());
    assert_eq!(w.memory.used(), 0);
}

#[test]
fn a_delivery_limit_of_two_allows_three_deliveries() {
    let mut w = World::with(|s| {
        s.kind = QueueKind::Quorum;
        s.durable = true;
        s.delivery_limit = Some(2);
        s.dead_letter = dead_letter();
    });
    let c = w.consume(Setup::default());
    w.publish_with(&["0"], PERSISTENT);
    let mut counts = Vec::new();
    for _ in 0..3 {
        counts.extend(w.deliveries().iter().map(|d| d.delivery_count));
        w.settle(c, 0, 1, Outcome::Released);
    }
    assert_eq!(counts, [0, 1, 2]);
    assert_eq!(w.journal.with(|s| s.requeued.values().copied().max()), Some(2));
    assert_eq!(w.dead(), [("0".into(), "delivery_limit")]);
    assert!(w.journal.with(|s| s.live.is_empty()));
}

#[test]
fn classic_queues_do_not_tell_the_count() {
    let mut w = World::with(|_| {});
    let c = w.consume(Setup::default());
    w.publish(&["0"]);
    w.events();
    w.settle(c, 0, 1, Outcome::Released);
    let d = w.deliveries();
    assert_eq!((d[0].redelivered, d[0].delivery_count), (true, 0));
}

#[test]
fn a_consumer_that_never_settles_is_cancelled() {
    let mut w = World::with(|s| s.consumer_timeout_ms = Some(10_000));
    let c = w.consume(Setup { prefetch: Some(1), ..Setup::default() });
    w.publish(&["0", "1"]);
    w.advance(6000);
    w.ack(c, 0, 1);
    w.events();
    w.advance(6000);
    assert!(w.shard.next_deadline().unwrap() <= w.now);
    w.tick();
    assert!(w.events().is_empty(), "the second message came later");
    w.advance(5000);
    w.tick();
    assert!(matches!(&w.events()[..], [Event::Cancelled { consumer, .. }] if *consumer == c));
    assert_eq!((w.ready(), w.unsettled(), w.shard.counts(Q).unwrap().consumers), (1, 0, 0));
}

#[test]
fn purging_leaves_the_unsettled() {
    let mut w = World::with(|s| s.durable = true);
    let c = w.consume(Setup { prefetch: Some(1), ..Setup::default() });
    w.publish_with(&["0", "1", "2"], PERSISTENT);
    assert_eq!(w.call(|s, cx| s.purge(Q, cx)), 2);
    assert_eq!((w.ready(), w.unsettled(), w.journal.with(|s| s.live.len())), (0, 1, 1));
    w.ack(c, 0, 1);
    assert!(w.journal.with(|s| s.live.is_empty()));
}

#[test]
fn a_released_run_goes_to_the_next_as_it_was() {
    let mut w = World::with(|_| {});
    let a = w.consume(Setup::default());
    w.publish(&["0", "1"]);
    let b = w.consume(Setup::default());
    w.events();
    w.call(|s, cx| s.release_channel(&[a], cx));
    let d = w.deliveries();
    assert_eq!((d.len(), d[0].consumer, d[0].first.0, d[0].count), (1, b, 0, 2));
}
