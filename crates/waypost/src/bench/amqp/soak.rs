//! `soak`: full load for a long time while consumers come and go, after which nothing may be left behind: no message, and
//! no memory.

use super::args::{FlowArgs, QueueArgs, Target};
use super::conn::{Conn, put_consume};
use super::fault::Fault;
use super::outcome::{LoadReport, Outcome};
use super::run::{Load, Table, run};
use super::throughput::{deal, size};
use super::topology::Topology;
use super::uri::Uri;
use super::usage::{Process, allow_sockets};
use super::{Report, ReportFlaw};
use clap::Args;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Messages that a visitor takes at most, and gives back when it goes.
const VISITOR_PREFETCH: u16 = 100;
/// How many looks at the memory there are in a run, about.
const LOOKS: u32 = 200;
/// Memory may grow by this part of what it was, or by [`GROWTH_KIB_MIN`] if that is more.
const GROWTH_PERCENT_MAX: u64 = 10;
/// What an allocator keeps one time and not another, KiB.
const GROWTH_KIB_MIN: u64 = 16 * 1024;
/// How long queues may take to become empty once all has been delivered.
const EMPTY_TIME: Duration = Duration::from_secs(10);

/// `soak`.
#[derive(Debug, Args)]
pub struct SoakArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    flow: FlowArgs,
    #[command(flatten)]
    queue: QueueArgs,
    /// Queues; publishers, consumers and visitors are dealt out over them
    #[arg(short = 'q', long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    queues: u32,
    /// Publishing connections
    #[arg(short = 'x', long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    publishers: u32,
    /// Consuming connections that stay
    #[arg(short = 'y', long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    consumers: u32,
    /// Consuming connections that come, take messages, and go without having acknowledged any, again and again
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    visitors: u32,
    /// How long a visitor stays, in milliseconds
    #[arg(long, default_value_t = 200, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    stay: u64,
}

/// What was left behind, and what happened meanwhile.
#[derive(Debug, Serialize)]
struct SoakReport {
    #[serde(flatten)]
    load: LoadReport,
    /// How often a visitor came.
    visits: u64,
    /// Messages in the queues at the end.
    left: u64,
    /// Mean private memory in the second fifth of the run, KiB; the first is for warming up.
    early_kib: u64,
    /// The same in the last fifth.
    late_kib: u64,
    /// Whether the second is not much more than the first.
    flat: bool,
}

impl SoakArgs {
    /// Runs the mode.
    ///
    /// # Errors
    /// Whatever kept it from being measured.
    pub fn run(&self) -> Result<Report, Fault> {
        let mut load = self.flow.load()?;
        if load.messages.take().is_some() {
            return Err(Fault::Usage("soak goes by --time".to_owned()));
        }
        let process = self.target.process()?;
        let process = process.ok_or_else(|| Fault::Usage("soak looks at the memory: it needs --broker-pid".into()))?;
        allow_sockets(u64::from(self.publishers) + u64::from(self.consumers) + u64::from(self.visitors))?;
        let topology = Topology::queues(&self.target.uri, size(self.queues), &self.queue.spec())?;
        let soaked = self.soak(&load, process, &topology.queues);
        topology.remove();
        let (outcome, report) = soaked?;
        let flaw = match () {
            () if !outcome.sound() => Some(ReportFlaw::MESSAGES),
            () if report.left > 0 => Some(ReportFlaw("queues are not empty at the end: see left")),
            () if !report.flat => Some(ReportFlaw("the broker's memory grew: see early_kib and late_kib")),
            () => None,
        };
        let setup = serde_json::json!({
            "publishers": self.publishers, "consumers": self.consumers, "queues": self.queues,
            "visitors": self.visitors, "stay_ms": self.stay
        });
        Report::new("soak", &outcome.product, setup, &report, flaw)
    }

    fn soak(&self, load: &Load, process: Process, queues: &[String]) -> Result<(Outcome, SoakReport), Fault> {
        let mut plan = deal(queues, size(self.publishers), size(self.consumers));
        // What a visitor gives back comes later than what came after it.
        plan.ordered_streams = (self.visitors > 0).then_some(0);
        let (uri, visits, done) = (&self.target.uri, AtomicU64::new(0), AtomicBool::new(false));
        let stay = Duration::from_millis(self.stay);
        let progress = load.progress("soak", 1);
        let (outcome, looks) = std::thread::scope(|scope| {
            let visitors: Vec<_> = (0..size(self.visitors))
                .map(|n| {
                    let (queue, visits) = (&queues[n % queues.len()], &visits);
                    scope.spawn(move || visit(uri, queue, stay, load.time, visits))
                })
                .collect();
            let looks = scope.spawn(|| look(process, load.time, &done));
            let outcome = run(uri, &plan, load, Some(process), &progress);
            done.store(true, Ordering::Relaxed);
            let looks = looks.join().unwrap_or(Err(Fault::Panicked));
            let outcome = outcome?;
            for visitor in visitors {
                visitor.join().unwrap_or(Err(Fault::Panicked))?;
            }
            Ok::<_, Fault>((outcome, looks?))
        })?;
        progress.finish();
        let left = left(uri, queues)?;
        let (early_kib, late_kib) = (mean(&looks, 1), mean(&looks, 4));
        let flat = late_kib <= early_kib + (early_kib * GROWTH_PERCENT_MAX / 100).max(GROWTH_KIB_MIN);
        let (load, visits) = (LoadReport::new(&outcome, load.body_bytes), visits.into_inner());
        Ok((outcome, SoakReport { load, visits, left, early_kib, late_kib, flat }))
    }
}

/// Comes and goes for as long as messages are published; every other time without a good-bye.
fn visit(uri: &Uri, queue: &str, stay: Duration, time: Duration, visits: &AtomicU64) -> Result<(), Fault> {
    let started = Instant::now();
    let mut consume = Vec::new();
    put_consume(&mut consume, queue, "visitor", false, &Table::new())?;
    while started.elapsed() + stay < time {
        let mut conn = Conn::open_channel(uri)?;
        conn.prefetch(VISITOR_PREFETCH)?;
        conn.send(&consume)?;
        std::thread::sleep(stay);
        if visits.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            conn.close();
        }
    }
    Ok(())
}

/// Looks at the memory until the time is over.
fn look(process: Process, time: Duration, done: &AtomicBool) -> Result<Vec<u64>, Fault> {
    let (started, mut looks) = (Instant::now(), Vec::new());
    while started.elapsed() < time && !done.load(Ordering::Relaxed) {
        looks.push(process.memory()?.anon_kib);
        std::thread::sleep(time / LOOKS);
    }
    Ok(looks)
}

/// The mean of the `nth` fifth.
fn mean(looks: &[u64], nth: usize) -> u64 {
    let part = looks.get(looks.len() * nth / 5..looks.len() * (nth + 1) / 5).unwrap_or_default();
    part.iter().sum::<u64>() / part.len().max(1) as u64
}

/// How many messages wait in the queues, once that no longer changes.
fn left(uri: &Uri, queues: &[String]) -> Result<u64, Fault> {
    let started = Instant::now();
    let mut conn = Conn::open_channel(uri)?;
    loop {
        let mut left = 0;
        for queue in queues {
            left += u64::from(conn.count(queue)?);
        }
        if left == 0 || started.elapsed() > EMPTY_TIME {
            conn.close();
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::mean;

    #[test]
    fn means_are_those_of_the_fifths() {
        let looks: Vec<u64> = (0..10).collect();
        assert_eq!((mean(&looks, 0), mean(&looks, 1), mean(&looks, 4)), (0, 2, 8));
        assert_eq!(mean(&[], 4), 0);
    }
}
