//! `waypost services`, `waypost request`, `waypost reply` and `waypost route explain`.

mod ask;
mod command;
mod explain;
mod list;
mod register;
mod reply;
mod selector;

pub use ask::RequestArgs;
pub use explain::Route;
pub use reply::ReplyArgs;

use clap::{Args, Subcommand};

use super::admin::{ServerArgs, VhostArgs};
use super::http::ApiPath;
use crate::exit::Failure;

/// What can be done with services.
#[derive(Debug, Subcommand)]
pub enum Services {
    /// List services
    Ls(list::List),
    /// Show a service: its instances, what each holds, what waits
    Show(list::Show),
    /// Print a service's instances whenever they change
    Watch(list::Watch),
    /// Register an instance, or change what is said of one
    #[command(after_help = "Example: waypost services register cart --id cart-1 --address 10.0.0.7 --port 8080 \
        --at-version 2.1.0 --zone eu-1 --tag gpu --ttl 15s")]
    Register(Box<register::Register>),
    /// Let an instance finish what it has, and give it nothing more
    Drain(register::Drain),
    /// Take an instance out
    Deregister(register::Deregister),
}

/// Where a service is.
#[derive(Debug, Args)]
pub struct Place {
    #[command(flatten)]
    vhost: VhostArgs,
    #[command(flatten)]
    server: ServerArgs,
}

impl Place {
    /// A page about a service.
    fn service(&self, service: &str) -> ApiPath {
        ApiPath::new("services").at(service)
    }

    /// A page about an instance.
    fn instance(&self, service: &str, id: &str) -> ApiPath {
        self.service(service).at("instances").at(id)
    }

    fn of(&self, path: ApiPath) -> ApiPath {
        path.with("vhost", &self.vhost.vhost)
    }
}

impl Services {
    /// Runs it.
    ///
    /// # Errors
    /// By the kind of what went wrong, see [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Ls(command) => command.run(),
            Self::Show(command) => command.run(),
            Self::Watch(command) => command.run(),
            Self::Register(command) => command.run(),
            Self::Drain(command) => command.run(),
            Self::Deregister(command) => command.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, Subcommand as _};

    use super::*;

    /// Names of flags that meet, and the like, are found when a command line is read; or here.
    #[test]
    fn the_command_lines_are_sound() {
        let command = || Command::new("waypost").version("1").propagate_version(true);
        Services::augment_subcommands(command()).debug_assert();
        Route::augment_subcommands(command()).debug_assert();
        command().subcommand(RequestArgs::augment_args(Command::new("request"))).debug_assert();
        command().subcommand(ReplyArgs::augment_args(Command::new("reply"))).debug_assert();
    }
}
