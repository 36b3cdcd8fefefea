//! Those who wait until the journal is durable up to somewhere: each is woken once, by the commit that it waits for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use waypost_model::Lsn;
use waypost_model::journal::Journal;

/// How long anybody waits for the disk, at least.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked whose patience is at its end: one timer for all.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Commits {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// In the order in which the journal reaches them.
    seats: BTreeMap<Place, Seat>,
    numbers: u64,
}

/// What is waited for, and a number that tells those apart who wait for the same.
type Place = (Lsn, u64);

#[derive(Debug)]
struct Seat {
    waker: Waker,
    until: Instant,
}

impl Commits {
    /// The journal has moved on. Call it when it says so itself.
    pub(super) fn advanced(&self, durable: Lsn) {
        let mut told = Vec::new();
        let mut waiting = self.lock();
        while let Some(first) = waiting.seats.first_entry().filter(|first| first.key().0 <= durable) {
            told.push(first.remove().waker);
        }
        drop(waiting);
        told.into_iter().for_each(Waker::wake);
    }

    /// Completes when `journal` is durable up to `lsn`; with false if that takes too long to be worth waiting for.
    pub(super) fn reached<'a>(&'a self, journal: &'a dyn Journal, lsn: Lsn) -> Reached<'a> {
        Reached { commits: self, journal, lsn, seat: None }
    }

    /// Ends the waits of those who have waited for too long.
    pub(super) async fn end_long_waits(&self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.give_up(Instant::now());
        }
    }

    fn give_up(&self, now: Instant) {
        let mut waiting = self.lock();
        // Deadlines need not have the order of what is waited for; there are few who wait where there is hope.
        let over = waiting.seats.extract_if(.., |_, seat| seat.until <= now).map(|(_, seat)| seat.waker);
        let told: Vec<Waker> = over.collect();
        drop(waiting);
        told.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait. See [`Commits::reached`].
///
/// # Cancel safety
/// It may be dropped at any time.
#[must_use = "futures do nothing unless awaited"]
pub(super) struct Reached<'a> {
    commits: &'a Commits,
    journal: &'a dyn Journal,
    lsn: Lsn,
    seat: Option<Place>,
}

impl Future for Reached<'_> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let this = &mut *self;
        if this.journal.durable() >= this.lsn {
            return Poll::Ready(true);
        }
        let mut waiting = this.commits.lock();
        // Whoever tells of a commit may have been through before we had the lock.
        if this.journal.durable() >= this.lsn {
            return Poll::Ready(true);
        }
        if let Some(place) = this.seat {
            let Some(seat) = waiting.seats.get_mut(&place) else { return Poll::Ready(false) };
            if !seat.waker.will_wake(cx.waker()) {
                seat.waker = cx.waker().clone();
            }
            return Poll::Pending;
        }
        waiting.numbers += 1;
        let place = (this.lsn, waiting.numbers);
        waiting.seats.insert(place, Seat { waker: cx.waker().clone(), until: Instant::now() + PATIENCE });
        this.seat = Some(place);
        Poll::Pending
    }
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.seat
            && self.journal.durable() < self.lsn
        {
            self.commits.lock().seats.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use std::task::Wake;

    use waypost_model::Batch;
    use waypost_model::journal::{AppendError, Op, SpillRef};

    use super::*;

    #[derive(Debug, Default)]
    struct Log(AtomicU64);

    impl Journal for Log {
        fn append(&self, _: Vec<Op>) -> Result<Lsn, AppendError> {
            Err(AppendError::Full)
        }
        fn reserve(&self) -> Lsn {
            Lsn(0)
        }
        fn fill(&self, _: Lsn, _: Vec<Op>) -> Result<(), AppendError> {
            Ok(())
        }
        fn durable(&self) -> Lsn {
            Lsn(self.0.load(Ordering::SeqCst))
        }
        fn spill(&self, _: &Batch, _: u32, _: u32) -> io::Result<SpillRef> {
            Err(io::Error::other("no"))
        }
        fn release_spill(&self, _: SpillRef) {}
    }

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Bell {
        fn rung(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn poll(wait: &mut Reached<'_>, bell: &Arc<Bell>) -> Poll<bool> {
        Pin::new(wait).poll(&mut Context::from_waker(&Waker::from(Arc::clone(bell))))
    }

    #[test]
    fn a_commit_wakes_those_who_wait_for_it_and_nobody_else() {
        let (log, commits) = (Log::default(), Commits::default());
        let bells: [Arc<Bell>; 4] = Default::default();
        let mut waits: Vec<_> = [3, 1, 2, 2].map(|lsn| commits.reached(&log, Lsn(lsn))).into_iter().collect();
        for (wait, bell) in waits.iter_mut().zip(&bells) {
            assert!(poll(wait, bell).is_pending() && poll(wait, bell).is_pending());
        }
        log.0.store(2, Ordering::SeqCst);
        commits.advanced(Lsn(2));
        commits.advanced(Lsn(2));
        assert_eq!(bells.each_ref().map(|bell| bell.rung()), [0, 1, 1, 1]);
        assert!(poll(&mut waits[0], &bells[0]).is_pending());
        assert!(waits.iter_mut().zip(&bells).skip(1).all(|(wait, bell)| poll(wait, bell) == Poll::Ready(true)));
        assert_eq!(poll(&mut commits.reached(&log, Lsn(1)), &bells[0]), Poll::Ready(true), "it was long ago");
        drop(waits);
        assert!(commits.lock().seats.is_empty());
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (log, commits, bell) = (Log::default(), Commits::default(), Arc::<Bell>::default());
        let mut wait = commits.reached(&log, Lsn(1));
        assert!(poll(&mut wait, &bell).is_pending());
        commits.give_up(Instant::now() + PATIENCE / 2);
        assert_eq!(bell.rung(), 0);
        commits.give_up(Instant::now() + PATIENCE);
        assert_eq!((bell.rung(), poll(&mut wait, &bell)), (1, Poll::Ready(false)));
    }
}
