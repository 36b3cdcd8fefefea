//! How a subcommand ends: the exit codes that scripts rely on.

use std::process::ExitCode;

/// Why a subcommand did not succeed. Each kind has an exit code of its own.
#[derive(Debug)]
pub enum Failure {
    /// The work was tried and went wrong: exit code 1.
    Failed(anyhow::Error),
    /// The command line asks for something impossible: exit code 2, like the parser's own errors.
    Usage(String),
    /// The server cannot be reached: exit code 7.
    Unavailable(anyhow::Error),
}

impl Failure {
    /// Says on standard error what went wrong and gives the exit code for it.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Failed(error) => {
                eprintln!("waypost: {error:#}");
                ExitCode::from(1)
            }
            Self::Usage(text) => {
                eprintln!("waypost: {text}");
                ExitCode::from(2)
            }
            Self::Unavailable(error) => {
                eprintln!("waypost: {error:#}");
                ExitCode::from(7)
            }
        }
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
