//! The rules of one transactional id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::{Millis, QueueId};

use super::{
    Phase, Producer, TRANSACTION_GROUPS_MAX, TRANSACTION_PARTITIONS_MAX, TRANSACTION_TIMEOUT_MS_MAX,
    TRANSACTIONAL_ID_EXPIRATION_MS, TransactionFault,
};
use crate::codec::{Malformed, Reader, Writer};
use crate::partition::Marker;

const FORMAT: u64 = 1;
/// No id, no epoch.
const NONE: i16 = -1;
/// What a partition or a group takes beside its name, about.
const ITEM_BYTES: usize = 64;
/// The last epoch that is given out; the one behind it is kept to abort what is open then.
const EPOCH_LAST: i16 = i16::MAX - 1;

/// What is known of a transactional id. Changes are made to a copy, which takes the place of the original once the
/// journal has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub producer: Producer,
    /// Who had it before, where that one may come back: it asked for the new epoch itself and may not have heard the
    /// answer, or was too slow.
    pub before: Option<Producer>,
    pub timeout_ms: i32,
    pub phase: Phase,
    /// When the open transaction began.
    pub started: Millis,
    /// When it was last changed.
    pub updated: Millis,
    /// The partitions of the open transaction, each with the queue that it was then.
    pub partitions: BTreeMap<(Arc<str>, i32), QueueId>,
    /// The groups whose offsets belong to it.
    pub groups: BTreeSet<Arc<str>>,
}

/// How a producer gets its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It has it already, and did not hear of it.
    Known,
    /// The next epoch.
    Next,
    /// All epochs are used up: another id.
    Renewed,
}

impl Transaction {
    /// One that nobody has yet.
    pub fn unborn(now: Millis) -> Transaction {
        Transaction {
            producer: Producer { id: -1, epoch: NONE },
            before: None,
            timeout_ms: 0,
            phase: Phase::Empty,
            started: Millis(0),
            updated: now,
            partitions: BTreeMap::new(),
            groups: BTreeSet::new(),
        }
    }

    /// What it takes in memory beside what all take alike, about, bytes.
    pub fn bytes(&self) -> usize {
        let partitions = self.partitions.keys().map(|(topic, _)| ITEM_BYTES + topic.len());
        partitions.chain(self.groups.iter().map(|group| ITEM_BYTES + group.len())).sum()
    }

    pub fn is_born(&self) -> bool {
        self.producer.id >= 0
    }

    /// How whoever comes gets its epoch. `known`: who it takes itself for.
    pub fn enter(&self, known: Option<Producer>, timeout_ms: i32) -> Result<Entry, TransactionFault> {
        if !(1..=TRANSACTION_TIMEOUT_MS_MAX).contains(&timeout_ms) {
            return Err(TransactionFault::Timeout);
        }
        match known {
            _ if !self.is_born() => return Ok(Entry::Renewed),
            Some(known) if self.before == Some(known) && self.phase != Phase::Ongoing => return Ok(Entry::Known),
            Some(known) if self.producer != known => return Err(TransactionFault::Fenced),
            _ => {}
        }
        Ok(if self.producer.epoch >= EPOCH_LAST { Entry::Renewed } else { Entry::Next })
    }

    /// It belongs to another producer from now on, and nothing is open. `known`: it asked by its old name.
    pub fn belongs_to(&self, producer: Producer, known: bool, timeout_ms: i32, now: Millis) -> Transaction {
        Transaction {
            producer,
            before: known.then_some(self.producer),
            timeout_ms,
            updated: now,
            ..Transaction::unborn(now)
        }
    }

    fn check(&self, producer: Producer) -> Result<(), TransactionFault> {
        match () {
            () if !self.is_born() || self.producer.id != producer.id => {
                // An id that was used up belongs to who had it.
                let had = self.before.is_some_and(|b| b.id == producer.id);
                Err(if had { TransactionFault::Fenced } else { TransactionFault::UnknownProducer })
            }
            () if self.producer.epoch != producer.epoch => Err(TransactionFault::Fenced),
            () => Ok(()),
        }
    }

    fn begun(&self, now: Millis) -> Transaction {
        if self.phase == Phase::Ongoing {
            return Transaction { updated: now, ..self.clone() };
        }
        Transaction { phase: Phase::Ongoing, started: now, updated: now, before: None, ..self.clone() }
    }

    /// With these partitions; `None` if it has them.
    pub fn with_partitions(
        &self,
        producer: Producer,
        partitions: &[(Arc<str>, i32, QueueId)],
        now: Millis,
    ) -> Result<Option<Transaction>, TransactionFault> {
        self.check(producer)?;
        let has = |(t, p, q): &(Arc<str>, i32, QueueId)| self.partitions.get(&(Arc::clone(t), *p)) == Some(q);
        if self.phase == Phase::Ongoing && partitions.iter().all(has) {
            return Ok(None);
        }
        let mut next = self.begun(now);
        next.partitions.extend(partitions.iter().map(|(t, p, q)| ((Arc::clone(t), *p), *q)));
        if next.partitions.len() > TRANSACTION_PARTITIONS_MAX {
            return Err(TransactionFault::Limit("partitions of a transaction"));
        }
        Ok(Some(next))
    }

    /// With offsets of this group; `None` if it has it.
    pub fn with_group(
        &self,
        producer: Producer,
        group: &str,
        now: Millis,
    ) -> Result<Option<Transaction>, TransactionFault> {
        self.check(producer)?;
        if self.phase == Phase::Ongoing && self.groups.contains(group) {
            return Ok(None);
        }
        let mut next = self.begun(now);
        next.groups.insert(group.into());
        if next.groups.len() > TRANSACTION_GROUPS_MAX {
            return Err(TransactionFault::Limit("groups of a transaction"));
        }
        Ok(Some(next))
    }

    /// Whether its producer may write to a partition now.
    pub fn may_write(
        &self,
        producer: Producer,
        topic: &str,
        partition: i32,
        queue: QueueId,
    ) -> Result<(), TransactionFault> {
        self.check(producer)?;
        let has = self.partitions.get(&(topic.into(), partition)) == Some(&queue);
        if self.phase == Phase::Ongoing && has { Ok(()) } else { Err(TransactionFault::State) }
    }

    /// Whether its producer may commit offsets of a group now.
    pub fn may_commit(&self, producer: Producer, group: &str) -> Result<(), TransactionFault> {
        self.check(producer)?;
        if self.phase == Phase::Ongoing && self.groups.contains(group) { Ok(()) } else { Err(TransactionFault::State) }
    }

    /// After its end; `None` if it has ended so already.
    pub fn ended(
        &self,
        producer: Producer,
        marker: Marker,
        now: Millis,
    ) -> Result<Option<Transaction>, TransactionFault> {
        self.check(producer)?;
        let phase = match marker {
            Marker::Commit => Phase::CompleteCommit,
            Marker::Abort => Phase::CompleteAbort,
        };
        if self.phase == phase {
            return Ok(None);
        }
        if self.phase != Phase::Ongoing {
            return Err(TransactionFault::State);
        }
        Ok(Some(self.closed(phase, now)))
    }

    /// After it was open for too long: its producer is too late, but may come back by name.
    pub fn expired(&self, now: Millis) -> Option<Transaction> {
        if self.deadline()? > now {
            return None;
        }
        let producer = Producer { epoch: self.producer.epoch.saturating_add(1), ..self.producer };
        Some(Transaction { producer, before: Some(self.producer), ..self.closed(Phase::CompleteAbort, now) })
    }

    fn closed(&self, phase: Phase, now: Millis) -> Transaction {
        let (partitions, groups) = (BTreeMap::new(), BTreeSet::new());
        Transaction { phase, updated: now, partitions, groups, ..self.clone() }
    }

    /// When it has been open for too long, if it is open.
    pub fn deadline(&self) -> Option<Millis> {
        let timeout_ms = u64::try_from(self.timeout_ms).unwrap_or(0);
        (self.phase == Phase::Ongoing).then(|| self.started.plus(timeout_ms))
    }

    /// Whether nobody will miss it.
    pub fn is_forgotten(&self, now: Millis) -> bool {
        self.phase != Phase::Ongoing && self.updated.plus(TRANSACTIONAL_ID_EXPIRATION_MS) <= now
    }

    pub fn write(&self) -> Box<[u8]> {
        let before = self.before.unwrap_or(Producer { id: -1, epoch: NONE });
        let mut w = Writer::default().number(FORMAT);
        for producer in [self.producer, before] {
            w = w.number(producer.id as u64).number(producer.epoch as u64);
        }
        w = w.number(self.timeout_ms as u64).number(self.phase as u64).number(self.started.0).number(self.updated.0);
        w = w.number(self.partitions.len() as u64);
        for ((topic, partition), queue) in &self.partitions {
            w = w.bytes(topic.as_bytes()).number(*partition as u64).number(queue.0);
        }
        w = w.number(self.groups.len() as u64);
        for group in &self.groups {
            w = w.bytes(group.as_bytes());
        }
        w.finish()
    }

    pub fn read(bytes: &[u8]) -> Result<Transaction, Malformed> {
        let mut r = Reader(bytes);
        if r.number()? != FORMAT {
            return Err(Malformed);
        }
        let mut producer = || Ok(Producer { id: r.number()? as i64, epoch: r.number()? as i16 });
        let (producer, before) = (producer()?, producer()?);
        let timeout_ms = r.number()? as i32;
        let phase = match r.number()? {
            0 => Phase::Empty,
            1 => Phase::Ongoing,
            2 => Phase::CompleteCommit,
            3 => Phase::CompleteAbort,
            _ => return Err(Malformed),
        };
        let (started, updated) = (Millis(r.number()?), Millis(r.number()?));
        let mut partitions = BTreeMap::new();
        for _ in 0..r.count(24)? {
            let topic = Arc::from(r.text()?);
            let partition = r.number()? as i32;
            partitions.insert((topic, partition), QueueId(r.number()?));
        }
        let mut groups = BTreeSet::new();
        for _ in 0..r.count(8)? {
            groups.insert(Arc::from(r.text()?));
        }
        r.end()?;
        let before = (before.id >= 0).then_some(before);
        Ok(Transaction { producer, before, timeout_ms, phase, started, updated, partitions, groups })
    }
}
