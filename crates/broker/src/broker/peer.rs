//! Connections as the core sees them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use waypost_model::table::Table;
use waypost_model::{ChannelId, ConnId, ConsumerId, Millis, Outbox, Publish};

use super::publish::Verdict;
use super::routes::RouteCache;
use super::services::{Claims, Gathered, Variants};
use crate::shard::{ChannelCredit, Placed};

/// What the driver knows of a peer before it has said anything.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// The protocol, for listings.
    pub protocol: &'static str,
    /// The peer's address.
    pub remote: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The common name of the peer's verified certificate.
    pub certificate_name: Option<String>,
    /// Whether it came from this machine: some users may only do that.
    pub loopback: bool,
    /// The vhost of the listener, for protocols that carry none.
    pub default_vhost: Arc<str>,
}

impl PeerInfo {
    /// Somebody on this machine without a socket, in vhost `/`.
    #[must_use]
    pub fn on_this_machine(protocol: &'static str) -> PeerInfo {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        PeerInfo {
            protocol,
            remote: nowhere,
            local: nowhere,
            tls: false,
            certificate_name: None,
            loopback: true,
            default_vhost: "/".into(),
        }
    }
}

/// The part of a connection that listings and operators see.
pub struct Peer {
    /// Its id.
    pub id: ConnId,
    /// Where it comes from.
    pub info: PeerInfo,
    /// When it came.
    pub since: Millis,
    /// Where its events go.
    pub outbox: Arc<Outbox>,
    /// What is learnt by and by.
    pub known: Mutex<Known>,
    pub(super) waits: super::waiting::Waits,
    /// Whether it has published: those are told of alarms.
    pub published: AtomicBool,
    /// Messages published.
    pub messages_in: AtomicU64,
}

/// What a connection tells of itself after it has come.
#[derive(Debug, Default, Clone)]
pub struct Known {
    /// Who it is.
    pub user: Option<Arc<str>>,
    /// Where it works.
    pub vhost: Option<Arc<str>>,
    /// What it says of itself.
    pub client_properties: Table,
    /// Its open channels, with the number of consumers of each.
    pub channels: BTreeMap<u16, u32>,
}

impl Peer {
    /// The name that listings use: both addresses.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} -> {}", self.info.remote, self.info.local)
    }

    /// A copy of what is known.
    #[must_use]
    pub fn known(&self) -> Known {
        self.with_known(|k| k.clone())
    }

    pub(super) fn with_known<R>(&self, f: impl FnOnce(&mut Known) -> R) -> R {
        f(&mut self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// A connection in the hands of its driver.
pub struct Connection {
    pub(super) peer: Arc<Peer>,
    pub(super) user: Option<Arc<str>>,
    pub(super) vhost: Option<Arc<str>>,
    pub(super) channels: BTreeMap<u16, Channel>,
    /// A hard refusal was sent: nothing counts any more.
    pub(super) failed: bool,
    pub(super) routes: RouteCache,
    /// A publish found its queue far behind.
    pub(super) ahead: bool,
    /// Room for publishes that are carried out together; empty in between.
    pub(super) neighbours: Vec<(Publish, Verdict)>,
    /// What it is an instance of.
    pub(super) claims: Claims,
    /// What its headers said about services.
    pub(super) variants: Variants,
    /// Of a peer inside this process: where its last message to a service was put.
    pub(super) placed: Option<Placed>,
    /// Whether that is to be known.
    pub(super) keeps_place: bool,
    /// Some of the last turn had many ways to go, and little for each.
    pub(super) spread: bool,
    /// Messages to services that are to be handed over together, at the end of the turn at the latest.
    pub(super) gathered: Option<Box<Gathered>>,
}

impl Connection {
    pub(super) fn new(peer: Arc<Peer>) -> Connection {
        Connection {
            peer,
            user: None,
            vhost: None,
            channels: BTreeMap::new(),
            failed: false,
            routes: RouteCache::default(),
            ahead: false,
            neighbours: Vec::new(),
            claims: Claims::default(),
            variants: Variants::default(),
            placed: None,
            keeps_place: false,
            spread: false,
            gathered: None,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ConnId {
        self.peer.id
    }

    /// What others see of it.
    #[must_use]
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// The peer ends the connection in order: what it is an instance of leaves when it is disconnected, rather than
    /// being waited for.
    pub fn say_goodbye(&mut self) {
        self.claims.left = true;
    }

    /// Routes lead elsewhere from now on.
    pub(super) fn forget_routes(&mut self) {
        self.routes = RouteCache::default();
        self.variants.forget();
    }

    /// Whether a publish since the last call found consumers far behind: the driver then pauses for a moment.
    pub fn take_ahead(&mut self) -> bool {
        std::mem::take(&mut self.ahead)
    }

    /// Whether messages of its last turn had many ways to go, and little for each: the more come at once, the less each of them
    /// costs.
    #[must_use]
    pub fn spreads(&self) -> bool {
        self.spread
    }

    /// Where the last message to a service was put, for a peer inside this process that may want it back: see
    /// [`super::Broker::withdraw`].
    pub fn take_placed(&mut self) -> Option<Placed> {
        self.placed.take()
    }

    /// Consumers on all channels: drivers share out the byte window by it.
    #[must_use]
    pub fn consumers(&self) -> usize {
        self.channels.values().map(|c| c.consumers.len() + c.streams.len()).sum()
    }

    /// The channel, if it is open and was not refused.
    pub(super) fn live(&mut self, id: ChannelId) -> Option<&mut Channel> {
        if self.failed {
            return None;
        }
        self.channels.get_mut(&id.0).filter(|c| !c.failed)
    }
}

/// A channel.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// A refusal was sent and the peer has not confirmed it yet.
    pub failed: bool,
    /// Its consumers and the stand-ins of its gets.
    pub consumers: Vec<ConsumerId>,
    /// When that list is so long, those that are no more are taken off.
    pub prune_at: usize,
    /// Its consumers of streams.
    pub streams: Vec<ConsumerId>,
    /// Its consumer of direct replies.
    pub replies: Option<ConsumerId>,
    /// Prefetch of new consumers; 0 is no limit.
    pub prefetch: u16,
    /// What all consumers of the channel share.
    pub credit: Arc<ChannelCredit>,
}
