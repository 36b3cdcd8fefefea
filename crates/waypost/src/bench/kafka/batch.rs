//! Record batches, made once and sent many times.

use crate::bench::amqp::fault::Fault;
use clap::ValueEnum;
use serde::Serialize;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a batch's header.
const HEADER_BYTES: usize = 61;
/// Where the checksum stands, and where what it covers begins.
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// LZ4, in frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// What a batch consists of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many records.
    pub records: u32,
    /// Bytes of each value.
    pub value_bytes: u32,
    /// How it is compressed.
    pub codec: Codec,
    /// How many different keys there are; none for no keys.
    pub keys: u32,
}

/// A batch as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Header and records.
    pub bytes: Vec<u8>,
    /// How many records.
    pub records: u32,
    /// Bytes of all values.
    pub value_bytes: u64,
}

impl Batch {
    /// Makes one. Values look like text: a compressor halves them.
    ///
    /// # Errors
    /// The codec failed.
    pub fn new(shape: Shape) -> Result<Batch, Fault> {
        let mut plain = Vec::new();
        let mut text = Text(0x9e37_79b9_7f4a_7c15);
        for n in 0..shape.records {
            let key = (shape.keys > 0).then(|| format!("{:08}", n % shape.keys));
            put_record(&mut plain, n, key.as_deref(), &text.value(shape.value_bytes));
        }
        let (attributes, records) = compress(shape.codec, plain)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + records.len());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as i64);
        bytes.extend_from_slice(&0_i64.to_be_bytes());
        bytes.extend_from_slice(&((HEADER_BYTES - 12 + records.len()) as i32).to_be_bytes());
        bytes.extend_from_slice(&(-1_i32).to_be_bytes());
        bytes.push(2);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&attributes.to_be_bytes());
        bytes.extend_from_slice(&(shape.records as i32 - 1).to_be_bytes());
        bytes.extend_from_slice(&now.to_be_bytes());
        bytes.extend_from_slice(&now.to_be_bytes());
        // No producer id, epoch, sequence: nothing would have to be patched within the checksum.
        bytes.extend_from_slice(&(-1_i64).to_be_bytes());
        bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        bytes.extend_from_slice(&(-1_i32).to_be_bytes());
        bytes.extend_from_slice(&(shape.records as i32).to_be_bytes());
        bytes.extend_from_slice(&records);
        let crc = crc32c::crc32c(bytes.get(CRC_FROM..).unwrap_or_default());
        if let Some(place) = bytes.get_mut(CRC_AT..CRC_FROM) {
            place.copy_from_slice(&crc.to_be_bytes());
        }
        let value_bytes = u64::from(shape.records) * u64::from(shape.value_bytes);
        Ok(Batch { bytes, records: shape.records, value_bytes })
    }
}

fn compress(codec: Codec, plain: Vec<u8>) -> Result<(i16, Vec<u8>), Fault> {
    Ok(match codec {
        Codec::None => (0, plain),
        Codec::Lz4 => {
            let failed = |e: &dyn std::fmt::Display| Fault::Usage(format!("cannot compress a batch: {e}"));
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(&plain).map_err(|e| failed(&e))?;
            (3, encoder.finish().map_err(|e| failed(&e))?)
        }
        Codec::Zstd => (4, ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest)),
    })
}

fn put_record(out: &mut Vec<u8>, delta: u32, key: Option<&str>, value: &[u8]) {
    let mut body = vec![0];
    put_varint(&mut body, 0);
    put_varint(&mut body, i64::from(delta));
    match key {
        None => put_varint(&mut body, -1),
        Some(key) => {
            put_varint(&mut body, key.len() as i64);
            body.extend_from_slice(key.as_bytes());
        }
    }
    put_varint(&mut body, value.len() as i64);
    body.extend_from_slice(value);
    put_varint(&mut body, 0);
    put_varint(out, body.len() as i64);
    out.extend_from_slice(&body);
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Letters of sixteen kinds, by a generator that is always the same.
struct Text(u64);

impl Text {
    fn value(&mut self, bytes: u32) -> Vec<u8> {
        let mut value = Vec::with_capacity(bytes as usize + 16);
        while value.len() < bytes as usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            value.extend((0..16).map(|n| b'a' + (self.0 >> (4 * n) & 15) as u8));
        }
        value.truncate(bytes as usize);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_have_the_form_of_the_specification() {
        let batch = Batch::new(Shape { records: 3, value_bytes: 5, codec: Codec::None, keys: 2 }).unwrap();
        assert_eq!((batch.records, batch.value_bytes), (3, 15));
        let bytes = &batch.bytes;
        assert_eq!(i32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize, bytes.len() - 12);
        assert_eq!(bytes[16], 2);
        assert_eq!(u32::from_be_bytes(bytes[17..21].try_into().unwrap()), crc32c::crc32c(&bytes[21..]));
        assert_eq!((&bytes[23..27], &bytes[57..61]), (&[0, 0, 0, 2][..], &[0, 0, 0, 3][..]));
        // Length 19, attributes, time and offset deltas of 0, key of 8, value of 5, no headers.
        assert_eq!(&bytes[61..66], &[38, 0, 0, 0, 16]);
        assert_eq!((&bytes[66..74], bytes[74], bytes[80]), (&b"00000000"[..], 10, 0));
        assert_eq!(&bytes[81..85], &[38, 0, 0, 2]);
        assert_eq!(bytes.len(), 61 + 3 * 20);
    }

    #[test]
    fn codecs_make_less_of_it() {
        let bytes = |codec| Batch::new(Shape { records: 64, value_bytes: 1024, codec, keys: 0 }).unwrap().bytes;
        let plain = bytes(Codec::None).len();
        assert!(bytes(Codec::Zstd).len() < plain * 3 / 4, "{} of {plain}", bytes(Codec::Zstd).len());
        assert_eq!((bytes(Codec::Lz4)[22], bytes(Codec::Zstd)[22]), (3, 4));
    }
}
