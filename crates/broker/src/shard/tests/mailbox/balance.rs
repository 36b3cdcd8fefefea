//! How work is shared where instances differ: a simulation in virtual time, of one service with ten instances of which
//! one is ten times slower, at 70 % of what they can do together.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use waypost_model::{ConsumerId, Millis};

use super::super::world::World;
use super::{instance, mailbox, prefetch};

const INSTANCES: usize = 10;
const MESSAGES: usize = 120_000;
/// Mean time that a message takes, µs; that of the slow one.
const FAST_US: f64 = 10_000.0;
const SLOW_US: f64 = 100_000.0;
const LOAD: f64 = 0.7;

/// Xorshift, and what is made of it.
struct Chance(u64);

impl Chance {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) as f64 + 1.0) / (1u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.unit().ln()
    }
}

#[derive(Default)]
struct Worker {
    queue: VecDeque<u64>,
    mean: f64,
}

/// Completion times, µs, sorted.
fn simulate(prefetched: u32, seed: u64) -> Vec<u64> {
    let mut w: World = mailbox(|_| {});
    let mut chance = Chance(seed);
    let mut workers: BTreeMap<ConsumerId, Worker> = BTreeMap::new();
    for i in 0..INSTANCES {
        let consumer = w.join(instance(&format!("i{i}")), prefetch(prefetched));
        let mean = if i == 0 { SLOW_US } else { FAST_US };
        workers.insert(consumer, Worker { mean, ..Worker::default() });
    }
    let rate = ((INSTANCES - 1) as f64 / FAST_US + 1.0 / SLOW_US) * LOAD;
    // What ends when, and where; arrivals are in between.
    let mut ends: BinaryHeap<Reverse<(u64, ConsumerId)>> = BinaryHeap::new();
    let mut came = Vec::with_capacity(MESSAGES);
    let mut took = Vec::with_capacity(MESSAGES);
    let mut arrival = chance.exponential(1.0 / rate) as u64;
    while took.len() < MESSAGES {
        let end = ends.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
        let now = if came.len() < MESSAGES { arrival.min(end) } else { end };
        w.now = Millis(1_000_000 + now / 1000);
        if now == end {
            let Some(Reverse((_, consumer))) = ends.pop() else { break };
            let worker = workers.get_mut(&consumer).unwrap();
            let seq = worker.queue.pop_front().unwrap();
            took.push(now - came[seq as usize]);
            if !worker.queue.is_empty() {
                ends.push(Reverse((now + chance.exponential(worker.mean) as u64, consumer)));
            }
            w.ack(consumer, seq, 1);
        } else {
            came.push(now);
            w.send(&["m"], "");
            arrival = now + chance.exponential(1.0 / rate) as u64;
        }
        for d in w.deliveries() {
            let worker = workers.get_mut(&d.consumer).unwrap();
            for i in 0..u64::from(d.count) {
                if worker.queue.is_empty() {
                    ends.push(Reverse((now + chance.exponential(worker.mean) as u64, d.consumer)));
                }
                worker.queue.push_back(d.first.0 + i);
            }
        }
    }
    took.sort_unstable();
    took
}

fn percentile_ms(sorted: &[u64], per_mille: usize) -> f64 {
    sorted[(sorted.len() - 1) * per_mille / 1000] as f64 / 1000.0
}

#[test]
fn a_slow_instance_holds_nobody_up() {
    let all = simulate(10, 7);
    let (p50, p99, p999) = (percentile_ms(&all, 500), percentile_ms(&all, 990), percentile_ms(&all, 999));
    eprintln!("prefetch 10: p50 {p50:.1} p99 {p99:.1} p99.9 {p999:.1} ms");
    assert!(p99 <= 60.0 && p999 <= 100.0, "p99 {p99} p99.9 {p999}");
}

#[test]
fn with_one_message_at_a_time_a_slow_instance_is_used_last() {
    let all = simulate(1, 7);
    let (p50, p99, p999) = (percentile_ms(&all, 500), percentile_ms(&all, 990), percentile_ms(&all, 999));
    eprintln!("prefetch 1: p50 {p50:.1} p99 {p99:.1} p99.9 {p999:.1} ms");
    assert!(p999 <= 260.0, "p99.9 {p999}");
}
