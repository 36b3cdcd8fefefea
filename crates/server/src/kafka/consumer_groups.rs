//! Groups of the newer protocol (KIP-848).

use std::collections::BTreeSet;
use std::sync::Arc;

use waypost_broker::topology::{AclOperation, AclResource};
use waypost_kafka::messages::groups::*;
use waypost_kafka::wire::{Malformed, Uuid};
use waypost_model::Lsn;
use waypost_stream::groups::{
    ConsumerGroupView, ConsumerMemberView, Described, GroupFault, HEARTBEAT_INTERVAL_MS, Heartbeat, Parts, Resolved,
    TooLong, Wanted, Who,
};
use waypost_stream::streams::{Topic, TopicId};

use super::portion::Portion;
use super::{Answer, Ask, Session, codes};

/// Longest pattern of topics, bytes.
const PATTERN_BYTES_MAX: usize = 1_024;
/// Most memory that a pattern may take, bytes.
const PATTERN_SIZE_MAX: usize = 1 << 20;
/// The type of a member that came by this protocol.
const CONSUMER: i8 = 1;

impl Session {
    pub(super) fn consumer_group_heartbeat(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: ConsumerGroupHeartbeatRequest = ask.read()?;
        let failed = |(error_code, message): (i16, Option<String>)| ConsumerGroupHeartbeatResponse {
            error_code,
            error_message: message.map(Into::into),
            ..ConsumerGroupHeartbeatResponse::default()
        };
        // What a member is told, a crash must not take back.
        Ok(match self.beat(ask, request) {
            Ok((response, lsn)) => ask.after(lsn, &response),
            Err(error) => ask.now(&failed(error)),
        })
    }

    fn beat(
        &self,
        ask: &Ask<'_>,
        request: ConsumerGroupHeartbeatRequest,
    ) -> Result<(ConsumerGroupHeartbeatResponse, Option<Lsn>), (i16, Option<String>)> {
        let refused = self.group_code(&request.group_id);
        if refused != codes::NONE {
            return Err((refused, None));
        }
        let mut names = request.subscribed_topic_names.iter().flatten();
        if let Some(name) = names.find(|name| !self.may(AclOperation::Describe, name)) {
            return Err((codes::TOPIC_AUTHORIZATION_FAILED, Some(format!("no permission to read `{name}`"))));
        }
        if ask.version > 0 && request.member_id.is_empty() {
            return Err((codes::INVALID_REQUEST, Some("a member has an id of its own from version 1 on".to_owned())));
        }
        let bad_pattern = |e: regex::Error| (codes::INVALID_REGULAR_EXPRESSION, Some(e.to_string()));
        let text = request.subscribed_topic_regex.as_deref().unwrap_or_default();
        if !text.is_empty() {
            pattern(text).map_err(bad_pattern)?;
        }
        let group = request.group_id.clone();
        let beat = heartbeat(ask, request, self.remote);
        let (groups, now) = (&self.node.groups, self.node.clock.now());
        // Topics are looked at before the group is held.
        let version = self.streams().version();
        let wanted = groups.wants(&self.vhost, &group, &beat, version, now);
        let resolved = wanted.map(|wanted| Resolved { version, ..self.resolve(wanted) });
        let beaten = groups.consumer_heartbeat(&self.vhost, &group, beat, resolved, now);
        let beaten = beaten.map_err(|fault: GroupFault| (codes::of_group(fault), Some(fault.to_string())))?;
        let response = ConsumerGroupHeartbeatResponse {
            member_id: Some(beaten.member_id),
            member_epoch: beaten.epoch,
            heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS,
            assignment: beaten.assignment.map(|parts| Box::new(Assignment { topic_partitions: told(parts) })),
            ..ConsumerGroupHeartbeatResponse::default()
        };
        Ok((response, beaten.lsn))
    }

    /// The topics that a group is to know.
    fn resolve(&self, wanted: Wanted) -> Resolved {
        let mut resolved = Resolved::default();
        if !wanted.patterns.is_empty() {
            let all = self.streams().topics(&self.vhost);
            for text in &wanted.patterns {
                // What cannot be read is refused when it comes.
                let Ok(pattern) = pattern(text) else { continue };
                let matching =
                    all.iter().filter(|t| pattern.is_match(&t.name) && self.may(AclOperation::Describe, &t.name));
                let matching: Vec<&Arc<Topic>> = matching.collect();
                resolved.matches.insert(text.clone(), matching.iter().map(|t| Arc::clone(&t.name)).collect());
                resolved.topics.extend(matching.into_iter().map(|t| (Arc::clone(&t.name), known(t))));
            }
        }
        for name in &wanted.names {
            if let Some(topic) = self.topic(name) {
                resolved.topics.insert(Arc::clone(name), known(&topic));
            }
        }
        resolved.wanted = wanted;
        resolved
    }

    pub(super) fn consumer_group_describe(&mut self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: ConsumerGroupDescribeRequest = ask.read()?;
        let mut portion = Portion::new(&self.node.kafka_room);
        let mut one = |name: &str| {
            let failed = |error_code, message: Option<String>| DescribedConsumerGroup {
                error_code,
                error_message: message.map(Into::into),
                group_id: name.into(),
                ..DescribedConsumerGroup::default()
            };
            match (
                self.group_code_for(AclOperation::Describe, name),
                self.node.groups.describe_consumers(&self.vhost, name, portion.left()),
            ) {
                (codes::NONE, Ok(Some(Described { view, bytes }))) => match portion.add(bytes) {
                    Ok(()) => self.described_consumers(name, view),
                    Err(code) => failed(code, None),
                },
                (codes::NONE, Err(TooLong(bytes))) => failed(portion.refusal(bytes), None),
                // Tools that ask for groups of either protocol show these words if there is none.
                (codes::NONE, Ok(None)) => failed(
                    codes::GROUP_ID_NOT_FOUND,
                    Some(format!("there is no group `{name}` with members of the newer protocol")),
                ),
                (refused, _) => failed(refused, None),
            }
        };
        let mut seen = BTreeSet::new();
        let once = request.group_ids.iter().filter(|name| seen.insert(&***name));
        let mut groups: Vec<DescribedConsumerGroup> = once.map(|name| one(name)).collect();
        let held = portion.held();
        if request.include_authorized_operations {
            for group in groups.iter_mut().filter(|g| g.error_code == codes::NONE) {
                group.authorized_operations = self.operations(AclResource::Group, &group.group_id);
            }
        }
        self.held = Some(held);
        Ok(ask.now(&ConsumerGroupDescribeResponse { groups, ..ConsumerGroupDescribeResponse::default() }))
    }

    fn described_consumers(&self, name: &str, view: ConsumerGroupView) -> DescribedConsumerGroup {
        DescribedConsumerGroup {
            group_id: name.into(),
            group_state: view.state.into(),
            group_epoch: view.epoch,
            assignment_epoch: view.target_epoch,
            assignor_name: view.assignor.into(),
            members: view.members.into_iter().map(|m| self.described_member(m)).collect(),
            ..DescribedConsumerGroup::default()
        }
    }

    fn described_member(&self, m: ConsumerMemberView) -> Member {
        Member {
            member_id: m.id,
            instance_id: m.instance,
            rack_id: m.rack,
            member_epoch: m.epoch,
            client_id: m.who.client_id,
            client_host: m.who.host,
            subscribed_topic_names: m.names.iter().map(|n| (**n).into()).collect(),
            subscribed_topic_regex: Some(m.pattern).filter(|p| !p.is_empty()),
            assignment: self.described_parts(m.assigned),
            target_assignment: self.described_parts(m.target),
            member_type: CONSUMER,
        }
    }

    fn described_parts(&self, parts: Parts) -> DescribedAssignment {
        let topic = |(id, partitions): (TopicId, BTreeSet<i32>)| {
            let topic = self.streams().topic_by_id(id)?;
            Some(AssignedTopicPartitions {
                topic_id: Uuid(id.0),
                topic_name: (*topic.name).into(),
                partitions: partitions.into_iter().collect(),
            })
        };
        DescribedAssignment { topic_partitions: parts.into_iter().filter_map(topic).collect() }
    }
}

fn heartbeat(ask: &Ask<'_>, request: ConsumerGroupHeartbeatRequest, remote: std::net::IpAddr) -> Heartbeat {
    let owned = |parts: Vec<TopicPartitions>| {
        let mut owned = Parts::new();
        for topic in parts.into_iter().filter(|t| !t.partitions.is_empty()) {
            owned.entry(TopicId(topic.topic_id.0)).or_default().extend(topic.partitions);
        }
        owned
    };
    let names = request.subscribed_topic_names;
    Heartbeat {
        member_id: request.member_id,
        epoch: request.member_epoch,
        instance: request.instance_id,
        rack: request.rack_id,
        who: Who { client_id: ask.client_id.into(), host: format!("/{remote}").into() },
        rebalance_timeout_ms: u64::try_from(request.rebalance_timeout_ms).ok(),
        names: names.map(|names| names.into_iter().map(Arc::from).collect()),
        // Some clients say with an empty one that they have none.
        pattern: request.subscribed_topic_regex,
        assignor: request.server_assignor,
        owned: request.topic_partitions.map(owned),
    }
}

fn told(parts: Parts) -> Vec<TopicPartitions> {
    let topic = |(id, partitions): (TopicId, BTreeSet<i32>)| TopicPartitions {
        topic_id: Uuid(id.0),
        partitions: partitions.into_iter().collect(),
    };
    parts.into_iter().map(topic).collect()
}

fn known(topic: &Topic) -> (TopicId, u32) {
    (topic.id, u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX))
}

/// A pattern that names match as a whole.
pub(super) fn pattern(text: &str) -> Result<regex::Regex, regex::Error> {
    if text.len() > PATTERN_BYTES_MAX {
        return Err(regex::Error::CompiledTooBig(PATTERN_BYTES_MAX));
    }
    regex::RegexBuilder::new(&format!("^(?:{text})$")).size_limit(PATTERN_SIZE_MAX).build()
}
