//! The core's port to the log: what is appended, and when it may be believed.
//!
//! The broker hands in operations while it holds the shard that they concern, so that the order of operations of one
//! shard in the journal is the order in which they happened. An append is a ticket, not a promise: what it holds is on
//! disk once [`Journal::durable`] has reached the ticket.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::batch::Batch;
use crate::ids::{Lsn, Millis, QueueId, SHARDS, Seq};
use crate::message::{Attrs, Route, SeqRange};

/// One operation of an append. An append is atomic: after a crash all of it is there, or nothing.
#[derive(Clone, Debug)]
pub enum Op {
    /// Messages enter queues.
    Enqueue(Enqueue),
    /// Messages leave a queue for good: acknowledged, expired, dropped, purged, dead-lettered elsewhere. Settling what
    /// is unknown or already settled is harmless.
    Settle(SeqRange),
    /// A message went back to its queue: after a restart its count of deliveries is at least this.
    Requeued {
        /// Which messages.
        range: SeqRange,
        /// How many deliveries have failed so far.
        delivery_count: u32,
    },
    /// A queue is gone with all that it held.
    Forget(QueueId),
    /// A definition takes a value, or is gone (`None`). The last value per key counts. Keys sort by kind.
    Define {
        /// At most 4 KiB.
        key: Box<[u8]>,
        /// At most 16 MiB.
        value: Option<Box<[u8]>>,
    },
}

/// Messages `from..to` of a batch enter one or more queues (of one shard or of several).
#[derive(Clone, Debug)]
pub struct Enqueue {
    /// The queues, with the place that the first message takes in each; the others follow. At least one.
    pub targets: Box<[(QueueId, Seq)]>,
    /// The bytes.
    pub batch: Arc<Batch>,
    /// First message of the batch.
    pub from: u32,
    /// One behind the last.
    pub to: u32,
    /// Where they were published to.
    pub route: Arc<Route>,
    /// What they are.
    pub attrs: Attrs,
    /// When they came: times to live count from here.
    pub at: Millis,
}

/// Why an append was refused. Nothing of it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No room for messages; settlements are still taken.
    #[error("the disk is full")]
    Full,
    /// The journal stopped after a failed write or sync; nothing is taken any more.
    #[error("the journal has stopped after an i/o error")]
    Stopped,
    /// Another owner has taken over (remote logs).
    #[error("another node owns this shard now")]
    Fenced,
}

/// A place in the scratch log of transient messages. Meaningless after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpillRef {
    /// Which scratch segment.
    pub segment: u64,
    /// Offset in it, bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u32,
}

/// The log of a node, as the core sees it.
pub trait Journal: Send + Sync {
    /// Takes an append and returns its ticket without waiting for the disk. Several threads may call at once.
    ///
    /// # Errors
    /// [`AppendError`]: nothing was taken. With [`AppendError::Full`] an append of only [`Op::Settle`],
    /// [`Op::Requeued`], [`Op::Forget`] and [`Op::Define`] is still taken.
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError>;

    /// The same, of what nobody waits for before [`Journal::hurry`], which must follow soon and in any case: so what comes
    /// together becomes one commit. A journal that is late with its commits, or has gathered much, need not wait for that.
    ///
    /// # Errors
    /// As [`Journal::append`].
    fn append_unhurried(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        self.append(ops)
    }

    /// From now on somebody waits for what was appended unhurried, whoever did that.
    fn hurry(&self) {}

    /// Whether messages of that many bytes would be taken now: asked before something begins that cannot be undone.
    ///
    /// # Errors
    /// What [`Journal::append`] would say.
    fn room(&self, _bytes: u64) -> Result<(), AppendError> {
        Ok(())
    }

    /// Whether definitions would be taken now: asked before something is altered that cannot be taken back.
    ///
    /// # Errors
    /// What [`Journal::append`] would say.
    fn room_for_definitions(&self) -> Result<(), AppendError> {
        Ok(())
    }

    /// Takes the ticket of an append whose operations follow by [`Journal::fill`]: the parts of a transaction, which
    /// several shards hand in one after the other, become one append in this way. Until it is filled the watermark
    /// cannot pass the ticket, so it must be filled soon, and in any case.
    fn reserve(&self) -> Lsn;

    /// Hands in the operations of a reserved ticket; none at all is allowed. They are taken also when the disk is full:
    /// what they say has happened already. Ask [`Journal::room`] before.
    ///
    /// # Errors
    /// As [`Journal::append`], but for [`AppendError::Full`]; the ticket counts as filled with nothing then.
    fn fill(&self, ticket: Lsn, ops: Vec<Op>) -> Result<(), AppendError>;

    /// The watermark: every append up to it is on disk.
    fn durable(&self) -> Lsn;

    /// Writes messages to the scratch log, without a sync. May block for as long as a buffered write does.
    ///
    /// # Errors
    /// Any I/O error; the caller keeps the messages in memory then.
    fn spill(&self, batch: &Batch, from: u32, to: u32) -> std::io::Result<SpillRef>;

    /// Says that nobody needs a spilled range any more.
    fn release_spill(&self, at: SpillRef);
}

/// Messages read back: consecutive places of a queue, beginning with the one asked for.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The bytes.
    pub batch: Arc<Batch>,
    /// The first message asked for, in the batch.
    pub from: u32,
    /// One behind the last that is consecutive (at most as many as were asked for).
    pub to: u32,
}

/// The body of a message that was read, in a buffer that it may share with others.
#[derive(Clone)]
pub struct LoadedBody {
    buffer: Arc<dyn AsRef<[u8]> + Send + Sync>,
    at: Range<usize>,
}

impl LoadedBody {
    /// These bytes of a buffer; none if they do not lie inside.
    #[must_use]
    pub fn new(buffer: Arc<dyn AsRef<[u8]> + Send + Sync>, at: Range<usize>) -> LoadedBody {
        LoadedBody { buffer, at }
    }

    /// The body of message `i` of a batch.
    ///
    /// # Panics
    /// If there is no message `i`.
    #[must_use]
    pub fn of(batch: &Arc<Batch>, i: u32) -> LoadedBody {
        struct Whole(Arc<Batch>);
        impl AsRef<[u8]> for Whole {
            fn as_ref(&self) -> &[u8] {
                self.0.data()
            }
        }
        LoadedBody { buffer: Arc::new(Whole(Arc::clone(batch))), at: batch.body_range(i) }
    }
}

impl AsRef<[u8]> for LoadedBody {
    fn as_ref(&self) -> &[u8] {
        (*self.buffer).as_ref().get(self.at.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for LoadedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoadedBody({} bytes)", self.at.len())
    }
}

/// Reads bodies that do not live in memory. Blocking; never called while a shard is held.
pub trait BodyStore: Send + Sync {
    /// Messages of a queue from `first` on, at least one and at most `count`; call again for the rest.
    ///
    /// # Errors
    /// Any I/O error, `NotFound` if the message is not stored, `InvalidData` if its checksum is wrong.
    fn load(&self, queue: QueueId, first: Seq, count: u32) -> std::io::Result<Loaded>;

    /// The bodies of messages, in the order in which they are asked for; those that lie close together are read together. Fewer
    /// come back if one of them cannot be read: ask for it again to learn why.
    ///
    /// # Errors
    /// As [`BodyStore::load`], of the first one.
    fn load_bodies(&self, places: &[(QueueId, Seq)]) -> std::io::Result<Vec<LoadedBody>> {
        let mut bodies = Vec::with_capacity(places.len());
        for (queue, place) in places {
            match self.load(*queue, *place, 1) {
                Ok(loaded) => bodies.push(LoadedBody::of(&loaded.batch, loaded.from)),
                Err(e) if bodies.is_empty() => return Err(e),
                Err(_) => break,
            }
        }
        Ok(bodies)
    }

    /// Those first of them that the disk need not be asked for.
    fn bodies_at_hand(&self, _places: &[(QueueId, Seq)]) -> Vec<LoadedBody> {
        Vec::new()
    }

    /// Reads some of them, the first ones, for whoever will ask for them next, and says how many are at hand now. None if there
    /// is no room, or nothing to be gained.
    fn read_ahead(&self, _places: &[(QueueId, Seq)]) -> usize {
        0
    }

    /// A spilled range, whole.
    ///
    /// # Errors
    /// Any I/O error.
    fn load_spilled(&self, at: SpillRef) -> std::io::Result<Arc<Batch>>;
}

/// What recovery found of one queue's messages: a range with equal facts. In order of [`Seq`] per queue.
#[derive(Clone, Debug)]
pub struct RecoveredRun {
    /// Which messages.
    pub range: SeqRange,
    /// Where they were published to.
    pub route: Arc<Route>,
    /// What they are.
    pub attrs: Attrs,
    /// When they came.
    pub at: Millis,
    /// Failed deliveries before the restart.
    pub delivery_count: u32,
    /// Bytes of properties and bodies together.
    pub payload_bytes: u64,
}

/// The messages that recovery found.
#[derive(Debug, Default)]
pub struct RecoveredRuns {
    /// By shard; in each sorted by queue and place.
    shards: Vec<Vec<RecoveredRun>>,
}

impl RecoveredRuns {
    /// Runs by their queue's shard, in each shard sorted by queue and place.
    #[must_use]
    pub fn new(shards: Vec<Vec<RecoveredRun>>) -> RecoveredRuns {
        debug_assert!(shards.iter().all(|s| s.is_sorted_by_key(|r| (r.range.queue, r.range.first))));
        debug_assert!(
            shards.iter().enumerate().all(|(n, s)| s.iter().all(|r| usize::from(r.range.queue.shard().0) == n))
        );
        RecoveredRuns { shards }
    }

    /// A queue's runs, in order of their places.
    #[must_use]
    pub fn of(&self, queue: QueueId) -> &[RecoveredRun] {
        let runs = self.shards.get(usize::from(queue.shard().0)).map_or(&[][..], |s| s);
        let from = runs.partition_point(|r| r.range.queue < queue);
        let to = runs.partition_point(|r| r.range.queue <= queue);
        &runs[from..to]
    }

    /// All runs, queue by queue, and in order of their places there.
    pub fn iter(&self) -> std::iter::Flatten<std::slice::Iter<'_, Vec<RecoveredRun>>> {
        self.shards.iter().flatten()
    }

    /// How many runs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(Vec::len).sum()
    }

    /// Whether there is no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromIterator<RecoveredRun> for RecoveredRuns {
    fn from_iter<I: IntoIterator<Item = RecoveredRun>>(runs: I) -> RecoveredRuns {
        let mut shards = vec![Vec::new(); SHARDS];
        for run in runs {
            shards[usize::from(run.range.queue.shard().0)].push(run);
        }
        for shard in &mut shards {
            shard.sort_by_key(|r| (r.range.queue, r.range.first));
        }
        RecoveredRuns::new(shards)
    }
}

impl<'a> IntoIterator for &'a RecoveredRuns {
    type Item = &'a RecoveredRun;
    type IntoIter = std::iter::Flatten<std::slice::Iter<'a, Vec<RecoveredRun>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What recovery found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The definitions, sorted by key.
    pub definitions: Vec<(Box<[u8]>, Box<[u8]>)>,
    /// The messages.
    pub runs: RecoveredRuns,
    /// Per queue that ever had a message logged and was not forgotten: the lowest place that was never given out in
    /// the journal. Sorted by queue.
    pub next_seq: Vec<(QueueId, Seq)>,
    /// Whether the last stop was clean; else every message is flagged redelivered.
    pub clean: bool,
}
