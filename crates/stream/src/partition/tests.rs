//! A partition over a journal that keeps what it is told.

use std::io;
use std::sync::Mutex;

use waypost_model::journal::SpillRef;
use waypost_model::{Attrs, SeqRange};

use super::*;
use crate::batch::sample::produced;

/// Keeps every operation; is durable as far as it is told.
#[derive(Default)]
struct Kept {
    ops: Mutex<Vec<Op>>,
    durable: Mutex<u64>,
    /// It takes nothing.
    full: bool,
}

impl Journal for Kept {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        if self.full {
            return Err(AppendError::Stopped);
        }
        let mut all = self.ops.lock().unwrap();
        all.extend(ops);
        Ok(Lsn(all.len() as u64))
    }

    fn reserve(&self) -> Lsn {
        unreachable!()
    }

    fn fill(&self, _: Lsn, _: Vec<Op>) -> Result<(), AppendError> {
        unreachable!()
    }

    fn durable(&self) -> Lsn {
        Lsn(*self.durable.lock().unwrap())
    }

    fn spill(&self, _: &Messages, _: u32, _: u32) -> io::Result<SpillRef> {
        unreachable!()
    }

    fn release_spill(&self, _: SpillRef) {}
}

const NOW: Millis = Millis(1_000_000);

struct World {
    partition: Partition,
    journal: Kept,
    config: TopicConfig,
}

impl World {
    fn new(settings: &[(&str, &str)]) -> World {
        let partition = Partition::new(QueueId(64), Arc::default());
        World { partition, journal: Kept::default(), config: TopicConfig::parse(settings.iter().copied()).unwrap() }
    }

    fn append_of(&mut self, bytes: &[u8]) -> Result<Appended, AppendFault> {
        self.partition.append(&Batch::split(bytes).unwrap().0, &self.config, &self.journal, NOW)
    }

    fn append(&mut self, count: i32) -> u64 {
        self.append_of(&produced(count, 0, 1_000_000, (-1, -1, -1))).unwrap().base_offset
    }

    fn by(&mut self, id: i64, epoch: i16, sequence: i32, count: i32, attributes: i16) -> Result<u64, AppendFault> {
        self.append_of(&produced(count, attributes, 1_000_000, (id, epoch, sequence))).map(|a| a.base_offset)
    }

    fn end(&mut self, id: i64, epoch: i16, marker: Marker) -> bool {
        let Some((op, ending)) = self.partition.end(id, epoch, marker, NOW).unwrap() else { return false };
        let lsn = self.journal.append(vec![op]).unwrap();
        self.partition.ended(ending, lsn);
        true
    }

    /// Everything that was appended is on disk.
    fn sync(&mut self) -> bool {
        let all = self.journal.ops.lock().unwrap().len() as u64;
        self.partition.advance(Lsn(all))
    }

    fn lasts(&self, offset: u64, max_bytes: usize, isolation: Isolation) -> Vec<u64> {
        let span = self.partition.read(offset, max_bytes, isolation).unwrap();
        let last = |piece: &Piece| match piece {
            Piece::Memory(m) => Batch::split(m.body(0)).unwrap().0.last_offset().unsigned_abs(),
            Piece::Stored(_, seq) => seq.0,
        };
        span.batches.iter().map(last).collect()
    }
}

#[test]
fn offsets_count_records_and_are_visible_once_durable() {
    let mut w = World::new(&[]);
    assert_eq!([w.append(3), w.append(1), w.append(50)], [0, 3, 4]);
    assert_eq!(w.partition.offsets(), Offsets { start: 0, high_watermark: 0, last_stable: 0, end: 54 });
    assert_eq!(w.partition.waits_for(), Some(Lsn(1)));
    assert!(w.partition.advance(Lsn(2)));
    assert_eq!(w.partition.offsets().high_watermark, 4);
    assert_eq!(w.lasts(0, usize::MAX, Isolation::ReadUncommitted), [2, 3]);
    assert!(w.sync() && !w.sync());
    // In the middle of a batch: the whole batch.
    assert_eq!(w.lasts(20, usize::MAX, Isolation::ReadUncommitted), [53]);
    assert_eq!(w.lasts(54, usize::MAX, Isolation::ReadUncommitted), [0; 0]);
    assert!(w.partition.read(55, 1, Isolation::ReadUncommitted).is_err());
    // At least one, however small the reader's limit is.
    assert_eq!(w.lasts(0, 1, Isolation::ReadUncommitted), [2]);
    assert_eq!(w.lasts(0, 140, Isolation::ReadUncommitted), [2, 3]);
}

#[test]
fn places_in_the_journal_are_last_offsets() {
    let mut w = World::new(&[]);
    w.append(3);
    w.append(2);
    let ops = w.journal.ops.lock().unwrap();
    let places: Vec<_> = ops
        .iter()
        .map(|op| match op {
            Op::Enqueue(e) => (e.targets[0], Batch::split(e.batch.body(0)).unwrap().0.base_offset()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(places, [((QueueId(64), Seq(2)), 0), ((QueueId(64), Seq(4)), 3)]);
}

#[test]
fn a_batch_that_is_sent_again_is_not_written_again() {
    let mut w = World::new(&[]);
    for n in 0..7 {
        assert_eq!(w.by(9, 0, n * 2, 2, 0), Ok(u64::from(n.unsigned_abs()) * 2));
    }
    // One of the last five, before and after it is durable.
    let again = produced(2, 0, 1_000_000, (9, 0, 10));
    assert_eq!(w.append_of(&again).unwrap(), Appended { base_offset: 10, lsn: Some(Lsn(6)), append_time: None });
    w.sync();
    assert_eq!(w.append_of(&again).unwrap(), Appended { base_offset: 10, lsn: None, append_time: None });
    let refused = |r: Result<u64, AppendFault>| match r {
        Err(AppendFault::Producer(e)) => e,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(w.by(9, 0, 0, 2, 0)), ProducerError::OutOfOrder { sequence: 0, last: 13 });
    assert_eq!(refused(w.by(9, 0, 16, 1, 0)), ProducerError::OutOfOrder { sequence: 16, last: 13 });
    assert_eq!(refused(w.by(9, 1, 5, 1, 0)), ProducerError::OutOfOrder { sequence: 5, last: -1 });
    assert_eq!(w.by(9, 1, 0, 1, 0), Ok(14));
    assert_eq!(refused(w.by(9, 0, 14, 1, 0)), ProducerError::Fenced { epoch: 0, current: 1 });
}

#[test]
fn records_without_a_time_are_as_old_as_their_arrival() {
    let mut w = World::new(&[("retention.ms", "1000")]);
    w.append_of(&produced(2, 0, -1, (-1, -1, -1))).unwrap();
    w.sync();
    for (later, start) in [(1000, 0), (1001, 0), (2000, 0), (2001, 2)] {
        w.partition.retain(&w.config, NOW.plus(later));
        assert_eq!(w.partition.offsets().start, start);
    }
}

#[test]
fn sequences_begin_anew_behind_the_largest() {
    let mut w = World::new(&[]);
    assert_eq!(w.by(1, 0, i32::MAX - 1, 2, 0), Ok(0));
    assert_eq!(w.by(1, 0, 0, 3, 0), Ok(2));
    assert_eq!(w.by(1, 0, 3, 1, 0), Ok(5));
}

/// Nobody may be told that something is a duplicate that never was written: producers take that for success.
#[test]
fn what_was_refused_is_not_taken_for_written_once_those_behind_it_are() {
    let mut w = World::new(&[]);
    w.journal.full = true;
    assert_eq!(w.by(1, 0, 0, 2, 0), Err(AppendError::Stopped.into()));
    w.journal.full = false;
    // Of an unknown producer anything is taken.
    assert_eq!(w.by(1, 0, 2, 2, 0), Ok(0));
    let late = |sequence, last| Err(ProducerError::OutOfOrder { sequence, last }.into());
    assert_eq!(w.by(1, 0, 0, 2, 0), late(0, 3));
    // The same where sequences begin anew: five are missing.
    assert_eq!(w.by(2, 0, i32::MAX - 1, 2, 0), Ok(2));
    assert_eq!(w.by(2, 0, 5, 1, 0), late(5, i32::MAX));
}

#[test]
fn an_open_transaction_hides_what_follows_from_those_who_read_committed() {
    const TRANSACTIONAL: i16 = 16;
    let mut w = World::new(&[]);
    w.append(1);
    w.by(5, 0, 0, 2, TRANSACTIONAL).unwrap();
    w.append(1);
    w.by(6, 0, 0, 1, TRANSACTIONAL).unwrap();
    w.sync();
    assert_eq!(w.partition.offsets().last_stable, 1);
    assert_eq!(w.lasts(0, usize::MAX, Isolation::ReadCommitted), [0]);
    assert_eq!(w.lasts(0, usize::MAX, Isolation::ReadUncommitted), [0, 2, 3, 4]);
    assert!(w.end(5, 0, Marker::Abort));
    assert_eq!(w.partition.offsets().last_stable, 1, "a crash could undo the marker");
    w.sync();
    assert_eq!(w.partition.offsets().last_stable, 4);
    assert_eq!(w.partition.aborted(0, 4), [Aborted { producer_id: 5, first: 1, last: 5 }]);
    assert_eq!((w.partition.aborted(0, 1), w.partition.aborted(6, 9)), (vec![], vec![]));
    assert!(w.end(6, 0, Marker::Commit));
    w.sync();
    assert_eq!(w.partition.offsets(), Offsets { start: 0, high_watermark: 7, last_stable: 7, end: 7 });
    assert_eq!(w.partition.aborted(0, 7).len(), 1);
    // Where nothing is open nothing is written.
    assert!(!w.end(6, 0, Marker::Commit));
    // What is not part of the transaction may not come between.
    w.by(6, 0, 1, 1, TRANSACTIONAL).unwrap();
    assert_eq!(w.by(6, 0, 2, 1, 0), Err(AppendFault::Transaction(TransactionFault::State)));
}

#[test]
fn recovery_finds_the_same_partition() {
    const TRANSACTIONAL: i16 = 16;
    let mut w = World::new(&[]);
    w.append(3);
    for n in 0..4 {
        w.append(1 + n % 2);
    }
    w.by(5, 2, 0, 2, TRANSACTIONAL).unwrap();
    assert!(w.end(5, 2, Marker::Abort));
    w.by(5, 2, 2, 1, TRANSACTIONAL).unwrap();
    w.sync();
    let mut runs: Vec<RecoveredRun> = Vec::new();
    let mut bodies = Vec::new();
    for op in w.journal.ops.lock().unwrap().iter() {
        let Op::Enqueue(e) = op else { panic!() };
        let (_, last) = e.targets[0];
        bodies.push(e.batch.body(0).to_vec());
        let bytes = e.batch.payload_len(0, 1);
        // As the engine does: neighbours with equal facts are one run.
        match runs.last_mut() {
            Some(run) if run.range.first.0 + u64::from(run.range.count) == last.0 && run.at == e.at => {
                run.range.count += 1;
                run.payload_bytes += bytes;
            }
            _ => runs.push(RecoveredRun {
                range: SeqRange { queue: QueueId(64), first: last, count: 1 },
                route: Arc::default(),
                attrs: Attrs::default(),
                at: e.at,
                delivery_count: 0,
                payload_bytes: bytes,
            }),
        }
    }
    let end = Seq(w.partition.offsets().end);
    let mut found = Partition::recovered(QueueId(64), Arc::default(), &runs, 0, end);
    for body in &bodies {
        found.replay(&Batch::split(body).unwrap().0);
    }
    let index = |p: &Partition| p.index.iter().map(|e| (e.base, e.last, e.time)).collect::<Vec<_>>();
    assert_eq!((index(&found), found.bytes()), (index(&w.partition), w.partition.bytes()));
    assert_eq!((found.offsets(), found.producers()), (w.partition.offsets(), w.partition.producers()));
    assert_eq!(found.aborted(0, 100), w.partition.aborted(0, 100));
    // And a producer that did not hear its answer is recognised.
    w.partition = found;
    assert_eq!(w.by(5, 2, 2, 1, TRANSACTIONAL), w.by(5, 2, 2, 1, TRANSACTIONAL));
}

#[test]
fn retention_goes_by_time_and_size_and_never_beyond_what_is_durable() {
    let mut w = World::new(&[("retention.ms", "1000"), ("max.message.bytes", "68")]);
    for time in [1, 5, 3, 9_000] {
        w.append_of(&produced(2, 0, time, (-1, -1, -1))).unwrap();
    }
    assert!(w.partition.retain(&w.config, Millis(1_004)).is_empty());
    w.sync();
    // The third is young enough, and nothing behind it goes before it.
    let settle = |first, count| Op::Settle(SeqRange { queue: QueueId(64), first: Seq(first), count });
    let shown = |ops: Vec<Op>| format!("{ops:?}");
    assert!(w.partition.retain(&w.config, Millis(1_004)).is_empty());
    assert_eq!(shown(w.partition.retain(&w.config, Millis(2_004))), shown(vec![settle(1, 1)]));
    assert_eq!(w.partition.offsets().start, 2);
    assert!(w.partition.read(1, 1, Isolation::ReadUncommitted).is_err());
    w.config = TopicConfig::parse([("retention.bytes", "100"), ("retention.ms", "-1")]).unwrap();
    assert_eq!(shown(w.partition.retain(&w.config, NOW)), shown(vec![settle(3, 1)]));
    assert_eq!(w.partition.bytes(), 136);
    // In the middle of a batch: it stays, but the start moves.
    assert_eq!(shown(w.partition.delete_before(5).unwrap()), shown(vec![]));
    assert_eq!((w.partition.offsets().start, w.lasts(5, 1, Isolation::ReadUncommitted)), (5, vec![5]));
    assert!(w.partition.delete_before(99).is_err());
    assert_eq!(shown(w.partition.delete_before(8).unwrap()), shown(vec![settle(5, 3)]));
    assert_eq!((w.partition.bytes(), w.partition.offsets().start), (0, 8));
}

#[test]
fn who_reads_behind_has_records_of_long_ago_and_room_is_made_at_once() {
    const GRACE: u64 = 300_000;
    let week = 7 * 24 * 3_600_000;
    let now = Millis(3 * week);
    let mut w = World::new(&[("retention.ms", "604800000")]);
    let start = |w: &mut World, after| {
        w.partition.retain(&w.config, now.plus(after));
        w.partition.offsets().start
    };
    let old = produced(2, 0, 1, (-1, -1, -1));
    w.append_of(&old).unwrap();
    w.sync();
    assert_eq!(start(&mut w, 0), 0);
    // What comes later has its own time.
    w.append_of(&old).unwrap();
    w.sync();
    assert_eq!([GRACE - 1, GRACE, 2 * GRACE - 1, 2 * GRACE].map(|after| start(&mut w, after)), [0, 2, 2, 4]);
    // A clock that went back makes it later, not sooner.
    w.append_of(&old).unwrap();
    w.sync();
    assert_eq!([3 * GRACE, GRACE, 4 * GRACE - 1, 4 * GRACE].map(|after| start(&mut w, after)), [4, 4, 4, 6]);
    for _ in 0..3 {
        w.append_of(&old).unwrap();
    }
    w.sync();
    w.config = TopicConfig::parse([("retention.bytes", "68"), ("retention.ms", "604800000")]).unwrap();
    assert_eq!([5 * GRACE, 6 * GRACE].map(|after| start(&mut w, after)), [10, 12]);
}

#[test]
fn what_the_topic_does_not_allow_is_refused() {
    let mut w = World::new(&[("max.message.bytes", "67"), ("message.timestamp.before.max.ms", "10")]);
    let fault = |w: &mut World, bytes: &[u8]| w.append_of(bytes).unwrap_err();
    let good = produced(1, 0, 1_000_000, (-1, -1, -1));
    assert_eq!(fault(&mut w, &good), AppendFault::TooLarge { bytes: 68, max: 67 });
    w.config = TopicConfig::parse([("message.timestamp.before.max.ms", "10")]).unwrap();
    assert_eq!(fault(&mut w, &produced(1, 0, 5, (-1, -1, -1))), AppendFault::Timestamp);
    assert_eq!(
        fault(&mut w, &produced(0, 0, 5, (-1, -1, -1))),
        AppendFault::Batch(BatchError::Counts { count: 0, last_delta: -1 })
    );
    // With the log's own time the producer's does not matter.
    w.config = TopicConfig::parse([("message.timestamp.type", "LogAppendTime")]).unwrap();
    let appended = w.append_of(&produced(1, 0, 5, (-1, -1, -1))).unwrap();
    assert_eq!((appended.base_offset, appended.append_time), (0, Some(NOW)));
    w.sync();
    assert_eq!(w.partition.latest_time().unwrap().0.time, NOW);
    assert_eq!(w.partition.batch_of_time(NOW, 0).unwrap().0.base, 0);
    assert!(w.partition.batch_of_time(NOW, 1).is_none());
    assert!(w.partition.batch_of_time(Millis(NOW.0 + 1), 0).is_none());
}

#[test]
fn only_the_last_batches_are_kept_in_memory() {
    let mut w = World::new(&[]);
    for _ in 0..60_000 {
        w.append(1);
    }
    w.sync();
    let last = 60_000 - 1;
    let kind = |w: &World, offset| w.partition.read(offset, 1, Isolation::ReadUncommitted).unwrap().batches.remove(0);
    assert!(matches!(kind(&w, 0), Piece::Stored(_, Seq(0))));
    assert!(matches!(kind(&w, last), Piece::Memory(_)));
    w.partition.rest();
    assert!(matches!(kind(&w, last), Piece::Stored(_, Seq(at)) if at == last));
}
