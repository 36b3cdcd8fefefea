//! `declare`: how fast queues are made and removed, and what one costs.

use super::Report;
use super::args::{QueueArgs, Target};
use super::conn::{Conn, QueueSpec, control, put_declare, put_delete};
use super::fault::Fault;
use super::inbound::{Confirm, Delivery, Sink};
use super::outcome::{ratio, round};
use super::progress::{Goal, Progress};
use super::topology::prefix;
use super::usage::{Memory, Process};
use super::wire::{
    Args as Arguments, MethodId, QUEUE_DECLARE, QUEUE_DECLARE_OK, QUEUE_DELETE, QUEUE_DELETE_OK, put_method,
};
use crate::cli::time::whole_seconds;
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};

/// `declare`.
#[derive(Debug, Args)]
pub struct DeclareArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    queue: QueueArgs,
    /// Queues to declare
    #[arg(short = 'n', long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,
    /// Declares that are sent before the first is answered
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    window: u32,
    /// Seconds between the last declare and the look at the broker's memory
    #[arg(long, default_value_t = 1, value_name = "TIME", value_parser = whole_seconds::<u32, 0, 3600>)]
    settle: u32,
    /// Leave the queues in place, and say what they are called
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Serialize)]
struct DeclareReport {
    queues: u32,
    names: Option<String>,
    declare_seconds: f64,
    declare_rate: f64,
    delete_seconds: Option<f64>,
    delete_rate: Option<f64>,
    declare_cpu_us_per_queue: Option<f64>,
    memory_before: Option<Memory>,
    memory_declared: Option<Memory>,
    memory_deleted: Option<Memory>,
    rss_bytes_per_queue: Option<f64>,
    anon_bytes_per_queue: Option<f64>,
}

impl DeclareArgs {
    /// Runs the mode.
    ///
    /// # Errors
    /// A refusal of the broker.
    pub fn run(&self) -> Result<Report, Fault> {
        let process = self.target.process()?;
        let mut conn = Conn::open_channel(&self.target.uri)?;
        let prefix = prefix();
        let name = |at: u32| format!("{prefix}-{at}");
        let spec = self.queue.spec();
        let before = process.map(Process::memory).transpose()?;
        let cpu_before = process.map(Process::cpu_seconds).transpose()?;
        let declared_in = self.declare_all(&mut conn, &name, &spec)?;
        let cpu_after = process.map(Process::cpu_seconds).transpose()?;
        std::thread::sleep(Duration::from_secs(u64::from(self.settle)));
        let declared = process.map(Process::memory).transpose()?;
        let deleted_in = match self.keep {
            true => None,
            false => Some(self.delete_all(&mut conn, &name)?),
        };
        let count = f64::from(self.count);
        let grown = |kib: fn(&Memory) -> u64| {
            let kib = kib(declared.as_ref()?) as f64 - kib(before.as_ref()?) as f64;
            Some(round(kib * 1024.0 / count, 1))
        };
        let figures = DeclareReport {
            queues: self.count,
            names: self.keep.then(|| format!("{} to {}", name(0), name(self.count - 1))),
            declare_seconds: round(declared_in, 3),
            declare_rate: ratio(count, declared_in).round(),
            delete_seconds: deleted_in.map(|seconds| round(seconds, 3)),
            delete_rate: deleted_in.map(|seconds| ratio(count, seconds).round()),
            declare_cpu_us_per_queue: cpu_after
                .zip(cpu_before)
                .map(|(after, before)| ratio((after - before) * 1e6, count)),
            memory_before: before,
            memory_declared: declared,
            memory_deleted: process.map(Process::memory).transpose()?,
            rss_bytes_per_queue: grown(|memory| memory.rss_kib),
            anon_bytes_per_queue: grown(|memory| memory.anon_kib),
        };
        let product = conn.product.clone();
        conn.close();
        let setup = serde_json::json!({"durable": spec.durable, "window": self.window});
        Report::new("declare", &product, setup, &figures, None)
    }

    fn declare_all(&self, conn: &mut Conn, name: &impl Fn(u32) -> String, spec: &QueueSpec) -> Result<f64, Fault> {
        self.pipeline(conn, "declare", QUEUE_DECLARE_OK, |out, at| {
            put_method(out, 1, QUEUE_DECLARE, |out| put_declare(out, &name(at), spec))
        })
    }

    fn delete_all(&self, conn: &mut Conn, name: &impl Fn(u32) -> String) -> Result<f64, Fault> {
        self.pipeline(conn, "delete", QUEUE_DELETE_OK, |out, at| {
            put_method(out, 1, QUEUE_DELETE, |out| put_delete(out, &name(at)))
        })
    }

    /// Sends one method per queue, `window` ahead of the answers; the seconds that it took.
    fn pipeline(
        &self,
        conn: &mut Conn,
        doing: &'static str,
        answer: MethodId,
        put: impl Fn(&mut Vec<u8>, u32) -> Result<(), Fault>,
    ) -> Result<f64, Fault> {
        let progress = Progress::new(doing, Goal::Count(u64::from(self.count)));
        let mut answers = Answers { wanted: answer, count: 0 };
        let (mut out, mut sent) = (Vec::new(), 0);
        let start = Instant::now();
        while answers.count < self.count {
            out.clear();
            while sent < self.count && sent - answers.count < self.window {
                put(&mut out, sent)?;
                sent += 1;
            }
            conn.send(&out)?;
            let before = answers.count;
            conn.wait_until(&mut answers, |answers| answers.count > before)?;
            progress.step(u64::from(answers.count));
        }
        progress.finish();
        Ok(start.elapsed().as_secs_f64())
    }
}

struct Answers {
    wanted: MethodId,
    count: u32,
}

impl Sink for Answers {
    fn delivery(&mut self, _: &Delivery) {}
    fn confirm(&mut self, _: Confirm) {}
    fn returned(&mut self) {}

    fn method(&mut self, _: u16, id: MethodId, args: Arguments<'_>) -> Result<(), Fault> {
        if id == self.wanted {
            self.count += 1;
        } else if !control(id, args)? {
            let (class, method) = id;
            return Err(Fault::protocol(format!("unexpected method {class}.{method}")));
        }
        Ok(())
    }
}
