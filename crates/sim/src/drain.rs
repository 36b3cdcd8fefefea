//! The end of a run: no more faults, everything flows off, and the accounts are made up.

use std::collections::BTreeSet;

use waypost_model::command::{Consume, Outcome, Sent, Settle};
use waypost_model::table::Table;
use waypost_model::{Call, ChannelId, Command};
use waypost_storage::fault::Faults;

use crate::Report;
use crate::client::Asked;
use crate::ledger::Fate;
use crate::world::{Broken, World};

/// Rounds after which a world that has not drained is stuck.
const ROUNDS_MAX: usize = 3000;

impl World {
    /// Faults stop, everybody goes, one consumer per queue comes and takes all there is.
    ///
    /// # Errors
    /// A broken rule.
    pub fn drain(&mut self) -> Result<(), Broken> {
        self.trace.add("drain".into());
        self.faults(Faults::default());
        self.full = false;
        self.ending = true;
        if let Some(far) = &self.far {
            far.calm();
        }
        // What was lost before may still come out.
        self.commit_all()?;
        if self.engine.is_stopped() {
            self.restart("stopped")?;
        }
        self.flow()?;
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            self.disconnect(id)?;
        }
        self.engine.maintain_once();
        self.commit_all()?;
        self.setup()?;
        self.draining = Some(BTreeSet::new());
        let id = self.connect()?;
        let queues: Vec<_> = self.ids.iter().map(|(n, i)| (*n, *i)).filter(|(n, _)| *n != "r").collect();
        for (queue, queue_id) in queues {
            let consume = Consume {
                queue: queue.into(),
                tag: queue.into(),
                no_ack: false,
                exclusive: false,
                arguments: Table::new(),
                window_bytes: 1 << 30,
            };
            let asked = Asked::Consume { queue, id: queue_id, no_ack: false, prefetch: 0, window: 1 << 30 };
            self.call(id, 1, Call::Consume(consume), asked)?;
        }
        let mut quiet = 0;
        for _ in 0..ROUNDS_MAX {
            self.engine.maintain_once();
            self.commit_all()?;
            let some = self.take_all(id)?;
            self.now = self.now.plus(25);
            self.tick()?;
            quiet = if some { 0 } else { quiet + 1 };
            if quiet > 12 {
                self.disconnect(id)?;
                self.commit_all()?;
                return self.audit();
            }
        }
        Err("it does not drain".into())
    }

    /// Clients go on without faults, send and settle all they have: whoever consumes leaves nothing behind.
    fn flow(&mut self) -> Result<(), Broken> {
        let mut quiet = 0;
        for _ in 0..ROUNDS_MAX {
            self.engine.maintain_once();
            self.commit_all()?;
            let mut some = false;
            for id in self.clients.keys().copied().collect::<Vec<_>>() {
                some |= self.take_all(id)?;
            }
            self.now = self.now.plus(25);
            self.tick()?;
            quiet = if some { 0 } else { quiet + 1 };
            if quiet > 12 {
                return self.starved();
            }
        }
        Err("clients that settle everything never come to rest".into())
    }

    fn starved(&self) -> Result<(), Broken> {
        for r in self.broker.queues(None).map_err(|e| e.to_string())? {
            let able = |c: &waypost_broker::shard::ConsumerInfo| {
                self.clients.values().any(|k| {
                    k.consumers.get(&c.id).is_some_and(|s| {
                        !s.ended && s.window > 0 && k.channels.get(&s.channel).is_some_and(|ch| !ch.failed)
                    })
                })
            };
            if r.state.counts.ready > 0 && r.state.consumers.iter().any(|c| c.active && able(c)) {
                return Err(format!("{} starves: {:?}", r.view.settings.name, r.state));
            }
        }
        Ok(())
    }

    /// Sends and accepts everything that a client's consumers hold.
    fn take_all(&mut self, id: u32) -> Result<bool, Broken> {
        let mut commands = Vec::new();
        let Some(client) = self.clients.get_mut(&id) else { return Ok(false) };
        let mut gone = Vec::new();
        client.hand.clear();
        client.inbox.clear();
        let failed: BTreeSet<u16> = client.channels.iter().filter(|(_, c)| c.failed).map(|(n, _)| *n).collect();
        for (consumer, c) in client.consumers.iter_mut().filter(|(_, c)| c.no_ack || !failed.contains(&c.channel)) {
            for (seq, uid) in std::mem::take(&mut c.held) {
                gone.push((c.queue, uid));
                self.held.remove(&(c.id, seq));
                if c.no_ack {
                    continue;
                }
                commands.push(Command::Settle(Settle {
                    channel: ChannelId(c.channel),
                    queue: c.id,
                    consumer: *consumer,
                    first: seq,
                    count: 1,
                    outcome: Outcome::Accepted,
                }));
            }
        }
        for o in client.owed.drain(..) {
            if let Some(c) = client.consumers.get_mut(&o.consumer) {
                c.window += o.cost as i64;
            }
            commands.push(Command::Sent(Sent {
                consumer: o.consumer,
                queue: o.queue,
                messages: o.count,
                bytes: o.cost,
            }));
        }
        let some = !commands.is_empty();
        gone.into_iter().for_each(|(queue, uid)| self.gone(queue, uid));
        self.execute(id, commands)?;
        Ok(some)
    }

    fn audit(&mut self) -> Result<(), Broken> {
        let seen = self.draining.take().unwrap_or_default();
        for (&(queue, uid), copy) in &self.ledger.copies {
            let plan = &self.plans[queue];
            let buried = self.ledger.buried.keys().any(|(u, q, _)| *u == uid && q == queue);
            let arrived = seen.contains(&(queue, uid)) || matches!(queue, "w" | "r") && seen.contains(&("w", uid));
            let died = copy.deadline.is_some_and(|d| d <= self.now.0) && !plan.dead_letters;
            let accounted_for = arrived || died || plan.dead_letters && buried;
            if copy.fate == Fate::Must && !accounted_for {
                return Err(format!("never came: uid {uid} of {queue}: {copy:?}"));
            }
            if copy.rejected && !buried {
                return Err(format!("no dead letter: uid {uid} of {queue}: {copy:?}"));
            }
        }
        for r in self.broker.queues(None).map_err(|e| e.to_string())? {
            let c = r.state.counts;
            if c.ready + c.unsettled + c.unsent + c.leaving + u64::from(c.consumers) + c.ready_bytes + c.ready_payload
                > 0
                || r.state.memory > 0
            {
                return Err(format!("{} is not empty: {c:?}, {} bytes", r.view.settings.name, r.state.memory));
            }
        }
        if self.broker.memory().used() != 0 {
            return Err(format!("{} bytes are still counted", self.broker.memory().used()));
        }
        self.tap.expected().is_empty()
    }

    /// What the run came to.
    #[must_use]
    pub fn report(&self) -> Report {
        Report::of(&self.trace, &self.tally)
    }

    /// The last steps in words.
    #[must_use]
    pub fn last_steps(&self) -> String {
        self.trace.last()
    }
}
