//! Produce, and the ids of producers.

use std::time::Duration;

use waypost_broker::topology::Access;
use waypost_kafka::messages::records::{PartitionProduceResponse, ProduceResponse, TopicProduceResponse};
use waypost_kafka::messages::transactions::{InitProducerIdRequest, InitProducerIdResponse};
use waypost_kafka::produce::{ProducePartition, ProduceRequest};
use waypost_kafka::wire::Malformed;
use waypost_model::{Lsn, Millis};
use waypost_stream::batch::Batch;
use waypost_stream::config::TopicConfig;
use waypost_stream::partition::{AppendFault, Appended};
use waypost_stream::streams::{Cell, Topic};

use super::{Answer, Ask, Session, codes};

/// The first version whose clients can read what zstd has compressed.
const ZSTD_SINCE: i16 = 7;
const ZSTD: i16 = 4;
/// How often it is looked whether publishing goes on again.
const PAUSE: Duration = Duration::from_millis(20);

impl Session {
    pub(super) async fn produce(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request = ProduceRequest::read(ask.body, ask.version)?;
        let held_back = !self.may_publish(request.timeout_ms).await;
        let (mut lsn, mut response) = (None, ProduceResponse::default());
        for topic in &request.topics {
            let found = self.topic(&topic.name);
            let allowed = self.may(Access::Write, &topic.name);
            let refused = match &found {
                _ if !matches!(request.acks, -1..=1) => codes::INVALID_REQUIRED_ACKS,
                _ if held_back => codes::REQUEST_TIMED_OUT,
                _ if !allowed => codes::TOPIC_AUTHORIZATION_FAILED,
                None => codes::UNKNOWN_TOPIC_OR_PARTITION,
                Some(_) => codes::NONE,
            };
            let partitions = topic.partitions.iter().map(|partition| match &found {
                Some(topic) if refused == codes::NONE => self.append(ask, topic, partition, &mut lsn),
                _ => failed(partition.index, refused, None),
            });
            response.responses.push(TopicProduceResponse {
                name: topic.name.clone(),
                partition_responses: partitions.collect(),
                ..TopicProduceResponse::default()
            });
        }
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
        topic: &Topic,
        partition: &ProducePartition,
        lsn: &mut Option<Lsn>,
    ) -> PartitionProduceResponse {
        let index = partition.index;
        let Some(cell) = topic.partition(index) else {
            return failed(index, codes::UNKNOWN_TOPIC_OR_PARTITION, None);
        };
        let records = partition.records.clone().and_then(|range| ask.body.get(range)).unwrap_or_default();
        let batch = match Batch::split(records) {
            Ok((batch, [])) => batch,
            Ok(_) => return failed(index, codes::INVALID_RECORD, Some("one batch per partition and request")),
            Err(error) => return failed(index, codes::of_append(&error.into()), None),
        };
        if batch.codec() == ZSTD && ask.version < ZSTD_SINCE {
            return failed(index, codes::UNSUPPORTED_COMPRESSION_TYPE, None);
        }
        let config = topic.config();
        match append(self, &cell, &batch, &config, self.node.clock.now()) {
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

    pub(super) fn init_producer_id(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: InitProducerIdRequest = ask.read()?;
        let failed = |error_code| InitProducerIdResponse { error_code, producer_epoch: -1, ..Default::default() };
        if request.transactional_id.is_some() {
            // Transactions are not there yet.
            return Ok(ask.now(&failed(codes::INVALID_REQUEST)));
        }
        Ok(match self.streams().new_producer_id() {
            Ok((producer_id, lsn)) => {
                ask.after(lsn, &InitProducerIdResponse { producer_id, ..InitProducerIdResponse::default() })
            }
            Err(_) => ask.now(&failed(codes::KAFKA_STORAGE_ERROR)),
        })
    }
}

fn append(
    session: &Session,
    cell: &std::sync::Arc<Cell>,
    batch: &Batch<'_>,
    config: &TopicConfig,
    now: Millis,
) -> Result<Appended, AppendFault> {
    let streams = session.streams();
    let appended = cell.append(batch, config, &**streams.journal(), now)?;
    if let Some(lsn) = appended.lsn {
        streams.appended(cell, lsn);
    }
    Ok(appended)
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
