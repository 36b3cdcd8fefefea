//! From what a member has to what it is to have.

use std::collections::btree_map::Entry;

use waypost_model::Millis;

use super::member::Phase;
use super::{ConsumerGroup, JOINS, Parts};
use crate::streams::TopicId;

/// Whether all of `a` is in `b`.
pub(super) fn is_within(a: &Parts, b: &Parts) -> bool {
    a.iter().all(|(topic, parts)| parts.is_empty() || b.get(topic).is_some_and(|all| parts.is_subset(all)))
}

fn is_apart(a: &Parts, b: &Parts) -> bool {
    a.iter().all(|(topic, parts)| b.get(topic).is_none_or(|all| parts.is_disjoint(all)))
}

/// Those partitions of `a` that `keep` says yes to.
fn filtered(a: &Parts, keep: impl Fn(TopicId, i32) -> bool) -> Parts {
    let mut out = Parts::new();
    for (topic, parts) in a {
        let kept: std::collections::BTreeSet<i32> = parts.iter().copied().filter(|p| keep(*topic, *p)).collect();
        if !kept.is_empty() {
            out.insert(*topic, kept);
        }
    }
    out
}

fn has(parts: &Parts, topic: TopicId, partition: i32) -> bool {
    parts.get(&topic).is_some_and(|all| all.contains(&partition))
}

pub(super) fn each(parts: &Parts) -> impl Iterator<Item = (TopicId, i32)> + '_ {
    parts.iter().flat_map(|(topic, all)| all.iter().map(|p| (*topic, *p)))
}

impl ConsumerGroup {
    /// Leads a member on, as far as it can go now. `owned`: what it says it has.
    pub(super) fn reconcile(&mut self, id: &str, owned: Option<&Parts>, now: Millis) {
        let Some(member) = self.members.get(id) else { return };
        let epoch = match member.phase {
            Phase::Stable if member.is_led_to(self.target_epoch) => return,
            Phase::Stable | Phase::Unreleased => member.epoch,
            Phase::Unrevoked => {
                // Only its own word counts.
                if owned.is_none_or(|owned| !is_apart(owned, &member.revoking)) {
                    return;
                }
                let next = member.epoch.saturating_add(1).min(self.target_epoch);
                self.release_revoking(id);
                next
            }
        };
        self.lead(id, epoch, owned, now);
    }

    fn lead(&mut self, id: &str, epoch: i32, owned: Option<&Parts>, now: Millis) {
        let Some(member) = self.members.get_mut(id) else { return };
        let mut assigned = filtered(&member.assigned, |t, p| has(&member.target, t, p));
        let mut revoking = filtered(&member.assigned, |t, p| !has(&member.target, t, p));
        if owned.is_some_and(|owned| is_apart(owned, &revoking)) {
            // It never took them.
            for part in each(&std::mem::take(&mut revoking)) {
                self.owners.remove(&part);
            }
        }
        if epoch != member.epoch {
            member.previous_epoch = member.epoch;
            member.epoch = epoch;
        }
        if !revoking.is_empty() {
            member.phase = Phase::Unrevoked;
            member.revoke_until = Some(now.plus(member.rebalance_ms));
            (member.assigned, member.revoking) = (assigned, revoking);
            return;
        }
        let mut waits = false;
        for (topic, partition) in each(&member.target).filter(|(t, p)| !has(&member.assigned, *t, *p)) {
            match self.owners.entry((topic, partition)) {
                Entry::Occupied(_) => waits = true,
                Entry::Vacant(free) => {
                    free.insert(id.into());
                    assigned.entry(topic).or_default().insert(partition);
                }
            }
        }
        member.assigned = assigned;
        member.phase = if waits { Phase::Unreleased } else { Phase::Stable };
        member.revoke_until = None;
        if member.epoch != self.target_epoch {
            member.previous_epoch = member.epoch;
            member.epoch = self.target_epoch;
        }
    }

    /// What a member was to let go of is free.
    pub(super) fn release_revoking(&mut self, id: &str) {
        let Some(member) = self.members.get_mut(id) else { return };
        for part in each(&std::mem::take(&mut member.revoking)) {
            self.owners.remove(&part);
        }
    }

    /// A member has nothing any more.
    pub(super) fn release_all(&mut self, id: &str) {
        self.release_revoking(id);
        let Some(member) = self.members.get_mut(id) else { return };
        for part in each(&std::mem::take(&mut member.assigned)) {
            self.owners.remove(&part);
        }
        (member.epoch, member.previous_epoch) = (JOINS, JOINS);
        member.phase = Phase::Stable;
        member.revoke_until = None;
    }
}
