//! Connections on which nothing happens: no request under way, and nothing sent for so long.
//!
//! One timer per connection that strikes seldom, instead of one per request: a request costs two counters.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// What happens on a connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Requests that are being answered.
    under_way: AtomicU32,
    /// Requests that have begun, and pieces of answers that were sent.
    steps: AtomicU32,
    /// Answers of hyper's that are not encoded as a whole.
    unfinished: AtomicU32,
}

/// A request that is being answered, until it is dropped.
pub(super) struct UnderWay(Arc<Activity>);

/// An answer that hyper has not encoded as a whole, until it is dropped.
pub(super) struct Unfinished(Arc<Activity>);

impl Activity {
    /// Hyper has a request that it will answer.
    pub(super) fn to_answer(self: &Arc<Self>) -> Unfinished {
        self.unfinished.fetch_add(1, Ordering::Relaxed);
        Unfinished(Arc::clone(self))
    }

    /// Whether hyper has encoded the answers to all requests that it has.
    pub(super) fn is_answered(&self) -> bool {
        self.unfinished.load(Ordering::Relaxed) == 0
    }

    /// A request begins.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.sent();
        UnderWay(Arc::clone(self))
    }

    /// Something was sent. What is received counts only once a request is complete: a head may be sent byte by byte.
    pub(super) fn sent(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Completes when nothing has happened for at least `limit`, and at most twice that.
    pub(super) async fn rests(&self, limit: Duration) {
        let mut before = self.steps.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(limit).await;
            let steps = self.steps.load(Ordering::Relaxed);
            if steps == before && self.under_way.load(Ordering::Relaxed) == 0 {
                return;
            }
            before = steps;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.sent();
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.unfinished.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Something that completes seldom, beside something that goes on all the time: it is looked at only when it has asked for
/// that itself, not whenever the task runs.
pub(super) struct Seldom<F> {
    future: Pin<Box<F>>,
    bell: Option<(Arc<Bell>, Waker)>,
}

/// Rung by what completes seldom.
struct Bell {
    rung: AtomicBool,
    task: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<F: Future> Seldom<F> {
    pub(super) fn new(future: F) -> Seldom<F> {
        Seldom { future: Box::pin(future), bell: None }
    }
}

impl<F: Future> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if !this.bell.as_ref().is_some_and(|(bell, _)| bell.task.will_wake(cx.waker())) {
            let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: cx.waker().clone() });
            this.bell = Some((Arc::clone(&bell), bell.into()));
        }
        let Some((bell, waker)) = &this.bell else { return Poll::Pending };
        if !bell.rung.load(Ordering::Relaxed) || !bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        this.future.as_mut().poll(&mut Context::from_waker(waker))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn who_does_nothing_is_noticed_and_who_waits_for_an_answer_is_not() {
        let activity = Arc::new(Activity::default());
        let request = activity.begin();
        assert!(timeout(LIMIT * 6, activity.rests(LIMIT)).await.is_err());
        drop(request);
        assert!(timeout(Duration::from_secs(10), activity.rests(LIMIT)).await.is_ok());
        let (rests, sending) = (activity.rests(LIMIT), async {
            for _ in 0..20 {
                tokio::time::sleep(LIMIT / 5).await;
                activity.sent();
            }
        });
        tokio::select! {
            () = rests => panic!("something was sent all the time"),
            () = sending => {}
        }
    }

    #[tokio::test]
    async fn what_completes_seldom_is_looked_at_only_when_it_asks_for_it() {
        let (looked, notify) = (AtomicU32::new(0), tokio::sync::Notify::new());
        let mut notified = Box::pin(notify.notified());
        let mut seldom = Seldom::new(std::future::poll_fn(|cx| {
            looked.fetch_add(1, Ordering::SeqCst);
            notified.as_mut().poll(cx)
        }));
        for _ in 0..5 {
            assert!(timeout(Duration::from_millis(1), &mut seldom).await.is_err());
        }
        assert_eq!(looked.load(Ordering::SeqCst), 1);
        notify.notify_one();
        assert!(timeout(Duration::from_secs(10), &mut seldom).await.is_ok());
        assert_eq!(looked.load(Ordering::SeqCst), 2);
    }
}
