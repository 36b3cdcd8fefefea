//! A batch in the buffer in which it is stored.

use std::ops::Range;
use std::sync::Arc;

use waypost_model::{Batch as Messages, Buffers, Millis, Slot, Sum};

use crate::batch::{Batch, BatchError, stamp};

/// The properties of a message that has none: no flags.
pub(crate) const NO_PROPERTIES: [u8; 2] = [0, 0];

/// A batch that is stored as it lies: from the socket to the disk without a copy.
#[derive(Debug)]
pub struct Packed {
    /// Somewhere in it: the two bytes of no properties, the batch behind them.
    bytes: Vec<u8>,
    /// Where the batch lies.
    at: Range<usize>,
    /// Where the buffer goes once nobody needs it.
    home: Option<Arc<Buffers>>,
}

impl Packed {
    /// Takes a buffer over in which a batch lies, alone and whole. The two bytes before it are overwritten. It goes to `home` once
    /// the batch is nowhere in memory any longer.
    ///
    /// # Errors
    /// There is no batch, or not enough before it.
    pub fn within(mut bytes: Vec<u8>, at: Range<usize>, home: Option<Arc<Buffers>>) -> Result<Packed, BatchError> {
        let place = at.start.checked_sub(NO_PROPERTIES.len()).and_then(|from| bytes.get_mut(from..at.start));
        place.ok_or(BatchError::Cut)?.copy_from_slice(&NO_PROPERTIES);
        if u32::try_from(bytes.len()).is_err() {
            return Err(BatchError::Cut);
        }
        let packed = Packed { bytes, at, home };
        let (batch, _) = Batch::split(packed.slice())?;
        let end = packed.at.start + batch.bytes().len();
        Ok(Packed { at: packed.at.start..end, ..packed })
    }

    /// Copies a batch.
    #[must_use]
    pub fn copy(batch: &Batch<'_>) -> Packed {
        let mut bytes = Vec::with_capacity(NO_PROPERTIES.len() + batch.bytes().len());
        bytes.extend_from_slice(&NO_PROPERTIES);
        bytes.extend_from_slice(batch.bytes());
        let at = NO_PROPERTIES.len()..bytes.len();
        Packed { bytes, at, home: None }
    }

    fn slice(&self) -> &[u8] {
        self.bytes.get(self.at.clone()).unwrap_or_default()
    }

    /// The batch.
    #[must_use]
    pub fn batch(&self) -> Batch<'_> {
        Batch::known(self.slice())
    }

    /// The message that it is, with what the server decides stamped in. Its checksum was found right, and is not made again for
    /// the disk.
    pub(super) fn into_message(mut self, base: u64, append_time: Option<Millis>) -> Messages {
        let time = append_time.map(|t| i64::try_from(t.0).unwrap_or(i64::MAX));
        let batch = self.bytes.get_mut(self.at.clone()).unwrap_or_default();
        stamp(batch, i64::try_from(base).unwrap_or(i64::MAX), 0, time);
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (summed, crc32c) = Batch::known(batch).sum();
        let sum = Sum { from: length(self.at.start + summed), to: length(self.at.end), crc32c };
        let slot = Slot {
            props: length(self.at.start.saturating_sub(NO_PROPERTIES.len())),
            props_len: NO_PROPERTIES.len() as u32,
            body: length(self.at.start),
            body_len: length(self.at.len()),
        };
        // Both lie inside, unless the buffer is longer than 4 GiB: then it is empty, and nobody can have sent it.
        Messages::new(self.bytes, vec![slot])
            .map(|messages| messages.with_sum(sum).with_home(self.home))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::sample;

    #[test]
    fn a_batch_in_a_request_is_stored_where_it_lies() {
        let batch = sample::batch(3, 0);
        let request = [&b"head"[..], &batch, b"tail"].concat();
        let (ptr, whole) = (request.as_ptr(), 4..4 + batch.len());
        let packed = Packed::within(request, whole.clone(), None).unwrap();
        assert_eq!(packed.batch().bytes(), batch);
        let message = packed.into_message(1000, None);
        assert_eq!((message.data().as_ptr(), message.body_range(0)), (ptr, whole));
        assert_eq!(message.props(0), NO_PROPERTIES);
        let (read, _) = Batch::split(message.body(0)).unwrap();
        assert_eq!((read.check(), read.base_offset(), read.last_offset()), (Ok(()), 1000, 1002));
    }

    #[test]
    fn what_has_no_room_before_it_or_is_cut_is_refused() {
        let batch = sample::batch(1, 0);
        let with = |head: &[u8], end: usize| {
            Packed::within([head, &batch[..end]].concat(), head.len()..head.len() + end, None)
        };
        assert!(with(b"12", batch.len()).is_ok());
        assert_eq!(with(b"1", batch.len()).unwrap_err(), BatchError::Cut);
        assert_eq!(with(b"12", batch.len() - 1).unwrap_err(), BatchError::Cut);
    }
}
