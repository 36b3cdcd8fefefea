//! The bytes of definitions and records that the journal keeps: numbers as LEB128, everything of variable length with its
//! length in front. Which fields follow each other is the business of who writes them.

use std::sync::Arc;

use crate::table::Table;

/// Writes fields, one behind the other.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// With room for so many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Writer {
        Writer(Vec::with_capacity(bytes))
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) {
        self.0.push(v);
    }

    /// A number, of one to ten bytes.
    pub fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push((v & 0x7f) as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }

    /// A number that may be below zero: eight bytes.
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

    /// 0 for nothing, else one more than the value; `u64::MAX` is told as the number below it.
    pub fn shifted(&mut self, v: Option<u64>) {
        self.varint(v.map_or(0, |v| v.saturating_add(1)));
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self, v: &[u8]) {
        self.varint(v.len() as u64);
        self.0.extend_from_slice(v);
    }

    /// A text.
    pub fn str(&mut self, v: &str) {
        self.bytes(v.as_bytes());
    }

    /// 0 for nothing, else one more than the length, and the text.
    pub fn shifted_str(&mut self, v: Option<&str>) {
        self.shifted(v.map(|v| v.len() as u64));
        self.0.extend_from_slice(v.unwrap_or_default().as_bytes());
    }

    /// Texts behind their number.
    pub fn strings<S: AsRef<str>>(&mut self, v: &[S]) {
        self.varint(v.len() as u64);
        v.iter().for_each(|s| self.str(s.as_ref()));
    }

    /// Pairs of texts behind their number.
    pub fn pairs(&mut self, v: &[(Box<str>, Box<str>)]) {
        self.varint(v.len() as u64);
        for (key, value) in v {
            self.str(key);
            self.str(value);
        }
    }

    /// Up to eight, the first in the lowest bit.
    pub fn flags(&mut self, v: &[bool]) {
        self.u8(v.iter().enumerate().fold(0, |bits, (i, set)| bits | u8::from(*set) << i));
    }

    /// A field table, as AMQP writes it.
    pub fn table(&mut self, v: &Table) {
        v.encode(&mut self.0);
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Box<[u8]> {
        self.0.into()
    }
}

/// Bytes that are not what a [`Writer`] wrote; says what of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

/// What reading a field gives.
pub type Read<T> = Result<T, Malformed>;

/// Reads fields from the front. Each is an error when the bytes are no such field; never allocates more than there is.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

#[expect(clippy::missing_errors_doc, reason = "said of the type")]
impl<'a> Reader<'a> {
    /// Of all these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    fn take(&mut self, n: usize) -> Read<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Malformed("length"))?;
        self.0 = tail;
        Ok(head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Read<u8> {
        let (first, rest) = self.0.split_first().ok_or(Malformed("end"))?;
        self.0 = rest;
        Ok(*first)
    }

    /// What [`Writer::varint`] wrote.
    pub fn varint(&mut self) -> Read<u64> {
        let mut v = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            v |= bits << shift;
            if byte < 0x80 {
                return Ok(v);
            }
        }
        Err(Malformed("number"))
    }

    /// A number of a smaller type.
    pub fn number<T: TryFrom<u64>>(&mut self) -> Read<T> {
        T::try_from(self.varint()?).map_err(|_| Malformed("number"))
    }

    /// What [`Writer::signed`] wrote.
    pub fn signed(&mut self) -> Read<i64> {
        let bytes = self.take(8)?;
        Ok(i64::from_be_bytes(bytes.try_into().map_err(|_| Malformed("number"))?))
    }

    /// What [`Writer::optional`] wrote.
    pub fn optional(&mut self) -> Read<Option<u64>> {
        match self.u8()? {
            0 => Ok(None),
            1 => Ok(Some(self.varint()?)),
            _ => Err(Malformed("flag")),
        }
    }

    /// What [`Writer::shifted`] wrote.
    pub fn shifted(&mut self) -> Read<Option<u64>> {
        Ok(self.varint()?.checked_sub(1))
    }

    /// How many of something follow, each of at least one byte.
    pub fn count(&mut self) -> Read<usize> {
        let n: usize = self.number()?;
        if n > self.0.len() { Err(Malformed("count")) } else { Ok(n) }
    }

    /// What [`Writer::bytes`] wrote.
    pub fn bytes(&mut self) -> Read<&'a [u8]> {
        let n = self.number()?;
        self.take(n)
    }

    /// What [`Writer::str`] wrote.
    pub fn str(&mut self) -> Read<&'a str> {
        text(self.bytes()?)
    }

    /// The same, kept.
    pub fn boxed(&mut self) -> Read<Box<str>> {
        self.str().map(Into::into)
    }

    /// The same, shared.
    pub fn name(&mut self) -> Read<Arc<str>> {
        self.str().map(Into::into)
    }

    /// What [`Writer::shifted_str`] wrote.
    pub fn shifted_str(&mut self) -> Read<Option<&'a str>> {
        let Some(n) = self.shifted()? else { return Ok(None) };
        text(self.take(usize::try_from(n).map_err(|_| Malformed("length"))?)?).map(Some)
    }

    /// What [`Writer::strings`] wrote.
    pub fn strings<S: From<&'a str>, T: FromIterator<S>>(&mut self) -> Read<T> {
        let n = self.count()?;
        (0..n).map(|_| self.str().map(S::from)).collect()
    }

    /// What [`Writer::pairs`] wrote.
    pub fn pairs(&mut self) -> Read<Arc<[(Box<str>, Box<str>)]>> {
        let n = self.count()?;
        (0..n).map(|_| Ok((self.boxed()?, self.boxed()?))).collect()
    }

    /// What [`Writer::flags`] wrote.
    pub fn flags<const N: usize>(&mut self) -> Read<[bool; N]> {
        let bits = self.u8()?;
        if u32::from(bits) >> N != 0 {
            return Err(Malformed("flags"));
        }
        Ok(std::array::from_fn(|i| bits >> i & 1 == 1))
    }

    /// What [`Writer::table`] wrote.
    pub fn table(&mut self) -> Read<Table> {
        let (table, n) = Table::decode(self.0).map_err(|_| Malformed("table"))?;
        self.take(n)?;
        Ok(table)
    }

    /// Nothing is left.
    pub fn end(&self) -> Read<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("end: bytes are left over")) }
    }
}

fn text(bytes: &[u8]) -> Read<&str> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length() {
        for n in [0, 1, 127, 128, 1 << 35, u64::MAX - 1, u64::MAX] {
            let mut w = Writer::default();
            w.varint(n);
            assert_eq!(Reader::new(&w.finish()).varint(), Ok(n));
        }
        assert_eq!(Reader::new(&[0xff; 11]).varint(), Err(Malformed("number")));
        // Ten bytes hold 70 bits: one that sets any above the 64th is no number of ours.
        assert_eq!(
            Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).varint(),
            Err(Malformed("number"))
        );
    }

    #[test]
    fn every_field_comes_back() {
        let pairs: [(Box<str>, Box<str>); 1] = [("k".into(), "v".into())];
        let mut w = Writer::with_capacity(64);
        w.u8(7);
        w.signed(-5);
        w.optional(None);
        w.optional(Some(u64::MAX));
        w.shifted(None);
        w.shifted(Some(0));
        w.shifted_str(None);
        w.shifted_str(Some("ä"));
        w.strings(&["a", ""]);
        w.pairs(&pairs);
        w.flags(&[true, false, true]);
        w.table(&Table::default());
        let bytes = w.finish();
        let mut r = Reader::new(&bytes);
        assert_eq!((r.u8(), r.signed()), (Ok(7), Ok(-5)));
        assert_eq!((r.optional(), r.optional()), (Ok(None), Ok(Some(u64::MAX))));
        assert_eq!((r.shifted(), r.shifted()), (Ok(None), Ok(Some(0))));
        assert_eq!((r.shifted_str(), r.shifted_str()), (Ok(None), Ok(Some("ä"))));
        assert_eq!(r.strings::<Box<str>, Vec<_>>(), Ok(vec!["a".into(), "".into()]));
        assert_eq!(r.pairs().as_deref(), Ok(&pairs[..]));
        assert_eq!(r.flags::<3>(), Ok([true, false, true]));
        assert_eq!(r.end(), Err(Malformed("end: bytes are left over")));
        assert_eq!(r.table(), Ok(Table::default()));
        assert_eq!(r.end(), Ok(()));
    }

    #[test]
    fn a_count_beyond_the_bytes_is_refused_before_anything_is_made() {
        let mut w = Writer::default();
        w.varint(1 << 60);
        let bytes = w.finish();
        assert_eq!(Reader::new(&bytes).strings::<Box<str>, Vec<_>>(), Err(Malformed("count")));
        assert_eq!(Reader::new(&bytes).bytes(), Err(Malformed("length")));
        assert_eq!(Reader::new(&[0b1000]).flags::<3>(), Err(Malformed("flags")));
        assert_eq!(Reader::new(&[2]).optional(), Err(Malformed("flag")));
    }
}
