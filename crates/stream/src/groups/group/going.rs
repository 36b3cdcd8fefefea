//! Who goes: by leaving, by silence, or because a phase is over without him.

use waypost_model::Millis;

use super::{Group, Id, State};
use crate::groups::GroupFault;
use crate::groups::answers::{Joined, Synced};
use crate::groups::member::{Leaving, Member};

impl Group {
    pub fn leave(&mut self, leaving: &Leaving, now: Millis) -> Result<(), GroupFault> {
        let id = match &leaving.instance {
            Some(instance) => {
                let known = self.instances.get(instance).cloned().ok_or(GroupFault::UnknownMember)?;
                if !leaving.member_id.is_empty() && leaving.member_id != known {
                    return Err(GroupFault::FencedInstance);
                }
                known
            }
            None => leaving.member_id.clone(),
        };
        if self.promised.remove(&id).is_some() {
            self.try_complete(now);
            return Ok(());
        }
        if !self.members.contains_key(&id) {
            return Err(GroupFault::UnknownMember);
        }
        self.lose(&id, now);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &str) {
        let Some(mut member) = self.members.remove(id) else { return };
        if let Some(slot) = member.joining.take() {
            slot.answer(Joined::failed(GroupFault::UnknownMember, id.into()));
        }
        if let Some(slot) = member.syncing.take() {
            slot.answer(Synced::failed(GroupFault::UnknownMember));
        }
        if let Some(instance) = member.instance {
            self.instances.remove(&instance);
        }
        if *self.leader == *id {
            self.leader = self.members.keys().next().cloned().unwrap_or_default();
        }
    }

    /// A member is gone: the others join again.
    pub(super) fn lose(&mut self, id: &str, now: Millis) {
        self.remove(id);
        if self.members.is_empty() && !self.gathering {
            self.next_generation();
            self.empty();
        } else {
            self.rebalance(now);
        }
    }

    pub(super) fn next_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1).max(0);
    }

    pub(super) fn empty(&mut self) {
        self.state = State::Empty;
        self.until = None;
        self.leader = "".into();
        self.protocol = "".into();
    }

    pub(super) fn do_what_is_due(&mut self, now: Millis) {
        let before = self.promised.len();
        self.promised.retain(|_, until| *until > now);
        let silent = |(id, m): (&Id, &Member)| {
            // Whoever waits for our answer need not speak.
            (m.joining.is_none() && m.syncing.is_none() && m.deadline <= now).then(|| id.clone())
        };
        let silent: Vec<Box<str>> = self.members.iter().filter_map(silent).collect();
        for id in silent {
            self.lose(&id, now);
        }
        if before > self.promised.len() {
            self.try_complete(now);
        }
        if self.until.is_some_and(|until| until <= now) {
            match self.state {
                State::PreparingRebalance if self.gathering => {
                    self.gathering = false;
                    self.until = self.members.values().map(|m| now.plus(m.rebalance_ms)).max();
                    self.try_complete(now);
                }
                State::PreparingRebalance => {
                    self.promised.clear();
                    self.complete(now);
                }
                State::CompletingRebalance => self.give_up_on_the_silent(now),
                State::Empty | State::Stable => self.until = None,
            }
        }
    }

    /// Who has not asked for its part in time is out; above all a leader that does not deal out.
    fn give_up_on_the_silent(&mut self, now: Millis) {
        let silent: Vec<Box<str>> =
            self.members.iter().filter(|(_, m)| m.syncing.is_none()).map(|(id, _)| id.clone()).collect();
        for id in silent {
            self.remove(&id);
        }
        if self.members.is_empty() {
            self.next_generation();
            self.empty();
        } else {
            self.rebalance(now);
        }
    }
}
