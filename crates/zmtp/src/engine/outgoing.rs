//! What waits to be written to a peer.

use std::collections::VecDeque;
use std::io::IoSlice;

use crate::wire::chunk::Chunk;
use crate::wire::frame;

/// A part of a buffer is copied if it is smaller than this share of it: what waits must not hold much more memory alive
/// than its own size.
const COPY_BELOW_SHARE: usize = 4;

/// Copied messages are gathered in pieces of this size.
const GATHER_BYTES: usize = 8 * 1024;

/// How much may wait for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages: the high-water mark.
    pub messages: u32,
    /// Octets.
    pub bytes: usize,
}

impl Default for Limits {
    /// As libzmq: 1,000 messages; beside it 64 MiB.
    fn default() -> Limits {
        Limits { messages: 1000, bytes: 64 * 1024 * 1024 }
    }
}

/// What waits to be written to a peer: whole messages in order, and beside them what the connection itself has to say,
/// which goes first at the next boundary. Belongs to the peer, not to the connection: a peer that we connect to keeps its
/// messages when the connection breaks.
#[derive(Debug)]
pub struct Outgoing {
    limits: Limits,
    mode: Mode,
    control: Vec<u8>,
    control_done: usize,
    pieces: VecDeque<Piece>,
    /// How much of the first piece is written.
    done: usize,
    messages: u32,
    bytes: usize,
}

/// What may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// No messages yet.
    Held,
    /// Messages as they are.
    Clear,
    /// Messages only after encryption, which makes control octets of them.
    Sealed,
}

/// Whole messages.
#[derive(Debug)]
pub(super) enum Piece {
    Gathered(Vec<u8>, u32),
    Shared(Chunk),
}

impl Piece {
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Gathered(bytes, _) => bytes,
            Self::Shared(chunk) => chunk.bytes(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn messages(&self) -> u32 {
        match self {
            Self::Gathered(_, messages) => *messages,
            Self::Shared(chunk) => chunk.messages(),
        }
    }
}

impl Outgoing {
    /// Nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Outgoing {
        Outgoing {
            limits,
            mode: Mode::Held,
            control: Vec::new(),
            control_done: 0,
            pieces: VecDeque::new(),
            done: 0,
            messages: 0,
            bytes: 0,
        }
    }

    /// How many messages there is room for. A single message may be larger than the limit of octets.
    #[must_use]
    pub fn room(&self) -> u32 {
        if self.bytes >= self.limits.bytes { 0 } else { self.limits.messages.saturating_sub(self.messages) }
    }

    /// Messages that wait.
    #[must_use]
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// Octets of messages that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds messages. The caller has asked for room.
    pub fn push(&mut self, chunk: Chunk) {
        let (len, messages) = (chunk.len(), chunk.messages());
        self.messages = self.messages.saturating_add(messages);
        self.bytes += len;
        if len >= chunk.footprint() / COPY_BELOW_SHARE {
            self.pieces.push_back(Piece::Shared(chunk));
        } else {
            self.gather(chunk.bytes(), messages);
        }
    }

    /// Adds messages by copying them.
    pub fn push_copy(&mut self, bytes: &[u8], messages: u32) {
        self.messages = self.messages.saturating_add(messages);
        self.bytes += bytes.len();
        self.gather(bytes, messages);
    }

    fn gather(&mut self, bytes: &[u8], messages: u32) {
        if let Some(Piece::Gathered(last, count)) = self.pieces.back_mut()
            && last.capacity() - last.len() >= bytes.len()
        {
            last.extend_from_slice(bytes);
            *count = count.saturating_add(messages);
            return;
        }
        // Who has little waiting needs no large piece.
        let room = if self.pieces.is_empty() { bytes.len() } else { bytes.len().max(GATHER_BYTES) };
        let mut fresh = Vec::with_capacity(room);
        fresh.extend_from_slice(bytes);
        self.pieces.push_back(Piece::Gathered(fresh, messages));
    }

    pub(super) fn put_control(&mut self, control: &mut Vec<u8>) {
        if self.control.is_empty() {
            std::mem::swap(&mut self.control, control);
        } else {
            self.control.append(control);
        }
    }

    /// Octets that the connection itself has to say and that wait. What makes it say them must stop while they are many:
    /// pings that are to be answered, subscriptions that are to be told.
    #[must_use]
    pub fn control_len(&self) -> usize {
        self.control.len() - self.control_done
    }

    pub(super) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// Takes the first piece out, to be encrypted.
    pub(super) fn pop(&mut self) -> Option<Piece> {
        debug_assert_eq!(self.done, 0, "encrypted pieces are never written as they are");
        let piece = self.pieces.pop_front()?;
        self.forget(&piece);
        Some(piece)
    }

    fn forget(&mut self, piece: &Piece) {
        self.messages = self.messages.saturating_sub(piece.messages());
        self.bytes = self.bytes.saturating_sub(piece.len());
    }

    /// Whether there is anything to write now.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.control.is_empty() && (self.mode != Mode::Clear || self.pieces.is_empty())
    }

    /// Up to `slices.len()` slices to write next, in order; returns how many were filled in.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let control = self.control.get(self.control_done..).unwrap_or_default();
        let mut pieces = self.pieces.iter().map(Piece::as_slice);
        // Nothing may stand inside a message.
        let begun = (self.done > 0).then(|| pieces.next()).flatten().and_then(|first| first.get(self.done..));
        let clear = self.mode == Mode::Clear;
        let all = begun.into_iter().chain(Some(control)).chain(pieces.take_while(|_| clear));
        let mut n = 0;
        for (place, bytes) in slices.iter_mut().zip(all.filter(|bytes| !bytes.is_empty())) {
            *place = IoSlice::new(bytes);
            n += 1;
        }
        n
    }

    /// `n` octets of what [`Outgoing::slices`] gave are written. Returns how many messages have left whole.
    pub fn advance(&mut self, mut n: usize) -> u32 {
        let mut left = 0;
        if self.done == 0 {
            n -= self.advance_control(n);
        }
        while n > 0 {
            let Some(first) = self.pieces.front() else { break };
            let rest = first.len() - self.done;
            if n < rest {
                self.done += n;
                break;
            }
            n -= rest;
            left += first.messages();
            self.done = 0;
            if let Some(piece) = self.pieces.pop_front() {
                self.forget(&piece);
            }
            n -= self.advance_control(n);
        }
        left
    }

    fn advance_control(&mut self, n: usize) -> usize {
        let taken = n.min(self.control_len());
        self.control_done += taken;
        if self.control_done == self.control.len() {
            self.control.clear();
            self.control_done = 0;
        }
        taken
    }

    /// The connection is gone. A message that was written in part is lost, as are those that the peer may not have read;
    /// the rest waits for the next connection. Returns how many were begun and are lost.
    pub fn disconnect(&mut self) -> u32 {
        self.mode = Mode::Held;
        self.control.clear();
        self.control_done = 0;
        let done = std::mem::take(&mut self.done);
        if done == 0 {
            return 0;
        }
        let Some(first) = self.pieces.pop_front() else { return 0 };
        self.forget(&first);
        let (mut at, mut gone) = (0, 0);
        let bytes = first.as_slice();
        while at < done
            && let Some(len) = bytes.get(at..).and_then(frame::message_len)
        {
            at += len;
            gone += 1;
        }
        let rest = bytes.get(at..).unwrap_or_default().to_vec();
        if !rest.is_empty() {
            let messages = first.messages().saturating_sub(gone);
            self.messages = self.messages.saturating_add(messages);
            self.bytes += rest.len();
            self.pieces.push_front(Piece::Gathered(rest, messages));
        }
        1
    }

    /// Everything that waits is given up; returns how many messages.
    pub fn clear(&mut self) -> u32 {
        self.pieces.clear();
        self.done = 0;
        self.bytes = 0;
        std::mem::take(&mut self.messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(n: usize) -> Chunk {
        let mut wire = Vec::new();
        (0..n).for_each(|i| frame::put_message(&mut wire, [&[i as u8; 4][..]]));
        Chunk::parse(wire).unwrap()
    }

    fn drain(out: &mut Outgoing, step: usize) -> Vec<u8> {
        let mut seen = Vec::new();
        loop {
            let mut slices = [IoSlice::new(&[]); 3];
            let n = out.slices(&mut slices);
            if n == 0 {
                return seen;
            }
            let take = slices[0].len().min(step);
            seen.extend_from_slice(&slices[0][..take]);
            out.advance(take);
        }
    }

    #[test]
    fn control_goes_between_messages_only() {
        let mut out = Outgoing::new(Limits::default());
        out.set_mode(Mode::Clear);
        out.push(chunk(2));
        out.push(chunk(1));
        out.advance(1);
        out.put_control(&mut b"PING".to_vec());
        let mut wanted = chunk(2).bytes()[1..].to_vec();
        wanted.extend_from_slice(b"PING");
        wanted.extend_from_slice(chunk(1).bytes());
        assert_eq!(drain(&mut out, 3), wanted);
        assert_eq!((out.messages(), out.bytes()), (0, 0));
    }

    #[test]
    fn nothing_but_control_goes_before_the_connection_is_open() {
        let mut out = Outgoing::new(Limits::default());
        out.push(chunk(1));
        assert!(out.is_idle());
        out.put_control(&mut b"GREETING".to_vec());
        assert_eq!(drain(&mut out, 100), b"GREETING");
        out.set_mode(Mode::Clear);
        assert_eq!(drain(&mut out, 100), chunk(1).bytes());
    }

    #[test]
    fn a_broken_connection_costs_the_message_that_was_begun() {
        for written in 1..=18 {
            let mut out = Outgoing::new(Limits::default());
            out.set_mode(Mode::Clear);
            out.push(chunk(3));
            out.push(chunk(1));
            let left = out.advance(written);
            out.put_control(&mut b"PING".to_vec());
            out.disconnect();
            out.set_mode(Mode::Clear);
            let gone = written.div_ceil(6);
            assert_eq!(left, if written == 18 { 3 } else { 0 });
            assert_eq!(out.messages() as usize, 4 - gone, "{written}");
            let mut wanted = chunk(3).bytes()[gone * 6..].to_vec();
            wanted.extend_from_slice(chunk(1).bytes());
            assert_eq!(drain(&mut out, 5), wanted);
        }
    }

    #[test]
    fn small_parts_do_not_keep_large_buffers_alive() {
        let mut wire = Vec::with_capacity(64 * 1024);
        frame::put_message(&mut wire, [&b"tiny"[..]]);
        let mut out = Outgoing::new(Limits::default());
        out.push(Chunk::parse(wire).unwrap());
        assert!(matches!(&out.pieces[0], Piece::Gathered(bytes, 1) if bytes.capacity() < 1024));
    }

    #[test]
    fn room_ends_at_either_limit() {
        let mut out = Outgoing::new(Limits { messages: 3, bytes: 10 });
        assert_eq!(out.room(), 3);
        out.push(chunk(1));
        assert_eq!(out.room(), 2);
        out.push(chunk(1));
        assert_eq!(out.room(), 0);
    }
}
