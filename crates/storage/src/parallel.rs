//! Work that is shared among threads for a while.

use std::sync::atomic::{AtomicUsize, Ordering};

/// No more threads than this, however many processors there are.
const THREADS_MAX: usize = 8;

/// Does the jobs 0 to `jobs` - 1, each once, begun in that order, on as many threads as there are processors, at most
/// `threads`. Each thread makes a state for its jobs; the states are returned.
pub fn in_parallel<S: Send>(
    jobs: usize,
    threads: usize,
    state: impl Fn() -> S + Sync,
    job: impl Fn(&mut S, usize) + Sync,
) -> Vec<S> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let others = threads.min(jobs).min(processors).min(THREADS_MAX).saturating_sub(1);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut s = state();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= jobs {
                return s;
            }
            job(&mut s, n);
        }
    };
    std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().name("recovery".into()).spawn_scoped(scope, work).ok();
        // Where the system gives no thread, this one does the work.
        let handles: Vec<_> = (0..others).filter_map(spawn).collect();
        let mut states = vec![work()];
        for handle in handles {
            match handle.join() {
                Ok(s) => states.push(s),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        states
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once() {
        for threads in [1, 4] {
            let states = in_parallel(100, threads, Vec::new, |done, n| done.push(n));
            assert!(states.len() <= threads);
            assert!(states.iter().all(|s| s.is_sorted()));
            let mut all: Vec<_> = states.into_iter().flatten().collect();
            all.sort_unstable();
            assert_eq!(all, (0..100).collect::<Vec<_>>());
        }
    }
}
