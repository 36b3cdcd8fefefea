//! Offsets by time, ends of epochs, records removed, producers at work.

use std::collections::BTreeSet;
use std::sync::Arc;

use waypost_broker::topology::AclOperation;
use waypost_kafka::messages::records::*;
use waypost_kafka::messages::transactions::{
    DescribeProducersRequest, DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use waypost_kafka::wire::Malformed;
use waypost_model::Lsn;
use waypost_stream::batch::Batch;
use waypost_stream::records::first_of_time;
use waypost_stream::streams::Cell;

use super::{Answer, Ask, LEADER_EPOCH, Session, codes};
use crate::streams::Look;

/// What `timestamp` may mean beside a time.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;

impl Session {
    /// The partition, if there is one and the peer may.
    fn cell(&self, access: impl Into<AclOperation>, topic: &str, partition: i32) -> Result<Arc<Cell>, i16> {
        if !self.may(access, topic) {
            return Err(codes::TOPIC_AUTHORIZATION_FAILED);
        }
        let cell = self.topic(topic).and_then(|t| t.partition(partition)).filter(|c| !c.is_closed());
        cell.ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)
    }

    pub(super) async fn list_offsets(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: ListOffsetsRequest = ask.read()?;
        let committed = request.isolation_level == 1;
        // Each once: a search by time may read a batch.
        let (mut cells, mut seen) = (Vec::new(), BTreeSet::new());
        for topic in request.topics {
            let once = |p: &ListOffsetsPartition| seen.insert((topic.name.clone(), p.partition_index));
            let of = |p: ListOffsetsPartition| (self.cell(AclOperation::Describe, &topic.name, p.partition_index), p);
            cells.push((topic.name.clone(), topic.partitions.into_iter().filter(once).map(of).collect::<Vec<_>>()));
        }
        let (streams, now) = (Arc::clone(self.streams()), self.node.clock.now());
        let work = move || -> Vec<ListOffsetsTopicResponse> {
            let one = |(cell, p): (Result<Arc<Cell>, i16>, ListOffsetsPartition)| {
                let found =
                    cell.and_then(|cell| find(&Look { cell: &cell, streams: &streams, now }, p.timestamp, committed));
                let (error_code, (offset, timestamp)) = match found {
                    Ok(found) => (codes::NONE, found),
                    Err(code) => (code, (-1, -1)),
                };
                ListOffsetsPartitionResponse {
                    partition_index: p.partition_index,
                    error_code,
                    timestamp,
                    offset,
                    leader_epoch: if offset < 0 { -1 } else { LEADER_EPOCH },
                }
            };
            let topic = |(name, cells): (Box<str>, Vec<_>)| ListOffsetsTopicResponse {
                name,
                partitions: cells.into_iter().map(one).collect(),
            };
            cells.into_iter().map(topic).collect()
        };
        let topics = tokio::task::spawn_blocking(work).await.unwrap_or_default();
        Ok(ask.now(&ListOffsetsResponse { topics, ..ListOffsetsResponse::default() }))
    }

    pub(super) fn offset_for_leader_epoch(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: OffsetForLeaderEpochRequest = ask.read()?;
        let one = |topic: &str, p: &OffsetForLeaderPartition| {
            let mut end = EpochEndOffset { partition: p.partition, ..EpochEndOffset::default() };
            match self.cell(AclOperation::Describe, topic, p.partition) {
                Err(code) => end.error_code = code,
                Ok(_) if p.current_leader_epoch > LEADER_EPOCH => end.error_code = codes::UNKNOWN_LEADER_EPOCH,
                Ok(cell) if p.leader_epoch == LEADER_EPOCH => {
                    end.leader_epoch = LEADER_EPOCH;
                    end.end_offset = number(cell.with(|p| p.offsets().high_watermark));
                }
                // An epoch that never was.
                Ok(_) => {}
            }
            end
        };
        let topics = request.topics.iter().map(|topic| OffsetForLeaderTopicResult {
            topic: topic.topic.clone(),
            partitions: topic.partitions.iter().map(|p| one(&topic.topic, p)).collect(),
        });
        Ok(ask.now(&OffsetForLeaderEpochResponse { topics: topics.collect(), ..Default::default() }))
    }

    pub(super) fn delete_records(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DeleteRecordsRequest = ask.read()?;
        let mut lsn = None;
        let mut one = |topic: &str, p: &DeleteRecordsPartition| {
            let cell = self.cell(AclOperation::Delete, topic, p.partition_index);
            let (error_code, low_watermark) = match cell.and_then(|cell| self.delete_before(&cell, p.offset, &mut lsn))
            {
                Ok(start) => (codes::NONE, number(start)),
                Err(code) => (code, -1),
            };
            DeleteRecordsPartitionResult { partition_index: p.partition_index, low_watermark, error_code }
        };
        let topics: Vec<DeleteRecordsTopicResult> = request
            .topics
            .iter()
            .map(|topic| DeleteRecordsTopicResult {
                name: topic.name.clone(),
                partitions: topic.partitions.iter().map(|p| one(&topic.name, p)).collect(),
            })
            .collect();
        Ok(ask.after(lsn, &DeleteRecordsResponse { topics, ..DeleteRecordsResponse::default() }))
    }

    fn delete_before(&self, cell: &Arc<Cell>, offset: i64, lsn: &mut Option<Lsn>) -> Result<u64, i16> {
        let offset = match u64::try_from(offset) {
            Ok(offset) => offset,
            // All that is visible.
            Err(_) if offset == LATEST => cell.with(|p| p.offsets().high_watermark),
            Err(_) => return Err(codes::OFFSET_OUT_OF_RANGE),
        };
        let done = cell.delete_before(offset, &**self.streams().journal());
        let (start, written) = done.map_err(|fault| match fault {
            waypost_stream::streams::DeleteFault::Range(_) => codes::OFFSET_OUT_OF_RANGE,
            waypost_stream::streams::DeleteFault::Journal(_) => codes::KAFKA_STORAGE_ERROR,
        })?;
        *lsn = (*lsn).max(written);
        Ok(start)
    }

    pub(super) fn describe_producers(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DescribeProducersRequest = ask.read()?;
        let one = |topic: &str, partition_index: i32| {
            let mut answer = PartitionResponse { partition_index, ..PartitionResponse::default() };
            match self.cell(AclOperation::Read, topic, partition_index) {
                Err(code) => answer.error_code = code,
                Ok(cell) => {
                    let state = |p: waypost_stream::partition::ProducerInfo| ProducerState {
                        producer_id: p.id,
                        producer_epoch: i32::from(p.epoch),
                        last_sequence: p.last_sequence,
                        last_timestamp: i64::try_from(p.last_time.0).unwrap_or(-1),
                        current_txn_start_offset: p.transaction_start.map_or(-1, number),
                        ..ProducerState::default()
                    };
                    answer.active_producers = cell.with(|p| p.producers()).into_iter().map(state).collect();
                }
            }
            answer
        };
        // Each once: a partition may have ten thousand of them.
        let mut seen = BTreeSet::new();
        let topics = request.topics.iter().map(|topic| {
            let once = topic.partition_indexes.iter().filter(|p| seen.insert((&*topic.name, **p)));
            TopicResponse { name: topic.name.clone(), partitions: once.map(|p| one(&topic.name, *p)).collect() }
        });
        Ok(ask.now(&DescribeProducersResponse { topics: topics.collect(), ..Default::default() }))
    }
}

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Offset and time. Where records cannot be decoded, none is found.
fn find(look: &Look<'_>, timestamp: i64, committed: bool) -> Result<(i64, i64), i16> {
    let cell = look.cell;
    let offsets = cell.with(|p| p.offsets());
    let end = if committed { offsets.last_stable } else { offsets.high_watermark };
    let failed = |error: std::io::Error| {
        tracing::error!(%error, queue = cell.queue().0, "a batch cannot be searched by time");
        codes::KAFKA_STORAGE_ERROR
    };
    let within = |piece, time| -> Result<Option<(i64, i64)>, i16> {
        let (messages, at) = cell.load(&piece, &**look.streams.bodies()).map_err(failed)?;
        let (batch, _) = Batch::split(messages.body(at)).map_err(|_| codes::CORRUPT_MESSAGE)?;
        Ok(first_of_time(&batch, time, offsets.start).unwrap_or_default())
    };
    let visible = |found: Option<(i64, i64)>| found.filter(|(at, _)| at.unsigned_abs() < end).unwrap_or((-1, -1));
    match timestamp {
        LATEST => Ok((number(end), -1)),
        EARLIEST | EARLIEST_LOCAL => Ok((number(offsets.start), -1)),
        MAX_TIMESTAMP => match cell.with(|p| p.latest_time()) {
            Some((entry, piece)) => within(piece, number(entry.time.0)).map(visible),
            None => Ok((-1, -1)),
        },
        time if time >= 0 => look.first_since(time.unsigned_abs()).map(visible).map_err(failed),
        // Offsets of tiers that there are not.
        _ => Ok((-1, -1)),
    }
}
