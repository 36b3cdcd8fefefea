//! Batches as the server writes them itself: uncompressed, of one time, by no producer.

use crate::batch;

/// What stands between a batch's header and the next record's beginning, at most: ten variable numbers.
const RECORD_OVERHEAD: usize = 64;

/// Puts a batch together.
#[derive(Debug)]
pub struct BatchWriter {
    bytes: Vec<u8>,
    record: Vec<u8>,
    count: i32,
    time: i64,
}

/// A record's header: its name and its value.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

impl BatchWriter {
    /// An empty batch of records of this time, milliseconds since 1970, with room for so many bytes.
    #[must_use]
    pub fn new(time: i64, capacity: usize) -> BatchWriter {
        let mut bytes = Vec::with_capacity(capacity + batch::HEADER_BYTES);
        bytes.resize(batch::HEADER_BYTES, 0);
        BatchWriter { bytes, record: Vec::new(), count: 0, time }
    }

    /// How long the batch is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many records it has.
    #[must_use]
    pub fn records(&self) -> i32 {
        self.count
    }

    /// How long a batch is at most with one record of so many bytes of key, value, and headers' names and values.
    #[must_use]
    pub fn bytes_at_most(payload: usize, headers: usize) -> usize {
        batch::HEADER_BYTES + RECORD_OVERHEAD + payload + headers * 20
    }

    /// Adds a record.
    pub fn push(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) {
        let place = (0, self.count.into());
        let scratch = &mut self.record;
        put_record(&mut self.bytes, scratch, place, (key, value), headers.iter().copied());
        self.count += 1;
    }

    /// The batch, its offset yet to be stamped. `None` without a record.
    #[must_use]
    pub fn finish(mut self) -> Option<Vec<u8>> {
        if self.count == 0 {
            return None;
        }
        batch::seal(&mut self.bytes, self.count, self.time);
        Some(self.bytes)
    }
}

/// A record at the end of a batch. `place`: its time and its offset, as the batch's own are left behind. `scratch` is used to
/// find out how long it is.
pub(crate) fn put_record<'a>(
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    (time, offset): (i64, i64),
    (key, value): (Option<&[u8]>, Option<&[u8]>),
    headers: impl ExactSizeIterator<Item = Header<'a>>,
) {
    scratch.clear();
    // No attribute of a record has a meaning.
    scratch.push(0);
    varint(scratch, time);
    varint(scratch, offset);
    part(scratch, key);
    part(scratch, value);
    varint(scratch, length(headers.len()));
    for (name, value) in headers {
        part(scratch, Some(name.as_bytes()));
        part(scratch, value);
    }
    varint(out, length(scratch.len()));
    out.extend_from_slice(scratch);
}

fn length(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn part(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint(out, -1),
        Some(bytes) => {
            varint(out, length(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

/// A signed number of variable length, zigzag.
fn varint(out: &mut Vec<u8>, n: i64) {
    let mut left = ((n << 1) ^ (n >> 63)) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use crate::records::Records;

    #[test]
    fn what_is_written_can_be_read() {
        let mut writer = BatchWriter::new(1_700_000_000_000, 100);
        writer.push(None, Some(b"first"), &[]);
        let long = vec![b'x'; 70_000];
        writer.push(Some(b"k"), Some(&long), &[("a", Some(b"1")), ("a", None), ("", Some(b""))]);
        writer.push(Some(b""), None, &[("n", None)]);
        assert_eq!(writer.records(), 3);
        let bytes = writer.finish().unwrap();
        let (batch, rest) = Batch::split(&bytes).unwrap();
        assert_eq!((batch.check(), rest.len(), batch.producer_id()), (Ok(()), 0, -1));
        assert_eq!((batch.max_timestamp(), batch.base_timestamp()), (1_700_000_000_000, 1_700_000_000_000));
        let all: Vec<_> = Records::of(&batch).unwrap().map(Result::unwrap).collect();
        assert_eq!(
            all.iter().map(|r| (r.offset, r.timestamp)).collect::<Vec<_>>(),
            [(0, 1_700_000_000_000), (1, 1_700_000_000_000), (2, 1_700_000_000_000)]
        );
        assert_eq!((all[0].key.as_deref(), all[0].value.as_deref()), (None, Some(&b"first"[..])));
        assert_eq!((all[1].key.as_deref(), all[1].value.as_deref()), (Some(&b"k"[..]), Some(&long[..])));
        assert_eq!(all[1].headers[1], ("a".into(), None));
        assert_eq!((all[2].key.as_deref(), all[2].value.as_deref()), (Some(&b""[..]), None));
    }

    #[test]
    fn a_batch_without_records_is_none() {
        assert_eq!(BatchWriter::new(0, 0).finish(), None);
    }

    #[test]
    fn the_bound_of_a_record_holds() {
        let name = "n".repeat(250);
        let headers: Vec<Header<'_>> = (0..100).map(|_| (name.as_str(), Some(&b"v"[..]))).collect();
        let mut writer = BatchWriter::new(0, 0);
        writer.push(Some(&[7; 300]), Some(&[1; 100_000]), &headers);
        assert!(writer.bytes() <= BatchWriter::bytes_at_most(300 + 100_000 + 100 * 251, 100));
    }
}
