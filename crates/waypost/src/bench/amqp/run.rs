//! One load run: opens the connections, lets the threads loose, waits for the last delivery, adds up.

use super::conn::{Conn, Product, put_consume};
use super::consumer::{Acks, Consumer, Expectation};
use super::fault::Fault;
use super::inbound::consumer_tag;
use super::outcome::Outcome;
use super::progress::Progress;
use super::publisher::{PublishLimits, Publisher};
use super::ring::{Properties, Ring, Route, STREAMS_MAX, Shape};
use super::uri::Uri;
use super::usage::{Process, Watch, allow_sockets};
use super::worker::{Finished, Pace, Role, Shared, Worker};
use std::sync::atomic::Ordering;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

/// Octets of one write unless `--batch` says otherwise.
const WRITE_BYTES: usize = 65_536;
/// How often the controlling thread looks at the counters.
const LOOK_TIME: Duration = Duration::from_millis(10);
/// How long surplus deliveries are waited for once all that was expected is there.
const GRACE_TIME: Duration = Duration::from_millis(50);

/// Who sends what where.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Per publishing connection: its routes, used in turn.
    pub publishers: Vec<Vec<Route>>,
    /// Per consuming connection: the indices of its queues.
    pub consumers: Vec<Vec<usize>>,
    /// Names of the queues.
    pub queues: Vec<String>,
    /// Per stream: the indices of the queues that get its messages, the same number for all streams.
    pub streams: Vec<Vec<usize>>,
    /// Messages per stream that were published by an earlier run and not consumed.
    pub waiting: Vec<u64>,
    /// Arguments of the consumers of each consuming connection; none where it is shorter.
    pub consumer_arguments: Vec<Table>,
    /// Streams from this one on need not come in order.
    pub ordered_streams: Option<usize>,
}

/// Arguments as JSON.
pub type Table = serde_json::Map<String, serde_json::Value>;

impl Plan {
    /// How many queues each message goes to.
    pub fn copies(&self) -> u64 {
        self.streams.first().map_or(1, |queues| queues.len() as u64)
    }
}

/// How messages are sent and taken.
#[derive(Clone, Debug)]
pub struct Load {
    /// Octets of a body.
    pub body_bytes: usize,
    /// Delivery mode 2.
    pub persistent: bool,
    /// What else the messages carry.
    pub properties: Properties,
    /// Publish with the mandatory flag.
    pub mandatory: bool,
    /// Messages per write; none: as many as fit 64 KiB.
    pub batch: Option<usize>,
    /// Unconfirmed messages per publisher; none: no confirms.
    pub confirm: Option<u64>,
    /// Undelivered messages per publisher; none: as many as the sockets take.
    pub in_flight: Option<u64>,
    /// How deliveries are settled.
    pub acks: Acks,
    /// Unacknowledged messages per consumer, 0 for no limit.
    pub prefetch: u16,
    /// Messages per second of all publishers together.
    pub rate: Option<f64>,
    /// Threads for publishing and as many for consuming.
    pub threads: usize,
    /// Messages of all publishers together; none: publish for `time`.
    pub messages: Option<u64>,
    /// How long to publish.
    pub time: Duration,
    /// How long nothing may happen before the run is given up.
    pub stall: Duration,
}

/// Runs `plan` against the broker at `uri`.
///
/// # Errors
/// No connection, a close by the broker, a breach of the protocol. Lost or disordered messages are not errors here: the
/// outcome counts them.
pub fn run(
    uri: &Uri,
    plan: &Plan,
    load: &Load,
    process: Option<Process>,
    progress: &Progress,
) -> Result<Outcome, Fault> {
    if plan.streams.len() > STREAMS_MAX {
        return Err(Fault::Usage(format!("more than {STREAMS_MAX} pairs of publisher and queue")));
    }
    allow_sockets((plan.publishers.len() + plan.consumers.len()) as u64)?;
    let publishers = open_publishers(uri, plan, load)?;
    let consumers = open_consumers(uri, plan, load)?;
    let product = publishers.first().or(consumers.first()).map(|(conn, _)| conn.product.clone());
    let watch = Watch::start(process)?;
    let deadline_ns = match load.messages {
        Some(_) => u64::MAX,
        None => u64::try_from(load.time.as_nanos()).unwrap_or(u64::MAX),
    };
    let shared = Shared::new(Instant::now(), publishers.len(), deadline_ns);
    let workers = assign(&shared, plan, load, publishers, consumers)?;
    let finished = watch.during(|| drive(&shared, workers, plan, load, progress))?;
    conclude(&shared, plan, finished, &watch, product.unwrap_or_default())
}

fn open_publishers(uri: &Uri, plan: &Plan, load: &Load) -> Result<Vec<(Conn, Role)>, Fault> {
    let count = plan.publishers.len() as u64;
    let mut opened = Vec::new();
    for (number, routes) in plan.publishers.iter().enumerate() {
        let mut conn = Conn::open_channel(uri)?;
        if load.confirm.is_some() {
            conn.confirm_select()?;
        }
        let shape = Shape {
            body_bytes: load.body_bytes,
            persistent: load.persistent,
            properties: load.properties,
            mandatory: load.mandatory,
            frame_bytes_max: conn.frame_bytes_max,
        };
        let batch = match load.batch {
            Some(batch) => batch,
            None => (WRITE_BYTES / Ring::new(routes, &shape, 1)?.message_bytes()).max(1),
        };
        // The first publishers send what does not divide evenly.
        let share = |all: u64| all / count + u64::from((number as u64) < all % count);
        let limits = PublishLimits {
            quota: load.messages.map_or(u64::MAX, share),
            batch,
            in_flight: load.in_flight,
            confirm_window: load.confirm,
        };
        let publisher = Publisher::new(Ring::new(routes, &shape, batch)?, limits);
        opened.push((conn, Role::Publish(Box::new(publisher))));
    }
    Ok(opened)
}

fn open_consumers(uri: &Uri, plan: &Plan, load: &Load) -> Result<Vec<(Conn, Role)>, Fault> {
    let expect = Expectation {
        body_bytes: load.body_bytes as u64,
        streams: plan.streams.len(),
        ordered_streams: plan.ordered_streams.unwrap_or(plan.streams.len()),
        // All are timed where messages are written one by one, else a sample.
        sample_mask: if load.batch == Some(1) || load.rate.is_some() { 0 } else { 63 },
        credit: load.in_flight.is_some(),
    };
    let mut opened = Vec::new();
    let none = Table::new();
    for (number, queues) in plan.consumers.iter().enumerate() {
        let arguments = plan.consumer_arguments.get(number).unwrap_or(&none);
        let mut conn = Conn::open_channel(uri)?;
        if load.prefetch > 0 {
            conn.prefetch(load.prefetch)?;
        }
        let mut first_bytes = Vec::new();
        for (at, queue) in queues.iter().enumerate() {
            let name = &plan.queues[*queue];
            put_consume(&mut first_bytes, name, &consumer_tag(at), load.acks == Acks::Auto, arguments)?;
        }
        let consumer = Consumer::new(load.acks, queues, expect, first_bytes);
        opened.push((conn, Role::Consume(Box::new(consumer))));
    }
    Ok(opened)
}

/// Spreads the connections over threads: publishers and consumers apart, or all on one where deliveries open the way
/// for publishers.
fn assign<'a>(
    shared: &'a Shared,
    plan: &Plan,
    load: &Load,
    publishers: Vec<(Conn, Role)>,
    consumers: Vec<(Conn, Role)>,
) -> Result<Vec<Worker<'a>>, Fault> {
    let groups = if load.in_flight.is_some() {
        vec![publishers.into_iter().chain(consumers).collect()]
    } else {
        let mut groups = spread(publishers, load.threads);
        groups.extend(spread(consumers, load.threads));
        groups
    };
    let all = plan.publishers.len() as f64;
    let mut workers = Vec::new();
    for group in groups {
        let here = group.iter().filter(|(_, role)| matches!(role, Role::Publish(_))).count() as f64;
        let pace = load.rate.filter(|_| here > 0.0).map(|rate| Pace::new(rate * here / all, shared.now_ns()));
        workers.push(Worker::new(shared, group, pace, plan.streams.len())?);
    }
    Ok(workers)
}

fn spread(conns: Vec<(Conn, Role)>, threads: usize) -> Vec<Vec<(Conn, Role)>> {
    let count = threads.clamp(1, conns.len().max(1));
    let mut groups: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
    for (at, conn) in conns.into_iter().enumerate() {
        groups[at % count].push(conn);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

fn drive(
    shared: &Shared,
    workers: Vec<Worker<'_>>,
    plan: &Plan,
    load: &Load,
    progress: &Progress,
) -> Result<Vec<Finished>, Fault> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers.into_iter().map(|worker| scope.spawn(move || worker.run())).collect();
        let stalled = supervise(shared, &threads, plan, load, progress);
        shared.stop.store(true, Ordering::Relaxed);
        let finished: Result<Vec<_>, Fault> =
            threads.into_iter().map(|thread| thread.join().unwrap_or(Err(Fault::Panicked))).collect();
        let finished = finished?;
        stalled.map(|()| finished)
    })
}

/// Waits until all that was published is delivered, or a thread ends before that, or nothing moves any more.
fn supervise<T>(
    shared: &Shared,
    threads: &[ScopedJoinHandle<'_, T>],
    plan: &Plan,
    load: &Load,
    progress: &Progress,
) -> Result<(), Fault> {
    let waiting: u64 = plan.waiting.iter().sum::<u64>() * plan.copies();
    let (mut last, mut moved) = (0, Instant::now());
    while !threads.iter().any(ScopedJoinHandle::is_finished) {
        std::thread::sleep(LOOK_TIME);
        let publishing = shared.publishing.load(Ordering::Relaxed);
        let published = shared.published.load(Ordering::Relaxed);
        let delivered = shared.delivered.load(Ordering::Relaxed);
        let excused = shared.excused.load(Ordering::Relaxed);
        progress.show(published, delivered);
        let expected = (published - excused.min(published)) * plan.copies() + waiting;
        if publishing == 0 && (plan.consumers.is_empty() || delivered >= expected) {
            if !plan.consumers.is_empty() {
                std::thread::sleep(GRACE_TIME);
            }
            return Ok(());
        }
        let sum = published + delivered + excused + shared.confirmed.load(Ordering::Relaxed);
        if sum != last {
            (last, moved) = (sum, Instant::now());
        } else if moved.elapsed() > load.stall && load.rate.is_none_or(|_| publishing == 0) {
            let seconds = load.stall.as_secs();
            let silent = Fault::Silent { seconds, doing: "publishing" };
            // Nothing more comes: what is missing counts as lost.
            return if publishing > 0 { Err(silent) } else { Ok(()) };
        }
    }
    Ok(())
}

fn conclude(
    shared: &Shared,
    plan: &Plan,
    finished: Vec<Finished>,
    watch: &Watch,
    product: Product,
) -> Result<Outcome, Fault> {
    let mut outcome = Outcome::new(plan, product);
    let mut conns = Vec::new();
    for mut thread in finished {
        outcome.add_cpu(&thread);
        outcome.times.merge(std::mem::take(&mut thread.times));
        outcome.confirm_times.merge(std::mem::take(&mut thread.confirm_times));
        for slot in thread.slots {
            conns.push(match slot.role {
                Role::Publish(publisher) => {
                    outcome.add_publisher(&publisher);
                    (slot.conn, true)
                }
                Role::Consume(consumer) => {
                    outcome.add_consumer(*consumer);
                    (slot.conn, false)
                }
            });
        }
    }
    outcome.publish_ns = shared.last_publish_ns.load(Ordering::Relaxed);
    outcome.deliver_ns = shared.last_delivery_ns.load(Ordering::Relaxed);
    if let (true, Some(queue)) = (plan.consumers.is_empty(), plan.queues.first()) {
        // The answer comes after everything that was published on the same channel.
        for (conn, _) in conns.iter_mut().filter(|(_, publishing)| *publishing) {
            conn.count(queue)?;
        }
        outcome.accepted_ns = Some(shared.now_ns());
    }
    outcome.broker = watch.finish()?;
    outcome.settle(plan);
    conns.into_iter().for_each(|(conn, _)| conn.close());
    Ok(outcome)
}
