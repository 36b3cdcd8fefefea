//! Lanes: none waits for another, limits hold for all of them together, and a restart finds them again.

use waypost_model::address::Address;
use waypost_model::{Attrs, Millis, Seq};

use super::super::world::{PERSISTENT, Q, World, settings};
use super::{address, instance, mailbox, prefetch};
use crate::context::MemoryBudget;
use crate::shard::{LANES_MAX, Shard};

fn bodies(w: &World) -> Vec<String> {
    w.got().into_iter().map(|(_, body)| body).collect()
}

#[test]
fn lanes_do_not_wait_for_each_other() {
    let mut w = mailbox(|_| {});
    w.send(&["stuck"; 100], "zone=nowhere");
    w.send(&["a", "b"], "zone=eu");
    w.send(&["c"], "");
    w.join(instance("i eu"), prefetch(9));
    assert_eq!(bodies(&w), ["a", "b", "c"]);
}

#[test]
fn an_instance_takes_the_oldest_of_the_most_urgent() {
    let mut w = mailbox(|s| s.max_priority = Some(5));
    let urgent = |n| Attrs { priority: n, ..Attrs::default() };
    w.send(&["1"], "zone=eu");
    w.send(&["2"], "");
    w.send_with(&["3"], address(None, "tag=x"), urgent(5));
    w.send_keyed(&["4"], 1, "");
    w.send_with(&["5"], address(None, ""), urgent(1));
    w.join(instance("i eu x"), prefetch(9));
    assert_eq!(bodies(&w), ["3", "5", "1", "2", "4"]);
}

#[test]
fn more_selectors_than_lanes_share_one_that_is_looked_through() {
    let mut w = mailbox(|_| {});
    let many = usize::from(LANES_MAX) + 100;
    for i in 0..many {
        w.send(&[&i.to_string()], &format!("meta-n={i}"));
    }
    let last = many - 1;
    let who =
        waypost_model::service::Instance { meta: [("n".into(), last.to_string().into())].into(), ..instance("last") };
    w.join(who, prefetch(9));
    assert_eq!(bodies(&w), [last.to_string()]);
    // Straight through, and with a key.
    w.send(&["again"], &format!("meta-n={last}"));
    w.send_keyed(&["keyed"], 5, &format!("meta-n={last}"));
    assert_eq!(bodies(&w), ["again", "keyed"]);
    let info = w.shard.mailbox_info(Q).unwrap();
    assert_eq!(info.lanes.iter().map(|l| l.waiting).sum::<u64>(), many as u64 - 1);
    assert!(info.lanes.iter().any(|l| l.selector.is_none() && l.waiting > 90));
    assert_eq!(w.call(|s, cx| s.purge(Q, cx)), many as u64 - 1);
}

#[test]
fn a_free_instance_gets_what_is_for_it_however_much_waits_for_others() {
    let mut w = mailbox(|_| {});
    let others = usize::from(LANES_MAX) + 2000;
    for i in 0..others {
        w.send(&["other"], &format!("zone=nowhere-{i}"));
    }
    w.send(&["one", "two"], "zone=here");
    let first = w.join(instance("a here"), prefetch(1));
    w.join(instance("b here"), prefetch(1));
    assert_eq!(bodies(&w), [""; 0], "there is too much to look through at once");
    for _ in 0..20 {
        w.advance(2);
        w.tick();
    }
    // No message of them has to wait for another one.
    assert_eq!(bodies(&w), ["one", "two"]);
    w.send(&["three"], "zone=here");
    w.ack(first, others as u64, 1);
    w.ack(first, others as u64 + 1, 1);
    for _ in 0..20 {
        w.advance(2);
        w.tick();
    }
    assert_eq!(bodies(&w), ["three"]);
}

#[test]
fn lanes_that_nobody_needs_make_room() {
    let mut w = mailbox(|_| {});
    let everybody = w.join(instance("i eu"), prefetch(1));
    for i in 0..u64::from(LANES_MAX) * 2 {
        w.send(&["m"], &format!("select=zone == eu and id != \"{i}\""));
        assert_eq!(w.got().len(), 1);
        w.ack(everybody, i, 1);
    }
    assert!(w.shard.mailbox_info(Q).unwrap().lanes.is_empty());
}

#[test]
fn what_came_while_there_was_no_lane_comes_before_what_came_when_there_was_one() {
    let mut w = mailbox(|_| {});
    // More than is looked through at once.
    let others = usize::from(LANES_MAX) + 2000;
    for i in 0..others {
        w.send(&["other"], &format!("meta-n={i}"));
    }
    w.send(&["1", "2"], "zone=x");
    w.send_keyed(&["a", "b"], 9, "zone=y");
    // Lanes become free, of which each could have one.
    for i in 1..5 {
        let n = i.to_string();
        let who = waypost_model::service::Instance { meta: [("n".into(), n.as_str().into())].into(), ..instance(&n) };
        let c = w.join(who, prefetch(1));
        assert_eq!(bodies(&w), ["other"]);
        w.ack(c, i, 1);
    }
    w.send(&["3"], "zone=x");
    w.send_keyed(&["c"], 9, "zone=y");
    w.send(&["4"], "zone=x");
    let mut taken = Vec::new();
    for who in ["i x", "j y"] {
        w.join(instance(who), prefetch(9));
        for _ in 0..20 {
            taken.extend(bodies(&w));
            w.advance(2);
            w.tick();
        }
    }
    assert_eq!(taken, ["1", "2", "3", "4", "a", "b", "c"]);
}

#[test]
fn who_has_nothing_left_in_the_shared_lane_gets_one_of_its_own() {
    let mut w = mailbox(|_| {});
    let late = usize::from(LANES_MAX);
    for i in 0..late {
        w.send(&["other"], &format!("meta-n={i}"));
    }
    let shared = |w: &World| {
        let info = w.shard.mailbox_info(Q).unwrap();
        info.lanes.iter().filter(|l| l.selector.is_none()).map(|l| l.waiting).sum::<u64>()
    };
    let there = shared(&w);
    w.send(&["1"], "zone=x");
    assert_eq!(shared(&w), there + 1);
    let c = w.join(instance("i x"), prefetch(9));
    let zero = waypost_model::service::Instance { meta: [("n".into(), "3".into())].into(), ..instance("three") };
    let three = w.join(zero, prefetch(9));
    assert_eq!(bodies(&w), ["1", "other"]);
    w.ack(three, 3, 1);
    w.ack(c, late as u64, 1);
    w.lose(c);
    w.send(&["2"], "zone=x");
    assert_eq!(shared(&w), there, "it has a lane, and those that wait have not");
}

#[test]
fn expiry_is_exact_in_every_lane() {
    let mut w = mailbox(|_| {});
    let ttl = |ms| Attrs { expiration: Some(ms), ..Attrs::default() };
    w.send_with(&["a"], address(None, "zone=x"), ttl(300));
    w.send_with(&["b"], address(Some(3), "zone=y"), ttl(100));
    w.send_with(&["c"], address(None, "zone=x"), ttl(200));
    for (at, left) in [(100, 2), (200, 1), (300, 0)] {
        assert_eq!(w.shard.next_deadline(), Some(Millis(1000 + at)));
        w.now = Millis(1000 + at - 1);
        w.tick();
        assert_eq!(w.ready(), left + 1);
        w.now = Millis(1000 + at);
        w.tick();
        assert_eq!(w.ready(), left);
    }
}

#[test]
fn overflow_drops_the_oldest_of_the_mailbox() {
    let mut w = mailbox(|s| {
        s.max_length = Some(3);
        s.dead_letter = super::super::world::dead_letter();
    });
    w.send(&["1"], "zone=x");
    w.send_keyed(&["2"], 9, "zone=y");
    w.send(&["3"], "");
    w.send(&["4"], "zone=x");
    w.send(&["5"], "zone=z");
    assert_eq!(w.dead(), [("1".into(), "maxlen"), ("2".into(), "maxlen")]);
    assert_eq!(w.ready(), 3);
}

#[test]
fn copies_end_with_their_recipient_and_wait_for_its_return_after_a_restart() {
    let mut w = mailbox(|s| s.durable = true);
    let to = |id| Address { recipient: Some(id), ..Address::default() };
    w.join(instance("a"), prefetch(1));
    let b = w.join(instance("b"), prefetch(1));
    w.send_with(&["1", "2"], to("a"), PERSISTENT);
    w.send_with(&["3", "4"], to("b"), PERSISTENT);
    w.lose(b);
    w.gone("b");
    assert_eq!((w.ready(), w.shard.mailbox_info(Q).unwrap().ended), (1, 2));
    let mut w = restarted(w);
    w.join(instance("other"), prefetch(9));
    w.advance(59_000);
    w.tick();
    assert_eq!((w.ready(), w.got().len()), (2, 0));
    w.advance(1_000);
    w.tick();
    assert_eq!((w.ready(), w.shard.mailbox_info(Q).unwrap().ended), (0, 2));
    assert_eq!(w.journal.with(|j| j.live.len()), 0);
}

fn restarted(w: World) -> World {
    let runs = w.journal.recovered(Q);
    let mut fresh = World { shard: Shard::new(waypost_model::ShardId(0)), ..World::empty() };
    fresh.journal = w.journal;
    fresh.now = w.now;
    fresh.call(|s, cx| {
        let of = settings(|s| {
            s.durable = true;
            s.service = Some("s".into());
        });
        s.restore(of, runs, Seq(0), false, cx);
    });
    fresh
}

#[test]
fn a_restart_finds_lanes_and_slots() {
    let mut w = mailbox(|s| s.durable = true);
    for i in 0..3 {
        w.send_with(&[&format!("lane {i}")], address(None, "zone=x"), PERSISTENT);
        w.send_with(&[&format!("key {i}")], address(Some(1), "zone=y"), PERSISTENT);
        w.send_with(&[&format!("any {i}")], address(None, ""), PERSISTENT);
    }
    let mut w = restarted(w);
    assert_eq!(w.ready(), 9);
    w.join(instance("y y"), prefetch(3));
    assert_eq!(bodies(&w), ["key 0", "any 0", "key 1"]);
    w.join(instance("x x"), prefetch(9));
    assert_eq!(bodies(&w), ["lane 0", "lane 1", "any 1", "lane 2", "any 2"]);
}

#[test]
fn waiting_messages_of_lanes_leave_memory_too() {
    let mut w = mailbox(|s| s.durable = true);
    w.memory = MemoryBudget::new(10_000);
    let body = "x".repeat(1000);
    for i in 0..60 {
        let slot = (i % 3 == 0).then_some(i);
        w.send_with(&[&body], address(slot, "zone=x"), if i % 2 == 0 { PERSISTENT } else { Attrs::default() });
    }
    w.call(|s, cx| s.relieve(cx));
    assert!(w.memory.used() < 70_000 / 2, "{}", w.memory.used());
    let c = w.join(instance("i x"), prefetch(100));
    assert_eq!(bodies(&w), vec![body; 60]);
    w.ack(c, 0, 60);
    w.call(|s, cx| s.relieve(cx));
    assert_eq!(w.memory.used(), 0);
}

#[test]
fn an_address_of_a_later_release_waits_for_nobody() {
    let mut w = mailbox(|_| {});
    w.join(instance("i"), prefetch(9));
    let route = waypost_model::Route { address: Some([9, 9].into()), ..waypost_model::Route::new("", "s") };
    let mut b = waypost_model::BatchBuilder::default();
    b.push(&[0, 0], b"m");
    let run = crate::shard::Incoming {
        route: route.into(),
        batch: b.finish().into(),
        from: 0,
        to: 1,
        attrs: Attrs::default(),
        at: w.now,
        due: None,
    };
    w.call(|s, cx| s.enqueue(&[Q], run, cx));
    assert_eq!((w.got().len(), w.ready()), (0, 1));
}
