//! `waypost config watch`.

use std::io::Write as _;

use clap::Args;
use serde_json::Value;

use super::Place;
use crate::cli::present::{Format, cell};
use crate::exit::Failure;

/// How long the server waits for a change before it is asked again, milliseconds; less than `--wait` is by default.
const POLL_MS: &str = "20000";

/// Arguments of `config watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// Keys, or with --prefix what keys begin with
    #[arg(required = true)]
    paths: Vec<String>,
    /// Watch all keys that begin so
    #[arg(long)]
    prefix: bool,
    /// Begin with what is there now
    #[arg(long)]
    initial: bool,
    /// End after so many changes
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    place: Place,
}

impl Watch {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let api = self.place.server.api();
        let name = if self.prefix { "prefix" } else { "path" };
        let page = || {
            let page = self.place.of(self.place.page("watch"));
            self.paths.iter().fold(page, |page, path| page.with(name, path))
        };
        let mut left = self.count;
        let now = api.get(page())?;
        if self.initial {
            self.print(&now, &mut left)?;
        }
        let mut seen = revision(&now);
        while left != Some(0) {
            let news = api.get(page().with("revision", &seen.to_string()).with("wait_ms", POLL_MS))?;
            self.print(&news, &mut left)?;
            seen = revision(&news);
        }
        Ok(())
    }

    fn print(&self, news: &Value, left: &mut Option<u64>) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        for key in news.get("keys").and_then(Value::as_array).into_iter().flatten() {
            if *left == Some(0) {
                break;
            }
            *left = left.map(|n| n - 1);
            if self.place.server.output.format() == Format::Json {
                writeln!(out, "{key}")?;
            } else {
                let of = |name: &str| cell(key.get(name).unwrap_or(&Value::Null));
                let value = match key.get("deleted") {
                    Some(Value::Bool(true)) => "(deleted)".to_owned(),
                    _ if key.get("value").is_none() => "(binary)".to_owned(),
                    _ => of("value"),
                };
                writeln!(out, "{}\t{}\t{value}", of("changed"), of("path"))?;
            }
        }
        out.flush()?;
        Ok(())
    }
}

fn revision(news: &Value) -> u64 {
    news.get("revision").and_then(Value::as_u64).unwrap_or(1).max(1)
}
