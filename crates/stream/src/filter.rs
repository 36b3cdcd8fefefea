//! A batch without some of its records. Those that stay keep their offsets and times, and the batch its first and last
//! offset, its producer and its codec.

use std::io::{self, Write};

use crate::batch::{Batch, Rest};
use crate::records::{Record, Records};
use crate::writer::put_record;

/// What is left of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing was to be removed.
    All,
    /// Some records.
    Some(Vec<u8>),
    /// None.
    Nothing,
}

/// Leaves out the records that `keep` does not want: it is asked twice for each, since what a batch decompresses to is not
/// held in memory but for what is left of it. `horizon`: from which time on records without a value may go; it
/// is noted in the batch when it first keeps one, in place of its base timestamp, as Kafka notes it.
///
/// # Errors
/// The batch cannot be read.
pub(crate) fn filter(batch: &Batch<'_>, horizon: i64, keep: impl Fn(&Record) -> bool) -> io::Result<Left> {
    let (mut kept, mut total, mut removes, mut latest) = (0, 0, false, -1);
    for record in Records::of(batch)? {
        let record = record?;
        total += 1;
        if keep(&record) {
            kept += 1;
            removes |= record.value.is_none();
            latest = record.timestamp.max(latest);
        }
    }
    let stamp = batch.delete_horizon().is_none() && removes;
    if kept == total && !stamp {
        return Ok(Left::All);
    }
    if kept == 0 {
        return Ok(Left::Nothing);
    }
    let base_timestamp = if stamp { horizon } else { batch.base_timestamp() };
    let (mut plain, mut scratch) = (Vec::new(), Vec::new());
    for record in Records::of(batch)? {
        let record = record?;
        if keep(&record) {
            put(&mut plain, &mut scratch, &record, batch.base_offset(), base_timestamp);
        }
    }
    let max_timestamp = if batch.is_log_append_time() { batch.max_timestamp() } else { latest };
    let rest =
        Rest { count: kept, base_timestamp, max_timestamp, has_horizon: stamp || batch.delete_horizon().is_some() };
    Ok(Left::Some(batch.with(&rest, &compress(batch.codec(), &plain)?)))
}

fn put(out: &mut Vec<u8>, scratch: &mut Vec<u8>, record: &Record, base_offset: i64, base_timestamp: i64) {
    let place = (record.timestamp.wrapping_sub(base_timestamp), record.offset.wrapping_sub(base_offset));
    let headers = record.headers.iter().map(|(name, value)| (&**name, value.as_deref()));
    put_record(out, scratch, place, (record.key.as_deref(), record.value.as_deref()), headers);
}

fn compress(codec: i16, plain: &[u8]) -> io::Result<Vec<u8>> {
    let other = |e: &dyn std::fmt::Display| io::Error::other(e.to_string());
    match codec {
        0 => Ok(plain.to_vec()),
        1 => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(plain)?;
            encoder.finish()
        }
        2 => snappy(plain).map_err(|e| other(&e)),
        3 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(plain)?;
            encoder.finish().map_err(|e| other(&e))
        }
        4 => Ok(ruzstd::encoding::compress_to_vec(plain, ruzstd::encoding::CompressionLevel::Fastest)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "unknown codec")),
    }
}

/// In the frames of the Java library, which all clients read.
fn snappy(plain: &[u8]) -> Result<Vec<u8>, snap::Error> {
    const BLOCK: usize = 32 * 1024;
    let mut out = vec![0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
    for block in plain.chunks(BLOCK) {
        let compressed = snap::raw::Encoder::new().compress_vec(block)?;
        out.extend_from_slice(&u32::try_from(compressed.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    Ok(out)
}

/// Batches for tests, with records that can be read.
#[cfg(test)]
pub(crate) mod sample {
    use super::*;
    use crate::batch::sample::produced;

    /// A batch of base offset 0 with these keys and values. `attributes`: codec and more. `producer`: id, epoch, sequence.
    pub fn keyed(
        attributes: i16,
        time: i64,
        producer: (i64, i16, i32),
        records: &[(Option<&str>, Option<&str>)],
    ) -> Vec<u8> {
        let mut plain = Vec::new();
        for (at, (key, value)) in records.iter().enumerate() {
            let (key, value) = (key.map(Into::into), value.map(Into::into));
            let record = Record { offset: at as i64, timestamp: time, key, value, headers: vec![] };
            put(&mut plain, &mut Vec::new(), &record, 0, time);
        }
        let count = records.len() as i32;
        let head = produced(count, attributes, time, producer);
        let rest = Rest { count, base_timestamp: time, max_timestamp: time, has_horizon: false };
        Batch::split(&head).unwrap().0.with(&rest, &compress(attributes & 7, &plain).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::sample;

    fn record(offset: i64, key: &str, value: Option<&str>) -> Record {
        Record {
            offset,
            timestamp: 1000 + offset,
            key: Some(key.into()),
            value: value.map(Into::into),
            headers: vec![("h".to_owned(), Some(vec![1])), ("h".to_owned(), None)],
        }
    }

    fn batch(codec: i16, records: &[Record]) -> Vec<u8> {
        let mut plain = Vec::new();
        records.iter().for_each(|r| put(&mut plain, &mut Vec::new(), r, 0, 1000));
        sample::with_records(records.len() as i32, codec, 1000, &compress(codec, &plain).unwrap())
    }

    fn read(bytes: &[u8]) -> Vec<Record> {
        Records::of(&Batch::split(bytes).unwrap().0).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn what_stays_is_as_it_was_in_every_codec() {
        let records = [record(0, "a", Some("1")), record(1, "b", Some("2")), record(2, "a", Some("3"))];
        for codec in 0..=4 {
            let bytes = batch(codec, &records);
            let whole = Batch::split(&bytes).unwrap().0;
            assert_eq!(filter(&whole, 5, |_| true).unwrap(), Left::All);
            assert_eq!(filter(&whole, 5, |_| false).unwrap(), Left::Nothing);
            let Left::Some(rest) = filter(&whole, 5, |r| r.offset > 0).unwrap() else { panic!() };
            assert_eq!(read(&rest), records[1..], "codec {codec}");
            let (found, behind) = Batch::split(&rest).unwrap();
            assert_eq!((behind.len(), found.codec(), found.records()), (0, codec, 2));
            assert_eq!((found.base_offset(), found.last_offset()), (0, 2));
            assert_eq!((found.max_timestamp(), found.delete_horizon(), found.is_intact()), (1002, None, true));
        }
    }

    #[test]
    fn the_horizon_is_noted_once() {
        let records = [record(0, "a", Some("1")), record(1, "b", None)];
        let bytes = batch(4, &records);
        let Left::Some(first) = filter(&Batch::split(&bytes).unwrap().0, 99, |_| true).unwrap() else { panic!() };
        let noted = Batch::split(&first).unwrap().0;
        assert_eq!((noted.delete_horizon(), read(&first)), (Some(99), records.to_vec()));
        assert_eq!(filter(&noted, 500, |_| true).unwrap(), Left::All);
        let Left::Some(rest) = filter(&noted, 500, |r| r.offset == 1).unwrap() else { panic!() };
        assert_eq!(Batch::split(&rest).unwrap().0.delete_horizon(), Some(99));
        assert_eq!(read(&rest), records[1..]);
    }
}
