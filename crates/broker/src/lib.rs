//! Waypost's core: where messages go and who gets them.
//!
//! Pure and deterministic: time, randomness and disk come in from outside, events and journal operations go out. The
//! same calls give the same results, which is what the simulator builds on.

#![forbid(unsafe_code)]

pub mod broker;
pub mod context;
pub mod effect;
pub mod settings;
pub mod shard;
pub mod streams;
pub mod topology;
