//! What connections of a socket have in common.

use crate::security::Security;
use crate::socket_type::SocketType;

/// What connections of a socket have in common.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// What we are.
    pub socket_type: SocketType,
    /// Our identity; empty for none.
    pub identity: Vec<u8>,
    /// The mechanism, and our role in it.
    pub security: Security,
    /// Octets of the largest message that is taken, all its frames with their headers.
    pub message_bytes_max: u64,
    /// How long a peer may take for its greeting and handshake, ms.
    pub handshake_ms: u64,
    /// Our heartbeats, if we send any.
    pub heartbeat: Option<Heartbeat>,
}

/// Heartbeats. ZMTP 3.1, "Connection Heartbeating".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Between our pings, ms.
    pub interval_ms: u64,
    /// How long the peer may consider us alive after a ping, tenths of a second; 0 tells it nothing.
    pub ttl_ds: u16,
    /// How long the peer may be silent after a ping, ms.
    pub timeout_ms: u64,
}

impl EngineConfig {
    /// Without security and heartbeats: messages up to 64 MiB, 30 s for the handshake, as libzmq has it.
    #[must_use]
    pub fn new(socket_type: SocketType) -> EngineConfig {
        EngineConfig {
            socket_type,
            identity: Vec::new(),
            security: Security::Null,
            message_bytes_max: 64 * 1024 * 1024,
            handshake_ms: 30_000,
            heartbeat: None,
        }
    }
}
