//! Connections and channels.

use std::sync::Arc;

use waypost_model::table::Table;
use waypost_model::{ChannelId, ConnId, Event, Millis, Refusal, RefusalKind};

use crate::broker::{Broker, Peer, PeerInfo};

/// A connection.
#[derive(Debug, Clone)]
pub struct ConnectionReport {
    /// Its id.
    pub id: ConnId,
    /// Both addresses, as `peer -> ours`: the name by which it is listed and closed.
    pub name: String,
    /// What was known when it came.
    pub peer: PeerInfo,
    /// When it came.
    pub since: Millis,
    /// Who it is, once authenticated.
    pub user: Option<Arc<str>>,
    /// Where it works, once opened.
    pub vhost: Option<Arc<str>>,
    /// What it says of itself.
    pub client_properties: Table,
    /// Open channels.
    pub channels: u64,
    /// Consumers on all of them, and the stand-ins of their gets.
    pub consumers: u64,
    /// Messages published since it came.
    pub messages_in: u64,
    /// Whether it is held back because memory or disk run short.
    pub blocked: bool,
}

/// A channel.
#[derive(Debug, Clone)]
pub struct ChannelReport {
    /// The connection.
    pub connection: ConnId,
    /// The connection's name.
    pub connection_name: String,
    /// Its number.
    pub number: ChannelId,
    /// The connection's user.
    pub user: Option<Arc<str>>,
    /// The connection's vhost.
    pub vhost: Option<Arc<str>>,
    /// Its consumers, and the stand-ins of its gets.
    pub consumers: u32,
}

impl Broker {
    /// The connections, in order of their coming.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionReport> {
        self.peers().iter().map(|peer| self.connection_report(peer)).collect()
    }

    /// One connection, by its name.
    ///
    /// # Errors
    /// 404.
    pub fn connection(&self, name: &str) -> Result<ConnectionReport, Refusal> {
        self.find_peer(name).map(|peer| self.connection_report(&peer))
    }

    /// The open channels, in order of connection and number.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelReport> {
        let mut all = Vec::new();
        for peer in self.peers() {
            let (known, connection_name) = (peer.known(), peer.name());
            all.extend(known.channels.iter().map(|(number, consumers)| ChannelReport {
                connection: peer.id,
                connection_name: connection_name.clone(),
                number: ChannelId(*number),
                user: known.user.clone(),
                vhost: known.vhost.clone(),
                consumers: *consumers,
            }));
        }
        all
    }

    /// Has a connection closed: its peer is told 320 with `reason`. Returns before it is gone.
    ///
    /// # Errors
    /// 404.
    pub fn close_connection(&self, name: &str, reason: &str) -> Result<(), Refusal> {
        close(&*self.find_peer(name)?, reason);
        Ok(())
    }

    /// Has all connections closed for which `which` says so; how many.
    pub(super) fn close_connections(&self, reason: &str, which: impl Fn(&Peer) -> bool) -> usize {
        let peers = self.peers();
        let chosen = peers.iter().filter(|peer| which(peer));
        chosen.map(|peer| close(peer, reason)).count()
    }

    fn find_peer(&self, name: &str) -> Result<Arc<Peer>, Refusal> {
        let found = self.peers().into_iter().find(|peer| peer.name() == name);
        found.ok_or_else(|| Refusal::not_found(format!("no connection '{name}'")))
    }

    fn connection_report(&self, peer: &Peer) -> ConnectionReport {
        let published = peer.published.load(std::sync::atomic::Ordering::Relaxed);
        let known = peer.known();
        ConnectionReport {
            id: peer.id,
            name: peer.name(),
            peer: peer.info.clone(),
            since: peer.since,
            user: known.user,
            vhost: known.vhost,
            client_properties: known.client_properties,
            channels: known.channels.len() as u64,
            consumers: known.channels.values().map(|n| u64::from(*n)).sum(),
            messages_in: peer.messages_in.load(std::sync::atomic::Ordering::Relaxed),
            blocked: published && self.publishing_paused(),
        }
    }
}

fn close(peer: &Peer, reason: &str) {
    peer.outbox.push(Event::Close { refusal: Refusal::new(RefusalKind::ConnectionForced, reason) });
}
