//! Topics made, removed, extended.

use std::collections::BTreeMap;

use waypost_broker::topology::AclOperation;
use waypost_kafka::messages::topics::*;
use waypost_kafka::wire::{Malformed, Uuid};
use waypost_model::Lsn;
use waypost_stream::config::{SETTINGS, TopicConfig};
use waypost_stream::streams::{Topic, TopicFault, TopicId, check_partitions, is_topic_name, partitions_or};

use super::cluster::uuid;
use super::configs::source_of;
use super::{Answer, Ask, NODE_ID, Session, codes};

/// Why something was not done: code and words.
type Refused = (i16, String);

fn refused(fault: &TopicFault) -> Refused {
    (codes::of_topic(fault), fault.to_string())
}

impl Session {
    pub(super) fn create_topics(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: CreateTopicsRequest = ask.read()?;
        let mut lsn = None;
        let (mut topics, mut times) = (Vec::new(), BTreeMap::new());
        for topic in &request.topics {
            *times.entry(&*topic.name).or_insert(0_u32) += 1;
        }
        for topic in &request.topics {
            let twice = times.get(&*topic.name).is_some_and(|times| *times > 1);
            let made = if twice {
                Err((codes::INVALID_REQUEST, "the topic is named twice".to_owned()))
            } else {
                self.create_topic(topic, request.validate_only, &mut lsn)
            };
            topics.push(match made {
                Ok(result) => result,
                Err((error_code, message)) => CreatableTopicResult {
                    name: topic.name.clone(),
                    error_code,
                    error_message: Some(message.into()),
                    ..CreatableTopicResult::default()
                },
            });
        }
        Ok(ask.after(lsn, &CreateTopicsResponse { topics, ..CreateTopicsResponse::default() }))
    }

    fn create_topic(
        &self,
        topic: &CreatableTopic,
        only_check: bool,
        lsn: &mut Option<Lsn>,
    ) -> Result<CreatableTopicResult, Refused> {
        if !self.may_create(&topic.name) {
            return Err((codes::TOPIC_AUTHORIZATION_FAILED, "not permitted".to_owned()));
        }
        if !matches!(topic.replication_factor, -1 | 1) {
            return Err((codes::INVALID_REPLICATION_FACTOR, "this node is the only one: factor 1 or -1".to_owned()));
        }
        let partitions = match (topic.num_partitions, topic.assignments.len()) {
            (-1, 0) => partitions_or(self.node.config.kafka.default_partitions, &topic.name),
            (-1, assigned) => {
                let ours = |a: &CreatableReplicaAssignment| a.broker_ids == [NODE_ID];
                let numbers: std::collections::BTreeSet<i32> =
                    topic.assignments.iter().map(|a| a.partition_index).collect();
                let in_a_row = numbers.iter().copied().eq(0..i32::try_from(assigned).unwrap_or(i32::MAX));
                if !topic.assignments.iter().all(ours) || !in_a_row {
                    let why = "partitions from 0 on, each on broker 0".to_owned();
                    return Err((codes::INVALID_REPLICA_ASSIGNMENT, why));
                }
                u32::try_from(assigned).unwrap_or(u32::MAX)
            }
            (n, 0) => u32::try_from(n).unwrap_or(0),
            _ => return Err((codes::INVALID_REQUEST, "either a count of partitions or assignments".to_owned())),
        };
        let settings = topic.configs.iter().filter_map(|c| Some((&*c.name, c.value.as_deref()?)));
        let config = TopicConfig::parse(settings).map_err(|e| refused(&e.into()))?;
        if only_check {
            if !is_topic_name(&topic.name) {
                return Err(refused(&TopicFault::Name(topic.name.clone())));
            }
            if self.topic(&topic.name).is_some() {
                return Err(refused(&TopicFault::Exists(topic.name.clone())));
            }
            check_partitions(&topic.name, partitions).map_err(|e| refused(&e))?;
            return Ok(created(&topic.name, Uuid::ZERO, partitions, &config));
        }
        let made = self.streams().create(&self.vhost, &topic.name, partitions, config.clone());
        let (made, written) = made.map_err(|e| refused(&e))?;
        *lsn = (*lsn).max(Some(written));
        Ok(created(&topic.name, uuid(made.id), partitions, &config))
    }

    pub(super) fn delete_topics(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DeleteTopicsRequest = ask.read()?;
        let by_name =
            request.topic_names.into_iter().map(|name| DeleteTopicState { name: Some(name), ..Default::default() });
        let mut lsn = None;
        let mut responses = Vec::new();
        for wanted in by_name.chain(request.topics) {
            let found: Option<std::sync::Arc<Topic>> = match &wanted.name {
                Some(name) => self.topic(name),
                None => self.streams().topic_by_id(TopicId(wanted.topic_id.0)),
            };
            let name = found.as_ref().map(|t| Box::from(&*t.name)).or(wanted.name.clone());
            let done = match &name {
                None => Err((codes::UNKNOWN_TOPIC_ID, "no topic has this id".to_owned())),
                Some(name) if !self.may(AclOperation::Delete, name) => {
                    Err((codes::TOPIC_AUTHORIZATION_FAILED, "not permitted".to_owned()))
                }
                Some(name) => self.delete_topic(name, found.as_deref()),
            };
            let (error_code, error_message) = match done {
                Ok(written) => {
                    lsn = lsn.max(Some(written));
                    (codes::NONE, None)
                }
                Err((code, message)) => (code, Some(message.into())),
            };
            let topic_id = found.map_or(wanted.topic_id, |t| uuid(t.id));
            responses.push(DeletableTopicResult { name, topic_id, error_code, error_message });
        }
        Ok(ask.after(lsn, &DeleteTopicsResponse { responses, ..DeleteTopicsResponse::default() }))
    }

    /// Deletes a topic, and the queue that it is to others.
    fn delete_topic(&self, name: &str, found: Option<&Topic>) -> Result<Lsn, Refused> {
        let queue = found.and_then(|t| t.partition(0)).map(|cell| cell.queue());
        let written = self.streams().delete(&self.vhost, name).map_err(|e| refused(&e))?;
        let gone = queue.and_then(|queue| self.node.broker.stream_gone(queue, self.node.clock.now()));
        Ok(gone.map_or(written, |lsn| lsn.max(written)))
    }

    pub(super) fn create_partitions(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: CreatePartitionsRequest = ask.read()?;
        let mut lsn = None;
        let mut results = Vec::new();
        for topic in &request.topics {
            let done = self.grow(topic, request.validate_only, &mut lsn);
            let (error_code, error_message) = match done {
                Ok(()) => (codes::NONE, None),
                Err((code, message)) => (code, Some(message.into())),
            };
            results.push(CreatePartitionsTopicResult { name: topic.name.clone(), error_code, error_message });
        }
        Ok(ask.after(lsn, &CreatePartitionsResponse { results, ..CreatePartitionsResponse::default() }))
    }

    fn grow(&self, topic: &CreatePartitionsTopic, only_check: bool, lsn: &mut Option<Lsn>) -> Result<(), Refused> {
        if !self.may(AclOperation::Alter, &topic.name) {
            return Err((codes::TOPIC_AUTHORIZATION_FAILED, "not permitted".to_owned()));
        }
        let elsewhere = |a: &CreatePartitionsAssignment| a.broker_ids != [NODE_ID];
        if topic.assignments.iter().flatten().any(elsewhere) {
            return Err((codes::INVALID_REPLICA_ASSIGNMENT, "each on broker 0".to_owned()));
        }
        let count = u32::try_from(topic.count).unwrap_or(0);
        if only_check {
            let known = self.topic(&topic.name).ok_or_else(|| refused(&TopicFault::Unknown(topic.name.clone())))?;
            check_partitions(&topic.name, count).map_err(|e| refused(&e))?;
            if (count as usize) <= known.partitions().len() {
                return Err(refused(&TopicFault::Partitions { asked: count, why: "the topic has as many or more" }));
            }
            return Ok(());
        }
        let written = self.streams().grow(&self.vhost, &topic.name, count).map_err(|e| refused(&e))?;
        *lsn = (*lsn).max(Some(written));
        Ok(())
    }
}

fn created(name: &str, topic_id: Uuid, partitions: u32, config: &TopicConfig) -> CreatableTopicResult {
    let shown = SETTINGS.iter().map(|setting| {
        let (value, set) = config.value(setting);
        CreatableTopicConfigs {
            name: setting.name.into(),
            value: Some(value.into()),
            config_source: source_of(set),
            ..CreatableTopicConfigs::default()
        }
    });
    CreatableTopicResult {
        name: name.into(),
        topic_id,
        error_message: None,
        num_partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
        replication_factor: 1,
        configs: Some(shown.collect()),
        ..CreatableTopicResult::default()
    }
}
