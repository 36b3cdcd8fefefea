//! Mailboxes: rule by rule, against a naive model, and in virtual time.

mod balance;
mod choice;
mod histories;
mod keys;
mod lanes;

use std::sync::Arc;

use waypost_model::address::Address;
use waypost_model::service::{Health, Instance, InstanceChange, Parting, Standing};
use waypost_model::{Attrs, BatchBuilder, ChannelId, ConnId, ConsumerId, Outbox, Route};

use super::world::{Q, World};
use crate::settings::QueueSettings;
use crate::shard::{ChannelCredit, Claimant, ConsumerArguments, Dealing, Enqueued, Incoming, NewConsumer};

pub fn mailbox(change: impl FnOnce(&mut QueueSettings)) -> World {
    World::with(|s| {
        s.service = Some("s".into());
        change(s);
    })
}

/// An instance by what it says, in the form `id zone tag,tag version`; `-` for nothing.
pub fn instance(said: &str) -> Instance {
    let words: Vec<&str> = said.split(' ').collect();
    let word = |i: usize| words.get(i).copied().filter(|w| *w != "-").unwrap_or_default();
    Instance {
        zone: word(1).into(),
        tags: word(2).split(',').filter(|t| !t.is_empty()).map(Into::into).collect(),
        version: word(3).parse().ok().map(Arc::new),
        ..Instance::new(word(0))
    }
    .checked()
    .unwrap()
}

pub fn claim(instance: Instance) -> Claimant {
    Claimant { instance: Arc::new(instance), standing: Standing::PASSING, incarnation: 1 }
}

pub fn address(slot: Option<u16>, selector: &str) -> Address<'_> {
    Address { slot, selector, ..Address::default() }
}

pub fn standing(health: Health, draining: bool) -> Standing {
    Standing { health, draining }
}

/// How an instance consumes.
pub struct Seat {
    pub prefetch: Option<u32>,
    pub no_ack: bool,
    pub priority: i32,
    pub outbox: Option<Arc<Outbox>>,
}

impl Default for Seat {
    fn default() -> Seat {
        Seat { prefetch: Some(1), no_ack: false, priority: 0, outbox: None }
    }
}

pub fn prefetch(n: u32) -> Seat {
    Seat { prefetch: Some(n), ..Seat::default() }
}

impl World {
    pub fn join(&mut self, instance: Instance, seat: Seat) -> ConsumerId {
        self.seat(Some(claim(instance)), seat)
    }

    pub fn seat(&mut self, instance: Option<Claimant>, seat: Seat) -> ConsumerId {
        self.tags += 1;
        let new = NewConsumer {
            conn: ConnId(1),
            channel: ChannelId(1),
            tag: format!("c{}", self.tags).into(),
            outbox: seat.outbox.unwrap_or_else(|| Arc::clone(&self.outbox)),
            token: self.tags,
            no_ack: seat.no_ack,
            exclusive: false,
            arguments: ConsumerArguments { priority: seat.priority },
            prefetch: seat.prefetch,
            credit: Arc::<ChannelCredit>::default(),
            window_bytes: 1 << 40,
            instance,
        };
        self.call(|s, cx| s.consume(Q, new, cx)).unwrap()
    }

    pub fn send_with(&mut self, bodies: &[&str], a: Address<'_>, attrs: Attrs) -> Enqueued {
        let route = Route { address: a.encode(), ..Route::new("amq.services", "s") };
        let mut b = BatchBuilder::default();
        bodies.iter().for_each(|body| b.push(&[0, 0], body.as_bytes()));
        let batch = b.finish();
        let run = Incoming {
            route: Arc::new(route),
            from: 0,
            to: batch.len() as u32,
            batch: Arc::new(batch),
            attrs,
            at: self.now,
            due: None,
        };
        self.call(|s, cx| s.enqueue(&[Q], run, cx))
    }

    /// Messages that come together, each with the slot of its key; which of them they are, in the order of their places.
    pub fn deal(&mut self, said: &[(String, u16)], selector: &str, attrs: Attrs) -> Vec<usize> {
        let route = |a: Address<'_>| Arc::new(Route { address: a.encode(), ..Route::new("amq.services", "s") });
        let mut b = BatchBuilder::default();
        said.iter().for_each(|(body, _)| b.push(&[0, 0], body.as_bytes()));
        let batch = Arc::new(b.finish());
        let all =
            Incoming { route: route(address(None, selector)), batch, from: 0, to: 0, attrs, at: self.now, due: None };
        let mut dealing = Dealing::default();
        (0..).zip(said).for_each(|(at, (_, slot))| dealing.add(at, *slot));
        self.call(|s, cx| {
            let dealt = s.deal(Q, &all, &mut dealing, cx);
            assert_eq!(dealt.accepted as usize, dealing.order().len());
            for (at, (_, slot)) in (0..).zip(said).filter(|(at, _)| !dealing.took(*at as usize)) {
                let route = route(address(Some(*slot), selector));
                s.enqueue(&[Q], Incoming { route, from: at, to: at + 1, ..all.clone() }, cx);
            }
        });
        let left = (0..said.len()).filter(|n| !dealing.took(*n));
        let order: Vec<usize> = dealing.order().iter().map(|n| *n as usize).chain(left).collect();
        for slot in said.iter().map(|(_, slot)| slot) {
            assert!(order.iter().filter(|n| said[**n].1 == *slot).is_sorted(), "{order:?}");
        }
        order
    }

    pub fn send(&mut self, bodies: &[&str], selector: &str) -> Enqueued {
        self.send_with(bodies, address(None, selector), Attrs::default())
    }

    pub fn send_keyed(&mut self, bodies: &[&str], slot: u16, selector: &str) -> Enqueued {
        self.send_with(bodies, address(Some(slot), selector), Attrs::default())
    }

    pub fn change(&mut self, change: InstanceChange) {
        self.call(|s, cx| s.instance_changed(Q, &change, cx));
    }

    pub fn stands(&mut self, instance: Instance, standing: Standing) {
        self.change(InstanceChange::Is { instance: Arc::new(instance), standing, incarnation: 1 });
    }

    pub fn gone(&mut self, id: &str) {
        self.change(InstanceChange::Gone { id: id.into(), incarnation: 1, why: Parting::Ended });
    }

    /// An instance's drain is over.
    pub fn drained(&mut self, id: &str) {
        self.change(InstanceChange::Gone { id: id.into(), incarnation: 1, why: Parting::Drained });
    }

    /// A consumer's connection breaks.
    pub fn lose(&mut self, consumer: ConsumerId) {
        self.call(|s, cx| s.release_channel(&[consumer], cx));
    }

    /// Who got what since the last look.
    pub fn got(&self) -> Vec<(ConsumerId, String)> {
        self.seen().into_iter().map(|s| (s.consumer, s.body)).collect()
    }
}
