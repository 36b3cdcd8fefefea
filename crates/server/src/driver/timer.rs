//! One timer per connection, moved as seldom as possible.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Sleep, sleep_until};
use waypost_model::Millis;

use crate::clock::Clock;

/// Wakes the task at some time. Firing too early is harmless (the task looks at the clock), so a timer that is armed for
/// an earlier time than needed stays as it is.
#[derive(Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<Millis>,
}

impl Timer {
    /// Sees to it that the task is woken by `at` at the latest. True if that time has come already.
    pub(super) fn arm(&mut self, at: Millis, clock: &Clock, cx: &mut Context<'_>) -> bool {
        // A task has one waker for life, so what is registered stays good until it fires.
        if self.armed.is_some_and(|armed| armed <= at && armed > clock.now()) {
            return false;
        }
        let instant = clock.instant(at).into();
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                sleep.as_mut().reset(instant);
                sleep
            }
            none => none.insert(Box::pin(sleep_until(instant))),
        };
        match sleep.as_mut().poll(cx) {
            Poll::Ready(()) => {
                self.armed = None;
                true
            }
            Poll::Pending => {
                self.armed = Some(at);
                false
            }
        }
    }
}
