//! The threads that serve connections. One place, so that another arrangement is one change.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Runtime};

/// Threads that load bodies from disk: so many loads at once, the rest waits.
const LOADERS: usize = 16;

/// Requests of operators that are carried out at once, per HTTP listener, on threads beside the loaders: so many that
/// show something, and so many that change something.
pub const MANAGERS: usize = 2;

/// HTTP listeners that do not have to share these threads with loads: by default there are two.
const LISTENERS: usize = 2;

/// How many workers of a runtime have nothing to do.
#[derive(Clone, Debug)]
pub struct Idle {
    workers: usize,
    now: Arc<AtomicUsize>,
}

impl Idle {
    /// Whether none of them has, so that one of them waits at the sockets.
    pub fn all(&self) -> bool {
        self.now.load(Ordering::Relaxed) >= self.workers
    }
}

/// A runtime with so many workers; 0 stands for the number of cores.
///
/// # Errors
/// If threads cannot be started.
pub fn build(workers: usize) -> io::Result<(Runtime, Idle)> {
    let workers = match workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let idle = Idle { workers, now: Arc::default() };
    let (parks, unparks) = (Arc::clone(&idle.now), Arc::clone(&idle.now));
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(LOADERS + 2 * MANAGERS * LISTENERS)
        .thread_name("waypost-worker")
        .on_thread_park(move || _ = parks.fetch_add(1, Ordering::Relaxed))
        .on_thread_unpark(move || _ = unparks.fetch_sub(1, Ordering::Relaxed))
        .enable_all()
        .build()?;
    Ok((runtime, idle))
}
