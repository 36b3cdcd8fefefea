//! Looking back.

use std::sync::Arc;

use waypost_model::{Millis, QueueId};

use super::fault::Fault;
use super::open::read;
use super::record::{Kind, Record};
use super::store::{By, Committed, Store};
use super::write::{When, Write};
use super::{Rule, difference};

/// A version of a path, as listings show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// Which one.
    pub version: u64,
    /// The revision of its commit.
    pub revision: u64,
    /// What it did.
    pub kind: Kind,
    /// When, milliseconds of wall-clock time.
    pub at: u64,
    /// Who.
    pub author: Arc<str>,
    /// Why.
    pub comment: Arc<str>,
    /// Which version it brought back, or made the value for all.
    pub from: Option<u64>,
    /// Content type, flags and value, where it wrote one.
    pub content: Option<(Arc<str>, u64, bytes::Bytes)>,
    /// The version whose value was in force after it; none if there was no value.
    pub stable: Option<u64>,
    /// Who got the candidate that it wrote.
    pub rule: Option<Arc<Rule>>,
}

impl Past {
    fn of(version: u64, r: Record) -> Past {
        Past {
            version,
            revision: r.revision,
            kind: r.kind,
            at: r.at,
            author: r.author,
            comment: r.comment,
            from: Some(r.from).filter(|from| *from > 0),
            content: r.content.map(|c| (c.content_type, c.flags, c.value)),
            stable: Some(r.stable).filter(|stable| *stable > 0),
            rule: r.rule,
        }
    }
}

impl Store {
    /// The versions of a path before `before`, newest first, at most `count`. Reads the disk.
    ///
    /// # Errors
    /// [`Fault::NotFound`]: the path was never written, or is forgotten. [`Fault::Unreadable`].
    pub fn history(&self, vhost: &str, path: &str, before: Option<u64>, count: usize) -> Result<Vec<Past>, Fault> {
        let (queue, versions) = self.versions(vhost, path)?;
        let before = before.unwrap_or(u64::MAX);
        let wanted = versions.into_iter().rev().filter(|v| *v < before).take(count);
        let read = wanted.filter_map(|v| self.read(vhost, path, queue, v).transpose().map(|r| Ok(Past::of(v, r?))));
        read.collect()
    }

    /// One version of a path; with the value that was in force after it, also where it wrote none itself (unlocking,
    /// abandoning a candidate). Of a gray release it is the candidate. Reads the disk.
    ///
    /// # Errors
    /// [`Fault::NotFound`], [`Fault::NoVersion`], [`Fault::Unreadable`].
    pub fn version(&self, vhost: &str, path: &str, version: u64) -> Result<Past, Fault> {
        let (queue, versions) = self.versions(vhost, path)?;
        let none = || Fault::NoVersion { path: path.to_owned(), version };
        versions.binary_search(&version).map_err(|_| none())?;
        let mut record = self.read(vhost, path, queue, version)?.ok_or_else(none)?;
        if record.content.is_none() && record.stable > 0 {
            let value = self.read(vhost, path, queue, record.stable)?.ok_or_else(none)?;
            record.content = value.content;
        }
        Ok(Past::of(version, record))
    }

    /// What changed between two versions. A version without a value counts as empty. Reads the disk.
    ///
    /// # Errors
    /// As [`Store::version`].
    pub fn diff(&self, vhost: &str, path: &str, from: u64, to: u64) -> Result<super::Difference, Fault> {
        let (old, new) = (self.version(vhost, path, from)?, self.version(vhost, path, to)?);
        let value = |past: &Past| past.content.clone().map(|(_, _, value)| value).unwrap_or_default();
        let name = |past: &Past| format!("{path}@{}", past.version);
        Ok(difference((&name(&old), &value(&old)), (&name(&new), &value(&new))))
    }

    /// Makes an earlier value the present one again: a new version, of which the history says where it came from.
    ///
    /// # Errors
    /// As [`Store::version`] and [`Store::commit`]; [`Fault::Bad`] for a version without a value.
    pub fn rollback(
        &self,
        vhost: &str,
        by: By<'_>,
        path: &str,
        version: u64,
        when: When,
        now: Millis,
    ) -> Result<Committed, Fault> {
        let past = self.version(vhost, path, version)?;
        let Some((content_type, flags, value)) = past.content else {
            return Err(Fault::Bad(format!(
                "version {version} of {path:?} is a deletion: there is no value to bring back"
            )));
        };
        let path = path.to_owned();
        let write = Write::Rollback { path, version, value, content_type: content_type.to_string(), flags, when };
        self.commit_one(vhost, by, write, now)
    }

    fn read(&self, vhost: &str, path: &str, queue: QueueId, version: u64) -> Result<Option<Record>, Fault> {
        match read(&*self.bodies, queue, version, path) {
            Ok(record) => Ok(Some(record)),
            // Retention may have been faster.
            Err(_) if self.versions(vhost, path).map_or(true, |(_, kept)| !kept.contains(&version)) => Ok(None),
            Err(e) => Err(Fault::Unreadable { path: path.to_owned(), version, why: e.to_string() }),
        }
    }
}
