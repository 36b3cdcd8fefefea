//! `waypost config gray`.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::values::told;
use super::{Comment, Target};
use crate::exit::Failure;

/// What can be done with a gray release.
#[derive(Debug, Subcommand)]
pub enum Gray {
    /// Give a candidate to some instances, or change who gets it
    #[command(after_help = "Example: waypost config gray set cart/limit 200 --percent 10 --zone eu-1")]
    Set(Set),
    /// Show the candidate and who gets it
    Show(Target),
    /// Give the candidate to all
    Promote(End),
    /// Take the candidate back
    Abandon(End),
}

/// Arguments of `config gray set`.
#[derive(Debug, Args)]
pub struct Set {
    #[command(flatten)]
    target: Target,
    /// The candidate; without one the present candidate stays
    value: Option<String>,
    /// Its content type
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    content_type: Option<String>,
    /// To this instance, whatever else is said
    #[arg(long, value_name = "ID")]
    id: Vec<String>,
    /// To instances of these versions
    #[arg(long, value_name = "RANGE")]
    versions: Option<String>,
    /// To instances in one of these zones
    #[arg(long, value_name = "ZONE")]
    zone: Vec<String>,
    /// To instances with one of these tags
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// To this share of the instances
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100))]
    percent: Option<u8>,
    #[command(flatten)]
    comment: Comment,
}

/// Arguments of `config gray promote` and `abandon`.
#[derive(Debug, Args)]
pub struct End {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    comment: Comment,
}

impl Gray {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Set(set) => set.run(),
            Self::Show(target) => {
                let server = &target.place.server;
                server.output.item(&server.api().get(target.page("gray"))?)
            }
            Self::Promote(end) => {
                let server = &end.target.place.server;
                let answer = server.api().post(end.target.change("promote", &end.comment), &Value::Null)?;
                server.output.done(&answer, &told(&end.target.path, &answer))
            }
            Self::Abandon(end) => {
                let server = &end.target.place.server;
                let answer = server.api().delete(end.target.change("gray", &end.comment))?;
                server.output.done(&answer, &format!("the candidate of {} is given up", end.target.path))
            }
        }
    }
}

impl Set {
    fn run(&self) -> Result<(), Failure> {
        let server = &self.target.place.server;
        let answer = server.api().put(self.target.change("gray", &self.comment), &self.body())?;
        server.output.done(&answer, &told(&self.target.path, &answer))
    }

    fn body(&self) -> Value {
        let mut rule = Map::new();
        for (name, list) in [("ids", &self.id), ("zones", &self.zone), ("tags", &self.tag)] {
            if !list.is_empty() {
                rule.insert(name.to_owned(), json!(list));
            }
        }
        if let Some(versions) = &self.versions {
            rule.insert("version".to_owned(), json!(versions));
        }
        if let Some(percent) = self.percent {
            rule.insert("percent".to_owned(), json!(percent));
        }
        let mut body = json!({ "rule": rule });
        if let Some(value) = &self.value {
            body["value"] = json!(value);
        }
        if let Some(content_type) = &self.content_type {
            body["content_type"] = json!(content_type);
        }
        body
    }
}
