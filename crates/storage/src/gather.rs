//! The chunks of a frame, for one vectored write: small messages copied one behind the other, large ones where they lie.

use std::ops::Range;
use std::sync::Arc;

use waypost_model::{Batch, Slot};

use crate::chunk::{self, Lengths, Piece};
use crate::frame::align;
use crate::sum;

/// A message of at least this many bytes is not copied: below, the copy costs less than another part of the write.
const BORROWED_BYTES_MIN: usize = 8 << 10;

/// A message that is written from where it lies.
struct Borrowed {
    /// Behind so many bytes of those that were copied.
    at: usize,
    batch: Arc<Batch>,
    range: Range<usize>,
}

/// See the module.
#[derive(Default)]
pub struct Gather {
    copied: Vec<u8>,
    borrowed: Vec<Borrowed>,
    borrowed_bytes: u64,
}

/// Messages to write: part of a batch.
pub type Part<'a> = (&'a Arc<Batch>, u32, u32);

impl Gather {
    /// Lets go of everything. Buffers are used again.
    pub fn clear(&mut self) {
        self.copied.clear();
        self.release();
    }

    /// Lets go of the messages that were not copied.
    pub fn release(&mut self) {
        self.borrowed.clear();
        self.borrowed_bytes = 0;
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.copied.len() as u64 + self.borrowed_bytes
    }

    /// Adds a chunk and returns its checksum.
    pub fn put_chunk<'a>(
        &mut self,
        lengths: &Lengths,
        parts: impl Iterator<Item = Part<'a>> + Clone,
        seed: u32,
    ) -> u32 {
        let start = self.copied.len();
        let pieces = parts.clone().map(|(batch, from, to)| Piece { batch, from, to });
        chunk::put_head(&mut self.copied, lengths, pieces);
        // What the checksum covers so far, and from where on it does not.
        let (mut crc, mut from) = (seed, start + chunk::CRC_BYTES);
        for (batch, first, end) in parts {
            for slot in &batch.slots()[first as usize..end as usize] {
                match large(slot) {
                    None => chunk::copy_message(&mut self.copied, batch.data(), slot),
                    Some(range) => {
                        crc = crc32c::crc32c_append(crc, &self.copied[from..]);
                        crc = sum::append(crc, batch, range.clone());
                        from = self.copied.len();
                        self.borrowed_bytes += range.len() as u64;
                        self.borrowed.push(Borrowed { at: from, batch: Arc::clone(batch), range });
                    }
                }
            }
        }
        crc = crc32c::crc32c_append(crc, &self.copied[from..]);
        self.copied[start..start + chunk::CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Fills up to a multiple of the alignment.
    pub fn align(&mut self) {
        let missing = align(self.len()) - self.len();
        self.copied.resize(self.copied.len() + missing as usize, 0);
    }

    /// Everything, behind `head`.
    pub fn slices<'a>(&'a self, head: &'a [u8]) -> Vec<&'a [u8]> {
        let mut slices = Vec::with_capacity(2 + 2 * self.borrowed.len());
        slices.push(head);
        let mut from = 0;
        for b in &self.borrowed {
            slices.push(&self.copied[from..b.at]);
            slices.push(&b.batch.data()[b.range.clone()]);
            from = b.at;
        }
        slices.push(&self.copied[from..]);
        slices
    }
}

/// Where a message lies that is not worth a copy: its properties and its body must follow one another.
fn large(slot: &Slot) -> Option<Range<usize>> {
    let (from, body) = (slot.props as usize, slot.body as usize);
    let adjacent = from + slot.props_len as usize == body;
    (adjacent && slot.payload_len() >= BORROWED_BYTES_MIN).then(|| from..body + slot.body_len as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::CHUNK_ENTRIES_MAX;
    use waypost_model::BatchBuilder;

    #[test]
    fn copied_and_borrowed_messages_make_the_same_chunk() {
        let mut builder = BatchBuilder::default();
        for (n, bytes) in [10, BORROWED_BYTES_MIN, 0, 70_000, 3, BORROWED_BYTES_MIN - 3].into_iter().enumerate() {
            builder.push(&[0, 0], &vec![n as u8; bytes]);
        }
        let batch = Arc::new(builder.finish());
        let mut lengths = Lengths::default();
        batch.slots().iter().for_each(|s| lengths.note(s));
        let mut copied = Vec::new();
        let piece = Piece { batch: &batch, from: 0, to: batch.len() as u32 };
        let crc = chunk::encode(&mut copied, &lengths, std::iter::once(piece), 7);
        let mut gather = Gather::default();
        for round in 0..2 {
            let parts = [(&batch, 0, 2), (&batch, 2, batch.len() as u32)];
            assert_eq!(gather.put_chunk(&lengths, parts.into_iter(), 7), crc);
            gather.align();
            let slices = gather.slices(b"head");
            assert_eq!(
                slices
                    .iter()
                    .filter(|s| s.as_ptr_range().start >= batch.data().as_ptr()
                        && s.as_ptr() < batch.data().as_ptr_range().end)
                    .count(),
                2
            );
            let all = slices.concat();
            assert_eq!(all.len() as u64, 4 + gather.len());
            assert_eq!(&all[4..4 + copied.len()], copied, "round {round}");
            assert!(chunk::decode(all[4..4 + copied.len()].to_vec(), CHUNK_ENTRIES_MAX).is_ok());
            gather.clear();
            assert_eq!(gather.len(), 0);
        }
    }
}
