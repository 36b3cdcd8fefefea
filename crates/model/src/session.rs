//! The seam between a protocol and the server: a session is a state machine without socket, clock or lock.
//!
//! A driver owns the socket and does, in this order, for as long as there is anything to do:
//!
//! 1. drain the outbox and give each event to [`Session::handle`], then call [`Session::flush`];
//! 2. write what [`Transmit`] holds;
//! 3. read, call [`Session::receive`], and hand the turn to the core.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use crate::batch::{Batch, ReadBuf};
use crate::command::Turn;
use crate::event::Event;
use crate::ids::{Lsn, Millis};

/// A protocol's state machine for one connection.
pub trait Session: Send {
    /// Takes complete frames from `input`, adds commands to `turn` and immediate answers to `out`. Leaves an incomplete
    /// frame where it is. Sets `turn.batch` if it added publishes that point into it.
    fn receive(&mut self, input: &mut ReadBuf, now: Millis, turn: &mut Turn, out: &mut Transmit);

    /// Takes an event of the core. Bodies are in memory. May add commands (what a refused channel held is released).
    fn handle(&mut self, event: Event, now: Millis, turn: &mut Turn, out: &mut Transmit);

    /// The journal is durable up to `lsn`: confirms that waited for it may go.
    fn durable(&mut self, lsn: Lsn, out: &mut Transmit);

    /// The ticket that the session waits for, if any: the driver calls [`Session::durable`] when it is reached.
    fn waits_for(&self) -> Option<Lsn>;

    /// Ends a round of `handle`s: writes what is worth coalescing.
    fn flush(&mut self, out: &mut Transmit);

    /// When [`Session::on_deadline`] wants to be called next.
    fn deadline(&self) -> Option<Millis>;

    /// Time has passed: heartbeats are sent, silent peers given up.
    fn on_deadline(&mut self, now: Millis, turn: &mut Turn, out: &mut Transmit);

    /// How the connection stands.
    fn state(&self) -> SessionState;

    /// Whether the peer has published since it connected: such connections are not read while an alarm is up.
    fn has_published(&self) -> bool;
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Handshake under way: the driver gives it a limited time.
    Opening,
    /// In use.
    Open,
    /// Over: write what is left (for a bounded time), then close the socket.
    Closed,
}

/// Bytes on their way to the peer: copied small pieces, and references to large bodies.
#[derive(Debug, Default)]
pub struct Transmit {
    buf: Vec<u8>,
    splices: std::collections::VecDeque<Splice>,
    /// How many bytes of `buf` are written.
    done: usize,
    spliced_bytes: usize,
}

#[derive(Debug)]
struct Splice {
    /// Stands before this offset of `buf`.
    at: usize,
    batch: Arc<Batch>,
    range: Range<usize>,
}

impl Transmit {
    /// Bodies from this size on are better spliced than copied.
    pub const SPLICE_MIN: usize = 8 * 1024;

    /// The vector to append bytes to. Only ever append.
    pub fn buf(&mut self) -> &mut Vec<u8> {
        &mut self.buf
    }

    /// Adds bytes of a batch without copying them.
    pub fn splice(&mut self, batch: &Arc<Batch>, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        self.spliced_bytes += range.len();
        self.splices.push_back(Splice { at: self.buf.len(), batch: Arc::clone(batch), range });
    }

    /// Bytes not yet written.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buf.len() - self.done + self.spliced_bytes
    }

    /// Whether all is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending() == 0
    }

    /// Up to `slices.len()` pieces to write next, in order; returns how many were filled in.
    pub fn pieces<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut n, mut at) = (0, self.done);
        let mut put = |s: &'a [u8]| {
            if !s.is_empty() && n < slices.len() {
                slices[n] = IoSlice::new(s);
                n += 1;
            }
        };
        for s in &self.splices {
            put(&self.buf[at..s.at]);
            put(&s.batch.data()[s.range.clone()]);
            at = s.at;
        }
        put(&self.buf[at..]);
        n
    }

    /// Marks `n` bytes as written.
    ///
    /// # Panics
    /// If fewer are pending.
    pub fn advance(&mut self, mut n: usize) {
        assert!(n <= self.pending(), "wrote more than there was");
        while n > 0 {
            let until = self.splices.front().map_or(self.buf.len(), |s| s.at);
            let copied = (until - self.done).min(n);
            self.done += copied;
            n -= copied;
            if n == 0 {
                break;
            }
            let Some(s) = self.splices.front_mut() else { break };
            let taken = s.range.len().min(n);
            s.range.start += taken;
            self.spliced_bytes -= taken;
            n -= taken;
            if s.range.is_empty() {
                self.splices.pop_front();
            }
        }
        if self.is_empty() {
            self.buf.clear();
            self.done = 0;
            self.splices.clear();
        }
    }

    /// Gives back memory of a connection that went idle.
    pub fn release_if_empty(&mut self) {
        if self.is_empty() {
            *self = Transmit::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_order_and_survive_partial_writes() {
        let batch = Arc::new(Batch::single(&[0, 0], b"BODY"));
        let mut t = Transmit::default();
        t.buf().extend_from_slice(b"head");
        t.splice(&batch, batch.body_range(0));
        t.buf().extend_from_slice(b"tail");
        t.splice(&batch, batch.body_range(0));
        let mut seen = Vec::new();
        while !t.is_empty() {
            let mut s = [IoSlice::new(&[]); 2];
            let n = t.pieces(&mut s);
            assert!(n > 0);
            let take = s[0].len().min(3);
            seen.extend_from_slice(&s[0][..take]);
            t.advance(take);
        }
        assert_eq!(seen, b"headBODYtailBODY");
        assert_eq!(t.pending(), 0);
    }
}
