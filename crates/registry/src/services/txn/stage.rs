//! A transaction in the making: copies of what it touches.

use std::sync::Arc;

use waypost_model::{Lsn, Millis, Refusal};

use super::super::Services;
use super::super::conditions::cut;
use super::super::entry::{Check, Entry, put_check};
use super::super::limits::{CHECKS_PER_OWNER_MAX, FIRST_RUN_WITHIN_MS};
use super::super::nodes::Registering;
use super::super::register::{beyond, checked_name};
use super::super::spec::{CheckSpec, NodeSpec, Registration, Source, check_list};
use super::super::state::{Cell, Node, State};
use super::{Change, Fault, Outcome, Target, Verb};

/// A node that is touched.
#[derive(Debug)]
pub(super) struct StagedNode {
    /// Its name in small letters.
    pub key: Box<str>,
    /// Where it was before.
    pub place: Option<u32>,
    /// What it is to be; `None`: gone.
    pub now: Option<Node>,
    /// What was on it before is gone, as far as it is not touched itself.
    pub cleared: bool,
    pub changed: bool,
}

/// An instance that is touched.
#[derive(Debug)]
pub(super) struct StagedInstance {
    pub service: u32,
    pub id: Box<str>,
    /// The key of its node; `None`: it is on this server's.
    pub node: Option<Box<str>>,
    /// Where it was before.
    pub place: Option<u32>,
    /// What it is to be; `None`: gone.
    pub now: Option<Entry>,
    /// It was removed, so that what comes after is another one.
    pub reborn: bool,
    pub changed: bool,
}

/// Whose index an outcome shows, once that is known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Numbered {
    /// It stays as it is.
    No,
    Node(usize),
    Instance(usize),
}

/// What a transaction comes to.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub nodes: Vec<StagedNode>,
    pub instances: Vec<StagedInstance>,
    pub outcomes: Vec<(Outcome, Numbered)>,
    /// When all that was looked at is durable.
    pub seen: Lsn,
    /// Held, so that no name is forgotten, and its place given to another one, before an instance comes to it.
    pub names: Vec<Arc<Cell>>,
}

pub(super) struct Stage<'a> {
    services: &'a Services,
    state: &'a mut State,
    now: Millis,
    staged: Staged,
    /// How much there is to be more.
    checks: usize,
    added: usize,
    /// Services that had no instances.
    founded: Vec<u32>,
}

/// Whose check it is.
enum Owner {
    Node(usize),
    Instance(usize),
}

impl<'a> Stage<'a> {
    pub fn new(services: &'a Services, state: &'a mut State, now: Millis) -> Stage<'a> {
        Stage { services, state, now, staged: Staged::default(), checks: 0, added: 0, founded: Vec::new() }
    }

    pub fn finish(self) -> Staged {
        self.staged
    }

    /// Tries one operation.
    pub fn run(&mut self, change: &Change) -> Result<(), Fault> {
        let outcome = match &change.target {
            Target::Node(node) => self.node(change.verb, node)?,
            Target::Instance { node, id, wanted } => match (change.verb, wanted) {
                (Verb::Set | Verb::Cas(_), Some((service, wanted))) => {
                    self.set_instance(change.verb, node, service, (**wanted).clone())?
                }
                (verb, _) => self.instance(verb, node, id)?,
            },
            Target::Check { node, instance, check, output } => {
                self.check(change.verb, node, instance, check, output)?
            }
        };
        self.staged.outcomes.push(outcome);
        Ok(())
    }

    /// The copy of a node.
    fn node_at(&mut self, name: &str) -> usize {
        let key: Box<str> = name.to_lowercase().into();
        if let Some(known) = self.staged.nodes.iter().position(|node| node.key == key) {
            return known;
        }
        let tenant = self.state.tenants.get(self.services.tenant.number as usize);
        let place = tenant.and_then(|tenant| tenant.nodes.get(&key)).copied();
        let now = place.and_then(|place| self.state.nodes.get(place as usize)).cloned();
        self.staged.seen = self.staged.seen.max(now.as_ref().map_or(Lsn::default(), |node| node.lsn));
        self.staged.nodes.push(StagedNode { key, place, now, cleared: false, changed: false });
        self.staged.nodes.len() - 1
    }

    fn staged_node(&self, at: usize) -> Option<&Node> {
        self.staged.nodes.get(at).and_then(|node| node.now.as_ref())
    }

    fn node(&mut self, verb: Verb, spec: &NodeSpec) -> Result<(Outcome, Numbered), Fault> {
        let at = self.node_at(&spec.name);
        let found = self.staged_node(at);
        let (index, is_self) = (found.map(|node| node.modified), found.is_some_and(|node| node.is_self));
        if !goes(verb, index, || format!("node {:?}", spec.name))? {
            return Ok((Outcome::Done, Numbered::No));
        }
        if is_self && !verb.is_look() {
            return Err(Refusal::precondition_failed("this server's own node cannot be changed").into());
        }
        match verb {
            Verb::Get => {}
            Verb::Set | Verb::Cas(_) => self.set_node(at, spec.clone().checked()?)?,
            Verb::Delete | Verb::DeleteCas(_) => {
                self.delete_node(at);
                return Ok((Outcome::Done, Numbered::No));
            }
        }
        let Some(node) = self.staged_node(at) else { return Err(Fault::NoNode) };
        Ok((Outcome::Node(Box::new(node.shown())), Numbered::Node(at)))
    }

    fn set_node(&mut self, at: usize, spec: NodeSpec) -> Result<(), Fault> {
        let (tenant, limits) = (&self.services.tenant, &self.services.registry.settings.limits);
        let new = |n: &&StagedNode| n.place.is_none() && n.now.is_some();
        let more = self.staged.nodes.iter().filter(new).count();
        let had = self.state.tenants.get(tenant.number as usize).map_or(0, |t| t.nodes.len());
        let Some(node) = self.staged.nodes.get_mut(at) else { return Ok(()) };
        match &mut node.now {
            Some(now) if *now.spec == spec => return Ok(()),
            Some(now) => now.spec = Arc::new(spec),
            None if node.place.is_none() && had + more > limits.nodes_max => {
                return Err(beyond("nodes", limits.nodes_max).into());
            }
            None => node.now = Some(self.state.new_node(tenant, spec, Registering::Other)),
        }
        node.changed = true;
        Ok(())
    }

    /// With everything on it.
    fn delete_node(&mut self, at: usize) {
        let Some(node) = self.staged.nodes.get_mut(at) else { return };
        (node.now, node.cleared, node.changed) = (None, true, true);
        let on_it = |one: &&mut StagedInstance| one.node.as_ref() == Some(&node.key);
        self.staged.instances.iter_mut().filter(on_it).for_each(StagedInstance::remove);
    }

    /// The copy of an instance on a node, if there is one.
    fn instance_on(&mut self, node: usize, id: &str) -> Option<usize> {
        let staged = self.staged.nodes.get(node)?;
        let is_self = staged.now.as_ref().is_some_and(|node| node.is_self);
        let key = (!is_self).then(|| staged.key.clone());
        let here = |one: &StagedInstance| one.node == key && *one.id == *id && one.now.is_some();
        if let Some(known) = self.staged.instances.iter().position(here) {
            return Some(known);
        }
        if staged.cleared {
            return None;
        }
        let on = if is_self { None } else { Some(staged.place?) };
        let place = self.state.find_on(self.services.tenant.number, on, id)?;
        self.copy(place)
    }

    /// A copy of an instance, unless it is touched already: then it is elsewhere now, or gone.
    fn copy(&mut self, place: u32) -> Option<usize> {
        if self.staged.instances.iter().any(|one| one.place == Some(place)) {
            return None;
        }
        let entry = self.state.entries.get(place as usize)?.clone();
        let node = entry.rare().and_then(|rare| rare.node).and_then(|node| self.state.nodes.get(node as usize));
        let node = node.map(|node| node.spec.name.to_lowercase().into());
        self.staged.seen = self.staged.seen.max(entry.lsn);
        let (service, id) = (entry.service, entry.instance.id.clone());
        let (place, now) = (Some(place), Some(entry));
        self.staged.instances.push(StagedInstance { service, id, node, place, now, reborn: false, changed: false });
        Some(self.staged.instances.len() - 1)
    }

    fn entry(&self, at: usize) -> Option<&Entry> {
        self.staged.instances.get(at).and_then(|one| one.now.as_ref())
    }

    /// Shows or removes an instance.
    fn instance(&mut self, verb: Verb, node: &str, id: &str) -> Result<(Outcome, Numbered), Fault> {
        let on = self.node_at(node);
        let found = self.instance_on(on, id);
        let index = found.and_then(|at| self.entry(at)).map(|entry| entry.modified);
        if !goes(verb, index, || format!("service {id:?} on node {node:?}"))? {
            return Ok((Outcome::Done, Numbered::No));
        }
        let Some(at) = found else { return Err(Fault::NoInstance) };
        if verb.is_look() {
            return self.shown(at);
        }
        self.must_be_free(at)?;
        if let Some(one) = self.staged.instances.get_mut(at) {
            one.remove();
        }
        Ok((Outcome::Done, Numbered::No))
    }

    fn shown(&self, at: usize) -> Result<(Outcome, Numbered), Fault> {
        let one = self.staged.instances.get(at).ok_or(Fault::NoInstance)?;
        let entry = one.now.as_ref().ok_or(Fault::NoInstance)?;
        let name = self.state.services.get(one.service as usize).ok_or(Fault::NoInstance)?;
        Ok((Outcome::Instance(Arc::clone(&name.name.service), Box::new(entry.shown(None))), Numbered::Instance(at)))
    }

    fn must_be_free(&self, at: usize) -> Result<(), Fault> {
        let bound = self.entry(at).filter(|entry| entry.source == Source::Connection && entry.is_bound());
        bound.map_or(Ok(()), |entry| {
            Err(Refusal::resource_locked(format!("instance '{}' lives by a connection", entry.instance.id)).into())
        })
    }

    fn set_instance(
        &mut self,
        verb: Verb,
        node: &str,
        service: &str,
        mut wanted: Registration,
    ) -> Result<(Outcome, Numbered), Fault> {
        let on = self.node_at(node);
        let (is_self, name) = self.staged_node(on).map(|n| (n.is_self, n.spec.name.clone())).ok_or(Fault::NoNode)?;
        let key = self.staged.nodes.get(on).map(|node| node.key.clone()).filter(|_| !is_self);
        wanted.detail.node = (!is_self).then(|| (&*name).into());
        checked_name(service)?;
        let wanted = wanted.checked()?;
        let index = self.instance_on(on, &wanted.instance.id).and_then(|at| self.entry(at)).map(|e| e.modified);
        goes(verb, index, || format!("service {:?} on node {node:?}", wanted.instance.id))?;
        let service = self.state.service(&self.services.tenant, service, 0);
        self.staged.names.extend(self.state.services.get(service as usize).map(|s| Arc::clone(&s.cell)));
        let at = self.slot(service, &wanted.instance.id);
        self.must_be_free(at)?;
        self.put(at, key, wanted)?;
        self.shown(at)
    }

    /// Where the copy of an instance of a service is or would be, wherever it runs.
    fn slot(&mut self, service: u32, id: &str) -> usize {
        let same = |one: &StagedInstance| one.service == service && *one.id == *id;
        if let Some(known) = self.staged.instances.iter().position(same) {
            return known;
        }
        if let Some(at) = self.state.find(service, id).and_then(|place| self.copy(place)) {
            return at;
        }
        let new = StagedInstance {
            service,
            id: id.into(),
            node: None,
            place: None,
            now: None,
            reborn: false,
            changed: false,
        };
        self.staged.instances.push(new);
        self.staged.instances.len() - 1
    }

    fn put(&mut self, at: usize, node: Option<Box<str>>, mut wanted: Registration) -> Result<(), Fault> {
        let Some(one) = self.staged.instances.get(at) else { return Ok(()) };
        let (service, was_gone) = (one.service, one.place.is_some_and(|place| self.is_cleared(place)));
        // What was on a node that is removed before is another instance.
        let old = one.now.as_ref().filter(|_| !was_gone);
        // Checks are set for themselves.
        for check in old.iter().flat_map(|old| &old.checks) {
            if wanted.checks.iter().all(|new| new.id != check.spec.id) {
                wanted.checks.push((*check.spec).clone());
            }
        }
        let place = old.and_then(|old| old.rare()).and_then(|rare| rare.node);
        if let Some(old) = old
            && one.node == node
            && old.source != Source::Connection
            && old.is_same(&wanted, place)
        {
            return Ok(());
        }
        check_list(&wanted.checks)?;
        let had = old.map_or(0, |old| old.checks.len());
        let (reborn, is_new) = (one.reborn || was_gone, one.now.is_none() && one.place.is_none());
        let more = wanted.checks.len().saturating_sub(had);
        self.room(if is_new { Some(service) } else { None }, more)?;
        let old = self.staged.instances.get_mut(at).and_then(|one| one.now.take()).filter(|_| !was_gone);
        let mut entry = self.state.new_entry(service, wanted, None, self.now);
        if let Some(old) = &old {
            entry.take_over(old);
        }
        if let Some(one) = self.staged.instances.get_mut(at) {
            (one.now, one.node, one.reborn, one.changed) = (Some(entry), node, reborn, true);
        }
        Ok(())
    }

    /// Whether an instance went with its node before, in this transaction.
    fn is_cleared(&self, place: u32) -> bool {
        let node = self.state.entries.get(place as usize).and_then(|e| e.rare()).and_then(|rare| rare.node);
        node.is_some_and(|node| self.staged.nodes.iter().any(|n| n.cleared && n.place == Some(node)))
    }

    fn room(&mut self, new_in: Option<u32>, checks: usize) -> Result<(), Fault> {
        let limits = &self.services.registry.settings.limits;
        let Some(tenant) = self.state.tenants.get(self.services.tenant.number as usize) else { return Ok(()) };
        if tenant.checks + self.checks + checks > limits.checks_max {
            return Err(beyond("checks", limits.checks_max).into());
        }
        if let Some(service) = new_in {
            let is_empty = self.state.services.get(service as usize).is_none_or(|s| s.members.is_empty());
            let founds = is_empty && !self.founded.contains(&service);
            if founds && tenant.services + self.founded.len() >= limits.services_max {
                return Err(beyond("services", limits.services_max).into());
            }
            if tenant.instances + self.added >= limits.instances_max {
                return Err(beyond("instances", limits.instances_max).into());
            }
            self.added += 1;
            self.founded.extend(founds.then_some(service));
        }
        self.checks += checks;
        Ok(())
    }

    fn check(
        &mut self,
        verb: Verb,
        node: &str,
        instance: &str,
        spec: &CheckSpec,
        output: &str,
    ) -> Result<(Outcome, Numbered), Fault> {
        let on = self.node_at(node);
        let owner = match (instance.is_empty(), self.staged_node(on).is_some()) {
            (true, true) => Some(Owner::Node(on)),
            (false, _) => self.instance_on(on, instance).map(Owner::Instance),
            (true, false) => None,
        };
        let checks = owner.as_ref().and_then(|owner| self.checks_of(owner)).unwrap_or_default();
        let index = checks.iter().find(|check| check.spec.id == spec.id).map(|check| check.modified);
        if !goes(verb, index, || format!("check {:?} on node {node:?}", spec.id))? {
            return Ok((Outcome::Done, Numbered::No));
        }
        let missing = if self.staged_node(on).is_some() { Fault::NoInstance } else { Fault::NoNode };
        let Some(owner) = owner else { return Err(missing) };
        match verb {
            Verb::Get => {}
            Verb::Set | Verb::Cas(_) => self.set_check(&owner, spec, output)?,
            Verb::Delete | Verb::DeleteCas(_) => {
                self.with_checks(&owner, |checks| checks.retain(|check| check.spec.id != spec.id));
                return Ok((Outcome::Done, Numbered::No));
            }
        }
        self.shown_check(on, &owner, &spec.id)
    }

    fn checks_of(&self, owner: &Owner) -> Option<&[Check]> {
        match owner {
            Owner::Node(at) => self.staged_node(*at).map(|node| &*node.checks),
            Owner::Instance(at) => self.entry(*at).map(|entry| &*entry.checks),
        }
    }

    fn with_checks(&mut self, owner: &Owner, change: impl FnOnce(&mut Vec<Check>)) {
        let (checks, changed) = match owner {
            Owner::Node(at) => match self.staged.nodes.get_mut(*at) {
                Some(StagedNode { now: Some(node), changed, .. }) => (&mut node.checks, changed),
                _ => return,
            },
            Owner::Instance(at) => match self.staged.instances.get_mut(*at) {
                Some(StagedInstance { now: Some(entry), changed, .. }) => (&mut entry.checks, changed),
                _ => return,
            },
        };
        let mut all = std::mem::take(checks).into_vec();
        change(&mut all);
        (*checks, *changed) = (all.into(), true);
    }

    fn set_check(&mut self, owner: &Owner, spec: &CheckSpec, output: &str) -> Result<(), Fault> {
        spec.check()?;
        let checks = self.checks_of(owner).unwrap_or_default();
        let (output, now) = (cut(output), self.now);
        let known = checks.iter().find(|check| check.spec.id == spec.id);
        if let Some(known) =
            known.filter(|known| CheckSpec { initial: known.spec.initial, ..spec.clone() } == *known.spec)
        {
            if known.status == spec.initial && *known.output == *output {
                return Ok(());
            }
            self.with_checks(owner, |checks| {
                if let Some(check) = checks.iter_mut().find(|check| check.spec.id == spec.id) {
                    check.set(spec.initial, output, false, now);
                    check.modified = 0;
                    check.restart(now, 0, FIRST_RUN_WITHIN_MS);
                }
            });
            return Ok(());
        }
        let (is_new, has) = (known.is_none(), checks.len());
        if is_new && has >= CHECKS_PER_OWNER_MAX {
            let text = format!("there are at most {CHECKS_PER_OWNER_MAX} checks of one node or instance");
            return Err(Refusal::resource_error(text).soft().into());
        }
        self.room(None, usize::from(is_new))?;
        let mut new = Check::new(Arc::new(spec.clone()), spec.initial, now);
        new.output = output.into();
        new.restart(now, self.state.jitter(0, has), FIRST_RUN_WITHIN_MS);
        self.with_checks(owner, |checks| put_check(checks, new));
        Ok(())
    }

    fn shown_check(&self, on: usize, owner: &Owner, id: &str) -> Result<(Outcome, Numbered), Fault> {
        let node = self.staged_node(on).ok_or(Fault::NoNode)?.shown();
        let checks = self.checks_of(owner).unwrap_or_default();
        let check = checks.iter().find(|check| *check.spec.id == *id).ok_or(Fault::NoInstance)?.view();
        let (of, numbered) = match owner {
            Owner::Node(at) => (None, Numbered::Node(*at)),
            Owner::Instance(at) => match self.shown(*at)? {
                (Outcome::Instance(service, listed), numbered) => (Some((service, listed)), numbered),
                _ => (None, Numbered::No),
            },
        };
        Ok((Outcome::Check(Box::new(check), Box::new(node), of), numbered))
    }
}

/// Whether something is to be done with what has this index. False where there is nothing to do.
fn goes(verb: Verb, index: Option<u64>, what: impl Fn() -> String) -> Result<bool, Fault> {
    let stale = |verb| Err(Fault::Stale { verb, what: what() });
    match (verb, index) {
        (Verb::Get, None) => Err(Fault::Missing(what())),
        (Verb::Cas(wanted), index) if index.unwrap_or(0) != wanted => stale("set"),
        (Verb::DeleteCas(wanted), index) if index != Some(wanted) => stale("delete"),
        (Verb::Delete, None) => Ok(false),
        _ => Ok(true),
    }
}

impl StagedInstance {
    fn remove(&mut self) {
        if self.now.take().is_some() {
            (self.reborn, self.changed) = (true, true);
        }
    }
}
