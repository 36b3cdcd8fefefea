//! Topics described page by page, for those who have many (KIP-966's DescribeTopicPartitions).

use std::collections::BTreeSet;

use waypost_broker::topology::{AclOperation, AclResource};
use waypost_kafka::messages::cluster::*;
use waypost_kafka::wire::Malformed;
use waypost_stream::streams::Topic;

use super::cluster::uuid;
use super::{Answer, Ask, LEADER_EPOCH, NODE_ID, Session, codes};

/// Most partitions of one answer; Kafka's `max.request.partition.size.limit`.
const PARTITIONS_MAX: i32 = 2000;

type Described = DescribeTopicPartitionsResponseTopic;

impl Session {
    pub(super) fn describe_topic_partitions(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DescribeTopicPartitionsRequest = ask.read()?;
        let (from, skip) = match &request.cursor {
            None => ("", 0),
            Some(cursor) => match usize::try_from(cursor.partition_index) {
                Ok(skip) => (&*cursor.topic_name, skip),
                // The answer has no place for an error of its own.
                Err(_) => return Err(Malformed::Value("a cursor before the first partition")),
            },
        };
        let may = |name: &str| self.may(AclOperation::Describe, name);
        let all = request.topics.is_empty();
        let names: BTreeSet<Box<str>> = if all {
            let all = self.streams().topics(&self.vhost).into_iter().map(|t| Box::from(&*t.name));
            all.filter(|name| **name >= *from && may(name)).collect()
        } else {
            request.topics.into_iter().map(|t| t.name).filter(|name| **name >= *from).collect()
        };
        let mut page = Page { topics: Vec::new(), left: request.response_partition_limit.clamp(1, PARTITIONS_MAX) };
        let mut next_cursor = None;
        for name in names {
            let skip = if *name == *from { skip } else { 0 };
            let found =
                if all || may(&name) { self.topic(&name).ok_or_else(|| missing(&name)) } else { Err(hidden(&name)) };
            let stopped = match found {
                Ok(topic) => page.describe(&topic, skip, self.operations(AclResource::Topic, &name)),
                Err(_) if all => None,
                // Whatever comes behind a page is told with the next one, refusals too: each once, in order.
                Err(_) if page.left == 0 => Some(0),
                Err(refused) => {
                    page.topics.push(refused);
                    None
                }
            };
            if let Some(partition_index) = stopped {
                next_cursor = Some(Box::new(Cursor { topic_name: name, partition_index }));
                break;
            }
        }
        Ok(ask.now(&DescribeTopicPartitionsResponse { throttle_time_ms: 0, topics: page.topics, next_cursor }))
    }
}

/// What an answer has room for.
struct Page {
    topics: Vec<Described>,
    left: i32,
}

impl Page {
    /// Describes a topic from a partition on: the partition at which there was no more room, if any.
    fn describe(&mut self, topic: &Topic, skip: usize, operations: i32) -> Option<i32> {
        if self.left == 0 {
            return Some(i32::try_from(skip).unwrap_or(i32::MAX));
        }
        let count = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
        let first = i32::try_from(skip).unwrap_or(i32::MAX).min(count);
        let end = count.min(first.saturating_add(self.left));
        self.left -= end - first;
        self.topics.push(Described {
            name: Some((*topic.name).into()),
            topic_id: uuid(topic.id),
            partitions: (first..end).map(partition).collect(),
            topic_authorized_operations: operations,
            ..Described::default()
        });
        (end < count).then_some(end)
    }
}

fn partition(partition_index: i32) -> DescribeTopicPartitionsResponsePartition {
    DescribeTopicPartitionsResponsePartition {
        partition_index,
        leader_id: NODE_ID,
        leader_epoch: LEADER_EPOCH,
        replica_nodes: vec![NODE_ID],
        isr_nodes: vec![NODE_ID],
        eligible_leader_replicas: Some(Vec::new()),
        last_known_elr: Some(Vec::new()),
        ..DescribeTopicPartitionsResponsePartition::default()
    }
}

fn failed(name: &str, error_code: i16) -> Described {
    Described { error_code, name: Some(name.into()), ..Described::default() }
}

fn hidden(name: &str) -> Described {
    failed(name, codes::TOPIC_AUTHORIZATION_FAILED)
}

fn missing(name: &str) -> Described {
    failed(name, codes::of_no_topic(name))
}
