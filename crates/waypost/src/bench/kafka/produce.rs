//! Producers: each a connection with some requests under way.

use super::args::{RecordArgs, Target, TimeArgs};
use super::batch::Batch;
use super::client::{Client, Prepared, begin, check};
use super::fetch::follow;
use super::topic::Topic;
use super::{Measured, Report};
use crate::bench::amqp::fault::Fault;
use crate::bench::amqp::times::Times;
use clap::Args;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use waypost_kafka::messages::records::ProduceResponse;
use waypost_kafka::wire::Message;

const PRODUCE: (i16, i16) = (0, 7);
/// How long the broker may take for a request, milliseconds.
const TIMEOUT_MS: i32 = 30_000;

/// Arguments of `waypost bench kafka produce`.
#[derive(Clone, Debug, Args)]
pub struct ProduceArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    record: RecordArgs,
    #[command(flatten)]
    time: TimeArgs,
    /// Partitions of the topic, filled in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Connections that produce
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    producers: u32,
    /// Connections that follow, each through all partitions
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    consumers: u32,
    /// Requests under way per connection
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    in_flight: u32,
    /// What an answer means: all, 1, or 0 for no answers
    #[arg(long, default_value = "all", value_parser = parse_acks)]
    acks: i16,
}

/// Arguments of `waypost bench kafka latency`.
#[derive(Clone, Debug, Args)]
pub struct LatencyArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    time: TimeArgs,
    /// Bytes of the record's value
    #[arg(long, default_value_t = 100, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(0..=67_108_864))]
    size: u32,
    /// What an answer means: all or 1
    #[arg(long, default_value = "all", value_parser = parse_acks)]
    acks: i16,
}

fn parse_acks(text: &str) -> Result<i16, String> {
    match text {
        "all" | "-1" => Ok(-1),
        "1" => Ok(1),
        "0" => Ok(0),
        _ => Err("expected all, 1 or 0".to_owned()),
    }
}

/// A request with one batch for one partition.
pub fn request(topic: &str, partition: i32, acks: i16, batch: &Batch) -> Prepared {
    let mut out = begin(PRODUCE.0, PRODUCE.1);
    out.extend_from_slice(&(-1_i16).to_be_bytes());
    out.extend_from_slice(&acks.to_be_bytes());
    out.extend_from_slice(&TIMEOUT_MS.to_be_bytes());
    out.extend_from_slice(&1_i32.to_be_bytes());
    out.extend_from_slice(&(topic.len() as i16).to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(&1_i32.to_be_bytes());
    out.extend_from_slice(&partition.to_be_bytes());
    out.extend_from_slice(&(batch.bytes.len() as i32).to_be_bytes());
    out.extend_from_slice(&batch.bytes);
    Prepared::of(out)
}

/// Reads the answer to a request: partition and base offset.
///
/// # Errors
/// The broker refuses, or is gone.
pub fn answered(client: &mut Client) -> Result<(i32, i64), Fault> {
    let answer = client.receive(PRODUCE.0, PRODUCE.1)?;
    let answer = ProduceResponse::decode(answer, PRODUCE.1).map_err(|e| Fault::protocol(e.to_string()))?;
    let found = answer.responses.first().and_then(|t| t.partition_responses.first());
    let found = found.ok_or_else(|| Fault::protocol("an answer without the partition"))?;
    check("produce", found.error_code)?;
    Ok((found.index, found.base_offset))
}

/// What all threads of a run share.
#[derive(Debug, Default)]
pub struct Shared {
    pub stop: AtomicBool,
    pub measuring: AtomicBool,
    /// Requests answered, or sent where there are no answers.
    pub requests: AtomicU64,
    /// Records that came to consumers.
    pub consumed: AtomicU64,
}

/// One connection.
pub struct Producer {
    client: Client,
    requests: Vec<Prepared>,
    sent_at: VecDeque<Instant>,
    in_flight: usize,
    acks: i16,
    turn: usize,
    records: u32,
    /// The offset that the next batch of each partition must have at least.
    next: Vec<i64>,
    times: Times,
}

impl Producer {
    /// A producer of these partitions. `in_flight` of them may be under way.
    pub fn new(topic: &Topic, partitions: &[i32], batch: &Batch, acks: i16, in_flight: u32) -> Result<Producer, Fault> {
        let requests = partitions.iter().map(|p| request(&topic.name, *p, acks, batch)).collect();
        let highest = partitions.iter().copied().max().unwrap_or(0);
        Ok(Producer {
            client: Client::open(&topic.leader)?,
            requests,
            sent_at: VecDeque::new(),
            in_flight: in_flight as usize,
            acks,
            turn: 0,
            records: batch.records,
            next: vec![0; usize::try_from(highest).unwrap_or(0) + 1],
            times: Times::default(),
        })
    }

    /// Sends the next batch; waits first if too many are under way.
    pub fn step(&mut self, shared: &Shared) -> Result<(), Fault> {
        while self.acks != 0 && self.sent_at.len() >= self.in_flight {
            self.take(shared)?;
        }
        let turn = self.turn;
        self.turn = (turn + 1) % self.requests.len().max(1);
        let Some(request) = self.requests.get_mut(turn) else { return Ok(()) };
        if self.acks == 0 {
            shared.requests.fetch_add(1, Ordering::Relaxed);
        } else {
            self.sent_at.push_back(Instant::now());
        }
        self.client.send(request)
    }

    /// Reads one answer.
    fn take(&mut self, shared: &Shared) -> Result<(), Fault> {
        let (partition, base) = answered(&mut self.client)?;
        shared.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(sent) = self.sent_at.pop_front()
            && shared.measuring.load(Ordering::Relaxed)
        {
            self.times.record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        let next = usize::try_from(partition).ok().and_then(|p| self.next.get_mut(p));
        let next = next.ok_or_else(|| Fault::protocol("an answer for a partition that nobody wrote"))?;
        if base < *next {
            return Err(Fault::protocol(format!("partition {partition}: offset {base} comes after {next}")));
        }
        *next = base + i64::from(self.records);
        Ok(())
    }

    /// Waits for what is under way.
    pub fn finish(mut self, shared: &Shared) -> Result<Times, Fault> {
        while !self.sent_at.is_empty() {
            self.take(shared)?;
        }
        Ok(self.times)
    }
}

impl ProduceArgs {
    pub fn run(&self) -> Result<Report, Fault> {
        let batch = self.record.build()?;
        let topic = Topic::make(&self.target, self.partitions)?;
        let shared = Shared::default();
        let (measured, times, consumed) = self.load(&topic, &batch, &shared)?;
        let report = Report::new("produce")
            .with("setup", json!({
                "partitions": topic.partitions.len(), "producers": self.producers, "consumers": self.consumers,
                "acks": self.acks, "in_flight": self.in_flight, "codec": self.record.codec, "value_bytes": self.record.size,
                "batch_records": batch.records, "batch_wire_bytes": batch.bytes.len(),
            }))?
            .figures(&measured.figures())?
            .with("consumed", consumed)?
            .times("request_us", &times)?;
        topic.clear()?;
        Ok(report)
    }

    fn load(&self, topic: &Topic, batch: &Batch, shared: &Shared) -> Result<(Measured, Times, u64), Fault> {
        let shares: Vec<Vec<i32>> = (0..self.producers as usize)
            .map(|n| {
                let own: Vec<i32> = topic.partitions.iter().copied().skip(n).step_by(self.producers as usize).collect();
                if own.is_empty() { topic.partitions.clone() } else { own }
            })
            .collect();
        let producers: Vec<Producer> = shares
            .iter()
            .map(|own| Producer::new(topic, own, batch, self.acks, self.in_flight))
            .collect::<Result<_, _>>()?;
        thread::scope(|scope| {
            let produce = |mut producer: Producer| {
                while !shared.stop.load(Ordering::Relaxed) {
                    producer.step(shared)?;
                }
                producer.finish(shared)
            };
            let producing: Vec<_> = producers.into_iter().map(|p| scope.spawn(move || produce(p))).collect();
            let following: Vec<_> = (0..self.consumers).map(|_| scope.spawn(|| follow(topic, shared))).collect();
            let sampled = self.sample(batch, shared);
            shared.stop.store(true, Ordering::Relaxed);
            let mut times = Times::default();
            for thread in producing {
                times.merge(thread.join().map_err(|_| Fault::Panicked)??);
            }
            for thread in following {
                thread.join().map_err(|_| Fault::Panicked)??;
            }
            let (measured, consumed) = sampled?;
            Ok((measured, times, consumed))
        })
    }

    fn sample(&self, batch: &Batch, shared: &Shared) -> Result<(Measured, u64), Fault> {
        thread::sleep(self.time.warmup());
        let watch = self.target.watch()?;
        let counts = || (shared.requests.load(Ordering::Relaxed), shared.consumed.load(Ordering::Relaxed));
        let (before, begun) = (counts(), Instant::now());
        shared.measuring.store(true, Ordering::Relaxed);
        watch.during(|| thread::sleep(self.time.time()));
        shared.measuring.store(false, Ordering::Relaxed);
        let (after, seconds) = (counts(), begun.elapsed().as_secs_f64());
        let requests = after.0 - before.0;
        let measured = Measured {
            records: requests * u64::from(batch.records),
            value_bytes: requests * batch.value_bytes,
            wire_bytes: requests * batch.bytes.len() as u64,
            seconds,
            used: watch.finish()?,
        };
        Ok((measured, after.1 - before.1))
    }
}

impl LatencyArgs {
    pub fn run(&self) -> Result<Report, Fault> {
        let args = ProduceArgs {
            target: self.target.clone(),
            record: RecordArgs { size: self.size, batch: self.size.max(1), codec: Default::default(), keys: 0 },
            time: self.time.clone(),
            partitions: 1,
            producers: 1,
            consumers: 0,
            in_flight: 1,
            acks: if self.acks == 0 { 1 } else { self.acks },
        };
        args.run().map(|report| Report(report.0.into_iter().map(rename_mode).collect()))
    }
}

fn rename_mode((name, value): (String, serde_json::Value)) -> (String, serde_json::Value) {
    if name == "mode" { (name, "latency".into()) } else { (name, value) }
}

/// Fills a topic with about so many bytes of values.
///
/// # Errors
/// Those of producing.
pub fn fill(topic: &Topic, batch: &Batch, bytes: u64) -> Result<(), Fault> {
    let (shared, rounds) = (Shared::default(), bytes.div_ceil(batch.value_bytes.max(1)));
    let mut producer = Producer::new(topic, &topic.partitions, batch, -1, 16)?;
    for _ in 0..rounds {
        producer.step(&shared)?;
    }
    producer.finish(&shared).map(drop)
}

/// Waits a little: what was written may be on its way to caches and disks still.
pub fn settle() {
    thread::sleep(Duration::from_millis(500));
}
