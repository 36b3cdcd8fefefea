//! AMQP 0-9-1 field tables, in the dialect that RabbitMQ and Qpid speak.
//!
//! The specification (§4.2.5.5) gives some type letters a meaning that no deployed client uses; the dialect is what
//! the errata page of RabbitMQ lists: `t b B s u I i l L f d D S A T F V x`, where `s` is a 16-bit integer and both
//! `l` and `L` are signed 64-bit ones. A decoded value remembers its letter, so that writing a table back gives the
//! bytes that were read.

use std::fmt;

use thiserror::Error;

/// How deep tables and arrays may be nested in each other; deeper ones are refused.
pub const TABLE_DEPTH_MAX: usize = 32;

/// Longest key in bytes (a short string's length is one octet).
pub const TABLE_KEY_BYTES_MAX: usize = 255;

/// One field value. Every variant stands for exactly one type letter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `V`: no value.
    Void,
    /// `t`. Any octet but zero is read as true and written as one.
    Bool(bool),
    /// `b`.
    I8(i8),
    /// `B`.
    U8(u8),
    /// `s`: in the dialect a 16-bit integer, not a short string.
    I16(i16),
    /// `u`.
    U16(u16),
    /// `I`.
    I32(i32),
    /// `i`.
    U32(u32),
    /// `l`.
    I64(i64),
    /// `L`: read as a signed integer like `l`, kept apart to be written back as it came.
    LongLong(i64),
    /// `f`.
    F32(f32),
    /// `d`.
    F64(f64),
    /// `D`: `value` divided by ten to the power of `scale`.
    Decimal {
        /// Number of digits after the decimal point.
        scale: u8,
        /// The digits.
        value: i32,
    },
    /// `S`: text by custom, but any octets are allowed.
    LongStr(Vec<u8>),
    /// `x`: octets.
    Bytes(Vec<u8>),
    /// `T`: seconds since 1970-01-01T00:00:00Z.
    Timestamp(u64),
    /// `A`.
    Array(Vec<Value>),
    /// `F`.
    Table(Table),
}

impl Value {
    /// The text of a long string, if it is one and is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::LongStr(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The value of an integer of any width and sign.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Value::I8(v) => Some(v.into()),
            Value::U8(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I64(v) | Value::LongLong(v) => Some(v),
            _ => None,
        }
    }

    /// The value of a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// The nested table, if it is one.
    pub fn as_table(&self) -> Option<&Table> {
        match self {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The items, if it is an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// Whether two values mean the same as an argument: integers of equal value are equal whatever their width,
    /// and likewise the two floating-point types; tables do not mind the order of their entries.
    pub fn equivalent(&self, other: &Value) -> bool {
        if let (Some(a), Some(b)) = (self.as_i64(), other.as_i64()) {
            return a == b;
        }
        if let (Some(a), Some(b)) = (self.as_f64(), other.as_f64()) {
            return a.to_bits() == b.to_bits();
        }
        match (self, other) {
            (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equivalent(b)),
            (Value::Table(a), Value::Table(b)) => a.equivalent(b),
            _ => self == other,
        }
    }

    /// The type letter of RabbitMQ's dialect.
    pub fn letter(&self) -> u8 {
        match self {
            Value::Void => b'V',
            Value::Bool(_) => b't',
            Value::I8(_) => b'b',
            Value::U8(_) => b'B',
            Value::I16(_) => b's',
            Value::U16(_) => b'u',
            Value::I32(_) => b'I',
            Value::U32(_) => b'i',
            Value::I64(_) => b'l',
            Value::LongLong(_) => b'L',
            Value::F32(_) => b'f',
            Value::F64(_) => b'd',
            Value::Decimal { .. } => b'D',
            Value::LongStr(_) => b'S',
            Value::Bytes(_) => b'x',
            Value::Timestamp(_) => b'T',
            Value::Array(_) => b'A',
            Value::Table(_) => b'F',
        }
    }

    fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => None,
        }
    }

    /// Appends the type letter and the value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.letter());
        match self {
            Value::Void => {}
            Value::Bool(v) => out.push(u8::from(*v)),
            Value::I8(v) => out.extend_from_slice(&v.to_be_bytes()),
            Value::U8(v) => out.push(*v),
            Value::I16(v) => out.extend_from_slice(&v.to_be_bytes()),
            Value::U16(v) => out.extend_from_slice(&v.to_be_bytes()),
            Value::I32(v) => out.extend_from_slice(&v.to_be_bytes()),
            Value::U32(v) => out.extend_from_slice(&v.to_be_bytes()),
            Value::I64(v) | Value::LongLong(v) => out.extend_from_slice(&v.to_be_bytes()),
            Value::F32(v) => out.extend_from_slice(&v.to_bits().to_be_bytes()),
            Value::F64(v) => out.extend_from_slice(&v.to_bits().to_be_bytes()),
            Value::Decimal { scale, value } => {
                out.push(*scale);
                out.extend_from_slice(&value.to_be_bytes());
            }
            Value::LongStr(v) | Value::Bytes(v) => {
                length_prefixed(out, |out| out.extend_from_slice(v));
            }
            Value::Timestamp(v) => out.extend_from_slice(&v.to_be_bytes()),
            Value::Array(items) => length_prefixed(out, |out| {
                for item in items {
                    item.encode(out);
                }
            }),
            Value::Table(table) => table.encode(out),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::LongStr(text.as_bytes().to_vec())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::LongStr(text.into_bytes())
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Value::Bool(v)
    }
}

impl From<i32> for Value {
    fn from(v: i32) -> Self {
        Value::I32(v)
    }
}

impl From<i64> for Value {
    fn from(v: i64) -> Self {
        Value::I64(v)
    }
}

impl From<Table> for Value {
    fn from(table: Table) -> Self {
        Value::Table(table)
    }
}

/// Why bytes are not a field table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TableError {
    /// A length or a value reaches past the end of what encloses it.
    #[error("field table ends in the middle of a value")]
    Truncated,
    /// A key is not UTF-8.
    #[error("field table key is not UTF-8")]
    KeyNotUtf8,
    /// A type letter that the dialect does not have.
    #[error("unknown field table type 0x{0:02x}")]
    UnknownType(u8),
    /// More than [`TABLE_DEPTH_MAX`] tables and arrays in each other.
    #[error("field table is nested too deep")]
    TooDeep,
}

/// A field table: entries in the order of the wire, duplicates kept.
#[derive(Clone, Default, PartialEq)]
pub struct Table(Vec<(Box<str>, Value)>);

impl Table {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(k, _)| &**k == key).map(|(_, v)| v)
    }

    /// Replaces the first value under `key`, or appends an entry. A key longer than [`TABLE_KEY_BYTES_MAX`] is cut
    /// there (at a character's border) when it is written.
    pub fn set(&mut self, key: impl Into<Box<str>>, value: impl Into<Value>) {
        let key = key.into();
        let value = value.into();
        match self.0.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key, value)),
        }
    }

    /// Puts an entry first, in front of what is there, without looking for duplicates.
    pub fn push_front(&mut self, key: impl Into<Box<str>>, value: impl Into<Value>) {
        self.0.insert(0, (key.into(), value.into()));
    }

    /// Removes every entry under `key` and returns the first.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let first = self.0.iter().position(|(k, _)| &**k == key)?;
        let (_, value) = self.0.remove(first);
        self.0.retain(|(k, _)| &**k != key);
        Some(value)
    }

    /// [`Table::set`] in builder style.
    #[must_use]
    pub fn with(mut self, key: impl Into<Box<str>>, value: impl Into<Value>) -> Self {
        self.set(key, value);
        self
    }

    /// The entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(k, v)| (&**k, v))
    }

    /// The number of entries, duplicates counted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether two tables mean the same as arguments: the same keys with [equivalent](Value::equivalent) values, in
    /// any order.
    pub fn equivalent(&self, other: &Table) -> bool {
        let within = |a: &Table, b: &Table| {
            a.iter().all(|(k, _)| match (a.get(k), b.get(k)) {
                (Some(a), Some(b)) => a.equivalent(b),
                _ => false,
            })
        };
        self.len() == other.len() && within(self, other) && within(other, self)
    }

    /// Reads a table with its 4-byte length from the start of `bytes`; also gives the number of bytes read, the
    /// length prefix counted.
    ///
    /// # Errors
    ///
    /// See [`TableError`]. Memory in use is bounded by a small multiple of the table's own length.
    pub fn decode(bytes: &[u8]) -> Result<(Table, usize), TableError> {
        let mut reader = Reader { rest: bytes };
        let table = reader.table(1)?;
        Ok((table, bytes.len() - reader.rest.len()))
    }

    /// Appends the 4-byte length and the entries.
    pub fn encode(&self, out: &mut Vec<u8>) {
        length_prefixed(out, |out| {
            for (key, value) in &self.0 {
                let key = key_on_the_wire(key);
                // Cannot truncate: `key_on_the_wire` cuts at 255 bytes.
                out.push(key.len() as u8);
                out.extend_from_slice(key);
                value.encode(out);
            }
        });
    }

    /// The encoded form as a new vector.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Into<Box<str>>, V: Into<Value>> FromIterator<(K, V)> for Table {
    /// Keeps duplicates, as [`Table::decode`] does.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Table(entries.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

fn key_on_the_wire(key: &str) -> &[u8] {
    let mut end = key.len().min(TABLE_KEY_BYTES_MAX);
    while !key.is_char_boundary(end) {
        end -= 1;
    }
    key.as_bytes().get(..end).unwrap_or_default()
}

/// Writes a 4-byte length that is known only afterwards.
fn length_prefixed(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let len = out.len() - at - 4;
    assert!(u32::try_from(len).is_ok(), "field value of 4 GiB");
    out[at..at + 4].copy_from_slice(&(len as u32).to_be_bytes());
}

/// Checks that a table with its 4-byte length stands at the start of `bytes`, without allocating anything, and shows
/// its entries on the way: key, type letter, and the value's bytes (without the length of a long string, with that of
/// an array or table). Entries of nested tables are checked and not shown. Gives the number of bytes read.
///
/// # Errors
///
/// As [`Table::decode`], which succeeds on exactly the same bytes.
pub fn walk<'a>(bytes: &'a [u8], mut entry: impl FnMut(&'a str, u8, &'a [u8])) -> Result<usize, TableError> {
    let mut reader = Reader { rest: bytes };
    reader.walk_table(1, &mut entry)?;
    Ok(bytes.len() - reader.rest.len())
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], TableError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(TableError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TableError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(TableError::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, TableError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn long_prefixed(&mut self) -> Result<&'a [u8], TableError> {
        let len = u32::from_be_bytes(self.array()?);
        self.take(usize::try_from(len).map_err(|_| TableError::Truncated)?)
    }

    fn table(&mut self, depth: usize) -> Result<Table, TableError> {
        if depth > TABLE_DEPTH_MAX {
            return Err(TableError::TooDeep);
        }
        let mut inner = Reader { rest: self.long_prefixed()? };
        let mut entries = Vec::new();
        while !inner.rest.is_empty() {
            let len = inner.u8()?;
            let key = inner.take(len.into())?;
            let key = std::str::from_utf8(key).map_err(|_| TableError::KeyNotUtf8)?;
            entries.push((key.into(), inner.value(depth)?));
        }
        Ok(Table(entries))
    }

    fn walk_table(&mut self, depth: usize, entry: &mut dyn FnMut(&'a str, u8, &'a [u8])) -> Result<(), TableError> {
        if depth > TABLE_DEPTH_MAX {
            return Err(TableError::TooDeep);
        }
        let mut inner = Reader { rest: self.long_prefixed()? };
        while !inner.rest.is_empty() {
            let len = inner.u8()?;
            let key = inner.take(len.into())?;
            let key = std::str::from_utf8(key).map_err(|_| TableError::KeyNotUtf8)?;
            let letter = inner.u8()?;
            entry(key, letter, inner.walk_value(letter, depth)?);
        }
        Ok(())
    }

    fn walk_value(&mut self, letter: u8, depth: usize) -> Result<&'a [u8], TableError> {
        let whole = self.rest;
        match letter {
            b'V' => {}
            b't' | b'b' | b'B' => return self.take(1),
            b's' | b'u' => return self.take(2),
            b'I' | b'i' | b'f' => return self.take(4),
            b'l' | b'L' | b'd' | b'T' => return self.take(8),
            b'D' => return self.take(5),
            b'S' | b'x' => return self.long_prefixed(),
            b'A' => self.walk_items(depth + 1)?,
            b'F' => self.walk_table(depth + 1, &mut |_, _, _| {})?,
            letter => return Err(TableError::UnknownType(letter)),
        }
        Ok(whole.get(..whole.len() - self.rest.len()).unwrap_or_default())
    }

    fn walk_items(&mut self, depth: usize) -> Result<(), TableError> {
        if depth > TABLE_DEPTH_MAX {
            return Err(TableError::TooDeep);
        }
        let mut inner = Reader { rest: self.long_prefixed()? };
        while !inner.rest.is_empty() {
            let letter = inner.u8()?;
            inner.walk_value(letter, depth)?;
        }
        Ok(())
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Value>, TableError> {
        if depth > TABLE_DEPTH_MAX {
            return Err(TableError::TooDeep);
        }
        let mut inner = Reader { rest: self.long_prefixed()? };
        let mut items = Vec::new();
        while !inner.rest.is_empty() {
            items.push(inner.value(depth)?);
        }
        Ok(items)
    }

    fn value(&mut self, depth: usize) -> Result<Value, TableError> {
        Ok(match self.u8()? {
            b'V' => Value::Void,
            b't' => Value::Bool(self.u8()? != 0),
            b'b' => Value::I8(i8::from_be_bytes(self.array()?)),
            b'B' => Value::U8(self.u8()?),
            b's' => Value::I16(i16::from_be_bytes(self.array()?)),
            b'u' => Value::U16(u16::from_be_bytes(self.array()?)),
            b'I' => Value::I32(i32::from_be_bytes(self.array()?)),
            b'i' => Value::U32(u32::from_be_bytes(self.array()?)),
            b'l' => Value::I64(i64::from_be_bytes(self.array()?)),
            b'L' => Value::LongLong(i64::from_be_bytes(self.array()?)),
            b'f' => Value::F32(f32::from_bits(u32::from_be_bytes(self.array()?))),
            b'd' => Value::F64(f64::from_bits(u64::from_be_bytes(self.array()?))),
            b'D' => Value::Decimal { scale: self.u8()?, value: i32::from_be_bytes(self.array()?) },
            b'S' => Value::LongStr(self.long_prefixed()?.to_vec()),
            b'x' => Value::Bytes(self.long_prefixed()?.to_vec()),
            b'T' => Value::Timestamp(u64::from_be_bytes(self.array()?)),
            b'A' => Value::Array(self.items(depth + 1)?),
            b'F' => Value::Table(self.table(depth + 1)?),
            letter => return Err(TableError::UnknownType(letter)),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
