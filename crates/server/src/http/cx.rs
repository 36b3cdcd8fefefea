//! What a page is given beside the request.

use std::future::{Future as _, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use waypost_broker::topology::{Access, Resource};
use waypost_model::{Lsn, Refusal};
use waypost_registry::services::{CheckSpec, Services};

use super::HttpListener;
use super::auth::Who;
use super::request::Failure;
use crate::node::Node;

/// The circumstances of a request.
pub(super) struct Cx<'a> {
    /// The node.
    pub node: &'a Arc<Node>,
    /// Where the request came in.
    pub listener: &'a HttpListener,
    /// Who asks.
    pub who: Who,
    /// How a wait learns that the node stops.
    pub stop_seen_by: StopSeenBy,
}

/// Who wakes a task when the node stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopSeenBy {
    /// Each wait for itself.
    Wait,
    /// The connection, whose task looks at what waits in it, too.
    Connection,
}

/// The exchange whose routing keys are names of services.
pub(super) const SERVICES: &str = "amq.services";

impl Cx<'_> {
    /// The vhost of what carries none.
    pub(super) fn vhost(&self) -> &Arc<str> {
        &self.listener.vhost
    }

    /// The services of a vhost.
    ///
    /// # Errors
    /// 404 (no such vhost).
    pub(super) fn services(&self, vhost: &str) -> Result<Services, Refusal> {
        // The registry keeps every name that it is asked for.
        if *vhost != **self.vhost() {
            self.node.broker.vhost(vhost)?;
        }
        Ok(self.node.registry.services(vhost))
    }

    /// For what goes on after the answer has begun: true once the node stops.
    pub(super) fn stop(&self) -> watch::Receiver<bool> {
        self.listener.stop.clone()
    }

    /// Whether the node stops.
    pub(super) fn is_stopping(&self) -> bool {
        *self.listener.stop.borrow()
    }

    /// Completes when the node stops, or after `wait`: how long polls wait for their time, beside what they wait for.
    pub(super) async fn patience(&self, wait: Duration) {
        if self.stop_seen_by == StopSeenBy::Connection {
            let mut time = std::pin::pin!(tokio::time::sleep(wait));
            return poll_fn(|cx| if self.is_stopping() { Poll::Ready(()) } else { time.as_mut().poll(cx) }).await;
        }
        let mut stop = self.stop();
        let _ = tokio::time::timeout(wait, super::stopped(&mut stop)).await;
    }

    /// Waits until the journal is durable up to `lsn`.
    ///
    /// # Errors
    /// 504.
    pub(super) async fn durable(&self, lsn: Option<Lsn>) -> Result<(), Failure> {
        if self.node.reached(lsn).await { Ok(()) } else { Err(Failure::not_durable()) }
    }

    /// Whether who asks may do something with a name in a vhost.
    ///
    /// # Errors
    /// 403.
    pub(super) fn may(&self, vhost: &str, access: Access, resource: Resource, name: &str) -> Result<(), Refusal> {
        self.node.broker.check_permission(self.who.actor(), vhost, access, resource, name)
    }

    /// Whether who asks may be, or command, an instance: that takes the permission to configure its id.
    ///
    /// # Errors
    /// 403.
    pub(super) fn may_claim(&self, vhost: &str, id: &str) -> Result<(), Refusal> {
        self.node.broker.check_claim(self.who.actor(), vhost, id)
    }

    /// Whether the server may connect to where checks have it connect to.
    ///
    /// # Errors
    /// 400.
    pub(super) fn may_check(&self, checks: &[CheckSpec]) -> Result<(), Failure> {
        let allow = &self.node.config.targets.allow;
        checks.iter().try_for_each(|check| {
            crate::node::may_reach(&check.kind, allow)
                .map_err(|why| Failure::bad(format!("check `{}`: {why}", check.id)))
        })
    }

    /// Whether who asks may write to a service or read of it: its name is checked like a routing key of the exchange of
    /// the services.
    ///
    /// # Errors
    /// 403.
    pub(super) fn may_service(&self, vhost: &str, access: Access, service: &str) -> Result<(), Refusal> {
        // What is open to everybody is looking.
        if matches!(self.who, Who::Anyone) && access == Access::Read {
            return Ok(());
        }
        self.may(vhost, access, Resource::Exchange, SERVICES)?;
        self.node.broker.check_topic_permission(self.who.actor(), vhost, access, SERVICES, service)
    }
}
