//! One publishing connection's state: what it may send, what it has sent, what the broker said of it.

use super::conn::control;
use super::fault::Fault;
use super::inbound::{Confirm, Delivery, Sink};
use super::ring::Ring;
use super::times::Times;
use super::wire::{Args, CONNECTION_BLOCKED, CONNECTION_UNBLOCKED, MethodId};
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::ops::Range;

/// The publish sequence numbers that the broker has not confirmed yet.
#[derive(Debug)]
pub struct Window {
    size: u64,
    /// The lowest tag that is not confirmed.
    low: u64,
    /// Whether `low`, `low + 1`, … are confirmed.
    settled: VecDeque<bool>,
    open: u64,
    /// The last tag of each block and when the block was sent.
    blocks: VecDeque<(u64, u64)>,
    /// Messages the broker accepted.
    pub accepted: u64,
    /// Messages the broker refused.
    pub refused: u64,
    /// From the send of a block to the confirm of all of it, nanoseconds.
    pub times: Times,
}

impl Window {
    /// A window of at most `size` unconfirmed messages.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            low: 1,
            settled: VecDeque::new(),
            open: 0,
            blocks: VecDeque::new(),
            accepted: 0,
            refused: 0,
            times: Times::default(),
        }
    }

    fn room(&self) -> u64 {
        self.size.saturating_sub(self.open)
    }

    fn sent(&mut self, count: usize, now_ns: u64) {
        self.settled.extend(std::iter::repeat_n(false, count));
        self.open += count as u64;
        self.blocks.push_back((self.low + self.settled.len() as u64 - 1, now_ns));
    }

    fn settle(&mut self, confirm: Confirm, now_ns: u64) -> Result<u64, Fault> {
        let end = self.low + self.settled.len() as u64;
        // Tag 0 with multiple means all, AMQP 0-9-1 basic.ack.
        let last = if confirm.tag == 0 && confirm.multiple { end - 1 } else { confirm.tag };
        if last >= end || (last < self.low && !confirm.multiple) {
            return Err(Fault::protocol(format!("confirm of {last}, awaited {}..{end}", self.low)));
        }
        let first = if confirm.multiple { self.low } else { last };
        let mut count = 0;
        for tag in first..=last {
            let at = usize::try_from(tag - self.low).unwrap_or(usize::MAX);
            if let Some(settled) = self.settled.get_mut(at) {
                count += u64::from(!*settled);
                *settled = true;
            }
        }
        if count == 0 && !confirm.multiple {
            return Err(Fault::protocol(format!("second confirm of {last}")));
        }
        while self.settled.front() == Some(&true) {
            self.settled.pop_front();
            self.low += 1;
        }
        while let Some((_, sent_ns)) = self.blocks.pop_front_if(|(tag, _)| *tag < self.low) {
            self.times.record(now_ns.saturating_sub(sent_ns));
        }
        self.open -= count;
        *if confirm.accepted { &mut self.accepted } else { &mut self.refused } += count;
        Ok(count)
    }
}

/// What one call of [`Publisher::turn`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// So many messages were started, and the socket took all bytes.
    Wrote(u64),
    /// So many messages were started, and the socket is full.
    Full(u64),
    /// Nothing may be sent now.
    Waiting,
}

/// Limits of one publisher.
#[derive(Clone, Copy, Debug)]
pub struct PublishLimits {
    /// Messages in all.
    pub quota: u64,
    /// Messages per write.
    pub batch: usize,
    /// Messages sent and not yet delivered.
    pub in_flight: Option<u64>,
    /// Messages sent and not yet confirmed.
    pub confirm_window: Option<u64>,
}

/// The state of one publishing connection.
#[derive(Debug)]
pub struct Publisher {
    ring: Ring,
    limits: PublishLimits,
    /// Messages handed to the socket, the pending block included.
    pub sent: u64,
    /// Messages of this publisher that were delivered: only counted where `in_flight` needs it.
    pub delivered: u64,
    pending: Range<usize>,
    /// The unconfirmed messages, in confirm mode.
    pub window: Option<Window>,
    /// Messages that came back as unroutable.
    pub returned: u64,
    /// Whether the broker said `connection.blocked`.
    pub blocked: bool,
    /// How often it said so.
    pub blocks: u64,
    /// Whether the socket may have room.
    pub writable: bool,
    /// Whether the worker has counted it as finished.
    pub finished: bool,
    /// Time of the block being read.
    pub now_ns: u64,
    settled: u64,
    fault: Option<Fault>,
}

impl Publisher {
    /// A publisher of the messages in `ring`.
    pub fn new(ring: Ring, limits: PublishLimits) -> Self {
        Self {
            ring,
            sent: 0,
            delivered: 0,
            pending: 0..0,
            window: limits.confirm_window.map(Window::new),
            limits,
            returned: 0,
            blocked: false,
            blocks: 0,
            writable: true,
            finished: false,
            now_ns: 0,
            settled: 0,
            fault: None,
        }
    }

    /// Sends one block, or the rest of the last one, and at most `allowance` new messages.
    ///
    /// # Errors
    /// The broker is gone.
    pub fn turn(&mut self, stream: &mut impl Write, now_ns: u64, stamp_ns: u64, allowance: u64) -> Result<Turn, Fault> {
        let mut started = 0;
        if self.pending.is_empty() {
            let count = self.may_send().min(allowance).min(self.limits.batch as u64);
            if count == 0 {
                return Ok(Turn::Waiting);
            }
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            let (range, taken) = self.ring.take(count, stamp_ns);
            self.pending = range;
            started = taken as u64;
            self.sent += started;
            if let Some(window) = &mut self.window {
                window.sent(taken, now_ns);
            }
        }
        while !self.pending.is_empty() {
            match stream.write(&self.ring.bytes()[self.pending.clone()]) {
                Ok(wrote) => self.pending.start += wrote,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.writable = false;
                    return Ok(Turn::Full(started));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(super::conn::broken(error, "publishing")),
            }
        }
        Ok(Turn::Wrote(started))
    }

    fn may_send(&self) -> u64 {
        let mut count = self.limits.quota - self.sent;
        if self.blocked {
            return 0;
        }
        if let Some(window) = &self.window {
            count = count.min(window.room());
        }
        if let Some(most) = self.limits.in_flight {
            count = count.min(most.saturating_sub(self.sent.saturating_sub(self.delivered)));
        }
        count
    }

    /// Exchanges the histogram of confirm times with `times`.
    pub fn lend(&mut self, times: &mut Times) {
        if let Some(window) = &mut self.window {
            std::mem::swap(&mut window.times, times);
        }
    }

    /// Starts no more messages.
    pub fn retire(&mut self) {
        self.limits.quota = self.sent;
    }

    /// Whether all is sent, and confirmed where that was asked for.
    pub fn all_done(&self) -> bool {
        self.sent == self.limits.quota
            && self.pending.is_empty()
            && self.window.as_ref().is_none_or(|window| window.open == 0)
    }

    /// How many messages of each stream were sent.
    pub fn streams(&self) -> &[(usize, u64)] {
        self.ring.taken()
    }

    /// How many messages were confirmed or refused since the last call.
    ///
    /// # Errors
    /// A confirm that fits no message.
    pub fn take_settled(&mut self) -> Result<u64, Fault> {
        match self.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(std::mem::take(&mut self.settled)),
        }
    }
}

impl Sink for Publisher {
    fn delivery(&mut self, _: &Delivery) {
        self.fault = Some(Fault::protocol("a delivery without a consumer"));
    }

    fn confirm(&mut self, confirm: Confirm) {
        let settled = match &mut self.window {
            Some(window) => window.settle(confirm, self.now_ns),
            None => Err(Fault::protocol("a confirm that nobody asked for")),
        };
        match settled {
            Ok(count) => self.settled += count,
            Err(fault) => self.fault = Some(fault),
        }
    }

    fn returned(&mut self) {
        self.returned += 1;
    }

    fn method(&mut self, _: u16, id: MethodId, args: Args<'_>) -> Result<(), Fault> {
        match id {
            CONNECTION_BLOCKED => {
                self.blocked = true;
                self.blocks += 1;
            }
            CONNECTION_UNBLOCKED => self.blocked = false,
            _ if control(id, args)? => {}
            (class, method) => {
                return Err(Fault::protocol(format!("unexpected method {class}.{method}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::amqp::ring::{Properties, Route, Shape};
    use std::io;

    /// A socket that takes so many bytes.
    struct Socket {
        room: usize,
        got: usize,
    }

    impl Write for Socket {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            let took = bytes.len().min(self.room);
            self.room -= took;
            self.got += took;
            Ok(took)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn publisher(limits: PublishLimits) -> Publisher {
        let route = Route { key: "q".to_owned(), ..Route::default() };
        let shape = Shape {
            body_bytes: 16,
            persistent: false,
            properties: Properties::None,
            mandatory: false,
            frame_bytes_max: 4096,
        };
        Publisher::new(Ring::new(&[route], &shape, limits.batch).unwrap(), limits)
    }

    const LIMITS: PublishLimits = PublishLimits { quota: 10, batch: 4, in_flight: None, confirm_window: None };

    fn ack(tag: u64, multiple: bool) -> Confirm {
        Confirm { tag, multiple, accepted: true }
    }

    #[test]
    fn a_full_socket_is_resumed_where_it_stopped() {
        let mut publisher = publisher(LIMITS);
        let mut socket = Socket { room: 100, got: 0 };
        assert_eq!(publisher.turn(&mut socket, 0, 0, u64::MAX).unwrap(), Turn::Full(4));
        assert!(!publisher.writable);
        socket.room = usize::MAX - 1000;
        assert_eq!(publisher.turn(&mut socket, 0, 0, u64::MAX).unwrap(), Turn::Wrote(0));
        let block = socket.got;
        assert_eq!(publisher.turn(&mut socket, 0, 0, u64::MAX).unwrap(), Turn::Wrote(4));
        assert_eq!(socket.got, 2 * block);
        assert_eq!(publisher.turn(&mut socket, 0, 0, u64::MAX).unwrap(), Turn::Wrote(2));
        assert_eq!(publisher.turn(&mut socket, 0, 0, u64::MAX).unwrap(), Turn::Waiting);
        assert!(publisher.all_done());
    }

    #[test]
    fn the_confirm_window_holds_and_opens() {
        let mut publisher = publisher(PublishLimits { confirm_window: Some(3), ..LIMITS });
        let mut socket = Socket { room: 1 << 20, got: 0 };
        assert_eq!(publisher.turn(&mut socket, 5, 5, u64::MAX).unwrap(), Turn::Wrote(3));
        assert_eq!(publisher.turn(&mut socket, 5, 5, u64::MAX).unwrap(), Turn::Waiting);
        publisher.confirm(ack(2, false));
        assert_eq!(publisher.take_settled().unwrap(), 1);
        assert_eq!(publisher.turn(&mut socket, 6, 6, u64::MAX).unwrap(), Turn::Wrote(1));
        publisher.confirm(ack(4, true));
        assert_eq!(publisher.take_settled().unwrap(), 3);
        let window = publisher.window.as_ref().unwrap();
        assert_eq!((window.accepted, window.open, window.low), (4, 0, 5));
    }

    #[test]
    fn a_wrong_confirm_is_a_fault() {
        for wrong in [ack(4, false), ack(9, true), ack(0, false)] {
            let mut publisher = publisher(PublishLimits { confirm_window: Some(3), ..LIMITS });
            publisher.turn(&mut Socket { room: 1 << 20, got: 0 }, 0, 0, u64::MAX).unwrap();
            publisher.confirm(wrong);
            assert!(publisher.take_settled().is_err(), "{wrong:?}");
        }
        let mut publisher = publisher(PublishLimits { confirm_window: Some(3), ..LIMITS });
        publisher.turn(&mut Socket { room: 1 << 20, got: 0 }, 0, 0, u64::MAX).unwrap();
        publisher.confirm(ack(3, false));
        publisher.confirm(ack(3, false));
        assert!(publisher.take_settled().is_err());
    }

    #[test]
    fn deliveries_open_the_closed_loop() {
        let mut publisher = publisher(PublishLimits { in_flight: Some(1), ..LIMITS });
        let mut socket = Socket { room: 1 << 20, got: 0 };
        assert_eq!(publisher.turn(&mut socket, 0, 0, u64::MAX).unwrap(), Turn::Wrote(1));
        assert_eq!(publisher.turn(&mut socket, 0, 0, u64::MAX).unwrap(), Turn::Waiting);
        publisher.delivered += 1;
        assert_eq!(publisher.turn(&mut socket, 0, 0, u64::MAX).unwrap(), Turn::Wrote(1));
    }
}
