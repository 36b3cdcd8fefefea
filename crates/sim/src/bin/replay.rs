//! Replays a seed with every step in words: `replay SEED [STEPS]`; `replay FROM..TO [STEPS]` runs many, quietly. With
//! `services` in front, worlds of services.

use waypost_sim::Report;

fn main() -> std::process::ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    let run: fn(u64, u64, bool) -> Result<Report, String> = match args.next_if_eq("services") {
        Some(_) => waypost_sim::services::run,
        None => waypost_sim::run,
    };
    let what = args.next().unwrap_or_else(|| "0".into());
    let steps = args.next().and_then(|s| s.parse().ok()).unwrap_or(300);
    let (from, to) = match what.split_once("..") {
        Some((from, to)) => (from.parse().unwrap_or(0), to.parse().unwrap_or(0)),
        None => (what.parse().unwrap_or(0), 0),
    };
    if to == 0 {
        return match run(from, steps, true) {
            Ok(r) => {
                println!("{r:?}");
                std::process::ExitCode::SUCCESS
            }
            Err(e) => {
                println!("{}", e.lines().next().unwrap_or_default());
                std::process::ExitCode::FAILURE
            }
        };
    }
    let mut failed = 0u64;
    let mut tally = std::collections::BTreeMap::<&str, u64>::new();
    for seed in from..to {
        match std::panic::catch_unwind(|| run(seed, steps, false)) {
            Ok(Ok(r)) => r.tally.into_iter().for_each(|(k, v)| *tally.entry(k).or_default() += v),
            Ok(Err(e)) => {
                failed += 1;
                println!("{}", e.lines().take(3).collect::<Vec<_>>().join(" | "));
            }
            Err(_) => {
                failed += 1;
                println!("seed {seed}: panic");
            }
        }
    }
    println!("{} seeds, {failed} failed, {tally:?}", to - from);
    std::process::ExitCode::from(u8::from(failed > 0))
}
