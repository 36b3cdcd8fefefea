//! Queues that hold the messages of a delayed exchange.

use waypost_model::{Attrs, Seq};

use super::world::{PERSISTENT, Q, settings};
use super::{Setup, World};

fn delayed(ms: u32) -> Attrs {
    Attrs { expiration: Some(ms), ..PERSISTENT }
}

#[test]
fn each_is_due_in_its_time() {
    let mut w = World::with(|s| {
        s.delay_of = Some(1);
        s.durable = true;
    });
    w.publish_with(&["30"], delayed(30));
    w.publish_with(&["10"], delayed(10));
    w.publish_with(&["20", "20 too"], delayed(20));
    w.publish_with(&["10 later"], delayed(10));
    w.advance(10);
    w.tick();
    assert_eq!(w.shard.counts(Q).unwrap().leaving, 2);
    assert_eq!(w.dead(), [("10".into(), "due"), ("10 later".into(), "due")]);
    w.advance(20);
    w.tick();
    let due: Vec<_> = w.dead().into_iter().map(|(body, _)| body).collect();
    assert_eq!(due, ["20", "20 too", "30"]);
    assert!(w.journal.with(|s| s.live.is_empty()));
    assert_eq!((w.memory.used(), w.shard.next_deadline()), (0, None));
}

#[test]
fn they_survive_a_restart_at_their_times() {
    let mut w = World::with(|s| {
        s.delay_of = Some(1);
        s.durable = true;
    });
    w.publish_with(&["50"], delayed(50));
    w.publish_with(&["10"], delayed(10));
    let runs = w.journal.recovered(Q);
    let mut after = World::empty();
    std::mem::swap(&mut after.journal, &mut w.journal);
    after.advance(20);
    let s = settings(|s| {
        s.delay_of = Some(1);
        s.durable = true;
    });
    after.call(|shard, cx| shard.restore(s, runs, Seq(2), false, cx));
    after.tick();
    assert_eq!(after.dead(), [("10".into(), "due")]);
    after.advance(29);
    after.tick();
    assert!(after.dead().is_empty());
    after.advance(1);
    after.tick();
    assert_eq!(after.dead(), [("50".into(), "due")]);
}

#[test]
fn nobody_consumes_them() {
    let mut w = World::with(|s| s.delay_of = Some(1));
    w.consume(Setup::default());
    w.publish_with(&["x"], Attrs { expiration: Some(5), ..Attrs::default() });
    w.advance(5);
    assert!(w.deliveries().is_empty());
    w.tick();
    assert_eq!(w.dead().len(), 1);
}
