//! `waypost bench`: load generators, one per protocol.

mod amqp;
mod kafka;
mod registry;
mod zmtp;

use crate::exit::Failure;
use clap::{Args, Subcommand};

/// Arguments of `waypost bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum Target {
    /// Load any AMQP 0-9-1 broker and measure it
    Amqp(amqp::AmqpArgs),
    /// Load any Kafka broker and measure it
    Kafka(kafka::KafkaArgs),
    /// Load a service registry that speaks Consul's HTTP API and DNS, and measure it
    Registry(registry::RegistryArgs),
    /// Load a service of Waypost over AMQP: late binding by selectors and keys
    Services(amqp::ServicesArgs),
    /// Load any ZeroMQ device and measure it
    Zmtp(zmtp::ZmtpArgs),
}

/// Runs the chosen load generator.
///
/// # Errors
/// Whatever kept the measurement from being made, and a measurement that found a fault of the broker.
pub fn run(args: BenchArgs) -> Result<(), Failure> {
    match args.target {
        Target::Amqp(args) => amqp::run(args),
        Target::Kafka(args) => kafka::run(args),
        Target::Registry(args) => registry::run(args),
        Target::Services(args) => amqp::run_services(&args),
        Target::Zmtp(args) => zmtp::run(args),
    }
}
