//! Services and their instances, and the configuration center.
//!
//! Pure: time comes in as [`waypost_model::Millis`], randomness as a seed, disk as [`waypost_model::journal::Journal`].

#![forbid(unsafe_code)]

pub mod config;
