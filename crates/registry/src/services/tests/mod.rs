//! The registry over a journal of memory, in time that tests move.

mod checks;
mod claims;
mod crash;
mod liveness;
mod naive;
mod nodes;
mod persistence;
mod registering;
mod txn;
mod watching;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use waypost_model::batch::Batch;
use waypost_model::journal::{AppendError, Journal, Op, SpillRef};
use waypost_model::service::{
    Claim, Claimed, Ending, Health, Instance, InstanceChange, Parting, Presence as _, ServiceName, Standing,
};
use waypost_model::{ConnId, Lsn, Millis, Refusal};

use super::*;

/// A journal that remembers definitions.
#[derive(Default)]
pub struct Memory {
    pub kept: Mutex<BTreeMap<Box<[u8]>, Box<[u8]>>>,
    pub writes: AtomicUsize,
    pub stopped: AtomicBool,
    lsn: AtomicU64,
}

impl Journal for Memory {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(AppendError::Stopped);
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept.lock().unwrap();
        for op in ops {
            match op {
                Op::Define { key, value: Some(value) } => drop(kept.insert(key, value)),
                Op::Define { key, value: None } => drop(kept.remove(&key)),
                other => panic!("{other:?}"),
            }
        }
        Ok(Lsn(self.lsn.fetch_add(1, Ordering::Relaxed) + 1))
    }

    fn reserve(&self) -> Lsn {
        unreachable!()
    }

    fn fill(&self, _: Lsn, _: Vec<Op>) -> Result<(), AppendError> {
        unreachable!()
    }

    fn durable(&self) -> Lsn {
        Lsn(self.lsn.load(Ordering::Relaxed))
    }

    fn spill(&self, _: &Batch, _: u32, _: u32) -> std::io::Result<SpillRef> {
        unreachable!()
    }

    fn release_spill(&self, _: SpillRef) {}
}

/// What followers were told: per service and id the last word, and all words in order.
#[derive(Default)]
pub struct Follower {
    pub words: Mutex<Vec<String>>,
    pub last: Mutex<BTreeMap<(Arc<str>, Box<str>), (Arc<Instance>, Standing, u64)>>,
}

impl Followers for Follower {
    fn changed(&self, name: &ServiceName, change: &InstanceChange, _now: Millis) {
        let mut last = self.last.lock().unwrap();
        let word = match change {
            InstanceChange::Is { instance, standing, incarnation } => {
                let key = (Arc::clone(&name.service), instance.id.clone());
                last.insert(key, (Arc::clone(instance), *standing, *incarnation));
                let draining = if standing.draining { " draining" } else { "" };
                format!("{}/{} {}{draining}", name.service, instance.id, standing.health.as_str())
            }
            InstanceChange::Gone { id, incarnation, why } => {
                let was = last.remove(&(Arc::clone(&name.service), id.clone()));
                assert_eq!(was.map(|(_, _, i)| i), Some(*incarnation), "an instance goes as it was told last");
                let why = if *why == Parting::Drained { ", drained" } else { "" };
                format!("{}/{id} gone{why}", name.service)
            }
            InstanceChange::Wanted => format!("{} wanted", name.service),
        };
        self.words.lock().unwrap().push(word);
    }
}

/// A registry, its time and its surroundings.
pub struct World {
    pub registry: Arc<Registry>,
    pub services: Services,
    pub journal: Arc<Memory>,
    pub follower: Arc<Follower>,
    pub now: Millis,
}

pub fn settings() -> Settings {
    let own_node =
        NodeSpec { name: "here".into(), id: "".into(), address: "10.9.9.9".into(), meta: Arc::default(), extra: None };
    Settings { limits: Limits::default(), own_node, seed: 7 }
}

impl World {
    pub fn new() -> World {
        World::with(settings(), Arc::default(), Millis(1_000_000))
    }

    pub fn with(settings: Settings, journal: Arc<Memory>, now: Millis) -> World {
        let kept = journal.kept.lock().unwrap().clone();
        let definitions = kept.iter().map(|(k, v)| (&**k, &**v));
        let registry = Registry::open(settings, Arc::clone(&journal) as Arc<dyn Journal>, definitions, now).unwrap();
        let follower = Arc::<Follower>::default();
        registry.follow(Arc::clone(&follower) as Arc<dyn Followers>, now);
        let services = registry.services("/");
        World { registry, services, journal, follower, now }
    }

    /// The same journal under a new process, so much later.
    pub fn restart(self, later_ms: u64) -> World {
        let World { journal, now, .. } = self;
        World::with(settings(), journal, now.plus(later_ms))
    }

    /// Time goes on, and what is due is done at its time. Gives the checks that were to be run.
    pub fn pass(&mut self, ms: u64) -> Vec<CheckRun> {
        let end = self.now.plus(ms);
        let mut runs = Vec::new();
        loop {
            let due = self.registry.tick(self.now);
            runs.extend(due.checks);
            match due.next {
                Some(next) if next <= end => self.now = next.max(self.now),
                _ => break,
            }
        }
        self.now = end;
        runs.extend(self.registry.tick(end).checks);
        runs
    }

    pub fn register(&self, service: &str, registration: Registration) -> Registered {
        self.services.register(service, registration, self.now).unwrap()
    }

    pub fn claim(&self, service: &str, instance: Instance, conn: u64) -> Result<Claimed, Refusal> {
        self.claim_as(service, instance, conn, "guest")
    }

    pub fn claim_as(&self, service: &str, instance: Instance, conn: u64, user: &str) -> Result<Claimed, Refusal> {
        let name = ServiceName { vhost: "/".into(), service: service.into() };
        let described = instance != Instance::new(instance.id.clone());
        let claim = Claim { name: &name, conn: ConnId(conn), user, instance, described, named: true };
        self.registry.claim(claim, self.now)
    }

    pub fn leave(&self, claimed: &Claimed, ending: Ending) {
        self.registry.leave(claimed.claim, ending, self.now);
    }

    /// `id health why` of each instance.
    pub fn list(&self, service: &str) -> Vec<String> {
        let view = self.services.view(service);
        let line = |i: &Listed| format!("{} {} {}", i.instance.id, i.standing.health.as_str(), i.why.as_str());
        view.instances.iter().map(|i| line(i).trim_end().to_owned()).collect()
    }

    pub fn words(&self) -> Vec<String> {
        std::mem::take(&mut self.follower.words.lock().unwrap())
    }

    pub fn index(&self, service: &str) -> u64 {
        self.services.view(service).index
    }
}

pub fn instance(id: &str) -> Instance {
    Instance { address: Some("10.0.0.1".into()), port: 80, ..Instance::new(id) }
}

pub fn plain(id: &str) -> Registration {
    Registration::new(instance(id), "guest", Source::Api)
}

pub fn leased(id: &str, lease_ms: u64) -> Registration {
    Registration { lease_ms: Some(lease_ms), ..plain(id) }
}

pub fn ttl(id: &str, ttl_ms: u64) -> CheckSpec {
    CheckSpec { initial: Health::Critical, ..CheckSpec::new(id, CheckKind::Ttl { ttl_ms }) }
}

pub fn tcp(id: &str, interval_ms: u64) -> CheckSpec {
    CheckSpec::new(id, CheckKind::Tcp { address: "10.0.0.1:80".into(), interval_ms, timeout_ms: 1000 })
}

pub fn with_checks(id: &str, checks: Vec<CheckSpec>) -> Registration {
    Registration { checks, ..plain(id) }
}
