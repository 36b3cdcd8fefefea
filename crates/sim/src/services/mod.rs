//! Services: registry, broker and log together. Instances come and go, fall silent, drain; messages are for one, for a key or for
//! all; the process ends with torn writes and starts again.
//!
//! What must hold: whoever gets a message matches it and does not drain; a message is held by one at a time, and once it is
//! settled for good it never comes again; what waits, waits because nobody who matches has credit; the messages of a key come in
//! order and are in the hands of one; nobody who stays misses what was for all; nothing that was confirmed is lost, and in the end
//! every counter is 0. The broker's own tests hold mailboxes against a naive model; what is new here is the registry that decides
//! who is there, and the crash.

mod check;
mod end;
mod peer;
mod steps;
mod world;

pub use self::world::Services;

use crate::Report;

/// Runs a world of `seed` for `steps` steps, then lets it drain.
///
/// # Errors
/// The rule that was broken, the seed, and the last steps.
pub fn run(seed: u64, steps: u64, loud: bool) -> Result<Report, String> {
    let mut world = Services::new(seed, loud).map_err(|e| format!("services, seed {seed}: {e}"))?;
    let done = (0..steps).try_for_each(|_| world.step()).and_then(|()| world.end());
    done.map_err(|e| format!("services, seed {seed}, {steps} steps: {e}\n{}", world.last_steps()))?;
    Ok(world.report())
}
