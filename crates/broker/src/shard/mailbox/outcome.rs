//! What is delivered, and what settlements say of members.

use std::sync::Arc;

use waypost_model::{Lsn, Millis};

use super::super::ready::Ready;
use super::super::run::Run;
use super::mixed::has_owners;
use super::{Mailbox, Mark, Source};
use crate::effect::Effect;
use crate::settings::QueueSettings;

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Verdict {
    /// It was acknowledged, so long after it was delivered, ms.
    Acknowledged(u64),
    /// It was rejected, or took too long.
    Failed,
    /// It came back without anybody's fault.
    Returned,
}

impl Mailbox {
    /// A consumer that was there before the mailbox holds so many messages.
    pub(super) fn adopt(&mut self, consumer: u32, held: u32, ended: bool) {
        if let Some(m) = self.seat(consumer).map(|s| s.member)
            && let Some(member) = self.member_mut(m)
        {
            member.in_flight += held;
        }
        if ended {
            self.end_consumer(consumer);
        }
        // What it holds came without selector and key.
        if let Some(lane) = self.lane_mut(0) {
            lane.unsettled += u64::from(held);
        }
    }

    /// A consumer holds `held` messages from now on.
    pub(super) fn fills(&mut self, consumer: u32, held: u64, now: Millis) {
        let alone = self.is_alone();
        if let Some(seat) = self.seat_mut(consumer) {
            seat.holds(held, alone, now);
            let full = seat.full_since;
            self.wake_by(full.map(|since| since.plus(super::member::SILENT_MS)));
        }
    }

    /// A consumer that held `held` messages gets a run.
    pub(super) fn holds(&mut self, consumer: u32, run: &Run, held: u64, now: Millis) {
        let n = u64::from(run.count);
        self.fills(consumer, held + n, now);
        if let Some(m) = self.seat(consumer).map(|s| s.member)
            && let Some(member) = self.member_mut(m)
        {
            member.in_flight = member.in_flight.saturating_add(run.count);
        }
        let source = run.tag.source();
        let Some(l) = self.lane_mut(source.lane) else {
            return;
        };
        l.unsettled += n;
        let Some(slot) = source.slot else {
            return;
        };
        let keyed = l.keyed.get_or_insert_default();
        if !has_owners(source) {
            keyed.slots.entry(slot).or_default().unsettled += n;
            return;
        }
        keyed.note_last(slot, consumer);
        let s = keyed.slots.entry(slot).or_default();
        if s.unsettled == 0
            && let Some(head) = s.head.take()
        {
            // Nobody's until now.
            keyed.free.remove(&(head, slot));
        }
        s.owner = Some(consumer);
        s.unsettled += n;
    }

    /// A consumer holds messages no more: they were settled, or go back to their places.
    pub fn released(
        &mut self,
        consumer: u32,
        run: &Run,
        verdict: Verdict,
        (plain, durable): (&Ready, Lsn),
        now: Millis,
        (settings, effects): (&Arc<QueueSettings>, &mut Vec<Effect>),
    ) {
        let Some(m) = self.seat(consumer).map(|s| s.member) else {
            return;
        };
        self.judge(m, run.count, verdict, now, settings, effects);
        let rest = self.member(m).map_or(0, |x| x.in_flight);
        if let Some(seat) = self.seat_mut(consumer) {
            seat.released(rest);
        }
        self.mark_member(m);
        let source = run.tag.source();
        let n = u64::from(run.count);
        if let Some(l) = self.lane_mut(source.lane) {
            l.unsettled = l.unsettled.saturating_sub(n);
        }
        if source.slot.is_some() {
            self.release_slot(source, n, plain, durable);
        }
        for slot in &run.keys {
            self.release_slot(Source { slot: Some(*slot), ..source }, 1, plain, durable);
        }
    }

    /// Messages of a slot are nobody's any more.
    fn release_slot(&mut self, source: Source, n: u64, plain: &Ready, durable: Lsn) {
        let Source { lane, slot: Some(slot) } = source else {
            return;
        };
        let Some(keyed) = self.keyed_mut(lane) else {
            return;
        };
        let Some(s) = keyed.slots.get_mut(&slot) else {
            return;
        };
        s.unsettled = s.unsettled.saturating_sub(n);
        if s.unsettled > 0 {
            return;
        }
        if s.front.is_none() && s.ready.as_deref().is_none_or(Ready::is_empty) {
            keyed.slots.remove(&slot);
            return;
        }
        // Before the owner is forgotten: what waits is taken off its list.
        let (head, owner) = (s.head.take(), s.owner.take());
        if let (Some(head), Some(seat)) = (head, owner.and_then(|c| self.seat_mut(c))) {
            seat.owned.remove(&(head, lane, slot));
        }
        self.sync(source, plain, durable, Mark::Dirty);
    }

    fn judge(
        &mut self,
        m: u32,
        count: u32,
        verdict: Verdict,
        now: Millis,
        settings: &Arc<QueueSettings>,
        effects: &mut Vec<Effect>,
    ) {
        // Asked only where it matters: it looks at everybody.
        let may_eject = verdict == Verdict::Failed && self.may_eject();
        let Some(member) = self.member_mut(m) else {
            return;
        };
        member.in_flight = member.in_flight.saturating_sub(count);
        let told = match verdict {
            Verdict::Acknowledged(ms) => member.succeeded(count, ms, now).then_some(false),
            Verdict::Failed if member.instance.is_some() => {
                let eject = member.failed(now) && may_eject;
                if eject {
                    member.eject(now);
                }
                let probe_at = member.ejected.map(|e| e.probe_at);
                let told = eject.then_some(true);
                self.wake_by(probe_at);
                told
            }
            Verdict::Failed | Verdict::Returned => None,
        };
        let Some(ejected) = told else {
            return;
        };
        if let Some(instance) = self.member(m).and_then(|x| x.instance.clone()) {
            // Those that stand in for others look again.
            self.mark_all();
            effects.push(Effect::Ejected { settings: Arc::clone(settings), instance, ejected });
        }
    }

    /// Whether one more may be ejected: at most half of the instances are.
    fn may_eject(&self) -> bool {
        let candidates = self.members.iter().flatten().filter(|x| x.instance.is_some() && x.is_candidate());
        let (mut all, mut ejected) = (0, 0);
        candidates.for_each(|x| {
            all += 1;
            ejected += usize::from(x.ejected.is_some());
        });
        (ejected + 1) * 2 <= all
    }

    pub(super) fn wake_by(&mut self, at: Option<Millis>) {
        if let Some(at) = at {
            self.wake_at = self.wake_at.min(at);
        }
    }
}
