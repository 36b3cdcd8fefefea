//! The configuration center: values under paths, with the history of each, gray releases, watches, and Consul's
//! sessions. Pure: time is handed in, the disk is the core's journal. `docs/configuration-center.md` tells how it is kept.

mod commit;
mod diff;
mod entry;
mod fault;
mod gray;
mod history;
mod limits;
mod open;
mod path;
mod record;
mod retain;
mod session;
mod sessions;
mod space;
mod stage;
mod store;
mod tell;
mod watch;
mod write;

#[cfg(test)]
mod tests;

pub use diff::{Difference, difference};
pub use entry::{Gray, Item};
pub use fault::{Fault, Stale};
pub use gray::{Rule, RuleError, Subject};
pub use history::Past;
pub use limits::*;
pub use open::{OpenError, Share};
pub use path::{checked as checked_path, join, routing_key, split};
pub use record::Kind;
pub use semver::VersionReq;
pub use session::{Behavior, NewSession, Session};
pub use store::{By, Chosen, Committed, Listing, Look, Store, Totals};
pub use watch::{Changed, Watch, What};
pub use write::{Answer, When, Write};
