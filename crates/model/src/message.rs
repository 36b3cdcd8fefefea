//! What a message carries beside its bytes, shared by a run of messages.

use std::sync::Arc;

use crate::ids::{QueueId, Seq};

/// Where a message was published to. Shared by all messages of a run, and by their deliveries: redelivered and stored
/// messages keep the exchange and routing key of their publish.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Route {
    /// The exchange's name; empty for the default exchange. At most 255 bytes.
    pub exchange: Box<str>,
    /// The routing key; at most 255 bytes. AMQP promises no encoding: bytes are kept as they came.
    pub routing_key: Box<[u8]>,
    /// For which instances of a service: written by routing, read by the service's mailbox, kept with the message
    /// across restarts, and shown to nobody. At most [`Route::ADDRESS_MAX`] bytes. What comes from a client has none.
    pub address: Option<Arc<[u8]>>,
}

impl Route {
    /// Longest address, in bytes.
    pub const ADDRESS_MAX: usize = 4096;

    /// A route from text.
    #[must_use]
    pub fn new(exchange: &str, routing_key: impl AsRef<[u8]>) -> Route {
        Route { exchange: exchange.into(), routing_key: routing_key.as_ref().into(), address: None }
    }

    /// The routing key for people: bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn key_lossy(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.routing_key)
    }
}

/// What routing and queues need to know of a message's properties. Equal for all messages of a run: a session starts a
/// new run where they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Attrs {
    /// Which of the facts below hold.
    pub flags: AttrFlags,
    /// Property `priority`, 0 when absent.
    pub priority: u8,
    /// Property `expiration` in milliseconds, validated by the session.
    pub expiration: Option<u32>,
}

/// A set of facts about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct AttrFlags(pub u8);

impl AttrFlags {
    /// `delivery-mode` is 2: survives a restart when its queue is durable.
    pub const PERSISTENT: AttrFlags = AttrFlags(1);
    /// It has a headers table. Tables may differ within a run.
    pub const HEADERS: AttrFlags = AttrFlags(2);
    /// Its headers have `CC` or `BCC`. Such a run has one message.
    pub const SENDER_SELECTED: AttrFlags = AttrFlags(4);

    /// The broker dead-lettered it: its header `x-death` was written by the broker and is believed. A client that sends
    /// such a header does not get this flag.
    pub const DEAD_LETTERED: AttrFlags = AttrFlags(8);

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn has(self, other: AttrFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: AttrFlags) -> AttrFlags {
        AttrFlags(self.0 | other.0)
    }
}

impl Attrs {
    /// Whether `delivery-mode` is 2.
    #[must_use]
    pub const fn persistent(&self) -> bool {
        self.flags.has(AttrFlags::PERSISTENT)
    }
}

/// Messages of one queue with consecutive places: `first`, `first` + 1, …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqRange {
    /// Which queue.
    pub queue: QueueId,
    /// The first message.
    pub first: Seq,
    /// How many; at least 1.
    pub count: u32,
}
