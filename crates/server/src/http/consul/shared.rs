//! What Consul's API and DNS keep beside the registry.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waypost_registry::watch::Topic;

use super::events::Event;
use super::queries::Queries;

/// How many checks with ids of their own are remembered. Beyond that they are looked for.
const CHECKS_MAX: usize = 100_000;

/// Events that are kept, as many as Consul's agents keep.
const EVENTS_MAX: usize = 256;

/// Shared by all listeners of a node.
pub(crate) struct Shared {
    /// The instance that has a check, by vhost and check.
    checks: Mutex<HashMap<(Arc<str>, Box<str>), Box<str>>>,
    events: Mutex<VecDeque<Event>>,
    /// Moves with every event.
    pub(super) fired: Arc<Topic>,
    /// Prepared queries.
    pub(super) queries: Queries,
}

impl Shared {
    /// Ready for listeners, over what is kept in the data directory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn open(data_dir: &std::path::Path) -> std::io::Result<Shared> {
        Ok(Shared {
            checks: Mutex::default(),
            events: Mutex::default(),
            fired: Arc::new(Topic::new(1)),
            queries: Queries::open(data_dir)?,
        })
    }

    /// The instance that had a check when it was last looked for.
    pub(super) fn check_owner(&self, vhost: &Arc<str>, check: &str) -> Option<Box<str>> {
        lock(&self.checks).get(&(Arc::clone(vhost), check.into())).cloned()
    }

    pub(super) fn remember_check(&self, vhost: &Arc<str>, check: &str, instance: &str) {
        let mut checks = lock(&self.checks);
        if checks.len() >= CHECKS_MAX {
            checks.clear();
        }
        checks.insert((Arc::clone(vhost), check.into()), instance.into());
    }

    /// Keeps an event, which gets its number.
    pub(super) fn keep_event(&self, mut event: Event) -> Event {
        let mut events = lock(&self.events);
        let index = self.fired.index() + 1;
        event.index = index;
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event.clone());
        self.fired.raise(index);
        drop(events);
        self.fired.tell();
        event
    }

    /// The events of a vhost, oldest first.
    pub(super) fn events(&self, vhost: &str, name: Option<&str>) -> Vec<Event> {
        let events = lock(&self.events);
        events.iter().filter(|e| *e.vhost == *vhost && name.is_none_or(|name| e.name == name)).cloned().collect()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
