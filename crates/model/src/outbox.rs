//! The mailbox between the core and a connection's driver.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::event::Event;

/// Events for one connection, pushed by whoever runs a shard, drained by the connection's driver.
///
/// It has no bound of its own: what goes in is bounded by the credit of the consumers (deliveries) and by the commands
/// that the peer's own reads brought (everything else).
#[derive(Debug, Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Event>,
    waker: Option<Waker>,
    closed: bool,
}

impl Outbox {
    /// Adds an event and wakes the driver. After [`Outbox::close`] the event is dropped.
    pub fn push(&self, event: Event) {
        if let Some(w) = self.push_quietly(event) {
            w.wake();
        }
    }

    /// Adds an event. Whoever calls wakes the driver by what is returned, when nothing more is to come.
    #[must_use = "the driver is not woken otherwise"]
    pub fn push_quietly(&self, event: Event) -> Option<Waker> {
        let mut inner = self.lock();
        if inner.closed {
            return None;
        }
        inner.events.push_back(event);
        inner.waker.take()
    }

    /// Moves all events behind those in `into`. If there was none, `waker` is woken by the next push.
    pub fn drain(&self, into: &mut VecDeque<Event>, waker: Option<&Waker>) {
        let mut inner = self.lock();
        if inner.events.is_empty() {
            if let Some(w) = waker {
                match &mut inner.waker {
                    Some(old) if old.will_wake(w) => {}
                    slot => *slot = Some(w.clone()),
                }
            }
        } else if into.is_empty() {
            std::mem::swap(&mut inner.events, into);
        } else {
            into.append(&mut inner.events);
        }
    }

    /// Wakes the driver although there is no event, for instance because the journal has advanced.
    pub fn nudge(&self) {
        let waker = self.lock().waker.take();
        if let Some(w) = waker {
            w.wake();
        }
    }

    /// Takes no more events; returns what was there.
    pub fn close(&self) -> VecDeque<Event> {
        let mut inner = self.lock();
        inner.closed = true;
        inner.waker = None;
        std::mem::take(&mut inner.events)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The queue is whole at every point where a holder could panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
