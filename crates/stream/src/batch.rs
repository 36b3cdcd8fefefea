//! Record batches (magic 2): a header of 61 bytes and records, compressed or not, which nobody but clients reads.
//!
//! The checksum covers everything from the attributes on. Base offset and leader epoch lie before them: the server stamps
//! both without touching what the producer wrote.

use thiserror::Error;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 61;
/// Bytes before those that `batchLength` counts.
pub const LENGTH_AT: usize = 12;

const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_DELTA_AT: usize = 23;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;
const COUNT_AT: usize = 57;

const CODEC_MASK: i16 = 7;
const CODEC_LAST: i16 = 4;
const LOG_APPEND_TIME: i16 = 8;
const TRANSACTIONAL: i16 = 16;
const CONTROL: i16 = 32;
const DELETE_HORIZON: i16 = 64;

/// Why bytes are no batch that may be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Shorter than its header, or than it says.
    #[error("the batch is cut")]
    Cut,
    /// An older format, or a newer one.
    #[error("magic {0} is not supported")]
    Magic(i8),
    /// The checksum does not fit.
    #[error("the checksum is wrong")]
    Checksum,
    /// Counts that contradict each other.
    #[error("the batch counts {count} records up to delta {last_delta}")]
    Counts {
        /// `recordCount`.
        count: i32,
        /// `lastOffsetDelta`.
        last_delta: i32,
    },
    /// A codec that does not exist.
    #[error("compression type {0} does not exist")]
    Codec(i16),
    /// A topic that is compacted takes only records with a key.
    #[error("a record without a key in a compacted topic")]
    Key,
    /// The records cannot be read, where they must be.
    #[error("the records cannot be read")]
    Records,
    /// Only the server writes control batches.
    #[error("a producer may not write control records")]
    Control,
}

/// What a batch says of its records.
pub(crate) struct Rest {
    /// How many.
    pub count: i32,
    /// What their times count from.
    pub base_timestamp: i64,
    /// The latest.
    pub max_timestamp: i64,
    /// Whether the base timestamp is the time from which on those without a value may go.
    pub has_horizon: bool,
}

/// A batch: header and records.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a>(&'a [u8]);

impl<'a> Batch<'a> {
    /// Cuts the first batch off `bytes`. What follows it comes second.
    ///
    /// # Errors
    /// [`BatchError::Cut`] or [`BatchError::Magic`].
    pub fn split(bytes: &'a [u8]) -> Result<(Batch<'a>, &'a [u8]), BatchError> {
        let Some(head) = bytes.get(..HEADER_BYTES) else { return Err(BatchError::Cut) };
        let magic = i8::from_be_bytes([head[MAGIC_AT]]);
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        let length = usize::try_from(i32::from_be_bytes(at(head, 8))).map_err(|_| BatchError::Cut)?;
        let whole = length.checked_add(LENGTH_AT).filter(|n| *n >= HEADER_BYTES).ok_or(BatchError::Cut)?;
        let (batch, rest) = bytes.split_at_checked(whole).ok_or(BatchError::Cut)?;
        Ok((Batch(batch), rest))
    }

    /// A batch that was cut off before: nothing else is in `bytes`.
    pub(crate) fn known(bytes: &'a [u8]) -> Batch<'a> {
        debug_assert!(matches!(Batch::split(bytes), Ok((_, []))));
        Batch(bytes)
    }

    /// What must hold of a batch that a producer sends.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn check(&self) -> Result<(), BatchError> {
        if !self.is_intact() {
            return Err(BatchError::Checksum);
        }
        let (count, last_delta) = (self.records(), self.last_delta());
        if count < 1 || last_delta != count - 1 {
            return Err(BatchError::Counts { count, last_delta });
        }
        if self.codec() > CODEC_LAST {
            return Err(BatchError::Codec(self.codec()));
        }
        if self.is_control() { Err(BatchError::Control) } else { Ok(()) }
    }

    /// Whether its checksum fits.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        crc32c::crc32c(self.0.get(ATTRIBUTES_AT..).unwrap_or_default()) == u32::from_be_bytes(at(self.0, CRC_AT))
    }

    /// From where on the checksum counts, and what it is said to be.
    pub(crate) fn sum(&self) -> (usize, u32) {
        (ATTRIBUTES_AT, u32::from_be_bytes(at(self.0, CRC_AT)))
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The offset of its first record.
    #[must_use]
    pub fn base_offset(&self) -> i64 {
        i64::from_be_bytes(at(self.0, 0))
    }

    /// The offset of its last record.
    #[must_use]
    pub fn last_offset(&self) -> i64 {
        self.base_offset().saturating_add(i64::from(self.last_delta()))
    }

    /// Offset of the last record, less that of the first.
    #[must_use]
    pub fn last_delta(&self) -> i32 {
        i32::from_be_bytes(at(self.0, LAST_DELTA_AT))
    }

    /// How many records.
    #[must_use]
    pub fn records(&self) -> i32 {
        i32::from_be_bytes(at(self.0, COUNT_AT))
    }

    fn attributes(&self) -> i16 {
        i16::from_be_bytes(at(self.0, ATTRIBUTES_AT))
    }

    /// 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    #[must_use]
    pub fn codec(&self) -> i16 {
        self.attributes() & CODEC_MASK
    }

    /// Whether the time of the append counts for all its records: [`Batch::max_timestamp`].
    #[must_use]
    pub fn is_log_append_time(&self) -> bool {
        self.attributes() & LOG_APPEND_TIME != 0
    }

    /// Whether it belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL != 0
    }

    /// Whether it holds a marker of the server's own.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL != 0
    }

    /// From which time on its records without a value may be removed, milliseconds since 1970; `None` until compaction
    /// has looked at it.
    #[must_use]
    pub fn delete_horizon(&self) -> Option<i64> {
        (self.attributes() & DELETE_HORIZON != 0).then(|| self.base_timestamp())
    }

    /// The same batch with other records in it.
    pub(crate) fn with(&self, rest: &Rest, records: &[u8]) -> Vec<u8> {
        let mut batch = Vec::with_capacity(HEADER_BYTES + records.len());
        batch.extend_from_slice(self.0.get(..HEADER_BYTES).unwrap_or_default());
        batch.extend_from_slice(records);
        let length = i32::try_from(batch.len() - LENGTH_AT).unwrap_or(i32::MAX);
        put(&mut batch, 8, &length.to_be_bytes());
        let horizon = if rest.has_horizon { DELETE_HORIZON } else { 0 };
        put(&mut batch, ATTRIBUTES_AT, &(self.attributes() | horizon).to_be_bytes());
        put(&mut batch, BASE_TIMESTAMP_AT, &rest.base_timestamp.to_be_bytes());
        put(&mut batch, MAX_TIMESTAMP_AT, &rest.max_timestamp.to_be_bytes());
        put(&mut batch, COUNT_AT, &rest.count.to_be_bytes());
        let crc = crc32c::crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default());
        put(&mut batch, CRC_AT, &crc.to_be_bytes());
        batch
    }

    /// What a control batch says: 0 abort, 1 commit, others are no end of a transaction. `None` for other batches, and for
    /// control records that cannot be read.
    #[must_use]
    pub fn control_kind(&self) -> Option<i16> {
        if !self.is_control() {
            return None;
        }
        // One record: length, attributes, timestamp and offset deltas of one octet each, then the key with its length.
        let record = self.0.get(HEADER_BYTES..)?;
        let key = record.get(CONTROL_KEY_AT..)?.first_chunk::<4>()?;
        Some(i16::from_be_bytes([key[2], key[3]]))
    }

    /// Milliseconds since 1970 of its first record.
    #[must_use]
    pub fn base_timestamp(&self) -> i64 {
        i64::from_be_bytes(at(self.0, BASE_TIMESTAMP_AT))
    }

    /// The latest of its records, milliseconds since 1970.
    #[must_use]
    pub fn max_timestamp(&self) -> i64 {
        i64::from_be_bytes(at(self.0, MAX_TIMESTAMP_AT))
    }

    /// Who wrote it; -1 without idempotence.
    #[must_use]
    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(at(self.0, PRODUCER_ID_AT))
    }

    /// The producer's epoch.
    #[must_use]
    pub fn producer_epoch(&self) -> i16 {
        i16::from_be_bytes(at(self.0, PRODUCER_EPOCH_AT))
    }

    /// The producer's number of its first record.
    #[must_use]
    pub fn base_sequence(&self) -> i32 {
        i32::from_be_bytes(at(self.0, BASE_SEQUENCE_AT))
    }
}

/// Where in a control record its key lies, after five variable numbers of one octet each.
const CONTROL_KEY_AT: usize = 5;

/// A control batch of one record, offset yet to be stamped. `kind` as in [`Batch::control_kind`].
#[must_use]
pub fn control(kind: i16, producer_id: i64, producer_epoch: i16, time: i64) -> Vec<u8> {
    // Attributes, timestamp delta, offset delta; key length 4 and value length 6 (zigzag), no headers. Key: version and
    // kind; value: version and the coordinator's epoch.
    let [high, low] = kind.to_be_bytes();
    let record = [32, 0, 0, 0, 8, 0, 0, high, low, 12, 0, 0, 0, 0, 0, 0, 0];
    let mut batch = vec![0; HEADER_BYTES];
    batch.extend_from_slice(&record);
    let length = i32::try_from(batch.len() - LENGTH_AT).unwrap_or(i32::MAX);
    put(&mut batch, 8, &length.to_be_bytes());
    put(&mut batch, MAGIC_AT, &[2]);
    put(&mut batch, ATTRIBUTES_AT, &(TRANSACTIONAL | CONTROL).to_be_bytes());
    put(&mut batch, BASE_TIMESTAMP_AT, &time.to_be_bytes());
    put(&mut batch, MAX_TIMESTAMP_AT, &time.to_be_bytes());
    put(&mut batch, PRODUCER_ID_AT, &producer_id.to_be_bytes());
    put(&mut batch, PRODUCER_EPOCH_AT, &producer_epoch.to_be_bytes());
    put(&mut batch, BASE_SEQUENCE_AT, &(-1_i32).to_be_bytes());
    put(&mut batch, COUNT_AT, &1_i32.to_be_bytes());
    let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
    put(&mut batch, CRC_AT, &crc.to_be_bytes());
    batch
}

/// Fills in the header of a batch of the server's own, `count` uncompressed records of one time behind [`HEADER_BYTES`]
/// of room; its offset is yet to be stamped.
pub(crate) fn seal(batch: &mut [u8], count: i32, time: i64) {
    let length = i32::try_from(batch.len().saturating_sub(LENGTH_AT)).unwrap_or(i32::MAX);
    put(batch, 8, &length.to_be_bytes());
    put(batch, MAGIC_AT, &[2]);
    put(batch, LAST_DELTA_AT, &(count - 1).to_be_bytes());
    put(batch, BASE_TIMESTAMP_AT, &time.to_be_bytes());
    put(batch, MAX_TIMESTAMP_AT, &time.to_be_bytes());
    put(batch, PRODUCER_ID_AT, &(-1_i64).to_be_bytes());
    put(batch, PRODUCER_EPOCH_AT, &(-1_i16).to_be_bytes());
    put(batch, BASE_SEQUENCE_AT, &(-1_i32).to_be_bytes());
    put(batch, COUNT_AT, &count.to_be_bytes());
    let crc = crc32c::crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default());
    put(batch, CRC_AT, &crc.to_be_bytes());
}

/// Stamps what the server decides into a batch of at least [`HEADER_BYTES`]. `append_time`: the time that counts for all
/// records, where the topic's time is the log's; it lies within the checksum, which is made anew.
pub fn stamp(batch: &mut [u8], base_offset: i64, leader_epoch: i32, append_time: Option<i64>) {
    put(batch, 0, &base_offset.to_be_bytes());
    put(batch, LEADER_EPOCH_AT, &leader_epoch.to_be_bytes());
    if let Some(time) = append_time {
        let attributes = i16::from_be_bytes(at(batch, ATTRIBUTES_AT)) | LOG_APPEND_TIME;
        put(batch, ATTRIBUTES_AT, &attributes.to_be_bytes());
        put(batch, MAX_TIMESTAMP_AT, &time.to_be_bytes());
        let crc = crc32c::crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default());
        put(batch, CRC_AT, &crc.to_be_bytes());
    }
}

/// The bytes of a number; zero where there are none.
fn at<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    bytes.get(from..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn put(bytes: &mut [u8], from: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(from..from + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Batches for tests.
#[cfg(test)]
pub(crate) mod sample {
    use super::*;

    /// A batch of `count` records whose bytes mean nothing.
    pub fn batch(count: i32, attributes: i16) -> Vec<u8> {
        produced(count, attributes, 77, (-1, -1, -1))
    }

    /// A batch with these records, of base offset 0.
    pub fn with_records(count: i32, attributes: i16, time: i64, records: &[u8]) -> Vec<u8> {
        let mut bytes = produced(count, attributes, time, (-1, -1, -1));
        bytes.truncate(HEADER_BYTES);
        bytes.extend_from_slice(records);
        let length = i32::try_from(bytes.len() - LENGTH_AT).unwrap();
        put(&mut bytes, 8, &length.to_be_bytes());
        put(&mut bytes, BASE_TIMESTAMP_AT, &time.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[ATTRIBUTES_AT..]);
        put(&mut bytes, CRC_AT, &crc.to_be_bytes());
        bytes
    }

    /// The same of a producer: id, epoch, first sequence.
    pub fn produced(count: i32, attributes: i16, time: i64, (id, epoch, sequence): (i64, i16, i32)) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(b"records");
        let length = i32::try_from(bytes.len() - LENGTH_AT).unwrap();
        put(&mut bytes, 8, &length.to_be_bytes());
        bytes[MAGIC_AT] = 2;
        put(&mut bytes, ATTRIBUTES_AT, &attributes.to_be_bytes());
        put(&mut bytes, LAST_DELTA_AT, &(count - 1).to_be_bytes());
        put(&mut bytes, COUNT_AT, &count.to_be_bytes());
        put(&mut bytes, MAX_TIMESTAMP_AT, &time.to_be_bytes());
        put(&mut bytes, PRODUCER_ID_AT, &id.to_be_bytes());
        put(&mut bytes, PRODUCER_EPOCH_AT, &epoch.to_be_bytes());
        put(&mut bytes, BASE_SEQUENCE_AT, &sequence.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[ATTRIBUTES_AT..]);
        put(&mut bytes, CRC_AT, &crc.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::sample::batch;
    use super::*;

    fn checked(bytes: &[u8]) -> Result<(), BatchError> {
        Batch::split(bytes)?.0.check()
    }

    #[test]
    fn stamping_leaves_the_checksum_right() {
        for time in [None, Some(99)] {
            let mut bytes = batch(3, 4);
            stamp(&mut bytes, 1000, 7, time);
            let (read, rest) = Batch::split(&bytes).unwrap();
            assert_eq!(read.check(), Ok(()));
            assert_eq!((read.base_offset(), read.last_offset(), read.codec()), (1000, 1002, 4));
            assert_eq!((read.max_timestamp(), rest.len()), (time.unwrap_or(77), 0));
        }
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let good = batch(1, 0);
        assert_eq!(checked(&good), Ok(()));
        for cut in 0..good.len() {
            assert_eq!(checked(&good[..cut]), Err(BatchError::Cut));
        }
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(checked(&flipped), Err(BatchError::Checksum));
        let mut old = good.clone();
        old[MAGIC_AT] = 1;
        assert_eq!(checked(&old), Err(BatchError::Magic(1)));
        assert_eq!(checked(&batch(0, 0)), Err(BatchError::Counts { count: 0, last_delta: -1 }));
        assert_eq!(checked(&batch(1, 5)), Err(BatchError::Codec(5)));
        assert_eq!(checked(&batch(1, 32)), Err(BatchError::Control));
        for kind in [0, 1] {
            let marker = control(kind, 5, 2, 1234);
            let (read, rest) = Batch::split(&marker).unwrap();
            assert_eq!((read.check(), read.control_kind(), rest.len()), (Err(BatchError::Control), Some(kind), 0));
            assert_eq!((read.producer_id(), read.producer_epoch(), read.max_timestamp()), (5, 2, 1234));
        }
        assert_eq!(Batch::split(&good).unwrap().0.control_kind(), None);
        let mut huge = good;
        put(&mut huge, 8, &i32::MAX.to_be_bytes());
        assert_eq!(checked(&huge), Err(BatchError::Cut));
        put(&mut huge, 8, &(-5_i32).to_be_bytes());
        assert_eq!(checked(&huge), Err(BatchError::Cut));
    }
}
