//! Answers on their way from the half of a connection that reads to the half that writes. Both are one task: a channel between
//! them would wake the task that is running, and the runtime a second worker to take it over.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

/// A queue within a task. Whoever waits for it is polled again by [`Pipeline::drive`].
pub(super) struct Pipeline<T> {
    state: Mutex<State<T>>,
    max: usize,
}

struct State<T> {
    queue: VecDeque<T>,
    closed: bool,
    /// Something changed that a half may have waited for.
    moved: bool,
}

impl<T> Pipeline<T> {
    /// `max`: how many may be on their way.
    pub fn new(max: usize) -> Pipeline<T> {
        Pipeline { state: Mutex::new(State { queue: VecDeque::new(), closed: false, moved: false }), max }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room, and hands it over.
    pub async fn send(&self, item: T) {
        let mut item = Some(item);
        poll_fn(|_| {
            let mut state = self.lock();
            if state.queue.len() >= self.max {
                return Poll::Pending;
            }
            state.queue.extend(item.take());
            state.moved = true;
            Poll::Ready(())
        })
        .await;
    }

    /// The next one; `None` once there will be no other.
    pub async fn receive(&self) -> Option<T> {
        poll_fn(|_| {
            let mut state = self.lock();
            match Self::take(&mut state, self.max) {
                None if !state.closed => Poll::Pending,
                next => Poll::Ready(next),
            }
        })
        .await
    }

    /// The next one, if it is there.
    pub fn next(&self) -> Option<T> {
        Self::take(&mut self.lock(), self.max)
    }

    fn take(state: &mut State<T>, max: usize) -> Option<T> {
        state.moved |= state.queue.len() >= max;
        state.queue.pop_front()
    }

    /// Runs both halves until the one that writes has ended; that the other has ended it learns by [`Pipeline::receive`].
    pub async fn drive(
        &self,
        reading: impl Future<Output = io::Result<()>>,
        writing: impl Future<Output = io::Result<()>>,
    ) -> io::Result<()> {
        let (mut reading, mut writing, mut read) = (pin!(reading), pin!(writing), None);
        poll_fn(|cx| {
            loop {
                // Whoever has an answer can go on while the rest is read.
                if let Poll::Ready(written) = writing.as_mut().poll(cx) {
                    return Poll::Ready(read.take().unwrap_or(Ok(())).and(written));
                }
                if read.is_none()
                    && let Poll::Ready(ended) = reading.as_mut().poll(cx)
                {
                    read = Some(ended);
                    let mut state = self.lock();
                    (state.closed, state.moved) = (true, true);
                }
                if !std::mem::take(&mut self.lock().moved) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn all_goes_through_in_order_in_one_poll_and_nobody_is_woken() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        for max in [1, 2, 64] {
            let pipeline = Pipeline::new(max);
            let mut seen = Vec::new();
            let reading = async {
                for n in 0..1000 {
                    pipeline.send(n).await;
                }
                Err(io::ErrorKind::UnexpectedEof.into())
            };
            let writing = async {
                while let Some(n) = pipeline.receive().await {
                    seen.push(n);
                    seen.extend(pipeline.next());
                }
                Ok(())
            };
            let end = {
                let mut both = pin!(pipeline.drive(reading, writing));
                both.as_mut().poll(&mut Context::from_waker(&waker))
            };
            // What was read is written even where reading has failed.
            assert!(matches!(end, Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof), "{max}");
            assert!(seen == (0..1000).collect::<Vec<_>>(), "{max}");
        }
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn the_end_of_writing_ends_it_and_waits_of_both_halves_are_woken() {
        let pipeline = Pipeline::new(2);
        let pause = || tokio::time::sleep(std::time::Duration::from_millis(3));
        let reading = async {
            for n in 0.. {
                if n % 7 == 0 {
                    pause().await;
                }
                pipeline.send(n).await;
            }
            Ok(())
        };
        let writing = async {
            for n in 0..50 {
                assert_eq!(pipeline.receive().await, Some(n));
                if n % 11 == 0 {
                    pause().await;
                }
            }
            Err(io::ErrorKind::BrokenPipe.into())
        };
        let end = tokio::time::timeout(std::time::Duration::from_secs(20), pipeline.drive(reading, writing)).await;
        assert_eq!(end.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
