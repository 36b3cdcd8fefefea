//! What falls due.

use std::sync::Arc;

use waypost_model::{Lsn, Millis};

use super::entry::CheckRun;
use super::limits::EMPTY_NAME_KEPT_MS;
use super::settle::Settled;
use super::state::{NEVER, State, Tenant};
use super::timers::Subject;
use super::{Registry, persist};

/// How many deadlines are seen to before others get the lock.
const BATCH: usize = 256;

/// How often what is kept for a while is looked through, ms.
const SWEEP_MS: u64 = 10_000;

/// What is due.
#[derive(Debug, Default)]
pub struct Due {
    /// Checks to run now; each result goes to [`Registry::checked`], also when the run could not be made.
    pub checks: Vec<CheckRun>,
    /// When to call again, if nothing earlier is said.
    pub next: Option<Millis>,
}

impl Registry {
    /// Does what is due. Call it again at the time that it gives, or when told that something is due earlier
    /// ([`Registry::on_earlier_deadline`]).
    pub fn tick(&self, now: Millis) -> Due {
        let mut due = Due::default();
        loop {
            let more = self.change(now, |state| {
                let more = self.some_due(state, now);
                due.checks.append(&mut state.due);
                due.next = state.timers.next();
                more
            });
            if !more {
                break;
            }
        }
        let sweep = self.change(now, |state| state.sweep(now));
        due.next = Some(due.next.map_or(sweep, |next| next.min(sweep)));
        due
    }

    fn some_due(&self, state: &mut State, now: Millis) -> bool {
        for _ in 0..BATCH {
            let Some((at, subject)) = state.timers.pop(now) else { return false };
            match subject {
                Subject::Instance(place) => {
                    let Some(entry) = state.entries.get_mut(place as usize).filter(|e| e.scheduled == at) else {
                        continue;
                    };
                    entry.scheduled = NEVER;
                    let statuses = |state: &State| {
                        let entry = state.entries.get(place as usize);
                        entry.map(|e| e.checks.iter().map(|c| c.status).collect::<Vec<_>>())
                    };
                    let before = statuses(state).filter(|s| !s.is_empty());
                    if state.settle(place, now) == Settled::Over {
                        self.forget_instance(state, place);
                        state.remove(place, now);
                    } else if before.is_some() && before != statuses(state) {
                        self.keep_quietly(state, place);
                    }
                }
                Subject::Node(place) => {
                    let Some(node) = state.nodes.get_mut(place as usize).filter(|n| n.scheduled == at) else {
                        continue;
                    };
                    node.scheduled = NEVER;
                    if state.settle_node(place, now) == Settled::Over {
                        let _ = self.append(self.node_removals(state, place));
                        state.remove_node(place, now);
                    }
                }
            }
        }
        true
    }

    /// The vhosts in which anything is registered.
    #[must_use]
    pub fn vhosts(&self) -> Vec<Arc<str>> {
        let state = self.lock();
        let holds = |tenant: &Tenant| {
            let own = state.nodes.get(tenant.own_node as usize);
            tenant.instances > 0 || tenant.nodes.len() > 1 || own.is_some_and(|n| n.lsn > Lsn::default())
        };
        state.tenants.iter().filter(|(_, t)| holds(t)).map(|(_, t)| Arc::clone(&t.shared.name)).collect()
    }

    /// Removes everything of a vhost, which is gone.
    pub fn forget_vhost(&self, vhost: &str, now: Millis) {
        let tenant = self.tenants.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(vhost).cloned();
        let Some(tenant) = tenant else { return };
        self.change(now, |state| {
            let places: Vec<u32> = state
                .services
                .iter()
                .filter(|(_, s)| s.tenant == tenant.number)
                .flat_map(|(_, s)| s.members.clone())
                .collect();
            for place in places {
                self.forget_instance(state, place);
                state.remove(place, now);
            }
            let Some(known) = state.tenants.get(tenant.number as usize) else { return };
            let (own, nodes) = (known.own_node, known.nodes.values().copied().collect::<Vec<_>>());
            for place in nodes {
                let Some(node) = state.nodes.get_mut(place as usize) else { continue };
                let _ = self.append(vec![persist::remove_node(vhost, &node.spec.name)]);
                if place != own {
                    state.remove_node(place, now);
                    continue;
                }
                // A vhost of this name may come again, and we are a node of it then.
                (node.maintenance, node.lsn) = (None, Lsn::default());
                let checks = std::mem::take(&mut node.checks).len();
                if let Some(tenant) = state.tenants.get_mut(tenant.number as usize) {
                    tenant.checks = tenant.checks.saturating_sub(checks);
                }
                state.node_changed(place, now);
            }
        });
    }
}

impl State {
    /// Drops what was kept for a while. Says when to look again.
    fn sweep(&mut self, now: Millis) -> Millis {
        if now.since(self.swept) < SWEEP_MS {
            return self.swept.plus(SWEEP_MS);
        }
        self.swept = now;
        self.ghosts.retain(|_, ghost| ghost.held_until > now || ghost.flap.now(now) > 100.0);
        if self.empty_services > 0 {
            self.forget_names(Millis(now.0.saturating_sub(EMPTY_NAME_KEPT_MS)));
        }
        now.plus(SWEEP_MS)
    }
}
