//! `waypost bench registry`: a load generator for service registries that speak Consul's HTTP API and DNS, ours or Consul.
//!
//! One thread drives all connections, each with one request under way, so that the generator takes little of the machine
//! that it shares with the server.

mod client;
mod dns;
mod fanout;
mod http;
mod load;
#[cfg(test)]
mod tests;

use crate::bench::amqp::fault::Fault;
use crate::bench::amqp::outcome::{UseReport, ratio, round};
use crate::bench::amqp::report;
use crate::bench::amqp::times::{Percentiles, Times};
use crate::bench::amqp::usage::{Process, Watch};
use crate::cli::time::whole_seconds;
use crate::exit::Failure;
use crate::output::OutputFormat;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Arguments of `waypost bench registry`.
#[derive(Debug, Args)]
pub struct RegistryArgs {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Lookups of the healthy instances of a service over HTTP
    Lookup(load::LookupArgs),
    /// Registrations of instances, each a new one
    Register(load::RegisterArgs),
    /// Heartbeats of instances with a time to live
    Heartbeat(load::HeartbeatArgs),
    /// Lookups over DNS
    Dns(dns::DnsArgs),
    /// From a change to the last of many who watch the service
    Fanout(fanout::FanoutArgs),
    /// Memory of the server with many instances
    Memory(load::MemoryArgs),
}

/// Which server, and how to report.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The server's HTTP address, HOST:PORT; of Waypost or of Consul
    #[arg(long, default_value = "127.0.0.1:8500", value_name = "ADDRESS", value_parser = resolve)]
    http: SocketAddr,
    /// What to print on standard output
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
    /// Report processor time and memory of this process, the server
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| format!("{text}: {error}"))?;
    found.next().ok_or_else(|| format!("{text} has no address"))
}

/// For how long, and over how many connections.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Connections, each with one request under way
    #[arg(short, long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Load for so many seconds
    #[arg(long, default_value_t = 5, value_name = "TIME", value_parser = whole_seconds::<u64, 1, 86_400>)]
    time: u64,
    /// Send so many requests, instead of --time
    #[arg(long, value_name = "COUNT", conflicts_with = "time", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
}

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// After so long.
    Time(Duration),
    /// After so many requests.
    Count(u64),
}

impl LoadArgs {
    fn goal(&self) -> Goal {
        self.requests.map_or(Goal::Time(Duration::from_secs(self.time)), Goal::Count)
    }

    fn connections(&self) -> usize {
        usize::try_from(self.connections).unwrap_or(usize::MAX)
    }
}

/// What a load came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests that were answered as they should be.
    pub done: u64,
    /// Requests that were answered otherwise.
    pub failed: u64,
    /// The first such answer.
    pub first_failure: Option<String>,
    /// Octets of all answers.
    pub bytes: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Of each request, until its answer was there as a whole.
    pub times: Times,
}

/// The result as it is printed.
#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    setup: serde_json::Value,
    requests: u64,
    failed: u64,
    first_failure: Option<String>,
    seconds: f64,
    rate: f64,
    mean_answer_bytes: f64,
    latency_us: Option<Percentiles>,
    server_use: Option<UseReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<serde_json::Value>,
}

impl Target {
    fn process(&self) -> Result<Option<Process>, Fault> {
        self.server_pid.map(|pid| Process::new(pid, false)).transpose()
    }

    /// Runs a load and reports it.
    fn measure(
        &self,
        mode: &'static str,
        setup: serde_json::Value,
        load: impl FnOnce() -> Result<Outcome, Fault>,
    ) -> Result<(), Failure> {
        let watch = Watch::start(self.process()?)?;
        let outcome = watch.during(load)?;
        let used = watch.finish()?;
        self.print(Report::new(mode, setup, &outcome, used.map(|used| (used, outcome.done))))
    }

    fn print(&self, report: Report) -> Result<(), Failure> {
        let flaw = report.first_failure.clone();
        let json = serde_json::to_value(&report).map_err(|error| Failure::Failed(error.into()))?;
        report::print(&mut std::io::stdout().lock(), &json, self.output)?;
        match flaw {
            None => Ok(()),
            Some(text) => Err(Failure::Failed(anyhow::anyhow!("{} requests failed, the first: {text}", report.failed))),
        }
    }
}

impl Report {
    fn new(
        mode: &'static str,
        setup: serde_json::Value,
        outcome: &Outcome,
        used: Option<(crate::bench::amqp::usage::BrokerUse, u64)>,
    ) -> Report {
        let all = outcome.done + outcome.failed;
        Report {
            mode,
            setup,
            requests: outcome.done,
            failed: outcome.failed,
            first_failure: outcome.first_failure.clone(),
            seconds: round(outcome.seconds, 3),
            rate: ratio(outcome.done as f64, outcome.seconds).round(),
            mean_answer_bytes: ratio(outcome.bytes as f64, all as f64).round(),
            latency_us: outcome.times.percentiles(),
            server_use: used.map(|(used, count)| UseReport::new(used, count, "request", outcome.seconds)),
            more: None,
        }
    }
}

/// Runs the chosen mode and prints its result.
///
/// # Errors
/// Whatever kept it from being measured, and requests that were not answered as they should be.
pub fn run(args: RegistryArgs) -> Result<(), Failure> {
    match args.mode {
        Mode::Lookup(args) => args.run(),
        Mode::Register(args) => args.run(),
        Mode::Heartbeat(args) => args.run(),
        Mode::Dns(args) => args.run(),
        Mode::Fanout(args) => args.run(),
        Mode::Memory(args) => args.run(),
    }
}
