//! How a subcommand ends: the exit codes that scripts rely on.

use std::process::ExitCode;

/// Why a subcommand did not succeed. Each kind has an exit code of its own.
#[derive(Debug)]
pub enum Failure {
    /// The work was tried and went wrong: exit code 1.
    Failed(anyhow::Error),
    /// The command line asks for something impossible: exit code 2, like the parser's own errors.
    Usage(String),
    /// A part of the work was done: exit code 3.
    Partial(String),
    /// What is named does not exist: exit code 4.
    NotFound(String),
    /// The server does not permit it: exit code 5.
    Denied(String),
    /// It does not fit what is there: exit code 6.
    Conflict(String),
    /// The server cannot be reached: exit code 7.
    Unavailable(anyhow::Error),
    /// It took too long: exit code 8.
    TimedOut(String),
    /// The configuration is wrong, or cannot be had here (a port that is taken): exit code 78, as in `sysexits.h`.
    BadConfig(String),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Partial(_) => 3,
            Self::NotFound(_) => 4,
            Self::Denied(_) => 5,
            Self::Conflict(_) => 6,
            Self::Unavailable(_) => 7,
            Self::TimedOut(_) => 8,
            Self::BadConfig(_) => 78,
        }
    }

    /// Says on standard error what went wrong and gives the exit code for it.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Failed(error) | Self::Unavailable(error) => eprintln!("waypost: {error:#}"),
            Self::Usage(text)
            | Self::Partial(text)
            | Self::NotFound(text)
            | Self::Denied(text)
            | Self::Conflict(text)
            | Self::TimedOut(text)
            | Self::BadConfig(text) => eprintln!("waypost: {text}"),
        }
        ExitCode::from(self.code())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}
