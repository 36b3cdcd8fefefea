//! From lanes to members.

use std::cmp::Reverse;
use std::sync::Arc;

use waypost_model::Route;

use super::super::dispatch::ROUNDS;
use super::super::level::Merge;
use super::super::queue::{Core, Queue};
use super::super::ready::{Next, Ready};
use super::super::run::Run;
use super::choice::{Only, Wish};
use super::lane::NOTHING;
use super::mixed::has_owners;
use super::{Bound, MIXED_SCANS_MAX, Mailbox, Mark, Source};
use crate::context::Cx;
use crate::effect::DeathReason;

/// What became of an attempt to give something.
#[derive(PartialEq, Eq)]
enum Gave {
    Something,
    /// There was nothing, or nobody.
    Nothing,
}

impl Queue {
    /// Whether messages of a run are the mailbox's business.
    pub fn has_mailbox(&self) -> bool {
        self.mailbox.is_some()
    }

    /// The mailbox; made if there is none. Who consumes already takes a place in it.
    pub fn mailbox_mut(&mut self, cx: &Cx<'_>) -> &mut Mailbox {
        let (max_priority, sizes) = (self.settings.max_priority, self.sizes());
        let roster = self.roster.as_deref();
        self.mailbox.get_or_insert_with(|| {
            let mut mb = Box::new(Mailbox::new(max_priority, sizes, cx.now));
            for (slot, c) in roster.iter().flat_map(|r| r.iter()).filter(|(_, c)| !c.is_stand_in()) {
                mb.seat_consumer(slot, None, Bound::Own, cx.now);
                let held = u32::try_from(c.held.messages()).unwrap_or(u32::MAX);
                mb.adopt(slot, held, c.ended);
            }
            mb
        })
    }

    /// Who may get messages, if not everybody: with single active consumer, that one.
    fn only(&mut self) -> Only {
        if !self.settings.single_active_consumer {
            return None;
        }
        Some(self.roster.as_mut().and_then(|r| r.single_active()))
    }

    /// Fresh messages: straight to who is best, as far as nothing of the same source waits; the rest is kept.
    pub fn take_in_lanes(&mut self, run: Run, merge: Merge, core: &mut Core, cx: &mut Cx<'_>) {
        let source = run.tag.source();
        let Some(mut mb) = self.mailbox.take() else {
            return self.ready.keep(run, merge);
        };
        let rest = self.offer_in(&mut mb, run, core, cx);
        if let Some(rest) = rest {
            if rest.deadline <= cx.now {
                self.mailbox = Some(mb);
                return self.die(rest, DeathReason::Expired, core, cx);
            }
            match source {
                Source::PLAIN => self.ready.keep(rest, merge),
                _ => drop(mb.with(source, |r| r.keep(rest, merge))),
            }
            mb.sync(source, &self.ready, core.durable, Mark::Dirty);
        }
        self.mailbox = Some(mb);
    }

    fn offer_in(&mut self, mb: &mut Mailbox, mut run: Run, core: &mut Core, cx: &mut Cx<'_>) -> Option<Run> {
        let source = run.tag.source();
        let waits = match source {
            Source::PLAIN => !self.ready.is_empty(),
            _ => mb.ready(source).is_some_and(|r| !r.is_empty()),
        };
        if waits || self.roster.is_none() {
            return Some(run);
        }
        if run.lsn > core.durable {
            core.durable = cx.journal.durable().max(core.durable);
            if run.lsn > core.durable {
                return Some(run);
            }
        }
        let only = self.begin(mb, cx);
        // Nothing waits that they could have had instead.
        if mb.sums.messages == 0 && self.ready.is_empty() {
            mb.clean_members();
        }
        loop {
            let Some(m) = mb.choose(Wish { source, near: run.tag.near, route: &run.route }) else {
                return Some(run);
            };
            let Some((slot, n)) = self.credit(mb, m, source, &run, only, cx) else {
                if mb.holder_of(source).is_some() {
                    return Some(run);
                }
                continue;
            };
            if n == run.count {
                self.hand(mb, slot, run, core, cx);
                self.settle_costs(mb, m, only, cx);
                mb.sync(source, &self.ready, core.durable, Mark::No);
                return None;
            }
            let part = run.split_front(n);
            self.hand(mb, slot, part, core, cx);
            self.settle_costs(mb, m, only, cx);
            mb.sync(source, &self.ready, core.durable, Mark::No);
        }
    }

    /// Looks over what the passing of time and of messages has changed.
    pub(super) fn begin(&mut self, mb: &mut Mailbox, cx: &Cx<'_>) -> Only {
        let only = self.only();
        // Another one is active: what was said of both is out of date.
        if mb.refresh_due(cx.now) || std::mem::replace(&mut mb.only, only) != only {
            mb.mark_all();
        }
        if let Some(roster) = self.roster.as_deref() {
            for i in 0..mb.dirty_members.len() {
                if let Some(m) = mb.dirty_members.get(i).copied() {
                    mb.refresh(m, roster, only, cx.now);
                }
            }
        }
        only
    }

    /// A member's cost after it got something.
    fn settle_costs(&mut self, mb: &mut Mailbox, m: u32, only: Only, cx: &Cx<'_>) {
        if let Some(roster) = self.roster.as_deref() {
            mb.refresh(m, roster, only, cx.now);
        }
    }

    /// Takes credit of a member for messages from the front of a run: from which consumer, and for how many. If there is
    /// none after all, the member is not chosen again.
    fn credit(
        &mut self,
        mb: &mut Mailbox,
        m: u32,
        source: Source,
        run: &Run,
        only: Only,
        cx: &Cx<'_>,
    ) -> Option<(u32, u32)> {
        let peers = if has_owners(source) { 1 } else { mb.peers(source.lane).max(1) };
        let holder = mb.holder_of(source);
        let taken = self.roster.as_deref_mut().and_then(|roster| {
            let consumer = holder.or_else(|| mb.consumer_of(m, roster, only))?;
            let c = roster.get_mut(consumer).filter(|c| c.has_credit())?;
            let want = match (peers, c.no_ack) {
                (1, _) => run.count,
                // How fast it is does not show in what it holds: equal shares are as good as any, and large.
                (_, true) => run.count.div_ceil(peers),
                (_, false) => (run.count / peers.saturating_mul(ROUNDS)).max(1),
            };
            let want = want.min(mb.room_for(m, consumer, c.held.messages(), cx.now));
            let n = if want > 0 { c.take_credit(run, want) } else { 0 };
            (n > 0).then_some((consumer, n))
        });
        // Who holds messages of a key may be full while the member is not.
        if taken.is_none() && holder.is_none() {
            mb.shut(m);
        }
        taken
    }

    /// Gives a run to a consumer, whose credit was taken.
    fn hand(&mut self, mb: &mut Mailbox, slot: u32, run: Run, core: &mut Core, cx: &mut Cx<'_>) {
        let held = self.roster.as_ref().and_then(|r| r.get(slot)).map_or(0, |c| c.held.messages());
        mb.holds(slot, &run, held, cx.now);
        self.hand_over(slot, run, core, cx);
    }

    /// Deals out what can be dealt out.
    pub fn dispatch_lanes(&mut self, core: &mut Core, cx: &mut Cx<'_>) {
        // Where nothing waits there is nothing to deal out; who has got credit is looked at when something comes.
        if self.waiting_messages() == 0 {
            return;
        }
        let Some(mut mb) = self.mailbox.take() else {
            return;
        };
        mb.sync(Source::PLAIN, &self.ready, core.durable, Mark::Dirty);
        let only = self.begin(&mut mb, cx);
        mb.scans = MIXED_SCANS_MAX;
        loop {
            while let Some(m) = mb.next_member() {
                self.serve(&mut mb, m, only, core, cx);
            }
            while let Some(source) = mb.next_source() {
                self.place(&mut mb, source, only, core, cx);
            }
            if mb.blocked_by.is_some() {
                core.durable = cx.journal.durable().max(core.durable);
            }
            if !mb.unblock(&self.ready, core.durable) {
                break;
            }
        }
        if let Some(lsn) = mb.blocked_by.filter(|_| !self.waiting) {
            self.waiting = true;
            core.waiting.push(Reverse((lsn, self.index)));
        }
        self.mailbox = Some(mb);
    }

    /// Gives a member what it may have, the most urgent first, for as long as it has credit.
    fn serve(&mut self, mb: &mut Mailbox, m: u32, only: Only, core: &mut Core, cx: &mut Cx<'_>) {
        loop {
            let Some(roster) = self.roster.as_deref() else {
                return;
            };
            mb.refresh(m, roster, only, cx.now);
            if mb.cost(m) == f32::INFINITY {
                return;
            }
            let plain = &self.ready;
            let Some(source) = mb.most_urgent_for(m, roster, only, cx.now, |mb, s| front_route(mb, plain, s)) else {
                return;
            };
            if self.give(mb, source, Some(m), only, core, cx) == Gave::Nothing {
                return;
            }
        }
    }

    /// Gives the message in front of a source to who is best.
    fn place(&mut self, mb: &mut Mailbox, source: Source, only: Only, core: &mut Core, cx: &mut Cx<'_>) {
        // What is next in the source comes back as another head.
        if mb.head(source) != NOTHING {
            let _ = self.give(mb, source, None, only, core, cx);
        }
    }

    fn give(
        &mut self,
        mb: &mut Mailbox,
        source: Source,
        to: Option<u32>,
        only: Only,
        core: &mut Core,
        cx: &mut Cx<'_>,
    ) -> Gave {
        let mark = if to.is_some() { Mark::No } else { Mark::Dirty };
        let durable = core.durable;
        let Some((level, front)) = front_in(mb, &mut self.ready, source, durable) else {
            return Gave::Nothing;
        };
        if front.deadline <= cx.now {
            if let Some(run) = take_in(mb, &mut self.ready, source, level, u32::MAX) {
                self.die(run, DeathReason::Expired, core, cx);
            }
            mb.sync(source, &self.ready, durable, mark);
            return Gave::Something;
        }
        loop {
            let wish = Wish { source, near: front.tag.near, route: &front.route };
            let Some(m) = to.or_else(|| mb.choose(wish)) else {
                return Gave::Nothing;
            };
            let Some((slot, n)) = self.credit(mb, m, source, &front, only, cx) else {
                if to.is_some() || mb.holder_of(source).is_some() {
                    return Gave::Nothing;
                }
                continue;
            };
            if let Some(run) = take_in(mb, &mut self.ready, source, level, n) {
                self.hand(mb, slot, run, core, cx);
            }
            self.settle_costs(mb, m, only, cx);
            mb.sync(source, &self.ready, durable, mark);
            return Gave::Something;
        }
    }
}

/// The first deliverable run of a source, as a copy that shares its bytes, and its level.
fn front_in(mb: &mut Mailbox, plain: &mut Ready, source: Source, durable: waypost_model::Lsn) -> Option<(u8, Run)> {
    let look = |r: &mut Ready| match r.next(durable) {
        Next::Level(level) => r.front_sealed(level).map(|run| (level, run.clone())),
        Next::Empty | Next::Blocked(_) => None,
    };
    if source == Source::PLAIN { look(plain) } else { mb.with(source, look)? }
}

fn take_in(mb: &mut Mailbox, plain: &mut Ready, source: Source, level: u8, n: u32) -> Option<Run> {
    if source == Source::PLAIN {
        return plain.take_front(level, n);
    }
    mb.with(source, |r| r.take_front(level, n))?
}

fn front_route(mb: &Mailbox, plain: &Ready, source: Source) -> Option<Arc<Route>> {
    let ready = if source == Source::PLAIN { Some(plain) } else { mb.ready(source) }?;
    ready.front(ready.top()?).map(|r| Arc::clone(&r.route))
}

impl Mailbox {
    /// Nobody is dirty any more.
    pub(super) fn clean_members(&mut self) {
        while self.next_member().is_some() {}
    }

    fn next_member(&mut self) -> Option<u32> {
        let m = self.dirty_members.pop()?;
        if let Some(member) = self.member_mut(m) {
            member.dirty = None;
        }
        Some(m)
    }

    /// The dirty source with the most urgent message, taken off the list.
    fn next_source(&mut self) -> Option<Source> {
        let heads = (0usize..).zip(&self.dirty_sources).map(|(i, s)| (self.head(*s), i));
        let (_, i) = heads.min()?;
        let source = self.dirty_sources.swap_remove(i);
        if let Some((dirty, _)) = self.flags(source) {
            *dirty = false;
        }
        Some(source)
    }

    /// Among how many a lane is shared.
    fn peers(&self, lane: u16) -> u32 {
        self.lane(lane).map_or(1, |l| {
            let n = if l.passing.is_empty() { l.warning.len() } else { l.passing.len() };
            u32::try_from(n).unwrap_or(u32::MAX)
        })
    }

    /// Who holds messages of the source, if it is a slot of keys.
    pub(super) fn holder_of(&self, source: Source) -> Option<u32> {
        let s = self.slot(source.lane, source.slot?)?;
        s.owner.filter(|_| s.unsettled > 0)
    }

    /// A member has no credit after all.
    pub(super) fn shut(&mut self, m: u32) {
        if let Some(cost) = self.costs.get_mut(m as usize) {
            *cost = f32::INFINITY;
        }
        self.start_over(m);
    }
}
