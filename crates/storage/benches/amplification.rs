//! Bytes written per byte accepted: `cargo bench -p waypost-storage --bench amplification -- [MIB]`.
//!
//! Every write to the disk counts: frames, footers, checkpoints, copies of survivors. The directory is made under
//! `WAYPOST_BENCH_DIR`, or under the temporary one.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use waypost_model::journal::{Enqueue, Journal, Op};
use waypost_model::{Attrs, BatchBuilder, Millis, QueueId, Route, Seq, SeqRange};
use waypost_storage::{CommitOutcome, Disk, DiskFile, Engine, EngineConfig, LockError, RealDisk};

/// Messages in a commit.
const COMMIT: u64 = 500;
/// Settlements that come late come in an order that goes through all of them and looks like none: by steps of a prime.
const STEP: u64 = 2_654_435_761;

struct Counted {
    disk: RealDisk,
    written: Arc<AtomicU64>,
}

struct CountedFile {
    file: Arc<dyn DiskFile>,
    written: Arc<AtomicU64>,
}

impl Counted {
    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(CountedFile { file, written: Arc::clone(&self.written) })
    }
}

impl Disk for Counted {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.open(name)?))
    }

    fn open_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open_read(name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.create(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>, LockError> {
        self.disk.lock()
    }
}

impl DiskFile for CountedFile {
    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let n = self.file.write_at(offset, bufs)?;
        self.written.fetch_add(n as u64, Relaxed);
        Ok(n)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

/// Queues that get messages in turn.
struct Load {
    engine: Engine,
    queues: u64,
    body: Vec<u8>,
    routes: Vec<Arc<Route>>,
    appended: u64,
}

impl Load {
    fn append(&mut self, op: Op) -> io::Result<()> {
        self.engine.append(vec![op]).map_err(io::Error::other)?;
        self.appended += 1;
        if self.appended.is_multiple_of(COMMIT) { self.commit() } else { Ok(()) }
    }

    fn commit(&self) -> io::Result<()> {
        match self.engine.commit_once() {
            CommitOutcome::Committed(_) | CommitOutcome::Idle => {}
            other => return Err(io::Error::other(format!("{other:?}"))),
        }
        if self.appended.is_multiple_of(64 * COMMIT) {
            self.engine.maintain_once();
        }
        Ok(())
    }

    fn enqueue(&mut self, n: u64) -> io::Result<()> {
        let mut b = BatchBuilder::default();
        b.push(&[0, 0], &self.body);
        let queue = n % self.queues;
        let (batch, route) = (Arc::new(b.finish()), Arc::clone(&self.routes[queue as usize]));
        let targets = Box::new([(QueueId(queue), Seq(n / self.queues))]);
        let (attrs, at) = (Attrs::default(), Millis(n / COMMIT));
        self.append(Op::Enqueue(Enqueue { targets, batch, from: 0, to: 1, route, attrs, at }))
    }

    fn settle(&mut self, n: u64) -> io::Result<()> {
        let (queue, first) = (QueueId(n % self.queues), Seq(n / self.queues));
        self.append(Op::Settle(SeqRange { queue, first, count: 1 }))
    }
}

/// Says how many bytes were written per byte of properties and bodies.
fn measure(dir: &Path, queues: u64, size: usize, bytes: u64, late: bool) -> io::Result<f64> {
    let written = Arc::new(AtomicU64::new(0));
    let disk = Counted { disk: RealDisk::open_or_create(dir)?, written: Arc::clone(&written) };
    let (engine, _) = Engine::open(Arc::new(disk), EngineConfig::default()).map_err(io::Error::other)?;
    let routes = (0..queues).map(|q| Arc::new(Route::new("", format!("queue-{q}")))).collect();
    let mut load = Load { engine, queues, body: vec![7; size], routes, appended: 0 };
    let messages = bytes / (size as u64 + 2);
    for n in 0..messages {
        load.enqueue(n)?;
        if !late && n >= 10 * COMMIT {
            load.settle(n - 10 * COMMIT)?;
        }
    }
    if late {
        for n in 0..messages {
            load.settle(n * STEP % messages)?;
        }
    }
    load.commit()?;
    load.engine.close()?;
    drop(load);
    std::fs::remove_dir_all(dir)?;
    Ok(written.load(Relaxed) as f64 / (messages * (size as u64 + 2)) as f64)
}

fn main() -> io::Result<()> {
    let mib = std::env::args().find_map(|a| a.parse::<u64>().ok()).unwrap_or(1024);
    let base = std::env::var_os("WAYPOST_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = base.join(format!("waypost-amplification-{}", std::process::id()));
    for (size, share) in [(16, 8), (1024, 1)] {
        for queues in [1, 500] {
            for (late, how) in [(false, "consumed promptly"), (true, "consumed late, out of order")] {
                let times = measure(&dir, queues, size, (mib << 20) / share, late)?;
                println!("{size} B, queues: {queues}, {how}: {times:.2} bytes written per byte accepted");
            }
        }
    }
    Ok(())
}
