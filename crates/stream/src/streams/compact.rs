//! Compaction: of every key the latest record is kept, and records without a key or of aborted transactions go.
//!
//! A pass over a partition reads what no pass has seen and notes the latest offset of every key. Then it reads everything
//! before its end again and writes what is left to a new queue, which takes the old one's place in one append. What has
//! more keys than a pass may note is compacted in several passes. The last batch of the log never goes as a whole.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;

use waypost_model::journal::{AppendError, Op};
use waypost_model::seeded::Seeded;
use waypost_model::{Batch as Messages, BatchBuilder, Millis, QueueId};

use super::{Cell, Streams, Topic, keep, lock, open};
use crate::batch::Batch;
use crate::config::TopicConfig;
use crate::filter::{Left, filter};
use crate::partition::{Aborted, Compacted, Entry, NO_PROPERTIES, Piece, Plan, Replacement};
use crate::records::{Record, Records};

/// Keys of which a pass notes the latest offset: about 64 MiB. The rest waits for the next pass.
pub const KEYS_MAX: usize = 1 << 20;
/// Bytes that are handed to the journal at once.
const APPEND_BYTES: usize = 1 << 20;

/// Why a partition is not compacted. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CompactFault {
    /// A batch cannot be read.
    #[error("cannot read a batch: {0}")]
    Read(#[from] io::Error),
    /// The journal takes nothing.
    #[error("cannot write: {0}")]
    Append(#[from] AppendError),
    /// The server stops.
    #[error("the server stops")]
    Stopping,
}

/// The latest offset of each key. Keys are known by 128 bits of a hash that nobody outside can foresee.
struct Latest {
    hashers: [Seeded; 2],
    offsets: HashMap<u128, i64>,
}

impl Latest {
    fn new(seed: [u8; 16]) -> Latest {
        let seed = u128::from_be_bytes(seed);
        Latest { hashers: [Seeded(seed as u64), Seeded((seed >> 64) as u64)], offsets: HashMap::new() }
    }

    fn hash(&self, key: &[u8]) -> u128 {
        let [low, high] = self.hashers.map(|h| u128::from(h.hash_one(key)));
        high << 64 | low
    }

    /// Notes a record, unless so many keys are noted already.
    fn note(&mut self, record: &Record, keys_max: usize) {
        let Some(key) = &record.key else { return };
        let hash = self.hash(key);
        if self.offsets.len() < keys_max || self.offsets.contains_key(&hash) {
            self.offsets.insert(hash, record.offset);
        }
    }

    /// Whether no later record of the same key was noted. Of keys that are not noted every record stays.
    fn is_latest(&self, record: &Record) -> bool {
        let Some(key) = &record.key else { return false };
        self.offsets.get(&self.hash(key)).is_none_or(|latest| record.offset >= *latest)
    }
}

/// Aborted transactions by their producers: there may be as many of them as batches, and each batch is looked for. Those of
/// one producer do not overlap; the last offset of each by its first.
struct AbortedBy(BTreeMap<i64, BTreeMap<u64, u64>>);

impl AbortedBy {
    fn new(all: &[Aborted]) -> AbortedBy {
        let mut by: BTreeMap<i64, BTreeMap<u64, u64>> = BTreeMap::new();
        for a in all {
            by.entry(a.producer_id).or_default().insert(a.first, a.last);
        }
        AbortedBy(by)
    }

    fn has(&self, batch: &Batch<'_>) -> bool {
        batch.is_transactional() && self.covers(batch.producer_id(), batch.base_offset().unsigned_abs())
    }

    fn covers(&self, producer_id: i64, offset: u64) -> bool {
        let before = self.0.get(&producer_id).and_then(|all| all.range(..=offset).next_back());
        before.is_some_and(|(_, last)| offset <= *last)
    }
}

/// One pass over one partition.
struct Pass<'a> {
    streams: &'a Streams,
    stopping: &'a dyn Fn() -> bool,
    cell: &'a Cell,
    plan: Plan,
    aborted: AbortedBy,
    latest: Latest,
    /// Records without a value that are seen for the first time may go from then on.
    horizon: i64,
    /// Those that may go now.
    now: i64,
    /// Markers written before this may go.
    markers_before: i64,
}

impl Streams {
    /// Compacts what is due, one partition after the other, until `stopping` says so; how many were. Blocks for as long as
    /// the disk takes. Partitions that could not be compacted are told to `failed`.
    pub fn compact(
        &self,
        now: Millis,
        stopping: &dyn Fn() -> bool,
        mut failed: impl FnMut(&Topic, CompactFault),
    ) -> usize {
        let topics: Vec<Arc<Topic>> = self.read().by_name.values().cloned().collect();
        let mut done = 0;
        for topic in topics {
            let config = topic.config();
            let cells = if config.compacts { topic.partitions() } else { Arc::default() };
            for cell in cells.iter() {
                match self.compact_partition(cell, &config, now, (KEYS_MAX, stopping)) {
                    Ok(compacted) => done += usize::from(compacted),
                    Err(CompactFault::Stopping) => return done,
                    Err(fault) => failed(&topic, fault),
                }
            }
        }
        done
    }

    pub(super) fn compact_partition(
        &self,
        cell: &Cell,
        config: &TopicConfig,
        now: Millis,
        (keys_max, stopping): (usize, &dyn Fn() -> bool),
    ) -> Result<bool, CompactFault> {
        let Some(plan) = cell.with(|p| p.compaction(config, now, self.journal.durable())) else { return Ok(false) };
        let at = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let retention = config.compaction.delete_retention_ms;
        let mut pass = Pass {
            streams: self,
            stopping,
            cell,
            aborted: AbortedBy::new(&plan.aborted),
            plan,
            latest: Latest::new(self.seed),
            horizon: at(now.0.saturating_add(retention)),
            now: at(now.0),
            markers_before: at(now.0.saturating_sub(retention)),
        };
        pass.note_keys(keys_max)?;
        let queue = self.new_queue()?;
        let replaced = pass.write(queue).and_then(|entries| pass.replace(queue, entries));
        if replaced.is_err() {
            // What cannot be forgotten now is forgotten at the next start: nothing points to it.
            let _ = self.journal.append(vec![Op::Forget(queue)]);
        }
        replaced
    }

    /// The number of a queue that never was.
    fn new_queue(&self) -> Result<QueueId, AppendError> {
        let mut topics = self.write();
        let ids = lock(&self.producer_ids);
        let number = topics.queues;
        self.journal.append(vec![keep::numbers(ids.reserved, number + 1)])?;
        topics.queues = number + 1;
        Ok(QueueId(open::QUEUES_FROM + number))
    }
}

impl Pass<'_> {
    fn goes_on(&self) -> Result<(), CompactFault> {
        if (self.stopping)() { Err(CompactFault::Stopping) } else { Ok(()) }
    }

    fn load(&self, entry: Entry, queue: QueueId) -> io::Result<(Arc<Messages>, u32)> {
        let piece = Piece::Stored(queue, waypost_model::Seq(entry.last));
        self.cell.load(&piece, &*self.streams.bodies)
    }

    /// Notes the latest offsets of keys. What does not fit is left to the next pass, but for the first batch.
    fn note_keys(&mut self, keys_max: usize) -> Result<(), CompactFault> {
        let dirty = self.plan.batches.partition_point(|(e, _)| e.last < self.plan.dirty_from);
        for at in dirty..self.plan.batches.len() {
            if self.latest.offsets.len() >= keys_max && at > dirty {
                self.plan.batches.truncate(at);
                break;
            }
            let Some(&(entry, queue)) = self.plan.batches.get(at) else { break };
            self.goes_on()?;
            let (messages, from) = self.load(entry, queue)?;
            let batch = Batch::split(messages.body(from)).map_err(invalid)?.0;
            if batch.is_control() || self.aborted.has(&batch) {
                continue;
            }
            // What cannot be read stays as it is, and replaces nothing. Read twice, since all records of a batch that
            // compresses well may be far more than there is memory for.
            if Records::of(&batch).and_then(|mut all| all.try_for_each(|r| r.map(drop))).is_err() {
                continue;
            }
            for record in Records::of(&batch)? {
                self.latest.note(&record?, keys_max.saturating_mul(2));
            }
        }
        Ok(())
    }

    /// Writes what is left of the batches to `queue`.
    fn write(&self, queue: QueueId) -> Result<Vec<Entry>, CompactFault> {
        let (mut entries, mut ops, mut bytes) = (Vec::new(), Vec::new(), 0);
        for &(entry, from) in &self.plan.batches {
            self.goes_on()?;
            let Some((time, part)) = self.left_of(entry, from)? else { continue };
            let length = part.0.body_range(part.1).len();
            let entry = Entry { time, bytes: u32::try_from(length).unwrap_or(u32::MAX), ..entry };
            ops.push(self.cell.with(|p| p.message_of(queue, entry, part)));
            entries.push(entry);
            bytes += length;
            if bytes >= APPEND_BYTES {
                self.streams.journal.append(std::mem::take(&mut ops))?;
                bytes = 0;
            }
        }
        if !ops.is_empty() {
            self.streams.journal.append(ops)?;
        }
        Ok(entries)
    }

    /// What is left of a batch, and its time.
    fn left_of(&self, entry: Entry, queue: QueueId) -> io::Result<Option<(Millis, (Arc<Messages>, u32))>> {
        let (messages, from) = match self.load(entry, queue) {
            // Retention was faster.
            Err(_) if self.cell.with(|p| p.offsets().start) > entry.last => return Ok(None),
            loaded => loaded?,
        };
        let batch = Batch::split(messages.body(from)).map_err(invalid)?.0;
        // Without the last batch, who reads up to the end of the log would never get there.
        let is_end = entry.last + 1 >= self.plan.end;
        let gone = match batch.is_control() {
            true => batch.max_timestamp() < self.markers_before,
            false => self.aborted.has(&batch),
        };
        if gone && !is_end {
            return Ok(None);
        }
        let forgets = batch.delete_horizon().is_some_and(|at| at <= self.now);
        let stays = |r: &Record| self.latest.is_latest(r) && !(forgets && r.value.is_none());
        let left = if batch.is_control() { Ok(Left::All) } else { filter(&batch, self.horizon, stays) };
        Ok(match left {
            Ok(Left::Nothing) if !is_end => None,
            Ok(Left::Some(bytes)) => {
                let time = Batch::split(&bytes).map_err(invalid)?.0.max_timestamp();
                let mut message = BatchBuilder::with_capacity(NO_PROPERTIES.len() + bytes.len(), 1);
                message.push(&NO_PROPERTIES, &bytes);
                let time = u64::try_from(time).map_or(entry.time, Millis);
                Some((time, (Arc::new(message.finish()), 0)))
            }
            Ok(Left::All | Left::Nothing) | Err(_) => Some((entry.time, (messages, from))),
        })
    }

    fn replace(&self, queue: QueueId, entries: Vec<Entry>) -> Result<bool, CompactFault> {
        let Some((last, _)) = self.plan.batches.last() else { return Ok(false) };
        let replacement = Replacement { compacted: Compacted { queue, upto: last.last + 1 }, entries };
        // A topic is not deleted meanwhile.
        let topics = self.streams.read();
        if self.cell.is_closed() {
            self.streams.journal.append(vec![Op::Forget(queue)])?;
            return Ok(false);
        }
        let own = self.cell.queue();
        let define = |compacted, snapshot| {
            let mut ops = keep::snapshot(own, snapshot);
            ops.push(keep::compacted(own, compacted));
            ops
        };
        let replaced = self.cell.with(|p| p.replace(replacement, define, &*self.streams.journal));
        drop(topics);
        replaced?;
        Ok(true)
    }
}

fn invalid(e: crate::batch::BatchError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_aborted_is_found_between_its_first_record_and_its_marker() {
        let of = |producer_id, first, last| Aborted { producer_id, first, last };
        let by = AbortedBy::new(&[of(1, 5, 9), of(2, 6, 20), of(1, 12, 12)]);
        let covered = |id: i64| (0..30).filter(|offset| by.covers(id, *offset)).collect::<Vec<u64>>();
        assert_eq!(covered(1), [5, 6, 7, 8, 9, 12]);
        assert_eq!((covered(2), covered(3)), ((6..=20).collect(), vec![]));
    }
}
