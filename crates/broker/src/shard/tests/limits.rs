//! Limits in messages and bytes, and what happens at them.

use waypost_model::command::Outcome;
use waypost_model::journal::AppendError;

use super::world::{PERSISTENT, Q, dead_letter};
use super::{Setup, World};
use crate::settings::Overflow;

#[test]
fn the_oldest_go_first() {
    let mut w = World::with(|s| {
        s.max_length = Some(2);
        s.dead_letter = dead_letter();
    });
    w.publish(&["0", "1", "2"]);
    assert_eq!(w.dead(), [("0".into(), "maxlen")]);
    w.publish(&["3"]);
    assert_eq!(w.dead(), [("1".into(), "maxlen")]);
    w.consume(Setup::default());
    assert_eq!(w.bodies(), ["2", "3"]);
    w.publish(&["4", "5", "6"]);
    assert_eq!(w.bodies(), ["4", "5", "6"], "what is delivered at once does not count");
}

#[test]
fn bytes_are_those_of_bodies() {
    let mut w = World::with(|s| {
        s.max_length_bytes = Some(10);
        s.dead_letter = dead_letter();
    });
    w.publish(&["12345", "67890"]);
    assert!(w.dead().is_empty());
    w.publish(&["x"]);
    assert_eq!(w.dead(), [("12345".into(), "maxlen")]);
    assert_eq!(w.shard.counts(Q).unwrap().ready_bytes, 6);
}

#[test]
fn a_full_queue_refuses_the_rest() {
    let mut w = World::with(|s| {
        s.max_length = Some(2);
        s.overflow = Overflow::RejectPublish;
        s.dead_letter = dead_letter();
    });
    assert_eq!(w.publish(&["0", "1", "2"]).accepted, 2);
    assert_eq!(w.publish(&["3"]).accepted, 0);
    assert!(w.dead().is_empty());
    assert_eq!(w.ready(), 2);
    w.consume(Setup { prefetch: Some(4), ..Setup::default() });
    assert_eq!(w.publish(&["4", "5", "6", "7", "8"]).accepted, 4, "two were delivered at once");
    assert_eq!((w.ready(), w.unsettled()), (2, 4));
}

#[test]
fn a_full_queue_may_dead_letter_the_rest() {
    let mut w = World::with(|s| {
        s.max_length_bytes = Some(2);
        s.overflow = Overflow::RejectPublishDlx;
        s.dead_letter = dead_letter();
        s.durable = true;
    });
    assert_eq!(w.publish_with(&["0", "1", "2", "3"], PERSISTENT).accepted, 2);
    assert_eq!(w.dead(), [("2".into(), "maxlen"), ("3".into(), "maxlen")]);
    assert_eq!(w.journal.with(|s| s.live.len()), 2);
    assert_eq!(w.ready(), 2);
}

#[test]
fn a_requeue_may_push_over_the_limit() {
    let mut w = World::with(|s| {
        s.max_length = Some(1);
        s.dead_letter = dead_letter();
    });
    let c = w.consume(Setup { prefetch: Some(1), ..Setup::default() });
    w.publish(&["0", "1"]);
    w.call(|s, cx| s.cancel(c, cx));
    w.settle(c, 0, 1, Outcome::Released);
    assert_eq!(w.dead(), [("0".into(), "maxlen")]);
    assert_eq!(w.ready(), 1);
}

#[test]
fn a_new_limit_holds_at_once() {
    let mut w = World::with(|_| {});
    w.publish(&["0", "1", "2"]);
    w.call(|s, cx| s.configure(super::world::settings(|s| s.max_length = Some(1)), cx));
    assert_eq!(w.ready(), 1);
    assert_eq!(w.memory.used(), 1 + 2 + 16);
}

#[test]
fn a_full_disk_refuses_what_is_to_be_kept() {
    let mut w = World::with(|s| s.durable = true);
    w.publish_with(&["0"], PERSISTENT);
    w.journal.with(|s| s.fails = Some(AppendError::Full));
    let done = w.publish_with(&["1", "2"], PERSISTENT);
    assert_eq!((done.accepted, done.error, done.lsn), (0, Some(AppendError::Full), None));
    assert_eq!(w.publish(&["transient"]).accepted, 1);
    let c = w.consume(Setup::default());
    assert_eq!(w.bodies(), ["0", "transient"]);
    w.ack(c, 0, 2);
    w.journal.with(|s| {
        assert!(s.live.is_empty(), "settlements are still taken");
        s.fails = None;
    });
    w.publish_with(&["3"], PERSISTENT);
    assert_eq!(w.seen()[0].seq, 2, "what was refused took no place");
}

#[test]
fn priorities_come_first_and_in_order() {
    let mut w = World::with(|s| s.max_priority = Some(10));
    let with = |priority| waypost_model::Attrs { priority, ..Default::default() };
    w.publish_with(&["low"], with(0));
    w.publish_with(&["mid 1"], with(5));
    w.publish_with(&["high"], with(200));
    w.publish_with(&["mid 2"], with(5));
    let c = w.consume(Setup { prefetch: Some(2), ..Setup::default() });
    assert_eq!(w.bodies(), ["high", "mid 1"]);
    w.settle(c, 1, 1, Outcome::Released);
    assert_eq!(w.bodies(), ["mid 1"], "back to its place within its priority");
    w.ack(c, 0, 4);
    assert_eq!(w.bodies(), ["mid 2", "low"]);
}
