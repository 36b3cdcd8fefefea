//! The grammar of AMQP 0-9-1 (specification 0-9-1 §4.2, with RabbitMQ's extensions).

pub mod content;
pub mod field;
pub mod frame;
pub mod method;

pub use content::ContentHeader;
pub use field::{DecodeError, Long, Short};
pub use frame::{Frame, FrameError, FrameKind};
pub use method::{Method, MethodArgs, MethodId};

/// What a client sends first, and what a server answers to any other beginning (§4.2.2).
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";
