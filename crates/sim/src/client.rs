//! A scripted client: speaks turns and events, as a session and its driver would.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use waypost_broker::broker::Connection;
use waypost_model::{ConsumerId, Event, Outbox, QueueId, Seq};

/// What a call was for.
#[derive(Debug, Clone)]
pub enum Asked {
    /// Nothing to be done with the answer.
    Nothing,
    /// A consumer.
    Consume { queue: &'static str, id: QueueId, no_ack: bool, prefetch: u32, window: i64 },
    /// A get.
    Get { queue: &'static str },
}

/// A consumer, or the stand-in of gets, as its connection knows it.
#[derive(Debug, Clone)]
pub struct Consumer {
    /// Of which channel.
    pub channel: u16,
    /// Its queue.
    pub queue: &'static str,
    /// The incarnation.
    pub id: QueueId,
    /// Settled when sent.
    pub no_ack: bool,
    /// 0 is no limit.
    pub prefetch: u32,
    /// Bytes of credit left.
    pub window: i64,
    /// What it holds: place, uid, whether the client has seen it.
    pub held: BTreeMap<Seq, u64>,
    /// Ended; it keeps what it holds.
    pub ended: bool,
    /// A stand-in.
    pub gets: bool,
}

/// Deliveries whose bytes wait for the socket.
#[derive(Debug, Clone, Copy)]
pub struct Owed {
    pub consumer: ConsumerId,
    pub queue: QueueId,
    pub first: Seq,
    pub count: u32,
    pub cost: u64,
}

/// A channel.
#[derive(Debug, Default)]
pub struct Channel {
    /// Publishes are confirmed.
    pub confirms: bool,
    /// The last sequence number.
    pub published: u64,
    /// What waits for its confirm: the copies of each.
    pub open: BTreeMap<u64, Vec<(&'static str, u64)>>,
    /// Accepted; to be believed from that ticket on.
    pub accepted: BTreeMap<u64, u64>,
    /// The channel's own prefetch.
    pub prefetch: u32,
    /// The core refused something.
    pub failed: bool,
}

/// See the module.
pub struct Client {
    pub conn: Connection,
    pub outbox: Arc<Outbox>,
    /// Events that came and were not handled.
    pub inbox: VecDeque<Event>,
    pub channels: BTreeMap<u16, Channel>,
    pub consumers: BTreeMap<ConsumerId, Consumer>,
    pub owed: VecDeque<Owed>,
    pub asked: BTreeMap<u32, Asked>,
    /// Unsettled deliveries that the client has in hand: consumer and place.
    pub hand: BTreeSet<(ConsumerId, Seq)>,
}

impl Client {
    /// How many messages the consumers of a channel hold.
    pub fn held_of_channel(&self, channel: u16) -> usize {
        self.consumers.values().filter(|c| c.channel == channel && !c.no_ack && !c.gets).map(|c| c.held.len()).sum()
    }
}
