//! `throughput`, `fanout` and `topic`: publishers and consumers at full speed, at a rate, or in closed loops.

use super::args::{FlowArgs, QueueArgs, Target};
use super::fault::Fault;
use super::outcome::LoadReport;
use super::ring::Route;
use super::run::{Load, Plan, run};
use super::topology::Topology;
use super::{Report, ReportFlaw};
use clap::Args;

/// Most queues, bindings, keys or connections of a run.
const MANY: i64 = 1_000_000;

/// `throughput`.
#[derive(Debug, Args)]
pub struct ThroughputArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    flow: FlowArgs,
    #[command(flatten)]
    queue: QueueArgs,
    /// Publishing connections
    #[arg(short = 'x', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MANY))]
    publishers: u32,
    /// Consuming connections
    #[arg(short = 'y', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MANY))]
    consumers: u32,
    /// Queues; publishers and consumers are dealt out over them. By default 1, with --connections one per pair
    #[arg(short = 'q', long, value_parser = clap::value_parser!(u32).range(1..=MANY))]
    queues: Option<u32>,
    /// So many connections, half of them publishing and half consuming, instead of -x and -y
    #[arg(long, conflicts_with_all = ["publishers", "consumers"], value_parser = clap::value_parser!(u32).range(2..=MANY))]
    connections: Option<u32>,
    /// Closed loop: at most so many messages per publisher that are not delivered yet (size at least 16, one thread)
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    in_flight: Option<u64>,
}

impl ThroughputArgs {
    /// Runs the mode.
    ///
    /// # Errors
    /// Whatever kept it from being measured.
    pub fn run(&self) -> Result<Report, Fault> {
        let mut load = self.flow.load()?;
        load.in_flight = self.in_flight;
        if load.in_flight.is_some() && (load.body_bytes < 16 || load.threads > 1) {
            return Err(Fault::Usage("--in-flight needs --size 16 or more and one thread".to_owned()));
        }
        let (publishers, consumers) = match self.connections {
            Some(count) => (count / 2, count - count / 2),
            None => (self.publishers, self.consumers),
        };
        let queues = self.queues.unwrap_or(if self.connections.is_some() { publishers } else { 1 });
        let topology = Topology::queues(&self.target.uri, size(queues), &self.queue.spec())?;
        let plan = deal(&topology.queues, size(publishers), size(consumers));
        let setup = serde_json::json!({
            "publishers": publishers, "consumers": consumers, "queues": queues
        });
        measure("throughput", &self.target, &plan, &load, topology, setup)
    }
}

/// `fanout`.
#[derive(Debug, Args)]
pub struct FanoutArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    flow: FlowArgs,
    #[command(flatten)]
    queue: QueueArgs,
    /// Queues bound to the fanout exchange
    #[arg(short = 'q', long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=MANY))]
    queues: u32,
    /// Publishing connections
    #[arg(short = 'x', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MANY))]
    publishers: u32,
    /// Consuming connections, the queues dealt out over them; by default one per queue
    #[arg(short = 'y', long, value_parser = clap::value_parser!(u32).range(1..=MANY))]
    consumers: Option<u32>,
}

impl FanoutArgs {
    /// Runs the mode.
    ///
    /// # Errors
    /// Whatever kept it from being measured.
    pub fn run(&self) -> Result<Report, Fault> {
        let load = self.flow.load()?;
        let spec = self.queue.spec();
        let queues = size(self.queues);
        let topology = Topology::queues(&self.target.uri, queues, &spec)?.exchange(
            "fanout",
            spec.durable,
            (0..queues).map(|queue| (queue, String::new())),
        )?;
        let publishers = size(self.publishers);
        let consumers = self.consumers.map_or(queues, size).min(queues);
        let exchange = topology.exchange.clone().unwrap_or_default();
        let route = |stream| Route { exchange: exchange.clone(), stream, ..Route::default() };
        let plan = Plan {
            publishers: (0..publishers).map(|stream| vec![route(stream)]).collect(),
            consumers: deal_queues(queues, consumers),
            queues: topology.queues.clone(),
            streams: vec![(0..queues).collect(); publishers],
            ..Plan::default()
        };
        let setup = serde_json::json!({
            "publishers": publishers, "consumers": consumers, "queues": queues
        });
        measure("fanout", &self.target, &plan, &load, topology, setup)
    }
}

/// `topic`.
#[derive(Debug, Args)]
pub struct TopicArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    flow: FlowArgs,
    #[command(flatten)]
    queue: QueueArgs,
    /// Bindings of the topic exchange, of the forms bench.N.* and bench.N.# in turn; each message matches one
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=MANY))]
    bindings: u32,
    /// Distinct routing keys, used in turn; by default one per binding
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=MANY))]
    keys: Option<u32>,
    /// Queues, the bindings dealt out over them
    #[arg(short = 'q', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MANY))]
    queues: u32,
    /// Publishing connections
    #[arg(short = 'x', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MANY))]
    publishers: u32,
    /// Consuming connections
    #[arg(short = 'y', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MANY))]
    consumers: u32,
}

impl TopicArgs {
    /// Runs the mode.
    ///
    /// # Errors
    /// Whatever kept it from being measured.
    pub fn run(&self) -> Result<Report, Fault> {
        let load = self.flow.load()?;
        let spec = self.queue.spec();
        let (bindings, queues) = (size(self.bindings), size(self.queues));
        let pattern = |at: usize| format!("bench.{at}.{}", if at.is_multiple_of(2) { '*' } else { '#' });
        let topology = Topology::queues(&self.target.uri, queues, &spec)?.exchange(
            "topic",
            spec.durable,
            (0..bindings).map(|at| (at % queues, pattern(at))),
        )?;
        let (publishers, keys) = (size(self.publishers), size(self.keys.unwrap_or(self.bindings)));
        let exchange = topology.exchange.clone().unwrap_or_default();
        let routes = |publisher: usize| {
            let route = |key: usize| Route {
                exchange: exchange.clone(),
                key: format!("bench.{}.{key}", key % bindings),
                stream: publisher * queues + key % bindings % queues,
                keyed: false,
            };
            (0..keys).map(route).collect()
        };
        let consumers = size(self.consumers);
        let plan = Plan {
            publishers: (0..publishers).map(routes).collect(),
            consumers: deal_queues(queues, consumers),
            queues: topology.queues.clone(),
            streams: (0..publishers * queues).map(|stream| vec![stream % queues]).collect(),
            ..Plan::default()
        };
        let setup = serde_json::json!({
            "publishers": publishers, "consumers": consumers, "queues": queues,
            "bindings": bindings, "keys": keys
        });
        measure("topic", &self.target, &plan, &load, topology, setup)
    }
}

/// A plan over the default exchange: with fewer publishers than queues each takes several in turn, and so the consumers.
pub fn deal(queues: &[String], publishers: usize, consumers: usize) -> Plan {
    let mut plan = Plan { consumers: deal_queues(queues.len(), consumers), queues: queues.to_vec(), ..Plan::default() };
    for targets in deal_queues(queues.len(), publishers) {
        let mut routes = Vec::new();
        for queue in targets {
            routes.push(Route { key: queues[queue].clone(), stream: plan.streams.len(), ..Route::default() });
            plan.streams.push(vec![queue]);
        }
        plan.publishers.push(routes);
    }
    plan
}

/// The queues of each of `parties`: every queue has a party and every party a queue.
fn deal_queues(queues: usize, parties: usize) -> Vec<Vec<usize>> {
    (0..parties)
        .map(|party| if parties >= queues { vec![party % queues] } else { (party..queues).step_by(parties).collect() })
        .collect()
}

/// Runs a plan and removes what was declared for it.
///
/// # Errors
/// Whatever kept it from being measured.
pub fn measure(
    mode: &'static str,
    target: &Target,
    plan: &Plan,
    load: &Load,
    topology: Topology,
    setup: serde_json::Value,
) -> Result<Report, Fault> {
    let progress = load.progress(mode, plan.copies());
    let outcome = run(&target.uri, plan, load, target.process()?, &progress);
    progress.finish();
    topology.remove();
    let outcome = outcome?;
    let flaw = (!outcome.sound()).then_some(ReportFlaw::MESSAGES);
    Report::new(mode, &outcome.product, setup, &LoadReport::new(&outcome, load.body_bytes), flaw)
}

/// An option's number as a size.
pub fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_dealt_out_so_that_nobody_is_idle() {
        assert_eq!(deal_queues(1, 3), [[0], [0], [0]]);
        assert_eq!(deal_queues(3, 2), [vec![0, 2], vec![1]]);
        assert_eq!(deal_queues(2, 2), [[0], [1]]);
    }

    #[test]
    fn every_pair_of_publisher_and_queue_is_a_stream() {
        let names: Vec<_> = (0..3).map(|at| format!("q{at}")).collect();
        let plan = deal(&names, 2, 1);
        assert_eq!(plan.streams, [[0], [2], [1]]);
        assert_eq!(plan.publishers[0].len(), 2);
        assert_eq!((plan.publishers[1][0].stream, plan.publishers[1][0].key.as_str()), (2, "q1"));
        assert_eq!((plan.consumers, plan.streams.len()), (vec![vec![0, 1, 2]], 3));
    }
}
