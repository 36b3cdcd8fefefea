//! A consumer of a stream: its credit, and the task that reads for it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::Notify;
use waypost_broker::shard::ConsumerInfo;
use waypost_broker::streams::{StreamArguments, StreamConsumer, StreamOffset};
use waypost_model::{
    Batch, BatchBuilder, Body, ChannelId, ConnId, ConsumerId, Delivery, Event, Outbox, Reply, Route, Seq,
};
use waypost_stream::messages::{Told, to_message};
use waypost_stream::records::Record;
use waypost_stream::streams::{Grown, Streams};

use super::keeper::Stream;
use super::read::{Chunk, Cursor, DECODED_BYTES};

/// Flat cost of a message beside its payload, as queues count it.
const MESSAGE_COST: u64 = 64;
/// The header by whose value messages are filtered.
const FILTER_VALUE: &str = "x-stream-filter-value";

/// See the module.
pub(super) struct Reader {
    pub id: ConsumerId,
    pub stream: Arc<Stream>,
    conn: ConnId,
    channel: ChannelId,
    tag: Box<str>,
    outbox: Arc<Outbox>,
    token: u32,
    prefetch: u32,
    /// So many bytes of messages are made at a time: many consumers of a connection have little each.
    ahead_bytes: usize,
    credit: Mutex<Credit>,
    /// There is credit again, or it is over.
    wake: Notify,
}

/// What may be delivered.
struct Credit {
    messages: u32,
    bytes: i64,
    /// Of the next delivery: only to tell messages apart.
    place: u64,
    ended: bool,
}

/// Messages at hand.
#[derive(Default)]
struct Ready {
    batch: Arc<Batch>,
    /// The next of them.
    at: u32,
    /// Runs with one route: it, and one behind the last.
    routes: VecDeque<(Arc<Route>, u32)>,
}

/// How serving ended.
enum End {
    /// The consumer is gone.
    Cancelled,
    /// The stream is gone, or cannot be read.
    Over,
}

impl Reader {
    pub fn new(id: ConsumerId, stream: Arc<Stream>, c: StreamConsumer) -> Reader {
        let bytes = i64::try_from(c.window_bytes).unwrap_or(i64::MAX);
        Reader {
            id,
            stream,
            conn: c.conn,
            channel: c.channel,
            tag: c.tag,
            outbox: c.outbox,
            token: c.token,
            prefetch: c.prefetch,
            ahead_bytes: usize::try_from(c.window_bytes).unwrap_or(DECODED_BYTES).min(DECODED_BYTES),
            credit: Mutex::new(Credit { messages: c.prefetch, bytes, place: 0, ended: false }),
            wake: Notify::new(),
        }
    }

    fn credit(&self) -> MutexGuard<'_, Credit> {
        self.credit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the call, and begins. Where "now" is, is decided before this returns.
    pub fn start(
        self: &Arc<Self>,
        runtime: &tokio::runtime::Handle,
        streams: Arc<Streams>,
        arguments: StreamArguments,
        clock: crate::clock::Clock,
    ) {
        let cursors = beginnings(&self.stream, arguments.offset);
        let reply = Reply::Consuming { consumer: self.id, tag: self.tag.clone(), no_ack: false, reply_to: None };
        self.outbox.push(Event::Reply { channel: self.channel, token: self.token, reply, after: None });
        let serving = Serving { reader: Arc::clone(self), streams, arguments, clock, cursors, turn: 0 };
        runtime.spawn(serving.run());
    }

    pub fn settled(&self, messages: u32) {
        self.stream.settled.fetch_add(u64::from(messages), Ordering::Relaxed);
        let mut credit = self.credit();
        credit.messages = credit.messages.saturating_add(messages).min(self.prefetch);
        drop(credit);
        self.wake.notify_one();
    }

    pub fn sent(&self, bytes: u64) {
        let mut credit = self.credit();
        credit.bytes = credit.bytes.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        drop(credit);
        self.wake.notify_one();
    }

    /// Nothing is delivered any more once this returns.
    pub fn end(&self) {
        self.credit().ended = true;
        self.wake.notify_one();
    }

    pub fn info(&self) -> ConsumerInfo {
        let credit = self.credit();
        ConsumerInfo {
            id: self.id,
            conn: self.conn,
            channel: self.channel,
            tag: self.tag.clone(),
            no_ack: false,
            exclusive: false,
            priority: 0,
            prefetch: Some(self.prefetch),
            held: u64::from(self.prefetch - credit.messages),
            window: credit.bytes,
            active: true,
        }
    }

    /// Delivers what credit allows of what is at hand.
    fn deliver(&self, ready: &mut Ready) -> Result<(), End> {
        let mut credit = self.credit();
        if credit.ended {
            return Err(End::Cancelled);
        }
        while credit.messages > 0
            && credit.bytes > 0
            && let Some((route, end)) = ready.routes.front()
        {
            let (mut count, mut cost) = (0, 0);
            while ready.at + count < *end && count < credit.messages && credit.bytes > 0 {
                let one = ready.batch.payload_len(ready.at + count, ready.at + count + 1) + MESSAGE_COST;
                credit.bytes = credit.bytes.saturating_sub(i64::try_from(one).unwrap_or(i64::MAX));
                cost += one;
                count += 1;
            }
            credit.messages -= count;
            self.stream.delivered.fetch_add(u64::from(count), Ordering::Relaxed);
            self.outbox.push(Event::Deliver(Delivery {
                channel: self.channel,
                consumer: self.id,
                queue: self.stream.id,
                first: Seq(credit.place),
                count,
                route: Arc::clone(route),
                body: Body::Mem { batch: Arc::clone(&ready.batch), from: ready.at },
                redelivered: false,
                delivery_count: 0,
                cost,
            }));
            credit.place += u64::from(count);
            ready.at += count;
            if ready.at >= *end {
                ready.routes.pop_front();
            }
        }
        Ok(())
    }
}

/// Where a consumer begins in each partition.
fn beginnings(stream: &Stream, offset: StreamOffset) -> Vec<Cursor> {
    let cells = stream.topic.partitions();
    let one = |(cell, partition): (&Arc<waypost_stream::streams::Cell>, i32)| {
        let (next, since) = cell.with(|p| {
            let offsets = p.offsets();
            match offset {
                StreamOffset::First => (offsets.start, None),
                StreamOffset::Next => (offsets.high_watermark, None),
                StreamOffset::Last => (p.last_batch().map_or(offsets.high_watermark, |e| e.base), None),
                StreamOffset::At(n) => (n.max(offsets.start), None),
                StreamOffset::Since(time) => {
                    let since = i64::try_from(time.0).unwrap_or(i64::MAX);
                    match p.batch_of_time(time, offsets.start) {
                        Some((entry, _)) => (entry.base.max(offsets.start), Some(since)),
                        // Nothing is so young: what comes later is.
                        None => (offsets.high_watermark, None),
                    }
                }
            }
        });
        Cursor { cell: Arc::clone(cell), partition, next, since }
    };
    cells.iter().zip(0..).map(one).collect()
}

/// The task of a reader.
struct Serving {
    reader: Arc<Reader>,
    streams: Arc<Streams>,
    arguments: StreamArguments,
    clock: crate::clock::Clock,
    cursors: Vec<Cursor>,
    /// Whose turn it is among the cursors.
    turn: usize,
}

impl Serving {
    async fn run(mut self) {
        let end = self.serve().await;
        let reader = &self.reader;
        if matches!(end, End::Over) && !std::mem::replace(&mut reader.credit().ended, true) {
            let (channel, consumer, tag) = (reader.channel, reader.id, reader.tag.clone());
            reader.outbox.push(Event::Cancelled { channel, consumer, tag });
        }
    }

    async fn serve(&mut self) -> End {
        let mut ready = Ready::default();
        loop {
            // Listened to before it is looked: what comes in between is not missed.
            let reader = Arc::clone(&self.reader);
            let woken = reader.wake.notified();
            self.follow_partitions();
            let growing: Vec<Grown> = self.cursors.iter().map(|c| c.cell.grown()).collect();
            if let Err(end) = self.reader.deliver(&mut ready) {
                return end;
            }
            if self.cursors.iter().any(|c| c.cell.is_closed()) {
                return End::Over;
            }
            if ready.routes.is_empty() {
                match self.fill().await {
                    Ok(Some(more)) => {
                        ready = more;
                        continue;
                    }
                    // Nothing is held while there is nothing to deliver.
                    Ok(None) => ready = Ready::default(),
                    Err(error) => {
                        let topic = &*self.reader.stream.topic.name;
                        tracing::error!(topic, %error, "a stream cannot be read for its consumer");
                        return End::Over;
                    }
                }
            }
            tokio::select! {
                () = any(growing) => {}
                () = woken => {}
            }
        }
    }

    /// Partitions that have come since are read from their beginning.
    fn follow_partitions(&mut self) {
        let cells = self.reader.stream.topic.partitions();
        for (cell, partition) in cells.iter().zip(0..).skip(self.cursors.len()) {
            self.cursors.push(Cursor { cell: Arc::clone(cell), partition, next: 0, since: None });
        }
    }

    /// More messages, from the next partition that has any. They may come to none, if nobody wants them: then it is to
    /// be called again.
    async fn fill(&mut self) -> std::io::Result<Option<Ready>> {
        let now = self.clock.now();
        let told = self.told();
        for _ in 0..self.cursors.len() {
            self.turn = (self.turn + 1) % self.cursors.len();
            let Some(cursor) = self.cursors.get_mut(self.turn) else { break };
            let Some(planned) = cursor.plan(now) else { continue };
            let partition = cursor.partition;
            let (streams, stream) = (Arc::clone(&self.streams), Arc::clone(&self.reader.stream));
            let (arguments, ahead) = (self.arguments.clone(), self.reader.ahead_bytes);
            let at_hand = planned.is_at_hand();
            let work = move || {
                let mut chunk = planned.read(&streams, ahead)?;
                let told = if told { Told::Place { partition } } else { Told::Offset };
                let ready = converted(std::mem::take(&mut chunk.records), &arguments, &stream.topic.name, told);
                Ok::<(Ready, Chunk), std::io::Error>((ready, chunk))
            };
            let (ready, chunk) = if at_hand {
                work()?
            } else {
                tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)??
            };
            if chunk.unreadable > 0 {
                let (topic, before) = (&*self.reader.stream.topic.name, chunk.next);
                tracing::info!(topic, partition, before, "records that cannot be read are not delivered");
            }
            if let Some(cursor) = self.cursors.get_mut(self.turn) {
                (cursor.next, cursor.since) = (chunk.next, chunk.since);
            }
            return Ok(Some(ready));
        }
        Ok(None)
    }

    /// Whether messages are told their partition.
    fn told(&self) -> bool {
        self.cursors.len() > 1
    }
}

fn converted(records: Vec<Record>, arguments: &StreamArguments, stream: &str, told: Told) -> Ready {
    let mut builder = BatchBuilder::default();
    let mut routes: VecDeque<(Arc<Route>, u32)> = VecDeque::new();
    for record in records.into_iter().filter(|r| wanted(r, arguments)) {
        let (route, props, body) = to_message(record, stream, told);
        builder.push(&props.to_bytes(), &body);
        let end = u32::try_from(builder.len()).unwrap_or(u32::MAX);
        match routes.back_mut() {
            Some((last, upto)) if **last == route => *upto = end,
            _ => routes.push_back((Arc::new(route), end)),
        }
    }
    Ready { batch: Arc::new(builder.finish()), at: 0, routes }
}

/// Whether a consumer's filter lets a record through.
fn wanted(record: &Record, arguments: &StreamArguments) -> bool {
    let Some(filter) = &arguments.filter else { return true };
    let value = record.headers.iter().find(|(name, _)| name == FILTER_VALUE).and_then(|(_, value)| value.as_deref());
    match value {
        Some(value) => filter.iter().any(|one| **one == *value),
        None => arguments.match_unfiltered,
    }
}

/// Completes with the first of them.
pub(super) async fn any(mut all: Vec<Grown>) {
    poll_fn(|cx| {
        let ready = all.iter_mut().any(|one| Pin::new(one).poll(cx).is_ready());
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
