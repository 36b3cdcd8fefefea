//! Fetch: batches as they lie in memory or on disk, and waiting for more.

use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use waypost_broker::topology::{Access, QuotaKind};
use waypost_kafka::fetch::{FetchResponse, FetchedPartition, Pieces};
use waypost_kafka::messages::records::{FetchPartition, FetchRequest};
use waypost_kafka::wire::{Malformed, Uuid};
use waypost_stream::partition::{Isolation, Piece};
use waypost_stream::streams::{Cell, Grown, Topic, TopicId};

use super::{Answer, Ask, LEADER_EPOCH, Session, codes};

/// Most bytes of one answer.
const ANSWER_BYTES_MAX: usize = 55 * 1024 * 1024;
/// Longest wait for more.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// The first version that names topics by id.
const BY_ID: i16 = 13;

/// A topic that was asked for.
pub(super) struct Wanted {
    pub name: Box<str>,
    pub id: Uuid,
    found: Result<Arc<Topic>, i16>,
    partitions: Vec<FetchPartition>,
}

/// What is found of a partition before its batches are read.
pub(super) struct Planned {
    /// None where there are no batches.
    pub cell: Option<Arc<Cell>>,
    pub batches: Vec<Piece>,
    pub bytes: usize,
    /// From which offset on, and up to which.
    pub offsets: Range<u64>,
    pub answer: FetchedPartition,
}

impl Session {
    pub(super) async fn fetch(&mut self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let mut request: FetchRequest = ask.read()?;
        let respond = |response: &FetchResponse| {
            let mut pieces = Pieces::begin(ask.head());
            response.write(&mut pieces, ask.version);
            Answer::Now(pieces.finish())
        };
        let (owner, by_id) = (self.who.owner(), ask.version >= BY_ID);
        let sessions = &self.node.fetch_sessions;
        let mut fetching = match sessions.begin(&owner, by_id, &mut request, self.node.clock.now().0) {
            Ok(fetching) => fetching,
            Err(fault) => {
                let error_code = codes::of_fetch_session(fault);
                return Ok(respond(&FetchResponse { error_code, ..FetchResponse::default() }));
            }
        };
        let isolation =
            if request.isolation_level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
        let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0).min(ANSWER_BYTES_MAX);
        let least = usize::try_from(request.min_bytes).unwrap_or(0).min(max_bytes);
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(WAIT_MAX);
        let deadline = tokio::time::Instant::now() + wait;
        let topics = std::mem::take(&mut fetching.topics);
        let wanted: Vec<Wanted> = topics.into_iter().map(|t| self.wanted(ask, t)).collect();
        let mut is_over = false;
        let (plan, held) = loop {
            // Listened to before it is looked: what comes in between is not missed.
            let growing = grown(&wanted);
            let mut held = self.node.kafka_room.take(max_bytes);
            let plan = self.plan(&wanted, held.bytes(), isolation);
            let (bytes, failed) = plan
                .iter()
                .flatten()
                .fold((0, false), |(bytes, failed), p| (bytes + p.bytes, failed || p.answer.error_code != codes::NONE));
            held.settle(bytes);
            if is_over || bytes >= least.max(1) || failed || growing.is_empty() {
                break (plan, held);
            }
            // Whoever waits for more than there is keeps none of the room from others meanwhile.
            let nothing = (bytes == 0).then_some((plan, held));
            is_over = tokio::time::timeout_at(deadline, any(growing)).await.is_err();
            if let Some(nothing) = nothing.filter(|_| is_over) {
                break nothing;
            }
        };
        let streams = Arc::clone(self.streams());
        let topics = self.ahead.load(streams, plan, wanted, isolation).await;
        self.held = Some(held);
        let (session_id, topics) = fetching.finish(topics);
        let records = topics.iter().flat_map(|t| &t.partitions).flat_map(|p| &p.records);
        let throttle_time_ms = self.throttled(ask, QuotaKind::Consumer, records.map(Bytes::len).sum());
        Ok(respond(&FetchResponse { throttle_time_ms, session_id, topics, ..FetchResponse::default() }))
    }

    fn wanted(&self, ask: &Ask<'_>, topic: waypost_kafka::messages::records::FetchTopic) -> Wanted {
        let (found, missing) = if ask.version >= BY_ID {
            (self.streams().topic_by_id(TopicId(topic.topic_id.0)), codes::UNKNOWN_TOPIC_ID)
        } else {
            (self.topic(&topic.topic), codes::UNKNOWN_TOPIC_OR_PARTITION)
        };
        let found = match found {
            Some(t) if !self.may(Access::Read, &t.name) => Err(codes::TOPIC_AUTHORIZATION_FAILED),
            Some(t) => Ok(t),
            None => Err(missing),
        };
        Wanted { name: topic.topic, id: topic.topic_id, found, partitions: topic.partitions }
    }

    /// What there is, by topic and partition as they were asked for.
    fn plan(&self, wanted: &[Wanted], max_bytes: usize, isolation: Isolation) -> Vec<Vec<Planned>> {
        let (mut left, mut first) = (max_bytes, true);
        let now = self.node.clock.now();
        let mut one = |topic: &Wanted, p: &FetchPartition| {
            let cell = match &topic.found {
                Err(code) => return failed(p.partition, *code),
                Ok(topic) => topic.partition(p.partition),
            };
            let Some(cell) = cell.filter(|c| !c.is_closed()) else {
                return failed(p.partition, codes::UNKNOWN_TOPIC_OR_PARTITION);
            };
            cell.note_use(now);
            if p.current_leader_epoch > LEADER_EPOCH {
                return failed(p.partition, codes::UNKNOWN_LEADER_EPOCH);
            }
            let room = usize::try_from(p.partition_max_bytes).unwrap_or(0).min(left);
            // Whole batches; the first of the answer also if it is larger than what was asked for.
            let planned = planned(&cell, p, if first { room.max(1) } else { room }, isolation);
            if planned.bytes > 0 && (first || planned.bytes <= room) {
                first = false;
                left = left.saturating_sub(planned.bytes);
                return planned;
            }
            let aborted = planned.answer.aborted.as_ref().map(|_| Vec::new());
            let answer = FetchedPartition { aborted, ..planned.answer };
            Planned { batches: Vec::new(), bytes: 0, answer, ..planned }
        };
        wanted.iter().map(|topic| topic.partitions.iter().map(|p| one(topic, p)).collect()).collect()
    }
}

fn planned(cell: &Arc<Cell>, p: &FetchPartition, room: usize, isolation: Isolation) -> Planned {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    cell.with(|partition| {
        let offsets = partition.offsets();
        let mut answer = FetchedPartition {
            index: p.partition,
            error_code: codes::NONE,
            high_watermark: number(offsets.high_watermark),
            last_stable_offset: number(offsets.last_stable),
            log_start_offset: number(offsets.start),
            aborted: None,
            records: Vec::new(),
        };
        let span = u64::try_from(p.fetch_offset).ok().and_then(|at| partition.read(at, room, isolation).ok());
        let Some(span) = span else {
            answer.error_code = codes::OFFSET_OUT_OF_RANGE;
            return Planned { cell: None, batches: Vec::new(), bytes: 0, offsets: 0..0, answer };
        };
        if isolation == Isolation::ReadCommitted {
            let aborted = partition.aborted(p.fetch_offset.unsigned_abs(), span.upto);
            answer.aborted = Some(aborted.iter().map(|a| (a.producer_id, number(a.first))).collect());
        }
        let offsets = p.fetch_offset.unsigned_abs()..span.upto;
        Planned { cell: Some(Arc::clone(cell)), batches: span.batches, bytes: span.bytes, offsets, answer }
    })
}

fn failed(index: i32, error_code: i16) -> Planned {
    let answer = FetchedPartition {
        index,
        error_code,
        high_watermark: -1,
        last_stable_offset: -1,
        log_start_offset: -1,
        aborted: None,
        records: Vec::new(),
    };
    Planned { cell: None, batches: Vec::new(), bytes: 0, offsets: 0..0, answer }
}

fn grown(wanted: &[Wanted]) -> Vec<Grown> {
    let topics = wanted.iter().filter_map(|w| Some((w.found.as_ref().ok()?, &w.partitions)));
    topics.flat_map(|(topic, all)| all.iter().filter_map(|p| topic.partition(p.partition)).map(|c| c.grown())).collect()
}

/// Completes with the first of them.
async fn any(mut all: Vec<Grown>) {
    poll_fn(|cx| {
        let ready = all.iter_mut().any(|one| Pin::new(one).poll(cx).is_ready());
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
