//! Chunks: whole messages, one behind the other, as they stand on the wire of a connection without encryption.
//!
//! This is the only form that messages have between connections. What comes by NULL or PLAIN *is* a chunk, in the
//! buffer that the socket was read into, and goes out as it is; no message is looked at but for its header.

use std::ops::Range;
use std::sync::Arc;

use super::frame::{self, Frame};

/// Whole messages in a shared buffer.
#[derive(Clone)]
pub struct Chunk {
    data: Arc<Vec<u8>>,
    range: Range<usize>,
    messages: u32,
}

impl Chunk {
    /// The part `range` of a buffer, which holds that many whole messages.
    #[must_use]
    pub(crate) fn new(data: Arc<Vec<u8>>, range: Range<usize>, messages: u32) -> Chunk {
        debug_assert!(range.end <= data.len(), "a chunk lies in its buffer");
        Chunk { data, range, messages }
    }

    /// A buffer of whole messages; `None` if it holds none, or anything else.
    #[must_use]
    pub fn parse(data: Vec<u8>) -> Option<Chunk> {
        let (mut at, mut messages) = (0, 0u32);
        while at < data.len() {
            at += frame::message_len(data.get(at..)?)?;
            messages = messages.checked_add(1)?;
        }
        (messages > 0).then(|| Chunk { range: 0..data.len(), data: Arc::new(data), messages })
    }

    /// One message.
    #[must_use]
    pub fn message<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Chunk {
        let mut data = Vec::new();
        frame::put_message(&mut data, frames);
        Chunk { range: 0..data.len(), data: Arc::new(data), messages: 1 }
    }

    /// The octets.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.data.get(self.range.clone()).unwrap_or_default()
    }

    /// How many messages.
    #[must_use]
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// How many octets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether nothing is left in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Octets that it keeps alive.
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.data.capacity()
    }

    /// Takes the first `n` messages off, or all there are.
    #[must_use]
    pub fn split_to(&mut self, n: u32) -> Chunk {
        if n >= self.messages {
            let all = self.clone();
            self.range.start = self.range.end;
            self.messages = 0;
            return all;
        }
        let len = self.lens().take(n as usize).sum();
        self.split_at(len, n)
    }

    /// Takes the first `len` octets off, which hold `n` messages.
    pub(crate) fn split_at(&mut self, len: usize, n: u32) -> Chunk {
        debug_assert!(len <= self.range.len() && n <= self.messages, "a part is no larger than the whole");
        let middle = (self.range.start + len).min(self.range.end);
        let front = Chunk { data: Arc::clone(&self.data), range: self.range.start..middle, messages: n };
        self.range.start = middle;
        self.messages = self.messages.saturating_sub(n);
        front
    }

    /// The octets `range` of it, which hold that many messages.
    pub(crate) fn part(&self, range: Range<usize>, messages: u32) -> Chunk {
        let at = self.range.start;
        debug_assert!(at + range.end <= self.range.end, "a part is no larger than the whole");
        Chunk { data: Arc::clone(&self.data), range: at + range.start..at + range.end, messages }
    }

    /// The octets of each message.
    pub fn each(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes();
        std::iter::from_fn(move || {
            let (one, after) = rest.split_at_checked(frame::message_len(rest)?)?;
            rest = after;
            Some(one)
        })
    }

    /// The lengths of the messages.
    fn lens(&self) -> impl Iterator<Item = usize> {
        self.each().map(<[u8]>::len)
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({} messages, {} bytes)", self.messages, self.len())
    }
}

/// Octets in a shared buffer: a subscription's prefix.
#[derive(Clone)]
pub struct Slice {
    data: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Slice {
    pub(crate) fn new(data: Arc<Vec<u8>>, range: Range<usize>) -> Slice {
        debug_assert!(range.end <= data.len(), "a slice lies in its buffer");
        Slice { data, range }
    }
}

impl std::ops::Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.data.get(self.range.clone()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slice({})", self.escape_ascii())
    }
}

/// The frames of one message.
pub fn frames(message: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    frame::frames(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Chunk {
        let mut wire = Vec::new();
        frame::put_message(&mut wire, [&b"a"[..], b"b"]);
        frame::put_message(&mut wire, [&b"c"[..]]);
        frame::put_message(&mut wire, [&[1; 300][..]]);
        Chunk::parse(wire).unwrap()
    }

    #[test]
    fn is_split_between_messages() {
        let mut rest = three();
        let front = rest.split_to(1);
        assert_eq!((front.messages(), front.bytes()), (1, &b"\x01\x01a\0\x01b"[..]));
        assert_eq!((rest.messages(), rest.len()), (2, 3 + 309));
        assert_eq!(rest.split_to(7).messages(), 2);
        assert!(rest.is_empty());
    }

    #[test]
    fn holds_whole_messages_only() {
        let wire = three().bytes().to_vec();
        let whole = [0, 6, 9, wire.len()];
        for cut in 0..=wire.len() {
            assert_eq!(Chunk::parse(wire[..cut].to_vec()).is_some(), whole[1..].contains(&cut), "{cut}");
        }
        assert_eq!(three().each().map(<[u8]>::len).collect::<Vec<_>>(), [6, 3, 309]);
    }
}
