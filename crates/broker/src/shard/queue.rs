//! A queue: its messages on their way from ready to settled.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use waypost_model::journal::{AppendError, Op};
use waypost_model::{Lsn, Millis, QueueId, Seq, SeqRange, ShardId};

use super::mailbox::Mailbox;
use super::ready::Ready;
use super::roster::{Roster, Sharing};
use super::run::{Bytes, NEVER, Run, Sizes};
use super::stats::QueueStats;
use crate::context::Cx;
use crate::effect::{DeadLetter, DeathReason, Effect, Leaving};
use crate::settings::QueueSettings;

/// Settlements are handed to the journal at the latest when that many operations have gathered.
const OPS_MAX: usize = 1024;

/// A change of memory in use is told to the node's budget at the latest when it is that large.
const MEMORY_STEP: i64 = 64 * 1024;

/// How long a mailbox that nobody has declared is kept while it has nothing and nobody, ms.
pub const IMPLICIT_IDLE_MS: u64 = 300_000;

/// What the queues of a shard share.
#[derive(Debug)]
pub(super) struct Core {
    pub id: ShardId,
    /// The watermark as last seen.
    pub durable: Lsn,
    /// Queues with a consumer that waits for the watermark.
    pub waiting: BinaryHeap<Reverse<(Lsn, u32)>>,
    /// One entry per queue with a deadline, as [`Queue::timer`] says.
    pub timers: BTreeSet<(Millis, u32)>,
    ops: Vec<Op>,
    /// The journal had no room for `ops`.
    refused: bool,
    /// A copy of what was handed in last.
    offered: Vec<Op>,
    memory: i64,
    /// Runs on their way from one place to another; empty between calls.
    pub scratch: Vec<Run>,
}

impl Core {
    pub fn new(id: ShardId) -> Core {
        Core {
            id,
            durable: Lsn(0),
            waiting: BinaryHeap::new(),
            timers: BTreeSet::new(),
            ops: Vec::new(),
            refused: false,
            offered: Vec::new(),
            memory: 0,
            scratch: Vec::new(),
        }
    }

    /// Notes that messages have left for good.
    pub fn settled(&mut self, range: SeqRange, cx: &Cx<'_>) {
        if let Some(Op::Settle(last)) = self.ops.last_mut()
            && last.queue == range.queue
            && let Some(count) = last.count.checked_add(range.count)
        {
            if last.first.plus(u64::from(last.count)) == range.first {
                last.count = count;
                return;
            }
            if range.first.plus(u64::from(range.count)) == last.first {
                (last.first, last.count) = (range.first, count);
                return;
            }
        }
        self.note(Op::Settle(range), cx);
    }

    /// Gathers an operation that needs no ticket.
    pub fn note(&mut self, op: Op, cx: &Cx<'_>) {
        self.ops.push(op);
        if self.ops.len() >= OPS_MAX {
            self.flush_ops(cx);
        }
    }

    /// Hands gathered operations to the journal.
    pub fn flush_ops(&mut self, cx: &Cx<'_>) {
        if self.ops.is_empty() || (self.refused && cx.journal.room(0).is_err()) {
            return;
        }
        self.offer_ops(cx);
    }

    /// Hands gathered operations to the journal, also if it refused them before. What a disk without any room does not
    /// take is kept: never more than there were messages. A journal that has stopped takes nothing any more: then its
    /// last confirmed state is what counts, and these messages will be delivered again.
    pub fn offer_ops(&mut self, cx: &Cx<'_>) {
        let ops = std::mem::take(&mut self.ops);
        self.offered.clear();
        self.offered.extend_from_slice(&ops);
        self.refused = cx.journal.append(ops) == Err(AppendError::Full);
        if self.refused {
            std::mem::swap(&mut self.ops, &mut self.offered);
        }
    }

    /// Whether the journal has refused operations.
    pub fn owes_ops(&self) -> bool {
        self.refused
    }

    /// Counts a change of memory in use.
    pub fn add_memory(&mut self, bytes: i64, cx: &Cx<'_>) {
        self.memory += bytes;
        if self.memory.abs() >= MEMORY_STEP {
            self.flush_memory(cx);
        }
    }

    pub fn flush_memory(&mut self, cx: &Cx<'_>) {
        if self.memory != 0 {
            cx.memory.add(std::mem::take(&mut self.memory));
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    pub settings: Arc<QueueSettings>,
    /// Where it stands in its shard.
    pub index: u32,
    pub next_seq: Seq,
    pub ready: Ready,
    /// Messages delivered and to be acknowledged.
    pub unsettled: u64,
    /// Messages delivered without acknowledgement whose bytes have not left.
    pub unsent: u64,
    /// Bytes in memory of all messages, ready or not.
    pub memory: u64,
    pub stats: QueueStats,
    pub roster: Option<Box<Roster>>,
    /// Messages that the broker is copying elsewhere, by first place.
    pub leaving: Option<BTreeMap<u64, Run>>,
    pub last_used: Millis,
    /// The entry in [`Core::timers`].
    pub timer: Millis,
    /// When to look for deliveries that have been unsettled for too long.
    pub check_held: Millis,
    /// Ready bytes in memory at which to try again to move some out.
    pub reclaim_at: u64,
    /// A consumer with credit waits for the journal.
    pub waiting: bool,
    /// Where instances consume, or messages are for some of them.
    pub mailbox: Option<Box<Mailbox>>,
}

impl Queue {
    pub fn new(settings: Arc<QueueSettings>, index: u32, now: Millis) -> Queue {
        let mut q = Queue {
            index,
            next_seq: Seq(0),
            ready: Ready::new(settings.max_priority),
            unsettled: 0,
            unsent: 0,
            memory: 0,
            stats: QueueStats::default(),
            roster: None,
            leaving: None,
            last_used: now,
            timer: NEVER,
            check_held: NEVER,
            reclaim_at: 0,
            waiting: false,
            mailbox: None,
            settings,
        };
        q.ready.sizes = q.sizes();
        q
    }

    pub fn id(&self) -> QueueId {
        self.settings.id
    }

    pub fn sizes(&self) -> Sizes {
        if self.settings.max_length_bytes.is_some() { Sizes::Exact } else { Sizes::Near }
    }

    pub fn is_delay(&self) -> bool {
        self.settings.delay_of.is_some()
    }

    pub fn sharing(&self) -> Sharing {
        if self.settings.single_active_consumer { Sharing::SingleActive } else { Sharing::Turns }
    }

    pub fn consumers(&self) -> u32 {
        self.roster.as_ref().map_or(0, |r| r.live())
    }

    pub fn add_memory(&mut self, bytes: u64, core: &mut Core, cx: &Cx<'_>) {
        self.memory += bytes;
        core.add_memory(i64::try_from(bytes).unwrap_or(i64::MAX), cx);
    }

    pub fn free_memory(&mut self, bytes: u64, core: &mut Core, cx: &Cx<'_>) {
        self.memory = self.memory.saturating_sub(bytes);
        core.add_memory(-i64::try_from(bytes).unwrap_or(i64::MAX), cx);
    }

    /// Messages leave for good.
    pub fn discard(&mut self, run: Run, core: &mut Core, cx: &mut Cx<'_>) {
        if run.logged {
            core.settled(SeqRange { queue: self.id(), first: run.first, count: run.count }, cx);
        }
        self.forget(run, core, cx);
    }

    /// Gives back what the bytes of messages take.
    pub fn forget(&mut self, run: Run, core: &mut Core, cx: &mut Cx<'_>) {
        self.free_memory(run.memory(), core, cx);
        if let Bytes::Spilled(at) = run.bytes
            && let Some(at) = Arc::into_inner(at)
        {
            cx.journal.release_spill(at);
        }
    }

    /// Messages die.
    pub fn die(&mut self, run: Run, reason: DeathReason, core: &mut Core, cx: &mut Cx<'_>) {
        let n = u64::from(run.count);
        match reason {
            DeathReason::Expired => self.stats.expired += n,
            DeathReason::MaxLen => self.stats.dropped += n,
            DeathReason::Rejected => self.stats.rejected += n,
            DeathReason::DeliveryLimit => self.stats.poisoned += n,
        }
        let Some(to) = self.settings.dead_letter.clone() else {
            return self.discard(run, core, cx);
        };
        self.stats.dead_lettered += n;
        let messages = self.leave(run);
        cx.effects.push(Effect::DeadLetter(DeadLetter { messages, reason, to }));
    }

    /// Holds messages until the broker has copied them elsewhere.
    pub fn leave(&mut self, run: Run) -> Leaving {
        let leaving = Leaving {
            settings: Arc::clone(&self.settings),
            first: run.first,
            count: run.count,
            route: Arc::clone(&run.route),
            attrs: run.attrs,
            at: run.at,
            body: run.body_ref(),
        };
        self.leaving.get_or_insert_default().insert(run.first.0, run);
        leaving
    }

    /// The broker has copied what was leaving.
    pub fn left(&mut self, first: Seq, count: u32, core: &mut Core, cx: &mut Cx<'_>) {
        let end = first.0.saturating_add(u64::from(count));
        let mut at = first.0;
        while let Some(all) = &mut self.leaving
            && let Some((&key, _)) = all.range(at..end).next()
            && let Some(run) = all.remove(&key)
        {
            at = run.end();
            if all.is_empty() {
                self.leaving = None;
            }
            self.discard(run, core, cx);
        }
    }

    /// Delivered messages go back to their place.
    pub fn requeue(&mut self, mut run: Run, failed: Failed, core: &mut Core, cx: &mut Cx<'_>) {
        while let Some(one) = run.split_key() {
            self.requeue_one_key(one, failed, core, cx);
        }
        self.requeue_one_key(run, failed, core, cx);
    }

    /// The same for messages that share their place.
    fn requeue_one_key(&mut self, mut run: Run, failed: Failed, core: &mut Core, cx: &mut Cx<'_>) {
        run.take_key();
        run.redelivered = true;
        self.stats.requeued += u64::from(run.count);
        if failed == Failed::Counts {
            run.delivery_count = run.delivery_count.saturating_add(1);
            if self.settings.delivery_limit.is_some_and(|limit| run.delivery_count > limit) {
                return self.die(run, DeathReason::DeliveryLimit, core, cx);
            }
            // Of any queue: it is from its count that a restart knows what was delivered before.
            if run.logged {
                let range = SeqRange { queue: self.id(), first: run.first, count: run.count };
                core.note(Op::Requeued { range, delivery_count: run.delivery_count }, cx);
            }
        }
        if run.deadline <= cx.now {
            return self.die(run, DeathReason::Expired, core, cx);
        }
        self.keep_returned(run, core, cx);
    }

    /// Removes all ready messages.
    pub fn purge(&mut self, core: &mut Core, cx: &mut Cx<'_>) -> u64 {
        let n = self.waiting_messages();
        for run in self.take_all_waiting(core) {
            self.discard(run, core, cx);
        }
        self.stats.purged += n;
        n
    }

    /// Takes everything that waits.
    pub fn take_all_waiting(&mut self, core: &Core) -> Vec<Run> {
        let mut all = self.ready.take_all();
        for source in self.lane_sources() {
            all.extend(self.with_source(source, core, Ready::take_all).unwrap_or_default());
        }
        all
    }

    /// Whether it was made for its service, and has nothing and nobody.
    pub fn is_idle(&self) -> bool {
        self.settings.implicit
            && self.consumers() == 0
            && self.waiting_messages() + self.unsettled + self.unsent == 0
            && self.leaving.is_none()
    }

    /// Sees to it that the shard's clock strikes in time for this queue.
    pub fn reschedule(&mut self, core: &mut Core) {
        let mut want = self.ready.next_deadline().min(self.check_held).min(self.lanes_due());
        if self.is_idle() {
            want = want.min(self.last_used.plus(IMPLICIT_IDLE_MS));
        }
        if let Some(ms) = self.settings.expires_ms.filter(|_| self.consumers() == 0) {
            want = want.min(self.last_used.plus(ms));
        }
        // An entry that is too early does no harm and spares a move for every message.
        if want < self.timer {
            core.timers.remove(&(self.timer, self.index));
            core.timers.insert((want, self.index));
            self.timer = want;
        }
    }
}

/// Whether a return counts as a failed delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    Counts,
    No,
}
