//! `waypost config ls`, `get`, `set`, `rm`.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::{Comment, Place, Target};
use crate::cli::http::{ApiPath, Content};
use crate::cli::present::Format;
use crate::exit::Failure;

/// Arguments of `config ls`.
#[derive(Debug, Args)]
pub struct List {
    /// Only keys that begin so
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `config get`.
#[derive(Debug, Args)]
pub struct Get {
    #[command(flatten)]
    target: Target,
    /// An earlier version
    #[arg(long, value_name = "N", conflicts_with_all = ["instance", "instance_version", "instance_zone", "instance_tag"])]
    at_version: Option<u64>,
    /// What this instance gets, while a gray release is under way
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// What an instance of this version gets
    #[arg(long, value_name = "SEMVER")]
    instance_version: Option<String>,
    /// What an instance in this zone gets
    #[arg(long, value_name = "ZONE")]
    instance_zone: Option<String>,
    /// What an instance with this tag gets
    #[arg(long, value_name = "TAG")]
    instance_tag: Vec<String>,
}

/// Arguments of `config set`.
#[derive(Debug, Args)]
pub struct Set {
    #[command(flatten)]
    target: Target,
    /// The value
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    value: Option<String>,
    /// Take the value from a file, or from standard input (-)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Its content type; by default the present one stays
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    content_type: Option<String>,
    /// Only if the value is at this revision
    #[arg(long, value_name = "REVISION", conflicts_with = "if_absent")]
    if_revision: Option<u64>,
    /// Only if there is no value yet
    #[arg(long)]
    if_absent: bool,
    #[command(flatten)]
    comment: Comment,
}

/// Arguments of `config rm`.
#[derive(Debug, Args)]
pub struct Remove {
    #[command(flatten)]
    target: Target,
    /// Only if the value is at this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    #[command(flatten)]
    comment: Comment,
}

impl List {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let api = self.place.server.api();
        let (mut keys, mut after) = (Vec::new(), String::new());
        loop {
            let path = self.place.of(self.place.page("keys").with("prefix", &self.prefix).with("after", &after));
            let mut page = api.get(path)?;
            if let Some(Value::Array(more)) = page.get_mut("keys").map(Value::take) {
                keys.extend(more);
            }
            match page.get("after").and_then(Value::as_str) {
                Some(next) => after = next.to_owned(),
                None => break,
            }
        }
        self.place.server.output.list(
            &Value::Array(keys),
            &[
                ("KEY", "path"),
                ("VERSION", "version"),
                ("REVISION", "revision"),
                ("BYTES", "bytes"),
                ("TYPE", "content_type"),
                ("AUTHOR", "author"),
                ("COMMENT", "comment"),
            ],
        )
    }
}

impl Get {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let (api, output) = (self.target.place.server.api(), &self.target.place.server.output);
        let path = self.path();
        if output.output == Some(Format::Json) {
            return output.item(&api.get(path.with("metadata", "true"))?);
        }
        let answer = api.send("GET", &path, None, &[])?;
        // As it is: whoever wants a line end in the value has put one there.
        let mut out = std::io::stdout().lock();
        out.write_all(&answer.body)?;
        out.flush()?;
        Ok(())
    }

    fn path(&self) -> ApiPath {
        let mut path = self.target.page("keys");
        if let Some(version) = self.at_version {
            path = path.with("version", &version.to_string());
        }
        let named = [
            ("instance", &self.instance),
            ("instance-version", &self.instance_version),
            ("instance-zone", &self.instance_zone),
        ];
        for (name, value) in named {
            path = value.iter().fold(path, |path, value| path.with(name, value));
        }
        self.instance_tag.iter().fold(path, |path, tag| path.with("instance-tag", tag))
    }
}

impl Set {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let bytes = match (&self.value, &self.file) {
            (Some(value), _) => value.clone().into_bytes(),
            (None, Some(file)) => read(file)?,
            (None, None) => return Err(Failure::Usage("there is no value".to_owned())),
        };
        let place = &self.target.place;
        let condition = match (self.if_revision, self.if_absent) {
            (Some(revision), _) => vec![("If-Match", format!("\"{revision}\""))],
            (None, true) => vec![("If-None-Match", "*".to_owned())],
            (None, false) => Vec::new(),
        };
        let content = Content { content_type: self.content_type.as_deref(), bytes: &bytes };
        let path = self.target.change("keys", &self.comment);
        let answer = place.server.api().send("PUT", &path, Some(content), &condition)?.json();
        place.server.output.done(&answer, &told(&self.target.path, &answer))
    }
}

impl Remove {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let place = &self.target.place;
        let condition: Vec<_> = self.if_revision.iter().map(|r| ("If-Match", format!("\"{r}\""))).collect();
        let path = self.target.change("keys", &self.comment);
        let answer = place.server.api().send("DELETE", &path, None, &condition)?.json();
        place.server.output.done(&answer, &format!("{} deleted", self.target.path))
    }
}

/// What came of a write.
pub fn told(path: &str, answer: &Value) -> String {
    let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
    match answer.get("changed").and_then(Value::as_bool) {
        Some(false) => format!("{path} is so already, at revision {}", number("revision")),
        _ => format!("{path} is at version {}, revision {}", number("version"), number("revision")),
    }
}

/// A file, or standard input.
fn read(file: &PathBuf) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes)?;
    } else {
        bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(bytes)
}
