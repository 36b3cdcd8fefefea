//! What can go wrong between the generator and a broker.

use crate::exit::Failure;
use std::io;

/// An error of a measurement, sorted by who is to blame.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No connection could be made.
    #[error("cannot connect to {address}")]
    Unavailable {
        /// Host and port that were tried.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The broker sent `connection.close` or `channel.close`.
    #[error("the broker closed the {scope}: {code} {text} (class {class}, method {method})")]
    Closed {
        /// `connection` or `channel`.
        scope: &'static str,
        /// Reply code.
        code: u16,
        /// Reply text.
        text: String,
        /// Class of the method that the broker blames, 0 if none.
        class: u16,
        /// Method that the broker blames, 0 if none.
        method: u16,
    },
    /// The broker cancelled a consumer.
    #[error("the broker cancelled consumer {0:?}")]
    Cancelled(String),
    /// The server closed the socket without a word.
    #[error("the server dropped the connection while {0}")]
    Dropped(&'static str),
    /// The server did not answer in time.
    #[error("no answer from the server within {seconds} s while {doing}")]
    Silent {
        /// How long it was waited for.
        seconds: u64,
        /// What was going on.
        doing: &'static str,
    },
    /// The broker's bytes are not AMQP 0-9-1.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// The options contradict each other or the protocol.
    #[error("{0}")]
    Usage(String),
    /// A system call failed.
    #[error("{doing}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// A thread of the generator died.
    #[error("a generator thread panicked")]
    Panicked,
}

impl Fault {
    /// An `io::Error` with what was tried.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// A breach of the protocol.
    pub fn protocol(text: impl Into<String>) -> Self {
        Self::Protocol(text.into())
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable { .. } => Self::Unavailable(fault.into()),
            Fault::Usage(text) => Self::Usage(text),
            other => Self::Failed(other.into()),
        }
    }
}
