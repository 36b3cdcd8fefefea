//! Groups of the newer protocol among all groups.

use waypost_model::Millis;

use super::book::Kept;
use super::consumer::{Beaten, ConsumerGroup, Heartbeat, Resolved, Wanted};
use super::{GROUPS_MAX, GroupFault, Groups, Inner, State, name, room};

impl Groups {
    /// Does something with a group of the newer protocol, if there is one with members.
    pub(super) fn with_consumers<R>(
        &self,
        vhost: &str,
        group: &str,
        f: impl FnOnce(&mut ConsumerGroup) -> R,
    ) -> Option<R> {
        self.lock().consumers.get_mut(&name(vhost, group)).filter(|g| g.has_members()).map(f)
    }

    /// What is to be found out of topics before a group hears this heartbeat; nothing, if it knows enough. `version`: that
    /// of the list of topics, see [`crate::streams::Streams::version`].
    #[must_use]
    pub fn wants(&self, vhost: &str, group: &str, beat: &Heartbeat, version: u64, now: Millis) -> Option<Wanted> {
        let known = self.with_consumers(vhost, group, |g| g.wants(beat, version, now));
        known.unwrap_or_else(|| ConsumerGroup::default().wants(beat, version, now))
    }

    /// A member of the newer protocol joins, stays, or leaves. `resolved`: the answer to [`Groups::wants`].
    ///
    /// # Errors
    /// [`GroupFault`].
    pub fn consumer_heartbeat(
        &self,
        vhost: &str,
        group: &str,
        beat: Heartbeat,
        resolved: Option<Resolved>,
        now: Millis,
    ) -> Result<Beaten, GroupFault> {
        if group.is_empty() {
            return Err(GroupFault::InvalidGroup);
        }
        beat.check()?;
        room::check(beat.bytes())?;
        let mut inner = self.lock();
        let key = name(vhost, group);
        if inner.groups.get(&key).is_some_and(|g| g.state() != State::Empty) {
            return Err(GroupFault::ClassicGroup);
        }
        if !inner.consumers.has_members(&key) {
            if beat.epoch != 0 {
                return Err(GroupFault::UnknownMember);
            }
            if inner.groups.len() + inner.consumers.len() >= GROUPS_MAX {
                return Err(GroupFault::TooManyGroups);
            }
        }
        let before = inner.consumers.get(&key).map_or(0, |g| g.bytes_of(&beat.member_id));
        let told = inner.consumers.get(&key).is_none_or(|g| g.is_told_by(&beat));
        if beat.epoch >= 0 && (beat.names.is_some() || beat.pattern.is_some() || beat.epoch == 0) {
            let partitions = resolved.as_ref().map_or(0, Resolved::partitions);
            if !inner.has_room(&key, beat.bytes(), before) || !inner.consumers.has_room_for(&key, partitions) {
                return Err(GroupFault::GroupFull);
            }
        }
        let new_id = inner.new_consumer_id(&beat.who);
        let Inner { groups, consumers, keeper, .. } = &mut *inner;
        if told {
            // A classic one has no members any more, which may not have been noted yet.
            keeper.forget(&key);
        }
        let speak = |known: &mut ConsumerGroup| {
            let beaten = known.beat(beat, new_id, resolved, now);
            // In the journal it stands before whoever is told.
            let lsn = keeper.keep_consumers(&key, known);
            Ok(Beaten { lsn: lsn?, ..beaten? })
        };
        if told {
            let beaten = consumers.change(&key, now, speak);
            if consumers.has_members(&key) {
                // One that was empty makes way.
                groups.forget(&key);
            }
            return beaten;
        }
        // Most only say that they are there: nothing of the others is looked at for that.
        let known = consumers.get_mut(&key).ok_or(GroupFault::UnknownMember)?;
        let beaten = speak(known);
        let due = beaten.as_ref().ok().and_then(|beaten| known.due_of(&beaten.member_id));
        due.into_iter().for_each(|at| consumers.due_by(&key, at));
        // It may have learnt of topics.
        consumers.count(&key);
        beaten
    }

    /// Whether a member of that epoch may look at what its group has committed. Who does not say that it is one may.
    ///
    /// # Errors
    /// [`GroupFault`].
    pub fn may_fetch(&self, vhost: &str, group: &str, member: Option<&str>, epoch: i32) -> Result<(), GroupFault> {
        let Some(member) = member.filter(|member| !member.is_empty() || epoch >= 0) else { return Ok(()) };
        self.with_consumers(vhost, group, |g| g.may_commit(member, epoch)).unwrap_or(Ok(()))
    }
}
