//! One record at a time, from a producer to a consumer that waits for it.

use super::args::{RecordArgs, Target};
use super::client::Client;
use super::fetch::Consumer;
use super::produce::{answered, request};
use super::topic::Topic;
use super::{Measured, Report};
use crate::bench::amqp::fault::Fault;
use crate::bench::amqp::times::Times;
use clap::Args;
use serde_json::json;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a consumer asks the broker to wait, milliseconds.
const WAIT_MS: i32 = 10_000;
/// Records before those that count.
const WARMUP: u32 = 100;

/// Arguments of `waypost bench kafka end-to-end`.
#[derive(Clone, Debug, Args)]
pub struct EndToEndArgs {
    #[command(flatten)]
    pub target: Target,
    /// Bytes of the record's value
    #[arg(long, default_value_t = 100, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(0..=67_108_864))]
    size: u32,
    /// How many records
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    records: u32,
    /// Milliseconds from an arrival to the next record, so that the consumer waits again
    #[arg(long, default_value_t = 2, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pause: u64,
}

#[derive(Default)]
struct Taken {
    /// From the request to its answer.
    answer: Times,
    /// From the request to the arrival.
    arrival: Times,
    /// From the answer at the producer to the arrival at the consumer; 0 if it came before.
    behind: Times,
}

impl EndToEndArgs {
    pub fn run(&self) -> Result<Report, Fault> {
        let topic = Topic::make(&self.target, 1)?;
        let watch = self.target.watch()?;
        let begun = Instant::now();
        let taken = self.exchange(&topic)?;
        let records = u64::from(self.records + WARMUP);
        let measured = Measured {
            records,
            value_bytes: records * u64::from(self.size),
            wire_bytes: 0,
            seconds: begun.elapsed().as_secs_f64(),
            used: watch.finish()?,
        };
        let report = Report::new("end-to-end")
            .with("setup", json!({"value_bytes": self.size, "pause_ms": self.pause}))?
            .figures(&measured.figures())?
            .times("answer_us", &taken.answer)?
            .times("arrival_us", &taken.arrival)?
            .times("arrival_behind_answer_us", &taken.behind)?;
        topic.clear()?;
        Ok(report)
    }

    fn exchange(&self, topic: &Topic) -> Result<Taken, Fault> {
        let record = RecordArgs { size: self.size, batch: self.size.max(1), codec: Default::default(), keys: 0 };
        let mut request = request(&topic.name, 0, -1, &record.build()?);
        let mut producer = Client::open(&topic.leader)?;
        let mut consumer = Consumer::new(topic, 1 << 20, WAIT_MS)?;
        let (_, end) = topic.offsets(consumer.client(), 0)?;
        let closer = consumer.client().closer()?;
        let (arrived, arrivals) = mpsc::channel();
        let last = end + i64::from(self.records + WARMUP);
        thread::scope(|scope| {
            let consuming = scope.spawn(move || consume(&mut consumer, end, last, &arrived));
            let mut taken = Taken::default();
            let mut produce = || {
                for n in 0..self.records + WARMUP {
                    thread::sleep(Duration::from_millis(self.pause));
                    let sent = Instant::now();
                    producer.send(&mut request)?;
                    answered(&mut producer)?;
                    let answered = Instant::now();
                    // A consumer that has ended says why below.
                    let Ok(arrival) = arrivals.recv() else { break };
                    if n >= WARMUP {
                        taken.answer.record(nanos(answered.saturating_duration_since(sent)));
                        taken.arrival.record(nanos(Instant::saturating_duration_since(&arrival, sent)));
                        taken.behind.record(nanos(arrival.saturating_duration_since(answered)));
                    }
                }
                Ok(())
            };
            let produced: Result<(), Fault> = produce();
            if produced.is_err() {
                closer.close();
            }
            let consumed = consuming.join().map_err(|_| Fault::Panicked)?;
            produced.and(consumed).map(|()| taken)
        })
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn consume(consumer: &mut Consumer, mut at: i64, last: i64, arrived: &mpsc::Sender<Instant>) -> Result<(), Fault> {
    while at < last {
        let got = consumer.fetch(0, at)?;
        let now = Instant::now();
        for _ in at..got.next {
            if arrived.send(now).is_err() {
                return Ok(());
            }
        }
        at = got.next;
    }
    Ok(())
}
