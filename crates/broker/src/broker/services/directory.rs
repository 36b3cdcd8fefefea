//! The broker's copy of who the instances of each service are.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use waypost_model::Seeded;
use waypost_model::service::{Instance, InstanceChange, ServiceName, Standing};

use crate::shard::Claimant;

/// See the module.
#[derive(Debug)]
pub(in crate::broker) struct Directory {
    seed: Seeded,
    services: HashMap<ServiceName, HashSet<Known, Seeded>, Seeded>,
}

/// An instance, found by its id, which is not stored twice.
#[derive(Debug, Clone)]
struct Known {
    instance: Arc<Instance>,
    standing: Standing,
    incarnation: u64,
}

impl Borrow<str> for Known {
    fn borrow(&self) -> &str {
        &self.instance.id
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Known) -> bool {
        self.instance.id == other.instance.id
    }
}

impl Eq for Known {}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.instance.id.hash(state);
    }
}

impl Known {
    fn claimant(&self) -> Claimant {
        Claimant { instance: Arc::clone(&self.instance), standing: self.standing, incarnation: self.incarnation }
    }
}

impl Directory {
    /// An empty one, with a number that nobody can guess.
    pub fn new(seed: u64) -> Directory {
        Directory { seed: Seeded(seed), services: HashMap::with_hasher(Seeded(seed)) }
    }

    /// Follows a change. What comes late is not taken.
    pub fn apply(&mut self, name: &ServiceName, change: &InstanceChange) {
        match change {
            InstanceChange::Is { instance, standing, incarnation } => {
                self.put(
                    name,
                    &Claimant { instance: Arc::clone(instance), standing: *standing, incarnation: *incarnation },
                );
            }
            InstanceChange::Gone { id, incarnation, .. } => {
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
        let of_service = match self.services.get_mut(name) {
            Some(found) => found,
            None => self.services.entry(name.clone()).or_insert_with(|| HashSet::with_hasher(self.seed)),
        };
        if of_service.get(&*new.instance.id).is_some_and(|known| known.incarnation > new.incarnation) {
            return;
        }
        let instance = Arc::clone(&new.instance);
        of_service.replace(Known { instance, standing: new.standing, incarnation: new.incarnation });
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
        self.services.get(name)?.get(id).map(Known::claimant)
    }

    /// The instances of a service, in order of id.
    pub fn instances(&self, name: &ServiceName) -> Vec<Claimant> {
        let mut all: Vec<_> = self.services.get(name).into_iter().flatten().map(Known::claimant).collect();
        all.sort_unstable_by(|a, b| a.instance.id.cmp(&b.instance.id));
        all
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
