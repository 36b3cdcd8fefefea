//! Who leads a partition, and where its replicas are. There is one node and one replica, so there is nothing to change; tools
//! that look after both are told so in the words that they know.

use std::collections::{BTreeMap, BTreeSet};

use waypost_broker::topology::AclOperation;
use waypost_kafka::messages::cluster::*;
use waypost_kafka::wire::Malformed;

use super::{Answer, Ask, NODE_ID, Session, codes};

/// Kinds of elections: of the preferred replica, and of any.
const ELECTIONS: std::ops::RangeInclusive<i8> = 0..=1;

/// What is said of a partition.
type Said = (i16, Option<&'static str>);

impl Session {
    pub(super) fn elect_leaders(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: ElectLeadersRequest = ask.read()?;
        let mut response = ElectLeadersResponse::default();
        if !self.may_cluster(AclOperation::Alter) {
            response.error_code = codes::CLUSTER_AUTHORIZATION_FAILED;
            return Ok(ask.now(&response));
        }
        let mut named: BTreeMap<Box<str>, BTreeSet<i32>> = BTreeMap::new();
        // Who asks for all hears of those only whose leader has changed.
        for topic in request.topic_partitions.into_iter().flatten() {
            named.entry(topic.topic).or_default().extend(topic.partitions);
        }
        let elected = if ELECTIONS.contains(&request.election_type) {
            (codes::ELECTION_NOT_NEEDED, Some("the only replica leads already"))
        } else {
            (codes::INVALID_REQUEST, Some("there is no such kind of election"))
        };
        let results = named.into_iter().map(|(topic, partitions)| {
            let partition_result = partitions.into_iter().map(|partition_id| {
                let (error_code, message) = self.of_partition(&topic, partition_id, elected);
                PartitionResult { partition_id, error_code, error_message: message.map(Into::into) }
            });
            ReplicaElectionResult { partition_result: partition_result.collect(), topic }
        });
        response.replica_election_results = results.collect();
        Ok(ask.now(&response))
    }

    pub(super) fn alter_reassignments(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: AlterPartitionReassignmentsRequest = ask.read()?;
        let mut response = AlterPartitionReassignmentsResponse {
            allow_replication_factor_change: request.allow_replication_factor_change,
            error_message: None,
            ..AlterPartitionReassignmentsResponse::default()
        };
        if !self.may_cluster(AclOperation::Alter) {
            response.error_code = codes::CLUSTER_AUTHORIZATION_FAILED;
            return Ok(ask.now(&response));
        }
        let mut wanted: BTreeMap<Box<str>, BTreeMap<i32, Said>> = BTreeMap::new();
        for topic in request.topics {
            let partitions = topic.partitions.into_iter().map(|p| (p.partition_index, placed(p.replicas.as_deref())));
            wanted.entry(topic.name).or_default().extend(partitions);
        }
        let responses = wanted.into_iter().map(|(name, partitions)| {
            let partitions = partitions.into_iter().map(|(partition_index, placed)| {
                let (error_code, message) = self.of_partition(&name, partition_index, placed);
                let error_message = message.map(Into::into);
                ReassignablePartitionResponse { partition_index, error_code, error_message }
            });
            ReassignableTopicResponse { partitions: partitions.collect(), name }
        });
        response.responses = responses.collect();
        Ok(ask.now(&response))
    }

    /// None is under way, ever.
    pub(super) fn list_reassignments(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let _: ListPartitionReassignmentsRequest = ask.read()?;
        let may = self.may_cluster(AclOperation::Describe);
        Ok(ask.now(&ListPartitionReassignmentsResponse {
            error_code: if may { codes::NONE } else { codes::CLUSTER_AUTHORIZATION_FAILED },
            error_message: None,
            ..ListPartitionReassignmentsResponse::default()
        }))
    }

    /// `otherwise`, if there is such a partition.
    fn of_partition(&self, topic: &str, number: i32, otherwise: Said) -> Said {
        match self.topic(topic).filter(|t| t.partition(number).is_some()) {
            Some(_) => otherwise,
            None => (codes::of_no_topic(topic), Some("there is no such partition")),
        }
    }
}

/// What is said of a partition whose replicas are to be on these nodes; without any, what was under way is to be dropped.
fn placed(replicas: Option<&[i32]>) -> Said {
    match replicas {
        Some([NODE_ID]) => (codes::NONE, None),
        Some(_) => (codes::INVALID_REPLICA_ASSIGNMENT, Some("this node is the only one")),
        None => (codes::NO_REASSIGNMENT_IN_PROGRESS, Some("no replica is on its way")),
    }
}
