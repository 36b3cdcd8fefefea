//! Produce.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use waypost_broker::topology::{Access, QuotaKind};
use waypost_kafka::messages::records::{PartitionProduceResponse, ProduceResponse, TopicProduceResponse};
use waypost_kafka::produce::ProduceRequest;
use waypost_kafka::wire::Malformed;
use waypost_model::{Buffers, Lsn};
use waypost_stream::batch::{Batch, BatchError};
use waypost_stream::partition::Packed;
use waypost_stream::streams::Topic;

use super::{Answer, Ask, Session, codes};

/// The first version whose clients can read what zstd has compressed.
const ZSTD_SINCE: i16 = 7;
const ZSTD: i16 = 4;
/// How often it is looked whether publishing goes on again.
const PAUSE: Duration = Duration::from_millis(20);

/// A smaller batch is copied, so that the buffer of its request serves the next one.
const KEPT_BYTES_MIN: usize = 8 * 1024;

/// Records where they lie in a request.
struct Sent<'a> {
    frame: &'a mut Vec<u8>,
    at: Range<usize>,
    /// Whether the request holds no others.
    alone: bool,
    /// Where its buffer may have come from.
    buffers: &'a Arc<Buffers>,
}

impl Sent<'_> {
    fn bytes(&self) -> &[u8] {
        self.frame.get(self.at.clone()).unwrap_or_default()
    }

    /// The batch as it is stored: in the buffer in which it came, unless that would keep too much else in memory.
    fn pack(self) -> Result<Packed, BatchError> {
        let worth = self.at.len() >= KEPT_BYTES_MIN && self.frame.capacity() < 2 * self.at.len();
        if self.alone && worth {
            return Packed::within(std::mem::take(self.frame), self.at, Some(Arc::clone(self.buffers)));
        }
        Batch::split(self.bytes()).map(|(batch, _)| Packed::copy(&batch))
    }
}

impl Session {
    /// The body of the request begins at `at` of `frame`; the buffer is kept if little else but a batch is in it.
    pub(super) async fn produce(&mut self, ask: &Ask<'_>, frame: &mut Vec<u8>, at: usize) -> Result<Answer, Malformed> {
        let request = ProduceRequest::read(frame.get(at..).unwrap_or_default(), ask.version)?;
        let body_bytes = frame.len() - at;
        let alone = matches!(&request.topics[..], [topic] if topic.partitions.len() == 1);
        let held_back = !self.may_publish(request.timeout_ms).await;
        let id = request.transactional_id.as_deref();
        let refused_id = id.map_or(codes::NONE, |id| self.transactional_id_code(Access::Write, id));
        let (mut lsn, mut response) = (None, ProduceResponse::default());
        for topic in &request.topics {
            let found = self.topic(&topic.name);
            let allowed = self.may(Access::Write, &topic.name);
            let refused = match &found {
                _ if !matches!(request.acks, -1..=1) => codes::INVALID_REQUIRED_ACKS,
                _ if refused_id != codes::NONE => refused_id,
                _ if held_back => codes::REQUEST_TIMED_OUT,
                _ if !allowed => codes::TOPIC_AUTHORIZATION_FAILED,
                None => codes::UNKNOWN_TOPIC_OR_PARTITION,
                Some(_) => codes::NONE,
            };
            let partitions = topic.partitions.iter().map(|partition| match &found {
                Some(topic) if refused == codes::NONE => {
                    let records = partition.records.clone().unwrap_or_default();
                    let at = at + records.start..at + records.end;
                    let records = Sent { frame: &mut *frame, at, alone, buffers: &self.node.kafka_buffers };
                    self.append(ask, id, topic, partition.index, records, &mut lsn)
                }
                _ => failed(partition.index, refused, None),
            });
            response.responses.push(TopicProduceResponse {
                name: topic.name.clone(),
                partition_responses: partitions.collect(),
                ..TopicProduceResponse::default()
            });
        }
        response.throttle_time_ms = self.throttled(ask, QuotaKind::Producer, body_bytes);
        Ok(if request.acks == 0 { Answer::None } else { ask.after(lsn, &response) })
    }

    /// Waits while publishers are held back, as long as the client waits.
    async fn may_publish(&self, timeout_ms: i32) -> bool {
        let patience = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0).min(30_000));
        let begun = tokio::time::Instant::now();
        while self.node.broker.publishing_paused() {
            if begun.elapsed() >= patience {
                return false;
            }
            tokio::time::sleep(PAUSE).await;
        }
        true
    }

    fn append(
        &self,
        ask: &Ask<'_>,
        transactional_id: Option<&str>,
        topic: &Topic,
        index: i32,
        records: Sent<'_>,
        lsn: &mut Option<Lsn>,
    ) -> PartitionProduceResponse {
        let Some(cell) = topic.partition(index) else {
            return failed(index, codes::UNKNOWN_TOPIC_OR_PARTITION, None);
        };
        let batch = match Batch::split(records.bytes()) {
            Ok((batch, [])) => batch,
            Ok(_) => return failed(index, codes::INVALID_RECORD, Some("one batch per partition and request")),
            Err(error) => return failed(index, codes::of_append(&error.into()), None),
        };
        if batch.codec() == ZSTD && ask.version < ZSTD_SINCE {
            return failed(index, codes::UNSUPPORTED_COMPRESSION_TYPE, None);
        }
        if batch.is_transactional() && transactional_id.is_none() {
            return failed(index, codes::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, None);
        }
        let packed = match records.pack() {
            Ok(packed) => packed,
            Err(error) => return failed(index, codes::of_append(&error.into()), None),
        };
        let (config, now) = (topic.config(), self.node.clock.now());
        match self.streams().append(topic, (index, &cell), transactional_id, packed, &config, now) {
            Ok(appended) => {
                if !config.durable_by_os {
                    *lsn = (*lsn).max(appended.lsn);
                }
                PartitionProduceResponse {
                    index,
                    base_offset: i64::try_from(appended.base_offset).unwrap_or(i64::MAX),
                    log_append_time_ms: appended.append_time.map_or(-1, |t| i64::try_from(t.0).unwrap_or(-1)),
                    log_start_offset: i64::try_from(cell.with(|p| p.offsets().start)).unwrap_or(-1),
                    ..PartitionProduceResponse::default()
                }
            }
            Err(fault) => failed(index, codes::of_append(&fault), Some(&fault.to_string())),
        }
    }
}

fn failed(index: i32, error_code: i16, message: Option<&str>) -> PartitionProduceResponse {
    PartitionProduceResponse {
        index,
        error_code,
        base_offset: -1,
        error_message: message.map(Into::into),
        ..PartitionProduceResponse::default()
    }
}
