//! Transactions as their coordinator sees them: who a transactional id belongs to, what its transaction holds, when it
//! ends. What one partition knows of them stands in [`crate::partition`]; how a transaction ends in all of them at once,
//! in [`crate::streams`].
//!
//! There is no phase between the decision and its markers: the markers of all partitions, the offsets, and the new state
//! are one append of the journal, of which a crash leaves all or nothing.

mod addition;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use waypost_model::Millis;
use waypost_model::journal::AppendError;

pub(crate) use addition::Addition;
pub(crate) use state::{Entry, Transaction};

/// Most transactional ids of a node.
pub const TRANSACTIONAL_IDS_MAX: usize = 100_000;
/// Longest transactional id, bytes.
pub const TRANSACTIONAL_ID_BYTES_MAX: usize = 1_024;
/// Most partitions of a transaction.
pub const TRANSACTION_PARTITIONS_MAX: usize = 10_000;
/// Most groups of a transaction.
pub const TRANSACTION_GROUPS_MAX: usize = 1_000;
/// Most bytes of the partitions and groups of all open transactions.
pub const OPEN_BYTES_MAX: usize = 256 << 20;
/// Longest time that a transaction may be open, milliseconds: as Kafka's `transaction.max.timeout.ms`.
pub const TRANSACTION_TIMEOUT_MS_MAX: i32 = 900_000;
/// A transactional id that nobody has used for so long is forgotten, milliseconds: seven days, as Kafka's
/// `transactional.id.expiration.ms`.
pub const TRANSACTIONAL_ID_EXPIRATION_MS: u64 = 7 * 86_400_000;

/// A producer, as it names itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its id.
    pub id: i64,
    /// How often its id was given out.
    pub epoch: i16,
}

/// What a transactional id is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Its producer has begun nothing yet.
    #[default]
    Empty,
    /// A transaction is open.
    Ongoing,
    /// The last one was committed.
    CompleteCommit,
    /// The last one was aborted.
    CompleteAbort,
}

impl Phase {
    /// As the protocol writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Empty => "Empty",
            Phase::Ongoing => "Ongoing",
            Phase::CompleteCommit => "CompleteCommit",
            Phase::CompleteAbort => "CompleteAbort",
        }
    }
}

/// Why something is refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionFault {
    /// Empty, or longer than [`TRANSACTIONAL_ID_BYTES_MAX`].
    #[error("a transactional id has 1 to 1024 bytes")]
    Name,
    /// Not between 1 and [`TRANSACTION_TIMEOUT_MS_MAX`].
    #[error("a transaction may be open for 1 ms to 15 min")]
    Timeout,
    /// There is no such transactional id, or it has another producer id.
    #[error("the producer id does not belong to this transactional id")]
    UnknownProducer,
    /// The transactional id was given to another producer since.
    #[error("another producer has this transactional id now")]
    Fenced,
    /// No transaction is open, or it does not have what it is to write to, or it has ended the other way.
    #[error("not what the transaction is at")]
    State,
    /// As many as there may be.
    #[error("there are as many {0} as there may be")]
    Limit(&'static str),
    /// The metadata of an offset is too long.
    #[error("the metadata of an offset is too long")]
    Metadata,
    /// The journal takes nothing now.
    #[error(transparent)]
    Journal(#[from] AppendError),
}

/// A transactional id, for those who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionView {
    /// It.
    pub transactional_id: Arc<str>,
    /// What it is at.
    pub phase: Phase,
    /// Whose it is.
    pub producer: Producer,
    /// How long a transaction may be open.
    pub timeout_ms: i32,
    /// Since when one is, if one is.
    pub started: Option<Millis>,
    /// Topics and partitions of the open one, in order; none in lists.
    pub partitions: Vec<(Arc<str>, i32)>,
}
