//! Reading: whole blocks from the socket, then frame by frame out of the block, without an allocation per message.

use super::fault::Fault;
use super::wire::{
    Args, BASIC_ACK, BASIC_DELIVER, BASIC_NACK, BASIC_RETURN, FRAME_BODY, FRAME_END, FRAME_HEAD_BYTES, FRAME_HEADER,
    FRAME_HEARTBEAT, FRAME_METHOD, FRAME_OVERHEAD_BYTES, MethodId,
};
use std::io::{self, Read};

/// The largest frame that we negotiate, in bytes, overhead included.
pub const FRAME_BYTES_MAX: usize = 131_072;
/// Room for one read; a frame always fits.
const BLOCK_BYTES: usize = 256 * 1024;
const _: () = assert!(BLOCK_BYTES >= 2 * FRAME_BYTES_MAX);
/// How many octets of a body the checks look at.
pub const BODY_HEAD_BYTES: usize = 16;
/// Octets of a consumer tag: all of ours are as long as this.
pub const CONSUMER_TAG_BYTES: usize = 4;

/// A whole delivered message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// The consumer tag, read as the number that [`consumer_tag`] made it from.
    pub consumer: u32,
    /// Delivery tag, to acknowledge by.
    pub tag: u64,
    /// Whether the broker says that it delivered the message before.
    pub redelivered: bool,
    /// Octets of the body.
    pub body_bytes: u64,
    /// The first octets of the body, zero where it is shorter.
    pub head: [u8; BODY_HEAD_BYTES],
}

/// The broker's verdict on published messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// Publish sequence number, from 1.
    pub tag: u64,
    /// Whether all numbers up to `tag` are meant.
    pub multiple: bool,
    /// `basic.ack` rather than `basic.nack`.
    pub accepted: bool,
}

/// What reading finds.
pub trait Sink {
    /// A message was delivered.
    fn delivery(&mut self, delivery: &Delivery);
    /// Published messages were confirmed or refused.
    fn confirm(&mut self, confirm: Confirm);
    /// A published message was returned as unroutable.
    fn returned(&mut self);
    /// Any other method.
    ///
    /// # Errors
    /// A method that ends the measurement.
    fn method(&mut self, channel: u16, id: MethodId, args: Args<'_>) -> Result<(), Fault>;
}

/// The consumer tag of the consumer numbered `index`.
pub fn consumer_tag(index: usize) -> String {
    format!("{index:04x}")
}

#[derive(Clone, Copy, Debug)]
enum Content {
    Delivery,
    Return,
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    Method,
    Header(Content),
    Body { content: Content, got: u64 },
}

/// The unparsed input of one connection.
#[derive(Debug)]
pub struct Inbound {
    block: Vec<u8>,
    start: usize,
    end: usize,
    parser: Parser,
}

/// Where in a message the input is.
#[derive(Debug)]
struct Parser {
    expect: Expect,
    current: Delivery,
}

impl Default for Inbound {
    fn default() -> Self {
        let parser = Parser { expect: Expect::Method, current: Delivery::default() };
        Self { block: Vec::new(), start: 0, end: 0, parser }
    }
}

impl Inbound {
    /// Gives the buffer back until there is more to read. What it holds must have been parsed.
    pub fn shrink(&mut self) {
        if self.start == self.end {
            self.block = Vec::new();
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once from `source` and returns how many bytes came, 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of the read, `WouldBlock` among them.
    pub fn fill(&mut self, source: &mut impl Read) -> io::Result<usize> {
        if self.start > 0 {
            self.block.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.block.is_empty() {
            self.block = vec![0; BLOCK_BYTES];
        }
        let got = source.read(&mut self.block[self.end..])?;
        self.end += got;
        Ok(got)
    }

    /// Hands every complete frame to `sink`.
    ///
    /// # Errors
    /// Those of `sink`, and bytes that are not AMQP.
    pub fn drain(&mut self, sink: &mut impl Sink) -> Result<(), Fault> {
        while self.next(sink)? {}
        Ok(())
    }

    /// Hands the next message or frame to `sink`; false if none is complete.
    ///
    /// # Errors
    /// As [`drain`](Self::drain).
    pub fn next(&mut self, sink: &mut impl Sink) -> Result<bool, Fault> {
        if matches!(self.parser.expect, Expect::Method)
            && let Some(size) = whole_delivery(&self.block[self.start..self.end], &mut self.parser.current)
        {
            self.start += size;
            sink.delivery(&self.parser.current);
            return Ok(true);
        }
        let Some((kind, channel, payload)) = self.frame()? else {
            return Ok(false);
        };
        self.parser.dispatch(kind, channel, &self.block[payload], sink)?;
        Ok(true)
    }

    /// Cuts the next complete frame; the range is its payload.
    fn frame(&mut self) -> Result<Option<(u8, u16, std::ops::Range<usize>)>, Fault> {
        let rest = &self.block[self.start..self.end];
        let Some(&[kind, c0, c1, s0, s1, s2, s3]) = rest.first_chunk::<FRAME_HEAD_BYTES>() else {
            return Ok(None);
        };
        let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
        if kind == b'A' {
            return Err(Fault::protocol("it answered with a protocol header: not AMQP 0-9-1"));
        }
        if size > FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES {
            return Err(Fault::protocol(format!("frame of {size} bytes exceeds frame_max")));
        }
        match rest.get(FRAME_HEAD_BYTES + size) {
            None => Ok(None),
            Some(&FRAME_END) => {
                let payload = self.start + FRAME_HEAD_BYTES..self.start + FRAME_HEAD_BYTES + size;
                self.start = payload.end + 1;
                Ok(Some((kind, u16::from_be_bytes([c0, c1]), payload)))
            }
            Some(other) => Err(Fault::protocol(format!("frame end {other:#04x}"))),
        }
    }
}

impl Parser {
    fn dispatch(&mut self, kind: u8, channel: u16, payload: &[u8], sink: &mut impl Sink) -> Result<(), Fault> {
        match (kind, self.expect) {
            (FRAME_HEARTBEAT, _) => Ok(()),
            (FRAME_METHOD, Expect::Method) => {
                let mut args = Args(payload);
                let id = (args.short()?, args.short()?);
                self.method(channel, id, args, sink)
            }
            // A close may cut a message short.
            (FRAME_METHOD, _) => {
                self.expect = Expect::Method;
                let mut args = Args(payload);
                let id = (args.short()?, args.short()?);
                sink.method(channel, id, args)
            }
            (FRAME_HEADER, Expect::Header(content)) => {
                self.current.body_bytes = Args(payload.get(4..).unwrap_or_default()).longlong()?;
                self.current.head = [0; BODY_HEAD_BYTES];
                self.expect = Expect::Body { content, got: 0 };
                self.finish(content, 0, sink);
                Ok(())
            }
            (FRAME_BODY, Expect::Body { content, got }) => {
                for (to, from) in self.current.head.iter_mut().skip(index(got)).zip(payload) {
                    *to = *from;
                }
                let got = got + payload.len() as u64;
                if got > self.current.body_bytes {
                    return Err(Fault::protocol("body longer than its header says"));
                }
                self.expect = Expect::Body { content, got };
                self.finish(content, got, sink);
                Ok(())
            }
            (kind, _) => Err(Fault::protocol(format!("unexpected frame of type {kind}"))),
        }
    }

    fn method(&mut self, channel: u16, id: MethodId, mut args: Args<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
        match id {
            BASIC_DELIVER => {
                let size = usize::from(args.octet()?);
                self.current.consumer = consumer_number(args.take(size)?).unwrap_or(u32::MAX);
                self.current.tag = args.longlong()?;
                self.current.redelivered = args.octet()? & 1 == 1;
                self.expect = Expect::Header(Content::Delivery);
                Ok(())
            }
            BASIC_RETURN => {
                self.expect = Expect::Header(Content::Return);
                Ok(())
            }
            BASIC_ACK | BASIC_NACK => {
                let tag = args.longlong()?;
                let multiple = args.octet()? & 1 == 1;
                sink.confirm(Confirm { tag, multiple, accepted: id == BASIC_ACK });
                Ok(())
            }
            _ => sink.method(channel, id, args),
        }
    }

    fn finish(&mut self, content: Content, got: u64, sink: &mut impl Sink) {
        if got == self.current.body_bytes {
            self.expect = Expect::Method;
            match content {
                Content::Delivery => sink.delivery(&self.current),
                Content::Return => sink.returned(),
            }
        }
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// The way of nearly all messages: deliver, header and one body frame, complete in the block and with one of our
/// consumer tags. Anything else is left to the frame-by-frame way.
#[inline]
fn whole_delivery(bytes: &[u8], into: &mut Delivery) -> Option<usize> {
    // Frame head 7, class and method 4, tag length 1, tag 4, delivery tag 8, redelivered 1.
    let front: &[u8; 25] = bytes.first_chunk()?;
    if front[0] != FRAME_METHOD || front[7..12] != [0, 60, 0, 60, CONSUMER_TAG_BYTES as u8] {
        return None;
    }
    let header_at = be32(front, 3)?.checked_add(FRAME_OVERHEAD_BYTES)?;
    // Frame head 7, class 2, weight 2, body size 8.
    let header: &[u8; 19] = bytes.get(header_at..)?.first_chunk()?;
    let body_at = header_at + be32(header, 3)?.checked_add(FRAME_OVERHEAD_BYTES)?;
    let body: &[u8; FRAME_HEAD_BYTES] = bytes.get(body_at..)?.first_chunk()?;
    let size = be32(body, 3)?;
    let body_bytes = u64::from_be_bytes(*header.last_chunk()?);
    let data = bytes.get(body_at + FRAME_HEAD_BYTES..)?;
    let whole = header[0] == FRAME_HEADER
        && body[0] == FRAME_BODY
        && size as u64 == body_bytes
        && *data.get(size)? == FRAME_END
        && bytes[header_at - 1] == FRAME_END
        && bytes[body_at - 1] == FRAME_END;
    if !whole {
        return None;
    }
    into.consumer = consumer_number(&front[12..16])?;
    into.tag = u64::from_be_bytes(*front[16..].first_chunk()?);
    into.redelivered = front[24] & 1 == 1;
    into.body_bytes = body_bytes;
    if let (true, Some(head)) = (size >= BODY_HEAD_BYTES, data.first_chunk()) {
        into.head = *head;
    } else {
        into.head = [0; BODY_HEAD_BYTES];
        into.head[..size].copy_from_slice(data.get(..size)?);
    }
    Some(body_at + FRAME_OVERHEAD_BYTES + size)
}

#[inline]
fn be32(bytes: &[u8], at: usize) -> Option<usize> {
    let four: &[u8; 4] = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_be_bytes(*four)).ok()
}

#[inline]
fn consumer_number(tag: &[u8]) -> Option<u32> {
    let tag: &[u8; CONSUMER_TAG_BYTES] = tag.try_into().ok()?;
    tag.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u32::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::amqp::wire::{CHANNEL_CLOSE, put_frame, put_method, put_short};

    #[derive(Default)]
    struct Log {
        deliveries: Vec<Delivery>,
        confirms: Vec<Confirm>,
        returned: u32,
        methods: Vec<MethodId>,
    }

    impl Sink for Log {
        fn delivery(&mut self, delivery: &Delivery) {
            self.deliveries.push(*delivery);
        }
        fn confirm(&mut self, confirm: Confirm) {
            self.confirms.push(confirm);
        }
        fn returned(&mut self) {
            self.returned += 1;
        }
        fn method(&mut self, _: u16, id: MethodId, _: Args<'_>) -> Result<(), Fault> {
            self.methods.push(id);
            Ok(())
        }
    }

    fn put_delivery(out: &mut Vec<u8>, tag: u64, body: &[u8], split: usize) {
        put_method(out, 1, BASIC_DELIVER, |out| {
            put_short(out, &consumer_tag(0x2a))?;
            out.extend_from_slice(&tag.to_be_bytes());
            out.push(u8::from(tag == 2));
            put_short(out, "ex")?;
            put_short(out, "key")
        })
        .unwrap();
        put_content(out, body, split);
    }

    fn put_content(out: &mut Vec<u8>, body: &[u8], split: usize) {
        put_frame(out, FRAME_HEADER, 1, |out| {
            out.extend_from_slice(&[0, 60, 0, 0]);
            out.extend_from_slice(&(body.len() as u64).to_be_bytes());
            out.extend_from_slice(&[0x10, 0, 2]);
            Ok(())
        })
        .unwrap();
        for part in body.chunks(split) {
            put_frame(out, FRAME_BODY, 1, |out| {
                out.extend_from_slice(part);
                Ok(())
            })
            .unwrap();
        }
    }

    fn sample() -> Vec<u8> {
        let mut wire = Vec::new();
        let body: Vec<u8> = (0..40).collect();
        put_delivery(&mut wire, 1, &body, 100);
        put_frame(&mut wire, FRAME_HEARTBEAT, 0, |_| Ok(())).unwrap();
        put_delivery(&mut wire, 2, &body, 7);
        put_delivery(&mut wire, 3, b"", 7);
        put_delivery(&mut wire, 4, b"abc", 7);
        put_method(&mut wire, 1, BASIC_NACK, |out| {
            out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 9, 1]);
            Ok(())
        })
        .unwrap();
        put_method(&mut wire, 1, BASIC_RETURN, |out| {
            out.extend_from_slice(&[1, 56]);
            put_short(out, "NO_ROUTE")?;
            put_short(out, "")?;
            put_short(out, "k")
        })
        .unwrap();
        put_content(&mut wire, b"returned", 100);
        put_method(&mut wire, 1, CHANNEL_CLOSE, |_| Ok(())).unwrap();
        wire
    }

    fn check(log: &Log) {
        let tags: Vec<_> = log.deliveries.iter().map(|d| (d.tag, d.body_bytes)).collect();
        assert_eq!(tags, [(1, 40), (2, 40), (3, 0), (4, 3)]);
        let first16: Vec<u8> = (0..16).collect();
        assert_eq!(log.deliveries[0].head[..], first16);
        assert_eq!(log.deliveries[1].head[..], first16);
        assert!(log.deliveries.iter().all(|d| d.consumer == 0x2a));
        assert!(log.deliveries[1].redelivered && !log.deliveries[0].redelivered);
        assert_eq!(log.deliveries[3].head[..4], *b"abc\0");
        assert_eq!(log.confirms, [Confirm { tag: 9, multiple: true, accepted: false }]);
        assert_eq!((log.returned, log.methods.as_slice()), (1, &[CHANNEL_CLOSE][..]));
    }

    #[test]
    fn a_block_is_read_the_same_however_it_is_cut() {
        let wire = sample();
        for step in [1, 2, 3, 7, 19, 64, wire.len()] {
            let (mut inbound, mut log) = (Inbound::default(), Log::default());
            for mut part in wire.chunks(step) {
                inbound.fill(&mut part).unwrap();
                inbound.drain(&mut log).unwrap();
            }
            check(&log);
        }
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let wire = sample();
        for at in 0..wire.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = wire.clone();
                damaged[at] ^= flip;
                let mut inbound = Inbound::default();
                inbound.fill(&mut damaged.as_slice()).unwrap();
                let _ = inbound.drain(&mut Log::default());
            }
        }
    }

    #[test]
    fn s4_2_3_wrong_frame_end_is_an_error() {
        let mut wire = sample();
        let last = wire.len() - 1;
        wire[last] = 0;
        let mut inbound = Inbound::default();
        inbound.fill(&mut wire.as_slice()).unwrap();
        assert!(inbound.drain(&mut Log::default()).is_err());
    }

    #[test]
    fn consumer_tags_are_numbers_of_fixed_width() {
        for index in [0, 9, 255, 65_535] {
            let tag = consumer_tag(index);
            assert_eq!(tag.len(), CONSUMER_TAG_BYTES);
            assert_eq!(consumer_number(tag.as_bytes()), Some(index as u32));
        }
        assert_eq!(consumer_number(b"00zz"), None);
    }
}
