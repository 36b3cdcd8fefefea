//! `services throughput`: publishers send to a service by selector, instances take what matches them.

use super::Report;
use super::args::{FlowArgs, QueueArgs, Target};
use super::fault::Fault;
use super::ring::Route;
use super::run::{Plan, Table};
use super::throughput::{measure, size};
use super::topology::Topology;
use clap::Args;
use serde_json::json;

/// Most instances and selectors of a run.
const MANY: i64 = 10_000;
/// In so many messages per selector the share of keyed ones is exact.
const ROUNDS: usize = 100;

/// `services throughput`.
#[derive(Debug, Args)]
pub struct ThroughputArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    flow: FlowArgs,
    /// Declare a durable mailbox
    #[arg(long)]
    durable: bool,
    /// Instances, each a connection of its own
    #[arg(short = 'y', long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=MANY))]
    instances: u32,
    /// Selectors, used in turn: by tag, by metadata, by version. 0 for messages that any instance may take
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=MANY))]
    selectors: u32,
    /// Per cent of the messages that have a key, each a key of its own
    #[arg(long, default_value_t = 10, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    keyed: u32,
    /// Publishing connections
    #[arg(short = 'x', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MANY))]
    publishers: u32,
}

impl ThroughputArgs {
    /// Runs the mode.
    ///
    /// # Errors
    /// Whatever kept it from being measured.
    pub fn run(&self) -> Result<Report, Fault> {
        let load = self.flow.load()?;
        let (instances, selectors) = (size(self.instances), size(self.selectors));
        if selectors > instances {
            return Err(Fault::Usage(
                "every selector needs an instance: --selectors is more than --instances".to_owned(),
            ));
        }
        let topology = Topology::mailbox(&self.target.uri, &QueueArgs::of(self.durable, None).spec())?;
        let plan = self.plan(&topology.prefix, &topology.queues);
        let setup = json!({
            "publishers": self.publishers, "instances": instances, "selectors": selectors, "keyed_percent": self.keyed
        });
        measure("services", &self.target, &plan, &load, topology, setup)
    }

    fn plan(&self, service: &str, queues: &[String]) -> Plan {
        let (publishers, selectors) = (size(self.publishers), size(self.selectors));
        let lanes = selectors.max(1);
        // Keyed messages wait for the owner of their key, so that others overtake them.
        let ordered = publishers * lanes;
        let routes = |publisher: usize| {
            let route = |at: usize| {
                let (lane, round) = (at % lanes, at / lanes % ROUNDS);
                let keyed = round * size(self.keyed) % ROUNDS < size(self.keyed);
                let key = if selectors == 0 { service.to_owned() } else { format!("{service}?{}", selector(lane)) };
                let stream = if keyed { ordered + publisher } else { publisher * lanes + lane };
                Route { exchange: "amq.services".to_owned(), key, stream, keyed }
            };
            (0..lanes * ROUNDS).map(route).collect()
        };
        Plan {
            publishers: (0..publishers).map(routes).collect(),
            consumers: vec![vec![0]; size(self.instances)],
            queues: queues.to_vec(),
            streams: vec![vec![0]; ordered + publishers],
            consumer_arguments: (0..size(self.instances)).map(|at| arguments(at, lanes)).collect(),
            ordered_streams: Some(ordered),
            ..Plan::default()
        }
    }
}

/// The kinds of selectors take turns.
fn selector(lane: usize) -> String {
    match lane % 3 {
        0 => format!("tag=t{lane}"),
        1 => format!("meta-lane=l{lane}"),
        _ => format!("version=^{}", lane + 1),
    }
}

/// Instance `at` matches the selector of one lane, and every selector has instances.
fn arguments(at: usize, lanes: usize) -> Table {
    let lane = at % lanes;
    let who = json!({
        "id": format!("bench-{at}"), "version": format!("{}.0.0", lane + 1), "tags": [format!("t{lane}"), "bench"],
        "meta": {"lane": format!("l{lane}")}, "zone": format!("zone-{}", at % 3)
    });
    Table::from_iter([("x-service".to_owned(), who)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ThroughputArgs,
    }

    fn plan(line: &str) -> Plan {
        let args = Line::try_parse_from(["bench"].into_iter().chain(line.split_whitespace())).unwrap().args;
        args.plan("s", &["s-queue".to_owned()])
    }

    #[test]
    fn a_tenth_is_keyed_and_every_lane_has_its_share() {
        let plan = plan("-y 50 --selectors 20 --keyed 10 -x 2");
        for routes in &plan.publishers {
            assert_eq!(routes.iter().filter(|r| r.keyed).count() * 10, routes.len());
            for lane in 0..20 {
                let here = routes.iter().filter(|r| r.key == format!("s?{}", selector(lane)));
                assert_eq!(here.filter(|r| r.keyed).count(), 10);
            }
        }
        assert_eq!((plan.consumers.len(), plan.consumer_arguments.len()), (50, 50));
        assert!(plan.publishers[1].iter().all(|r| r.keyed == (r.stream >= plan.ordered_streams.unwrap())));
    }

    #[test]
    fn without_selectors_and_keys_it_is_a_plain_queue() {
        let plan = plan("-y 1 --selectors 0 --keyed 0");
        assert!(plan.publishers[0].iter().all(|r| r.key == "s" && !r.keyed && r.stream == 0));
    }
}
