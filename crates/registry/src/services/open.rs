//! Starting: from definitions to a registry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use arc_swap::ArcSwapOption;
use hashbrown::HashTable;
use slab::Slab;
use waypost_model::journal::Journal;
use waypost_model::service::{Health, InstanceChange, ServiceName, is_service_name};
use waypost_model::{Lsn, Millis};

use super::feed::Feed;
use super::limits::RETURN_MS;
use super::nodes::Registering;
use super::persist::{INSTANCE, KeptInstance, NODE, VERSION, instance, node, parts};
use super::pool::Pool;
use super::spec::{CheckSpec, NodeSpec, Registration, Source};
use super::state::{State, Tenant, TenantShared};
use super::timers::Timers;
use super::{Registry, Settings};
use crate::watch::Topic;
use waypost_model::Seeded;
use waypost_model::record::Malformed;

/// Whether a definition of a journal is the registry's.
#[must_use]
pub fn is_definition(key: &[u8]) -> bool {
    matches!(key.first(), Some(&(NODE | INSTANCE)))
}

/// Why definitions cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Written by another release.
    #[error("the definition of {what} has format version {version}, this release reads {VERSION}")]
    Version {
        /// Which definition.
        what: String,
        /// Its version.
        version: u8,
    },
    /// The bytes are not what the format says.
    #[error("the definition of {0} is malformed")]
    Malformed(String),
    /// It is on a node that is not defined.
    #[error("the definition of {0} refers to a node that is not defined")]
    Dangling(String),
}

impl Registry {
    /// A registry with what was registered before. Of `definitions`, sorted by key, those count that [`is_definition`]
    /// knows.
    ///
    /// # Errors
    /// [`LoadError`]; nothing is left out in silence.
    pub fn open<'a>(
        settings: Settings,
        journal: Arc<dyn Journal>,
        definitions: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        now: Millis,
    ) -> Result<Arc<Registry>, LoadError> {
        let seed = Seeded(settings.seed);
        let registry = Registry {
            settings,
            journal,
            tenants: RwLock::new(HashMap::with_hasher(seed)),
            state: Mutex::new(State::new(seed, now)),
            order: Mutex::new(()),
            followers: OnceLock::new(),
            earlier: OnceLock::new(),
        };
        for (key, value) in definitions.into_iter().filter(|(key, _)| is_definition(key)) {
            registry.restore(key, value, now)?;
        }
        let mut state = registry.lock();
        // Nobody waits or follows yet.
        state.told.clear();
        state.changes.clear();
        drop(state);
        Ok(Arc::new(registry))
    }

    fn restore(&self, key: &[u8], value: &[u8], now: Millis) -> Result<(), LoadError> {
        let what = || parts(key).map_or_else(|_| format!("{key:02x?}"), |parts| format!("'{}'", parts.join("/")));
        let malformed = |_: Malformed| LoadError::Malformed(what());
        match value.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(LoadError::Version { what: what(), version }),
            None => return Err(LoadError::Malformed(what())),
        }
        match (key.first(), parts(key).map_err(malformed)?.as_slice()) {
            (Some(&NODE), &[vhost, name]) => self.restore_node(vhost, name, value, now).map_err(malformed),
            (Some(&INSTANCE), &[vhost, service, id]) if is_service_name(service) => {
                let kept = instance(id, value).map_err(malformed)?;
                self.restore_instance(vhost, service, kept, now).map_err(|Dangling| LoadError::Dangling(what()))
            }
            _ => Err(LoadError::Malformed(what())),
        }
    }

    fn restore_node(&self, vhost: &str, name: &str, value: &[u8], now: Millis) -> Result<(), Malformed> {
        let kept = node(name, value)?;
        let tenant = self.tenant(vhost);
        let mut state = self.lock();
        let own = state.tenants.get(tenant.number as usize).map_or(0, |t| t.own_node);
        let checks = restored(&mut state, kept.checks, now);
        // One may have been registered under the name that we have now.
        let is_ours = state.nodes.get(own as usize).is_some_and(|n| n.spec.name.to_lowercase() == name.to_lowercase());
        if kept.is_self || is_ours {
            if let Some(node) = state.nodes.get_mut(own as usize) {
                (node.maintenance, node.checks, node.lsn) = (kept.maintenance, checks, Lsn(1));
            }
            let count = state.nodes.get(own as usize).map_or(0, |n| n.checks.len());
            if let Some(tenant) = state.tenants.get_mut(tenant.number as usize) {
                tenant.checks += count;
            }
            state.node_changed(own, now);
            state.settle_node(own, now);
        } else {
            let mut node = state.new_node(&tenant, kept.spec, Registering::Other);
            (node.maintenance, node.checks) = (kept.maintenance, checks);
            state.add_node(node, now);
        }
        Ok(())
    }

    fn restore_instance(&self, vhost: &str, service: &str, kept: KeptInstance, now: Millis) -> Result<(), Dangling> {
        let tenant = self.tenant(vhost);
        let mut state = self.lock();
        let node = match &kept.detail.node {
            Some(name) => {
                let name = name.to_lowercase();
                let known = state.tenants.get(tenant.number as usize).and_then(|t| t.nodes.get(name.as_str()).copied());
                let place = known.ok_or(Dangling)?;
                state.nodes.get(place as usize).is_some_and(|n| !n.is_self).then_some(place)
            }
            None => None,
        };
        let place = state.service(&tenant, service, 0);
        let checks = restored(&mut state, kept.checks, now);
        let registration = Registration {
            instance: kept.instance,
            owner: kept.owner,
            source: kept.source,
            lease_ms: (kept.lease_ms > 0).then_some(u64::from(kept.lease_ms)),
            checks: Vec::new(),
            detail: kept.detail,
        };
        let mut entry = state.new_entry(place, registration, node, now);
        entry.checks = checks;
        if kept.drain_until.is_some() || kept.maintenance.is_some() || kept.source == Source::Connection {
            let rare = entry.rare_mut();
            (rare.drain_until, rare.maintenance) = (kept.drain_until, kept.maintenance);
            rare.returning_until = (kept.source == Source::Connection).then(|| now.plus(RETURN_MS));
        }
        let place = state.add(entry, now);
        state.schedule(super::timers::Subject::Instance(place), now.plus(1));
        Ok(())
    }
}

/// It refers to something that is not there.
struct Dangling;

/// Checks with what they said before. A deadline begins anew.
fn restored(state: &mut State, checks: Vec<(CheckSpec, Health)>, now: Millis) -> Box<[super::entry::Check]> {
    let index = state.next_index();
    let restore = |(i, (spec, status)): (usize, (CheckSpec, Health))| {
        let mut check = super::entry::Check::new(Arc::new(spec), status, now);
        check.modified = index;
        check.restart(now, state.jitter(index as u32, i), super::limits::RESTART_WITHIN_MS);
        check
    };
    checks.into_iter().enumerate().map(restore).collect()
}

impl State {
    fn new(seed: Seeded, now: Millis) -> State {
        State {
            seed,
            index: now.0.max(1),
            incarnations: 0,
            runs: 0,
            claim_ids: 0,
            tenants: Slab::new(),
            services: Slab::new(),
            entries: Slab::new(),
            nodes: Slab::new(),
            by_name: HashTable::new(),
            by_id: HashTable::new(),
            claims: HashMap::with_hasher(seed),
            ghosts: HashMap::with_hasher(seed),
            timers: Timers::default(),
            tags: Pool::new(seed),
            meta: Pool::new(seed),
            zones: Pool::new(seed),
            versions: Pool::new(seed),
            empty_services: 0,
            swept: now,
            forgotten: 0,
            changes: Default::default(),
            told: Vec::new(),
            due: Vec::new(),
            followed: false,
            stopping: false,
        }
    }

    pub fn new_tenant(&mut self, vhost: &str, own: NodeSpec) -> Arc<TenantShared> {
        let index = self.next_index();
        let number = self.tenants.vacant_key() as u32;
        let shared = Arc::new(TenantShared {
            name: vhost.into(),
            number,
            cells: RwLock::new(HashMap::with_hasher(self.seed)),
            list: Arc::new(Topic::new(index)),
            list_view: ArcSwapOption::empty(),
            nodes: Arc::new(Topic::new(index)),
            checks: Arc::new(Topic::new(index)),
            feed: Feed::new(index),
            pushed: Feed::new(index),
            turn: Default::default(),
        });
        let node = self.new_node(&shared, own, Registering::Own);
        let name = node.spec.name.to_lowercase().into();
        let own_node = self.nodes.insert(node) as u32;
        self.tenants.insert(Tenant {
            shared: Arc::clone(&shared),
            nodes: [(name, own_node)].into(),
            own_node,
            services: 0,
            instances: 0,
            checks: 0,
        });
        shared
    }

    /// Everything that there is, as changes.
    pub fn everything(&self) -> Vec<(ServiceName, InstanceChange)> {
        let mut all = Vec::new();
        for (_, service) in self.services.iter().filter(|(_, s)| !s.members.is_empty()) {
            all.push((service.name.clone(), InstanceChange::Wanted));
            for entry in service.members.iter().filter_map(|place| self.entries.get(*place as usize)) {
                let (instance, standing) = (Arc::clone(&entry.instance), entry.standing());
                let change = InstanceChange::Is { instance, standing, incarnation: entry.incarnation };
                all.push((service.name.clone(), change));
            }
        }
        all
    }
}
