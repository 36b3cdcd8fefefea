//! Random histories, compared with a queue that knows every message by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use waypost_model::command::Outcome;
use waypost_model::{AttrFlags, Attrs, ConsumerId, Lsn};

use super::naive::{Client, Message, Naive};
use super::world::{Q, dead_letter, settings};
use super::{Setup, World};
use crate::context::MemoryBudget;
use crate::settings::{Overflow, QueueSettings};

#[derive(Debug, Clone)]
enum Step {
    Publish { count: usize, persistent: bool, priority: u8, expiration: Option<u32>, size: usize },
    Consume { no_ack: bool, prefetch: Option<u32>, priority: i32 },
    Settle { nth: usize, len: u32, outcome: u8 },
    Sent { nth: usize, messages: u32 },
    Cancel { nth: usize },
    Release { nth: usize },
    Get { no_ack: bool },
    Advance { ms: u64, tick: bool },
    Durable,
    Relieve,
    Purge,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1usize..12, any::<bool>(), 0u8..4, proptest::option::weighted(0.3, 0u32..60), 0usize..40).prop_map(
            |(count, persistent, priority, expiration, size)| Step::Publish {
                count, persistent, priority, expiration, size
            }
        ),
        3 => (any::<bool>(), proptest::option::of(1u32..6), 0i32..2)
            .prop_map(|(no_ack, prefetch, priority)| Step::Consume { no_ack, prefetch, priority }),
        8 => (0usize..50, 1u32..6, 0u8..4).prop_map(|(nth, len, outcome)| Step::Settle { nth, len, outcome }),
        4 => (0usize..50, 1u32..6).prop_map(|(nth, messages)| Step::Sent { nth, messages }),
        1 => (0usize..50).prop_map(|nth| Step::Cancel { nth }),
        1 => (0usize..50).prop_map(|nth| Step::Release { nth }),
        2 => any::<bool>().prop_map(|no_ack| Step::Get { no_ack }),
        3 => (1u64..20, any::<bool>()).prop_map(|(ms, tick)| Step::Advance { ms, tick }),
        3 => Just(Step::Durable),
        1 => Just(Step::Relieve),
        1 => prop::bool::weighted(0.2).prop_map(|p| if p { Step::Purge } else { Step::Durable }),
        1 => prop::bool::weighted(0.3).prop_map(|p| if p { Step::Restart } else { Step::Durable }),
    ]
}

fn shape() -> impl Strategy<Value = QueueSettings> {
    let limits = (
        proptest::option::weighted(0.3, 0u64..20),
        proptest::option::weighted(0.2, 0u64..400),
        prop_oneof![Just(Overflow::DropHead), Just(Overflow::RejectPublish), Just(Overflow::RejectPublishDlx)],
    );
    (any::<bool>(), limits, proptest::option::weighted(0.3, 1u8..4), any::<bool>(), any::<[bool; 3]>()).prop_map(
        |(durable, (max_length, max_length_bytes, overflow), max_priority, single, [ttl, dlx, limit])| {
            let s = settings(|s| {
                s.durable = durable;
                s.max_length = max_length;
                s.max_length_bytes = max_length_bytes;
                s.overflow = overflow;
                s.max_priority = max_priority;
                s.single_active_consumer = single && ttl;
                s.message_ttl_ms = ttl.then_some(30);
                s.dead_letter = if dlx { dead_letter() } else { None };
                s.delivery_limit = limit.then_some(2);
            });
            (*s).clone()
        },
    )
}

struct Run {
    w: World,
    n: Naive,
    /// Messages that are done with, one way or another.
    done: BTreeSet<String>,
    counter: u64,
}

impl Run {
    fn new(s: QueueSettings) -> Run {
        let mut w = World::empty();
        let arc = Arc::new(s.clone());
        w.call(|shard, cx| shard.create_queue(arc, cx));
        let n = Naive {
            s,
            ready: BTreeMap::new(),
            held: BTreeMap::new(),
            order: BTreeMap::new(),
            dead: BTreeSet::new(),
            clients: Vec::new(),
        };
        Run { w, n, done: BTreeSet::new(), counter: 0 }
    }

    fn client(&self, nth: usize) -> Option<Client> {
        self.n.clients.get(nth % self.n.clients.len().max(1)).copied()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish { count, persistent, priority, expiration, size } => {
                let flags = if persistent { AttrFlags::PERSISTENT } else { AttrFlags::default() };
                self.publish(count, size, Attrs { flags, priority, expiration });
            }
            Step::Consume { no_ack, prefetch, priority } => {
                let id = self.w.consume(Setup { no_ack, prefetch, priority, ..Setup::default() });
                let prefetch = prefetch.unwrap_or(u32::MAX);
                self.n.clients.push(Client { id, no_ack, prefetch, live: true });
            }
            Step::Settle { nth, len, outcome } => self.settle(nth, len, outcome),
            Step::Sent { nth, messages } => self.sent(nth, messages),
            Step::Cancel { nth } => {
                let Some(c) = self.client(nth) else { return };
                self.w.call(|s, cx| s.cancel(c.id, cx));
                self.n.clients.iter_mut().filter(|x| x.id == c.id).for_each(|x| x.live = false);
            }
            Step::Release { nth } => self.release(nth),
            Step::Get { no_ack } => self.get(no_ack),
            Step::Advance { ms, tick } => {
                self.w.advance(ms);
                if tick || self.n.s.max_length.is_some() || self.n.s.max_length_bytes.is_some() {
                    self.w.tick();
                    self.n.expire(self.w.now.0);
                }
            }
            Step::Durable => {
                let lsn = self.w.journal.with(|s| {
                    s.durable = s.last;
                    Lsn(s.last)
                });
                self.w.call(|s, cx| s.durable(lsn, cx));
            }
            Step::Relieve => {
                self.w.memory = MemoryBudget::new(0);
                self.w.memory.add(self.w.shard.info(Q).unwrap().memory as i64);
                self.w.call(|s, cx| s.relieve(cx));
            }
            Step::Purge => {
                let n = self.w.call(|s, cx| s.purge(Q, cx));
                assert_eq!(n, self.n.ready.len() as u64);
                self.done.extend(std::mem::take(&mut self.n.ready).into_values().map(|m| m.body));
            }
            Step::Restart => self.restart(),
        }
    }

    fn publish(&mut self, count: usize, size: usize, attrs: Attrs) {
        let bodies: Vec<String> =
            (0..count).map(|i| format!("{:05}{}", self.counter + i as u64, "x".repeat(size))).collect();
        self.counter += count as u64;
        let first = self.w.shard.info(Q).unwrap().next_seq.0;
        let refs: Vec<&str> = bodies.iter().map(String::as_str).collect();
        let said = self.w.publish_with(&refs, attrs);
        let ttl = [attrs.expiration.map(u64::from), self.n.s.message_ttl_ms].into_iter().flatten().min();
        let deadline = ttl.map_or(u64::MAX, |ms| self.w.now.0 + ms);
        let next = self.w.shard.info(Q).unwrap().next_seq.0;
        assert_eq!(next - first, u64::from(said.accepted), "places are dense");
        for (i, body) in bodies.into_iter().enumerate() {
            if i as u32 >= said.accepted {
                assert_ne!(self.n.s.overflow, Overflow::DropHead);
                self.done.insert(body.clone());
                if self.n.s.overflow == Overflow::RejectPublishDlx && self.n.s.dead_letter.is_some() {
                    self.n.dead.insert(body);
                }
                continue;
            }
            let fleeting = deadline <= self.w.now.0;
            let logged = self.n.s.durable && attrs.persistent() && (!fleeting || self.n.s.dead_letter.is_some());
            let lsn = said.lsn.filter(|_| logged && !fleeting).map_or(0, |l| l.0);
            let (priority, fresh) = (attrs.priority, true);
            let m = Message { body, priority, logged, deadline, failed: 0, redelivered: false, lsn, fresh };
            let key = self.n.key(&m, first + i as u64);
            self.n.ready.insert(key, m);
        }
    }

    fn settle(&mut self, nth: usize, len: u32, outcome: u8) {
        let Some(c) = self.client(nth) else { return };
        let held: Vec<u64> = self.n.held.keys().filter(|(id, _)| *id == c.id).map(|(_, s)| *s).collect();
        let Some(&first) = held.get(nth / 3 % held.len().max(1)) else {
            return;
        };
        let verdict = [Outcome::Accepted, Outcome::Accepted, Outcome::Rejected, Outcome::Released][outcome as usize];
        self.w.settle(c.id, first, len, verdict);
        if c.no_ack {
            return;
        }
        for seq in first..first + u64::from(len) {
            let Some(m) = self.n.held.remove(&(c.id, seq)) else {
                continue;
            };
            match verdict {
                Outcome::Accepted => drop(self.done.insert(m.body)),
                Outcome::Rejected => self.n.die(m),
                Outcome::Released => self.n.give_back(m, seq, true, self.w.now.0),
            }
        }
    }

    fn sent(&mut self, nth: usize, messages: u32) {
        let Some(c) = self.client(nth).filter(|c| c.no_ack) else {
            return;
        };
        let order = self.n.order.entry(c.id).or_default();
        let n = (messages as usize).min(order.len());
        let gone: Vec<u64> = order.drain(..n).collect();
        self.w.sent(c.id, n as u32, 0);
        for seq in gone {
            self.done.insert(self.n.held.remove(&(c.id, seq)).unwrap().body);
        }
    }

    fn release(&mut self, nth: usize) {
        let Some(c) = self.client(nth) else { return };
        self.w.call(|s, cx| s.release_channel(&[c.id], cx));
        self.n.clients.retain(|x| x.id != c.id);
        let held: Vec<u64> = self.n.held.keys().filter(|(id, _)| *id == c.id).map(|(_, s)| *s).collect();
        for seq in held {
            let m = self.n.held.remove(&(c.id, seq)).unwrap();
            self.n.give_back(m, seq, !c.no_ack, self.w.now.0);
        }
        self.n.order.remove(&c.id);
    }

    fn get(&mut self, no_ack: bool) {
        let now = self.w.now.0;
        while self.n.ready.first_key_value().is_some_and(|(_, m)| m.deadline <= now) {
            let (_, m) = self.n.ready.pop_first().unwrap();
            self.n.die(m);
        }
        let got = self.w.get(no_ack);
        let Some(((_, seq), m)) = self.n.ready.pop_first() else {
            assert!(got.is_none());
            return;
        };
        let got = got.unwrap();
        let d = &got.delivery;
        let body = self.w.body(&d.body, Q, d.first, 0);
        assert_eq!((d.first.0, &body, d.redelivered), (seq, &m.body, m.redelivered));
        if got.leaving {
            self.w.call(|s, cx| s.left(Q, d.first, 1, cx));
        }
        if no_ack {
            self.done.insert(body);
            return;
        }
        let id = d.consumer;
        if self.n.clients.iter().all(|c| c.id != id) {
            self.n.clients.push(Client { id, no_ack: false, prefetch: u32::MAX, live: false });
        }
        self.n.held.insert((id, seq), m);
    }

    fn restart(&mut self) {
        self.n.clients.clear();
        self.n.order.clear();
        let journal = std::mem::take(&mut self.w.journal);
        let (runs, next) = (journal.recovered(Q), self.w.shard.info(Q).unwrap().next_seq);
        journal.with(|s| {
            s.spills.clear();
            s.durable = s.last;
        });
        let now = self.w.now;
        self.w = World { journal, now, ..World::empty() };
        let s = Arc::new(self.n.s.clone());
        self.w.call(|shard, cx| shard.restore(s, runs, next, false, cx));
        let held = std::mem::take(&mut self.n.held).into_iter().map(|((_, seq), m)| (seq, m));
        let ready = std::mem::take(&mut self.n.ready).into_iter().map(|((_, seq), m)| (seq, m));
        for (seq, mut m) in held.chain(ready).collect::<Vec<_>>() {
            if !m.logged {
                self.done.insert(m.body);
                continue;
            }
            m.redelivered = true;
            m.lsn = 0;
            if self.n.s.delivery_limit.is_none() {
                m.failed = 0;
            }
            let key = self.n.key(&m, seq);
            self.n.ready.insert(key, m);
        }
    }

    /// Takes over what the shard delivered: each the first that may be, to somebody with credit.
    fn observe(&mut self) {
        let (durable, last) = self.w.journal.with(|s| (s.durable, s.last));
        for seen in self.w.seen() {
            let client = *self.n.clients.iter().find(|c| c.id == seen.consumer).unwrap();
            assert!(client.live, "delivered to who has gone");
            let found = self.n.ready.keys().find(|(_, s)| *s == seen.seq).copied();
            let key = found.unwrap_or_else(|| panic!("{seen:?} was not ready"));
            let m = self.n.ready.remove(&key).unwrap();
            assert_eq!((&m.body, m.redelivered), (&seen.body, seen.redelivered));
            assert!(m.deadline > self.w.now.0 || m.fresh, "delivered dead: {seen:?}");
            assert!(m.lsn <= durable, "delivered ahead of the disk");
            // What came before may only have died, or be of a higher priority and wait for the disk, itself or behind another.
            for (k, before) in self.n.ready.range(..key) {
                let dead = before.deadline <= self.w.now.0;
                assert!(dead || k.0 < key.0 && durable < last, "{k:?} was overtaken by {key:?}");
            }
            self.n.held.insert((client.id, seen.seq), m);
            self.n.order.entry(client.id).or_default().push(seen.seq);
            let holds = self.n.held.keys().filter(|(c, _)| *c == client.id).count();
            assert!(client.no_ack || holds <= client.prefetch as usize, "prefetch");
        }
        self.n.ready.values_mut().for_each(|m| m.fresh = false);
    }

    /// After a step: everything is where it should be.
    fn check(&mut self) {
        self.observe();
        self.n.expire(self.w.now.0);
        self.n.drop_head();
        self.w.tick();
        // What died may have stood before others.
        self.observe();
        let dead: BTreeSet<String> = self.w.dead().into_iter().map(|(body, _)| body).collect();
        let mut expected = std::mem::take(&mut self.n.dead);
        if self.n.s.dead_letter.is_none() {
            self.done.append(&mut expected);
        }
        assert_eq!(dead, expected);
        self.done.extend(dead);
        let counts = self.w.shard.counts(Q).unwrap();
        let held = |no_ack: bool| {
            let of = |id: ConsumerId| self.n.clients.iter().any(|c| c.id == id && c.no_ack == no_ack);
            self.n.held.keys().filter(|(id, _)| of(*id)).count() as u64
        };
        assert_eq!(counts.ready, self.n.ready.len() as u64);
        if self.n.s.max_length_bytes.is_some() || counts.ready == 0 {
            assert_eq!(counts.ready_bytes, self.n.bytes());
        }
        assert_eq!((counts.unsettled, counts.unsent, counts.leaving), (held(false), held(true), 0));
        assert!(self.n.s.overflow != Overflow::DropHead || !self.n.over());
        assert_eq!(self.n.ready.len() + self.n.held.len() + self.done.len(), self.counter as usize);
        self.check_progress();
        self.check_journal();
    }

    fn check_progress(&self) {
        let (durable, last) = self.w.journal.with(|s| (s.durable, s.last));
        if self.n.ready.is_empty() || durable < last || self.n.s.single_active_consumer {
            return;
        }
        for c in self.n.clients.iter().filter(|c| c.live) {
            let holds = self.n.held.keys().filter(|(id, _)| *id == c.id).count();
            assert!(!c.no_ack && holds >= c.prefetch as usize, "{c:?} has credit, and there are messages");
        }
    }

    fn check_journal(&self) {
        let held = self.n.held.iter().map(|((_, s), m)| (*s, m.logged));
        let alive = self.n.ready.iter().map(|((_, s), m)| (*s, m.logged)).chain(held);
        let logged: BTreeSet<u64> = alive.filter(|(_, logged)| *logged).map(|(s, _)| s).collect();
        let live: BTreeSet<u64> = self.w.journal.with(|s| s.live.keys().map(|(_, seq)| seq.0).collect());
        assert_eq!(live, logged);
        if self.n.ready.is_empty() && self.n.held.is_empty() {
            assert_eq!(self.w.shard.info(Q).unwrap().memory, 0);
            assert!(self.w.journal.with(|s| s.spills.is_empty()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_histories(s in shape(), steps in proptest::collection::vec(step(), 1..80)) {
        let mut run = Run::new(s);
        for step in &steps {
            run.step(step);
            run.check();
        }
    }
}
