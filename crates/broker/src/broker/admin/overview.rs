//! Totals of the node.

use waypost_model::{SHARDS, ShardId};

use crate::broker::{Alarm, Broker};

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
            let shard = self.lock(ShardId(i as u8));
            for id in shard.queue_ids() {
                let Some(counts) = shard.counts(id) else { continue };
                all.messages.ready += counts.ready;
                all.messages.unacknowledged += counts.unsettled + counts.unsent;
                all.consumers += u64::from(counts.consumers);
            }
        }
    }
}
