//! `waypost bench kafka`: load for any Kafka broker.
//!
//! Requests are encoded once, batches and their checksums included, and patched before each write; answers are looked
//! into no further than their offsets. So the generator takes little of the machine that it shares with the broker.
//! What comes back is checked: offsets that are missing or come twice end a run.

mod args;
mod batch;
mod client;
mod end_to_end;
mod fetch;
mod group;
mod produce;
mod topic;
mod trickle;

use crate::bench::amqp::fault::Fault;
use crate::bench::amqp::outcome::{UseReport, ratio, round};
use crate::bench::amqp::report;
use crate::bench::amqp::times::{Percentiles, Times};
use crate::bench::amqp::usage::BrokerUse;
use crate::exit::Failure;
use crate::output::OutputFormat;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Map, Value};

/// Arguments of `waypost bench kafka`.
#[derive(Debug, Args)]
pub struct KafkaArgs {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Records per second into a topic, and how long each request took; with --consumers out of it at the same time
    Produce(produce::ProduceArgs),
    /// Records per second out of a topic, from its beginning or again and again from its end
    Fetch(fetch::FetchArgs),
    /// From a request to its answer, one record at a time
    Latency(produce::LatencyArgs),
    /// From a request to the arrival at a consumer that waits, one record at a time
    EndToEnd(end_to_end::EndToEndArgs),
    /// Single records to many partitions in turn, at a fixed rate; the memory of idle partitions
    Trickle(trickle::TrickleArgs),
    /// How long a consumer group of many members takes to settle
    Group(group::GroupArgs),
}

/// What a measurement came to.
#[derive(Debug, Default)]
struct Measured {
    /// Records that went in or came out.
    records: u64,
    /// Their values, bytes.
    value_bytes: u64,
    /// What went over the wire for them, bytes.
    wire_bytes: u64,
    seconds: f64,
    used: Option<BrokerUse>,
}

/// Figures that every workload has.
#[derive(Debug, Serialize)]
struct Figures {
    seconds: f64,
    records: u64,
    rate: f64,
    mb_per_second: f64,
    wire_mb_per_second: f64,
    broker_use: Option<UseReport>,
    /// CPU seconds of the broker per 10⁹ bytes of values.
    broker_cpu_s_per_gb: Option<f64>,
    /// The same per 10⁹ bytes of requests and answers.
    broker_cpu_s_per_wire_gb: Option<f64>,
}

impl Measured {
    fn figures(&self) -> Figures {
        let per_gb = |bytes: u64| self.used.map(|u| ratio(u.cpu_seconds * 1e9, bytes as f64));
        Figures {
            seconds: round(self.seconds, 3),
            records: self.records,
            rate: ratio(self.records as f64, self.seconds),
            mb_per_second: round(ratio(self.value_bytes as f64, self.seconds) / 1e6, 1),
            wire_mb_per_second: round(ratio(self.wire_bytes as f64, self.seconds) / 1e6, 1),
            broker_use: self.used.map(|used| UseReport::new(used, self.records, "record", self.seconds)),
            broker_cpu_s_per_gb: per_gb(self.value_bytes),
            broker_cpu_s_per_wire_gb: per_gb(self.wire_bytes),
        }
    }
}

/// A result to be printed: what was set up, the figures that all have, and those of one workload.
#[derive(Debug)]
struct Report(Map<String, Value>);

impl Report {
    fn new(mode: &str) -> Report {
        Report(Map::from_iter([("mode".to_owned(), Value::from(mode))]))
    }

    fn with(mut self, name: &str, value: impl Serialize) -> Result<Report, Fault> {
        self.0.insert(name.to_owned(), encode(value)?);
        Ok(self)
    }

    fn figures(mut self, figures: &Figures) -> Result<Report, Fault> {
        if let Value::Object(figures) = encode(figures)? {
            self.0.extend(figures);
        }
        Ok(self)
    }

    fn times(self, name: &str, times: &Times) -> Result<Report, Fault> {
        let percentiles: Option<Percentiles> = times.percentiles();
        self.with(name, percentiles)
    }
}

fn encode(value: impl Serialize) -> Result<Value, Fault> {
    serde_json::to_value(value).map_err(|e| Fault::Io { doing: "encode the result".to_owned(), source: e.into() })
}

/// Runs it.
///
/// # Errors
/// Whatever kept the measurement from being made, and a broker that loses or repeats records.
pub fn run(args: KafkaArgs) -> Result<(), Failure> {
    let (report, output) = measure(&args.mode)?;
    report::print(&mut std::io::stdout().lock(), &Value::Object(report.0), output).map_err(anyhow::Error::from)?;
    Ok(())
}

fn measure(mode: &Mode) -> Result<(Report, OutputFormat), Fault> {
    Ok(match mode {
        Mode::Produce(args) => (args.run()?, args.target.output),
        Mode::Fetch(args) => (args.run()?, args.target.output),
        Mode::Latency(args) => (args.run()?, args.target.output),
        Mode::EndToEnd(args) => (args.run()?, args.target.output),
        Mode::Trickle(args) => (args.run()?, args.target.output),
        Mode::Group(args) => (args.run()?, args.target.output),
    })
}
