//! Direct exchanges: the binding key is the routing key.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Sink, Target, Targets};
use waypost_model::Seeded;

#[derive(Debug)]
pub(crate) struct Direct {
    by_key: HashMap<Arc<[u8]>, Targets, Seeded>,
}

impl Direct {
    pub fn new(seeded: Seeded) -> Direct {
        Direct { by_key: HashMap::with_hasher(seeded) }
    }

    pub fn add(&mut self, key: &Arc<[u8]>, target: Target) {
        if let Some(targets) = self.by_key.get_mut(key) {
            targets.add(target);
            return;
        }
        let mut targets = Targets::default();
        targets.add(target);
        self.by_key.insert(Arc::clone(key), targets);
    }

    pub fn remove(&mut self, key: &[u8], target: Target) {
        let Some(targets) = self.by_key.get_mut(key) else {
            return;
        };
        targets.remove(target);
        if targets.is_empty() {
            self.by_key.remove(key);
            // A queue per reply, each with its key: room that was once needed is given back.
            if self.by_key.len() * 8 < self.by_key.capacity() {
                self.by_key.shrink_to(self.by_key.len() * 2);
            }
        }
    }

    pub fn route(&self, key: &[u8], out: &mut Sink) {
        if let Some(targets) = self.by_key.get(key) {
            targets.give(out);
        }
    }
}
