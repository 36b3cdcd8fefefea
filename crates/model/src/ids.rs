//! Identifiers: newtypes, so that a queue's number is never taken for a consumer's.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A client connection; unique while the process lives, never reused.
    ConnId(u64)
);
id!(
    /// A channel of a connection. 0 is the connection itself.
    ChannelId(u16)
);
id!(
    /// An incarnation of a queue: a queue that is deleted and declared again has another one. Never reused, also not
    /// after a restart.
    QueueId(u64)
);
id!(
    /// A consumer; unique while the process lives, never reused.
    ConsumerId(u64)
);
id!(
    /// A unit of ownership; 0 to [`SHARDS`] - 1.
    ShardId(u8)
);
id!(
    /// A message's place in its queue: counted per queue, from 0, without gaps when it is given out. With the
    /// [`QueueId`] it names a message for as long as the queue lives, across restarts and moves on disk.
    Seq(u64)
);
id!(
    /// The ticket of an append to the journal; rises by one per append of the node. All appends up to the durable
    /// watermark are on disk.
    Lsn(u64)
);
id!(
    /// Milliseconds of wall-clock time since the Unix epoch, as handed in by whoever owns the clock.
    Millis(u64)
);

/// How many shards a data directory has. Fixed when it is made.
pub const SHARDS: usize = 64;

impl QueueId {
    /// The shard that owns the queue. The low bits of the id carry it, so that no table is needed.
    #[must_use]
    pub const fn shard(self) -> ShardId {
        ShardId((self.0 % SHARDS as u64) as u8)
    }
}

impl QueueId {
    /// The first octet of the ids of streams: queues of the journal whose messages are batches of records. No queue of a
    /// shard comes this far.
    const STREAMS: u64 = 0xd0;

    /// The first id of a stream.
    pub const STREAMS_FROM: QueueId = QueueId(Self::STREAMS << 56);

    /// Whether it is a partition of a stream, and no queue of a shard's.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        self.0 >> 56 == Self::STREAMS
    }
}

impl ConsumerId {
    /// The consumer of a stream with this number.
    #[must_use]
    pub const fn of_stream(number: u64) -> ConsumerId {
        ConsumerId(QueueId::STREAMS_FROM.0 | number & (u64::MAX >> 8))
    }

    /// Whether it reads a stream, and belongs to no shard.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        QueueId(self.0).is_stream()
    }

    /// The shard of the queue that the consumer reads; carried in the low bits like a queue's.
    #[must_use]
    pub const fn shard(self) -> ShardId {
        ShardId((self.0 % SHARDS as u64) as u8)
    }
}

impl Seq {
    /// The place `n` further on.
    #[must_use]
    pub const fn plus(self, n: u64) -> Seq {
        Seq(self.0 + n)
    }
}

impl Millis {
    /// The time `ms` later; stays at the end of time instead of wrapping.
    #[must_use]
    pub const fn plus(self, ms: u64) -> Millis {
        Millis(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this; 0 if the clock went back.
    #[must_use]
    pub const fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl ChannelId {
    /// The connection itself, where no channel is meant.
    pub const CONNECTION: ChannelId = ChannelId(0);
}
