//! `waypost bench zmtp`: load for a ZeroMQ device, ours or any other: producers at its front, consumers at its back.
//!
//! The generator's own sockets write prepared buffers and only count what comes, so that it takes little of the machine
//! that it shares with the device.

mod flow;
mod peer;
mod roundtrip;
#[cfg(test)]
mod tests;

use crate::bench::amqp::fault::Fault;
use crate::bench::amqp::outcome::{UseReport, ratio, round};
use crate::bench::amqp::report;
use crate::bench::amqp::times::Percentiles;
use crate::bench::amqp::usage::{Process, Watch};
use crate::cli::time::whole_seconds;
use crate::exit::Failure;
use crate::output::OutputFormat;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::time::Duration;

pub use peer::Endpoint;

/// Arguments of `waypost bench zmtp`.
#[derive(Debug, Args)]
pub struct ZmtpArgs {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// PUSH to the front, PULL from the back: messages per second through a streamer
    Streamer(FlowArgs),
    /// PUB to the front, SUB from the back: copies per second through a forwarder
    Forwarder(FlowArgs),
    /// DEALER at the front, REP at the back: round trips through a router
    Router(RouterArgs),
}

/// Which device, and how to report.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Where producers or clients connect, tcp://HOST:PORT or ipc://PATH
    #[arg(long, value_name = "ENDPOINT", value_parser = Endpoint::parse)]
    front: Endpoint,
    /// Where consumers or workers connect
    #[arg(long, value_name = "ENDPOINT", value_parser = Endpoint::parse)]
    back: Endpoint,
    /// Octets of a message
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
    size: u32,
    /// Measure for so many seconds
    #[arg(long, default_value_t = 5, value_name = "TIME", value_parser = whole_seconds::<u64, 1, 86_400>)]
    time: u64,
    /// Run for so many seconds before
    #[arg(long, default_value_t = 1, value_name = "TIME", value_parser = whole_seconds::<u64, 0, 3_600>)]
    warmup: u64,
    /// What to print on standard output
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
    /// Report processor time and memory of this process, the device
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
}

/// Arguments of the one-way modes.
#[derive(Clone, Debug, Args)]
pub struct FlowArgs {
    #[command(flatten)]
    target: Target,
    /// Sockets that send
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    producers: u32,
    /// Sockets that receive
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    consumers: u32,
    /// Octets that a producer writes at once
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    write: u32,
}

/// Arguments of the round trips.
#[derive(Clone, Debug, Args)]
pub struct RouterArgs {
    #[command(flatten)]
    target: Target,
    /// Sockets that ask, each with one request under way
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    clients: u32,
    /// Sockets that answer
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    workers: u32,
}

/// The result as it is printed.
#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    front: String,
    back: String,
    size: u32,
    senders: u32,
    receivers: u32,
    seconds: f64,
    messages: u64,
    rate: f64,
    mb_per_second: f64,
    latency_us: Option<Percentiles>,
    server_use: Option<UseReport>,
}

/// What a measurement came to.
#[derive(Debug)]
struct Outcome {
    /// Messages that came out, or round trips.
    messages: u64,
    seconds: f64,
    latency: Option<Percentiles>,
}

/// Runs it.
///
/// # Errors
/// Whatever kept the measurement from being made.
pub fn run(args: ZmtpArgs) -> Result<(), Failure> {
    match args.mode {
        Mode::Streamer(args) => {
            let outcome = |watch: &Watch| flow::run(&args, flow::Way::Push, watch);
            measure("streamer", &args.target, (args.producers, args.consumers), outcome)
        }
        Mode::Forwarder(args) => {
            let outcome = |watch: &Watch| flow::run(&args, flow::Way::Publish, watch);
            measure("forwarder", &args.target, (args.producers, args.consumers), outcome)
        }
        Mode::Router(args) => {
            let outcome = |watch: &Watch| roundtrip::run(&args, watch);
            measure("router", &args.target, (args.clients, args.workers), outcome)
        }
    }
}

fn measure(
    mode: &'static str,
    target: &Target,
    (senders, receivers): (u32, u32),
    work: impl FnOnce(&Watch) -> Result<Measured, Fault>,
) -> Result<(), Failure> {
    let process = target.server_pid.map(|pid| Process::new(pid, false)).transpose()?;
    // Asks early whether the process can be watched; the figures are taken by a watch that begins after the warm-up.
    let probe = Watch::start(process)?;
    let Measured { outcome, used } = work(&probe)?;
    let rate = ratio(outcome.messages as f64, outcome.seconds);
    let per = if mode == "router" { "round trip" } else { "message out" };
    let report = Report {
        mode,
        front: target.front.to_string(),
        back: target.back.to_string(),
        size: target.size,
        senders,
        receivers,
        seconds: round(outcome.seconds, 3),
        messages: outcome.messages,
        rate,
        mb_per_second: round(rate * f64::from(target.size) / 1e6, 1),
        latency_us: outcome.latency,
        server_use: used.map(|used| UseReport::new(used, outcome.messages, per, outcome.seconds)),
    };
    let value = serde_json::to_value(&report).map_err(anyhow::Error::from)?;
    report::print(&mut std::io::stdout().lock(), &value, target.output).map_err(anyhow::Error::from)?;
    Ok(())
}

/// An outcome, and what the device used meanwhile.
struct Measured {
    outcome: Outcome,
    used: Option<crate::bench::amqp::usage::BrokerUse>,
}

impl Target {
    fn process(&self) -> Result<Option<Process>, Fault> {
        self.server_pid.map(|pid| Process::new(pid, false)).transpose()
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs(self.warmup)
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.time)
    }

    /// A message's body.
    fn body(&self) -> Vec<u8> {
        vec![b'x'; self.size as usize]
    }
}
