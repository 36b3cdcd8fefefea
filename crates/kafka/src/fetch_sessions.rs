//! Fetch sessions: a client names its partitions once, then only what changes, and hears only of what has changed.
//! KIP-227.
//!
//! Sessions outlive their connection and belong to whoever began them. There are at most [`SESSIONS_MAX`]; when they are
//! all in use, one that rests gives way, or a small one to a large one. Who gets none fetches as without.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fetch::{FetchedPartition, FetchedTopic};
use crate::messages::records::{FetchPartition, FetchRequest, FetchTopic};
use crate::wire::Uuid;

/// Most sessions of a node, as Kafka's `max.incremental.fetch.session.cache.slots` has it by default.
pub const SESSIONS_MAX: usize = 1_000;
/// Most partitions of all sessions together.
pub const PARTITIONS_MAX: usize = 500_000;
/// For so long, in milliseconds, a session is not taken from its client: Kafka's
/// `min.incremental.fetch.session.eviction.ms`.
pub const KEPT_MS: u64 = 120_000;
/// Longer names are no topic's, and not remembered.
const NAME_MAX: usize = 249;
/// The epoch of a request without session, and of one that ends its session.
const FINAL_EPOCH: i32 = -1;
/// The epoch of a request that begins a session.
const FIRST_EPOCH: i32 = 0;

/// Why a session does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionFault {
    /// There is none of this id, or it is another's.
    #[error("there is no such fetch session")]
    Unknown,
    /// A request before was lost, or this one came twice.
    #[error("the request is not the next of its fetch session")]
    Epoch,
    /// Topics by name in a session of topics by id, or the reverse.
    #[error("the fetch session names topics the other way")]
    TopicIds,
}

/// A partition of a session: by id or by name, the other being empty.
type Key = (Uuid, Arc<str>, i32);

/// What of a partition the client was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    high_watermark: i64,
    last_stable_offset: i64,
    log_start_offset: i64,
}

#[derive(Debug)]
struct Entry {
    leader_epoch: i32,
    offset: i64,
    bytes_max: i32,
    /// Nothing yet, or an error, after which all is told anew.
    told: Option<Told>,
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    by_id: bool,
    entries: BTreeMap<Key, Entry>,
    /// The last partition that had records: the next answer begins behind it, so that all have their turn.
    served: Option<Key>,
}

#[derive(Debug)]
struct Slot {
    owner: Box<str>,
    session: Arc<Mutex<Session>>,
    partitions: usize,
    made_ms: u64,
    used_ms: u64,
}

#[derive(Debug, Default)]
struct Slots {
    by_id: BTreeMap<i32, Slot>,
    partitions: usize,
    made: u64,
}

/// All sessions of a node.
#[derive(Debug)]
pub struct FetchSessions {
    slots: Mutex<Slots>,
    seed: u64,
}

/// A fetch under way.
#[derive(Debug)]
pub struct Fetching {
    /// What is wanted, in the order in which it is to be looked for.
    pub topics: Vec<FetchTopic>,
    session: Option<(i32, Arc<Mutex<Session>>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FetchSessions {
    /// None yet. `seed`: different at each start, so that ids of before are not taken for new ones.
    #[must_use]
    pub fn new(seed: u64) -> FetchSessions {
        FetchSessions { slots: Mutex::default(), seed }
    }

    /// What a request wants, together with what was said before. Its lists are taken out of it.
    ///
    /// # Errors
    /// [`SessionFault`]: the client is to begin anew.
    pub fn begin(
        &self,
        owner: &str,
        by_id: bool,
        request: &mut FetchRequest,
        now_ms: u64,
    ) -> Result<Fetching, SessionFault> {
        let mut topics = std::mem::take(&mut request.topics);
        once(&mut topics);
        match request.session_epoch {
            FINAL_EPOCH | FIRST_EPOCH => {
                if request.session_id != 0 {
                    lock(&self.slots).remove_of(request.session_id, owner);
                }
                let begins = request.session_epoch == FIRST_EPOCH;
                let session = if begins { self.open(owner, by_id, &topics, now_ms) } else { None };
                Ok(Fetching { topics, session })
            }
            _ => self.go_on(owner, by_id, request, &topics, now_ms),
        }
    }

    fn open(&self, owner: &str, by_id: bool, topics: &[FetchTopic], now_ms: u64) -> Option<(i32, Arc<Mutex<Session>>)> {
        let mut session = Session { epoch: 1, by_id, entries: BTreeMap::new(), served: None };
        session.put(topics);
        let partitions = session.entries.len();
        let mut slots = lock(&self.slots);
        if partitions == 0 || !slots.make_room(partitions, now_ms) {
            return None;
        }
        let id = slots.new_id(self.seed);
        let session = Arc::new(Mutex::new(session));
        slots.partitions += partitions;
        let owner = owner.into();
        let slot = Slot { owner, session: Arc::clone(&session), partitions, made_ms: now_ms, used_ms: now_ms };
        slots.by_id.insert(id, slot);
        Some((id, session))
    }

    fn go_on(
        &self,
        owner: &str,
        by_id: bool,
        request: &FetchRequest,
        topics: &[FetchTopic],
        now_ms: u64,
    ) -> Result<Fetching, SessionFault> {
        let mut slots = lock(&self.slots);
        let slot = slots.by_id.get_mut(&request.session_id).filter(|s| *s.owner == *owner);
        let slot = slot.ok_or(SessionFault::Unknown)?;
        slot.used_ms = now_ms;
        let (shared, before) = (Arc::clone(&slot.session), slot.partitions);
        // A session is never held for longer than it takes to look through its partitions.
        let mut session = lock(&shared);
        if session.epoch != request.session_epoch {
            return Err(SessionFault::Epoch);
        }
        if session.by_id != by_id {
            return Err(SessionFault::TopicIds);
        }
        session.put(topics);
        for topic in &request.forgotten_topics_data {
            let name: Arc<str> = Arc::from(&*topic.topic);
            for partition in &topic.partitions {
                session.entries.remove(&(topic.topic_id, Arc::clone(&name), *partition));
            }
        }
        session.epoch = session.epoch.checked_add(1).unwrap_or(1);
        let partitions = session.entries.len();
        slot.partitions = partitions;
        slots.partitions = slots.partitions.saturating_sub(before).saturating_add(partitions);
        if partitions == 0 || slots.partitions > PARTITIONS_MAX {
            slots.remove_of(request.session_id, owner);
            // One that grew out of all bounds begins anew, without.
            return if partitions == 0 {
                Ok(Fetching { topics: Vec::new(), session: None })
            } else {
                Err(SessionFault::Unknown)
            };
        }
        drop(slots);
        let topics = session.wanted();
        drop(session);
        Ok(Fetching { topics, session: Some((request.session_id, shared)) })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.slots).by_id.len()
    }
}

/// Of partitions that are named twice only the first counts: each may come with a long list of what was aborted in it.
fn once(topics: &mut [FetchTopic]) {
    if topics.iter().map(|t| t.partitions.len()).sum::<usize>() < 2 {
        return;
    }
    let mut seen = BTreeSet::new();
    for topic in topics {
        let name: Arc<str> = Arc::from(&*topic.topic);
        topic.partitions.retain(|p| seen.insert((topic.topic_id, Arc::clone(&name), p.partition)));
    }
}

impl Fetching {
    /// What of an answer the client has not heard yet, and the id of its session; 0 for none.
    #[must_use]
    pub fn finish(&self, topics: Vec<FetchedTopic>) -> (i32, Vec<FetchedTopic>) {
        let Some((id, session)) = &self.session else { return (0, topics) };
        let mut session = lock(session);
        let news = topics.into_iter().filter_map(|mut topic| {
            let (topic_id, name) = (if session.by_id { topic.id } else { Uuid::ZERO }, Arc::from(&*topic.name));
            topic.partitions.retain(|p| session.is_news(&(topic_id, Arc::clone(&name), p.index), p));
            (!topic.partitions.is_empty()).then_some(topic)
        });
        (*id, news.collect())
    }
}

impl Session {
    fn put(&mut self, topics: &[FetchTopic]) {
        for topic in topics.iter().filter(|t| t.topic.len() <= NAME_MAX) {
            let name: Arc<str> = Arc::from(&*topic.topic);
            for p in &topic.partitions {
                let key = (topic.topic_id, Arc::clone(&name), p.partition);
                let told = self.entries.get(&key).and_then(|e| e.told);
                let (leader_epoch, offset, bytes_max) = (p.current_leader_epoch, p.fetch_offset, p.partition_max_bytes);
                self.entries.insert(key, Entry { leader_epoch, offset, bytes_max, told });
            }
        }
    }

    /// All partitions, beginning behind the one that was served last.
    fn wanted(&self) -> Vec<FetchTopic> {
        let (behind, before) = match &self.served {
            None => (self.entries.range::<Key, _>(..), None),
            Some(served) => {
                let behind = self.entries.range((Excluded(served), Unbounded));
                (behind, Some(self.entries.range(..=served)))
            }
        };
        let mut topics: Vec<FetchTopic> = Vec::new();
        for ((id, name, number), entry) in behind.chain(before.into_iter().flatten()) {
            let partition = FetchPartition {
                partition: *number,
                current_leader_epoch: entry.leader_epoch,
                fetch_offset: entry.offset,
                partition_max_bytes: entry.bytes_max,
                ..FetchPartition::default()
            };
            match topics.last_mut().filter(|t| t.topic_id == *id && *t.topic == **name) {
                Some(topic) => topic.partitions.push(partition),
                None => {
                    topics.push(FetchTopic { topic: (**name).into(), topic_id: *id, partitions: vec![partition] });
                }
            }
        }
        topics
    }

    /// Whether the client has not been told this; from now on it has.
    fn is_news(&mut self, key: &Key, found: &FetchedPartition) -> bool {
        let has_records = found.records.iter().any(|r| !r.is_empty());
        let told = (found.error_code == 0).then_some(Told {
            high_watermark: found.high_watermark,
            last_stable_offset: found.last_stable_offset,
            log_start_offset: found.log_start_offset,
        });
        let Some(entry) = self.entries.get_mut(key) else { return true };
        let changed = told.is_none() || entry.told != told;
        entry.told = told;
        if has_records {
            self.served = Some(key.clone());
        }
        has_records || changed
    }
}

impl Slots {
    fn remove_of(&mut self, id: i32, owner: &str) {
        if self.by_id.get(&id).is_some_and(|slot| *slot.owner == *owner) {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: i32) {
        if let Some(slot) = self.by_id.remove(&id) {
            self.partitions = self.partitions.saturating_sub(slot.partitions);
        }
    }

    /// Whether there is room for another session, if need be in the place of one that rests or is smaller.
    fn make_room(&mut self, partitions: usize, now_ms: u64) -> bool {
        let over = |slots: &Slots| slots.partitions.saturating_add(partitions) > PARTITIONS_MAX;
        if partitions > PARTITIONS_MAX {
            return false;
        }
        while self.by_id.len() >= SESSIONS_MAX || over(self) {
            let old = |since: u64| since.saturating_add(KEPT_MS) <= now_ms;
            let resting = self.by_id.iter().filter(|(_, s)| old(s.used_ms)).min_by_key(|(_, s)| s.used_ms);
            let smallest = || {
                let smaller = self.by_id.iter().filter(|(_, s)| old(s.made_ms) && s.partitions < partitions);
                smaller.min_by_key(|(_, s)| (s.partitions, s.used_ms))
            };
            let Some(id) = resting.or_else(smallest).map(|(id, _)| *id) else { return false };
            self.remove(id);
        }
        true
    }

    /// An id that no session has, above 0.
    fn new_id(&mut self, seed: u64) -> i32 {
        loop {
            self.made = self.made.wrapping_add(1);
            // SplitMix64.
            let mut mixed = seed.wrapping_add(self.made.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let id = i32::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap_or(0);
            if id > 0 && !self.by_id.contains_key(&id) {
                return id;
            }
        }
    }
}
