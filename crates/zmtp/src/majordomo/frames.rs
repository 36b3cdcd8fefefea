//! The frames of MDP 0.1 and 0.2.

use super::{Dialect, Tag};
use crate::wire::frame::{self, Frame, MORE};

const READY: u8 = 1;
const REQUEST: u8 = 2;
/// In 0.1 a reply is whole; in 0.2 it is a part.
const REPLY_OR_PARTIAL: u8 = 3;

impl Dialect {
    const fn client(self) -> &'static [u8] {
        match self {
            Self::V01 => b"MDPC01",
            Self::V02 => b"MDPC02",
        }
    }

    const fn worker(self) -> &'static [u8] {
        match self {
            Self::V01 => b"MDPW01",
            Self::V02 => b"MDPW02",
        }
    }

    const fn heartbeat(self) -> u8 {
        match self {
            Self::V01 => 4,
            Self::V02 => 5,
        }
    }

    const fn disconnect(self) -> u8 {
        match self {
            Self::V01 => 5,
            Self::V02 => 6,
        }
    }
}

/// A message that is not as the protocol has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

/// What a peer said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    Client { dialect: Dialect, delimited: bool, service: &'a [u8], body: Body },
    Worker { dialect: Dialect, command: Command<'a> },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    Ready { service: &'a [u8] },
    Reply { client: &'a [u8], body: Body, last: bool },
    Heartbeat,
    Disconnect,
}

/// The frames of a request or an answer; perhaps none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body(
    /// As on the wire, every frame with MORE set: what follows decides whether it does.
    Vec<u8>,
);

impl Body {
    /// A body of these frames.
    pub fn of<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Body {
        let mut body = Body::default();
        frames.into_iter().for_each(|f| frame::put_frame(&mut body.0, MORE, f));
        body
    }

    /// Its frames.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        frame::frames(&self.0).map(|f| f.body)
    }

    /// Its frame, if there is exactly one.
    #[must_use]
    pub fn only(&self) -> Option<&[u8]> {
        let mut all = self.frames();
        all.next().filter(|_| all.next().is_none())
    }

    /// Octets, headers of frames included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the frames of another one.
    pub(super) fn append(&mut self, mut other: Body) {
        if self.is_empty() {
            *self = other;
        } else {
            self.0.append(&mut other.0);
        }
    }
}

/// Understands a message. The leading empty frame of 0.1 may be there or not, in either dialect: REQ sockets send it.
pub(super) fn parse(message: &[u8]) -> Result<Said<'_>, Violation> {
    let mut all = frame::frames(message).map(|f: Frame<'_>| f.body);
    let mut first = all.next().ok_or(Violation("no frame"))?;
    let delimited = first.is_empty();
    if delimited {
        first = all.next().ok_or(Violation("nothing behind the empty frame"))?;
    }
    for dialect in [Dialect::V01, Dialect::V02] {
        if first == dialect.client() {
            if dialect == Dialect::V02 && all.next() != Some(&[1]) {
                return Err(Violation("not a request"));
            }
            let service = all.next().ok_or(Violation("no service"))?;
            return Ok(Said::Client { dialect, delimited, service, body: Body::of(all) });
        }
        if first == dialect.worker() {
            return Ok(Said::Worker { dialect, command: command(dialect, &mut all)? });
        }
    }
    Err(Violation("neither client nor worker"))
}

fn command<'a>(dialect: Dialect, all: &mut impl Iterator<Item = &'a [u8]>) -> Result<Command<'a>, Violation> {
    let &[code] = all.next().unwrap_or_default() else { return Err(Violation("no command")) };
    match code {
        READY => Ok(Command::Ready { service: all.next().ok_or(Violation("no service"))? }),
        code if code == dialect.heartbeat() => Ok(Command::Heartbeat),
        code if code == dialect.disconnect() => Ok(Command::Disconnect),
        3 | 4 => {
            let client = all.next().ok_or(Violation("no address"))?;
            if all.next() != Some(&[]) {
                return Err(Violation("no empty frame behind the address"));
            }
            let last = dialect == Dialect::V01 || code != REPLY_OR_PARTIAL;
            Ok(Command::Reply { client, body: Body::of(all), last })
        }
        _ => Err(Violation("unknown command")),
    }
}

/// A request for a worker. The client's address is our tag: workers only give it back.
pub(super) fn request(dialect: Dialect, tag: Tag, body: &Body) -> Vec<u8> {
    let address = tag.0.to_be_bytes();
    to_worker(dialect, REQUEST, [&address[..], &[]].into_iter().chain(body.frames()))
}

pub(super) fn heartbeat(dialect: Dialect) -> Vec<u8> {
    to_worker(dialect, dialect.heartbeat(), [])
}

pub(super) fn disconnect(dialect: Dialect) -> Vec<u8> {
    to_worker(dialect, dialect.disconnect(), [])
}

fn to_worker<'a>(dialect: Dialect, code: u8, rest: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (code, mut out) = ([code], Vec::new());
    let mut all: Vec<&[u8]> = Vec::new();
    if dialect == Dialect::V01 {
        all.push(&[]);
    }
    all.extend([dialect.worker(), &code]);
    rest.into_iter().for_each(|f| all.push(f));
    frame::put_message(&mut out, all);
    out
}

/// An answer for a client.
pub(super) fn answer(dialect: Dialect, delimited: bool, service: &[u8], body: &Body, last: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + service.len() + 24);
    let code: &[u8] = if last { &[3] } else { &[2] };
    let delimiter = delimited.then_some(&b""[..]);
    let code = (dialect == Dialect::V02).then_some(code);
    let head = delimiter.into_iter().chain([dialect.client()]).chain(code).chain([service]);
    let all: Vec<&[u8]> = head.chain(body.frames()).collect();
    frame::put_message(&mut out, all);
    out
}
