//! The chunk table of a frame: which messages of which queues lie in which chunk, and what they are. Footers repeat it,
//! and recovery reads it instead of the messages: so it is compact, each run and target by its difference to the one
//! before in the same table.
//!
//! ```text
//! routes | chunks | a checksum (u32) per chunk
//! route:  length of exchange, twice, plus 1 with an address | exchange | routing key | address
//! chunk:  length | entries | number of runs | runs | number of targets | targets; begins where the last ends, aligned
//! run:    head u8 | count | route | flags u8, priority u8, expiration | time | bytes; each part only if the head says so
//! target: head u8 | queue | first place | entry | count; the last two only if the head says so
//! ```

use std::ops::Range;
use std::sync::Arc;

use waypost_model::{AttrFlags, Attrs, Millis, QueueId, Route, Seq};

use crate::chunk::CHUNK_ENTRIES_MAX;
use crate::frame::{ALIGN, FRAME_HEADER, align};
use crate::wire::{Malformed, Reader, put_bytes, put_signed, put_u32, put_varint};

/// A run's head: its count is there, else it is 1.
const RUN_COUNT: u8 = 1;
/// The route is there; else it is the last run's, or with [`RUN_ROUTE_NEXT`] the one behind that.
const RUN_ROUTE: u8 = 2;
const RUN_ROUTE_NEXT: u8 = 4;
/// Attributes, time: there, or as in the last run.
const RUN_ATTRS: u8 = 8;
const RUN_TIME: u8 = 16;
/// The bytes are there; else each message has as many as each of the last uniform run.
const RUN_BYTES: u8 = 32;
const RUN_UNIFORM: u8 = 64;
const RUN_KNOWN: u8 = 127;

/// A target's head: count and entry are the last one's. Of neither this nor [`TARGET_ENTRY`]: it begins behind the last.
const TARGET_SAME: u8 = 1;
const TARGET_ENTRY: u8 = 2;
/// The count is there, else it is 1.
const TARGET_COUNT: u8 = 4;
const TARGET_KNOWN: u8 = 7;

/// Messages of a chunk that belong to one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub queue: QueueId,
    pub first: Seq,
    /// Which of the chunk's messages has the place `first`.
    pub entry: u32,
    /// How many; at least 1.
    pub count: u32,
}

/// Messages of a chunk with equal facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How many; at least 1.
    pub count: u32,
    /// Index into the table's routes.
    pub route: u32,
    pub attrs: Attrs,
    pub at: Millis,
    /// Bytes of properties and bodies.
    pub payload: u64,
    /// Whether all have the same length.
    pub uniform: bool,
}

/// A chunk, as the table tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// From the beginning of the frame's chunks, bytes.
    pub at: u64,
    pub len: u32,
    pub crc: u32,
    pub entries: u32,
    /// How many messages in queues it holds: one that went to two queues counts twice.
    pub shares: u32,
    runs: Range<usize>,
    targets: Range<usize>,
}

/// What a frame's messages take in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of its chunks, without what fills up to the next one's beginning.
    pub chunks: u64,
    /// Bytes of everything but operations: chunks, header, and the chunk table, which the footer repeats.
    pub all: u64,
}

impl Extent {
    /// Of a frame with a chunk table of `table` bytes and chunks of these lengths.
    pub fn of(table: usize, chunks: impl Iterator<Item = u32>) -> Extent {
        let (chunks, filled) = chunks.fold((0, 0), |(n, filled), len| (n + u64::from(len), filled + align(len.into())));
        Extent { chunks, all: FRAME_HEADER as u64 + 2 * table as u64 + filled }
    }
}

/// Writes a route.
pub fn put_route(out: &mut Vec<u8>, route: &Route) {
    put_varint(out, (route.exchange.len() as u64) << 1 | u64::from(route.address.is_some()));
    out.extend_from_slice(route.exchange.as_bytes());
    put_bytes(out, &route.routing_key);
    if let Some(address) = &route.address {
        put_bytes(out, address);
    }
}

/// Splits a route off; what it returns beside the exchange: routing key and address.
type RawRoute<'a> = (&'a str, &'a [u8], Option<&'a [u8]>);

fn read_route<'a>(r: &mut Reader<'a>) -> Result<RawRoute<'a>, Malformed> {
    let head = r.varint()?;
    let len = usize::try_from(head >> 1).map_err(|_| Malformed("route: length"))?;
    let exchange = std::str::from_utf8(r.take(len)?).map_err(|_| Malformed("route: no UTF-8"))?;
    let key = r.bytes()?;
    let address = if head & 1 != 0 { Some(r.bytes()?) } else { None };
    Ok((exchange, key, address))
}

/// The route that these bytes of a table are.
///
/// # Errors
/// [`Malformed`].
pub fn decode_route(bytes: &[u8]) -> Result<Route, Malformed> {
    let (exchange, key, address) = read_route(&mut Reader::new(bytes))?;
    Ok(Route { exchange: exchange.into(), routing_key: key.into(), address: address.map(Arc::from) })
}

/// The run, and the bytes of each message of the last uniform one, that the next run is compared with.
#[derive(Clone, Copy)]
struct LastRun {
    run: Run,
    each: u64,
}

impl Default for LastRun {
    fn default() -> LastRun {
        // The first run's route is the first one, and so "the next".
        let (route, attrs, at) = (u32::MAX, Attrs::default(), Millis(0));
        LastRun { run: Run { count: 0, route, attrs, at, payload: 0, uniform: false }, each: 0 }
    }
}

impl LastRun {
    fn note(&mut self, run: &Run) {
        self.run = *run;
        if run.uniform && run.count > 0 {
            self.each = run.payload / u64::from(run.count);
        }
    }

    /// Bytes of a uniform run of so many messages as long as those of the last one.
    fn payload(&self, count: u32) -> Option<u64> {
        self.each.checked_mul(u64::from(count))
    }
}

/// Writes the chunks of a table.
#[derive(Default)]
pub struct TableWriter {
    run: LastRun,
    target: Option<Target>,
    queue: u64,
}

impl TableWriter {
    /// Begins a chunk; its runs follow.
    pub fn begin(&mut self, out: &mut Vec<u8>, len: u32, entries: u32, runs: usize) {
        self.target = None;
        put_varint(out, u64::from(len));
        put_varint(out, u64::from(entries));
        put_varint(out, runs as u64);
    }

    pub fn put_run(&mut self, out: &mut Vec<u8>, run: &Run) {
        let last = &self.run;
        let given = |is_given: bool, bit: u8| if is_given { bit } else { 0 };
        let is_next = run.route == last.run.route.wrapping_add(1);
        let has_route = run.route != last.run.route && !is_next;
        let head = given(run.count != 1, RUN_COUNT)
            | given(has_route, RUN_ROUTE)
            | given(is_next, RUN_ROUTE_NEXT)
            | given(run.attrs != last.run.attrs, RUN_ATTRS)
            | given(run.at != last.run.at, RUN_TIME)
            | given(!run.uniform || last.payload(run.count) != Some(run.payload), RUN_BYTES)
            | given(run.uniform, RUN_UNIFORM);
        out.push(head);
        if head & RUN_COUNT != 0 {
            put_varint(out, u64::from(run.count));
        }
        if has_route {
            put_varint(out, u64::from(run.route));
        }
        if head & RUN_ATTRS != 0 {
            out.extend_from_slice(&[run.attrs.flags.0, run.attrs.priority]);
            put_varint(out, run.attrs.expiration.map_or(0, |e| u64::from(e) + 1));
        }
        if head & RUN_TIME != 0 {
            put_signed(out, run.at.0.wrapping_sub(last.run.at.0) as i64);
        }
        if head & RUN_BYTES != 0 {
            put_varint(out, run.payload);
        }
        self.run.note(run);
    }

    /// Ends the runs of a chunk; its targets follow.
    pub fn put_targets(&mut self, out: &mut Vec<u8>, targets: usize) {
        put_varint(out, targets as u64);
    }

    pub fn put_target(&mut self, out: &mut Vec<u8>, t: &Target) {
        let (entry, count) = self.target.map_or((0, 0), |last| (last.entry, last.count));
        let same = (entry, count) == (t.entry, t.count);
        let mut head = if same { TARGET_SAME } else { 0 };
        if !same && t.entry != entry + count {
            head |= TARGET_ENTRY;
        }
        if !same && t.count != 1 {
            head |= TARGET_COUNT;
        }
        out.push(head);
        put_signed(out, t.queue.0.wrapping_sub(self.queue) as i64);
        put_varint(out, t.first.0);
        if head & TARGET_ENTRY != 0 {
            put_varint(out, u64::from(t.entry));
        }
        if head & TARGET_COUNT != 0 {
            put_varint(out, u64::from(t.count));
        }
        self.queue = t.queue.0;
        self.target = Some(*t);
    }
}

/// A frame's routes and chunks. Read into the same one again and again, it allocates nothing.
#[derive(Default, Debug)]
pub struct ChunkTable {
    /// Where in the table's bytes each route stands; see [`decode_route`].
    pub routes: Vec<Range<usize>>,
    pub chunks: Vec<ChunkEntry>,
    pub extent: Extent,
    runs: Vec<Run>,
    targets: Vec<Target>,
}

impl ChunkTable {
    /// Reads a table. `payload` is the room that the frame has for chunks; without it (footers, whose checksum answers
    /// for it) the places are not compared.
    ///
    /// # Errors
    /// [`Malformed`]; what was read until then is of no use.
    pub fn read(&mut self, bytes: &[u8], payload: Option<u64>) -> Result<(), Malformed> {
        self.routes.clear();
        self.chunks.clear();
        self.runs.clear();
        self.targets.clear();
        self.extent = Extent::default();
        if bytes.is_empty() {
            return Ok(());
        }
        let mut r = Reader::new(bytes);
        for _ in 0..r.count(2)? {
            let from = bytes.len() - r.left();
            read_route(&mut r)?;
            self.routes.push(from..bytes.len() - r.left());
        }
        self.read_chunks(&mut r, payload)?;
        for chunk in &mut self.chunks {
            chunk.crc = r.u32()?;
        }
        self.extent = Extent::of(bytes.len(), self.chunks.iter().map(|c| c.len));
        if r.is_empty() { Ok(()) } else { Err(Malformed("chunk table: bytes left over")) }
    }

    fn read_chunks(&mut self, r: &mut Reader<'_>, payload: Option<u64>) -> Result<(), Malformed> {
        const BEYOND: Malformed = Malformed("chunk: beyond the frame");
        let (mut run, mut queue, mut at) = (LastRun::default(), 0, 0u64);
        for _ in 0..r.count(8)? {
            let (len, entries) = (r.varint_u32()?, r.varint_u32()?);
            if entries > CHUNK_ENTRIES_MAX {
                return Err(Malformed("chunk: too many messages"));
            }
            let runs = self.read_runs(r, entries, &mut run)?;
            let (targets, shares) = self.read_targets(r, entries, &mut queue)?;
            self.chunks.push(ChunkEntry { at, len, crc: 0, entries, shares, runs, targets });
            let end = at.checked_add(u64::from(len)).ok_or(BEYOND)?;
            if payload.is_some_and(|room| end > room) {
                return Err(BEYOND);
            }
            at = end.checked_next_multiple_of(ALIGN).ok_or(BEYOND)?;
        }
        Ok(())
    }

    fn read_runs(&mut self, r: &mut Reader<'_>, entries: u32, last: &mut LastRun) -> Result<Range<usize>, Malformed> {
        let from = self.runs.len();
        let mut left = entries;
        for _ in 0..r.count(1)? {
            let run = read_run(r, last)?;
            left = left.checked_sub(run.count).ok_or(Malformed("chunk: runs beyond its messages"))?;
            if run.route as usize >= self.routes.len() {
                return Err(Malformed("chunk: unknown route"));
            }
            last.note(&run);
            self.runs.push(run);
        }
        if left == 0 { Ok(from..self.runs.len()) } else { Err(Malformed("chunk: messages without a run")) }
    }

    fn read_targets(
        &mut self,
        r: &mut Reader<'_>,
        entries: u32,
        queue: &mut u64,
    ) -> Result<(Range<usize>, u32), Malformed> {
        let from = self.targets.len();
        let (mut last, mut shares) = ((0, 0), 0u32);
        for _ in 0..r.count(3)? {
            let t = read_target(r, last, queue)?;
            if u64::from(t.entry) + u64::from(t.count) > u64::from(entries) || t.count == 0 {
                return Err(Malformed("chunk: target beyond its messages"));
            }
            last = (t.entry, t.count);
            shares = shares.saturating_add(t.count);
            self.targets.push(t);
        }
        Ok((from..self.targets.len(), shares))
    }

    /// The targets of a chunk of this table.
    pub fn targets(&self, chunk: &ChunkEntry) -> &[Target] {
        &self.targets[chunk.targets.clone()]
    }

    /// Calls back with each part of a chunk of this table that is of one target and of one run: with the messages of the
    /// chunk that it is.
    pub fn parts(&self, chunk: &ChunkEntry, mut f: impl FnMut(&Target, &Run, Range<u32>)) {
        let runs = &self.runs[chunk.runs.clone()];
        // The run that the last target began in, and its first message: targets mostly come in that order.
        let (mut run, mut start) = (0, 0);
        for t in self.targets(chunk) {
            if t.entry < start {
                (run, start) = (0, 0);
            }
            while start + runs[run].count <= t.entry {
                start += runs[run].count;
                run += 1;
            }
            let (mut at, end, mut run_start) = (t.entry, t.entry + t.count, start);
            for r in &runs[run..] {
                if at >= end {
                    break;
                }
                run_start += r.count;
                let stop = end.min(run_start);
                f(t, r, at..stop);
                at = stop;
            }
        }
    }
}

fn read_run(r: &mut Reader<'_>, last: &LastRun) -> Result<Run, Malformed> {
    let head = r.u8()?;
    if head & !RUN_KNOWN != 0 {
        return Err(Malformed("run: unknown kind"));
    }
    let count = if head & RUN_COUNT != 0 { r.varint_u32()? } else { 1 };
    let route = match () {
        () if head & RUN_ROUTE != 0 => r.varint_u32()?,
        () if head & RUN_ROUTE_NEXT != 0 => last.run.route.wrapping_add(1),
        () => last.run.route,
    };
    let attrs = if head & RUN_ATTRS != 0 { read_attrs(r)? } else { last.run.attrs };
    let at = if head & RUN_TIME != 0 { last.run.at.0.wrapping_add(r.signed()? as u64) } else { last.run.at.0 };
    let payload = if head & RUN_BYTES != 0 { Some(r.varint()?) } else { last.payload(count) };
    let payload = payload.ok_or(Malformed("run: bytes"))?;
    if count == 0 {
        return Err(Malformed("run: no messages"));
    }
    Ok(Run { count, route, attrs, at: Millis(at), payload, uniform: head & RUN_UNIFORM != 0 })
}

fn read_attrs(r: &mut Reader<'_>) -> Result<Attrs, Malformed> {
    let [flags, priority] = r.array()?;
    let expiration = match r.varint()? {
        0 => None,
        e => Some(u32::try_from(e - 1).map_err(|_| Malformed("run: expiration"))?),
    };
    Ok(Attrs { flags: AttrFlags(flags), priority, expiration })
}

fn read_target(r: &mut Reader<'_>, last: (u32, u32), queue: &mut u64) -> Result<Target, Malformed> {
    let head = r.u8()?;
    if head & !TARGET_KNOWN != 0 {
        return Err(Malformed("target: unknown kind"));
    }
    *queue = queue.wrapping_add(r.signed()? as u64);
    let first = r.varint()?;
    let (entry, count) = match head & TARGET_SAME {
        0 => {
            // Not beyond the entries of a chunk, each of them.
            let entry = if head & TARGET_ENTRY != 0 { r.varint_u32()? } else { last.0 + last.1 };
            (entry, if head & TARGET_COUNT != 0 { r.varint_u32()? } else { 1 })
        }
        _ => last,
    };
    first.checked_add(u64::from(count)).ok_or(Malformed("target: beyond the last place"))?;
    Ok(Target { queue: QueueId(*queue), first: Seq(first), entry, count })
}

/// Writes the checksums' room; they are known last.
pub fn put_checksums(out: &mut Vec<u8>, chunks: usize) -> usize {
    let at = out.len();
    (0..chunks).for_each(|_| put_u32(out, 0));
    at
}

#[cfg(test)]
mod tests;
