//! Registering and deregistering.

use std::sync::Arc;

use waypost_model::journal::{AppendError, Op};
use waypost_model::service::{Health, InstanceChange, is_service_name};
use waypost_model::{Lsn, Millis, Refusal};

use super::entry::{Check, Endpoint, Entry, Rare, number};
use super::settle::Sign;
use super::spec::{CheckSpec, Registration, Source};
use super::state::{NEVER, State};
use super::timers::Subject;
use super::view::Why;
use super::{Registered, Services, persist};

impl Services {
    /// Registers an instance, or registers it anew: then its checks keep what they say, as far as they are the same, and
    /// nobody is told if nothing is new. Its lease begins anew in any case.
    ///
    /// # Errors
    /// 406 for what is invalid, 404 for a node that is not registered, 405 if a connection is that instance, 506 beyond a
    /// limit or when the journal takes nothing.
    pub fn register(&self, service: &str, registration: Registration, now: Millis) -> Result<Registered, Refusal> {
        checked_name(service)?;
        let registration = registration.checked()?;
        self.registry.change(now, |state| self.register_in(state, service, registration, now))
    }

    fn register_in(
        &self,
        state: &mut State,
        service: &str,
        new: Registration,
        now: Millis,
    ) -> Result<Registered, Refusal> {
        let node = match &new.detail.node {
            Some(name) => self.node_place(state, name)?,
            None => None,
        };
        let place = state.service(&self.tenant, service, 0);
        if let Some(found) = state.find(place, &new.instance.id) {
            return self.register_again(state, found, node, new, now);
        }
        self.room_for(state, place, new.checks.len())?;
        let mut entry = state.new_entry(place, new, node, now);
        entry.lsn = self.keep(state, place, &entry)?;
        let (lsn, incarnation) = (entry.lsn, entry.incarnation);
        state.add(entry, now);
        Ok(Registered { lsn, created: true, changed: true, incarnation })
    }

    fn register_again(
        &self,
        state: &mut State,
        place: u32,
        node: Option<u32>,
        new: Registration,
        now: Millis,
    ) -> Result<Registered, Refusal> {
        let id = &new.instance.id;
        let Some(old) = state.entries.get(place as usize) else { return Err(Refusal::internal("an instance is gone")) };
        if old.source == Source::Connection && old.is_bound() {
            return Err(Refusal::resource_locked(format!("instance '{id}' lives by a connection")));
        }
        let returned = old.source == Source::Connection;
        if !returned && old.is_same(&new, node) {
            let (lsn, incarnation) = (old.lsn, old.incarnation);
            state.renew(place, now);
            return Ok(Registered { lsn, created: false, changed: false, incarnation });
        }
        let (service, had) = (old.service, old.checks.len());
        self.room_for_checks(state, new.checks.len().saturating_sub(had))?;
        let mut entry = state.new_entry(service, new, node, now);
        let Some(old) = state.entries.get(place as usize) else { return Err(Refusal::internal("an instance is gone")) };
        entry.take_over(old);
        entry.lsn = self.keep(state, service, &entry)?;
        let (lsn, incarnation) = (entry.lsn, entry.incarnation);
        state.replace(place, entry, now);
        Ok(Registered { lsn, created: false, changed: true, incarnation })
    }

    /// Removes an instance for good. `None` if there is none of that id; the journal's place of its end else.
    ///
    /// # Errors
    /// 405 if a connection is that instance, 506 when the journal takes nothing.
    pub fn deregister(&self, service: &str, id: &str, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.registry.change(now, |state| {
            let Some(place) = self.instance_place(state, service, id) else { return Ok(None) };
            let Some(entry) = state.entries.get(place as usize) else { return Ok(None) };
            if entry.source == Source::Connection && entry.is_bound() {
                return Err(Refusal::resource_locked(format!("instance '{id}' lives by a connection")));
            }
            let lsn = self.registry.append(vec![persist::remove_instance(&self.tenant.name, service, id)])?;
            state.remove(place, now);
            Ok(Some(lsn))
        })
    }

    pub(super) fn instance_place(&self, state: &State, service: &str, id: &str) -> Option<u32> {
        let cells = self.tenant.cells.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let place = cells.get(service)?.service;
        state.find(place, id)
    }

    /// Writes an instance down, if it is to be kept.
    pub(super) fn keep(&self, state: &State, service: u32, entry: &Entry) -> Result<Lsn, Refusal> {
        if !entry.is_kept() {
            return Ok(Lsn::default());
        }
        let name = state.services.get(service as usize).map(|s| &s.name);
        let Some(name) = name else { return Err(Refusal::internal("a service is gone")) };
        self.registry.append(vec![persist::put_instance(name, entry)])
    }

    pub(super) fn room_for(&self, state: &State, service: u32, checks: usize) -> Result<(), Refusal> {
        let limits = &self.registry.settings.limits;
        let Some(tenant) = state.tenants.get(self.tenant.number as usize) else { return Ok(()) };
        let is_new = state.services.get(service as usize).is_none_or(|s| s.members.is_empty());
        if is_new && tenant.services >= limits.services_max {
            return Err(beyond("services", limits.services_max));
        }
        if tenant.instances >= limits.instances_max {
            return Err(beyond("instances", limits.instances_max));
        }
        self.room_for_checks(state, checks)
    }

    pub(super) fn room_for_checks(&self, state: &State, more: usize) -> Result<(), Refusal> {
        let limits = &self.registry.settings.limits;
        let Some(tenant) = state.tenants.get(self.tenant.number as usize) else { return Ok(()) };
        if tenant.checks + more > limits.checks_max {
            return Err(beyond("checks", limits.checks_max));
        }
        Ok(())
    }
}

impl super::Registry {
    pub(super) fn append(&self, ops: Vec<Op>) -> Result<Lsn, Refusal> {
        self.journal.append(ops).map_err(|error: AppendError| Refusal::resource_error(error.to_string()).soft())
    }
}

pub(super) fn beyond(what: &str, max: usize) -> Refusal {
    Refusal::resource_error(format!("a vhost has at most {max} {what}")).soft()
}

pub(super) fn checked_name(service: &str) -> Result<(), Refusal> {
    if is_service_name(service) {
        return Ok(());
    }
    Err(Refusal::precondition_failed(format!("invalid service name '{service}': 1 to 63 of a-z, 0-9 and -")))
}

impl Entry {
    /// Whether a registration says nothing new.
    pub(super) fn is_same(&self, new: &Registration, node: Option<u32>) -> bool {
        let detail = self.detail().map_or_else(|| new.detail.is_empty(), |detail| **detail == new.detail);
        let specs = self.checks.iter().map(|c| &*c.spec);
        *self.instance == new.instance
            && self.source == new.source
            && *self.owner == *new.owner
            && u64::from(self.lease_ms) == new.lease_ms.unwrap_or(0)
            && detail
            && self.rare().and_then(|r| r.node) == node
            && specs.eq(new.checks.iter())
    }

    /// What a new registration of an instance keeps of the one before.
    pub(super) fn take_over(&mut self, old: &Entry) {
        (self.incarnation, self.created) = (old.incarnation, old.created);
        (self.scheduled, self.seat) = (old.scheduled, old.seat);
        for check in &mut self.checks {
            if let Some(before) = old.checks.iter().find(|before| before.spec == check.spec) {
                *check = before.clone();
            }
        }
        if let Some(rare) = old.rare() {
            let kept = Rare {
                node: self.rare().and_then(|r| r.node),
                bound: rare.bound,
                flap: rare.flap,
                drain_until: rare.drain_until,
                maintenance: rare.maintenance.clone(),
                ejected: rare.ejected,
                returning_until: None,
            };
            self.rare = Some(Box::new(kept));
        }
    }
}

impl State {
    /// An instance that is not in any table yet. Shares what it can with the one that came before it.
    pub fn new_entry(&mut self, service: u32, new: Registration, node: Option<u32>, now: Millis) -> Entry {
        let Registration { mut instance, owner, source, lease_ms, checks, detail } = new;
        instance.tags = self.tags.shared(instance.tags);
        instance.meta = self.meta.shared(instance.meta);
        instance.zone = self.zones.shared(instance.zone);
        instance.version = instance.version.map(|version| self.versions.shared(version));
        let instance = Arc::new(instance);
        let index = self.next_index();
        let sibling = self.services.get(service as usize).and_then(|s| s.members.last());
        let sibling = sibling.and_then(|place| self.entries.get(*place as usize));
        let owner = sibling.map(|s| &s.owner).filter(|o| ***o == *owner).map_or(owner, Arc::clone);
        let check = |(i, spec): (usize, CheckSpec)| {
            let same = sibling.and_then(|s| s.checks.iter().find(|c| *c.spec == spec));
            let spec = same.map_or_else(|| Arc::new(spec), |c| Arc::clone(&c.spec));
            let status = spec.initial;
            let mut check = Check::new(spec, status, now);
            check.modified = index;
            check.restart(now, self.jitter(service ^ index as u32, i), super::limits::FIRST_RUN_WITHIN_MS);
            check
        };
        let checks = checks.into_iter().enumerate().map(check).collect();
        let same = sibling.and_then(|s| s.detail()).filter(|known| ***known == detail);
        let detail = match same {
            Some(known) => Some(Arc::clone(known)),
            None => (!detail.is_empty()).then(|| Arc::new(detail)),
        };
        let rare = node.is_some().then(|| Box::new(Rare { node, ..Rare::default() }));
        self.incarnations += 1;
        Entry {
            instance,
            owner,
            service,
            seat: 0,
            incarnation: self.incarnations,
            created: index,
            modified: index,
            lsn: Lsn::default(),
            expires: lease_ms.map_or(NEVER, |ms| now.plus(ms)),
            scheduled: NEVER,
            lease_ms: lease_ms.map_or(0, |ms| u32::try_from(ms).unwrap_or(u32::MAX)),
            source,
            health: Health::Passing,
            why: Why::Plain,
            lapsed: false,
            checks,
            detail,
            rare,
        }
    }

    /// Puts a new instance into every table and tells whoever must know.
    pub fn add(&mut self, mut entry: Entry, now: Millis) -> u32 {
        let (service, index) = (entry.service, entry.modified);
        number(&mut entry.checks, index);
        let tenant = self.tenant_of(service).unwrap_or_default();
        let tags = Arc::clone(&entry.instance.tags);
        let (checks, node) = (entry.checks.len(), entry.rare().and_then(|r| r.node));
        let place = self.insert(tenant, entry);
        if let Some(node) = node.and_then(|node| self.nodes.get_mut(node as usize)) {
            node.members.push(place);
        }
        let mut list_changed = self.count_tags(service, &tags, Sign::More);
        let mut first = false;
        if let Some(tenant) = self.tenants.get_mut(tenant as usize) {
            tenant.instances += 1;
            tenant.checks += checks;
            if let Some(service) = self.services.get_mut(service as usize)
                && service.members.len() == 1
            {
                tenant.services += 1;
                service.had = true;
                self.empty_services -= 1;
                (list_changed, first) = (true, true);
            }
        }
        if first {
            self.emit(service, InstanceChange::Wanted, Endpoint::None);
        }
        // Its health before anybody hears of it.
        self.judge_quietly(place, now);
        self.settle(place, now);
        if list_changed {
            self.touch_list(tenant, index);
        }
        self.touch_service(service, index);
        self.touch_checks(tenant, index);
        self.touch_node_of(place, index);
        self.announce(place);
        place
    }

    /// Puts a new registration in an instance's place.
    pub fn replace(&mut self, place: u32, mut entry: Entry, now: Millis) {
        let index = self.next_index();
        let Some(old) = self.entries.get(place as usize) else { return };
        entry.modified = index;
        let service = entry.service;
        let tenant = self.tenant_of(service).unwrap_or_default();
        let (old_tags, new_tags) = (Arc::clone(&old.instance.tags), Arc::clone(&entry.instance.tags));
        let (old_checks, new_checks) = (old.checks.len(), entry.checks.len());
        let had = old.endpoint();
        let (old_node, new_node) = (old.rare().and_then(|r| r.node), entry.rare().and_then(|r| r.node));
        (entry.health, entry.why) = (old.health, old.why);
        number(&mut entry.checks, index);
        if let Some(slot) = self.entries.get_mut(place as usize) {
            *slot = entry;
        }
        if old_node != new_node {
            if let Some(node) = old_node.and_then(|node| self.nodes.get_mut(node as usize)) {
                node.members.retain(|member| *member != place);
            }
            if let Some(node) = new_node.and_then(|node| self.nodes.get_mut(node as usize)) {
                node.members.push(place);
            }
        }
        // More first: a tag that both have neither goes nor comes.
        let more = self.count_tags(service, &new_tags, Sign::More);
        let less = self.count_tags(service, &old_tags, Sign::Less);
        if let Some(tenant) = self.tenants.get_mut(tenant as usize) {
            tenant.checks = tenant.checks + new_checks - old_checks;
        }
        if more || less {
            self.touch_list(tenant, index);
        }
        self.judge_quietly(place, now);
        self.settle(place, now);
        self.touch_service(service, index);
        self.touch_checks(tenant, index);
        self.touch_node_of(place, index);
        self.announce_as(place, had);
    }

    /// A sign of life: the lease begins anew. What was critical only for its silence is well again.
    pub fn renew(&mut self, place: u32, now: Millis) {
        let Some(entry) = self.entries.get_mut(place as usize) else { return };
        if entry.lease_ms == 0 {
            return;
        }
        entry.expires = now.plus(u64::from(entry.lease_ms));
        let revived = std::mem::replace(&mut entry.lapsed, false);
        let expires = entry.expires;
        if revived {
            self.settle(place, now);
        }
        self.schedule(Subject::Instance(place), expires);
    }
}
