//! Who gets a message.

use std::ops::Bound;
use std::sync::Arc;

use waypost_model::address::Address;
use waypost_model::selector::Selector;
use waypost_model::{Millis, Route};

use super::super::roster::Roster;
use super::lane::{NOTHING, Slot};
use super::member::Member;
use super::{MIXED, MIXED_SCAN_AGAIN_MS, MIXED_SCAN_MAX, Mailbox, Source};

/// A member of the own zone that is used to more than so many per cent lets others help.
const CROWDED_PER_CENT: u64 = 80;

/// The one that had a key last gets it again while it costs no more than so many times the best.
const STICKY: f32 = 2.0;

/// Whom a message is for, beside what its lane says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub source: Source,
    /// The preferred zone, by number.
    pub near: u8,
    /// Where it was published to.
    pub route: &'a Arc<Route>,
}

/// Who shares the messages: everybody, or one consumer.
pub(super) type Only = Option<Option<u32>>;

/// What can be given to a consumer now.
fn open(mb: &Mailbox, roster: &Roster, consumer: u32) -> Option<(i32, u64, u32)> {
    let c = roster.get(consumer).filter(|c| c.has_credit())?;
    let held = c.held.messages();
    let seat = mb.seat(consumer)?;
    let limit = if c.no_ack { u32::MAX } else { c.prefetch };
    let alone = mb.is_alone();
    let most = limit.min(seat.window(alone).unwrap_or(u32::MAX));
    (seat.room(held, alone) > 0).then_some((c.priority, held, most))
}

impl Mailbox {
    /// Looks anew at what a member can take and costs.
    pub(super) fn refresh(&mut self, m: u32, roster: &Roster, only: Only, now: Millis) {
        let mut cost = f32::INFINITY;
        let (mut rank, mut limit) = (i32::MIN, 0u32);
        if let Some(member) = self.member(m)
            && member.is_candidate()
            && member.room(now) > 0
        {
            for c in member.consumers.iter().filter(|c| allowed(only, **c)) {
                if let Some((priority, _, most)) = open(self, roster, *c) {
                    rank = rank.max(priority);
                    limit = limit.saturating_add(most);
                    cost = 0.0;
                }
            }
            if cost == 0.0 {
                cost = member.cost(self.usual, now);
                let max = member.instance.as_ref().and_then(|i| i.max_in_flight);
                limit = limit.min(max.unwrap_or(u32::MAX));
            }
        }
        self.ranked |= rank != i32::MIN && rank != 0;
        if let (Some(c), Some(r)) = (self.costs.get_mut(m as usize), self.ranks.get_mut(m as usize)) {
            (*c, *r) = (cost, (rank, limit));
        }
        if cost == f32::INFINITY {
            self.start_over(m);
        }
    }

    /// A member has no credit, or is another one than before: what comes to the shared lane meanwhile goes past it.
    pub(super) fn start_over(&mut self, m: u32) {
        if let Some(member) = self.member_mut(m) {
            (member.scanned, member.unfinished) = (None, false);
        }
    }

    /// The consumer of a member that is to get the next message: of those with credit the most important, then the one
    /// that holds least.
    pub(super) fn consumer_of(&self, m: u32, roster: &Roster, only: Only) -> Option<u32> {
        match &*self.member(m)?.consumers {
            // Whether it has credit is asked where that is taken.
            [one] => allowed(only, *one).then_some(*one),
            several => {
                let several = several.iter().filter(|c| allowed(only, **c));
                let open = several.filter_map(|c| open(self, roster, *c).map(|(p, held, _)| (-i64::from(p), held, *c)));
                open.min().map(|(_, _, c)| c)
            }
        }
    }

    /// Who is to get the message in front of a source; `None` if nobody who may take it has credit.
    pub(super) fn choose(&mut self, wish: Wish<'_>) -> Option<u32> {
        self.turn = self.turn.wrapping_add(1);
        if wish.source.lane == MIXED {
            return self.choose_mixed(wish);
        }
        let lane = self.lane(wish.source.lane)?;
        if let Some(slot) = wish.source.slot {
            let keyed = lane.keyed.as_deref();
            if let Some(owner) = keyed.and_then(|k| k.slots.get(&slot)).and_then(holder) {
                return self.only_owner(owner, wish.source.lane);
            }
            let best = self.best_of(&lane.passing, &lane.warning, wish, |m: &Member| m.instance.is_some())?;
            let last = keyed.and_then(|k| k.last(slot));
            return Some(self.sticky(last, best, wish.source.lane));
        }
        self.best_of(&lane.passing, &lane.warning, wish, |_| true)
    }

    /// Who holds messages of a slot gets those that follow, or nobody does.
    fn only_owner(&self, owner: u32, lane: u16) -> Option<u32> {
        let m = self.seat(owner)?.member;
        let member = self.member(m).filter(|x| x.lanes.has(lane) && x.consumers.contains(&owner))?;
        (self.cost(m) < f32::INFINITY && member.instance.is_some()).then_some(m)
    }

    fn sticky(&self, last: Option<u32>, best: u32, lane: u16) -> u32 {
        let last = last.and_then(|c| self.seat(c)).map(|s| s.member);
        match last.filter(|m| self.member(*m).is_some_and(|x| x.lanes.has(lane))) {
            Some(m) if self.cost(m) <= self.cost(best) * STICKY => m,
            _ => best,
        }
    }

    pub(super) fn cost(&self, m: u32) -> f32 {
        self.costs.get(m as usize).copied().unwrap_or(f32::INFINITY)
    }

    /// The best of those that pass; where none of these is sound, also of the others.
    pub(super) fn best_of(
        &self,
        passing: &[u32],
        warning: &[u32],
        wish: Wish<'_>,
        fits: impl Fn(&Member) -> bool + Copy,
    ) -> Option<u32> {
        let best = self.best(passing, wish.near, fits);
        if warning.is_empty() || passing.iter().any(|m| self.is_sound(*m, fits)) {
            return best;
        }
        best.or_else(|| self.best(warning, wish.near, fits))
    }

    /// Whether a passing member is a reason to spare the others.
    fn is_sound(&self, m: u32, fits: impl Fn(&Member) -> bool) -> bool {
        self.member(m).is_some_and(|x| x.ejected.is_none() && fits(x))
    }

    fn best(&self, list: &[u32], near: u8, fits: impl Fn(&Member) -> bool + Copy) -> Option<u32> {
        if near != 0 {
            let local = |m: &Member| m.zone == near && fits(m);
            let found = self.least(list, |m, x| local(x) && !self.is_crowded(m, x));
            if found.is_some() {
                return found;
            }
        }
        self.least(list, |_, x| fits(x))
    }

    fn is_crowded(&self, m: u32, member: &Member) -> bool {
        let limit = self.ranks.get(m as usize).map_or(0, |(_, limit)| u64::from(*limit));
        member.in_flight > 0 && u64::from(member.in_flight) * 100 > limit * CROWDED_PER_CENT
    }

    /// The least cost among members of the highest rank with credit. Equals take turns.
    fn least(&self, list: &[u32], fits: impl Fn(u32, &Member) -> bool) -> Option<u32> {
        let (front, back) = list.split_at(self.turn.checked_rem(list.len()).unwrap_or(0));
        let mut best = None;
        let mut least = (i32::MIN, f32::INFINITY);
        for m in back.iter().chain(front) {
            let cost = self.cost(*m);
            if cost == f32::INFINITY {
                continue;
            }
            let rank = if self.ranked { self.ranks.get(*m as usize).map_or(0, |(rank, _)| *rank) } else { 0 };
            let better = best.is_none() || rank > least.0 || rank == least.0 && cost < least.1;
            if better && self.member(*m).is_some_and(|x| fits(*m, x)) {
                (best, least) = (Some(*m), (rank, cost));
            }
        }
        best
    }

    fn choose_mixed(&mut self, wish: Wish<'_>) -> Option<u32> {
        let slot = wish.source.slot?;
        let selector = self.mixed_selector(slot, wish.route)?;
        let lane = self.lane(MIXED)?;
        let fits = |x: &Member| x.instance.as_ref().is_some_and(|i| selector.is_match(i));
        if let Some(owner) = self.slot(MIXED, slot).and_then(holder) {
            return self.only_owner(owner, MIXED).filter(|m| self.member(*m).is_some_and(fits));
        }
        let passing: Vec<u32> = lane.passing.iter().copied().filter(|m| self.member(*m).is_some_and(fits)).collect();
        self.best_of(&passing, &lane.warning, wish, fits)
    }

    /// The selector of the message in front of a slot of the shared lane.
    fn mixed_selector(&mut self, slot: u16, route: &Arc<Route>) -> Option<Arc<Selector>> {
        let keyed = self.keyed_mut(MIXED)?;
        let known = keyed.slots.get(&slot).and_then(|s| s.selector.as_ref());
        if let Some((_, selector)) = known.filter(|(of, _)| Arc::ptr_eq(of, route)) {
            return Some(Arc::clone(selector));
        }
        let selector = Arc::new(selector_of(route)?);
        // Compiled regular expressions are not kept by the thousand.
        if !selector.is_heavy()
            && let Some(s) = keyed.slots.get_mut(&slot)
        {
            s.selector = Some((Arc::clone(route), Arc::clone(&selector)));
        }
        Some(selector)
    }

    /// The most urgent source that a member may take from; `front` shows the message in front of a source.
    pub(super) fn most_urgent_for<'q>(
        &mut self,
        m: u32,
        roster: &Roster,
        only: Only,
        now: Millis,
        front: impl Fn(&Mailbox, Source) -> Option<Arc<Route>> + 'q,
    ) -> Option<Source> {
        let member = self.member(m)?;
        let (instance, passing) = (member.instance.is_some(), member.is_passing());
        let mut best = (NOTHING, Source::PLAIN);
        for lane in member.lanes.iter().filter(|l| *l != MIXED) {
            let at = usize::from(lane);
            let head = self.heads.get(at).copied().unwrap_or(NOTHING);
            let free = if instance { self.free_heads.get(at).copied().unwrap_or(NOTHING) } else { NOTHING };
            if head.min(free) < best.0 && (passing || self.may_stand_in(lane)) {
                best = if head <= free {
                    (head, Source { lane, slot: None })
                } else {
                    let slot = self.lane(lane).and_then(|l| l.keyed.as_ref()?.free.first()).map(|(_, slot)| *slot);
                    (free, Source { lane, slot })
                };
            }
        }
        for c in member.consumers.iter().filter(|c| allowed(only, **c)) {
            let owned = self.seat(*c).and_then(|s| s.owned.first()).filter(|(head, ..)| *head < best.0);
            if let Some((head, lane, slot)) = owned
                && member.lanes.has(*lane)
                && (*lane != MIXED || self.mixed_fits(m, *slot, &front))
                && open(self, roster, *c).is_some()
            {
                best = (*head, Source { lane: *lane, slot: Some(*slot) });
            }
        }
        if member.lanes.has(MIXED) && self.free_heads.get(usize::from(MIXED)).is_some_and(|h| *h < best.0) {
            best = self.most_urgent_mixed(m, best, now, &front);
        }
        (best.0 != NOTHING).then_some(best.1)
    }

    /// Looks through the shared lane, from where it was left when there was too much of it.
    fn most_urgent_mixed(
        &mut self,
        m: u32,
        best: (u64, Source),
        now: Millis,
        front: &impl Fn(&Mailbox, Source) -> Option<Arc<Route>>,
    ) -> (u64, Source) {
        let Some(keyed) = self.lane(MIXED).and_then(|l| l.keyed.as_ref()) else {
            return best;
        };
        let from = self.member(m).and_then(|x| x.scanned).map_or(Bound::Unbounded, Bound::Excluded);
        let most = MIXED_SCAN_MAX.min(self.scans);
        let (mut looked, mut last, mut found) = (0, None, None);
        for (head, slot) in keyed.free.range((from, Bound::Unbounded)).take_while(|(head, _)| *head < best.0) {
            if looked == most {
                break;
            }
            (looked, last) = (looked + 1, Some((*head, *slot)));
            if self.mixed_fits(m, *slot, front) {
                found = last;
                break;
            }
        }
        self.scans -= looked;
        let more = found.is_none() && looked == most;
        if more {
            self.wake_by(Some(now.plus(MIXED_SCAN_AGAIN_MS)));
        }
        if let Some(member) = self.member_mut(m) {
            // What comes to the head of a slot is offered to it while it has credit: only what is behind is new to it.
            member.unfinished = more;
            member.scanned = last.filter(|_| more).or(member.scanned);
        }
        found.map_or(best, |(head, slot)| (head, Source { lane: MIXED, slot: Some(slot) }))
    }

    fn mixed_fits(&self, m: u32, slot: u16, front: &impl Fn(&Mailbox, Source) -> Option<Arc<Route>>) -> bool {
        let known = self.slot(MIXED, slot).and_then(|s| s.selector.clone());
        let route = front(self, Source { lane: MIXED, slot: Some(slot) });
        let Some(route) = route else { return false };
        let selector = match known.filter(|(of, _)| Arc::ptr_eq(of, &route)) {
            Some((_, selector)) => selector,
            None => match selector_of(&route) {
                Some(s) => Arc::new(s),
                None => return false,
            },
        };
        self.member(m).and_then(|x| x.instance.as_ref()).is_some_and(|i| selector.is_match(i))
    }

    /// Whether those that do not pass may take from a lane.
    fn may_stand_in(&self, lane: u16) -> bool {
        self.lane(lane).is_some_and(|l| !l.passing.iter().any(|m| self.is_sound(*m, |_| true)))
    }

    /// What a member may be given at once: its own limit, and that of a consumer.
    pub(super) fn room_for(&self, m: u32, consumer: u32, held: u64, now: Millis) -> u32 {
        let of_seat = self.seat(consumer).map_or(u32::MAX, |s| s.room(held, self.is_alone()));
        self.member(m).map_or(0, |x| x.room(now)).min(of_seat)
    }
}

fn allowed(only: Only, consumer: u32) -> bool {
    only.is_none_or(|active| active == Some(consumer))
}

/// Who holds messages of a slot.
fn holder(slot: &Slot) -> Option<u32> {
    slot.owner.filter(|_| slot.unsettled > 0)
}

/// The selector that a route's address names; a recipient is one, too.
fn selector_of(route: &Route) -> Option<Selector> {
    let a = Address::decode(route.address.as_deref()?)?;
    match a.recipient {
        Some(id) => {
            let mut b = waypost_model::selector::SelectorBuilder::default();
            b.add("instance", id).ok()?;
            b.finish().ok()
        }
        None => Selector::parse(a.selector).ok(),
    }
}
