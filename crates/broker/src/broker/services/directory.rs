//! The broker's copy of who the instances of each service are.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use waypost_model::service::{Instance, InstanceChange, ServiceName, Standing};

use crate::shard::Claimant;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::broker) struct Directory {
    services: BTreeMap<ServiceName, BTreeMap<ById, Entry>>,
}

/// An instance in order of its id, which is not stored twice.
#[derive(Debug, Clone)]
struct ById(Arc<Instance>);

#[derive(Debug, Clone, Copy)]
struct Entry {
    standing: Standing,
    incarnation: u64,
}

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        &self.0.id
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &ById) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &ById) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ById {
    fn cmp(&self, other: &ById) -> std::cmp::Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

impl Directory {
    /// Follows a change. What comes late is not taken.
    pub fn apply(&mut self, name: &ServiceName, change: &InstanceChange) {
        match change {
            InstanceChange::Is { instance, standing, incarnation } => {
                self.put(
                    name,
                    &Claimant { instance: Arc::clone(instance), standing: *standing, incarnation: *incarnation },
                );
            }
            InstanceChange::Gone { id, incarnation } => {
                let Some(of_service) = self.services.get_mut(name) else {
                    return;
                };
                if of_service.get(&**id).is_some_and(|known| known.incarnation <= *incarnation) {
                    of_service.remove(&**id);
                }
                if of_service.is_empty() {
                    self.services.remove(name);
                }
            }
            InstanceChange::Wanted => {}
        }
    }

    fn put(&mut self, name: &ServiceName, new: &Claimant) {
        let of_service = self.services.entry(name.clone()).or_default();
        if of_service.get(&*new.instance.id).is_some_and(|known| known.incarnation > new.incarnation) {
            return;
        }
        // The key holds what the instance says: it must be the new one, too.
        of_service.remove(&*new.instance.id);
        let entry = Entry { standing: new.standing, incarnation: new.incarnation };
        of_service.insert(ById(Arc::clone(&new.instance)), entry);
    }

    /// What is known of an instance that was claimed: the same as the claim, or what has come since.
    pub fn latest(&mut self, name: &ServiceName, claimed: Claimant) -> Claimant {
        match self.find(name, &claimed.instance.id).filter(|known| known.incarnation >= claimed.incarnation) {
            Some(known) => known,
            None => {
                self.put(name, &claimed);
                claimed
            }
        }
    }

    fn find(&self, name: &ServiceName, id: &str) -> Option<Claimant> {
        let (by_id, entry) = self.services.get(name)?.get_key_value(id)?;
        Some(Claimant { instance: Arc::clone(&by_id.0), standing: entry.standing, incarnation: entry.incarnation })
    }

    /// The instances of a service, in order of id.
    pub fn instances(&self, name: &ServiceName) -> Vec<Claimant> {
        let all = self.services.get(name).into_iter().flatten();
        all.map(|(i, e)| Claimant { instance: Arc::clone(&i.0), standing: e.standing, incarnation: e.incarnation })
            .collect()
    }

    pub fn has_instances(&self, name: &ServiceName) -> bool {
        self.services.contains_key(name)
    }

    /// The services of a vhost that have instances, in order of name.
    pub fn services(&self, vhost: &str) -> Vec<Arc<str>> {
        let of_vhost = self.services.keys().filter(|n| *n.vhost == *vhost);
        let mut all: Vec<_> = of_vhost.map(|n| Arc::clone(&n.service)).collect();
        all.sort_unstable();
        all
    }
}
