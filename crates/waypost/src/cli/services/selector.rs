//! Which instances of a service a message is for, as flags.

use clap::Args;

use crate::cli::http::ApiPath;

/// Conditions of a selector, and the way of delivery.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which instances")]
pub struct Selector {
    /// Range of versions
    #[arg(long, value_name = "RANGE")]
    versions: Option<String>,
    #[arg(long)]
    zone: Option<String>,
    /// A tag that the instance must have; of several, all
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Only this one
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// A filter expression, such as 'meta.team == "a" and weight > 1'
    #[arg(long, value_name = "EXPRESSION")]
    select: Option<String>,
    /// Messages with the same key go to the same instance, in order
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

impl Selector {
    /// The same as parameters of a page.
    pub fn on(&self, path: ApiPath) -> ApiPath {
        let named = [
            ("version", &self.versions),
            ("zone", &self.zone),
            ("instance", &self.instance),
            ("select", &self.select),
            ("key", &self.key),
        ];
        let mut path = self.tag.iter().fold(path, |path, tag| path.with("tag", tag));
        for (name, value) in named {
            path = value.iter().fold(path, |path, value| path.with(name, value));
        }
        if self.key.is_some() { path.with("deliver", "key") } else { path }
    }
}
