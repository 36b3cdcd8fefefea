//! Records of a batch, for the few who must look: those who search by time, and consumers of other protocols. Appends and
//! fetches never come here.

use std::io::{self, Read};

use crate::batch::{Batch, HEADER_BYTES};

/// A batch may not become longer than this, decompressed: a bomb is taken for damage.
pub const DECOMPRESSED_MAX: u64 = 256 << 20;
/// Longest key, value or header, and most headers, of a record.
const PART_MAX: i64 = 256 << 20;
const HEADERS_MAX: i64 = 100_000;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: i64,
    /// Its time, milliseconds since 1970.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` removes the key from a compacted topic.
    pub value: Option<Vec<u8>>,
    /// Names and values, in order; names may come twice.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// The records of a batch, in order.
pub struct Records<'a> {
    input: Box<dyn Read + 'a>,
    left: i32,
    base_offset: i64,
    /// The offset that the next record has at least, and the last that there may be.
    next: i64,
    last: i64,
    base_timestamp: i64,
    /// The time of all of them, if that is the log's.
    append_time: Option<i64>,
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<'a> Records<'a> {
    /// Begins to read.
    ///
    /// # Errors
    /// A codec that does not exist, a beginning that the codec does not know.
    pub fn of(batch: &Batch<'a>) -> io::Result<Records<'a>> {
        let bytes = batch.bytes().get(HEADER_BYTES..).unwrap_or_default();
        let input: Box<dyn Read + 'a> = match batch.codec() {
            0 => Box::new(bytes),
            1 => Box::new(flate2::read::GzDecoder::new(bytes)),
            2 => Box::new(io::Cursor::new(snappy(bytes)?)),
            3 => Box::new(lz4_flex::frame::FrameDecoder::new(bytes)),
            4 => Box::new(ruzstd::decoding::StreamingDecoder::new(bytes).map_err(|_| damaged("zstd"))?),
            _ => return Err(damaged("unknown codec")),
        };
        Ok(Records {
            input: Box::new(io::BufReader::new(input.take(DECOMPRESSED_MAX))),
            left: batch.records(),
            base_offset: batch.base_offset(),
            next: batch.base_offset(),
            last: batch.last_offset(),
            base_timestamp: batch.base_timestamp(),
            append_time: batch.is_log_append_time().then(|| batch.max_timestamp()),
        })
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// A signed number of variable length, zigzag.
    fn varint(&mut self) -> io::Result<i64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(damaged("a number does not end"))
    }

    fn part(&mut self) -> io::Result<Option<Vec<u8>>> {
        let length = self.varint()?;
        if length < 0 {
            return Ok(None);
        }
        if length > PART_MAX {
            return Err(damaged("a part of a record is too long"));
        }
        // Grown as it comes: what is not there takes no room.
        let (mut bytes, want) = (Vec::new(), length.unsigned_abs());
        let got = self.input.by_ref().take(want).read_to_end(&mut bytes)?;
        if got as u64 == want { Ok(Some(bytes)) } else { Err(damaged("a record is cut")) }
    }

    fn record(&mut self) -> io::Result<Record> {
        let _length = self.varint()?;
        let _attributes = self.byte()?;
        let timestamp = self.base_timestamp.wrapping_add(self.varint()?);
        let offset = self.base_offset.wrapping_add(self.varint()?);
        // Whoever believed another batch's offset would skip what lies between, or let it replace what came later.
        if !(self.next..=self.last).contains(&offset) {
            return Err(damaged("a record's offset is not its batch's"));
        }
        self.next = offset.saturating_add(1);
        let (key, value) = (self.part()?, self.part()?);
        let count = self.varint()?;
        if !(0..=HEADERS_MAX).contains(&count) {
            return Err(damaged("a record has too many headers"));
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = self.part()?.ok_or_else(|| damaged("a header has no name"))?;
            let name = String::from_utf8(name).map_err(|_| damaged("a header's name is no UTF-8"))?;
            headers.push((name, self.part()?));
        }
        Ok(Record { offset, timestamp: self.append_time.unwrap_or(timestamp), key, value, headers })
    }
}

impl Iterator for Records<'_> {
    type Item = io::Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        self.left -= 1;
        let record = self.record();
        if record.is_err() {
            self.left = 0;
        }
        Some(record)
    }
}

/// The first record of a batch of that time or later, and not before offset `from`: offset and time.
///
/// # Errors
/// The batch is damaged.
pub fn first_of_time(batch: &Batch<'_>, time: i64, from: u64) -> io::Result<Option<(i64, i64)>> {
    for record in Records::of(batch)? {
        let record = record?;
        if record.timestamp >= time && record.offset.unsigned_abs() >= from {
            return Ok(Some((record.offset, record.timestamp)));
        }
    }
    Ok(None)
}

/// Whether every record of a batch has a key: others cannot be compacted.
///
/// # Errors
/// The batch is damaged.
pub fn have_keys(batch: &Batch<'_>) -> io::Result<bool> {
    for record in Records::of(batch)? {
        if record?.key.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Snappy comes bare, or in the frames of the Java library: a head of 16 bytes, then blocks behind their length.
fn snappy(bytes: &[u8]) -> io::Result<Vec<u8>> {
    const MAGIC: &[u8] = &[0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
    let mut out = Vec::new();
    let Some(mut rest) = bytes.strip_prefix(MAGIC).and_then(|rest| rest.get(8..)) else {
        block(bytes, &mut out)?;
        return Ok(out);
    };
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (compressed, behind) = behind.split_at_checked(length).ok_or_else(|| damaged("snappy: a block is cut"))?;
        block(compressed, &mut out)?;
        rest = behind;
    }
    Ok(out)
}

fn block(compressed: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let length = snap::raw::decompress_len(compressed).map_err(|_| damaged("snappy"))?;
    if (out.len() + length) as u64 > DECOMPRESSED_MAX || length > compressed.len().saturating_mul(64).max(64) {
        return Err(damaged("snappy: longer than it can be"));
    }
    out.extend(snap::raw::Decoder::new().decompress_vec(compressed).map_err(|_| damaged("snappy"))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::sample;
    use std::io::Write;

    /// Two records: key `k` and value `v` at 1000 with a header, then no key and an empty value at 1005.
    const PLAIN: &[u8] = &[
        22, 0, 0, 0, 2, b'k', 2, b'v', 2, 2, b'h', 1, //
        14, 0, 10, 2, 1, 0, 0,
    ];

    fn check(codec: i16, body: &[u8]) {
        let bytes = sample::with_records(2, codec, 1000, body);
        let (batch, _) = Batch::split(&bytes).unwrap();
        let records: Vec<Record> = Records::of(&batch).unwrap().collect::<io::Result<_>>().unwrap();
        let first = Record {
            offset: 0,
            timestamp: 1000,
            key: Some(b"k".to_vec()),
            value: Some(b"v".to_vec()),
            headers: vec![("h".to_owned(), None)],
        };
        let second = Record { offset: 1, timestamp: 1005, key: None, value: Some(vec![]), headers: vec![] };
        assert_eq!(records, [first, second], "codec {codec}");
        assert_eq!(first_of_time(&batch, 1001, 0).unwrap(), Some((1, 1005)));
        assert_eq!(first_of_time(&batch, 1000, 1).unwrap(), Some((1, 1005)));
        assert_eq!(first_of_time(&batch, 1000, 2).unwrap(), None);
        assert_eq!(first_of_time(&batch, 1006, 0).unwrap(), None);
    }

    #[test]
    fn every_codec_is_read() {
        check(0, PLAIN);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(PLAIN).unwrap();
        check(1, &gzip.finish().unwrap());
        let raw = snap::raw::Encoder::new().compress_vec(PLAIN).unwrap();
        check(2, &raw);
        let mut framed = vec![0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
        for half in PLAIN.chunks(12) {
            let raw = snap::raw::Encoder::new().compress_vec(half).unwrap();
            framed.extend_from_slice(&(raw.len() as u32).to_be_bytes());
            framed.extend_from_slice(&raw);
        }
        check(2, &framed);
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(PLAIN).unwrap();
        check(3, &lz4.finish().unwrap());
        check(4, &ruzstd::encoding::compress_to_vec(PLAIN, ruzstd::encoding::CompressionLevel::Fastest));
    }

    #[test]
    fn damage_is_an_error_and_takes_no_room() {
        for codec in 0..=4 {
            for body in
                [&b""[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x02\x00\x00\x00\xfe\xff\xff\xff\x0f"]
            {
                let bytes = sample::with_records(2, codec, 1000, body);
                let (batch, _) = Batch::split(&bytes).unwrap();
                let read = Records::of(&batch).and_then(|records| records.collect::<io::Result<Vec<_>>>());
                assert!(read.is_err(), "codec {codec} {body:?}");
            }
        }
    }
}
