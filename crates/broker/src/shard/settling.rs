//! From consumers back to the queue, or out.

use waypost_model::command::{Outcome, Sent, Settle};
use waypost_model::{ConsumerId, Event};

use super::queue::{Core, Failed, Queue};
use super::run::{NEVER, Run};
use crate::context::Cx;
use crate::effect::{DeathReason, Effect};

/// Deliveries that have been unsettled for too long are looked for at most that often, ms.
const CHECK_HELD_MS: u64 = 1000;

impl Queue {
    /// A verdict of a consumer on what it holds.
    pub fn settle(&mut self, slot: u32, s: &Settle, core: &mut Core, cx: &mut Cx<'_>) {
        let mut runs = std::mem::take(&mut core.scratch);
        let Some(roster) = &mut self.roster else {
            return;
        };
        let Some(c) = roster.get_mut(slot).filter(|c| !c.no_ack) else {
            return;
        };
        let before = c.held.messages();
        c.held.take_range(s.first, s.count, |run| runs.push(run));
        let taken = before - c.held.messages();
        c.give_credit(u32::try_from(taken).unwrap_or(u32::MAX));
        roster.list(slot);
        self.unsettled -= taken;
        if s.outcome == Outcome::Accepted {
            self.stats.acked += taken;
        }
        for run in runs.drain(..) {
            match s.outcome {
                Outcome::Accepted => self.discard(run, core, cx),
                Outcome::Rejected => self.die(run, DeathReason::Rejected, core, cx),
                Outcome::Released => self.requeue(run, Failed::Counts, core, cx),
            }
        }
        core.scratch = runs;
        self.after_return(core, cx);
    }

    /// Deliveries of a consumer have left for the socket.
    pub fn sent(&mut self, slot: u32, s: &Sent, core: &mut Core, cx: &mut Cx<'_>) {
        let Some(roster) = &mut self.roster else {
            return;
        };
        let Some(c) = roster.get_mut(slot) else {
            return;
        };
        c.window = c.window.saturating_add(i64::try_from(s.bytes).unwrap_or(i64::MAX));
        if c.no_ack {
            let mut runs = std::mem::take(&mut core.scratch);
            c.held.take_first(s.messages, |run| runs.push(run));
            for run in runs.drain(..) {
                self.unsent -= u64::from(run.count);
                self.discard(run, core, cx);
            }
            core.scratch = runs;
        }
        if let Some(roster) = &mut self.roster {
            roster.list(slot);
        }
        self.dispatch(core, cx);
        self.reschedule(core);
    }

    /// Credit may have come back from elsewhere.
    pub fn poke(&mut self, slot: u32, core: &mut Core, cx: &mut Cx<'_>) {
        if let Some(roster) = &mut self.roster {
            roster.list(slot);
        }
        self.dispatch(core, cx);
        self.reschedule(core);
    }

    /// Ends a consumer, which keeps what it holds. `false` if it had ended before.
    pub fn end_consumer(&mut self, slot: u32, cx: &mut Cx<'_>) -> bool {
        let sharing = self.sharing();
        let Some(roster) = &mut self.roster else {
            return false;
        };
        if !roster.end(slot) {
            return false;
        }
        roster.elect(sharing);
        if roster.live() == 0 {
            self.last_used = cx.now;
            if self.settings.auto_delete {
                cx.effects.push(Effect::AutoDelete(self.id()));
            }
        }
        true
    }

    /// Removes a consumer that has ended and returns what it held.
    pub fn remove_consumer(&mut self, slot: u32, cx: &mut Cx<'_>) -> Vec<Run> {
        let Some(roster) = &mut self.roster else {
            return Vec::new();
        };
        let Some(mut c) = roster.remove(slot) else {
            return Vec::new();
        };
        let n = c.held.messages();
        if c.no_ack {
            self.unsent -= n;
        } else {
            self.unsettled -= n;
            cx.effects.extend(c.leave_credit(u32::try_from(n).unwrap_or(u32::MAX)).map(Effect::CreditBack));
        }
        let held = c.held.take_all();
        if roster.is_unused() {
            self.roster = None;
        }
        held
    }

    /// Ends and removes a consumer; what it held goes back to its place. Nothing is delivered yet.
    pub fn release(&mut self, slot: u32, core: &mut Core, cx: &mut Cx<'_>) {
        let failed = match self.roster.as_ref().and_then(|r| r.get(slot)) {
            // What was only on its way did not fail.
            Some(c) if c.no_ack => Failed::No,
            Some(_) => Failed::Counts,
            None => return,
        };
        self.end_consumer(slot, cx);
        for run in self.remove_consumer(slot, cx) {
            self.requeue(run, failed, core, cx);
        }
    }

    /// Messages may have come back: they go to who has credit first, and only then is the queue too long.
    pub fn after_return(&mut self, core: &mut Core, cx: &mut Cx<'_>) {
        self.dispatch(core, cx);
        self.drop_head(core, cx);
        self.reschedule(core);
    }

    /// Whether a consumer has ended and holds nothing more.
    pub fn is_spent(&self, slot: u32) -> bool {
        let c = self.roster.as_ref().and_then(|r| r.get(slot));
        c.is_some_and(|c| c.ended && !c.is_stand_in() && c.held.messages() == 0)
    }

    /// Cancels the consumers that have held a message for too long, and takes back what they hold. Returns who they
    /// were.
    pub fn check_held(&mut self, core: &mut Core, cx: &mut Cx<'_>) -> Vec<ConsumerId> {
        self.check_held = NEVER;
        let Some(ms) = self.settings.consumer_timeout_ms else {
            return Vec::new();
        };
        let (mut late, mut next) = (Vec::new(), NEVER);
        for (slot, c) in self.roster.iter().flat_map(|r| r.iter()).filter(|(_, c)| !c.no_ack) {
            match c.held.oldest().map(|since| since.plus(ms)) {
                Some(until) if until <= cx.now => late.push((slot, c.id)),
                Some(until) => next = next.min(until),
                None => {}
            }
        }
        if next != NEVER {
            self.check_held = next.max(cx.now.plus(CHECK_HELD_MS.min(ms / 8)));
        }
        for (slot, id) in &late {
            let c = self.roster.as_ref().and_then(|r| r.get(*slot)).filter(|c| !c.ended);
            if let Some(c) = c
                && let Some(outbox) = &c.outbox
            {
                let (channel, tag) = (c.channel, c.tag.clone());
                outbox.push(Event::Cancelled { channel, consumer: *id, tag });
            }
            self.release(*slot, core, cx);
        }
        late.into_iter().map(|(_, id)| id).collect()
    }
}
