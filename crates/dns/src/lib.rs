//! DNS over a directory of services: queries in, answers out, no socket, no clock.
//!
//! [`Responder::answer`] takes the octets of a query and writes those of the answer into a buffer of the caller's. Once
//! the buffers have grown it allocates nothing per query: names are kept in place, a service's hosts come as one shared
//! [`Hosts`], order is drawn in a scratch buffer.
//!
//! What is answered stands in `docs/dns.md`.

#![forbid(unsafe_code)]

mod answer;
mod asked;
mod directory;
mod name;
mod order;
mod query;
mod records;
mod writer;
mod zones;

pub use answer::{Asker, Responder, Settings, Transport};
pub use directory::{Directory, Host, Hosts, Node, Owner, Target};
pub use name::{NAME_BYTES_MAX, Name};
pub use query::{Edns, Malformed, Query, QueryType, Subnet};
pub use writer::{TCP_BYTES_MAX, UDP_BYTES_DEFAULT, UDP_BYTES_MAX};
pub use zones::{Zones, ZonesError};

#[cfg(test)]
mod tests;
