//! What happens because time passes, or because the journal has advanced.

use std::cmp::Reverse;

use waypost_model::{ConsumerId, Lsn, Millis, QueueId};

use super::queue::{Core, IMPLICIT_IDLE_MS, Queue};
use super::run::NEVER;
use super::{Shard, at};
use crate::context::Cx;
use crate::effect::{DeathReason, Effect};

/// So many runs die or fall due at most before others get their turn with the shard.
const EXPIRE_RUNS_MAX: usize = 4096;

impl Shard {
    /// The journal is durable up to `lsn`: delivers what waited for it.
    pub fn durable(&mut self, lsn: Lsn, cx: &mut Cx<'_>) {
        self.core.durable = self.core.durable.max(lsn);
        while let Some(Reverse((waits_for, index))) = self.core.waiting.peek().copied() {
            if waits_for > self.core.durable {
                break;
            }
            self.core.waiting.pop();
            if let Some(q) = at(&mut self.queues, index) {
                q.waiting = false;
                q.dispatch(&mut self.core, cx);
                q.reschedule(&mut self.core);
            }
        }
    }

    /// The least watermark at which [`Shard::durable`] has something to do.
    #[must_use]
    pub fn waits_for(&self) -> Option<Lsn> {
        self.core.waiting.peek().map(|Reverse((lsn, _))| *lsn)
    }

    /// When [`Shard::tick`] wants to be called next. May be in the past, when there was too much to do at once.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        self.core.timers.first().map(|(at, _)| *at)
    }

    /// Time has passed.
    pub fn tick(&mut self, cx: &mut Cx<'_>) {
        let mut due = Vec::new();
        while let Some(&(time, index)) = self.core.timers.first() {
            if time > cx.now {
                break;
            }
            self.core.timers.pop_first();
            due.push(index);
        }
        for index in due {
            let Some(q) = at(&mut self.queues, index) else {
                continue;
            };
            q.timer = NEVER;
            for id in q.on_time(&mut self.core, cx) {
                self.consumers.remove(&id);
            }
        }
    }

    /// Whether the journal had no room for settlements, so that [`Shard::offer_again`] is to be called from time to time.
    #[must_use]
    pub fn owes_ops(&self) -> bool {
        self.core.owes_ops()
    }

    /// Hands in once more what the journal had no room for.
    pub fn offer_again(&mut self, cx: &mut Cx<'_>) {
        self.core.offer_ops(cx);
    }

    /// A queue was used (declared again): its own time to live begins anew.
    pub fn touch(&mut self, queue: QueueId, cx: &mut Cx<'_>) {
        if let Some((q, _)) = self.with_core(queue) {
            q.last_used = cx.now;
        }
    }

    /// The node is short of memory: moves waiting messages of all queues out of it, as far as possible.
    pub fn relieve(&mut self, cx: &mut Cx<'_>) {
        for q in self.queues.iter_mut().flatten() {
            q.reclaim_at = 0;
            q.reclaim(&mut self.core, cx);
        }
        self.core.flush_memory(cx);
    }
}

impl Queue {
    /// Does what is due. Returns the consumers that were removed.
    fn on_time(&mut self, core: &mut Core, cx: &mut Cx<'_>) -> Vec<ConsumerId> {
        self.expire(core, cx);
        self.wake_members(core, cx);
        if self.is_idle() && self.last_used.plus(IMPLICIT_IDLE_MS) <= cx.now {
            self.last_used = cx.now;
            cx.effects.push(Effect::Idle(self.id()));
        }
        if let Some(ms) = self.settings.expires_ms
            && self.consumers() == 0
            && self.last_used.plus(ms) <= cx.now
        {
            // Should the queue not be deleted after all, it has another life.
            self.last_used = cx.now;
            cx.effects.push(Effect::Expired(self.id()));
        }
        let mut removed = Vec::new();
        if self.check_held <= cx.now {
            removed = self.check_held(core, cx);
        }
        self.after_return(core, cx);
        removed
    }

    /// Messages whose time has come die, or are due.
    pub fn expire(&mut self, core: &mut Core, cx: &mut Cx<'_>) {
        for _ in 0..EXPIRE_RUNS_MAX {
            let taken = self.ready.take_expired(cx.now).or_else(|| self.take_expired_in_lanes(core, cx.now));
            let Some(run) = taken else {
                return;
            };
            if self.is_delay() {
                let leaving = self.leave(run);
                cx.effects.push(Effect::Due(leaving));
            } else {
                self.die(run, DeathReason::Expired, core, cx);
            }
        }
    }

    /// Something is held from now on, if not before.
    pub fn note_held(&mut self, now: Millis) {
        if let Some(ms) = self.settings.consumer_timeout_ms
            && self.check_held == NEVER
        {
            self.check_held = now.plus(ms);
        }
    }

    /// The settings have changed: looks soon at what is held.
    pub fn recheck_held(&mut self, now: Millis) {
        self.check_held = NEVER;
        if self.unsettled > 0 && self.settings.consumer_timeout_ms.is_some() {
            self.check_held = now;
        }
    }
}
