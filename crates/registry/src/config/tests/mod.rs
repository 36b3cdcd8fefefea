//! The store by rule, and against a naive model over the storage engine with faults.

mod crash;
mod naive;
mod rules;
mod sessions;
mod world;
