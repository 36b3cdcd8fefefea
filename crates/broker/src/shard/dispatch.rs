//! From the queue to consumers.

use std::cmp::Reverse;

use waypost_model::{Delivery, Event, QueueId};

use super::memory::HELD_MEMORY;
use super::queue::{Core, Queue};
use super::ready::Next;
use super::roster::{Roster, Turn};
use super::run::Run;
use crate::context::Cx;
use crate::effect::DeathReason;
use crate::settings::QueueKind;

/// A run is dealt out in that many rounds, if there are several consumers and it is long enough.
pub(super) const ROUNDS: u32 = 8;

/// A delivered run that is less than that part of its batch is copied.
pub(super) const HELD_PART: u64 = 4;

/// How many batches a consumer without acknowledgement may pin as a whole: a peer that keeps up is spared the copy.
const UNSENT_BATCHES: usize = 8;

impl Queue {
    /// Offers fresh messages straight to consumers; what nobody takes comes back.
    pub fn offer(&mut self, mut run: Run, core: &mut Core, cx: &mut Cx<'_>) -> Option<Run> {
        if !self.ready.is_empty() || self.roster.is_none() || self.is_delay() {
            return Some(run);
        }
        let sharing = self.sharing();
        while let Some(turn) = self.roster.as_mut().and_then(|r| r.turn(sharing)) {
            if run.lsn > core.durable {
                core.durable = cx.journal.durable().max(core.durable);
                if run.lsn > core.durable {
                    break;
                }
            }
            let n = self.take_credit(turn, &run);
            if n == run.count {
                self.deliver(turn, run, core, cx);
                return None;
            }
            if n > 0 {
                let part = run.split_front(n);
                self.deliver(turn, part, core, cx);
            }
        }
        Some(run)
    }

    /// Deals out ready messages for as long as there are any and there is credit.
    pub fn dispatch(&mut self, core: &mut Core, cx: &mut Cx<'_>) {
        if self.is_delay() {
            return;
        }
        if self.has_mailbox() {
            return self.dispatch_lanes(core, cx);
        }
        let sharing = self.sharing();
        while !self.ready.is_empty()
            && let Some(turn) = self.roster.as_mut().and_then(|r| r.turn(sharing))
        {
            let level = match self.next_level(core, cx) {
                Next::Level(level) => level,
                Next::Empty => break,
                Next::Blocked(lsn) => {
                    if !self.waiting {
                        self.waiting = true;
                        core.waiting.push(Reverse((lsn, self.index)));
                    }
                    break;
                }
            };
            let Some(front) = self.ready.front_sealed(level) else {
                break;
            };
            if front.deadline <= cx.now {
                let Some(run) = self.ready.take_front(level, u32::MAX) else {
                    break;
                };
                self.die(run, DeathReason::Expired, core, cx);
                continue;
            }
            let Some(n) = self.roster.as_mut().map(|r| credit_for(r, turn, front)) else {
                break;
            };
            if n > 0
                && let Some(run) = self.ready.take_front(level, n)
            {
                self.deliver(turn, run, core, cx);
            }
        }
    }

    fn next_level(&mut self, core: &mut Core, cx: &Cx<'_>) -> Next {
        match self.ready.next(core.durable) {
            Next::Blocked(_) => {
                core.durable = cx.journal.durable().max(core.durable);
                self.ready.next(core.durable)
            }
            next => next,
        }
    }

    fn take_credit(&mut self, turn: Turn, run: &Run) -> u32 {
        self.roster.as_mut().map_or(0, |r| credit_for(r, turn, run))
    }

    /// Gives a whole run to the consumer whose turn it is, and whose credit was taken.
    fn deliver(&mut self, turn: Turn, run: Run, core: &mut Core, cx: &mut Cx<'_>) {
        self.hand_over(turn.slot, run, core, cx);
        if let Some(roster) = &mut self.roster {
            roster.pass(turn);
        }
    }

    /// Gives a whole run to a consumer, whose credit was taken.
    pub fn hand_over(&mut self, slot: u32, mut run: Run, core: &mut Core, cx: &mut Cx<'_>) {
        let n = u64::from(run.count);
        if run.redelivered {
            self.stats.redelivered += n;
        }
        let (id, kind) = (self.settings.id, self.settings.kind);
        let unready = self.memory.saturating_sub(self.waiting_memory());
        let Some(roster) = &mut self.roster else {
            return;
        };
        let Some(c) = roster.get_mut(slot) else {
            return;
        };
        if c.no_ack {
            self.stats.delivered_no_ack += n;
            self.unsent += n;
            if c.held.buffers() >= UNSENT_BATCHES && !c.held.pins(&run) {
                run.tighten(HELD_PART);
            }
        } else {
            self.stats.delivered += n;
            self.unsettled += n;
            run.tighten(HELD_PART);
        }
        let delivery = Delivery { channel: c.channel, consumer: c.id, ..delivery(id, kind, &run) };
        c.window = c.window.saturating_sub(i64::try_from(delivery.cost).unwrap_or(i64::MAX));
        let fleeting = run.deadline <= cx.now;
        // Whoever holds much without settling it does not hold it in memory.
        let drop = !c.no_ack && run.logged && !fleeting && unready > HELD_MEMORY && run.slots().is_some();
        let dropped = if drop { run.memory() } else { 0 };
        if drop {
            run.into_stored(self.ready.sizes, |run| c.held.add(run, cx.now));
        } else {
            c.held.add(run, cx.now);
        }
        if let Some(outbox) = &c.outbox {
            cx.wakes.add(outbox.push_quietly(Event::Deliver(delivery)));
        }
        let no_ack = c.no_ack;
        if !no_ack {
            self.note_held(cx.now);
        }
        if dropped > 0 {
            self.free_memory(dropped, core, cx);
        }
    }

    /// Whether a message may be had at `now`; those at the front that may not are removed.
    pub fn expire_front(&mut self, core: &mut Core, cx: &mut Cx<'_>) -> Option<u8> {
        loop {
            let level = self.ready.top()?;
            if self.ready.front(level)?.deadline > cx.now {
                return Some(level);
            }
            let run = self.ready.take_front(level, u32::MAX)?;
            self.die(run, DeathReason::Expired, core, cx);
        }
    }
}

fn credit_for(roster: &mut Roster, turn: Turn, run: &Run) -> u32 {
    let want = if turn.peers > 1 { (run.count / turn.peers.saturating_mul(ROUNDS)).max(1) } else { u32::MAX };
    roster.get_mut(turn.slot).map_or(0, |c| c.take_credit(run, want))
}

/// A run as a delivery, without its recipient.
pub(super) fn delivery(queue: QueueId, kind: QueueKind, run: &Run) -> Delivery {
    Delivery {
        channel: Default::default(),
        consumer: Default::default(),
        queue,
        first: run.first,
        count: run.count,
        route: std::sync::Arc::clone(&run.route),
        body: run.body_ref(),
        redelivered: run.redelivered,
        delivery_count: if kind == QueueKind::Quorum { run.delivery_count } else { 0 },
        cost: run.cost(),
    }
}
