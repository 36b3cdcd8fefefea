//! One path: what is in force, and which of its versions are kept.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use waypost_model::{Lsn, QueueId, Seq};

use super::gray::Rule;
use super::record::{Content, Record};

/// A value in force, with all that is known of it. Immutable: a change is a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it is.
    pub path: Arc<str>,
    /// At most [`super::VALUE_BYTES_MAX`] bytes.
    pub value: Bytes,
    /// As its writer said; empty if it did not.
    pub content_type: Arc<str>,
    /// The writer's own; nobody else looks at them.
    pub flags: u64,
    /// The version that wrote the value.
    pub version: u64,
    /// The revision at which value or lock changed last. Consul's `ModifyIndex`.
    pub revision: u64,
    /// The revision since which there is a value without a gap. Consul's `CreateIndex`.
    pub created: u64,
    /// How often its lock was taken.
    pub lock_index: u64,
    /// The session that holds its lock.
    pub session: Option<Arc<str>>,
    /// When the value was written, milliseconds of wall-clock time.
    pub at: u64,
    /// Who wrote it.
    pub author: Arc<str>,
    /// Why.
    pub comment: Arc<str>,
}

/// The candidate of a gray release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gray {
    /// Who gets it.
    pub rule: Arc<Rule>,
    /// What they get.
    pub value: Bytes,
    /// Its content type; empty if unknown.
    pub content_type: Arc<str>,
    /// Its writer's own.
    pub flags: u64,
    /// The version that wrote it.
    pub version: u64,
    /// The revision of its last change.
    pub revision: u64,
    /// When, milliseconds of wall-clock time.
    pub at: u64,
    /// Who.
    pub author: Arc<str>,
    /// Why.
    pub comment: Arc<str>,
}

impl Item {
    /// The value of a record, without the lock.
    pub(super) fn of(record: &Record, version: u64, content: Content) -> Item {
        Item {
            path: Arc::clone(&record.path),
            value: content.value,
            content_type: content.content_type,
            flags: content.flags,
            version,
            revision: record.modified,
            created: record.created,
            lock_index: record.lock_index,
            session: record.session.clone(),
            at: record.at,
            author: Arc::clone(&record.author),
            comment: Arc::clone(&record.comment),
        }
    }

    pub(super) fn content(&self) -> Content {
        Content { content_type: Arc::clone(&self.content_type), flags: self.flags, value: self.value.clone() }
    }
}

impl Gray {
    pub(super) fn of(record: &Record, version: u64, content: Content, rule: Arc<Rule>) -> Gray {
        Gray {
            rule,
            value: content.value,
            content_type: content.content_type,
            flags: content.flags,
            version,
            revision: record.revision,
            at: record.at,
            author: Arc::clone(&record.author),
            comment: Arc::clone(&record.comment),
        }
    }

    pub(super) fn content(&self) -> Content {
        Content { content_type: Arc::clone(&self.content_type), flags: self.flags, value: self.value.clone() }
    }
}

/// What is in force at a path.
#[derive(Debug, Clone, Default)]
pub(super) struct InForce {
    pub item: Option<Arc<Item>>,
    pub gray: Option<Arc<Gray>>,
}

impl InForce {
    /// Bytes that count against the vhost's limit, without the path.
    pub fn bytes(&self) -> u64 {
        let item = self.item.as_ref().map_or(0, |i| i.value.len());
        (item + self.gray.as_ref().map_or(0, |g| g.value.len())) as u64
    }

    pub fn session(&self) -> Option<&Arc<str>> {
        self.item.as_ref().and_then(|i| i.session.as_ref())
    }
}

/// What is remembered of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub version: u64,
    /// When it came, milliseconds.
    pub at: u64,
    /// How many bytes its record has.
    pub bytes: u32,
}

/// A path that has a history.
#[derive(Debug)]
pub(super) struct Entry {
    pub queue: QueueId,
    /// The versions that are kept, in order; the last one is the present. Never empty.
    pub marks: VecDeque<Mark>,
    pub now: InForce,
    /// The revision of the last version.
    pub changed: u64,
    /// The revision at which what everybody sees changed last, a deletion included.
    pub modified: u64,
    /// When the last version is durable.
    pub lsn: Lsn,
}

impl Entry {
    /// The last version.
    pub fn version(&self) -> u64 {
        self.marks.back().map_or(0, |m| m.version)
    }

    /// Whether there is neither a value nor a candidate.
    pub fn is_deleted(&self) -> bool {
        self.now.item.is_none() && self.now.gray.is_none()
    }

    /// Bytes of all its versions.
    pub fn history_bytes(&self) -> u64 {
        self.marks.iter().map(|m| u64::from(m.bytes)).sum()
    }
}

/// Where a version lies in its queue.
pub(super) const fn seq(version: u64) -> Seq {
    Seq(version.saturating_sub(1))
}
