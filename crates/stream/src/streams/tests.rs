//! Topics over the storage engine, closed, killed and opened again.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use waypost_model::Batch as Messages;
use waypost_model::journal::{Op, SpillRef};
use waypost_storage::{Engine, EngineConfig, fault::FaultDisk};

use super::*;
use crate::batch::{Batch, sample::produced};
use crate::groups::Committer;
use crate::partition::{Isolation, Marker, Packed};

pub(super) const NOW: Millis = Millis(1_000_000);

pub(super) struct Node {
    pub disk: FaultDisk,
    pub engine: Arc<Engine>,
    pub streams: Streams,
}

pub(super) fn open(disk: FaultDisk) -> Node {
    open_over(disk, |engine| engine)
}

/// The same over a journal made of the engine.
pub(super) fn open_over(disk: FaultDisk, journal: impl FnOnce(Arc<Engine>) -> Arc<dyn Journal>) -> Node {
    let (engine, mut recovered) = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap();
    let engine = Arc::new(engine);
    let share = Share::split_off(&mut recovered);
    assert!(recovered.definitions.is_empty() && recovered.next_seq.is_empty());
    let (journal, bodies) = (journal(Arc::clone(&engine)), Arc::clone(&engine) as Arc<dyn BodyStore>);
    let streams = Streams::open(journal, bodies, share, [7; 16]).unwrap();
    Node { disk, engine, streams }
}

/// A journal of which every append is seen.
pub(super) struct Watched<F> {
    pub journal: Arc<dyn Journal>,
    pub watch: F,
}

impl<F: Fn(&[Op]) + Send + Sync> Journal for Watched<F> {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        (self.watch)(&ops);
        self.journal.append(ops)
    }

    fn reserve(&self) -> Lsn {
        self.journal.reserve()
    }

    fn fill(&self, ticket: Lsn, ops: Vec<Op>) -> Result<(), AppendError> {
        self.journal.fill(ticket, ops)
    }

    fn durable(&self) -> Lsn {
        self.journal.durable()
    }

    fn spill(&self, batch: &Messages, from: u32, to: u32) -> std::io::Result<SpillRef> {
        self.journal.spill(batch, from, to)
    }

    fn release_spill(&self, at: SpillRef) {
        self.journal.release_spill(at);
    }
}

/// The bytes of definitions.
pub(super) fn defined_bytes(ops: &[Op]) -> usize {
    let bytes = |op: &Op| match op {
        Op::Define { key, value } => key.len() + value.as_ref().map_or(0, |value| value.len()),
        _ => 0,
    };
    ops.iter().map(bytes).sum()
}

impl Node {
    pub fn new() -> Node {
        open(FaultDisk::new(1))
    }

    pub fn sync(&self) {
        let _ = self.engine.commit_once();
        self.streams.advance();
        lock(&self.streams.offsets).check();
    }

    /// Stops without a word and starts again.
    pub fn killed(self) -> Node {
        self.disk.crash();
        let disk = self.disk.clone();
        drop(self);
        open(disk)
    }

    pub fn topic(&self, name: &str, partitions: u32) -> Arc<Topic> {
        self.streams.create("/", name, partitions, TopicConfig::default()).unwrap().0
    }

    pub fn append(&self, topic: &Topic, partition: i32, count: i32, producer: (i64, i16, i32), attributes: i16) -> u64 {
        let cell = topic.partition(partition).unwrap();
        let bytes = produced(count, attributes, 1_000_000, producer);
        let batch = Batch::split(&bytes).unwrap().0;
        let appended = cell.append(Packed::copy(&batch), &topic.config(), &*self.streams.journal, NOW).unwrap();
        if let Some(lsn) = appended.lsn {
            self.streams.appended(&cell, lsn);
        }
        appended.base_offset
    }

    pub fn abort(&self, cell: &Arc<Cell>, producer_id: i64) {
        let (op, ending) = cell.with(|p| p.end(producer_id, 0, Marker::Abort, NOW)).unwrap().unwrap();
        let lsn = self.streams.journal.append(vec![op]).unwrap();
        cell.with(|p| p.ended(ending, lsn));
        self.streams.appended(cell, lsn);
    }

    pub fn read(&self, topic: &Topic, partition: i32, offset: u64) -> Vec<(i64, i64)> {
        let cell = topic.partition(partition).unwrap();
        let span = cell.with(|p| p.read(offset, usize::MAX, Isolation::ReadUncommitted)).unwrap();
        let range = |piece| {
            let (messages, at) = cell.load(piece, &*self.streams.bodies).unwrap();
            let batch = Batch::split(messages.body(at)).unwrap().0;
            (batch.base_offset(), batch.last_offset())
        };
        span.batches.iter().map(range).collect()
    }
}

const TRANSACTIONAL: i16 = 16;

pub(super) const ANYBODY: (i64, i16, i32) = (-1, -1, -1);

#[test]
fn what_was_durable_is_there_after_a_crash() {
    let node = Node::new();
    let topic = node.topic("orders", 2);
    assert_eq!(node.append(&topic, 0, 3, ANYBODY, 0), 0);
    assert_eq!(node.append(&topic, 1, 1, ANYBODY, 0), 0);
    assert_eq!(node.append(&topic, 0, 2, ANYBODY, 0), 3);
    assert!(node.read(&topic, 0, 0).is_empty());
    node.sync();
    assert_eq!(node.read(&topic, 0, 0), [(0, 2), (3, 4)]);
    let (id, lsn) = node.streams.new_producer_id().unwrap();
    assert!(lsn.is_some());
    node.sync();
    let node = node.killed();
    let again = node.streams.topic("/", "orders").unwrap();
    assert_eq!((again.id, node.streams.topic_by_id(topic.id).is_some()), (topic.id, true));
    assert_eq!(node.read(&again, 0, 0), [(0, 2), (3, 4)]);
    assert_eq!(node.read(&again, 1, 0), [(0, 0)]);
    assert_eq!(node.append(&again, 0, 1, ANYBODY, 0), 5);
    assert!(node.streams.new_producer_id().unwrap().0 > id);
}

#[test]
fn idempotence_and_transactions_survive_with_and_without_a_snapshot() {
    for snapshot in [false, true] {
        let node = Node::new();
        let topic = node.topic("t", 1);
        node.append(&topic, 0, 2, (9, 0, 0), 0);
        node.append(&topic, 0, 1, (5, 0, 0), TRANSACTIONAL);
        let cell = topic.partition(0).unwrap();
        node.abort(&cell, 5);
        node.append(&topic, 0, 1, (5, 0, 1), TRANSACTIONAL);
        if snapshot {
            node.streams.close();
        }
        node.append(&topic, 0, 3, (9, 0, 2), 0);
        node.sync();
        let before = cell.with(|p| (p.offsets(), p.aborted(0, 99)));
        let node = node.killed();
        let topic = node.streams.topic("/", "t").unwrap();
        let cell = topic.partition(0).unwrap();
        assert_eq!(cell.with(|p| (p.offsets(), p.aborted(0, 99))), before, "snapshot {snapshot}");
        // Sent again by somebody who did not hear the answer.
        assert_eq!(node.append(&topic, 0, 3, (9, 0, 2), 0), 5);
        assert_eq!(node.append(&topic, 0, 1, (9, 0, 5), 0), 8);
    }
}

#[test]
fn however_many_transactions_were_aborted_all_are_known_after_a_start() {
    let mut node = Node::new();
    let all = |node: &Node| {
        let cell = node.streams.topic("/", "t").unwrap().partition(0).unwrap();
        cell.with(|p| (p.offsets(), p.aborted(0, u64::MAX), p.kept_chunks().len()))
    };
    node.topic("t", 1);
    for round in 0..3 {
        let topic = node.streams.topic("/", "t").unwrap();
        let cell = topic.partition(0).unwrap();
        for n in 0..1500 {
            node.append(&topic, 0, 1, (5, 0, round * 1500 + n), TRANSACTIONAL);
            node.abort(&cell, 5);
            // A commit takes so many at once.
            node.sync();
        }
        node.streams.maintain(NOW);
        node.sync();
        let before = all(&node);
        node = node.killed();
        assert_eq!(all(&node), before, "round {round}");
    }
    assert_eq!((all(&node).1.len(), all(&node).2), (4500, 4));
    // What lies before the log's start goes, chunks and all.
    let cell = node.streams.topic("/", "t").unwrap().partition(0).unwrap();
    cell.delete_before(5000, &*node.streams.journal).unwrap();
    node.sync();
    let before = all(&node);
    assert_eq!((before.1[0].last, before.1.len(), before.2), (5001, 2000, 2));
    node = node.killed();
    assert_eq!(all(&node), before);
    node.streams.delete("/", "t").unwrap();
    node.sync();
    assert!(node.killed().streams.topics("/").is_empty());
}

#[test]
fn a_topic_of_the_same_name_is_another_one() {
    let node = Node::new();
    let first = node.topic("t", 1);
    node.append(&first, 0, 3, ANYBODY, 0);
    let committed = Committed { offset: 3, leader_epoch: -1, metadata: "m".into(), at: NOW, ends: None };
    node.streams.commit("/", "g", vec![("t".into(), 0, committed.clone())], Committer::Standalone).unwrap();
    node.sync();
    let queue = first.partitions()[0].queue();
    node.streams.delete("/", "t").unwrap();
    assert!(first.partitions()[0].is_closed());
    assert_eq!(node.streams.committed("/", "g", "t", 0), None);
    node.sync();
    let node = node.killed();
    assert!(node.streams.topics("/").is_empty());
    let second = node.topic("t", 1);
    assert_ne!((second.partitions()[0].queue(), second.id), (queue, first.id));
    assert_eq!(node.append(&second, 0, 1, ANYBODY, 0), 0);
    assert_eq!(node.streams.all_committed("/", "g"), []);
}

#[test]
fn nothing_of_a_topic_comes_behind_its_end() {
    let node = Node::new();
    let topic = node.topic("t", 1);
    let cell = topic.partition(0).unwrap();
    node.append(&topic, 0, 1, (9, 0, 0), 0);
    node.sync();
    node.streams.delete("/", "t").unwrap();
    // Of those who had found it before.
    let bytes = produced(1, 0, 1_000_000, ANYBODY);
    let late = Packed::copy(&Batch::split(&bytes).unwrap().0);
    let journal = &*node.streams.journal;
    assert_eq!(cell.append(late, &topic.config(), journal, NOW), Err(AppendFault::Deleted));
    assert_eq!(cell.delete_before(1, journal).unwrap(), (1, None));
    cell.snapshot(0, journal);
    cell.maintain(&topic.config(), journal, NOW.plus(1 << 40));
    node.sync();
    node.disk.crash();
    let (_engine, recovered) = Engine::open(Arc::new(node.disk.clone()), EngineConfig::small()).unwrap();
    let kinds: Vec<u8> = recovered.definitions.iter().map(|(key, _)| key[0]).collect();
    assert_eq!((kinds, recovered.runs.of(cell.queue()).len()), (vec![keep::NUMBERS], 0));
}

#[test]
fn configuration_partitions_and_offsets_are_kept() {
    let node = Node::new();
    let topic = node.topic("t", 1);
    node.append(&topic, 0, 10, ANYBODY, 0);
    node.sync();
    node.streams.grow("/", "t", 3).unwrap();
    assert!(matches!(node.streams.grow("/", "t", 3), Err(TopicFault::Partitions { asked: 3, .. })));
    node.streams.configure("/", "t", |c| c.with([("retention.ms", Some("5000"))])).unwrap();
    let at = |offset| Committed { offset, leader_epoch: 0, metadata: "".into(), at: NOW, ends: None };
    node.streams.commit("/", "g", vec![("t".into(), 0, at(4)), ("t".into(), 2, at(7))], Committer::Group).unwrap();
    node.streams.forget_offsets("/", "g", Some(&[("t".into(), 2)])).unwrap();
    node.sync();
    // What retention removed stays removed, and the next record has the next offset.
    node.streams.maintain(Millis(2_000_000));
    node.streams.maintain(Millis(2_005_000));
    node.sync();
    let node = node.killed();
    let topic = node.streams.topic("/", "t").unwrap();
    assert_eq!((topic.partitions().len(), topic.config().retention_ms), (3, Some(5000)));
    assert_eq!(node.streams.all_committed("/", "g"), [("t".into(), 0, at(4))]);
    assert_eq!(node.streams.groups_with_offsets("/"), ["g".into()]);
    assert_eq!(topic.partition(0).unwrap().with(|p| p.offsets().start), 10);
    assert_eq!(node.append(&topic, 0, 1, ANYBODY, 0), 10);
}

#[test]
fn readers_are_woken_when_more_is_visible() {
    let node = Node::new();
    let topic = node.topic("t", 1);
    let cell = topic.partition(0).unwrap();
    let mut grown = pin!(cell.grown());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(grown.as_mut().poll(&mut cx).is_pending());
    node.append(&topic, 0, 1, ANYBODY, 0);
    assert!(grown.as_mut().poll(&mut cx).is_pending(), "it is not on disk");
    node.sync();
    assert!(grown.as_mut().poll(&mut cx).is_ready());
    let mut gone = pin!(cell.grown());
    assert!(gone.as_mut().poll(&mut cx).is_pending());
    node.streams.delete("/", "t").unwrap();
    assert!(gone.as_mut().poll(&mut cx).is_ready());
}

#[test]
fn who_has_committed_goes_on_when_there_is_no_room_for_others() {
    let node = Node::new();
    node.topic("t", 3);
    lock(&node.streams.offsets).tally.count_max = 2;
    let at = |partition| {
        ("t".into(), partition, Committed { offset: 1, leader_epoch: 0, metadata: "".into(), at: NOW, ends: None })
    };
    let commit = |group: &str, partition| {
        node.streams.commit("/", group, vec![at(partition)], Committer::Standalone).map(|_| ())
    };
    assert_eq!((commit("g", 0), commit("g", 1)), (Ok(()), Ok(())));
    assert_eq!((commit("g", 2), commit("h", 0)), (Err(OffsetsFault::Limit), Err(OffsetsFault::Limit)));
    assert_eq!((commit("g", 0), commit("g", 1)), (Ok(()), Ok(())));
}

#[test]
fn what_is_kept_with_offsets_has_a_limit_and_gives_its_room_back() {
    let node = Node::new();
    node.topic("t", 3);
    let tally = |node: &Node| {
        let all = lock(&node.streams.offsets);
        (all.tally.count, all.tally.bytes)
    };
    let at = |partition, bytes: usize| {
        let metadata = "m".repeat(bytes).into();
        ("t".into(), partition, Committed { offset: 1, leader_epoch: 0, metadata, at: NOW, ends: None })
    };
    let commit = |group: &str, partition, bytes| {
        node.streams.commit("/", group, vec![at(partition, bytes)], Committer::Standalone).map(|_| ())
    };
    // Two octets are the names of group and topic.
    lock(&node.streams.offsets).tally.bytes_max = 102 + 52 + 2;
    assert_eq!((commit("g", 0, 100), commit("g", 1, 50), tally(&node)), (Ok(()), Ok(()), (2, 154)));
    assert_eq!((commit("h", 0, 1), commit("g", 1, 53)), (Err(OffsetsFault::Limit), Err(OffsetsFault::Limit)));
    // Less than before, or as much.
    assert_eq!((commit("g", 0, 100), commit("g", 1, 10), tally(&node)), (Ok(()), Ok(()), (2, 114)));
    let who = node.streams.init_producer("/", "id", 60_000, None, NOW).unwrap().0;
    node.streams.add_group("/", "id", who, "g", NOW).unwrap();
    let put = |bytes| {
        let group = ("g", Committer::Group);
        node.streams.commit_with("/", "id", who, group, vec![at(0, bytes), at(2, bytes)]).map(|_| ())
    };
    assert!(put(20).is_err());
    assert_eq!((put(18), tally(&node)), (Ok(()), (4, 154)));
    // What is overtaken is not kept.
    assert_eq!((commit("g", 0, 100), tally(&node)), (Ok(()), (4, 136)));
    node.sync();
    let again = node.killed();
    assert_eq!(tally(&again), (4, 136));
    again.streams.end_transaction("/", "id", who, Marker::Commit, NOW).unwrap();
    assert_eq!(tally(&again), (3, 102 + 12 + 20));
    again.streams.forget_offsets("/", "g", Some(&[("t".into(), 0)])).unwrap();
    assert_eq!(tally(&again), (2, 32));
    again.streams.delete("/", "t").unwrap();
    assert_eq!(tally(&again), (0, 0));
}

#[test]
fn names_and_limits() {
    let node = Node::new();
    for bad in ["", ".", "..", "a b", "ä", &"x".repeat(250)] {
        assert_eq!(node.streams.create("/", bad, 1, TopicConfig::default()).unwrap_err(), TopicFault::Name(bad.into()));
    }
    node.topic(&"x".repeat(249), 1);
    node.topic("a", 1);
    let fault = |partitions| node.streams.create("/", "b", partitions, TopicConfig::default()).unwrap_err();
    assert!(matches!(fault(0), TopicFault::Partitions { .. }));
    assert!(matches!(fault(u32::MAX), TopicFault::Partitions { .. }));
    let of_service = node.streams.create("/", "services.cart", 2, TopicConfig::default()).unwrap_err();
    assert_eq!(of_service.to_string(), "2 partitions: the topic of a service has one");
    node.topic("services.cart", 1);
    assert!(matches!(node.streams.grow("/", "services.cart", 2), Err(TopicFault::Partitions { asked: 2, .. })));
    node.streams.delete("/", "services.cart").unwrap();
    node.streams.delete("/", &node.topic("services.Cart", 2).name).unwrap();
    assert_eq!(node.streams.create("/", "a", 1, TopicConfig::default()).unwrap_err(), TopicFault::Exists("a".into()));
    assert_eq!(node.streams.delete("/", "b"), Err(TopicFault::Unknown("b".into())));
    assert!(node.streams.create("other", "a", 1, TopicConfig::default()).is_ok());
    assert_eq!(node.streams.topics("/").len(), 2);
}

#[test]
fn a_topic_among_very_many_groups_is_deleted_in_no_time() {
    let node = Node::new();
    let committed = |at| Committed { offset: 1, leader_epoch: -1, metadata: "".into(), at, ends: None };
    let commits = |group: &str, topic: &str| {
        node.streams.commit("/", group, vec![(topic.into(), 0, committed(NOW))], Committer::Standalone).unwrap();
    };
    node.topic("t", 1);
    (0..20_000).for_each(|n| commits(&format!("g{n}"), "t"));
    let topics: Vec<String> = (0..1_000).map(|n| format!("t{n}")).collect();
    for topic in &topics {
        node.topic(topic, 1);
        commits("g7", topic);
    }
    let begun = std::time::Instant::now();
    for topic in &topics {
        assert_eq!(node.streams.positions_in("/", topic).len(), 1);
        node.streams.delete("/", topic).unwrap();
    }
    // Whoever looks at all groups for each looks forty million times.
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    assert_eq!((node.streams.offsets_kept(), node.streams.all_committed("/", "g7").len()), (20_000, 1));
    let last = node.streams.delete("/", "t").unwrap();
    while node.streams.journal.durable() < last {
        let _ = node.engine.commit_once();
    }
    node.sync();
    assert_eq!((node.streams.offsets_kept(), node.killed().streams.groups_with_offsets("/")), (0, vec![]));
}
