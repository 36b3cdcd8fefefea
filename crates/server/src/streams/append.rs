//! Messages become records.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use waypost_broker::shard::{Enqueued, Incoming};
use waypost_model::Lsn;
use waypost_model::journal::{AppendError, Journal};
use waypost_stream::batch::Batch;
use waypost_stream::config::TopicConfig;
use waypost_stream::messages::{Scratch, key_of, push};
use waypost_stream::partition::AppendFault;
use waypost_stream::streams::{Cell, Streams};
use waypost_stream::writer::BatchWriter;

use super::keeper::Stream;

/// Room that a batch begins with beside its messages' own bytes, per message.
const HEADERS_GUESS: usize = 64;
/// A batch is closed once it is so long, so that readers need not take in too much at once.
const BATCH_BYTES: usize = 1 << 20;

/// Appends under way to one partition.
struct Appending<'a> {
    streams: &'a Streams,
    cell: Arc<Cell>,
    config: &'a TopicConfig,
    journal: &'a dyn Journal,
    run: &'a Incoming,
    lsn: Option<Lsn>,
}

/// Appends a run: as one batch, or as several where it is long. What a batch has no room for is refused, and so is all
/// that comes behind it.
pub(super) fn append(streams: &Streams, stream: &Stream, run: &Incoming, journal: &dyn Journal) -> Enqueued {
    let topic = &stream.topic;
    let (partitions, config) = (topic.partitions(), topic.config());
    let at = match key_of(&run.route, &topic.name) {
        _ if partitions.len() <= 1 => 0,
        Some(key) => waypost_stream::partitioner::partition_of(key, partitions.len()),
        None => stream.turn.fetch_add(1, Ordering::Relaxed) as usize % partitions.len(),
    };
    let Some(cell) = partitions.get(at).cloned() else {
        return Enqueued { accepted: run.count(), missing: 1, ..Enqueued::default() };
    };
    let mut appending = Appending { streams, cell, config: &config, journal, run, lsn: None };
    let (accepted, error) = appending.all(&topic.name);
    stream.published.fetch_add(u64::from(accepted), Ordering::Relaxed);
    stream.refused.fetch_add(u64::from(run.count() - accepted), Ordering::Relaxed);
    let lsn = appending.lsn.filter(|_| !config.durable_by_os);
    Enqueued { lsn, accepted, error, ..Enqueued::default() }
}

impl Appending<'_> {
    /// How many were taken, and why the journal took no more.
    fn all(&mut self, stream: &str) -> (u32, Option<AppendError>) {
        let max = self.config.max_message_bytes;
        let (mut scratch, mut writer) = (Scratch::default(), self.writer(self.run.from));
        let (mut done, mut at) = (0, self.run.from);
        while at < self.run.to {
            let (props, body) = (self.run.batch.props(at), self.run.batch.body(at));
            // A message that is long by itself has a batch of its own.
            let limit = if writer.records() == 0 { max } else { max.min(BATCH_BYTES) };
            if push(&mut writer, (&self.run.route, stream), props, body, &mut scratch, limit) {
                at += 1;
                continue;
            }
            if writer.records() == 0 {
                return (done, None);
            }
            let full = std::mem::replace(&mut writer, self.writer(at));
            match self.write(full) {
                Ok(()) => done = at - self.run.from,
                Err(fault) => return (done, fault),
            }
        }
        match self.write(writer) {
            Ok(()) => (self.run.count(), None),
            Err(fault) => (done, fault),
        }
    }

    fn writer(&self, from: u32) -> BatchWriter {
        let (run, left) = (self.run, (self.run.to - from) as usize);
        let payload = usize::try_from(run.batch.payload_len(from, run.to)).unwrap_or(usize::MAX);
        let capacity = payload.saturating_add(left * HEADERS_GUESS).min(BATCH_BYTES);
        BatchWriter::new(i64::try_from(run.at.0).unwrap_or(i64::MAX), capacity)
    }

    /// Appends a batch. What it is refused with may come from the journal.
    fn write(&mut self, writer: BatchWriter) -> Result<(), Option<AppendError>> {
        let Some(bytes) = writer.finish() else { return Ok(()) };
        let (batch, _) = Batch::split(&bytes).map_err(|_| None)?;
        let appended = self.streams.append_own(&self.cell, &batch, self.config, self.journal, self.run.at);
        let appended = appended.map_err(|fault| match fault {
            AppendFault::Journal(error) => Some(error),
            _ => None,
        })?;
        self.lsn = self.lsn.max(appended.lsn);
        Ok(())
    }
}
