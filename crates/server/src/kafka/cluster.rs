//! What there is: versions, brokers, topics, log directories.

use std::collections::{BTreeMap, BTreeSet};

use waypost_broker::topology::{AclOperation, AclResource};
use waypost_kafka::apis::APIS;
use waypost_kafka::messages::cluster::*;
use waypost_kafka::wire::{Malformed, Message, Uuid};
use waypost_model::Lsn;
use waypost_stream::config::TopicConfig;
use waypost_stream::streams::{Topic, TopicFault, TopicId, partitions_or};

use super::{ANSWERED, Answer, Ask, LEADER_EPOCH, NODE_ID, Session, codes};

/// The cluster's id.
const CLUSTER_ID: &str = "waypost";

fn all_versions(error_code: i16) -> ApiVersionsResponse {
    let api_keys = APIS.iter().filter(|api| ANSWERED.contains(&api.key));
    let api_keys = api_keys.map(|api| ApiVersion { api_key: api.key, min_version: api.min, max_version: api.max });
    ApiVersionsResponse { error_code, api_keys: api_keys.collect(), ..ApiVersionsResponse::default() }
}

/// What is spoken.
pub(super) fn versions(ask: &Ask<'_>) -> Answer {
    match ask.read::<ApiVersionsRequest>() {
        Ok(_) => ask.now(&all_versions(codes::NONE)),
        Err(_) => ask.now(&all_versions(codes::INVALID_REQUEST)),
    }
}

/// The answer to a version of the question that we do not know: in the oldest form, with what we know.
pub(super) fn other_versions(ask: &Ask<'_>) -> Answer {
    let mut out = ask.head();
    all_versions(codes::UNSUPPORTED_VERSION).encode(&mut out, 0);
    Answer::Now(vec![out.into()])
}

pub(super) fn uuid(id: TopicId) -> Uuid {
    Uuid(id.0)
}

impl Session {
    pub(super) fn metadata(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: MetadataRequest = ask.read()?;
        // Version 0 has no null: there nothing means everything.
        let wanted = request.topics.filter(|topics| ask.version > 0 || !topics.is_empty());
        let mut lsn = None;
        let topics = match wanted {
            None => {
                let all = self.streams().topics(&self.vhost);
                all.iter()
                    .filter(|t| self.may(AclOperation::Describe, &t.name))
                    .map(|t| self.topic_metadata(t))
                    .collect()
            }
            Some(wanted) => {
                // Each is told once, however often it is asked for: what is told may be a thousand times as long.
                let mut seen = BTreeSet::new();
                let once = wanted.into_iter().filter(|t| seen.insert((t.topic_id, t.name.clone())));
                once.map(|t| self.wanted_topic(t, request.allow_auto_topic_creation, &mut lsn)).collect()
            }
        };
        let mut topics: Vec<MetadataResponseTopic> = topics;
        if request.include_topic_authorized_operations {
            for topic in topics.iter_mut().filter(|t| t.error_code == codes::NONE) {
                let name = topic.name.as_deref().unwrap_or_default();
                topic.topic_authorized_operations = self.operations(AclResource::Topic, name);
            }
        }
        let asked = request.include_cluster_authorized_operations;
        let response = MetadataResponse {
            brokers: vec![MetadataResponseBroker {
                node_id: NODE_ID,
                host: self.host.clone(),
                port: self.port,
                rack: None,
            }],
            cluster_id: Some(CLUSTER_ID.into()),
            controller_id: NODE_ID,
            cluster_authorized_operations: if asked { self.cluster_operations() } else { i32::MIN },
            topics,
            ..MetadataResponse::default()
        };
        Ok(ask.after(lsn, &response))
    }

    fn wanted_topic(&self, wanted: MetadataRequestTopic, create: bool, lsn: &mut Option<Lsn>) -> MetadataResponseTopic {
        let failed = |error_code, name: Option<Box<str>>| MetadataResponseTopic {
            error_code,
            name,
            topic_id: wanted.topic_id,
            ..MetadataResponseTopic::default()
        };
        let Some(name) = wanted.name.filter(|name| !name.is_empty() || wanted.topic_id == Uuid::ZERO) else {
            return match self.streams().topic_by_id(TopicId(wanted.topic_id.0)) {
                Some(topic) if self.may(AclOperation::Describe, &topic.name) => self.topic_metadata(&topic),
                _ => failed(codes::UNKNOWN_TOPIC_ID, None),
            };
        };
        if !self.may(AclOperation::Describe, &name) {
            return failed(codes::TOPIC_AUTHORIZATION_FAILED, Some(name));
        }
        if let Some(topic) = self.topic(&name) {
            return self.topic_metadata(&topic);
        }
        if !create || !self.node.config.kafka.auto_create_topics || !self.may_create(&name) {
            return failed(codes::of_no_topic(&name), Some(name));
        }
        let partitions = partitions_or(self.node.config.kafka.default_partitions, &name);
        match self.streams().create(&self.vhost, &name, partitions, TopicConfig::default()) {
            Ok((topic, made)) => {
                *lsn = (*lsn).max(Some(made));
                self.topic_metadata(&topic)
            }
            // Somebody else was faster.
            Err(TopicFault::Exists(_)) => match self.topic(&name) {
                Some(topic) => self.topic_metadata(&topic),
                None => failed(codes::UNKNOWN_TOPIC_OR_PARTITION, Some(name)),
            },
            Err(fault) => failed(codes::of_topic(&fault), Some(name)),
        }
    }

    fn topic_metadata(&self, topic: &Topic) -> MetadataResponseTopic {
        let partition = |number: usize| MetadataResponsePartition {
            partition_index: i32::try_from(number).unwrap_or(i32::MAX),
            leader_id: NODE_ID,
            leader_epoch: LEADER_EPOCH,
            replica_nodes: vec![NODE_ID],
            isr_nodes: vec![NODE_ID],
            ..MetadataResponsePartition::default()
        };
        MetadataResponseTopic {
            name: Some((*topic.name).into()),
            topic_id: uuid(topic.id),
            partitions: (0..topic.partitions().len()).map(partition).collect(),
            ..MetadataResponseTopic::default()
        }
    }

    pub(super) fn describe_cluster(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DescribeClusterRequest = ask.read()?;
        let broker = DescribeClusterBroker {
            broker_id: NODE_ID,
            host: self.host.clone(),
            port: self.port,
            ..DescribeClusterBroker::default()
        };
        Ok(ask.now(&DescribeClusterResponse {
            endpoint_type: request.endpoint_type,
            cluster_id: CLUSTER_ID.into(),
            controller_id: NODE_ID,
            cluster_authorized_operations: if request.include_cluster_authorized_operations {
                self.cluster_operations()
            } else {
                i32::MIN
            },
            brokers: vec![broker],
            ..DescribeClusterResponse::default()
        }))
    }

    pub(super) fn describe_log_dirs(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DescribeLogDirsRequest = ask.read()?;
        if !self.may_cluster(AclOperation::Describe) {
            let error_code = codes::CLUSTER_AUTHORIZATION_FAILED;
            return Ok(ask.now(&DescribeLogDirsResponse { error_code, ..DescribeLogDirsResponse::default() }));
        }
        let topics = self.streams().topics(&self.vhost);
        let named = request.topics.map(|topics| {
            let mut named: BTreeMap<Box<str>, BTreeSet<i32>> = BTreeMap::new();
            for topic in topics {
                named.entry(topic.topic).or_default().extend(topic.partitions);
            }
            named
        });
        let wanted = |topic: &Topic, number: i32| match &named {
            None => true,
            Some(named) => named.get(&*topic.name).is_some_and(|numbers| numbers.contains(&number)),
        };
        let described = |topic: &Topic| {
            let numbered = topic.partitions().iter().cloned().zip(0_i32..).collect::<Vec<_>>();
            let wanted = numbered.into_iter().filter(|(_, number)| wanted(topic, *number));
            let partitions = wanted.map(|(cell, partition_index)| DescribeLogDirsPartition {
                partition_index,
                partition_size: i64::try_from(cell.with(|p| p.bytes())).unwrap_or(i64::MAX),
                ..DescribeLogDirsPartition::default()
            });
            DescribeLogDirsTopic { name: (*topic.name).into(), partitions: partitions.collect() }
        };
        let topics = topics.iter().map(|t| described(t));
        let dir = self.node.config.server.data_dir.to_string_lossy();
        let free = self.node.gauges.disk_free.load(std::sync::atomic::Ordering::Relaxed);
        let result = DescribeLogDirsResult {
            log_dir: (*dir).into(),
            topics: topics.filter(|t| !t.partitions.is_empty()).collect(),
            usable_bytes: i64::try_from(free).unwrap_or(i64::MAX),
            ..DescribeLogDirsResult::default()
        };
        Ok(ask.now(&DescribeLogDirsResponse { results: vec![result], ..DescribeLogDirsResponse::default() }))
    }
}
