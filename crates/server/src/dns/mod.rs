//! DNS over UDP and TCP: the sockets around `waypost_dns`.
//!
//! UDP is answered by threads of its own: a lookup is a few microseconds of work, and neither waits for connections nor
//! makes them wait. TCP runs with the other connections.

mod directory;
mod tcp;
mod udp;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use waypost_dns::{Responder, Settings, Zones};

use crate::config::Config;
use crate::error::ServeError;
use crate::listen::Listener;
use crate::listen::accept::accept;
use crate::node::Node;
use directory::NodeDirectory;

/// The domains under which everything is found.
const DOMAINS: [&str; 2] = ["waypost", "consul"];

/// Connections at once, per listener; more are closed at once.
const TCP_CONNECTIONS_MAX: usize = 1024;

/// Most threads that answer UDP, per listener.
const UDP_THREADS_MAX: usize = 4;

/// Checks what the configuration says of zones.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn zones(config: &Config) -> Result<Zones, String> {
    Zones::parse(config.dns.zones.iter().map(String::as_str)).map_err(|error| format!("dns.zones: {error}"))
}

/// Makes what answers queries of a listener.
struct Answerers {
    node: Arc<Node>,
    vhost: Arc<str>,
    settings: Settings,
}

impl Answerers {
    fn new(node: &Arc<Node>, vhost: Option<&str>) -> Result<Answerers, ServeError> {
        let wrong = |what: String| ServeError::Config(crate::config::ConfigError::Conflict(what));
        let vhost: Arc<str> = vhost.unwrap_or("/").into();
        let own = directory::node(&node.registry.services(&vhost).own_node());
        let ttl_s = u32::try_from(node.config.dns.ttl.as_secs()).unwrap_or(u32::MAX);
        let datacenter = &node.config.consul.datacenter;
        let zones = zones(&node.config).map_err(wrong)?;
        let settings = Settings::new(&DOMAINS, datacenter, own, ttl_s, zones)
            .ok_or_else(|| wrong(format!("consul.datacenter: {datacenter:?} is no label of a name")))?;
        Ok(Answerers { node: Arc::clone(node), vhost, settings })
    }

    fn make(&self) -> Responder<NodeDirectory> {
        let directory = NodeDirectory::new(&self.node, &self.vhost);
        // Spreads load; not a secret.
        let seed = self.node.clock.now().0 ^ (std::ptr::from_ref(self) as u64) << 16;
        Responder::new(directory, self.settings.clone(), seed)
    }

    /// Seconds since the Unix epoch.
    fn now_s(&self) -> u32 {
        u32::try_from(self.node.clock.now().0 / 1000).unwrap_or(u32::MAX)
    }
}

/// Serves a listener until `stop` says so.
///
/// # Errors
/// Before it begins to serve: a thread cannot be started, a name in the configuration is none.
pub(crate) async fn serve(
    node: &Arc<Node>,
    listener: &Listener,
    udp: UdpSocket,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let answerers = Arc::new(Answerers::new(node, listener.spec.vhost.as_deref())?);
    let stopped = Arc::new(AtomicBool::new(false));
    let threads = udp::start(&answerers, udp, &stopped).map_err(ServeError::io("cannot start threads for DNS"))?;
    take(&answerers, &listener.socket, stop.clone()).await;
    let _ = stop.wait_for(|stop| *stop).await;
    stopped.store(true, Ordering::Relaxed);
    let _ = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join()))).await;
    Ok(())
}

async fn take(answerers: &Arc<Answerers>, socket: &TcpListener, stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(TCP_CONNECTIONS_MAX));
    let connections_stop = stop.clone();
    accept(socket, stop, |socket, peer: SocketAddr| {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!(%peer, "closed: there are as many DNS connections as may be");
            return;
        };
        let (answerers, stop) = (Arc::clone(answerers), connections_stop.clone());
        tokio::spawn(async move {
            tcp::serve(&answerers, socket, peer, stop).await;
            drop(place);
        });
    })
    .await;
}
