//! The topics that are queues too.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use waypost_broker::settings::QueueSettings;
use waypost_broker::shard::{Counts, Enqueued, Incoming, QueueInfo, QueueStats};
use waypost_broker::streams::{StreamConsumer, StreamSpec, Streams as StreamsPort};
use waypost_model::journal::Journal;
use waypost_model::{ConsumerId, QueueId, Refusal, Seq};
use waypost_stream::config::TopicConfig;
use waypost_stream::streams::{Retention, Streams, Topic, TopicFault};

use super::append;
use super::reader::Reader;
use crate::clock::Clock;

/// The largest batch of a topic that is made as a queue: what is published in one message has to fit.
const BATCH_BYTES_MAX: &str = "134217728";
/// What `segment.bytes` may be.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=i32::MAX as u64;

/// A topic that is a queue.
pub(super) struct Stream {
    pub topic: Arc<Topic>,
    pub id: QueueId,
    pub readers: Mutex<BTreeMap<ConsumerId, Arc<Reader>>>,
    /// Whose turn it is among the partitions, for what has no key.
    pub turn: AtomicU64,
    pub published: AtomicU64,
    pub refused: AtomicU64,
    pub delivered: AtomicU64,
    pub settled: AtomicU64,
}

/// Keeps the broker's streams.
pub(crate) struct Keeper {
    streams: Arc<Streams>,
    clock: Clock,
    runtime: tokio::runtime::Handle,
    open: RwLock<HashMap<QueueId, Arc<Stream>>>,
    readers: Mutex<HashMap<ConsumerId, Arc<Reader>>>,
    next_consumer: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    fn new(topic: Arc<Topic>, id: QueueId) -> Stream {
        Stream {
            topic,
            id,
            readers: Mutex::default(),
            turn: AtomicU64::new(0),
            published: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            settled: AtomicU64::new(0),
        }
    }

    fn info(&self, clock: Clock) -> QueueInfo {
        let mut counts = Counts::default();
        let mut end = 0;
        for cell in self.topic.partitions().iter() {
            let (offsets, bytes) = cell.with(|p| (p.offsets(), p.bytes()));
            counts.ready += offsets.high_watermark.saturating_sub(offsets.start);
            counts.ready_bytes += bytes;
            counts.ready_payload += bytes;
            end = end.max(offsets.high_watermark);
        }
        let consumers: Vec<_> = lock(&self.readers).values().map(|r| r.info()).collect();
        counts.consumers = u32::try_from(consumers.len()).unwrap_or(u32::MAX);
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        QueueInfo {
            counts,
            stats: QueueStats {
                published: count(&self.published),
                refused: count(&self.refused),
                delivered: count(&self.delivered),
                acked: count(&self.settled),
                ..QueueStats::default()
            },
            memory: 0,
            next_seq: Seq(end),
            head_at: None,
            last_used: clock.now(),
            exclusive_consumer: false,
            consumers,
        }
    }
}

impl Keeper {
    /// Keeps these, with tasks on the runtime that it is called in.
    pub(crate) fn new(streams: Arc<Streams>, clock: Clock) -> Keeper {
        Keeper {
            streams,
            clock,
            runtime: tokio::runtime::Handle::current(),
            open: RwLock::default(),
            readers: Mutex::default(),
            next_consumer: AtomicU64::new(1),
        }
    }

    fn find(&self, id: QueueId) -> Option<Arc<Stream>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn register(&self, topic: Arc<Topic>) -> Option<Arc<Stream>> {
        let id = topic.partition(0)?.queue();
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(open.entry(id).or_insert_with(|| Arc::new(Stream::new(topic, id)))))
    }

    fn reader(&self, id: ConsumerId) -> Option<Arc<Reader>> {
        lock(&self.readers).get(&id).cloned()
    }

    /// A reader has ended by itself.
    pub(super) fn forget(&self, reader: &Reader) {
        lock(&self.readers).remove(&reader.id);
        lock(&reader.stream.readers).remove(&reader.id);
    }
}

/// The configuration of a topic that is made as a queue: it keeps everything unless told otherwise.
fn config(spec: &StreamSpec<'_>) -> Result<TopicConfig, TopicFault> {
    let text = |n: Option<u64>| n.map_or("-1".to_owned(), |n| n.min(i64::MAX as u64).to_string());
    let (age, bytes) = (text(spec.max_age_ms), text(spec.max_length_bytes));
    let segment = spec.segment_bytes.map(|n| n.clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end()).to_string());
    let mut settings =
        vec![("retention.ms", &*age), ("retention.bytes", &*bytes), ("max.message.bytes", BATCH_BYTES_MAX)];
    settings.extend(segment.as_deref().map(|n| ("segment.bytes", n)));
    Ok(TopicConfig::parse(settings)?)
}

/// Whether a topic that is there already is what a declaration asks for, as far as it asks.
fn check_equivalent(spec: &StreamSpec<'_>, config: &TopicConfig) -> Result<(), Refusal> {
    let pairs = [
        ("x-max-age", spec.max_age_ms, config.retention_ms),
        ("x-max-length-bytes", spec.max_length_bytes, config.retention_bytes),
    ];
    for (key, asked, current) in pairs {
        if asked.is_some() && asked != current {
            let shown = |n: Option<u64>| n.map_or("none".to_owned(), |n| format!("'{n}'"));
            return Err(Refusal::precondition_failed(format!(
                "inequivalent arg '{key}' for queue '{}' in vhost '{}': received {} but current is {}",
                spec.name,
                spec.vhost,
                shown(asked),
                shown(current)
            )));
        }
    }
    Ok(())
}

impl StreamsPort for Keeper {
    fn open(&self, spec: &StreamSpec<'_>) -> Result<QueueId, Refusal> {
        let refused = |fault: TopicFault| {
            let text = format!("cannot make stream '{}' in vhost '{}': {fault}", spec.name, spec.vhost);
            Refusal::precondition_failed(text)
        };
        let topic = match self.streams.topic(spec.vhost, spec.name) {
            Some(topic) => {
                check_equivalent(spec, &topic.config())?;
                topic
            }
            None => {
                let config = config(spec).map_err(refused)?;
                match self.streams.create(spec.vhost, spec.name, 1, config) {
                    Ok((topic, _)) => topic,
                    // Somebody was faster.
                    Err(TopicFault::Exists(name)) => {
                        let found = self.streams.topic(spec.vhost, spec.name);
                        found.ok_or_else(|| refused(TopicFault::Unknown(name)))?
                    }
                    Err(fault) => return Err(refused(fault)),
                }
            }
        };
        let stream = self.register(topic);
        stream.map(|s| s.id).ok_or_else(|| Refusal::internal("a topic without partitions"))
    }

    fn configure(&self, settings: &QueueSettings) -> bool {
        let topic = self.streams.topic(&settings.vhost, &settings.name);
        let Some(topic) = topic.filter(|t| t.partition(0).is_some_and(|c| c.queue() == settings.id)) else {
            return false;
        };
        topic.limit(Retention { ms: settings.max_age_ms, bytes: settings.max_length_bytes });
        self.register(topic).is_some()
    }

    fn delete(&self, stream: QueueId) {
        let gone = self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&stream);
        let Some(gone) = gone else { return };
        let Topic { vhost, name, .. } = &*gone.topic;
        let same = self.streams.topic(vhost, name).is_some_and(|t| Arc::ptr_eq(&t, &gone.topic));
        // Gone already, if it was deleted as a topic.
        if same && let Err(error) = self.streams.delete(vhost, name) {
            tracing::error!(vhost = &**vhost, topic = &**name, %error, "a topic could not be deleted with its queue");
        }
    }

    fn delete_vhost(&self, vhost: &str) {
        for topic in self.streams.topics(vhost) {
            if let Err(error) = self.streams.delete(vhost, &topic.name) {
                tracing::error!(vhost, topic = &*topic.name, %error, "a topic could not be deleted with its vhost");
            }
        }
    }

    fn append(&self, stream: QueueId, run: &Incoming, journal: &dyn Journal) -> Enqueued {
        match self.find(stream) {
            Some(stream) => append::append(&self.streams, &stream, run, journal),
            None => Enqueued { accepted: run.count(), missing: 1, ..Enqueued::default() },
        }
    }

    fn consume(&self, consumer: StreamConsumer) -> Result<ConsumerId, Refusal> {
        let missing = || Refusal::not_found("the stream is gone");
        let stream = self.find(consumer.stream).ok_or_else(missing)?;
        // What was confirmed lies behind whoever begins at what comes.
        self.streams.advance();
        let id = ConsumerId::of_stream(self.next_consumer.fetch_add(1, Ordering::Relaxed));
        let arguments = consumer.arguments.clone();
        let reader = Arc::new(Reader::new(id, Arc::clone(&stream), consumer));
        lock(&self.readers).insert(id, Arc::clone(&reader));
        lock(&stream.readers).insert(id, Arc::clone(&reader));
        reader.start(&self.runtime, Arc::clone(&self.streams), arguments, self.clock);
        Ok(id)
    }

    fn settled(&self, consumer: ConsumerId, messages: u32) {
        if let Some(reader) = self.reader(consumer) {
            reader.settled(messages);
        }
    }

    fn sent(&self, consumer: ConsumerId, bytes: u64) {
        if let Some(reader) = self.reader(consumer) {
            reader.sent(bytes);
        }
    }

    fn cancel(&self, consumer: ConsumerId) {
        let reader = self.reader(consumer);
        if let Some(reader) = reader {
            self.forget(&reader);
            reader.end();
        }
    }

    fn info(&self, stream: QueueId) -> Option<QueueInfo> {
        // What was confirmed is there.
        self.streams.advance();
        self.find(stream).map(|s| s.info(self.clock))
    }
}
