//! Streams: the broker's second shape beside queues. A topic has partitions; a partition is a log of record batches with
//! offsets, read by many.
//!
//! | module | holds |
//! |---|---|
//! | [`batch`] | record batches: their header, what is checked of it and what is stamped into it |
//! | [`partition`] | one partition: appends, offsets, retention, transactions, what readers may see |
//! | [`partitioner`] | which partition a key belongs to |
//! | [`records`] | the records of a batch, decompressed, for the few who must look |
//! | [`writer`] | batches of the server's own |
//! | [`messages`] | messages of other protocols as records, and records as messages |
//! | [`config`] | the configuration of topics, with Kafka's names |
//! | [`groups`] | consumer groups |
//! | [`streams`] | all topics: made, found, kept as definitions; committed offsets; producer ids; how transactions end |
//! | [`transactions`] | the rules of a transactional id |
//!
//! **Where batches lie.** A partition is a queue of the journal that the broker does not see; a batch is one message of
//! it, whose place is *the offset of its last record*. Places of a partition therefore have gaps, one per record that is
//! not the last of its batch, and what recovery finds tells every batch's offsets without reading it: it begins where
//! its predecessor ended. Only what compaction leaves behind has other gaps; its batches are read once.
//!
//! Pure: time is handed in, the disk is the journal.

#![forbid(unsafe_code)]

pub mod batch;
mod codec;
pub mod config;
mod filter;
pub mod groups;
pub mod messages;
pub mod partition;
pub mod partitioner;
#[cfg(test)]
mod random;
pub mod records;
pub mod streams;
pub mod transactions;
pub mod writer;
