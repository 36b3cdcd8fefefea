//! Waiting for a change.
//!
//! A [`Topic`] has an index that rises when what it stands for changes. Whoever has seen index *n* waits for more than
//! *n* with [`Topic::changed`], a future that knows no runtime. Telling all who wait costs one lock and a call each.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Something that changes, and those who wait for that.
#[derive(Debug)]
pub struct Topic {
    index: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Counts how often everybody was told: a seat of an earlier round is nobody's any more.
    round: u64,
    seats: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Topic {
    /// A topic that changed last at `index`.
    #[must_use]
    pub fn new(index: u64) -> Topic {
        Topic { index: AtomicU64::new(index), waiting: Mutex::default() }
    }

    /// The index of the last change.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index.load(Ordering::Acquire)
    }

    /// Raises the index. Nobody is told yet: see [`Topic::tell`].
    pub fn raise(&self, index: u64) {
        self.index.fetch_max(index, Ordering::AcqRel);
    }

    /// Tells everybody who waits. Call it with no lock held that a waker could want.
    pub fn tell(&self) {
        let told = {
            let mut waiting = self.lock();
            waiting.round += 1;
            waiting.free.clear();
            std::mem::take(&mut waiting.seats)
        };
        told.into_iter().flatten().for_each(Waker::wake);
    }

    /// Waits until the index is higher than `since`, and gives it.
    pub fn changed(self: &Arc<Self>, since: u64) -> Changed {
        Changed { topic: Arc::clone(self), since, seat: None }
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let waiting = self.lock();
        waiting.seats.len() - waiting.free.len()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait for a change. Gives the new index.
///
/// # Cancel safety
/// It may be dropped at any time.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Changed {
    topic: Arc<Topic>,
    since: u64,
    /// Round and seat in which our waker is.
    seat: Option<(u64, usize)>,
}

impl Future for Changed {
    type Output = u64;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u64> {
        let this = &mut *self;
        if this.topic.index() > this.since {
            return Poll::Ready(this.topic.index());
        }
        let mut waiting = this.topic.lock();
        // Whoever raised the index before we had the lock may have told the others already.
        if this.topic.index() > this.since {
            return Poll::Ready(this.topic.index());
        }
        let taken = this.seat.filter(|(round, _)| *round == waiting.round).map(|(_, seat)| seat);
        let seat = taken.or_else(|| waiting.free.pop()).unwrap_or_else(|| {
            waiting.seats.push(None);
            waiting.seats.len() - 1
        });
        this.seat = Some((waiting.round, seat));
        if let Some(place) = waiting.seats.get_mut(seat)
            && !place.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *place = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let Some((round, seat)) = self.seat else { return };
        let mut waiting = self.topic.lock();
        if round == waiting.round
            && let Some(place) = waiting.seats.get_mut(seat)
        {
            *place = None;
            waiting.free.push(seat);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(wait: &mut Changed, bell: &Arc<Bell>) -> Poll<u64> {
        Pin::new(wait).poll(&mut Context::from_waker(&Waker::from(Arc::clone(bell))))
    }

    #[test]
    fn who_is_behind_does_not_wait() {
        let topic = Arc::new(Topic::new(5));
        assert_eq!(poll(&mut topic.changed(4), &Arc::default()), Poll::Ready(5));
        assert!(poll(&mut topic.changed(5), &Arc::default()).is_pending());
        assert!(poll(&mut topic.changed(9), &Arc::default()).is_pending(), "who is ahead waits too");
    }

    #[test]
    fn everybody_is_told_once() {
        let (topic, bell) = (Arc::new(Topic::new(1)), Arc::<Bell>::default());
        let mut waits: Vec<_> = (0..100).map(|_| topic.changed(1)).collect();
        for wait in &mut waits {
            assert!(poll(wait, &bell).is_pending());
            assert!(poll(wait, &bell).is_pending(), "asking again takes no second seat");
        }
        assert_eq!(topic.waiting(), 100);
        topic.raise(2);
        topic.tell();
        topic.tell();
        assert_eq!(bell.0.load(Ordering::SeqCst), 100);
        assert!(waits.iter_mut().all(|wait| poll(wait, &bell) == Poll::Ready(2)));
        assert_eq!(topic.waiting(), 0);
    }

    #[test]
    fn who_gives_up_leaves_its_seat_and_no_other() {
        let (topic, bell) = (Arc::new(Topic::new(1)), Arc::<Bell>::default());
        let (mut a, mut b) = (topic.changed(1), topic.changed(1));
        assert!(poll(&mut a, &bell).is_pending() && poll(&mut b, &bell).is_pending());
        drop(a);
        assert_eq!(topic.waiting(), 1);
        // Told without a change (as it may be): b is in a new round; its old seat is another's by now.
        topic.tell();
        let mut c = topic.changed(1);
        assert!(poll(&mut c, &bell).is_pending());
        drop(b);
        assert_eq!(topic.waiting(), 1);
    }
}
