//! Writing: messages are encoded once into a ring; before each write only the checks in their bodies are patched.

use super::fault::Fault;
use super::inbound::BODY_HEAD_BYTES;
use super::wire::{
    BASIC_PUBLISH, FRAME_BODY, FRAME_HEADER, FRAME_OVERHEAD_BYTES, put_frame, put_method, put_short, put_table,
};
use std::ops::Range;

/// Sequence numbers take the low bits of the first word of a body, the stream the others.
const SEQUENCE_BITS: u32 = 40;
/// Streams that fit the first word of a body.
pub const STREAMS_MAX: usize = 1 << (64 - SEQUENCE_BITS);

/// What the generator writes into the first 16 octets of a body and reads back at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which publisher sent it where: order is promised within a stream.
    pub stream: usize,
    /// Position in the stream, from 0.
    pub sequence: u64,
    /// When it was sent, nanoseconds since the run's epoch.
    pub sent_ns: u64,
}

impl Stamp {
    fn put(self, body: &mut [u8; BODY_HEAD_BYTES]) {
        let word = (self.stream as u64) << SEQUENCE_BITS | self.sequence;
        body[..8].copy_from_slice(&word.to_be_bytes());
        body[8..].copy_from_slice(&self.sent_ns.to_be_bytes());
    }

    /// Reads the stamp at the front of a body.
    #[inline]
    pub fn read(body: &[u8; BODY_HEAD_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, time @ ..] = *body;
        let word = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        Self {
            stream: usize::try_from(word >> SEQUENCE_BITS).unwrap_or(usize::MAX),
            sequence: word & ((1 << SEQUENCE_BITS) - 1),
            sent_ns: u64::from_be_bytes(time),
        }
    }
}

/// Where a publisher's next message goes.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// Exchange, empty for the default one.
    pub exchange: String,
    /// Routing key.
    pub key: String,
    /// The stream it belongs to.
    pub stream: usize,
    /// Each message has a key of its own, in the headers that Waypost's service exchange reads.
    pub keyed: bool,
}

/// What every message looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Octets of a body.
    pub body_bytes: usize,
    /// Delivery mode 2 rather than none.
    pub persistent: bool,
    /// Whether to set the properties that real applications set.
    pub properties: Properties,
    /// The publish flag: unroutable messages come back.
    pub mandatory: bool,
    /// The negotiated frame size, overhead included.
    pub frame_bytes_max: usize,
}

/// Which properties a message carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Properties {
    /// None, or the delivery mode alone with `--persistent`
    #[default]
    None,
    /// Content type, three headers, correlation id, message id, timestamp, type and app id
    Typical,
}

/// Encoded messages, sent round and round.
#[derive(Debug)]
pub struct Ring {
    bytes: Vec<u8>,
    /// Per message: where its body starts and where it ends in `bytes`, and the index of its stream.
    slots: Vec<Slot>,
    /// Per stream of this publisher: its number and its next sequence.
    streams: Vec<(usize, u64)>,
    stamped: bool,
    next: usize,
    last_key: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    body: usize,
    end: usize,
    stream: usize,
    /// Where the digits of its key are.
    key: Option<usize>,
}

/// Digits of a message's own key.
const KEY_DIGITS: usize = 16;

impl Ring {
    /// Encodes at least `batch` messages, over all `routes` in turn.
    ///
    /// # Errors
    /// A name that does not fit, and no route at all.
    pub fn new(routes: &[Route], shape: &Shape, batch: usize) -> Result<Self, Fault> {
        if routes.is_empty() {
            return Err(Fault::Usage("a publisher needs somewhere to publish to".to_owned()));
        }
        let mut ring = Self {
            bytes: Vec::new(),
            slots: Vec::new(),
            streams: Vec::new(),
            stamped: shape.body_bytes >= BODY_HEAD_BYTES,
            next: 0,
            last_key: 0,
        };
        let (plain, keyed) = (Content::new(shape, false)?, Content::new(shape, true)?);
        for route in routes.iter().cycle().take(batch.max(1).next_multiple_of(routes.len())) {
            ring.push(route, shape, if route.keyed { &keyed } else { &plain })?;
        }
        Ok(ring)
    }

    fn push(&mut self, route: &Route, shape: &Shape, content: &Content) -> Result<(), Fault> {
        put_method(&mut self.bytes, 1, BASIC_PUBLISH, |out| {
            out.extend_from_slice(&[0, 0]);
            put_short(out, &route.exchange)?;
            put_short(out, &route.key)?;
            out.push(u8::from(shape.mandatory));
            Ok(())
        })?;
        let body = self.bytes.len() + content.body_at;
        let key = content.key_at.map(|at| self.bytes.len() + at);
        self.bytes.extend_from_slice(&content.frames);
        let stream = match self.streams.iter().position(|(stream, _)| *stream == route.stream) {
            Some(known) => known,
            None => {
                self.streams.push((route.stream, 0));
                self.streams.len() - 1
            }
        };
        self.slots.push(Slot { body, end: self.bytes.len(), stream, key });
        Ok(())
    }

    /// Patches up to `count` messages and returns their place in [`bytes`](Self::bytes) and how many they are: fewer
    /// than asked for at the end of the ring.
    pub fn take(&mut self, count: usize, sent_ns: u64) -> (Range<usize>, usize) {
        let from = self.next;
        let to = (from + count).min(self.slots.len());
        let start = if from == 0 { 0 } else { self.slots[from - 1].end };
        for slot in &self.slots[from..to] {
            let (stream, sequence) = &mut self.streams[slot.stream];
            let stamp = Stamp { stream: *stream, sequence: *sequence, sent_ns };
            *sequence += 1;
            if self.stamped
                && let Some(head) = self.bytes[slot.body..].first_chunk_mut()
            {
                stamp.put(head);
            }
            if let Some(digits) = slot.key.and_then(|at| self.bytes.get_mut(at..at + KEY_DIGITS)) {
                self.last_key += 1;
                put_key(digits, self.last_key);
            }
        }
        self.next = if to == self.slots.len() { 0 } else { to };
        let end = if to == from { start } else { self.slots[to - 1].end };
        (start..end, to - from)
    }

    /// The encoded messages.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many messages of each stream were taken.
    pub fn taken(&self) -> &[(usize, u64)] {
        &self.streams
    }

    /// Octets of the average message on the wire.
    pub fn message_bytes(&self) -> usize {
        self.bytes.len() / self.slots.len().max(1)
    }
}

/// Writes a number in hexadecimal digits, the lowest first: neighbours differ at once.
fn put_key(digits: &mut [u8], number: u64) {
    for (at, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * at) & 15) as usize];
    }
}

/// The header and body frames, the same for every message.
struct Content {
    frames: Vec<u8>,
    body_at: usize,
    /// Where the digits of the key are, for keyed messages.
    key_at: Option<usize>,
}

impl Content {
    fn new(shape: &Shape, keyed: bool) -> Result<Self, Fault> {
        let mut frames = Vec::new();
        put_frame(&mut frames, FRAME_HEADER, 1, |out| {
            out.extend_from_slice(&[0, 60, 0, 0]);
            out.extend_from_slice(&(shape.body_bytes as u64).to_be_bytes());
            if keyed { put_keyed_properties(out, shape) } else { put_properties(out, shape) }
        })?;
        let blank = [b'0'; KEY_DIGITS];
        let key_at = frames.windows(KEY_DIGITS).position(|w| keyed && w == blank);
        let body_at = frames.len() + FRAME_OVERHEAD_BYTES - 1;
        let body: Vec<u8> = (0..shape.body_bytes).map(|at| b"waypost."[at % 8]).collect();
        for part in body.chunks(shape.frame_bytes_max - FRAME_OVERHEAD_BYTES) {
            put_frame(&mut frames, FRAME_BODY, 1, |out| {
                out.extend_from_slice(part);
                Ok(())
            })?;
        }
        Ok(Self { frames, body_at, key_at })
    }
}

/// The headers of a keyed message, its digits yet to be written, and its delivery mode.
fn put_keyed_properties(out: &mut Vec<u8>, shape: &Shape) -> Result<(), Fault> {
    let flags: u16 = 1 << 13 | 1 << 12;
    out.extend_from_slice(&flags.to_be_bytes());
    let headers = serde_json::json!({"x-deliver": "key", "x-key": "0".repeat(KEY_DIGITS)});
    put_table(out, headers.as_object().unwrap_or(&serde_json::Map::new()))?;
    out.push(if shape.persistent { 2 } else { 1 });
    Ok(())
}

/// Property flags and values, in the order of AMQP 0-9-1 §1.8.3 (basic).
fn put_properties(out: &mut Vec<u8>, shape: &Shape) -> Result<(), Fault> {
    let mode = if shape.persistent { 2 } else { 1 };
    match (shape.properties, shape.persistent) {
        (Properties::None, false) => out.extend_from_slice(&[0, 0]),
        (Properties::None, true) => out.extend_from_slice(&[0x10, 0, mode]),
        (Properties::Typical, _) => {
            // content-type, headers, delivery-mode, correlation-id, message-id, timestamp, type, app-id.
            let flags: u16 = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 10 | 1 << 7 | 1 << 6 | 1 << 5 | 1 << 3;
            out.extend_from_slice(&flags.to_be_bytes());
            put_short(out, "application/json")?;
            let headers = serde_json::json!({
                "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                "x-source": "waypost-bench",
                "x-attempt": 1
            });
            put_table(out, headers.as_object().unwrap_or(&serde_json::Map::new()))?;
            out.push(mode);
            put_short(out, "3f1c9b52-7a0e-4f5d-9d57-0c1f9a6e2b11")?;
            put_short(out, "b7e23ec2-9a1f-4f0b-8c5d-2d1e6f3a4b5c")?;
            out.extend_from_slice(&1_700_000_000_u64.to_be_bytes());
            put_short(out, "bench.message")?;
            put_short(out, "waypost-bench")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(body_bytes: usize) -> Shape {
        Shape { body_bytes, persistent: false, properties: Properties::None, mandatory: false, frame_bytes_max: 4096 }
    }

    fn route(key: &str, stream: usize) -> Route {
        Route { key: key.to_owned(), stream, ..Route::default() }
    }

    #[test]
    fn every_keyed_message_has_a_key_of_its_own() {
        let routes = [Route { keyed: true, ..route("s", 0) }, route("s", 1)];
        let mut ring = Ring::new(&routes, &shape(16), 4).unwrap();
        let mut keys = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let (range, taken) = ring.take(4, 0);
            let text = String::from_utf8_lossy(&ring.bytes()[range]).into_owned();
            let found: Vec<_> = text.split("x-keyS").skip(1).map(|rest| rest[4..20].to_owned()).collect();
            assert_eq!((taken, found.len()), (4, 2));
            keys.extend(found);
        }
        assert_eq!(keys.len(), 6);
    }

    /// The stamps of a run of messages, found by their frame sizes.
    fn stamps(mut bytes: &[u8]) -> Vec<Stamp> {
        let mut found = Vec::new();
        while let Some(head) = bytes.first_chunk::<7>() {
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            if head[0] == FRAME_BODY {
                found.push(Stamp::read(bytes[7..].first_chunk().unwrap()));
            }
            bytes = &bytes[7 + size + 1..];
        }
        found
    }

    #[test]
    fn sequences_go_on_over_the_end_of_the_ring() {
        let mut ring = Ring::new(&[route("q", 5)], &shape(16), 3).unwrap();
        let mut seen = Vec::new();
        for count in [2, 2, 3, 1] {
            let (range, taken) = ring.take(count, 77);
            let found = stamps(&ring.bytes()[range]);
            assert_eq!(found.len(), taken);
            seen.extend(found);
        }
        let sequences: Vec<_> = seen.iter().map(|stamp| stamp.sequence).collect();
        assert_eq!(sequences, [0, 1, 2, 3, 4, 5, 6][..sequences.len()]);
        assert!(seen.iter().all(|stamp| stamp.stream == 5 && stamp.sent_ns == 77));
        assert_eq!(ring.taken(), [(5, sequences.len() as u64)]);
    }

    #[test]
    fn each_route_counts_in_its_own_stream() {
        let routes = [route("a", 0), route("b", 1), route("a2", 0)];
        let mut ring = Ring::new(&routes, &shape(16), 2).unwrap();
        let (range, taken) = ring.take(10, 0);
        assert_eq!(taken, 3);
        let found: Vec<_> = stamps(&ring.bytes()[range]).iter().map(|s| (s.stream, s.sequence)).collect();
        assert_eq!(found, [(0, 0), (1, 0), (0, 1)]);
    }

    #[test]
    fn a_large_body_is_split_at_the_frame_size() {
        let mut ring = Ring::new(&[route("q", 1)], &shape(10_000), 1).unwrap();
        let (range, _) = ring.take(1, 0);
        let mut sizes = Vec::new();
        let mut bytes = &ring.bytes()[range];
        while let Some(head) = bytes.first_chunk::<7>() {
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            if head[0] == FRAME_BODY {
                sizes.push(size);
            }
            bytes = &bytes[7 + size + 1..];
        }
        assert_eq!(sizes, [4088, 4088, 1824]);
    }

    #[test]
    fn a_body_too_short_for_a_stamp_is_left_alone() {
        let mut ring = Ring::new(&[route("q", 1)], &shape(3), 1).unwrap();
        let (range, taken) = ring.take(1, u64::MAX);
        assert_eq!(taken, 1);
        assert!(ring.bytes()[range].ends_with(b"way\xce"));
    }

    #[test]
    fn a_stamp_survives_the_wire() {
        let stamp = Stamp { stream: STREAMS_MAX - 1, sequence: (1 << SEQUENCE_BITS) - 1, sent_ns: 42 };
        let mut body = [0; BODY_HEAD_BYTES];
        stamp.put(&mut body);
        assert_eq!(Stamp::read(&body), stamp);
    }
}
