//! `backlog`: what a deep queue costs, and how fast it fills and drains.

use super::args::{FlowArgs, QueueArgs, Target};
use super::fault::Fault;
use super::outcome::{GeneratorReport, LoadReport, Outcome, UseReport, ratio, round};
use super::run::{Load, Plan, run};
use super::throughput::{deal, size};
use super::topology::Topology;
use super::usage::{Memory, Process};
use super::{Report, ReportFlaw};
use crate::cli::time::whole_seconds;
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// Messages unless told otherwise.
const MESSAGES: u64 = 1_000_000;

/// `backlog`.
#[derive(Debug, Args)]
pub struct BacklogArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    flow: FlowArgs,
    #[command(flatten)]
    queue: QueueArgs,
    /// Queues, publishers and consumers are dealt out over them
    #[arg(short = 'q', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    queues: u32,
    /// Publishing connections
    #[arg(short = 'x', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    publishers: u32,
    /// Consuming connections
    #[arg(short = 'y', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    consumers: u32,
    /// Seconds between the last publish and the look at the broker's memory
    #[arg(long, default_value_t = 2, value_name = "TIME", value_parser = whole_seconds::<u32, 0, 3600>)]
    settle: u32,
    /// Drain the queues one after the other instead of all at once
    #[arg(long)]
    one_by_one: bool,
}

#[derive(Debug, Serialize)]
struct BacklogReport {
    messages: u64,
    in_seconds: f64,
    in_rate: f64,
    out_seconds: f64,
    out_rate: f64,
    lost: u64,
    duplicated: u64,
    out_of_order: u64,
    corrupt: u64,
    misrouted: u64,
    nacked: u64,
    memory_before: Option<Memory>,
    memory_full: Option<Memory>,
    memory_drained: Option<Memory>,
    rss_bytes_per_message: Option<f64>,
    anon_bytes_per_message: Option<f64>,
    in_use: Option<UseReport>,
    out_use: Option<UseReport>,
    generator_in: GeneratorReport,
    generator_out: GeneratorReport,
}

/// The halves of the measurement.
struct Halves {
    filled: Outcome,
    full: Option<Memory>,
    drained: Drained,
}

/// One or more draining runs, added up.
struct Drained {
    report: LoadReport,
    lost: u64,
    sound: bool,
}

impl BacklogArgs {
    /// Runs the mode.
    ///
    /// # Errors
    /// Whatever kept it from being measured.
    pub fn run(&self) -> Result<Report, Fault> {
        let mut load = self.flow.load()?;
        load.messages = Some(load.messages.unwrap_or(MESSAGES));
        if load.rate.is_some() {
            return Err(Fault::Usage("backlog runs at full speed: no --rate".to_owned()));
        }
        let process = self.target.process()?;
        let topology = Topology::queues(&self.target.uri, size(self.queues), &self.queue.spec())?;
        let halves = self.measure(&load, process, &topology);
        topology.remove();
        let halves = halves?;
        let flaw = (!halves.drained.sound).then_some(ReportFlaw::MESSAGES);
        let setup = serde_json::json!({
            "publishers": self.publishers, "consumers": self.consumers, "queues": self.queues,
            "size": load.body_bytes, "one_by_one": self.one_by_one
        });
        let product = halves.filled.product.clone();
        Report::new("backlog", &product, setup, &halves.report(&load), flaw)
    }

    fn measure(&self, load: &Load, process: Option<Process>, topology: &Topology) -> Result<Halves, Fault> {
        let uri = &self.target.uri;
        let whole = deal(&topology.queues, size(self.publishers), size(self.consumers));
        let fill = Plan { consumers: Vec::new(), ..whole.clone() };
        let progress = load.progress("fill", 1);
        let filled = run(uri, &fill, load, process, &progress);
        progress.finish();
        let filled = filled?;
        std::thread::sleep(Duration::from_secs(u64::from(self.settle)));
        let full = process.map(Process::memory).transpose()?;
        let drain = Plan { publishers: Vec::new(), waiting: filled.streams.clone(), ..whole };
        let mut drained: Option<Drained> = None;
        let progress = load.progress("drain", 1);
        for plan in self.drains(drain) {
            let outcome = run(uri, &plan, load, process, &progress)?;
            let next = Drained {
                report: LoadReport::new(&outcome, load.body_bytes),
                lost: outcome.lost,
                sound: outcome.sound(),
            };
            drained = Some(match drained {
                None => next,
                Some(before) => before.and(next),
            });
        }
        progress.finish();
        let drained = drained.ok_or_else(|| Fault::Usage("nothing to drain".to_owned()))?;
        Ok(Halves { filled, full, drained })
    }

    /// The draining runs: one over all queues, or one per queue.
    fn drains(&self, all: Plan) -> Vec<Plan> {
        if !self.one_by_one {
            return vec![all];
        }
        (0..all.queues.len())
            .map(|queue| {
                let waits = |(stream, count): (usize, &u64)| {
                    if all.streams[stream].contains(&queue) { *count } else { 0 }
                };
                Plan {
                    consumers: vec![vec![queue]; size(self.consumers)],
                    waiting: all.waiting.iter().enumerate().map(waits).collect(),
                    ..all.clone()
                }
            })
            .collect()
    }
}

impl Drained {
    fn and(mut self, next: Self) -> Self {
        let (sum, more) = (&mut self.report, &next.report);
        sum.delivered += more.delivered;
        sum.deliver_seconds += more.deliver_seconds;
        sum.deliver_rate = ratio(sum.delivered as f64, sum.deliver_seconds).round();
        sum.duplicated += more.duplicated;
        sum.out_of_order += more.out_of_order;
        sum.corrupt += more.corrupt;
        sum.misrouted += more.misrouted;
        if let (Some(sum_use), Some(more_use)) = (&mut sum.broker_use, &more.broker_use) {
            sum_use.cpu_seconds = round(sum_use.cpu_seconds + more_use.cpu_seconds, 3);
            sum_use.cpu_us_per_message = ratio(sum_use.cpu_seconds * 1e6, sum.delivered as f64);
            sum_use.cores = ratio(sum_use.cpu_seconds, sum.deliver_seconds);
            sum_use.after = more_use.after;
        }
        self.lost += next.lost;
        self.sound &= next.sound;
        self
    }
}

impl Halves {
    fn report(self, load: &Load) -> BacklogReport {
        let Self { filled, full, drained } = self;
        let before = filled.broker.map(|used| used.before);
        let per_message = |kib: fn(&Memory) -> u64| {
            let grown = kib(full.as_ref()?) as f64 - kib(before.as_ref()?) as f64;
            Some(round(grown * 1024.0 / filled.published.max(1) as f64, 2))
        };
        let in_seconds = filled.accepted_ns.unwrap_or(filled.publish_ns) as f64 / 1e9;
        let filling = LoadReport::new(&filled, load.body_bytes);
        let out = drained.report;
        BacklogReport {
            messages: filled.published,
            in_seconds: round(in_seconds, 3),
            in_rate: ratio(filled.published as f64, in_seconds).round(),
            out_seconds: round(out.deliver_seconds, 3),
            out_rate: out.deliver_rate,
            lost: drained.lost,
            duplicated: out.duplicated,
            out_of_order: out.out_of_order,
            corrupt: out.corrupt,
            misrouted: out.misrouted,
            nacked: filled.refused,
            memory_before: before,
            memory_full: full,
            memory_drained: out.broker_use.as_ref().map(|used| used.after),
            rss_bytes_per_message: per_message(|memory| memory.rss_kib),
            anon_bytes_per_message: per_message(|memory| memory.anon_kib),
            in_use: filling.broker_use,
            out_use: out.broker_use,
            generator_in: filling.generator,
            generator_out: out.generator,
        }
    }
}
