//! Who comes, who changes, who goes.

use std::sync::Arc;

use waypost_model::Millis;
use waypost_model::service::{Instance, Standing};

use super::lane::{Lane, Serves};
use super::member::{Bound, Member, Seat};
use super::{Mailbox, REFRESH_MS};

/// Who a consumer says it is.
#[derive(Debug, Clone)]
pub struct Claimant {
    /// What the registry knows of the instance.
    pub instance: Arc<Instance>,
    /// What it says of it.
    pub standing: Standing,
    /// Which one.
    pub incarnation: u64,
}

impl Mailbox {
    /// A consumer takes its place, as an instance or for itself.
    pub fn seat_consumer(&mut self, consumer: u32, claim: Option<&Claimant>, bound: Bound, now: Millis) {
        let bound = if claim.is_some() { bound } else { Bound::Own };
        let m = match claim {
            Some(claim) => self.instance(claim, now),
            None => self.add_member(Member::new(None, Standing::PASSING, 0, now)),
        };
        let at = consumer as usize;
        if at >= self.seats.len() {
            self.seats.resize_with(at + 1, || None);
        }
        if let Some(place) = self.seats.get_mut(at) {
            *place = Some(Seat::new(m, bound));
        }
        if let Some(member) = self.member_mut(m) {
            member.consumers.push(consumer);
            member.seats += 1;
        }
        self.place_member(m);
    }

    /// The member that an instance is, from now on as the claim says.
    fn instance(&mut self, claim: &Claimant, now: Millis) -> u32 {
        let found = self.by_id.get(&claim.instance.id).copied();
        let m = found.unwrap_or_else(|| {
            let id = claim.instance.id.clone();
            let new = Member::new(Some(Arc::clone(&claim.instance)), claim.standing, claim.incarnation, now);
            let m = self.add_member(new);
            self.by_id.insert(id.clone(), m);
            self.recipient_is_back(&id);
            m
        });
        self.update(m, claim, now);
        m
    }

    fn update(&mut self, m: u32, claim: &Claimant, now: Millis) {
        let zone = self.zone(&claim.instance.zone);
        let Some(member) = self.member_mut(m) else {
            return;
        };
        if member.incarnation != claim.incarnation {
            *member = Member {
                consumers: std::mem::take(&mut member.consumers),
                seats: member.seats,
                in_flight: member.in_flight,
                lanes: std::mem::take(&mut member.lanes),
                dirty: member.dirty,
                counted: member.counted,
                ..Member::new(None, claim.standing, claim.incarnation, now)
            };
        }
        member.instance = Some(Arc::clone(&claim.instance));
        member.standing = claim.standing;
        member.gone = false;
        member.zone = zone;
    }

    fn add_member(&mut self, member: Member) -> u32 {
        let m = self.free_members.pop().unwrap_or_else(|| {
            self.members.push(None);
            self.costs.push(f32::INFINITY);
            self.ranks.push((0, 0));
            (self.members.len() - 1) as u32
        });
        if let Some(place) = self.members.get_mut(m as usize) {
            *place = Some(member);
        }
        m
    }

    /// The registry says something else of an instance. Instances without consumers are not known here.
    pub fn instance_is(&mut self, claim: &Claimant, now: Millis) {
        let Some(m) = self.by_id.get(&claim.instance.id).copied() else {
            return;
        };
        // What is said of an earlier one comes late.
        if self.member(m).is_some_and(|known| known.incarnation <= claim.incarnation) {
            self.update(m, claim, now);
            self.recipient_is_back(&claim.instance.id);
            self.place_member(m);
            self.mark_all();
        }
    }

    /// The registry has an instance no more. Whether it was known here.
    pub fn instance_gone(&mut self, id: &str, incarnation: u64) -> bool {
        let Some(m) = self.by_id.get(id).copied() else {
            return self.recipient_ended(id);
        };
        let Some(member) = self.member_mut(m).filter(|known| known.incarnation <= incarnation) else {
            return false;
        };
        member.gone = true;
        self.place_member(m);
        self.recipient_ended(id);
        self.drop_member(m);
        self.mark_all();
        true
    }

    /// The consumers of an instance, unless it is a later one.
    pub fn consumers_of(&self, id: &str, incarnation: u64) -> &[u32] {
        let member = self.by_id.get(id).and_then(|m| self.member(*m)).filter(|known| known.incarnation <= incarnation);
        member.map(|member| &*member.consumers).unwrap_or_default()
    }

    /// A consumer gets no more messages; what it holds is still its.
    pub fn end_consumer(&mut self, consumer: u32) {
        let Some(m) = self.seat(consumer).map(|s| s.member) else {
            return;
        };
        let Some(member) = self.member_mut(m) else {
            return;
        };
        let before = member.consumers.len();
        member.consumers.retain(|c| *c != consumer);
        if member.consumers.is_empty() && before > 0 {
            self.place_member(m);
            // Others may stand in for it.
            self.mark_all();
        }
        self.mark_member(m);
    }

    /// A consumer is gone, and holds nothing any more.
    pub fn unseat(&mut self, consumer: u32) {
        let Some(seat) = self.seats.get_mut(consumer as usize).and_then(Option::take) else {
            return;
        };
        self.lanes.iter_mut().filter_map(|l| l.keyed.as_mut()).for_each(|k| k.forget(consumer));
        if let Some(member) = self.member_mut(seat.member) {
            member.seats -= 1;
        }
        self.drop_member(seat.member);
    }

    /// Forgets a member that is nobody any more.
    fn drop_member(&mut self, m: u32) {
        let spent = |x: &Member| (x.gone || x.instance.is_none()) && x.seats == 0;
        if !self.member(m).is_some_and(spent) {
            return;
        }
        for lane in 0..self.lanes.len() as u16 {
            self.unlist(lane, m);
        }
        self.clean(m);
        if let Some(member) = self.members.get_mut(m as usize).and_then(Option::take) {
            self.candidates -= usize::from(member.counted);
            if let Some(i) = member.instance {
                self.by_id.remove(&i.id);
            }
        }
        if let Some(cost) = self.costs.get_mut(m as usize) {
            *cost = f32::INFINITY;
        }
        self.free_members.push(m);
    }

    /// Takes a member off the list of those who may have got credit.
    fn clean(&mut self, m: u32) {
        let Some(at) = self.member_mut(m).and_then(|x| x.dirty.take()) else {
            return;
        };
        self.dirty_members.swap_remove(at as usize);
        if let Some(moved) = self.dirty_members.get(at as usize).copied()
            && let Some(x) = self.member_mut(moved)
        {
            x.dirty = Some(at);
        }
    }

    fn unlist(&mut self, lane: u16, m: u32) {
        if let Some(l) = self.lanes.get_mut(usize::from(lane)) {
            for list in [&mut l.passing, &mut l.warning] {
                if let Ok(at) = list.binary_search(&m) {
                    list.remove(at);
                }
            }
        }
        if let Some(member) = self.member_mut(m) {
            member.lanes.set(lane, false);
        }
    }

    /// Puts a member on the lists of the lanes whose messages it may take.
    fn place_member(&mut self, m: u32) {
        for lane in 0..self.lanes.len() as u16 {
            self.unlist(lane, m);
            self.list(lane, m);
        }
        self.count(m);
        self.start_over(m);
        self.mark_member(m);
    }

    /// Keeps count of those who may get messages.
    fn count(&mut self, m: u32) {
        if let Some(member) = self.members.get_mut(m as usize).and_then(Option::as_mut) {
            let is = member.is_candidate();
            let was = std::mem::replace(&mut member.counted, is);
            self.candidates = self.candidates + usize::from(is) - usize::from(was);
        }
    }

    /// Puts the members on the lists of a lane.
    pub(super) fn fill_lane(&mut self, lane: u16) {
        (0..self.members.len() as u32).for_each(|m| self.list(lane, m));
    }

    fn list(&mut self, lane: u16, m: u32) {
        let (Some(l), Some(member)) =
            (self.lanes.get_mut(usize::from(lane)), self.members.get_mut(m as usize).and_then(Option::as_mut))
        else {
            return;
        };
        if !member.is_candidate() || !may_take(l, lane, member) {
            return;
        }
        member.lanes.set(lane, true);
        let list = if member.is_passing() { &mut l.passing } else { &mut l.warning };
        if let Err(at) = list.binary_search(&m) {
            list.insert(at, m);
        }
    }

    fn recipient_is_back(&mut self, id: &str) {
        if let Some(lane) = self.by_text.get(&*format!("\0{id}")).copied()
            && let Some(l) = self.lane_mut(lane)
        {
            l.ended = false;
        }
    }

    /// Copies for an instance end with it. Whether there may be any.
    pub(super) fn recipient_ended(&mut self, id: &str) -> bool {
        let lane = self.by_text.get(&*format!("\0{id}")).copied();
        lane.and_then(|l| self.lane_mut(l)).map(|l| l.ended = true).is_some()
    }

    /// Instances that get a copy of what is for all that match.
    pub fn recipients(&self, matches: impl Fn(&Instance) -> bool) -> Vec<Arc<Instance>> {
        let of = |m: &Member| m.instance.clone().filter(|_| !m.gone && !m.standing.draining);
        let mut all: Vec<_> = self.members.iter().flatten().filter_map(of).filter(|i| matches(i)).collect();
        all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// Latencies fade and shares grow by the second. Whether costs are to be looked over.
    pub(super) fn refresh_due(&mut self, now: Millis) -> bool {
        let passed = now.since(self.refreshed);
        if passed < REFRESH_MS {
            return false;
        }
        self.refreshed = now;
        let known = || self.members.iter().flatten().filter_map(|m| m.latency);
        let count = known().count();
        if count > 0 {
            self.usual = known().sum::<f32>() / count as f32;
        }
        let usual = self.usual;
        let seconds = passed as f32 / 1000.0;
        self.members.iter_mut().flatten().for_each(|m| m.forget(usual, seconds, now));
        true
    }
}

/// Whether a member may take messages of a lane, as far as selectors say.
fn may_take(lane: &Lane, number: u16, member: &Member) -> bool {
    match (&lane.what, &member.instance) {
        (_, None) => number == 0,
        (Serves::Selector(s), Some(i)) => s.is_match(i),
        (Serves::Recipient(id), Some(i)) => *id == i.id,
        // Each message says for itself.
        (Serves::Mixed, Some(_)) => true,
    }
}
