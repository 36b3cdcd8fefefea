//! Crashes over the fault disk. What is recovered must be exactly what some prefix of the appends leaves, and that prefix
//! must reach at least to the watermark: no durable append is lost, no synced settlement undone, no append halved.
//!
//! `WAYPOST_CRASH_SEEDS=100000` lengthens it; `WAYPOST_CRASH_SEED=n` runs one.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use waypost_model::journal::{BodyStore, Enqueue, Journal, Op, Recovered};
use waypost_model::{Attrs, BatchBuilder, Lsn, Millis, QueueId, Route, Seq, SeqRange};
use waypost_storage::fault::{Event, FaultDisk, Faults};
use waypost_storage::{CommitOutcome, Engine, EngineConfig};

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    tag: u64,
    failed: u32,
    at: u64,
    address: Option<Arc<[u8]>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    live: BTreeMap<(u64, u64), Message>,
    next: BTreeMap<u64, u64>,
    definitions: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Model {
    fn apply(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Enqueue(e) => {
                    for i in 0..e.to - e.from {
                        let tag = u64::from_le_bytes(e.batch.body(e.from + i)[..8].try_into().unwrap());
                        for (q, first) in &e.targets {
                            let seq = first.0 + u64::from(i);
                            let address = e.route.address.clone();
                            self.live.insert((q.0, seq), Message { tag, failed: 0, at: e.at.0, address });
                            self.next.insert(q.0, seq + 1);
                        }
                    }
                }
                Op::Settle(r) => self.range(r).into_iter().for_each(|k| {
                    self.live.remove(&k);
                }),
                Op::Requeued { range, delivery_count } => {
                    for k in self.range(range) {
                        self.live.entry(k).and_modify(|m| m.failed = m.failed.max(*delivery_count));
                    }
                }
                Op::Forget(q) => {
                    self.live.retain(|k, _| k.0 != q.0);
                    self.next.remove(&q.0);
                }
                Op::Define { key, value: Some(v) } => drop(self.definitions.insert(key.to_vec(), v.to_vec())),
                Op::Define { key, value: None } => drop(self.definitions.remove(&key.to_vec())),
            }
        }
    }

    fn range(&self, r: &SeqRange) -> Vec<(u64, u64)> {
        let end = r.first.0 + u64::from(r.count);
        self.live.range((r.queue.0, r.first.0)..(r.queue.0, end)).map(|(k, _)| *k).collect()
    }

    fn of(engine: &Engine, r: &Recovered) -> Model {
        let mut m = Model::default();
        for run in &r.runs {
            let (q, mut seq, end) =
                (run.range.queue, run.range.first.0, run.range.first.0 + u64::from(run.range.count));
            let mut bytes = 0;
            while seq < end {
                let l = engine.load(q, Seq(seq), (end - seq) as u32).unwrap();
                assert!(l.from < l.to);
                for i in l.from..l.to {
                    let tag = u64::from_le_bytes(l.batch.body(i)[..8].try_into().unwrap());
                    let (failed, at, address) = (run.delivery_count, run.at.0, run.route.address.clone());
                    m.live.insert((q.0, seq), Message { tag, failed, at, address });
                    seq += 1;
                }
                bytes += l.batch.payload_len(l.from, l.to);
            }
            assert_eq!(bytes, run.payload_bytes);
            assert_eq!(run.route.exchange.as_ref(), "x");
        }
        m.next = r.next_seq.iter().map(|(q, s)| (q.0, s.0)).collect();
        m.definitions = r.definitions.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        m
    }
}

struct World {
    rng: Rng,
    disk: FaultDisk,
    /// What is certainly durable.
    durable: Model,
    /// Appends behind it.
    pending: Vec<(Lsn, Vec<Op>)>,
    /// Where each queue is, with what was appended and not yet durable.
    next: BTreeMap<u64, u64>,
    tag: u64,
    first_queue: u64,
    routes: [Arc<Route>; 4],
}

impl World {
    fn enqueue(&mut self) -> Op {
        let n = 1 + self.rng.below(12);
        let mut b = BatchBuilder::default();
        let same = self.rng.below(2) == 0;
        for _ in 0..n {
            self.tag += 1;
            let len = if same { 60 } else { self.rng.below(700) };
            let mut body = self.tag.to_le_bytes().to_vec();
            body.resize(8 + len as usize, self.tag as u8);
            b.push(&[0, 0], &body);
        }
        let count = if self.rng.one_in(4) { 3 } else { 1 };
        let start = self.rng.below(5);
        let queues = (0..count).map(|i| self.first_queue + (start + i) % 5);
        let mut targets = Vec::new();
        for q in queues {
            let next = self.next.entry(q).or_default();
            // Transient messages take places that the journal never hears of.
            *next += if self.rng.one_in(6) { 2 } else { 0 };
            targets.push((QueueId(q), Seq(*next)));
            *next += n;
        }
        let route = Arc::clone(&self.routes[self.rng.below(4) as usize]);
        let batch = Arc::new(b.finish());
        let to = batch.len() as u32;
        let at = Millis(self.rng.below(3));
        Op::Enqueue(Enqueue { targets: targets.into(), batch, from: 0, to, route, attrs: Attrs::default(), at })
    }

    fn range(&mut self) -> SeqRange {
        let q = self.first_queue + self.rng.below(5);
        let next = self.next.get(&q).copied().unwrap_or(0);
        let back = if self.rng.one_in(3) { next.saturating_sub(30) } else { 0 };
        // Only places that were given out are settled.
        let first = back + self.rng.below(next - back + 1);
        let count = self.rng.below(40).min(next - first);
        SeqRange { queue: QueueId(q), first: Seq(first), count: count as u32 }
    }

    fn op(&mut self) -> Op {
        match self.rng.below(20) {
            0..9 => self.enqueue(),
            9..15 => Op::Settle(self.range()),
            15..17 => Op::Requeued { range: self.range(), delivery_count: self.rng.below(4) as u32 },
            17 if self.rng.one_in(8) => {
                // Ids are never used again: the oldest of the five goes, a new one comes.
                self.first_queue += 1;
                Op::Forget(QueueId(self.first_queue - 1))
            }
            _ => {
                let key = vec![b'k', self.rng.below(4) as u8].into();
                let len = self.rng.below(60) as usize;
                let value = (!self.rng.one_in(4)).then(|| vec![self.tag as u8; len].into());
                Op::Define { key, value }
            }
        }
    }

    fn append(&mut self, e: &Engine) {
        let ops: Vec<Op> = (0..1 + self.rng.below(3)).map(|_| self.op()).collect();
        if let Ok(lsn) = e.append(ops.clone()) {
            self.pending.push((lsn, ops));
        }
    }

    fn commit(&mut self, e: &Engine) {
        if let CommitOutcome::Committed(lsn) = e.commit_once() {
            assert_eq!(e.durable(), lsn);
            while self.pending.first().is_some_and(|(l, _)| *l <= lsn) {
                self.durable.apply(&self.pending.remove(0).1);
            }
        }
    }

    fn open(&mut self) -> Engine {
        if self.rng.one_in(4) {
            let power_off = Some(self.rng.below(25));
            self.disk.set_faults(Faults { power_off, ..Faults::default() });
            drop(Engine::open(Arc::new(self.disk.clone()), EngineConfig::small()));
            self.disk.crash();
        }
        let (e, r) = Engine::open(Arc::new(self.disk.clone()), EngineConfig::small()).unwrap();
        let found = Model::of(&e, &r);
        let mut state = std::mem::take(&mut self.durable);
        let mut pending = std::mem::take(&mut self.pending).into_iter();
        while state != found {
            let Some((_, ops)) = pending.next() else {
                panic!("recovered what no prefix leaves: found {found:?}\nlast tried {state:?}");
            };
            state.apply(&ops);
        }
        self.next = state.next.clone();
        self.durable = state;
        e
    }

    fn live(&mut self) {
        let e = self.open();
        if self.rng.one_in(2) {
            let power_off = Some(self.rng.below(60));
            let fail_sync = self.rng.one_in(4).then(|| self.rng.below(20));
            let short_writes = self.rng.one_in(2);
            self.disk.set_faults(Faults { power_off, fail_sync, short_writes, ..Faults::default() });
        }
        for _ in 0..self.rng.below(60) {
            match self.rng.below(10) {
                0..6 => self.append(&e),
                6..9 => self.commit(&e),
                _ => assert!(e.maintain_once().released < 1000),
            }
        }
        match self.rng.below(5) {
            0 => {
                if e.close().is_ok() {
                    self.pending.drain(..).for_each(|(_, ops)| self.durable.apply(&ops));
                    self.disk.crash();
                    return;
                }
                self.disk.crash();
            }
            1 => {
                drop(e);
                self.disk.kill();
            }
            _ => {
                drop(e);
                self.disk.crash();
            }
        }
    }
}

/// Without an address, with an empty one, a short one, and the longest.
fn routes() -> [Arc<Route>; 4] {
    let address = |a: Option<&[u8]>| Arc::new(Route { address: a.map(Arc::from), ..Route::new("x", "y") });
    [address(None), address(Some(b"")), address(Some(b"version=^2")), address(Some(&[7; Route::ADDRESS_MAX]))]
}

fn run(seed: u64) {
    let mut w = World {
        rng: Rng(seed.wrapping_mul(0x9e3779b97f4a7c15) ^ 77),
        disk: FaultDisk::new(seed + 1),
        durable: Model::default(),
        pending: Vec::new(),
        next: BTreeMap::new(),
        tag: 0,
        first_queue: 1,
        routes: routes(),
    };
    for _ in 0..12 {
        w.live();
    }
    drop(w.open());
}

#[test]
fn a_crash_leaves_a_prefix_that_reaches_the_watermark() {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>().unwrap());
    if let Some(seed) = number("WAYPOST_CRASH_SEED") {
        return run(seed);
    }
    for seed in 0..number("WAYPOST_CRASH_SEEDS").unwrap_or(60) {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("WAYPOST_CRASH_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn each_watermark_follows_its_sync() {
    let disk = FaultDisk::new(5);
    // Zeros ahead of the log need no sync before a commit.
    let cfg = EngineConfig { zero_ahead: false, ..EngineConfig::small() };
    let (e, _) = Engine::open(Arc::new(disk.clone()), cfg).unwrap();
    let mut w = World {
        rng: Rng(9),
        disk: disk.clone(),
        durable: Model::default(),
        pending: Vec::new(),
        next: BTreeMap::new(),
        tag: 0,
        first_queue: 1,
        routes: routes(),
    };
    drop(disk.take_events());
    let mut marks = 0;
    for _ in 0..400 {
        w.append(&e);
        if w.rng.one_in(3) {
            let before = e.durable();
            w.commit(&e);
            disk.mark(e.durable().0);
            marks += u64::from(e.durable() > before);
        }
        if w.rng.one_in(20) {
            e.maintain_once();
        }
    }
    assert!(marks > 100);
    let mut unsynced: BTreeMap<String, u64> = BTreeMap::new();
    for event in disk.take_events() {
        match event {
            Event::Write { file, .. } => *unsynced.entry(file).or_default() += 1,
            Event::Sync { file, ok: true } => drop(unsynced.remove(&file)),
            Event::Mark(_) => assert!(unsynced.keys().all(|f| !f.starts_with("seg-")), "{unsynced:?}"),
            _ => {}
        }
    }
}

#[test]
fn a_failed_sync_or_write_stops_the_store() {
    for faults in
        [Faults { fail_sync: Some(0), ..Faults::default() }, Faults { fail_write: Some(0), ..Faults::default() }]
    {
        let disk = FaultDisk::new(1);
        let (e, _) = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap();
        let told = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let count = Arc::clone(&told);
        e.on_stop(move |_| {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        });
        let define = || vec![Op::Define { key: b"k".as_slice().into(), value: None }];
        e.append(define()).unwrap();
        disk.set_faults(faults);
        let syncs = |events: Vec<Event>| events.iter().filter(|e| matches!(e, Event::Sync { .. })).count();
        drop(disk.take_events());
        assert_eq!(e.commit_once(), CommitOutcome::Stopped);
        assert_eq!(e.commit_once(), CommitOutcome::Stopped);
        assert!(syncs(disk.take_events()) <= 1, "a failed sync must not be tried again");
        assert_eq!(e.durable(), Lsn(0));
        assert!(e.append(define()).is_err() && e.is_stopped());
        assert_eq!(told.load(std::sync::atomic::Ordering::SeqCst), 1);
        assert!(e.close().is_err());
    }
}

#[test]
fn a_full_disk_refuses_messages_takes_settlements_and_recovers() {
    let disk = FaultDisk::new(3);
    disk.set_faults(Faults { capacity: Some(600 << 10), ..Faults::default() });
    let (e, _) = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap();
    let mut b = BatchBuilder::default();
    (0..10).for_each(|_| b.push(&[0, 0], &[7; 800]));
    let batch = Arc::new(b.finish());
    let route = Arc::new(Route::new("x", "y"));
    let mut next = 0;
    let enqueue = |next: u64| {
        let (targets, batch, route) = (Box::new([(QueueId(1), Seq(next))]), Arc::clone(&batch), Arc::clone(&route));
        vec![Op::Enqueue(Enqueue { targets, batch, from: 0, to: 10, route, attrs: Attrs::default(), at: Millis(0) })]
    };
    for round in 0..3 {
        let start = next;
        while e.append(enqueue(next)).is_ok() {
            next += 10;
            assert!(matches!(e.commit_once(), CommitOutcome::Committed(_)));
            e.maintain_once();
            assert!(next < 10_000, "it never became full");
        }
        assert!(e.is_full() && next - start > 200, "round {round}: {}", next - start);
        for seq in start..next {
            e.append(vec![Op::Settle(SeqRange { queue: QueueId(1), first: Seq(seq), count: 1 })]).unwrap();
            assert!(matches!(e.commit_once(), CommitOutcome::Committed(_)));
        }
        for _ in 0..4 {
            e.maintain_once();
        }
        assert!(!e.is_full(), "round {round}");
    }
    e.close().unwrap();
}

#[test]
fn what_found_no_room_is_written_once_there_is_some_though_nobody_says_anything_more() {
    let disk = FaultDisk::new(3);
    let room = |capacity| disk.set_faults(Faults { capacity, ..Faults::default() });
    room(Some(400 << 10));
    let (e, _) = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap();
    let (told, news) = std::sync::mpsc::channel();
    e.start_committer(move |lsn| told.send(lsn).unwrap_or(())).unwrap();
    let durable_by = |lsn, wait| {
        std::iter::from_fn(|| news.recv_timeout(std::time::Duration::from_millis(wait)).ok()).any(|l| l >= lsn)
    };
    let define = |n: u64| vec![Op::Define { key: n.to_be_bytes().into(), value: Some(vec![7; 3000].into()) }];
    let mut last = e.append(define(0)).unwrap();
    for n in 1..1000 {
        if !durable_by(last, 500) {
            break;
        }
        last = e.append(define(n)).unwrap();
    }
    assert!(e.durable() < last && !e.is_stopped(), "it never became full");
    room(None);
    assert!(durable_by(last, 10_000));
    e.close().unwrap();
}
