//! Consumer groups: who is a member, who leads, who reads what. In the classic protocol members join, the leader deals out
//! the partitions, all are told; in the newer one ([`ConsumerGroupView`]) the server deals out. Whoever is silent for too long
//! is out. A group is of one kind while it has members.
//!
//! Groups are kept, so that a restart is nothing to their members. What they have committed is durable, see
//! [`crate::streams::Streams::commit`].

mod answers;
mod book;
mod consumer;
mod consumers;
mod group;
mod keeper;
mod member;
mod room;
mod subscriptions;
#[cfg(test)]
mod tests;
mod views;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waypost_model::Millis;
use waypost_model::journal::AppendError;

pub use consumer::{
    ASSIGNORS, Beaten, ConsumerGroupView, ConsumerMemberView, HEARTBEAT_INTERVAL_MS, Heartbeat, Parts, Resolved, Wanted,
};

pub use answers::{Awaited, Joined, Synced};
pub use group::State;
pub use member::{Join, Leaving, MemberView, Sync, Who};
pub use room::{ALL_BYTES_MAX, GROUP_BYTES_MAX, MEMBER_BYTES_MAX};
pub use views::{Described, Kind, Listed, MemberSeen, Summary, TooLong};

use book::{Book, Kept, Name};
use consumer::ConsumerGroup;
use group::Group;
use keeper::Keeper;
pub(crate) use keeper::{Kinds, Recalled};

/// Most groups of a node.
pub const GROUPS_MAX: usize = 100_000;
/// Longest name of a group, bytes: it is part of the keys of what is kept of it.
pub const NAME_BYTES_MAX: usize = 1_024;
/// Most members of a group.
pub const MEMBERS_MAX: usize = 5_000;
/// Most partitions that groups of the newer protocol read, counted for each group that does: what each of them has is kept.
pub const PARTITIONS_OF_ALL_MAX: u64 = 10_000_000;
/// Most protocols that a member of the classic protocol may know. Consumers know two or three; each is looked for in what
/// every other member knows.
pub const PROTOCOLS_MAX: usize = 32;
/// Shortest and longest silence that a member may ask for, milliseconds.
pub const SESSION_MS: std::ops::RangeInclusive<i32> = 1_000..=1_800_000;
/// How long a group that begins waits for more members, milliseconds.
pub const GATHER_MS: u64 = 250;

/// Why something is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupFault {
    /// The group's name is empty.
    #[error("the group has no name")]
    InvalidGroup,
    /// The session time-out is outside [`SESSION_MS`].
    #[error("a session time-out is from 1 s to 30 min")]
    InvalidSessionTimeout,
    /// No protocol that all members know, or another type of protocol.
    #[error("no protocol that all members know")]
    InconsistentProtocol,
    /// No such member.
    #[error("no such member")]
    UnknownMember,
    /// Of another generation.
    #[error("another generation")]
    IllegalGeneration,
    /// The group is being put together anew.
    #[error("the group is being put together anew")]
    RebalanceInProgress,
    /// A member must come with the id that it was given.
    #[error("come again with the id that was given")]
    MemberIdRequired,
    /// Another member has taken the instance's place.
    #[error("another member has taken the place of this instance")]
    FencedInstance,
    /// The group is full.
    #[error("the group has as many members as it may")]
    GroupFull,
    /// There are as many groups as there may be.
    #[error("there are as many groups as there may be")]
    TooManyGroups,
    /// The group has members.
    #[error("the group has members")]
    NotEmpty,
    /// No such group.
    #[error("no such group")]
    UnknownGroup,
    /// The group has members of the other protocol.
    #[error("the group has members of the classic protocol")]
    ClassicGroup,
    /// What a member says makes no sense.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// The member's epoch is none that it can have.
    #[error("the member is at another epoch: it is to join again")]
    FencedEpoch,
    /// The member has been led on since.
    #[error("the member is at another epoch")]
    StaleEpoch,
    /// No such assignor.
    #[error("there are the assignors uniform and range")]
    UnsupportedAssignor,
    /// The instance has a member that is there.
    #[error("the instance has a member that has not left")]
    UnreleasedInstance,
    /// The journal takes nothing.
    #[error(transparent)]
    Journal(#[from] AppendError),
}

/// A group, for those who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// Its name.
    pub id: Arc<str>,
    /// What it is at.
    pub state: State,
    /// The type of its protocol: `consumer`, `connect`, …
    pub protocol_type: Box<str>,
    /// The protocol that was chosen.
    pub protocol: Option<Box<str>>,
    /// Counted with every new membership.
    pub generation: i32,
    /// Its members.
    pub members: Vec<MemberView>,
}

/// All groups of a node.
#[derive(Debug, Default)]
pub struct Groups {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    groups: Book<Group>,
    /// Those of the newer protocol.
    consumers: Book<ConsumerGroup>,
    keeper: Keeper,
    /// How many ids were given out.
    ids: u64,
    seed: u64,
}

/// What was done because it was due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ticked {
    /// When to look again.
    pub next: Option<Millis>,
    /// Groups that have members now, and others that have none any more.
    pub changed: Vec<Change>,
}

/// Members have come to a group, or all have gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where it is.
    pub vhost: Arc<str>,
    /// Its name.
    pub group: Arc<str>,
    /// Whether it has members.
    pub has_members: bool,
}

/// Who commits offsets of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committer {
    /// The group has members.
    Group,
    /// It has none: somebody keeps offsets under its name, as consumers without a group do.
    Standalone,
}

fn name(vhost: &str, group: &str) -> Name {
    (vhost.into(), group.into())
}

impl Groups {
    /// No group. Ids of members begin with something made of `seed`, different at each start.
    #[must_use]
    pub fn new(seed: u64) -> Groups {
        Groups { inner: Mutex::new(Inner { seed, ..Inner::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a group that changes neither who is in it nor what was said, and makes nothing due earlier.
    fn with<R>(
        &self,
        vhost: &str,
        group: &str,
        f: impl FnOnce(&mut Group) -> Result<R, GroupFault>,
    ) -> Result<R, GroupFault> {
        if group.is_empty() {
            return Err(GroupFault::InvalidGroup);
        }
        f(self.lock().groups.get_mut(&name(vhost, group)).ok_or(GroupFault::UnknownGroup)?)
    }

    /// The same for what a member says: where there is no such group, it is no member.
    fn with_member<R>(
        &self,
        vhost: &str,
        group: &str,
        f: impl FnOnce(&mut Group) -> Result<R, GroupFault>,
    ) -> Result<R, GroupFault> {
        self.with(vhost, group, f).map_err(|fault| match fault {
            GroupFault::UnknownGroup => GroupFault::UnknownMember,
            other => other,
        })
    }

    /// A member joins, or joins again. The answer may take as long as the others take to join.
    pub fn join(&self, vhost: &str, group: &str, join: Join, now: Millis) -> Awaited<Joined> {
        if group.is_empty() {
            return Awaited::ready(Joined::failed(GroupFault::InvalidGroup, join.member_id));
        }
        if !SESSION_MS.contains(&join.session_timeout_ms) {
            return Awaited::ready(Joined::failed(GroupFault::InvalidSessionTimeout, join.member_id));
        }
        if let Err(fault) = room::check(join.bytes()).and_then(|()| join.check()) {
            return Awaited::ready(Joined::failed(fault, join.member_id));
        }
        let mut inner = self.lock();
        let key = name(vhost, group);
        if inner.consumers.has_members(&key) {
            return Awaited::ready(Joined::failed(GroupFault::InconsistentProtocol, join.member_id));
        }
        let known = inner.groups.get(&key);
        if known.is_none() && !join.member_id.is_empty() {
            return Awaited::ready(Joined::failed(GroupFault::UnknownMember, join.member_id));
        }
        if known.is_none() && inner.groups.len() >= GROUPS_MAX {
            return Awaited::ready(Joined::failed(GroupFault::TooManyGroups, join.member_id));
        }
        let before = known.map_or(0, |g| g.bytes_of(&join.member_id));
        if !inner.has_room(&key, join.bytes(), before) {
            return Awaited::ready(Joined::failed(GroupFault::GroupFull, join.member_id));
        }
        let new_id = inner.new_id(&join.who);
        let Inner { groups, keeper, .. } = &mut *inner;
        groups.change(&key, now, |known| {
            let joined = known.join(join, new_id.clone(), now);
            if known.state() == State::Stable && known.is_member(&new_id) {
                // An instance that goes on under another id, in the same generation.
                keeper.keep(&key, known);
            }
            joined
        })
    }

    /// A member asks what it is to read; the leader tells what everybody is to read.
    pub fn sync(&self, vhost: &str, group: &str, sync: Sync, now: Millis) -> Awaited<Synced> {
        let failed = |fault| Awaited::ready(Synced::failed(fault));
        let mut inner = self.lock();
        let key = name(vhost, group);
        if !inner.has_room(&key, sync.bytes(), 0) {
            return failed(GroupFault::GroupFull);
        }
        let Inner { groups, keeper, .. } = &mut *inner;
        let Some(known) = groups.get_mut(&key) else {
            return failed(if group.is_empty() { GroupFault::InvalidGroup } else { GroupFault::UnknownMember });
        };
        let before = known.state();
        let synced = known.sync(sync, now);
        if known.state() != before {
            keeper.keep(&key, known);
            known.tell();
            groups.settle(&key, now);
        }
        synced
    }

    /// A member is there.
    ///
    /// # Errors
    /// [`GroupFault`], of which [`GroupFault::RebalanceInProgress`] says: join again.
    pub fn heartbeat(
        &self,
        vhost: &str,
        group: &str,
        member: &str,
        instance: Option<&str>,
        generation: i32,
        now: Millis,
    ) -> Result<(), GroupFault> {
        self.with_member(vhost, group, |g| g.heartbeat(member, instance, generation, now))
    }

    /// Members leave; one verdict each.
    ///
    /// # Errors
    /// For all: no such group.
    pub fn leave(
        &self,
        vhost: &str,
        group: &str,
        leaving: &[Leaving],
        now: Millis,
    ) -> Result<Vec<Result<(), GroupFault>>, GroupFault> {
        let mut inner = self.lock();
        let key = name(vhost, group);
        if inner.groups.get(&key).is_none() {
            return Err(if group.is_empty() { GroupFault::InvalidGroup } else { GroupFault::UnknownMember });
        }
        Ok(inner.groups.change(&key, now, |g| leaving.iter().map(|l| g.leave(l, now)).collect()))
    }

    /// Whether a member of that generation may commit, and as whom. Whoever is no member (generation -1, no id) may where
    /// nobody is.
    ///
    /// # Errors
    /// [`GroupFault`].
    pub fn may_commit(
        &self,
        vhost: &str,
        group: &str,
        member: &str,
        instance: Option<&str>,
        generation: i32,
        now: Millis,
    ) -> Result<Committer, GroupFault> {
        if let Some(verdict) = self.with_consumers(vhost, group, |g| g.may_commit(member, generation)) {
            return verdict.map(|()| Committer::Group);
        }
        let may = |g: &mut Group| {
            let committer = if g.has_members() { Committer::Group } else { Committer::Standalone };
            g.may_commit(member, instance, generation, now).map(|()| committer)
        };
        match self.with(vhost, group, may) {
            Err(GroupFault::UnknownGroup) if generation < 0 => Ok(Committer::Standalone),
            Err(GroupFault::UnknownGroup) => Err(GroupFault::IllegalGeneration),
            other => other,
        }
    }

    /// Whether a member of that generation may commit with a transaction. Whoever does not say that it is a member may:
    /// older producers could not.
    ///
    /// # Errors
    /// [`GroupFault`].
    pub fn may_commit_with(
        &self,
        vhost: &str,
        group: &str,
        member: &str,
        instance: Option<&str>,
        generation: i32,
        now: Millis,
    ) -> Result<Committer, GroupFault> {
        if generation < 0 && member.is_empty() && instance.is_none() {
            let known = self.has_members(vhost, group);
            return Ok(if known { Committer::Group } else { Committer::Standalone });
        }
        if let Some(verdict) = self.with_consumers(vhost, group, |g| g.may_commit(member, generation)) {
            // The one word for it that producers know.
            return verdict.map(|()| Committer::Group).map_err(|fault| match fault {
                GroupFault::StaleEpoch => GroupFault::IllegalGeneration,
                other => other,
            });
        }
        match self.with(vhost, group, |g| g.may_commit(member, instance, generation, now)) {
            Err(GroupFault::UnknownGroup) => Err(GroupFault::IllegalGeneration),
            // The generation is the present one.
            Err(GroupFault::RebalanceInProgress) | Ok(()) => Ok(Committer::Group),
            Err(other) => Err(other),
        }
    }

    /// Whether a group of either protocol has members.
    #[must_use]
    pub fn has_members(&self, vhost: &str, group: &str) -> bool {
        let (inner, name) = (self.lock(), name(vhost, group));
        inner.groups.has_members(&name) || inner.consumers.has_members(&name)
    }

    /// Forgets a group without members.
    ///
    /// # Errors
    /// [`GroupFault::NotEmpty`], [`GroupFault::UnknownGroup`].
    pub fn forget(&self, vhost: &str, group: &str) -> Result<(), GroupFault> {
        let mut inner = self.lock();
        let key = name(vhost, group);
        if inner.consumers.has_members(&key) {
            return Err(GroupFault::NotEmpty);
        }
        match inner.groups.get(&key).map(Group::state) {
            None => Err(GroupFault::UnknownGroup),
            Some(State::Empty) => {
                inner.groups.forget(&key);
                inner.keeper.forget(&key);
                Ok(())
            }
            Some(_) => Err(GroupFault::NotEmpty),
        }
    }

    /// Does what is due, and tells when to call again.
    pub fn tick(&self, now: Millis) -> Ticked {
        let mut inner = self.lock();
        let Inner { groups, consumers, keeper, .. } = &mut *inner;
        let mut changed = BTreeSet::new();
        groups.tick(now, &mut changed, |_, _| ());
        changed.iter().filter(|name| !groups.has_members(name)).for_each(|name| keeper.forget(name));
        // What the journal does not take is told to it with the next change.
        consumers.tick(now, &mut changed, |name, group| {
            let _ = keeper.keep_consumers(name, group);
        });
        #[cfg(test)]
        {
            groups.check();
            consumers.check();
        }
        let change = |name: Name| {
            let has_members = groups.has_members(&name) || consumers.has_members(&name);
            Change { vhost: name.0, group: name.1, has_members }
        };
        let next = groups.next_due().into_iter().chain(consumers.next_due()).min();
        Ticked { next, changed: changed.into_iter().map(change).collect() }
    }
}
