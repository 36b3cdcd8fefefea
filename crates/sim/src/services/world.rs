//! The world of services: what there is, and how it starts again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use waypost_broker::broker::{Broker, BrokerConfig, PeerInfo};
use waypost_model::command::QueueDeclare;
use waypost_model::journal::{BodyStore, Journal};
use waypost_model::service::{InstanceChange, ServiceName};
use waypost_model::table::{Table, Value};
use waypost_model::{Call, ChannelId, Command, Millis, Outbox, QueueId, Turn};
use waypost_registry::services::{Followers, Limits, NodeSpec, Registry, Settings, is_definition};
use waypost_storage::fault::FaultDisk;
use waypost_storage::{CommitOutcome, Engine, EngineConfig};

use super::peer::{Fate, Message, Mode, Peer, SERVICES};
use crate::Report;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::world::{Broken, Tally};

/// Whoever was to get a copy and is back so soon after a start gets it, ms: well within what is promised.
pub(super) const RETURN_MS: u64 = 8_000;

/// See the module.
pub struct Services {
    pub(super) rng: Rng,
    pub(super) now: Millis,
    pub(super) disk: FaultDisk,
    pub(super) engine: Arc<Engine>,
    pub(super) broker: Arc<Broker>,
    pub(super) registry: Arc<Registry>,
    pub(super) peers: BTreeMap<u32, Peer>,
    pub(super) messages: BTreeMap<u64, Message>,
    /// Whose hands a message, or somebody's copy of it, is in.
    pub(super) held: BTreeMap<(QueueId, waypost_model::Seq), u32>,
    /// The last of the messages of a service, selector and key that came for the first time.
    pub(super) reached: BTreeMap<(usize, usize, u8), u64>,
    /// Dead letters that came out.
    pub(super) buried: BTreeSet<u64>,
    /// Instances that were to get no new message before this step.
    pub(super) unfit: BTreeSet<(usize, usize)>,
    /// Instances that the registry knew when it was looked at last.
    pub(super) known: BTreeSet<(usize, usize)>,
    /// When the process started.
    pub(super) started: Millis,
    pub(super) next_peer: u32,
    pub(super) next_uid: u64,
    pub(super) trace: Trace,
    pub(super) tally: Tally,
}

/// The broker follows the registry, as in the server.
struct ToBroker(Weak<Broker>);

impl Followers for ToBroker {
    fn changed(&self, name: &ServiceName, change: &InstanceChange, now: Millis) {
        if let Some(broker) = self.0.upgrade() {
            broker.instance_changed(name, change, now);
        }
    }
}

fn open(disk: &FaultDisk, now: Millis, seed: u64) -> Result<(Arc<Engine>, Arc<Broker>, Arc<Registry>), Broken> {
    let opened = Engine::open(Arc::new(disk.clone()), EngineConfig::small());
    let (engine, mut recovered) = opened.map_err(|e| format!("the store cannot be opened: {e}"))?;
    let engine = Arc::new(engine);
    let (journal, bodies): (Arc<dyn Journal>, Arc<dyn BodyStore>) = (engine.clone(), engine.clone());
    let (ours, others) =
        std::mem::take(&mut recovered.definitions).into_iter().partition::<Vec<_>, _>(|(key, _)| is_definition(key));
    recovered.definitions = others;
    let own_node =
        NodeSpec { name: "sim".into(), id: "".into(), address: "10.0.0.1".into(), meta: Arc::default(), extra: None };
    let settings = Settings { limits: Limits::default(), own_node, seed };
    let definitions = ours.iter().map(|(key, value)| (&**key, &**value));
    let registry =
        Registry::open(settings, Arc::clone(&journal), definitions, now).map_err(|e| format!("no registry: {e}"))?;
    let mut secret = [7u8; 32];
    secret[..8].copy_from_slice(&seed.to_le_bytes());
    let config = BrokerConfig { memory_budget_bytes: 16 << 10, seed: secret };
    let broker = Broker::open(config, journal, bodies, recovered, now).map_err(|e| format!("no broker: {e}"))?;
    let broker = Arc::new(broker);
    registry.follow(Arc::new(ToBroker(Arc::downgrade(&broker))), now);
    broker.set_presence(Arc::clone(&registry) as Arc<dyn waypost_model::service::Presence>);
    Ok((engine, broker, registry))
}

impl Services {
    /// A world of a seed, with its mailboxes declared.
    ///
    /// # Errors
    /// A broken rule.
    pub fn new(seed: u64, loud: bool) -> Result<Services, Broken> {
        let mut rng = Rng::new(seed ^ 0x5e_71ce);
        let disk = FaultDisk::new(rng.bits());
        let now = Millis(1_700_000_000_000);
        let (engine, broker, registry) = open(&disk, now, seed)?;
        let mut world = Services {
            rng,
            now,
            disk,
            engine,
            broker,
            registry,
            peers: BTreeMap::new(),
            messages: BTreeMap::new(),
            held: BTreeMap::new(),
            reached: BTreeMap::new(),
            buried: BTreeSet::new(),
            unfit: BTreeSet::new(),
            known: BTreeSet::new(),
            started: now,
            next_peer: 0,
            next_uid: 0,
            trace: Trace::new(loud),
            tally: Tally::default(),
        };
        let id = world.connect()?;
        for service in SERVICES {
            let text = |s: &str| Value::LongStr(s.as_bytes().to_vec());
            let arguments =
                Table::new().with("x-dead-letter-exchange", text("")).with("x-dead-letter-routing-key", text("dl"));
            world.declare(id, &format!("{service}-queue"), arguments)?;
        }
        world.declare(id, "dl", Table::new())?;
        world.commit_all()?;
        Ok(world)
    }

    fn declare(&mut self, id: u32, name: &str, arguments: Table) -> Result<(), Broken> {
        let name = name.into();
        let (passive, durable, exclusive, auto_delete) = (false, true, false, false);
        self.call(id, Call::QueueDeclare(QueueDeclare { name, passive, durable, exclusive, auto_delete, arguments }))
    }

    /// A new connection with one channel.
    pub(super) fn connect(&mut self) -> Result<u32, Broken> {
        let outbox = Arc::new(Outbox::default());
        let info = PeerInfo::on_this_machine("sim");
        let conn = self.broker.connect(info, Arc::clone(&outbox), self.now);
        self.next_peer += 1;
        let peer = Peer {
            conn,
            outbox,
            instance: None,
            consumer: None,
            prefetch: 0,
            held: BTreeMap::new(),
            owed: Default::default(),
            failed: false,
            open: BTreeMap::new(),
            accepted: BTreeMap::new(),
            published: 0,
        };
        let id = self.next_peer;
        self.peers.insert(id, peer);
        let (mechanism, username, password) = ("PLAIN".into(), "guest".into(), (*b"guest").into());
        self.call_on(id, 0, Call::Authenticate { mechanism, username, password })?;
        self.call_on(id, 0, Call::OpenVhost { vhost: "/".into(), client_properties: Table::new() })?;
        self.call(id, Call::OpenChannel)?;
        Ok(id)
    }

    pub(super) fn call(&mut self, id: u32, call: Call) -> Result<(), Broken> {
        self.call_on(id, 1, call)
    }

    fn call_on(&mut self, id: u32, channel: u16, call: Call) -> Result<(), Broken> {
        self.execute(id, vec![Command::Call { channel: ChannelId(channel), token: 1, call }])
    }

    pub(super) fn execute(&mut self, id: u32, commands: Vec<Command>) -> Result<(), Broken> {
        let broker = Arc::clone(&self.broker);
        if let Some(peer) = self.peers.get_mut(&id) {
            broker.execute(&mut peer.conn, &mut Turn { batch: None, commands }, self.now);
        }
        self.collect()
    }

    /// All that was appended reaches the disk.
    pub(super) fn commit_all(&mut self) -> Result<(), Broken> {
        loop {
            match self.engine.commit_once() {
                CommitOutcome::Committed(_) => {
                    self.broker.advance(self.now);
                    self.collect()?;
                }
                CommitOutcome::UnderWay => {}
                CommitOutcome::Idle => break,
                outcome => return Err(format!("the disk has no faults, and yet: {outcome:?}")),
            }
        }
        self.believe();
        for fate in self.messages.values_mut().flat_map(fates) {
            if *fate == Fate::Settled {
                *fate = Fate::Over;
            }
        }
        Ok(())
    }

    /// Confirms whose ticket the watermark has reached are believed.
    pub(super) fn believe(&mut self) {
        let durable = self.engine.durable();
        for peer in self.peers.values_mut() {
            let there: Vec<u64> = peer.accepted.iter().filter(|(_, lsn)| **lsn <= durable).map(|(n, _)| *n).collect();
            for n in there {
                peer.accepted.remove(&n);
                if let Some(message) = peer.open.remove(&n).and_then(|uid| self.messages.get_mut(&uid)) {
                    message.confirmed = true;
                }
            }
        }
    }

    /// The process ends in some way and starts again.
    pub(super) fn restart(&mut self, how: &'static str) -> Result<(), Broken> {
        self.believe();
        if how == "kill" {
            self.disk.kill();
        } else {
            self.disk.crash();
        }
        self.peers.clear();
        self.held.clear();
        self.reached.clear();
        self.now = self.now.plus(self.rng.below(3_000) as u64);
        self.started = self.now;
        let seed = self.rng.bits();
        (self.engine, self.broker, self.registry) = open(&self.disk, self.now, seed)?;
        for message in self.messages.values_mut() {
            let confirmed = message.confirmed;
            for fate in fates(message) {
                *fate = match *fate {
                    Fate::Must if !confirmed => Fate::May,
                    Fate::Settled => Fate::May,
                    Fate::Rejected => Fate::Either,
                    as_before => as_before,
                };
            }
        }
        self.known.clear();
        self.forget_the_gone();
        Ok(())
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

/// What is known of a message, or of its copies.
fn fates(message: &mut Message) -> Vec<&mut Fate> {
    match message.mode {
        Mode::All => message.copies.values_mut().collect(),
        Mode::One | Mode::Key(_) => vec![&mut message.fate],
    }
}
