//! Many partitions, each with a record now and then.

use super::args::{RecordArgs, Target, TimeArgs};
use super::client::Client;
use super::produce::{answered, request};
use super::topic::Topic;
use super::{Measured, Report};
use crate::bench::amqp::fault::Fault;
use crate::bench::amqp::outcome::{ratio, round};
use crate::bench::amqp::times::Times;
use clap::Args;
use serde_json::json;
use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

/// How long memory is given to become what it stays.
const REST: Duration = Duration::from_secs(1);

/// Arguments of `waypost bench kafka trickle`.
#[derive(Clone, Debug, Args)]
pub struct TrickleArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    time: TimeArgs,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 100, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(0..=67_108_864))]
    size: u32,
    /// Partitions of the topic
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Connections that produce, each into partitions of its own
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    producers: u32,
    /// Records per second of all partitions together
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: u32,
    /// Requests under way per connection
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    in_flight: u32,
}

#[derive(Default)]
struct Done {
    records: u64,
    times: Times,
}

impl TrickleArgs {
    pub fn run(&self) -> Result<Report, Fault> {
        let before = self.anonymous_kib()?;
        let topic = Topic::make(&self.target, self.partitions)?;
        thread::sleep(REST);
        let after = self.anonymous_kib()?;
        let (measured, times) = self.load(&topic)?;
        let each = before.zip(after).map(|(b, a)| round(ratio(a as f64 - b as f64, f64::from(self.partitions)), 2));
        let report = Report::new("trickle")
            .with(
                "setup",
                json!({
                    "partitions": topic.partitions.len(), "producers": self.producers, "value_bytes": self.size,
                    "rate": self.rate,
                }),
            )?
            .with("kib_per_empty_partition", each)?
            .figures(&measured.figures())?
            .times("request_us", &times)?;
        topic.clear()?;
        Ok(report)
    }

    fn anonymous_kib(&self) -> Result<Option<u64>, Fault> {
        self.target.process()?.map(|p| p.memory().map(|m| m.anon_kib)).transpose()
    }

    fn load(&self, topic: &Topic) -> Result<(Measured, Times), Fault> {
        let begin = Instant::now() + self.time.warmup();
        let end = begin + self.time.time();
        thread::scope(|scope| {
            let share = |n: usize| topic.partitions.iter().copied().skip(n).step_by(self.producers as usize).collect();
            let producing: Vec<_> = (0..self.producers as usize)
                .map(|n| scope.spawn(move || self.produce(topic, share(n), begin, end)))
                .collect();
            thread::sleep(begin.saturating_duration_since(Instant::now()));
            let watch = self.target.watch()?;
            watch.during(|| thread::sleep(end.saturating_duration_since(Instant::now())));
            let used = watch.finish()?;
            let mut all = Done::default();
            for thread in producing {
                let done: Done = thread.join().map_err(|_| Fault::Panicked)??;
                all.records += done.records;
                all.times.merge(done.times);
            }
            let measured = Measured {
                records: all.records,
                value_bytes: all.records * u64::from(self.size),
                wire_bytes: 0,
                seconds: self.time.time().as_secs_f64(),
                used,
            };
            Ok((measured, all.times))
        })
    }

    /// Sends a record whenever one is due, to one partition after the other, and takes answers meanwhile.
    fn produce(&self, topic: &Topic, partitions: Vec<i32>, begin: Instant, end: Instant) -> Result<Done, Fault> {
        let record = RecordArgs { size: self.size, batch: self.size.max(1), codec: Default::default(), keys: 0 };
        let batch = record.build()?;
        let mut requests: Vec<_> = partitions.iter().map(|p| request(&topic.name, *p, -1, &batch)).collect();
        let mut client = Client::open(&topic.leader)?;
        let every = Duration::from_secs_f64(f64::from(self.producers) / f64::from(self.rate));
        let (mut due, mut under_way, mut turn) = (Instant::now(), VecDeque::new(), 0);
        let mut done = Done::default();
        while !requests.is_empty() {
            let now = Instant::now();
            let full = under_way.len() >= self.in_flight as usize;
            if now < end && now >= due && !full {
                let at = turn % requests.len();
                if let Some(request) = requests.get_mut(at) {
                    client.send(request)?;
                }
                // Times count from when it was due, lest a slow broker slow its own measurement.
                under_way.push_back(due);
                (due, turn) = (due + every, turn + 1);
                continue;
            }
            let Some(sent) = under_way.pop_front() else {
                if now >= end {
                    break;
                }
                thread::sleep(due.saturating_duration_since(now));
                continue;
            };
            answered(&mut client)?;
            if sent >= begin && sent < end {
                done.records += 1;
                done.times.record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
        }
        Ok(done)
    }
}
