//! The primitive types of Kafka's protocol, and messages made of them.
//!
//! A message is a list of fields, each with the versions that have it. From some version on a message is *flexible*:
//! lengths are variable, and every structure ends with tagged fields, of which those that we do not know are skipped and
//! those that hold their default are never written (old librdkafka cannot skip them).

mod field;
mod message;
mod reader;

#[cfg(test)]
pub(crate) use field::Seed;
pub use field::{Field, Uuid};
pub use reader::Reader;
pub(crate) use reader::put_uvarint;

pub(crate) use message::{message, put_tagged};

use thiserror::Error;

/// Bytes that are no message of the version that they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// It ends too early, or counts more than it has.
    #[error("{0}: beyond the end of the request")]
    Short(&'static str),
    /// More items than a request may have.
    #[error("{0}: too many items in one request")]
    Many(&'static str),
    /// A value that the type cannot have.
    #[error("{0}: impossible value")]
    Value(&'static str),
}

/// Which form a message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Its version.
    pub version: i16,
    /// Whether lengths are variable and structures end with tagged fields.
    pub flexible: bool,
}

/// A message, or a structure within one.
pub trait Message: Sized {
    /// The first version that is flexible. Structures within a message take its form, whatever they say.
    const FLEXIBLE: i16;

    /// Reads the fields that this version has; others get their default.
    ///
    /// # Errors
    /// [`Malformed`].
    fn read(from: &mut Reader<'_>, form: Form) -> Result<Self, Malformed>;

    /// Writes the fields that this version has.
    fn write(&self, out: &mut Vec<u8>, form: Form);

    /// Reads a message. What may follow it is not looked at: librdkafka leaves bytes behind some of its requests.
    ///
    /// # Errors
    /// [`Malformed`].
    fn decode(bytes: &[u8], version: i16) -> Result<Self, Malformed> {
        Self::read(&mut Reader::new(bytes), Self::form(version))
    }

    /// Writes a whole message.
    fn encode(&self, out: &mut Vec<u8>, version: i16) {
        self.write(out, Self::form(version));
    }

    /// The form of a version.
    #[must_use]
    fn form(version: i16) -> Form {
        Form { version, flexible: version >= Self::FLEXIBLE }
    }
}
