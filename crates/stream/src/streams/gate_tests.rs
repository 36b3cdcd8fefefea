//! Over a journal that is slow to be durable, or takes nothing for a while.

use std::io;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Wake, Waker};
use std::{future::Future, pin::pin};

use waypost_model::Batch as Messages;
use waypost_model::journal::{Op, SpillRef};
use waypost_storage::{Engine, fault::FaultDisk};

use super::tests::{ANYBODY, NOW, Node, open_over};
use super::*;
use crate::groups::Committer;
use crate::partition::Isolation;

/// An engine behind a gate.
struct Gate {
    engine: Arc<Engine>,
    /// No ticket beyond this one is told to be durable.
    upto: AtomicU64,
    /// Nothing is taken.
    full: AtomicBool,
}

impl Journal for Gate {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        if self.full.load(Ordering::SeqCst) { Err(AppendError::Stopped) } else { self.engine.append(ops) }
    }

    fn reserve(&self) -> Lsn {
        self.engine.reserve()
    }

    fn fill(&self, ticket: Lsn, ops: Vec<Op>) -> Result<(), AppendError> {
        self.engine.fill(ticket, ops)
    }

    fn durable(&self) -> Lsn {
        self.engine.durable().min(Lsn(self.upto.load(Ordering::SeqCst)))
    }

    fn spill(&self, batch: &Messages, from: u32, to: u32) -> io::Result<SpillRef> {
        self.engine.spill(batch, from, to)
    }

    fn release_spill(&self, at: SpillRef) {
        self.engine.release_spill(at);
    }
}

fn open_gated(disk: FaultDisk) -> (Node, Arc<Gate>) {
    let mut gate = None;
    let node = open_over(disk, |engine| {
        let new = Arc::new(Gate { engine, upto: AtomicU64::new(u64::MAX), full: AtomicBool::new(false) });
        gate = Some(Arc::clone(&new));
        new
    });
    (node, gate.unwrap())
}

/// Who is told that there is more, just when the rest becomes durable: he tells the streams, as the committer would.
struct MoreDurable {
    node: Arc<Node>,
    gate: Arc<Gate>,
}

impl Wake for MoreDurable {
    fn wake(self: Arc<Self>) {
        self.gate.upto.store(u64::MAX, Ordering::SeqCst);
        self.node.streams.advance();
    }
}

#[test]
fn what_becomes_durable_while_others_are_told_is_not_forgotten() {
    let (node, gate) = open_gated(FaultDisk::new(1));
    let node = Arc::new(node);
    let topic = node.topic("t", 2);
    node.append(&topic, 0, 1, ANYBODY, 0);
    let cells = topic.partitions();
    let waits = cells[0].with(|p| p.waits_for()).unwrap();
    gate.upto.store(waits.0, Ordering::SeqCst);
    node.append(&topic, 1, 1, ANYBODY, 0);
    assert!(waits < cells[1].with(|p| p.waits_for()).unwrap());
    let waker = Waker::from(Arc::new(MoreDurable { node: Arc::clone(&node), gate: Arc::clone(&gate) }));
    let mut grown = pin!(cells[0].grown());
    assert!(grown.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    node.sync();
    assert!(grown.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    // Nobody comes again.
    let watermarks: Vec<u64> = cells.iter().map(|c| c.with(|p| p.offsets().high_watermark)).collect();
    assert_eq!(watermarks, [1, 1]);
}

/// Aborted transactions of one record each, with their markers.
fn abort_many(node: &Node, topic: &Topic, from: i64, count: i64) {
    for id in from..from + count {
        node.append(topic, 0, 1, (id, 0, 0), 16);
        node.abort(&topic.partition(0).unwrap(), id);
        if id % 20 == 19 {
            node.sync();
        }
    }
}

#[test]
fn a_chunk_that_could_not_be_removed_is_removed_before_those_behind_it() {
    let (node, gate) = open_gated(FaultDisk::new(2));
    let topic = node.topic("t", 1);
    let cell = topic.partition(0).unwrap();
    abort_many(&node, &topic, 0, 3000);
    node.streams.maintain(NOW);
    gate.full.store(true, Ordering::SeqCst);
    assert!(cell.delete_before(2 * 1024, &*node.streams.journal).is_err());
    node.streams.maintain(NOW);
    gate.full.store(false, Ordering::SeqCst);
    cell.delete_before(4 * 1024, &*node.streams.journal).unwrap();
    node.streams.maintain(NOW);
    (0..100).for_each(|_| node.sync());
    // It would look as if one were missing in between.
    let node = node.killed();
    let cell = node.streams.topic("/", "t").unwrap().partition(0).unwrap();
    assert_eq!(cell.with(|p| p.aborted(0, u64::MAX)).len(), 3000 - 2048);
    let span = cell.with(|p| p.read(4096, 1, Isolation::ReadCommitted)).unwrap();
    assert_eq!(cell.with(|p| p.aborted(4096, span.upto)).len(), 1);
}

#[test]
fn a_topic_that_could_not_be_deleted_keeps_what_groups_have_committed() {
    let (node, gate) = open_gated(FaultDisk::new(1));
    let topic = node.topic("t", 1);
    let committed = Committed { offset: 1, leader_epoch: -1, metadata: "".into(), at: NOW, ends: None };
    let offsets = vec![("t".into(), 0, committed.clone())];
    node.streams.commit("/", "g", offsets, Committer::Standalone).unwrap();
    let who = node.streams.init_producer("/", "id", 60_000, None, NOW).unwrap().0;
    node.streams.add_group("/", "id", who, "g", NOW).unwrap();
    let group = ("g", Committer::Standalone);
    node.streams.commit_with("/", "id", who, group, vec![("t".into(), 0, committed.clone())]).unwrap();
    gate.full.store(true, Ordering::SeqCst);
    assert!(node.streams.delete("/", "t").is_err());
    assert_eq!(node.streams.committed("/", "g", "t", 0), Some(committed));
    assert!(node.streams.is_unstable("/", "g", "t", 0));
    gate.full.store(false, Ordering::SeqCst);
    assert_eq!(node.append(&topic, 0, 1, ANYBODY, 0), 0, "it goes on");
    node.streams.delete("/", "t").unwrap();
    assert_eq!((node.streams.all_committed("/", "g").len(), node.streams.offsets_kept()), (0, 0));
    assert!(!node.streams.is_unstable("/", "g", "t", 0));
}
