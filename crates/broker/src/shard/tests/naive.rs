//! A queue that knows every message by itself.

use std::collections::{BTreeMap, BTreeSet};

use waypost_model::ConsumerId;

use crate::settings::{Overflow, QueueSettings};

/// One message, as it should be.
#[derive(Debug, Clone)]
pub struct Message {
    pub body: String,
    pub priority: u8,
    pub logged: bool,
    pub deadline: u64,
    pub failed: u32,
    pub redelivered: bool,
    pub lsn: u64,
    /// Published in this step.
    pub fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    pub id: ConsumerId,
    pub no_ack: bool,
    pub prefetch: u32,
    pub live: bool,
}

/// Every message by itself.
pub struct Naive {
    pub s: QueueSettings,
    /// By place within priority, the highest priority first.
    pub ready: BTreeMap<(u8, u64), Message>,
    pub held: BTreeMap<(ConsumerId, u64), Message>,
    /// What each holds, in order of delivery.
    pub order: BTreeMap<ConsumerId, Vec<u64>>,
    /// What should have died in this step.
    pub dead: BTreeSet<String>,
    pub clients: Vec<Client>,
}

impl Naive {
    pub fn key(&self, m: &Message, seq: u64) -> (u8, u64) {
        let max = self.s.max_priority.unwrap_or(0);
        (max - m.priority.min(max), seq)
    }

    pub fn die(&mut self, m: Message) {
        assert!(self.dead.insert(m.body));
    }

    pub fn drop_head(&mut self) {
        while self.s.overflow == Overflow::DropHead && self.over() {
            let (_, m) = self.ready.pop_first().unwrap();
            self.die(m);
        }
    }

    pub fn expire(&mut self, now: u64) {
        let due: Vec<_> = self.ready.iter().filter(|(_, m)| m.deadline <= now).map(|(k, _)| *k).collect();
        for key in due {
            let m = self.ready.remove(&key).unwrap();
            self.die(m);
        }
    }

    pub fn give_back(&mut self, mut m: Message, seq: u64, counts: bool, now: u64) {
        m.redelivered = true;
        m.failed += u32::from(counts);
        if m.deadline <= now || counts && self.s.delivery_limit.is_some_and(|l| m.failed > l) {
            return self.die(m);
        }
        let key = self.key(&m, seq);
        self.ready.insert(key, m);
    }

    pub fn bytes(&self) -> u64 {
        self.ready.values().map(|m| m.body.len() as u64).sum()
    }

    pub fn over(&self) -> bool {
        self.s.max_length.is_some_and(|max| self.ready.len() as u64 > max)
            || self.s.max_length_bytes.is_some_and(|max| self.bytes() > max)
    }
}
