//! From consumers back to the queue, or out.

use std::sync::Arc;

use waypost_model::command::{Outcome, Sent, Settle};
use waypost_model::{ConsumerId, Event, Lsn, Millis};

use super::clients::Placed;
use super::mailbox::{Mailbox, Source, Verdict};
use super::queue::{Core, Failed, Queue};
use super::ready::Ready;
use super::roster::Sharing;
use super::run::{NEVER, Run};
use crate::context::Cx;
use crate::effect::{DeathReason, Effect};
use crate::settings::QueueSettings;

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
        let seated = self.mailbox.as_deref_mut();
        let (plain, now) = (&self.ready, cx.now);
        let lot = (&self.settings, &mut *cx.effects);
        c.held.take_range(
            s.first,
            s.count,
            judging(seated, slot, s.outcome, (plain, core.durable), now, lot, &mut runs),
        );
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
            let lot = (&self.settings, &mut *cx.effects);
            let (seated, plain) = (self.mailbox.as_deref_mut(), (&self.ready, core.durable));
            c.held.take_first(s.messages, judging(seated, slot, Outcome::Accepted, plain, cx.now, lot, &mut runs));
            for run in runs.drain(..) {
                self.unsent -= u64::from(run.count);
                self.discard(run, core, cx);
            }
            core.scratch = runs;
        }
        if let Some(roster) = &mut self.roster {
            roster.list(slot);
        }
        self.mark_consumer(slot);
        self.dispatch(core, cx);
        self.reschedule(core);
    }

    /// A consumer may have got credit.
    fn mark_consumer(&mut self, slot: u32) {
        if let Some(mb) = self.mailbox.as_deref_mut() {
            mb.mark_consumer(slot);
        }
    }

    /// Credit may have come back from elsewhere.
    pub fn poke(&mut self, slot: u32, core: &mut Core, cx: &mut Cx<'_>) {
        if let Some(roster) = &mut self.roster {
            roster.list(slot);
        }
        self.mark_consumer(slot);
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
        if let Some(mb) = self.mailbox.as_deref_mut() {
            mb.end_consumer(slot);
            if sharing == Sharing::SingleActive {
                mb.mark_all();
            }
        }
        if roster.live() == 0 {
            self.last_used = cx.now;
            if self.settings.auto_delete {
                cx.effects.push(Effect::AutoDelete(self.id()));
            }
        }
        true
    }

    /// Removes a consumer that has ended and returns what it held.
    pub fn remove_consumer(&mut self, slot: u32, verdict: Verdict, durable: Lsn, cx: &mut Cx<'_>) -> Vec<Run> {
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
        if let Some(mb) = self.mailbox.as_deref_mut() {
            let mut verdict = verdict;
            for run in &held {
                let lot = (&self.settings, &mut *cx.effects);
                mb.released(slot, run, verdict, (&self.ready, durable), cx.now, lot);
                // A lost consumer failed once, however much it held.
                verdict = Verdict::Returned;
            }
            mb.unseat(slot);
        }
        held
    }

    /// Ends and removes a consumer; what it held goes back to its place. Nothing is delivered yet.
    pub fn release(&mut self, slot: u32, verdict: Verdict, core: &mut Core, cx: &mut Cx<'_>) {
        let failed = match self.roster.as_ref().and_then(|r| r.get(slot)) {
            // What was only on its way did not fail.
            Some(c) if c.no_ack => Failed::No,
            Some(_) => Failed::Counts,
            None => return,
        };
        self.end_consumer(slot, cx);
        for run in self.remove_consumer(slot, verdict, core.durable, cx) {
            self.requeue(run, failed, core, cx);
        }
    }

    /// Messages may have come back: they go to who has credit first, and only then is the queue too long.
    pub fn after_return(&mut self, core: &mut Core, cx: &mut Cx<'_>) {
        self.dispatch(core, cx);
        self.drop_head(core, cx);
        self.reschedule(core);
    }

    /// See [`super::Shard::withdraw`].
    pub fn withdraw(&mut self, placed: &Placed, core: &mut Core, cx: &mut Cx<'_>) -> bool {
        let source = match self.mailbox.as_deref_mut() {
            Some(mb) => mb.tag_of(&placed.route).source(),
            None => Source::PLAIN,
        };
        let place = placed.seq;
        let Some(mut run) = self.with_source(source, core, |r| r.take_at(place.0)).flatten() else {
            return false;
        };
        // Those that came with it stay where they are.
        if let Some(before) = u32::try_from(place.0 - run.first.0).ok().filter(|n| *n > 0) {
            let front = run.split_front(before);
            self.keep_again(source, front, core);
        }
        if run.count > 1 {
            let one = run.split_front(1);
            self.keep_again(source, std::mem::replace(&mut run, one), core);
        }
        self.stats.withdrawn += 1;
        self.discard(run, core, cx);
        self.after_return(core, cx);
        true
    }

    fn keep_again(&mut self, source: Source, run: Run, core: &Core) {
        let _ = self.with_source(source, core, |r| r.give_back(run));
    }

    /// Whether a consumer has ended and holds nothing more.
    pub fn is_spent(&self, slot: u32) -> bool {
        let c = self.roster.as_ref().and_then(|r| r.get(slot));
        c.is_some_and(|c| c.ended && !c.is_stand_in() && c.held.messages() == 0)
    }

    /// Tells a consumer that has not ended yet that it ends.
    pub fn tell_cancelled(&self, slot: u32) {
        let c = self.roster.as_ref().and_then(|r| r.get(slot)).filter(|c| !c.ended);
        if let Some(c) = c
            && let Some(outbox) = &c.outbox
        {
            outbox.push(Event::Cancelled { channel: c.channel, consumer: c.id, tag: c.tag.clone() });
        }
    }

    /// Who consumes as an instance.
    pub fn consumers_as(&self, id: &str, incarnation: u64) -> Vec<ConsumerId> {
        let slots = self.mailbox.as_deref().map(|mb| mb.consumers_of(id, incarnation)).unwrap_or_default();
        let roster = self.roster.as_ref();
        slots.iter().filter_map(|slot| Some(roster?.get(*slot)?.id)).collect()
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
        for (slot, _) in &late {
            self.tell_cancelled(*slot);
            self.release(*slot, Verdict::Failed, core, cx);
        }
        late.into_iter().map(|(_, id)| id).collect()
    }
}

/// Collects settled runs, and tells the mailbox what it means for who held them.
fn judging<'a>(
    mut mailbox: Option<&'a mut Mailbox>,
    slot: u32,
    outcome: Outcome,
    plain: (&'a Ready, Lsn),
    now: Millis,
    (settings, effects): (&'a Arc<QueueSettings>, &'a mut Vec<Effect>),
    runs: &'a mut Vec<Run>,
) -> impl FnMut(Run, Millis) + 'a {
    move |run, since| {
        if let Some(mb) = &mut mailbox {
            let verdict = match outcome {
                Outcome::Accepted => Verdict::Acknowledged(now.since(since)),
                Outcome::Rejected | Outcome::Released => Verdict::Failed,
            };
            mb.released(slot, &run, verdict, plain, now, (settings, &mut *effects));
        }
        runs.push(run);
    }
}
