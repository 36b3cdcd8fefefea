//! Waypost's store: one write-ahead log per node for all shards, its index and its recovery; and the [`Log`] that makes
//! its frames durable, which is the local disk or something that is kept elsewhere.
//!
//! [`Engine`] implements the core's ports [`waypost_model::journal::Journal`] and
//! [`waypost_model::journal::BodyStore`] over a [`Disk`]. It is driven by its own threads
//! ([`Engine::start_committer`]) or step by step ([`Engine::commit_once`], [`Engine::maintain_once`]), which is how
//! simulations run it; the code is the same.
//!
//! The format, the order of writes and what each crash leaves stand in `docs/storage-format.md`.

#![forbid(unsafe_code)]

mod answers;
mod blocks;
mod bodies;
mod cache;
mod checkpoint;
mod chunk;
mod collect;
mod commit;
mod config;
mod definitions;
pub mod disk;
mod encoder;
mod engine;
mod error;
mod follow;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod gather;
mod hash;
mod inbox;
mod index;
pub mod log;
mod maintain;
mod metrics;
mod pages;
mod parallel;
mod patience;
mod ranges;
mod recovery;
mod restore;
mod rewrite;
mod scan;
mod scratch;
mod segment;
mod spans;
mod sum;
mod sync;
mod table;
mod verify;
mod wire;
mod zeros;

pub use commit::CommitOutcome;
pub use config::EngineConfig;
pub use disk::fault;
pub use disk::real::RealDisk;
pub use disk::{Disk, DiskFile, LockError};
pub use engine::Engine;
pub use error::OpenError;
pub use log::Log;
pub use maintain::Maintained;
pub use metrics::{MetricsSnapshot, SYNC_BUCKETS};
pub use segment::SegmentId;
pub use verify::{Report, verify, verify_dir};
