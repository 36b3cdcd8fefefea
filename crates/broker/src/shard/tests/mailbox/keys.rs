//! Keys: one owner at a time, in order, whatever happens.

use waypost_model::Attrs;
use waypost_model::command::Outcome;
use waypost_model::service::Health;

use super::super::world::PERSISTENT;
use super::{Seat, instance, mailbox, prefetch, standing};

#[test]
fn a_slot_stays_with_its_owner_while_that_holds_something() {
    let mut w = mailbox(|_| {});
    let a = w.join(instance("a"), prefetch(1));
    w.send_keyed(&["1", "2"], 7, "");
    assert_eq!(w.got(), [(a, "1".into())]);
    let b = w.join(instance("b"), prefetch(5));
    // It has credit, but the key is another's.
    assert_eq!(w.got(), []);
    w.send_keyed(&["other"], 8, "");
    assert_eq!(w.got(), [(b, "other".into())]);
    w.ack(a, 0, 1);
    assert_eq!(w.got(), [(a, "2".into())]);
}

#[test]
fn order_holds_across_a_death() {
    let mut w = mailbox(|_| {});
    let a = w.join(instance("a"), prefetch(2));
    w.send_keyed(&["1", "2", "3"], 7, "");
    w.got();
    let b = w.join(instance("b"), prefetch(5));
    w.lose(a);
    assert_eq!(w.got(), [(b, "1".into()), (b, "2".into()), (b, "3".into())]);
}

#[test]
fn a_cancelled_owner_keeps_its_keys_until_it_has_settled() {
    let mut w = mailbox(|_| {});
    let a = w.join(instance("a"), prefetch(2));
    let b = w.join(instance("b"), prefetch(5));
    w.send_keyed(&["1"], 7, "instance=a");
    w.got();
    w.call(|s, cx| s.cancel(a, cx));
    w.send_keyed(&["2"], 7, "");
    // Another selector: another slot.
    assert_eq!(w.got(), [(b, "2".into())]);
    w.send_keyed(&["3"], 7, "instance=a");
    let c = w.join(instance("a"), prefetch(1));
    assert_eq!(w.got(), []);
    w.ack(a, 0, 1);
    assert_eq!(w.got(), [(c, "3".into())]);
}

#[test]
fn a_draining_owner_gives_its_keys_up_in_order() {
    let mut w = mailbox(|_| {});
    let a = w.join(instance("a"), prefetch(5));
    w.send_keyed(&["1"], 7, "");
    let b = w.join(instance("b"), prefetch(5));
    w.stands(instance("a"), standing(Health::Passing, true));
    w.send_keyed(&["2"], 7, "");
    assert_eq!(w.got(), [(a, "1".into())]);
    w.ack(a, 0, 1);
    assert_eq!(w.got(), [(b, "2".into())]);
}

#[test]
fn the_same_one_gets_a_key_again_unless_it_is_far_busier() {
    let mut w = mailbox(|_| {});
    let (a, b) = (w.join(instance("a"), prefetch(9)), w.join(instance("b"), prefetch(9)));
    w.send(&["m"], "instance=a");
    w.send(&["m"], "instance=b");
    w.got();
    w.advance(10);
    w.ack(a, 0, 1);
    w.ack(b, 1, 1);
    let mut owner = None;
    for seq in 2..12 {
        w.send_keyed(&["m"], 7, "");
        let [(who, _)] = w.got()[..] else { panic!() };
        assert!(owner.is_none_or(|o| o == who));
        owner = Some(who);
        w.advance(10);
        w.ack(who, seq, 1);
    }
    let owner = owner.unwrap();
    let other = if owner == a { b } else { a };
    let id = if owner == a { "a" } else { "b" };
    w.send(&["1", "2", "3"], &format!("instance={id}"));
    w.got();
    w.send_keyed(&["moved"], 7, "");
    assert_eq!(w.got(), [(other, "moved".into())]);
}

#[test]
fn what_comes_back_goes_before_what_nobody_has_seen() {
    let mut w = mailbox(|_| {});
    let a = w.join(instance("a"), prefetch(1));
    w.send_keyed(&["1", "2"], 7, "");
    w.settle(a, 0, 1, Outcome::Released);
    assert_eq!(w.got(), [(a, "1".into()), (a, "1".into())]);
}

#[test]
fn slots_take_no_room_once_they_are_empty() {
    let mut w = mailbox(|_| {});
    let a = w.join(instance("a"), prefetch(1000));
    for slot in 0..1000 {
        w.send_keyed(&["m"], slot, "");
    }
    assert_eq!(w.got().len(), 1000);
    w.ack(a, 0, 1000);
    assert!(w.shard.mailbox_info(super::Q).unwrap().lanes.is_empty());
}

fn said(keys: &[(&str, u16)]) -> Vec<(String, u16)> {
    keys.iter().map(|(body, slot)| ((*body).to_owned(), *slot)).collect()
}

#[test]
fn keys_that_come_together_are_one_delivery_each_of_their_own() {
    let mut w = mailbox(|_| {});
    let (a, b) = (w.join(instance("a"), prefetch(9)), w.join(instance("b"), prefetch(9)));
    let keys = said(&[("1", 7), ("2", 8), ("3", 7), ("4", 9), ("5", 8), ("6", 10)]);
    w.deal(&keys, "", Attrs::default());
    let deliveries = w.deliveries();
    assert_eq!(deliveries.iter().map(|d| d.count).collect::<Vec<_>>(), [3, 3]);
    let got: Vec<_> = deliveries.iter().flat_map(|d| w.open(d)).collect();
    let owner = |body: &str| got.iter().find(|s| s.body == body).unwrap().consumer;
    assert!(owner("1") == owner("3") && owner("2") == owner("5") && owner("1") != owner("2"));
    // What one of them gives back is another's only when it holds nothing more of that key.
    let (first, other) = (owner("1"), if owner("1") == a { b } else { a });
    let at = |body: &str| got.iter().find(|s| s.body == body).unwrap().seq;
    w.settle(first, at("3"), 1, Outcome::Released);
    assert_eq!(w.got(), [(first, "3".into())]);
    w.lose(first);
    let mut again: Vec<_> = w.got();
    assert!(again.iter().all(|(c, _)| *c == other));
    let place = |body: &str| again.iter().position(|(_, b)| b == body).unwrap();
    assert!(place("1") < place("3") && again.len() == 3);
    again = w.got();
    assert!(again.is_empty());
    (0..6).for_each(|seq| w.ack(other, seq, 1));
    assert!(w.shard.mailbox_info(super::Q).unwrap().lanes.is_empty());
}

#[test]
fn together_they_keep_to_prefetch_and_to_the_limit_of_the_instance() {
    let mut w = mailbox(|_| {});
    let a = w.join(instance("a"), prefetch(2));
    let mut limited = instance("b");
    limited.max_in_flight = Some(1);
    let b = w.join(limited, prefetch(5));
    w.deal(&said(&[("1", 1), ("2", 2), ("3", 3), ("4", 4), ("5", 1)]), "", Attrs::default());
    let got = w.got();
    assert_eq!(got.iter().filter(|(c, _)| *c == a).count(), 2);
    assert_eq!(got.iter().filter(|(c, _)| *c == b).count(), 1);
    assert_eq!((w.ready(), w.unsettled()), (2, 3));
}

#[test]
fn what_comes_together_waits_behind_what_waits() {
    let mut w = mailbox(|s| s.durable = true);
    let a = w.join(instance("a"), prefetch(1));
    w.send_keyed(&["1", "2"], 7, "");
    w.deal(&said(&[("3", 7), ("4", 8), ("5", 7)]), "", Attrs::default());
    w.deal(&said(&[("6", 7)]), "", PERSISTENT);
    assert_eq!(w.got(), [(a, "1".into())]);
    let b = w.join(instance("b"), prefetch(9));
    assert_eq!(w.got(), [(b, "4".into())]);
    w.lose(a);
    let bodies: Vec<_> = w.got().into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, ["1", "2", "3", "5", "6"]);
}

#[test]
fn without_acknowledgement_keys_are_free_when_they_have_left() {
    let mut w = mailbox(|_| {});
    let seat = Seat { no_ack: true, prefetch: None, ..Seat::default() };
    let a = w.join(instance("a"), seat);
    w.deal(&said(&[("1", 7), ("2", 8), ("3", 7)]), "", Attrs::default());
    assert_eq!(w.got().len(), 3);
    let b = w.join(instance("b"), prefetch(9));
    w.sent(a, 1, 67);
    w.call(|s, cx| s.cancel(a, cx));
    w.send_keyed(&["4"], 7, "");
    w.send_keyed(&["5"], 8, "");
    assert_eq!(w.got(), []);
    w.sent(a, 1, 67);
    assert_eq!(w.got(), [(b, "5".into())]);
    w.sent(a, 1, 67);
    assert_eq!(w.got(), [(b, "4".into())]);
}
