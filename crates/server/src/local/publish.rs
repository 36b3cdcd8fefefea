//! Publishing with confirms.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use waypost_broker::broker::Connection;
use waypost_broker::broker::admin::Actor;
use waypost_broker::shard::Placed;
use waypost_model::{Batch, Call, ChannelId, Command, Event, Lsn, Outbox, Publish, Refusal, Route, Turn};

use super::{Local, Message, attrs};
use crate::driver::Core;

const CHANNEL: ChannelId = ChannelId(1);

/// Publishing is done while its thread runs, so there are never more in use than threads; more are not kept.
const IDLE_MAX: usize = 8;

/// Vhosts whose publishers are kept.
const VHOSTS_MAX: usize = 256;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posted {
    /// Taken. On disk, where it belongs there, once the journal is durable up to the ticket.
    Taken(Option<Lsn>),
    /// No queue wanted it, and it was mandatory.
    Unroutable,
    /// A queue or the disk has no room for it.
    Full,
}

/// Publishers of all vhosts.
pub(crate) struct Publishers {
    local: Local,
    idle: Mutex<HashMap<Box<str>, Vec<Publisher>>>,
}

struct Publisher {
    conn: Connection,
    outbox: Arc<Outbox>,
    /// Of the next publish.
    number: u64,
}

impl Publishers {
    pub(crate) fn new(local: Local) -> Publishers {
        Publishers { local, idle: Mutex::default() }
    }

    /// Publishes a message, and says what became of it. The broker's answer to a publish is there at once; only the disk
    /// is to be waited for.
    ///
    /// # Errors
    /// What the broker says: no such vhost or exchange, an invalid selector, …
    pub(crate) fn publish(
        &self,
        vhost: &str,
        route: &Arc<Route>,
        message: &Message,
        mandatory: bool,
    ) -> Result<Posted, Refusal> {
        self.publish_to_keep(vhost, route, message, mandatory).map(|(posted, _)| posted)
    }

    /// The same; tells beside where the message was put, if it went to a service, for [`Publishers::withdraw`].
    ///
    /// # Errors
    /// As [`Publishers::publish`].
    pub(crate) fn publish_to_keep(
        &self,
        vhost: &str,
        route: &Arc<Route>,
        message: &Message,
        mandatory: bool,
    ) -> Result<(Posted, Option<Placed>), Refusal> {
        let attrs = attrs(&message.props)?;
        let batch = Arc::new(Batch::single(&message.props.to_bytes(), &message.body));
        let mut publisher = self.take(vhost)?;
        publisher.number += 1;
        let publish = Publish {
            channel: CHANNEL,
            route: Arc::clone(route),
            batch: Some(batch),
            from: 0,
            to: 1,
            attrs,
            mandatory,
            confirm: Some(publisher.number),
        };
        publisher.execute(&self.local, Command::Publish(publish));
        match publisher.verdict() {
            Ok(posted) => {
                let placed = publisher.conn.take_placed();
                self.put_back(vhost, publisher);
                Ok((posted, placed))
            }
            Err(refusal) => {
                // A refusal ends the channel, and the rest of it is not worth keeping.
                self.end(publisher);
                Err(refusal)
            }
        }
    }

    /// Takes a message back, if nobody was given it yet.
    pub(crate) fn withdraw(&self, placed: &Placed) {
        self.local.broker().withdraw(placed, self.local.clock.now());
    }

    fn take(&self, vhost: &str) -> Result<Publisher, Refusal> {
        let idle = self.lock().get_mut(vhost).and_then(Vec::pop);
        match idle {
            Some(publisher) => Ok(publisher),
            None => Publisher::open(&self.local, vhost),
        }
    }

    fn put_back(&self, vhost: &str, publisher: Publisher) {
        let mut idle = self.lock();
        if !idle.contains_key(vhost) && idle.len() < VHOSTS_MAX {
            idle.insert(vhost.into(), Vec::new());
        }
        match idle.get_mut(vhost) {
            Some(list) if list.len() < IDLE_MAX => list.push(publisher),
            _ => {
                drop(idle);
                self.end(publisher);
            }
        }
    }

    fn end(&self, publisher: Publisher) {
        self.local.core.disconnect(publisher.conn, self.local.clock.now());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Box<str>, Vec<Publisher>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher {
    fn open(local: &Local, vhost: &str) -> Result<Publisher, Refusal> {
        let outbox = Arc::new(Outbox::default());
        let conn = local.core.broker().connect_local(Actor::Operator, vhost, Arc::clone(&outbox), local.clock.now())?;
        let mut publisher = Publisher { conn, outbox, number: 0 };
        publisher.execute(local, Command::Call { channel: CHANNEL, token: 0, call: Call::OpenChannel });
        publisher.events().clear();
        Ok(publisher)
    }

    fn execute(&mut self, local: &Local, command: Command) {
        let mut turn = Turn { batch: None, commands: vec![command] };
        local.core.execute(&mut self.conn, &mut turn, local.clock.now());
    }

    fn events(&self) -> VecDeque<Event> {
        let mut events = VecDeque::new();
        self.outbox.drain(&mut events, None);
        events
    }

    /// What the broker has said to the last publish.
    fn verdict(&self) -> Result<Posted, Refusal> {
        let mut posted = None;
        for event in self.events() {
            match event {
                Event::Returned { .. } => posted = Some(Posted::Unroutable),
                Event::Accepted { lsn, .. } => posted = posted.or(Some(Posted::Taken(lsn))),
                Event::Rejected { .. } => posted = Some(Posted::Full),
                Event::Refused { refusal, .. } | Event::Close { refusal } => return Err(refusal),
                _ => {}
            }
        }
        posted.ok_or_else(|| Refusal::internal("the broker said nothing to a publish"))
    }
}
