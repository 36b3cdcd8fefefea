//! The messages of all APIs but the records of produce and fetch, named as in Kafka's protocol guide, whose versions they
//! list. What the guide calls nullable is an `Option`; a field that a version does not have keeps its default.

#![expect(missing_docs, reason = "the protocol guide says what each field means")]

pub mod cluster;
pub mod configs;
pub mod groups;
pub mod offsets;
pub mod records;
pub mod security;
#[cfg(test)]
mod tests;
pub mod topics;
pub mod transactions;
