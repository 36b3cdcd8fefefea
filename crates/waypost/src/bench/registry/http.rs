//! As much of HTTP/1.1 as a load generator needs: where an answer ends, and what it says.

use crate::bench::amqp::fault::Fault;
use std::io::Write;

/// Headers that an answer may have.
const HEADERS_MAX: usize = 64;

/// Where an answer stands in what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Where the body begins.
    pub body: usize,
    /// Where the next answer begins.
    pub end: usize,
    /// `X-Consul-Index`, if it is there.
    pub index: Option<u64>,
}

/// Where a body ends.
#[derive(Clone, Copy, Debug)]
enum Length {
    Known(usize),
    Chunked,
}

/// The head of an answer: parsed once, however often the body grows.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    status: u16,
    body: usize,
    length: Length,
    index: Option<u64>,
}

impl Head {
    /// The head at the beginning of `bytes`, if it is there as a whole.
    ///
    /// # Errors
    /// It is none.
    pub fn read(bytes: &[u8]) -> Result<Option<Head>, Fault> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(bytes).map_err(|error| Fault::protocol(format!("no HTTP answer: {error}")))?;
        let httparse::Status::Complete(body) = parsed else { return Ok(None) };
        let mut head = Head { status: response.code.unwrap_or(0), body, length: Length::Known(0), index: None };
        for header in response.headers.iter() {
            let number = || std::str::from_utf8(header.value).ok()?.trim().parse::<u64>().ok();
            if header.name.eq_ignore_ascii_case("content-length") {
                let length = number().and_then(|n| usize::try_from(n).ok());
                head.length = Length::Known(length.ok_or_else(|| Fault::protocol("a length that is no number"))?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                head.length = Length::Chunked;
            } else if header.name.eq_ignore_ascii_case("x-consul-index") {
                head.index = number();
            }
        }
        Ok(Some(head))
    }

    /// The answer, if it is there as a whole.
    ///
    /// # Errors
    /// Chunks that are none.
    pub fn complete(&self, bytes: &[u8]) -> Result<Option<Answer>, Fault> {
        let end = match self.length {
            Length::Known(length) => Some(self.body.saturating_add(length)).filter(|end| *end <= bytes.len()),
            Length::Chunked => chunks_end(bytes, self.body)?,
        };
        Ok(end.map(|end| Answer { status: self.status, body: self.body, end, index: self.index }))
    }
}

/// The last head that was read: most answers have the same, and are recognised by comparison.
#[derive(Debug, Default)]
pub struct Heads {
    bytes: Vec<u8>,
    head: Option<Head>,
}

impl Heads {
    /// As [`Head::read`].
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<Head>, Fault> {
        if let Some(head) = self.head
            && bytes.starts_with(&self.bytes)
        {
            return Ok(Some(head));
        }
        self.head = Head::read(bytes)?;
        self.bytes.clear();
        if let Some(head) = self.head {
            self.bytes.extend_from_slice(bytes.get(..head.body).unwrap_or_default());
        }
        Ok(self.head)
    }
}

fn chunks_end(bytes: &[u8], mut at: usize) -> Result<Option<usize>, Fault> {
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(line) = rest.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let digits = std::str::from_utf8(&rest[..line]).ok().and_then(|line| line.split(';').next());
        let size = digits.and_then(|digits| usize::from_str_radix(digits.trim(), 16).ok());
        let size = size.ok_or_else(|| Fault::protocol("a chunk without a size"))?;
        at = at.saturating_add(line + 2).saturating_add(size).saturating_add(2);
        if at > bytes.len() {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some(at));
        }
    }
}

/// Writes a request.
pub fn request(out: &mut Vec<u8>, method: &str, path: &str, body: &str) {
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nHost: localhost\r\n");
    if method != "GET" {
        // A vector takes everything.
        let _ = write!(out, "Content-Length: {}\r\n", body.len());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body.as_bytes());
}
