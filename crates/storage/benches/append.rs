//! What an append costs: `cargo bench -p waypost-storage`. The directory is `WAYPOST_BENCH_DIR`, or a temporary one.

use std::sync::Arc;
use std::time::Instant;

use waypost_model::journal::{Enqueue, Journal, Op};
use waypost_model::{Attrs, BatchBuilder, Millis, QueueId, Route, Seq, SeqRange};
use waypost_storage::{Engine, EngineConfig, RealDisk};

/// Appends runs of messages and settles them, as a broker at full load does.
fn bulk(dir: &std::path::Path, size: usize, run: u32, runs: u64) -> std::io::Result<()> {
    let disk = RealDisk::open_or_create(dir)?;
    let (e, _) = Engine::open(Arc::new(disk), EngineConfig::default()).map_err(std::io::Error::other)?;
    e.start_committer(|_| {})?;
    let mut b = BatchBuilder::default();
    (0..run).for_each(|_| b.push(&[0, 0], &vec![7; size]));
    let (batch, route) = (Arc::new(b.finish()), Arc::new(Route::new("", "q")));
    let started = Instant::now();
    for n in 0..runs {
        let first = Seq(n * u64::from(run));
        let (batch, route) = (Arc::clone(&batch), Arc::clone(&route));
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
    println!(
        "{size} B in runs of {run}: {:.2} M/s, {:.0} MB/s; {} commits, mean fdatasync {:.0} us; outside of syncs {:.1} ns a message",
        messages / took.as_secs_f64() / 1e6,
        m.written_bytes as f64 / took.as_secs_f64() / 1e6,
        m.commits,
        m.sync_micros as f64 / m.syncs.max(1) as f64,
        (took.as_secs_f64() * 1e9 - m.sync_micros as f64 * 1e3) / messages,
    );
    e.close()
}

fn main() -> std::io::Result<()> {
    let temporary = std::env::temp_dir().join(format!("waypost-bench-{}", std::process::id()));
    let dir = std::env::var_os("WAYPOST_BENCH_DIR").map_or(temporary, Into::into);
    for (name, size, run, runs) in [("16", 16, 800, 20_000), ("1k", 1024, 64, 8_000), ("one", 16, 1, 400_000)] {
        let dir = dir.join(name);
        bulk(&dir, size, run, runs)?;
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::remove_dir(&dir)
}
