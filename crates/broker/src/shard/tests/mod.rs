//! Shards, with a journal and clients that tests control.

mod delay;
mod delivery;
mod expiry;
mod journal;
mod limits;
mod mailbox;
mod many;
mod memory;
mod model;
mod naive;
mod settling;
mod world;

use world::{Setup, World};
