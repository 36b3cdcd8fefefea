//! The threads that serve connections. One place, so that another arrangement is one change.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// Threads that load bodies from disk: so many loads at once, the rest waits.
const LOADERS: usize = 16;

/// Requests of operators that are carried out at once, per HTTP listener, on threads beside the loaders: so many that
/// show something, and so many that change something.
pub const MANAGERS: usize = 2;

/// HTTP listeners that do not have to share these threads with loads: by default there are two.
const LISTENERS: usize = 2;

/// A runtime with so many workers; 0 stands for the number of cores.
///
/// # Errors
/// If threads cannot be started.
pub fn build(workers: usize) -> io::Result<Runtime> {
    let workers = match workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(LOADERS + 2 * MANAGERS * LISTENERS)
        .thread_name("waypost-worker")
        .enable_all()
        .build()
}
