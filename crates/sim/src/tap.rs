//! The journal as the broker sees it, with a copy of everything that goes in: what a crash may leave follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waypost_model::journal::{AppendError, BodyStore, Journal, Loaded, Op, Recovered, SpillRef};
use waypost_model::{Attrs, Batch, Lsn, Millis, QueueId, Route, Seq};
use waypost_storage::Engine;

use crate::uid_of;

/// A message as the journal should have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The simulator's own number for it.
    pub uid: u64,
    /// When it came.
    pub at: Millis,
    /// What it is.
    pub attrs: Attrs,
    /// Where it was published to.
    pub route: Arc<Route>,
    /// Failed deliveries.
    pub delivery_count: u32,
}

/// What a prefix of the journal comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// What is live, by queue and place.
    pub messages: BTreeMap<(QueueId, Seq), Stored>,
    /// The definitions.
    pub definitions: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Image {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Enqueue(e) => {
                for (queue, first) in &e.targets {
                    for i in e.from..e.to {
                        let stored = Stored {
                            uid: uid_of(e.batch.body(i)),
                            at: e.at,
                            attrs: e.attrs,
                            route: Arc::clone(&e.route),
                            delivery_count: 0,
                        };
                        self.messages.insert((*queue, first.plus(u64::from(i - e.from))), stored);
                    }
                }
            }
            Op::Settle(r) => {
                for n in 0..u64::from(r.count) {
                    self.messages.remove(&(r.queue, r.first.plus(n)));
                }
            }
            Op::Requeued { range, delivery_count } => {
                for n in 0..u64::from(range.count) {
                    if let Some(m) = self.messages.get_mut(&(range.queue, range.first.plus(n))) {
                        m.delivery_count = m.delivery_count.max(*delivery_count);
                    }
                }
            }
            Op::Forget(queue) => self.messages.retain(|(q, _), _| q != queue),
            Op::Define { key, value: Some(v) } => {
                self.definitions.insert(key.clone(), v.clone());
            }
            Op::Define { key, value: None } => {
                self.definitions.remove(key);
            }
        }
    }

    /// What recovery found, in the same form; uids are read from the store.
    pub fn of(recovered: &Recovered, store: &Engine) -> Result<Image, String> {
        let mut image = Image::default();
        image.definitions.extend(recovered.definitions.iter().cloned());
        for r in &recovered.runs {
            let mut n = 0;
            while n < r.range.count {
                let first = r.range.first.plus(u64::from(n));
                let part = store
                    .load(r.range.queue, first, r.range.count - n)
                    .map_err(|e| format!("a recovered message cannot be read: {:?} {first:?}: {e}", r.range.queue))?;
                for i in part.from..part.to {
                    let stored = Stored {
                        uid: uid_of(part.batch.body(i)),
                        at: r.at,
                        attrs: r.attrs,
                        route: Arc::clone(&r.route),
                        delivery_count: r.delivery_count,
                    };
                    image.messages.insert((r.range.queue, first.plus(u64::from(i - part.from))), stored);
                }
                n += part.to - part.from;
            }
        }
        Ok(image)
    }

    /// What differs first, in words.
    #[must_use]
    pub fn difference(&self, other: &Image) -> String {
        for (k, m) in &self.messages {
            if other.messages.get(k) != Some(m) {
                return format!("{k:?}: {m:?} against {:?}", other.messages.get(k));
            }
        }
        for (k, m) in &other.messages {
            if !self.messages.contains_key(k) {
                return format!("{k:?}: nothing against {m:?}");
            }
        }
        for (k, v) in self.definitions.iter().chain(&other.definitions) {
            if self.definitions.get(k) != other.definitions.get(k) {
                return format!("definition {} ({} bytes)", String::from_utf8_lossy(k), v.len());
            }
        }
        "nothing".into()
    }
}

#[derive(Default)]
struct Seen {
    base: Image,
    opened: BTreeSet<(QueueId, Seq)>,
    /// By ticket; what the engine refused is not there.
    appends: BTreeMap<u64, Vec<Op>>,
    placed: BTreeMap<(QueueId, Seq), (u64, Lsn)>,
}

/// See the module.
pub struct Tap {
    engine: Arc<Engine>,
    seen: Mutex<Seen>,
}

impl Tap {
    /// A tap on a store that was opened with what `base` says.
    #[must_use]
    pub fn new(engine: Arc<Engine>, base: Image) -> Tap {
        let opened = base.messages.keys().copied().collect();
        Tap { engine, seen: Mutex::new(Seen { base, opened, ..Seen::default() }) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, ticket: Lsn, ops: Vec<Op>) {
        let mut seen = self.seen();
        for op in &ops {
            if let Op::Enqueue(e) = op {
                for (queue, first) in &e.targets {
                    for i in e.from..e.to {
                        let uid = uid_of(e.batch.body(i));
                        seen.placed.insert((*queue, first.plus(u64::from(i - e.from))), (uid, ticket));
                    }
                }
            }
        }
        seen.appends.insert(ticket.0, ops);
    }

    /// The ticket under which a message entered a queue since the start, if it was appended at all.
    #[must_use]
    pub fn ticket(&self, queue: QueueId, seq: Seq) -> Option<Lsn> {
        self.seen().placed.get(&(queue, seq)).map(|(_, t)| *t)
    }

    /// Whether a message was there when the store was opened.
    #[must_use]
    pub fn was_stored(&self, queue: QueueId, seq: Seq) -> bool {
        self.seen().opened.contains(&(queue, seq))
    }

    /// Whether a message is live after all that was appended.
    #[must_use]
    pub fn is_live(&self, queue: QueueId, seq: Seq) -> bool {
        let mut seen = self.seen();
        let seen = &mut *seen;
        let mut live = seen.base.messages.contains_key(&(queue, seq));
        for ops in seen.appends.values() {
            for op in ops {
                match op {
                    Op::Enqueue(e) => {
                        let n = u64::from(e.to - e.from);
                        live |= e.targets.iter().any(|(q, f)| *q == queue && (f.0..f.0 + n).contains(&seq.0));
                    }
                    Op::Settle(r) if r.queue == queue => {
                        live &= !(r.first.0..r.first.0 + u64::from(r.count)).contains(&seq.0);
                    }
                    Op::Forget(q) if *q == queue => live = false,
                    _ => {}
                }
            }
        }
        live
    }

    /// Folds what is durable into the base.
    pub fn fold(&self) {
        let durable = self.engine.durable().0;
        let mut seen = self.seen();
        let rest = seen.appends.split_off(&(durable + 1));
        for ops in std::mem::replace(&mut seen.appends, rest).into_values() {
            ops.iter().for_each(|op| seen.base.apply(op));
        }
    }

    /// What a crash may leave, as far as is known now.
    #[must_use]
    pub fn expected(&self) -> Expected {
        self.fold();
        let seen = self.seen();
        Expected { durable: seen.base.clone(), rest: seen.appends.values().cloned().collect() }
    }
}

/// The durable part of a journal, and the appends behind it, any number of which a crash may keep.
pub struct Expected {
    durable: Image,
    rest: Vec<Vec<Op>>,
}

impl Expected {
    /// Whether no message is live.
    ///
    /// # Errors
    /// One that is.
    pub fn is_empty(&self) -> Result<(), String> {
        let left = self.durable.messages.iter().next();
        left.map_or(Ok(()), |(k, m)| Err(format!("the journal still has {k:?}: {m:?}")))
    }

    /// How many appends past the watermark were kept in `found`.
    ///
    /// # Errors
    /// What differs, if `found` is no prefix that holds the watermark.
    pub fn check(mut self, found: &Image) -> Result<usize, String> {
        if self.durable == *found {
            return Ok(0);
        }
        let first = self.durable.difference(found);
        for (kept, ops) in self.rest.iter().enumerate() {
            ops.iter().for_each(|op| self.durable.apply(op));
            if self.durable == *found {
                return Ok(kept + 1);
            }
        }
        Err(format!(
            "what was recovered is no prefix of the journal that holds the watermark\n  at the watermark: {first}\n  at its end ({} appends on): {}",
            self.rest.len(),
            self.durable.difference(found)
        ))
    }
}

impl Journal for Tap {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        let ticket = self.engine.append(ops.clone())?;
        self.note(ticket, ops);
        Ok(ticket)
    }

    fn reserve(&self) -> Lsn {
        self.engine.reserve()
    }

    fn fill(&self, ticket: Lsn, ops: Vec<Op>) -> Result<(), AppendError> {
        self.engine.fill(ticket, ops.clone())?;
        self.note(ticket, ops);
        Ok(())
    }

    fn durable(&self) -> Lsn {
        self.engine.durable()
    }

    fn room(&self, bytes: u64) -> Result<(), AppendError> {
        self.engine.room(bytes)
    }

    fn room_for_definitions(&self) -> Result<(), AppendError> {
        self.engine.room_for_definitions()
    }

    fn spill(&self, batch: &Batch, from: u32, to: u32) -> std::io::Result<SpillRef> {
        self.engine.spill(batch, from, to)
    }

    fn release_spill(&self, at: SpillRef) {
        self.engine.release_spill(at);
    }
}

impl BodyStore for Tap {
    fn load(&self, queue: QueueId, first: Seq, count: u32) -> std::io::Result<Loaded> {
        self.engine.load(queue, first, count)
    }

    fn load_spilled(&self, at: SpillRef) -> std::io::Result<Arc<Batch>> {
        self.engine.load_spilled(at)
    }
}
