//! `connections`: how fast a broker takes connections, and what an idle one costs.

use super::args::Target;
use super::conn::{Conn, Product};
use super::fault::Fault;
use super::outcome::{ratio, round};
use super::progress::{Goal, Progress};
use super::uri::Uri;
use super::usage::allow_sockets;
use super::usage::{Memory, Process};
use super::{Report, ReportFlaw};
use crate::cli::time::whole_seconds;
use clap::Args;
use serde::Serialize;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// `connections`.
#[derive(Debug, Args)]
pub struct ConnectionsArgs {
    #[command(flatten)]
    pub target: Target,
    /// Connections to open
    #[arg(short = 'n', long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Channels to open on each
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=2047))]
    channels: u16,
    /// Seconds to hold them before looking at the broker's memory
    #[arg(long, default_value_t = 5, value_name = "TIME", value_parser = whole_seconds::<u32, 0, 86_400>)]
    hold: u32,
    /// Connections that are being opened at the same time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
}

#[derive(Debug, Serialize)]
struct ConnectionsReport {
    connections: u64,
    open_seconds: f64,
    open_rate: f64,
    close_seconds: f64,
    close_rate: f64,
    dropped: u64,
    open_cpu_us_per_connection: Option<f64>,
    memory_before: Option<Memory>,
    memory_held: Option<Memory>,
    memory_closed: Option<Memory>,
    rss_kib_per_connection: Option<f64>,
    anon_kib_per_connection: Option<f64>,
}

impl ConnectionsArgs {
    /// Runs the mode.
    ///
    /// # Errors
    /// A connection that the broker does not take.
    pub fn run(&self) -> Result<Report, Fault> {
        allow_sockets(u64::from(self.count))?;
        let process = self.target.process()?;
        // The first connection makes the broker load what it needs; it also says who it is.
        let product = first_connection(&self.target.uri)?;
        let before = process.map(Process::memory).transpose()?;
        let cpu_before = process.map(Process::cpu_seconds).transpose()?;
        let start = Instant::now();
        let conns = self.open_all()?;
        let open_seconds = start.elapsed().as_secs_f64();
        let cpu_after = process.map(Process::cpu_seconds).transpose()?;
        std::thread::sleep(Duration::from_secs(u64::from(self.hold)));
        let held = process.map(Process::memory).transpose()?;
        let count = conns.len() as u64;
        let dropped = conns.iter().filter(|conn| !alive(conn)).count() as u64;
        let start = Instant::now();
        self.close_all(conns);
        let close_seconds = start.elapsed().as_secs_f64();
        let grown = |kib: fn(&Memory) -> u64| {
            let kib = kib(held.as_ref()?) as f64 - kib(before.as_ref()?) as f64;
            Some(round(kib / count as f64, 2))
        };
        let figures = ConnectionsReport {
            connections: count,
            open_seconds: round(open_seconds, 3),
            open_rate: ratio(count as f64, open_seconds).round(),
            close_seconds: round(close_seconds, 3),
            close_rate: ratio(count as f64, close_seconds).round(),
            dropped,
            open_cpu_us_per_connection: cpu_after
                .zip(cpu_before)
                .map(|(after, before)| ratio((after - before) * 1e6, count as f64)),
            memory_before: before,
            memory_held: held,
            memory_closed: process.map(Process::memory).transpose()?,
            rss_kib_per_connection: grown(|memory| memory.rss_kib),
            anon_kib_per_connection: grown(|memory| memory.anon_kib),
        };
        let setup = serde_json::json!({"count": self.count, "channels": self.channels});
        Report::new("connections", &product, setup, &figures, (dropped > 0).then_some(ReportFlaw::MESSAGES))
    }

    fn open_all(&self) -> Result<Vec<Conn>, Fault> {
        let opened = AtomicU64::new(0);
        let progress = Progress::new("open", Goal::Count(u64::from(self.count)));
        let each = |share: u32| {
            let mut conns = Vec::new();
            for _ in 0..share {
                let mut conn = Conn::open(&self.target.uri)?;
                (1..=self.channels).try_for_each(|number| conn.channel(number))?;
                // The generator must stay small.
                conn.inbound.shrink();
                conns.push(conn);
                progress.step(opened.fetch_add(1, Ordering::Relaxed) + 1);
            }
            Ok(conns)
        };
        let each = &each;
        let result = std::thread::scope(|scope| {
            let threads: Vec<_> =
                shares(self.count, self.threads).map(|share| scope.spawn(move || each(share))).collect();
            let mut all = Vec::new();
            for thread in threads {
                all.extend(thread.join().unwrap_or(Err(Fault::Panicked))?);
            }
            Ok(all)
        });
        progress.finish();
        result
    }

    fn close_all(&self, mut conns: Vec<Conn>) {
        std::thread::scope(|scope| {
            for share in shares(self.count, self.threads) {
                let share = usize::try_from(share).unwrap_or(0).min(conns.len());
                let part = conns.split_off(conns.len() - share);
                scope.spawn(move || part.into_iter().for_each(Conn::close));
            }
        });
    }
}

fn first_connection(uri: &Uri) -> Result<Product, Fault> {
    let conn = Conn::open_channel(uri)?;
    let product = conn.product.clone();
    conn.close();
    Ok(product)
}

/// How many of `count` each of `parts` gets.
fn shares(count: u32, parts: u16) -> impl Iterator<Item = u32> {
    let parts = u32::from(parts);
    (0..parts).map(move |part| count / parts + u32::from(part < count % parts))
}

/// Whether nothing came and the connection has not ended.
fn alive(conn: &Conn) -> bool {
    let waits = conn.stream.set_nonblocking(true).is_ok();
    let peeked = conn.stream.peek(&mut [0]);
    let silent = matches!(&peeked, Err(error) if error.kind() == ErrorKind::WouldBlock);
    // A heartbeat or a notice is no end either.
    waits && (silent || matches!(peeked, Ok(count) if count > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        assert_eq!(shares(10, 4).collect::<Vec<_>>(), [3, 3, 2, 2]);
        assert_eq!(shares(1, 3).sum::<u32>(), 1);
    }
}
