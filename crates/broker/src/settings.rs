//! What a queue is to do: the outcome of its declaration, its arguments, and the policies that match it.

use std::sync::Arc;

use waypost_model::{ConnId, QueueId};

/// The settings of a queue as they are in force: declaration, arguments, policy and operator policy merged. Made by the
/// topology, read by the queue; replaced as a whole when a policy changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    /// The incarnation.
    pub id: QueueId,
    /// The vhost's name.
    pub vhost: Arc<str>,
    /// The queue's name.
    pub name: Arc<str>,
    /// Persistent messages survive a restart.
    pub durable: bool,
    /// The only connection that may use it.
    pub exclusive: Option<ConnId>,
    /// Goes when its last consumer goes.
    pub auto_delete: bool,
    /// Which defaults it was declared with.
    pub kind: QueueKind,
    /// Time to live of its messages, ms.
    pub message_ttl_ms: Option<u64>,
    /// Idle time after which the queue itself goes, ms.
    pub expires_ms: Option<u64>,
    /// Ready messages at most.
    pub max_length: Option<u64>,
    /// Bytes of ready bodies at most. Of a stream: what policies say of the bytes of a partition.
    pub max_length_bytes: Option<u64>,
    /// Of a stream: for how long policies let its records be kept, ms.
    pub max_age_ms: Option<u64>,
    /// What to do at the limits above.
    pub overflow: Overflow,
    /// Where dead letters go.
    pub dead_letter: Option<DeadLetterTo>,
    /// Number of priorities above 0; `None`: the queue is strictly first in, first out.
    pub max_priority: Option<u8>,
    /// Only one consumer at a time gets messages.
    pub single_active_consumer: bool,
    /// Failed deliveries after which a message is dead-lettered; `None`: no limit.
    pub delivery_limit: Option<u32>,
    /// How long a delivery may stay unsettled before the consumer is cancelled and its messages requeued, ms.
    pub consumer_timeout_ms: Option<u64>,
    /// Holds messages of a delayed exchange until they are due; the id of that exchange's incarnation. Not visible to
    /// clients; its messages are handed back as [`crate::effect::Effect::Due`].
    pub delay_of: Option<u64>,
    /// It is the mailbox of this service.
    pub service: Option<Arc<str>>,
    /// Nobody has declared it: it was made for its service, and goes when it is idle and empty.
    pub implicit: bool,
}

/// `x-queue-type`. One implementation serves the first two; the type decides defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// `classic`: no delivery limit by default, no `x-delivery-count` header.
    Classic,
    /// `quorum`: durable, delivery limit 20 by default, redeliveries carry `x-delivery-count`.
    Quorum,
    /// `stream`: a topic, which is kept by [`crate::streams::Streams`] and read without taking anything away.
    Stream,
}

/// `x-overflow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The oldest messages go (dead-lettered, reason `maxlen`).
    #[default]
    DropHead,
    /// New messages are refused.
    RejectPublish,
    /// New messages are refused and dead-lettered.
    RejectPublishDlx,
}

/// `x-dead-letter-exchange` and its routing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterTo {
    /// The exchange, in the queue's vhost; empty is the default exchange.
    pub exchange: Arc<str>,
    /// The routing key; `None` keeps the message's own.
    pub routing_key: Option<Arc<[u8]>>,
}
