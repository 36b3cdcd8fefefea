//! What the core tells sessions.

use std::sync::Arc;

use crate::batch::Batch;
use crate::command::Destination;
use crate::ids::{ChannelId, ConsumerId, Lsn, QueueId, Seq};
use crate::journal::SpillRef;
use crate::message::Route;
use crate::refusal::Refusal;

/// One event for one connection. Events of a connection are handled in order.
#[derive(Debug)]
pub enum Event {
    /// Messages for a consumer.
    Deliver(Delivery),
    /// A run of publishes was accepted: confirm all up to `confirm` (of this run) once the journal is durable up to
    /// `lsn`; at once if that is `None`.
    Accepted {
        /// The channel.
        channel: ChannelId,
        /// Sequence number of the first message of the run.
        first: u64,
        /// Sequence number of the last.
        last: u64,
        /// What must be on disk first.
        lsn: Option<Lsn>,
    },
    /// Publishes were not taken (overflow `reject-publish`, no room): nack them.
    Rejected {
        /// The channel.
        channel: ChannelId,
        /// Sequence number of the first.
        first: u64,
        /// Of the last.
        last: u64,
    },
    /// Mandatory messages that no queue took. Comes before their `Accepted`.
    Returned {
        /// The channel.
        channel: ChannelId,
        /// Where they were published to.
        route: Arc<Route>,
        /// The bytes.
        batch: Arc<Batch>,
        /// First message.
        from: u32,
        /// One behind the last.
        to: u32,
    },
    /// The answer to a call. When `after` is given, it and all events behind it wait until the journal is durable that far.
    Reply {
        /// The channel.
        channel: ChannelId,
        /// As in the call.
        token: u32,
        /// The answer.
        reply: Reply,
        /// What must be on disk first.
        after: Option<Lsn>,
    },
    /// A call or a publish was refused. The core ignores what comes on the channel (hard: on the connection) until it
    /// is closed.
    Refused {
        /// The channel.
        channel: ChannelId,
        /// As in the call; [`Event::PUBLISH_TOKEN`] for a publish or a settlement.
        token: u32,
        /// Why.
        refusal: Refusal,
    },
    /// The server ended a consumer (its queue is gone).
    Cancelled {
        /// The channel.
        channel: ChannelId,
        /// The consumer.
        consumer: ConsumerId,
        /// Its tag.
        tag: Box<str>,
    },
    /// Publishing is held back.
    Blocked {
        /// Why: `low on memory`, `low on disk`.
        reason: Box<str>,
    },
    /// Publishing goes on.
    Unblocked,
    /// The connection is to be closed.
    Close {
        /// What to tell the peer.
        refusal: Refusal,
    },
}

impl Event {
    /// The token of refusals that answer no call.
    pub const PUBLISH_TOKEN: u32 = u32::MAX;
}

/// Answers.
#[derive(Debug)]
pub enum Reply {
    /// Done, nothing to tell.
    Done,
    /// A queue, with its counts at that moment.
    QueueDeclared {
        /// Its name.
        name: Box<str>,
        /// Ready messages.
        messages: u64,
        /// Consumers.
        consumers: u32,
    },
    /// How many messages were purged or deleted.
    Count(u64),
    /// A consumer has started.
    Consuming {
        /// Its id, which its deliveries carry.
        consumer: ConsumerId,
        /// Its tag.
        tag: Box<str>,
        /// Whether its deliveries need no settlement.
        no_ack: bool,
        /// For direct reply-to: what to put into `reply-to` instead of the pseudo-queue's name.
        reply_to: Option<Box<str>>,
    },
    /// One message; `delivery.consumer` is a stand-in id for settling it. Its cost needs no giving back.
    Got {
        /// The message.
        delivery: Delivery,
        /// Whether it needs no settlement.
        no_ack: bool,
        /// Ready messages left in the queue.
        remaining: u64,
    },
    /// There was none.
    Empty,
}

/// Messages of one queue, consecutive, for one consumer.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The channel.
    pub channel: ChannelId,
    /// The consumer.
    pub consumer: ConsumerId,
    /// The queue.
    pub queue: QueueId,
    /// The place of the first message.
    pub first: Seq,
    /// How many.
    pub count: u32,
    /// Where they were published to.
    pub route: Arc<Route>,
    /// Their bytes.
    pub body: Body,
    /// Whether they may have been delivered before.
    pub redelivered: bool,
    /// To be told as header `x-delivery-count`, if not 0.
    pub delivery_count: u32,
    /// Byte credit taken: payload plus a flat 64 per message. Given back by [`crate::command::Sent`].
    pub cost: u64,
}

/// Where the bytes of messages are.
#[derive(Debug, Clone)]
pub enum Body {
    /// In memory: messages from this one on.
    Mem {
        /// The batch.
        batch: Arc<Batch>,
        /// The first message.
        from: u32,
    },
    /// In the journal, under the queue and place of the delivery. The driver loads them before the session sees them.
    Stored,
    /// In the scratch log: `skip` messages into the spilled range.
    Spilled {
        /// The range.
        at: SpillRef,
        /// How many of its messages come before.
        skip: u32,
    },
}

/// Where a message went or would go, for explanations and traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The exchange that decided.
    pub exchange: Box<str>,
    /// What it chose.
    pub destination: Destination,
}
