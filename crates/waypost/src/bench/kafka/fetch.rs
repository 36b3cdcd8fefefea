//! Consumers: each a connection that asks for more as soon as it has read what came.

use super::args::{RecordArgs, Target, TimeArgs};
use super::client::{Client, Prepared, check};
use super::produce::{Shared, fill, settle};
use super::topic::Topic;
use super::{Measured, Report};
use crate::bench::amqp::fault::Fault;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;
use waypost_kafka::messages::records::{FetchPartition, FetchRequest, FetchTopic};
use waypost_kafka::wire::{Malformed, Reader};

const FETCH: (i16, i16) = (1, 11);
/// Bytes of a batch up to its first octet that `batchLength` counts, and up to its last offset.
const LENGTH_AT: usize = 12;
const HEAD: usize = 27;

/// Where to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// From the beginning to the end, again and again: what the broker has no longer in memory of its own.
    #[default]
    Beginning,
    /// The last batch, again and again.
    Tail,
}

/// Arguments of `waypost bench kafka fetch`.
#[derive(Clone, Debug, Args)]
pub struct FetchArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    record: RecordArgs,
    #[command(flatten)]
    time: TimeArgs,
    /// Where to read
    #[arg(long, value_enum, default_value_t)]
    from: From,
    /// Read all of it once, from the beginning to the end, and measure exactly that
    #[arg(long, conflicts_with_all = ["from", "time", "warmup"])]
    once: bool,
    /// Write so many bytes of values before
    #[arg(long, default_value_t = 1 << 30, value_name = "BYTES")]
    fill: u64,
    /// Connections that read, all of them everything
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    consumers: u32,
    /// Most bytes of an answer
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES", value_parser = clap::value_parser!(i32).range(1..))]
    max_bytes: i32,
}

/// What an answer holds of a partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Got {
    /// Batches that reach behind the offset asked for.
    pub batches: u64,
    /// Bytes of records, headers of batches included.
    pub bytes: u64,
    /// One behind the last record.
    pub next: i64,
}

/// A consumer of one partition at a time.
pub struct Consumer {
    client: Client,
    topic: String,
    max_bytes: i32,
    wait_ms: i32,
}

impl Consumer {
    pub fn new(topic: &Topic, max_bytes: i32, wait_ms: i32) -> Result<Consumer, Fault> {
        Ok(Consumer { client: Client::open(&topic.leader)?, topic: topic.name.clone(), max_bytes, wait_ms })
    }

    /// The connection, for other questions.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Reads from an offset on.
    ///
    /// # Errors
    /// The broker refuses; offsets are missing.
    pub fn fetch(&mut self, partition: i32, offset: i64) -> Result<Got, Fault> {
        let wanted = FetchPartition {
            partition,
            fetch_offset: offset,
            partition_max_bytes: self.max_bytes,
            ..FetchPartition::default()
        };
        let topic = FetchTopic { topic: self.topic.as_str().into(), partitions: vec![wanted], ..FetchTopic::default() };
        let request = FetchRequest {
            replica_id: -1,
            max_wait_ms: self.wait_ms,
            min_bytes: 1,
            max_bytes: self.max_bytes,
            session_epoch: -1,
            topics: vec![topic],
            ..FetchRequest::default()
        };
        self.client.send(&mut Prepared::message(FETCH.0, FETCH.1, &request))?;
        let answer = self.client.receive(FETCH.0, FETCH.1)?;
        let records = records(answer).map_err(|e| Fault::protocol(e.to_string()))?;
        check("fetch", records.0)?;
        read(records.1, offset)
    }
}

/// Error code and records of an answer for one partition.
fn records(answer: &[u8]) -> Result<(i16, &[u8]), Malformed> {
    let mut from = Reader::new(answer);
    let _throttle = from.take(4, "throttle time")?;
    let error = i16::from_be_bytes(from.array("error code")?);
    let _session = from.take(4, "session")?;
    let topics = i32::from_be_bytes(from.array("topics")?);
    if error != 0 || topics != 1 {
        return Ok((error, &[]));
    }
    let name = i16::from_be_bytes(from.array("topic")?);
    from.take(usize::try_from(name).unwrap_or(0), "topic")?;
    let _partitions_and_index = from.take(8, "partitions")?;
    let error = i16::from_be_bytes(from.array("error code")?);
    let _offsets = from.take(24, "offsets")?;
    let aborted = i32::from_be_bytes(from.array("aborted transactions")?);
    from.take(usize::try_from(aborted).unwrap_or(0).saturating_mul(16), "aborted transactions")?;
    let _replica = from.take(4, "preferred replica")?;
    let length = i32::from_be_bytes(from.array("records")?);
    Ok((error, from.take(usize::try_from(length).unwrap_or(0), "records")?))
}

/// Walks over batches; the last one may be cut.
fn read(mut records: &[u8], offset: i64) -> Result<Got, Fault> {
    let mut got = Got { bytes: records.len() as u64, next: offset, batches: 0 };
    while let Some(head) = records.first_chunk::<HEAD>() {
        let base = head.first_chunk::<8>().map_or(0, |b| i64::from_be_bytes(*b));
        let length = i32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        let last = base + i64::from(i32::from_be_bytes([head[23], head[24], head[25], head[26]]));
        let whole = usize::try_from(length).unwrap_or(0).saturating_add(LENGTH_AT);
        let Some(rest) = records.get(whole..) else { break };
        if base > got.next || last < got.next {
            return Err(Fault::protocol(format!("offsets {base} to {last} come where {} is next", got.next)));
        }
        got.next = last + 1;
        got.batches += 1;
        records = rest;
    }
    Ok(got)
}

/// Follows producers through all partitions until they stop.
pub fn follow(topic: &Topic, shared: &Shared) -> Result<(), Fault> {
    let wait_ms = if topic.partitions.len() == 1 { 500 } else { 0 };
    let mut consumer = Consumer::new(topic, 1 << 20, wait_ms)?;
    let mut next = Vec::new();
    for partition in &topic.partitions {
        next.push((*partition, topic.offsets(consumer.client(), *partition)?.1));
    }
    while !shared.stop.load(Ordering::Relaxed) {
        for (partition, next) in &mut next {
            let got = consumer.fetch(*partition, *next)?;
            shared.consumed.fetch_add((got.next - *next).unsigned_abs(), Ordering::Relaxed);
            *next = got.next;
        }
    }
    Ok(())
}

impl FetchArgs {
    pub fn run(&self) -> Result<Report, Fault> {
        let batch = self.record.build()?;
        let topic = Topic::make(&self.target, 1)?;
        fill(&topic, &batch, self.fill.max(batch.value_bytes))?;
        settle();
        let (shared, wire) = (Shared::default(), std::sync::atomic::AtomicU64::new(0));
        let measured = thread::scope(|scope| {
            let read = || self.read(&topic, i64::from(batch.records), &shared, &wire);
            let begin = || (0..self.consumers).map(|_| scope.spawn(read)).collect::<Vec<_>>();
            let end = |reading: Vec<thread::ScopedJoinHandle<'_, Result<(), Fault>>>| {
                reading.into_iter().try_for_each(|thread| thread.join().map_err(|_| Fault::Panicked)?)
            };
            if self.once {
                return self.sample(&shared, &wire, || end(begin()));
            }
            let reading = begin();
            thread::sleep(self.time.warmup());
            let measured = self.sample(&shared, &wire, || {
                thread::sleep(self.time.time());
                Ok(())
            });
            shared.stop.store(true, Ordering::Relaxed);
            end(reading)?;
            measured
        })?;
        let report = Report::new("fetch")
            .with("setup", json!({
                "from": self.from, "once": self.once, "consumers": self.consumers, "codec": self.record.codec, "value_bytes": self.record.size,
                "batch_records": batch.records, "batch_wire_bytes": batch.bytes.len(), "filled_bytes": self.fill,
                "max_bytes": self.max_bytes,
            }))?
            .figures(&measured.figures())?;
        topic.clear()?;
        Ok(report)
    }

    fn read(
        &self,
        topic: &Topic,
        batch: i64,
        shared: &Shared,
        wire: &std::sync::atomic::AtomicU64,
    ) -> Result<(), Fault> {
        let mut consumer = Consumer::new(topic, self.max_bytes, 0)?;
        let (first, end) = topic.offsets(consumer.client(), 0)?;
        let from = match self.from {
            From::Beginning => first,
            From::Tail => (end - batch).max(first),
        };
        let mut at = from;
        while !shared.stop.load(Ordering::Relaxed) {
            let got = consumer.fetch(0, at)?;
            if got.next == at {
                return Err(Fault::protocol(format!("nothing comes from offset {at} of {end}")));
            }
            shared.consumed.fetch_add((got.next - at).unsigned_abs(), Ordering::Relaxed);
            wire.fetch_add(got.bytes, Ordering::Relaxed);
            at = if got.next < end { got.next } else { from };
            if self.once && at == from {
                break;
            }
        }
        Ok(())
    }

    fn sample(
        &self,
        shared: &Shared,
        wire: &std::sync::atomic::AtomicU64,
        reading: impl FnOnce() -> Result<(), Fault>,
    ) -> Result<Measured, Fault> {
        let watch = self.target.watch()?;
        let counts = || (shared.consumed.load(Ordering::Relaxed), wire.load(Ordering::Relaxed));
        let (before, begun) = (counts(), Instant::now());
        watch.during(reading)?;
        let (after, seconds) = (counts(), begun.elapsed().as_secs_f64());
        let records = after.0 - before.0;
        Ok(Measured {
            records,
            value_bytes: records * u64::from(self.record.size),
            wire_bytes: after.1 - before.1,
            seconds,
            used: watch.finish()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base: i64, records: i32) -> Vec<u8> {
        let mut bytes = vec![0; 61];
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes[8..12].copy_from_slice(&49_i32.to_be_bytes());
        bytes[23..27].copy_from_slice(&(records - 1).to_be_bytes());
        bytes
    }

    #[test]
    fn offsets_are_followed_and_gaps_are_found() {
        let mut two = [batch(10, 5), batch(15, 2)].concat();
        assert_eq!(read(&two, 12).unwrap().next, 17);
        // A third that is cut does not count.
        two.extend_from_slice(&batch(17, 1)[..40]);
        let got = read(&two, 10).unwrap();
        assert_eq!((got.next, got.batches, got.bytes), (17, 2, 162));
        assert!(read(&[batch(10, 5), batch(16, 2)].concat(), 10).is_err());
        assert!(read(&[batch(10, 5), batch(10, 5)].concat(), 10).is_err());
    }
}
