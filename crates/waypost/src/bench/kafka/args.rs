//! Options that several workloads share.

use super::batch::{Batch, Codec, Shape};
use crate::bench::amqp::fault::Fault;
use crate::bench::amqp::usage::{Process, Watch};
use crate::cli::pair::pair;
use crate::cli::time::whole_seconds;
use crate::output::OutputFormat;
use clap::Args;
use std::time::Duration;

/// Which broker, and how to report.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The broker, HOST:PORT. With several of them only the one that leads the topic's first partition gets the load
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub bootstrap: String,
    /// The topic; made if it is not there. By default one of a new name, which is deleted at the end
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,
    /// Settings of a topic that is made, NAME=VALUE
    #[arg(long = "topic-config", value_name = "NAME=VALUE", value_parser = pair)]
    pub settings: Vec<(String, String)>,
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
    /// Begins to watch the broker, if its process is named.
    ///
    /// # Errors
    /// There is no such process.
    pub fn watch(&self) -> Result<Watch, Fault> {
        Watch::start(self.process()?)
    }

    /// The process to watch, if one is named.
    ///
    /// # Errors
    /// There is no such process.
    pub fn process(&self) -> Result<Option<Process>, Fault> {
        self.broker_pid.map(|pid| Process::new(pid, self.broker_children)).transpose()
    }
}

/// What the records are.
#[derive(Clone, Debug, Args)]
pub struct RecordArgs {
    /// Bytes of a record's value
    #[arg(long, default_value_t = 1024, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(0..=67_108_864))]
    pub size: u32,
    /// Bytes of values in a batch before compression; at least one record
    #[arg(long, default_value_t = 65_536, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=67_108_864))]
    pub batch: u32,
    /// How batches are compressed
    #[arg(long, value_enum, default_value_t)]
    pub codec: Codec,
    /// Keys of eight digits, so many different ones in turn; 0 for records without a key
    #[arg(long, default_value_t = 0, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(0..=100_000_000))]
    pub keys: u32,
}

impl RecordArgs {
    /// The batch to send.
    ///
    /// # Errors
    /// The codec failed.
    pub fn build(&self) -> Result<Batch, Fault> {
        let records = (self.batch / self.size.max(1)).max(1);
        Batch::new(Shape { records, value_bytes: self.size, codec: self.codec, keys: self.keys })
    }
}

/// How long to run.
#[derive(Clone, Debug, Args)]
pub struct TimeArgs {
    /// Measure for so many seconds
    #[arg(long, default_value_t = 5, value_name = "TIME", value_parser = whole_seconds::<u64, 1, 86_400>)]
    time: u64,
    /// Run for so many seconds before
    #[arg(long, default_value_t = 1, value_name = "TIME", value_parser = whole_seconds::<u64, 0, 3_600>)]
    warmup: u64,
}

impl TimeArgs {
    pub fn warmup(&self) -> Duration {
        Duration::from_secs(self.warmup)
    }

    pub fn time(&self) -> Duration {
        Duration::from_secs(self.time)
    }
}
