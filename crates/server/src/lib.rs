//! The shell around Waypost's core: everything that knows sockets, clocks, threads and files of its own.

#![forbid(unsafe_code)]

pub mod clock;
pub mod config;
mod dns;
pub mod driver;
mod error;
mod http;
mod kafka;
mod listen;
#[allow(dead_code, unused_imports, reason = "push, requests and Majordomo are about to use all of it")]
mod local;
pub mod logging;
mod node;
mod push;
mod runtime;
mod scram;
mod signals;
mod streams;
mod zmtp;

pub use error::ServeError;
pub use node::{Opened, Store, run, run_on};
pub use signals::signals;
