//! `waypost config history`, `diff`, `rollback`.

use std::io::Write as _;

use clap::Args;
use serde_json::Value;
use waypost_model::date::rfc3339;

use super::values::told;
use super::{Comment, Target};
use crate::cli::present::Format;
use crate::exit::Failure;

/// Arguments of `config history`.
#[derive(Debug, Args)]
pub struct History {
    #[command(flatten)]
    target: Target,
    /// At most so many
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    limit: u32,
    /// Only versions before this one
    #[arg(long, value_name = "VERSION")]
    before: Option<u64>,
}

/// Arguments of `config diff`.
#[derive(Debug, Args)]
pub struct Diff {
    #[command(flatten)]
    target: Target,
    /// The earlier version; by default the one before the other
    from: Option<u64>,
    /// The later version; by default the last one
    to: Option<u64>,
}

/// Arguments of `config rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    #[command(flatten)]
    target: Target,
    /// The version to bring back
    to_version: u64,
    #[command(flatten)]
    comment: Comment,
}

impl History {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let mut path = self.target.page("history").with("limit", &self.limit.to_string());
        if let Some(before) = self.before {
            path = path.with("before", &before.to_string());
        }
        let server = &self.target.place.server;
        let mut answer = server.api().get(path)?;
        let mut versions = answer.get_mut("versions").map(Value::take).unwrap_or_default();
        if server.output.format() != Format::Json {
            versions.as_array_mut().into_iter().flatten().for_each(with_time);
        }
        server.output.list(
            &versions,
            &[
                ("VERSION", "version"),
                ("TIME", "time"),
                ("KIND", "kind"),
                ("AUTHOR", "author"),
                ("BYTES", "bytes"),
                ("REVISION", "revision"),
                ("COMMENT", "comment"),
            ],
        )
    }
}

/// Puts the time beside the milliseconds, as people read it (UTC).
fn with_time(version: &mut Value) {
    let ms = version.get("at").and_then(Value::as_u64).unwrap_or_default();
    version["time"] = Value::from(rfc3339(ms / 1000));
}

impl Diff {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let mut path = self.target.page("diff");
        for (name, version) in [("from", self.from), ("to", self.to)] {
            if let Some(version) = version {
                path = path.with(name, &version.to_string());
            }
        }
        let server = &self.target.place.server;
        let diff = server.api().send("GET", &path, None, &[])?;
        if server.output.format() == Format::Json {
            let text = String::from_utf8_lossy(&diff.body);
            return server.output.item(&serde_json::json!({ "path": self.target.path, "diff": text }));
        }
        std::io::stdout().lock().write_all(&diff.body)?;
        Ok(())
    }
}

impl Rollback {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let path = self.target.change("rollback", &self.comment).with("version", &self.to_version.to_string());
        let server = &self.target.place.server;
        let answer = server.api().post(path, &Value::Null)?;
        server.output.done(&answer, &told(&self.target.path, &answer))
    }
}
