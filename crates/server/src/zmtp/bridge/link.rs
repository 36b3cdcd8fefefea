//! A connection to the broker from a device's thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use waypost_broker::broker::Connection;
use waypost_broker::broker::admin::Actor;
use waypost_model::journal::BodyStore;
use waypost_model::{Call, ChannelId, Command, Event, Lsn, Outbox, Refusal, Reply, Turn};

use crate::clock::Clock;
use crate::driver::Core;
use crate::node::BrokerCore;

pub(super) const CHANNEL: ChannelId = ChannelId(1);
const TOKEN: u32 = 0;

/// Where a device's broker is.
#[derive(Clone)]
pub(crate) struct Place {
    /// The broker.
    pub(crate) core: Arc<BrokerCore>,
    /// The node's clock.
    pub(crate) clock: Clock,
    /// Whose queues and exchanges.
    pub(crate) vhost: Arc<str>,
}

/// A connection with one channel. What was delivered and not settled returns to its queue when this is dropped.
pub(super) struct Link {
    place: Place,
    /// Taken when it ends.
    conn: Option<Connection>,
    outbox: Arc<Outbox>,
    waker: Option<Waker>,
    /// Whether the outbox may hold something: asking it costs a lock.
    woken: Arc<AtomicBool>,
    events: VecDeque<Event>,
}

impl Link {
    pub(super) fn open(place: &Place) -> Result<Link, Refusal> {
        let outbox = Arc::new(Outbox::default());
        let core = &place.core;
        let conn =
            core.broker().connect_local(Actor::Operator, &place.vhost, Arc::clone(&outbox), place.clock.now())?;
        let (waker, woken, events) = (None, Arc::new(AtomicBool::new(true)), VecDeque::new());
        let mut link = Link { place: place.clone(), conn: Some(conn), outbox, waker, woken, events };
        link.call(Call::OpenChannel)?;
        Ok(link)
    }

    /// From now on the device's thread is woken by what the broker has to say.
    pub(super) fn wake_by(&mut self, waker: &Arc<mio::Waker>) {
        let (thread, woken) = (Arc::clone(waker), Arc::clone(&self.woken));
        self.waker = Some(Waker::from(Arc::new(ThreadWaker { thread, woken })));
    }

    /// Asks for something. The answer is there at once; what else has come stays for [`Link::next`].
    pub(super) fn call(&mut self, call: Call) -> Result<Reply, Refusal> {
        self.execute(&mut Turn { batch: None, commands: vec![Command::Call { channel: CHANNEL, token: TOKEN, call }] });
        let mut came = VecDeque::new();
        self.outbox.drain(&mut came, None);
        let mut answer = None;
        for event in came {
            match event {
                Event::Reply { reply, .. } if answer.is_none() => answer = Some(Ok(reply)),
                Event::Refused { refusal, .. } if answer.is_none() => answer = Some(Err(refusal)),
                other => self.events.push_back(other),
            }
        }
        answer.unwrap_or_else(|| Err(Refusal::internal("the broker said nothing to a call")))
    }

    /// Carries out commands.
    pub(super) fn execute(&mut self, turn: &mut Turn) {
        if let Some(conn) = &mut self.conn {
            self.place.core.execute(conn, turn, self.place.clock.now());
        }
    }

    /// What the broker said next. When there is nothing, the thread will be woken.
    pub(super) fn next(&mut self) -> Option<Event> {
        if self.events.is_empty() {
            if !self.woken.swap(false, Ordering::SeqCst) {
                return None;
            }
            self.outbox.drain(&mut self.events, self.waker.as_ref());
            if !self.events.is_empty() || self.waker.is_none() {
                // Only an empty outbox remembers whom to wake.
                self.woken.store(true, Ordering::SeqCst);
            }
        }
        self.events.pop_front()
    }

    pub(super) fn durable(&self) -> Lsn {
        self.place.core.durable()
    }

    pub(super) fn bodies(&self) -> &Arc<dyn BodyStore> {
        self.place.core.bodies()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.place.core.disconnect(conn, self.place.clock.now());
        }
    }
}

struct ThreadWaker {
    thread: Arc<mio::Waker>,
    woken: Arc<AtomicBool>,
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        // It fails only if the thread is gone.
        let _ = self.thread.wake();
    }
}
