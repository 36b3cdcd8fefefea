//! Offsets of open transactions: they count once that is committed, and not at all if it is aborted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::Lsn;
use waypost_model::journal::{Journal, Op};

use super::by_group::{ByGroup, Key, Name};
use super::offsets::{Committed, METADATA_MAX, Offsets, key, read_value, value};
use super::tally::{Tally, bytes_of};
use super::{Streams, keep, lock};
use crate::codec::{Malformed, Reader, Writer};
use crate::groups::Committer;
use crate::partition::Marker;
use crate::transactions::TransactionFault;

/// The offset of one that something committed later has overtaken: of two the one that was written last counts, whenever
/// transactions end, as in Kafka. It stays until its transaction ends, since until then the group's offset is not stable.
const OVERTAKEN: i64 = i64::MIN;

#[derive(Debug)]
struct Put {
    committed: Committed,
    /// Rises with each that is put off, also across restarts.
    order: u64,
}

impl Put {
    fn is_overtaken(&self) -> bool {
        self.committed.offset == OVERTAKEN
    }

    fn overtaken(&self) -> Put {
        let committed = Committed { offset: OVERTAKEN, metadata: Box::default(), ..self.committed.clone() };
        Put { committed, order: self.order }
    }

    fn write(&self) -> Box<[u8]> {
        Writer::default().number(keep::FORMAT_ORDERED).number(self.order).bytes(&value(&self.committed)).finish()
    }

    fn read(value: &[u8]) -> Result<Put, Malformed> {
        let mut v = Reader(value);
        if v.number()? != keep::FORMAT_ORDERED {
            // As it was written once, without an order: by its time, the best that is known.
            let committed = read_value(value)?;
            return Ok(Put { order: committed.at.0, committed });
        }
        let (order, committed) = (v.number()?, read_value(v.bytes()?)?);
        v.end().map(|()| Put { committed, order })
    }
}

type Puts = BTreeMap<Arc<str>, Put>;

/// By vhost and group, then by topic and partition, then by transactional id.
#[derive(Debug, Default)]
pub(super) struct Pending {
    groups: ByGroup<Puts>,
    next_order: u64,
}

fn pending_key(vhost: &str, id: &str, group: &str, topic: &str, partition: i32) -> Box<[u8]> {
    let w = Writer::beginning(&[keep::PENDING_OFFSET]).bytes(vhost.as_bytes()).bytes(id.as_bytes());
    w.bytes(group.as_bytes()).bytes(topic.as_bytes()).number(partition as u64).finish()
}

impl Pending {
    fn put(&mut self, name: &Name, at: Key, id: &str, put: Put, tally: &mut Tally) {
        self.next_order = self.next_order.max(put.order.saturating_add(1));
        tally.add(bytes_of(&name.1, &at, &put.committed));
        let puts = self.groups.or_insert_with(name, at.clone(), Puts::new);
        if let Some(before) = puts.insert(id.into(), put) {
            tally.remove(bytes_of(&name.1, &at, &before.committed));
        }
    }

    /// Whether anything is put off for a group.
    pub fn knows(&self, name: &Name) -> bool {
        self.groups.of(name).is_some()
    }

    /// Whether anything is put off for a partition of a group.
    pub fn has(&self, name: &Name, at: &Key) -> bool {
        self.groups.get(name, at).is_some()
    }

    /// What a transaction has for a group.
    fn of<'a>(&'a self, vhost: &str, group: &str, id: &'a str) -> impl Iterator<Item = (&'a Key, &'a Puts, &'a Put)> {
        let all = self.groups.of(&(vhost.into(), group.into())).into_iter().flatten();
        all.filter_map(move |(key, by)| Some((key, by, by.get(id)?)))
    }

    fn puts(&self, vhost: &str, group: &str, at: &Key) -> Option<&Puts> {
        self.groups.get(&(vhost.into(), group.into()), at)
    }

    /// What the journal is to be told when a group's offset in a partition is committed without a transaction.
    pub fn overtaking(&self, vhost: &str, group: &str, at: &Key) -> Vec<Op> {
        let puts = self.puts(vhost, group, at);
        puts.map_or_else(Vec::new, |puts| overtaking(vhost, group, at, puts, u64::MAX))
    }

    /// The journal has taken it.
    pub fn overtaken(&mut self, vhost: &str, group: &str, at: &Key, tally: &mut Tally) {
        let puts = self.groups.get_mut(&(vhost.into(), group.into()), at);
        puts.into_iter().for_each(|puts| overtake(puts, u64::MAX, tally));
    }

    /// What the journal is to be told when a topic goes.
    pub fn forgetting_topic<'a>(&'a self, vhost: &'a Arc<str>, topic: &'a Arc<str>) -> impl Iterator<Item = Op> + 'a {
        let here = self.groups.in_topic(vhost, topic).flat_map(move |(group, (topic, partition), by)| {
            by.keys().map(move |id| pending_key(vhost, id, group, topic, *partition))
        });
        here.map(|key| Op::Define { key, value: None })
    }

    /// The journal has taken it.
    pub fn forget_topic(&mut self, vhost: &Arc<str>, topic: &Arc<str>, tally: &mut Tally) {
        for (group, at, by) in self.groups.take_topic(vhost, topic) {
            by.values().for_each(|put| tally.remove(bytes_of(&group, &at, &put.committed)));
        }
    }

    /// What a transaction has put off for a group: it is taken out.
    fn take(&mut self, name: &Name, id: &str) -> Vec<(Key, Put)> {
        let keys: Vec<Key> = self.of(&name.0, &name.1, id).map(|(at, _, _)| at.clone()).collect();
        let take = |at: Key| {
            let by = self.groups.get_mut(name, &at)?;
            let put = by.remove(id)?;
            if by.is_empty() {
                self.groups.remove(name, &at);
            }
            Some((at, put))
        };
        keys.into_iter().filter_map(take).collect()
    }
}

/// Those that were put off before `order`, each told once.
fn overtaking(vhost: &str, group: &str, (topic, partition): &Key, puts: &Puts, order: u64) -> Vec<Op> {
    let earlier = puts.iter().filter(|(_, put)| put.order < order && !put.is_overtaken());
    let op = |(id, put): (&Arc<str>, &Put)| Op::Define {
        key: pending_key(vhost, id, group, topic, *partition),
        value: Some(put.overtaken().write()),
    };
    earlier.map(op).collect()
}

fn overtake(puts: &mut Puts, order: u64, tally: &mut Tally) {
    for put in puts.values_mut().filter(|put| put.order < order) {
        tally.bytes -= put.committed.metadata.len();
        *put = put.overtaken();
    }
}

impl Offsets {
    #[cfg(test)]
    pub(super) fn check(&self) {
        self.groups.check();
        self.pending.groups.check();
    }

    pub fn recover_pending(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let mut k = Reader(key.get(1..).ok_or(Malformed)?);
        let (vhost, id, group, topic, partition) = (k.text()?, k.text()?, k.text()?, k.text()?, k.number()? as i32);
        k.end()?;
        let put = Put::read(value)?;
        let name = (vhost.into(), group.into());
        self.pending.put(&name, (topic.into(), partition), id, put, &mut self.tally);
        Ok(())
    }

    /// Keeps offsets for the end of a transaction.
    pub fn put_off(
        &mut self,
        vhost: &str,
        id: &str,
        group: &str,
        offsets: Vec<(Arc<str>, i32, Committed)>,
        committer: Committer,
        journal: &dyn Journal,
    ) -> Result<Option<Lsn>, TransactionFault> {
        if offsets.iter().any(|(_, _, c)| c.metadata.len() > METADATA_MAX) {
            return Err(TransactionFault::Metadata);
        }
        let known = |at: &Key| Some(&self.pending.puts(vhost, group, at)?.get(id)?.committed);
        if !self.has_room(group, &offsets, known) {
            return Err(TransactionFault::Limit("committed offsets"));
        }
        if offsets.is_empty() {
            return Ok(None);
        }
        let orders = self.pending.next_order..;
        let put = |((topic, partition, committed), order)| ((topic, partition), Put { committed, order });
        let puts: Vec<(Key, Put)> = offsets.into_iter().zip(orders).map(put).collect();
        let op = |((topic, partition), put): &(Key, Put)| Op::Define {
            key: pending_key(vhost, id, group, topic, *partition),
            value: Some(put.write()),
        };
        let name: Name = (vhost.into(), group.into());
        let standing = self.standings.after(&name, committer);
        let ops = puts.iter().map(op).chain(standing.map(|standing| standing.op(&name)));
        let lsn = journal.append(ops.collect())?;
        standing.into_iter().for_each(|standing| self.standings.set(&name, standing));
        for (at, put) in puts {
            self.pending.put(&name, at, id, put, &mut self.tally);
        }
        Ok(Some(lsn))
    }

    /// What the journal is to be told when a transaction ends.
    pub fn ending(&self, vhost: &str, id: &str, groups: &BTreeSet<Arc<str>>, marker: Marker) -> Vec<Op> {
        let mut ops = Vec::new();
        for group in groups {
            for (at, puts, put) in self.pending.of(vhost, group, id) {
                let (topic, partition) = at;
                ops.push(Op::Define { key: pending_key(vhost, id, group, topic, *partition), value: None });
                if marker == Marker::Commit && !put.is_overtaken() {
                    let key = key(vhost, group, topic, *partition);
                    ops.push(Op::Define { key, value: Some(value(&put.committed)) });
                    ops.extend(overtaking(vhost, group, at, puts, put.order));
                }
            }
        }
        ops
    }

    /// The journal has taken it.
    pub fn ended(&mut self, vhost: &str, id: &str, groups: &BTreeSet<Arc<str>>, marker: Marker, lsn: Lsn) {
        for group in groups {
            let name = (Arc::from(vhost), Arc::clone(group));
            let mut ended = self.pending.take(&name, id);
            for (at, put) in &ended {
                self.tally.remove(bytes_of(&name.1, at, &put.committed));
                if marker == Marker::Commit
                    && !put.is_overtaken()
                    && let Some(by) = self.pending.groups.get_mut(&name, at)
                {
                    overtake(by, put.order, &mut self.tally);
                }
            }
            ended.retain(|(_, put)| marker == Marker::Commit && !put.is_overtaken());
            if !ended.is_empty() {
                for (key, put) in ended {
                    self.insert(&name, key, put.committed);
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
        all.pending.has(&(vhost.into(), group.into()), &(topic.into(), partition))
    }

    /// The same for all of a group's partitions: topic and partition.
    #[must_use]
    pub fn unstable(&self, vhost: &str, group: &str) -> Vec<(Arc<str>, i32)> {
        let all = lock(&self.offsets);
        let pending = all.pending.groups.of(&(vhost.into(), group.into()));
        pending.into_iter().flat_map(|p| p.keys().cloned()).collect()
    }

    /// What must be durable before committed offsets are told: nobody may go on from what a crash could undo.
    #[must_use]
    pub fn offsets_lsn(&self) -> Option<Lsn> {
        lock(&self.offsets).lsn
    }
}
