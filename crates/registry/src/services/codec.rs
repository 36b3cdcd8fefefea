//! The bytes of our definitions: numbers as LEB128, everything of variable length with its length in front.

use std::sync::Arc;

/// Writes fields.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub fn new(capacity: usize) -> Writer {
        Writer(Vec::with_capacity(capacity))
    }

    pub fn u8(&mut self, v: u8) {
        self.0.push(v);
    }

    pub fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push((v & 0x7f) as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }

    /// 0 for nothing, else one more than the value.
    pub fn optional(&mut self, v: Option<u64>) {
        self.varint(v.map_or(0, |v| v.saturating_add(1)));
    }

    pub fn str(&mut self, v: &str) {
        self.varint(v.len() as u64);
        self.0.extend_from_slice(v.as_bytes());
    }

    /// 0 for nothing, else one more than the length, and the text.
    pub fn optional_str(&mut self, v: Option<&str>) {
        self.optional(v.map(|v| v.len() as u64));
        self.0.extend_from_slice(v.unwrap_or_default().as_bytes());
    }

    pub fn pairs(&mut self, v: &[(Box<str>, Box<str>)]) {
        self.varint(v.len() as u64);
        for (key, value) in v {
            self.str(key);
            self.str(value);
        }
    }

    pub fn finish(self) -> Box<[u8]> {
        self.0.into()
    }
}

/// The bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

pub(super) type Read<T> = Result<T, Malformed>;

/// Reads fields. Never gives more than there is.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    fn take(&mut self, n: usize) -> Read<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    pub fn u8(&mut self) -> Read<u8> {
        self.take(1)?.first().copied().ok_or(Malformed)
    }

    pub fn varint(&mut self) -> Read<u64> {
        let mut v = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(Malformed);
            }
            v |= bits << shift;
            if byte < 0x80 {
                return Ok(v);
            }
        }
        Err(Malformed)
    }

    pub fn number<T: TryFrom<u64>>(&mut self) -> Read<T> {
        T::try_from(self.varint()?).map_err(|_| Malformed)
    }

    pub fn optional(&mut self) -> Read<Option<u64>> {
        Ok(self.varint()?.checked_sub(1))
    }

    /// How many of something follow, each of at least one byte.
    pub fn count(&mut self) -> Read<usize> {
        let n: usize = self.number()?;
        if n > self.0.len() { Err(Malformed) } else { Ok(n) }
    }

    pub fn str(&mut self) -> Read<&'a str> {
        let n = self.count()?;
        std::str::from_utf8(self.take(n)?).map_err(|_| Malformed)
    }

    pub fn boxed(&mut self) -> Read<Box<str>> {
        self.str().map(Into::into)
    }

    pub fn optional_str(&mut self) -> Read<Option<&'a str>> {
        let Some(n) = self.optional()? else { return Ok(None) };
        let bytes = self.take(usize::try_from(n).map_err(|_| Malformed)?)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| Malformed)
    }

    pub fn strings(&mut self) -> Read<Arc<[Box<str>]>> {
        let n = self.count()?;
        (0..n).map(|_| self.boxed()).collect()
    }

    pub fn pairs(&mut self) -> Read<Arc<[(Box<str>, Box<str>)]>> {
        let n = self.count()?;
        (0..n).map(|_| Ok((self.boxed()?, self.boxed()?))).collect()
    }

    pub fn end(&self) -> Read<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}
