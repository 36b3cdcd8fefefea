//! Very many consumers of one queue: whoever comes and goes does not look at all the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use waypost_model::ConsumerId;

use super::mailbox::{instance, mailbox, prefetch};
use super::{Setup, World};
use crate::settings::QueueSettings;
use crate::shard::ChannelCredit;

/// Far more than is needed if each looks after itself, far less than if each looks at all others.
const LONG: Duration = Duration::from_secs(15);

fn crowd(change: impl FnOnce(&mut QueueSettings), n: i32, priority: impl Fn(i32) -> i32) -> (World, Vec<ConsumerId>) {
    let mut w = World::with(change);
    let credit = Arc::<ChannelCredit>::default();
    let one = |i| Setup { priority: priority(i), credit: Arc::clone(&credit), ..Setup::default() };
    let all = (0..n).map(|i| w.consume(one(i))).collect();
    w.events();
    (w, all)
}

fn all_leave(mut w: World, consumers: &[ConsumerId]) {
    let started = Instant::now();
    w.call(|s, cx| s.release_channel(consumers, cx));
    assert!(started.elapsed() < LONG, "{} consumers left in {:?}", consumers.len(), started.elapsed());
    assert!(consumers.iter().all(|c| !w.shard.knows(*c)));
    w.publish(&["a"]);
    assert_eq!(w.ready(), 1, "nobody is left");
}

#[test]
fn a_connection_with_65536_consumers_ends() {
    let (w, all) = crowd(|_| {}, 65_536, |_| 0);
    all_leave(w, &all);
}

#[test]
fn so_does_one_with_as_many_priorities_whatever_the_order() {
    let (w, all) = crowd(|_| {}, 65_536, |i| -i);
    all_leave(w, &all);
    let (w, mut all) = crowd(|_| {}, 65_536, |i| -i);
    all.reverse();
    all_leave(w, &all);
}

#[test]
fn so_does_one_whose_consumers_are_active_one_after_the_other() {
    let (w, all) = crowd(|s| s.single_active_consumer = true, 65_536, |_| 0);
    all_leave(w, &all);
}

#[test]
fn so_does_one_whose_consumers_are_instances() {
    let mut w = mailbox(|_| {});
    let all: Vec<_> = (0..16_384).map(|i| w.join(instance(&format!("i{i}")), prefetch(1))).collect();
    w.events();
    all_leave(w, &all);
}

#[test]
fn consumers_that_are_cancelled_one_by_one_leave_the_turns_of_the_others_as_they_were() {
    let (mut w, all) = crowd(|_| {}, 6, |_| 0);
    let turns = |w: &mut World, n: usize| -> Vec<usize> {
        (0..n).for_each(|_| assert_eq!(w.publish(&["x"]).accepted, 1));
        w.seen().iter().map(|s| all.iter().position(|c| *c == s.consumer).unwrap()).collect()
    };
    assert_eq!(turns(&mut w, 8), [0, 1, 2, 3, 4, 5, 0, 1]);
    for (gone, next) in [(4, &[2, 3, 5, 0, 1][..]), (2, &[3, 5, 0, 1]), (1, &[3, 5, 0]), (5, &[3, 0]), (3, &[0, 0])] {
        assert!(w.call(|s, cx| s.cancel(all[gone], cx)));
        assert_eq!(turns(&mut w, next.len()), next, "after {gone} has gone");
    }
}

#[test]
fn who_is_without_credit_leaves_too_and_who_gets_some_comes_last() {
    let mut w = World::with(|_| {});
    let one = |priority| Setup { prefetch: Some(1), priority, ..Setup::default() };
    let (a, b, c) = (w.consume(one(1)), w.consume(one(1)), w.consume(one(0)));
    let who = |w: &mut World| w.seen().iter().map(|s| s.consumer).collect::<Vec<_>>();
    (0..4).for_each(|_| assert_eq!(w.publish(&["x"]).accepted, 1));
    assert_eq!(who(&mut w), [a, b, c]);
    w.call(|s, cx| s.release_channel(&[a], cx));
    assert_eq!(who(&mut w), []);
    w.ack(c, 2, 1);
    assert_eq!(who(&mut w), [c], "what came back goes to who has credit");
    let d = w.consume(one(1));
    assert_eq!(who(&mut w), [d]);
    w.ack(b, 1, 1);
    w.publish(&["y"]);
    assert_eq!(who(&mut w), [b]);
}

#[test]
fn the_active_consumer_is_followed_by_who_is_there_longest_among_the_first_in_rank() {
    let (mut w, all) = crowd(|s| s.single_active_consumer = true, 5, |i| i32::from(i != 0 && i != 4));
    let mut order = Vec::new();
    for _ in 0..5 {
        w.publish(&["x"]);
        let seen = w.seen();
        let at = all.iter().position(|c| *c == seen[0].consumer).unwrap();
        order.push(at);
        w.ack(all[at], seen[0].seq, 1);
        w.call(|s, cx| s.cancel(all[at], cx));
    }
    assert_eq!(order, [1, 2, 3, 0, 4]);
}
