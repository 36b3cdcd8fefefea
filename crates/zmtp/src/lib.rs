//! ZMTP 3.0 and 3.1 without I/O: framing, security mechanisms, connections, socket patterns, devices, Majordomo.
//!
//! The layers, each of which knows only those above it in this list:
//!
//! - [`wire`]: greeting, frames, commands, metadata, and [`wire::chunk::Chunk`], the form in which messages travel;
//! - [`security`]: NULL, PLAIN and CURVE;
//! - [`engine`]: one connection, octets in, events and octets out;
//! - [`pattern`]: what sockets do with messages, over peers that are only numbers with queues;
//! - [`device`]: streamer, forwarder and router, put together from patterns;
//! - [`majordomo`]: MDP 0.1, MDP 0.2 and MMI on a bound ROUTER.
//!
//! Nothing here reads a clock or a random source: time comes in as [`waypost_model::Millis`], randomness as
//! [`security::Entropy`].

#![forbid(unsafe_code)]

pub mod device;
pub mod engine;
pub mod fault;
pub mod majordomo;
pub mod pattern;
pub mod security;
pub mod socket_type;
pub mod wire;

pub use engine::{Engine, EngineConfig, Event, Heartbeat, Limits, Outgoing, PeerInfo, Wish};
pub use fault::Fault;
pub use pattern::{PeerId, Queues};
pub use socket_type::SocketType;
pub use wire::chunk::Chunk;
pub use wire::pool::Pool;
