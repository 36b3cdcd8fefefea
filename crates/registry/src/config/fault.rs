//! Why something was not done.

use waypost_model::journal::AppendError;

/// What stands in the way of a conditional operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// There is no such value, and one was expected.
    Missing,
    /// There is one, and none was expected.
    Exists,
    /// It is at another revision: this one.
    Revision(u64),
}

/// Why an operation was refused. Nothing of its transaction was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The path cannot be one.
    #[error("bad path: {0}")]
    BadPath(&'static str),
    /// Something else of the operation cannot be.
    #[error("{0}")]
    Bad(String),
    /// The value is larger than [`super::VALUE_BYTES_MAX`].
    #[error("value for key {path:?} is too large ({bytes} bytes > {max} bytes)", max = super::VALUE_BYTES_MAX)]
    TooLarge {
        /// Where it was to go.
        path: String,
        /// How large it is.
        bytes: usize,
    },
    /// There is no such value.
    #[error("key {0:?} doesn't exist")]
    NotFound(String),
    /// There is no such version, or no longer.
    #[error("{path:?} has no version {version} in its history")]
    NoVersion {
        /// Of which path.
        path: String,
        /// Which one.
        version: u64,
    },
    /// A condition does not hold.
    #[error("{}", stale(path, *.why))]
    Stale {
        /// Of which path.
        path: String,
        /// What is there instead.
        why: Stale,
    },
    /// Somebody else holds the lock.
    #[error("failed to lock key {0:?}, lock is already held")]
    Locked(String),
    /// A session held it a moment ago and did not give it back by itself.
    #[error("failed to lock key {path:?} due to lock delay until {until}")]
    Delayed {
        /// Which path.
        path: String,
        /// Until when, milliseconds of wall-clock time.
        until: u64,
    },
    /// Unlocking what one does not hold.
    #[error("failed to unlock key {0:?}, lock isn't held, or is held by another session")]
    NotHolder(String),
    /// The lock is held by another session, or by none.
    #[error("failed session check for key {path:?}, current session {found:?}")]
    OtherSession {
        /// Of which path.
        path: String,
        /// Who holds it; empty for nobody.
        found: String,
    },
    /// There is no such session.
    #[error("invalid session {0:?}")]
    NoSession(String),
    /// There is no gray release to end.
    #[error("key {0:?} has no gray release")]
    NoGray(String),
    /// A limit of the vhost is reached.
    #[error("limit reached: {0}")]
    Limit(&'static str),
    /// The journal does not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A version could not be read back.
    #[error("cannot read version {version} of {path:?}: {why}")]
    Unreadable {
        /// Of which path.
        path: String,
        /// Which one.
        version: u64,
        /// Why not.
        why: String,
    },
}

fn stale(path: &str, why: Stale) -> String {
    match why {
        Stale::Missing => format!("key {path:?} doesn't exist"),
        Stale::Exists => format!("key {path:?} exists"),
        Stale::Revision(found) => format!("key {path:?}: index is stale, current modify index is {found}"),
    }
}
