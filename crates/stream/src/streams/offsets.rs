//! Offsets that groups have committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::journal::{AppendError, Op};
use waypost_model::{Lsn, Millis};

use super::by_group::ByGroup;
pub(super) use super::by_group::{Key, Name};
use super::pending::Pending;
use super::standing::Standings;
use super::tally::{Tally, bytes_of};
use super::{Streams, keep, lock};
use crate::codec::{Malformed, Reader, Writer};
use crate::groups::Committer;

/// Most offsets that are kept on a node.
pub const OFFSETS_MAX: usize = 1_000_000;
/// Most bytes of what names offsets and of their metadata, of all that are kept on a node.
pub const OFFSETS_BYTES_MAX: usize = 256 << 20;
/// Longest metadata of an offset, bytes: as Kafka's.
pub const METADATA_MAX: usize = 4096;

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// One behind the last record that the group has done.
    pub offset: i64,
    /// The leader's epoch, as the client told it; -1 for none.
    pub leader_epoch: i32,
    /// What the client keeps with it.
    pub metadata: Box<str>,
    /// When it was committed.
    pub at: Millis,
    /// When it ends, if its committer has said so; else the node's time for all of them counts.
    pub ends: Option<Millis>,
}

impl Committed {
    fn without_metadata(&self) -> Committed {
        Committed { metadata: Box::default(), ..*self }
    }
}

/// Why offsets are not committed. None of them was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffsetsFault {
    /// Metadata is too long.
    #[error("the metadata of an offset has at most 4096 bytes")]
    Metadata,
    /// There are as many as this node keeps.
    #[error("this node has as many committed offsets as it may")]
    Limit,
    /// The journal takes nothing.
    #[error(transparent)]
    Journal(#[from] AppendError),
}

#[derive(Debug, Default)]
pub(super) struct Offsets {
    pub(super) groups: ByGroup<Committed>,
    /// Of those of them that have members, or had.
    pub(super) standings: Standings,
    /// Those of open transactions.
    pub(super) pending: Pending,
    pub(super) tally: Tally,
    /// What must be durable before anybody is told: the last end of a transaction that had offsets.
    pub(super) lsn: Option<Lsn>,
}

pub(super) fn key(vhost: &str, group: &str, topic: &str, partition: i32) -> Box<[u8]> {
    let w = Writer::beginning(&[keep::OFFSET]).bytes(vhost.as_bytes()).bytes(group.as_bytes());
    w.bytes(topic.as_bytes()).number(partition as u64).finish()
}

pub(super) fn value(c: &Committed) -> Box<[u8]> {
    let format = if c.ends.is_some() { keep::FORMAT_ENDING } else { keep::FORMAT };
    let w = Writer::default().number(format).number(c.offset as u64).number(c.leader_epoch as u64);
    let w = w.number(c.at.0).bytes(c.metadata.as_bytes());
    c.ends.into_iter().fold(w, |w, at| w.number(at.0)).finish()
}

pub(super) fn read_value(value: &[u8]) -> Result<Committed, Malformed> {
    let mut v = Reader(value);
    let format = v.number()?;
    if !matches!(format, keep::FORMAT | keep::FORMAT_ENDING) {
        return Err(Malformed);
    }
    let (offset, leader_epoch, at) = (v.number()? as i64, v.number()? as i32, Millis(v.number()?));
    let metadata = v.text()?.into();
    let ends = if format == keep::FORMAT_ENDING { Some(Millis(v.number()?)) } else { None };
    v.end().map(|()| Committed { offset, leader_epoch, metadata, at, ends })
}

fn gone(vhost: &str, group: &str, (topic, partition): &Key) -> Op {
    Op::Define { key: key(vhost, group, topic, *partition), value: None }
}

impl Offsets {
    pub fn recover(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let mut k = Reader(key.get(1..).ok_or(Malformed)?);
        let (vhost, group, topic, partition) = (k.text()?, k.text()?, k.text()?, k.number()? as i32);
        let committed = read_value(value)?;
        self.insert(&(vhost.into(), group.into()), (topic.into(), partition), committed);
        k.end()
    }

    pub(super) fn insert(&mut self, name: &Name, key: Key, committed: Committed) {
        self.tally.add(bytes_of(&name.1, &key, &committed));
        if let Some(before) = self.groups.insert(name, key.clone(), committed) {
            self.tally.remove(bytes_of(&name.1, &key, &before));
        }
    }

    /// Whether there is room for these, of which some may take the place of `known`.
    pub(super) fn has_room<'a>(
        &self,
        group: &str,
        offsets: &'a [(Arc<str>, i32, Committed)],
        known: impl Fn(&Key) -> Option<&'a Committed>,
    ) -> bool {
        let (mut more, mut bytes, mut before) = (0, 0, 0);
        for (topic, partition, committed) in offsets {
            let key = (Arc::clone(topic), *partition);
            bytes += bytes_of(group, &key, committed);
            match known(&key) {
                Some(known) => before += bytes_of(group, &key, known),
                None => more += 1,
            }
        }
        self.tally.has_room(more, bytes.saturating_sub(before))
    }

    /// What the journal is to be told when a topic goes.
    pub fn forgetting_topic(&self, vhost: &Arc<str>, topic: &Arc<str>) -> Vec<Op> {
        let here = self.groups.in_topic(vhost, topic).map(|(group, key, _)| gone(vhost, group, key));
        here.chain(self.pending.forgetting_topic(vhost, topic)).collect()
    }

    /// The journal has taken it.
    pub fn forget_topic(&mut self, vhost: &Arc<str>, topic: &Arc<str>) {
        for (group, key, committed) in self.groups.take_topic(vhost, topic) {
            self.tally.remove(bytes_of(&group, &key, &committed));
        }
        self.pending.forget_topic(vhost, topic, &mut self.tally);
    }

    /// Whether anything is kept for a group.
    pub(super) fn knows(&self, name: &Name) -> bool {
        self.groups.of(name).is_some() || self.pending.knows(name)
    }

    /// Takes out some of a group's offsets; what the journal is to be told of them.
    pub(super) fn taking(&self, name: &Name, goes: &[Key]) -> Vec<Op> {
        let mut ops: Vec<Op> = goes.iter().map(|key| gone(&name.0, &name.1, key)).collect();
        let all = self.groups.of(name).map_or(0, BTreeMap::len);
        if goes.len() == all && !self.pending.knows(name) {
            ops.extend(self.standings.forgetting(name));
        }
        ops
    }

    /// The journal has taken it.
    pub(super) fn taken(&mut self, name: &Name, goes: &[Key]) {
        for key in goes {
            let taken = self.groups.remove(name, key);
            taken.iter().for_each(|committed| self.tally.remove(bytes_of(&name.1, key, committed)));
        }
        if !self.knows(name) {
            self.standings.forget(name);
        }
    }
}

impl Streams {
    /// Commits offsets of a group, all or none.
    ///
    /// # Errors
    /// [`OffsetsFault`].
    pub fn commit(
        &self,
        vhost: &str,
        group: &str,
        offsets: Vec<(Arc<str>, i32, Committed)>,
        committer: Committer,
    ) -> Result<Option<Lsn>, OffsetsFault> {
        if offsets.iter().any(|(_, _, c)| c.metadata.len() > METADATA_MAX) {
            return Err(OffsetsFault::Metadata);
        }
        if offsets.is_empty() {
            return Ok(None);
        }
        let mut all = lock(&self.offsets);
        let name: Name = (vhost.into(), group.into());
        // Who was there goes on, however many there are.
        if !all.has_room(group, &offsets, |key| all.groups.get(&name, key)) {
            return Err(OffsetsFault::Limit);
        }
        let op = |(topic, partition, c): &(Arc<str>, i32, Committed)| Op::Define {
            key: key(vhost, group, topic, *partition),
            value: Some(value(c)),
        };
        let mut ops: Vec<Op> = offsets.iter().map(op).collect();
        let at = |(topic, partition, _): &(Arc<str>, i32, Committed)| (Arc::clone(topic), *partition);
        let places: Vec<Key> = offsets.iter().map(at).collect();
        let overtakes = all.pending.knows(&name);
        let overtaken = places.iter().filter(|_| overtakes);
        ops.extend(overtaken.clone().flat_map(|at| all.pending.overtaking(vhost, group, at)));
        let standing = all.standings.after(&name, committer);
        ops.extend(standing.map(|standing| standing.op(&name)));
        let lsn = self.journal.append(ops)?;
        let Offsets { pending, tally, .. } = &mut *all;
        overtaken.for_each(|at| pending.overtaken(vhost, group, at, tally));
        standing.into_iter().for_each(|standing| all.standings.set(&name, standing));
        for (topic, partition, committed) in offsets {
            all.insert(&name, (topic, partition), committed);
        }
        Ok(Some(lsn))
    }

    /// The committed offset of a group in a partition.
    #[must_use]
    pub fn committed(&self, vhost: &str, group: &str, topic: &str, partition: i32) -> Option<Committed> {
        let all = lock(&self.offsets);
        all.groups.get(&(vhost.into(), group.into()), &(topic.into(), partition)).cloned()
    }

    /// All committed offsets of a group: topic, partition, offset.
    #[must_use]
    pub fn all_committed(&self, vhost: &str, group: &str) -> Vec<(Arc<str>, i32, Committed)> {
        self.committed_as(vhost, group, Clone::clone)
    }

    /// The same without what clients keep with them.
    #[must_use]
    pub fn positions(&self, vhost: &str, group: &str) -> Vec<(Arc<str>, i32, Committed)> {
        self.committed_as(vhost, group, Committed::without_metadata)
    }

    fn committed_as(
        &self,
        vhost: &str,
        group: &str,
        as_told: impl Fn(&Committed) -> Committed,
    ) -> Vec<(Arc<str>, i32, Committed)> {
        let all = lock(&self.offsets);
        let known = all.groups.of(&(vhost.into(), group.into()));
        known.into_iter().flatten().map(|((t, p), c)| (Arc::clone(t), *p, as_told(c))).collect()
    }

    /// What the groups of a vhost have committed in a topic, by group and partition, without what clients keep with it.
    #[must_use]
    pub fn positions_in(&self, vhost: &str, topic: &str) -> Vec<(Arc<str>, i32, Committed)> {
        let all = lock(&self.offsets);
        let found = all.groups.in_topic(&vhost.into(), &topic.into());
        found.map(|(group, (_, p), c)| (Arc::clone(group), *p, c.without_metadata())).collect()
    }

    /// Whether a group has committed anything.
    #[must_use]
    pub fn has_committed(&self, vhost: &str, group: &str) -> bool {
        lock(&self.offsets).groups.of(&(vhost.into(), group.into())).is_some()
    }

    /// The groups of a vhost that have committed anything.
    #[must_use]
    pub fn groups_with_offsets(&self, vhost: &str) -> Vec<Arc<str>> {
        lock(&self.offsets).groups.names_of(vhost).map(|(_, group)| Arc::clone(group)).collect()
    }

    /// Forgets offsets of a group: those of these partitions, or all.
    ///
    /// # Errors
    /// [`OffsetsFault::Journal`].
    pub fn forget_offsets(
        &self,
        vhost: &str,
        group: &str,
        only: Option<&[(Arc<str>, i32)]>,
    ) -> Result<Option<Lsn>, OffsetsFault> {
        let mut all = lock(&self.offsets);
        let name: Name = (vhost.into(), group.into());
        let Some(known) = all.groups.of(&name) else { return Ok(None) };
        let goes: Vec<Key> = match only {
            Some(only) => {
                let asked: BTreeSet<&Key> = only.iter().collect();
                asked.into_iter().filter(|key| known.contains_key(*key)).cloned().collect()
            }
            None => known.keys().cloned().collect(),
        };
        if goes.is_empty() {
            return Ok(None);
        }
        let lsn = self.journal.append(all.taking(&name, &goes))?;
        all.taken(&name, &goes);
        Ok(Some(lsn))
    }
}
