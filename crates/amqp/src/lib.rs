//! AMQP 0-9-1 with RabbitMQ's extensions, without I/O.
//!
//! [`codec`] knows the grammar of the wire: frames, methods, content headers. [`session`] knows the rules of the
//! protocol: a state machine that turns a peer's bytes into the core's commands and the core's events into bytes.
//! Neither has a socket, a clock or a lock.

#![forbid(unsafe_code)]

pub mod codec;
pub mod session;

pub use session::{AmqpSession, SessionConfig};
