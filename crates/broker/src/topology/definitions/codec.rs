//! The bytes of keys and values: numbers as LEB128, everything of variable length with its length in front.

use std::sync::Arc;

use waypost_model::table::Table;

/// Writes fields.
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

    pub fn signed(&mut self, v: i64) {
        self.0.extend_from_slice(&v.to_be_bytes());
    }

    /// 0 for nothing, else 1 and the value.
    pub fn optional(&mut self, v: Option<u64>) {
        self.u8(u8::from(v.is_some()));
        if let Some(v) = v {
            self.varint(v);
        }
    }

    pub fn bytes(&mut self, v: &[u8]) {
        self.varint(v.len() as u64);
        self.0.extend_from_slice(v);
    }

    pub fn str(&mut self, v: &str) {
        self.bytes(v.as_bytes());
    }

    pub fn strings(&mut self, v: &[String]) {
        self.varint(v.len() as u64);
        v.iter().for_each(|s| self.str(s));
    }

    /// Up to eight, the first in the lowest bit.
    pub fn flags(&mut self, v: &[bool]) {
        self.u8(v.iter().enumerate().fold(0, |bits, (i, set)| bits | u8::from(*set) << i));
    }

    pub fn table(&mut self, v: &Table) {
        v.encode(&mut self.0);
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

    pub fn signed(&mut self) -> Read<i64> {
        let bytes = self.take(8)?;
        Ok(i64::from_be_bytes(bytes.try_into().map_err(|_| Malformed)?))
    }

    pub fn optional(&mut self) -> Read<Option<u64>> {
        match self.u8()? {
            0 => Ok(None),
            1 => Ok(Some(self.varint()?)),
            _ => Err(Malformed),
        }
    }

    pub fn bytes(&mut self) -> Read<&'a [u8]> {
        let len = self.varint()?;
        self.take(usize::try_from(len).map_err(|_| Malformed)?)
    }

    pub fn str(&mut self) -> Read<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    pub fn name(&mut self) -> Read<Arc<str>> {
        self.str().map(Arc::from)
    }

    pub fn strings(&mut self) -> Read<Vec<String>> {
        // Each takes a byte at least, so that the number is bounded by what there is.
        let n = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        if n > self.0.len() {
            return Err(Malformed);
        }
        (0..n).map(|_| self.str().map(str::to_owned)).collect()
    }

    pub fn flags<const N: usize>(&mut self) -> Read<[bool; N]> {
        let bits = self.u8()?;
        if u32::from(bits) >> N != 0 {
            return Err(Malformed);
        }
        Ok(std::array::from_fn(|i| bits >> i & 1 == 1))
    }

    pub fn table(&mut self) -> Read<Table> {
        let (table, n) = Table::decode(self.0).map_err(|_| Malformed)?;
        self.take(n)?;
        Ok(table)
    }

    pub fn end(&self) -> Read<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}
