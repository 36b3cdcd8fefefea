//! A deterministic simulator: the real broker over the real storage engine, on a disk that does its worst, with scripted
//! clients. Every step does one thing, chosen by a seeded generator; rules are checked as events come out.

mod client;
mod drain;
mod exclusive;
mod expiry;
pub mod far;
mod ledger;
mod observe;
mod plan;
mod policies;
mod publish;
mod resync;
mod rng;
pub mod services;
mod steps;
mod tap;
mod trace;
mod world;

pub use world::{Broken, World};

/// The simulator's number of a message: the first 8 bytes of its body.
#[must_use]
pub fn uid_of(body: &[u8]) -> u64 {
    body.get(..8).and_then(|b| b.try_into().ok()).map_or(u64::MAX, u64::from_le_bytes)
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// A hash of all that happened.
    pub hash: u64,
    /// How often each kind of step was taken.
    pub tally: Vec<(&'static str, u64)>,
}

impl Report {
    fn of(trace: &trace::Trace, tally: &world::Tally) -> Report {
        Report { hash: trace.hash(), tally: tally.steps.iter().map(|(k, v)| (*k, *v)).collect() }
    }
}

/// Runs a world of `seed` for `steps` steps, then lets it drain.
///
/// # Errors
/// The rule that was broken, the seed, and the last steps.
pub fn run(seed: u64, steps: u64, loud: bool) -> Result<Report, String> {
    let mut world = World::new(seed, loud).map_err(|e| format!("seed {seed}: {e}"))?;
    let done = (0..steps).try_for_each(|_| world.step()).and_then(|()| world.drain());
    done.map_err(|e| format!("seed {seed}, {steps} steps: {e}\n{}", world.last_steps()))?;
    Ok(world.report())
}
