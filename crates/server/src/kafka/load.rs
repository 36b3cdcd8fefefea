//! The bytes of batches that a consumer is sent: out of memory, off the disk, and off the disk before it asks for them.
//!
//! Whoever reads a partition from front to back would wait for the disk and the disk for him, in turns, and each time a thread be
//! woken to read and another to send. So the next megabytes are read while he is sent these.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};
use waypost_kafka::fetch::{FetchedPartition, FetchedTopic};
use waypost_model::journal::LoadedBody;
use waypost_model::{Batch as Messages, QueueId, Seq};
use waypost_stream::partition::{Isolation, Piece};
use waypost_stream::streams::{Cell, Streams};

use super::codes;
use super::fetch::{Planned, Wanted};

/// What is looked for ahead, bytes; the store reads less where that is not worth it.
const AHEAD_BYTES: usize = 4 << 20;
/// Pieces that are read ahead: one that is being sent, and the next.
const PIECES: usize = 2;
/// A longer answer is put together where nobody waits, even if all of it is at hand: others want to be served meanwhile.
const AT_HAND_BYTES_MAX: usize = 4 << 20;

/// The bytes of a batch, a message of its own, without copying them.
struct Body(Arc<Messages>);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.0.body(0)
    }
}

/// What was read ahead of a connection.
#[derive(Default)]
pub(super) struct Ahead {
    /// The partition that was read last, and up to where.
    last: Option<(Arc<Cell>, u64)>,
    /// Whether it is worth it: something had to come from the disk, and there was more.
    is_on: bool,
    /// Up to where the pieces go that are at hand.
    ends: VecDeque<u64>,
    /// The next piece; nothing if there is none.
    task: Option<JoinHandle<Option<u64>>>,
}

impl Ahead {
    /// Reads what was planned.
    pub async fn load(
        &mut self,
        streams: Arc<Streams>,
        plan: Vec<Vec<Planned>>,
        wanted: Vec<Wanted>,
        isolation: Isolation,
    ) -> Vec<FetchedTopic> {
        let mut stored = plan.iter().flatten().filter(|p| p.batches.iter().any(|piece| place(piece).is_some()));
        let Some(first) = stored.next() else { return finish(&streams, plan, wanted, Vec::new()) };
        let Some(cell) = first.cell.clone().filter(|_| stored.next().is_none()) else {
            *self = Ahead::default();
            return off_disk(streams, plan, wanted).await;
        };
        let Range { start, end } = first.offsets;
        let goes_on = self.arrive(&cell, start).await;
        let places = places(&first.batches);
        let bodies = if first.bytes > AT_HAND_BYTES_MAX { Vec::new() } else { self.at_hand(&streams, &places).await };
        // What is not at hand is another answer's, if anything is.
        let is_part = !bodies.is_empty() && bodies.len() < places.len();
        let upto = places.get(..bodies.len()).and_then(<[_]>::last).filter(|_| is_part).map_or(end, behind);
        self.is_on |= goes_on && bodies.is_empty();
        self.go_on(&streams, &cell, upto, isolation);
        self.last = Some((cell, upto));
        if bodies.is_empty() { off_disk(streams, plan, wanted).await } else { finish(&streams, plan, wanted, bodies) }
    }

    /// Waits for what is asked for, if that is being read, and says whether the connection reads on.
    async fn arrive(&mut self, cell: &Arc<Cell>, start: u64) -> bool {
        if !self.last.as_ref().is_some_and(|(last, upto)| Arc::ptr_eq(last, cell) && *upto == start) {
            *self = Ahead::default();
            return false;
        }
        while self.ends.pop_front_if(|end| *end <= start).is_some() {}
        if self.ends.is_empty() || self.task.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end_task().await;
        }
        true
    }

    /// Waits for the piece that is being read, and says whether there is one more.
    async fn end_task(&mut self) -> bool {
        let Some(task) = self.task.take() else { return false };
        let end = task.await.ok().flatten();
        self.is_on = end.is_some();
        self.ends.extend(end);
        end.is_some()
    }

    /// What need not be waited for, but for the next piece if that is being read already.
    async fn at_hand(&mut self, streams: &Streams, places: &[(QueueId, Seq)]) -> Vec<LoadedBody> {
        let mut bodies = streams.bodies().bodies_at_hand(places);
        if !bodies.is_empty()
            && let Some(rest) = places.get(bodies.len()..).filter(|rest| !rest.is_empty())
            && self.end_task().await
        {
            bodies.extend(streams.bodies().bodies_at_hand(rest));
        }
        bodies
    }

    /// Begins to read the next piece.
    fn go_on(&mut self, streams: &Arc<Streams>, cell: &Arc<Cell>, upto: u64, isolation: Isolation) {
        if !self.is_on || self.task.is_some() || self.ends.len() >= PIECES {
            return;
        }
        let from = self.ends.back().map_or(upto, |end| upto.max(*end));
        let next =
            cell.with(|partition| partition.read(from, AHEAD_BYTES, isolation).map(|span| places(&span.batches)));
        let Some(next) = next.ok().filter(|next| !next.is_empty()) else {
            self.is_on = false;
            return;
        };
        let streams = Arc::clone(streams);
        self.task = Some(spawn_blocking(move || {
            let count = streams.bodies().read_ahead(&next);
            next.get(count.checked_sub(1)?).map(behind)
        }));
    }
}

/// Where a batch lies that is not in memory.
fn place(piece: &Piece) -> Option<(QueueId, Seq)> {
    match piece {
        Piece::Memory(_) => None,
        Piece::Stored(queue, place) => Some((*queue, *place)),
    }
}

/// The first run of such batches.
fn places(batches: &[Piece]) -> Vec<(QueueId, Seq)> {
    batches.iter().skip_while(|piece| place(piece).is_none()).map_while(place).collect()
}

/// The offset behind a batch.
fn behind((_, last): &(QueueId, Seq)) -> u64 {
    last.0 + 1
}

/// Reads where no connection waits for it.
async fn off_disk(streams: Arc<Streams>, plan: Vec<Vec<Planned>>, wanted: Vec<Wanted>) -> Vec<FetchedTopic> {
    spawn_blocking(move || finish(&streams, plan, wanted, Vec::new())).await.unwrap_or_default()
}

/// `at_hand`: bodies of the first run that is not in memory; none of them if they are to be read.
fn finish(
    streams: &Streams,
    plan: Vec<Vec<Planned>>,
    wanted: Vec<Wanted>,
    mut at_hand: Vec<LoadedBody>,
) -> Vec<FetchedTopic> {
    let topics = wanted.into_iter().zip(plan);
    let fetched = topics.map(|(topic, plan)| FetchedTopic {
        name: topic.name,
        id: topic.id,
        partitions: plan.into_iter().map(|p| read(streams, p, &mut at_hand)).collect(),
    });
    fetched.collect()
}

fn read(streams: &Streams, planned: Planned, at_hand: &mut Vec<LoadedBody>) -> FetchedPartition {
    let Planned { cell, batches, mut answer, .. } = planned;
    let Some(cell) = cell else { return answer };
    let mut rest = &batches[..];
    while let Some((first, behind)) = rest.split_first() {
        if let Piece::Memory(messages) = first {
            answer.records.push(Bytes::from_owner(Body(Arc::clone(messages))));
            rest = behind;
            continue;
        }
        let places = places(rest);
        let bodies = match std::mem::take(at_hand) {
            none if none.is_empty() => streams.bodies().load_bodies(&places),
            bodies => Ok(bodies),
        };
        match bodies {
            Ok(bodies) => {
                let found = bodies.len();
                answer.records.extend(bodies.into_iter().map(Bytes::from_owner));
                rest = rest.get(found..).unwrap_or_default();
                // The next answer begins with what is missing, and says why it is.
                if found < places.len() {
                    break;
                }
            }
            // Retention was faster: what was read before it is still right.
            Err(e) if e.kind() == ErrorKind::NotFound => break,
            Err(error) => {
                tracing::error!(%error, queue = cell.queue().0, "a batch cannot be read");
                if answer.records.is_empty() {
                    answer.error_code = codes::KAFKA_STORAGE_ERROR;
                }
                break;
            }
        }
    }
    answer
}
