//! The subcommands that operate a server and speak to it, one module each.

mod address;
mod admin;
mod amqp;
mod consume;
mod http;
mod net;
mod offline;
mod present;
mod publish;
mod serve;
mod template;
mod verify;

use crate::exit::Failure;
use clap::Subcommand;

/// Subcommands beside the load generators.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publish messages
    Publish(Box<publish::PublishArgs>),
    /// Take messages from a queue and print them
    Consume(consume::ConsumeArgs),
    #[command(flatten)]
    Admin(admin::Command),
    #[command(flatten)]
    Offline(offline::Command),
}

/// Runs one of them.
///
/// # Errors
/// By the kind of what went wrong, see [`Failure`].
pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Publish(args) => publish::run(&args),
        Command::Consume(args) => consume::run(&args),
        Command::Admin(command) => admin::run(&command),
        Command::Offline(command) => offline::run(command),
    }
}
