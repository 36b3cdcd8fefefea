//! What is going on: overview, connections, channels, consumers. And who may see which vhost.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use waypost_broker::broker::admin::{ChannelReport, ConnectionReport, ConsumerReport};

use super::super::auth::Who;
use super::super::json::from_table;
use super::super::request::Failure;
use super::{Ask, Done, list, nothing_there, show, wrong_method};

/// What a peer is told when nobody says why.
const CLOSED: &str = "closed via the management API";

impl Ask {
    pub(super) fn listings(&self, path: &[&str]) -> Result<Done, Failure> {
        let broker = &self.node.broker;
        let vhost = self.parameter("vhost");
        match (self.method(), path) {
            ("GET", ["overview"]) => show(self.overview()),
            ("GET", ["consumers"]) => list(self.seen(broker.consumers(vhost.as_deref())?, |c| &c.vhost), consumer),
            ("GET", ["connections"]) => list(self.mine(broker.connections(), |c| c.user.as_deref()), connection),
            ("GET", ["channels"]) => list(self.mine(broker.channels(), |c| c.user.as_deref()), channel),
            ("GET", ["connections", name]) => {
                let report = broker.connection(name)?;
                self.must_own(report.user.as_deref())?;
                show(connection(&report))
            }
            ("DELETE", ["connections", name]) => {
                self.must_own(broker.connection(name)?.user.as_deref())?;
                broker.close_connection(name, &self.parameter("reason").unwrap_or_else(|| CLOSED.to_owned()))?;
                Ok(Done::Changed(None))
            }
            (_, ["overview" | "consumers" | "connections" | "channels"] | ["connections", _]) => Err(wrong_method()),
            _ => Err(nothing_there()),
        }
    }

    fn overview(&self) -> Json {
        let o = self.node.broker.overview();
        json!({
            "product": "Waypost", "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.node.clock.uptime().as_secs(),
            "connections": o.connections, "channels": o.channels, "consumers": o.consumers, "vhosts": o.vhosts,
            "users": o.users, "exchanges": o.exchanges, "queues": o.queues, "bindings": o.bindings,
            "messages": { "ready": o.messages.ready, "unacknowledged": o.messages.unacknowledged },
            "memory": { "queues_bytes": o.memory_bytes, "queues_budget_bytes": o.memory_budget_bytes },
            "alarms": { "memory": o.alarm.memory, "disk": o.alarm.disk },
        })
    }

    /// Refuses who has no permissions in the vhost.
    pub(super) fn must_see(&self, vhost: &str) -> Result<(), Failure> {
        match &self.who {
            Who::User { name, administrator: false, .. } => Ok(self.node.broker.permission(name, vhost).map(drop)?),
            _ => Ok(()),
        }
    }

    /// Those items whose vhost may be seen.
    pub(super) fn seen<T>(&self, mut items: Vec<T>, vhost: impl Fn(&T) -> &str) -> Vec<T> {
        if let Who::User { name, administrator: false, .. } = &self.who {
            let all = self.node.broker.permissions().into_iter();
            let vhosts: BTreeSet<_> = all.filter(|(user, ..)| **user == **name).map(|(_, v, _)| v).collect();
            items.retain(|item| vhosts.contains(vhost(item)));
        }
        items
    }

    fn mine<T>(&self, mut items: Vec<T>, user: impl Fn(&T) -> Option<&str>) -> Vec<T> {
        if let Who::User { name, administrator: false, .. } = &self.who {
            items.retain(|item| user(item) == Some(name));
        }
        items
    }

    fn must_own(&self, user: Option<&str>) -> Result<(), Failure> {
        match &self.who {
            Who::User { name, administrator: false, .. } if user != Some(name) => self.who.must_administrate(),
            _ => Ok(()),
        }
    }
}

fn connection(c: &ConnectionReport) -> Json {
    json!({
        "name": c.name, "protocol": c.peer.protocol, "user": c.user.as_deref(), "vhost": c.vhost.as_deref(),
        "peer": c.peer.remote.to_string(), "local": c.peer.local.to_string(), "tls": c.peer.tls,
        "connected_at": c.since.0, "channels": c.channels, "consumers": c.consumers, "published": c.messages_in,
        "blocked": c.blocked, "client_properties": from_table(&c.client_properties),
    })
}

fn channel(c: &ChannelReport) -> Json {
    json!({
        "connection": c.connection_name, "number": c.number.0, "user": c.user.as_deref(),
        "vhost": c.vhost.as_deref(), "consumers": c.consumers,
    })
}

fn consumer(c: &ConsumerReport) -> Json {
    json!({
        "vhost": &*c.vhost, "queue": &*c.queue, "connection": c.connection_name, "user": c.user.as_deref(),
        "channel": c.info.channel.0, "tag": &*c.info.tag, "no_ack": c.info.no_ack, "exclusive": c.info.exclusive,
        "priority": c.info.priority, "prefetch": c.info.prefetch, "unacknowledged": c.info.held,
        "active": c.info.active,
    })
}
