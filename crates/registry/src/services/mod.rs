//! Services and their instances: who is there, how they are, and telling those who want to know.
//!
//! A [`Registry`] holds the services of all vhosts; [`Services`] is its face for one vhost. Readers use snapshots
//! ([`ServiceView`]) that are made when somebody looks and the last one is old, so that a thousand registrations cost one
//! snapshot and not a thousand. Writers change the state under one lock, which is never held while anything is rendered,
//! sent or written; what they have changed goes to [`Followers`] in order, and to those who wait ([`crate::watch`]).
//!
//! # Indices
//! One counter gives every change its number. A service, the list of services, the nodes and the checks each have the
//! number of their own last change: registering again what is there already moves none of them. The counter starts with
//! the wall clock, so that it is higher after a restart than before, and those who wait look anew.
//!
//! # Life and death
//! An instance lives by a connection (a claim), by a lease that it renews, by checks, or until somebody deregisters it.
//! A lease that is over makes it critical, and as much later it is forgotten. When more than half of at least three
//! instances of a service fall silent within ten seconds, that is taken for our own fault: for one window they are shown
//! with a warning and nobody is forgotten. Only silence counts for that, never a goodbye. Whoever falls four times in a
//! minute or so is used only where nothing better is, until it has been quiet for a while.
//!
//! # Restart
//! Registrations are definitions in the journal and survive. Leases begin anew, checks keep their last verdict. Instances
//! that lived by a connection and have an address are kept too, as a warning and for [`limits::RETURN_MS`], so that a
//! list is not empty only because we restarted.

mod choose;
mod conditions;
mod entry;
mod feed;
mod health;
pub mod limits;
mod look;
mod nodes;
mod open;
mod persist;
mod pool;
mod presence;
mod register;
mod settle;
mod spec;
mod state;
#[cfg(test)]
mod tests;
mod tick;
mod timers;
mod txn;
mod view;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, TryLockError};

use waypost_model::journal::Journal;
use waypost_model::service::{InstanceChange, ServiceName};
use waypost_model::{Lsn, Millis};

pub use self::choose::Load;
pub use self::entry::{CheckRun, CheckTicket};
pub use self::feed::{Event, Lost};
pub use self::limits::Limits;
pub use self::open::{LoadError, is_definition};
pub use self::spec::{CheckKind, CheckSpec, Detail, HttpProbe, NodeSpec, Push, PushFormat, Registration, Source};
pub use self::tick::Due;
pub use self::txn::{Change, Failed, Fault, Outcome, Target, Transacted, Verb};
pub use self::view::{CheckView, Listed, NodeView, ServiceEntry, ServiceList, ServiceView, Summary, Why};

use self::state::{State, TenantShared};
use waypost_model::Seeded;

/// How a registry is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bounds per vhost.
    pub limits: Limits,
    /// This server as a node.
    pub own_node: NodeSpec,
    /// A number that nobody can guess.
    pub seed: u64,
}

/// Whoever wants to know every change, in order per service: the broker.
pub trait Followers: Send + Sync {
    /// Something has changed. Called with no lock of the registry's held but the one that keeps the order.
    fn changed(&self, name: &ServiceName, change: &InstanceChange, now: Millis);
}

/// The services of all vhosts.
pub struct Registry {
    settings: Settings,
    journal: Arc<dyn Journal>,
    tenants: RwLock<HashMap<Arc<str>, Arc<TenantShared>, Seeded>>,
    state: Mutex<State>,
    /// Held while changes are handed on, so that they go out in the order in which they happened.
    order: Mutex<()>,
    followers: OnceLock<Arc<dyn Followers>>,
    earlier: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// The services of one vhost.
#[derive(Clone)]
pub struct Services {
    registry: Arc<Registry>,
    tenant: Arc<TenantShared>,
}

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Durable once the journal has reached this.
    pub lsn: Lsn,
    /// Whether it was not there before.
    pub created: bool,
    /// Whether anything is other than before.
    pub changed: bool,
    /// Which registration of the id it is.
    pub incarnation: u64,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("vhost", &self.tenant.name).finish_non_exhaustive()
    }
}

impl Registry {
    /// The services of a vhost. Ask only for vhosts that exist: each name that is asked for is kept.
    #[must_use]
    pub fn services(self: &Arc<Self>, vhost: &str) -> Services {
        Services { registry: Arc::clone(self), tenant: self.tenant(vhost) }
    }

    /// From now on, and beginning with all instances that there are, `followers` are told every change.
    /// Only the first call counts.
    pub fn follow(&self, followers: Arc<dyn Followers>, now: Millis) {
        self.change(now, |state| {
            if self.followers.set(followers).is_ok() {
                state.followed = true;
                state.changes.extend(state.everything());
            }
        });
    }

    /// `earlier` is called when something falls due before what [`Registry::tick`] said last.
    pub fn on_earlier_deadline(&self, earlier: Box<dyn Fn() + Send + Sync>) {
        let _ = self.earlier.set(earlier);
    }

    /// The server stops: connections that end from now on end because of us, and are remembered for the next start.
    pub fn stopping(&self) {
        self.lock().stopping = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a change and tells whoever must know, with the lock given up. The followers know when it returns.
    fn change<T>(&self, now: Millis, change: impl FnOnce(&mut State) -> T) -> T {
        self.change_for(Caller::Anybody, now, change)
    }

    /// The same for a caller who may be in the way of the followers: if they are being told already, whoever does that
    /// tells them this too, and nobody waits.
    fn change_for<T>(&self, caller: Caller, now: Millis, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let before = state.timers.next();
        let result = change(&mut state);
        let told = std::mem::take(&mut state.told);
        let (followed, after) = (!state.changes.is_empty(), state.timers.next());
        drop(state);
        if followed {
            self.hand_on(caller, now);
        }
        told.iter().for_each(|topic| topic.tell());
        let sooner = after.is_some_and(|after| before.is_none_or(|before| after < before));
        if sooner && let Some(earlier) = self.earlier.get() {
            earlier();
        }
        result
    }

    /// Tells the followers what has changed, in order. Who is told may change something itself: that waits for its turn.
    fn hand_on(&self, caller: Caller, now: Millis) {
        let Some(_turn) = Turn::take() else { return };
        loop {
            let order = match caller {
                Caller::Anybody => self.order.lock().unwrap_or_else(PoisonError::into_inner),
                Caller::Broker => match self.order.try_lock() {
                    Ok(order) => order,
                    Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                    // Whoever has it looks again once it has given it up.
                    Err(TryLockError::WouldBlock) => return,
                },
            };
            let changes = std::mem::take(&mut self.lock().changes);
            if let Some(followers) = self.followers.get() {
                changes.iter().for_each(|(name, change)| followers.changed(name, change, now));
            }
            drop(order);
            if self.lock().changes.is_empty() {
                return;
            }
        }
    }
}

/// Who changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// Somebody without a lock that a follower could want.
    Anybody,
    /// The broker, for a connection that it holds.
    Broker,
}

thread_local! {
    static HANDING_ON: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Held by a thread that hands changes on.
struct Turn;

impl Turn {
    /// Nothing if this thread hands changes on already, further up.
    fn take() -> Option<Turn> {
        (!HANDING_ON.replace(true)).then_some(Turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        HANDING_ON.set(false);
    }
}
