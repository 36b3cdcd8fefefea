//! Transactions: what producers say to their coordinator, and what administrators ask it.

use std::collections::BTreeSet;
use std::sync::Arc;

use waypost_broker::topology::{Access, AclOperation, AclResource};
use waypost_kafka::messages::transactions::*;
use waypost_kafka::wire::Malformed;
use waypost_model::{Lsn, QueueId};
use waypost_stream::groups::Committer;
use waypost_stream::partition::Marker;
use waypost_stream::transactions::{Phase, Producer, TransactionFault, TransactionView};

use super::consumer_groups::pattern;
use super::offsets::{Committing, Wanted};
use super::portion::{Portion, WHOLE_BYTES_MAX};
use super::{Answer, Ask, Session, codes};

/// From this version on producers tell one that has been replaced from one that was too slow.
const INIT_TELLS_FENCED_SINCE: i16 = 4;
/// The same for everything else that they say.
const TELLS_FENCED_SINCE: i16 = 2;

/// The code for a fault; who was replaced hears of it in the words that its version knows.
fn code(fault: TransactionFault, tells_fenced: bool) -> i16 {
    match codes::of_transaction(fault) {
        codes::PRODUCER_FENCED if !tells_fenced => codes::INVALID_PRODUCER_EPOCH,
        code => code,
    }
}

impl Session {
    /// Why the peer may not use a transactional id, if it may not.
    pub(super) fn transactional_id_code(&self, operation: impl Into<AclOperation>, id: &str) -> i16 {
        if self.may_do(AclResource::TransactionalId, operation.into(), id) {
            codes::NONE
        } else {
            codes::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        }
    }

    pub(super) fn init_producer_id(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: InitProducerIdRequest = ask.read()?;
        let failed = |error_code| {
            let none = InitProducerIdResponse { producer_epoch: -1, ..InitProducerIdResponse::default() };
            Ok(ask.now(&InitProducerIdResponse { error_code, ..none }))
        };
        let initialised = match &request.transactional_id {
            None => match self.streams().new_producer_id() {
                Ok((id, lsn)) => Ok((Producer { id, epoch: 0 }, lsn)),
                Err(_) => return failed(codes::KAFKA_STORAGE_ERROR),
            },
            Some(id) => {
                let refused = self.transactional_id_code(Access::Write, id);
                if refused != codes::NONE {
                    return failed(refused);
                }
                let known = match (request.producer_id, request.producer_epoch) {
                    (-1, -1) => None,
                    (id, epoch) if id >= 0 && epoch >= 0 => Some(Producer { id, epoch }),
                    _ => return failed(codes::INVALID_REQUEST),
                };
                let now = self.node.clock.now();
                self.streams().init_producer(&self.vhost, id, request.transaction_timeout_ms, known, now)
            }
        };
        match initialised {
            Ok((Producer { id: producer_id, epoch: producer_epoch }, lsn)) => {
                let answer = InitProducerIdResponse { producer_id, producer_epoch, ..Default::default() };
                Ok(ask.after(lsn, &answer))
            }
            // It cannot end what is open under this id now, and tries again as for one that is about to end.
            Err(TransactionFault::Journal(_)) => failed(codes::CONCURRENT_TRANSACTIONS),
            Err(fault) => failed(code(fault, ask.version >= INIT_TELLS_FENCED_SINCE)),
        }
    }

    pub(super) fn add_partitions_to_txn(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: AddPartitionsToTxnRequest = ask.read()?;
        let id = &*request.v3_and_below_transactional_id;
        let producer = Producer { id: request.v3_and_below_producer_id, epoch: request.v3_and_below_producer_epoch };
        let (mut parts, mut results, mut bad) = (Vec::new(), Vec::new(), false);
        for topic in &request.v3_and_below_topics {
            let found = self.transaction_topic(topic);
            bad |= found.iter().any(|(_, queue)| queue.is_err());
            let name: Arc<str> = Arc::from(&*topic.name);
            parts.extend(found.iter().filter_map(|(n, queue)| Some((Arc::clone(&name), *n, queue.ok()?))));
            results.push((topic.name.clone(), found));
        }
        let (mut all, mut lsn) = (self.transactional_id_code(Access::Write, id), None);
        if all == codes::NONE && bad {
            // None is added unless all can be.
            all = codes::OPERATION_NOT_ATTEMPTED;
        } else if all == codes::NONE {
            match self.streams().add_partitions(&self.vhost, id, producer, &parts, self.node.clock.now()) {
                Ok(written) => lsn = written,
                Err(fault) => all = code(fault, ask.version >= TELLS_FENCED_SINCE),
            }
        }
        let own = all == codes::NONE || all == codes::OPERATION_NOT_ATTEMPTED;
        let partition = |(partition_index, queue): (i32, Result<QueueId, i16>)| AddPartitionsToTxnPartitionResult {
            partition_index,
            partition_error_code: if own { queue.err().unwrap_or(all) } else { all },
        };
        let topic = |(name, found): (Box<str>, Vec<_>)| AddPartitionsToTxnTopicResult {
            name,
            results_by_partition: found.into_iter().map(partition).collect(),
        };
        Ok(ask.after(
            lsn,
            &AddPartitionsToTxnResponse {
                results_by_topic_v3_and_below: results.into_iter().map(topic).collect(),
                ..AddPartitionsToTxnResponse::default()
            },
        ))
    }

    /// The partitions that are asked for, with their queues.
    fn transaction_topic(&self, topic: &AddPartitionsToTxnTopic) -> Vec<(i32, Result<QueueId, i16>)> {
        let found = if self.may(Access::Write, &topic.name) {
            self.topic(&topic.name).ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)
        } else {
            Err(codes::TOPIC_AUTHORIZATION_FAILED)
        };
        let queue = |number: &i32| {
            let cell = found.as_ref().map_err(|code| *code)?.partition(*number);
            cell.map(|c| c.queue()).ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)
        };
        topic.partitions.iter().map(|number| (*number, queue(number))).collect()
    }

    pub(super) fn add_offsets_to_txn(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: AddOffsetsToTxnRequest = ask.read()?;
        let id = &*request.transactional_id;
        let (mut error_code, mut lsn) = (self.transactional_id_code(Access::Write, id), None);
        if error_code == codes::NONE {
            error_code = self.group_code(&request.group_id);
        }
        if error_code == codes::NONE {
            let producer = Producer { id: request.producer_id, epoch: request.producer_epoch };
            let now = self.node.clock.now();
            match self.streams().add_group(&self.vhost, id, producer, &request.group_id, now) {
                Ok(written) => lsn = written,
                Err(fault) => error_code = code(fault, ask.version >= TELLS_FENCED_SINCE),
            }
        }
        Ok(ask.after(lsn, &AddOffsetsToTxnResponse { error_code, ..AddOffsetsToTxnResponse::default() }))
    }

    pub(super) fn txn_offset_commit(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: TxnOffsetCommitRequest = ask.read()?;
        let (id, group) = (&*request.transactional_id, &*request.group_id);
        let mut refused = self.transactional_id_code(Access::Write, id);
        if refused == codes::NONE {
            refused = self.group_code(group);
        }
        let (now, mut committer) = (self.node.clock.now(), Committer::Standalone);
        if refused == codes::NONE {
            let (member, instance) = (&*request.member_id, request.group_instance_id.as_deref());
            let groups = &self.node.groups;
            let may = groups.may_commit_with(&self.vhost, group, member, instance, request.generation_id, now);
            match may {
                Ok(who) => committer = who,
                Err(fault) => refused = codes::of_group(fault),
            }
        }
        let mut committing = Committing { session: self, refused, now, retention_ms: None, offsets: Vec::new() };
        let mut topics = Vec::new();
        for topic in &request.topics {
            let wanted = topic.partitions.iter().map(|p| Wanted {
                partition: p.partition_index,
                offset: p.committed_offset,
                leader_epoch: p.committed_leader_epoch,
                metadata: p.committed_metadata.as_deref(),
            });
            let codes = committing.topic(&topic.name, wanted).into_iter();
            let answer =
                |(partition_index, error_code)| TxnOffsetCommitResponsePartition { partition_index, error_code };
            let partitions = codes.map(answer).collect();
            topics.push(TxnOffsetCommitResponseTopic { name: topic.name.clone(), partitions });
        }
        let offsets = committing.offsets;
        let producer = Producer { id: request.producer_id, epoch: request.producer_epoch };
        let lsn = self.streams().commit_with(&self.vhost, id, producer, (group, committer), offsets).unwrap_or_else(
            |fault| {
                let code = code(fault, false);
                let all = topics.iter_mut().flat_map(|t| &mut t.partitions);
                all.filter(|p| p.error_code == codes::NONE).for_each(|p| p.error_code = code);
                None
            },
        );
        Ok(ask.after(lsn, &TxnOffsetCommitResponse { topics, ..TxnOffsetCommitResponse::default() }))
    }

    pub(super) fn end_txn(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: EndTxnRequest = ask.read()?;
        let id = &*request.transactional_id;
        let (mut error_code, mut lsn): (i16, Option<Lsn>) = (self.transactional_id_code(Access::Write, id), None);
        if error_code == codes::NONE {
            let producer = Producer { id: request.producer_id, epoch: request.producer_epoch };
            let marker = if request.committed { Marker::Commit } else { Marker::Abort };
            match self.streams().end_transaction(&self.vhost, id, producer, marker, self.node.clock.now()) {
                Ok(written) => lsn = written,
                Err(fault) => error_code = code(fault, ask.version >= TELLS_FENCED_SINCE),
            }
        }
        Ok(ask.after(lsn, &EndTxnResponse { error_code, ..EndTxnResponse::default() }))
    }

    pub(super) fn describe_transactions(&mut self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DescribeTransactionsRequest = ask.read()?;
        let mut portion = Portion::new(&self.node.kafka_room);
        let mut one = |id: &str| {
            let failed = |error_code| TransactionState {
                error_code,
                transactional_id: id.into(),
                transaction_start_time_ms: -1,
                producer_id: -1,
                producer_epoch: -1,
                ..TransactionState::default()
            };
            match (self.transactional_id_code(AclOperation::Describe, id), self.streams().transaction(&self.vhost, id))
            {
                (codes::NONE, Some(view)) => match portion.add(bytes_of(&view)) {
                    Ok(()) => self.described(view),
                    Err(code) => failed(code),
                },
                (codes::NONE, None) => failed(codes::TRANSACTIONAL_ID_NOT_FOUND),
                (refused, _) => failed(refused),
            }
        };
        let mut seen = BTreeSet::new();
        let once = request.transactional_ids.iter().filter(|id| seen.insert(&***id));
        let transaction_states = once.map(|id| one(id)).collect();
        self.held = Some(portion.held());
        Ok(ask.now(&DescribeTransactionsResponse { transaction_states, ..Default::default() }))
    }

    fn described(&self, view: TransactionView) -> TransactionState {
        let mut topics: Vec<TopicData> = Vec::new();
        for (topic, partition) in view.partitions.iter().filter(|(topic, _)| self.may(AclOperation::Describe, topic)) {
            match topics.last_mut().filter(|t| *t.topic == **topic) {
                Some(known) => known.partitions.push(*partition),
                None => topics.push(TopicData { topic: (**topic).into(), partitions: vec![*partition] }),
            }
        }
        TransactionState {
            error_code: codes::NONE,
            transactional_id: (*view.transactional_id).into(),
            transaction_state: view.phase.as_str().into(),
            transaction_timeout_ms: view.timeout_ms,
            transaction_start_time_ms: view.started.map_or(-1, |at| i64::try_from(at.0).unwrap_or(i64::MAX)),
            producer_id: view.producer.id,
            producer_epoch: view.producer.epoch,
            topics,
        }
    }

    pub(super) fn list_transactions(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: ListTransactionsRequest = ask.read()?;
        let pattern = match request.transactional_id_pattern.as_deref().filter(|p| !p.is_empty()).map(pattern) {
            None => None,
            Some(Ok(pattern)) => Some(pattern),
            Some(Err(_)) => {
                let error_code = codes::INVALID_REGULAR_EXPRESSION;
                return Ok(ask.now(&ListTransactionsResponse { error_code, ..Default::default() }));
            }
        };
        let is_known = |state: &str| PHASES.iter().any(|p| p.as_str() == state);
        let (known, unknown): (Vec<Box<str>>, Vec<Box<str>>) =
            request.state_filters.into_iter().partition(|state| is_known(state));
        let now = self.node.clock.now();
        let long_enough = |view: &TransactionView| match u64::try_from(request.duration_filter) {
            Err(_) => true,
            Ok(least) => view.started.is_some_and(|at| now.0.saturating_sub(at.0) > least),
        };
        let nothing = known.is_empty() && !unknown.is_empty();
        let wanted = |view: &TransactionView| {
            !nothing
                && (known.is_empty() || known.iter().any(|state| **state == *view.phase.as_str()))
                && (request.producer_id_filters.is_empty() || request.producer_id_filters.contains(&view.producer.id))
                && long_enough(view)
                && pattern.as_ref().is_none_or(|p| p.is_match(&view.transactional_id))
                && self.transactional_id_code(AclOperation::Describe, &view.transactional_id) == codes::NONE
        };
        let all = self.streams().transactions(&self.vhost);
        let listed = all.iter().filter(|view| wanted(view)).map(|view| ListedTransaction {
            transactional_id: (*view.transactional_id).into(),
            producer_id: view.producer.id,
            transaction_state: view.phase.as_str().into(),
        });
        let listed: Vec<ListedTransaction> = listed.collect();
        if listed.iter().map(|one| LISTED_BYTES + one.transactional_id.len()).sum::<usize>() > WHOLE_BYTES_MAX {
            let error_code = codes::POLICY_VIOLATION;
            return Ok(ask.now(&ListTransactionsResponse { error_code, ..Default::default() }));
        }
        Ok(ask.now(&ListTransactionsResponse {
            unknown_state_filters: unknown,
            transaction_states: listed,
            ..ListTransactionsResponse::default()
        }))
    }
}

/// What a transaction takes in a list beside its id, about.
const LISTED_BYTES: usize = 32;

/// What a transaction takes in an answer, about.
fn bytes_of(view: &TransactionView) -> usize {
    let topics: BTreeSet<&str> = view.partitions.iter().map(|(topic, _)| &**topic).collect();
    let names: usize = topics.iter().map(|topic| 8 + topic.len()).sum();
    LISTED_BYTES + view.transactional_id.len() + names + 4 * view.partitions.len()
}

/// All that a transactional id can be at.
const PHASES: [Phase; 4] = [Phase::Empty, Phase::Ongoing, Phase::CompleteCommit, Phase::CompleteAbort];
