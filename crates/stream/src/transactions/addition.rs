//! What is added to a transaction. Whoever adds partitions one by one writes each of them once: a small transaction stands in one
//! definition, and what is added to a larger one stands beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::{Millis, QueueId};

use super::{Phase, TRANSACTION_GROUPS_MAX, TRANSACTION_PARTITIONS_MAX, Transaction, TransactionFault};
use crate::codec::{Malformed, Reader, Writer};

const FORMAT: u64 = 1;
/// What a partition or a group takes beside its name, about.
const ITEM_BYTES: usize = 64;
/// A transaction of at most so many partitions and groups is written whole with each that is added.
const WHOLE_MAX: usize = 16;

/// The partitions of a transaction, each with the queue that it was when it was added.
pub(crate) type Partitions = BTreeMap<(Arc<str>, i32), QueueId>;
/// The groups whose offsets belong to a transaction.
pub(crate) type Groups = BTreeSet<Arc<str>>;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addition {
    /// When the transaction begins, if it does with this.
    begins: Option<Millis>,
    partitions: Partitions,
    groups: Groups,
}

/// Of each partition and group what it takes in memory beside what all take alike, about, bytes.
pub(super) fn bytes_of(partitions: &Partitions, groups: &Groups) -> usize {
    let partitions = partitions.keys().map(|(topic, _)| bytes_of_item(topic));
    partitions.chain(groups.iter().map(|group| bytes_of_item(group))).sum()
}

fn bytes_of_item(name: &str) -> usize {
    ITEM_BYTES + name.len()
}

pub(super) fn write_items(mut w: Writer, partitions: &Partitions, groups: &Groups) -> Writer {
    w = w.number(partitions.len() as u64);
    for ((topic, partition), queue) in partitions {
        w = w.bytes(topic.as_bytes()).number(*partition as u64).number(queue.0);
    }
    w = w.number(groups.len() as u64);
    groups.iter().fold(w, |w, group| w.bytes(group.as_bytes()))
}

pub(super) fn read_items(r: &mut Reader<'_>) -> Result<(Partitions, Groups), Malformed> {
    let (mut partitions, mut groups) = (Partitions::new(), Groups::new());
    for _ in 0..r.count(24)? {
        let topic = Arc::from(r.text()?);
        let partition = r.number()? as i32;
        partitions.insert((topic, partition), QueueId(r.number()?));
    }
    for _ in 0..r.count(8)? {
        groups.insert(Arc::from(r.text()?));
    }
    Ok((partitions, groups))
}

impl Addition {
    pub fn write(&self) -> Box<[u8]> {
        write_items(Writer::default().number(FORMAT), &self.partitions, &self.groups).finish()
    }

    pub fn read(bytes: &[u8]) -> Result<Addition, Malformed> {
        let mut r = Reader(bytes);
        if r.number()? != FORMAT {
            return Err(Malformed);
        }
        let (partitions, groups) = read_items(&mut r)?;
        r.end().map(|()| Addition { begins: None, partitions, groups })
    }
}

impl Transaction {
    /// Adds what of these partitions it does not have; `None` if it has them all.
    pub fn adding_partitions(
        &self,
        partitions: &[(Arc<str>, i32, QueueId)],
        now: Millis,
    ) -> Result<Option<Addition>, TransactionFault> {
        let asked = partitions.iter().map(|(topic, partition, queue)| ((Arc::clone(topic), *partition), *queue));
        let partitions: Partitions = asked.filter(|(at, queue)| self.partitions.get(at) != Some(queue)).collect();
        let more = partitions.keys().filter(|at| !self.partitions.contains_key(*at)).count();
        if self.partitions.len() + more > TRANSACTION_PARTITIONS_MAX {
            return Err(TransactionFault::Limit("partitions of a transaction"));
        }
        let begins = self.begins(now);
        let is_new = begins.is_some() || !partitions.is_empty();
        Ok(is_new.then(|| Addition { begins, partitions, ..Addition::default() }))
    }

    /// Adds offsets of this group; `None` if it has it.
    pub fn adding_group(&self, group: &str, now: Millis) -> Result<Option<Addition>, TransactionFault> {
        if self.groups.contains(group) {
            return Ok(None);
        }
        if self.groups.len() >= TRANSACTION_GROUPS_MAX {
            return Err(TransactionFault::Limit("groups of a transaction"));
        }
        let groups = Groups::from([group.into()]);
        Ok(Some(Addition { begins: self.begins(now), groups, ..Addition::default() }))
    }

    fn begins(&self, now: Millis) -> Option<Millis> {
        (self.phase != Phase::Ongoing).then_some(now)
    }

    /// What it takes in memory, see [`Transaction::bytes`], more with this.
    pub fn more_bytes(&self, addition: &Addition) -> usize {
        let partitions = addition.partitions.keys().filter(|at| !self.partitions.contains_key(*at));
        let groups = addition.groups.iter().filter(|group| !self.groups.contains(*group));
        partitions.map(|(topic, _)| bytes_of_item(topic)).chain(groups.map(|group| bytes_of_item(group))).sum()
    }

    /// Whether it is written whole with this. It never is once something stands beside it: that would count as the later word.
    pub fn is_whole_with(&self, addition: &Addition) -> bool {
        let items = |partitions: &Partitions, groups: &Groups| partitions.len() + groups.len();
        let all = items(&self.partitions, &self.groups) + items(&addition.partitions, &addition.groups);
        addition.begins.is_some() || (self.additions == 0 && all <= WHOLE_MAX)
    }

    pub fn with(&self, addition: Addition) -> Transaction {
        let mut next = self.clone();
        next.take_in(addition);
        next
    }

    /// It has this from now on.
    pub fn take_in(&mut self, addition: Addition) {
        if let Some(at) = addition.begins {
            (self.phase, self.started, self.updated, self.before) = (Phase::Ongoing, at, at, None);
        }
        self.partitions.extend(addition.partitions);
        self.groups.extend(addition.groups);
    }
}
