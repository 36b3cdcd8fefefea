//! What operators see and set: the face that management APIs and the command line build on.
//!
//! Everything here is plain data: no protocol, no encoding. A method that changes something returns the ticket that has
//! to be durable before the change may be reported as done ([`Broker::durable`]); `None` means that nothing changed or
//! that nothing of it outlives the process.
//!
//! Listings copy what they need lock by lock: definitions under the topology's read lock, then counts shard by shard, so
//! that 10,000 queues hold nobody up for longer than one shard's share of them. A listing is therefore no snapshot: a
//! queue that goes while it is made is left out.

mod access;
mod connections;
mod exchanges;
mod overview;
mod parameters;
mod policies;
mod queues;
mod security;
mod services;
mod users;
mod vhosts;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use waypost_model::{ConnId, Lsn, Millis, Refusal};

pub use connections::{ChannelReport, ConnectionReport};
pub use overview::{MessageCounts, Overview};
pub use queues::{ConsumerReport, QueueReport};
pub use services::{ServiceExplanation, ServiceReport};
pub use users::{NewPassword, UserUpdate};

use super::Broker;
use crate::topology::{Change, Topology};

/// On whose behalf something is done to the contents of a vhost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor<'a> {
    /// Whoever runs the node: may do everything.
    Operator,
    /// A user, held to his permissions in the vhost.
    User(&'a str),
}

impl<'a> Actor<'a> {
    /// The name under which permissions are looked up.
    pub(super) fn name(self) -> &'a str {
        match self {
            Self::Operator => Topology::OPERATOR,
            Self::User(name) => name,
        }
    }
}

/// Something, and the vhost where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct InVhost<T> {
    /// The vhost.
    pub vhost: Arc<str>,
    /// What.
    pub item: T,
}

/// No connection: what operators do is done by none. Connections are numbered from 1.
const NOBODY: ConnId = ConnId(0);

impl Broker {
    /// Alters the topology and carries out what follows from it.
    fn alter<R>(
        &self,
        now: Millis,
        f: impl FnOnce(&mut Topology) -> Result<(R, Change), Refusal>,
    ) -> Result<(R, Option<Lsn>), Refusal> {
        let mut w = self.work(now);
        let done = self.change(&mut w, f);
        self.carry_out(&mut w);
        done
    }

    /// The same, where there is nothing to tell but the ticket.
    fn set(
        &self,
        now: Millis,
        f: impl FnOnce(&mut Topology) -> Result<Change, Refusal>,
    ) -> Result<Option<Lsn>, Refusal> {
        self.alter(now, |t| Ok(((), f(t)?))).map(|((), lsn)| lsn)
    }

    /// What `list` gives for one vhost, or for all of them in order of name.
    fn in_vhosts<T>(
        &self,
        vhost: Option<&str>,
        list: impl Fn(&Topology, &str) -> Vec<T>,
    ) -> Result<Vec<InVhost<T>>, Refusal> {
        let names = self.vhost_names(vhost)?;
        let mut all = Vec::new();
        for name in names {
            // The lock is given up between vhosts: whoever wants to alter something need not wait for all of them.
            let items = list(&self.topology_read(), &name);
            all.extend(items.into_iter().map(|item| InVhost { vhost: Arc::clone(&name), item }));
        }
        Ok(all)
    }

    fn vhost_names(&self, vhost: Option<&str>) -> Result<Vec<Arc<str>>, Refusal> {
        let t = self.topology_read();
        match vhost {
            None => Ok(t.vhosts().into_iter().map(|v| v.name).collect()),
            Some(name) => t.vhost_view(name).map(|v| vec![v.name]).ok_or_else(|| no_vhost(name)),
        }
    }
}

fn no_vhost(name: &str) -> Refusal {
    Refusal::not_found(format!("no vhost '{name}'"))
}

fn no_such(what: &str, name: &str, vhost: &str) -> Refusal {
    Refusal::not_found(format!("no {what} '{name}' in vhost '{vhost}'"))
}
