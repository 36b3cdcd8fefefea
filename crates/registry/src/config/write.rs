//! What may be asked of the store, and what comes of it.

use std::sync::Arc;

use bytes::Bytes;

use super::entry::{Gray, Item};
use super::gray::Rule;
#[cfg(doc)]
use super::limits::VALUE_BYTES_MAX;

/// When an operation may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// If there is a value.
    Exists,
    /// If the value is at this revision; 0: if there is none.
    Revision(u64),
    /// If the value is at this revision, or gone already.
    RevisionOrGone(u64),
}

/// One operation.
#[derive(Debug, Clone)]
pub enum Write {
    /// Sets a value. What would change nothing changes nothing, the revision included.
    Put {
        /// Where.
        path: String,
        /// At most [`VALUE_BYTES_MAX`] bytes.
        value: Bytes,
        /// Without one the present one stays.
        content_type: Option<String>,
        /// Without them the present ones stay.
        flags: Option<u64>,
        /// On what condition.
        when: When,
    },
    /// Deletes a value, and a candidate with it. That there is none is fine, unless the condition says otherwise.
    Delete {
        /// Where.
        path: String,
        /// On what condition.
        when: When,
    },
    /// Deletes all values whose path begins so.
    DeleteBelow {
        /// The beginning.
        prefix: String,
    },
    /// Deletes these values, as far as they are there: for those who may not delete all that begin so.
    DeletePaths {
        /// Which ones.
        paths: Vec<Arc<str>>,
    },
    /// Takes the lock for a session, and sets the value.
    Lock {
        /// Where.
        path: String,
        /// At most [`VALUE_BYTES_MAX`] bytes.
        value: Bytes,
        /// The writer's own.
        flags: u64,
        /// Who takes it.
        session: String,
    },
    /// Gives the lock back, and sets the value.
    Unlock {
        /// Where.
        path: String,
        /// At most [`VALUE_BYTES_MAX`] bytes.
        value: Bytes,
        /// The writer's own.
        flags: u64,
        /// Who holds it.
        session: String,
    },
    /// Only looks: whether a condition holds.
    Check {
        /// Where.
        path: String,
        /// The condition.
        when: When,
    },
    /// Only looks: whether a session holds the lock.
    CheckSession {
        /// Where.
        path: String,
        /// Who should hold it.
        session: String,
    },
    /// Reads a value, which must be there.
    Get {
        /// Where.
        path: String,
    },
    /// Reads all values whose path begins so.
    GetBelow {
        /// The beginning.
        prefix: String,
    },
    /// Begins a gray release, or replaces the candidate and the rule of the one that is under way.
    Gray {
        /// Where.
        path: String,
        /// What the chosen get; without one the present candidate stays.
        value: Option<Bytes>,
        /// Its content type; without one that of what it replaces.
        content_type: Option<String>,
        /// Who is chosen.
        rule: Rule,
        /// On what condition; the revision is the stable value's.
        when: When,
    },
    /// Ends a gray release: all get the candidate.
    Promote {
        /// Where.
        path: String,
    },
    /// Ends a gray release: nobody gets the candidate any more.
    Abandon {
        /// Where.
        path: String,
    },
    /// Sets a value that was there before.
    Rollback {
        /// Where.
        path: String,
        /// Which version it was.
        version: u64,
        /// What it was, read by the store.
        value: Bytes,
        /// Its content type.
        content_type: String,
        /// Its flags.
        flags: u64,
        /// On what condition.
        when: When,
    },
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is done; there is nothing to show.
    Done,
    /// The value that is there now.
    Item(Arc<Item>),
    /// Several, in order of path.
    Items(Vec<Arc<Item>>),
    /// The candidate that is there now.
    Gray(Arc<Gray>),
}
