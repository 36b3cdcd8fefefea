//! `waypost config`: values under keys, by the server's HTTP API.

mod edit;
mod gray;
mod history;
mod values;
mod watch;

use clap::{Args, Subcommand};

use super::admin::{ServerArgs, VhostArgs};
use super::http::ApiPath;
use crate::exit::Failure;

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// List keys
    Ls(values::List),
    /// Print a value
    Get(values::Get),
    /// Set a value
    #[command(after_help = "Examples:\n  waypost config set cart/limit 100 --comment 'for the weekend'\n  \
        waypost config set cart/app.yaml --file app.yaml --type application/yaml")]
    Set(values::Set),
    /// Delete a value; its history stays for a while
    Rm(values::Remove),
    /// Edit a value with $VISUAL or $EDITOR; refused if somebody else has changed it meanwhile
    Edit(edit::Edit),
    /// Print what changes, for as long as it runs
    Watch(watch::Watch),
    /// List the versions of a value
    History(history::History),
    /// Print what changed between two versions; by default what the last one changed
    Diff(history::Diff),
    /// Make an earlier version the present one again
    Rollback(history::Rollback),
    /// Gray releases: give a candidate to some instances, then to all or to none
    #[command(subcommand)]
    Gray(gray::Gray),
}

/// Which value, and where.
#[derive(Debug, Args)]
pub struct Target {
    /// namespace/key
    path: String,
    #[command(flatten)]
    place: Place,
}

/// Which configuration.
#[derive(Debug, Args)]
pub struct Place {
    #[command(flatten)]
    vhost: VhostArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Why something is changed.
#[derive(Debug, Args)]
pub struct Comment {
    /// Why, for the history
    #[arg(short, long, default_value = "", hide_default_value = true)]
    comment: String,
}

impl Place {
    /// A page of the API for this vhost.
    fn page(&self, page: &str) -> ApiPath {
        ApiPath::new("config").at(page)
    }

    fn of(&self, path: ApiPath) -> ApiPath {
        path.with("vhost", &self.vhost.vhost)
    }
}

impl Target {
    /// A page of the API about this value.
    fn page(&self, page: &str) -> ApiPath {
        self.place.of(self.place.page(page).at(&self.path))
    }

    /// The same with the reason of a change.
    fn change(&self, page: &str, comment: &Comment) -> ApiPath {
        let path = self.page(page);
        if comment.comment.is_empty() { path } else { path.with("comment", &comment.comment) }
    }
}

impl Config {
    /// Runs it.
    ///
    /// # Errors
    /// By the kind of what went wrong, see [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Ls(command) => command.run(),
            Self::Get(command) => command.run(),
            Self::Set(command) => command.run(),
            Self::Rm(command) => command.run(),
            Self::Edit(command) => command.run(),
            Self::Watch(command) => command.run(),
            Self::History(command) => command.run(),
            Self::Diff(command) => command.run(),
            Self::Rollback(command) => command.run(),
            Self::Gray(command) => command.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, Subcommand as _};

    use super::Config;

    /// Names of flags that meet, and the like, are found when a command line is read; or here.
    #[test]
    fn the_command_line_is_sound() {
        let command = Command::new("waypost").version("1").propagate_version(true);
        Config::augment_subcommands(command).debug_assert();
    }
}
