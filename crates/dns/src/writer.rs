//! Answers as octets, never longer than the client takes.

use crate::name::NAME_BYTES_MAX;

/// What every client takes over UDP. RFC 1035 §2.3.4.
pub const UDP_BYTES_DEFAULT: usize = 512;

/// The most that is sent over UDP, whatever the client says that it takes.
pub const UDP_BYTES_MAX: usize = 4096;

/// The most that fits the length before a message over TCP.
pub const TCP_BYTES_MAX: usize = 65_535;

/// What a pointer can reach.
const POINTER_MAX: usize = 0x3fff;

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The answer.
    Answer,
    /// Who has the say.
    Authority,
    /// What will be asked next.
    Additional,
}

/// The name that a record belongs to.
#[derive(Clone, Copy, Debug)]
pub enum OwnerName<'a> {
    /// A name that stands in the message already.
    At(usize),
    /// Labels as on the wire, with the root label.
    Wire(&'a [u8]),
}

/// Writes an answer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    /// Answer, authority, additional.
    counts: [u16; 3],
}

impl<'a> Writer<'a> {
    /// After the header and the question that are in `out`.
    pub fn new(out: &'a mut Vec<u8>, limit: usize) -> Writer<'a> {
        Writer { out, limit, counts: [0; 3] }
    }

    /// Octets that are left.
    pub fn left(&self) -> usize {
        self.limit.saturating_sub(self.out.len())
    }

    /// Where the next record begins.
    pub fn at(&self) -> usize {
        self.out.len()
    }

    /// Whether there are records in the answer.
    pub fn has_answers(&self) -> bool {
        self.counts[0] > 0
    }

    /// Adds a record of class IN; `data` writes what is in it, or says that this cannot be written. False if it is not
    /// there: it did not fit, or `data` said so.
    pub fn record(
        &mut self,
        section: Section,
        owner: OwnerName<'_>,
        kind: u16,
        ttl_s: u32,
        data: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> bool {
        let start = self.out.len();
        match owner {
            OwnerName::At(offset) if offset <= POINTER_MAX => pointer(self.out, offset),
            OwnerName::At(_) => return false,
            OwnerName::Wire(wire) => self.out.extend_from_slice(wire),
        }
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&1_u16.to_be_bytes());
        self.out.extend_from_slice(&ttl_s.to_be_bytes());
        self.out.extend_from_slice(&[0, 0]);
        let from = self.out.len();
        let written = data(self.out);
        let count = &mut self.counts[section as usize];
        match (u16::try_from(self.out.len() - from), count.checked_add(1)) {
            (Ok(len), Some(more)) if written && self.out.len() <= self.limit => {
                self.out[from - 2..from].copy_from_slice(&len.to_be_bytes());
                *count = more;
                true
            }
            _ => {
                self.out.truncate(start);
                false
            }
        }
    }

    /// Makes room that was kept back available.
    pub fn release(&mut self, octets: usize) {
        self.limit += octets;
    }

    /// Adds `OPT`, whose fields mean something else than those of other records. RFC 6891 §6.1.2.
    pub fn opt(&mut self, extended_rcode: u8, options: &[u8]) {
        self.out.extend_from_slice(&[0, 0, 41]);
        // The largest query that is taken; this is no limit of ours on answers.
        self.out.extend_from_slice(&(UDP_BYTES_MAX as u16).to_be_bytes());
        self.out.extend_from_slice(&[extended_rcode, 0, 0, 0]);
        self.out.extend_from_slice(&(options.len() as u16).to_be_bytes());
        self.out.extend_from_slice(options);
        self.counts[2] = self.counts[2].saturating_add(1);
    }

    /// Notes the counts in the header.
    pub fn finish(self) {
        for (i, count) in self.counts.iter().enumerate() {
            self.out[6 + 2 * i..8 + 2 * i].copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// Writes a pointer to what stands at `offset`.
pub fn pointer(out: &mut Vec<u8>, offset: usize) {
    debug_assert!(offset <= POINTER_MAX);
    out.extend_from_slice(&(0xc000 | offset as u16).to_be_bytes());
}

/// Writes a label. False, and nothing is written, if it is none.
pub fn label(out: &mut Vec<u8>, text: &[u8]) -> bool {
    match u8::try_from(text.len()) {
        Ok(len @ 1..=63) => {
            out.push(len);
            out.extend_from_slice(text);
            true
        }
        _ => false,
    }
}

/// Writes labels that are separated by dots. False if they are none; then a part may be written.
pub fn labels(out: &mut Vec<u8>, dotted: &str) -> bool {
    let from = out.len();
    let dotted = dotted.strip_suffix('.').unwrap_or(dotted);
    dotted.split('.').all(|text| label(out, text.as_bytes())) && out.len() - from < NAME_BYTES_MAX
}

/// A name as on the wire, with the root label.
pub fn wire(dotted: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    labels(&mut out, dotted).then(|| {
        out.push(0);
        out
    })
}

/// Writes a text in strings of at most 255 octets. RFC 1035 §3.3.14.
pub fn strings(out: &mut Vec<u8>, text: &[u8]) {
    if text.is_empty() {
        out.push(0);
    }
    for chunk in text.chunks(255) {
        out.push(chunk.len() as u8);
        out.extend_from_slice(chunk);
    }
}
