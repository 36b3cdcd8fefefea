//! Why a server did not start, or stopped.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::ConfigError;

/// Why a server did not start, or stopped before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A listener's address cannot be had.
    #[error("cannot listen on {address} for {protocol}: {error}")]
    Listen {
        /// What would have been spoken there.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A listener is for a vhost that there is not.
    #[error(
        "the listener {address} for {protocol} has `vhost={vhost}`, and there is no such vhost: make it first, with \
         `waypost vhosts add` on a server started without this listener"
    )]
    NoVhost {
        /// What would have been spoken there.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// The vhost.
        vhost: String,
    },
    /// A ZeroMQ device cannot be made as it is declared.
    #[error("{what}: {why}")]
    Device {
        /// What of it.
        what: String,
        /// Why.
        why: String,
    },
    /// A certificate, a key or an authority is of no use.
    #[error("cannot use {}: {why}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The log's configuration is wrong.
    #[error("setting `log.level`: {0}")]
    Log(String),
    /// The data directory cannot be opened.
    #[error("cannot open the data directory {}: {why}", path.display())]
    Storage {
        /// The directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// What the data directory holds makes no broker.
    #[error("cannot restore the broker: {0}")]
    Broker(String),
    /// The journal failed while the server ran. Nothing was confirmed that it does not hold.
    #[error("the journal has stopped after an i/o error")]
    JournalStopped,
    /// Something that the operating system refused.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

impl ServeError {
    /// The exit code for scripts: 78 (`EX_CONFIG`) for what a change of configuration mends, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Listen { .. }
            | Self::NoVhost { .. }
            | Self::Device { .. }
            | Self::Tls { .. }
            | Self::Log(_) => 78,
            Self::Storage { .. } | Self::Broker(_) | Self::JournalStopped | Self::Io { .. } => 1,
        }
    }

    /// Turns an I/O error into a [`ServeError::Io`] that says what was tried.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
        move |error| ServeError::Io { what, error }
    }
}
