//! After a start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};

use waypost_model::journal::{AppendError, BodyStore, Journal, Op, Recovered, RecoveredRun};
use waypost_model::{Millis, QueueId, Route, Seq};

use super::coordinator::{Key, Transactions};
use super::offsets::Offsets;
use super::producer_ids::ProducerIds;
use super::{Cell, Streams, Topic, TopicId, Topics, keep, lock};
use crate::batch::Batch;
use crate::codec::{Malformed, Reader};
use crate::config::TopicConfig;
use crate::groups::{Groups, Recalled};
use crate::partition::{Compacted, Partition, Shared};

/// The queues of partitions have numbers from here on: the broker's own do not come this far, and the configuration
/// center's end before.
pub(super) const QUEUES_FROM: u64 = QueueId::STREAMS_FROM.0;

/// What recovery found that belongs to streams.
#[derive(Debug, Default)]
pub struct Share {
    definitions: Vec<(Box<[u8]>, Box<[u8]>)>,
    queues: BTreeMap<QueueId, (Seq, Vec<RecoveredRun>)>,
}

impl Share {
    /// Takes it out of what recovery found, so that nobody else sees it: the broker would forget queues that it does
    /// not know.
    #[must_use]
    pub fn split_off(recovered: &mut Recovered) -> Share {
        let is_ours = QueueId::is_stream;
        let has_our_key = |(key, _): &(Box<[u8]>, Box<[u8]>)| key.first().is_some_and(|b| keep::KEYS.contains(b));
        let mut share = Share::default();
        (share.definitions, recovered.definitions) =
            std::mem::take(&mut recovered.definitions).into_iter().partition(has_our_key);
        let (ours, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut recovered.next_seq).into_iter().partition(|(queue, _)| is_ours(*queue));
        recovered.next_seq = others;
        share.queues =
            ours.into_iter().map(|(queue, next)| (queue, (next, recovered.runs.of(queue).to_vec()))).collect();
        share
    }
}

/// Why streams cannot be opened. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A definition cannot be read.
    #[error("cannot read a definition of the streams: {0}")]
    Definition(#[from] Malformed),
    /// A batch cannot be read.
    #[error("cannot read a batch of topic `{topic}`: {why}")]
    Batch {
        /// Which topic.
        topic: Arc<str>,
        /// Why not.
        why: String,
    },
    /// The journal takes nothing.
    #[error("cannot write: {0}")]
    Append(#[from] AppendError),
}

#[derive(Default)]
struct Notes<'a> {
    topics: Vec<(&'a [u8], &'a [u8])>,
    starts: BTreeMap<QueueId, u64>,
    snapshots: BTreeMap<QueueId, &'a [u8]>,
    /// Chunks of aborted transactions, by their numbers.
    aborted: BTreeMap<QueueId, BTreeMap<u64, &'a [u8]>>,
    /// What nothing speaks of any more.
    stale: Vec<Op>,
    compacted: BTreeMap<QueueId, Compacted>,
    offsets: Offsets,
    groups: Recalled,
    transactions: Transactions,
    /// What was added to open ones, by its numbers.
    additions: BTreeMap<Key, BTreeMap<u64, &'a [u8]>>,
    producer_ids: u64,
    queues: u64,
}

fn queue_of(key: &[u8]) -> Result<QueueId, Malformed> {
    let mut reader = Reader(key.get(1..).ok_or(Malformed)?);
    let queue = QueueId(reader.number()?);
    reader.end().map(|()| queue)
}

impl<'a> Notes<'a> {
    fn read(definitions: &'a [(Box<[u8]>, Box<[u8]>)]) -> Result<Notes<'a>, Malformed> {
        let mut notes = Notes::default();
        for (key, value) in definitions {
            match key.first() {
                Some(&keep::TOPIC) => notes.topics.push((key, value)),
                Some(&keep::START) => drop(notes.starts.insert(queue_of(key)?, Reader(value).number()?)),
                Some(&keep::SNAPSHOT) => drop(notes.snapshots.insert(queue_of(key)?, value)),
                Some(&keep::ABORTED) => {
                    let (queue, number) = keep::read_aborted_key(key)?;
                    notes.aborted.entry(queue).or_default().insert(number, value);
                }
                Some(&keep::COMPACTED) => {
                    notes.compacted.insert(queue_of(key)?, keep::read_compacted(value)?);
                }
                Some(&keep::OFFSET) => notes.offsets.recover(key, value)?,
                Some(&keep::PENDING_OFFSET) => notes.offsets.recover_pending(key, value)?,
                Some(&keep::GROUP) => notes.offsets.standings.recover(key, value)?,
                Some(kind) if keep::GROUPS.contains(kind) => notes.groups.read(&keep::GROUP_KINDS, key, value)?,
                Some(&keep::ADDITION) => {
                    let (vhost, id, number) = keep::read_addition_key(key)?;
                    notes.additions.entry((vhost.into(), id.into())).or_default().insert(number, value);
                }
                Some(&keep::TRANSACTION) => notes.transactions.recover(key, value)?,
                Some(&keep::NUMBERS) => {
                    let mut reader = Reader(value);
                    if reader.number()? != keep::FORMAT {
                        return Err(Malformed);
                    }
                    (notes.producer_ids, notes.queues) = (reader.number()?, reader.number()?);
                }
                _ => return Err(Malformed),
            }
        }
        for (key, all) in std::mem::take(&mut notes.additions) {
            notes.transactions.recover_additions(&key, &all)?;
        }
        Ok(notes)
    }
}

impl Streams {
    /// Puts together what recovery found. `seed`: different at each start.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        journal: Arc<dyn Journal>,
        bodies: Arc<dyn BodyStore>,
        mut share: Share,
        seed: [u8; 16],
    ) -> Result<Streams, OpenError> {
        let definitions = std::mem::take(&mut share.definitions);
        let mut notes = Notes::read(&definitions)?;
        let route: Arc<Route> = Arc::default();
        let shared = Shared::default();
        let mut topics = Topics { queues: notes.queues, ..Topics::default() };
        for (key, value) in std::mem::take(&mut notes.topics) {
            let topic = Arc::new(read_topic((key, value), &mut share, &mut notes, &route, &*bodies)?);
            topics.partitions += topic.partitions().len() as u64;
            topic.partitions().iter().for_each(|c| c.with(|p| p.share(&shared)));
            let queues = |c: &Arc<Cell>| c.with(|p| p.compacted()).map_or(c.queue(), |l| l.queue.max(c.queue()));
            let numbers = topic.partitions().iter().map(|c| queues(c).0 - QUEUES_FROM + 1).max();
            topics.queues = topics.queues.max(numbers.unwrap_or(0));
            topics.by_id.insert(topic.id, Arc::clone(&topic));
            topics.by_name.insert((Arc::clone(&topic.vhost), Arc::clone(&topic.name)), topic);
        }
        // Of topics that were deleted. Their numbers are not used again: recovery may tell of them once more.
        let mut gone: Vec<Op> = share.queues.keys().map(|queue| Op::Forget(*queue)).collect();
        gone.append(&mut notes.stale);
        topics.queues = share.queues.keys().map(|q| q.0 - QUEUES_FROM + 1).fold(topics.queues, u64::max);
        if !gone.is_empty() {
            journal.append(gone)?;
        }
        let producer_ids = ProducerIds { next: notes.producer_ids, reserved: notes.producer_ids, lsn: None };
        Ok(Streams {
            journal,
            bodies,
            route,
            topics: RwLock::new(topics),
            version: AtomicU64::new(0),
            offsets: Mutex::new(notes.offsets),
            kept_groups: Mutex::new(notes.groups),
            offsets_expired: AtomicU64::new(0),
            producer_ids: Mutex::new(producer_ids),
            transactions: Mutex::new(notes.transactions),
            looked_through: AtomicU64::new(0),
            busy: Mutex::default(),
            waits_for: AtomicU64::new(u64::MAX),
            shared,
            seed,
        })
    }

    /// The groups that had members when the node stopped; called once. `seed`: different at each start.
    #[must_use]
    pub fn groups(&self, seed: u64, now: Millis) -> Groups {
        let kept = std::mem::take(&mut *lock(&self.kept_groups));
        Groups::recall(seed, Arc::clone(&self.journal), keep::GROUP_KINDS, kept, now)
    }

    /// Where batches are read.
    #[must_use]
    pub fn bodies(&self) -> &Arc<dyn BodyStore> {
        &self.bodies
    }
}

fn read_topic(
    (key, value): (&[u8], &[u8]),
    share: &mut Share,
    notes: &mut Notes<'_>,
    route: &Arc<Route>,
    bodies: &dyn BodyStore,
) -> Result<Topic, OpenError> {
    let mut k = Reader(key.get(1..).ok_or(Malformed)?);
    let names = (Arc::from(k.text()?), Arc::from(k.text()?));
    k.end()?;
    let mut v = Reader(value);
    if v.number()? != keep::FORMAT {
        return Err(Malformed.into());
    }
    let id = TopicId(v.bytes()?.try_into().map_err(|_| Malformed)?);
    let mut cells = Vec::new();
    for _ in 0..v.count(8)? {
        let queue = QueueId(v.number()?);
        let (next, runs) = share.queues.remove(&queue).unwrap_or_default();
        let start = notes.starts.get(&queue).copied().unwrap_or(0);
        let compacted = notes.compacted.get(&queue).copied();
        let left = compacted.and_then(|c| share.queues.remove(&c.queue)).map_or_else(Vec::new, |(_, runs)| runs);
        let partition = Partition::recovered(queue, Arc::clone(route), &runs, start, next);
        let mut partition = partition.with_compacted(compacted, &left);
        let chunks: Vec<_> = notes.aborted.remove(&queue).unwrap_or_default().into_iter().collect();
        let replay_from = match notes.snapshots.get(&queue) {
            Some(snapshot) => partition.restore(snapshot, &chunks)?,
            None => 0,
        };
        let kept: BTreeSet<u64> = partition.kept_chunks().into_iter().collect();
        let left = chunks.into_iter().map(|(number, _)| number).filter(|number| !kept.contains(number));
        notes.stale.extend(keep::no_aborted(queue, left.collect()));
        replay(&mut partition, replay_from, bodies)
            .map_err(|e| OpenError::Batch { topic: Arc::clone(&names.1), why: e.to_string() })?;
        cells.push(Arc::new(Cell::of(partition)));
    }
    let mut settings = Vec::new();
    for _ in 0..v.count(16)? {
        settings.push((v.text()?, v.text()?));
    }
    v.end()?;
    let config = TopicConfig::parse(settings).map_err(|_| Malformed)?;
    Ok(Topic::new(id, &names, config, cells))
}

/// Reads the batches behind a snapshot.
fn replay(partition: &mut Partition, from: u64, bodies: &dyn BodyStore) -> std::io::Result<()> {
    for (queue, place) in partition.places_from(from) {
        let loaded = bodies.load(queue, place, 1)?;
        let body = loaded.batch.body(loaded.from);
        let (batch, _) = Batch::split(body).map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e))?;
        partition.replay(&batch);
    }
    Ok(())
}
