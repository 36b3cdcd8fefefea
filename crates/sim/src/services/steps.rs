//! The steps that a world of services may take.

use std::sync::Arc;

use waypost_model::command::{Consume, Outcome, Publish, Settle};
use waypost_model::props::PropsOwned;
use waypost_model::service::Instance;
use waypost_model::table::{Table, Value};
use waypost_model::{AttrFlags, Attrs, BatchBuilder, Call, ChannelId, Command, Millis, Route};
use waypost_registry::services::{Registration, Source};

use super::peer::{Fate, INSTANCES, Message, Mode, SELECTORS, SERVICES};
use super::world::Services;
use crate::world::Broken;

const PEERS_MAX: usize = 9;

/// How often an instance that was registered must renew, ms.
const LEASE_MS: u64 = 5_000;

fn text(s: &str) -> Value {
    Value::LongStr(s.as_bytes().to_vec())
}

impl Services {
    /// Takes one step.
    ///
    /// # Errors
    /// A broken rule.
    pub fn step(&mut self) -> Result<(), Broken> {
        let what = match self.rng.below(1000) {
            0..280 => "publish",
            280..380 => "serve",
            380..560 => "settle",
            560..700 => "sent",
            700..800 => "commit",
            800..850 => "time",
            850..880 => "goodbye",
            880..900 => "silence",
            900..930 => "drain",
            930..950 => "register",
            950..980 => "rest",
            980..988 => "crash",
            988..994 => "kill",
            _ => "maintain",
        };
        *self.tally.steps.entry(what).or_default() += 1;
        self.trace.add(what.into());
        self.unfit = self.unfit_now();
        match what {
            "publish" => self.publish(),
            "serve" if self.peers.len() < PEERS_MAX => self.serve(),
            "settle" => self.settle(),
            "sent" => self.sent(2),
            "commit" => self.commit_all(),
            "time" => self.pass(1_500),
            "goodbye" | "silence" => {
                let all: Vec<u32> = self.peers.keys().copied().collect();
                let id = all.get(self.rng.below(all.len())).copied();
                id.map_or(Ok(()), |id| self.part(id, what))
            }
            "drain" => self.drain(),
            "register" => self.register(),
            "rest" => self.rest(),
            "crash" | "kill" => self.restart(what),
            "maintain" => {
                self.engine.maintain_once();
                Ok(())
            }
            _ => Ok(()),
        }?;
        self.believe();
        self.forget_the_gone();
        let failed: Vec<u32> = self.peers.iter().filter(|(_, p)| p.failed).map(|(id, _)| *id).collect();
        failed.into_iter().try_for_each(|id| self.part(id, "goodbye"))
    }

    fn some_service(&mut self) -> usize {
        self.rng.below(SERVICES.len())
    }

    fn publish(&mut self) -> Result<(), Broken> {
        let sender = self.peers.iter().find(|(_, p)| p.instance.is_none()).map(|(id, _)| *id);
        let id = sender.map_or_else(|| self.connect(), Ok)?;
        let (service, selector) = (self.some_service(), self.rng.below(SELECTORS.len()));
        let mode = match self.rng.below(6) {
            0 => Mode::All,
            1 | 2 => Mode::Key(self.rng.below(4) as u8),
            _ => Mode::One,
        };
        let headers = match mode {
            Mode::One => None,
            Mode::Key(key) => Some(Table::new().with("x-deliver", text("key")).with("x-key", text(&format!("k{key}")))),
            Mode::All => Some(Table::new().with("x-deliver", text("all"))),
        };
        let mut flags = AttrFlags::PERSISTENT;
        if headers.is_some() {
            flags = flags.with(AttrFlags::HEADERS);
        }
        let props = PropsOwned { delivery_mode: Some(2), headers, ..PropsOwned::default() }.to_bytes();
        let (mut batch, first) = (BatchBuilder::default(), self.next_uid + 1);
        let count = 1 + self.rng.below(3) as u32;
        let copies = if mode == Mode::All { self.recipients(service, selector) } else { Default::default() };
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        for _ in 0..count {
            self.next_uid += 1;
            batch.push(&props, &[&self.next_uid.to_le_bytes()[..], &[7; 40]].concat());
            let fate = Fate::Must;
            let message = Message { service, selector, mode, confirmed: false, fate, copies: copies.clone() };
            self.messages.insert(self.next_uid, message);
            peer.published += 1;
            peer.open.insert(peer.published, self.next_uid);
        }
        let key = match SELECTORS[selector].0 {
            "" => SERVICES[service].to_owned(),
            query => format!("{}?{query}", SERVICES[service]),
        };
        self.trace.add(format!("  {first}.. ({count}) to {key} {mode:?} {copies:?}"));
        let publish = Publish {
            channel: ChannelId(1),
            route: Arc::new(Route::new("amq.services", key)),
            batch: Some(Arc::new(batch.finish())),
            from: 0,
            to: count,
            attrs: Attrs { flags, ..Attrs::default() },
            mandatory: false,
            confirm: Some(peer.published),
        };
        self.execute(id, vec![Command::Publish(publish)])
    }

    /// A connection becomes an instance, with what it says of itself or under an id that is registered.
    fn serve(&mut self) -> Result<(), Broken> {
        let (service, instance) = (self.some_service(), self.rng.below(INSTANCES.len()));
        let prefetch = [1, 2, 5, 0][self.rng.below(4)];
        self.serve_as(service, instance, prefetch).map(drop)
    }

    pub(super) fn serve_as(&mut self, service: usize, instance: usize, prefetch: u16) -> Result<Option<u32>, Broken> {
        if self.peers.values().any(|p| p.instance == Some((service, instance))) {
            return Ok(None);
        }
        let id = self.connect()?;
        let (name, version, zone) = INSTANCES[instance];
        let says = Table::new().with("id", text(name));
        let known = self.registry.services("/").instance(SERVICES[service], name);
        let registered = known.is_some_and(|listed| listed.source != Source::Connection);
        let says = if registered { says } else { says.with("version", text(version)).with("zone", text(zone)) };
        self.trace.add(format!("  {id} serves {} as {name}, {prefetch}", SERVICES[service]));
        if let Some(peer) = self.peers.get_mut(&id) {
            (peer.instance, peer.prefetch) = (Some((service, instance)), usize::from(prefetch));
        }
        self.call(id, Call::Qos { prefetch_count: prefetch, global: false })?;
        let consume = Consume {
            queue: format!("{}-queue", SERVICES[service]).into(),
            tag: "c".into(),
            no_ack: false,
            exclusive: false,
            arguments: Table::new().with("x-service", Value::Table(says)),
            window_bytes: 1 << 20,
        };
        self.call(id, Call::Consume(consume))?;
        Ok(Some(id))
    }

    /// A verdict on something that somebody holds.
    fn settle(&mut self) -> Result<(), Broken> {
        let all: Vec<(u32, (waypost_model::QueueId, waypost_model::Seq))> =
            self.peers.iter().flat_map(|(id, p)| p.held.keys().map(|at| (*id, *at))).collect();
        if all.is_empty() {
            return Ok(());
        }
        let (id, at) = all[self.rng.below(all.len())];
        let outcome = match self.rng.below(12) {
            0 => Outcome::Released,
            1 => Outcome::Rejected,
            _ => Outcome::Accepted,
        };
        self.settle_one(id, at, outcome)
    }

    pub(super) fn settle_one(
        &mut self,
        id: u32,
        at: (waypost_model::QueueId, waypost_model::Seq),
        outcome: Outcome,
    ) -> Result<(), Broken> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let (Some(uid), Some(consumer)) = (peer.held.remove(&at), peer.consumer) else { return Ok(()) };
        let instance = peer.instance;
        self.held.remove(&at);
        self.trace.add(format!("  {id}: {outcome:?} {uid}"));
        match (instance, self.messages.get_mut(&uid)) {
            (Some((_, instance)), Some(message)) => {
                let fate = message.fate_mut(instance);
                *fate = match outcome {
                    Outcome::Accepted => Fate::Settled,
                    Outcome::Rejected => Fate::Rejected,
                    Outcome::Released => *fate,
                };
            }
            (None, _) => drop(self.buried.insert(uid)),
            (Some(_), None) => {}
        }
        let (queue, first) = at;
        self.execute(
            id,
            vec![Command::Settle(Settle { channel: ChannelId(1), queue, consumer, first, count: 1, outcome })],
        )
    }

    /// Bytes leave for sockets.
    pub(super) fn sent(&mut self, most: usize) -> Result<(), Broken> {
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let n = most.min(peer.owed.len());
            let commands = peer.owed.drain(..n).map(Command::Sent).collect();
            self.execute(id, commands)?;
        }
        Ok(())
    }

    /// Time passes, by less than `ms`; what is due is done.
    pub(super) fn pass(&mut self, ms: usize) -> Result<(), Broken> {
        self.now = self.now.plus(self.rng.below(ms) as u64);
        self.registry.tick(self.now);
        self.broker.tick(self.now);
        self.collect()?;
        self.forget_the_gone();
        Ok(())
    }

    /// A connection ends, in order or without a word.
    pub(super) fn part(&mut self, id: u32, how: &str) -> Result<(), Broken> {
        let Some(mut peer) = self.peers.remove(&id) else { return Ok(()) };
        self.trace.add(format!("  {id} is gone: {how}"));
        self.held.retain(|_, holder| *holder != id);
        if let Some((service, instance)) = peer.instance {
            self.let_go(service, instance);
        }
        if how == "goodbye" {
            peer.conn.say_goodbye();
        }
        self.broker.disconnect(peer.conn, self.now);
        self.collect()
    }

    fn drain(&mut self) -> Result<(), Broken> {
        let (service, instance) = (self.some_service(), self.rng.below(INSTANCES.len()));
        let (services, name) = (self.registry.services("/"), INSTANCES[instance].0);
        let begins = self.rng.once_in(2);
        self.trace.add(format!("  {} {name}: {begins}", SERVICES[service]));
        let done = if begins {
            services.drain(SERVICES[service], name, self.now.plus(60_000), self.now)
        } else {
            services.undrain(SERVICES[service], name, self.now)
        };
        done.map_err(|e| format!("a drain is refused: {e}"))?;
        self.collect()
    }

    /// Registers an instance with a lease, renews it, or deregisters it.
    fn register(&mut self) -> Result<(), Broken> {
        let (service, instance) = (self.some_service(), self.rng.below(INSTANCES.len()));
        let (name, version, zone) = INSTANCES[instance];
        if self.peers.values().any(|p| p.instance == Some((service, instance))) {
            return Ok(());
        }
        let services = self.registry.services("/");
        let known = services.instance(SERVICES[service], name).is_some();
        let done = if known && self.rng.once_in(3) {
            self.let_go(service, instance);
            services.deregister(SERVICES[service], name, self.now).map(drop)
        } else {
            let said = Instance {
                version: version.parse().ok().map(Arc::new),
                zone: zone.into(),
                address: Some("10.0.0.2".into()),
                ..Instance::new(name)
            };
            let registration =
                Registration { lease_ms: Some(LEASE_MS), ..Registration::new(said, "guest", Source::Api) };
            services.register(SERVICES[service], registration, self.now).map(drop)
        };
        done.map_err(|e| format!("a registration is refused: {e}"))?;
        self.collect()
    }

    /// Everything comes to rest but for what is held: then nothing may wait that somebody could have.
    fn rest(&mut self) -> Result<(), Broken> {
        for _ in 0..20 {
            self.commit_all()?;
            self.sent(usize::MAX)?;
            let before = self.held.len();
            self.now = Millis(self.now.0 + 5);
            self.broker.tick(self.now);
            self.collect()?;
            if before == self.held.len() && self.peers.values().all(|p| p.owed.is_empty()) {
                break;
            }
        }
        self.nobody_could_have_it()
    }
}
