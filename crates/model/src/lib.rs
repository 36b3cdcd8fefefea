//! The vocabulary that Waypost's crates share.
//!
//! Protocol crates turn bytes into [`command::Turn`]s and [`event::Event`]s into bytes; the broker turns turns into
//! events and journal operations; the server moves all of it about. None of them knows another's inside: what is in this
//! crate is all they say to each other.
//!
//! Nothing here reads a clock, a random source or a file, and nothing knows a protocol's frames.

#![forbid(unsafe_code)]

pub mod address;
pub mod batch;
mod buffers;
pub mod command;
pub mod date;
pub mod event;
pub mod filter;
pub mod ids;
pub mod journal;
pub mod message;
pub mod outbox;
pub mod props;
pub mod record;
pub mod refusal;
pub mod seeded;
pub mod selector;
pub mod service;
pub mod session;
pub mod table;

pub use batch::{Batch, BatchBuilder, BatchPool, ReadBuf, Slot, Sum};
pub use buffers::Buffers;
pub use command::{Call, Command, Publish, Settle, Turn};
pub use event::{Body, Delivery, Event, Reply};
pub use ids::{ChannelId, ConnId, ConsumerId, Lsn, Millis, QueueId, SHARDS, Seq, ShardId};
pub use message::{AttrFlags, Attrs, Route, SeqRange};
pub use outbox::Outbox;
pub use refusal::{Refusal, RefusalKind};
pub use seeded::Seeded;
pub use session::{Session, SessionState, Transmit};
