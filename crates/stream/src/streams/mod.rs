//! All topics of a node.
//!
//! Locks: the list of topics, then one partition; for transactions see `coordinator`. Nothing is read from disk while either is held.

mod by_group;
mod cell;
mod compact;
#[cfg(test)]
mod compact_tests;
#[cfg(test)]
mod compact_transaction_tests;
mod coordinator;
mod expiry;
#[cfg(test)]
mod expiry_tests;
#[cfg(test)]
mod gate_tests;
#[cfg(test)]
mod group_tests;
mod keep;
mod names;
mod offsets;
mod open;
mod pending;
mod producer_ids;
mod standing;
mod tally;
#[cfg(test)]
mod tests;
mod topic;
#[cfg(test)]
mod transaction_tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use waypost_model::journal::{AppendError, BodyStore, Journal};
use waypost_model::{Lsn, Millis, QueueId, Route};

pub use cell::{Cell, DeleteFault, Grown};
pub use compact::{CompactFault, KEYS_MAX};
pub use expiry::Expiry;
pub use names::{NAME_MAX, OF_SERVICES, check_partitions, is_topic_name, partitions_or, service_of};
pub use offsets::{Committed, OffsetsFault};
pub use open::{OpenError, Share};
pub use topic::{Retention, Topic, TopicId};

use crate::batch::Batch;
use crate::config::{ConfigFault, TopicConfig};
use crate::groups::Recalled;
use crate::partition::{AppendFault, Appended, Packed, Shared};
use coordinator::Transactions;
use offsets::Offsets;
use producer_ids::ProducerIds;

/// Most topics of a node.
pub const TOPICS_MAX: usize = 100_000;
/// Most partitions of a topic.
pub const PARTITIONS_MAX: u32 = 10_000;
/// Most partitions of a node.
pub const ALL_PARTITIONS_MAX: u64 = 200_000;

/// Why a topic is not made or changed. Nothing was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicFault {
    /// Letters, digits, `.`, `_` and `-` only, at most [`NAME_MAX`], and neither `.` nor `..`.
    #[error("`{0}` is no name of a topic")]
    Name(Box<str>),
    /// There is one of that name.
    #[error("topic `{0}` exists")]
    Exists(Box<str>),
    /// There is none of that name.
    #[error("there is no topic `{0}`")]
    Unknown(Box<str>),
    /// Not so many partitions, or fewer than there are.
    #[error("{asked} partitions: {why}")]
    Partitions {
        /// How many were asked for.
        asked: u32,
        /// Why not.
        why: &'static str,
    },
    /// There are as many as this node allows.
    #[error("this node has as many {0} as it may")]
    Limit(&'static str),
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigFault),
    /// The journal takes nothing.
    #[error(transparent)]
    Journal(#[from] AppendError),
}

/// See the module.
pub struct Streams {
    journal: Arc<dyn Journal>,
    bodies: Arc<dyn BodyStore>,
    route: Arc<Route>,
    topics: RwLock<Topics>,
    /// How often topics were made, grown or deleted since the start.
    version: AtomicU64,
    offsets: Mutex<Offsets>,
    /// Taken once, after the start.
    kept_groups: Mutex<Recalled>,
    /// How many offsets have expired since the start.
    offsets_expired: AtomicU64,
    producer_ids: Mutex<ProducerIds>,
    transactions: Mutex<Transactions>,
    /// When transactional ids were last looked through, milliseconds.
    looked_through: AtomicU64,
    /// The lowest ticket that a partition waits for; `u64::MAX` is none. Partitions with something under way.
    busy: Mutex<Vec<Arc<Cell>>>,
    waits_for: AtomicU64,
    /// What partitions keep in memory.
    shared: Shared,
    /// Where the ids of topics come from: different at each start.
    seed: [u8; 16],
}

#[derive(Default)]
struct Topics {
    by_name: BTreeMap<(Arc<str>, Arc<str>), Arc<Topic>>,
    by_id: BTreeMap<TopicId, Arc<Topic>>,
    /// How many queue numbers were given out.
    queues: u64,
    /// How many topics were made since the start.
    made: u64,
    partitions: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Streams {
    fn read(&self) -> RwLockReadGuard<'_, Topics> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Topics> {
        self.topics.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The topic of a name.
    #[must_use]
    pub fn topic(&self, vhost: &str, name: &str) -> Option<Arc<Topic>> {
        self.read().by_name.get(&(vhost.into(), name.into())).cloned()
    }

    /// The topic of an id.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.read().by_id.get(&id).cloned()
    }

    /// Another number each time that topics were made, grown or deleted.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    fn note_change(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// All topics of a vhost, by name.
    #[must_use]
    pub fn topics(&self, vhost: &str) -> Vec<Arc<Topic>> {
        let topics = self.read();
        let from = (Arc::from(vhost), Arc::from(""));
        topics.by_name.range(from..).take_while(|((v, _), _)| &**v == vhost).map(|(_, t)| Arc::clone(t)).collect()
    }

    /// All topics whose names begin like this, by vhost and name.
    #[must_use]
    pub fn topics_beginning(&self, prefix: &str) -> Vec<Arc<Topic>> {
        let topics = self.read();
        let mut found: Vec<Arc<Topic>> = Vec::new();
        let mut vhost: Option<Arc<str>> = None;
        // One vhost after the other: those in between are not looked at.
        loop {
            let behind = vhost.as_ref().map(|v| Arc::from(format!("{v}\0")));
            let from = (behind.unwrap_or_default(), Arc::from(""));
            let Some(((next, _), _)) = topics.by_name.range(from..).next() else { return found };
            let first = (Arc::clone(next), Arc::from(prefix));
            let here = topics.by_name.range(first..).take_while(|((v, n), _)| v == next && n.starts_with(prefix));
            found.extend(here.map(|(_, topic)| Arc::clone(topic)));
            vhost = Some(Arc::clone(next));
        }
    }

    /// Makes a topic. It counts once the ticket is durable.
    ///
    /// # Errors
    /// [`TopicFault`].
    pub fn create(
        &self,
        vhost: &str,
        name: &str,
        partitions: u32,
        config: TopicConfig,
    ) -> Result<(Arc<Topic>, Lsn), TopicFault> {
        if !is_topic_name(name) {
            return Err(TopicFault::Name(name.into()));
        }
        check_partitions(name, partitions)?;
        let mut topics = self.write();
        let key = (Arc::from(vhost), Arc::from(name));
        if topics.by_name.contains_key(&key) {
            return Err(TopicFault::Exists(name.into()));
        }
        topics.room(partitions)?;
        let cells = self.new_cells(topics.queues, partitions);
        let topic = Arc::new(Topic::new(self.new_id(topics.made), &key, config, cells));
        let lsn = self.journal.append(vec![keep::topic(&topic)])?;
        topics.made += 1;
        topics.queues += u64::from(partitions);
        topics.partitions += u64::from(partitions);
        topics.by_id.insert(topic.id, Arc::clone(&topic));
        topics.by_name.insert(key, Arc::clone(&topic));
        self.note_change();
        Ok((topic, lsn))
    }

    /// Removes a topic with all that it holds, the offsets that groups have committed in it included.
    ///
    /// # Errors
    /// [`TopicFault`].
    pub fn delete(&self, vhost: &str, name: &str) -> Result<Lsn, TopicFault> {
        let mut topics = self.write();
        let key = (Arc::from(vhost), Arc::from(name));
        let topic = topics.by_name.get(&key).cloned().ok_or_else(|| TopicFault::Unknown(name.into()))?;
        let cells = topic.partitions();
        cells.iter().for_each(|cell| cell.set_goes(true));
        let mut ops = keep::no_topic(&topic);
        // Held until the journal has it: what is committed meanwhile comes behind.
        let mut offsets = lock(&self.offsets);
        ops.extend(offsets.forgetting_topic(&key.0, &key.1));
        // Nothing else may remember the highest number.
        let ids = lock(&self.producer_ids);
        ops.push(keep::numbers(ids.reserved, topics.queues));
        let lsn = self.journal.append(ops).inspect_err(|_| cells.iter().for_each(|cell| cell.set_goes(false)))?;
        drop(ids);
        offsets.forget_topic(&key.0, &key.1);
        drop(offsets);
        topics.by_name.remove(&key);
        topics.by_id.remove(&topic.id);
        self.note_change();
        topics.partitions -= cells.len() as u64;
        drop(topics);
        for cell in cells.iter() {
            cell.close();
        }
        Ok(lsn)
    }

    /// Gives a topic more partitions, up to `partitions`.
    ///
    /// # Errors
    /// [`TopicFault`].
    pub fn grow(&self, vhost: &str, name: &str, partitions: u32) -> Result<Lsn, TopicFault> {
        check_partitions(name, partitions)?;
        let mut topics = self.write();
        let key = (Arc::from(vhost), Arc::from(name));
        let topic = topics.by_name.get(&key).cloned().ok_or_else(|| TopicFault::Unknown(name.into()))?;
        let before = u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX);
        let more = match partitions.checked_sub(before) {
            None | Some(0) => {
                return Err(TopicFault::Partitions { asked: partitions, why: "the topic has as many or more" });
            }
            Some(more) => more,
        };
        topics.room(more)?;
        let mut cells = topic.partitions().to_vec();
        cells.extend(self.new_cells(topics.queues, more));
        let lsn = self.journal.append(vec![keep::topic_with(&topic, &topic.config(), &cells)])?;
        topics.queues += u64::from(more);
        topics.partitions += u64::from(more);
        topic.set_partitions(cells);
        self.note_change();
        Ok(lsn)
    }

    /// Changes a topic's configuration.
    ///
    /// # Errors
    /// [`TopicFault`].
    pub fn configure(
        &self,
        vhost: &str,
        name: &str,
        change: impl FnOnce(&TopicConfig) -> Result<TopicConfig, ConfigFault>,
    ) -> Result<Lsn, TopicFault> {
        // Held, so that of two changes each sees the other.
        let topics = self.write();
        let key = (Arc::from(vhost), Arc::from(name));
        let topic = topics.by_name.get(&key).ok_or_else(|| TopicFault::Unknown(name.into()))?;
        let config = change(&topic.config())?;
        let lsn = self.journal.append(vec![keep::topic_with(topic, &config, &topic.partitions())])?;
        topic.set_config(config);
        Ok(lsn)
    }

    fn new_cells(&self, queues: u64, count: u32) -> Vec<Arc<Cell>> {
        let queue = |at: u64| QueueId(open::QUEUES_FROM + queues + at);
        let cell = |at| {
            let cell = Cell::new(queue(at), Arc::clone(&self.route));
            cell.with(|p| p.share(&self.shared));
            Arc::new(cell)
        };
        (0..u64::from(count)).map(cell).collect()
    }

    fn new_id(&self, made: u64) -> TopicId {
        let seed = u128::from_be_bytes(self.seed);
        // A bijection of the number for a given seed: no id twice in one run, and other seeds in others.
        let mixed = (seed ^ u128::from(made)).wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645) | 1;
        TopicId(mixed.to_be_bytes())
    }

    /// Removes what topics no longer keep, and lets go of memory that nobody uses; once an hour forgets producers that were
    /// silent for a day, and transactional ids that nobody has used for a week. To be called every few seconds; looks at no
    /// disk.
    pub fn maintain(&self, now: Millis) {
        let topics: Vec<Arc<Topic>> = self.read().by_name.values().cloned().collect();
        for topic in &topics {
            let config = topic.kept();
            for cell in topic.partitions().iter() {
                cell.maintain(&config, &*self.journal, now);
            }
        }
        let before = self.looked_through.load(Ordering::Relaxed);
        if now.0 >= before.saturating_add(3_600_000) {
            self.looked_through.store(now.0, Ordering::Relaxed);
            topics.iter().flat_map(|t| t.partitions().to_vec()).for_each(|cell| cell.forget_producers(now));
            self.forget_transactional_ids(now);
        }
    }

    /// What all partitions know is written down, so that the next start reads no batch.
    pub fn close(&self) {
        let topics: Vec<Arc<Topic>> = self.read().by_name.values().cloned().collect();
        for cell in topics.iter().flat_map(|t| t.partitions().to_vec()) {
            cell.snapshot(1, &*self.journal);
        }
    }

    /// Appends a batch of the server's own: one of no producer, and of no transaction of Kafka's. `journal`: where to, if
    /// it is to go with other things.
    ///
    /// # Errors
    /// [`AppendFault`].
    pub fn append_own(
        &self,
        cell: &Arc<Cell>,
        batch: &Batch<'_>,
        config: &TopicConfig,
        journal: &dyn Journal,
        now: Millis,
    ) -> Result<Appended, AppendFault> {
        debug_assert!(batch.producer_id() < 0 && !batch.is_transactional());
        let appended = cell.append(Packed::copy(batch), config, journal, now)?;
        journal.hurry();
        if let Some(lsn) = appended.lsn {
            self.appended(cell, lsn);
        }
        Ok(appended)
    }

    /// Something was appended to a partition: it is to be told when the journal is durable so far.
    pub fn appended(&self, cell: &Arc<Cell>, lsn: Lsn) {
        if cell.enlist() {
            lock(&self.busy).push(Arc::clone(cell));
        }
        self.waits_for.fetch_min(lsn.0, Ordering::SeqCst);
        if self.journal.durable() >= lsn {
            self.advance();
        }
    }

    /// The journal's watermark has moved: what it covers becomes visible, and readers that wait are told.
    pub fn advance(&self) {
        loop {
            let durable = self.journal.durable();
            if self.waits_for.load(Ordering::SeqCst) > durable.0 {
                return;
            }
            self.waits_for.store(u64::MAX, Ordering::SeqCst);
            let busy = std::mem::take(&mut *lock(&self.busy));
            for cell in busy {
                if let Some(lsn) = cell.advance(durable) {
                    // It goes on waiting. Who saw a later watermark meanwhile did not find it here: so it is looked again.
                    lock(&self.busy).push(cell);
                    self.waits_for.fetch_min(lsn.0, Ordering::SeqCst);
                }
            }
        }
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }
}

impl Topics {
    fn room(&self, partitions: u32) -> Result<(), TopicFault> {
        if self.by_name.len() >= TOPICS_MAX {
            return Err(TopicFault::Limit("topics"));
        }
        if self.partitions + u64::from(partitions) > ALL_PARTITIONS_MAX {
            return Err(TopicFault::Limit("partitions"));
        }
        Ok(())
    }
}
