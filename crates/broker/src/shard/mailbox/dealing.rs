//! Fresh messages with keys that come together: dealt out by consumer, so that each gets one delivery of them.
//!
//! One by one each would be a run, a delivery and a settlement of its own. Only what goes at once is dealt: what is to be
//! logged, what waits, and what nobody has credit for takes the usual way behind it. Within a slot that keeps the order:
//! whoever has no credit for a message has none for the next, and what waits stays before what follows.

use std::sync::Arc;

use waypost_model::{Batch, BatchBuilder, Millis, QueueId, Seq, Slot};

use super::super::accept::{AHEAD_BYTES, Enqueued, Incoming};
use super::super::queue::{Core, Queue};
use super::super::roster::Roster;
use super::super::run::{Bytes, COST_FLAT, Run};
use super::super::{Lsn, Shard};
use super::choice::Wish;
use super::{MIXED, Mailbox, Source, Tag};
use crate::context::Cx;

/// Nobody.
const NONE: u32 = u32::MAX;

/// Messages with keys that share a lane, and to whom each goes. Kept from one use to the next for its room.
#[derive(Debug, Default)]
pub struct Dealing {
    messages: Vec<Dealt>,
    hands: Vec<Hand>,
    /// By a consumer's place in the roster: its hand.
    of_consumer: Vec<u32>,
    /// The messages that go, by hand.
    order: Vec<u32>,
}

/// A message and its taker.
#[derive(Debug, Clone, Copy)]
struct Dealt {
    /// Which of its batch.
    at: u32,
    /// Of its key.
    slot: u16,
    hand: u32,
}

/// What a consumer gets.
#[derive(Debug, Clone, Copy)]
struct Hand {
    consumer: u32,
    member: u32,
    /// How many more it may get, and for how many bytes.
    room: u32,
    window: i64,
    count: u32,
    /// Where its messages begin in the order.
    from: u32,
}

impl Dealing {
    /// Ready for other messages.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.order.clear();
        for hand in self.hands.drain(..) {
            if let Some(place) = self.of_consumer.get_mut(hand.consumer as usize) {
                *place = NONE;
            }
        }
    }

    /// One more: message `at` of the batch, with the slot of its key.
    pub fn add(&mut self, at: u32, slot: u16) {
        self.messages.push(Dealt { at, slot, hand: NONE });
    }

    /// Whether the message that was added as the `n`th, from 0, has gone to somebody.
    #[must_use]
    pub fn took(&self, n: usize) -> bool {
        self.messages.get(n).is_some_and(|m| m.hand != NONE)
    }

    /// Which of those that were added have gone, in the order of their places.
    #[must_use]
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    fn hand_of(&self, consumer: u32) -> Option<u32> {
        self.of_consumer.get(consumer as usize).copied().filter(|h| *h != NONE)
    }

    fn open(&mut self, hand: Hand) -> u32 {
        let (at, n) = (hand.consumer as usize, self.hands.len() as u32);
        if at >= self.of_consumer.len() {
            self.of_consumer.resize(at + 1, NONE);
        }
        if let Some(place) = self.of_consumer.get_mut(at) {
            *place = n;
        }
        self.hands.push(hand);
        n
    }

    /// The messages of a hand.
    fn of(&self, hand: &Hand) -> impl Iterator<Item = &Dealt> {
        let places = hand.from as usize..(hand.from + hand.count) as usize;
        let order = self.order.get(places).unwrap_or_default();
        order.iter().filter_map(|n| self.messages.get(*n as usize))
    }

    /// All that go, beside each other in their order.
    fn copied(&self, batch: &Batch) -> Batch {
        let chosen = || self.order.iter().filter_map(|n| self.messages.get(*n as usize));
        let slot = |m: &Dealt| batch.slots().get(m.at as usize);
        let bytes: usize = chosen().filter_map(slot).map(Slot::payload_len).sum();
        let mut together = BatchBuilder::with_capacity(bytes, self.order.len());
        chosen().for_each(|m| together.extend(batch, m.at, m.at + 1));
        together.finish()
    }

    /// Puts the messages of each hand together.
    fn sort(&mut self) {
        let mut from = 0;
        for hand in &mut self.hands {
            hand.from = from;
            from += hand.count;
        }
        self.order.clear();
        self.order.resize(from as usize, 0);
        let mut next: Vec<u32> = self.hands.iter().map(|h| h.from).collect();
        for (n, m) in (0u32..).zip(&self.messages) {
            if let Some(place) = next.get_mut(m.hand as usize)
                && let Some(of) = self.order.get_mut(*place as usize)
            {
                *of = n;
                *place += 1;
            }
        }
    }
}

impl Shard {
    /// Messages with keys enter the mailbox `queue`, as far as they can be delivered at once; `run` says what they are, with
    /// a route that has no slot. The others are to be handed over by [`Shard::enqueue`], in order, before anything else
    /// is: see [`Dealing::took`].
    pub fn deal(&mut self, queue: QueueId, run: &Incoming, dealing: &mut Dealing, cx: &mut Cx<'_>) -> Enqueued {
        // They wait nowhere: no place is theirs.
        let mut done = Enqueued { first: Seq(u64::MAX), ..Enqueued::default() };
        if let Some((q, core)) = self.with_core(queue) {
            done.accepted = q.deal(run, dealing, core, cx);
            done.ahead = q.waiting_payload() > AHEAD_BYTES && q.consumers() > 0;
        }
        done
    }
}

impl Queue {
    fn deal(&mut self, run: &Incoming, dealing: &mut Dealing, core: &mut Core, cx: &mut Cx<'_>) -> u32 {
        if self.plan(run).logged || self.settings.single_active_consumer || self.roster.is_none() {
            return 0;
        }
        let Some(mut mb) = self.mailbox.take() else {
            return 0;
        };
        let tag = mb.tag_of(&run.route);
        if tag.lane != MIXED {
            self.begin(&mut mb, cx);
            // Nothing waits that they could have had instead.
            if mb.sums.messages == 0 && self.ready.is_empty() {
                mb.clean_members();
            }
            if let Some(roster) = self.roster.as_deref() {
                mb.assign(tag, run, dealing, roster, cx.now);
            }
            dealing.sort();
            self.hand_out(&mut mb, tag, run, dealing, core, cx);
        }
        self.mailbox = Some(mb);
        self.dispatch(core, cx);
        self.reschedule(core);
        dealing.order.len() as u32
    }

    /// Makes a run for each hand, and gives it to its consumer.
    fn hand_out(
        &mut self,
        mb: &mut Mailbox,
        tag: Tag,
        run: &Incoming,
        dealing: &Dealing,
        core: &mut Core,
        cx: &mut Cx<'_>,
    ) {
        let batch = Arc::new(dealing.copied(&run.batch));
        let deadline = self.deadline(run.attrs, run.at);
        for hand in &dealing.hands {
            let slots = batch.slots().get(hand.from as usize..(hand.from + hand.count) as usize).unwrap_or_default();
            let (payload, body) = super::super::run::sum(slots);
            let run = Run {
                first: self.next_seq,
                count: hand.count,
                from: hand.from,
                bytes: Bytes::Mem(Arc::clone(&batch)),
                route: Arc::clone(&run.route),
                attrs: run.attrs,
                at: run.at,
                deadline,
                lsn: Lsn(0),
                payload,
                body,
                delivery_count: 0,
                redelivered: false,
                logged: false,
                tag,
                keys: dealing.of(hand).map(|m| m.slot).collect(),
            };
            if run.count == 0 {
                continue;
            }
            self.next_seq = self.next_seq.plus(u64::from(run.count));
            self.stats.published += u64::from(run.count);
            self.add_memory(run.memory(), core, cx);
            let consumer = self.roster.as_ref().and_then(|r| r.get(hand.consumer));
            consumer.inspect(|c| c.take_freely(run.count));
            mb.fills(hand.consumer, consumer.map_or(0, |c| c.held.messages()) + u64::from(run.count), cx.now);
            self.hand_over(hand.consumer, run, core, cx);
        }
        if let Some(roster) = self.roster.as_deref() {
            dealing.hands.iter().for_each(|hand| mb.refresh(hand.member, roster, None, cx.now));
        }
    }
}

impl Mailbox {
    /// Says of each message who gets it, if anybody does, and counts it as theirs.
    fn assign(&mut self, tag: Tag, run: &Incoming, dealing: &mut Dealing, roster: &Roster, now: Millis) {
        for n in 0..dealing.messages.len() {
            let Some(m) = dealing.messages.get(n).copied() else { return };
            let source = Source { lane: tag.lane, slot: Some(m.slot) };
            let wish = Wish { source, near: tag.near, route: &run.route };
            let Some(hand) = self.taker(wish, dealing, roster) else { continue };
            let cost = run.batch.slots().get(m.at as usize).map_or(0, |s| s.payload_len() as u64) + COST_FLAT;
            if let Some(m) = dealing.messages.get_mut(n) {
                m.hand = hand;
            }
            if let Some(hand) = dealing.hands.get_mut(hand as usize) {
                hand.room -= 1;
                hand.count += 1;
                hand.window = hand.window.saturating_sub(i64::try_from(cost).unwrap_or(i64::MAX));
                self.promise(source, hand, now);
            }
        }
    }

    /// Whose hand gets the message in front; `None` if nobody can take it at once.
    fn taker(&mut self, wish: Wish<'_>, dealing: &mut Dealing, roster: &Roster) -> Option<u32> {
        let source = wish.source;
        if self.ready(source).is_some_and(|r| !r.is_empty()) {
            return None;
        }
        loop {
            let m = self.choose(wish)?;
            let holder = self.holder_of(source);
            let consumer = match (holder, &*self.member(m)?.consumers) {
                (Some(holder), _) => holder,
                (None, [one]) => *one,
                // Which of them is asked where one is given.
                (None, _) => return None,
            };
            let hand = match dealing.hand_of(consumer) {
                Some(hand) => hand,
                None => dealing.open(self.new_hand(m, consumer, roster)?),
            };
            if dealing.hands.get(hand as usize).is_some_and(|h| h.room > 0 && h.window > 0) {
                return Some(hand);
            }
            if holder.is_some() {
                return None;
            }
            // Another one, then.
            self.shut(m);
        }
    }

    /// What a consumer may get. `None`: it shares its credit with others that may be elsewhere.
    fn new_hand(&self, member: u32, consumer: u32, roster: &Roster) -> Option<Hand> {
        let c = roster.get(consumer).filter(|c| c.counts_alone())?;
        let held = c.held.messages();
        let mut room = self.seat(consumer)?.room(held, self.is_alone());
        if !c.has_credit() {
            room = 0;
        } else if !c.no_ack {
            let left = u64::from(c.prefetch).saturating_sub(held);
            room = room.min(u32::try_from(left).unwrap_or(u32::MAX));
        }
        Some(Hand { consumer, member, room, window: c.window, count: 0, from: 0 })
    }

    /// A message of a slot is a consumer's.
    fn promise(&mut self, source: Source, hand: &Hand, now: Millis) {
        let Some(member) = self.members.get_mut(hand.member as usize).and_then(Option::as_mut) else {
            return;
        };
        member.in_flight = member.in_flight.saturating_add(1);
        let full = hand.room == 0 || hand.window <= 0 || member.room(now) == 0;
        let cost = if full { f32::INFINITY } else { member.cost(self.usual, now) };
        if let Some(place) = self.costs.get_mut(hand.member as usize) {
            *place = cost;
        }
        let Some(lane) = self.lanes.get_mut(usize::from(source.lane)) else {
            return;
        };
        lane.unsettled += 1;
        let Some(slot) = source.slot else {
            return;
        };
        let keyed = lane.keyed.get_or_insert_default();
        keyed.note_last(slot, hand.consumer);
        let s = keyed.slots.entry(slot).or_default();
        s.owner = Some(hand.consumer);
        s.unsettled += 1;
    }
}
