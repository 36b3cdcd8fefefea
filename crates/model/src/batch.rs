//! Batches: many messages in one buffer, named by ranges.
//!
//! A batch is what one socket read brought (or one chunk of the log, or one assembled large message): the bytes as they
//! came, and a slot of 16 bytes per message that says where its properties and its body lie. Everything between a
//! session and a queue speaks of ranges of slots, so that a message costs no allocation and no reference count of its own.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::buffers::Buffers;

/// Where one message lies in its batch. Offsets and lengths in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Slot {
    /// Start of the encoded property list (see [`crate::props`]).
    pub props: u32,
    /// Its length; at least 2, since the flags are part of it.
    pub props_len: u32,
    /// Start of the body.
    pub body: u32,
    /// Its length; may be 0.
    pub body_len: u32,
}

impl Slot {
    /// Bytes of properties and body together.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.props_len as usize + self.body_len as usize
    }
}

/// Messages in one buffer. Invariant: every slot lies inside the buffer; checked when a slot is added.
#[derive(Default)]
pub struct Batch {
    data: Vec<u8>,
    slots: Vec<Slot>,
    sum: Option<Sum>,
    /// Where the buffer goes when nobody needs it any longer.
    home: Option<Arc<Buffers>>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give(std::mem::take(&mut self.data));
        }
    }
}

/// A checksum that came with some of a batch's bytes and was found right, so that nobody need make it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Where they begin in [`Batch::data`].
    pub from: u32,
    /// Where they end.
    pub to: u32,
    /// Their CRC-32C.
    pub crc32c: u32,
}

/// A slot that points outside its buffer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("message slot outside its batch: ends at {end} of {len} bytes")]
pub struct SlotOutside {
    /// Where the slot would end.
    pub end: u64,
    /// How long the buffer is.
    pub len: usize,
}

impl Batch {
    /// A batch over `data`.
    ///
    /// # Errors
    /// [`SlotOutside`] if a slot does not lie inside `data`.
    pub fn new(data: Vec<u8>, slots: Vec<Slot>) -> Result<Batch, SlotOutside> {
        for s in &slots {
            let end = (u64::from(s.props) + u64::from(s.props_len)).max(u64::from(s.body) + u64::from(s.body_len));
            if end > data.len() as u64 {
                return Err(SlotOutside { end, len: data.len() });
            }
        }
        Ok(Batch { data, slots, sum: None, home: None })
    }

    /// The same, with a checksum of some of its bytes; without, if these are not in it.
    #[must_use]
    pub fn with_sum(mut self, sum: Sum) -> Batch {
        let inside = sum.from <= sum.to && sum.to as usize <= self.data.len();
        self.sum = inside.then_some(sum);
        self
    }

    /// The same; its buffer goes there when the last holder drops it.
    #[must_use]
    pub fn with_home(mut self, home: Option<Arc<Buffers>>) -> Batch {
        self.home = home;
        self
    }

    /// A checksum that is known already.
    #[must_use]
    pub fn sum(&self) -> Option<Sum> {
        self.sum
    }

    /// A batch of one message.
    #[must_use]
    pub fn single(props: &[u8], body: &[u8]) -> Batch {
        let mut b = BatchBuilder::with_capacity(props.len() + body.len(), 1);
        b.push(props, body);
        b.finish()
    }

    /// How many messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The slots, in order.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The whole buffer.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Bytes that the batch keeps alive.
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.data.capacity() + self.slots.capacity() * size_of::<Slot>()
    }

    /// The encoded property list of message `i`.
    ///
    /// # Panics
    /// If there is no message `i`.
    #[must_use]
    pub fn props(&self, i: u32) -> &[u8] {
        let s = self.slots[i as usize];
        &self.data[s.props as usize..s.props as usize + s.props_len as usize]
    }

    /// The body of message `i`.
    ///
    /// # Panics
    /// If there is no message `i`.
    #[must_use]
    pub fn body(&self, i: u32) -> &[u8] {
        &self.data[self.body_range(i)]
    }

    /// Where in [`Batch::data`] the body of message `i` lies.
    ///
    /// # Panics
    /// If there is no message `i`.
    #[must_use]
    pub fn body_range(&self, i: u32) -> Range<usize> {
        let s = self.slots[i as usize];
        s.body as usize..s.body as usize + s.body_len as usize
    }

    /// Bytes of properties and bodies of the messages `from..to`.
    ///
    /// # Panics
    /// If the range is not inside the batch.
    #[must_use]
    pub fn payload_len(&self, from: u32, to: u32) -> u64 {
        self.slots[from as usize..to as usize].iter().map(|s| s.payload_len() as u64).sum()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} messages, {} bytes)", self.slots.len(), self.data.len())
    }
}

/// Builds a batch by copying messages one behind the other.
#[derive(Default, Debug)]
pub struct BatchBuilder {
    data: Vec<u8>,
    slots: Vec<Slot>,
}

impl BatchBuilder {
    /// An empty builder with room for `bytes` bytes and `messages` messages.
    #[must_use]
    pub fn with_capacity(bytes: usize, messages: usize) -> BatchBuilder {
        BatchBuilder { data: Vec::with_capacity(bytes), slots: Vec::with_capacity(messages) }
    }

    /// Whether a message of that many bytes still fits 32-bit offsets.
    #[must_use]
    pub fn fits(&self, bytes: usize) -> bool {
        self.data.len() + bytes <= u32::MAX as usize
    }

    /// Adds a message.
    ///
    /// # Panics
    /// If the batch would grow past 4 GiB; ask [`BatchBuilder::fits`] where that can happen.
    pub fn push(&mut self, props: &[u8], body: &[u8]) {
        assert!(self.fits(props.len() + body.len()), "a batch is limited to 4 GiB");
        let at = self.data.len() as u32;
        self.data.extend_from_slice(props);
        self.data.extend_from_slice(body);
        self.slots.push(Slot {
            props: at,
            props_len: props.len() as u32,
            body: at + props.len() as u32,
            body_len: body.len() as u32,
        });
    }

    /// Adds the messages `from..to` of another batch.
    ///
    /// # Panics
    /// As [`BatchBuilder::push`], and if the range is not inside `batch`.
    pub fn extend(&mut self, batch: &Batch, from: u32, to: u32) {
        let slots = &batch.slots[from as usize..to as usize];
        let bytes = slots.iter().map(Slot::payload_len).sum();
        assert!(self.fits(bytes), "a batch is limited to 4 GiB");
        self.data.reserve(bytes);
        self.slots.reserve(slots.len());
        for s in slots {
            let at = self.data.len() as u32;
            self.data.extend_from_slice(&batch.data[s.props as usize..s.props as usize + s.props_len as usize]);
            self.data.extend_from_slice(&batch.data[s.body as usize..s.body as usize + s.body_len as usize]);
            self.slots.push(Slot { props: at, body: at + s.props_len, ..*s });
        }
    }

    /// How many messages it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes copied so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Gives back room that was not used, for a batch that is to be kept.
    pub fn shrink(&mut self) {
        self.data.shrink_to_fit();
        self.slots.shrink_to_fit();
    }

    /// The batch.
    #[must_use]
    pub fn finish(self) -> Batch {
        Batch { data: self.data, slots: self.slots, sum: None, home: None }
    }
}

/// The read side of a connection: bytes as they came from the peer, of which the session takes complete frames.
///
/// The driver appends to [`ReadBuf::vec`]; the session looks at [`ReadBuf::unread`], calls [`ReadBuf::consume`], and
/// notes messages as slots with offsets into the whole buffer ([`ReadBuf::position`] is where `unread` begins). When it
/// noted any, [`ReadBuf::seal`] turns the buffer into a batch and goes on with a fresh one that begins with the
/// incomplete tail.
#[derive(Debug, Default)]
pub struct ReadBuf {
    data: Vec<u8>,
    start: usize,
    pool: BatchPool,
}

impl ReadBuf {
    /// The vector to append received bytes to. Only ever append.
    pub fn vec(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    /// What has come and was not consumed.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.data[self.start..]
    }

    /// Offset of `unread()[0]` in the buffer that [`ReadBuf::seal`] will turn into a batch.
    #[must_use]
    pub fn position(&self) -> usize {
        self.start
    }

    /// Marks `n` bytes as done.
    ///
    /// # Panics
    /// If fewer are unread.
    pub fn consume(&mut self, n: usize) {
        assert!(self.start + n <= self.data.len(), "consumed more than was read");
        self.start += n;
    }

    /// Turns what was consumed into a batch with these slots (which are drained), keeping the unread tail. Without
    /// slots nothing is shared: the tail moves to the front and `None` comes back.
    ///
    /// # Errors
    /// [`SlotOutside`] if a slot lies outside the buffer: a defect of the caller.
    pub fn seal(&mut self, slots: &mut Vec<Slot>) -> Result<Option<Arc<Batch>>, SlotOutside> {
        if slots.is_empty() {
            self.data.drain(..self.start);
            self.start = 0;
            return Ok(None);
        }
        let tail = &self.data[self.start..];
        let mut fresh = self.pool.take(self.data.capacity().max(tail.len()));
        fresh.data.extend_from_slice(tail);
        let data = std::mem::take(&mut self.data);
        self.start = 0;
        self.data = std::mem::take(&mut fresh.data);
        let mut sealed = std::mem::take(&mut fresh.slots);
        sealed.extend_from_slice(slots);
        slots.clear();
        let sealed = Arc::new(Batch::new(data, sealed)?);
        self.pool.put(&sealed);
        Ok(Some(sealed))
    }

    /// Gives back memory while nothing is unread, for connections that went idle.
    pub fn release_if_empty(&mut self) {
        if self.start == self.data.len() {
            self.data = Vec::new();
            self.start = 0;
            self.pool = BatchPool::default();
        }
    }
}

/// Remembers batches that were handed out, to use their memory again once nobody else holds them.
#[derive(Debug, Default)]
pub struct BatchPool {
    held: Vec<Arc<Batch>>,
}

impl BatchPool {
    /// How many batches a pool remembers; further ones are simply freed by their last holder.
    pub const HELD_MAX: usize = 8;

    /// An empty batch with at least `capacity` bytes of room, recycled if possible.
    pub fn take(&mut self, capacity: usize) -> Batch {
        for i in 0..self.held.len() {
            if Arc::strong_count(&self.held[i]) != 1 {
                continue;
            }
            let Ok(mut b) = Arc::try_unwrap(self.held.swap_remove(i)) else { break };
            b.data.clear();
            b.slots.clear();
            (b.sum, b.home) = (None, None);
            if b.data.capacity() < capacity {
                b.data.reserve(capacity);
            }
            return b;
        }
        Batch { data: Vec::with_capacity(capacity), slots: Vec::new(), sum: None, home: None }
    }

    /// Remembers a batch.
    pub fn put(&mut self, batch: &Arc<Batch>) {
        if self.held.len() < Self::HELD_MAX {
            self.held.push(Arc::clone(batch));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builder_and_accessors_agree() {
        let mut b = BatchBuilder::default();
        b.push(&[0, 0], b"one");
        b.push(&[0, 0], b"");
        let b = b.finish();
        assert_eq!((b.body(0), b.body(1), b.props(1)), (&b"one"[..], &b""[..], &[0u8, 0][..]));
        assert_eq!(b.payload_len(0, 2), 7);
    }

    #[test]
    fn slot_outside_is_refused() {
        let bad = Slot { props: 0, props_len: 2, body: 2, body_len: u32::MAX };
        assert!(Batch::new(vec![0; 8], vec![bad]).is_err());
    }

    #[test]
    fn seal_keeps_the_tail_and_recycles() {
        let mut r = ReadBuf::default();
        r.vec().extend_from_slice(b"..abcTAIL");
        r.consume(5);
        let mut slots = vec![Slot { props: 0, props_len: 2, body: 2, body_len: 3 }];
        let sealed = r.seal(&mut slots).unwrap().unwrap();
        assert_eq!(sealed.body(0), b"abc");
        assert_eq!(r.unread(), b"TAIL");
        assert!(slots.is_empty());
        drop(sealed);
        r.consume(4);
        let mut none = Vec::new();
        assert!(r.seal(&mut none).unwrap().is_none());
        assert!(r.unread().is_empty());
    }
}
