//! The rules of one transactional id.

use waypost_model::{Millis, QueueId};

use super::addition::{Groups, Partitions, bytes_of, read_items, write_items};
use super::{Phase, Producer, TRANSACTION_TIMEOUT_MS_MAX, TRANSACTIONAL_ID_EXPIRATION_MS, TransactionFault};
use crate::codec::{Malformed, Reader, Writer};
use crate::partition::Marker;

const FORMAT: u64 = 1;
/// No id, no epoch.
const NONE: i16 = -1;
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
    /// When its phase was last changed.
    pub updated: Millis,
    /// The partitions of the open transaction.
    pub partitions: Partitions,
    /// The groups whose offsets belong to it.
    pub groups: Groups,
    /// How many definitions beside its own hold what was added to the open transaction.
    pub additions: u64,
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
            partitions: Partitions::new(),
            groups: Groups::new(),
            additions: 0,
        }
    }

    /// What it takes in memory beside what all take alike, about, bytes.
    pub fn bytes(&self) -> usize {
        bytes_of(&self.partitions, &self.groups)
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

    /// Whether it belongs to this producer.
    pub fn check(&self, producer: Producer) -> Result<(), TransactionFault> {
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
        let Transaction { producer, before, timeout_ms, started, .. } = *self;
        Transaction { producer, before, timeout_ms, phase, started, ..Transaction::unborn(now) }
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

    /// Without what stands beside it.
    pub fn write(&self) -> Box<[u8]> {
        let before = self.before.unwrap_or(Producer { id: -1, epoch: NONE });
        let mut w = Writer::default().number(FORMAT);
        for producer in [self.producer, before] {
            w = w.number(producer.id as u64).number(producer.epoch as u64);
        }
        w = w.number(self.timeout_ms as u64).number(self.phase as u64).number(self.started.0).number(self.updated.0);
        write_items(w, &self.partitions, &self.groups).finish()
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
        let (partitions, groups) = read_items(&mut r)?;
        r.end()?;
        let before = (before.id >= 0).then_some(before);
        Ok(Transaction { producer, before, timeout_ms, phase, started, updated, partitions, groups, additions: 0 })
    }
}
