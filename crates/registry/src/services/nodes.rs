//! Nodes: this server, and those that others register in Consul's catalog.

use std::sync::{Arc, PoisonError};

use waypost_model::journal::Op;
use waypost_model::service::Health;
use waypost_model::{Lsn, Millis, Refusal};

use super::conditions::cut;
use super::entry::{Check, number, put_check};
use super::health::worse;
use super::limits::CHECKS_PER_OWNER_MAX;
use super::register::beyond;
use super::spec::{CheckKind, CheckSpec, NodeSpec, Source, check_list};
use super::state::{NEVER, Node, State, TenantShared};
use super::timers::Subject;
use super::{Registry, Services, persist};
use crate::watch::Topic;

impl Services {
    /// Since when a node is as it is described here; `None` if it is not.
    #[must_use]
    pub fn node_is(&self, node: NodeSpec) -> Option<Lsn> {
        let node = node.checked().ok()?;
        let state = self.registry.lock();
        let tenant = state.tenants.get(self.tenant.number as usize)?;
        let known = state.nodes.get(*tenant.nodes.get(node.name.to_lowercase().as_str())? as usize)?;
        (*known.spec == node).then_some(known.lsn)
    }

    /// Registers a node, or registers it anew. What is on it stays. To register this server's changes nothing.
    ///
    /// # Errors
    /// 406 for what is invalid, 506 beyond a limit or when the journal takes nothing.
    pub fn register_node(&self, node: NodeSpec, now: Millis) -> Result<Lsn, Refusal> {
        let node = node.checked()?;
        self.registry.change(now, |state| {
            let key = node.name.to_lowercase();
            let Some(tenant) = state.tenants.get(self.tenant.number as usize) else { return Ok(Lsn::default()) };
            if let Some(place) = tenant.nodes.get(key.as_str()).copied() {
                let Some(old) = state.nodes.get_mut(place as usize) else { return Ok(Lsn::default()) };
                if old.is_self || *old.spec == node {
                    return Ok(old.lsn);
                }
                let before = std::mem::replace(&mut old.spec, Arc::new(node));
                let Some(changed) = state.nodes.get(place as usize) else { return Ok(Lsn::default()) };
                let mut ops = vec![persist::put_node(&self.tenant.name, changed)];
                // A name with other capital letters is another key.
                if before.name != changed.spec.name {
                    ops.insert(0, persist::remove_node(&self.tenant.name, &before.name));
                }
                match self.registry.append(ops) {
                    Ok(lsn) => {
                        if let Some(node) = state.nodes.get_mut(place as usize) {
                            node.lsn = lsn;
                        }
                        state.node_changed(place, now);
                        return Ok(lsn);
                    }
                    Err(refusal) => {
                        if let Some(node) = state.nodes.get_mut(place as usize) {
                            node.spec = before;
                        }
                        return Err(refusal);
                    }
                }
            }
            let max = self.registry.settings.limits.nodes_max;
            if tenant.nodes.len() > max {
                return Err(beyond("nodes", max));
            }
            let mut new = state.new_node(&self.tenant, node, Registering::Other);
            new.lsn = self.registry.append(vec![persist::put_node(&self.tenant.name, &new)])?;
            let lsn = new.lsn;
            state.add_node(new, now);
            Ok(lsn)
        })
    }

    /// Removes a node with everything on it. `None` if there is none, or it is this server.
    ///
    /// # Errors
    /// 506 when the journal takes nothing.
    pub fn deregister_node(&self, name: &str, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.registry.change(now, |state| {
            let Ok(Some(place)) = self.node_place(state, name) else { return Ok(None) };
            let lsn = self.registry.append(self.registry.node_removals(state, place))?;
            state.remove_node(place, now);
            Ok(Some(lsn))
        })
    }

    /// Adds a check to a node, this server's too, or replaces the one of its id. `None` if there is no such node.
    ///
    /// # Errors
    /// 406 for an invalid one, 506 beyond a limit or when the journal takes nothing.
    pub fn add_node_check(&self, name: &str, check: CheckSpec, now: Millis) -> Result<Option<Lsn>, Refusal> {
        check_list(std::slice::from_ref(&check))?;
        self.alter_node(name, now, |state, place| {
            let Some(node) = state.nodes.get(place as usize) else { return Ok(false) };
            let known = node.checks.iter().find(|c| c.spec.id == check.id);
            if known.is_some_and(|c| *c.spec == check) {
                return Ok(false);
            }
            if known.is_none() {
                if node.checks.len() >= CHECKS_PER_OWNER_MAX {
                    let text = format!("a node has at most {CHECKS_PER_OWNER_MAX} checks");
                    return Err(Refusal::resource_error(text).soft());
                }
                self.room_for_checks(state, 1)?;
            }
            let status = check.initial;
            let mut new = Check::new(Arc::new(check), status, now);
            new.modified = state.next_index();
            new.restart(now, state.jitter(place, 0), super::limits::FIRST_RUN_WITHIN_MS);
            let Some(node) = state.nodes.get_mut(place as usize) else { return Ok(false) };
            let mut checks = std::mem::take(&mut node.checks).into_vec();
            put_check(&mut checks, new);
            node.checks = checks.into();
            Ok(true)
        })
    }

    /// Removes a check of a node. `None` if there is no such node.
    ///
    /// # Errors
    /// 506 when the journal takes nothing.
    pub fn remove_node_check(&self, name: &str, check: &str, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.alter_node(name, now, |state, place| {
            let Some(node) = state.nodes.get_mut(place as usize) else { return Ok(false) };
            let had = node.checks.len();
            let checks = std::mem::take(&mut node.checks).into_vec();
            node.checks = checks.into_iter().filter(|c| *c.spec.id != *check).collect();
            Ok(node.checks.len() < had)
        })
    }

    /// Takes a node with everything on it out of use (`Some` with a reason) or back into it. `None` if there is none.
    ///
    /// # Errors
    /// 506 when the journal takes nothing.
    pub fn maintain_node(&self, name: &str, reason: Option<&str>, now: Millis) -> Result<Option<Lsn>, Refusal> {
        let reason: Option<Arc<str>> = reason.map(|reason| cut(reason).into());
        self.alter_node(name, now, |state, place| {
            let Some(node) = state.nodes.get_mut(place as usize) else { return Ok(false) };
            let before = std::mem::replace(&mut node.maintenance, reason);
            Ok(before != node.maintenance)
        })
    }

    /// Somebody says how a check of a node is. False if there is no such node or check.
    pub fn report_node(&self, name: &str, check: &str, status: Health, output: &str, now: Millis) -> bool {
        self.registry.change(now, |state| {
            let Ok(Some(place)) = self.node_place_or_own(state, name) else { return false };
            let Some(node) = state.nodes.get_mut(place as usize) else { return false };
            let Some(check) = node.checks.iter_mut().find(|c| *c.spec.id == *check) else { return false };
            let changed = check.set(status, cut(output), false, now);
            if let CheckKind::Ttl { ttl_ms } = check.spec.kind {
                check.due = now.plus(ttl_ms);
            }
            let due = check.due;
            node.view = None;
            if changed {
                self.registry.keep_node(state, place);
                state.node_changed(place, now);
            }
            state.schedule(Subject::Node(place), due);
            true
        })
    }

    fn alter_node(
        &self,
        name: &str,
        now: Millis,
        change: impl FnOnce(&mut State, u32) -> Result<bool, Refusal>,
    ) -> Result<Option<Lsn>, Refusal> {
        self.registry.change(now, |state| {
            let Ok(Some(place)) = self.node_place_or_own(state, name) else { return Ok(None) };
            let Some(node) = state.nodes.get(place as usize) else { return Ok(None) };
            let (before, maintenance, lsn) = (node.checks.clone(), node.maintenance.clone(), node.lsn);
            if !change(state, place)? {
                return Ok(Some(lsn));
            }
            let Some(node) = state.nodes.get_mut(place as usize) else { return Ok(None) };
            let op = persist::put_node(&self.tenant.name, node);
            match self.registry.append(vec![op]) {
                Ok(lsn) => node.lsn = lsn,
                Err(refusal) => {
                    (node.checks, node.maintenance) = (before, maintenance);
                    return Err(refusal);
                }
            }
            let (lsn, has) = (node.lsn, node.checks.len());
            if let Some(tenant) = state.tenants.get_mut(self.tenant.number as usize) {
                tenant.checks = (tenant.checks + has).saturating_sub(before.len());
            }
            state.node_changed(place, now);
            state.settle_node(place, now);
            Ok(Some(lsn))
        })
    }

    fn node_place_or_own(&self, state: &State, name: &str) -> Result<Option<u32>, Refusal> {
        let Some(tenant) = state.tenants.get(self.tenant.number as usize) else { return Ok(None) };
        Ok(tenant.nodes.get(name.to_lowercase().as_str()).copied())
    }

    /// The place of a node, nothing for this server's.
    ///
    /// # Errors
    /// 404 if there is no such node.
    pub(super) fn node_place(&self, state: &State, name: &str) -> Result<Option<u32>, Refusal> {
        match self.node_place_or_own(state, name)? {
            Some(place) => {
                let is_self = state.nodes.get(place as usize).is_some_and(|node| node.is_self);
                Ok((!is_self).then_some(place))
            }
            None => Err(Refusal::not_found(format!("no node '{name}'"))),
        }
    }
}

/// Whether a node is this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Registering {
    Own,
    Other,
}

impl Registry {
    pub(super) fn keep_node(&self, state: &mut State, place: u32) {
        let Some(node) = state.nodes.get_mut(place as usize) else { return };
        let Some(tenant) = state.tenants.get(node.tenant as usize) else { return };
        if let Ok(lsn) = self.append(vec![persist::put_node(&tenant.shared.name, node)]) {
            node.lsn = lsn;
        }
    }

    /// What ends a node and all that is on it.
    pub(super) fn node_removals(&self, state: &State, place: u32) -> Vec<Op> {
        let Some(node) = state.nodes.get(place as usize) else { return Vec::new() };
        let Some(tenant) = state.tenants.get(node.tenant as usize) else { return Vec::new() };
        let removal = |member: &u32| {
            let entry = state.entries.get(*member as usize)?;
            let service = state.services.get(entry.service as usize)?;
            Some(persist::remove_instance(&tenant.shared.name, &service.name.service, &entry.instance.id))
        };
        let mut ops: Vec<Op> = node.members.iter().filter_map(removal).collect();
        ops.push(persist::remove_node(&tenant.shared.name, &node.spec.name));
        ops
    }

    /// What readers of a vhost share, made on the first look.
    pub(super) fn tenant(&self, vhost: &str) -> Arc<TenantShared> {
        let known = self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(vhost).cloned();
        known.unwrap_or_else(|| {
            // The state first, as everywhere.
            let mut state = self.lock();
            let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(made) = tenants.get(vhost) {
                return Arc::clone(made);
            }
            let shared = state.new_tenant(vhost, self.settings.own_node.clone());
            tenants.insert(Arc::clone(&shared.name), Arc::clone(&shared));
            shared
        })
    }
}

impl State {
    pub fn new_node(&mut self, tenant: &TenantShared, spec: NodeSpec, whose: Registering) -> Node {
        let index = self.next_index();
        Node {
            spec: Arc::new(spec),
            tenant: tenant.number,
            is_self: whose == Registering::Own,
            checks: Box::default(),
            members: Vec::new(),
            health: Health::Passing,
            maintenance: None,
            created: index,
            modified: index,
            lsn: Lsn::default(),
            scheduled: NEVER,
            topic: Arc::new(Topic::new(index)),
            view: None,
        }
    }

    pub fn add_node(&mut self, node: Node, now: Millis) -> u32 {
        let (tenant, name, checks) = (node.tenant, node.spec.name.to_lowercase(), node.checks.len());
        let place = self.nodes.insert(node) as u32;
        if let Some(tenant) = self.tenants.get_mut(tenant as usize) {
            tenant.nodes.insert(name.into(), place);
            tenant.checks += checks;
        }
        self.node_changed(place, now);
        self.settle_node(place, now);
        place
    }

    /// A node, or how it is, has changed: it is judged anew, and so is what is on it.
    pub fn node_changed(&mut self, place: u32, now: Millis) {
        let index = self.next_index();
        let Some(node) = self.nodes.get_mut(place as usize) else { return };
        node.health = node.checks.iter().fold(Health::Passing, |worst, check| worse(worst, check.status));
        (node.modified, node.view) = (index, None);
        number(&mut node.checks, index);
        node.topic.raise(index);
        let (topic, number, is_self) = (Arc::clone(&node.topic), node.tenant, node.is_self);
        let members = if is_self { Vec::new() } else { node.members.clone() };
        self.tell(topic);
        self.touch_checks(number, index);
        let Some(tenant) = self.tenants.get(number as usize) else { return };
        tenant.shared.nodes.raise(index);
        let topic = Arc::clone(&tenant.shared.nodes);
        self.tell(topic);
        let members = if is_self { self.agent_instances(number) } else { members };
        for member in members {
            if let Some(service) = self.entries.get(member as usize).map(|e| e.service) {
                self.touch_service(service, index);
            }
            self.evaluate(member, now);
        }
    }

    fn agent_instances(&self, tenant: u32) -> Vec<u32> {
        let of_agent = |(place, entry): (usize, &super::entry::Entry)| {
            let ours = entry.source == Source::Agent && self.tenant_of(entry.service) == Some(tenant);
            ours.then_some(place as u32)
        };
        self.entries.iter().filter_map(of_agent).collect()
    }

    /// The node on which an instance is has changed, as far as those see who look at it.
    pub fn touch_node_of(&mut self, place: u32, index: u64) {
        let node = self.entries.get(place as usize).and_then(|e| e.rare()).and_then(|rare| rare.node);
        if let Some(node) = node.and_then(|node| self.nodes.get(node as usize)) {
            node.topic.raise(index);
            let topic = Arc::clone(&node.topic);
            self.tell(topic);
        }
    }

    /// Removes a node and what is on it.
    pub fn remove_node(&mut self, place: u32, now: Millis) {
        let Some(node) = self.nodes.get(place as usize) else { return };
        for member in node.members.clone() {
            self.remove(member, now);
        }
        let Some(node) = self.nodes.try_remove(place as usize) else { return };
        let index = self.next_index();
        node.topic.raise(index);
        self.tell(node.topic);
        if let Some(tenant) = self.tenants.get_mut(node.tenant as usize) {
            tenant.nodes.remove(node.spec.name.to_lowercase().as_str());
            tenant.checks = tenant.checks.saturating_sub(node.checks.len());
            tenant.shared.nodes.raise(index);
            let topic = Arc::clone(&tenant.shared.nodes);
            self.tell(topic);
        }
        self.touch_checks(node.tenant, index);
    }
}
