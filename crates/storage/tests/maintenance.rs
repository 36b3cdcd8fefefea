//! What maintenance copies, and what it leaves alone.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::sync::Arc;

use waypost_model::journal::{BodyStore, Enqueue, Journal, Op};
use waypost_model::{Attrs, BatchBuilder, Millis, QueueId, Route, Seq, SeqRange};
use waypost_storage::fault::FaultDisk;
use waypost_storage::{CommitOutcome, Engine, EngineConfig};

const QUEUES: u64 = 100;

fn open(disk: &FaultDisk) -> Engine {
    Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap().0
}

fn commit(e: &Engine) {
    assert!(matches!(e.commit_once(), CommitOutcome::Committed(_)));
}

/// A message of 16 bytes into each queue, `rounds` times, in small commits.
fn fill(e: &Engine, rounds: std::ops::Range<u64>) {
    for n in rounds {
        for queue in 0..QUEUES {
            let mut b = BatchBuilder::default();
            b.push(&[0, 0], &[n as u8; 16]);
            let (batch, route) = (Arc::new(b.finish()), Arc::new(Route::new("", format!("queue-{queue}"))));
            let targets = Box::new([(QueueId(queue), Seq(n))]);
            let (attrs, at) = (Attrs::default(), Millis(n));
            e.append(vec![Op::Enqueue(Enqueue { targets, batch, from: 0, to: 1, route, attrs, at })]).unwrap();
            if queue % 10 == 9 {
                commit(e);
            }
        }
    }
}

fn settle(e: &Engine, rounds: std::ops::Range<u64>) {
    for queue in 0..QUEUES {
        let count = (rounds.end - rounds.start) as u32;
        let range = SeqRange { queue: QueueId(queue), first: Seq(rounds.start), count };
        e.append(vec![Op::Settle(range)]).unwrap();
    }
    commit(e);
}

fn maintain_until_idle(e: &Engine) {
    for _ in 0..500 {
        if !e.maintain_once().any() {
            return;
        }
    }
    panic!("maintenance never ends");
}

/// Each queue's messages, as a start finds them and as they are read one by one.
fn contents(disk: &FaultDisk) -> Vec<(u64, u64, u8)> {
    let (e, r) = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap();
    let mut found = Vec::new();
    for run in &r.runs {
        let queue = run.range.queue;
        assert_eq!(run.route.routing_key.as_ref(), format!("queue-{queue}").as_bytes());
        assert_eq!(run.payload_bytes, 18 * u64::from(run.range.count));
        for i in 0..u64::from(run.range.count) {
            let seq = Seq(run.range.first.0 + i);
            let l = e.load(queue, seq, 1).unwrap();
            found.push((queue.0, seq.0, l.batch.body(l.from)[0]));
        }
    }
    drop(e);
    disk.kill();
    found.sort_unstable();
    found
}

#[test]
fn messages_that_share_chunks_are_told_apart_before_and_after_they_are_copied() {
    let disk = FaultDisk::new(4);
    let e = open(&disk);
    fill(&e, 0..200);
    let m = e.metrics();
    assert!(m.written_bytes < 60 * m.messages, "{m:?}");
    for n in (0..200).step_by(5) {
        settle(&e, n..n + 4);
    }
    let expected: Vec<_> = (0..QUEUES).flat_map(|q| (4..200).step_by(5).map(move |n| (q, n, n as u8))).collect();
    drop(e);
    disk.kill();
    assert_eq!(contents(&disk), expected);
    let e = open(&disk);
    maintain_until_idle(&e);
    assert!(e.metrics().rewritten_bytes > 0);
    e.close().unwrap();
    drop(e);
    disk.kill();
    assert_eq!(contents(&disk), expected);
}

#[test]
fn a_body_in_several_queues_is_copied_once() {
    let e = open(&FaultDisk::new(5));
    let mut b = BatchBuilder::default();
    b.push(&[0, 0], &[7; 4000]);
    let (batch, route) = (Arc::new(b.finish()), Arc::new(Route::new("fan", "")));
    for n in 0..200 {
        let targets = (1..=3).map(|q| (QueueId(q), Seq(n))).collect();
        let (batch, route, attrs) = (Arc::clone(&batch), Arc::clone(&route), Attrs::default());
        e.append(vec![Op::Enqueue(Enqueue { targets, batch, from: 0, to: 1, route, attrs, at: Millis(n) })]).unwrap();
        commit(&e);
    }
    for queue in 1..=3 {
        for n in (0..200).filter(|n| n % 10 != 0) {
            e.append(vec![Op::Settle(SeqRange { queue: QueueId(queue), first: Seq(n), count: 1 })]).unwrap();
        }
        commit(&e);
    }
    maintain_until_idle(&e);
    let copied = e.metrics().rewritten_bytes;
    assert!(copied > 40_000, "{copied}");
    assert!(copied < 120_000, "20 bodies, not 60: {copied}");
}

#[test]
fn tiny_messages_that_are_all_live_are_left_alone() {
    let e = open(&FaultDisk::new(1));
    fill(&e, 0..300);
    maintain_until_idle(&e);
    let m = e.metrics();
    assert!(m.segments > 10, "{m:?}");
    assert_eq!(m.rewritten_bytes, 0);
    assert!(m.live_bytes * 100 > m.segment_bytes * 85, "{m:?}");
}

#[test]
fn survivors_are_copied_once() {
    let disk = FaultDisk::new(2);
    let e = open(&disk);
    fill(&e, 0..600);
    // Three of four in each segment.
    for n in (0..600).step_by(4) {
        settle(&e, n..n + 3);
    }
    maintain_until_idle(&e);
    let copied = e.metrics().rewritten_bytes;
    assert!(copied > 0);
    e.maintain_once();
    assert_eq!(e.metrics().rewritten_bytes, copied);
    e.close().unwrap();
    drop(e);
    disk.kill();
    // What recovery finds is weighed in the same way.
    let e = open(&disk);
    let m = e.metrics();
    maintain_until_idle(&e);
    assert_eq!(e.metrics().rewritten_bytes, 0, "{m:?}");
    // A cold segment that loses something later is copied again.
    for n in (0..600).step_by(10) {
        settle(&e, n..n + 9);
    }
    maintain_until_idle(&e);
    assert!(e.metrics().rewritten_bytes > 0);
}

#[test]
fn an_open_copies_nothing() {
    let disk = FaultDisk::new(3);
    let e = open(&disk);
    fill(&e, 0..600);
    settle(&e, 0..570);
    e.close().unwrap();
    drop(e);
    disk.kill();
    let e = open(&disk);
    assert_eq!(e.metrics().rewritten_bytes, 0);
    maintain_until_idle(&e);
    assert!(e.metrics().rewritten_bytes > 0, "there was something to copy");
}
