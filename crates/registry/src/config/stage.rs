//! A transaction in the making: operations are tried one after the other on top of what is there, and nothing of it is
//! real until all have succeeded.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use waypost_model::Millis;

use super::entry::{Gray, InForce, Item};
use super::fault::{Fault, Stale};
use super::gray::Rule;
use super::limits::{
    COMMENT_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, SESSION_LOCKS_MAX, Settings, TXN_BYTES_MAX, VALUE_BYTES_MAX,
};
use super::path;
use super::record::{Content, Kind};
use super::space::{Space, weight};
use super::store::By;
use super::write::{Answer, When, Write};

/// What is to be in force at a path.
#[derive(Debug)]
pub(super) struct Draft {
    pub kind: Kind,
    pub next: InForce,
    /// Which version was brought back; 0 if none was.
    pub from: u64,
}

pub(super) struct Stage<'a> {
    space: &'a Space,
    by: By<'a>,
    revision: u64,
    now: Millis,
    bytes: usize,
    pub drafts: BTreeMap<Arc<str>, Draft>,
}

impl<'a> Stage<'a> {
    pub fn new(space: &'a Space, by: By<'a>, revision: u64, now: Millis) -> Stage<'a> {
        Stage { space, by, revision, now, bytes: 0, drafts: BTreeMap::new() }
    }

    /// Tries one operation.
    pub fn run(&mut self, write: &Write) -> Result<Answer, Fault> {
        if self.by.comment.len() > COMMENT_BYTES_MAX {
            return Err(Fault::Bad(format!("a comment has at most {COMMENT_BYTES_MAX} bytes")));
        }
        match write {
            Write::Put { path, value, content_type, flags, when } => {
                let old = self.expect(path, *when)?;
                let content_type = content_type.as_deref().or(old.as_ref().map(|i| &*i.content_type));
                let flags = flags.or(old.as_ref().map(|i| i.flags)).unwrap_or_default();
                let content = content(content_type.unwrap_or_default(), flags, value);
                self.put(path, content, Kind::Put, 0)
            }
            Write::Rollback { path, version, value, content_type, flags, when } => {
                self.expect(path, *when)?;
                self.put(path, content(content_type, *flags, value), Kind::Rollback, *version)
            }
            Write::Delete { path, when } => {
                if self.expect(path, *when)?.is_some() || self.in_force(path).gray.is_some() {
                    self.delete(&Arc::from(path.as_str()));
                }
                Ok(Answer::Done)
            }
            Write::DeleteBelow { prefix } => {
                let paths: Vec<Arc<str>> = self.below(prefix).into_iter().map(|(path, _)| path).collect();
                paths.iter().for_each(|path| self.delete(path));
                Ok(Answer::Done)
            }
            Write::DeletePaths { paths } => {
                let there = |now: InForce| now.item.is_some() || now.gray.is_some();
                let there: Vec<_> = paths.iter().filter(|path| there(self.in_force(path))).collect();
                there.into_iter().for_each(|path| self.delete(path));
                Ok(Answer::Done)
            }
            Write::Lock { path, value, flags, session } => self.lock(path, value, *flags, session),
            Write::Unlock { path, value, flags, session } => self.unlock(path, value, *flags, session),
            Write::Check { path, when } => {
                let found = self.expect(path, *when)?;
                Ok(found.map_or(Answer::Done, Answer::Item))
            }
            Write::CheckSession { path, session } => self.check_session(path, session),
            Write::Get { path } => match self.in_force(path).item {
                Some(item) => Ok(Answer::Item(item)),
                None => Err(Fault::NotFound(path.clone())),
            },
            Write::GetBelow { prefix } => {
                Ok(Answer::Items(self.below(prefix).into_iter().filter_map(|(_, now)| now.item).collect()))
            }
            Write::Gray { path, value, content_type, rule, when } => {
                self.gray(path, value.as_ref(), content_type.as_deref(), rule, *when)
            }
            Write::Promote { path } => self.promote(path),
            Write::Abandon { path } => self.abandon(path),
        }
    }

    /// Refuses what would outgrow the vhost.
    pub fn check_limits(&self, settings: &Settings) -> Result<(), Fault> {
        let (mut keys, mut bytes) = (self.space.keys, self.space.bytes);
        for (path, draft) in &self.drafts {
            let old = self.space.entries.get(path).map_or((0, 0), |e| weight(path, &e.now));
            let new = weight(path, &draft.next);
            (keys, bytes) = (keys + new.0 - old.0, bytes + new.1 - old.1);
        }
        if keys > settings.keys_max && keys > self.space.keys {
            return Err(Fault::Limit("keys per vhost"));
        }
        if bytes > settings.bytes_max && bytes > self.space.bytes {
            return Err(Fault::Limit("bytes of configuration per vhost"));
        }
        Ok(())
    }

    /// What is in force, with what this transaction has done so far.
    fn in_force(&self, path: &str) -> InForce {
        let drafted = self.drafts.get(path).map(|d| &d.next);
        drafted.or_else(|| self.space.entries.get(path).map(|e| &e.now)).cloned().unwrap_or_default()
    }

    /// The same for all paths with a prefix that have a value or a candidate, in order.
    fn below(&self, prefix: &str) -> Vec<(Arc<str>, InForce)> {
        let known = self.space.below(prefix).map(|(path, entry)| (Arc::clone(path), entry.now.clone()));
        let mut all: BTreeMap<Arc<str>, InForce> = known.collect();
        let drafts = self.drafts.iter().filter(|(path, _)| path.starts_with(prefix));
        all.extend(drafts.map(|(path, draft)| (Arc::clone(path), draft.next.clone())));
        all.into_iter().filter(|(_, now)| now.item.is_some() || now.gray.is_some()).collect()
    }

    /// The version that this transaction makes of a path.
    fn version(&self, path: &str) -> u64 {
        self.space.entries.get(path).map_or(0, |e| e.version()) + 1
    }

    /// The value that is there, if the condition holds.
    fn expect(&self, path: &str, when: When) -> Result<Option<Arc<Item>>, Fault> {
        path::checked(path)?;
        let found = self.in_force(path).item;
        let why = match (when, &found) {
            (When::Always, _) | (When::Exists, Some(_)) => return Ok(found),
            (When::Revision(0) | When::RevisionOrGone(_), None) => return Ok(found),
            (When::Revision(n) | When::RevisionOrGone(n), Some(item)) if item.revision == n => return Ok(found),
            (When::Revision(0), Some(_)) => Stale::Exists,
            (_, Some(item)) => Stale::Revision(item.revision),
            (_, None) => Stale::Missing,
        };
        Err(Fault::Stale { path: path.to_owned(), why })
    }

    fn check_content(&mut self, path: &str, content: &Content) -> Result<(), Fault> {
        if content.value.len() > VALUE_BYTES_MAX {
            return Err(Fault::TooLarge { path: path.to_owned(), bytes: content.value.len() });
        }
        if content.content_type.len() > CONTENT_TYPE_BYTES_MAX || content.content_type.chars().any(char::is_control) {
            return Err(Fault::Bad(format!("a content type has at most {CONTENT_TYPE_BYTES_MAX} printable bytes")));
        }
        self.bytes = self.bytes.saturating_add(content.value.len());
        if self.bytes > TXN_BYTES_MAX {
            return Err(Fault::Limit("bytes of a transaction"));
        }
        Ok(())
    }

    /// One record holds one value, so a gray release shares its transaction with nothing at the same path.
    fn draft(&mut self, path: &str, draft: Draft) -> Result<(), Fault> {
        let is_gray = |kind| matches!(kind, Kind::Gray | Kind::Promote | Kind::Abandon);
        if let Some(other) = self.drafts.get(path)
            && (is_gray(other.kind) || is_gray(draft.kind))
        {
            return Err(Fault::Bad(format!("{path:?}: a gray release cannot share its transaction with other writes")));
        }
        self.drafts.insert(path.into(), draft);
        Ok(())
    }

    fn delete(&mut self, path: &Arc<str>) {
        let draft = Draft { kind: Kind::Delete, next: InForce::default(), from: 0 };
        self.drafts.insert(Arc::clone(path), draft);
    }

    /// A new value; the lock stays as it is.
    fn put(&mut self, path: &str, content: Content, kind: Kind, from: u64) -> Result<Answer, Fault> {
        let now = self.in_force(path);
        let lock = now.item.as_ref().map_or((0, None), |i| (i.lock_index, i.session.clone()));
        self.set(path, content, lock, kind, from)
    }

    /// Puts a value and a lock in force. What changes nothing is no change.
    fn set(
        &mut self,
        path: &str,
        content: Content,
        lock: (u64, Option<Arc<str>>),
        kind: Kind,
        from: u64,
    ) -> Result<Answer, Fault> {
        self.check_content(path, &content)?;
        let now = self.in_force(path);
        let (lock_index, session) = lock;
        let old = now.item.as_deref();
        let same_value = old.is_some_and(|i| i.content() == content);
        if let Some(old) = &now.item
            && same_value
            && (old.lock_index, &old.session) == (lock_index, &session)
        {
            return Ok(Answer::Item(Arc::clone(old)));
        }
        let mut item = match old {
            // Only the lock changes: the version that holds the value stays the one that it was.
            Some(old) if same_value => old.clone(),
            _ => self.fresh(path, content),
        };
        item.created = old.map_or(self.revision, |i| i.created);
        (item.revision, item.lock_index, item.session) = (self.revision, lock_index, session);
        let item = Arc::new(item);
        let next = InForce { item: Some(Arc::clone(&item)), gray: now.gray };
        self.draft(path, Draft { kind, next, from })?;
        Ok(Answer::Item(item))
    }

    fn fresh(&self, path: &str, content: Content) -> Item {
        Item {
            path: path.into(),
            value: content.value,
            content_type: content.content_type,
            flags: content.flags,
            version: self.version(path),
            revision: self.revision,
            created: self.revision,
            lock_index: 0,
            session: None,
            at: self.now.0,
            author: self.by.author.into(),
            comment: self.by.comment.into(),
        }
    }

    fn lock(&mut self, path: &str, value: &Bytes, flags: u64, session: &str) -> Result<Answer, Fault> {
        path::checked(path)?;
        let live = self.space.sessions.get(session).ok_or_else(|| Fault::NoSession(session.to_owned()))?;
        let now = self.in_force(path);
        match now.session() {
            Some(holder) if **holder != *session => return Err(Fault::Locked(path.to_owned())),
            Some(_) => {}
            None => {
                if let Some(until) = self.space.delays.get(path).filter(|until| **until > self.now) {
                    return Err(Fault::Delayed { path: path.to_owned(), until: until.0 });
                }
                let drafted = self.drafts.values().filter(|d| d.next.session().is_some_and(|s| **s == *session));
                if live.held.len() + drafted.count() >= SESSION_LOCKS_MAX {
                    return Err(Fault::Limit("locks of a session"));
                }
            }
        }
        let again = now.session().is_some();
        let old = now.item.as_deref();
        let lock_index = old.map_or(0, |i| i.lock_index) + u64::from(!again);
        let content = content(old.map_or("", |i| &*i.content_type), flags, value);
        self.set(path, content, (lock_index, Some(Arc::clone(&live.session.id))), Kind::Lock, 0)
    }

    fn unlock(&mut self, path: &str, value: &Bytes, flags: u64, session: &str) -> Result<Answer, Fault> {
        path::checked(path)?;
        if session.is_empty() {
            return Err(Fault::NoSession(String::new()));
        }
        match self.in_force(path).item {
            Some(item) if item.session.as_deref() == Some(session) => {
                let content = content(&item.content_type, flags, value);
                self.set(path, content, (item.lock_index, None), Kind::Unlock, 0)
            }
            _ => Err(Fault::NotHolder(path.to_owned())),
        }
    }

    /// Takes the lock of an ended session away from what it held.
    pub fn release(&mut self, path: &Arc<str>) {
        let now = self.in_force(path);
        let Some(old) = now.item else { return };
        let item = Item { session: None, revision: self.revision, ..Item::clone(&old) };
        let next = InForce { item: Some(Arc::new(item)), gray: now.gray };
        self.drafts.insert(Arc::clone(path), Draft { kind: Kind::Unlock, next, from: 0 });
    }

    /// Deletes what an ended session held.
    pub fn delete_held(&mut self, path: &Arc<str>) {
        self.delete(path);
    }

    fn check_session(&self, path: &str, session: &str) -> Result<Answer, Fault> {
        let Some(item) = self.in_force(path).item else { return Err(Fault::NotFound(path.to_owned())) };
        let holder = item.session.as_deref().unwrap_or_default();
        if holder == session {
            return Ok(Answer::Item(item));
        }
        Err(Fault::OtherSession { path: path.to_owned(), found: holder.to_owned() })
    }

    fn gray(
        &mut self,
        path: &str,
        value: Option<&Bytes>,
        content_type: Option<&str>,
        rule: &Rule,
        when: When,
    ) -> Result<Answer, Fault> {
        self.expect(path, when)?;
        rule.check().map_err(|e| Fault::Bad(e.to_string()))?;
        let now = self.in_force(path);
        let (gray, item) = (now.gray.as_deref(), now.item.as_deref());
        let known = gray.map(|g| &*g.content_type).or(item.map(|i| &*i.content_type)).unwrap_or_default();
        let value = match (value, gray) {
            (Some(value), _) => value.clone(),
            (None, Some(gray)) => gray.value.clone(),
            (None, None) => return Err(Fault::NoGray(path.to_owned())),
        };
        let flags = gray.map(|g| g.flags).or(item.map(|i| i.flags)).unwrap_or_default();
        let content = content(content_type.unwrap_or(known), flags, &value);
        self.check_content(path, &content)?;
        let gray = Arc::new(Gray {
            rule: Arc::new(rule.clone()),
            value: content.value,
            content_type: content.content_type,
            flags: content.flags,
            version: self.version(path),
            revision: self.revision,
            at: self.now.0,
            author: self.by.author.into(),
            comment: self.by.comment.into(),
        });
        let next = InForce { item: now.item, gray: Some(Arc::clone(&gray)) };
        self.draft(path, Draft { kind: Kind::Gray, next, from: 0 })?;
        Ok(Answer::Gray(gray))
    }

    fn promote(&mut self, path: &str) -> Result<Answer, Fault> {
        let now = self.in_force(path);
        let gray = now.gray.ok_or_else(|| Fault::NoGray(path.to_owned()))?;
        let old = now.item.as_deref();
        let mut item = self.fresh(path, gray.content());
        if let Some(old) = old {
            (item.created, item.lock_index, item.session) = (old.created, old.lock_index, old.session.clone());
        }
        let item = Arc::new(item);
        let next = InForce { item: Some(Arc::clone(&item)), gray: None };
        self.draft(path, Draft { kind: Kind::Promote, next, from: gray.version })?;
        Ok(Answer::Item(item))
    }

    fn abandon(&mut self, path: &str) -> Result<Answer, Fault> {
        let now = self.in_force(path);
        if now.gray.is_none() {
            return Err(Fault::NoGray(path.to_owned()));
        }
        let next = InForce { item: now.item, gray: None };
        self.draft(path, Draft { kind: Kind::Abandon, next, from: 0 })?;
        Ok(Answer::Done)
    }
}

fn content(content_type: &str, flags: u64, value: &Bytes) -> Content {
    Content { content_type: content_type.into(), flags, value: value.clone() }
}
