//! Kafka's protocol, without I/O.
//!
//! | module | holds |
//! |---|---|
//! | [`wire`] | the primitive types, and the macro that makes a message of a list of fields |
//! | [`apis`] | which APIs and versions are spoken |
//! | [`messages`] | the messages of all APIs |
//! | [`produce`], [`fetch`] | those two, without touching the records |
//! | [`fetch_sessions`] | what clients need not say again, nor be told again |
//! | [`frame`] | where one request ends and the next begins; request headers |
//!
//! Nothing here allocates more than a small multiple of the bytes that came: every count is compared with what is left.

#![forbid(unsafe_code)]

pub mod apis;
pub mod fetch;
pub mod fetch_sessions;
pub mod frame;
pub mod messages;
pub mod produce;
pub mod wire;
