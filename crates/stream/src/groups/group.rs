//! One group: empty, preparing (members join), completing (the leader deals out), stable.

mod going;
mod kept;

use std::collections::{BTreeMap, BTreeSet};

use waypost_model::Millis;

use super::answers::{Awaited, Joined, Slot, Synced, pair};
use super::book::Kept;
use super::member::{Join, Member, Sync};
use super::{GATHER_MS, GroupFault, MEMBERS_MAX};

type Id = Box<str>;

/// What an id takes that was given out.
const PROMISE_BYTES: usize = 64;

/// What a group is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It has no members.
    #[default]
    Empty,
    /// Members join.
    PreparingRebalance,
    /// The leader deals out.
    CompletingRebalance,
    /// Everybody knows what to read.
    Stable,
}

impl State {
    /// As the protocol writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Group {
    state: State,
    generation: i32,
    pub protocol_type: Box<str>,
    protocol: Box<str>,
    leader: Box<str>,
    members: BTreeMap<Box<str>, Member>,
    /// Members by the instance that they are.
    instances: BTreeMap<Box<str>, Box<str>>,
    /// Ids that were given out and not used yet, with the end of their time.
    promised: BTreeMap<Box<str>, Millis>,
    /// When the present phase is over, whoever is missing.
    until: Option<Millis>,
    /// It begins, and waits for more to come.
    gathering: bool,
    /// What members are to be told as soon as it is kept.
    told: Vec<(Slot<Synced>, Synced)>,
}

impl Kept for Group {
    /// Also of those that have an id only.
    fn bytes(&self) -> usize {
        let promised = self.promised.keys().map(|id| PROMISE_BYTES + id.len());
        promised.chain(self.members.values().map(Member::bytes)).sum()
    }

    /// What a leader deals out is bytes to the server.
    fn partitions(&self) -> u64 {
        0
    }

    fn deadline(&self) -> Option<Millis> {
        let members = self.members.values().filter(|m| m.joining.is_none() && m.syncing.is_none()).map(|m| m.deadline);
        members.chain(self.promised.values().copied()).chain(self.until).min()
    }

    fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    fn is_forgotten(&self) -> bool {
        self.state == State::Empty && self.promised.is_empty()
    }

    fn tick(&mut self, now: Millis) {
        self.do_what_is_due(now);
    }
}

impl Group {
    pub fn state(&self) -> State {
        self.state
    }

    /// What is kept of one, if it is a member.
    pub fn bytes_of(&self, id: &str) -> usize {
        self.members.get(id).map_or(0, Member::bytes)
    }

    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// The bytes that a view takes, about.
    pub fn view_bytes(&self) -> usize {
        self.members.iter().map(|(id, m)| id.len() + m.view_bytes(&self.protocol)).sum()
    }

    /// The protocol that was chosen, once it is.
    pub fn chosen(&self) -> Option<&str> {
        let chosen = matches!(self.state, State::Stable | State::CompletingRebalance);
        Some(&*self.protocol).filter(|p| chosen && !p.is_empty())
    }

    /// Its members, with what each has said about the chosen protocol.
    pub fn members(&self) -> impl Iterator<Item = (&Box<str>, &Member, &[u8])> {
        self.members.iter().map(|(id, m)| (id, m, m.said_of(&self.protocol)))
    }

    fn fits(&self, join: &Join) -> bool {
        if join.protocols.is_empty() || join.protocol_type.is_empty() {
            return false;
        }
        let mut others = self.members.iter().filter(|(id, _)| **id != join.member_id).map(|(_, m)| m).peekable();
        if others.peek().is_none() {
            return true;
        }
        let others: Vec<&Member> = others.collect();
        // At most `PROTOCOLS_MAX` among as many of each.
        self.protocol_type == join.protocol_type
            && join.protocols.iter().any(|(name, _)| others.iter().all(|m| m.knows(name)))
    }

    pub fn join(&mut self, join: Join, new_id: Box<str>, now: Millis) -> Awaited<Joined> {
        let fail = |fault, id: &str| Awaited::ready(Joined::failed(fault, id.into()));
        if !self.fits(&join) {
            return fail(GroupFault::InconsistentProtocol, &join.member_id);
        }
        let known_instance = join.instance.as_ref().and_then(|i| self.instances.get(i)).cloned();
        if join.member_id.is_empty() {
            if let Some(before) = known_instance {
                return self.replace(join, &before, new_id, now);
            }
            if self.members.len() + self.promised.len() >= MEMBERS_MAX {
                return fail(GroupFault::GroupFull, "");
            }
            if join.id_required && join.instance.is_none() {
                let session_ms = u64::try_from(join.session_timeout_ms).unwrap_or(0);
                self.promised.insert(new_id.clone(), now.plus(session_ms));
                return fail(GroupFault::MemberIdRequired, &new_id);
            }
            return self.admit(join, new_id, now);
        }
        if self.promised.remove(&join.member_id).is_some() {
            let id = join.member_id.clone();
            return self.admit(join, id, now);
        }
        if join.instance.is_some() && known_instance.as_ref().is_some_and(|id| *id != join.member_id) {
            return fail(GroupFault::FencedInstance, &join.member_id);
        }
        if !self.members.contains_key(&join.member_id) {
            return fail(GroupFault::UnknownMember, &join.member_id);
        }
        self.join_again(join, now)
    }

    /// A new member.
    fn admit(&mut self, join: Join, id: Box<str>, now: Millis) -> Awaited<Joined> {
        if self.members.is_empty() {
            self.protocol_type = join.protocol_type.clone();
        }
        if let Some(instance) = &join.instance {
            self.instances.insert(instance.clone(), id.clone());
        }
        if self.leader.is_empty() {
            self.leader = id.clone();
        }
        let (slot, awaited) = pair();
        let begins = self.state == State::Empty;
        let mut member = Member::new(join, now);
        member.joining = Some(slot);
        self.members.insert(id, member);
        if begins {
            self.state = State::PreparingRebalance;
            self.gathering = true;
            self.until = Some(now.plus(GATHER_MS));
        } else {
            self.rebalance(now);
        }
        awaited
    }

    /// Another process takes the place of an instance.
    fn replace(&mut self, join: Join, before: &str, id: Box<str>, now: Millis) -> Awaited<Joined> {
        let Some(mut old) = self.members.remove(before) else { return self.admit(join, id, now) };
        if let Some(slot) = old.joining.take() {
            slot.answer(Joined::failed(GroupFault::FencedInstance, before.into()));
        }
        if let Some(slot) = old.syncing.take() {
            slot.answer(Synced::failed(GroupFault::FencedInstance));
        }
        let led = *self.leader == *before;
        if led {
            self.leader = id.clone();
        }
        if let Some(instance) = &join.instance {
            self.instances.insert(instance.clone(), id.clone());
        }
        let unchanged = self.state == State::Stable && join.protocols == old.protocols;
        let may_skip = join.may_skip_assignment;
        let mut member = Member::new(join, now);
        member.assignment = old.assignment;
        if unchanged {
            self.members.insert(id.clone(), member);
            let mut joined = self.joined(&id);
            // An old client must not take itself for the leader: it would deal out anew.
            joined.skip_assignment = led && may_skip;
            if led && !may_skip {
                (joined.leader, joined.members) = (before.into(), Vec::new());
            }
            return Awaited::ready(joined);
        }
        let (slot, awaited) = pair();
        member.joining = Some(slot);
        self.members.insert(id, member);
        self.rebalance(now);
        awaited
    }

    /// A member joins again.
    fn join_again(&mut self, join: Join, now: Millis) -> Awaited<Joined> {
        let id = join.member_id.clone();
        let leads = self.leader == id;
        let Some(member) = self.members.get_mut(&id) else {
            return Awaited::ready(Joined::failed(GroupFault::UnknownMember, id));
        };
        let same = member.protocols == join.protocols;
        let as_it_is = match self.state {
            State::CompletingRebalance => same,
            State::Stable => same && !leads,
            State::Empty | State::PreparingRebalance => false,
        };
        member.beat(now);
        if as_it_is {
            return Awaited::ready(self.joined(&id));
        }
        let (slot, awaited) = pair();
        let assignment = std::mem::take(&mut member.assignment);
        if let Some(before) = member.joining.take() {
            // Of a connection that was lost.
            before.answer(Joined::failed(GroupFault::UnknownMember, id));
        }
        let id = join.member_id.clone();
        let mut again = Member::new(join, now);
        again.assignment = assignment;
        again.joining = Some(slot);
        again.syncing = member.syncing.take();
        *member = again;
        self.members.entry(id).and_modify(|m| m.beat(now));
        self.rebalance(now);
        awaited
    }

    /// Everybody is to join again.
    fn rebalance(&mut self, now: Millis) {
        if self.state != State::PreparingRebalance {
            for member in self.members.values_mut() {
                member.assignment.clear();
                if let Some(slot) = member.syncing.take() {
                    slot.answer(Synced::failed(GroupFault::RebalanceInProgress));
                }
            }
            self.state = State::PreparingRebalance;
            self.gathering = false;
            let longest = self.members.values().map(|m| m.rebalance_ms).max();
            self.until = Some(now.plus(longest.unwrap_or(0)));
        }
        self.try_complete(now);
    }

    fn try_complete(&mut self, now: Millis) {
        let all = self.members.values().all(|m| m.joining.is_some());
        if self.state == State::PreparingRebalance && !self.gathering && all && self.promised.is_empty() {
            self.complete(now);
        }
    }

    /// Whoever has joined makes the next generation.
    fn complete(&mut self, now: Millis) {
        self.gathering = false;
        // Instances keep their place until their time is over; others were told, and did not come.
        let gone: Vec<Box<str>> = self
            .members
            .iter()
            .filter(|(_, m)| m.joining.is_none() && m.instance.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.remove(&id);
        }
        self.next_generation();
        if self.members.is_empty() {
            self.empty();
            return;
        }
        if self.members.get(&self.leader).is_none_or(|m| m.joining.is_none()) {
            let next = self.members.iter().find(|(_, m)| m.joining.is_some()).or(self.members.iter().next());
            self.leader = next.map(|(id, _)| id.clone()).unwrap_or_default();
        }
        self.protocol = self.vote();
        self.state = State::CompletingRebalance;
        let longest = self.members.values().map(|m| m.rebalance_ms).max();
        self.until = Some(now.plus(longest.unwrap_or(0)));
        let ids: Vec<Box<str>> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.beat(now);
                if let Some(slot) = member.joining.take() {
                    slot.answer(joined);
                }
            }
        }
    }

    /// The protocol that most like best, of those that all know.
    fn vote(&self) -> Box<str> {
        let mut known_by: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            // Each once, however often it says so.
            let names: BTreeSet<&str> = member.protocols.iter().map(|(name, _)| &**name).collect();
            names.into_iter().for_each(|name| *known_by.entry(name).or_default() += 1);
        }
        let known = |name: &str| known_by.get(name) == Some(&self.members.len());
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| known(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, n)| *n).map(|(name, _)| name.into()).unwrap_or_default()
    }

    fn joined(&self, id: &str) -> Joined {
        let everybody = |(id, m): (&Id, &Member)| (id.clone(), m.instance.clone(), m.metadata(&self.protocol));
        let leads = *self.leader == *id;
        Joined {
            fault: None,
            member_id: id.into(),
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            members: if leads { self.members.iter().map(everybody).collect() } else { Vec::new() },
            skip_assignment: false,
        }
    }

    /// The member, if it is one and of this generation.
    fn check(&self, id: &str, instance: Option<&str>, generation: i32) -> Result<(), GroupFault> {
        if let Some(known) = instance.and_then(|i| self.instances.get(i))
            && **known != *id
        {
            return Err(GroupFault::FencedInstance);
        }
        if !self.members.contains_key(id) {
            return Err(GroupFault::UnknownMember);
        }
        if generation != self.generation { Err(GroupFault::IllegalGeneration) } else { Ok(()) }
    }

    pub fn sync(&mut self, sync: Sync, now: Millis) -> Awaited<Synced> {
        if let Err(fault) = self.check(&sync.member_id, sync.instance.as_deref(), sync.generation) {
            return Awaited::ready(Synced::failed(fault));
        }
        if let Some((kind, name)) = &sync.protocol
            && (*kind != self.protocol_type || *name != self.protocol)
        {
            return Awaited::ready(Synced::failed(GroupFault::InconsistentProtocol));
        }
        let leads = self.leader == sync.member_id;
        let synced = Synced {
            fault: None,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: Vec::new(),
        };
        let Some(member) = self.members.get_mut(&sync.member_id) else {
            return Awaited::ready(Synced::failed(GroupFault::UnknownMember));
        };
        member.beat(now);
        match self.state {
            State::Empty => Awaited::ready(Synced::failed(GroupFault::UnknownMember)),
            State::PreparingRebalance => Awaited::ready(Synced::failed(GroupFault::RebalanceInProgress)),
            State::Stable => Awaited::ready(Synced { assignment: member.assignment.clone(), ..synced }),
            State::CompletingRebalance => {
                let (slot, awaited) = pair();
                if let Some(before) = member.syncing.replace(slot) {
                    // Of a connection that was lost.
                    before.answer(Synced::failed(GroupFault::UnknownMember));
                }
                if leads {
                    self.deal_out(sync.assignments, &synced);
                }
                awaited
            }
        }
    }

    fn deal_out(&mut self, assignments: Vec<(Box<str>, Vec<u8>)>, synced: &Synced) {
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        self.state = State::Stable;
        self.until = None;
        for member in self.members.values_mut() {
            if let Some(slot) = member.syncing.take() {
                self.told.push((slot, Synced { assignment: member.assignment.clone(), ..synced.clone() }));
            }
        }
    }

    /// Tells members what they are to read.
    pub fn tell(&mut self) {
        self.told.drain(..).for_each(|(slot, synced)| slot.answer(synced));
    }

    pub fn is_member(&self, id: &str) -> bool {
        self.members.contains_key(id)
    }

    pub fn heartbeat(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        now: Millis,
    ) -> Result<(), GroupFault> {
        self.check(id, instance, generation)?;
        if let Some(member) = self.members.get_mut(id) {
            member.beat(now);
        }
        match self.state {
            State::PreparingRebalance => Err(GroupFault::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    pub fn may_commit(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        now: Millis,
    ) -> Result<(), GroupFault> {
        if generation < 0 && id.is_empty() {
            return if self.members.is_empty() { Ok(()) } else { Err(GroupFault::UnknownMember) };
        }
        self.check(id, instance, generation)?;
        if let Some(member) = self.members.get_mut(id) {
            member.beat(now);
        }
        if self.state == State::CompletingRebalance { Err(GroupFault::RebalanceInProgress) } else { Ok(()) }
    }
}
