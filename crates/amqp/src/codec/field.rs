//! Method arguments: the elementary domains and how they are packed (§4.2.5).

use thiserror::Error;
use waypost_model::table::{Table, TableError};

/// Why the payload of a frame is not what it should be. Reply code 502, but 540 for an unknown method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// An argument reaches past the end of the payload.
    #[error("frame ends in the middle of an argument")]
    Truncated,
    /// Bytes after the last argument.
    #[error("{0} bytes after the last argument")]
    Trailing(usize),
    /// A name is not UTF-8.
    #[error("argument is not UTF-8")]
    NotUtf8,
    /// An argument is not a field table.
    #[error("{0}")]
    Table(#[from] TableError),
    /// No such class, or no such method in it.
    #[error("unknown method {method_id} of class {class_id}")]
    UnknownMethod {
        /// The class.
        class_id: u16,
        /// The method.
        method_id: u16,
    },
}

/// A short string of any octets, such as a routing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Short<'a>(pub &'a [u8]);

/// A long string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Long<'a>(pub &'a [u8]);

/// Reads arguments one by one. Consecutive bits share octets, lowest first (§4.2.5.2).
#[derive(Debug)]
pub struct FieldReader<'a> {
    rest: &'a [u8],
    bits: u8,
    bits_left: u8,
}

impl<'a> FieldReader<'a> {
    /// A reader over the arguments of a method.
    pub fn new(bytes: &'a [u8]) -> Self {
        FieldReader { rest: bytes, bits: 0, bits_left: 0 }
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Trailing`] if something is left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            trailing => Err(DecodeError::Trailing(trailing)),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        self.bits_left = 0;
        let (head, tail) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.bits_left = 0;
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    fn bit(&mut self) -> Result<bool, DecodeError> {
        if self.bits_left == 0 {
            [self.bits] = self.array()?;
            self.bits_left = 8;
        }
        let bit = self.bits & 1 != 0;
        self.bits >>= 1;
        self.bits_left -= 1;
        Ok(bit)
    }
}

/// Writes arguments one by one.
#[derive(Debug)]
pub struct FieldWriter<'o> {
    out: &'o mut Vec<u8>,
    bits_used: u8,
}

impl<'o> FieldWriter<'o> {
    /// A writer that appends to `out`.
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        FieldWriter { out, bits_used: 0 }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bits_used = 0;
        self.out.extend_from_slice(bytes);
    }

    fn bit(&mut self, bit: bool) {
        if self.bits_used == 0 || self.bits_used == 8 {
            self.out.push(0);
            self.bits_used = 0;
        }
        if let Some(octet) = self.out.last_mut() {
            *octet |= u8::from(bit) << self.bits_used;
        }
        self.bits_used += 1;
    }

    fn short(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(255);
        self.put(&[len as u8]);
        self.put(&bytes[..len]);
    }
}

/// A domain of arguments.
pub trait Field<'a>: Sized {
    /// Takes one value off the front.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the bytes are not one.
    fn read(reader: &mut FieldReader<'a>) -> Result<Self, DecodeError>;

    /// Appends the value.
    fn write(&self, writer: &mut FieldWriter<'_>);
}

macro_rules! integer_field {
    ($($int:ty),*) => {
        $(impl<'a> Field<'a> for $int {
            fn read(reader: &mut FieldReader<'a>) -> Result<Self, DecodeError> {
                Ok(<$int>::from_be_bytes(reader.array()?))
            }

            fn write(&self, writer: &mut FieldWriter<'_>) {
                writer.put(&self.to_be_bytes());
            }
        })*
    };
}

integer_field!(u8, u16, u32, u64);

impl<'a> Field<'a> for bool {
    fn read(reader: &mut FieldReader<'a>) -> Result<Self, DecodeError> {
        reader.bit()
    }

    fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.bit(*self);
    }
}

/// A short string that is a name, and UTF-8 therefore. What is longer than 255 bytes is cut at a character's border.
impl<'a> Field<'a> for &'a str {
    fn read(reader: &mut FieldReader<'a>) -> Result<Self, DecodeError> {
        let Short(bytes) = Short::read(reader)?;
        std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8)
    }

    fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.short(short_text(self).as_bytes());
    }
}

impl<'a> Field<'a> for Short<'a> {
    fn read(reader: &mut FieldReader<'a>) -> Result<Self, DecodeError> {
        let [len] = reader.array()?;
        Ok(Short(reader.take(len.into())?))
    }

    fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.short(self.0);
    }
}

impl<'a> Field<'a> for Long<'a> {
    fn read(reader: &mut FieldReader<'a>) -> Result<Self, DecodeError> {
        let len = u32::from_be_bytes(reader.array()?);
        let len = usize::try_from(len).map_err(|_| DecodeError::Truncated)?;
        Ok(Long(reader.take(len)?))
    }

    fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.put(&(self.0.len() as u32).to_be_bytes());
        writer.put(self.0);
    }
}

impl<'a> Field<'a> for Table {
    fn read(reader: &mut FieldReader<'a>) -> Result<Self, DecodeError> {
        let (table, read) = Table::decode(reader.rest)?;
        reader.take(read)?;
        Ok(table)
    }

    fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.bits_used = 0;
        self.encode(writer.out);
    }
}

/// What of `text` fits a short string, cut at a character's border.
pub fn short_text(text: &str) -> &str {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
