//! Shards: queues, their messages and their consumers.
//!
//! A [`Shard`] is plain data: whoever has work for it holds its lock and calls it. All that it says goes to the
//! outboxes of consumers, to the journal, and into [`Cx::effects`]. The same calls give the same results.
//!
//! | module | holds |
//! |---|---|
//! | `run` | runs: messages with consecutive places and equal facts |
//! | `level`, `ready` | what waits, in order, by priority and by deadline |
//! | `accept` | new messages, limits |
//! | `memory` | moving waiting messages out of memory |
//! | `clients` | what clients do: consume, get, settle |
//! | `consumer`, `roster` | consumers, their credit, whose turn it is |
//! | `dispatch` | deliveries |
//! | `unsettled`, `settling` | what is delivered, and what becomes of it |
//! | `mailbox` | what a queue is more when it is a service's: lanes, members, choice |
//! | `queue` | what these share: a queue's state and the ways in which messages leave |
//! | `clock` | deadlines |
//! | `restore` | after a restart |
//! | `stats` | what is told about queues |

mod accept;
mod clients;
mod clock;
mod consumer;
mod dispatch;
mod fast_map;
mod level;
mod mailbox;
mod memory;
mod queue;
mod ready;
mod restore;
mod roster;
mod run;
mod settling;
mod stats;
mod unsettled;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use waypost_model::journal::{AppendError, Enqueue, Op};
use waypost_model::{ChannelId, ConnId, ConsumerId, Event, Lsn, QueueId, Seq, ShardId};

pub use accept::{AHEAD_BYTES, Enqueued, Incoming};
pub use clients::{Got, Placed};
pub use consumer::{ChannelCredit, ConsumerArguments, NewConsumer};
pub use mailbox::{
    Candidate, Chosen, Claimant, Dealing, LANES_MAX, LaneInfo, MailboxExplanation, MailboxInfo, MemberInfo,
};
pub use memory::QUEUE_MEMORY;
pub use stats::{ConsumerInfo, Counts, QueueInfo, QueueStats, Totals};

use crate::context::Cx;
use crate::settings::QueueSettings;
use accept::Plan;
use consumer::Consumer;
use fast_map::IdMap;
use queue::{Core, Queue};

/// See the module.
#[derive(Debug)]
pub struct Shard {
    core: Core,
    queues: Vec<Option<Box<Queue>>>,
    free: Vec<u32>,
    by_id: IdMap<QueueId, u32>,
    consumers: IdMap<ConsumerId, Place>,
    last_consumer: u64,
    plans: Vec<Plan>,
    /// What happened to queues that are gone.
    retired: QueueStats,
}

/// Where a consumer is.
#[derive(Debug, Clone, Copy)]
struct Place {
    queue: u32,
    slot: u32,
}

/// A queue that was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// How many ready messages went with it.
    pub ready: u64,
    /// How many messages in all.
    pub messages: u64,
    /// The consumers that it had; they were told.
    pub consumers: Vec<(ConnId, ChannelId, ConsumerId)>,
}

impl Shard {
    /// An empty shard.
    #[must_use]
    pub fn new(id: ShardId) -> Shard {
        Shard {
            core: Core::new(id),
            queues: Vec::new(),
            free: Vec::new(),
            by_id: IdMap::default(),
            consumers: IdMap::default(),
            last_consumer: 0,
            plans: Vec::new(),
            retired: QueueStats::default(),
        }
    }

    fn queue(&self, id: QueueId) -> Option<&Queue> {
        self.queues.get(*self.by_id.get(&id)? as usize)?.as_deref()
    }

    fn with_core(&mut self, id: QueueId) -> Option<(&mut Queue, &mut Core)> {
        let index = *self.by_id.get(&id)?;
        at(&mut self.queues, index).map(|q| (q, &mut self.core))
    }

    /// A new, empty queue. If there is one of that id, its settings are changed instead.
    pub fn create_queue(&mut self, settings: Arc<QueueSettings>, cx: &mut Cx<'_>) {
        if self.by_id.contains_key(&settings.id) {
            return self.configure(settings, cx);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.queues.push(None);
            u32::try_from(self.queues.len() - 1).unwrap_or(u32::MAX)
        });
        self.by_id.insert(settings.id, index);
        let mut queue = Queue::new(settings, index, cx.now);
        queue.reschedule(&mut self.core);
        if let Some(place) = self.queues.get_mut(index as usize) {
            *place = Some(Box::new(queue));
        }
    }

    /// Other settings for a queue: limits hold at once, times to live for messages to come.
    pub fn configure(&mut self, settings: Arc<QueueSettings>, cx: &mut Cx<'_>) {
        let Some((q, core)) = self.with_core(settings.id) else {
            return;
        };
        let levels = q.settings.max_priority;
        q.settings = settings;
        if q.settings.max_priority != levels {
            q.rebuild(core);
        }
        q.resize();
        q.recheck_held(cx.now);
        q.drop_head(core, cx);
        q.dispatch(core, cx);
        q.reschedule(core);
    }

    /// Deletes a queue with all that it holds. Its consumers are told by [`Event::Cancelled`].
    pub fn delete_queue(&mut self, id: QueueId, cx: &mut Cx<'_>) -> Option<Deleted> {
        let index = self.by_id.remove(&id)?;
        let mut q = self.queues.get_mut(index as usize)?.take()?;
        self.free.push(index);
        self.core.timers.remove(&(q.timer, index));
        self.retired.add(&q.stats);
        let ready = q.waiting_messages();
        let mut deleted = Deleted { ready, messages: ready + q.unsettled + q.unsent, consumers: Vec::new() };
        let roster = q.roster.take();
        let mut slots: Vec<(u32, &Consumer)> = roster.iter().flat_map(|r| r.iter()).collect();
        slots.sort_by_key(|(_, c)| c.id);
        for (_, c) in &slots {
            self.consumers.remove(&c.id);
            if let Some(outbox) = c.outbox.as_ref().filter(|_| !c.ended) {
                deleted.consumers.push((c.conn, c.channel, c.id));
                outbox.push(Event::Cancelled { channel: c.channel, consumer: c.id, tag: c.tag.clone() });
            }
        }
        let slots: Vec<u32> = slots.into_iter().map(|(slot, _)| slot).collect();
        q.roster = roster;
        let mut runs = q.take_all_waiting(&self.core);
        for slot in slots {
            if let Some(r) = &mut q.roster {
                r.end(slot);
            }
            runs.append(&mut q.remove_consumer(slot, mailbox::Verdict::Returned, Lsn(0), cx));
        }
        runs.extend(q.leaving.take().unwrap_or_default().into_values());
        for run in runs {
            q.forget(run, &mut self.core, cx);
        }
        if q.settings.durable {
            self.core.note(Op::Forget(id), cx);
        }
        Some(deleted)
    }

    /// How much is in a queue; `None` if there is no such queue.
    #[must_use]
    pub fn counts(&self, id: QueueId) -> Option<Counts> {
        self.queue(id).map(Queue::counts)
    }

    /// All queues together.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut all = Totals { stats: self.retired, ..Totals::default() };
        for q in self.queues.iter().flatten() {
            all.ready += q.waiting_messages();
            all.unacknowledged += q.unsettled + q.unsent;
            all.consumers += u64::from(q.consumers());
            all.stats.add(&q.stats);
        }
        all
    }

    /// All about a queue.
    #[must_use]
    pub fn info(&self, id: QueueId) -> Option<QueueInfo> {
        self.queue(id).map(Queue::info)
    }

    /// The settings of a queue.
    #[must_use]
    pub fn settings(&self, id: QueueId) -> Option<&Arc<QueueSettings>> {
        self.queue(id).map(|q| &q.settings)
    }

    /// The ids of all queues, sorted.
    #[must_use]
    pub fn queue_ids(&self) -> Vec<QueueId> {
        let mut ids: Vec<QueueId> = self.queues.iter().flatten().map(|q| q.id()).collect();
        ids.sort_unstable();
        ids
    }

    /// Messages enter queues of this shard, each of which is named once. What is to survive a restart is one append
    /// for all of them.
    pub fn enqueue(&mut self, targets: &[QueueId], run: Incoming, cx: &mut Cx<'_>) -> Enqueued {
        let mut done = Enqueued { accepted: run.count(), ..Enqueued::default() };
        if run.count() == 0 {
            return done;
        }
        let mut plans = std::mem::take(&mut self.plans);
        for id in targets {
            match self.queue(*id) {
                Some(q) => plans.push(q.plan(&run)),
                None => done.missing += 1,
            }
        }
        let mut lsn = Lsn(0);
        match self.append(&plans, &run, cx) {
            Ok(ticket) => {
                done.lsn = ticket;
                lsn = ticket.unwrap_or_default();
            }
            Err(error) => {
                done.error = Some(error);
                done.accepted = 0;
                plans.retain(|p| !p.logged);
            }
        }
        for plan in plans.drain(..) {
            if let Some(q) = at(&mut self.queues, plan.index) {
                done.first = q.next_seq;
                done.accepted = done.accepted.min(q.accept(&run, plan, lsn, &mut self.core, cx));
                done.ahead |= q.waiting_payload() > accept::AHEAD_BYTES && q.consumers() > 0;
            }
        }
        self.plans = plans;
        done
    }

    /// Hands the journal what it is to know, and what has gathered for it on the way.
    fn append(&mut self, plans: &[Plan], run: &Incoming, cx: &Cx<'_>) -> Result<Option<Lsn>, AppendError> {
        if !plans.iter().any(|p| p.logged && p.takes > 0) {
            return Ok(None);
        }
        // On their own: with a full disk settlements are still taken where messages are not.
        self.core.flush_ops(cx);
        cx.journal.append(self.enqueue_ops(plans, run)).map(Some)
    }

    /// What the journal is to know: one operation for the targets that take the same messages.
    fn enqueue_ops(&self, plans: &[Plan], run: &Incoming) -> Vec<Op> {
        let logged = || plans.iter().filter(|p| p.logged && p.takes > 0);
        let mut sizes: Vec<u32> = logged().map(|p| p.takes).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.dedup();
        let op = |takes: u32| {
            let targets = logged()
                .filter(|p| p.takes == takes)
                .filter_map(|p| self.queues.get(p.index as usize)?.as_deref())
                .map(|q| (q.id(), q.next_seq))
                .collect();
            Op::Enqueue(Enqueue {
                targets,
                batch: Arc::clone(&run.batch),
                from: run.from,
                to: run.from + takes,
                route: Arc::clone(&run.route),
                attrs: run.attrs,
                at: run.at,
            })
        };
        sizes.into_iter().map(op).collect()
    }

    /// Removes all ready messages; how many.
    pub fn purge(&mut self, queue: QueueId, cx: &mut Cx<'_>) -> u64 {
        self.with_core(queue).map_or(0, |(q, core)| q.purge(core, cx))
    }

    /// Copies of dead or due messages were appended where they belong: settles them here. The range as in
    /// [`crate::effect::Leaving`]; what is not leaving is ignored.
    pub fn left(&mut self, queue: QueueId, first: Seq, count: u32, cx: &mut Cx<'_>) {
        if let Some((q, core)) = self.with_core(queue) {
            q.left(first, count, core, cx);
        }
    }

    /// Ends a turn: hands gathered settlements to the journal. To be called before the shard's lock is released, or at
    /// the latest when nothing else is to be done.
    pub fn flush(&mut self, cx: &mut Cx<'_>) {
        self.core.flush_ops(cx);
        self.core.flush_memory(cx);
    }

    /// How many queues it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether it has no queue.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

fn at(queues: &mut [Option<Box<Queue>>], index: u32) -> Option<&mut Queue> {
    queues.get_mut(index as usize)?.as_deref_mut()
}
