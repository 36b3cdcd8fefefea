//! Options that several modes share.

use super::conn::QueueSpec;
use super::consumer::Acks;
use super::fault::Fault;
use super::progress::{Goal, Progress};
use super::ring::Properties;
use super::run::Load;
use super::uri::Uri;
use super::usage::Process;
use crate::cli::time::positive_seconds;
use crate::output::OutputFormat;
use clap::Args;
use serde_json::{Map, Value};
use std::str::FromStr;
use std::time::Duration;

/// Which broker, and how to report.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The broker: amqp://USER:PASSWORD@HOST:PORT/VHOST
    #[arg(long, default_value = "amqp://guest:guest@127.0.0.1:5672", value_name = "URI")]
    pub uri: Uri,
    /// What to print on standard output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Report processor time and memory of this process, the broker
    #[arg(long, value_name = "PID")]
    broker_pid: Option<u32>,
    /// Count the descendants of --broker-pid too
    #[arg(long, requires = "broker_pid")]
    broker_children: bool,
}

impl Target {
    /// The process to watch, if one is named.
    ///
    /// # Errors
    /// There is no such process.
    pub fn process(&self) -> Result<Option<Process>, Fault> {
        self.broker_pid.map(|pid| Process::new(pid, self.broker_children)).transpose()
    }
}

/// What kind of queue to declare.
#[derive(Clone, Debug, Args)]
pub struct QueueArgs {
    /// Declare durable queues
    #[arg(long)]
    durable: bool,
    /// Value of the queue argument x-queue-type
    #[arg(long, value_name = "TYPE")]
    queue_type: Option<String>,
    /// Further queue arguments, a JSON object
    #[arg(long, value_name = "JSON", value_parser = parse_object)]
    queue_args: Option<Object>,
}

/// A JSON object on the command line.
#[derive(Clone, Debug)]
pub struct Object(Map<String, Value>);

fn parse_object(text: &str) -> Result<Object, String> {
    serde_json::from_str(text).map(Object).map_err(|error| error.to_string())
}

impl QueueArgs {
    /// A queue without further arguments.
    pub fn of(durable: bool, queue_type: Option<String>) -> Self {
        Self { durable, queue_type, queue_args: None }
    }

    /// What to declare.
    pub fn spec(&self) -> QueueSpec {
        let mut arguments = self.queue_args.clone().map_or_else(Map::new, |object| object.0);
        if let Some(kind) = &self.queue_type {
            arguments.insert("x-queue-type".to_owned(), Value::from(kind.as_str()));
        }
        QueueSpec { durable: self.durable, arguments }
    }
}

/// What the messages are.
#[derive(Clone, Debug, Args)]
pub struct MessageArgs {
    /// Octets of a body; from 16 on order, loss and duplicates are checked one by one
    #[arg(long, default_value_t = 16, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(0..=134_217_728))]
    pub size: u32,
    /// Delivery mode 2
    #[arg(long)]
    pub persistent: bool,
    /// Properties of the messages
    #[arg(long, value_enum, default_value_t)]
    pub properties: Properties,
}

impl MessageArgs {
    /// Octets of a body.
    pub fn body_bytes(&self) -> usize {
        usize::try_from(self.size).unwrap_or(usize::MAX)
    }
}

impl FromStr for Acks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "each" => Ok(Self::Each),
            count => match count.parse() {
                Ok(count) if count > 0 => Ok(Self::Multiple(count)),
                _ => Err("expected auto, each or how many deliveries per acknowledgement".to_owned()),
            },
        }
    }
}

/// How messages flow.
#[derive(Clone, Debug, Args)]
pub struct FlowArgs {
    #[command(flatten)]
    pub message: MessageArgs,
    /// Publish for so many seconds
    #[arg(long, default_value_t = 5.0, value_name = "TIME", value_parser = positive_seconds)]
    time: f64,
    /// Publish so many messages, all publishers together, instead of --time
    #[arg(long, value_name = "COUNT", conflicts_with = "time", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// Use publisher confirms, with at most so many unconfirmed messages per publisher
    #[arg(long, value_name = "WINDOW", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    confirm: Option<u64>,
    /// When to acknowledge: auto, each, or a count of deliveries per multiple acknowledgement
    #[arg(long, default_value = "auto", value_name = "auto|each|COUNT")]
    ack: Acks,
    /// Unacknowledged deliveries per consumer, 0 for no limit
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    prefetch: u16,
    /// Messages per write; by default as many as fit 64 KiB
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch: Option<u32>,
    /// Messages per second, all publishers together; times then count from when a message was due if it is sent more
    /// than a millisecond late
    #[arg(long, value_name = "RATE", value_parser = parse_positive)]
    rate: Option<f64>,
    /// Set the mandatory flag
    #[arg(long)]
    mandatory: bool,
    /// Threads that publish, and as many that consume
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Give up when nothing has moved for so many seconds
    #[arg(long, default_value_t = 20.0, value_name = "TIME", value_parser = positive_seconds)]
    stall: f64,
}

/// A number above zero, at most a billion.
fn parse_positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 1e9 => Ok(number),
        _ => Err("expected a number above zero".to_owned()),
    }
}

impl FlowArgs {
    /// The load that the options describe.
    ///
    /// # Errors
    /// Options that would wait for each other for ever.
    pub fn load(&self) -> Result<Load, Fault> {
        if let Acks::Multiple(every) = self.ack
            && self.prefetch > 0
            && every > u64::from(self.prefetch)
        {
            return Err(Fault::Usage(format!("--ack {every} needs a --prefetch of at least {every}, or none")));
        }
        Ok(Load {
            body_bytes: self.message.body_bytes(),
            persistent: self.message.persistent,
            properties: self.message.properties,
            mandatory: self.mandatory,
            batch: self.batch.and_then(|batch| usize::try_from(batch).ok()),
            confirm: self.confirm,
            in_flight: None,
            acks: self.ack,
            prefetch: self.prefetch,
            rate: self.rate,
            threads: usize::from(self.threads),
            messages: self.messages,
            time: Duration::from_secs_f64(self.time),
            stall: Duration::from_secs_f64(self.stall),
        })
    }
}

impl Load {
    /// A bar for this load.
    pub fn progress(&self, doing: &'static str, copies: u64) -> Progress {
        let goal = match self.messages {
            Some(count) => Goal::Count(count.saturating_mul(copies)),
            None => Goal::Time(self.time),
        };
        Progress::new(doing, goal)
    }
}
