//! What an append costs: `cargo bench -p waypost-storage`. The directory is `WAYPOST_BENCH_DIR`, or a temporary one.

use std::sync::Arc;
use std::time::Instant;

use waypost_model::journal::{Enqueue, Journal, Op};
use waypost_model::{Attrs, Batch, BatchBuilder, Millis, QueueId, Route, Seq, SeqRange};
use waypost_storage::{Engine, EngineConfig, RealDisk};

fn batch(messages: u32, size: usize) -> Arc<Batch> {
    let mut b = BatchBuilder::default();
    let body = vec![7; size];
    (0..messages).for_each(|_| b.push(&[0, 0], &body));
    Arc::new(b.finish())
}

/// User and system time of this process so far, in units of 10 ms; 0 where there is no /proc.
fn cpu_ticks() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let field = |n| stat.split(' ').nth(n).and_then(|f| f.parse().ok()).unwrap_or(0);
    (field(13), field(14))
}

/// Appends runs of messages and settles them, as a broker at full load does.
fn bulk(dir: &std::path::Path, size: usize, run: u32, runs: u64) -> std::io::Result<()> {
    let disk = RealDisk::open_or_create(dir)?;
    let (e, _) = Engine::open(Arc::new(disk), EngineConfig::default()).map_err(std::io::Error::other)?;
    e.start_committer(|_| {})?;
    // More than can be queued: the same bytes twice in one commit would be stored once.
    let pool = ((48 << 20) / (u64::from(run) * (size as u64 + 16)) + 1).min(runs);
    let pool: Vec<_> = (0..pool).map(|_| batch(run, size)).collect();
    let route = Arc::new(Route::new("", "q"));
    let started = Instant::now();
    let before = cpu_ticks();
    for n in 0..runs {
        let first = Seq(n * u64::from(run));
        let (batch, route) = (Arc::clone(&pool[n as usize % pool.len()]), Arc::clone(&route));
        let targets = Box::new([(QueueId(1), first)]);
        let attrs = Attrs::default();
        let enqueue = Enqueue { targets, batch, from: 0, to: run, route, attrs, at: Millis(1) };
        e.append(vec![Op::Enqueue(enqueue)]).map_err(std::io::Error::other)?;
        if n >= 64 {
            let first = Seq((n - 64) * u64::from(run));
            let settle = Op::Settle(SeqRange { queue: QueueId(1), first, count: run });
            e.append(vec![settle]).map_err(std::io::Error::other)?;
        }
    }
    while e.metrics().queued_bytes > 0 {
        std::thread::yield_now();
    }
    let (took, m) = (started.elapsed(), e.metrics());
    let messages = (runs * u64::from(run)) as f64;
    let after = cpu_ticks();
    let each = |ticks: u64| ticks as f64 * 1e7 / messages;
    println!(
        "{size} B in runs of {run}: {:.2} M/s, {:.0} MB/s; {} commits, mean fdatasync {:.0} us; CPU {:.1} ns user + {:.1} ns system a message",
        messages / took.as_secs_f64() / 1e6,
        m.written_bytes as f64 / took.as_secs_f64() / 1e6,
        m.commits,
        m.sync_micros as f64 / m.syncs.max(1) as f64,
        each(after.0 - before.0),
        each(after.1 - before.1),
    );
    e.close()
}

/// 10 million messages in 10,000 queues, which get them in turns, and how long the next open takes.
fn reopen(dir: &std::path::Path) -> std::io::Result<()> {
    let open = || {
        let disk = RealDisk::open_or_create(dir)?;
        Engine::open(Arc::new(disk), EngineConfig::default()).map_err(std::io::Error::other)
    };
    let (e, _) = open()?;
    e.start_committer(|_| {})?;
    for round in 0..50 {
        for queue in 0..10_000 {
            let route = Arc::new(Route::new("", format!("queue-{queue}")));
            let (batch, attrs, at) = (batch(20, 16), Attrs::default(), Millis(round));
            let targets = Box::new([(QueueId(queue), Seq(round * 20))]);
            let enqueue = Enqueue { targets, batch, from: 0, to: 20, route, attrs, at };
            e.append(vec![Op::Enqueue(enqueue)]).map_err(std::io::Error::other)?;
        }
    }
    e.close()?;
    drop(e);
    let (e, recovered) = open()?;
    let messages: u64 = recovered.runs.iter().map(|r| u64::from(r.range.count)).sum();
    let took = e.metrics().recovery_micros as f64 / 1e6;
    println!("{messages} messages in {} queues: open {took:.2} s", recovered.next_seq.len());
    Ok(())
}

fn main() -> std::io::Result<()> {
    let temporary = std::env::temp_dir().join(format!("waypost-bench-{}", std::process::id()));
    let dir = std::env::var_os("WAYPOST_BENCH_DIR").map_or(temporary, Into::into);
    for (name, size, run, runs) in [("16", 16, 800, 20_000), ("1k", 1024, 64, 8_000), ("one", 16, 1, 400_000)] {
        let dir = dir.join(name);
        bulk(&dir, size, run, runs)?;
        std::fs::remove_dir_all(&dir)?;
    }
    reopen(&dir)?;
    std::fs::remove_dir_all(&dir)
}
