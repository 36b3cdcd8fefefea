//! How the workers learn of a commit.
//!
//! Whoever wakes a task from a thread that is no worker wakes a second worker with it, which looks for more work and finds none. So
//! the committer rings a bell that hangs among the workers' sockets, while all of them wait there: the one that hears it tells all
//! others, and goes on with those that he has woken. While workers are busy, and nobody listens, the committer tells them himself.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::runtime::Idle;

/// Tells who waits for a commit. By one thread at a time, and never waits for another one.
struct Teller<F> {
    tell: F,
    /// How many commits have not been told of.
    due: AtomicU64,
}

impl<F: Fn()> Teller<F> {
    /// Tells of what is durable now; or sees to it that whoever tells at this moment does so again.
    fn tell(&self) {
        if self.due.fetch_add(1, Ordering::SeqCst) > 0 {
            return;
        }
        let mut seen = 1;
        loop {
            (self.tell)();
            match self.due.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(more) => seen = more,
            }
        }
    }
}

/// What the committer is to call after each commit, so that `tell` is called. Within the runtime whose workers are meant.
///
/// # Errors
/// The system has no bell to give.
#[cfg(unix)]
pub(super) fn hang(
    idle: Idle,
    tell: impl Fn() + Send + Sync + 'static,
) -> std::io::Result<Box<dyn Fn() + Send + Sync>> {
    use std::sync::Arc;
    use tokio::io::AsyncReadExt;

    let (bell, mut heard) = tokio::net::unix::pipe::pipe()?;
    let teller = Arc::new(Teller { tell, due: AtomicU64::new(0) });
    let worker = Arc::clone(&teller);
    tokio::spawn(async move {
        let mut strokes = [0; 64];
        while heard.read(&mut strokes).await.is_ok_and(|n| n > 0) {
            worker.tell();
        }
    });
    Ok(Box::new(move || {
        if !idle.all() || bell.try_write(&[1]).is_err() {
            teller.tell();
        }
    }))
}

/// As above, where there are no pipes: the committer always tells.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub(super) fn hang(_: Idle, tell: impl Fn() + Send + Sync + 'static) -> std::io::Result<Box<dyn Fn() + Send + Sync>> {
    let teller = Teller { tell, due: AtomicU64::new(0) };
    Ok(Box::new(move || teller.tell()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn who_tells_is_told_to_do_so_again_and_nobody_waits() {
        let (told, again) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
        let teller: Arc<std::sync::OnceLock<Teller<Box<dyn Fn() + Send + Sync>>>> = Arc::default();
        let tell = {
            let (teller, told) = (Arc::clone(&teller), Arc::clone(&told));
            move || {
                told.fetch_add(1, Ordering::SeqCst);
                // Two commits come while he tells of the first.
                if again.swap(false, Ordering::SeqCst) {
                    teller.get().unwrap().tell();
                    teller.get().unwrap().tell();
                }
            }
        };
        let _ = teller.set(Teller { tell: Box::new(tell), due: AtomicU64::new(0) });
        teller.get().unwrap().tell();
        assert_eq!(told.load(Ordering::SeqCst), 2);
        teller.get().unwrap().tell();
        assert_eq!(told.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn every_commit_is_told_of_whether_workers_are_busy_or_not() {
        let (runtime, idle) = crate::runtime::build(2).unwrap();
        let (told, news) = channel();
        let ring = {
            let _within = runtime.enter();
            let told = std::sync::Mutex::new(told);
            hang(idle.clone(), move || told.lock().unwrap().send(std::thread::current().id()).unwrap()).unwrap()
        };
        let all_idle = || {
            let begun = std::time::Instant::now();
            while !idle.all() {
                assert!(begun.elapsed() < SOON);
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let me = std::thread::current().id();
        for _ in 0..20 {
            all_idle();
            ring();
            news.recv_timeout(SOON).unwrap();
        }
        // Whoever told of the last one is done with it, and does not tell of the next one as well.
        all_idle();
        let over = Arc::new(AtomicBool::new(false));
        let (busy, works) = channel();
        let spins = runtime.spawn({
            let over = Arc::clone(&over);
            async move {
                busy.send(()).unwrap();
                let begun = std::time::Instant::now();
                while !over.load(Ordering::SeqCst) && begun.elapsed() < 2 * SOON {
                    std::hint::spin_loop();
                }
            }
        });
        works.recv_timeout(SOON).unwrap();
        ring();
        assert_eq!(news.recv_timeout(SOON).unwrap(), me, "a worker is busy, and might be so for long");
        over.store(true, Ordering::SeqCst);
        runtime.block_on(spins).unwrap();
    }
}
