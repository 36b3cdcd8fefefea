//! AMQP listeners: from an accepted socket to a running connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use waypost_amqp::session::Peer;
use waypost_amqp::{AmqpSession, SessionConfig};
use waypost_broker::broker::PeerInfo;
use waypost_model::Outbox;

use super::Node;
use super::core::BrokerCore;
use crate::driver::transport::Transport;
use crate::driver::{Connection, End, OPENING_MS};
use crate::listen::Listener;
use crate::listen::certificate::common_name;
use crate::listen::tls::Tls;

/// What the connections of a listener have in common.
pub(super) struct AmqpListener {
    node: Arc<Node>,
    core: Arc<BrokerCore>,
    session: Arc<SessionConfig>,
    tls: Option<Arc<Tls>>,
    local: SocketAddr,
    vhost: Arc<str>,
    stop: watch::Receiver<bool>,
    /// Of the invented consumer tags.
    seed: AtomicU64,
}

impl AmqpListener {
    pub(super) fn new(node: &Arc<Node>, listener: &Listener, stop: watch::Receiver<bool>) -> AmqpListener {
        let amqp = &node.config.amqp;
        let session = SessionConfig {
            product: amqp.product.clone(),
            channel_max: amqp.channel_max,
            frame_bytes_max: u32::try_from(amqp.frame_max.0).unwrap_or(u32::MAX),
            heartbeat_s: u16::try_from(amqp.heartbeat.as_secs()).unwrap_or(u16::MAX),
            message_bytes_max: amqp.message_bytes_max.0,
            ..SessionConfig::default()
        };
        AmqpListener {
            core: node.core(),
            node: Arc::clone(node),
            session: Arc::new(session),
            tls: listener.tls.clone(),
            local: listener.address,
            vhost: listener.spec.vhost.as_deref().unwrap_or("/").into(),
            stop,
            seed: AtomicU64::new(node.clock.now().0),
        }
    }

    /// Starts the task of a connection, unless there are too many.
    pub(super) fn take(self: &Arc<Self>, socket: TcpStream, remote: SocketAddr) {
        let Some(guard) = Guard::enter(&self.node) else {
            tracing::warn!(%remote, "closed: there are as many connections as server.connections_max allows");
            return;
        };
        let listener = Arc::clone(self);
        tokio::spawn(async move {
            let mut abandoned = listener.node.abandoned.subscribe();
            let end = tokio::select! {
                end = listener.connection(socket, remote) => end,
                _ = abandoned.wait_for(|over| *over) => End::Stopped,
            };
            drop(guard);
            match end {
                End::Closed => tracing::debug!(%remote, "connection closed"),
                end => tracing::info!(%remote, reason = %end, "connection ended"),
            }
        });
    }

    async fn connection(&self, socket: TcpStream, remote: SocketAddr) -> End {
        // Several writes may follow each other at once; we put together ourselves what belongs together.
        if let Err(error) = socket.set_nodelay(true) {
            return End::Io(error);
        }
        let local = socket.local_addr().unwrap_or(self.local);
        match &self.tls {
            None => self.drive(socket, self.info(remote, local, None)).await,
            Some(tls) => {
                let mut stop = self.stop.clone();
                let handshake = tls.acceptor().accept(socket);
                let handshake = tokio::time::timeout(Duration::from_millis(OPENING_MS), handshake);
                // The broker does not know of it yet: nobody else tells it of the stop.
                let done = tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return End::Stopped,
                    done = handshake => done,
                };
                match done {
                    Err(_) => End::OpeningTimeout,
                    Ok(Err(error)) => End::Io(error),
                    Ok(Ok(stream)) => {
                        let name = stream.get_ref().1.peer_certificates().and_then(|c| common_name(c.first()?));
                        self.drive(Box::new(stream), self.info(remote, local, name)).await
                    }
                }
            }
        }
    }

    fn info(&self, remote: SocketAddr, local: SocketAddr, certificate_name: Option<String>) -> PeerInfo {
        PeerInfo {
            protocol: "AMQP 0-9-1",
            remote,
            local,
            tls: self.tls.is_some(),
            certificate_name,
            loopback: remote.ip().to_canonical().is_loopback(),
            default_vhost: Arc::clone(&self.vhost),
        }
    }

    fn drive<T: Transport>(&self, socket: T, info: PeerInfo) -> impl Future<Output = End> + use<T> {
        let node = &self.node;
        let (now, remote) = (node.clock.now(), info.remote);
        tracing::debug!(%remote, "connection accepted");
        let peer = Peer {
            tag_seed: self.seed.fetch_add(1, Ordering::Relaxed),
            certificate_user: info.certificate_name.as_deref().map(Into::into),
        };
        let session = AmqpSession::new(Arc::clone(&self.session), peer, now);
        let outbox = Arc::new(Outbox::default());
        let conn = node.broker.connect(info, Arc::clone(&outbox), now);
        Connection::new(Arc::clone(&self.core), conn, session, socket, remote, outbox, node.clock).run()
    }
}

/// Counts a connection for as long as it lives.
pub(crate) struct Guard(Arc<Node>);

impl Guard {
    pub(crate) fn enter(node: &Arc<Node>) -> Option<Guard> {
        let before = node.connections.fetch_add(1, Ordering::SeqCst);
        let guard = Guard(Arc::clone(node));
        (before < node.config.server.connections_max).then_some(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}
