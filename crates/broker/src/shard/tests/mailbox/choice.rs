//! Who gets a message, rule by rule.

use waypost_model::address::Address;
use waypost_model::command::Outcome;
use waypost_model::service::{Health, Instance, Standing};
use waypost_model::{Attrs, Event};

use super::super::world::World;
use super::{Seat, address, instance, mailbox, prefetch, standing};
use crate::effect::Effect;

fn count(w: &World, of: waypost_model::ConsumerId) -> usize {
    w.got().iter().filter(|(c, _)| *c == of).count()
}

#[test]
fn the_less_loaded_gets_it_by_weight() {
    let mut w = mailbox(|_| {});
    let heavy = w.join(Instance { weight: 3, ..instance("heavy") }, prefetch(100));
    w.join(instance("light"), prefetch(100));
    // All of them are equally new.
    for _ in 0..40 {
        w.send(&["m"], "");
    }
    assert_eq!(count(&w, heavy), 30);
}

#[test]
fn who_acknowledges_faster_gets_more() {
    let mut w = mailbox(|_| {});
    let fast = w.join(instance("fast"), prefetch(100));
    let slow = w.join(instance("slow"), prefetch(100));
    for seq in 0..20 {
        w.send(&["m"], if seq % 2 == 0 { "instance=fast" } else { "instance=slow" });
        let who = if seq % 2 == 0 { fast } else { slow };
        w.advance(if seq % 2 == 0 { 10 } else { 40 });
        w.ack(who, seq, 1);
    }
    w.got();
    for _ in 0..50 {
        w.send(&["m"], "");
    }
    assert_eq!(count(&w, fast), 40);
}

#[test]
fn new_instances_start_slowly() {
    let mut w = mailbox(|_| {});
    let old = w.join(instance("old"), prefetch(1000));
    w.advance(60_000);
    w.join(instance("new"), prefetch(1000));
    for _ in 0..110 {
        w.send(&["m"], "");
    }
    assert_eq!(count(&w, old), 100);
    w.advance(60_000);
    for _ in 0..100 {
        w.send(&["m"], "");
    }
    // By now it has its full share, and some to make up for.
    assert!(count(&w, old) < 15);
}

#[test]
fn warning_instances_are_for_when_nobody_passes() {
    let mut w = mailbox(|_| {});
    let well = w.join(instance("well"), prefetch(1));
    let so_so = w.join(instance("so-so"), prefetch(10));
    w.stands(instance("so-so"), standing(Health::Warning, false));
    w.send(&["a", "b"], "");
    // The passing one is full: that is no reason.
    assert_eq!(w.got(), [(well, "a".into())]);
    w.stands(instance("well"), standing(Health::Critical, false));
    assert_eq!(w.got(), [(so_so, "b".into())]);
    w.stands(instance("so-so"), standing(Health::Passing, true));
    w.send(&["c"], "");
    assert_eq!(w.got(), []);
    w.stands(instance("well"), Standing::PASSING);
    w.ack(well, 0, 1);
    assert_eq!(w.got(), [(well, "c".into())]);
}

#[test]
fn an_instance_has_its_own_limit_over_all_consumers() {
    let mut w = mailbox(|_| {});
    let limited = || Instance { max_in_flight: Some(3), ..instance("i") };
    let (a, b) = (w.join(limited(), prefetch(10)), w.join(limited(), prefetch(10)));
    for _ in 0..5 {
        w.send(&["m"], "");
    }
    let got = w.got();
    let of = |c| got.iter().filter(|(x, _)| *x == c).count();
    assert_eq!((got.len(), of(a).max(of(b))), (3, 2));
    w.ack(a, 0, 1);
    w.ack(b, 0, 1);
    assert_eq!(w.got().len(), 1);
}

#[test]
fn whoever_keeps_failing_gets_single_probes_and_only_half_of_them_do() {
    let mut w = mailbox(|_| {});
    let (a, b) = (w.join(instance("a"), prefetch(1)), w.join(instance("b"), prefetch(1)));
    let mut seq = 0;
    let fail = |w: &mut World, who, selector: &str, seq: &mut u64| {
        w.send(&["m"], selector);
        assert_eq!(w.got().len(), 1);
        w.settle(who, *seq, 1, Outcome::Rejected);
        *seq += 1;
    };
    (0..5).for_each(|_| fail(&mut w, a, "instance=a", &mut seq));
    // One of two: the other one may fail as it likes.
    (0..9).for_each(|_| fail(&mut w, b, "instance=b", &mut seq));
    assert_eq!(w.effects.iter().filter(|e| matches!(e, Effect::Ejected { ejected: true, .. })).count(), 1);
    w.send(&["probe", "next"], "instance=a");
    assert_eq!(w.got(), []);
    w.advance(1000);
    w.tick();
    assert_eq!(w.got(), [(a, "probe".into())]);
    w.settle(a, seq, 1, Outcome::Released);
    // Another failure: it waits for longer.
    w.advance(1999);
    w.tick();
    assert_eq!(w.got(), []);
    w.advance(1);
    w.tick();
    assert_eq!(w.got(), [(a, "probe".into())]);
    w.ack(a, seq, 1);
    assert_eq!(w.got(), [(a, "next".into())]);
    assert!(w.effects.iter().any(|e| matches!(e, Effect::Ejected { ejected: false, .. })));
}

#[test]
fn without_prefetch_there_is_a_soft_window_that_grows_in_silence() {
    let mut w = mailbox(|_| {});
    let soft = || Seat { prefetch: None, ..Seat::default() };
    let c = w.join(instance("i"), soft());
    w.send(&["m"; 100], "");
    assert_eq!(w.got().len(), 32);
    w.advance(999);
    w.tick();
    assert_eq!(w.got().len(), 0);
    w.advance(1);
    w.tick();
    assert_eq!(w.got().len(), 32);
    // Not silent: it gets what it has given back.
    w.ack(c, 0, 10);
    assert_eq!(w.got().len(), 10);
    w.advance(500);
    w.ack(c, 10, 1);
    w.advance(600);
    w.tick();
    assert_eq!(w.got().len(), 1);
}

fn unacknowledged() -> Seat {
    Seat { prefetch: None, no_ack: true, ..Seat::default() }
}

#[test]
fn what_needs_no_acknowledgement_is_in_flight_until_it_has_left() {
    let mut w = mailbox(|_| {});
    let c = w.join(instance("i"), unacknowledged());
    // There is nobody to take it away from.
    w.send(&["m"; 40], "");
    assert_eq!(w.got().len(), 40);
    w.sent(c, 5, 0);
    let other = w.join(instance("other"), prefetch(100));
    assert_eq!(count(&w, other), 0);
    // What has not left returns.
    w.lose(c);
    assert_eq!(count(&w, other), 35);
}

#[test]
fn with_others_beside_it_a_window_holds_that_grows_with_what_leaves() {
    let mut w = mailbox(|_| {});
    let c = w.join(instance("i"), unacknowledged());
    let other = w.join(instance("other"), unacknowledged());
    w.send(&["m"; 200], "instance=i");
    assert_eq!(count(&w, c), 32);
    w.sent(c, 5, 0);
    assert_eq!(count(&w, c), 5);
    w.sent(c, 32, 0);
    assert_eq!(count(&w, c), 64);
    // The others are gone: it is alone again.
    w.lose(other);
    assert_eq!(count(&w, c), 99);
}

#[test]
fn one_active_consumer_holds_for_all_lanes() {
    let mut w = mailbox(|s| s.single_active_consumer = true);
    let first = w.join(instance("a x"), prefetch(2));
    let second = w.join(instance("b y"), prefetch(2));
    w.send(&["1"], "zone=y");
    w.send(&["2"], "zone=x");
    w.send(&["3"], "");
    assert_eq!(w.got(), [(first, "2".into()), (first, "3".into())]);
    w.lose(first);
    assert_eq!(w.got(), [(second, "1".into()), (second, "3".into())]);
    w.ack(second, 0, 1);
    assert_eq!(w.got(), []);
}

#[test]
fn consumers_of_a_higher_priority_come_first() {
    let mut w = mailbox(|_| {});
    w.join(instance("low"), prefetch(10));
    let high = w.join(instance("high"), Seat { priority: 5, ..prefetch(2) });
    for _ in 0..4 {
        w.send(&["m"], "");
    }
    assert_eq!(count(&w, high), 2);
}

#[test]
fn the_own_zone_comes_first_until_it_is_crowded() {
    let mut w = mailbox(|_| {});
    let near = w.join(instance("near eu"), prefetch(10));
    w.join(instance("far us"), prefetch(10));
    let to_eu = Address { near: Some("eu"), ..address(None, "") };
    for _ in 0..9 {
        w.send_with(&["m"], to_eu, Attrs::default());
    }
    assert_eq!(count(&w, near), 9);
    w.send_with(&["m"], to_eu, Attrs::default());
    assert_eq!(count(&w, near), 0);
}

#[test]
fn consumers_that_say_nothing_share_what_is_for_anybody() {
    let mut w = mailbox(|_| {});
    let plain = w.seat(None, prefetch(1));
    let named = w.join(instance("i"), prefetch(1));
    w.send(&["selected"], "instance=i");
    w.send(&["any"], "");
    assert_eq!(w.got(), [(named, "selected".into()), (plain, "any".into())]);
    w.send_keyed(&["keyed"], 1, "");
    w.ack(plain, 1, 1);
    assert_eq!(w.got(), []);
}

#[test]
fn who_consumes_as_an_instance_is_told_when_its_drain_is_over() {
    let mut w = mailbox(|_| {});
    let a = w.join(instance("a"), prefetch(2));
    let b = w.join(instance("b"), prefetch(2));
    w.send(&["1"], "instance=a");
    assert_eq!(w.got(), [(a, "1".into())]);
    w.gone("b");
    assert!(w.events().is_empty(), "it may come again, and goes on then");
    w.drained("a");
    assert!(matches!(&w.events()[..], [Event::Cancelled { consumer, .. }] if *consumer == a));
    w.drained("a");
    assert!(w.events().is_empty(), "it is told once");
    // What it holds it may still settle.
    w.ack(a, 0, 1);
    assert!(!w.call(|s, _| s.knows(a)) && w.call(|s, _| s.knows(b)));
    // The same id consumes again: another one.
    let c = w.join(instance("a"), prefetch(2));
    w.send(&["2"], "instance=a");
    assert_eq!(w.got(), [(c, "2".into())]);
}
