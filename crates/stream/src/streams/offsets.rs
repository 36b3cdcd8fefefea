//! Offsets that groups have committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use waypost_model::journal::{AppendError, Op};
use waypost_model::{Lsn, Millis};

use super::pending::Pending;
use super::{Streams, keep, lock};
use crate::codec::{Malformed, Reader, Writer};

/// Most offsets that are kept on a node.
pub const OFFSETS_MAX: usize = 1_000_000;
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

pub(super) type Key = (Arc<str>, i32);

#[derive(Debug)]
pub(super) struct Offsets {
    /// By vhost and group.
    pub(super) groups: BTreeMap<(Arc<str>, Arc<str>), BTreeMap<Key, Committed>>,
    /// Those of open transactions.
    pub(super) pending: Pending,
    pub(super) count: usize,
    /// How many there may be: [`OFFSETS_MAX`].
    pub(super) max: usize,
    /// What must be durable before anybody is told: the last end of a transaction that had offsets.
    pub(super) lsn: Option<Lsn>,
}

impl Default for Offsets {
    fn default() -> Offsets {
        let (groups, pending) = (BTreeMap::new(), Pending::default());
        Offsets { groups, pending, count: 0, max: OFFSETS_MAX, lsn: None }
    }
}

pub(super) fn key(vhost: &str, group: &str, topic: &str, partition: i32) -> Box<[u8]> {
    let w = Writer::beginning(&[keep::OFFSET]).bytes(vhost.as_bytes()).bytes(group.as_bytes());
    w.bytes(topic.as_bytes()).number(partition as u64).finish()
}

pub(super) fn value(c: &Committed) -> Box<[u8]> {
    let w = Writer::default().number(keep::FORMAT).number(c.offset as u64).number(c.leader_epoch as u64);
    w.number(c.at.0).bytes(c.metadata.as_bytes()).finish()
}

pub(super) fn read_value(value: &[u8]) -> Result<Committed, Malformed> {
    let mut v = Reader(value);
    if v.number()? != keep::FORMAT {
        return Err(Malformed);
    }
    let (offset, leader_epoch, at) = (v.number()? as i64, v.number()? as i32, Millis(v.number()?));
    let committed = Committed { offset, leader_epoch, metadata: v.text()?.into(), at };
    v.end().map(|()| committed)
}

impl Offsets {
    pub fn recover(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let mut k = Reader(key.get(1..).ok_or(Malformed)?);
        let (vhost, group, topic, partition) = (k.text()?, k.text()?, k.text()?, k.number()? as i32);
        let committed = read_value(value)?;
        let group = self.groups.entry((vhost.into(), group.into())).or_default();
        self.count += usize::from(group.insert((topic.into(), partition), committed).is_none());
        k.end()
    }

    /// Whether so many more may be kept.
    pub(super) fn has_room(&self, more: usize) -> bool {
        more == 0 || self.count + more <= self.max
    }

    pub fn forget_topic(&mut self, vhost: &str, topic: &str) -> Vec<Op> {
        let mut ops = Vec::new();
        for ((v, group), offsets) in &mut self.groups {
            if &**v != vhost {
                continue;
            }
            offsets.retain(|(t, partition), _| {
                let goes = &**t == topic;
                if goes {
                    ops.push(Op::Define { key: key(v, group, t, *partition), value: None });
                }
                !goes
            });
        }
        self.groups.retain(|_, offsets| !offsets.is_empty());
        ops.extend(self.pending.forget_topic(vhost, topic));
        self.count -= ops.len();
        ops
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
    ) -> Result<Option<Lsn>, OffsetsFault> {
        if offsets.iter().any(|(_, _, c)| c.metadata.len() > METADATA_MAX) {
            return Err(OffsetsFault::Metadata);
        }
        if offsets.is_empty() {
            return Ok(None);
        }
        let mut all = lock(&self.offsets);
        let known = all.groups.get(&(vhost.into(), group.into()));
        // Who was there goes on, however many there are.
        let is_new = |(topic, partition, _): &&(Arc<str>, i32, Committed)| {
            known.is_none_or(|known| !known.contains_key(&(Arc::clone(topic), *partition)))
        };
        if !all.has_room(offsets.iter().filter(is_new).count()) {
            return Err(OffsetsFault::Limit);
        }
        let op = |(topic, partition, c): &(Arc<str>, i32, Committed)| Op::Define {
            key: key(vhost, group, topic, *partition),
            value: Some(value(c)),
        };
        let mut ops: Vec<Op> = offsets.iter().map(op).collect();
        let at = |(topic, partition, _): &(Arc<str>, i32, Committed)| (Arc::clone(topic), *partition);
        let places: Vec<Key> = offsets.iter().map(at).collect();
        ops.extend(places.iter().flat_map(|at| all.pending.overtaking(vhost, group, at)));
        let lsn = self.journal.append(ops)?;
        places.iter().for_each(|at| all.pending.overtaken(vhost, group, at));
        let known = all.groups.entry((vhost.into(), group.into())).or_default();
        let mut new = 0;
        for (topic, partition, committed) in offsets {
            new += usize::from(known.insert((topic, partition), committed).is_none());
        }
        all.count += new;
        Ok(Some(lsn))
    }

    /// The committed offset of a group in a partition.
    #[must_use]
    pub fn committed(&self, vhost: &str, group: &str, topic: &str, partition: i32) -> Option<Committed> {
        let all = lock(&self.offsets);
        all.groups.get(&(vhost.into(), group.into()))?.get(&(topic.into(), partition)).cloned()
    }

    /// All committed offsets of a group: topic, partition, offset.
    #[must_use]
    pub fn all_committed(&self, vhost: &str, group: &str) -> Vec<(Arc<str>, i32, Committed)> {
        let all = lock(&self.offsets);
        let known = all.groups.get(&(vhost.into(), group.into()));
        known.into_iter().flatten().map(|((t, p), c)| (Arc::clone(t), *p, c.clone())).collect()
    }

    /// The groups of a vhost that have committed anything.
    #[must_use]
    pub fn groups_with_offsets(&self, vhost: &str) -> Vec<Arc<str>> {
        let all = lock(&self.offsets);
        all.groups.keys().filter(|(v, _)| &**v == vhost).map(|(_, g)| Arc::clone(g)).collect()
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
        let id = (Arc::from(vhost), Arc::from(group));
        let Some(known) = all.groups.get(&id) else { return Ok(None) };
        let goes: Vec<Key> = known.keys().filter(|k| only.is_none_or(|only| only.contains(k))).cloned().collect();
        if goes.is_empty() {
            return Ok(None);
        }
        let op = |(topic, partition): &Key| Op::Define { key: key(vhost, group, topic, *partition), value: None };
        let lsn = self.journal.append(goes.iter().map(op).collect())?;
        all.count -= goes.len();
        if let Some(known) = all.groups.get_mut(&id) {
            known.retain(|k, _| !goes.contains(k));
            if known.is_empty() {
                all.groups.remove(&id);
            }
        }
        Ok(Some(lsn))
    }
}
