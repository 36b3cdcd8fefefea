//! What a load run found: counts, times, and whether every message arrived once and in order.

use super::conn::Product;
use super::consumer::{Consumer, Tally, Track};
use super::publisher::Publisher;
use super::run::Plan;
use super::sequences::Sequences;
use super::times::{Percentiles, Times};
use super::usage::{BrokerUse, Memory};
use super::worker::{Finished, Role};
use serde::Serialize;
use std::collections::BTreeMap;

/// The raw result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Who was measured.
    pub product: Product,
    /// Messages per stream: published now, and before this run.
    pub streams: Vec<u64>,
    /// Messages published.
    pub published: u64,
    /// Accepted by a confirm.
    pub confirmed: u64,
    /// Refused by a confirm.
    pub refused: u64,
    /// Returned as unroutable.
    pub returned: u64,
    /// How often the broker said `connection.blocked`.
    pub blocked: u64,
    /// Counts of the consumers.
    pub tally: Tally,
    /// Published and never delivered.
    pub lost: u64,
    /// Delivered from a queue that the stream does not go to.
    pub misrouted: u64,
    /// From the start to the last message handed to a socket.
    pub publish_ns: u64,
    /// From the start to the last delivery.
    pub deliver_ns: u64,
    /// From the start until the broker had taken everything, in a run without consumers.
    pub accepted_ns: Option<u64>,
    /// From publish to delivery.
    pub times: Times,
    /// From publish to confirm.
    pub confirm_times: Times,
    /// What the broker used.
    pub broker: Option<BrokerUse>,
    publish_cpu_ns: Option<u64>,
    consume_cpu_ns: Option<u64>,
    tracks: Vec<Track>,
    consumers: u64,
}

impl Outcome {
    /// Nothing yet.
    pub fn new(plan: &Plan, product: Product) -> Self {
        let mut streams = plan.waiting.clone();
        streams.resize(plan.streams.len(), 0);
        Self {
            product,
            streams,
            published: 0,
            confirmed: 0,
            refused: 0,
            returned: 0,
            blocked: 0,
            tally: Tally::default(),
            lost: 0,
            misrouted: 0,
            publish_ns: 0,
            deliver_ns: 0,
            accepted_ns: None,
            times: Times::default(),
            confirm_times: Times::default(),
            broker: None,
            publish_cpu_ns: Some(0),
            consume_cpu_ns: Some(0),
            tracks: Vec::new(),
            consumers: 0,
        }
    }

    /// Adds the processor time of a thread. One that both publishes and consumes counts as publishing.
    pub fn add_cpu(&mut self, thread: &Finished) {
        let publishes = thread.slots.iter().any(|slot| matches!(slot.role, Role::Publish(_)));
        let sum = if publishes { &mut self.publish_cpu_ns } else { &mut self.consume_cpu_ns };
        *sum = sum.zip(thread.cpu_ns).map(|(sum, more)| sum + more);
    }

    /// Adds what a publisher did.
    pub fn add_publisher(&mut self, publisher: &Publisher) {
        for (stream, count) in publisher.streams() {
            self.streams[*stream] += count;
        }
        self.published += publisher.sent;
        self.returned += publisher.returned;
        self.blocked += publisher.blocks;
        if let Some(window) = &publisher.window {
            self.confirmed += window.accepted;
            self.refused += window.refused;
        }
    }

    /// Adds what a consumer got.
    pub fn add_consumer(&mut self, consumer: Consumer) {
        let more = consumer.tally;
        self.tally.delivered += more.delivered;
        self.tally.duplicated += more.duplicated;
        self.tally.out_of_order += more.out_of_order;
        self.tally.redelivered += more.redelivered;
        self.tally.corrupt += more.corrupt;
        self.tracks.extend(consumer.tracks);
        self.consumers += 1;
    }

    /// Compares what was sent with what came, once everything is added.
    pub fn settle(&mut self, plan: &Plan) {
        if self.consumers == 0 {
            return;
        }
        let mut seen: BTreeMap<(usize, usize), Sequences> = BTreeMap::new();
        let mut apart = 0;
        for track in self.tracks.drain(..) {
            apart += track.seen.len();
            seen.entry((track.stream, track.queue)).or_default().merge(track.seen);
        }
        let together: u64 = seen.values().map(Sequences::len).sum();
        // The same message at two consumers.
        self.tally.duplicated += apart - together;
        for ((stream, queue), sequences) in &seen {
            if plan.streams.get(*stream).is_none_or(|queues| !queues.contains(queue)) {
                self.misrouted += sequences.len();
            }
        }
        let expected = self.streams.iter().sum::<u64>().saturating_sub(self.refused + self.returned);
        let stamped = together > 0;
        let arrived = if stamped { together } else { self.tally.delivered };
        self.lost = (expected * plan.copies()).saturating_sub(arrived);
        if !stamped {
            // Without stamps a surplus is all that can be seen.
            self.tally.duplicated += arrived.saturating_sub(expected * plan.copies());
        }
    }

    /// Whether every message arrived once, whole and in its order.
    pub fn sound(&self) -> bool {
        let tally = &self.tally;
        self.lost + tally.duplicated + tally.out_of_order + tally.corrupt + self.misrouted == 0
    }
}

/// The result of a run as it is printed.
#[derive(Debug, Serialize)]
pub struct LoadReport {
    /// Messages published.
    pub published: u64,
    /// Messages delivered, all copies.
    pub delivered: u64,
    /// From the start to the last message handed to a socket.
    pub publish_seconds: f64,
    /// Published per second of that.
    pub publish_rate: f64,
    /// From the start to the last delivery.
    pub deliver_seconds: f64,
    /// Delivered per second of that.
    pub deliver_rate: f64,
    /// Accepted by a confirm.
    pub confirmed: u64,
    /// Refused by a confirm.
    pub nacked: u64,
    /// Returned as unroutable.
    pub returned: u64,
    /// How often the broker said `connection.blocked`.
    pub blocked: u64,
    /// Published and never delivered.
    pub lost: u64,
    /// Delivered more than once.
    pub duplicated: u64,
    /// Delivered after a later message of the same publisher and queue.
    pub out_of_order: u64,
    /// Of wrong size, or with a stamp that nobody wrote.
    pub corrupt: u64,
    /// Delivered from the wrong queue.
    pub misrouted: u64,
    /// Flagged as redelivered.
    pub redelivered: u64,
    /// Whether order and identity could be checked: bodies of 16 octets and more carry a stamp.
    pub order_checked: bool,
    /// From publish to delivery.
    pub latency_us: Option<Percentiles>,
    /// From publish to confirm.
    pub confirm_us: Option<Percentiles>,
    /// What the broker used.
    pub broker_use: Option<UseReport>,
    /// What the generator itself took.
    pub generator: GeneratorReport,
}

/// What the broker used, per message.
#[derive(Debug, Serialize)]
pub struct UseReport {
    /// Processor time, user and system, of all its threads.
    pub cpu_seconds: f64,
    /// The same per message.
    pub cpu_us_per_message: f64,
    /// Which messages those are.
    pub per: &'static str,
    /// Its share of the machine: 1 is one core all the time.
    pub cores: f64,
    /// Memory before.
    pub before: Memory,
    /// Peak memory.
    pub peak: Memory,
    /// Memory after.
    pub after: Memory,
}

impl UseReport {
    /// `used` over `messages` of kind `per` in `seconds`.
    pub fn new(used: BrokerUse, messages: u64, per: &'static str, seconds: f64) -> Self {
        Self {
            cpu_seconds: round(used.cpu_seconds, 3),
            cpu_us_per_message: ratio(used.cpu_seconds * 1e6, messages as f64),
            per,
            cores: ratio(used.cpu_seconds, seconds),
            before: used.before,
            peak: used.peak,
            after: used.after,
        }
    }
}

/// Processor time of the generator's own threads.
#[derive(Debug, Serialize)]
pub struct GeneratorReport {
    /// Microseconds per published message.
    pub publish_cpu_us_per_message: Option<f64>,
    /// Microseconds per delivered message; none where one thread does both, which is then counted under publishing.
    pub consume_cpu_us_per_message: Option<f64>,
}

impl LoadReport {
    /// The figures of `outcome`, of messages with `body_bytes`.
    pub fn new(outcome: &Outcome, body_bytes: usize) -> Self {
        let delivered = outcome.tally.delivered;
        let publish_seconds = outcome.publish_ns as f64 / 1e9;
        let deliver_seconds = outcome.deliver_ns as f64 / 1e9;
        let (messages, per) = if outcome.consumers > 0 {
            (delivered, "delivered message")
        } else {
            (outcome.published, "published message")
        };
        let seconds = outcome.accepted_ns.map_or(publish_seconds.max(deliver_seconds), |ns| ns as f64 / 1e9);
        let per_message = |cpu: Option<u64>, count: u64| {
            cpu.filter(|cpu| *cpu > 0 && count > 0).map(|cpu| ratio(cpu as f64 / 1e3, count as f64))
        };
        Self {
            published: outcome.published,
            delivered,
            publish_seconds: round(publish_seconds, 3),
            publish_rate: ratio(outcome.published as f64, publish_seconds).round(),
            deliver_seconds: round(deliver_seconds, 3),
            deliver_rate: ratio(delivered as f64, deliver_seconds).round(),
            confirmed: outcome.confirmed,
            nacked: outcome.refused,
            returned: outcome.returned,
            blocked: outcome.blocked,
            lost: outcome.lost,
            duplicated: outcome.tally.duplicated,
            out_of_order: outcome.tally.out_of_order,
            corrupt: outcome.tally.corrupt,
            misrouted: outcome.misrouted,
            redelivered: outcome.tally.redelivered,
            order_checked: body_bytes >= super::inbound::BODY_HEAD_BYTES && outcome.consumers > 0,
            latency_us: outcome.times.percentiles(),
            confirm_us: outcome.confirm_times.percentiles(),
            broker_use: outcome.broker.map(|used| UseReport::new(used, messages, per, seconds)),
            generator: GeneratorReport {
                publish_cpu_us_per_message: per_message(outcome.publish_cpu_ns, outcome.published),
                consume_cpu_us_per_message: per_message(outcome.consume_cpu_ns, delivered),
            },
        }
    }
}

/// `part` of `whole` with four digits after the point, 0 if there is no whole.
pub fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { round(part / whole, 4) } else { 0.0 }
}

/// Rounds to so many digits after the point.
pub fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}
