//! The subcommands that operate a server and speak to it, one module each.

mod address;
mod admin;
mod amqp;
mod config;
mod consume;
mod devices;
mod http;
mod net;
mod offline;
pub mod pair;
mod present;
mod publish;
mod serve;
mod services;
mod template;
pub mod time;
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
    /// Configuration: get, set, edit, watch, history, diff, rollback, gray releases
    #[command(subcommand)]
    Config(config::Config),
    /// Services: list, show, watch, register, drain, deregister
    #[command(subcommand, visible_alias = "service")]
    Services(services::Services),
    /// ZeroMQ devices: list, show, declare, remove
    #[command(subcommand, visible_alias = "device")]
    Devices(devices::Devices),
    /// Ask a service and print its answer
    Request(Box<services::RequestArgs>),
    /// Answer a service's requests with a program
    Reply(Box<services::ReplyArgs>),
    /// Where messages would go, and why
    #[command(subcommand)]
    Route(services::Route),
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
        Command::Config(command) => command.run(),
        Command::Services(command) => command.run(),
        Command::Devices(command) => command.run(),
        Command::Request(args) => args.run(),
        Command::Reply(args) => args.run(),
        Command::Route(command) => command.run(),
        Command::Admin(command) => admin::run(&command),
        Command::Offline(command) => offline::run(command),
    }
}
