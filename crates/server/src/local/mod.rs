//! The broker's clients inside this process: what HTTP, push, configuration and other faces publish and consume with.
//!
//! [`Publishers`] gives messages to exchanges, [`Subscriber`] takes them out of queues with credit and settlement, and
//! [`Requests`] asks and waits for answers by direct reply-to. They act as whoever runs the node: whoever uses them on
//! behalf of a user has checked the user's permissions.

mod message;
mod publish;
mod request;
mod subscribe;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use waypost_broker::broker::Broker;

use crate::clock::Clock;
use crate::node::BrokerCore;

pub(crate) use message::{Message, attrs};
pub(crate) use publish::{Posted, Publishers};
pub(crate) use request::{AskError, Asked, Requests};
pub(crate) use subscribe::{Incoming, Receipt, Received, Subscriber, Terms};

/// What every local client needs of the node.
#[derive(Clone)]
pub(crate) struct Local {
    core: Arc<BrokerCore>,
    clock: Clock,
}

impl Local {
    /// For the clients of a node.
    pub(crate) fn new(core: Arc<BrokerCore>, clock: Clock) -> Local {
        Local { core, clock }
    }

    /// The broker.
    pub(crate) fn broker(&self) -> &Arc<Broker> {
        self.core.broker()
    }
}

/// The clients that a node shares.
pub(crate) struct Clients {
    /// To start subscribers with.
    pub local: Local,
    /// Publishes for everybody.
    pub publishers: Arc<Publishers>,
    /// Asks for everybody.
    pub requests: Requests,
}

impl Clients {
    /// For a node.
    pub(crate) fn new(core: Arc<BrokerCore>, clock: Clock) -> Clients {
        let local = Local::new(core, clock);
        let publishers = Arc::new(Publishers::new(local.clone()));
        Clients { requests: Requests::new(local.clone(), Arc::clone(&publishers)), local, publishers }
    }
}
