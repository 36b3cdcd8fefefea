//! A node: storage, broker and listeners put together, from start to stop.

mod amqp;
mod bell;
mod checks;
mod commits;
mod config_center;
mod core;
mod machine;
mod registry;
mod schedule;
mod store;
mod streams;
mod watch;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch as channel};
use waypost_broker::broker::{Broker, BrokerConfig};
use waypost_model::journal::Journal;
use waypost_model::{Event, Lsn, Refusal, RefusalKind};

pub(crate) use self::amqp::Guard;
pub(crate) use self::checks::may_reach;
pub use self::machine::Gauges;
pub(crate) use self::machine::open_files;
pub use self::store::{Opened, Store};

pub(crate) use self::core::BrokerCore;
use crate::clock::Clock;
use crate::config::{Config, ListenerSpec};
use crate::error::ServeError;
use crate::http::consul;
use crate::listen::accept::accept;
use crate::listen::announce::Announcement;
use crate::listen::tls::Tls;
use crate::listen::{Listener, Protocol, Reserved};
use crate::local::Clients;
use crate::push::{self, Pushes};
use crate::zmtp::{self, Devices, ReservedDevice};
use crate::{dns, http, runtime};

/// What all parts of a running node share.
pub struct Node {
    /// How it was configured.
    pub config: Config,
    /// Its clock.
    pub clock: Clock,
    /// Its broker.
    pub broker: Arc<Broker>,
    /// Its log.
    pub journal: Arc<dyn Journal>,
    /// What the machine has left.
    pub gauges: Gauges,
    /// Whether it takes connections: set when all listeners are there, cleared when it stops.
    pub ready: AtomicBool,
    /// Where it keeps everything.
    pub store: Arc<dyn Store>,
    /// Its ZeroMQ devices.
    pub(crate) devices: Devices,
    /// What its HTTP listeners share.
    pub(crate) http: http::Shared,
    /// What Consul's API and DNS keep beside the registry.
    pub(crate) consul: Arc<consul::Shared>,
    /// The broker's clients inside this process.
    pub(crate) clients: Clients,
    /// Serves instances that are plain web services.
    pub(crate) pushes: Pushes,
    /// Values under keys, with their history.
    pub(crate) config_center: Arc<waypost_registry::config::Store>,
    /// Services and their instances.
    pub registry: Arc<waypost_registry::services::Registry>,
    /// Topics and their partitions.
    pub(crate) streams: Arc<waypost_stream::streams::Streams>,
    /// Topics that feed exchanges and services.
    pub(crate) forwarders: crate::streams::forwarders::Forwarders,
    /// Consumer groups.
    pub(crate) groups: waypost_stream::groups::Groups,
    /// What Kafka's consumers need not say again.
    pub(crate) fetch_sessions: waypost_kafka::fetch_sessions::FetchSessions,
    /// Room for records on their way to Kafka's clients.
    pub(crate) kafka_room: crate::kafka::room::Room,
    /// The same for long requests that come from them.
    pub(crate) kafka_requests: crate::kafka::room::Room,
    /// Room for the requests of Kafka's clients, used again.
    pub(crate) kafka_buffers: Arc<waypost_model::Buffers>,
    /// Who is over his quota.
    pub(crate) throttle: crate::kafka::Throttle,
    /// Something in a group may be due earlier.
    pub(crate) regroup: Notify,
    core: Arc<BrokerCore>,
    /// Those who wait for the disk.
    commits: commits::Commits,
    /// Connections of all protocols but HTTP.
    connections: AtomicUsize,
    /// Says to those that are left after the farewell that their time is over.
    abandoned: channel::Sender<bool>,
}

/// Runs a server until `shutdown` completes or something fatal happens, on threads of its own.
///
/// # Errors
/// [`ServeError`]; its exit code is for the process.
pub fn run(config: Config, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
    run_on(config, shutdown, store::open)
}

/// The same, over a store of the caller's.
///
/// # Errors
/// [`ServeError`], of which those of `open` are passed on.
pub fn run_on(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
    open: impl FnOnce(&Config) -> Result<Opened, ServeError>,
) -> Result<(), ServeError> {
    machine::raise_file_limit();
    let built = runtime::build(config.server.worker_threads).map_err(ServeError::io("cannot start threads"))?;
    let (runtime, idle) = built;
    let result = runtime.block_on(serve(config, idle, Box::pin(shutdown), open));
    // Whoever has not ended by now had its time.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn serve(
    config: Config,
    idle: runtime::Idle,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    open: impl FnOnce(&Config) -> Result<Opened, ServeError>,
) -> Result<(), ServeError> {
    let clock = Clock::start();
    let reserved = reserve(&config)?;
    let devices = zmtp::reserve(&config.listeners.zmtp)?;
    std::fs::create_dir_all(&config.server.data_dir).map_err(ServeError::io("cannot make the data directory"))?;
    let Opened { store, mut recovered } = open(&config)?;
    // Only whoever holds the lock of the directory may touch what the last one left.
    Announcement::clear(&config.server.data_dir);
    let broker_config = BrokerConfig { memory_budget_bytes: config.memory.queue_budget.0, seed: machine::seed()? };
    let (journal, bodies) = (store.journal(), store.bodies());
    let config_center = config_center::open(&config, &journal, &bodies, &mut recovered, clock)?;
    let registry = registry::open(&config, &journal, &mut recovered, clock)?;
    let streams = streams::open(&config, &journal, &bodies, &mut recovered)?;
    let groups = streams::groups(&streams, clock);
    let broker = Broker::open(broker_config, Arc::clone(&journal), Arc::clone(&bodies), recovered, clock.now());
    let broker = Arc::new(broker.map_err(|e| ServeError::Broker(e.to_string()))?);
    broker.keep_streams(Arc::new(crate::streams::Keeper::new(Arc::clone(&streams), clock)), clock.now());
    crate::scram::give_first_user_keys(&broker, clock.now());
    registry::connect(&registry, &broker, clock.now());
    let core = Arc::new(BrokerCore::new(Arc::clone(&broker), bodies));
    let clients = Clients::new(Arc::clone(&core), clock);
    let pushes = Pushes::new(&clients, Arc::clone(&registry), clock, &config);
    let node = Arc::new(Node {
        gauges: Gauges::new(&config),
        devices: Devices::default(),
        consul: consul::Shared::open(&config.server.data_dir)
            .map(Arc::new)
            .map_err(ServeError::io("cannot read the prepared queries"))?,
        http: http::Shared::open(&config).map_err(ServeError::io("cannot read the key of the tokens"))?,
        config,
        clock,
        broker,
        journal,
        store,
        ready: AtomicBool::new(false),
        pushes,
        clients,
        config_center,
        registry,
        streams,
        forwarders: crate::streams::forwarders::Forwarders::default(),
        groups,
        fetch_sessions: waypost_kafka::fetch_sessions::FetchSessions::new(clock.now().0),
        kafka_room: crate::kafka::room::Room::default(),
        kafka_requests: crate::kafka::room::Room::default(),
        kafka_buffers: Arc::new(waypost_model::Buffers::new(crate::kafka::BUFFER_BYTES_MAX)),
        throttle: crate::kafka::Throttle::default(),
        regroup: Notify::new(),
        core,
        commits: commits::Commits::default(),
        connections: AtomicUsize::new(0),
        abandoned: channel::Sender::new(false),
    });
    let tell = {
        let node = Arc::downgrade(&node);
        move || {
            if let Some(node) = node.upgrade() {
                // First what is to be seen, then who is told that it is there.
                node.streams.advance();
                node.broker.advance(node.clock.now());
                node.commits.advanced(node.journal.durable());
            }
        }
    };
    node.store.start(bell::hang(idle, tell).map_err(ServeError::io("cannot hear of commits"))?)?;
    let result = tokio::select! {
        result = live(&node, reserved, devices, shutdown) => result,
        never = node.commits.end_long_waits() => match never {},
    };
    // What producers did is found again without reading batches.
    node.streams.close();
    let closed = node.store.close();
    tracing::info!("stopped");
    result.and(closed)
}

/// From the first listener to the last connection.
async fn live(
    node: &Arc<Node>,
    reserved: Vec<Reserved>,
    devices: Vec<ReservedDevice>,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
) -> Result<(), ServeError> {
    must_have_vhosts(&node.config, &node.broker)?;
    let (stop, stopping) = channel::channel(false);
    let listeners: Vec<_> = reserved.into_iter().map(Reserved::listen).collect::<Result<_, _>>()?;
    let endpoints: Vec<String> = devices.iter().flat_map(ReservedDevice::endpoints).collect();
    let announcement = Announcement::write(&node.config.server.data_dir, &listeners, endpoints)
        .map_err(ServeError::io("cannot write listeners.json"))?;
    node.ready.store(true, Ordering::SeqCst);
    for listener in &listeners {
        let (protocol, address, tls) = (listener.protocol.name(), listener.address, listener.tls.is_some());
        tracing::info!(protocol, %address, tls, "listening");
    }
    let reloadable: Vec<Arc<Tls>> = listeners.iter().filter_map(|l| l.tls.clone()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners {
        tasks.spawn(take_connections(Arc::clone(node), listener, stopping.clone()));
    }
    node.devices.start(devices, node)?;
    tasks.spawn(push::run(Arc::clone(node), stopping.clone()));
    tasks.spawn(schedule::run(Arc::clone(node), stopping.clone()));
    tasks.spawn(registry::run(Arc::clone(node), stopping.clone()));
    tasks.spawn(streams::regroup(Arc::clone(node), stopping.clone()));
    tasks.spawn(streams::run(Arc::clone(node), stopping.clone()));
    tasks.spawn(streams::compact(Arc::clone(node), stopping.clone()));
    tasks.spawn(streams::expire(Arc::clone(node), stopping.clone()));
    tasks.spawn(crate::streams::forwarders::run(Arc::clone(node), stopping.clone()));
    tasks.spawn(config_center::run(Arc::clone(node), stopping.clone()));
    tasks.spawn(reload_on_hangup(reloadable, stopping));
    let result = tokio::select! {
        () = shutdown => Ok(()),
        () = watch::run(node) => Err(ServeError::JournalStopped),
    };
    node.ready.store(false, Ordering::SeqCst);
    drop(announcement);
    tracing::info!("stopping");
    let _ = stop.send(true);
    // Who goes from now on goes because of us.
    node.registry.stopping();
    // While the journal still takes what they hold.
    let stopped = Arc::clone(node);
    let _ = tokio::task::spawn_blocking(move || stopped.devices.stop()).await;
    let reason = if result.is_ok() { "shutdown" } else { "storage failure" };
    node.say_farewell(reason).await;
    tasks.join_all().await;
    result
}

fn declared(config: &Config) -> impl Iterator<Item = (Protocol, &ListenerSpec)> {
    let amqp = config.listeners.amqp.iter().map(|spec| (Protocol::Amqp, spec));
    let http = config.listeners.http.iter().map(|spec| (Protocol::Http, spec));
    let dns = config.listeners.dns.iter().map(|spec| (Protocol::Dns, spec));
    let kafka = config.listeners.kafka.iter().map(|spec| (Protocol::Kafka, spec));
    amqp.chain(http).chain(dns).chain(kafka)
}

fn reserve(config: &Config) -> Result<Vec<Reserved>, ServeError> {
    declared(config).map(|(protocol, spec)| Reserved::new(protocol, spec)).collect()
}

/// Refuses listeners for a vhost that there is not. What is registered or produced there would belong to nobody, and be
/// forgotten at the next start.
fn must_have_vhosts(config: &Config, broker: &Broker) -> Result<(), ServeError> {
    for (protocol, spec) in declared(config) {
        if let Some(vhost) = spec.vhost.as_ref().filter(|vhost| broker.vhost(vhost).is_err()) {
            let (protocol, address) = (protocol.name(), spec.address);
            return Err(ServeError::NoVhost { protocol, address, vhost: vhost.clone() });
        }
    }
    Ok(())
}

async fn take_connections(node: Arc<Node>, mut listener: Listener, stop: channel::Receiver<bool>) {
    match listener.protocol {
        Protocol::Amqp => {
            let amqp = Arc::new(amqp::AmqpListener::new(&node, &listener, stop.clone()));
            accept(&listener.socket, stop, |socket, peer| amqp.take(socket, peer)).await;
        }
        Protocol::Kafka => {
            let kafka = Arc::new(crate::kafka::KafkaListener::new(&node, &listener, stop.clone()));
            accept(&listener.socket, stop, |socket, peer| kafka.take(socket, peer)).await;
        }
        Protocol::Http => {
            let http = Arc::new(http::HttpListener::new(&node, &listener, stop.clone()));
            accept(&listener.socket, stop, |socket, peer| http.take(socket, peer)).await;
        }
        Protocol::Dns => {
            let Some(udp) = listener.udp.take() else { return };
            if let Err(error) = dns::serve(&node, &listener, udp, stop).await {
                tracing::error!(%error, "DNS is not answered");
            }
        }
    }
}

/// Reads certificates anew on SIGHUP.
async fn reload_on_hangup(all: Vec<Arc<Tls>>, mut stop: channel::Receiver<bool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangups) = signal(SignalKind::hangup()) else {
        tracing::warn!("SIGHUP cannot be watched: certificates are read at the start only");
        return;
    };
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = hangups.recv() => {}
        }
        for tls in &all {
            match tls.reload() {
                Ok(()) => tracing::info!("certificate read anew"),
                Err(error) => tracing::error!(%error, "the old certificate stays in use"),
            }
        }
    }
}

/// How long connections may take to be given up, once nobody waits for their peers any more.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);

impl Node {
    /// Tells every peer that the server goes, and waits for them to go too.
    async fn say_farewell(&self, reason: &str) {
        self.clients.requests.close();
        let text = format!("broker forced connection closure with reason '{reason}'");
        for peer in self.broker.peers() {
            peer.outbox.push(Event::Close { refusal: Refusal::new(RefusalKind::ConnectionForced, text.clone()) });
        }
        if tokio::time::timeout(self.config.server.stop_timeout, self.all_gone()).await.is_err() {
            let left = self.connections.load(Ordering::SeqCst);
            tracing::info!(left, "peers did not confirm the closing in time");
            // What they hold goes back to its queues, and is noted there, while the journal still takes it.
            self.abandoned.send_replace(true);
            let _ = tokio::time::timeout(ABANDON_TIMEOUT, self.all_gone()).await;
        }
    }

    async fn all_gone(&self) {
        while self.connections.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until the journal is durable up to `lsn`. False if that takes too long to be worth waiting for.
    pub async fn reached(&self, lsn: Option<Lsn>) -> bool {
        match lsn {
            Some(lsn) => self.commits.reached(&*self.journal, lsn).await,
            None => true,
        }
    }

    /// The broker as drivers see it.
    pub(crate) fn core(&self) -> Arc<BrokerCore> {
        Arc::clone(&self.core)
    }
}
