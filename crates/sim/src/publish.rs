//! Publishing: to where, what, and what is to be expected of it.

use std::sync::Arc;

use waypost_model::command::Publish;
use waypost_model::props::{PropsOwned, ShortStr};
use waypost_model::table::{Table, Value};
use waypost_model::{AttrFlags, Attrs, BatchBuilder, ChannelId, Command, Route, Turn};

use crate::ledger::{Copy, Fate};
use crate::plan;
use crate::world::{Broken, World};

impl World {
    /// Messages for somewhere, entered in the ledger; with the copies that each must become.
    pub(crate) fn make(&mut self, count: u32) -> (Publish, Vec<Vec<(&'static str, u64)>>) {
        let targets: [(&str, &str); 15] = [
            ("", "q0"),
            ("", "q1"),
            ("", "q2"),
            ("", "q3"),
            ("", "q4"),
            ("", "e"),
            ("f", "any"),
            ("t", "a.b.c"),
            ("t", "x.c"),
            ("t", "a"),
            ("a", "none"),
            ("x", "q0"),
            ("x", "q2"),
            ("", "w"),
            ("", "nowhere"),
        ];
        let (exchange, key) = targets[self.rng.below(targets.len())];
        let persistent = !self.rng.once_in(3);
        let expiration =
            (key != "w" && exchange != "x" && self.rng.once_in(6)).then(|| [0u32, 5, 80][self.rng.below(3)]);
        let priority = self.rng.below(6) as u8;
        let delay = (exchange == "x").then(|| self.rng.below(120) as u64);
        let mut flags = if persistent { AttrFlags::PERSISTENT } else { AttrFlags::default() };
        let mut props = PropsOwned {
            delivery_mode: Some(1 + u8::from(persistent)),
            priority: Some(priority),
            ..PropsOwned::default()
        };
        props.expiration = expiration.and_then(|e| ShortStr::new(e.to_string()));
        if let Some(ms) = delay {
            flags = flags.with(AttrFlags::HEADERS);
            props.headers = Some(Table::new().with("x-delay", Value::I32(ms as i32)));
        }
        let props = props.to_bytes();
        // Where a delayed message leads is decided when it is due: its queue may be there by then.
        let existing = self.plans.values().filter(|p| exchange == "x" || self.ids.contains_key(p.name));
        let queues = plan::route(existing, exchange, key);
        let mut batch = BatchBuilder::default();
        let mut copies = Vec::new();
        for _ in 0..count {
            self.next_uid += 1;
            let uid = self.next_uid;
            let size = if self.rng.once_in(12) { 3000 } else { self.rng.below(60) };
            let body: Vec<u8> =
                uid.to_le_bytes().into_iter().chain((0..size).map(|i| (uid as usize + i) as u8)).collect();
            batch.push(&props, &body);
            for q in &queues {
                let p = &self.plans[q];
                let due = delay.map(|ms| self.now.0 + ms);
                let start = due.unwrap_or(self.now.0);
                let ttl = p.ttl.into_iter().chain(expiration.map(u64::from)).min();
                // Due messages come when the clock strikes, which may be later.
                let deadline = if delay.is_some() { None } else { ttl.map(|ms| start + ms) };
                let fate = if !p.leaks && self.ids.contains_key(q) { Fate::Must } else { Fate::May };
                let copy = Copy {
                    fate,
                    persistent: persistent && p.durable,
                    confirmed: false,
                    deadline,
                    due,
                    repeats: delay.is_some(),
                    rejected: false,
                    returns: 0,
                };
                self.ledger.copies.insert((q, uid), copy);
            }
            copies.push(queues.iter().map(|q| (*q, uid)).collect());
        }
        self.trace.add(format!(
            "  {count} to '{exchange}' '{key}' from uid {} persistent {persistent} expiration {expiration:?} delay {delay:?}",
            self.next_uid + 1 - u64::from(count)
        ));
        let publish = Publish {
            channel: ChannelId(1),
            route: Arc::new(Route::new(exchange, key)),
            batch: Some(Arc::new(batch.finish())),
            from: 0,
            to: count,
            attrs: Attrs { flags, priority, expiration },
            mandatory: self.rng.once_in(2),
            confirm: None,
        };
        (publish, copies)
    }

    pub(crate) fn publish(&mut self, id: u32, count: u32) -> Result<(), Broken> {
        let Some(channel) = self.some_channel(id) else { return self.channel(id) };
        let (mut publish, copies) = self.make(count);
        publish.channel = ChannelId(channel);
        let Some(ch) = self.clients.get_mut(&id).and_then(|c| c.channels.get_mut(&channel)) else { return Ok(()) };
        let flat: Vec<(&'static str, u64)> = copies.iter().flatten().copied().collect();
        if ch.confirms {
            for keys in copies {
                ch.published += 1;
                ch.open.insert(ch.published, keys);
            }
            publish.confirm = Some(ch.published);
        }
        if self.rng.once_in(2) {
            self.execute(id, vec![Command::Publish(publish)])?;
        } else {
            self.publish_apart(id, publish)?;
        }
        // A refusal on a channel without confirms says nothing about which queues have taken what.
        if self.clients.get(&id).and_then(|c| c.channels.get(&channel)).is_some_and(|c| c.failed) {
            flat.into_iter().for_each(|key| self.may(key));
        }
        Ok(())
    }

    /// The same messages as they lie in one read, each with a route of its own.
    fn publish_apart(&mut self, id: u32, p: Publish) -> Result<(), Broken> {
        let commands = (p.from..p.to).map(|n| {
            let route = Arc::new((*p.route).clone());
            let confirm = p.confirm.map(|last| last - u64::from(p.to - n - 1));
            Command::Publish(Publish { batch: None, route, from: n, to: n + 1, confirm, ..p.clone() })
        });
        let commands = commands.collect();
        self.execute_turn(id, Turn { batch: p.batch, commands })
    }
}
