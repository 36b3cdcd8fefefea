//! The world: one broker over one disk, its clients, its clock, and the steps that one may take.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use waypost_broker::broker::{Broker, BrokerConfig, PeerInfo};
use waypost_model::journal::{BodyStore, Journal};
use waypost_model::table::Table;
use waypost_model::{Body, Call, ChannelId, Command, ConsumerId, Lsn, Millis, Outbox, QueueId, Seq, Turn};
use waypost_storage::fault::{FaultDisk, Faults};
use waypost_storage::{CommitOutcome, Engine, EngineConfig};

use crate::client::{Asked, Client};
use crate::far::Far;
use crate::ledger::Ledger;
use crate::plan::{self, QueuePlan};
use crate::rng::Rng;
use crate::tap::{Image, Tap};
use crate::trace::Trace;
use crate::uid_of;

/// A rule that was broken, in words.
pub type Broken = String;

/// How often what happened.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub steps: BTreeMap<&'static str, u64>,
}

/// See the module.
pub struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Millis,
    pub(crate) disk: FaultDisk,
    /// Where the log is, in worlds whose disk is not the log.
    pub(crate) far: Option<Far>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) tap: Arc<Tap>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) clients: BTreeMap<u32, Client>,
    pub(crate) plans: BTreeMap<&'static str, QueuePlan>,
    /// Queues that exist.
    pub(crate) ids: BTreeMap<&'static str, QueueId>,
    pub(crate) ledger: Ledger,
    pub(crate) trace: Trace,
    pub(crate) tally: Tally,
    next_client: u32,
    pub(crate) next_uid: u64,
    next_token: u32,
    /// Who holds what.
    pub(crate) held: BTreeMap<(QueueId, Seq), ConsumerId>,
    /// What was delivered since the start.
    pub(crate) delivered: BTreeSet<(QueueId, Seq)>,
    /// What was delivered before the last start, if the stop was clean.
    pub(crate) delivered_once: BTreeSet<(QueueId, Seq)>,
    /// What consumers gave back.
    pub(crate) counted: BTreeSet<(QueueId, u64)>,
    /// The highest place that was delivered for the first time.
    pub(crate) reached: BTreeMap<QueueId, Seq>,
    /// Below these places everything was recovered after an unclean stop, however many clean ones came since.
    pub(crate) recovered: BTreeMap<QueueId, Seq>,
    /// Clients that have an exclusive queue.
    pub(crate) owners: BTreeSet<u32>,
    /// When queue `e` was last used.
    pub(crate) used: Millis,
    pub(crate) full: bool,
    /// No more faults come.
    pub(crate) ending: bool,
    pub(crate) draining: Option<BTreeSet<(&'static str, u64)>>,
}

fn open(
    disk: &FaultDisk,
    far: Option<&Far>,
    now: Millis,
    seed: u64,
) -> Result<(Arc<Engine>, Arc<Tap>, Arc<Broker>, Image, Vec<(QueueId, Seq)>, bool), Broken> {
    let opened = match far {
        None => Engine::open(Arc::new(disk.clone()), EngineConfig::small()),
        Some(far) => Engine::open_over(Arc::new(disk.clone()), Arc::new(far.log()), EngineConfig::small()),
    };
    let (engine, recovered) = opened.map_err(|e| format!("the store cannot be opened: {e}"))?;
    let engine = Arc::new(engine);
    let image = Image::of(&recovered, &engine)?;
    let tap = Arc::new(Tap::new(Arc::clone(&engine), image.clone()));
    let mut secret = [7u8; 32];
    secret[..8].copy_from_slice(&seed.to_le_bytes());
    let config = BrokerConfig { memory_budget_bytes: 16 << 10, seed: secret };
    let (next, clean) = (recovered.next_seq.clone(), recovered.clean);
    let journal: Arc<dyn Journal> = tap.clone();
    let bodies: Arc<dyn BodyStore> = tap.clone();
    let broker = Broker::open(config, journal, bodies, recovered, now).map_err(|e| format!("no broker: {e}"))?;
    Ok((engine, tap, Arc::new(broker), image, next, clean))
}

impl World {
    /// A world of a seed, with everything declared.
    ///
    /// # Errors
    /// A broken rule.
    pub fn new(seed: u64, loud: bool) -> Result<World, Broken> {
        let mut rng = Rng::new(seed);
        let disk = FaultDisk::new(rng.bits());
        let now = Millis(1_700_000_000_000);
        let far = (seed % 3 == 2).then(|| Far::with_chance(seed));
        let (engine, tap, broker, ..) = open(&disk, far.as_ref(), now, seed)?;
        let plans = plan::queues(&mut rng).into_iter().map(|q| (q.name, q)).collect();
        let mut world = World {
            rng,
            now,
            disk,
            far,
            engine,
            tap,
            broker,
            clients: BTreeMap::new(),
            plans,
            ids: BTreeMap::new(),
            ledger: Ledger::default(),
            trace: Trace::new(loud),
            tally: Tally::default(),
            next_client: 0,
            next_uid: 0,
            next_token: 0,
            held: BTreeMap::new(),
            delivered: BTreeSet::new(),
            delivered_once: BTreeSet::new(),
            counted: BTreeSet::new(),
            reached: BTreeMap::new(),
            recovered: BTreeMap::new(),
            owners: BTreeSet::new(),
            used: now,
            full: false,
            ending: false,
            draining: None,
        };
        world.setup()?;
        Ok(world)
    }

    /// Declares everything that is not there.
    pub(crate) fn setup(&mut self) -> Result<(), Broken> {
        let id = self.connect()?;
        let mut calls = plan::exchange_calls();
        calls.extend(self.plans.values().flat_map(QueuePlan::calls));
        for call in calls {
            self.call(id, 1, call, Asked::Nothing)?;
        }
        self.used = self.now;
        self.learn_ids()?;
        if self.ids.len() != self.plans.len() {
            return Err(format!("queues are missing after their declaration: {:?}", self.ids));
        }
        self.disconnect(id)?;
        self.commit_all()
    }

    pub(crate) fn learn_ids(&mut self) -> Result<(), Broken> {
        let reports = self.broker.queues(None).map_err(|e| e.to_string())?;
        self.ids.clear();
        for r in reports {
            if let Some(name) = self.plans.keys().find(|n| **n == &*r.view.settings.name) {
                self.ids.insert(name, r.view.settings.id);
            }
        }
        Ok(())
    }

    /// A new client with one open channel.
    pub(crate) fn connect(&mut self) -> Result<u32, Broken> {
        let outbox = Arc::new(Outbox::default());
        let info = PeerInfo::on_this_machine("sim");
        let conn = self.broker.connect(info, Arc::clone(&outbox), self.now);
        self.next_client += 1;
        let id = self.next_client;
        self.clients.insert(
            id,
            Client {
                conn,
                outbox,
                inbox: VecDeque::new(),
                channels: BTreeMap::new(),
                consumers: BTreeMap::new(),
                owed: VecDeque::new(),
                asked: BTreeMap::new(),
                hand: BTreeSet::new(),
            },
        );
        let hello =
            Call::Authenticate { mechanism: "PLAIN".into(), username: "guest".into(), password: (*b"guest").into() };
        self.call(id, 0, hello, Asked::Nothing)?;
        self.call(id, 0, Call::OpenVhost { vhost: "/".into(), client_properties: Table::new() }, Asked::Nothing)?;
        self.open_channel(id, 1)?;
        Ok(id)
    }

    pub(crate) fn open_channel(&mut self, id: u32, channel: u16) -> Result<(), Broken> {
        let confirms = !self.rng.once_in(3);
        if let Some(c) = self.clients.get_mut(&id) {
            c.channels.insert(channel, crate::client::Channel { confirms, ..Default::default() });
        }
        self.call(id, channel, Call::OpenChannel, Asked::Nothing)
    }

    pub(crate) fn disconnect(&mut self, id: u32) -> Result<(), Broken> {
        self.owners.remove(&id);
        if let Some(client) = self.clients.remove(&id) {
            for (c, consumer) in &client.consumers {
                self.held.retain(|_, holder| holder != c);
                if !consumer.no_ack {
                    let uids: Vec<u64> = consumer.held.values().copied().collect();
                    self.returned(consumer.queue, &uids);
                }
            }
            self.broker.disconnect(client.conn, self.now);
        }
        self.collect()
    }

    /// A call, answered or not.
    pub(crate) fn call(&mut self, id: u32, channel: u16, call: Call, asked: Asked) -> Result<(), Broken> {
        self.next_token += 1;
        let token = self.next_token;
        if let Some(c) = self.clients.get_mut(&id) {
            c.asked.insert(token, asked);
        }
        self.execute(id, vec![Command::Call { channel: ChannelId(channel), token, call }])
    }

    pub(crate) fn execute(&mut self, id: u32, commands: Vec<Command>) -> Result<(), Broken> {
        self.execute_turn(id, Turn { batch: None, commands })
    }

    pub(crate) fn execute_turn(&mut self, id: u32, mut turn: Turn) -> Result<(), Broken> {
        let broker = Arc::clone(&self.broker);
        if let Some(c) = self.clients.get_mut(&id) {
            broker.execute(&mut c.conn, &mut turn, self.now);
        }
        self.collect()
    }

    /// What is on its way to a log elsewhere, or back, gets on.
    fn get_on(&mut self) {
        let steps = self.rng.below(3);
        if let Some(far) = &self.far {
            (0..steps).for_each(|_| far.step());
        }
    }

    /// The disk finishes a commit. `false` if there was nothing to do.
    pub(crate) fn commit(&mut self) -> Result<bool, Broken> {
        if self.far.is_some() {
            self.get_on();
        }
        let outcome = self.engine.commit_once();
        self.trace.add(format!("commit {outcome:?}"));
        match outcome {
            CommitOutcome::Committed(_) => {
                self.broker.advance(self.now);
                self.collect()?;
                self.believe();
                Ok(true)
            }
            CommitOutcome::Stopped => self.restart("stopped").map(|()| true),
            CommitOutcome::UnderWay => Ok(true),
            CommitOutcome::Idle | CommitOutcome::NoRoom => Ok(false),
        }
    }

    pub(crate) fn commit_all(&mut self) -> Result<(), Broken> {
        while self.commit()? {}
        Ok(())
    }

    /// Confirms whose ticket the watermark has reached are sent.
    pub(crate) fn believe(&mut self) {
        let durable = self.engine.durable();
        for client in self.clients.values_mut() {
            for channel in client.channels.values_mut() {
                let rest =
                    channel.accepted.iter().filter(|(_, lsn)| **lsn > durable.0).map(|(n, l)| (*n, *l)).collect();
                for n in std::mem::replace(&mut channel.accepted, rest).into_keys() {
                    if channel.accepted.contains_key(&n) {
                        continue;
                    }
                    for key in channel.open.remove(&n).unwrap_or_default() {
                        if let Some(copy) = self.ledger.copies.get_mut(&key) {
                            copy.confirmed = true;
                        }
                    }
                }
            }
        }
    }

    /// Reads the uids and properties of delivered messages, from wherever they are.
    pub(crate) fn read(
        &self,
        queue: QueueId,
        first: Seq,
        count: u32,
        body: &Body,
    ) -> Result<Vec<(u64, Vec<u8>)>, Broken> {
        let mut all = Vec::new();
        let mut take = |b: &waypost_model::Batch, from: u32, to: u32| {
            all.extend((from..to).map(|i| (uid_of(b.body(i)), b.props(i).to_vec())));
        };
        match body {
            Body::Mem { batch, from } => take(batch, *from, *from + count),
            Body::Spilled { at, skip } => {
                let batch = self.engine.load_spilled(*at).map_err(|e| format!("spilled {at:?}: {e}"))?;
                take(&batch, *skip, *skip + count);
            }
            Body::Stored => {
                let mut n = 0;
                while n < count {
                    let at = first.plus(u64::from(n));
                    let part =
                        self.engine.load(queue, at, count - n).map_err(|e| format!("stored {queue:?} {at:?}: {e}"))?;
                    take(&part.batch, part.from, part.to);
                    n += part.to - part.from;
                }
            }
        }
        Ok(all)
    }

    /// A stop that waits for the disk, and for the log.
    fn close(&self) -> bool {
        let Some(far) = &self.far else { return self.engine.close().is_ok() };
        far.calm();
        loop {
            while far.sent() > 0 {
                far.step();
            }
            match self.engine.commit_once() {
                CommitOutcome::Committed(_) | CommitOutcome::UnderWay => {}
                CommitOutcome::Idle => return self.engine.close().is_ok(),
                CommitOutcome::NoRoom | CommitOutcome::Stopped => return false,
            }
        }
    }

    /// The process ends in some way and starts again.
    pub(crate) fn restart(&mut self, how: &'static str) -> Result<(), Broken> {
        *self.tally.steps.entry(how).or_default() += 1;
        self.believe();
        let mut clean = false;
        if how == "clean" {
            // A server that stops says good-bye first.
            for id in self.clients.keys().copied().collect::<Vec<_>>() {
                self.disconnect(id)?;
            }
            clean = self.close();
        }
        let expected = self.tap.expected();
        let durable = self.engine.durable();
        match how {
            "kill" | "clean" => self.disk.kill(),
            _ => self.disk.crash(),
        }
        self.clients.clear();
        self.owners.clear();
        let seed = self.rng.bits();
        let downtime = self.rng.below(60) as u64;
        self.now = self.now.plus(downtime);
        self.full = false;
        if let Some(far) = self.far.as_ref().filter(|_| !self.ending) {
            far.chance(seed);
        }
        let (engine, tap, broker, image, next, was_clean) = open(&self.disk, self.far.as_ref(), self.now, seed)?;
        let kept = expected.check(&image)?;
        self.trace.add(format!("{how} at {durable:?}, {kept} appends more were kept, {downtime} ms later"));
        if clean && (!was_clean || kept > 0) {
            return Err(format!("a clean stop came out as unclean, or {kept} appends were not durable"));
        }
        if was_clean && how != "clean" {
            return Err("a crash was taken for a clean stop".into());
        }
        (self.engine, self.tap, self.broker) = (engine, tap, broker);
        self.held.clear();
        self.delivered_once.append(&mut self.delivered);
        if !was_clean {
            // What was given back is written with what comes next, or not at all. Everything is flagged now; but a
            // clean stop after it does not know that any more.
            self.counted.clear();
        }
        self.reached.clear();
        if !was_clean {
            self.recovered = next.into_iter().collect();
        }
        self.learn_limits()?;
        self.resync(&image)?;
        self.learn_ids()?;
        self.setup()
    }

    pub(crate) fn faults(&mut self, faults: Faults) {
        self.disk.set_faults(faults);
    }

    pub(crate) fn durable(&self) -> Lsn {
        self.engine.durable()
    }
}
