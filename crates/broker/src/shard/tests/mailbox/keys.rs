//! Keys: one owner at a time, in order, whatever happens.

use waypost_model::command::Outcome;
use waypost_model::service::Health;

use super::{instance, mailbox, prefetch, standing};

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
