//! What is told about a queue.

use waypost_model::{ChannelId, ConnId, ConsumerId, Millis, Seq};

use super::queue::Queue;

/// Counters of a queue since it was made, or since the restart. Messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Came in.
    pub published: u64,
    /// Were refused because of a limit.
    pub refused: u64,
    /// Were delivered to consumers that acknowledge.
    pub delivered: u64,
    /// Were delivered to consumers that do not.
    pub delivered_no_ack: u64,
    /// Were got one by one, to be acknowledged.
    pub got: u64,
    /// Were got one by one, without acknowledgement.
    pub got_no_ack: u64,
    /// Single requests that found nothing.
    pub got_empty: u64,
    /// Of the delivered and the got ones: had been delivered before.
    pub redelivered: u64,
    /// Were acknowledged.
    pub acked: u64,
    /// Went back to the queue after a delivery.
    pub requeued: u64,
    /// Died of their time to live.
    pub expired: u64,
    /// Died of the queue's limits.
    pub dropped: u64,
    /// Were rejected by a consumer.
    pub rejected: u64,
    /// Died of failed deliveries.
    pub poisoned: u64,
    /// Of all that died or were refused: went to the dead-letter exchange.
    pub dead_lettered: u64,
    /// Were purged.
    pub purged: u64,
    /// Were taken back by their senders before anybody got them.
    pub withdrawn: u64,
}

impl QueueStats {
    /// Adds what happened to another queue.
    pub fn add(&mut self, other: &QueueStats) {
        // Taken apart, so that a new counter cannot be left out.
        let QueueStats {
            published,
            refused,
            delivered,
            delivered_no_ack,
            got,
            got_no_ack,
            got_empty,
            redelivered,
            acked,
            requeued,
            expired,
            dropped,
            rejected,
            poisoned,
            dead_lettered,
            purged,
            withdrawn,
        } = other;
        self.published += published;
        self.refused += refused;
        self.delivered += delivered;
        self.delivered_no_ack += delivered_no_ack;
        self.got += got;
        self.got_no_ack += got_no_ack;
        self.got_empty += got_empty;
        self.redelivered += redelivered;
        self.acked += acked;
        self.requeued += requeued;
        self.expired += expired;
        self.dropped += dropped;
        self.rejected += rejected;
        self.poisoned += poisoned;
        self.dead_lettered += dead_lettered;
        self.purged += purged;
        self.withdrawn += withdrawn;
    }
}

/// How much is in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that wait for a consumer.
    pub ready: u64,
    /// Messages delivered and not yet acknowledged.
    pub unsettled: u64,
    /// Messages delivered without acknowledgement that have not left for the socket.
    pub unsent: u64,
    /// Messages that are being copied elsewhere.
    pub leaving: u64,
    /// Consumers.
    pub consumers: u32,
    /// Bytes of the bodies of ready messages.
    pub ready_bytes: u64,
    /// Bytes of properties and bodies of ready messages.
    pub ready_payload: u64,
}

/// All queues of a shard together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages that wait for a consumer.
    pub ready: u64,
    /// Messages delivered and not yet acknowledged or, where no acknowledgement is needed, not yet sent.
    pub unacknowledged: u64,
    /// Consumers.
    pub consumers: u64,
    /// What happened so far, also to queues that are gone: no counter ever goes back.
    pub stats: QueueStats,
}

/// All about a queue.
#[derive(Debug, Clone)]
pub struct QueueInfo {
    /// How much is in it.
    pub counts: Counts,
    /// What happened to it.
    pub stats: QueueStats,
    /// Message bytes that it holds in memory.
    pub memory: u64,
    /// The place that the next message will take.
    pub next_seq: Seq,
    /// When the message that is next in line came.
    pub head_at: Option<Millis>,
    /// When it was last consumed from, got from, or touched.
    pub last_used: Millis,
    /// Whether a consumer has it for itself.
    pub exclusive_consumer: bool,
    /// The consumers, in the order in which they came.
    pub consumers: Vec<ConsumerInfo>,
}

/// All about a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerInfo {
    /// Its id.
    pub id: ConsumerId,
    /// Of which connection.
    pub conn: ConnId,
    /// Of which channel.
    pub channel: ChannelId,
    /// Its tag.
    pub tag: Box<str>,
    /// Whether it needs no acknowledgements.
    pub no_ack: bool,
    /// Whether it has the queue for itself.
    pub exclusive: bool,
    /// Its priority.
    pub priority: i32,
    /// Its prefetch; `None` is no limit.
    pub prefetch: Option<u32>,
    /// What it holds: messages unsettled, or unsent.
    pub held: u64,
    /// Bytes of credit left; negative when one message was larger.
    pub window: i64,
    /// Whether it may get messages at all: with single active consumer, only one does.
    pub active: bool,
}

impl Queue {
    /// How much is in it.
    pub fn counts(&self) -> Counts {
        let leaving = self.leaving.iter().flat_map(|l| l.values()).map(|r| u64::from(r.count)).sum();
        let waiting = self.waiting_sums();
        Counts {
            ready: waiting.messages,
            unsettled: self.unsettled,
            unsent: self.unsent,
            leaving,
            consumers: self.consumers(),
            ready_bytes: waiting.body,
            ready_payload: waiting.payload,
        }
    }

    /// All about it.
    pub fn info(&self) -> QueueInfo {
        let single = self.settings.single_active_consumer;
        let mut consumers: Vec<ConsumerInfo> = self
            .roster
            .iter()
            .flat_map(|r| r.iter().map(move |(slot, c)| (r, slot, c)))
            .filter(|(_, _, c)| !c.ended)
            .map(|(r, slot, c)| ConsumerInfo {
                id: c.id,
                conn: c.conn,
                channel: c.channel,
                tag: c.tag.clone(),
                no_ack: c.no_ack,
                exclusive: c.exclusive,
                priority: c.priority,
                prefetch: (c.prefetch != u32::MAX).then_some(c.prefetch),
                held: c.held.messages(),
                window: c.window,
                active: !single || r.is_active(slot),
            })
            .collect();
        consumers.sort_by_key(|c| c.id);
        QueueInfo {
            counts: self.counts(),
            stats: self.stats,
            memory: self.memory,
            next_seq: self.next_seq,
            head_at: self.ready.head_at(),
            last_used: self.last_used,
            exclusive_consumer: self.roster.as_ref().is_some_and(|r| r.exclusive()),
            consumers,
        }
    }
}
