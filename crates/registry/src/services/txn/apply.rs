//! A transaction that can be carried out: what is written, and putting it in force.

use std::collections::HashSet;

use waypost_model::journal::Op;
use waypost_model::{Lsn, Millis};

use super::super::entry::Entry;
use super::super::state::{Node, State};
use super::super::{Services, persist};
use super::Outcome;
use super::stage::{Numbered, Staged, StagedInstance, StagedNode};

impl Staged {
    /// What is to be written.
    pub fn ops(&self, services: &Services, state: &State) -> Vec<Op> {
        let vhost = &services.tenant.name;
        let mut ops = Vec::new();
        for node in self.nodes.iter().filter(|node| node.changed) {
            match (&node.now, node.name(state)) {
                (Some(now), before) => {
                    // A name with other capital letters is another key.
                    if let Some(before) = before.filter(|before| **before != *now.spec.name) {
                        ops.push(persist::remove_node(vhost, before));
                    }
                    ops.push(persist::put_node(vhost, now));
                }
                (None, Some(name)) => ops.push(persist::remove_node(vhost, name)),
                (None, None) => {}
            }
            for place in self.untouched(node, state) {
                ops.extend(removal(vhost, state, place));
            }
        }
        for one in self.instances.iter().filter(|one| one.changed) {
            let Some(service) = state.services.get(one.service as usize) else { continue };
            match &one.now {
                Some(entry) if entry.is_kept() => ops.push(persist::put_instance(&service.name, entry)),
                None if one.place.is_some() => {
                    ops.push(persist::remove_instance(vhost, &service.name.service, &one.id));
                }
                Some(_) | None => {}
            }
        }
        ops
    }

    /// What goes with a node without having been touched itself.
    fn untouched(&self, node: &StagedNode, state: &State) -> Vec<u32> {
        let members = node.place.filter(|_| node.cleared).and_then(|place| state.nodes.get(place as usize));
        let touched: HashSet<u32> = self.instances.iter().filter_map(|one| one.place).collect();
        let members = members.into_iter().flat_map(|node| node.members.iter().copied());
        members.filter(|member| !touched.contains(member)).collect()
    }

    /// Puts it in force: it is in the journal at `lsn`.
    pub fn apply(mut self, services: &Services, state: &mut State, lsn: Lsn, now: Millis) -> Vec<Outcome> {
        let mut nodes = std::mem::take(&mut self.nodes);
        let gone: Vec<u32> = nodes.iter().flat_map(|node| self.untouched(node, state)).collect();
        let mut empty = Vec::new();
        for node in nodes.iter_mut().filter(|node| node.changed) {
            match node.now.take() {
                Some(new) => node.place = Some(put_node(services, state, node.place, Node { lsn, ..new }, now)),
                None => empty.extend(node.place.take()),
            }
        }
        gone.into_iter().for_each(|place| state.remove(place, now));
        for one in self.instances.iter_mut().filter(|one| one.changed) {
            let node = one.node.as_ref().and_then(|key| nodes.iter().find(|node| node.key == *key));
            put_instance(state, one, node.and_then(|node| node.place), lsn, now);
        }
        empty.into_iter().for_each(|place| state.remove_node(place, now));
        let number = |(outcome, numbered): (Outcome, Numbered)| match numbered {
            Numbered::No => outcome,
            Numbered::Node(at) => {
                let place = nodes.get(at).filter(|node| node.changed).and_then(|node| node.place);
                numbered_by_node(outcome, place.and_then(|place| state.nodes.get(place as usize)))
            }
            Numbered::Instance(at) => {
                let place = self.instances.get(at).filter(|one| one.changed).and_then(|one| one.place);
                numbered_by_instance(outcome, place.and_then(|place| state.entries.get(place as usize)))
            }
        };
        self.outcomes.into_iter().map(number).collect()
    }
}

impl StagedNode {
    fn name<'a>(&self, state: &'a State) -> Option<&'a str> {
        self.place.and_then(|place| state.nodes.get(place as usize)).map(|node| &*node.spec.name)
    }
}

fn removal(vhost: &str, state: &State, place: u32) -> Option<Op> {
    let entry = state.entries.get(place as usize)?;
    let service = state.services.get(entry.service as usize)?;
    Some(persist::remove_instance(vhost, &service.name.service, &entry.instance.id))
}

fn put_node(services: &Services, state: &mut State, place: Option<u32>, new: Node, now: Millis) -> u32 {
    let live = place.and_then(|place| Some((place, state.nodes.get_mut(place as usize)?)));
    let Some((place, live)) = live else { return state.add_node(new, now) };
    let (had, has) = (live.checks.len(), new.checks.len());
    (live.spec, live.checks, live.lsn) = (new.spec, new.checks, new.lsn);
    if let Some(tenant) = state.tenants.get_mut(services.tenant.number as usize) {
        tenant.checks = (tenant.checks + has).saturating_sub(had);
    }
    state.node_changed(place, now);
    state.settle_node(place, now);
    place
}

fn put_instance(state: &mut State, one: &mut StagedInstance, node: Option<u32>, lsn: Lsn, now: Millis) {
    let Some(mut entry) = one.now.take() else {
        one.place.take().into_iter().for_each(|place| state.remove(place, now));
        return;
    };
    entry.lsn = lsn;
    if node.is_some() || entry.rare.is_some() {
        entry.rare_mut().node = node;
    }
    // The broker is told that one is gone and another one has come.
    if one.reborn {
        one.place.take().into_iter().for_each(|place| state.remove(place, now));
    }
    match one.place {
        Some(place) => {
            // Others have moved since the copy was made.
            if let Some(live) = state.entries.get(place as usize) {
                (entry.seat, entry.scheduled) = (live.seat, live.scheduled);
            }
            state.replace(place, entry, now);
        }
        None => one.place = Some(state.add(entry, now)),
    }
}

fn numbered_by_node(mut outcome: Outcome, node: Option<&Node>) -> Outcome {
    let Some(node) = node else { return outcome };
    match &mut outcome {
        Outcome::Node(view) => (view.created, view.modified) = (node.created, node.modified),
        Outcome::Check(check, view, _) => {
            view.created = node.created;
            let found = node.checks.iter().find(|one| one.spec.id == check.spec.id);
            check.modified = found.map_or(check.modified, |found| found.modified);
        }
        Outcome::Done | Outcome::Instance(..) => {}
    }
    outcome
}

fn numbered_by_instance(mut outcome: Outcome, entry: Option<&Entry>) -> Outcome {
    let Some(entry) = entry else { return outcome };
    match &mut outcome {
        Outcome::Instance(_, listed) => (listed.created, listed.modified) = (entry.created, entry.modified),
        Outcome::Check(check, _, Some((_, listed))) => {
            listed.created = entry.created;
            let found = entry.checks.iter().find(|one| one.spec.id == check.spec.id);
            check.modified = found.map_or(check.modified, |found| found.modified);
        }
        Outcome::Done | Outcome::Node(_) | Outcome::Check(..) => {}
    }
    outcome
}
