//! Listening: sockets, their acceptance, encryption, and the file that says where they are.

pub mod accept;
pub mod announce;
pub mod certificate;
pub mod tls;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};

use crate::config::ListenerSpec;
use crate::error::ServeError;
use tls::Tls;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// AMQP 0-9-1.
    Amqp,
    /// HTTP/1.1.
    Http,
    /// DNS.
    Dns,
    /// Kafka's.
    Kafka,
}

impl Protocol {
    /// Its name in messages and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amqp => "amqp",
            Self::Http => "http",
            Self::Dns => "dns",
            Self::Kafka => "kafka",
        }
    }
}

/// A socket that has its address but takes no connections yet.
pub struct Reserved {
    protocol: Protocol,
    spec: ListenerSpec,
    socket: TcpSocket,
    udp: Option<UdpSocket>,
    tls: Option<Arc<Tls>>,
}

/// A socket that takes connections.
pub struct Listener {
    /// What is spoken.
    pub protocol: Protocol,
    /// How it was configured.
    pub spec: ListenerSpec,
    /// Its actual address.
    pub address: SocketAddr,
    /// The socket.
    pub socket: TcpListener,
    /// The other socket of the same address, where both are spoken on.
    pub udp: Option<UdpSocket>,
    /// Its encryption.
    pub tls: Option<Arc<Tls>>,
}

impl Reserved {
    /// Takes the address, so that a taken port is noticed before anything else is done.
    ///
    /// # Errors
    /// [`ServeError::Listen`], [`ServeError::Tls`].
    pub fn new(protocol: Protocol, spec: &ListenerSpec) -> Result<Reserved, ServeError> {
        let tls = spec.tls.as_ref().map(|files| Tls::load(files.clone())).transpose()?.map(Arc::new);
        let failed = |error| ServeError::Listen { protocol: protocol.name(), address: spec.address, error };
        let socket = if spec.address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }.map_err(failed)?;
        // Only lets us have an address whose last connections still fade away.
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind(spec.address).map_err(failed)?;
        let udp = match protocol {
            Protocol::Dns => Some(UdpSocket::bind(socket.local_addr().map_err(failed)?).map_err(failed)?),
            _ => None,
        };
        Ok(Reserved { protocol, spec: spec.clone(), socket, udp, tls })
    }

    /// Begins to take connections.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub fn listen(self) -> Result<Listener, ServeError> {
        let Reserved { protocol, spec, socket, udp, tls } = self;
        let failed = |error| ServeError::Listen { protocol: protocol.name(), address: spec.address, error };
        let socket = socket.listen(BACKLOG).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Listener { protocol, spec, address, socket, udp, tls })
    }
}
