//! The same store without any cleverness: everything in plain maps, every version kept whole until retention says no.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::*;

/// A version as the history must show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub version: u64,
    pub revision: u64,
    pub kind: Kind,
    pub at: u64,
    /// What it wrote.
    pub value: Option<String>,
    pub from: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    pub value: String,
    pub version: u64,
    pub revision: u64,
    pub created: u64,
    pub lock_index: u64,
    pub session: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path {
    pub value: Option<Value>,
    /// The candidate: value, version, percent.
    pub gray: Option<(String, u64, u8)>,
    pub versions: Vec<Version>,
}

/// What of a path a transaction has changed last.
type Last = (Kind, u64, Option<String>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Naive {
    pub paths: BTreeMap<String, Path>,
    /// Sessions: whether what they hold is deleted with them.
    pub sessions: BTreeMap<String, bool>,
    pub revision: u64,
}

/// An operation of the test: what both stores are asked.
#[derive(Debug, Clone)]
pub enum Step {
    Put(String, String, Condition),
    Delete(String),
    DeleteBelow(String),
    Lock(String, String, String),
    Unlock(String, String, String),
    Gray(String, Option<String>, u8),
    Promote(String),
    Abandon(String),
}

#[derive(Debug, Clone, Copy)]
pub enum Condition {
    Always,
    Absent,
    /// At the present revision, or one that it surely is not at.
    Present(bool),
}

struct Txn<'a> {
    paths: BTreeMap<String, Path>,
    sessions: &'a BTreeMap<String, bool>,
    changed: BTreeMap<String, Last>,
    revision: u64,
}

impl Naive {
    /// As a store begins: the first write takes revision 2.
    pub fn new() -> Naive {
        Naive { revision: 1, ..Naive::default() }
    }

    /// Runs a transaction; whether it was done.
    pub fn run(&mut self, steps: &[Step], at: u64, settings: &Settings) -> bool {
        let mut txn = Txn {
            paths: self.paths.clone(),
            sessions: &self.sessions,
            changed: BTreeMap::new(),
            revision: self.revision + 1,
        };
        if !steps.iter().all(|step| txn.step(step).is_some()) {
            return false;
        }
        let Txn { paths, changed, .. } = txn;
        self.finish(paths, changed, at, settings);
        true
    }

    fn finish(&mut self, paths: BTreeMap<String, Path>, changed: BTreeMap<String, Last>, at: u64, settings: &Settings) {
        if changed.is_empty() {
            return;
        }
        self.paths = paths;
        self.revision += 1;
        for (path, (kind, from, value)) in changed {
            let p = self.paths.entry(path).or_default();
            let version = p.versions.last().map_or(0, |v| v.version) + 1;
            p.versions.push(Version { version, revision: self.revision, kind, at, value, from });
            p.retain(at, settings);
        }
    }

    /// Brings back the value of a version; whether there is one.
    pub fn rollback(&mut self, path: &str, version: u64, value: &str, at: u64, settings: &Settings) {
        let mut txn = Txn {
            paths: self.paths.clone(),
            sessions: &self.sessions,
            changed: BTreeMap::new(),
            revision: self.revision + 1,
        };
        txn.put(path, value, Kind::Rollback, version);
        let Txn { paths, changed, .. } = txn;
        self.finish(paths, changed, at, settings);
    }

    pub fn end_session(&mut self, id: &str, at: u64, settings: &Settings) {
        let Some(deletes) = self.sessions.remove(id) else { return };
        let held: Vec<String> = self.held(id).into_iter().collect();
        let (mut paths, mut changed) = (self.paths.clone(), BTreeMap::new());
        for name in held {
            let p = paths.entry(name.clone()).or_default();
            if deletes {
                (p.value, p.gray) = (None, None);
                changed.insert(name, (Kind::Delete, 0, None));
            } else if let Some(v) = &mut p.value {
                (v.session, v.revision) = (None, self.revision + 1);
                changed.insert(name, (Kind::Unlock, 0, None));
            }
        }
        if changed.is_empty() {
            self.revision += 1;
        }
        self.finish(paths, changed, at, settings);
    }

    pub fn held(&self, id: &str) -> BTreeSet<String> {
        let holds = |p: &Path| p.value.as_ref().is_some_and(|v| v.session.as_deref() == Some(id));
        self.paths.iter().filter(|(_, p)| holds(p)).map(|(name, _)| name.clone()).collect()
    }

    /// What age does.
    pub fn sweep(&mut self, now: u64, settings: &Settings) {
        self.paths.retain(|_, p| {
            let last = p.versions.last().map_or(0, |v| v.at);
            p.value.is_some() || p.gray.is_some() || now.saturating_sub(last) <= settings.history_ms
        });
        self.paths.values_mut().for_each(|p| p.retain(now, settings));
    }
}

impl Path {
    fn retain(&mut self, now: u64, settings: &Settings) {
        let needed = [self.value.as_ref().map_or(0, |v| v.version), self.gray.as_ref().map_or(0, |g| g.1)];
        let replaced: Vec<u64> = self.versions.iter().skip(1).map(|v| v.at).collect();
        let (count, mut n) = (self.versions.len(), 0);
        self.versions.retain(|v| {
            n += 1;
            let is_last = n == count;
            let among_the_last = count - n < settings.revisions_max;
            let is_young = replaced.get(n - 1).is_none_or(|at| now.saturating_sub(*at) <= settings.history_ms);
            is_last || needed.contains(&v.version) || (among_the_last && is_young)
        });
    }
}

impl Txn<'_> {
    fn version(&self, path: &str) -> u64 {
        self.paths.get(path).and_then(|p| p.versions.last()).map_or(0, |v| v.version) + 1
    }

    /// `None`: refused.
    fn step(&mut self, step: &Step) -> Option<()> {
        let is_gray = |kind: Kind| matches!(kind, Kind::Gray | Kind::Promote | Kind::Abandon);
        match step {
            Step::Put(path, value, condition) => {
                let found = self.paths.get(path).and_then(|p| p.value.as_ref());
                let holds = match condition {
                    Condition::Always => true,
                    Condition::Absent => found.is_none(),
                    Condition::Present(right) => *right && found.is_some(),
                };
                (holds && !self.changed.get(path).is_some_and(|c| is_gray(c.0))).then_some(())?;
                self.put(path, value, Kind::Put, 0);
            }
            Step::Delete(path) => self.delete(path),
            Step::DeleteBelow(prefix) => {
                let below: Vec<String> = self.paths.keys().filter(|p| p.starts_with(prefix)).cloned().collect();
                below.iter().for_each(|path| self.delete(path));
            }
            Step::Lock(path, value, session) => {
                self.sessions.contains_key(session).then_some(())?;
                let holder = self.paths.get(path).and_then(|p| p.value.as_ref()).and_then(|v| v.session.clone());
                holder.as_ref().is_none_or(|h| h == session).then_some(())?;
                (!self.changed.get(path).is_some_and(|c| is_gray(c.0))).then_some(())?;
                self.set(path, value, Some((holder.is_none(), Some(session.clone()))), Kind::Lock, 0);
            }
            Step::Unlock(path, value, session) => {
                let holder = self.paths.get(path).and_then(|p| p.value.as_ref()).and_then(|v| v.session.clone());
                (holder.as_ref() == Some(session)).then_some(())?;
                (!self.changed.get(path).is_some_and(|c| is_gray(c.0))).then_some(())?;
                self.set(path, value, Some((false, None)), Kind::Unlock, 0);
            }
            Step::Gray(path, value, percent) => {
                (!self.changed.contains_key(path)).then_some(())?;
                let version = self.version(path);
                let p = self.paths.entry(path.clone()).or_default();
                let value = value.clone().or_else(|| p.gray.as_ref().map(|g| g.0.clone()))?;
                p.gray = Some((value.clone(), version, *percent));
                self.changed.insert(path.clone(), (Kind::Gray, 0, Some(value)));
            }
            Step::Promote(path) => {
                let (value, from, _) = self.paths.get(path)?.gray.clone()?;
                (!self.changed.contains_key(path)).then_some(())?;
                let (version, revision) = (self.version(path), self.revision);
                let p = self.paths.get_mut(path)?;
                let old = p.value.take();
                let lock = old.as_ref().map_or((0, None), |v| (v.lock_index, v.session.clone()));
                let created = old.map_or(revision, |v| v.created);
                let (lock_index, session) = lock;
                p.value = Some(Value { value: value.clone(), version, revision, created, lock_index, session });
                p.gray = None;
                self.changed.insert(path.clone(), (Kind::Promote, from, Some(value)));
            }
            Step::Abandon(path) => {
                (!self.changed.contains_key(path)).then_some(())?;
                self.paths.get_mut(path)?.gray.take()?;
                self.changed.insert(path.clone(), (Kind::Abandon, 0, None));
            }
        }
        Some(())
    }

    fn delete(&mut self, path: &str) {
        if let Some(p) = self.paths.get_mut(path)
            && (p.value.take().is_some() | p.gray.take().is_some())
        {
            self.changed.insert(path.to_owned(), (Kind::Delete, 0, None));
        }
    }

    fn put(&mut self, path: &str, value: &str, kind: Kind, from: u64) {
        self.set(path, value, None, kind, from);
    }

    /// `lock`: whether it is taken anew, and by whom; none leaves it.
    fn set(&mut self, path: &str, value: &str, lock: Option<(bool, Option<String>)>, kind: Kind, from: u64) {
        let (version, revision) = (self.version(path), self.revision);
        let p = self.paths.entry(path.to_owned()).or_default();
        let old = p.value.clone();
        let (index, holder) = old.as_ref().map_or((0, None), |v| (v.lock_index, v.session.clone()));
        let (lock_index, session) = match lock {
            None => (index, holder),
            Some((anew, session)) => (index + u64::from(anew), session),
        };
        let same = old.as_ref().filter(|v| v.value == value);
        if same.is_some_and(|v| (v.lock_index, &v.session) == (lock_index, &session)) {
            return;
        }
        let at = same.map_or(version, |v| v.version);
        let created = old.as_ref().map_or(revision, |v| v.created);
        p.value = Some(Value { value: value.to_owned(), version: at, revision, created, lock_index, session });
        let wrote = (at == version).then(|| value.to_owned());
        self.changed.insert(path.to_owned(), (kind, from, wrote));
    }
}
