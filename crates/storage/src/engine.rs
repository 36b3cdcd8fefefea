//! The engine: opens, runs, closes; implements the core's ports.

use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use waypost_model::journal::{AppendError, Journal, Op, Recovered, SpillRef};
use waypost_model::{Batch, Lsn};

use crate::cache::ChunkCache;
use crate::checkpoint::CheckpointHead;
use crate::commit::{CommitOutcome, Writer, reseal};
use crate::config::EngineConfig;
use crate::definitions::Definitions;
use crate::disk::{Disk, discard, read_exact, write_all};
use crate::error::OpenError;
use crate::follow::follow;
use crate::inbox::{Inbox, Weight};
use crate::index::Index;
use crate::log::{Frames, LocalLog, Log, Position};
use crate::maintain::{Maintained, Maintenance, Prepared};
use crate::metrics::{Metrics, MetricsSnapshot};
use crate::recovery::{Opened, Tail, read_checkpoint, recover_from};
use crate::scratch::Scratch;
use crate::segment::{FRAMES_AT, Segment, SegmentId};
use crate::spans::Spans;
use crate::sync::lock;

/// How long the committer waits for room on a full disk before it looks again.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(50);
/// How long a stop waits for a log that owes answers. Then it is an unclean one.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

type StopHook = Box<dyn Fn(&str) + Send + Sync>;

/// What the threads share.
pub(crate) struct Shared {
    pub cfg: EngineConfig,
    pub disk: Arc<dyn Disk>,
    pub epoch: u32,
    pub inbox: Inbox,
    /// What makes frames durable.
    pub log: Arc<dyn Log>,
    /// Whether the segments are a copy of a log that is kept elsewhere, which needs syncs only for checkpoints.
    pub copies: bool,
    /// Held by the committer from a frame's first effect until the log has it, and while it asks for answers. Locked
    /// before `prepared`, `spares` and the index.
    pub writer: Mutex<Writer>,
    pub prepared: Mutex<Option<Prepared>>,
    pub spares: Mutex<Vec<String>>,
    pub index: Index,
    pub definitions: Mutex<Definitions>,
    /// Held for a whole round. Locked before everything else.
    pub maintenance: Mutex<Maintenance>,
    pub cache: ChunkCache,
    pub spans: Spans,
    pub metrics: Metrics,
    pub durable: AtomicU64,
    active: AtomicU32,
    /// The last segment that was made of a new file, whose blocks are only reserved; 0 for none.
    pub fresh: AtomicU32,
    pub scratch: Scratch,
    stopped: AtomicBool,
    on_stop: Mutex<Option<StopHook>>,
    pub maintenance_due: (Mutex<bool>, Condvar),
    pub ending: AtomicBool,
    _lock: Box<dyn Send + Sync>,
}

impl Shared {
    /// Whether an I/O error ended it.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Acquire)
    }

    /// The segment that the log is written to.
    pub fn active_id(&self) -> u32 {
        self.active.load(Acquire)
    }

    pub fn set_active(&self, id: SegmentId) {
        self.active.store(id.0, std::sync::atomic::Ordering::Release);
    }

    /// Ends everything: nothing is written any more, since nobody knows what is on disk.
    pub fn stop(&self, what: &str, e: &io::Error) {
        if !self.stopped.swap(true, std::sync::atomic::Ordering::AcqRel) {
            self.inbox.stop();
            if let Some(hook) = lock(&self.on_stop).as_ref() {
                hook(&format!("{what}: {e}"));
            }
        }
    }

    /// Lets the maintenance thread look now.
    pub fn wake_maintenance(&self) {
        *lock(&self.maintenance_due.0) = true;
        self.maintenance_due.1.notify_one();
    }

    /// What is larger than the room that is kept ahead must find its own; for the rest the next segment is there.
    fn has_room_for(&self, weight: &Weight) -> bool {
        if !weight.messages || weight.bytes <= self.cfg.segment_bytes / 4 {
            return true;
        }
        let free = self.disk.free_bytes().unwrap_or(u64::MAX);
        free >= self.cfg.disk_free_min.saturating_add(weight.bytes.saturating_mul(2))
    }

    fn take(&self, ops: Vec<Op>, weight: Weight) -> Result<Lsn, AppendError> {
        if self.has_room_for(&weight) { self.inbox.append(ops, weight) } else { Err(AppendError::Full) }
    }

    fn run_committer(&self, on_durable: &(impl Fn(Lsn) + ?Sized)) {
        let is_blocked = || lock(&self.writer).is_blocked(self.log.window());
        while self.inbox.wait_work(is_blocked()) {
            match self.commit_once() {
                CommitOutcome::Committed(lsn) => {
                    self.inbox.set_telling(true);
                    on_durable(lsn);
                    self.inbox.set_telling(false);
                }
                CommitOutcome::NoRoom => {
                    self.wake_maintenance();
                    self.inbox.wait_moment(NO_ROOM_PAUSE);
                }
                CommitOutcome::Idle | CommitOutcome::UnderWay => {}
                CommitOutcome::Stopped => return,
            }
        }
    }
}

/// The local engine. Dropping it without [`Engine::close`] leaves what a crash would leave.
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    cut_bytes: u64,
}

impl Engine {
    /// Opens a store, or makes one in an empty directory. Its log is its own directory.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was written then unless writing itself failed.
    pub fn open(disk: Arc<dyn Disk>, cfg: EngineConfig) -> Result<(Engine, Recovered), OpenError> {
        Engine::open_over(disk, Arc::new(LocalLog::default()), cfg)
    }

    /// Opens a store over a log: takes the log over, brings the store's segments in line with it, and goes on behind
    /// its last frame. A log that is kept elsewhere is read from the store's last checkpoint on, so that a store that
    /// has lost its directory cannot be opened over it.
    ///
    /// # Errors
    /// [`OpenError`]. What an earlier writer of the log has under way is refused from then on.
    pub fn open_over(
        disk: Arc<dyn Disk>,
        log: Arc<dyn Log>,
        cfg: EngineConfig,
    ) -> Result<(Engine, Recovered), OpenError> {
        let started = Instant::now();
        let cfg = cfg.clamped();
        let guard = disk.lock()?;
        let checkpoint = read_checkpoint(&*disk)?;
        let head = checkpoint.as_ref().map(|c| &c.head);
        let epoch = log.fence(head.map_or(0, |h| h.epoch)).map_err(OpenError::io("the log"))?;
        let frames = follow(&*disk, &*log, head)?;
        let mut opened = recover_from(&*disk, checkpoint)?;
        let recovered = std::mem::take(&mut opened.recovered);
        let cut_bytes = opened.cut_bytes;
        let shared = Shared::start((disk, log, frames), cfg, guard, epoch, opened);
        let shared = shared.map_err(OpenError::io("the data directory"))?;
        shared.metrics.recovery_micros.store(started.elapsed().as_micros() as u64, Relaxed);
        Ok((Engine { shared: Arc::new(shared), threads: Mutex::default(), cut_bytes }, recovered))
    }

    /// Starts the threads that commit and maintain. `on_durable` is called after each commit, with no lock held.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start_committer(&self, on_durable: impl Fn(Lsn) + Send + 'static) -> io::Result<()> {
        let mut threads = lock(&self.threads);
        self.shared.inbox.set_attached(true);
        let shared = Arc::downgrade(&self.shared);
        self.shared.log.on_answer(Box::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.inbox.answered();
            }
        }));
        let shared = Arc::clone(&self.shared);
        let run = move || {
            shared.run_committer(&on_durable);
            shared.inbox.set_attached(false);
        };
        threads.push(std::thread::Builder::new().name("committer".into()).spawn(run)?);
        let shared = Arc::clone(&self.shared);
        let run = move || shared.run_maintenance();
        threads.push(std::thread::Builder::new().name("maintenance".into()).spawn(run)?);
        self.shared.wake_maintenance();
        Ok(())
    }

    /// Says whom to tell, once, when an I/O error has stopped the store. The text names what failed.
    pub fn on_stop(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        *lock(&self.shared.on_stop) = Some(Box::new(hook));
    }

    /// One step of the committer, for those who drive the engine themselves.
    #[must_use]
    pub fn commit_once(&self) -> CommitOutcome {
        self.shared.commit_once()
    }

    /// One round of maintenance, for those who drive the engine themselves.
    pub fn maintain_once(&self) -> Maintained {
        self.shared.maintain_once()
    }

    /// How many bytes of a torn last write the open has cut: no append in it was ever reported durable. Worth a line in
    /// the server's log, since rot in the very last frame cannot be told from it.
    #[must_use]
    pub fn cut_bytes(&self) -> u64 {
        self.cut_bytes
    }

    /// Whether an I/O error has stopped the store.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.is_stopped()
    }

    /// Whether messages are refused for lack of room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.inbox.full.load(Relaxed)
    }

    /// Commits what is queued, writes a checkpoint that says that the stop was clean, and ends.
    ///
    /// # Errors
    /// Any I/O error, or that the store had stopped before; the next open recovers as after a crash then.
    pub fn close(&self) -> io::Result<()> {
        self.end_threads();
        let deadline = Instant::now() + CLOSE_WAIT;
        loop {
            match self.shared.commit_once() {
                CommitOutcome::Committed(_) => {}
                CommitOutcome::Idle => break,
                CommitOutcome::UnderWay if Instant::now() >= deadline => return Err(io::ErrorKind::TimedOut.into()),
                CommitOutcome::UnderWay => self.shared.inbox.wait_answer(deadline - Instant::now()),
                CommitOutcome::NoRoom => return Err(io::ErrorKind::StorageFull.into()),
                CommitOutcome::Stopped => return Err(io::Error::other("the store has stopped")),
            }
        }
        self.shared.inbox.stop();
        let written = self.shared.checkpoint(&mut lock(&self.shared.maintenance), true)?;
        written.map(drop).ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    fn end_threads(&self) {
        self.shared.ending.store(true, std::sync::atomic::Ordering::Release);
        self.shared.inbox.close();
        self.shared.wake_maintenance();
        for thread in lock(&self.threads).drain(..) {
            // A panic of the thread has been reported by the panic hook.
            let _ = thread.join();
        }
    }

    /// The engine's figures now.
    #[must_use]
    pub fn metrics(&self) -> MetricsSnapshot {
        let (s, m) = (&self.shared, &self.shared.metrics);
        let segments = s.index.segments();
        let segment_bytes = segments.iter().map(|s| s.capacity()).sum();
        let live_bytes = segments.iter().map(|s| s.live_bytes()).sum::<u64>().min(segment_bytes);
        MetricsSnapshot {
            commits: m.commits.load(Relaxed),
            appends: m.appends.load(Relaxed),
            messages: m.messages.load(Relaxed),
            syncs: m.syncs.load(Relaxed),
            sync_micros: m.sync_micros.load(Relaxed),
            sync_buckets: std::array::from_fn(|i| m.sync_buckets[i].load(Relaxed)),
            written_bytes: m.written_bytes.load(Relaxed),
            rewritten_bytes: m.rewritten_bytes.load(Relaxed),
            checkpoints: m.checkpoints.load(Relaxed),
            released: m.released.load(Relaxed),
            loads: m.loads.load(Relaxed),
            cache_hits: m.cache_hits.load(Relaxed),
            recovery_micros: m.recovery_micros.load(Relaxed),
            segments: segments.len() as u64,
            segment_bytes,
            live_bytes,
            dead_bytes: segment_bytes - live_bytes,
            queued_bytes: s.inbox.bytes(),
            scratch_bytes: s.scratch.bytes(),
            full: self.is_full(),
            stopped: s.is_stopped(),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end_threads();
    }
}

impl Shared {
    fn start(
        (disk, log, frames): (Arc<dyn Disk>, Arc<dyn Log>, Frames),
        cfg: EngineConfig,
        guard: Box<dyn Send + Sync>,
        epoch: u32,
        opened: Opened,
    ) -> io::Result<Shared> {
        let head = opened.head.clone();
        let mut prepared = opened.prepared;
        let log_end = opened.tail.as_ref().map(|t| Position { segment: t.segment.id, offset: t.end });
        let log_end = log_end.unwrap_or(Position::START);
        let tail = match opened.tail {
            None => first_segment(&*disk, &cfg, epoch, SegmentId(1), &opened.index, None)?,
            Some(tail) => {
                // Frames that only a killed process has seen must not be answered for before they are durable.
                let from = head.as_ref().filter(|h| h.position.segment == tail.segment.id);
                write_again(&tail, from.map_or(FRAMES_AT, |h| h.position.offset))?;
                if tail.has_seal {
                    reseal(&tail)?;
                    tail.segment.set_sealed();
                    let next = tail.segment.id.next();
                    first_segment(&*disk, &cfg, epoch, next, &opened.index, prepared.take())?
                } else {
                    tail
                }
            }
        };
        let position = Position { segment: tail.segment.id, offset: tail.end };
        let head = head.unwrap_or(CheckpointHead {
            generation: 0,
            epoch,
            clean: false,
            position,
            next_cold: 1,
            segments: Vec::new(),
        });
        let shared = Shared {
            inbox: Inbox::new(cfg.queued_bytes_max, cfg.lazy_bytes_max, cfg.lazy_ms),
            active: AtomicU32::new(tail.segment.id.0),
            fresh: AtomicU32::new(0),
            log,
            copies: frames == Frames::Read,
            writer: Mutex::new(Writer::new(tail, log_end, epoch, &*disk, &cfg)?),
            prepared: Mutex::new(prepared),
            spares: Mutex::new(opened.spares),
            index: opened.index,
            definitions: Mutex::new(opened.definitions),
            maintenance: Mutex::new(Maintenance { head, retired: Vec::new(), has_reserve: false, zeroed: None }),
            cache: ChunkCache::new(cfg.cache_bytes),
            spans: Spans::default(),
            metrics: Metrics::default(),
            durable: AtomicU64::new(0),
            scratch: Scratch::new((cfg.segment_bytes / 4).max(64 << 10), cfg.scratch_bytes_max),
            stopped: AtomicBool::new(false),
            on_stop: Mutex::new(None),
            maintenance_due: (Mutex::new(false), Condvar::new()),
            ending: AtomicBool::new(false),
            _lock: guard,
            epoch,
            cfg,
            disk,
        };
        shared.checkpoint(&mut lock(&shared.maintenance), false)?;
        for name in opened.leftovers {
            discard(&*shared.disk, &name)?;
        }
        shared.disk.sync_dir()?;
        shared.prepare_start(&mut lock(&shared.maintenance));
        Ok(shared)
    }
}

/// Makes the frames from `from` on durable. A sync alone would not do: if one failed before the process was killed, the
/// system may hold these bytes in memory, call them clean, and never write them.
fn write_again(tail: &Tail, from: u64) -> io::Result<()> {
    let mut at = from;
    let mut buf = vec![0; (1 << 20).min((tail.end - from) as usize)];
    while at < tail.end {
        let n = buf.len().min((tail.end - at) as usize);
        read_exact(&*tail.segment.file, at, &mut buf[..n])?;
        write_all(&*tail.segment.file, at, &mut [&buf[..n]])?;
        at += n as u64;
    }
    tail.segment.file.sync_data()
}

/// Takes the prepared segment, or makes one, and goes on there.
fn first_segment(
    disk: &dyn Disk,
    cfg: &EngineConfig,
    epoch: u32,
    id: SegmentId,
    index: &Index,
    prepared: Option<Prepared>,
) -> io::Result<Tail> {
    let (file, header) = match prepared {
        Some(p) => p,
        None => crate::segment::prepare(disk, id, epoch, cfg.segment_bytes, None)?,
    };
    let capacity = file.size()?;
    let segment = Arc::new(Segment::new(id, file, capacity, false));
    index.add_segment(Arc::clone(&segment));
    let (end, last_crc) = (FRAMES_AT, header.crc);
    Ok(Tail { segment, header, end, last_crc, footer: Vec::new(), sealed: false, has_seal: false })
}

impl Journal for Engine {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        let weight = Weight::of(&ops);
        self.shared.take(ops, weight)
    }

    fn append_unhurried(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        let weight = Weight { held: true, ..Weight::of(&ops) };
        self.shared.take(ops, weight)
    }

    fn hurry(&self) {
        self.shared.inbox.hurry();
    }

    fn reserve(&self) -> Lsn {
        self.shared.inbox.reserve()
    }

    fn fill(&self, ticket: Lsn, ops: Vec<Op>) -> Result<(), AppendError> {
        let weight = Weight::of(&ops);
        self.shared.inbox.fill(ticket, ops, weight)
    }

    fn room(&self, bytes: u64) -> Result<(), AppendError> {
        let weight = Weight { bytes, messages: true, ..Weight::default() };
        if self.shared.has_room_for(&weight) { self.shared.inbox.room(&weight) } else { Err(AppendError::Full) }
    }

    fn room_for_definitions(&self) -> Result<(), AppendError> {
        self.shared.inbox.room(&Weight::default())
    }

    fn durable(&self) -> Lsn {
        Lsn(self.shared.durable.load(Acquire))
    }

    fn spill(&self, batch: &Batch, from: u32, to: u32) -> io::Result<SpillRef> {
        self.shared.scratch.spill(&*self.shared.disk, batch, from, to)
    }

    fn release_spill(&self, at: SpillRef) {
        self.shared.scratch.release(&*self.shared.disk, at);
    }
}
