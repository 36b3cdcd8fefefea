//! What a shard wants done that it cannot do while it is held.

use std::sync::Arc;

use waypost_model::event::Body;
use waypost_model::service::Instance;
use waypost_model::{Attrs, Millis, QueueId, Route, Seq};

use crate::settings::{DeadLetterTo, QueueSettings};
use crate::shard::ChannelCredit;

/// One such wish. Carried out by the broker after the shard's lock is released, in order.
#[derive(Debug)]
pub enum Effect {
    /// Messages died and their queue has a dead-letter exchange. They are held as *leaving* by the queue (neither ready
    /// nor unsettled, not counted) until [`crate::shard::Shard::left`] reports that their copies were appended.
    DeadLetter(DeadLetter),
    /// Messages of a delayed exchange are due; held as *leaving* like dead letters.
    Due(Leaving),
    /// The last consumer of an auto-delete queue went.
    AutoDelete(QueueId),
    /// A queue's own time (`x-expires`) is over.
    Expired(QueueId),
    /// A mailbox that nobody has declared has been idle and empty for long.
    Idle(QueueId),
    /// An instance keeps failing and gets single probes from now on; or no more.
    Ejected {
        /// The settings of the mailbox.
        settings: Arc<QueueSettings>,
        /// Which.
        instance: Arc<Instance>,
        /// Whether it is ejected now.
        ejected: bool,
    },
    /// Credit of a channel came back without a settlement of its client's, and others of its consumers wait for it.
    CreditBack(Arc<ChannelCredit>),
}

/// Messages that leave their queue by way of the broker.
#[derive(Debug)]
pub struct Leaving {
    /// The queue's settings when they left; `settings.id` says which queue.
    pub settings: Arc<QueueSettings>,
    /// The place of the first.
    pub first: Seq,
    /// How many.
    pub count: u32,
    /// Where they were published to.
    pub route: Arc<Route>,
    /// What they are.
    pub attrs: Attrs,
    /// When they came to the queue.
    pub at: Millis,
    /// Their bytes.
    pub body: Body,
}

/// Dead letters.
#[derive(Debug)]
pub struct DeadLetter {
    /// The messages.
    pub messages: Leaving,
    /// Why they died.
    pub reason: DeathReason,
    /// Where they are to go.
    pub to: DeadLetterTo,
}

/// Why a message died; the names are those of header `x-death`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeathReason {
    /// A consumer rejected it.
    Rejected,
    /// Its time to live was over.
    Expired,
    /// The queue was too long.
    MaxLen,
    /// Too many failed deliveries.
    DeliveryLimit,
}

impl DeathReason {
    /// As header `x-death` has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLen => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}
