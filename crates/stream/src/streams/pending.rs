//! Offsets of open transactions: they count once that is committed, and not at all if it is aborted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::Lsn;
use waypost_model::journal::{Journal, Op};

use super::offsets::{Committed, Key, METADATA_MAX, OFFSETS_MAX, Offsets, key, read_value, value};
use super::{Streams, keep, lock};
use crate::codec::{Malformed, Reader, Writer};
use crate::partition::Marker;
use crate::transactions::TransactionFault;

/// By vhost and group, then by topic and partition, then by transactional id.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<(Arc<str>, Arc<str>), BTreeMap<Key, BTreeMap<Arc<str>, Committed>>>);

fn pending_key(vhost: &str, id: &str, group: &str, topic: &str, partition: i32) -> Box<[u8]> {
    let w = Writer::beginning(&[keep::PENDING_OFFSET]).bytes(vhost.as_bytes()).bytes(id.as_bytes());
    w.bytes(group.as_bytes()).bytes(topic.as_bytes()).number(partition as u64).finish()
}

impl Pending {
    fn put(&mut self, vhost: &str, group: &str, at: Key, id: &str, committed: Committed) -> bool {
        let group = self.0.entry((vhost.into(), group.into())).or_default();
        group.entry(at).or_default().insert(id.into(), committed).is_none()
    }

    /// What a transaction has for a group.
    fn of<'a>(&'a self, vhost: &str, group: &str, id: &'a str) -> impl Iterator<Item = (&'a Key, &'a Committed)> {
        let all = self.0.get(&(vhost.into(), group.into())).into_iter().flatten();
        all.filter_map(move |(key, by)| Some((key, by.get(id)?)))
    }

    pub fn forget_topic(&mut self, vhost: &str, topic: &str) -> Vec<Op> {
        let mut ops = Vec::new();
        for ((v, group), offsets) in self.0.iter_mut().filter(|((v, _), _)| &**v == vhost) {
            offsets.retain(|(t, partition), by| {
                let goes = &**t == topic;
                if goes {
                    let keys = by.keys().map(|id| pending_key(v, id, group, t, *partition));
                    ops.extend(keys.map(|key| Op::Define { key, value: None }));
                }
                !goes
            });
        }
        self.0.retain(|_, offsets| !offsets.is_empty());
        ops
    }
}

impl Offsets {
    pub fn recover_pending(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let mut k = Reader(key.get(1..).ok_or(Malformed)?);
        let (vhost, id, group, topic, partition) = (k.text()?, k.text()?, k.text()?, k.text()?, k.number()? as i32);
        k.end()?;
        self.count += usize::from(self.pending.put(vhost, group, (topic.into(), partition), id, read_value(value)?));
        Ok(())
    }

    /// Keeps offsets for the end of a transaction.
    pub fn put_off(
        &mut self,
        vhost: &str,
        id: &str,
        group: &str,
        offsets: Vec<(Arc<str>, i32, Committed)>,
        journal: &dyn Journal,
    ) -> Result<Option<Lsn>, TransactionFault> {
        if offsets.iter().any(|(_, _, c)| c.metadata.len() > METADATA_MAX) {
            return Err(TransactionFault::Metadata);
        }
        if self.count + offsets.len() > OFFSETS_MAX {
            return Err(TransactionFault::Limit("committed offsets"));
        }
        if offsets.is_empty() {
            return Ok(None);
        }
        let op = |(topic, partition, c): &(Arc<str>, i32, Committed)| Op::Define {
            key: pending_key(vhost, id, group, topic, *partition),
            value: Some(value(c)),
        };
        let lsn = journal.append(offsets.iter().map(op).collect())?;
        for (topic, partition, committed) in offsets {
            self.count += usize::from(self.pending.put(vhost, group, (topic, partition), id, committed));
        }
        Ok(Some(lsn))
    }

    /// What the journal is to be told when a transaction ends.
    pub fn ending(&self, vhost: &str, id: &str, groups: &BTreeSet<Arc<str>>, marker: Marker) -> Vec<Op> {
        let mut ops = Vec::new();
        for group in groups {
            for ((topic, partition), committed) in self.pending.of(vhost, group, id) {
                ops.push(Op::Define { key: pending_key(vhost, id, group, topic, *partition), value: None });
                if marker == Marker::Commit {
                    let key = key(vhost, group, topic, *partition);
                    ops.push(Op::Define { key, value: Some(value(committed)) });
                }
            }
        }
        ops
    }

    /// The journal has taken it.
    pub fn ended(&mut self, vhost: &str, id: &str, groups: &BTreeSet<Arc<str>>, marker: Marker, lsn: Lsn) {
        for group in groups {
            let name = (Arc::from(vhost), Arc::clone(group));
            let Some(pending) = self.pending.0.get_mut(&name) else { continue };
            let mut count = Vec::new();
            pending.retain(|key, by| {
                count.extend(by.remove(id).map(|committed| (key.clone(), committed)));
                !by.is_empty()
            });
            if pending.is_empty() {
                self.pending.0.remove(&name);
            }
            self.count -= count.len();
            if marker == Marker::Commit && !count.is_empty() {
                let known = self.groups.entry(name).or_default();
                for (key, committed) in count {
                    self.count += usize::from(known.insert(key, committed).is_none());
                }
                self.lsn = Some(lsn);
            }
        }
    }
}

impl Streams {
    /// Whether a transaction that is open may change what a group has committed in a partition.
    #[must_use]
    pub fn is_unstable(&self, vhost: &str, group: &str, topic: &str, partition: i32) -> bool {
        let all = lock(&self.offsets);
        let pending = all.pending.0.get(&(vhost.into(), group.into()));
        pending.is_some_and(|p| p.contains_key(&(topic.into(), partition)))
    }

    /// The same for all of a group's partitions: topic and partition.
    #[must_use]
    pub fn unstable(&self, vhost: &str, group: &str) -> Vec<(Arc<str>, i32)> {
        let all = lock(&self.offsets);
        let pending = all.pending.0.get(&(vhost.into(), group.into()));
        pending.into_iter().flat_map(|p| p.keys().cloned()).collect()
    }

    /// What must be durable before committed offsets are told: nobody may go on from what a crash could undo.
    #[must_use]
    pub fn offsets_lsn(&self) -> Option<Lsn> {
        lock(&self.offsets).lsn
    }
}
