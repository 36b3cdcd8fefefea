//! A small blocking AMQP client: one connection, one channel, no threads.

mod conn;
mod content;
mod uri;

pub use conn::{Client, Incoming, Step};
pub use content::{Content, Message};
pub use uri::AmqpUri;
