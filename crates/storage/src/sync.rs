//! Locks that survive a panic of their holder. What they guard here is checked where it matters (on disk).

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Locks, whoever panicked before.
pub fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits, whoever panicked before.
pub fn wait<'a, T>(cv: &Condvar, guard: MutexGuard<'a, T>, at_most: Option<Duration>) -> MutexGuard<'a, T> {
    match at_most {
        None => cv.wait(guard).unwrap_or_else(PoisonError::into_inner),
        Some(d) => cv.wait_timeout(guard, d).unwrap_or_else(PoisonError::into_inner).0,
    }
}
