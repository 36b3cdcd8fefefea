//! A store over a log that is kept elsewhere: what it makes of every answer, and what is there when it is opened again.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use waypost_model::journal::{AppendError, BodyStore, Enqueue, Journal, Op, Recovered};
use waypost_model::{Attrs, BatchBuilder, Lsn, Millis, QueueId, Route, Seq, SeqRange};
use waypost_sim::far::{Far, WINDOW};
use waypost_sim::uid_of;
use waypost_storage::fault::FaultDisk;
use waypost_storage::{CommitOutcome, Engine, EngineConfig};

const QUEUE: QueueId = QueueId(7);

/// A disk, a log elsewhere, and the store over both.
struct Store {
    disk: FaultDisk,
    far: Far,
    engine: Engine,
    next: u64,
}

fn open(disk: &FaultDisk, far: &Far) -> (Engine, Recovered) {
    Engine::open_over(Arc::new(disk.clone()), Arc::new(far.log()), EngineConfig::small()).unwrap()
}

impl Store {
    fn new() -> Store {
        let (disk, far) = (FaultDisk::new(1), Far::default());
        let (engine, _) = open(&disk, &far);
        Store { disk, far, engine, next: 0 }
    }

    fn message(&mut self, bytes: usize) -> Op {
        let mut batch = BatchBuilder::default();
        let mut body = vec![1; bytes.max(8)];
        body[..8].copy_from_slice(&self.next.to_le_bytes());
        batch.push(&[0, 0], &body);
        let (targets, route) = (Box::new([(QUEUE, Seq(self.next))]), Arc::new(Route::new("", "q")));
        self.next += 1;
        let (attrs, at) = (Attrs::default(), Millis(1));
        Op::Enqueue(Enqueue { targets, batch: Arc::new(batch.finish()), from: 0, to: 1, route, attrs, at })
    }

    /// Appends a message and hands its frame to the log.
    fn send(&mut self) -> Lsn {
        let op = self.message(8);
        let ticket = self.engine.append(vec![op]).unwrap();
        assert_eq!(self.engine.commit_once(), CommitOutcome::UnderWay);
        ticket
    }

    /// Opens it again; says which messages there are, and that each can be read.
    fn reopen(&mut self) -> Vec<u64> {
        let (engine, recovered) = open(&self.disk, &self.far);
        let places = |r: &SeqRange| r.first.0..r.first.0 + u64::from(r.count);
        let found: Vec<u64> = recovered.runs.iter().flat_map(|r| places(&r.range)).collect();
        for place in &found {
            let part = engine.load(QUEUE, Seq(*place), 1).unwrap();
            assert_eq!(uid_of(part.batch.body(part.from)), *place);
        }
        self.engine = engine;
        self.next = found.last().map_or(0, |n| n + 1);
        found
    }
}

#[test]
fn nothing_is_durable_before_the_log_says_so() {
    let mut s = Store::new();
    let ticket = s.send();
    assert_eq!((s.engine.commit_once(), s.engine.durable()), (CommitOutcome::UnderWay, Lsn(0)));
    s.far.arrive(false);
    assert_eq!(s.engine.durable(), Lsn(0), "not before the answer was taken");
    assert_eq!((s.engine.commit_once(), s.engine.durable()), (CommitOutcome::Committed(ticket), ticket));
    assert_eq!(s.engine.commit_once(), CommitOutcome::Idle);
}

#[test]
fn answers_out_of_order_move_the_watermark_in_order() {
    let mut s = Store::new();
    let tickets: Vec<Lsn> = (0..3).map(|_| s.send()).collect();
    // The last one is told of alone, and first.
    s.far.arrive(false);
    s.far.arrive(false);
    s.far.arrive(true);
    s.far.hold(1);
    assert_eq!((s.engine.commit_once(), s.engine.durable()), (CommitOutcome::UnderWay, Lsn(0)));
    s.far.hold(1);
    assert_eq!(s.engine.commit_once(), CommitOutcome::Committed(tickets[0]));
    s.far.hold(usize::MAX);
    assert_eq!(s.engine.commit_once(), CommitOutcome::Committed(tickets[2]));
}

#[test]
fn no_more_is_under_way_than_the_window_allows() {
    let mut s = Store::new();
    let tickets: Vec<Lsn> = (0..WINDOW).map(|_| s.send()).collect();
    s.send();
    assert_eq!(s.far.sent(), WINDOW);
    s.far.arrive(false);
    assert_eq!(s.engine.commit_once(), CommitOutcome::Committed(tickets[0]));
    assert_eq!((s.engine.commit_once(), s.far.sent()), (CommitOutcome::UnderWay, WINDOW));
}

#[test]
fn what_was_refused_is_handed_in_again_in_order() {
    let mut s = Store::new();
    s.send();
    s.send();
    s.far.refuse();
    // It does not know yet, so the log sees a frame that leaves a gap: it must not take that one.
    let last = s.send();
    assert_eq!((s.far.sent(), s.far.frames()), (3, 0), "all three again, none in the log");
    (0..3).for_each(|_| s.far.arrive(false));
    assert_eq!(s.engine.commit_once(), CommitOutcome::Committed(last));
    s.disk.crash();
    assert_eq!(s.reopen(), [0, 1, 2]);
}

#[test]
fn an_append_that_ends_unknown_ends_the_confirms_and_the_next_open_knows() {
    for arrived in [false, true] {
        let mut s = Store::new();
        let first = s.send();
        s.far.arrive(false);
        assert_eq!(s.engine.commit_once(), CommitOutcome::Committed(first));
        s.send();
        s.send();
        s.far.lose(arrived);
        // The one behind it may well arrive: it is not confirmed all the same.
        s.far.arrive(true);
        assert_eq!((s.engine.commit_once(), s.engine.durable()), (CommitOutcome::Stopped, first), "{arrived}");
        assert!(s.engine.is_stopped());
        let op = s.message(8);
        assert_eq!(s.engine.append(vec![op]), Err(AppendError::Stopped));
        // The copy here has both frames; the log decides.
        s.disk.kill();
        assert_eq!(s.reopen(), if arrived { vec![0, 1, 2] } else { vec![0] });
        let again = s.send();
        s.far.arrive(false);
        assert_eq!(s.engine.commit_once(), CommitOutcome::Committed(again));
    }
}

#[test]
fn a_store_that_was_fenced_says_so_and_confirms_nothing() {
    let mut s = Store::new();
    s.send();
    s.far.take_over();
    assert_eq!((s.engine.commit_once(), s.engine.durable()), (CommitOutcome::Stopped, Lsn(0)));
    let op = s.message(8);
    assert_eq!(s.engine.append(vec![op]), Err(AppendError::Fenced));
    s.disk.kill();
    assert_eq!(s.reopen(), [0; 0]);
}

#[test]
fn two_stores_over_one_log_only_the_later_one_appends() {
    let mut old = Store::new();
    let first = old.send();
    old.far.arrive(false);
    assert_eq!(old.engine.commit_once(), CommitOutcome::Committed(first));
    // A second process with a copy of its own, which is as old as the first checkpoint.
    let disk = old.disk.snapshot();
    disk.kill();
    let mut new = Store { disk: disk.clone(), far: old.far.clone(), engine: open(&disk, &old.far).0, next: 1 };
    let op = old.message(8);
    old.engine.append(vec![op]).unwrap();
    assert_eq!((old.engine.commit_once(), old.engine.durable()), (CommitOutcome::Stopped, first));
    new.send();
    new.far.arrive(false);
    assert!(matches!(new.engine.commit_once(), CommitOutcome::Committed(_)));
    new.disk.kill();
    assert_eq!(new.reopen(), [0, 1]);
}

#[test]
fn a_copy_that_lost_its_tail_follows_the_log_over_several_segments() {
    let mut s = Store::new();
    let mut last = Lsn(0);
    for _ in 0..40 {
        let op = s.message(6000);
        last = s.engine.append(vec![op]).unwrap();
        assert_eq!(s.engine.commit_once(), CommitOutcome::UnderWay);
        s.far.arrive(false);
        assert_eq!(s.engine.commit_once(), CommitOutcome::Committed(last));
    }
    assert_eq!(s.engine.durable(), last);
    assert!(s.engine.metrics().segments > 3);
    s.disk.crash();
    assert_eq!(s.reopen(), (0..40).collect::<Vec<_>>());
}

#[test]
fn a_copy_that_is_ahead_by_segments_is_cut() {
    let mut s = Store::new();
    let first = s.send();
    s.far.arrive(false);
    assert_eq!(s.engine.commit_once(), CommitOutcome::Committed(first));
    // Each of these takes a segment for itself.
    for _ in 0..3 {
        let op = s.message(60_000);
        s.engine.append(vec![op]).unwrap();
        assert_eq!(s.engine.commit_once(), CommitOutcome::UnderWay);
    }
    s.far.lose(false);
    s.disk.kill();
    assert_eq!(s.reopen(), [0]);
    let next = s.send();
    s.far.arrive(false);
    assert_eq!(s.engine.commit_once(), CommitOutcome::Committed(next));
    s.disk.crash();
    assert_eq!(s.reopen(), [0, 1]);
}

#[test]
fn a_checkpoint_waits_for_what_is_under_way() {
    let mut s = Store::new();
    let before = s.engine.metrics().checkpoints;
    for _ in 0..2 {
        let op = s.message(60_000);
        s.engine.append(vec![op]).unwrap();
        assert_eq!(s.engine.commit_once(), CommitOutcome::UnderWay);
    }
    assert!(!s.engine.maintain_once().checkpointed, "it would speak of frames that may not be in the log");
    s.far.arrive(false);
    s.far.arrive(false);
    assert!(matches!(s.engine.commit_once(), CommitOutcome::Committed(_)));
    assert!(s.engine.maintain_once().checkpointed);
    assert_eq!(s.engine.metrics().checkpoints, before + 1);
    // What the checkpoint covers is read from here alone: the log has let it go.
    assert_eq!(s.far.frames(), 0);
    s.disk.crash();
    assert_eq!(s.reopen(), [0, 1]);
}

#[test]
fn a_directory_that_was_lost_is_not_opened_over_its_log() {
    let mut s = Store::new();
    s.send();
    s.far.arrive(false);
    assert!(matches!(s.engine.commit_once(), CommitOutcome::Committed(_)));
    let empty = FaultDisk::new(2);
    let opened = Engine::open_over(Arc::new(empty), Arc::new(s.far.log()), EngineConfig::small());
    let error = opened.err().unwrap().to_string();
    assert!(error.contains("no checkpoint"), "{error}");
}

#[test]
fn the_committer_wakes_for_late_answers() {
    let mut s = Store::new();
    let (told, durable) = mpsc::channel();
    s.engine.start_committer(move |lsn| told.send(lsn).unwrap_or_default()).unwrap();
    for _ in 0..2 * WINDOW {
        let op = s.message(8);
        let ticket = s.engine.append(vec![op]).unwrap();
        while s.far.sent() == 0 {
            std::thread::yield_now();
        }
        assert!(durable.try_recv().is_err(), "nothing is durable while it is on its way");
        s.far.arrive(false);
        assert_eq!(durable.recv_timeout(Duration::from_secs(20)), Ok(ticket));
    }
    let op = s.message(8);
    s.engine.append(vec![op]).unwrap();
    s.far.calm();
    let far = s.far.clone();
    let network = std::thread::spawn(move || {
        while far.sent() == 0 {
            std::thread::yield_now();
        }
        far.arrive(false);
    });
    s.engine.close().unwrap();
    network.join().unwrap();
    s.disk.kill();
    assert_eq!(s.reopen().len(), 2 * WINDOW + 1);
}
