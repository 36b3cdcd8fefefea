//! The log: structured, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{LogConfig, LogFormat};
use crate::error::ServeError;

/// Begins to log. To be called once per process, by the binary.
///
/// # Errors
/// If the level is no filter, or something else logs already.
pub fn start(config: &LogConfig) -> Result<(), ServeError> {
    let filter = EnvFilter::try_new(&config.level).map_err(|e| ServeError::Log(e.to_string()))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(io::stderr().is_terminal());
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let started = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    started.map_err(|e| ServeError::Log(e.to_string()))
}
