//! The steps that a world may take.

use waypost_model::command::{Consume, Outcome, Sent, Settle};
use waypost_model::journal::Journal;
use waypost_model::table::{Table, Value};
use waypost_model::{Call, ChannelId, Command, ConsumerId, Event, Seq};
use waypost_storage::fault::Faults;

use crate::client::Asked;
use crate::ledger::{Copy, Fate};
use crate::world::{Broken, World};

const CLIENTS_MAX: usize = 5;

impl World {
    /// Takes one step.
    ///
    /// # Errors
    /// A broken rule.
    pub fn step(&mut self) -> Result<(), Broken> {
        let id = self.some_client();
        let Some(id) = id else { return self.connect().map(drop) };
        self.note_use();
        let choice = self.rng.below(1000);
        let what = match choice {
            0..250 => "publish",
            250..300 => "consume",
            300..450 => "settle",
            450..600 => "sent",
            600..720 => "commit",
            720..780 => "time",
            780..800 => "get",
            800..830 => "maintain",
            830..850 => "cancel",
            850..870 => "connect",
            870..885 => "disconnect",
            885..905 => "channel",
            905..920 => "qos",
            920..940 => "transaction",
            940..950 => "purge",
            950..964 => "delete",
            964..972 => "full",
            972..976 => "fault",
            976..980 => "crash",
            980..983 => "kill",
            983..985 => "clean",
            985..990 => "exclusive",
            990..993 => "policy",
            _ => "many",
        };
        *self.tally.steps.entry(what).or_default() += 1;
        self.trace.add(format!("{what} {id}"));
        match what {
            "publish" => self.publish(id, 1 + (self.now.0 % 3) as u32),
            "many" => self.publish(id, 40),
            "consume" => self.consume(id),
            "settle" => self.settle(id),
            "sent" => self.sent(id),
            "commit" => self.commit().map(drop),
            "time" => self.pass(30),
            "get" => self.get(id),
            "maintain" => {
                let done = self.engine.maintain_once();
                self.trace.add(format!("  {done:?}"));
                self.restart_if_stopped()
            }
            "cancel" => self.cancel(id),
            "connect" if self.clients.len() < CLIENTS_MAX => self.connect().map(drop),
            "disconnect" => self.disconnect(id),
            "channel" => self.channel(id),
            "qos" => self.qos(id),
            "transaction" => self.transaction(id),
            "purge" => self.purge(id),
            "delete" => self.delete(id),
            "exclusive" => self.exclusive(id),
            "policy" => self.policy(),
            "full" => self.fill_disk(),
            "fault" => self.fault(),
            "crash" | "kill" | "clean" => self.restart(what),
            _ => Ok(()),
        }?;
        self.note_use();
        self.check_owners()?;
        self.check_limit()?;
        self.handle(id);
        Ok(())
    }

    fn restart_if_stopped(&mut self) -> Result<(), Broken> {
        if self.engine.is_stopped() { self.restart("stopped") } else { Ok(()) }
    }

    fn some_client(&mut self) -> Option<u32> {
        let ids: Vec<u32> = self.clients.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[self.rng.below(ids.len())])
    }

    pub(crate) fn some_channel(&mut self, id: u32) -> Option<u16> {
        let channels: Vec<u16> =
            self.clients.get(&id)?.channels.iter().filter(|(_, c)| !c.failed).map(|(n, _)| *n).collect();
        (!channels.is_empty()).then(|| channels[self.rng.below(channels.len())])
    }

    fn some_queue(&mut self) -> &'static str {
        let names: Vec<&'static str> = self.plans.keys().copied().collect();
        names[self.rng.below(names.len())]
    }

    /// The client looks at some of what came.
    fn handle(&mut self, id: u32) {
        let n = self.rng.below(8);
        let durable = self.durable();
        let Some(c) = self.clients.get_mut(&id) else { return };
        for _ in 0..n {
            match c.inbox.pop_front() {
                Some(Event::Reply { after: Some(lsn), channel, token, reply }) if lsn > durable => {
                    c.inbox.push_front(Event::Reply { after: Some(lsn), channel, token, reply });
                    break;
                }
                Some(Event::Deliver(d)) => {
                    let no_ack = c.consumers.get(&d.consumer).is_none_or(|k| k.no_ack);
                    if !no_ack {
                        c.hand.extend((0..d.count).map(|i| (d.consumer, d.first.plus(u64::from(i)))));
                    }
                }
                Some(_) => {}
                None => break,
            }
        }
        self.believe();
    }

    fn consume(&mut self, id: u32) -> Result<(), Broken> {
        let (Some(channel), queue) = (self.some_channel(id), self.some_queue()) else { return Ok(()) };
        let Some(queue_id) = self.ids.get(queue).copied().filter(|_| queue != "r") else { return Ok(()) };
        let no_ack = self.rng.once_in(3);
        let prefetch = [0u16, 1, 3, 10][self.rng.below(4)];
        let window = [1u64, 200, 5000, 1 << 20][self.rng.below(4)];
        self.call(id, channel, Call::Qos { prefetch_count: prefetch, global: false }, Asked::Nothing)?;
        let mut arguments = Table::new();
        if self.rng.once_in(4) {
            arguments.set("x-priority", Value::I32(self.rng.below(3) as i32));
        }
        if self.plans[queue].single {
            arguments = Table::new();
        }
        let consume = Consume {
            queue: queue.into(),
            tag: format!("c{}", self.next_uid).into(),
            no_ack,
            exclusive: false,
            arguments,
            window_bytes: window,
        };
        let asked =
            Asked::Consume { queue, id: queue_id, no_ack, prefetch: u32::from(prefetch), window: window as i64 };
        self.call(id, channel, Call::Consume(consume), asked)
    }

    /// Verdicts on something in hand: one, or a range.
    fn settle(&mut self, id: u32) -> Result<(), Broken> {
        let Some(settle) = self.some_settle(id) else { return Ok(()) };
        self.apply_settle(id, &settle);
        self.execute(id, vec![Command::Settle(settle)])?;
        self.check_settled(&settle)
    }

    fn some_settle(&mut self, id: u32) -> Option<Settle> {
        let client = self.clients.get(&id)?;
        let hand: Vec<(ConsumerId, Seq)> = client.hand.iter().copied().collect();
        if hand.is_empty() {
            return None;
        }
        let at = self.rng.below(hand.len());
        let (consumer, first) = hand[at];
        let most = hand[at..]
            .iter()
            .enumerate()
            .take_while(|(n, (c, s))| *c == consumer && s.0 == first.0 + *n as u64)
            .count();
        let count = 1 + self.rng.below(most) as u32;
        let outcome = [Outcome::Accepted, Outcome::Accepted, Outcome::Released, Outcome::Rejected][self.rng.below(4)];
        let c = self.clients.get(&id)?.consumers.get(&consumer)?;
        let channel = ChannelId(c.channel);
        Some(Settle { channel, queue: c.id, consumer, first, count, outcome })
    }

    /// What a verdict changes, before the core hears of it.
    fn apply_settle(&mut self, id: u32, s: &Settle) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.channels.get(&s.channel.0).is_none_or(|c| c.failed) {
            return;
        }
        let Some(c) = client.consumers.get_mut(&s.consumer) else { return };
        let queue = c.queue;
        let mut uids = Vec::new();
        for n in 0..u64::from(s.count) {
            let seq = s.first.plus(n);
            uids.extend(c.held.remove(&seq));
            client.hand.remove(&(s.consumer, seq));
            self.held.remove(&(s.queue, seq));
        }
        self.trace.add(format!("  {:?} {queue} {:?}: uids {uids:?}", s.outcome, s.first));
        match s.outcome {
            Outcome::Accepted => uids.iter().for_each(|uid| self.gone(queue, *uid)),
            Outcome::Released => self.returned(queue, &uids),
            Outcome::Rejected => self.rejected(queue, &uids),
        }
    }

    fn rejected(&mut self, queue: &'static str, uids: &[u64]) {
        let dead_letters = self.plans[queue].dead_letters;
        for uid in uids {
            if queue == "w" {
                // It goes round by way of the retry queue.
                *self.ledger.rejections.entry(*uid).or_default() += 1;
                continue;
            }
            if let Some(copy) = self.ledger.copies.get_mut(&(queue, *uid)) {
                copy.rejected = dead_letters && copy.fate == Fate::Must;
                copy.fate = Fate::Gone;
            }
        }
    }

    /// What was settled must be out of the journal in the same turn.
    fn check_settled(&self, s: &Settle) -> Result<(), Broken> {
        if s.outcome == Outcome::Released || self.full || self.engine.is_full() || self.engine.is_stopped() {
            return Ok(());
        }
        // A disk that had no room at all may not have noticed yet that it has: settlements are kept and handed in again.
        if self.engine.room_for_definitions().is_err() {
            return Ok(());
        }
        if self.held.contains_key(&(s.queue, s.first)) {
            // The channel had failed: nothing was settled.
            return Ok(());
        }
        if self.tap.is_live(s.queue, s.first) {
            return Err(format!("{s:?} did not reach the journal"));
        }
        Ok(())
    }

    /// Bytes leave for the socket.
    fn sent(&mut self, id: u32) -> Result<(), Broken> {
        let n = 1 + self.rng.below(4);
        for _ in 0..n {
            let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
            let Some(o) = client.owed.pop_front() else { return Ok(()) };
            let mut done = Vec::new();
            let mut queue = "";
            if let Some(c) = client.consumers.get_mut(&o.consumer) {
                c.window += o.cost as i64;
                queue = c.queue;
                if c.no_ack {
                    for i in 0..u64::from(o.count) {
                        let seq = o.first.plus(i);
                        done.extend(c.held.remove(&seq));
                        self.held.remove(&(o.queue, seq));
                    }
                }
            }
            done.into_iter().for_each(|uid| self.gone(queue, uid));
            let sent = Sent { consumer: o.consumer, queue: o.queue, messages: o.count, bytes: o.cost };
            self.execute(id, vec![Command::Sent(sent)])?;
        }
        Ok(())
    }

    /// Time passes, by less than `ms`.
    pub(crate) fn pass(&mut self, ms: usize) -> Result<(), Broken> {
        self.now = self.now.plus(self.rng.below(ms) as u64);
        self.tick()
    }

    pub(crate) fn tick(&mut self) -> Result<(), Broken> {
        let next = self.broker.tick(self.now);
        self.trace.add(format!("  now {}, next {next:?}", self.now));
        self.collect()?;
        self.check_expiry()
    }

    fn get(&mut self, id: u32) -> Result<(), Broken> {
        let (Some(channel), queue) = (self.some_channel(id), self.some_queue()) else { return Ok(()) };
        if queue == "r" || !self.ids.contains_key(queue) {
            return Ok(());
        }
        let no_ack = self.rng.once_in(2);
        if queue == "e" {
            self.used = self.now;
        }
        self.call(id, channel, Call::Get { queue: queue.into(), no_ack }, Asked::Get { queue })
    }

    fn cancel(&mut self, id: u32) -> Result<(), Broken> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        let live = client.consumers.iter_mut().find(|(_, c)| !c.ended);
        let Some((consumer, c)) = live else { return Ok(()) };
        let (consumer, channel) = (*consumer, c.channel);
        if client.channels.get(&channel).is_none_or(|c| c.failed) {
            return Ok(());
        }
        c.ended = true;
        self.call(id, channel, Call::Cancel { consumer }, Asked::Nothing)
    }

    /// Closes a channel, or opens one.
    pub(crate) fn channel(&mut self, id: u32) -> Result<(), Broken> {
        let channel = 1 + self.rng.below(3) as u16;
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        if client.channels.remove(&channel).is_none() {
            return self.open_channel(id, channel);
        }
        let ended: Vec<ConsumerId> =
            client.consumers.iter().filter(|(_, c)| c.channel == channel).map(|(id, _)| *id).collect();
        client.hand.retain(|(c, _)| !ended.contains(c));
        for consumer in ended {
            let Some(c) = self.clients.get_mut(&id).and_then(|c| c.consumers.remove(&consumer)) else { continue };
            self.held.retain(|_, holder| *holder != consumer);
            if !c.no_ack {
                let uids: Vec<u64> = c.held.values().copied().collect();
                self.returned(c.queue, &uids);
            }
        }
        self.call(id, channel, Call::CloseChannel, Asked::Nothing)
    }

    fn qos(&mut self, id: u32) -> Result<(), Broken> {
        let Some(channel) = self.some_channel(id) else { return Ok(()) };
        let count = [0u16, 1, 4][self.rng.below(3)];
        if let Some(ch) = self.clients.get_mut(&id).and_then(|c| c.channels.get_mut(&channel)) {
            ch.prefetch = u32::from(count);
        }
        self.call(id, channel, Call::Qos { prefetch_count: count, global: true }, Asked::Nothing)
    }

    fn transaction(&mut self, id: u32) -> Result<(), Broken> {
        let Some(channel) = self.some_channel(id) else { return Ok(()) };
        let mut commands = Vec::new();
        let mut keys = Vec::new();
        for _ in 0..1 + self.rng.below(3) {
            let (mut publish, copies) = self.make(1);
            publish.channel = ChannelId(channel);
            keys.extend(copies.into_iter().flatten());
            commands.push(Command::Publish(publish));
        }
        if let Some(settle) =
            self.some_settle(id).filter(|s| s.channel.0 == channel && !self.full && !self.engine.is_full())
        {
            self.apply_settle(id, &settle);
            commands.push(Command::Settle(settle));
        }
        self.call(id, channel, Call::Commit(commands), Asked::Nothing)?;
        if self.clients.get(&id).and_then(|c| c.channels.get(&channel)).is_some_and(|c| c.failed) {
            // All or nothing.
            for key in keys {
                self.gone(key.0, key.1);
            }
        }
        Ok(())
    }

    fn purge(&mut self, id: u32) -> Result<(), Broken> {
        let (Some(channel), queue) = (self.some_channel(id), self.some_queue()) else { return Ok(()) };
        if matches!(queue, "dl" | "w" | "r") || !self.ids.contains_key(queue) {
            return Ok(());
        }
        let held: std::collections::BTreeSet<u64> = self
            .clients
            .values()
            .flat_map(|c| c.consumers.values())
            .filter(|c| c.queue == queue)
            .flat_map(|c| c.held.values().copied())
            .collect();
        let (now, dead_letters) = (self.now.0, self.plans[queue].dead_letters);
        for ((q, uid), copy) in &mut self.ledger.copies {
            let ready = *q == queue && !held.contains(uid) && copy.fate != Fate::Gone;
            if ready && (dead_letters || self.full || copy.due.is_some_and(|due| due > now || copy.repeats)) {
                copy.fate = Fate::May;
            } else if ready {
                copy.fate = Fate::Gone;
            }
        }
        self.call(id, channel, Call::QueuePurge { queue: queue.into() }, Asked::Nothing)
    }

    /// Deletes a queue, or declares one that is missing.
    fn delete(&mut self, id: u32) -> Result<(), Broken> {
        let (Some(channel), queue) = (self.some_channel(id), self.some_queue()) else { return Ok(()) };
        if matches!(queue, "dl" | "w" | "r") {
            return Ok(());
        }
        if self.ids.contains_key(queue) {
            self.deleted(queue);
            let delayed: Vec<u64> = self
                .ledger
                .copies
                .iter()
                .filter(|((q, _), c)| *q == queue && c.due.is_some())
                .map(|((_, u), _)| *u)
                .collect();
            self.ledger.forget(queue);
            // What is still delayed goes to the next queue of that name.
            for uid in delayed {
                let copy = Copy {
                    fate: Fate::May,
                    persistent: true,
                    confirmed: false,
                    deadline: None,
                    due: Some(0),
                    repeats: true,
                    rejected: false,
                    returns: 0,
                };
                self.ledger.copies.insert((queue, uid), copy);
            }
            return self.call(
                id,
                channel,
                Call::QueueDelete { queue: queue.into(), if_unused: false, if_empty: false },
                Asked::Nothing,
            );
        }
        for call in self.plans[queue].calls() {
            self.call(id, channel, call, Asked::Nothing)?;
        }
        if queue == "e" {
            self.used = self.now;
        }
        self.learn_ids()?;
        let failed = self.clients.get(&id).and_then(|c| c.channels.get(&channel)).is_some_and(|c| c.failed);
        if failed && self.ids.remove(queue).is_some() {
            // Definitions need room too: without all its bindings the queue goes again, which needs none.
            let other = self.connect()?;
            let delete = Call::QueueDelete { queue: queue.into(), if_unused: false, if_empty: false };
            self.call(other, 1, delete, Asked::Nothing)?;
            self.disconnect(other)?;
        }
        Ok(())
    }

    fn fill_disk(&mut self) -> Result<(), Broken> {
        self.full = !self.full;
        let used: u64 = self.disk.files().iter().map(|(_, n)| n).sum();
        let capacity = self.full.then_some(used + self.rng.below(20_000) as u64);
        self.trace.add(format!("  capacity {capacity:?}, used {used}"));
        let short_writes = self.rng.once_in(2);
        self.faults(Faults { capacity, short_writes, ..Faults::default() });
        Ok(())
    }

    fn fault(&mut self) -> Result<(), Broken> {
        let n = self.rng.below(6) as u64;
        let mut faults = Faults { short_writes: self.rng.once_in(2), ..Faults::default() };
        match self.rng.below(3) {
            0 => faults.fail_write = Some(n),
            1 => faults.fail_sync = Some(n),
            _ => faults.power_off = Some(n),
        }
        self.trace.add(format!("  {faults:?}"));
        self.full = false;
        self.faults(faults);
        Ok(())
    }
}
