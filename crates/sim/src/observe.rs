//! What is checked when an event comes out of the core.

use std::collections::VecDeque;

use waypost_model::table::Value;
use waypost_model::{ConsumerId, Delivery, Event, Reply, Seq};

use crate::client::{Asked, Consumer, Owed};
use crate::ledger::{Copy, Fate};
use crate::world::{Broken, World};

impl World {
    /// Takes what is in the outboxes, checks it, and puts it before the clients.
    pub(crate) fn collect(&mut self) -> Result<(), Broken> {
        let ids: Vec<u32> = self.clients.keys().copied().collect();
        let reached = self.reached.clone();
        for id in ids {
            let mut events = VecDeque::new();
            if let Some(c) = self.clients.get(&id) {
                c.outbox.drain(&mut events, None);
            }
            let mut last = reached.clone();
            for event in events {
                self.observe(id, &event, &mut last)?;
                if let Some(c) = self.clients.get_mut(&id) {
                    c.inbox.push_back(event);
                }
            }
        }
        Ok(())
    }

    fn observe(
        &mut self,
        id: u32,
        event: &Event,
        last: &mut std::collections::BTreeMap<waypost_model::QueueId, Seq>,
    ) -> Result<(), Broken> {
        self.trace.add(match event {
            Event::Deliver(d) => format!(
                "  {id}: deliver {:?} {:?}+{} to {:?}{}",
                d.queue,
                d.first,
                d.count,
                d.consumer,
                if d.redelivered { " again" } else { "" }
            ),
            other => format!("  {id}: {other:?}").chars().take(160).collect(),
        });
        match event {
            Event::Deliver(d) => self.deliver(id, d, last),
            Event::Reply { channel, token, reply, .. } => self.answer(id, channel.0, *token, reply),
            Event::Rejected { channel, first, last } => {
                for n in *first..=*last {
                    let open = self.clients.get_mut(&id).and_then(|c| c.channels.get_mut(&channel.0)?.open.remove(&n));
                    for key in open.unwrap_or_default() {
                        self.may(key);
                    }
                }
                Ok(())
            }
            Event::Accepted { channel, first, last, lsn } => {
                let found = self.clients.get_mut(&id).and_then(|c| c.channels.get_mut(&channel.0));
                let Some(ch) = found else { return Ok(()) };
                for n in *first..=*last {
                    if !ch.open.contains_key(&n) {
                        return Err(format!("publish {n} was confirmed twice, or never made"));
                    }
                    if ch.accepted.insert(n, lsn.map_or(0, |l| l.0)).is_some() {
                        return Err(format!("publish {n} was confirmed twice"));
                    }
                }
                Ok(())
            }
            Event::Refused { channel, refusal, .. } => {
                if refusal.hard && !self.engine.is_stopped() {
                    return Err(format!("a hard refusal: {refusal}"));
                }
                let whole = self.clients.get_mut(&id).filter(|_| refusal.hard);
                whole.into_iter().flat_map(|c| c.channels.values_mut()).for_each(|ch| ch.failed = true);
                if let Some(ch) = self.clients.get_mut(&id).and_then(|c| c.channels.get_mut(&channel.0)) {
                    ch.failed = true;
                    for key in std::mem::take(&mut ch.open).into_values().flatten() {
                        self.may(key);
                    }
                }
                Ok(())
            }
            Event::Cancelled { consumer, .. } => {
                if let Some(c) = self.clients.get_mut(&id) {
                    c.consumers.remove(consumer);
                    c.hand.retain(|(h, _)| h != consumer);
                }
                self.held.retain(|_, holder| holder != consumer);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn may(&mut self, key: (&'static str, u64)) {
        if let Some(copy) = self.ledger.copies.get_mut(&key).filter(|c| c.fate == Fate::Must) {
            copy.fate = Fate::May;
        }
    }

    fn answer(&mut self, id: u32, channel: u16, token: u32, reply: &Reply) -> Result<(), Broken> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        let Some(asked) = client.asked.remove(&token) else {
            return Err(format!("an answer to nothing: {reply:?}"));
        };
        match (asked, reply) {
            (Asked::Consume { queue, id: queue_id, no_ack, prefetch, window }, Reply::Consuming { consumer, .. }) => {
                let new = Consumer {
                    channel,
                    queue,
                    id: queue_id,
                    no_ack,
                    prefetch: if no_ack { 0 } else { prefetch },
                    window,
                    held: Default::default(),
                    ended: false,
                    gets: false,
                };
                client.consumers.insert(*consumer, new);
                Ok(())
            }
            (Asked::Get { queue }, Reply::Got { delivery, no_ack, .. }) => {
                self.got(id, channel, queue, delivery, *no_ack)
            }
            _ => Ok(()),
        }
    }

    fn got(&mut self, id: u32, channel: u16, queue: &'static str, d: &Delivery, no_ack: bool) -> Result<(), Broken> {
        let uid = self.arrived(queue, d, 0, true)?;
        if no_ack {
            self.gone(queue, uid);
            return Ok(());
        }
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        let stand_in = client.consumers.entry(d.consumer).or_insert_with(|| Consumer {
            channel,
            queue,
            id: d.queue,
            no_ack: false,
            prefetch: 0,
            window: 0,
            held: Default::default(),
            ended: true,
            gets: true,
        });
        stand_in.held.insert(d.first, uid);
        client.hand.insert((d.consumer, d.first));
        self.hold(d, 0)
    }

    fn hold(&mut self, d: &Delivery, i: u32) -> Result<(), Broken> {
        let key = (d.queue, d.first.plus(u64::from(i)));
        match self.held.insert(key, d.consumer) {
            Some(other) => Err(format!("{key:?} was delivered to {:?} while {other:?} holds it", d.consumer)),
            None => Ok(()),
        }
    }

    fn deliver(
        &mut self,
        id: u32,
        d: &Delivery,
        last: &mut std::collections::BTreeMap<waypost_model::QueueId, Seq>,
    ) -> Result<(), Broken> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        let held_of_channel = client.held_of_channel(d.channel.0);
        let limit = client.channels.get(&d.channel.0).map_or(0, |c| c.prefetch);
        let Some(c) = client.consumers.get_mut(&d.consumer) else {
            return Err(format!("a delivery to {:?}, which is not known", d.consumer));
        };
        if c.ended || c.channel != d.channel.0 || c.id != d.queue {
            return Err(format!("a delivery to a consumer that has ended or is another's: {c:?}"));
        }
        let count = d.count as usize;
        if c.prefetch > 0 && c.held.len() + count > c.prefetch as usize {
            return Err(format!("prefetch {} passed: {} held, {count} more", c.prefetch, c.held.len()));
        }
        if limit > 0 && !c.no_ack && held_of_channel + count > limit as usize {
            return Err(format!("channel prefetch {limit} passed: {held_of_channel} held, {count} more"));
        }
        if c.window <= 0 || (count > 1 && d.cost as i64 > c.window + 4200) {
            return Err(format!("window of {} passed by a delivery of {} ({count} messages)", c.window, d.cost));
        }
        c.window -= d.cost as i64;
        let queue = c.queue;
        client.owed.push_back(Owed {
            consumer: d.consumer,
            queue: d.queue,
            first: d.first,
            count: d.count,
            cost: d.cost,
        });
        self.single_active(queue, d.consumer)?;
        for i in 0..d.count {
            let seq = d.first.plus(u64::from(i));
            let fresh = !self.delivered.contains(&(d.queue, seq));
            if fresh && !d.redelivered && self.plans.get(queue).is_some_and(|p| p.ordered) {
                if last.get(&d.queue).is_some_and(|l| *l >= seq) {
                    return Err(format!("{queue} {seq:?} came after {:?}", last.get(&d.queue)));
                }
                last.insert(d.queue, seq);
                let reached = self.reached.entry(d.queue).or_default();
                *reached = (*reached).max(seq);
            }
            let uid = self.arrived(queue, d, i, false)?;
            if let Some(c) = self.clients.get_mut(&id).and_then(|c| c.consumers.get_mut(&d.consumer)) {
                c.held.insert(seq, uid);
            }
            self.hold(d, i)?;
        }
        Ok(())
    }

    /// With single active consumer, the first to come gets everything.
    fn single_active(&self, queue: &str, consumer: ConsumerId) -> Result<(), Broken> {
        if !self.plans.get(queue).is_some_and(|p| p.single) {
            return Ok(());
        }
        let all = self.clients.values().flat_map(|c| &c.consumers);
        let first = all.filter(|(_, c)| c.queue == queue && !c.ended && !c.gets).map(|(id, _)| *id).min();
        match first {
            Some(active) if active != consumer => {
                Err(format!("{consumer:?} got a message while {active:?} is the active one"))
            }
            _ => Ok(()),
        }
    }

    /// A message has come out of a queue: returns its uid.
    fn arrived(&mut self, queue: &'static str, d: &Delivery, i: u32, get: bool) -> Result<u64, Broken> {
        let seq = d.first.plus(u64::from(i));
        let key = (d.queue, seq);
        let read = self.read(d.queue, d.first, d.count, &d.body)?;
        let Some((uid, props)) = read.get(i as usize).cloned() else { return Err("a body is short".into()) };
        let before = self.recovered.get(&d.queue).is_some_and(|below| seq < *below);
        let again = !self.delivered.insert(key);
        // A clean stop remembers what came back from a consumer, not what was on its way to one.
        let perhaps = !again && !before && self.delivered_once.contains(&key);
        let once = !matches!(queue, "dl" | "w" | "r");
        let surely = once && perhaps && self.counted.contains(&(d.queue, uid)) && self.tap.was_stored(d.queue, seq);
        if d.redelivered != (again || before) && !perhaps || surely && !d.redelivered {
            return Err(format!(
                "{queue} {seq:?} (uid {uid}): redelivered is {}, delivered before {again}, before a clean stop {perhaps}, recovered {before}",
                d.redelivered
            ));
        }
        let deaths = deaths(&props)?;
        if queue == "dl" {
            for (q, reason, count) in &deaths {
                let most = self.ledger.buried.entry((uid, q.clone(), reason.clone())).or_default();
                *most = (*most).max(*count);
            }
        }
        if queue == "w" && !deaths.is_empty() && !self.ledger.unsure.contains(&uid) {
            let count = deaths.iter().find(|(q, r, _)| q == "w" && r == "rejected").map_or(0, |d| d.2);
            let made = self.ledger.rejections.get(&uid).copied().unwrap_or(0);
            if count != made {
                return Err(format!("uid {uid} was rejected {made} times, its header says {count}"));
            }
        }
        let second = matches!(queue, "dl" | "w" | "r") && !deaths.is_empty();
        if second {
            let copy = Copy {
                fate: Fate::May,
                persistent: false,
                confirmed: false,
                deadline: None,
                due: None,
                repeats: true,
                rejected: false,
                returns: 0,
            };
            self.ledger.copies.entry((queue, uid)).or_insert(copy);
        }
        let Some(copy) = self.ledger.copies.get(&(queue, uid)) else {
            return Err(format!("uid {uid} in {queue}, where it never went"));
        };
        if copy.fate == Fate::Gone && !copy.repeats && !second {
            return Err(format!("uid {uid} came back to {queue} {seq:?}: {copy:?}"));
        }
        if copy.due.is_some_and(|due| self.now.0 < due) {
            return Err(format!("uid {uid} in {queue} came too early: {copy:?}, now {}", self.now));
        }
        // What dies in the moment of its coming may still be delivered then.
        let fleeting = copy.deadline == Some(self.now.0);
        if copy.deadline.is_some_and(|dead| dead <= self.now.0) && !fleeting && !second {
            return Err(format!("uid {uid} in {queue} was delivered after its death: {copy:?}, now {}", self.now));
        }
        if let Some(ticket) = self.tap.ticket(d.queue, seq).filter(|_| !get)
            && ticket > self.durable()
            && !fleeting
        {
            return Err(format!(
                "uid {uid} in {queue} was delivered before {ticket:?} was durable ({:?})",
                self.durable()
            ));
        }
        if let Some(seen) = &mut self.draining {
            seen.insert((queue, uid));
        }
        Ok(uid)
    }

    /// A consumer is done with a message.
    pub(crate) fn gone(&mut self, queue: &'static str, uid: u64) {
        if let Some(copy) = self.ledger.copies.get_mut(&(queue, uid)) {
            copy.fate = Fate::Gone;
        }
    }

    /// Messages went back to their queue without a verdict.
    pub(crate) fn returned(&mut self, queue: &'static str, uids: &[u64]) {
        let plan = self.plans.get(queue);
        let limit = plan.filter(|p| !p.dead_letters).and_then(|p| p.delivery_limit);
        let id = self.ids.get(queue).copied();
        for uid in uids {
            self.counted.extend(id.map(|id| (id, *uid)));
            if let Some(copy) = self.ledger.copies.get_mut(&(queue, *uid)) {
                copy.returns += 1;
                if copy.fate == Fate::Must && limit.is_some_and(|l| copy.returns >= l) {
                    copy.fate = Fate::May;
                }
            }
        }
    }
}

/// Queue, reason and count of each entry of `x-death`.
fn deaths(props: &[u8]) -> Result<Vec<(String, String, i64)>, Broken> {
    let headers = waypost_model::props::Props(props).headers().map_err(|e| format!("unreadable headers: {e}"))?;
    let entries = headers.as_ref().and_then(|h| h.get("x-death")).and_then(Value::as_array).unwrap_or_default();
    let text = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or_default().to_owned();
    let entry = |v: &Value| {
        let t = v.as_table().ok_or("an entry of x-death is no table")?;
        let count = t.get("count").and_then(Value::as_i64).ok_or("an entry of x-death has no count")?;
        Ok((text(t.get("queue")), text(t.get("reason")), count))
    };
    entries.iter().map(entry).collect()
}
