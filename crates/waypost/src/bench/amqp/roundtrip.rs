//! `latency` and `confirm`: one message at a time on blocking sockets.

use super::args::{MessageArgs, QueueArgs, Target};
use super::conn::{Conn, Product, control, put_consume};
use super::consumer::{Acks, Consumer, Expectation, Tally};
use super::fault::Fault;
use super::inbound::{Confirm, Delivery, Sink, consumer_tag};
use super::outcome::{UseReport, ratio};
use super::progress::{Goal, Progress};
use super::ring::{Ring, Route, Shape};
use super::run::Table;
use super::times::{Percentiles, Times};
use super::topology::Topology;
use super::usage::{Watch, thread_cpu_ns};
use super::wire::{Args as Arguments, MethodId};
use super::{Report, ReportFlaw};
use crate::cli::time::whole_seconds;
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How many messages.
#[derive(Debug, Args)]
struct CountArgs {
    /// How many messages to measure
    #[arg(long, default_value_t = 10_000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Measure for so many seconds instead
    #[arg(long, value_name = "TIME", conflicts_with = "messages", value_parser = whole_seconds::<u32, 1, 86_400>)]
    time: Option<u32>,
    /// Messages before those that are measured
    #[arg(long, default_value_t = 500, value_name = "COUNT")]
    warmup: u64,
}

/// `latency`.
#[derive(Debug, Args)]
pub struct LatencyArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    message: MessageArgs,
    #[command(flatten)]
    queue: QueueArgs,
    #[command(flatten)]
    count: CountArgs,
    /// When to acknowledge: auto, each, or a count of deliveries per multiple acknowledgement
    #[arg(long, default_value = "auto", value_name = "auto|each|COUNT")]
    ack: Acks,
}

/// `confirm`.
#[derive(Debug, Args)]
pub struct ConfirmArgs {
    #[command(flatten)]
    pub target: Target,
    /// Octets of a body
    #[arg(long, default_value_t = 16, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(0..=134_217_728))]
    size: u32,
    /// Publish transient messages to a transient queue instead of persistent ones to a durable queue
    #[arg(long)]
    transient: bool,
    /// Value of the queue argument x-queue-type
    #[arg(long, value_name = "TYPE")]
    queue_type: Option<String>,
    #[command(flatten)]
    count: CountArgs,
}

#[derive(Debug, Serialize)]
struct RoundtripReport {
    messages: u64,
    seconds: f64,
    rate: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confirm_us: Option<Percentiles>,
    lost: u64,
    duplicated: u64,
    out_of_order: u64,
    corrupt: u64,
    nacked: u64,
    broker_use: Option<UseReport>,
    generator_cpu_us_per_message: Option<f64>,
}

/// What a series of single messages found.
struct Series {
    times: Times,
    /// With the warm-up.
    messages: u64,
    took: Duration,
    cpu_ns: Option<u64>,
}

impl CountArgs {
    /// Calls `once` for each message with its number, and records how long those after the warm-up take.
    fn series(
        &self,
        doing: &'static str,
        mut once: impl FnMut(u64) -> Result<Duration, Fault>,
    ) -> Result<Series, Fault> {
        let time = self.time.map(|seconds| Duration::from_secs(u64::from(seconds)));
        let progress = Progress::new(doing, time.map_or(Goal::Count(self.messages), Goal::Time));
        let (mut times, mut number) = (Times::default(), 0);
        let (start, cpu_before) = (Instant::now(), thread_cpu_ns());
        let mut measured = start;
        loop {
            if number == self.warmup {
                measured = Instant::now();
            }
            let enough = match time {
                Some(time) => number > self.warmup && measured.elapsed() >= time,
                None => number >= self.warmup.saturating_add(self.messages),
            };
            if enough {
                break;
            }
            let took = once(number)?;
            if number >= self.warmup {
                times.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            }
            number += 1;
            if number % 256 == 0 {
                progress.step(number.saturating_sub(self.warmup));
            }
        }
        progress.finish();
        let cpu_ns = thread_cpu_ns().zip(cpu_before).map(|(after, before)| after - before);
        Ok(Series { times, messages: number, took: start.elapsed(), cpu_ns })
    }
}

impl Series {
    fn report(&self, watch: &Watch, tally: Tally, nacked: u64) -> Result<RoundtripReport, Fault> {
        let seconds = self.took.as_secs_f64();
        let used = watch.finish()?;
        Ok(RoundtripReport {
            messages: self.messages,
            seconds,
            rate: ratio(self.messages as f64, seconds).round(),
            latency_us: None,
            confirm_us: None,
            lost: 0,
            duplicated: tally.duplicated,
            out_of_order: tally.out_of_order,
            corrupt: tally.corrupt,
            nacked,
            broker_use: used.map(|used| UseReport::new(used, self.messages, "message", seconds)),
            generator_cpu_us_per_message: self.cpu_ns.map(|cpu| ratio(cpu as f64 / 1e3, self.messages as f64)),
        })
    }
}

impl LatencyArgs {
    /// Runs the mode.
    ///
    /// # Errors
    /// Whatever kept it from being measured.
    pub fn run(&self) -> Result<Report, Fault> {
        let topology = Topology::queues(&self.target.uri, 1, &self.queue.spec())?;
        let result = self.measure(&topology.queues[0]);
        topology.remove();
        let (product, figures) = result?;
        let wrong = figures.duplicated + figures.out_of_order + figures.corrupt > 0;
        let setup = serde_json::json!({"size": self.message.size});
        Report::new("latency", &product, setup, &figures, wrong.then_some(ReportFlaw::MESSAGES))
    }

    fn measure(&self, queue: &str) -> Result<(Product, RoundtripReport), Fault> {
        let uri = &self.target.uri;
        let (mut publisher, mut reader) = (Conn::open_channel(uri)?, Conn::open_channel(uri)?);
        let shape = Shape {
            body_bytes: self.message.body_bytes(),
            persistent: self.message.persistent,
            properties: self.message.properties,
            mandatory: false,
            frame_bytes_max: publisher.frame_bytes_max,
        };
        let mut ring = ring(queue, &shape)?;
        let expect = Expectation {
            body_bytes: shape.body_bytes as u64,
            ordered_streams: 1,
            streams: 1,
            // Timed here, not by the stamp.
            sample_mask: u64::MAX,
            credit: false,
        };
        let mut first_bytes = Vec::new();
        put_consume(&mut first_bytes, queue, &consumer_tag(0), self.ack == Acks::Auto, &Table::new())?;
        let mut consumer = Consumer::new(self.ack, &[0], expect, first_bytes);
        consumer.flush(&mut reader.stream)?;
        let watch = Watch::start(self.target.process()?)?;
        let series = self.count.series("latency", |number| {
            let (range, _) = ring.take(1, 0);
            let start = Instant::now();
            publisher.send(&ring.bytes()[range])?;
            reader.wait_until(&mut consumer, |consumer| consumer.tally.delivered > number)?;
            let took = start.elapsed();
            consumer.flush(&mut reader.stream)?;
            Ok(took)
        })?;
        let mut figures = series.report(&watch, consumer.tally, 0)?;
        figures.latency_us = series.times.percentiles();
        consumer.ack_rest();
        consumer.flush(&mut reader.stream)?;
        let product = publisher.product.clone();
        publisher.close();
        reader.close();
        Ok((product, figures))
    }
}

impl ConfirmArgs {
    /// Runs the mode.
    ///
    /// # Errors
    /// Whatever kept it from being measured.
    pub fn run(&self) -> Result<Report, Fault> {
        let queue = QueueArgs::of(!self.transient, self.queue_type.clone());
        let topology = Topology::queues(&self.target.uri, 1, &queue.spec())?;
        let result = self.measure(&topology.queues[0]);
        topology.remove();
        let (product, figures) = result?;
        let setup = serde_json::json!({"size": self.size, "persistent": !self.transient});
        let flaw = (figures.nacked + figures.lost > 0).then_some(ReportFlaw::MESSAGES);
        Report::new("confirm", &product, setup, &figures, flaw)
    }

    fn measure(&self, queue: &str) -> Result<(Product, RoundtripReport), Fault> {
        let mut conn = Conn::open_channel(&self.target.uri)?;
        conn.confirm_select()?;
        let shape = Shape {
            body_bytes: usize::try_from(self.size).unwrap_or(usize::MAX),
            persistent: !self.transient,
            properties: super::ring::Properties::None,
            mandatory: false,
            frame_bytes_max: conn.frame_bytes_max,
        };
        let mut ring = ring(queue, &shape)?;
        let mut confirms = Confirms::default();
        let watch = Watch::start(self.target.process()?)?;
        let series = self.count.series("confirm", |number| {
            let (range, _) = ring.take(1, 0);
            let start = Instant::now();
            conn.send(&ring.bytes()[range])?;
            conn.wait_until(&mut confirms, |confirms| confirms.last > number)?;
            Ok(start.elapsed())
        })?;
        if confirms.last != series.messages {
            return Err(Fault::protocol(format!("confirm of {} was never due", confirms.last)));
        }
        let mut figures = series.report(&watch, Tally::default(), confirms.nacked)?;
        figures.confirm_us = series.times.percentiles();
        figures.lost = series.messages.saturating_sub(u64::from(conn.count(queue)?) + confirms.nacked);
        let product = conn.product.clone();
        conn.close();
        Ok((product, figures))
    }
}

fn ring(queue: &str, shape: &Shape) -> Result<Ring, Fault> {
    let route = Route { key: queue.to_owned(), ..Route::default() };
    Ring::new(&[route], shape, 1)
}

#[derive(Default)]
struct Confirms {
    last: u64,
    nacked: u64,
}

impl Sink for Confirms {
    fn delivery(&mut self, _: &Delivery) {}

    fn confirm(&mut self, confirm: Confirm) {
        self.last = self.last.max(confirm.tag);
        self.nacked += u64::from(!confirm.accepted);
    }

    fn returned(&mut self) {}

    fn method(&mut self, _: u16, id: MethodId, args: Arguments<'_>) -> Result<(), Fault> {
        let (class, method) = id;
        if control(id, args)? {
            return Ok(());
        }
        Err(Fault::protocol(format!("unexpected method {class}.{method}")))
    }
}
