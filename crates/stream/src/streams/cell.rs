//! A partition among others: behind a lock, with those who wait for more of it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use waypost_model::journal::{AppendError, BodyStore, Journal};
use waypost_model::{Batch as Messages, Lsn, Millis, QueueId, Route};

use super::{keep, lock};
use crate::batch::BatchError;
use crate::config::TopicConfig;
use crate::partition::{AppendFault, Appended, OutOfRange, Packed, Partition, Piece};
use crate::records;

/// A snapshot is due after so many batches.
const SNAPSHOT_BATCHES: u32 = 1024;
/// A partition that nobody has used for so long keeps no batches in memory.
const REST_AFTER_MS: u64 = 30_000;
/// Producers that were silent for so long are forgotten.
const PRODUCER_MS: u64 = 86_400_000;

/// Why records are not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeleteFault {
    /// There are not so many.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The journal takes nothing; they are out of sight, and will be removed later.
    #[error(transparent)]
    Journal(#[from] AppendError),
}

/// Who is to be woken. Those that wait no longer take themselves off: an idle partition remembers nobody who is gone.
#[derive(Debug, Default)]
struct Waiting {
    wakers: BTreeMap<u64, Waker>,
    next: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Cell {
    queue: QueueId,
    partition: Mutex<Partition>,
    /// Rises whenever more is visible, or the topic is gone.
    grown: AtomicU64,
    waiting: Mutex<Waiting>,
    enlisted: AtomicBool,
    closed: AtomicBool,
    /// Its topic is about to be deleted: what is appended behind that nobody would remove. Changed and looked at while the
    /// partition is held.
    goes: AtomicBool,
    used: AtomicU64,
}

impl Cell {
    pub(super) fn new(queue: QueueId, route: Arc<Route>) -> Cell {
        Cell::of(Partition::new(queue, route))
    }

    pub(super) fn of(partition: Partition) -> Cell {
        Cell {
            queue: partition.queue(),
            partition: Mutex::new(partition),
            grown: AtomicU64::new(0),
            waiting: Mutex::default(),
            enlisted: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            goes: AtomicBool::new(false),
            used: AtomicU64::new(0),
        }
    }

    /// The queue of the journal that holds it.
    #[must_use]
    pub fn queue(&self) -> QueueId {
        self.queue
    }

    /// Does something with the partition while it is held.
    pub fn with<R>(&self, f: impl FnOnce(&mut Partition) -> R) -> R {
        f(&mut lock(&self.partition))
    }

    /// Holds the partition. Whoever holds several has taken them in order of their queues.
    pub(super) fn hold(&self) -> MutexGuard<'_, Partition> {
        lock(&self.partition)
    }

    /// Whether its topic was deleted.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Appends a batch, unhurried. [`super::Streams::appended`] is to be told.
    pub(super) fn append(
        &self,
        packed: Packed,
        config: &TopicConfig,
        journal: &dyn Journal,
        now: Millis,
    ) -> Result<Appended, AppendFault> {
        self.used.store(now.0, Ordering::Relaxed);
        if config.compacts {
            // Looked at before the partition is held: it may have to be decompressed.
            let batch = packed.batch();
            batch.check()?;
            if !records::have_keys(&batch).map_err(|_| BatchError::Records)? {
                return Err(BatchError::Key.into());
            }
        }
        let mut partition = lock(&self.partition);
        if self.goes() {
            return Err(AppendFault::Deleted);
        }
        partition.append_packed(packed, config, journal, now)
    }

    /// Notes that its topic is about to be deleted, or that it is not.
    pub(super) fn set_goes(&self, goes: bool) {
        let _held = lock(&self.partition);
        self.goes.store(goes, Ordering::Relaxed);
    }

    /// Whether its topic is about to be deleted, or was; asked by whoever holds it.
    pub(super) fn goes(&self) -> bool {
        self.goes.load(Ordering::Relaxed)
    }

    /// Removes all records before `offset`: the first offset that is left, and what must be durable for that.
    ///
    /// # Errors
    /// [`DeleteFault`].
    pub fn delete_before(&self, offset: u64, journal: &dyn Journal) -> Result<(u64, Option<Lsn>), DeleteFault> {
        let mut partition = lock(&self.partition);
        let before = partition.offsets().start;
        let mut ops = partition.delete_before(offset)?;
        let start = partition.offsets().start;
        if start == before || self.goes() {
            return Ok((start, None));
        }
        ops.push(keep::start(self.queue, start));
        ops.extend(keep::no_aborted(self.queue, partition.dropped_chunks()));
        let lsn = journal.append(ops)?;
        partition.note_dropped();
        Ok((start, Some(lsn)))
    }

    /// The bytes of a batch. Blocks for as long as a read of the disk does; nothing is held meanwhile.
    ///
    /// # Errors
    /// Those of the store; `NotFound` if it was removed in the meantime.
    pub fn load(&self, piece: &Piece, bodies: &dyn BodyStore) -> std::io::Result<(Arc<Messages>, u32)> {
        match piece {
            Piece::Memory(messages) => Ok((Arc::clone(messages), 0)),
            Piece::Stored(queue, seq) => bodies.load(*queue, *seq, 1).map(|l| (l.batch, l.from)),
        }
    }

    /// A future that is ready once more is visible than now. What comes after this call is not missed.
    #[must_use]
    pub fn grown(self: &Arc<Self>) -> Grown {
        Grown { cell: Arc::clone(self), since: self.grown.load(Ordering::SeqCst), place: None }
    }

    fn tell(&self) {
        self.grown.fetch_add(1, Ordering::SeqCst);
        let waiting = std::mem::take(&mut lock(&self.waiting).wakers);
        waiting.into_values().for_each(Waker::wake);
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.tell();
    }

    /// Whether it was not enlisted before.
    pub(super) fn enlist(&self) -> bool {
        !self.enlisted.swap(true, Ordering::SeqCst)
    }

    /// What it goes on waiting for, if anything; else it is not enlisted any more.
    pub(super) fn advance(&self, durable: Lsn) -> Option<Lsn> {
        let mut partition = lock(&self.partition);
        let more = partition.advance(durable);
        let rest = partition.waits_for();
        if rest.is_none() {
            // Held: whoever appends next finds it so.
            self.enlisted.store(false, Ordering::SeqCst);
        }
        drop(partition);
        if more {
            self.tell();
        }
        rest
    }

    /// Removes what is not kept any more, and writes a snapshot if one is due. What the journal does not take now is found
    /// again next time: what was removed is removed once more at a start. Held meanwhile: of two beginnings of the log the
    /// later one is noted last.
    pub(super) fn maintain(&self, config: &TopicConfig, journal: &dyn Journal, now: Millis) {
        let mut partition = lock(&self.partition);
        if self.goes() {
            return;
        }
        let before = partition.offsets().start;
        let mut ops = partition.retain(config, now);
        if partition.offsets().start > before {
            ops.push(keep::start(self.queue, partition.offsets().start));
        }
        if self.used.load(Ordering::Relaxed) + REST_AFTER_MS < now.0 {
            partition.rest();
        }
        ops.extend(keep::no_aborted(self.queue, partition.dropped_chunks()));
        if !ops.is_empty() && journal.append(ops).is_ok() {
            partition.note_dropped();
        }
        drop(partition);
        self.snapshot(SNAPSHOT_BATCHES, journal);
    }

    /// Forgets producers that were silent for too long.
    pub(super) fn forget_producers(&self, now: Millis) {
        lock(&self.partition).expire_producers(Millis(now.0.saturating_sub(PRODUCER_MS)));
    }

    /// Writes a snapshot, if so many batches came since the last one. Held meanwhile: an older one never comes after a newer.
    pub(super) fn snapshot(&self, after: u32, journal: &dyn Journal) {
        let mut partition = lock(&self.partition);
        if partition.since_snapshot() >= after
            && !self.goes()
            && journal.append(keep::snapshot(self.queue, partition.snapshot())).is_ok()
        {
            partition.note_snapshot();
        }
    }

    /// Somebody reads.
    pub fn note_use(&self, now: Millis) {
        self.used.store(now.0, Ordering::Relaxed);
    }
}

/// See [`Cell::grown`].
#[derive(Debug)]
pub struct Grown {
    cell: Arc<Cell>,
    since: u64,
    /// Its place among those that wait.
    place: Option<u64>,
}

impl Future for Grown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let grown = || this.cell.grown.load(Ordering::SeqCst) != this.since;
        if grown() {
            return Poll::Ready(());
        }
        {
            let mut waiting = lock(&this.cell.waiting);
            let place = *this.place.get_or_insert(waiting.next);
            waiting.next = waiting.next.max(place + 1);
            waiting.wakers.insert(place, cx.waker().clone());
        }
        if grown() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Grown {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            lock(&self.cell.waiting).wakers.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_woken_and_who_has_gone_is_forgotten() {
        let cell = Arc::new(Cell::new(QueueId(1), Arc::default()));
        let mut cx = Context::from_waker(Waker::noop());
        let waiting = || lock(&cell.waiting).wakers.len();
        let (mut stays, mut goes) = (cell.grown(), cell.grown());
        for _ in 0..2 {
            assert!(Pin::new(&mut stays).poll(&mut cx).is_pending() && Pin::new(&mut goes).poll(&mut cx).is_pending());
        }
        assert_eq!(waiting(), 2);
        drop(goes);
        assert_eq!(waiting(), 1);
        cell.tell();
        assert!(Pin::new(&mut stays).poll(&mut cx).is_ready());
        assert_eq!(waiting(), 0);
    }
}
