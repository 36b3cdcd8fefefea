//! A journal in memory: its watermark moves when a test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use waypost_model::journal::{AppendError, Enqueue, Journal, Op, RecoveredRun, SpillRef};
use waypost_model::{Batch, Lsn, QueueId, Seq, SeqRange};

#[derive(Default)]
pub struct FakeJournal {
    state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    pub last: u64,
    pub durable: u64,
    /// Whether the watermark follows by itself.
    pub automatic: bool,
    pub fails: Option<AppendError>,
    pub live: BTreeMap<(QueueId, Seq), Stored>,
    pub requeued: BTreeMap<(QueueId, Seq), u32>,
    pub spills: BTreeMap<u64, Vec<Vec<u8>>>,
    pub spill_count: u64,
    pub appends: u64,
    pub forgotten: BTreeSet<QueueId>,
}

#[derive(Clone)]
pub struct Stored {
    pub body: Vec<u8>,
    pub enqueue: Enqueue,
    pub index: u32,
}

impl FakeJournal {
    pub fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap())
    }

    /// What a restart would find of a queue.
    pub fn recovered(&self, queue: QueueId) -> Vec<RecoveredRun> {
        self.with(|s| {
            let live = s.live.iter().filter(|((q, _), _)| *q == queue);
            live.map(|(&(queue, first), m)| RecoveredRun {
                range: SeqRange { queue, first, count: 1 },
                route: Arc::clone(&m.enqueue.route),
                attrs: m.enqueue.attrs,
                at: m.enqueue.at,
                delivery_count: s.requeued.get(&(queue, first)).copied().unwrap_or(0),
                payload_bytes: m.enqueue.batch.payload_len(m.index, m.index + 1),
            })
            .collect()
        })
    }
}

impl State {
    fn apply(&mut self, op: Op) {
        match op {
            Op::Enqueue(e) => {
                assert!(!e.targets.is_empty() && e.from < e.to);
                for (queue, first) in e.targets.clone() {
                    for i in e.from..e.to {
                        let key = (queue, first.plus(u64::from(i - e.from)));
                        let body = e.batch.body(i).to_vec();
                        let old = self.live.insert(key, Stored { body, enqueue: e.clone(), index: i });
                        assert!(old.is_none(), "a place was given out twice: {key:?}");
                    }
                }
            }
            Op::Settle(r) => {
                for i in 0..u64::from(r.count) {
                    let was = self.live.remove(&(r.queue, r.first.plus(i)));
                    assert!(was.is_some(), "settled what is not there: {r:?} + {i}");
                }
            }
            Op::Requeued { range, delivery_count } => {
                for i in 0..u64::from(range.count) {
                    self.requeued.insert((range.queue, range.first.plus(i)), delivery_count);
                }
            }
            Op::Forget(queue) => {
                self.live.retain(|(q, _), _| *q != queue);
                self.forgotten.insert(queue);
            }
            Op::Define { .. } => panic!("shards define nothing"),
        }
    }
}

impl Journal for FakeJournal {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        self.with(|s| {
            assert!(!ops.is_empty());
            let has_messages = ops.iter().any(|op| matches!(op, Op::Enqueue(_)));
            match s.fails {
                Some(AppendError::Full) if !has_messages => {}
                Some(e) => return Err(e),
                None => {}
            }
            ops.into_iter().for_each(|op| s.apply(op));
            s.last += 1;
            s.appends += 1;
            if s.automatic {
                s.durable = s.last;
            }
            Ok(Lsn(s.last))
        })
    }

    fn reserve(&self) -> Lsn {
        unreachable!("shards reserve nothing")
    }

    fn fill(&self, _: Lsn, _: Vec<Op>) -> Result<(), AppendError> {
        unreachable!("shards fill nothing")
    }

    fn durable(&self) -> Lsn {
        self.with(|s| Lsn(s.durable))
    }

    fn spill(&self, batch: &Batch, from: u32, to: u32) -> std::io::Result<SpillRef> {
        self.with(|s| {
            s.spill_count += 1;
            let bodies = (from..to).map(|i| batch.body(i).to_vec()).collect();
            s.spills.insert(s.spill_count, bodies);
            Ok(SpillRef { segment: s.spill_count, offset: 0, len: to - from })
        })
    }

    fn release_spill(&self, at: SpillRef) {
        self.with(|s| assert!(s.spills.remove(&at.segment).is_some(), "released twice: {at:?}"));
    }
}
