//! Who gets what, and when.

use std::sync::Arc;

use waypost_model::event::Body;
use waypost_model::{Event, RefusalKind, Reply};

use super::world::{PERSISTENT, Q};
use super::{Setup, World};
use crate::effect::Effect;
use crate::shard::ChannelCredit;

#[test]
fn messages_come_in_order_and_without_copies() {
    let mut w = World::with(|_| {});
    let c = w.consume(Setup::default());
    assert!(
        matches!(&w.events()[..], [Event::Reply { reply: Reply::Consuming { consumer, .. }, .. }] if *consumer == c)
    );
    w.publish(&["a", "b", "c"]);
    let d = w.deliveries();
    assert_eq!(d.len(), 1, "one run is one delivery");
    assert_eq!((d[0].first.0, d[0].count, d[0].cost, d[0].redelivered), (0, 3, 9 + 3 * 64, false));
    w.publish(&["d"]);
    assert_eq!(w.bodies(), ["d"]);
    assert_eq!(w.shard.counts(Q).unwrap().unsettled, 4);
}

#[test]
fn the_reply_comes_before_the_backlog() {
    let mut w = World::with(|_| {});
    w.publish(&["a"]);
    w.publish(&["b"]);
    w.consume(Setup::default());
    let events = w.events();
    assert!(matches!(&events[0], Event::Reply { reply: Reply::Consuming { .. }, .. }));
    assert!(matches!(&events[1], Event::Deliver(d) if d.count == 2), "the backlog has become one run");
}

#[test]
fn prefetch_limits_what_is_unsettled() {
    let mut w = World::with(|_| {});
    let c = w.consume(Setup { prefetch: Some(2), ..Setup::default() });
    w.publish(&["a", "b", "c", "d"]);
    assert_eq!(w.bodies(), ["a", "b"]);
    w.ack(c, 1, 1);
    assert_eq!(w.bodies(), ["c"]);
    w.ack(c, 0, 3);
    assert_eq!(w.bodies(), ["d"]);
    w.ack(c, 3, 1);
    assert_eq!((w.ready(), w.unsettled()), (0, 0));
}

#[test]
fn the_window_is_exceeded_by_one_message_at_most() {
    let mut w = World::with(|_| {});
    let c = w.consume(Setup { window: 150, no_ack: true, ..Setup::default() });
    w.publish(&["a", "b", "c", "d", "e"]);
    // Each costs 67: two leave 16, the third exceeds.
    assert_eq!(w.bodies(), ["a", "b", "c"]);
    w.sent(c, 1, 67);
    assert_eq!(w.bodies(), ["d"]);
    assert_eq!(w.shard.counts(Q).unwrap().unsent, 3);
    w.sent(c, 3, 201);
    assert_eq!(w.bodies(), ["e"]);
}

#[test]
fn a_shared_credit_holds_for_all_consumers_of_the_channel() {
    let mut w = World::with(|_| {});
    let credit = Arc::new(ChannelCredit::new(2));
    let a = w.consume(Setup { credit: Arc::clone(&credit), ..Setup::default() });
    let b = w.consume(Setup { credit: Arc::clone(&credit), ..Setup::default() });
    w.publish(&["1", "2", "3", "4"]);
    assert_eq!(w.bodies(), ["1", "2"]);
    assert_eq!(credit.held(), 2);
    w.ack(a, 0, 1);
    assert_eq!(w.bodies(), ["3"]);
    assert!(credit.wanted());
    credit.limit(0);
    w.call(|s, cx| s.poke(b, cx));
    assert_eq!(w.bodies(), ["4"]);
    w.call(|s, cx| s.release_channel(&[a, b], cx));
    assert_eq!((credit.held(), w.ready()), (0, 3));
}

#[test]
fn small_bursts_alternate() {
    let mut w = World::with(|_| {});
    let a = w.consume(Setup::default());
    let b = w.consume(Setup::default());
    w.publish(&["0", "1", "2", "3", "4"]);
    let who: Vec<_> = w.seen().iter().map(|s| s.consumer).collect();
    assert_eq!(who, [a, b, a, b, a]);
    w.publish(&["5"]);
    assert_eq!(w.seen()[0].consumer, b);
}

#[test]
fn long_runs_are_dealt_out_in_pieces_and_fairly() {
    let mut w = World::with(|_| {});
    let a = w.consume(Setup::default());
    let _b = w.consume(Setup::default());
    w.publish(&vec!["x"; 800]);
    let d = w.deliveries();
    assert!(d.len() < 120, "{} deliveries", d.len());
    let of_a: u32 = d.iter().filter(|d| d.consumer == a).map(|d| d.count).sum();
    assert!((380..=430).contains(&of_a), "{of_a}");
}

#[test]
fn higher_priorities_are_served_first() {
    let mut w = World::with(|_| {});
    let low = w.consume(Setup { priority: 1, ..Setup::default() });
    let high = w.consume(Setup { priority: 2, prefetch: Some(2), ..Setup::default() });
    w.publish(&["0", "1", "2"]);
    let who: Vec<_> = w.seen().iter().map(|s| s.consumer).collect();
    assert_eq!(who, [high, high, low]);
}

#[test]
fn an_exclusive_consumer_is_alone() {
    let mut w = World::with(|_| {});
    let a = w.consume(Setup { exclusive: true, ..Setup::default() });
    let refusal = w.try_consume(Setup::default()).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::AccessRefused);
    assert_eq!(refusal.text, "queue 'q' in vhost '/' in exclusive use");
    w.call(|s, cx| s.cancel(a, cx));
    w.consume(Setup::default());
    assert!(w.try_consume(Setup { exclusive: true, ..Setup::default() }).is_err());
}

#[test]
fn a_single_active_consumer_is_followed_by_the_next() {
    let mut w = World::with(|s| s.single_active_consumer = true);
    let a = w.consume(Setup::default());
    let b = w.consume(Setup::default());
    w.publish(&["0", "1"]);
    assert!(w.seen().iter().all(|s| s.consumer == a));
    w.call(|s, cx| s.cancel(a, cx));
    w.publish(&["2"]);
    // What the first one still holds may come back, and then comes before what nobody has seen.
    assert!(w.seen().is_empty());
    w.ack(a, 0, 2);
    assert_eq!(w.seen()[0].consumer, b);
    let info = w.shard.info(Q).unwrap();
    assert!(info.consumers.iter().all(|c| c.active == (c.id == b)));
}

#[test]
fn a_higher_priority_takes_over_once_nothing_is_unsettled() {
    let mut w = World::with(|s| s.single_active_consumer = true);
    let a = w.consume(Setup::default());
    w.publish(&["0"]);
    let b = w.consume(Setup { priority: 5, ..Setup::default() });
    w.publish(&["1"]);
    let seen = w.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].consumer, a);
    w.ack(a, 0, 1);
    assert_eq!(w.seen()[0].consumer, b);
}

#[test]
fn persistent_messages_wait_for_the_disk() {
    let mut w = World::with(|s| s.durable = true);
    w.journal.with(|s| s.automatic = false);
    w.consume(Setup::default());
    let done = w.publish_with(&["a"], PERSISTENT);
    assert_eq!(done.lsn.unwrap().0, 1);
    w.publish(&["transient, but behind"]);
    assert_eq!(w.bodies(), [""; 0]);
    assert_eq!(w.shard.waits_for(), done.lsn);
    w.journal.with(|s| s.durable = 1);
    w.call(|s, cx| s.durable(done.lsn.unwrap(), cx));
    assert_eq!(w.bodies(), ["a", "transient, but behind"]);
    assert_eq!(w.shard.waits_for(), None);
}

#[test]
fn a_get_may_run_ahead_of_the_disk_but_says_so() {
    let mut w = World::with(|s| s.durable = true);
    w.journal.with(|s| s.automatic = false);
    let done = w.publish_with(&["a"], PERSISTENT);
    let got = w.get(false).unwrap();
    assert_eq!((got.after, got.remaining, got.leaving), (done.lsn, 0, false));
    let c = got.delivery.consumer;
    w.ack(c, 0, 1);
    assert_eq!(w.unsettled(), 0);
    assert!(w.journal.with(|s| s.live.is_empty()));
    assert!(w.get(false).is_none());
}

#[test]
fn gets_of_a_channel_share_a_stand_in() {
    let mut w = World::with(|_| {});
    w.publish(&["a", "b", "c"]);
    let (a, b) = (w.get(false).unwrap(), w.get(false).unwrap());
    assert_eq!(a.delivery.consumer, b.delivery.consumer);
    assert_eq!(w.shard.counts(Q).unwrap().consumers, 0);
    let c = w.get(true).unwrap();
    assert_eq!(w.unsettled(), 2);
    assert_eq!(w.body(&c.delivery.body, Q, c.delivery.first, 0), "c");
    w.call(|s, cx| s.release_channel(&[a.delivery.consumer], cx));
    assert_eq!((w.unsettled(), w.ready()), (0, 2));
    assert!(w.get(false).unwrap().delivery.redelivered);
}

#[test]
fn one_append_serves_all_targets() {
    let mut w = World::empty();
    w.journal.with(|s| s.automatic = true);
    let ids: Vec<_> = (1..=3).map(|i| waypost_model::QueueId(i * 64)).collect();
    for id in &ids {
        w.call(|s, cx| {
            s.create_queue(
                super::world::settings(|q| {
                    q.id = *id;
                    q.durable = true;
                }),
                cx,
            );
        });
    }
    let run = crate::shard::Incoming {
        route: Arc::default(),
        batch: Arc::new(waypost_model::Batch::single(&[0, 0], b"x")),
        from: 0,
        to: 1,
        attrs: PERSISTENT,
        at: w.now,
        due: None,
    };
    let mut targets = ids.clone();
    targets.push(waypost_model::QueueId(6400));
    let done = w.call(|s, cx| s.enqueue(&targets, run, cx));
    assert_eq!((done.accepted, done.missing), (1, 1));
    assert_eq!(w.journal.with(|s| (s.appends, s.live.len())), (1, 3));
}

#[test]
fn deleting_tells_the_consumers() {
    let mut w = World::with(|s| s.durable = true);
    let c = w.consume(Setup { prefetch: Some(1), ..Setup::default() });
    w.publish_with(&["a", "b"], PERSISTENT);
    w.events();
    let deleted = w.call(|s, cx| s.delete_queue(Q, cx)).unwrap();
    assert_eq!((deleted.ready, deleted.messages, deleted.consumers.len()), (1, 2, 1));
    assert!(matches!(&w.events()[..], [Event::Cancelled { consumer, .. }] if *consumer == c));
    assert!(w.journal.with(|s| s.live.is_empty() && s.forgotten.contains(&Q)));
    assert_eq!(w.memory.used(), 0);
    w.ack(c, 0, 1);
    assert!(w.shard.counts(Q).is_none());
}

#[test]
fn auto_delete_follows_the_last_consumer() {
    let mut w = World::with(|s| s.auto_delete = true);
    let a = w.consume(Setup::default());
    let b = w.consume(Setup::default());
    w.call(|s, cx| s.cancel(a, cx));
    assert!(w.effects.is_empty());
    w.call(|s, cx| s.release_channel(&[a, b], cx));
    assert!(matches!(&w.effects[..], [Effect::AutoDelete(Q)]));
}

#[test]
fn a_stuck_peer_pins_little() {
    let mut w = World::with(|_| {});
    w.consume(Setup { no_ack: true, ..Setup::default() });
    for _ in 0..100 {
        w.publish_batch(padded(), Default::default());
    }
    let pinned: usize = w
        .deliveries()
        .iter()
        .map(|d| match &d.body {
            Body::Mem { batch, .. } => batch.footprint(),
            _ => 0,
        })
        .sum();
    assert!(pinned < 1024 * 1024, "{pinned}");
}

/// A small message in a large buffer.
fn padded() -> waypost_model::Batch {
    let slot = waypost_model::Slot { props: 0, props_len: 2, body: 2, body_len: 5 };
    waypost_model::Batch::new(vec![0; 64 * 1024], vec![slot]).unwrap()
}

#[test]
fn totals_outlive_their_queues() {
    let mut w = World::with(|_| {});
    let c = w.consume(Setup { prefetch: Some(2), ..Setup::default() });
    w.publish(&["a", "b", "c"]);
    w.ack(c, 0, 1);
    let before = w.shard.totals();
    assert_eq!((before.ready, before.unacknowledged, before.consumers), (0, 2, 1));
    assert_eq!((before.stats.published, before.stats.delivered, before.stats.acked), (3, 3, 1));
    w.call(|s, cx| s.delete_queue(Q, cx));
    let after = w.shard.totals();
    assert_eq!((after.ready, after.unacknowledged, after.consumers), (0, 0, 0));
    assert_eq!(after.stats, before.stats);
}
