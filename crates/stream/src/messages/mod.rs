//! Messages as records, and records as messages. `docs/across-protocols.md` has the tables.
//!
//! A message keeps everything on the way through a stream and back: its exchange and routing key, each property, each
//! header with its type. The routing key is the record's key, the body its value; the rest are record headers whose
//! names begin with `amqp.`, but for the message's own headers, which keep their names.

mod message;
mod names;
mod record;
#[cfg(test)]
mod tests;
mod values;

pub use message::{Told, text_or_bytes, to_message};
pub use record::{Scratch, key_of, push};
