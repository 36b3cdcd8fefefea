//! How long an open takes: `cargo bench -p waypost-storage --bench recovery -- [MESSAGES] [QUEUES] [APPENDS]`.
//!
//! Fills the queues in turn, one message at a time, with so many appends per commit, and opens the store again: after a
//! clean stop, and after a crash. The directory is made under `WAYPOST_BENCH_DIR`, or under the temporary one; it is
//! opened as it was left with `WAYPOST_BENCH_KEEP`.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use waypost_model::journal::{BodyStore, Enqueue, Journal, Op, Recovered};
use waypost_model::{Attrs, Batch, Millis, QueueId, Route, Seq};
use waypost_storage::{CommitOutcome, Engine, EngineConfig, RealDisk};

struct Load {
    messages: u64,
    queues: u64,
    /// Appends in a commit.
    appends: u64,
    body: usize,
}

fn open(dir: &Path) -> std::io::Result<(Engine, Recovered)> {
    let disk = RealDisk::open_or_create(dir)?;
    Engine::open(Arc::new(disk), EngineConfig::default()).map_err(std::io::Error::other)
}

fn commit(e: &Engine) -> std::io::Result<()> {
    match e.commit_once() {
        CommitOutcome::Committed(_) | CommitOutcome::Idle => Ok(()),
        other => Err(std::io::Error::other(format!("{other:?}"))),
    }
}

fn fill(dir: &Path, load: &Load) -> std::io::Result<()> {
    let (e, _) = open(dir)?;
    let routes: Vec<_> = (0..load.queues).map(|q| Arc::new(Route::new("", format!("queue-{q}")))).collect();
    let body = vec![7; load.body];
    let started = Instant::now();
    for n in 0..load.messages {
        let queue = n % load.queues;
        let targets = Box::new([(QueueId(queue), Seq(n / load.queues))]);
        let (batch, route) = (Arc::new(Batch::single(&[0, 0], &body)), Arc::clone(&routes[queue as usize]));
        let at = Millis(1_700_000_000_000 + n / load.appends);
        let enqueue = Enqueue { targets, batch, from: 0, to: 1, route, attrs: Attrs::default(), at };
        e.append(vec![Op::Enqueue(enqueue)]).map_err(std::io::Error::other)?;
        if (n + 1) % load.appends == 0 {
            commit(&e)?;
            if n % (64 * load.appends) < load.appends {
                e.maintain_once();
            }
        }
    }
    commit(&e)?;
    let (m, took) = (e.metrics(), started.elapsed().as_secs_f64());
    let each = m.written_bytes as f64 / load.messages as f64;
    println!("filled in {took:.1} s; {each:.0} bytes of log a message, footers and rewriting apart");
    e.close()
}

/// Opens, and reads one message of the last queue.
fn time_open(dir: &Path, how: &str) -> std::io::Result<Engine> {
    let cpu = cpu_seconds();
    let started = Instant::now();
    let (e, recovered) = open(dir)?;
    let opened = started.elapsed().as_secs_f64();
    let (runs, queues) = (recovered.runs.len(), recovered.next_seq.len());
    let messages: u64 = recovered.runs.iter().map(|r| u64::from(r.range.count)).sum();
    if let Some(last) = recovered.runs.iter().last() {
        e.load(last.range.queue, last.range.first, 1)?;
    }
    let first = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    println!(
        "{how}: {messages} messages in {queues} queues, {runs} runs: open {opened:.2} s, first body after {first:.2} s; CPU {cpu:.2} s; peak memory {} MiB",
        peak_memory() >> 20
    );
    Ok(e)
}

/// Processor time of this process so far, seconds; 0 where there is no /proc.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let field = |n| stat.split(' ').nth(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (field(13) + field(14)) / 100.0
}

/// The most memory that this process has had, bytes; 0 where there is no /proc.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

fn main() -> std::io::Result<()> {
    let numbers: Vec<u64> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let number = |n: usize, default| numbers.get(n).copied().unwrap_or(default);
    let load = Load { messages: number(0, 10_000_000), queues: number(1, 10_000), appends: number(2, 500), body: 16 };
    let keep = std::env::var_os("WAYPOST_BENCH_KEEP").is_some();
    let base = std::env::var_os("WAYPOST_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = base.join(if keep {
        "waypost-recovery".to_owned()
    } else {
        format!("waypost-recovery-{}", std::process::id())
    });
    if !dir.is_dir() {
        fill(&dir, &load)?;
    }
    // Dropped without a close: what the next one finds is what a crash leaves.
    let e = time_open(&dir, "after a clean stop")?;
    for _ in 0..4 {
        e.maintain_once();
    }
    println!("at rest: maintenance copied {} bytes", e.metrics().rewritten_bytes);
    drop(e);
    drop(time_open(&dir, "after a crash")?);
    if !keep {
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}
