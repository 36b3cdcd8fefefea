//! `waypost bench amqp`: a load generator that knows nothing of the broker but the protocol.
//!
//! Messages are encoded once and patched before each write ([`ring`]), deliveries are parsed in the block they were read
//! into ([`inbound`]), and a few threads drive all connections ([`worker`]), so that the generator takes little of the
//! machine it shares with the broker.

mod args;
mod backlog;
mod balance;
mod conn;
mod connections;
mod consumer;
mod declare;
#[cfg(test)]
mod fake;
pub(super) mod fault;
mod inbound;
pub(super) mod outcome;
mod progress;
mod publisher;
pub(super) mod ready;
pub(super) mod report;
mod ring;
mod roundtrip;
mod run;
#[cfg(test)]
mod scenarios;
mod sequences;
mod services;
mod soak;
mod throughput;
pub(super) mod times;
mod topology;
mod uri;
pub(super) mod usage;
mod wire;
mod worker;

use crate::exit::Failure;
use crate::output::OutputFormat;
use clap::{Args, Subcommand};
use conn::Product;
use fault::Fault;
use serde::Serialize;
use serde_json::{Map, Value};

/// Arguments of `waypost bench amqp`.
#[derive(Debug, Args)]
pub struct AmqpArgs {
    #[command(subcommand)]
    mode: Mode,
}

/// Arguments of `waypost bench services`.
#[derive(Debug, Args)]
pub struct ServicesArgs {
    #[command(subcommand)]
    mode: ServicesMode,
}

#[derive(Debug, Subcommand)]
enum ServicesMode {
    /// Messages per second to a service with many instances and selectors
    Throughput(services::ThroughputArgs),
    /// How long messages take when one instance is slow
    Balance(balance::BalanceArgs),
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Messages per second from publishers through queues to consumers
    Throughput(throughput::ThroughputArgs),
    /// From publish to delivery, one message at a time
    Latency(roundtrip::LatencyArgs),
    /// From publish to confirm, one persistent message at a time
    Confirm(roundtrip::ConfirmArgs),
    /// Deliveries per second through a fanout exchange
    Fanout(throughput::FanoutArgs),
    /// Messages per second through a topic exchange with many bindings
    Topic(throughput::TopicArgs),
    /// Fill a queue without a consumer, look at the broker's memory, drain it
    Backlog(backlog::BacklogArgs),
    /// Open many connections and hold them
    Connections(connections::ConnectionsArgs),
    /// Declare many queues and delete them
    Declare(declare::DeclareArgs),
    /// Full load while consumers come and go; fails if messages or memory are left behind
    Soak(soak::SoakArgs),
}

/// A result that shows a fault of the broker, in words.
#[derive(Clone, Copy, Debug)]
struct ReportFlaw(&'static str);

impl ReportFlaw {
    /// Messages were lost, duplicated or disordered.
    const MESSAGES: ReportFlaw = ReportFlaw(
        "not every message arrived once and in order: see lost, duplicated, out_of_order, corrupt, misrouted",
    );
}

/// A result to be printed.
#[derive(Debug)]
struct Report {
    json: Value,
    flaw: Option<ReportFlaw>,
}

impl Report {
    /// `mode`, the broker, the `setup` and then the `figures`.
    fn new(
        mode: &str,
        product: &Product,
        setup: Value,
        figures: &impl Serialize,
        flaw: Option<ReportFlaw>,
    ) -> Result<Self, Fault> {
        let encode =
            |error: serde_json::Error| Fault::Io { doing: "encode the result".to_owned(), source: error.into() };
        let mut json = Map::new();
        json.insert("mode".to_owned(), Value::from(mode));
        json.insert("broker".to_owned(), serde_json::to_value(product).map_err(encode)?);
        json.insert("setup".to_owned(), setup);
        if let Value::Object(figures) = serde_json::to_value(figures).map_err(encode)? {
            json.extend(figures);
        }
        Ok(Self { json: Value::Object(json), flaw })
    }
}

/// Runs the chosen load on a service and prints its result.
///
/// # Errors
/// As [`run`].
pub fn run_services(args: &ServicesArgs) -> Result<(), Failure> {
    let (report, output) = match &args.mode {
        ServicesMode::Throughput(args) => (args.run()?, args.target.output),
        ServicesMode::Balance(args) => (args.run()?, args.target.output),
    };
    conclude(&report, output)
}

/// Runs the chosen mode and prints its result.
///
/// # Errors
/// Whatever kept it from being measured; a result that shows a fault of the broker, which is printed all the same.
pub fn run(args: AmqpArgs) -> Result<(), Failure> {
    let (report, output) = measure(&args.mode)?;
    conclude(&report, output)
}

fn conclude(report: &Report, output: OutputFormat) -> Result<(), Failure> {
    report::print(&mut std::io::stdout().lock(), &report.json, output)?;
    match report.flaw {
        None => Ok(()),
        Some(ReportFlaw(what)) => Err(Failure::Failed(anyhow::anyhow!(what))),
    }
}

fn measure(mode: &Mode) -> Result<(Report, OutputFormat), Fault> {
    Ok(match mode {
        Mode::Throughput(args) => (args.run()?, args.target.output),
        Mode::Latency(args) => (args.run()?, args.target.output),
        Mode::Confirm(args) => (args.run()?, args.target.output),
        Mode::Fanout(args) => (args.run()?, args.target.output),
        Mode::Topic(args) => (args.run()?, args.target.output),
        Mode::Backlog(args) => (args.run()?, args.target.output),
        Mode::Connections(args) => (args.run()?, args.target.output),
        Mode::Declare(args) => (args.run()?, args.target.output),
        Mode::Soak(args) => (args.run()?, args.target.output),
    })
}
