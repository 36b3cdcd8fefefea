//! Totals of the node.

use std::sync::atomic::Ordering;

use waypost_model::{SHARDS, ShardId};

use crate::broker::{Alarm, Broker};
use crate::shard::QueueStats;

/// The node at a glance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overview {
    /// Connections, those in their handshake included.
    pub connections: u64,
    /// Open channels.
    pub channels: u64,
    /// Consumers of queues.
    pub consumers: u64,
    /// Vhosts.
    pub vhosts: u64,
    /// Users.
    pub users: u64,
    /// Exchanges of all vhosts, the predeclared ones included.
    pub exchanges: u64,
    /// Queues of all vhosts.
    pub queues: u64,
    /// Bindings of all vhosts, without those of the default exchanges.
    pub bindings: u64,
    /// Messages in queues, those that wait in delayed exchanges included.
    pub messages: MessageCounts,
    /// Message bytes that queues hold in memory.
    pub memory_bytes: u64,
    /// How many of them they may before they move some to disk.
    pub memory_budget_bytes: u64,
    /// Connections that have published.
    pub publishers: u64,
    /// What happened to the messages of all queues since the start, those included that are gone. Direct replies take
    /// no queue and are not among them.
    pub stats: QueueStats,
    /// What runs short.
    pub alarm: Alarm,
}

/// How many messages, by what becomes of them next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// Waiting for a consumer.
    pub ready: u64,
    /// Delivered, and not yet acknowledged or (where no acknowledgement is needed) not yet sent.
    pub unacknowledged: u64,
}

impl Broker {
    /// Totals of the node.
    #[must_use]
    pub fn overview(&self) -> Overview {
        let mut all = Overview {
            memory_bytes: self.memory.used(),
            memory_budget_bytes: self.memory.limit(),
            alarm: self.alarm(),
            ..Overview::default()
        };
        for peer in self.peers() {
            all.connections += 1;
            all.publishers += u64::from(peer.published.load(Ordering::Relaxed));
            all.channels += peer.with_known(|k| k.channels.len() as u64);
        }
        let vhosts = {
            let t = self.topology_read();
            all.users = t.users().len() as u64;
            t.vhosts()
        };
        for v in vhosts {
            all.vhosts += 1;
            all.exchanges += v.exchanges as u64;
            all.queues += v.queues as u64;
            all.bindings += v.bindings as u64;
        }
        self.count_messages(&mut all);
        all
    }

    fn count_messages(&self, all: &mut Overview) {
        for i in 0..SHARDS {
            let of_shard = self.lock(ShardId(i as u8)).totals();
            all.messages.ready += of_shard.ready;
            all.messages.unacknowledged += of_shard.unacknowledged;
            all.consumers += of_shard.consumers;
            all.stats.add(&of_shard.stats);
        }
    }
}
