//! Groups of the newer protocol (KIP-848): members say what they want to read and what they have, the server deals out and
//! leads each member from what it has to what it is to have, one revocation at a time.
//!
//! The group's *epoch* rises with every change of members, subscriptions or topics; the *target* is dealt out for an epoch;
//! a member's epoch says up to which target it has been led. A partition has one owner: who is to have it gets it once its
//! owner has said that it has let go, or is out.

mod assign;
mod classes;
mod kept;
#[cfg(test)]
mod kept_tests;
mod member;
mod reconcile;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::{Lsn, Millis};

use super::book::Kept;
use super::{GroupFault, MEMBERS_MAX};
use crate::streams::TopicId;
pub use assign::ASSIGNORS;
use kept::{Changes, Fingerprint};
pub(super) use kept::{Piece, Pieces};
use member::Member;
pub use member::{Beaten, ConsumerMemberView, Heartbeat};

/// Partitions by topic.
pub type Parts = BTreeMap<TopicId, BTreeSet<i32>>;

/// How often members are to speak, milliseconds: Kafka's `group.consumer.heartbeat.interval.ms`.
pub const HEARTBEAT_INTERVAL_MS: i32 = 5_000;
/// How long a member may be silent, milliseconds: Kafka's `group.consumer.session.timeout.ms`.
pub const SESSION_TIMEOUT_MS: u64 = 45_000;
/// Most topics that a member may name.
pub const NAMES_MAX: usize = 5_000;
/// Most topics that all members of a group may name together.
pub const NAMES_OF_ALL_MAX: usize = 200_000;
/// Most patterns that members of a group may have.
pub const PATTERNS_MAX: usize = 16;
/// Longest id of a member, bytes.
pub const MEMBER_ID_BYTES_MAX: usize = 256;
/// How old what is known of topics may be once they have changed, milliseconds.
const RESOLVED_FOR_MS: u64 = 1_000;
/// How old it may be while they have not: who may see them may change as well.
const UNCHANGED_FOR_MS: u64 = 30_000;
/// A group of more partitions deals them out at most once in so many milliseconds as it has [`PARTITIONS_PER_MS`]: ten times as
/// long as that takes, or more (`benches/groups.rs`).
const MANY_PARTITIONS: u64 = 10_000;
const PARTITIONS_PER_MS: u64 = 64;
/// The epoch of who joins, who leaves, and who leaves for a while.
const JOINS: i32 = 0;
const LEAVES: i32 = -1;
const LEAVES_FOR_A_WHILE: i32 = -2;

/// What a group must know of topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Topics by name.
    pub names: BTreeSet<Arc<str>>,
    /// Patterns that names match as a whole.
    pub patterns: BTreeSet<Box<str>>,
}

/// What there is of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// What was looked for.
    pub wanted: Wanted,
    /// The id of each topic and how many partitions it has, those included that match a pattern.
    pub topics: BTreeMap<Arc<str>, (TopicId, u32)>,
    /// The names that match each pattern.
    pub matches: BTreeMap<Box<str>, Vec<Arc<str>>>,
    /// The version of the list of topics before it was looked.
    pub version: u64,
}

impl Resolved {
    /// How many partitions there are.
    pub(super) fn partitions(&self) -> u64 {
        self.topics.values().map(|(_, count)| u64::from(*count)).sum()
    }
}

/// A group, for those who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroupView {
    /// What it is at, as the protocol writes it.
    pub state: &'static str,
    /// Counted with every change.
    pub epoch: i32,
    /// The epoch that was dealt out for.
    pub target_epoch: i32,
    /// How it is dealt out.
    pub assignor: &'static str,
    /// Its members.
    pub members: Vec<ConsumerMemberView>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ConsumerGroup {
    epoch: i32,
    target_epoch: i32,
    members: BTreeMap<Box<str>, Member>,
    /// Members by the instance that they are.
    instances: BTreeMap<Box<str>, Box<str>>,
    /// Who has each partition, until it has let go.
    owners: BTreeMap<(TopicId, i32), Box<str>>,
    /// What is known of the topics that members read, and which names match their patterns.
    topics: BTreeMap<Arc<str>, (TopicId, u32)>,
    matches: BTreeMap<Box<str>, Vec<Arc<str>>>,
    /// When partitions were last dealt out.
    dealt_at: Option<Millis>,
    /// When that was found out, and of which version of the list of topics.
    resolved: Option<(Millis, u64)>,
    /// What it is to be known by after a restart.
    fingerprint: Fingerprint,
    /// That is all that is known of them: there was a restart since.
    is_recalled: bool,
    changes: Changes,
    /// What must be durable before anybody is told anything.
    pub lsn: Option<Lsn>,
}

impl Kept for ConsumerGroup {
    fn bytes(&self) -> usize {
        self.members.values().map(Member::bytes).sum()
    }

    fn partitions(&self) -> u64 {
        if self.is_empty() { 0 } else { self.fingerprint.partitions }
    }

    fn deadline(&self) -> Option<Millis> {
        self.members.values().map(Member::deadline).min()
    }

    fn has_members(&self) -> bool {
        !self.is_empty()
    }

    fn is_forgotten(&self) -> bool {
        self.is_empty()
    }

    /// Puts out who is silent, and who does not let go in time.
    fn tick(&mut self, now: Millis) {
        let late: Vec<Box<str>> =
            self.members.iter().filter(|(_, m)| m.deadline() <= now).map(|(id, _)| id.clone()).collect();
        for id in late {
            self.remove(&id);
        }
    }
}

impl ConsumerGroup {
    /// What one has said of itself, if it is a member.
    pub fn bytes_of(&self, id: &str) -> usize {
        self.members.get(id).map_or(0, Member::bytes)
    }

    /// Whether a heartbeat may change who is in the group, or what is kept of somebody.
    pub fn is_told_by(&self, beat: &Heartbeat) -> bool {
        beat.epoch <= 0 || self.members.get(&beat.member_id).is_none_or(|m| m.is_told_by(beat))
    }

    /// When a member is out.
    pub fn due_of(&self, id: &str) -> Option<Millis> {
        self.members.get(id).map(Member::deadline)
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Its members: id, instance, and who they are.
    pub fn members(&self) -> impl Iterator<Item = (&Box<str>, &Option<Box<str>>, &super::Who)> {
        self.members.iter().map(|(id, m)| (id, &m.instance, &m.who))
    }

    /// The bytes that a view takes, about.
    pub fn view_bytes(&self) -> usize {
        self.members.iter().map(|(id, m)| id.len() + m.view_bytes()).sum()
    }

    /// Takes those topics out of `topics` that its members read.
    pub fn leave_unread(&self, topics: &mut BTreeSet<Arc<str>>) {
        if self.is_recalled && self.members.values().any(|m| !m.pattern.is_empty()) {
            // What matches is not known yet.
            return topics.clear();
        }
        let read = self.members.values().flat_map(|m| &m.names).chain(self.matches.values().flatten());
        for name in read {
            topics.remove(name);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What is to be found out before this heartbeat is heard, if anything is. `version`: of the list of topics.
    pub fn wants(&self, beat: &Heartbeat, version: u64, now: Millis) -> Option<Wanted> {
        let lasts = |of: u64| if of == version { UNCHANGED_FOR_MS } else { RESOLVED_FOR_MS };
        let fresh = self.resolved.is_some_and(|(at, of)| at.plus(lasts(of)) > now);
        if fresh && beat.names.is_none() && beat.pattern.is_none() {
            return None;
        }
        let names = self.members.values().flat_map(|m| m.names.iter().cloned());
        let patterns = self.members.values().map(|m| m.pattern.clone()).chain(beat.pattern.clone());
        Some(Wanted {
            names: names.chain(beat.names.iter().flatten().cloned()).collect(),
            patterns: patterns.filter(|p| !p.is_empty()).take(PATTERNS_MAX + 1).collect(),
        })
    }

    /// A member speaks.
    pub fn beat(
        &mut self,
        beat: Heartbeat,
        new_id: Box<str>,
        resolved: Option<Resolved>,
        now: Millis,
    ) -> Result<Beaten, GroupFault> {
        if matches!(beat.epoch, LEAVES | LEAVES_FOR_A_WHILE) {
            return self.leave(&beat, now);
        }
        self.check_limits(&beat)?;
        let id = if beat.epoch == JOINS { self.join(&beat, new_id, now)? } else { self.known(&beat)? };
        let taken = self.members.get_mut(&id).map(|m| m.take_in(&beat, now)).unwrap_or_default();
        if taken.news {
            self.changes.said(&id);
        }
        let moved = resolved.is_some_and(|resolved| self.learn(resolved, now));
        if taken.deals || moved {
            self.next_epoch();
        }
        if self.epoch > self.target_epoch && self.may_deal_out(now) {
            self.deal_out();
            self.dealt_at = Some(now);
        }
        // Most are led already, and what they have may be much.
        let before = self.members.get(&id).filter(|m| !m.is_led_to(self.target_epoch)).map(Member::led);
        self.reconcile(&id, beat.owned.as_ref(), now);
        let member = self.members.get(&id).ok_or(GroupFault::UnknownMember)?;
        if before.as_ref().is_some_and(|before| !member.is_led(before)) {
            self.changes.has(&id);
        }
        // Who tells what it has may not have heard the last answer.
        let tells = beat.owned.is_some() || before.is_some_and(|before| before.assigned != member.assigned);
        let assignment = tells.then(|| member.assigned.clone());
        Ok(Beaten { epoch: member.epoch, assignment, member_id: id, lsn: None })
    }

    fn next_epoch(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
        self.changes.epochs();
    }

    /// Whether it is time to deal out. A group of very many partitions does so for several changes at once, so that members
    /// that come and go do not keep everybody from getting on.
    fn may_deal_out(&self, now: Millis) -> bool {
        if self.is_recalled {
            return false;
        }
        let partitions = self.fingerprint.partitions;
        let pause = if partitions > MANY_PARTITIONS { partitions / PARTITIONS_PER_MS } else { 0 };
        self.dealt_at.is_none_or(|at| at.plus(pause) <= now)
    }

    /// Takes over what is known of topics, no less and no more than was looked for: others may have asked for other
    /// topics in the meantime. Whether anything is new.
    fn learn(&mut self, resolved: Resolved, now: Millis) -> bool {
        self.resolved = Some((now, resolved.version));
        if !self.is_recalled && (&resolved.topics, &resolved.matches) == (&self.topics, &self.matches) {
            // As for most: those who come read what others read, and there may be very many topics.
            return false;
        }
        let (mut topics, mut matches) = (self.topics.clone(), self.matches.clone());
        topics.retain(|name, _| !resolved.wanted.names.contains(name));
        topics.extend(resolved.topics);
        matches.extend(resolved.matches);
        matches.retain(|pattern, _| self.members.values().any(|m| m.pattern == *pattern));
        let names: BTreeSet<&Arc<str>> =
            self.members.values().flat_map(|m| &m.names).chain(matches.values().flatten()).collect();
        topics.retain(|name, _| names.contains(name));
        let moved = if self.is_recalled {
            Fingerprint::of(&topics, &matches) != self.fingerprint
        } else {
            (&topics, &matches) != (&self.topics, &self.matches)
        };
        if moved {
            self.fingerprint = Fingerprint::of(&topics, &matches);
        }
        self.is_recalled = false;
        (self.topics, self.matches) = (topics, matches);
        moved
    }

    fn check_limits(&self, beat: &Heartbeat) -> Result<(), GroupFault> {
        if let Some(names) = &beat.names {
            let others = self.members.iter().filter(|(id, _)| **id != beat.member_id).map(|(_, m)| m.names.len());
            if names.len() > NAMES_MAX || others.sum::<usize>() + names.len() > NAMES_OF_ALL_MAX {
                return Err(GroupFault::GroupFull);
            }
        }
        if let Some(pattern) = beat.pattern.as_ref().filter(|p| !p.is_empty()) {
            let others = self.members.values().map(|m| &m.pattern).filter(|p| !p.is_empty());
            let all: BTreeSet<&Box<str>> = others.chain([pattern]).collect();
            if all.len() > PATTERNS_MAX {
                return Err(GroupFault::GroupFull);
            }
        }
        Ok(())
    }

    /// A member comes, or comes again with nothing.
    fn join(&mut self, beat: &Heartbeat, new_id: Box<str>, now: Millis) -> Result<Box<str>, GroupFault> {
        let id = if beat.member_id.is_empty() { new_id } else { beat.member_id.clone() };
        let holder = beat.instance.as_ref().and_then(|i| self.instances.get(i)).cloned();
        if let Some(holder) = holder.filter(|holder| *holder != id) {
            let Some(old) = self.members.get(&holder).filter(|m| m.epoch == LEAVES_FOR_A_WHILE) else {
                return Err(GroupFault::UnreleasedInstance);
            };
            if self.members.contains_key(&id) {
                return Err(GroupFault::FencedInstance);
            }
            let again = old.again();
            self.members.remove(&holder);
            let owned = again.assigned.iter().flat_map(|(topic, all)| all.iter().map(|p| (*topic, *p)));
            self.owners.extend(owned.map(|part| (part, id.clone())));
            self.changes.gone(&holder);
            self.admit(&id, again);
            return Ok(id);
        }
        if let Some(member) = self.members.get(&id) {
            if member.instance != beat.instance {
                return Err(GroupFault::FencedInstance);
            }
            self.release_all(&id);
            self.changes.has(&id);
            return Ok(id);
        }
        if self.members.len() >= MEMBERS_MAX {
            return Err(GroupFault::GroupFull);
        }
        self.admit(&id, Member::new(beat.instance.clone(), now));
        Ok(id)
    }

    fn admit(&mut self, id: &str, member: Member) {
        self.changes.said(id);
        self.changes.has(id);
        self.take_place(id, member);
    }

    fn take_place(&mut self, id: &str, member: Member) {
        if let Some(instance) = &member.instance {
            self.instances.insert(instance.clone(), id.into());
        }
        self.members.insert(id.into(), member);
    }

    /// A member that is there already, if it is.
    fn known(&self, beat: &Heartbeat) -> Result<Box<str>, GroupFault> {
        self.check_instance(beat)?;
        let member = self.members.get(&beat.member_id).ok_or(GroupFault::UnknownMember)?;
        if beat.epoch == member.epoch {
            return Ok(beat.member_id.clone());
        }
        // It did not hear the last answer, and has nothing that it should not have.
        let owned = beat.owned.as_ref().is_some_and(|owned| reconcile::is_within(owned, &member.assigned));
        if beat.epoch == member.previous_epoch && beat.epoch < member.epoch && owned {
            Ok(beat.member_id.clone())
        } else {
            Err(GroupFault::FencedEpoch)
        }
    }

    fn check_instance(&self, beat: &Heartbeat) -> Result<(), GroupFault> {
        let Some(instance) = &beat.instance else { return Ok(()) };
        match self.instances.get(instance) {
            None => Err(GroupFault::UnknownMember),
            Some(holder) if *holder != beat.member_id => Err(GroupFault::FencedInstance),
            Some(_) => Ok(()),
        }
    }

    fn leave(&mut self, beat: &Heartbeat, now: Millis) -> Result<Beaten, GroupFault> {
        self.check_instance(beat)?;
        let id = &beat.member_id;
        if !self.members.contains_key(id) {
            return Err(GroupFault::UnknownMember);
        }
        if beat.epoch == LEAVES {
            self.remove(id);
        } else {
            // Its place and what it had is kept for who comes as the same instance; what it was to give up is free.
            self.release_revoking(id);
            self.changes.has(id);
            if let Some(member) = self.members.get_mut(id) {
                member.leave_for_a_while(now);
            }
        }
        Ok(Beaten { member_id: id.clone(), epoch: beat.epoch, assignment: None, lsn: None })
    }

    fn remove(&mut self, id: &str) {
        self.release_all(id);
        let Some(member) = self.members.remove(id) else { return };
        if let Some(instance) = member.instance {
            self.instances.remove(&instance);
        }
        self.changes.gone(id);
        self.next_epoch();
    }

    /// Whether a member of that epoch may commit, or look at what was committed.
    pub fn may_commit(&self, id: &str, epoch: i32) -> Result<(), GroupFault> {
        if epoch < 0 && id.is_empty() {
            return if self.is_empty() { Ok(()) } else { Err(GroupFault::UnknownMember) };
        }
        let member = self.members.get(id).ok_or(GroupFault::UnknownMember)?;
        if member.epoch == epoch { Ok(()) } else { Err(GroupFault::StaleEpoch) }
    }

    pub fn state(&self) -> &'static str {
        let led = |m: &Member| m.is_led_to(self.target_epoch);
        match () {
            () if self.members.is_empty() => "Empty",
            () if self.epoch > self.target_epoch => "Assigning",
            () if !self.members.values().all(led) => "Reconciling",
            () => "Stable",
        }
    }

    pub fn view(&self) -> ConsumerGroupView {
        ConsumerGroupView {
            state: self.state(),
            epoch: self.epoch,
            target_epoch: self.target_epoch,
            assignor: self.assignor(),
            members: self.members.iter().map(|(id, m)| m.view(id)).collect(),
        }
    }
}
