//! The store: what it holds, and reading.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use waypost_model::journal::{BodyStore, Journal};
use waypost_model::{Lsn, Millis, QueueId, Route};

use super::Subject;
use super::entry::{Entry, Gray, Item};
use super::fault::Fault;
use super::limits::{AUTHOR_BYTES_MAX, Settings};
use super::open::{self, OpenError, Share};
use super::space::Space;
use super::watch::{Hub, Watch, What};
use super::write::Answer;

/// Who writes, and why.
#[derive(Debug, Clone, Copy, Default)]
pub struct By<'a> {
    /// A user's name; empty for whoever runs the server.
    pub author: &'a str,
    /// At most [`super::COMMENT_BYTES_MAX`] bytes.
    pub comment: &'a str,
}

impl<'a> By<'a> {
    /// With the author's name cut to what is kept of it.
    pub(super) fn cut(self) -> By<'a> {
        let mut end = self.author.len().min(AUTHOR_BYTES_MAX);
        while !self.author.is_char_boundary(end) {
            end -= 1;
        }
        By { author: &self.author[..end], ..self }
    }
}

/// What a commit came to.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its revision; of a commit that changed nothing, the last one.
    pub revision: u64,
    /// When it, and what it has read, is durable. It must not be answered before.
    pub lsn: Lsn,
    /// Whether anything changed.
    pub changed: bool,
    /// One per operation.
    pub answers: Vec<Answer>,
}

/// A path, looked at.
#[derive(Debug, Clone)]
pub struct Look {
    /// The value that everybody gets.
    pub item: Option<Arc<Item>>,
    /// The candidate of a gray release.
    pub gray: Option<Arc<Gray>>,
    /// The revision of the last change of any kind; that of its deletion if it is gone.
    pub changed: u64,
    /// The last version; 0 if there was never one.
    pub version: u64,
    /// The revision at which what everybody gets changed last. At least 1, and never falls while the process lives.
    pub index: u64,
    /// When what was seen is durable; it must not be shown before.
    pub lsn: Lsn,
}

/// Several paths, looked at.
#[derive(Debug, Clone)]
pub struct Listing<T> {
    /// In order of path.
    pub items: Vec<T>,
    /// The revision at which one of them changed last, deletions included. At least 1, and never falls while the
    /// process lives.
    pub index: u64,
    /// When what was seen is durable; it must not be shown before.
    pub lsn: Lsn,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Paths with a value or a candidate.
    pub keys: usize,
    /// Deleted paths with a history.
    pub tombstones: usize,
    /// Bytes of paths and of what is in force.
    pub bytes: u64,
    /// Bytes of all versions.
    pub history_bytes: u64,
    /// Sessions.
    pub sessions: usize,
    /// The last revision.
    pub revision: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub spaces: BTreeMap<Arc<str>, Space>,
    /// The last one that was given out.
    pub revision: u64,
    /// How many queue numbers were given out.
    pub queues: u64,
    /// When everything is durable.
    pub lsn: Lsn,
    pub swept: Millis,
    /// Paths whose change was not told yet, in order of their first one.
    pub untold: VecDeque<(Arc<str>, Arc<str>)>,
    /// What of them has changed: what everybody sees, the candidate.
    pub parts: HashMap<(Arc<str>, Arc<str>), (bool, bool)>,
    /// Whoever tells others of changes, while it waits.
    pub teller: Option<std::task::Waker>,
}

/// The configuration center of a node.
pub struct Store {
    pub(super) settings: Settings,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) bodies: Arc<dyn BodyStore>,
    state: RwLock<State>,
    pub(super) hub: Arc<Hub>,
    pub(super) route: Arc<Route>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("totals", &self.totals(None)).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store with what recovery found of it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        settings: Settings,
        journal: Arc<dyn Journal>,
        bodies: Arc<dyn BodyStore>,
        share: &Share,
        now: Millis,
    ) -> Result<Store, OpenError> {
        let loaded = open::load(share, &*bodies, now)?;
        // What is not there has the index 1: the first write of all must be news to who has seen that.
        let mut state = State { spaces: loaded.spaces, revision: loaded.revision.max(1), ..State::default() };
        state.queues = loaded.queues;
        if !loaded.empty.is_empty() {
            let noted = open::numbers(state.revision, state.queues);
            journal.append(loaded.empty.into_iter().chain([noted]).collect())?;
        }
        let route = Arc::new(Route::default());
        Ok(Store { settings, journal, bodies, state: RwLock::new(state), hub: Arc::default(), route })
    }

    pub(super) fn look(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// One path.
    #[must_use]
    pub fn get(&self, vhost: &str, path: &str) -> Look {
        let state = self.look();
        let space = state.spaces.get(vhost);
        match space.and_then(|s| s.entries.get(path)) {
            Some(e) => look_at(e),
            None => {
                let index = space.map_or(1, |s| s.index(path));
                Look { item: None, gray: None, changed: index, version: 0, index, lsn: state.lsn }
            }
        }
    }

    /// The values of all paths that begin so.
    #[must_use]
    pub fn list(&self, vhost: &str, prefix: &str) -> Listing<Arc<Item>> {
        self.collect(vhost, prefix, |_, e| e.now.item.clone())
    }

    /// All paths that begin so and have a value or a candidate, with both.
    #[must_use]
    pub fn list_all(&self, vhost: &str, prefix: &str) -> Listing<(Arc<str>, Look)> {
        self.collect(vhost, prefix, |path, e| (!e.is_deleted()).then(|| (Arc::clone(path), look_at(e))))
    }

    /// What has changed in any way behind a revision, deletions included. The index is the revision of the last such
    /// change.
    #[must_use]
    pub fn since(&self, vhost: &str, what: &What, revision: u64) -> Listing<(Arc<str>, Look)> {
        let state = self.look();
        let mut found = Listing { items: Vec::new(), index: 1, lsn: state.lsn };
        let Some(space) = state.spaces.get(vhost) else { return found };
        found.index = space.floor.max(1);
        let mut see = |path: &Arc<str>, e: &Entry| {
            found.index = found.index.max(e.changed);
            if e.changed > revision {
                found.items.push((Arc::clone(path), look_at(e)));
            }
        };
        match what {
            What::Path(path) => space.entries.get(path).into_iter().for_each(|e| see(path, e)),
            What::Below(prefix) => space.below(prefix).for_each(|(path, e)| see(path, e)),
            What::Sessions => {}
        }
        found
    }

    /// The paths that begin so and have a value, without the values.
    #[must_use]
    pub fn paths(&self, vhost: &str, prefix: &str) -> Listing<Arc<str>> {
        self.collect(vhost, prefix, |path, e| e.now.item.is_some().then(|| Arc::clone(path)))
    }

    fn collect<T>(&self, vhost: &str, prefix: &str, each: impl Fn(&Arc<str>, &Entry) -> Option<T>) -> Listing<T> {
        let state = self.look();
        let (mut items, mut index) = (Vec::new(), 1);
        if let Some(space) = state.spaces.get(vhost) {
            items.extend(space.below(prefix).filter_map(|(path, e)| each(path, e)));
            index = space.index_below(prefix);
        }
        Listing { items, index, lsn: state.lsn }
    }

    /// Begins to watch. What changes from now on is not missed.
    #[must_use]
    pub fn watch(&self, vhost: &str, what: What) -> Watch {
        self.hub.watch(vhost, what)
    }

    /// How much there is, in one vhost or in all.
    #[must_use]
    pub fn totals(&self, vhost: Option<&str>) -> Totals {
        let state = self.look();
        let mut t = Totals { revision: state.revision, ..Totals::default() };
        for (_, s) in state.spaces.iter().filter(|(name, _)| vhost.is_none_or(|v| v == &***name)) {
            t.keys += s.keys;
            t.tombstones += s.graves.len();
            t.bytes += s.bytes;
            t.history_bytes += s.history_bytes;
            t.sessions += s.sessions.len();
        }
        t
    }

    /// The queue of a path, and its versions that are kept.
    pub(super) fn versions(&self, vhost: &str, path: &str) -> Result<(QueueId, Vec<u64>), Fault> {
        let state = self.look();
        let entry = state.spaces.get(vhost).and_then(|s| s.entries.get(path));
        let entry = entry.ok_or_else(|| Fault::NotFound(path.to_owned()))?;
        Ok((entry.queue, entry.marks.iter().map(|m| m.version).collect()))
    }

    /// The vhosts that something is kept for.
    #[must_use]
    pub fn vhosts(&self) -> Vec<Arc<str>> {
        let holds = |s: &Space| !s.entries.is_empty() || !s.sessions.is_empty();
        self.look().spaces.iter().filter(|(_, s)| holds(s)).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// What somebody gets: the candidate if a gray release chooses it, else the stable value. Value, content type,
    /// flags, version, revision.
    #[must_use]
    pub fn choose<'a>(look: &'a Look, path: &str, subject: &Subject<'_>) -> Option<Chosen<'a>> {
        match &look.gray {
            Some(gray) if gray.rule.chooses(path, subject) => Some(Chosen::Candidate(gray)),
            _ => look.item.as_ref().map(Chosen::Stable),
        }
    }
}

/// What somebody gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen<'a> {
    /// What everybody gets.
    Stable(&'a Arc<Item>),
    /// What a gray release chose it for.
    Candidate(&'a Arc<Gray>),
}

fn look_at(e: &Entry) -> Look {
    Look {
        item: e.now.item.clone(),
        gray: e.now.gray.clone(),
        changed: e.changed,
        version: e.version(),
        index: e.modified.max(1),
        lsn: e.lsn,
    }
}
