//! Fanout exchanges: everything bound.

use super::{Sink, Target, Targets};

#[derive(Debug, Default)]
pub(crate) struct Fanout {
    targets: Targets,
}

impl Fanout {
    pub fn add(&mut self, target: Target) {
        self.targets.add(target);
    }

    pub fn remove(&mut self, target: Target) {
        self.targets.remove(target);
    }

    pub fn route(&self, out: &mut Sink) {
        self.targets.give(out);
    }
}
