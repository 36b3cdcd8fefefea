//! What waits does not have to wait in memory: past a budget, bytes that the journal has are dropped, and others go to
//! the scratch log.

use std::sync::Arc;

use waypost_model::journal::Journal;
use waypost_model::{Batch, BatchBuilder, Lsn};

use super::level::TAIL_BYTES;
use super::mailbox::Source;
use super::queue::{Core, Queue};
use super::ready::Ready;
use super::run::{Bytes, Run, Sizes};
use crate::context::Cx;

/// Bytes of ready messages that a queue keeps in memory while the node has room: those next in line.
pub const QUEUE_MEMORY: u64 = 64 * 1024 * 1024;

/// Bytes of delivered persistent messages that a queue keeps in memory in case that they come back.
pub(super) const HELD_MEMORY: u64 = 1024 * 1024;

/// How much more must gather before a queue looks again for what it can move: what waits for the journal cannot be.
const RECLAIM_STEP: u64 = 256 * 1024;

/// The same while the node is short of memory.
const RECLAIM_STEP_SHORT: u64 = TAIL_BYTES as u64;

/// Transient messages are spilled in pieces of at least that many bytes, unless others stand between them.
const SPILL_MIN: u64 = TAIL_BYTES as u64;

impl Queue {
    /// Puts messages back that were delivered; without their bytes, if memory is short and the journal has them.
    pub fn keep_returned(&mut self, run: Run, core: &mut Core, cx: &mut Cx<'_>) {
        let short = self.waiting_memory() > QUEUE_MEMORY || cx.memory.exceeded();
        if !short || !run.logged || run.lsn > core.durable || run.slots().is_none() {
            return self.give_back(run, core, cx);
        }
        self.free_memory(run.memory(), core, cx);
        run.into_stored(self.sizes(), |run| self.give_back(run, core, cx));
    }

    /// Moves the last messages out of memory, as many as exceed the budget.
    pub fn reclaim(&mut self, core: &mut Core, cx: &mut Cx<'_>) {
        let (keep, step) = if cx.memory.exceeded() { (0, RECLAIM_STEP_SHORT) } else { (QUEUE_MEMORY, RECLAIM_STEP) };
        if self.waiting_memory() <= keep {
            self.reclaim_at = 0;
            return;
        }
        if self.waiting_memory() < self.reclaim_at {
            return;
        }
        core.durable = cx.journal.durable().max(core.durable);
        let before = self.waiting_memory();
        let sizes = self.sizes();
        // Lanes first: their messages are those that nobody has taken.
        let mut sources = if self.has_mailbox() { self.lane_sources() } else { Vec::new() };
        sources.push(Source::PLAIN);
        for source in sources {
            let excess = self.waiting_memory().saturating_sub(keep);
            if excess == 0 {
                break;
            }
            self.with_source(source, core, |ready| {
                let enough = ready.memory().saturating_sub(excess);
                for level in ready.levels() {
                    match ready.memory().saturating_sub(enough) {
                        0 => break,
                        excess => unload(ready, level, excess, sizes, core.durable, cx),
                    }
                }
            });
        }
        let after = self.waiting_memory();
        self.free_memory(before.saturating_sub(after), core, cx);
        self.reclaim_at = after + step;
    }
}

/// Moves messages from the end of a level out of memory: `excess` bytes of them, as far as that is possible.
fn unload(ready: &mut Ready, level: u8, excess: u64, sizes: Sizes, durable: Lsn, cx: &Cx<'_>) {
    let mut runs = Vec::new();
    let mut bytes = 0;
    while bytes < excess
        && ready.back(level).is_some_and(|r| r.memory() > 0)
        && let Some(run) = ready.take_back(level)
    {
        bytes += run.memory();
        runs.push(run);
    }
    runs.reverse();
    for run in moved(runs, sizes, durable, cx.journal) {
        ready.put_back(level, run);
    }
}

/// The same runs, as far as possible with their bytes elsewhere.
fn moved(runs: Vec<Run>, sizes: Sizes, durable: Lsn, journal: &dyn Journal) -> Vec<Run> {
    let mut out = Vec::with_capacity(runs.len());
    let mut group = Group::default();
    for run in runs {
        if run.logged && run.lsn <= durable && run.slots().is_some() {
            run.into_stored(sizes, |stored| out.push(stored));
            group.interrupted = !group.members.is_empty();
        } else if !run.logged && run.slots().is_some() {
            group.members.push(out.len());
            group.bytes += run.memory();
            out.push(run);
            if group.bytes >= SPILL_MIN {
                group.spill(&mut out, journal);
            }
        } else {
            out.push(run);
        }
    }
    // Once stored messages stand behind them, they are not looked at again.
    if group.interrupted {
        group.spill(&mut out, journal);
    }
    out
}

/// Transient runs that are to be spilled together.
#[derive(Debug, Default)]
struct Group {
    members: Vec<usize>,
    bytes: u64,
    interrupted: bool,
}

impl Group {
    fn spill(&mut self, runs: &mut [Run], journal: &dyn Journal) {
        let group = std::mem::take(self);
        let members = || group.members.iter().filter_map(|i| runs.get(*i));
        let spilled = match one_piece(members()) {
            Some((batch, from, to)) => journal.spill(&batch, from, to),
            None => {
                let mut b = BatchBuilder::default();
                for run in members() {
                    if let Bytes::Mem(batch) = &run.bytes {
                        b.extend(batch, run.from, run.from + run.count);
                    }
                }
                let batch = b.finish();
                journal.spill(&batch, 0, u32::try_from(batch.len()).unwrap_or(u32::MAX))
            }
        };
        // What cannot be written stays in memory; the node's budget then slows publishers.
        let Ok(at) = spilled else { return };
        let at = Arc::new(at);
        let mut index = 0;
        for i in group.members {
            if let Some(run) = runs.get_mut(i) {
                (run.bytes, run.from) = (Bytes::Spilled(Arc::clone(&at)), index);
                index += run.count;
            }
        }
    }
}

/// The range that all of them make up, if they lie one behind the other in one batch.
fn one_piece<'a>(runs: impl Iterator<Item = &'a Run>) -> Option<(Arc<Batch>, u32, u32)> {
    let mut whole: Option<(Arc<Batch>, u32, u32)> = None;
    for run in runs {
        let Bytes::Mem(batch) = &run.bytes else {
            return None;
        };
        match &mut whole {
            None => whole = Some((Arc::clone(batch), run.from, run.from + run.count)),
            Some((first, _, to)) if Arc::ptr_eq(first, batch) && *to == run.from => *to += run.count,
            Some(_) => return None,
        }
    }
    whole
}
