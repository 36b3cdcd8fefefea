//! Security mechanisms: NULL, PLAIN (RFC 24) and CURVE (RFC 25 and 26). Each socket has exactly one.

pub(crate) mod curve;
mod keys;
mod plain;

use std::sync::Arc;

pub use keys::{KeyError, PublicKey, SecretKey};
pub use plain::{PlainLogin, PlainUsers};

use crate::fault::Fault;
use crate::wire::command;
use crate::wire::metadata::METADATA_BYTES_MAX;
use curve::Cipher;

/// Octets of randomness that a connection needs.
pub const ENTROPY_BYTES: usize = 144;

/// Randomness for one connection, never to be used again: keys come from it.
#[derive(Clone)]
pub struct Entropy(pub [u8; ENTROPY_BYTES]);

/// A mechanism, in one of its roles, and what it needs.
#[derive(Debug, Clone)]
pub enum Security {
    /// No security.
    Null,
    /// PLAIN, checking passwords.
    PlainServer(Arc<PlainUsers>),
    /// PLAIN, telling a password.
    PlainClient(Arc<PlainLogin>),
    /// CURVE, with the key that clients know.
    CurveServer(Arc<CurveServer>),
    /// CURVE, with the key of the server.
    CurveClient(Arc<CurveClient>),
}

/// What a CURVE server needs.
#[derive(Debug)]
pub struct CurveServer {
    /// Its key.
    pub secret: SecretKey,
    /// Keys of the clients that may come in; `None` lets all come in that know the server's key.
    pub clients: Option<Vec<PublicKey>>,
}

/// What a CURVE client needs.
#[derive(Debug)]
pub struct CurveClient {
    /// Its key.
    pub secret: SecretKey,
    /// The server's.
    pub server: PublicKey,
}

impl Security {
    /// The mechanism's name in the greeting.
    #[must_use]
    pub const fn mechanism(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::PlainServer(_) | Self::PlainClient(_) => "PLAIN",
            Self::CurveServer(_) | Self::CurveClient(_) => "CURVE",
        }
    }

    /// Whether we are the one who authenticates the other.
    #[must_use]
    pub const fn is_server(&self) -> bool {
        matches!(self, Self::PlainServer(_) | Self::CurveServer(_))
    }
}

/// What a handshake command came to.
pub(crate) enum Step {
    /// Further commands are to come.
    More,
    /// The handshake is done, as far as this mechanism goes.
    Done(Outcome),
}

/// What a handshake came to.
pub(crate) struct Outcome {
    /// The peer's metadata.
    pub metadata: Vec<u8>,
    /// The user or key that was authenticated.
    pub user: Option<String>,
    /// How messages are encrypted.
    pub cipher: Option<Box<Cipher>>,
}

impl Outcome {
    fn clear(metadata: &[u8], user: Option<String>) -> Step {
        Step::Done(Outcome { metadata: metadata.to_vec(), user, cipher: None })
    }
}

/// The state of a handshake.
pub(crate) enum Handshake {
    Null,
    PlainServer(plain::Server),
    PlainClient(plain::Client),
    CurveServer(Box<curve::Server>),
    CurveClient(Box<curve::Client>),
}

impl Handshake {
    pub(crate) fn new(security: &Security, entropy: Entropy) -> Handshake {
        match security {
            Security::Null => Self::Null,
            Security::PlainServer(users) => Self::PlainServer(plain::Server::new(Arc::clone(users))),
            Security::PlainClient(login) => Self::PlainClient(plain::Client::new(Arc::clone(login))),
            Security::CurveServer(keys) => Self::CurveServer(Box::new(curve::Server::new(Arc::clone(keys), entropy))),
            Security::CurveClient(keys) => Self::CurveClient(Box::new(curve::Client::new(Arc::clone(keys), entropy))),
        }
    }

    /// What we say first, if anything. NULL does not wait: who waits for the other's READY meets peers that wait too.
    pub(crate) fn start(&mut self, metadata: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        match self {
            Self::Null => command::put(out, "READY", metadata),
            Self::PlainClient(client) => client.hello(out),
            Self::CurveClient(client) => client.hello(out)?,
            Self::PlainServer(_) | Self::CurveServer(_) => {}
        }
        Ok(())
    }

    /// A command of the peer.
    pub(crate) fn handle(
        &mut self,
        name: &[u8],
        data: &[u8],
        metadata: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Step, Fault> {
        if name == b"ERROR" {
            return Err(Fault::Reported(command::error_reason(data)));
        }
        if data.len() > METADATA_BYTES_MAX + HANDSHAKE_OVERHEAD {
            return Err(Fault::Malformed("handshake command"));
        }
        match self {
            Self::Null if name == b"READY" => Ok(Outcome::clear(data, None)),
            Self::Null => Err(Fault::Handshake("command")),
            Self::PlainServer(server) => server.handle(name, data, metadata, out),
            Self::PlainClient(client) => client.handle(name, data, metadata, out),
            Self::CurveServer(server) => server.handle(name, data, metadata, out),
            Self::CurveClient(client) => client.handle(name, data, metadata, out),
        }
    }
}

/// Octets of a handshake command beside its metadata, at most.
pub(crate) const HANDSHAKE_OVERHEAD: usize = 1024;
