//! Offsets that groups have committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use waypost_broker::topology::{Access, AclOperation};
use waypost_kafka::messages::offsets::*;
use waypost_kafka::wire::Malformed;
use waypost_model::Millis;
use waypost_stream::groups::{Committer, NAME_BYTES_MAX};
use waypost_stream::streams::Committed;

use super::portion::Portion;
use super::{Answer, Ask, Session, codes};

/// What an offset takes in an answer beside its topic and metadata, about.
const OFFSET_BYTES: usize = 24;

/// An offset that is to be committed.
pub(super) struct Wanted<'a> {
    pub partition: i32,
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: Option<&'a str>,
}

/// Offsets of a request, with or without a transaction.
pub(super) struct Committing<'a> {
    pub session: &'a Session,
    /// Why none of them is committed; 0 otherwise.
    pub refused: i16,
    pub now: Millis,
    /// For how long they are to be kept, if the client says so, milliseconds.
    pub retention_ms: Option<u64>,
    /// What may be committed, so far.
    pub offsets: Vec<(Arc<str>, i32, Committed)>,
}

impl Committing<'_> {
    /// Looks at a topic's offsets: a code for each partition.
    pub(super) fn topic<'w>(&mut self, name: &str, wanted: impl Iterator<Item = Wanted<'w>>) -> Vec<(i32, i16)> {
        let known = self.session.topic(name);
        let allowed = self.session.may(Access::Read, name);
        let name: Arc<str> = name.into();
        let mut one = |w: Wanted<'_>| {
            let there = known.as_ref().is_some_and(|t| t.partition(w.partition).is_some());
            match () {
                () if self.refused != codes::NONE => return (w.partition, self.refused),
                () if !allowed => return (w.partition, codes::TOPIC_AUTHORIZATION_FAILED),
                () if !there => return (w.partition, codes::UNKNOWN_TOPIC_OR_PARTITION),
                () => {}
            }
            let committed = Committed {
                offset: w.offset,
                leader_epoch: w.leader_epoch,
                metadata: w.metadata.unwrap_or_default().into(),
                at: self.now,
                ends: self.retention_ms.map(|ms| Millis(self.now.0.saturating_add(ms))),
            };
            self.offsets.push((Arc::clone(&name), w.partition, committed));
            (w.partition, codes::NONE)
        };
        wanted.map(&mut one).collect()
    }
}

impl Session {
    pub(super) fn group_code(&self, group: &str) -> i16 {
        self.group_code_for(AclOperation::Read, group)
    }

    pub(super) fn group_code_for(&self, operation: AclOperation, group: &str) -> i16 {
        if group.is_empty() || group.len() > NAME_BYTES_MAX {
            codes::INVALID_GROUP_ID
        } else if self.may_group(operation, group) {
            codes::NONE
        } else {
            codes::GROUP_AUTHORIZATION_FAILED
        }
    }

    pub(super) fn offset_commit(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: OffsetCommitRequest = ask.read()?;
        let mut refused = self.group_code(&request.group_id);
        let (now, mut committer) = (self.node.clock.now(), Committer::Standalone);
        if refused == codes::NONE {
            let (member, instance) = (&*request.member_id, request.group_instance_id.as_deref());
            let generation = request.generation_id_or_member_epoch;
            let groups = &self.node.groups;
            let may = groups.may_commit(&self.vhost, &request.group_id, member, instance, generation, now);
            match may {
                Ok(who) => committer = who,
                Err(fault) => refused = codes::of_group(fault),
            }
        }
        // Versions that can say it say -1 for the node's own time.
        let retention_ms = u64::try_from(request.retention_time_ms).ok();
        let mut committing = Committing { session: self, refused, now, retention_ms, offsets: Vec::new() };
        let mut topics = Vec::new();
        for topic in &request.topics {
            let wanted = topic.partitions.iter().map(|p| Wanted {
                partition: p.partition_index,
                offset: p.committed_offset,
                leader_epoch: p.committed_leader_epoch,
                metadata: p.committed_metadata.as_deref(),
            });
            let codes = committing.topic(&topic.name, wanted).into_iter();
            let answer = |(partition_index, error_code)| OffsetCommitResponsePartition { partition_index, error_code };
            let partitions = codes.map(answer).collect();
            topics.push(OffsetCommitResponseTopic { name: topic.name.clone(), partitions, ..Default::default() });
        }
        let offsets = committing.offsets;
        let lsn = match self.streams().commit(&self.vhost, &request.group_id, offsets, committer) {
            Ok(lsn) => lsn,
            Err(fault) => {
                let code = codes::of_offsets(&fault);
                let all = topics.iter_mut().flat_map(|t| &mut t.partitions);
                all.filter(|p| p.error_code == codes::NONE).for_each(|p| p.error_code = code);
                None
            }
        };
        Ok(ask.after(lsn, &OffsetCommitResponse { topics, ..OffsetCommitResponse::default() }))
    }

    pub(super) fn offset_fetch(&mut self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: OffsetFetchRequest = ask.read()?;
        if ask.version >= 8 {
            // Each group and each partition once: what was committed beside them may be a thousand times as long.
            let mut seen = BTreeSet::new();
            let once = request.groups.iter().filter(|g| seen.insert(&*g.group_id));
            let mut portion = Portion::new(&self.node.kafka_room);
            let groups = once.map(|g| self.fetch_group(g, request.require_stable, &mut portion)).collect();
            self.held = Some(portion.held());
            let lsn = self.streams().offsets_lsn();
            return Ok(ask.after(lsn, &OffsetFetchResponse { groups, ..OffsetFetchResponse::default() }));
        }
        let as_new = |t: OffsetFetchRequestTopic| OffsetFetchRequestTopics {
            name: t.name,
            partition_indexes: t.partition_indexes,
        };
        let group = OffsetFetchRequestGroup {
            group_id: request.group_id,
            topics: request.topics.map(|topics| topics.into_iter().map(as_new).collect()),
            ..OffsetFetchRequestGroup::default()
        };
        let mut portion = Portion::new(&self.node.kafka_room);
        let found = self.fetch_group(&group, request.require_stable, &mut portion);
        self.held = Some(portion.held());
        let as_old = |p: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
            partition_index: p.partition_index,
            committed_offset: p.committed_offset,
            committed_leader_epoch: p.committed_leader_epoch,
            metadata: p.metadata,
            error_code: p.error_code,
        };
        let topics = found.topics.into_iter().map(|t| OffsetFetchResponseTopic {
            name: t.name,
            partitions: t.partitions.into_iter().map(as_old).collect(),
        });
        let topics = topics.collect();
        let response = OffsetFetchResponse { topics, error_code: found.error_code, ..OffsetFetchResponse::default() };
        Ok(ask.after(self.streams().offsets_lsn(), &response))
    }

    /// `stable`: not what a transaction that is open may change.
    fn fetch_group(
        &self,
        group: &OffsetFetchRequestGroup,
        stable: bool,
        portion: &mut Portion,
    ) -> OffsetFetchResponseGroup {
        let mut answer = OffsetFetchResponseGroup {
            group_id: group.group_id.clone(),
            error_code: self.group_code_for(AclOperation::Describe, &group.group_id),
            ..OffsetFetchResponseGroup::default()
        };
        if answer.error_code == codes::NONE {
            let (member, epoch) = (group.member_id.as_deref(), group.member_epoch);
            let may = self.node.groups.may_fetch(&self.vhost, &group.group_id, member, epoch);
            answer.error_code = may.err().map_or(codes::NONE, codes::of_group);
        }
        if answer.error_code != codes::NONE {
            return answer;
        }
        let wanted = match &group.topics {
            Some(topics) => {
                let mut seen = BTreeSet::new();
                let all = topics.iter().flat_map(|t| t.partition_indexes.iter().map(|p| (&*t.name, *p)));
                all.filter(|one| seen.insert(*one)).collect()
            }
            None => Vec::new(),
        };
        let found: Vec<(Arc<str>, i32, Option<Committed>)> = match &group.topics {
            Some(_) => {
                let of = |topic: &str, p| self.streams().committed(&self.vhost, &group.group_id, topic, p);
                wanted.into_iter().map(|(topic, p)| (Arc::from(topic), p, of(topic, p))).collect()
            }
            None => self.all_of_group(&group.group_id, stable),
        };
        let bytes = |topic: &str, c: &Option<Committed>| {
            OFFSET_BYTES + topic.len() + c.as_ref().map_or(0, |c| c.metadata.len())
        };
        let bytes = found.iter().map(|(topic, _, c)| bytes(topic, c)).sum::<usize>();
        if let Err(code) = portion.add_whole(group.group_id.len() + bytes) {
            answer.error_code = code;
            return answer;
        }
        for (topic, number, committed) in found {
            let unstable = stable && self.streams().is_unstable(&self.vhost, &group.group_id, &topic, number);
            let partition = match self.may(AclOperation::Describe, &topic) {
                // What was not asked for by its name is not there for those who may not see it.
                false if group.topics.is_none() => continue,
                false => no_offset(number, codes::TOPIC_AUTHORIZATION_FAILED),
                true if unstable => no_offset(number, codes::UNSTABLE_OFFSET_COMMIT),
                true => shown(number, committed),
            };
            match answer.topics.last_mut().filter(|t| *t.name == *topic) {
                Some(known) => known.partitions.push(partition),
                None => answer.topics.push(OffsetFetchResponseTopics {
                    name: (*topic).into(),
                    partitions: vec![partition],
                    ..Default::default()
                }),
            }
        }
        answer
    }

    /// Everything that a group has committed; `pending`: or is about to.
    fn all_of_group(&self, group: &str, pending: bool) -> Vec<(Arc<str>, i32, Option<Committed>)> {
        let all = self.streams().all_committed(&self.vhost, group).into_iter();
        let mut all: std::collections::BTreeMap<_, _> = all.map(|(t, p, c)| ((t, p), Some(c))).collect();
        for key in self.streams().unstable(&self.vhost, group).into_iter().filter(|_| pending) {
            all.entry(key).or_insert(None);
        }
        all.into_iter().map(|((topic, partition), committed)| (topic, partition, committed)).collect()
    }

    pub(super) fn offset_delete(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: OffsetDeleteRequest = ask.read()?;
        let group = &*request.group_id;
        let mut error_code = self.group_code_for(AclOperation::Delete, group);
        let has_members = self.node.groups.has_members(&self.vhost, group);
        if error_code == codes::NONE && !has_members && !self.streams().has_committed(&self.vhost, group) {
            error_code = codes::GROUP_ID_NOT_FOUND;
        }
        if error_code != codes::NONE {
            return Ok(ask.now(&OffsetDeleteResponse { error_code, ..OffsetDeleteResponse::default() }));
        }
        let names: BTreeSet<Arc<str>> = request.topics.iter().map(|t| Arc::from(&*t.name)).collect();
        let unread = self.node.groups.unread(&self.vhost, group, names);
        let named: Vec<(&OffsetDeleteRequestTopic, i16)> =
            request.topics.iter().map(|t| (t, self.delete_code(&t.name, &unread))).collect();
        let goes = named.iter().filter(|(_, code)| *code == codes::NONE).flat_map(|(t, _)| {
            let topic: Arc<str> = Arc::from(&*t.name);
            t.partitions.iter().map(move |p| (Arc::clone(&topic), p.partition_index))
        });
        let goes: Vec<(Arc<str>, i32)> = goes.collect();
        let (fault, lsn) = match self.streams().forget_offsets(&self.vhost, group, Some(&goes)) {
            Ok(lsn) => (codes::NONE, lsn),
            Err(fault) => (codes::of_offsets(&fault), None),
        };
        let topics = named.into_iter().map(|(t, code)| {
            let error_code = if code == codes::NONE { fault } else { code };
            let one = |p: &OffsetDeleteRequestPartition| OffsetDeleteResponsePartition {
                partition_index: p.partition_index,
                error_code,
            };
            OffsetDeleteResponseTopic { name: t.name.clone(), partitions: t.partitions.iter().map(one).collect() }
        });
        let topics = topics.collect();
        Ok(ask.after(lsn, &OffsetDeleteResponse { topics, ..OffsetDeleteResponse::default() }))
    }

    /// Why a group's offsets in a topic are not deleted; `unread`: the topics that no member of it reads.
    fn delete_code(&self, topic: &str, unread: &BTreeSet<Arc<str>>) -> i16 {
        match () {
            () if !self.may(Access::Read, topic) => codes::TOPIC_AUTHORIZATION_FAILED,
            () if self.topic(topic).is_none() => codes::UNKNOWN_TOPIC_OR_PARTITION,
            () if !unread.contains(topic) => codes::GROUP_SUBSCRIBED_TO_TOPIC,
            () => codes::NONE,
        }
    }
}

fn shown(partition_index: i32, committed: Option<Committed>) -> OffsetFetchResponsePartitions {
    match committed {
        Some(c) => OffsetFetchResponsePartitions {
            partition_index,
            committed_offset: c.offset,
            committed_leader_epoch: c.leader_epoch,
            metadata: Some(c.metadata),
            error_code: codes::NONE,
        },
        None => OffsetFetchResponsePartitions { partition_index, committed_offset: -1, ..Default::default() },
    }
}

fn no_offset(partition_index: i32, error_code: i16) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions { partition_index, committed_offset: -1, error_code, ..Default::default() }
}
