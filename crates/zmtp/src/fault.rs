//! Why a connection ends. All of it is the peer's doing: the connection ends, nothing else does.

use crate::wire::frame::FrameError;
use crate::wire::greeting::GreetingError;
use crate::wire::metadata::MetadataError;

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// See [`GreetingError`].
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    /// See [`FrameError`].
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// See [`MetadataError`].
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The peer wants another mechanism; there is no negotiation.
    #[error("peer uses mechanism {theirs}, here it is {ours}")]
    Mechanism {
        /// Ours.
        ours: &'static str,
        /// Theirs, as far as it is printable.
        theirs: String,
    },
    /// Not what the handshake has in this place.
    #[error("unexpected {0} in the handshake")]
    Handshake(&'static str),
    /// The peer may not come in.
    #[error("authentication failed: {0}")]
    Denied(&'static str),
    /// A box that does not open, or a nonce that came before.
    #[error("cryptographic failure: {0}")]
    Crypto(&'static str),
    /// Such a peer is no use to our socket.
    #[error("socket type {theirs} does not go with {ours}")]
    Incompatible {
        /// Ours.
        ours: &'static str,
        /// Theirs.
        theirs: &'static str,
    },
    /// The peer ended the handshake with an ERROR.
    #[error("peer reports: {0}")]
    Reported(String),
    /// A message or handshake command larger than the limit.
    #[error("{what} of {bytes} bytes, at most {max} are taken")]
    TooLarge {
        /// What it was.
        what: &'static str,
        /// Its size, as announced.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// A command that is none.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// Nothing came for too long.
    #[error("silent for {0} ms")]
    Silent(u64),
    /// The handshake took too long.
    #[error("handshake not done in {0} ms")]
    HandshakeTimeout(u64),
    /// More subscriptions than a peer may have.
    #[error("more than {0} of subscriptions")]
    Subscriptions(&'static str),
    /// It does not read what it must be told.
    #[error("{0} bytes of commands wait for it")]
    Deaf(usize),
    /// Another peer has that identity.
    #[error("identity is taken")]
    IdentityTaken,
    /// There is one peer already, and there may be no more.
    #[error("a pair has one peer")]
    PairTaken,
}

impl Fault {
    /// The reason to send in an ERROR command, where the handshake has a place for one.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            // ZAP's status codes, which libzmq knows how to report.
            Self::Denied(_) => Some("400"),
            Self::Incompatible { .. } => Some("Invalid socket type"),
            Self::Metadata(_) => Some("Invalid metadata"),
            _ => None,
        }
    }
}
