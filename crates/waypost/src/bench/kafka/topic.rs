//! The topic that takes the load.

use super::args::Target;
use super::client::{Client, check};
use crate::bench::amqp::fault::Fault;
use std::time::{Duration, Instant};
use waypost_kafka::messages::cluster::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use waypost_kafka::messages::records::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
};
use waypost_kafka::messages::topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse,
};

const LIST_OFFSETS: (i16, i16) = (2, 2);
const METADATA: (i16, i16) = (3, 5);
const CREATE_TOPICS: (i16, i16) = (19, 4);
const DELETE_TOPICS: (i16, i16) = (20, 3);
const TOPIC_ALREADY_EXISTS: i16 = 36;
/// How long leaders may take to be known.
const ELECTION: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// How long the broker may take to make or delete a topic, milliseconds.
const TIMEOUT_MS: i32 = 60_000;

/// A topic that is there.
#[derive(Debug)]
pub struct Topic {
    pub name: String,
    /// Where the leader of its first partition listens.
    pub leader: String,
    /// The partitions that it leads.
    pub partitions: Vec<i32>,
    bootstrap: String,
    temporary: bool,
}

impl Topic {
    /// Makes the topic if it is not there, and finds who leads it.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn make(target: &Target, partitions: u32) -> Result<Topic, Fault> {
        let mut client = Client::open(&target.bootstrap)?;
        let name = target.topic.clone().unwrap_or_else(|| {
            let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos());
            format!("waypost-bench-{}-{nanos}", std::process::id())
        });
        let setting = |(name, value): &(String, String)| CreatableTopicConfig {
            name: name.as_str().into(),
            value: Some(value.as_str().into()),
        };
        let topic = CreatableTopic {
            name: name.as_str().into(),
            num_partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
            replication_factor: 1,
            configs: target.settings.iter().map(setting).collect(),
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: TIMEOUT_MS, validate_only: false };
        let made: CreateTopicsResponse = client.call(CREATE_TOPICS.0, CREATE_TOPICS.1, &request)?;
        for made in &made.topics {
            match made.error_code {
                0 => {}
                TOPIC_ALREADY_EXISTS if target.topic.is_some() => {}
                code => {
                    let why = made.error_message.as_deref().unwrap_or_default();
                    return Err(Fault::protocol(format!("cannot make topic {name}: error code {code} {why}")));
                }
            }
        }
        let (leader, partitions) = led(&mut client, &name, partitions)?;
        let temporary = target.topic.is_none();
        Ok(Topic { name, leader, partitions, bootstrap: target.bootstrap.clone(), temporary })
    }

    /// Deletes it, if it was made for this run.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn clear(self) -> Result<(), Fault> {
        if !self.temporary {
            return Ok(());
        }
        let request = DeleteTopicsRequest {
            topic_names: vec![self.name.as_str().into()],
            timeout_ms: TIMEOUT_MS,
            ..DeleteTopicsRequest::default()
        };
        let mut client = Client::open(&self.bootstrap)?;
        let _: DeleteTopicsResponse = client.call(DELETE_TOPICS.0, DELETE_TOPICS.1, &request)?;
        Ok(())
    }

    /// The first and the next offset of a partition.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn offsets(&self, client: &mut Client, partition: i32) -> Result<(i64, i64), Fault> {
        let mut at = |timestamp| {
            let partition =
                ListOffsetsPartition { partition_index: partition, timestamp, ..ListOffsetsPartition::default() };
            let topic = ListOffsetsTopic { name: self.name.as_str().into(), partitions: vec![partition] };
            let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..ListOffsetsRequest::default() };
            let answer: ListOffsetsResponse = client.call(LIST_OFFSETS.0, LIST_OFFSETS.1, &request)?;
            let found = answer.topics.first().and_then(|t| t.partitions.first());
            let found = found.ok_or_else(|| Fault::protocol("an answer without the partition asked for"))?;
            check("ask for offsets", found.error_code)?;
            Ok::<i64, Fault>(found.offset)
        };
        Ok((at(-2)?, at(-1)?))
    }
}

/// Who leads the first partition, and which others. Waits until all have a leader.
fn led(client: &mut Client, name: &str, wanted: u32) -> Result<(String, Vec<i32>), Fault> {
    let topic = MetadataRequestTopic { name: Some(name.into()), ..MetadataRequestTopic::default() };
    let request =
        MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: false, ..MetadataRequest::default() };
    let begun = Instant::now();
    loop {
        let answer: MetadataResponse = client.call(METADATA.0, METADATA.1, &request)?;
        let partitions = answer.topics.first().map(|t| &t.partitions[..]).unwrap_or_default();
        let ready = partitions.len() >= wanted as usize && partitions.iter().all(|p| p.leader_id >= 0);
        let leader = partitions.iter().find(|p| p.partition_index == 0).map(|p| p.leader_id);
        let broker = answer.brokers.iter().find(|b| Some(b.node_id) == leader);
        if let (true, Some(broker)) = (ready, broker) {
            let mut led: Vec<i32> =
                partitions.iter().filter(|p| Some(p.leader_id) == leader).map(|p| p.partition_index).collect();
            led.sort_unstable();
            led.truncate(wanted as usize);
            return Ok((format!("{}:{}", broker.host, broker.port), led));
        }
        if begun.elapsed() > ELECTION {
            return Err(Fault::Silent { seconds: ELECTION.as_secs(), doing: "waiting for leaders of the topic" });
        }
        std::thread::sleep(POLL);
    }
}
