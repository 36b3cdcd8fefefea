//! Everything that the registry knows, behind one lock that is held for as long as one change takes. Who looks uses
//! snapshots and needs the lock only when its snapshot is old.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use hashbrown::HashTable;
use slab::Slab;
use waypost_model::service::{Health, InstanceChange, ServiceName, Version};
use waypost_model::{Lsn, Millis};

use super::entry::{Check, CheckRun, Endpoint, Entry, Flap, check_views};
use super::feed::Feed;
use super::pool::Pool;
use super::spec::NodeSpec;
use super::timers::{Subject, Timers};
use super::view::{Listed, NodeView, ServiceList, ServiceView};
use crate::watch::Topic;
use waypost_model::Seeded;

/// The end of time: no deadline.
pub(super) const NEVER: Millis = Millis(u64::MAX);

/// What readers of a service share.
#[derive(Debug)]
pub(super) struct Cell {
    pub topic: Arc<Topic>,
    /// Rises with everything that a snapshot shows, also with what wakes nobody.
    pub revision: AtomicU64,
    pub view: ArcSwapOption<ServiceView>,
    /// Held while a snapshot is made, so that one is made for all.
    pub making: std::sync::Mutex<()>,
    /// Place of the service.
    pub service: u32,
    /// Whether somebody has looked since this was cleared.
    pub used: std::sync::atomic::AtomicBool,
}

/// What readers of a vhost share.
#[derive(Debug)]
pub(super) struct TenantShared {
    pub name: Arc<str>,
    pub number: u32,
    pub cells: std::sync::RwLock<HashMap<Arc<str>, Arc<Cell>, Seeded>>,
    /// Moves when a service or a tag comes or goes.
    pub list: Arc<Topic>,
    pub list_view: ArcSwapOption<ServiceList>,
    /// Moves when a node changes.
    pub nodes: Arc<Topic>,
    /// Moves when a check's status changes.
    pub checks: Arc<Topic>,
    pub feed: Feed,
    /// The same of instances with an endpoint alone, for those who serve these: most services have none.
    pub pushed: Feed,
    /// For choices between instances.
    pub turn: AtomicU64,
}

/// A vhost.
#[derive(Debug)]
pub(super) struct Tenant {
    pub shared: Arc<TenantShared>,
    /// By name in lower case.
    pub nodes: BTreeMap<Box<str>, u32>,
    pub own_node: u32,
    /// Services with instances.
    pub services: usize,
    pub instances: usize,
    pub checks: usize,
}

/// A service; also one that has no instances, while somebody waits for it or remembers it.
#[derive(Debug)]
pub(super) struct Service {
    pub name: ServiceName,
    pub tenant: u32,
    pub cell: Arc<Cell>,
    pub members: Vec<u32>,
    /// How many instances have a tag.
    pub tags: BTreeMap<Box<str>, u32>,
    /// When instances fell silent lately.
    pub losses: VecDeque<Millis>,
    pub panic_until: Millis,
    /// Since when it has no instances.
    pub empty_since: Millis,
    /// Whether it ever had one.
    pub had: bool,
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub spec: Arc<NodeSpec>,
    pub tenant: u32,
    pub is_self: bool,
    pub checks: Box<[Check]>,
    pub members: Vec<u32>,
    pub health: Health,
    pub maintenance: Option<Arc<str>>,
    pub created: u64,
    pub modified: u64,
    pub lsn: Lsn,
    pub scheduled: Millis,
    pub topic: Arc<Topic>,
    /// The snapshot that its instances show.
    pub view: Option<Arc<NodeView>>,
}

/// A claim.
#[derive(Debug)]
pub(super) struct Claimant {
    pub entry: u32,
    pub incarnation: u64,
    pub named: bool,
}

/// An instance that is gone, while it is remembered.
#[derive(Debug)]
pub(super) struct Ghost {
    /// Its id is for this user only...
    pub owner: Arc<str>,
    /// ...until then.
    pub held_until: Millis,
    pub flap: Flap,
}

pub(super) type GhostKey = (u32, Box<str>);

#[derive(Debug)]
pub(super) struct State {
    pub seed: Seeded,
    pub index: u64,
    pub incarnations: u64,
    pub runs: u64,
    pub claim_ids: u64,
    pub tenants: Slab<Tenant>,
    pub services: Slab<Service>,
    pub entries: Slab<Entry>,
    pub nodes: Slab<Node>,
    /// Instances by service and id.
    pub by_name: HashTable<u32>,
    /// Instances by vhost and id, which several may share.
    pub by_id: HashTable<u32>,
    pub claims: HashMap<u64, Claimant, Seeded>,
    pub ghosts: HashMap<GhostKey, Ghost, Seeded>,
    pub timers: Timers,
    pub tags: Pool<[Box<str>]>,
    pub meta: Pool<[(Box<str>, Box<str>)]>,
    pub zones: Pool<str>,
    pub versions: Pool<Version>,
    pub empty_services: usize,
    /// When what is kept for a while was looked through last.
    pub swept: Millis,
    /// The highest index of a name that was forgotten.
    pub forgotten: u64,
    /// What goes out when the lock is given up.
    pub changes: VecDeque<(ServiceName, InstanceChange)>,
    pub told: Vec<Arc<Topic>>,
    pub due: Vec<CheckRun>,
    /// Whether anybody follows.
    pub followed: bool,
    /// The server stops: who goes now goes because of us.
    pub stopping: bool,
}

impl State {
    pub fn next_index(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    fn hash(&self, within: u32, id: &str) -> u64 {
        use std::hash::BuildHasher as _;
        self.seed.hash_one((within, id))
    }

    /// An instance by service and id.
    pub fn find(&self, service: u32, id: &str) -> Option<u32> {
        let same = |place: &u32| {
            self.entries.get(*place as usize).is_some_and(|e| e.service == service && *e.instance.id == *id)
        };
        self.by_name.find(self.hash(service, id), same).copied()
    }

    /// An instance of a vhost by its id alone; any of them if several services have one.
    pub fn find_by_id(&self, tenant: u32, id: &str) -> Option<u32> {
        let same = |place: &u32| {
            let entry = self.entries.get(*place as usize);
            entry.is_some_and(|e| *e.instance.id == *id && self.tenant_of(e.service) == Some(tenant))
        };
        self.by_id.find(self.hash(tenant, id), same).copied()
    }

    /// An instance of a vhost by its id and its node; `None`: on this server's.
    pub fn find_on(&self, tenant: u32, node: Option<u32>, id: &str) -> Option<u32> {
        let same = |place: &u32| {
            self.entries.get(*place as usize).is_some_and(|entry| {
                *entry.instance.id == *id
                    && entry.rare().and_then(|rare| rare.node) == node
                    && self.tenant_of(entry.service) == Some(tenant)
            })
        };
        self.by_id.find(self.hash(tenant, id), same).copied()
    }

    pub fn tenant_of(&self, service: u32) -> Option<u32> {
        self.services.get(service as usize).map(|s| s.tenant)
    }

    /// Puts an instance in, and says where it is.
    pub fn insert(&mut self, tenant: u32, mut entry: Entry) -> u32 {
        let (service, id) = (entry.service, Arc::clone(&entry.instance));
        if let Some(service) = self.services.get(service as usize) {
            entry.seat = service.members.len() as u32;
        }
        let place = self.entries.insert(entry) as u32;
        let (by_name, by_id) = (self.hash(service, &id.id), self.hash(tenant, &id.id));
        let (entries, services, seed) = (&self.entries, &self.services, self.seed);
        let again = |place: &u32, named: bool| {
            use std::hash::BuildHasher as _;
            let Some(e) = entries.get(*place as usize) else { return 0 };
            let within = if named { e.service } else { services.get(e.service as usize).map_or(0, |s| s.tenant) };
            seed.hash_one((within, &*e.instance.id))
        };
        self.by_name.insert_unique(by_name, place, |place| again(place, true));
        self.by_id.insert_unique(by_id, place, |place| again(place, false));
        if let Some(service) = self.services.get_mut(service as usize) {
            service.members.push(place);
        }
        place
    }

    /// Takes an instance out of every table.
    pub fn take(&mut self, place: u32) -> Option<Entry> {
        let entry = self.entries.get(place as usize)?;
        let (service, id) = (entry.service, Arc::clone(&entry.instance));
        let tenant = self.tenant_of(service).unwrap_or_default();
        let (by_name, by_id) = (self.hash(service, &id.id), self.hash(tenant, &id.id));
        if let Ok(found) = self.by_name.find_entry(by_name, |p| *p == place) {
            found.remove();
        }
        if let Ok(found) = self.by_id.find_entry(by_id, |p| *p == place) {
            found.remove();
        }
        let entry = self.entries.try_remove(place as usize)?;
        if let Some(service) = self.services.get_mut(service as usize) {
            service.members.swap_remove(entry.seat as usize);
            if let Some(moved) = service.members.get(entry.seat as usize)
                && let Some(other) = self.entries.get_mut(*moved as usize)
            {
                other.seat = entry.seat;
            }
        }
        Some(entry)
    }

    /// The service has changed as far as those see who look at it.
    pub fn touch_service(&mut self, service: u32, index: u64) {
        let Some(service) = self.services.get(service as usize) else { return };
        service.cell.topic.raise(index);
        service.cell.revision.fetch_add(1, Ordering::Release);
        let topic = Arc::clone(&service.cell.topic);
        self.tell(topic);
    }

    /// Something that is shown has changed, but nobody is to be woken for it.
    pub fn touch_quietly(&mut self, service: u32) {
        if let Some(service) = self.services.get(service as usize) {
            service.cell.revision.fetch_add(1, Ordering::Release);
        }
    }

    pub fn tell(&mut self, topic: Arc<Topic>) {
        if !self.told.last().is_some_and(|last| Arc::ptr_eq(last, &topic)) {
            self.told.push(topic);
        }
    }

    pub fn touch_checks(&mut self, tenant: u32, index: u64) {
        if let Some(tenant) = self.tenants.get(tenant as usize) {
            tenant.shared.checks.raise(index);
            let topic = Arc::clone(&tenant.shared.checks);
            self.tell(topic);
        }
    }

    pub fn touch_list(&mut self, tenant: u32, index: u64) {
        if let Some(tenant) = self.tenants.get(tenant as usize) {
            tenant.shared.list.raise(index);
            let topic = Arc::clone(&tenant.shared.list);
            self.tell(topic);
        }
    }

    /// Says to those who follow that an instance is, or how it is.
    pub fn announce(&mut self, place: u32) {
        self.announce_as(place, Endpoint::None);
    }

    /// The same of an instance that may have had an endpoint before.
    pub fn announce_as(&mut self, place: u32, had: Endpoint) {
        let Some(entry) = self.entries.get(place as usize) else { return };
        let change = InstanceChange::Is {
            instance: Arc::clone(&entry.instance),
            standing: entry.standing(),
            incarnation: entry.incarnation,
        };
        let endpoint = if had == Endpoint::Some { had } else { entry.endpoint() };
        self.emit(entry.service, change, endpoint);
    }

    pub fn emit(&mut self, service: u32, change: InstanceChange, endpoint: Endpoint) {
        let index = self.next_index();
        let Some(service) = self.services.get(service as usize) else { return };
        if let Some(tenant) = self.tenants.get(service.tenant as usize) {
            let event =
                super::feed::Event { index, service: Arc::clone(&service.name.service), change: change.clone() };
            let pushed = (endpoint == Endpoint::Some).then(|| event.clone());
            tenant.shared.feed.push(event);
            let (topic, name) = (Arc::clone(&tenant.shared.feed.topic), service.name.clone());
            let pushed = pushed.map(|event| {
                tenant.shared.pushed.push(event);
                Arc::clone(&tenant.shared.pushed.topic)
            });
            self.tell(topic);
            pushed.into_iter().for_each(|topic| self.tell(topic));
            if self.followed {
                self.changes.push_back((name, change));
            }
        }
    }

    /// Sets the deadline of an instance or node, unless an earlier one is set, which will look again.
    pub fn schedule(&mut self, subject: Subject, at: Millis) {
        let scheduled = match subject {
            Subject::Instance(place) => self.entries.get_mut(place as usize).map(|e| &mut e.scheduled),
            Subject::Node(place) => self.nodes.get_mut(place as usize).map(|n| &mut n.scheduled),
        };
        if let Some(scheduled) = scheduled
            && at < *scheduled
        {
            *scheduled = at;
            self.timers.set(at, subject);
        }
        let live = self.entries.len() + self.nodes.len();
        if self.timers.len() > 2 * live + 1024 {
            let (entries, nodes) = (&self.entries, &self.nodes);
            self.timers.retain(|at, subject| match subject {
                Subject::Instance(place) => entries.get(place as usize).is_some_and(|e| e.scheduled == at),
                Subject::Node(place) => nodes.get(place as usize).is_some_and(|n| n.scheduled == at),
            });
        }
    }

    pub fn listed(&mut self, place: u32) -> Option<Listed> {
        let node = self.entries.get(place as usize)?.rare().and_then(|rare| rare.node);
        let node = node.and_then(|node| self.node_view(node));
        Some(self.entries.get(place as usize)?.shown(node))
    }

    /// The snapshot of a node, made again only when it has changed.
    pub fn node_view(&mut self, place: u32) -> Option<Arc<NodeView>> {
        let node = self.nodes.get_mut(place as usize)?;
        if node.view.is_none() {
            node.view = Some(Arc::new(node.shown()));
        }
        node.view.clone()
    }
}

impl Node {
    /// As it is shown.
    pub fn shown(&self) -> NodeView {
        NodeView {
            spec: Arc::clone(&self.spec),
            checks: check_views(&self.checks),
            health: self.health,
            maintenance: self.maintenance.clone(),
            is_self: self.is_self,
            created: self.created,
            modified: self.modified,
        }
    }
}
