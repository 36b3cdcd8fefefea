//! Names of record headers.

/// What the names of our own begin with.
pub const PREFIX: &str = "amqp.";
/// The exchange; says that the record was a message.
pub const EXCHANGE: &str = "exchange";
/// There is a table of headers, which may be empty.
pub const HEADERS: &str = "headers";
/// All of the headers as AMQP encodes them, where they cannot be told one by one.
pub const TABLE: &str = "table";
/// A header whose own name begins with the prefix.
pub const HEADER: &str = "header.";
/// The type letter of a header that is no long string.
pub const TYPE: &str = "type.";

/// Headers that a message gets on its way out.
pub const OFFSET: &str = "x-stream-offset";
/// Of topics with several partitions.
pub const PARTITION: &str = "x-stream-partition";
/// The record has no value.
pub const TOMBSTONE: &str = "x-stream-tombstone";
/// A key that is too long for a routing key, or no text.
pub const LONG_KEY: &str = "x-record-key";
/// Headers whose names are too long for a table.
pub const LONG_HEADERS: &str = "x-record-headers";
/// The headers were too many, and are left out.
pub const CUT: &str = "x-record-headers-cut";
