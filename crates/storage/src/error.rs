//! Why a store cannot be opened.

use std::io;

use crate::disk::LockError;

/// Why a store cannot be opened. Nothing was changed, but for the `LOCK` file.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has the directory.
    #[error("cannot lock the data directory: {0}")]
    Lock(#[from] LockError),
    /// The operating system refused something.
    #[error("{file}: {source}")]
    Io {
        /// Which file.
        file: String,
        /// What it said.
        source: io::Error,
    },
    /// What was once durable is not what was written.
    #[error("{file} is damaged at offset {offset}: {what}")]
    Damaged {
        /// Which file.
        file: String,
        /// Where, bytes.
        offset: u64,
        /// What does not fit.
        what: String,
    },
    /// A file that must be there is not.
    #[error("{file} is missing")]
    Missing {
        /// Which file.
        file: String,
    },
    /// Another release wrote this.
    #[error("{file} has format version {version}; this release reads {} only", crate::segment::FORMAT_VERSION)]
    Version {
        /// Which file.
        file: String,
        /// Its version.
        version: u32,
    },
}

impl OpenError {
    pub(crate) fn io(file: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
        let file = file.into();
        move |source| OpenError::Io { file, source }
    }

    pub(crate) fn damaged(file: impl Into<String>, offset: u64, what: impl Into<String>) -> OpenError {
        OpenError::Damaged { file: file.into(), offset, what: what.into() }
    }
}
