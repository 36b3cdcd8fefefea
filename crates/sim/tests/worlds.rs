//! Many short worlds. `SIM_SEEDS` (how many, or `FROM..TO`) and `SIM_STEPS` make it long.

use std::sync::atomic::{AtomicU64, Ordering};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("SIM_SEEDS").unwrap_or_default();
    match given.split_once("..") {
        Some((from, to)) => match (from.parse(), to.parse()) {
            (Ok(from), Ok(to)) => from..to,
            _ => panic!("SIM_SEEDS is FROM..TO or a number, not '{given}'"),
        },
        None => 0..number("SIM_SEEDS", 160),
    }
}

#[test]
fn no_world_breaks_a_rule() {
    all(|seed, steps| waypost_sim::run(seed, steps, false).err());
}

#[test]
fn no_world_of_services_breaks_a_rule() {
    all(|seed, steps| waypost_sim::services::run(seed, steps, false).err());
}

fn all(run: impl Fn(u64, u64) -> Option<String> + Sync) {
    let (seeds, steps) = (seeds(), number("SIM_STEPS", 200));
    let next = AtomicU64::new(seeds.start);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let worker = || {
            let mut failures = Vec::new();
            while let Some(seed) = Some(next.fetch_add(1, Ordering::SeqCst)).filter(|s| *s < seeds.end) {
                failures.extend(run(seed, steps));
            }
            failures
        };
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    });
    let first = failures.first().map_or("", |f| f);
    assert!(failures.is_empty(), "{} of {} seeds failed; the first:\n{first}", failures.len(), seeds.end - seeds.start);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let again = |seed| waypost_sim::services::run(seed, 150, false).unwrap().hash;
    assert_eq!(again(5), again(5));
    for seed in [3, 17, 99] {
        let runs: Vec<u64> = (0..2).map(|_| waypost_sim::run(seed, 200, false).unwrap().hash).collect();
        assert_eq!(runs[0], runs[1], "seed {seed}");
    }
    assert_ne!(waypost_sim::run(3, 50, false).unwrap().hash, waypost_sim::run(4, 50, false).unwrap().hash);
}
