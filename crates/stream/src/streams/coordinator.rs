//! The transactions of a node: begun, filled and ended in all their partitions and offsets at once.
//!
//! Locks: one transactional id; then topics, each alone; then partitions in order of their queues, then offsets. The
//! registry's lock is taken for a moment at a time, and nothing is locked under it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use waypost_model::journal::{AppendError, Op};
use waypost_model::{Lsn, Millis, QueueId};

use super::{Cell, Committed, Streams, Topic, keep, lock};
use crate::codec::Malformed;
use crate::config::TopicConfig;
use crate::groups::Committer;
use crate::partition::{AppendFault, Appended, Ending, Marker, Packed, Partition};
use crate::transactions::{
    Addition, Entry, OPEN_BYTES_MAX, Phase, Producer, TRANSACTIONAL_ID_BYTES_MAX, TRANSACTIONAL_IDS_MAX, Transaction,
    TransactionFault, TransactionView,
};

/// A vhost and a transactional id.
pub(super) type Key = (Arc<str>, Arc<str>);

/// A transactional id.
#[derive(Debug)]
struct Slot {
    vhost: Arc<str>,
    id: Arc<str>,
    kept: Mutex<Kept>,
}

/// What it is at.
#[derive(Debug)]
struct Kept {
    state: Transaction,
    /// What must be durable before anybody is told.
    lsn: Option<Lsn>,
}

/// All transactional ids.
#[derive(Debug)]
pub(super) struct Transactions {
    by_id: BTreeMap<Key, Arc<Slot>>,
    by_producer: BTreeMap<i64, Arc<Slot>>,
    /// When the open ones have been open for too long, with their producers.
    deadlines: BTreeSet<(Millis, i64)>,
    /// What partitions and groups of the open ones take, bytes.
    bytes: usize,
    /// Most of them: [`OPEN_BYTES_MAX`].
    pub(super) bytes_max: usize,
}

impl Default for Transactions {
    fn default() -> Transactions {
        Transactions {
            by_id: BTreeMap::new(),
            by_producer: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            bytes: 0,
            bytes_max: OPEN_BYTES_MAX,
        }
    }
}

impl Transactions {
    pub fn recover(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let (vhost, id) = keep::read_transaction_key(key)?;
        let kept = Kept { state: Transaction::read(value)?, lsn: None };
        let slot = Arc::new(Slot { vhost: vhost.into(), id: id.into(), kept: Mutex::new(kept) });
        self.note(&slot, &lock(&slot.kept).state);
        Ok(())
    }

    /// What was added to a transaction, in order of the numbers, which begin with 0. It was recovered before.
    pub fn recover_additions(&mut self, (vhost, id): &Key, all: &BTreeMap<u64, &[u8]>) -> Result<(), Malformed> {
        let slot = self.by_id.get(&(Arc::clone(vhost), Arc::clone(id))).ok_or(Malformed)?;
        let state = &mut lock(&slot.kept).state;
        for (number, value) in all {
            if state.phase != Phase::Ongoing || *number != state.additions {
                return Err(Malformed);
            }
            let addition = Addition::read(value)?;
            self.bytes += state.more_bytes(&addition);
            state.take_in(addition);
            state.additions += 1;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn note(&mut self, slot: &Arc<Slot>, state: &Transaction) {
        self.by_id.insert((Arc::clone(&slot.vhost), Arc::clone(&slot.id)), Arc::clone(slot));
        if state.is_born() {
            self.by_producer.insert(state.producer.id, Arc::clone(slot));
        }
        self.bytes += state.bytes();
        self.deadlines.extend(state.deadline().map(|at| (at, state.producer.id)));
    }

    /// Another state is about to take the place of this one.
    fn forget(&mut self, state: &Transaction) {
        self.by_producer.remove(&state.producer.id);
        self.bytes -= state.bytes();
        if let Some(at) = state.deadline() {
            self.deadlines.remove(&(at, state.producer.id));
        }
    }
}

impl Streams {
    fn slot(&self, vhost: &str, id: &str) -> Result<Arc<Slot>, TransactionFault> {
        let all = lock(&self.transactions);
        all.by_id.get(&(vhost.into(), id.into())).cloned().ok_or(TransactionFault::UnknownProducer)
    }

    /// A state takes the place of another one.
    fn replace(&self, slot: &Arc<Slot>, kept: &mut Kept, next: Transaction, lsn: Lsn) {
        let mut all = lock(&self.transactions);
        all.forget(&kept.state);
        *kept = Kept { state: next, lsn: Some(lsn) };
        all.note(slot, &kept.state);
    }

    /// Gives a transactional id to whoever comes; what is open under it is aborted in the same moment. `known`: who the
    /// producer was so far. It may be told once the ticket is durable.
    ///
    /// # Errors
    /// [`TransactionFault`].
    pub fn init_producer(
        &self,
        vhost: &str,
        transactional_id: &str,
        timeout_ms: i32,
        known: Option<Producer>,
        now: Millis,
    ) -> Result<(Producer, Option<Lsn>), TransactionFault> {
        if !(1..=TRANSACTIONAL_ID_BYTES_MAX).contains(&transactional_id.len()) {
            return Err(TransactionFault::Name);
        }
        // Before it takes a place among others.
        Transaction::unborn(now).enter(None, timeout_ms)?;
        let slot = self.slot_or_new(vhost, transactional_id, now)?;
        let mut kept = lock(&slot.kept);
        let state = &kept.state;
        let producer = match state.enter(known, timeout_ms)? {
            Entry::Known => return Ok((state.producer, kept.lsn)),
            Entry::Next => Producer { epoch: state.producer.epoch + 1, ..state.producer },
            Entry::Renewed => Producer { id: self.new_producer_id()?.0, epoch: 0 },
        };
        // Whoever is slow is told by the partitions as well: they know the marker's epoch from then on.
        let fence = Producer { epoch: state.producer.epoch.saturating_add(1), ..state.producer };
        let next = state.belongs_to(producer, known.is_some(), timeout_ms, now);
        let lsn = self.finish(&slot, &mut kept, next, fence, Marker::Abort, now)?;
        Ok((producer, Some(lsn)))
    }

    fn slot_or_new(&self, vhost: &str, id: &str, now: Millis) -> Result<Arc<Slot>, TransactionFault> {
        let mut all = lock(&self.transactions);
        let key: Key = (vhost.into(), id.into());
        if let Some(slot) = all.by_id.get(&key) {
            return Ok(Arc::clone(slot));
        }
        if all.by_id.len() >= TRANSACTIONAL_IDS_MAX {
            return Err(TransactionFault::Limit("transactional ids"));
        }
        let (vhost, id) = key.clone();
        let slot = Arc::new(Slot { vhost, id, kept: Mutex::new(Kept { state: Transaction::unborn(now), lsn: None }) });
        all.by_id.insert(key, Arc::clone(&slot));
        Ok(slot)
    }

    /// Adds partitions to a producer's transaction, which begins with the first ones. `None`: it had them.
    ///
    /// # Errors
    /// [`TransactionFault`].
    pub fn add_partitions(
        &self,
        vhost: &str,
        transactional_id: &str,
        producer: Producer,
        partitions: &[(Arc<str>, i32, QueueId)],
        now: Millis,
    ) -> Result<Option<Lsn>, TransactionFault> {
        let slot = self.slot(vhost, transactional_id)?;
        let mut kept = lock(&slot.kept);
        kept.state.check(producer)?;
        match kept.state.adding_partitions(partitions, now)? {
            None => Ok(kept.lsn),
            Some(addition) => self.add(&slot, &mut kept, addition).map(Some),
        }
    }

    /// Adds the offsets of a group to a producer's transaction. `None`: it had them.
    ///
    /// # Errors
    /// [`TransactionFault`].
    pub fn add_group(
        &self,
        vhost: &str,
        transactional_id: &str,
        producer: Producer,
        group: &str,
        now: Millis,
    ) -> Result<Option<Lsn>, TransactionFault> {
        let slot = self.slot(vhost, transactional_id)?;
        let mut kept = lock(&slot.kept);
        kept.state.check(producer)?;
        match kept.state.adding_group(group, now)? {
            None => Ok(kept.lsn),
            Some(addition) => self.add(&slot, &mut kept, addition).map(Some),
        }
    }

    fn add(&self, slot: &Arc<Slot>, kept: &mut Kept, addition: Addition) -> Result<Lsn, TransactionFault> {
        let more = kept.state.more_bytes(&addition);
        let all = lock(&self.transactions);
        if more > 0 && all.bytes + more > all.bytes_max {
            return Err(TransactionFault::Limit("partitions and groups of open transactions"));
        }
        drop(all);
        if kept.state.is_whole_with(&addition) {
            let next = kept.state.with(addition);
            let lsn = self.journal.append(vec![keep::transaction(&slot.vhost, &slot.id, Some(next.write()))])?;
            self.replace(slot, kept, next, lsn);
            return Ok(lsn);
        }
        let op = keep::addition(&slot.vhost, &slot.id, kept.state.additions, Some(addition.write()));
        let lsn = self.journal.append(vec![op])?;
        kept.state.take_in(addition);
        kept.state.additions += 1;
        kept.lsn = Some(lsn);
        lock(&self.transactions).bytes += more;
        Ok(lsn)
    }

    /// Appends a batch of a producer's to a partition: one of a transaction, if the partition belongs to that. Unhurried:
    /// [`Journal::hurry`] is to follow once there is nothing more to append.
    ///
    /// # Errors
    /// [`AppendFault`].
    pub fn append(
        &self,
        topic: &Topic,
        partition: (i32, &Arc<Cell>),
        transactional_id: Option<&str>,
        packed: Packed,
        config: &TopicConfig,
        now: Millis,
    ) -> Result<Appended, AppendFault> {
        let ((number, cell), batch) = (partition, packed.batch());
        let slot = match transactional_id.filter(|_| batch.is_transactional()) {
            Some(id) => Some(self.slot(&topic.vhost, id)?),
            None if batch.is_transactional() => return Err(TransactionFault::UnknownProducer.into()),
            None => None,
        };
        // Held until the batch is in: its transaction cannot end in between.
        let kept = slot.as_ref().map(|slot| lock(&slot.kept));
        if let Some(kept) = &kept {
            let producer = Producer { id: batch.producer_id(), epoch: batch.producer_epoch() };
            kept.state.may_write(producer, &topic.name, number, cell.queue())?;
        }
        let appended = cell.append(packed, config, &*self.journal, now)?;
        drop(kept);
        if let Some(lsn) = appended.lsn {
            self.appended(cell, lsn);
        }
        Ok(appended)
    }

    /// Commits offsets of a group with a producer's transaction: they count once that is committed.
    ///
    /// # Errors
    /// [`TransactionFault`].
    pub fn commit_with(
        &self,
        vhost: &str,
        transactional_id: &str,
        producer: Producer,
        (group, committer): (&str, Committer),
        offsets: Vec<(Arc<str>, i32, Committed)>,
    ) -> Result<Option<Lsn>, TransactionFault> {
        let slot = self.slot(vhost, transactional_id)?;
        let kept = lock(&slot.kept);
        kept.state.may_commit(producer, group)?;
        lock(&self.offsets).put_off(vhost, transactional_id, group, offsets, committer, &*self.journal)
    }

    /// Ends a producer's transaction. `None`: it had ended so.
    ///
    /// # Errors
    /// [`TransactionFault`].
    pub fn end_transaction(
        &self,
        vhost: &str,
        transactional_id: &str,
        producer: Producer,
        marker: Marker,
        now: Millis,
    ) -> Result<Option<Lsn>, TransactionFault> {
        let slot = self.slot(vhost, transactional_id)?;
        let mut kept = lock(&slot.kept);
        match kept.state.ended(producer, marker, now)? {
            None => Ok(kept.lsn),
            Some(next) => self.finish(&slot, &mut kept, next, producer, marker, now).map(Some),
        }
    }

    /// Aborts what has been open for too long. To be called often; costs nothing while nothing is due.
    pub fn expire_transactions(&self, now: Millis) {
        let due: Vec<Arc<Slot>> = {
            let all = lock(&self.transactions);
            let late = all.deadlines.iter().take_while(|(at, _)| *at <= now);
            late.filter_map(|(_, id)| all.by_producer.get(id).cloned()).collect()
        };
        for slot in due {
            let mut kept = lock(&slot.kept);
            if let Some(next) = kept.state.expired(now) {
                let fence = next.producer;
                // What the journal does not take now is due again next time.
                let _ = self.finish(&slot, &mut kept, next, fence, Marker::Abort, now);
            }
        }
    }

    /// Whether [`Streams::expire_transactions`] has anything to do.
    #[must_use]
    pub fn transactions_due(&self, now: Millis) -> bool {
        lock(&self.transactions).deadlines.first().is_some_and(|(at, _)| *at <= now)
    }

    /// Forgets transactional ids that nobody has used for a week.
    pub(super) fn forget_transactional_ids(&self, now: Millis) {
        let all: Vec<Arc<Slot>> = lock(&self.transactions).by_id.values().cloned().collect();
        for slot in all {
            let kept = lock(&slot.kept);
            let state = &kept.state;
            if !state.is_forgotten(now) {
                continue;
            }
            if state.is_born() && self.journal.append(vec![keep::transaction(&slot.vhost, &slot.id, None)]).is_err() {
                return;
            }
            let mut all = lock(&self.transactions);
            all.by_id.remove(&(Arc::clone(&slot.vhost), Arc::clone(&slot.id)));
            all.forget(state);
        }
    }

    /// Writes markers wherever something is open, has offsets count or forgets them, and changes the state: one append.
    /// Nothing is changed if it is not taken.
    fn finish(
        &self,
        slot: &Arc<Slot>,
        kept: &mut Kept,
        next: Transaction,
        producer: Producer,
        marker: Marker,
        now: Millis,
    ) -> Result<Lsn, TransactionFault> {
        let state = &kept.state;
        let mut cells: Vec<Arc<Cell>> = Vec::new();
        for ((topic, partition), queue) in &state.partitions {
            let cell = self.topic(&slot.vhost, topic).and_then(|t| t.partition(*partition));
            // A topic that was deleted has nothing to be ended, and its namesake is another one.
            cells.extend(cell.filter(|c| c.queue() == *queue && !c.is_closed()));
        }
        cells.sort_by_key(|c| c.queue());
        let mut held: Vec<MutexGuard<'_, Partition>> = cells.iter().map(|c| c.hold()).collect();
        let (mut ops, mut endings): (Vec<Op>, Vec<(usize, Ending)>) = (Vec::new(), Vec::new());
        for (at, (partition, _)) in held.iter().zip(&cells).enumerate().filter(|(_, (_, cell))| !cell.goes()) {
            let ending = partition.end(producer.id, producer.epoch, marker, now);
            if let Some((op, ending)) = ending.map_err(|_| AppendError::Stopped)? {
                ops.push(op);
                endings.push((at, ending));
            }
        }
        let mut offsets = lock(&self.offsets);
        ops.extend(offsets.ending(&slot.vhost, &slot.id, &state.groups, marker));
        ops.push(keep::transaction(&slot.vhost, &slot.id, Some(next.write())));
        ops.extend((0..state.additions).map(|number| keep::addition(&slot.vhost, &slot.id, number, None)));
        let lsn = self.journal.append(ops)?;
        let ended: Vec<usize> = endings.iter().map(|(at, _)| *at).collect();
        for (at, ending) in endings {
            if let Some(partition) = held.get_mut(at) {
                partition.ended(ending, lsn);
            }
        }
        offsets.ended(&slot.vhost, &slot.id, &state.groups, marker, lsn);
        drop((held, offsets));
        self.replace(slot, kept, next, lsn);
        for cell in ended.into_iter().filter_map(|at| cells.get(at)) {
            self.appended(cell, lsn);
        }
        Ok(lsn)
    }

    /// The transactional ids of a vhost, without their partitions.
    #[must_use]
    pub fn transactions(&self, vhost: &str) -> Vec<TransactionView> {
        let slots: Vec<Arc<Slot>> = {
            let all = lock(&self.transactions);
            all.by_id.values().filter(|s| &*s.vhost == vhost).cloned().collect()
        };
        slots.iter().filter_map(|slot| view(slot, |_| Vec::new())).collect()
    }

    /// One of them.
    #[must_use]
    pub fn transaction(&self, vhost: &str, transactional_id: &str) -> Option<TransactionView> {
        view(&*self.slot(vhost, transactional_id).ok()?, |state| state.partitions.keys().cloned().collect())
    }
}

fn view(slot: &Slot, partitions: impl FnOnce(&Transaction) -> Vec<(Arc<str>, i32)>) -> Option<TransactionView> {
    let kept = lock(&slot.kept);
    let state = &kept.state;
    state.is_born().then(|| TransactionView {
        transactional_id: Arc::clone(&slot.id),
        phase: state.phase,
        producer: state.producer,
        timeout_ms: state.timeout_ms,
        started: (state.phase == Phase::Ongoing).then_some(state.started),
        partitions: partitions(state),
    })
}
