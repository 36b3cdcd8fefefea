//! Looking and waiting.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use waypost_model::service::{Health, ServiceName, is_service_name};

use super::feed::{Event, Lost};
use super::limits::EMPTY_NAMES_MAX;
use super::state::{Cell, NEVER, Service, State, TenantShared};
use super::view::{Listed, NodeView, ServiceEntry, ServiceList, ServiceView, Summary};
use super::{Registry, Services};
use crate::watch::{Changed, Topic};

impl Services {
    /// The vhost.
    #[must_use]
    pub fn vhost(&self) -> &Arc<str> {
        &self.tenant.name
    }

    /// A service as it is now. Of a name that nobody knows, an empty view.
    #[must_use]
    pub fn view(&self, service: &str) -> Arc<ServiceView> {
        let Some(cell) = self.cell(service) else {
            let name = ServiceName { vhost: Arc::clone(&self.tenant.name), service: service.into() };
            let index = self.registry.lock().index;
            return Arc::new(ServiceView::new(name, index, 0, Vec::new()));
        };
        let fresh = |cell: &Cell| {
            let view = cell.view.load_full()?;
            if !cell.used.load(Ordering::Relaxed) {
                cell.used.store(true, Ordering::Relaxed);
            }
            (view.revision == cell.revision.load(Ordering::Acquire)).then_some(view)
        };
        if let Some(view) = fresh(&cell) {
            return view;
        }
        // One makes it, the others wait for that one.
        let _making = cell.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = fresh(&cell) {
            return view;
        }
        let (name, index, revision, mut instances) = self.registry.lock().instances_of(&cell, &self.tenant, service);
        instances.sort_unstable_by(|a, b| a.instance.id.cmp(&b.instance.id));
        let view = Arc::new(ServiceView::new(name, index, revision, instances));
        cell.view.store(Some(Arc::clone(&view)));
        view
    }

    /// Waits until a service's index is higher than `since`; also for a service that nobody knows yet.
    pub fn changed(&self, service: &str, since: u64) -> Changed {
        if let Some(cell) = self.cell(service) {
            return cell.topic.changed(since);
        }
        if !is_service_name(service) {
            // What nobody can be called nobody will be.
            return Arc::new(Topic::new(0)).changed(u64::MAX);
        }
        let mut state = self.registry.lock();
        let place = state.service(&self.tenant, service, since);
        match state.services.get(place as usize) {
            Some(service) => service.cell.topic.changed(since),
            None => Arc::new(Topic::new(since)).changed(since),
        }
    }

    /// The services that have instances, with their tags.
    #[must_use]
    pub fn list(&self) -> Arc<ServiceList> {
        let fresh = || self.tenant.list_view.load_full().filter(|list| list.index == self.tenant.list.index());
        fresh().unwrap_or_else(|| {
            let list = Arc::new(self.registry.lock().service_list(&self.tenant));
            self.tenant.list_view.store(Some(Arc::clone(&list)));
            list
        })
    }

    /// Waits until a service or a tag has come or gone since `since`.
    pub fn list_changed(&self, since: u64) -> Changed {
        self.tenant.list.changed(since)
    }

    /// How many instances of each service are how, sorted by name.
    #[must_use]
    pub fn summaries(&self) -> Vec<Summary> {
        let mut all = self.registry.lock().summaries(&self.tenant);
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Every instance of the vhost with its service, sorted by service and id. Costs time and memory as the number of
    /// instances: for listings of everything only. The index is that of [`Services::checks_changed`].
    #[must_use]
    pub fn everything(&self) -> (u64, Vec<(Arc<str>, Listed)>) {
        let (index, mut all) = self.registry.lock().every_instance(&self.tenant);
        all.sort_unstable_by(|a, b| (&a.0, &a.1.instance.id).cmp(&(&b.0, &b.1.instance.id)));
        (index, all)
    }

    /// Waits until a check's status or an instance's health has changed since `since`.
    pub fn checks_changed(&self, since: u64) -> Changed {
        self.tenant.checks.changed(since)
    }

    /// An instance by its id alone, with its service: any of them if several services have one of that id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<(Arc<str>, Listed)> {
        let mut state = self.registry.lock();
        let place = state.find_by_id(self.tenant.number, id)?;
        let listed = state.listed(place)?;
        let service = state.entries.get(place as usize)?.service;
        Some((Arc::clone(&state.services.get(service as usize)?.name.service), listed))
    }

    /// An instance of a service, without the others: cheaper than [`Services::view`] for who follows changes.
    #[must_use]
    pub fn instance(&self, service: &str, id: &str) -> Option<Listed> {
        let mut state = self.registry.lock();
        let place = self.instance_place(&state, service, id)?;
        state.listed(place)
    }

    /// This server as a node.
    #[must_use]
    pub fn own_node(&self) -> Arc<NodeView> {
        let mut state = self.registry.lock();
        let place = state.tenants.get(self.tenant.number as usize).map(|tenant| tenant.own_node);
        place.and_then(|place| state.node_view(place)).unwrap_or_else(|| {
            let spec = Arc::new(self.registry.settings.own_node.clone());
            Arc::new(NodeView {
                spec,
                checks: Arc::default(),
                health: Health::Passing,
                maintenance: None,
                is_self: true,
                created: 1,
                modified: 1,
            })
        })
    }

    /// A node without what is on it. The name's case does not matter.
    #[must_use]
    pub fn node_alone(&self, name: &str) -> Option<Arc<NodeView>> {
        let mut state = self.registry.lock();
        let tenant = state.tenants.get(self.tenant.number as usize)?;
        let place = *tenant.nodes.get(name.to_lowercase().as_str())?;
        state.node_view(place)
    }

    /// Index of the last change of a check's status or an instance's health.
    #[must_use]
    pub fn checks_index(&self) -> u64 {
        self.tenant.checks.index()
    }

    /// All nodes, this server first, the others sorted by name; and the index of their last change.
    #[must_use]
    pub fn nodes(&self) -> (u64, Vec<Arc<NodeView>>) {
        let mut state = self.registry.lock();
        let places = match state.tenants.get(self.tenant.number as usize) {
            Some(tenant) => {
                let others = tenant.nodes.values().filter(|place| **place != tenant.own_node);
                std::iter::once(tenant.own_node).chain(others.copied()).collect()
            }
            None => Vec::new(),
        };
        let views = places.into_iter().filter_map(|place| state.node_view(place)).collect();
        (self.tenant.nodes.index(), views)
    }

    /// Waits until a node has come, gone or changed since `since`.
    pub fn nodes_changed(&self, since: u64) -> Changed {
        self.tenant.nodes.changed(since)
    }

    /// A node and what is registered on it, sorted by service and id. What is registered without naming a node is on
    /// this server's. The name's case does not matter. The index is that of [`Services::node_changed`].
    #[must_use]
    pub fn node(&self, name: &str) -> Option<(u64, Arc<NodeView>, Vec<(Arc<str>, Listed)>)> {
        let mut state = self.registry.lock();
        let tenant = state.tenants.get(self.tenant.number as usize)?;
        let place = *tenant.nodes.get(name.to_lowercase().as_str())?;
        let view = state.node_view(place)?;
        let node = state.nodes.get(place as usize)?;
        // Every change of an instance moves the index of the checks; what is on us has no index of its own.
        let index = if node.is_self { self.tenant.checks.index().max(node.topic.index()) } else { node.topic.index() };
        let mut all = if node.is_self {
            let (_, all) = state.every_instance(&self.tenant);
            all.into_iter().filter(|(_, listed)| listed.node.is_none()).collect()
        } else {
            let members = node.members.clone();
            state.with_names(&members)
        };
        drop(state);
        all.sort_unstable_by(|a, b| (&a.0, &a.1.instance.id).cmp(&(&b.0, &b.1.instance.id)));
        Some((index, view, all))
    }

    /// Waits until a node or something on it has changed since `since`. Of a node that nobody knows: until any node has.
    pub fn node_changed(&self, name: &str, since: u64) -> Changed {
        let state = self.registry.lock();
        let tenant = state.tenants.get(self.tenant.number as usize);
        let place = tenant.and_then(|tenant| tenant.nodes.get(name.to_lowercase().as_str()));
        match place.and_then(|place| state.nodes.get(*place as usize)) {
            Some(node) if node.is_self => self.tenant.checks.changed(since),
            Some(node) => node.topic.changed(since),
            None => self.tenant.nodes.changed(since),
        }
    }

    /// The changes of all instances since `since`, in order.
    ///
    /// # Errors
    /// [`Lost`] if they are not all kept any more.
    pub fn events(&self, since: u64) -> Result<Vec<Event>, Lost> {
        self.tenant.feed.since(since)
    }

    /// Waits for an event after `since`. The index of the last one is that of `events_changed(0)`.
    pub fn events_changed(&self, since: u64) -> Changed {
        self.tenant.feed.topic.changed(since)
    }

    /// Index of the last event so far.
    #[must_use]
    pub fn events_index(&self) -> u64 {
        self.tenant.feed.topic.index()
    }

    /// As [`Services::events`], of instances alone that have, or had, an endpoint to which messages are pushed.
    ///
    /// # Errors
    /// [`Lost`] if they are not all kept any more.
    pub fn pushed_events(&self, since: u64) -> Result<Vec<Event>, Lost> {
        self.tenant.pushed.since(since)
    }

    /// Waits for such an event after `since`.
    pub fn pushed_events_changed(&self, since: u64) -> Changed {
        self.tenant.pushed.topic.changed(since)
    }

    /// Index of the last such event so far.
    #[must_use]
    pub fn pushed_events_index(&self) -> u64 {
        self.tenant.pushed.topic.index()
    }

    fn cell(&self, service: &str) -> Option<Arc<Cell>> {
        self.tenant.cells.read().unwrap_or_else(PoisonError::into_inner).get(service).cloned()
    }
}

impl Registry {
    /// Drops snapshots that nobody has used since the last call, so that they do not take memory for ever.
    pub fn drop_old_views(&self) {
        let tenants: Vec<_> = self.tenants.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for tenant in tenants {
            let cells = tenant.cells.read().unwrap_or_else(PoisonError::into_inner);
            for cell in cells.values() {
                if !cell.used.swap(false, Ordering::Relaxed) {
                    cell.view.store(None);
                }
            }
        }
    }
}

impl State {
    /// The place of a service, made if it is not known. A new one counts as changed at `since` or before, so that who has
    /// seen that there is none waits for one, and is woken by nothing else.
    pub fn service(&mut self, shared: &Arc<TenantShared>, name: &str, since: u64) -> u32 {
        let known = shared.cells.read().unwrap_or_else(PoisonError::into_inner).get(name).map(|cell| cell.service);
        if let Some(place) = known {
            return place;
        }
        if self.empty_services >= EMPTY_NAMES_MAX {
            self.forget_names(NEVER);
        }
        let index = since.min(self.index).max(self.forgotten).max(1);
        let place = self.services.vacant_key() as u32;
        let cell = Arc::new(Cell {
            topic: Arc::new(Topic::new(index)),
            revision: AtomicU64::new(0),
            view: ArcSwapOption::empty(),
            making: Mutex::new(()),
            service: place,
            used: AtomicBool::new(true),
        });
        let name: Arc<str> = name.into();
        self.services.insert(Service {
            name: ServiceName { vhost: Arc::clone(&shared.name), service: Arc::clone(&name) },
            tenant: shared.number,
            cell: Arc::clone(&cell),
            members: Vec::new(),
            tags: Default::default(),
            losses: Default::default(),
            panic_until: waypost_model::Millis(0),
            empty_since: waypost_model::Millis(0),
            had: false,
        });
        self.empty_services += 1;
        shared.cells.write().unwrap_or_else(PoisonError::into_inner).insert(name, cell);
        place
    }

    /// Forgets names without instances, without anybody who waits, and empty since before `before`.
    pub fn forget_names(&mut self, before: waypost_model::Millis) {
        let (services, tenants) = (&self.services, &self.tenants);
        let mut gone = Vec::new();
        for (place, service) in services.iter().filter(|(_, s)| s.members.is_empty() && s.empty_since < before) {
            let Some(tenant) = tenants.get(service.tenant as usize) else { continue };
            let mut cells = tenant.shared.cells.write().unwrap_or_else(PoisonError::into_inner);
            // Whoever waits or is about to holds one of these; nobody can get one while the table is locked.
            if Arc::strong_count(&service.cell.topic) == 1 && Arc::strong_count(&service.cell) == 2 {
                cells.remove(&service.name.service);
                gone.push(place);
            }
        }
        for place in gone {
            if let Some(service) = self.services.try_remove(place) {
                self.empty_services -= 1;
                if service.had {
                    self.forgotten = self.forgotten.max(service.cell.topic.index());
                }
            }
        }
    }

    fn instances_of(
        &mut self,
        cell: &Arc<Cell>,
        tenant: &Arc<TenantShared>,
        name: &str,
    ) -> (ServiceName, u64, u64, Vec<Listed>) {
        let (index, revision) = (cell.topic.index(), cell.revision.load(Ordering::Acquire));
        let service = self.services.get(cell.service as usize).filter(|s| Arc::ptr_eq(&s.cell, cell));
        let Some(service) = service else {
            // Forgotten between the look at the table and now.
            let name = ServiceName { vhost: Arc::clone(&tenant.name), service: name.into() };
            return (name, self.index, revision, Vec::new());
        };
        let (name, members) = (service.name.clone(), service.members.clone());
        let instances = members.into_iter().filter_map(|place| self.listed(place)).collect();
        (name, index, revision, instances)
    }

    fn service_list(&self, tenant: &TenantShared) -> ServiceList {
        let entry = |service: &Service| ServiceEntry {
            name: Arc::clone(&service.name.service),
            tags: service.tags.keys().cloned().collect(),
        };
        let mut services: Vec<ServiceEntry> = self.services_of(tenant).map(entry).collect();
        services.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        ServiceList::new(tenant.list.index(), services)
    }

    fn services_of(&self, tenant: &TenantShared) -> impl Iterator<Item = &Service> {
        let number = tenant.number;
        self.services.iter().map(|(_, s)| s).filter(move |s| s.tenant == number && !s.members.is_empty())
    }

    fn summaries(&self, tenant: &TenantShared) -> Vec<Summary> {
        let summary = |service: &Service| {
            let mut sum = Summary {
                name: Arc::clone(&service.name.service),
                instances: service.members.len(),
                index: service.cell.topic.index(),
                ..Summary::default()
            };
            for entry in service.members.iter().filter_map(|place| self.entries.get(*place as usize)) {
                *match entry.health {
                    Health::Passing => &mut sum.passing,
                    Health::Warning => &mut sum.warning,
                    Health::Critical => &mut sum.critical,
                    Health::Starting => &mut sum.starting,
                } += 1;
                sum.draining += usize::from(entry.is_draining());
            }
            sum
        };
        self.services_of(tenant).map(summary).collect()
    }

    fn every_instance(&mut self, tenant: &TenantShared) -> (u64, Vec<(Arc<str>, Listed)>) {
        let places: Vec<u32> = self.services_of(tenant).flat_map(|s| s.members.iter().copied()).collect();
        (tenant.checks.index(), self.with_names(&places))
    }

    fn with_names(&mut self, places: &[u32]) -> Vec<(Arc<str>, Listed)> {
        let named = |place: &u32| {
            let service = self.entries.get(*place as usize)?.service;
            let name = Arc::clone(&self.services.get(service as usize)?.name.service);
            Some((name, self.listed(*place)?))
        };
        places.iter().filter_map(named).collect()
    }
}
