use super::*;
use crate::config::EngineConfig;
use crate::disk::Disk;
use crate::disk::fault::FaultDisk;
use crate::spans::{AHEAD_KEPT_MAX, AHEAD_MAX, FREE_MAX, IDLE_MAX, KEPT_MAX, PASSED_MAX, REFUSED_MAX};
use waypost_model::journal::{Enqueue, Op};
use waypost_model::{Attrs, Millis, Route};

const BODY: usize = 30_000;

fn enqueue(queue: u64, place: u64, body: &[u8]) -> Op {
    Op::Enqueue(Enqueue {
        targets: Box::new([(QueueId(queue), Seq(place))]),
        batch: Arc::new(Batch::single(&[0, 0], body)),
        from: 0,
        to: 1,
        route: Arc::new(Route::new("", "")),
        attrs: Attrs::default(),
        at: Millis(1),
    })
}

fn body(place: u64) -> Vec<u8> {
    vec![(place as u8).wrapping_add(1); BODY + place as usize]
}

/// Messages of queue 7, with some of queue 8 in between, over several segments.
fn store(disk: &FaultDisk, messages: u64) -> Engine {
    let cfg = EngineConfig { segment_bytes: 2 << 20, ..EngineConfig::small() };
    let (e, _) = Engine::open(Arc::new(disk.clone()), cfg).unwrap();
    for place in 0..messages {
        e.append(vec![enqueue(7, place, &body(place))]).unwrap();
        e.append(vec![enqueue(8, place, &[9; 20])]).unwrap();
        if place % 3 == 0 {
            let _ = e.commit_once();
            e.maintain_once();
        }
    }
    let _ = e.commit_once();
    e
}

fn places(from: impl IntoIterator<Item = u64>) -> Vec<(QueueId, Seq)> {
    from.into_iter().map(|p| (QueueId(7), Seq(p))).collect()
}

fn check(e: &Engine, asked: &[(QueueId, Seq)]) {
    let bodies = e.load_bodies(asked).unwrap();
    assert_eq!(bodies.len(), asked.len());
    for ((_, place), loaded) in asked.iter().zip(&bodies) {
        assert!(loaded.as_ref() == body(place.0), "{place:?}");
    }
}

#[test]
fn many_messages_come_back_as_they_were_whatever_lies_between_them() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 150);
    check(&e, &places(0..150));
    // With gaps that are read along, gaps that are read around, and backwards.
    check(&e, &places((0..150).filter(|p| p % 2 == 0)));
    check(&e, &places((0..150).filter(|p| p % 10 < 5)));
    check(&e, &places((0..150).rev()));
    check(&e, &places([149]));
    let (kept, ahead, free) = e.shared.spans.counts();
    assert!(kept <= KEPT_MAX && ahead <= AHEAD_KEPT_MAX && free <= FREE_MAX);
}

#[test]
fn what_is_missing_or_damaged_ends_the_list() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 40);
    assert_eq!(e.load_bodies(&places([1000])).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(e.load_bodies(&places([0, 1, 1000, 2])).unwrap().len(), 2);
    let found = e.shared.find(QueueId(7), Seq(20)).unwrap();
    disk.flip_bit(&found.segment.id.file_name(), (found.at() + 500) * 8);
    // Its neighbours in the chunk are lost with it.
    let (from, to) = (found.range.first, found.range.end());
    assert_eq!(e.load_bodies(&places(0..40)).unwrap().len() as u64, from);
    assert_eq!(e.load_bodies(&places(20..40)).unwrap_err().kind(), io::ErrorKind::InvalidData);
    check(&e, &places(to..40));
}

#[test]
fn what_is_written_behind_a_span_that_was_read_is_read_as_it_is_now() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 0);
    for round in 0..20 {
        let from = round * 10;
        for place in from..from + 9 {
            e.append(vec![enqueue(7, place, &body(place))]).unwrap();
        }
        let _ = e.commit_once();
        e.maintain_once();
        check(&e, &places(from..from + 9));
        // Most of the time in the block in which the last one ended.
        e.append(vec![enqueue(7, from + 9, b"little")]).unwrap();
        let _ = e.commit_once();
        assert_eq!(e.load_bodies(&places([from + 9])).unwrap()[0].as_ref(), b"little", "{round}");
    }
}

#[test]
fn buffers_are_used_again() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 400);
    for _ in 0..3 {
        check(&e, &places(0..400));
    }
    let (kept, _, free) = e.shared.spans.counts();
    assert!(free >= 1 && kept + free <= KEPT_MAX + FREE_MAX, "{kept} {free}");
}

#[test]
fn what_was_read_ahead_is_at_hand_and_nothing_else() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 150);
    let asked = places(0..150);
    assert!(e.bodies_at_hand(&asked).is_empty());
    let ahead = e.read_ahead(&asked);
    assert!(ahead > 1 && ahead < 150, "{ahead}: up to the end of a segment");
    // Twice is once.
    assert_eq!(e.read_ahead(&asked), ahead);
    let found = e.bodies_at_hand(&asked);
    assert_eq!(found.len(), ahead);
    assert!(found.iter().zip(0..).all(|(loaded, place)| loaded.as_ref() == body(place)));
    assert_eq!(e.bodies_at_hand(&asked[ahead - 1..]).len(), 1);
    assert!(e.bodies_at_hand(&asked[ahead..]).is_empty());
    check(&e, &asked);
}

#[test]
fn what_was_read_before_goes_into_the_systems_cache_and_is_at_hand_from_then_on() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 1500);
    let segment = e.shared.find(QueueId(7), Seq(5)).unwrap().segment;
    // How many messages were read ahead, and how many were at hand.
    let read_all = || {
        let (mut at, mut to, mut ahead, mut at_hand) = (0, 0, 0, 0);
        while at < 1400 {
            if to < at + 20 {
                let count = e.read_ahead(&places(to.max(at)..1500)) as u64;
                to = to.max(at) + count;
                ahead += count;
            }
            at_hand += e.bodies_at_hand(&places(at..at + 10)).len();
            check(&e, &places(at..at + 10));
            at += 10;
        }
        (ahead, at_hand)
    };
    for (cached, reading) in [(false, "first"), (true, "second")] {
        let (ahead, at_hand) = read_all();
        assert!(ahead >= 1400 && at_hand > 1300, "{reading}: {ahead} {at_hand}");
        assert_eq!(segment.is_cached(0, 2_000_000), cached, "{reading}");
    }
    // But for the ends of segments, which nobody has read beyond.
    let (ahead, at_hand) = read_all();
    assert!(ahead < 300 && at_hand > 1300, "{ahead} {at_hand}");
}

/// Reads ahead from this message on, and takes the first message if it `comes`; how many are at hand.
fn ahead(e: &Engine, from: u64, to: u64, comes: bool) -> (u64, Vec<LoadedBody>) {
    let asked = places(from..to);
    let count = e.read_ahead(&asked);
    (count as u64, if comes { e.bodies_at_hand(&asked[..1]) } else { Vec::new() })
}

#[test]
fn whoever_reads_on_always_has_something_ahead() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 3000);
    let (mut at, mut to) = (0, 0);
    while at < 2990 {
        if to < at + 20 {
            let count = ahead(&e, to, 3000, false).0;
            // The last piece may be too little for a read of its own.
            assert!(count > 0 || to > 2990, "{to}");
            to += count;
        }
        // Answers end where they end, in one piece or in the next.
        check(&e, &places(at..at + 10));
        at += 10;
        let (kept, ahead, free) = e.shared.spans.counts();
        assert!(kept <= KEPT_MAX && ahead <= 2 + PASSED_MAX && free <= FREE_MAX, "{kept} {ahead} {free}");
    }
}

#[test]
fn what_nobody_comes_for_takes_so_much_memory_and_no_more() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 3000);
    let (mut from, mut ends) = (0, Vec::new());
    loop {
        let (count, _) = ahead(&e, from, 3000, false);
        if count == 0 {
            break;
        }
        from += count;
        ends.push(from);
    }
    assert_eq!(ends.len(), AHEAD_KEPT_MAX);
    // Somebody may still come, but one day it goes.
    assert_eq!(e.bodies_at_hand(&places([0])).len(), 1);
    let refused = (0..1000).take_while(|_| ahead(&e, from, 3000, false).0 == 0).count();
    assert_eq!(refused, REFUSED_MAX as usize - 2);
    assert!(e.bodies_at_hand(&places([0])).is_empty());
    assert_eq!(e.bodies_at_hand(&places([ends[0]])).len(), 1);
}

#[test]
fn once_nobody_reads_any_more_the_memory_is_given_back() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 400);
    let asked = places(0..400);
    assert!(e.read_ahead(&asked) > 0);
    check(&e, &asked);
    let trim = |times| (0..times).for_each(|_| e.shared.spans.trim());
    trim(IDLE_MAX - 1);
    let held = e.bodies_at_hand(&asked[399..]);
    trim(IDLE_MAX - 1);
    let (kept, ahead, free) = e.shared.spans.counts();
    assert!(kept + ahead > 0 && free > 0);
    trim(1);
    assert_eq!(e.shared.spans.counts(), (0, 0, 0));
    // But for what somebody has.
    assert!(held.iter().all(|loaded| loaded.as_ref() == body(399)));
    check(&e, &asked);
}

#[test]
fn what_somebody_is_still_being_sent_counts() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 3000);
    let (mut from, mut held) = (0, Vec::new());
    loop {
        let (count, bodies) = ahead(&e, from, 3000, true);
        if count == 0 {
            break;
        }
        held.extend(bodies);
        from += count;
        // All of it was had.
        e.bodies_at_hand(&places(from - count..from));
    }
    assert_eq!(held.len(), AHEAD_MAX);
    held.clear();
    assert!(ahead(&e, from, 3000, false).0 > 0);
}

#[test]
fn damage_ends_what_is_at_hand_too() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 40);
    let found = e.shared.find(QueueId(7), Seq(20)).unwrap();
    disk.flip_bit(&found.segment.id.file_name(), (found.at() + 500) * 8);
    let asked = places(0..40);
    assert_eq!(e.read_ahead(&asked), 40, "nobody has looked at it");
    assert_eq!(e.bodies_at_hand(&asked).len() as u64, found.range.first);
    assert!(e.bodies_at_hand(&places([20])).is_empty());
    assert_eq!(e.load_bodies(&places([20])).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn whoever_takes_little_of_a_span_holds_little() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 150);
    check(&e, &places(0..20));
    let first = e.shared.find(QueueId(7), Seq(0)).unwrap();
    let span = e.shared.spans.with(&first.segment, first.at(), first.end()).unwrap().bytes;
    let held = Arc::strong_count(&span);
    let little = e.load_bodies(&places([3, 11])).unwrap();
    assert_eq!(Arc::strong_count(&span), held);
    assert!(little[0].as_ref() == body(3) && little[1].as_ref() == body(11));
    let much = e.load_bodies(&places(0..20)).unwrap();
    assert_eq!(Arc::strong_count(&span), held + much.len());
}

#[test]
fn what_was_read_holds_no_room_of_what_is_gone() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 150);
    check(&e, &places(0..60));
    assert!(e.read_ahead(&places(80..150)) > 0);
    e.append(vec![Op::Forget(QueueId(7)), Op::Forget(QueueId(8))]).unwrap();
    let _ = e.commit_once();
    for _ in 0..3 {
        e.maintain_once();
    }
    let mut left = disk.list().unwrap();
    left.retain(|name| name.starts_with("seg-"));
    assert_eq!(left.len(), 2, "the active one and the next: {left:?}");
}

#[test]
fn very_long_messages_are_not_kept() {
    let disk = FaultDisk::new(5);
    let e = store(&disk, 0);
    let long = vec![7; 5 << 20];
    for place in 0..12 {
        e.append(vec![enqueue(7, place, &long)]).unwrap();
        let _ = e.commit_once();
        e.maintain_once();
    }
    assert_eq!(e.read_ahead(&places(0..12)), 0);
    assert!(e.load_bodies(&places(0..12)).unwrap().iter().all(|body| body.as_ref() == long));
    assert_eq!(e.shared.spans.counts(), (0, 0, 0));
}
