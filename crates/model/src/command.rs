//! What sessions ask of the core.

use std::sync::Arc;

use crate::batch::Batch;
use crate::ids::{ChannelId, ConsumerId, QueueId, Seq};
use crate::message::{Attrs, Route};
use crate::table::Table;

/// What one read of a socket came to: commands in order, and the batch that their publishes point into.
#[derive(Debug, Default)]
pub struct Turn {
    /// The batch of [`Publish`]es without one of their own.
    pub batch: Option<Arc<Batch>>,
    /// The commands.
    pub commands: Vec<Command>,
}

/// One command.
#[derive(Debug)]
pub enum Command {
    /// Messages for an exchange.
    Publish(Publish),
    /// A verdict on delivered messages.
    Settle(Settle),
    /// Bytes of deliveries have left for the peer: gives back a consumer's byte credit, and settles what was sent
    /// without acknowledgement.
    Sent(Sent),
    /// Everything that is answered by an [`crate::event::Event::Reply`] or a refusal.
    Call {
        /// On which channel; 0 for the connection.
        channel: ChannelId,
        /// Given back with the answer, for the session's own use.
        token: u32,
        /// What is wanted.
        call: Call,
    },
}

/// A run of messages with one route and equal [`Attrs`].
#[derive(Debug, Clone)]
pub struct Publish {
    /// On which channel.
    pub channel: ChannelId,
    /// Where to. The same `Arc` as in the previous publish, if equal: routers cache by it.
    pub route: Arc<Route>,
    /// The bytes; `None` stands for the turn's batch.
    pub batch: Option<Arc<Batch>>,
    /// First message of the batch.
    pub from: u32,
    /// One behind the last.
    pub to: u32,
    /// What they are.
    pub attrs: Attrs,
    /// Whether what cannot be routed is to be returned.
    pub mandatory: bool,
    /// On a channel in confirm mode: the publish sequence number of the run's *last* message.
    pub confirm: Option<u64>,
}

/// A verdict on messages `first..first + count` of a queue, as they were delivered to `consumer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settle {
    /// On which channel they were delivered.
    pub channel: ChannelId,
    /// From which queue.
    pub queue: QueueId,
    /// To whom: the consumer, or the stand-in id that came with the answer to a get.
    pub consumer: ConsumerId,
    /// The first.
    pub first: Seq,
    /// How many.
    pub count: u32,
    /// What to do.
    pub outcome: Outcome,
}

/// What becomes of a delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Accepted,
    /// Dead-lettered with reason `rejected`, or dropped where there is no dead-letter exchange.
    Rejected,
    /// Back to its place; a failed delivery, which counts towards a delivery limit.
    Released,
}

/// See [`Command::Sent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Whose deliveries.
    pub consumer: ConsumerId,
    /// From which queue.
    pub queue: QueueId,
    /// How many messages.
    pub messages: u32,
    /// The sum of their [`crate::event::Delivery::cost`].
    pub bytes: u64,
}

/// What can be asked for and is answered.
#[derive(Debug)]
pub enum Call {
    /// Who the peer is. Answered by `Done`, or refused 403.
    Authenticate {
        /// The mechanism, for logs and for `EXTERNAL`, which takes the name from the peer's certificate.
        mechanism: Box<str>,
        /// The user name; empty with `EXTERNAL`.
        username: Box<str>,
        /// The password as it came.
        password: Box<[u8]>,
    },
    /// Enters a vhost. Refused 530 if it does not exist or is not permitted. `Done`.
    OpenVhost {
        /// Its name.
        vhost: Box<str>,
        /// What the client says of itself; kept for the lists of connections.
        client_properties: Table,
    },
    /// New credentials on an open connection. `Done`.
    UpdateSecret {
        /// The new secret.
        secret: Box<[u8]>,
    },
    /// The peer ends the connection in order, and is disconnected next: instances that live by it leave at once and are not
    /// waited for. Not answered.
    Goodbye,
    /// Opens a channel. `Done`, or refused 530 past a limit.
    OpenChannel,
    /// Ends a channel: consumers are cancelled, what is unsettled goes back to its queues. Also sent after a refusal,
    /// when the peer has confirmed the closing: until then the core ignores whatever else comes on the channel. `Done`.
    CloseChannel,
    /// Declares an exchange. `Done`.
    ExchangeDeclare(ExchangeDeclare),
    /// Deletes an exchange. `Done`, also if there is none.
    ExchangeDelete {
        /// Its name.
        name: Box<str>,
        /// Refuse if anything is bound to it.
        if_unused: bool,
    },
    /// Binds a queue or an exchange. `Done`.
    Bind(Binding),
    /// Unbinds. `Done`, also if there is no such binding.
    Unbind(Binding),
    /// Declares a queue. `QueueDeclared`.
    QueueDeclare(QueueDeclare),
    /// Removes all ready messages. `Count`.
    QueuePurge {
        /// The queue.
        queue: Box<str>,
    },
    /// Deletes a queue. `Count` of the messages that went with it; 0 if there is none.
    QueueDelete {
        /// The queue.
        queue: Box<str>,
        /// Refuse if it has consumers.
        if_unused: bool,
        /// Refuse if it has messages.
        if_empty: bool,
    },
    /// Starts a consumer. `Consuming`, before any of its deliveries.
    Consume(Consume),
    /// Ends a consumer. What it holds unsettled stays with it until settled or until its channel closes. `Done`, after
    /// all of its deliveries.
    Cancel {
        /// Which.
        consumer: ConsumerId,
    },
    /// Takes one message. `Got` or `Empty`.
    Get {
        /// The queue.
        queue: Box<str>,
        /// Whether it is settled at once.
        no_ack: bool,
    },
    /// Sets the prefetch of the channel. `Done`.
    Qos {
        /// Messages; 0 is no limit.
        prefetch_count: u16,
        /// Whether it is one limit for all consumers of the channel rather than for each new one.
        global: bool,
    },
    /// Publishes and settlements of a transaction: all of it takes effect, or nothing. `Done` once durable.
    Commit(Vec<Command>),
}

/// Arguments of an exchange declaration.
#[derive(Debug, Clone)]
pub struct ExchangeDeclare {
    /// The name; not empty.
    pub name: Box<str>,
    /// The type, as the client wrote it.
    pub kind: Box<str>,
    /// Only ask whether it exists.
    pub passive: bool,
    /// Survives a restart.
    pub durable: bool,
    /// Goes when its last binding goes.
    pub auto_delete: bool,
    /// Takes messages from exchanges only.
    pub internal: bool,
    /// Further arguments.
    pub arguments: Table,
}

/// Arguments of a queue declaration.
#[derive(Debug, Clone)]
pub struct QueueDeclare {
    /// The name; empty asks for one of the server's.
    pub name: Box<str>,
    /// Only ask whether it exists.
    pub passive: bool,
    /// Survives a restart.
    pub durable: bool,
    /// For this connection only, and gone with it.
    pub exclusive: bool,
    /// Goes when its last consumer goes.
    pub auto_delete: bool,
    /// Further arguments.
    pub arguments: Table,
}

/// A binding from an exchange to a queue or another exchange.
#[derive(Debug, Clone)]
pub struct Binding {
    /// The source exchange.
    pub source: Box<str>,
    /// Where it leads.
    pub destination: Destination,
    /// The binding key, bytes as they came.
    pub routing_key: Box<[u8]>,
    /// Further arguments.
    pub arguments: Table,
}

/// Where a binding leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// To a queue.
    Queue(Box<str>),
    /// To an exchange.
    Exchange(Box<str>),
}

/// Arguments of a consume.
#[derive(Debug, Clone)]
pub struct Consume {
    /// The queue.
    pub queue: Box<str>,
    /// The consumer tag, unique on its channel (the session sees to that).
    pub tag: Box<str>,
    /// Deliveries count as settled when their bytes have left.
    pub no_ack: bool,
    /// Nobody else may consume.
    pub exclusive: bool,
    /// Further arguments.
    pub arguments: Table,
    /// Byte credit: how many bytes of deliveries may be under way to the socket. Filled in by the driver.
    pub window_bytes: u64,
}
