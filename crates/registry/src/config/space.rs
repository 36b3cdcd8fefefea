//! What a vhost holds.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use waypost_model::Millis;

use super::entry::{Entry, InForce};
use super::session::Live;

/// The paths of a vhost, and its sessions.
#[derive(Debug, Default)]
pub(super) struct Space {
    pub entries: BTreeMap<Arc<str>, Entry>,
    /// Paths with a value or a candidate.
    pub keys: usize,
    /// Bytes of paths and of what is in force.
    pub bytes: u64,
    /// Bytes of all versions.
    pub history_bytes: u64,
    /// Deleted paths by the revision of their last version.
    pub graves: BTreeSet<(u64, Arc<str>)>,
    /// What is forgotten was last changed at this revision or before: the index of all that is not there, so that no
    /// index ever goes back.
    pub floor: u64,
    pub sessions: BTreeMap<Arc<str>, Live>,
    /// The revision at which a session came or went last.
    pub sessions_changed: u64,
    /// Paths that cannot be locked for a while, since a session that held them ended without giving them back.
    pub delays: BTreeMap<Arc<str>, Millis>,
}

impl Space {
    /// The entries whose path begins with a prefix, in order.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Entry)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.entries.range::<str, _>(from).take_while(move |(path, _)| path.starts_with(prefix))
    }

    /// The index of a path: when what everybody sees of it changed last.
    pub fn index(&self, path: &str) -> u64 {
        self.entries.get(path).map_or(self.floor, |e| e.modified).max(1)
    }

    /// The index of all paths with a prefix.
    pub fn index_below(&self, prefix: &str) -> u64 {
        self.below(prefix).map(|(_, e)| e.modified).max().unwrap_or_default().max(self.floor).max(1)
    }

    /// Makes something else be in force at a path, which has an entry, and keeps the sums.
    pub fn set(&mut self, path: &Arc<str>, next: InForce) {
        let Some(entry) = self.entries.get_mut(path) else { return };
        let (old, new) = (weight(path, &entry.now), weight(path, &next));
        if old.0 == 0 {
            self.graves.remove(&(entry.changed, Arc::clone(path)));
        }
        self.keys = self.keys + new.0 - old.0;
        self.bytes = self.bytes + new.1 - old.1;
        let (before, after) = (entry.now.session().cloned(), next.session().cloned());
        entry.now = next;
        if before != after {
            if let Some(live) = before.and_then(|id| self.sessions.get_mut(&id)) {
                live.held.remove(path);
            }
            if let Some(live) = after.and_then(|id| self.sessions.get_mut(&id)) {
                live.held.insert(Arc::clone(path));
            }
        }
    }

    /// Notes a deleted path among the graves, under the revision that it has now.
    pub fn bury(&mut self, path: &Arc<str>) {
        if let Some(entry) = self.entries.get(path).filter(|e| e.is_deleted()) {
            self.graves.insert((entry.changed, Arc::clone(path)));
        }
    }

    /// Takes a path out with its history.
    pub fn forget(&mut self, path: &Arc<str>) -> Option<Entry> {
        self.set(path, InForce::default());
        let entry = self.entries.remove(path)?;
        self.graves.remove(&(entry.changed, Arc::clone(path)));
        self.history_bytes -= entry.history_bytes().min(self.history_bytes);
        self.floor = self.floor.max(entry.modified);
        Some(entry)
    }
}

/// What a path counts for: keys and bytes.
pub(super) fn weight(path: &str, now: &InForce) -> (usize, u64) {
    if now.item.is_none() && now.gray.is_none() { (0, 0) } else { (1, path.len() as u64 + now.bytes()) }
}
