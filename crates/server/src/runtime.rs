//! The threads that serve connections. One place, so that another arrangement is one change.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// Threads that load bodies from disk: so many loads at once, the rest waits.
const LOADERS: usize = 16;

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
        .max_blocking_threads(LOADERS)
        .thread_name("waypost-worker")
        .enable_all()
        .build()
}
