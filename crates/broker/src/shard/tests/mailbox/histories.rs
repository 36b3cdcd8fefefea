//! Random registrations, deaths, drains, selectors, keys and settlements against a naive model.
//!
//! After every step: each message is in one place; what waits, waits because nobody who may take it has credit; whoever
//! got something was allowed to; keys and lanes keep their order; in the end everything is settled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use waypost_model::address::KEY_SLOTS;
use waypost_model::command::Outcome;
use waypost_model::selector::Selector;
use waypost_model::service::{Health, Instance, Standing};
use waypost_model::{Attrs, ConsumerId, Lsn};

use super::super::world::{PERSISTENT, Q, World};
use super::{address, claim, instance, mailbox, prefetch, standing};
use crate::shard::Claimant;

const SELECTORS: [&str; 6] = ["", "zone=a", "tag=x", "version=^1", "tag=x&zone=a", "instance=i1"];
const INSTANCES: [&str; 6] =
    ["i0 a x 1.0.0", "i1 a - 2.0.0", "i2 b x 1.5.0", "i3 b x,y 2.0.0", "i4 a x,y -", "i5 - - 1.2.3"];

/// The same, read once.
static KNOWN: LazyLock<(Vec<Selector>, Vec<Instance>)> = LazyLock::new(|| {
    let who = |(i, said): (usize, &&str)| {
        let mut who = instance(said);
        who.max_in_flight = (i == 2).then_some(3);
        who.weight = 1 + i as u16;
        who
    };
    let selectors = SELECTORS.iter().map(|s| Selector::parse(s).unwrap()).collect();
    (selectors, INSTANCES.iter().enumerate().map(who).collect())
});

/// Xorshift: the same histories everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}

#[derive(Clone)]
struct Message {
    selector: usize,
    slot: Option<u16>,
    priority: u8,
    held: Option<ConsumerId>,
    /// When it dies of old age.
    dies: Option<u64>,
}

struct Consumer {
    instance: usize,
    limit: u64,
    cancelled: bool,
}

struct History {
    w: World,
    dice: Dice,
    /// By place; what is settled or dead is taken out.
    live: BTreeMap<u64, Message>,
    published: u64,
    finished: u64,
    standings: Vec<Option<Standing>>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    priorities: bool,
}

impl History {
    fn new(seed: u64) -> History {
        let priorities = seed.is_multiple_of(3);
        let w = mailbox(|s| {
            s.durable = seed.is_multiple_of(2);
            s.max_priority = priorities.then_some(2);
        });
        w.journal.with(|j| j.automatic = !seed.is_multiple_of(4));
        History {
            w,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            live: BTreeMap::new(),
            published: 0,
            finished: 0,
            standings: vec![None; INSTANCES.len()],
            consumers: BTreeMap::new(),
            priorities,
        }
    }

    fn who(i: usize) -> Instance {
        KNOWN.1[i].clone()
    }

    fn fits(i: usize, selector: usize) -> bool {
        KNOWN.0[selector].is_match(&KNOWN.1[i])
    }

    fn step(&mut self) {
        match self.dice.roll(20) {
            0..=5 => self.publish(),
            6 | 7 => self.join(),
            8 => self.change(),
            9 => self.end(),
            10 => self.lose(),
            11 => {
                let ms = self.dice.roll(3000) as u64;
                self.w.advance(ms);
                self.w.tick();
            }
            _ => self.settle(),
        }
        // What waits for the disk need not wait for ever.
        if self.dice.roll(3) == 0 {
            self.sync();
        }
        self.look();
    }

    fn sync(&mut self) {
        let lsn = self.w.journal.with(|j| {
            j.durable = j.last;
            Lsn(j.durable)
        });
        self.w.call(|s, cx| s.durable(lsn, cx));
    }

    fn publish(&mut self) {
        if self.dice.roll(4) == 0 {
            return self.publish_together();
        }
        let selector = self.dice.roll(SELECTORS.len());
        let slot = (self.dice.roll(3) == 0).then(|| self.dice.roll(4) as u16 * (KEY_SLOTS / 4));
        let priority = if self.priorities { self.dice.roll(3) as u8 } else { 0 };
        let ttl = (self.dice.roll(8) == 0).then(|| 1 + self.dice.roll(2000) as u32);
        let base = if self.dice.roll(2) == 0 { PERSISTENT } else { Attrs::default() };
        let attrs = Attrs { priority, expiration: ttl, ..base };
        let count = 1 + self.dice.roll(3);
        let bodies: Vec<String> = (0..count as u64).map(|i| (self.published + i).to_string()).collect();
        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        for i in 0..count as u64 {
            let dies = ttl.map(|ms| self.w.now.0 + u64::from(ms));
            let m = Message { selector, slot, priority, held: None, dies };
            self.live.insert(self.published + i, m);
        }
        self.published += count as u64;
        self.w.send_with(&bodies, address(slot, SELECTORS[selector]), attrs);
    }

    /// Messages with keys of all sorts.
    fn publish_together(&mut self) {
        let selector = self.dice.roll(SELECTORS.len());
        let priority = if self.priorities { self.dice.roll(3) as u8 } else { 0 };
        let base = if self.dice.roll(4) == 0 { PERSISTENT } else { Attrs::default() };
        let count = 1 + self.dice.roll(6);
        let mut one = || (String::new(), self.dice.roll(4) as u16 * (KEY_SLOTS / 4));
        let said: Vec<(String, u16)> = (0..count).map(|_| one()).collect();
        let order = self.w.deal(&said, SELECTORS[selector], Attrs { priority, ..base });
        for (place, n) in (self.published..).zip(order) {
            self.live.insert(place, Message { selector, slot: Some(said[n].1), priority, held: None, dies: None });
        }
        self.published += count as u64;
    }

    fn join(&mut self) {
        let i = self.dice.roll(INSTANCES.len());
        if self.consumers.values().filter(|c| c.instance == i && !c.cancelled).count() >= 2 {
            return;
        }
        let standing = *self.standings[i].get_or_insert(Standing::PASSING);
        let limit = 1 + self.dice.roll(4) as u32;
        let known = Claimant { standing, ..claim(Self::who(i)) };
        // Known before its first delivery is looked at.
        let consumer = self.w.seat(Some(known), prefetch(limit));
        self.consumers.insert(consumer, Consumer { instance: i, limit: limit.into(), cancelled: false });
    }

    fn change(&mut self) {
        let i = self.dice.roll(INSTANCES.len());
        let health = [Health::Passing, Health::Passing, Health::Warning, Health::Critical][self.dice.roll(4)];
        let new = standing(health, self.dice.roll(5) == 0);
        if self.standings[i].is_some() {
            self.standings[i] = Some(new);
            self.w.stands(Self::who(i), new);
        }
    }

    fn some_consumer(&mut self) -> Option<ConsumerId> {
        let n = self.consumers.len();
        if n == 0 {
            return None;
        }
        let at = self.dice.roll(n);
        self.consumers.keys().nth(at).copied()
    }

    fn end(&mut self) {
        if let Some(c) = self.some_consumer() {
            self.w.call(|s, cx| s.cancel(c, cx));
            self.consumers.get_mut(&c).unwrap().cancelled = true;
        }
    }

    fn lose(&mut self) {
        if let Some(c) = self.some_consumer() {
            self.consumers.remove(&c);
            self.live.values_mut().filter(|m| m.held == Some(c)).for_each(|m| m.held = None);
            self.w.lose(c);
        }
    }

    fn settle(&mut self) {
        let held: Vec<(u64, ConsumerId)> = self.live.iter().filter_map(|(seq, m)| m.held.map(|c| (*seq, c))).collect();
        if held.is_empty() {
            return;
        }
        let (seq, consumer) = held[self.dice.roll(held.len())];
        let outcome = match self.dice.roll(12) {
            0 => Outcome::Rejected,
            1 | 2 => Outcome::Released,
            _ => Outcome::Accepted,
        };
        if outcome == Outcome::Released {
            self.live.get_mut(&seq).unwrap().held = None;
        } else {
            self.live.remove(&seq);
            self.finished += 1;
        }
        self.w.settle(consumer, seq, 1, outcome);
    }

    /// Takes in what happened, and checks it.
    fn look(&mut self) {
        let now = self.w.now.0;
        // What has died of old age while it waited.
        let counts = self.w.shard.counts(Q).unwrap();
        let deliveries: Vec<_> = self.w.seen();
        for d in deliveries {
            self.delivered(d.consumer, d.seq);
        }
        let dead: Vec<u64> = self
            .live
            .iter()
            .filter(|(_, m)| m.held.is_none() && m.dies.is_some_and(|at| at <= now))
            .map(|(seq, _)| *seq)
            .collect();
        let waiting = self.live.values().filter(|m| m.held.is_none()).count() as u64;
        let held = self.live.values().filter(|m| m.held.is_some()).count() as u64;
        assert_eq!(counts.unsettled, held);
        // The dead leave at the latest when the clock strikes, or when they would be delivered.
        assert!(counts.ready <= waiting && counts.ready + dead.len() as u64 >= waiting, "{counts:?} {waiting}");
        if counts.ready + (dead.len() as u64) == waiting {
            self.finished += dead.len() as u64;
            self.live.retain(|seq, _| !dead.contains(seq));
        } else if !dead.is_empty() {
            self.w.tick();
            assert_eq!(self.w.shard.counts(Q).unwrap().ready + dead.len() as u64, waiting);
            self.finished += dead.len() as u64;
            self.live.retain(|seq, _| !dead.contains(seq));
        }
        assert_eq!(self.live.len() as u64 + self.finished, self.published);
        self.nobody_waits_in_vain();
    }

    fn candidate(&self, i: usize) -> Option<Health> {
        let s = self.standings[i].filter(|s| !s.draining)?;
        let consumes = self.consumers.values().any(|c| c.instance == i && !c.cancelled);
        (consumes && matches!(s.health, Health::Passing | Health::Warning)).then_some(s.health)
    }

    fn ejected(&self) -> BTreeSet<String> {
        let info = self.w.shard.mailbox_info(Q).unwrap_or_default();
        info.members.iter().filter(|m| m.ejected).map(|m| m.instance.id.to_string()).collect()
    }

    /// Whether an instance may take messages of a selector at all.
    fn eligible(&self, i: usize, selector: usize, ejected: &BTreeSet<String>) -> bool {
        let matches = |i: usize| Self::fits(i, selector);
        let Some(health) = self.candidate(i).filter(|_| matches(i)) else {
            return false;
        };
        let sound =
            |o: usize| matches(o) && self.candidate(o) == Some(Health::Passing) && !ejected.contains(&*KNOWN.1[o].id);
        health == Health::Passing || !(0..INSTANCES.len()).any(sound)
    }

    fn held_by(&self, c: ConsumerId) -> u64 {
        self.live.values().filter(|m| m.held == Some(c)).count() as u64
    }

    fn in_flight(&self, i: usize) -> u64 {
        self.consumers.iter().filter(|(_, c)| c.instance == i).map(|(id, _)| self.held_by(*id)).sum()
    }

    fn delivered(&mut self, consumer: ConsumerId, seq: u64) {
        let c = self.consumers.get(&consumer).expect("a consumer that is there");
        assert!(!c.cancelled);
        let m = self.live[&seq].clone();
        assert!(m.held.is_none(), "{seq} was delivered twice");
        assert!(m.dies.is_none_or(|at| at > self.w.now.0), "{seq} was dead");
        let i = c.instance;
        assert!(self.held_by(consumer) < c.limit);
        assert!(KNOWN.1[i].max_in_flight.is_none_or(|max| self.in_flight(i) < u64::from(max)));
        // Who has just been let off, or ejected, cannot be told from before: the former is allowed, the latter probed.
        let matches = Self::fits(i, m.selector);
        assert!(matches && self.candidate(i).is_some(), "{seq} to {}", INSTANCES[i]);
        let before = |(s, o): &(&u64, &Message)| {
            **s < seq && o.held.is_none() && o.selector == m.selector && o.slot == m.slot && o.priority == m.priority
        };
        // Those that waited for the disk may have been overtaken by those that need not.
        let expired = |o: &Message| o.dies.is_some_and(|at| at <= self.w.now.0);
        let overtaken = self.live.iter().find(|x| before(x) && !expired(x.1));
        assert!(overtaken.is_none(), "{seq} overtook {}", overtaken.unwrap().0);
        if m.slot.is_some() {
            let other = self.live.values().find(|o| {
                o.slot == m.slot && o.selector == m.selector && o.held.is_some_and(|other| other != consumer)
            });
            assert!(other.is_none(), "the key of {seq} is another's");
        }
        self.live.get_mut(&seq).unwrap().held = Some(consumer);
    }

    fn nobody_waits_in_vain(&mut self) {
        let durable = self.w.journal.with(|j| j.automatic);
        if !durable {
            self.sync();
            let deliveries: Vec<_> = self.w.seen();
            for d in deliveries {
                self.delivered(d.consumer, d.seq);
            }
        }
        let ejected = self.ejected();
        let waiting: BTreeSet<(usize, Option<u16>)> =
            self.live.values().filter(|m| m.held.is_none()).map(|m| (m.selector, m.slot)).collect();
        for (selector, slot) in waiting {
            let holder = self
                .live
                .values()
                .find(|m| m.selector == selector && m.slot == slot && slot.is_some() && m.held.is_some())
                .and_then(|m| m.held);
            for (id, c) in self.consumers.iter().filter(|(_, c)| !c.cancelled) {
                let who = &KNOWN.1[c.instance];
                let free = self.held_by(*id) < c.limit
                    && who.max_in_flight.is_none_or(|max| self.in_flight(c.instance) < u64::from(max))
                    && !ejected.contains(&*who.id)
                    && holder.is_none_or(|h| h == *id);
                assert!(
                    !free || !self.eligible(c.instance, selector, &ejected),
                    "{} {slot:?} waits, and {} has credit: {:#?}",
                    SELECTORS[selector],
                    INSTANCES[c.instance],
                    self.w.shard.mailbox_info(Q),
                );
            }
        }
    }

    /// Everybody is well and takes everything.
    fn end_well(mut self) {
        for i in 0..INSTANCES.len() {
            self.standings[i] = Some(Standing::PASSING);
            self.w.stands(Self::who(i), Standing::PASSING);
            let consumer = self.w.seat(Some(claim(Self::who(i))), prefetch(4));
            self.consumers.insert(consumer, Consumer { instance: i, limit: 4, cancelled: false });
        }
        for _ in 0..self.published * 4 + 100 {
            self.sync();
            self.look();
            let held: Vec<(u64, ConsumerId)> =
                self.live.iter().filter_map(|(seq, m)| m.held.map(|c| (*seq, c))).collect();
            for (seq, consumer) in &held {
                self.live.remove(seq);
                self.finished += 1;
                self.w.settle(*consumer, *seq, 1, Outcome::Accepted);
                self.look();
            }
            if held.is_empty() {
                // Those that are ejected get their probes.
                self.w.advance(31_000);
                self.w.tick();
            }
            if self.live.is_empty() {
                break;
            }
        }
        assert!(self.live.is_empty(), "{} left: {:#?}", self.live.len(), self.w.shard.mailbox_info(Q));
        let counts = self.w.shard.counts(Q).unwrap();
        assert_eq!((counts.ready, counts.unsettled), (0, 0));
        let info = self.w.shard.mailbox_info(Q).unwrap();
        assert!(info.lanes.is_empty(), "{:?}", info.lanes);
        assert!(info.members.iter().all(|m| m.in_flight == 0));
    }
}

#[test]
fn histories_keep_the_rules() {
    for seed in 1..=100 {
        let run = std::panic::catch_unwind(|| {
            let mut h = History::new(seed);
            (0..150).for_each(|_| h.step());
            h.end_well();
        });
        if let Err(panic) = run {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
