//! One consuming connection's state: what arrived, in what order, and what is to be acknowledged.

use super::conn::control;
use super::fault::Fault;
use super::inbound::{BODY_HEAD_BYTES, Confirm, Delivery, Sink};
use super::ring::Stamp;
use super::sequences::{Arrival, Sequences};
use super::times::Times;
use super::wire::{Args, FRAME_END, MethodId};
use std::io::{ErrorKind, Write};

/// Acknowledgements that may wait for the socket; beyond this the broker does not read them and the run fails.
const UNSENT_BYTES_MAX: usize = 64 << 20;
/// No tracker yet.
const NONE: u32 = u32::MAX;

/// When deliveries are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Never: the broker takes a delivery as settled when it sends it.
    Auto,
    /// Each by itself.
    Each,
    /// Every so many with one `multiple`.
    Multiple(u64),
}

/// What all consumers of a run know of it.
#[derive(Clone, Copy, Debug)]
pub struct Expectation {
    /// Octets of every body.
    pub body_bytes: u64,
    /// How many streams there are.
    pub streams: usize,
    /// How many of them, from the first, are in order.
    pub ordered_streams: usize,
    /// A time is recorded of messages whose sequence number has none of these bits.
    pub sample_mask: u64,
    /// Whether the closed loop needs to know of each delivery.
    pub credit: bool,
}

/// What went wrong among the deliveries, and what is only worth knowing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Deliveries.
    pub delivered: u64,
    /// With a sequence number that this consumer had seen before.
    pub duplicated: u64,
    /// New, but after a later one of the same stream.
    pub out_of_order: u64,
    /// Flagged by the broker as redelivered.
    pub redelivered: u64,
    /// With a body of wrong size or with a stamp that nobody wrote.
    pub corrupt: u64,
}

/// What one consumer of a connection got of one stream.
#[derive(Debug)]
pub struct Track {
    /// The queue it came from.
    pub queue: usize,
    /// The stream.
    pub stream: usize,
    /// The sequence numbers.
    pub seen: Sequences,
}

/// The state of one consuming connection.
#[derive(Debug)]
pub struct Consumer {
    acks: Acks,
    expect: Expectation,
    /// The queues it consumes from, in the order of its consumer tags.
    queues: Vec<usize>,
    /// Per consumer and stream: the index in `tracks`.
    index: Vec<u32>,
    /// What arrived.
    pub tracks: Vec<Track>,
    /// Counts.
    pub tally: Tally,
    /// From publish to delivery.
    pub times: Times,
    /// Time of the block being read, nanoseconds since the epoch.
    pub now_ns: u64,
    /// The streams of the deliveries since somebody last looked, where the closed loop needs them.
    pub credits: Vec<usize>,
    last_tag: u64,
    acked_tag: u64,
    out: Vec<u8>,
    out_at: usize,
}

impl Consumer {
    /// A connection with a consumer on each of `queues`; `first_bytes` are sent before anything else.
    pub fn new(acks: Acks, queues: &[usize], expect: Expectation, first_bytes: Vec<u8>) -> Self {
        Self {
            acks,
            expect,
            queues: queues.to_vec(),
            index: vec![NONE; queues.len() * expect.streams],
            tracks: Vec::new(),
            tally: Tally::default(),
            times: Times::default(),
            now_ns: 0,
            credits: Vec::new(),
            last_tag: 0,
            acked_tag: 0,
            out: first_bytes,
            out_at: 0,
        }
    }

    #[inline]
    fn check(&mut self, delivery: &Delivery) {
        let stamp = Stamp::read(&delivery.head);
        let consumer = delivery.consumer as usize;
        if stamp.stream >= self.expect.streams || consumer >= self.queues.len() {
            self.tally.corrupt += 1;
            return;
        }
        let place = consumer * self.expect.streams + stamp.stream;
        if self.index[place] == NONE {
            self.index[place] = u32::try_from(self.tracks.len()).unwrap_or(NONE);
            let (queue, stream) = (self.queues[consumer], stamp.stream);
            self.tracks.push(Track { queue, stream, seen: Sequences::default() });
        }
        let Some(track) = self.tracks.get_mut(self.index[place] as usize) else {
            return;
        };
        match track.seen.add(stamp.sequence) {
            Arrival::InOrder => {}
            Arrival::OutOfOrder => self.tally.out_of_order += u64::from(stamp.stream < self.expect.ordered_streams),
            Arrival::Duplicate => self.tally.duplicated += 1,
        }
        if stamp.sequence & self.expect.sample_mask == 0 {
            self.times.record(self.now_ns.saturating_sub(stamp.sent_ns));
        }
        if self.expect.credit {
            self.credits.push(stamp.stream);
        }
    }

    fn put_ack(&mut self, tag: u64, multiple: u8) {
        let mut frame = [1, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, multiple, FRAME_END];
        frame[11..19].copy_from_slice(&tag.to_be_bytes());
        self.out.extend_from_slice(&frame);
        self.acked_tag = tag;
    }

    /// Acknowledges what `multiple` has left over.
    pub fn ack_rest(&mut self) {
        if matches!(self.acks, Acks::Multiple(_)) && self.last_tag > self.acked_tag {
            self.put_ack(self.last_tag, 1);
        }
    }

    /// Writes what is to be sent. False if the socket is full and more remains.
    ///
    /// # Errors
    /// The broker is gone, or takes no acknowledgements.
    pub fn flush(&mut self, stream: &mut impl Write) -> Result<bool, Fault> {
        while self.out_at < self.out.len() {
            match stream.write(&self.out[self.out_at..]) {
                Ok(wrote) => self.out_at += wrote,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.out.len() - self.out_at > UNSENT_BYTES_MAX {
                        return Err(Fault::protocol("it delivers but reads no acknowledgements"));
                    }
                    return Ok(false);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(super::conn::broken(error, "acknowledging")),
            }
        }
        self.out.clear();
        self.out_at = 0;
        Ok(true)
    }
}

impl Sink for Consumer {
    #[inline]
    fn delivery(&mut self, delivery: &Delivery) {
        self.tally.delivered += 1;
        self.tally.redelivered += u64::from(delivery.redelivered);
        if delivery.body_bytes != self.expect.body_bytes {
            self.tally.corrupt += 1;
        } else if self.expect.body_bytes >= BODY_HEAD_BYTES as u64 {
            self.check(delivery);
        }
        self.last_tag = delivery.tag;
        match self.acks {
            Acks::Auto => {}
            Acks::Each => self.put_ack(delivery.tag, 0),
            Acks::Multiple(every) => {
                if delivery.tag - self.acked_tag.min(delivery.tag) >= every {
                    self.put_ack(delivery.tag, 1);
                }
            }
        }
    }

    fn confirm(&mut self, _: Confirm) {}

    fn returned(&mut self) {}

    fn method(&mut self, _: u16, id: MethodId, args: Args<'_>) -> Result<(), Fault> {
        let (class, method) = id;
        if control(id, args)? {
            return Ok(());
        }
        Err(Fault::protocol(format!("unexpected method {class}.{method}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECT: Expectation =
        Expectation { body_bytes: 16, streams: 2, ordered_streams: 2, sample_mask: 0, credit: true };

    fn delivery(tag: u64, stream: u64, sequence: u64) -> Delivery {
        let mut head = [0; BODY_HEAD_BYTES];
        head[..8].copy_from_slice(&(stream << 40 | sequence).to_be_bytes());
        Delivery { tag, body_bytes: 16, head, ..Delivery::default() }
    }

    #[test]
    fn faults_of_the_broker_are_counted() {
        let mut consumer = Consumer::new(Acks::Auto, &[0], EXPECT, Vec::new());
        for (tag, (stream, sequence)) in [(0, 0), (1, 0), (0, 2), (0, 1), (0, 2), (7, 0)].into_iter().enumerate() {
            consumer.delivery(&delivery(tag as u64 + 1, stream, sequence));
        }
        consumer.delivery(&Delivery { body_bytes: 3, ..delivery(7, 0, 3) });
        consumer.delivery(&Delivery { consumer: 9, redelivered: true, ..delivery(8, 0, 3) });
        let tally = consumer.tally;
        assert_eq!((tally.delivered, tally.duplicated, tally.out_of_order), (8, 1, 1));
        assert_eq!((tally.corrupt, tally.redelivered), (3, 1));
        assert_eq!(consumer.credits, [0, 1, 0, 0, 0]);
        let seen: Vec<_> = consumer.tracks.iter().map(|t| (t.stream, t.seen.len())).collect();
        assert_eq!(seen, [(0, 3), (1, 1)]);
    }

    #[test]
    fn acknowledgements_are_batched_as_asked() {
        for (acks, sent, rest) in
            [(Acks::Auto, 0, 0), (Acks::Each, 5, 0), (Acks::Multiple(2), 2, 1), (Acks::Multiple(5), 1, 0)]
        {
            let mut consumer = Consumer::new(acks, &[0], EXPECT, Vec::new());
            (1..=5).for_each(|tag| consumer.delivery(&delivery(tag, 0, tag - 1)));
            let mut out = Vec::new();
            assert!(consumer.flush(&mut out).unwrap());
            assert_eq!(out.len(), sent * 21, "{acks:?}");
            consumer.ack_rest();
            consumer.flush(&mut out).unwrap();
            assert_eq!(out.len(), (sent + rest) * 21, "{acks:?}");
            if sent > 0 {
                assert_eq!(out[out.len() - 3..out.len() - 1], [5, u8::from(acks != Acks::Each)]);
            }
        }
    }
}
