//! Services and their instances, and the configuration center.
//!
//! Pure: time comes in as [`waypost_model::Millis`], randomness as a seed, disk as [`waypost_model::journal::Journal`].
//! Nothing here blocks for longer than a lock; who waits for a change does so with a future of [`watch`], on whatever
//! runtime it likes.

#![forbid(unsafe_code)]

pub mod config;
pub mod services;
pub mod watch;
