//! The engine over real files: a life with reopenings, and the threads.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use waypost_model::journal::{BodyStore, Enqueue, Journal, Op};
use waypost_model::{Attrs, Batch, BatchBuilder, Millis, QueueId, Route, Seq, SeqRange};
use waypost_storage::{CommitOutcome, Engine, EngineConfig, RealDisk};

fn batch(n: usize, tag: u8, len: usize) -> Arc<Batch> {
    let mut b = BatchBuilder::default();
    (0..n).for_each(|i| b.push(&[0, 0], &vec![tag.wrapping_add(i as u8); len]));
    Arc::new(b.finish())
}

fn enqueue(queue: u64, first: u64, batch: &Arc<Batch>) -> Op {
    Op::Enqueue(Enqueue {
        targets: Box::new([(QueueId(queue), Seq(first))]),
        batch: Arc::clone(batch),
        from: 0,
        to: batch.len() as u32,
        route: Arc::new(Route::new("ex", "key")),
        attrs: Attrs::default(),
        at: Millis(5),
    })
}

fn settle(queue: u64, first: u64, count: u32) -> Op {
    Op::Settle(SeqRange { queue: QueueId(queue), first: Seq(first), count })
}

fn open(dir: &std::path::Path) -> (Engine, waypost_model::journal::Recovered) {
    Engine::open(Arc::new(RealDisk::open_or_create(dir).unwrap()), EngineConfig::small()).unwrap()
}

fn commit(e: &Engine) {
    while let CommitOutcome::Committed(_) = e.commit_once() {}
}

#[test]
fn messages_and_definitions_come_back() {
    let dir = tempfile::tempdir().unwrap();
    for clean in [true, false] {
        let path = dir.path().join(if clean { "clean" } else { "killed" });
        let (e, r) = open(&path);
        assert!(r.runs.is_empty());
        let lsn = e.append(vec![enqueue(7, 0, &batch(10, 1, 16)), enqueue(7, 10, &batch(5, 50, 16))]).unwrap();
        e.append(vec![Op::Define { key: b"k".as_slice().into(), value: Some(b"v".as_slice().into()) }]).unwrap();
        e.append(vec![settle(7, 0, 3)]).unwrap();
        assert!(e.durable() < lsn);
        commit(&e);
        assert!(e.durable() >= lsn);
        if clean {
            e.close().unwrap();
        }
        drop(e);
        let (e, r) = open(&path);
        assert_eq!(r.clean, clean);
        assert_eq!(r.definitions, vec![(b"k".as_slice().into(), b"v".as_slice().into())]);
        assert_eq!(r.next_seq, vec![(QueueId(7), Seq(15))]);
        let ranges: Vec<_> = r.runs.iter().map(|r| (r.range.first.0, r.range.count, r.payload_bytes)).collect();
        assert_eq!(ranges, vec![(3, 12, 12 * 18)]);
        let l = e.load(QueueId(7), Seq(3), 100).unwrap();
        assert_eq!((l.to - l.from, l.batch.body(l.from)), (12, &[4u8; 16][..]));
        assert!(e.load(QueueId(7), Seq(2), 1).is_err());
    }
}

#[test]
fn segments_roll_are_released_and_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let (mut e, _) = open(dir.path());
    let mut next = 0;
    for round in 0..60u64 {
        for q in 0..4 {
            e.append(vec![enqueue(q, next, &batch(8, round as u8, 700))]).unwrap();
        }
        commit(&e);
        // One message in eight stays.
        for q in 0..4 {
            e.append(vec![settle(q, next, 7)]).unwrap();
        }
        next += 8;
        commit(&e);
        e.maintain_once();
        if round % 20 == 19 {
            drop(e);
            (e, _) = open(dir.path());
        }
    }
    let m = e.metrics();
    assert!(m.segment_bytes < 3 * m.live_bytes + (6 << 16), "{m:?}");
    e.close().unwrap();
    drop(e);
    let (e, r) = open(dir.path());
    let live: u32 = r.runs.iter().map(|r| r.range.count).sum();
    assert_eq!(live, 4 * 60);
    for q in 0..4 {
        for round in 0..60u64 {
            let l = e.load(QueueId(q), Seq(round * 8 + 7), 9).unwrap();
            assert_eq!((l.to - l.from, l.batch.body(l.from)[0]), (1, round as u8 + 7));
        }
    }
}

#[test]
fn threads_commit_and_call_back() {
    let dir = tempfile::tempdir().unwrap();
    let (e, _) = open(dir.path());
    let (tx, rx) = mpsc::channel();
    e.start_committer(move |lsn| tx.send(lsn).unwrap_or(())).unwrap();
    let b = batch(100, 0, 16);
    let mut last = e.durable();
    for i in 0..500 {
        last = e.append(vec![enqueue(i % 5, i / 5 * 100, &b)]).unwrap();
    }
    while rx.recv().unwrap() < last {}
    let last = e.append(vec![settle(0, 0, 10)]).unwrap();
    while rx.recv().unwrap() < last {}
    e.close().unwrap();
    drop(e);
    let (_, r) = open(dir.path());
    assert!(r.clean);
    assert_eq!(r.runs.iter().map(|r| r.range.count).sum::<u32>(), 49_990);
}

/// Those who append hold something that whoever is told of commits needs as well, as shards and partitions are held: the
/// committer waits for them, so they must not wait for the committer.
#[test]
fn who_waits_for_room_does_not_keep_the_committer_from_telling() {
    let dir = tempfile::tempdir().unwrap();
    let (e, _) = open(dir.path());
    let (e, held) = (Arc::new(e), Arc::new(Mutex::new([0_u64; 4])));
    e.start_committer({
        let held = Arc::clone(&held);
        move |_| drop(held.lock().unwrap())
    })
    .unwrap();
    let (tx, rx) = mpsc::channel();
    for queue in 0..4 {
        let (e, held, tx) = (Arc::clone(&e), Arc::clone(&held), tx.clone());
        std::thread::spawn(move || {
            let b = batch(1, 0, 8 << 10);
            for _ in 0..500 {
                let mut held = held.lock().unwrap();
                e.append(vec![enqueue(queue, held[queue as usize], &b)]).unwrap();
                held[queue as usize] += 1;
            }
            tx.send(()).unwrap();
        });
    }
    for _ in 0..4 {
        rx.recv_timeout(std::time::Duration::from_secs(60)).expect("they wait for each other");
    }
}

#[test]
fn a_second_opener_is_told_who_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_e, _) = open(dir.path());
    let Err(e) = Engine::open(Arc::new(RealDisk::open_or_create(dir.path()).unwrap()), EngineConfig::small()) else {
        panic!("opened twice");
    };
    assert!(e.to_string().contains(&format!("pid {}", std::process::id())), "{e}");
}

#[test]
fn reserved_tickets_hold_the_watermark_back() {
    let dir = tempfile::tempdir().unwrap();
    let (e, _) = open(dir.path());
    let first = e.reserve();
    let second = e.append(vec![enqueue(1, 0, &batch(1, 1, 10))]).unwrap();
    assert_eq!(e.commit_once(), CommitOutcome::Idle);
    e.fill(first, vec![enqueue(2, 0, &batch(1, 2, 10))]).unwrap();
    assert_eq!(e.commit_once(), CommitOutcome::Committed(second));
}

#[test]
fn spilled_messages_come_back_until_released() {
    let dir = tempfile::tempdir().unwrap();
    let (e, _) = open(dir.path());
    let b = batch(40, 3, 900);
    let at: Vec<_> = (0..20).map(|_| e.spill(&b, 1, 40).unwrap()).collect();
    for a in &at {
        assert_eq!(e.load_spilled(*a).unwrap().body(0), b.body(1));
    }
    at.iter().for_each(|a| e.release_spill(*a));
    assert_eq!(e.metrics().scratch_bytes, 0);
    let refused = (0..100).find_map(|_| e.spill(&b, 0, 40).err()).unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
}
