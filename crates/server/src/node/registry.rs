//! The registry of a node: opened with what recovery found, moved on by the clock, and its changes told to the broker.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Weak};

use tokio::sync::{Notify, watch};
use tokio::time::sleep_until;
use waypost_broker::broker::Broker;
use waypost_model::Millis;
use waypost_model::journal::{Journal, Recovered};
use waypost_model::service::{InstanceChange, ServiceName};
use waypost_registry::services::{Followers, Limits, NodeSpec, Registry, Settings, is_definition};

use super::checks::Runner;
use super::{Node, machine};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::ServeError;

/// How often snapshots are looked through for such as nobody uses.
const SNAPSHOTS_EVERY_MS: u64 = 30_000;

/// Longest sleep, if nothing is due.
const IDLE_MS: u64 = 10_000;

/// The file with the server's id, a UUID made at the first start.
const NODE_ID_FILE: &str = "node-id";

/// Opens it, and takes what it owns out of what recovery found: before the broker sees it.
pub(super) fn open(
    config: &Config,
    journal: &Arc<dyn Journal>,
    recovered: &mut Recovered,
    clock: Clock,
) -> Result<Arc<Registry>, ServeError> {
    let (ours, others) =
        std::mem::take(&mut recovered.definitions).into_iter().partition::<Vec<_>, _>(|(key, _)| is_definition(key));
    recovered.definitions = others;
    let seed = machine::seed()?;
    let own_node = NodeSpec {
        name: node_name(),
        id: node_id(&config.server.data_dir, &seed)?,
        address: node_address(config),
        meta: Arc::default(),
        extra: None,
    };
    let seed = seed.iter().fold(0, |seed: u64, byte| seed.rotate_left(8) ^ u64::from(*byte));
    let settings = Settings { limits: Limits::default(), own_node, seed };
    let definitions = ours.iter().map(|(key, value)| (&**key, &**value));
    Registry::open(settings, Arc::clone(journal), definitions, clock.now())
        .map_err(|e| ServeError::Storage { path: config.server.data_dir.clone(), why: e.to_string() })
}

/// The host's name, as far as it can stand in a DNS name.
fn node_name() -> Box<str> {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let first = name.split('.').next().unwrap_or_default();
    let usable: String = first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    if usable.trim_matches('-').is_empty() { "waypost".into() } else { usable.into() }
}

/// Where what is registered without an address is: where this server says that it can be reached.
fn node_address(config: &Config) -> Box<str> {
    let listeners = &config.listeners.http;
    if let Some(host) = listeners.iter().find_map(|spec| spec.advertise.as_deref()) {
        let host = host.rsplit_once(':').filter(|(host, _)| !host.contains(':')).map_or(host, |(host, _)| host);
        return host.into();
    }
    let reachable = |ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified();
    let address = listeners.iter().map(|spec| spec.address.ip()).find(reachable);
    address.map_or_else(|| "127.0.0.1".into(), |ip| ip.to_string().into())
}

/// The same at every start over a data directory.
fn node_id(data_dir: &Path, seed: &[u8]) -> Result<Box<str>, ServeError> {
    let path = data_dir.join(NODE_ID_FILE);
    if let Ok(text) = std::fs::read_to_string(&path)
        && text.trim().len() == 36
    {
        return Ok(text.trim().into());
    }
    let mut bytes: Vec<u8> = seed.iter().rev().copied().chain(std::iter::repeat(0)).take(16).collect();
    // RFC 9562 §5.4: version 4, variant 10.
    for (at, keep, set) in [(6, 0x0f, 0x40), (8, 0x3f, 0x80)] {
        if let Some(byte) = bytes.get_mut(at) {
            *byte = *byte & keep | set;
        }
    }
    let mut id = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            id.push('-');
        }
        id.push_str(&format!("{byte:02x}"));
    }
    std::fs::write(&path, format!("{id}\n")).map_err(ServeError::io("cannot write the id of the node"))?;
    Ok(id.into())
}

/// The broker follows the registry, and tells it who is there.
pub(super) fn connect(registry: &Arc<Registry>, broker: &Arc<Broker>, now: Millis) {
    // What is left of vhosts that were deleted in the moment of a crash.
    for vhost in registry.vhosts() {
        if broker.vhost(&vhost).is_err() {
            registry.forget_vhost(&vhost, now);
        }
    }
    registry.follow(Arc::new(ToBroker(Arc::downgrade(broker))), now);
    broker.set_presence(Arc::clone(registry) as Arc<dyn waypost_model::service::Presence>);
}

/// Weak, since the broker holds the registry.
struct ToBroker(Weak<Broker>);

impl Followers for ToBroker {
    fn changed(&self, name: &ServiceName, change: &InstanceChange, now: Millis) {
        if let Some(broker) = self.0.upgrade() {
            broker.instance_changed(name, change, now);
        }
    }
}

/// Runs until `stop` says so.
pub(super) async fn run(node: Arc<Node>, mut stop: watch::Receiver<bool>) {
    let earlier = Arc::new(Notify::new());
    node.registry.on_earlier_deadline(Box::new({
        let earlier = Arc::clone(&earlier);
        move || earlier.notify_one()
    }));
    let allow = node.config.targets.allow.clone().into();
    let (runner, checks) = Runner::new(Arc::clone(&node.registry), node.clock, allow, stop.clone());
    let checks = tokio::spawn(checks);
    let mut looked = node.clock.now();
    loop {
        let now = node.clock.now();
        let due = node.registry.tick(now);
        due.checks.into_iter().for_each(|check| runner.run(check));
        if now.since(looked) >= SNAPSHOTS_EVERY_MS {
            looked = now;
            node.registry.drop_old_views();
        }
        let latest = now.plus(IDLE_MS);
        let next = due.next.map_or(latest, |at| at.min(latest));
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = earlier.notified() => {}
            () = sleep_until(node.clock.instant(next).into()) => {}
        }
    }
    drop(runner);
    // How its checks ended is nobody's concern any more.
    let _ = checks.await;
}
