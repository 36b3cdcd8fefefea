//! The log: structured, on standard error, and for those who look over its shoulder ([`monitor`]).

pub(crate) mod monitor;

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use self::monitor::{Form, Monitors};
use crate::config::{LogConfig, LogFormat};
use crate::error::ServeError;

/// Begins to log. To be called once per process, by the binary.
///
/// # Errors
/// If the level is no filter, or something else logs already.
pub fn start(config: &LogConfig) -> Result<(), ServeError> {
    let filter = EnvFilter::try_new(&config.level).map_err(|e| ServeError::Log(e.to_string()))?;
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let lines = on_standard_error(json).with_filter(filter);
    let (monitors, text) = Monitors::new().with_layer(Form::Text);
    let (monitors, json) = monitors.with_layer(Form::Json);
    let started = tracing_subscriber::registry().with(lines).with(text).with(json).try_init();
    started.map_err(|e| ServeError::Log(e.to_string()))?;
    monitor::open(monitors);
    Ok(())
}

fn on_standard_error<S: Subscriber + for<'a> LookupSpan<'a>>(json: bool) -> Box<dyn Layer<S> + Send + Sync> {
    let layer = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    if json { layer.json().flatten_event(true).boxed() } else { layer.boxed() }
}
