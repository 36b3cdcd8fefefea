//! Transactions over the storage engine, with a power failure at every operation of the disk.

use std::io;
use std::sync::atomic::AtomicUsize;

use waypost_model::Batch as Messages;
use waypost_model::journal::Op;
use waypost_model::journal::SpillRef;
use waypost_storage::Engine;
use waypost_storage::fault::{FaultDisk, Faults};

use super::tests::{NOW, Node, Watched, defined_bytes, open_over};
use super::*;
use crate::batch::Batch;
use crate::batch::sample::produced;
use crate::groups::Committer;
use crate::partition::{AppendFault, Isolation, Marker, Packed};
use crate::transactions::{Phase, Producer, TransactionFault};

const TRANSACTIONAL: i16 = 16;
const ID: &str = "id";

impl Node {
    fn init(&self, known: Option<Producer>) -> Result<Producer, TransactionFault> {
        self.streams.init_producer("/", ID, 60_000, known, NOW).map(|(producer, _)| producer)
    }

    fn add(&self, who: Producer, topic: &Topic, partitions: &[i32]) -> Result<Option<Lsn>, TransactionFault> {
        let part = |n: &i32| (Arc::clone(&topic.name), *n, topic.partition(*n).unwrap().queue());
        let parts: Vec<_> = partitions.iter().map(part).collect();
        self.streams.add_partitions("/", ID, who, &parts, NOW)
    }

    fn write(&self, who: Producer, topic: &Topic, number: i32, sequence: i32) -> Result<u64, AppendFault> {
        let bytes = produced(1, TRANSACTIONAL, 1_000_000, (who.id, who.epoch, sequence));
        let (batch, cell) = (Batch::split(&bytes).unwrap().0, topic.partition(number).unwrap());
        let appended =
            self.streams.append(topic, (number, &cell), Some(ID), Packed::copy(&batch), &topic.config(), NOW)?;
        Ok(appended.base_offset)
    }

    fn end(&self, who: Producer, marker: Marker) -> Result<Option<Lsn>, TransactionFault> {
        self.streams.end_transaction("/", ID, who, marker, NOW)
    }

    fn commit_offset(&self, who: Producer, group: &str, offset: i64) -> Result<Option<Lsn>, TransactionFault> {
        let committed = Committed { offset, leader_epoch: -1, metadata: "".into(), at: NOW, ends: None };
        self.streams.commit_with("/", ID, who, (group, Committer::Group), vec![("t".into(), 0, committed)])
    }

    fn committed_offset(&self, group: &str) -> Option<i64> {
        self.streams.committed("/", group, "t", 0).map(|c| c.offset)
    }

    /// The offsets that a consumer of committed records is shown.
    fn shown(&self, topic: &Topic, number: i32) -> Vec<u64> {
        let cell = topic.partition(number).unwrap();
        let span = cell.with(|p| p.read(0, usize::MAX, Isolation::ReadCommitted)).unwrap();
        let aborted = cell.with(|p| p.aborted(0, span.upto));
        let mut shown = Vec::new();
        for piece in &span.batches {
            let (messages, at) = cell.load(piece, &*self.streams.bodies).unwrap();
            let batch = Batch::split(messages.body(at)).unwrap().0;
            let base = batch.base_offset().unsigned_abs();
            let of = |a: &&crate::partition::Aborted| a.producer_id == batch.producer_id();
            let skipped = aborted.iter().filter(of).any(|a| (a.first..=a.last).contains(&base));
            if !batch.is_control() && !skipped {
                shown.push(base);
            }
        }
        shown
    }

    fn phase(&self) -> Phase {
        self.streams.transaction("/", ID).unwrap().phase
    }
}

#[test]
fn records_and_offsets_count_together_once_they_are_durable() {
    let node = Node::new();
    let topic = node.topic("t", 2);
    let me = node.init(None).unwrap();
    node.add(me, &topic, &[0, 1]).unwrap();
    node.streams.add_group("/", ID, me, "g", NOW).unwrap();
    assert_eq!((node.write(me, &topic, 0, 0), node.write(me, &topic, 1, 0)), (Ok(0), Ok(0)));
    node.commit_offset(me, "g", 5).unwrap();
    node.sync();
    assert_eq!((node.shown(&topic, 0).len(), node.committed_offset("g")), (0, None));
    assert!(node.streams.is_unstable("/", "g", "t", 0) && !node.streams.is_unstable("/", "g", "t", 1));
    assert_eq!(node.streams.unstable("/", "g"), [("t".into(), 0)]);
    let lsn = node.end(me, Marker::Commit).unwrap().unwrap();
    assert!(node.shown(&topic, 0).is_empty(), "a crash could undo it");
    assert_eq!(node.streams.offsets_lsn(), Some(lsn));
    node.sync();
    assert_eq!((node.shown(&topic, 0), node.shown(&topic, 1), node.committed_offset("g")), (vec![0], vec![0], Some(5)));
    assert!(!node.streams.is_unstable("/", "g", "t", 0));
    // Asked again: the same answer, and nothing more is written.
    assert_eq!(node.end(me, Marker::Commit), Ok(Some(lsn)));
    assert_eq!(topic.partition(0).unwrap().with(|p| p.offsets().end), 2);
}

#[test]
fn of_offsets_the_one_that_was_written_last_counts_whenever_transactions_end() {
    let plain = |node: &Node, offset| {
        let committed = Committed { offset, leader_epoch: -1, metadata: "".into(), at: NOW.plus(1), ends: None };
        node.streams.commit("/", "g", vec![("t".into(), 0, committed)], Committer::Group).unwrap();
        node.sync();
    };
    for restart in [false, true] {
        for (marker, later, expected) in [
            (Marker::Commit, None, 7),
            (Marker::Commit, Some(9), 9),
            (Marker::Abort, None, 7),
            (Marker::Abort, Some(9), 7),
        ] {
            let node = Node::new();
            node.topic("t", 1);
            let me = node.init(None).unwrap();
            node.streams.add_group("/", ID, me, "g", NOW).unwrap();
            node.commit_offset(me, "g", 5).unwrap();
            // Without a transaction, while one is open: it counts at once, and the group's offset is not stable.
            plain(&node, 7);
            assert_eq!((node.committed_offset("g"), node.streams.is_unstable("/", "g", "t", 0)), (Some(7), true));
            later.map(|offset| node.commit_offset(me, "g", offset).unwrap());
            node.sync();
            let node = if restart { node.killed() } else { node };
            assert!(node.streams.is_unstable("/", "g", "t", 0));
            node.end(me, marker).unwrap();
            node.sync();
            assert_eq!(node.committed_offset("g"), Some(expected), "{marker:?} {later:?} {restart}");
            assert!(!node.streams.is_unstable("/", "g", "t", 0));
            assert_eq!(node.killed().committed_offset("g"), Some(expected));
        }
    }
}

#[test]
fn of_two_transactions_offsets_those_count_that_were_put_off_last() {
    // In the same millisecond, by ids of either order, with and without a restart before the transactions end.
    for (names, first_ends_first, restart) in [["a", "b"], ["b", "a"]]
        .into_iter()
        .flat_map(|names| [(names, false), (names, true)])
        .flat_map(|(names, first)| [(names, first, false), (names, first, true)])
    {
        let mut node = Node::new();
        node.topic("t", 1);
        let put = |node: &Node, id: &str, offset| {
            let who = node.streams.init_producer("/", id, 60_000, None, NOW).unwrap().0;
            node.streams.add_group("/", id, who, "g", NOW).unwrap();
            let committed = Committed { offset, leader_epoch: -1, metadata: "".into(), at: NOW, ends: None };
            let group = ("g", Committer::Group);
            node.streams.commit_with("/", id, who, group, vec![("t".into(), 0, committed)]).unwrap();
            node.sync();
            who
        };
        let mut both = vec![(names[0], put(&node, names[0], 5))];
        if restart {
            node = node.killed();
        }
        both.push((names[1], put(&node, names[1], 6)));
        if restart {
            node = node.killed();
        }
        if !first_ends_first {
            both.reverse();
        }
        for (id, who) in both {
            node.streams.end_transaction("/", id, who, Marker::Commit, NOW).unwrap();
        }
        node.sync();
        assert_eq!(node.committed_offset("g"), Some(6), "{names:?} {first_ends_first} {restart}");
        assert_eq!(node.killed().committed_offset("g"), Some(6));
    }
}

#[test]
fn what_open_transactions_hold_together_has_a_limit_until_they_end() {
    let node = Node::new();
    let topic = node.topic("t", 10);
    let me = node.init(None).unwrap();
    lock(&node.streams.transactions).bytes_max = 3 * 65;
    node.add(me, &topic, &[0, 1]).unwrap();
    assert!(matches!(node.add(me, &topic, &[2, 3]), Err(TransactionFault::Limit(_))));
    node.streams.add_group("/", ID, me, "g", NOW).unwrap();
    let other = node.streams.init_producer("/", "other", 60_000, None, NOW).unwrap().0;
    let add = |node: &Node| node.streams.add_group("/", "other", other, "g", NOW);
    assert!(matches!(add(&node), Err(TransactionFault::Limit(_))));
    node.sync();
    let node = node.killed();
    lock(&node.streams.transactions).bytes_max = 3 * 65;
    assert!(matches!(add(&node), Err(TransactionFault::Limit(_))));
    node.end(me, Marker::Abort).unwrap();
    assert!(add(&node).is_ok());
}

#[test]
fn who_adds_partitions_one_by_one_writes_each_once() {
    let written = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&written);
    let watch = move |ops: &[Op]| {
        seen.fetch_add(defined_bytes(ops), Ordering::Relaxed);
    };
    let node = open_over(FaultDisk::new(1), |engine| Arc::new(Watched { journal: engine, watch }));
    let (count, topic) = (2_000, node.topic("t", 2_000));
    let me = node.init(None).unwrap();
    written.store(0, Ordering::Relaxed);
    for n in 0..count {
        node.add(me, &topic, &[n]).unwrap();
    }
    for n in 0..500 {
        node.streams.add_group("/", ID, me, &format!("g{n}"), NOW).unwrap();
    }
    node.end(me, Marker::Abort).unwrap();
    let each = written.load(Ordering::Relaxed) / 2_500;
    assert!(each < 300, "{each} bytes for each");
}

#[test]
fn what_was_added_one_by_one_is_there_after_a_restart_until_the_transaction_ends() {
    for ends in ["commit", "abort", "another producer", "too late"] {
        let node = Node::new();
        let topic = node.topic("t", 40);
        let me = node.init(None).unwrap();
        for n in 0..40 {
            node.add(me, &topic, &[n]).unwrap();
        }
        node.streams.add_group("/", ID, me, "g", NOW).unwrap();
        let bytes = lock(&node.streams.transactions).bytes();
        node.sync();
        let node = node.killed();
        let topic = node.streams.topic("/", "t").unwrap();
        assert_eq!(node.streams.transaction("/", ID).unwrap().partitions.len(), 40);
        assert_eq!((node.add(me, &topic, &[39]), lock(&node.streams.transactions).bytes()), (Ok(None), bytes));
        assert_eq!(node.write(me, &topic, 39, 0), Ok(0));
        node.commit_offset(me, "g", 5).unwrap();
        match ends {
            "commit" => assert!(node.end(me, Marker::Commit).is_ok()),
            "abort" => assert!(node.end(me, Marker::Abort).is_ok()),
            "another producer" => assert!(node.init(None).is_ok()),
            _ => node.streams.expire_transactions(NOW.plus(60_000)),
        }
        node.sync();
        assert_eq!(lock(&node.streams.transactions).bytes(), 0, "{ends}");
        // Nothing of it is left beside: a start would not know what it belongs to.
        let node = node.killed();
        let topic = node.streams.topic("/", "t").unwrap();
        let committed = ends == "commit";
        assert_eq!(
            (node.shown(&topic, 39).len(), node.committed_offset("g")),
            (usize::from(committed), committed.then_some(5))
        );
        let me = node.init(None).unwrap();
        node.add(me, &topic, &[3]).unwrap();
        node.sync();
        let view = node.killed().streams.transaction("/", ID).unwrap();
        assert_eq!((view.phase, view.partitions), (Phase::Ongoing, vec![("t".into(), 3)]), "{ends}");
    }
}

#[test]
fn who_is_replaced_writes_nothing_more() {
    let node = Node::new();
    let topic = node.topic("t", 2);
    let old = node.init(None).unwrap();
    node.add(old, &topic, &[0]).unwrap();
    assert_eq!(node.write(old, &topic, 1, 0), Err(AppendFault::Transaction(TransactionFault::State)));
    node.write(old, &topic, 0, 0).unwrap();
    let new = node.init(None).unwrap();
    assert_eq!((new.id, new.epoch), (old.id, old.epoch + 1));
    assert_eq!(node.write(old, &topic, 0, 1), Err(AppendFault::Transaction(TransactionFault::Fenced)));
    assert_eq!(node.end(old, Marker::Commit), Err(TransactionFault::Fenced));
    node.add(new, &topic, &[0]).unwrap();
    node.write(new, &topic, 0, 0).unwrap();
    node.end(new, Marker::Commit).unwrap();
    node.sync();
    // 0 was aborted by the marker at 1.
    assert_eq!(node.shown(&topic, 0), [2]);
    // By its old name, as one does after a fault, it comes back once; a record outside of a transaction is none of it.
    let again = node.init(Some(new)).unwrap();
    assert_eq!(again.epoch, new.epoch + 1);
    assert_eq!(node.init(Some(new)), Ok(again));
    assert_eq!(node.init(Some(old)), Err(TransactionFault::Fenced));
}

#[test]
fn what_is_open_for_too_long_is_aborted_also_after_a_restart() {
    let node = Node::new();
    let topic = node.topic("t", 1);
    let me = node.init(None).unwrap();
    node.add(me, &topic, &[0]).unwrap();
    node.streams.add_group("/", ID, me, "g", NOW).unwrap();
    node.write(me, &topic, 0, 0).unwrap();
    node.commit_offset(me, "g", 5).unwrap();
    node.sync();
    let node = node.killed();
    let topic = node.streams.topic("/", "t").unwrap();
    assert!(!node.streams.transactions_due(NOW.plus(59_999)) && node.streams.transactions_due(NOW.plus(60_000)));
    node.streams.expire_transactions(NOW.plus(60_000));
    node.sync();
    assert!(!node.streams.transactions_due(NOW.plus(600_000)));
    assert_eq!((node.phase(), node.shown(&topic, 0)), (Phase::CompleteAbort, vec![]));
    assert_eq!(topic.partition(0).unwrap().with(|p| p.offsets().last_stable), 2);
    assert_eq!((node.committed_offset("g"), node.streams.is_unstable("/", "g", "t", 0)), (None, false));
    assert_eq!(node.end(me, Marker::Commit), Err(TransactionFault::Fenced));
}

#[test]
fn a_transaction_goes_on_after_a_restart_and_outlives_its_topics() {
    let node = Node::new();
    let (topic, gone) = (node.topic("t", 1), node.topic("gone", 1));
    let me = node.init(None).unwrap();
    node.add(me, &topic, &[0]).unwrap();
    node.add(me, &gone, &[0]).unwrap();
    node.write(me, &topic, 0, 0).unwrap();
    node.write(me, &gone, 0, 0).unwrap();
    node.sync();
    let node = node.killed();
    node.streams.delete("/", "gone").unwrap();
    let (topic, namesake) = (node.streams.topic("/", "t").unwrap(), node.topic("gone", 1));
    assert_eq!(node.write(me, &namesake, 0, 0), Err(AppendFault::Transaction(TransactionFault::State)));
    node.write(me, &topic, 0, 1).unwrap();
    node.end(me, Marker::Commit).unwrap();
    node.sync();
    assert_eq!((node.shown(&topic, 0), namesake.partition(0).unwrap().with(|p| p.offsets().end)), (vec![0, 1], 0));
}

#[test]
fn ids_that_nobody_uses_are_forgotten() {
    let node = Node::new();
    node.init(None).unwrap();
    node.sync();
    node.streams.maintain(NOW.plus(6 * 86_400_000));
    assert_eq!(node.streams.transactions("/").len(), 1);
    node.streams.maintain(NOW.plus(8 * 86_400_000));
    assert!(node.streams.transactions("/").is_empty() && node.streams.transactions("other").is_empty());
    node.sync();
    assert!(node.killed().streams.transactions("/").is_empty());
}

/// Commits every append by itself, as the committer may: only what is one append is together on the disk.
struct Hasty(Arc<Engine>);

impl Journal for Hasty {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        let lsn = self.0.append(ops)?;
        let _ = self.0.commit_once();
        Ok(lsn)
    }

    fn reserve(&self) -> Lsn {
        self.0.reserve()
    }

    fn fill(&self, ticket: Lsn, ops: Vec<Op>) -> Result<(), AppendError> {
        self.0.fill(ticket, ops)
    }

    fn durable(&self) -> Lsn {
        self.0.durable()
    }

    fn spill(&self, batch: &Messages, from: u32, to: u32) -> io::Result<SpillRef> {
        self.0.spill(batch, from, to)
    }

    fn release_spill(&self, at: SpillRef) {
        self.0.release_spill(at);
    }
}

/// What was under way when the power failed.
#[derive(Default)]
struct Ledger {
    /// Where each transaction has written: partition and offset.
    written: Vec<Vec<(i32, u64)>>,
    /// How each one ended, if its producer was told.
    told: Vec<Option<Marker>>,
}

/// Three transactions over two partitions: one is committed, one aborted, one cut off by another producer. Ends early when
/// the disk fails. `add`: what is added to each transaction, the two among it.
fn script(node: &Node, ledger: &mut Ledger, add: &[&[i32]]) -> Option<()> {
    let topic = node.streams.topic("/", "t")?;
    let mut me = node.init(None).ok()?;
    node.sync();
    for (number, marker) in [Some(Marker::Commit), Some(Marker::Abort), None].into_iter().enumerate() {
        ledger.written.push(Vec::new());
        ledger.told.push(None);
        for some in add {
            node.add(me, &topic, some).ok()?;
            node.sync();
        }
        let group = format!("g{number}");
        node.streams.add_group("/", ID, me, &group, NOW).ok()?;
        node.sync();
        for partition in [0, 1] {
            let offset = node.write(me, &topic, partition, number as i32).ok()?;
            ledger.written[number].push((partition, offset));
            node.sync();
        }
        node.commit_offset(me, &group, number as i64).ok()?;
        node.sync();
        let lsn = match marker {
            Some(marker) => node.end(me, marker).ok()??,
            None => {
                let (next, lsn) = node.streams.init_producer("/", ID, 60_000, None, NOW).ok()?;
                me = next;
                lsn?
            }
        };
        node.sync();
        if node.streams.journal.durable() >= lsn {
            ledger.told[number] = Some(marker.unwrap_or(Marker::Abort));
        }
    }
    Some(())
}

#[test]
fn a_power_failure_anywhere_leaves_all_of_a_transaction_or_nothing() {
    power_failures(2, &[&[0, 1]]);
}

#[test]
fn a_power_failure_anywhere_leaves_all_of_a_large_transaction_or_nothing() {
    let first: Vec<i32> = (2..20).collect();
    power_failures(20, &[&first, &[0], &[1]]);
}

fn power_failures(partitions: u32, add: &[&[i32]]) {
    let mut ends = std::collections::BTreeSet::new();
    for at in 0.. {
        let node = open_over(FaultDisk::new(at), |engine| Arc::new(Hasty(engine)));
        node.topic("t", partitions);
        node.sync();
        node.disk.set_faults(Faults { power_off: Some(at), ..Faults::default() });
        let mut ledger = Ledger::default();
        let done = script(&node, &mut ledger, add).is_some()
            && ledger.told.iter().all(Option::is_some)
            && ledger.told.len() == 3;
        let node = node.killed();
        let topic = node.streams.topic("/", "t").unwrap();
        let check = |node: &Node, when: &str| {
            let shown = [node.shown(&topic, 0), node.shown(&topic, 1)];
            for (number, written) in ledger.written.iter().enumerate() {
                let seen = written.iter().filter(|(p, offset)| shown[*p as usize].contains(offset)).count();
                let offset = node.committed_offset(&format!("g{number}")).is_some();
                let whole = seen == written.len() && written.len() == 2;
                assert!(seen == 0 || whole, "{at} {when}: {number} is half there");
                assert_eq!(offset, seen > 0, "{at} {when}: offsets of {number}");
                match ledger.told[number] {
                    Some(Marker::Commit) => assert!(whole, "{at} {when}: {number} was committed"),
                    Some(Marker::Abort) => assert_eq!(seen, 0, "{at} {when}: {number} was aborted"),
                    None => {}
                }
            }
            shown
        };
        let before = check(&node, "at once");
        // Whoever comes next finds nothing open, and what counted goes on counting.
        node.init(None).unwrap();
        node.sync();
        assert_eq!(check(&node, "after the next producer"), before);
        for cell in topic.partitions().iter() {
            let offsets = cell.with(|p| p.offsets());
            assert_eq!(offsets.last_stable, offsets.end, "{at}");
        }
        assert!((0..3).all(|n| node.streams.unstable("/", &format!("g{n}")).is_empty()));
        ends.insert(before[0].len());
        if done {
            break;
        }
    }
    assert_eq!(ends.len(), 2, "the power failed before and after the commit");
}
