//! What a consumer holds: delivered and not settled.

use std::collections::{BTreeMap, VecDeque};

use waypost_model::{Millis, Seq};

use super::run::Run;

/// What is left of a run is copied when it is less than that part of what it pins.
const REST_PART: u64 = 8;

/// A delivered run.
#[derive(Debug)]
pub(super) struct Delivered {
    pub run: Run,
    pub since: Millis,
}

/// What a consumer holds.
#[derive(Debug)]
pub(super) struct Held {
    runs: Runs,
    messages: u64,
}

#[derive(Debug)]
enum Runs {
    /// Without acknowledgement: settled in the order of delivery, as it leaves for the socket. How often the buffer
    /// changes from one run to the next, the first one counted.
    InOrder(VecDeque<Delivered>, usize),
    /// Settled by place, in any order.
    ByPlace(BTreeMap<u64, Delivered>),
}

impl Held {
    pub fn in_order() -> Held {
        Held { runs: Runs::InOrder(VecDeque::new(), 0), messages: 0 }
    }

    pub fn by_place() -> Held {
        Held { runs: Runs::ByPlace(BTreeMap::new()), messages: 0 }
    }

    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// How many buffers it pins, unless one comes again after others: then more.
    pub fn buffers(&self) -> usize {
        match &self.runs {
            Runs::InOrder(_, buffers) => *buffers,
            Runs::ByPlace(runs) => runs.len(),
        }
    }

    /// Whether a run is in the buffer that the last one is in.
    pub fn pins(&self, run: &Run) -> bool {
        match &self.runs {
            Runs::InOrder(runs, _) => runs.back().is_some_and(|last| last.run.shares(run)),
            Runs::ByPlace(_) => false,
        }
    }

    pub fn add(&mut self, run: Run, since: Millis) {
        self.messages += u64::from(run.count);
        let held = Delivered { run, since };
        match &mut self.runs {
            Runs::InOrder(runs, buffers) => {
                *buffers += usize::from(runs.back().is_none_or(|last| !last.run.shares(&held.run)));
                runs.push_back(held);
            }
            Runs::ByPlace(runs) => {
                runs.insert(held.run.first.0, held);
            }
        }
    }

    /// Takes the messages `n` that were delivered first; only where settled in order. Gives each run to `f`, with
    /// the time of its delivery.
    pub fn take_first(&mut self, mut n: u32, mut f: impl FnMut(Run, Millis)) {
        let Runs::InOrder(runs, buffers) = &mut self.runs else {
            return;
        };
        while n > 0 {
            let Some(front) = runs.front_mut() else { break };
            let since = front.since;
            let taken = if n < front.run.count {
                front.run.split_front(n)
            } else {
                let Some(front) = runs.pop_front() else { break };
                *buffers -= usize::from(runs.front().is_none_or(|next| !next.run.shares(&front.run)));
                front.run
            };
            n -= taken.count;
            self.messages -= u64::from(taken.count);
            f(taken, since);
        }
    }

    /// Takes those of the messages `first..first + count` that are held; only where settled by place. Gives each run to
    /// `f`, in order of places.
    pub fn take_range(&mut self, first: Seq, count: u32, mut f: impl FnMut(Run, Millis)) {
        let Runs::ByPlace(runs) = &mut self.runs else {
            return;
        };
        let end = first.0.saturating_add(u64::from(count));
        let Some((&key, _)) = runs.range(..=first.0).next_back().filter(|(_, d)| d.run.end() > first.0) else {
            return Self::take_from(runs, &mut self.messages, first.0, end, f);
        };
        if key < first.0
            && let Some(d) = runs.get_mut(&key)
        {
            // The range begins inside a run: what comes before it stays.
            let before = u32::try_from(first.0 - key).unwrap_or(u32::MAX);
            let since = d.since;
            let front = d.run.split_front(before);
            let mut rest = std::mem::replace(&mut d.run, front);
            d.run.tighten(REST_PART);
            rest.tighten(REST_PART);
            runs.insert(rest.first.0, Delivered { run: rest, since });
        }
        Self::take_from(runs, &mut self.messages, first.0, end, &mut f);
    }

    fn take_from(
        runs: &mut BTreeMap<u64, Delivered>,
        messages: &mut u64,
        mut at: u64,
        end: u64,
        mut f: impl FnMut(Run, Millis),
    ) {
        while at < end {
            let Some((&key, _)) = runs.range(at..end).next() else {
                return;
            };
            let Some(mut d) = runs.remove(&key) else {
                return;
            };
            let since = d.since;
            let taken = if d.run.end() > end {
                let taken = d.run.split_front(u32::try_from(end - key).unwrap_or(u32::MAX));
                d.run.tighten(REST_PART);
                runs.insert(d.run.first.0, d);
                taken
            } else {
                d.run
            };
            at = taken.end();
            *messages -= u64::from(taken.count);
            f(taken, since);
        }
    }

    /// Takes everything.
    pub fn take_all(&mut self) -> Vec<Run> {
        self.messages = 0;
        match &mut self.runs {
            Runs::InOrder(runs, buffers) => {
                *buffers = 0;
                std::mem::take(runs).into_iter().map(|d| d.run).collect()
            }
            Runs::ByPlace(runs) => std::mem::take(runs).into_values().map(|d| d.run).collect(),
        }
    }

    /// When the oldest of them was delivered.
    pub fn oldest(&self) -> Option<Millis> {
        match &self.runs {
            Runs::InOrder(runs, _) => runs.front().map(|d| d.since),
            Runs::ByPlace(runs) => runs.values().map(|d| d.since).min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::shard::run::{Bytes, NEVER};
    use waypost_model::{Attrs, Batch, BatchBuilder, Lsn, Route};

    fn batch() -> Arc<Batch> {
        let mut b = BatchBuilder::default();
        (0..64).for_each(|_| b.push(&[0, 0], &[7; 100]));
        Arc::new(b.finish())
    }

    fn run(first: u64, count: u32, batch: &Arc<Batch>, from: u32) -> Run {
        let (attrs, at, lsn, payload, body) = (Attrs::default(), Millis(0), Lsn(0), 0, 0);
        let mut run = Run {
            first: Seq(first),
            count,
            from,
            bytes: Bytes::Mem(Arc::clone(batch)),
            route: Arc::new(Route::new("", "q")),
            attrs,
            at,
            deadline: NEVER,
            lsn,
            payload,
            body,
            delivery_count: 0,
            redelivered: false,
            logged: false,
            tag: Default::default(),
            keys: Box::default(),
        };
        (run.payload, run.body) = super::super::run::sum(run.slots().unwrap());
        run
    }

    /// As it is defined.
    fn counted(held: &Held) -> usize {
        let Runs::InOrder(runs, _) = &held.runs else { panic!() };
        let runs: Vec<&Run> = runs.iter().map(|d| &d.run).collect();
        runs.chunk_by(|a, b| a.shares(b)).count()
    }

    #[test]
    fn neighbours_in_one_batch_pin_it_once_however_they_go() {
        let batches = [batch(), batch(), batch()];
        for taken in 1..=5 {
            let mut held = Held::in_order();
            let mut seq = 0;
            for (n, batch) in batches.iter().enumerate() {
                for from in [0, 3, 6] {
                    let next = run(seq, 3, batch, from);
                    assert_eq!(held.buffers() + usize::from(!held.pins(&next)), n + 1);
                    held.add(next, Millis(0));
                    seq += 3;
                }
            }
            assert_eq!((held.buffers(), held.messages()), (3, 27));
            while held.messages() > 0 {
                held.take_first(taken, |_, _| {});
                assert_eq!(held.buffers(), counted(&held), "{taken} at a time, {} left", held.messages());
            }
            assert_eq!(held.buffers(), 0);
        }
    }
}
