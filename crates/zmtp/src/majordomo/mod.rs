//! Majordomo's broker: MDP 0.1 (RFC 7), MDP 0.2 (RFC 18) and MMI (RFC 8), as a session on a bound ROUTER.
//!
//! Who a peer is shows its first message: `MDPC01`, `MDPC02` a client, `MDPW01`, `MDPW02` a worker. The session turns what
//! peers say into [`Intent`]s and is told by its driver, which knows services and their mailboxes, whom to hand a request
//! to ([`Session::assign`]) and what to answer ([`Session::answer`]). A worker has one service and one request at a time.

mod frames;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use waypost_model::Millis;

use crate::pattern::{PeerId, Queues};
use crate::wire::chunk::Chunk;
use frames::{Command, Said, Violation, parse};

pub use frames::Body;

/// Requests that a client may have under way before it is no longer read.
pub const CLIENT_REQUESTS_MAX: usize = 1024;
/// Octets of partial replies that are gathered for a client that knows only whole ones.
pub const GATHERED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// RFC 7.
    V01,
    /// RFC 18.
    V02,
}

/// A client's request, from its coming until its last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// The driver's name for what it handed to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// What a peer wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// A worker serves a service, and has room for a request.
    Ready {
        /// The worker.
        worker: PeerId,
        /// The service's name: 1 to 63 of `a-z`, `0-9` and `-`.
        service: Box<str>,
    },
    /// A client asks a service.
    Request {
        /// To be answered under this number.
        id: RequestId,
        /// The service's name.
        service: Box<str>,
        /// What it asks.
        body: Body,
    },
    /// A client asks whether a service is there (`mmi.service`): to be answered by [`Session::answer_status`].
    Lookup {
        /// To be answered under this number.
        id: RequestId,
        /// The service's name, as it came.
        service: Box<str>,
    },
    /// A worker answers.
    Reply {
        /// The worker.
        worker: PeerId,
        /// What it was given.
        tag: Tag,
        /// The answer.
        body: Body,
        /// Whether it is the last: the worker has room for another request then.
        last: bool,
    },
    /// A worker is alive.
    Alive {
        /// The worker.
        worker: PeerId,
    },
    /// A worker serves no more. What it was given and has not answered goes to another.
    Gone {
        /// The worker.
        worker: PeerId,
        /// What it had not answered.
        tag: Option<Tag>,
    },
}

/// How the broker and its workers look after each other. Both sides must agree on the interval out of band.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between heartbeats, ms.
    pub heartbeat_ms: u64,
    /// Intervals of silence after which a worker is given up.
    pub liveness: u64,
}

impl Default for Pace {
    /// 2.5 s and 4, as in the Guide's examples.
    fn default() -> Pace {
        Pace { heartbeat_ms: 2500, liveness: 4 }
    }
}

/// All peers of a broker.
#[derive(Debug)]
pub struct Session {
    pace: Pace,
    workers: BTreeMap<PeerId, Worker>,
    clients: BTreeMap<PeerId, usize>,
    requests: BTreeMap<RequestId, Request>,
    next: u64,
    /// Messages that broke the protocol.
    pub violations: u64,
    /// Answers whose client was gone or whose queue was full.
    pub undelivered: u64,
}

#[derive(Debug)]
struct Worker {
    dialect: Dialect,
    /// What it was given.
    tag: Option<Tag>,
    heard: Millis,
    beat_at: Millis,
}

#[derive(Debug)]
struct Request {
    client: PeerId,
    dialect: Dialect,
    /// Whether the client puts an empty frame before its messages: REQ sockets do, in either dialect.
    delimited: bool,
    /// As the client wrote it.
    service: Box<[u8]>,
    /// Partial answers for a client that knows none.
    gathered: Body,
}

impl Session {
    /// A broker without peers.
    #[must_use]
    pub fn new(pace: Pace) -> Session {
        Session {
            pace,
            workers: BTreeMap::new(),
            clients: BTreeMap::new(),
            requests: BTreeMap::new(),
            next: 0,
            violations: 0,
            undelivered: 0,
        }
    }

    /// Messages of a peer.
    pub fn receive(
        &mut self,
        peer: PeerId,
        chunk: &Chunk,
        now: Millis,
        queues: &mut impl Queues,
        out: &mut Vec<Intent>,
    ) {
        for message in chunk.each() {
            let done = parse(message).and_then(|said| self.handle(peer, said, now, queues, out));
            if done.is_err() {
                self.violations += 1;
                // RFC 7 and 18: a worker that breaks the protocol is told to start again.
                self.dismiss(peer, queues, out);
            }
        }
    }

    fn handle(
        &mut self,
        peer: PeerId,
        said: Said<'_>,
        now: Millis,
        queues: &mut impl Queues,
        out: &mut Vec<Intent>,
    ) -> Result<(), Violation> {
        match said {
            Said::Client { dialect, delimited, service, body } => {
                if self.workers.contains_key(&peer) {
                    return Err(Violation("a worker asks as a client"));
                }
                self.request(peer, dialect, delimited, service, body, queues, out);
                Ok(())
            }
            Said::Worker { dialect, command } => self.worker(peer, dialect, command, now, out),
        }
    }

    fn request(
        &mut self,
        client: PeerId,
        dialect: Dialect,
        delimited: bool,
        service: &[u8],
        body: Body,
        queues: &mut impl Queues,
        out: &mut Vec<Intent>,
    ) {
        self.next += 1;
        let id = RequestId(self.next);
        let request = Request { client, dialect, delimited, service: service.into(), gathered: Body::default() };
        self.requests.insert(id, request);
        *self.clients.entry(client).or_default() += 1;
        if service.starts_with(b"mmi.") {
            match body.only() {
                Some(name) if service == b"mmi.service" => {
                    out.push(Intent::Lookup { id, service: String::from_utf8_lossy(name).into() });
                }
                _ => self.answer_status(id, 501, queues),
            }
        } else if let Some(service) = name(service) {
            out.push(Intent::Request { id, service, body });
        } else {
            // Nobody can ever serve it, and the protocol has no way to say so.
            self.violations += 1;
            self.forget(id);
        }
    }

    fn worker(
        &mut self,
        peer: PeerId,
        dialect: Dialect,
        command: Command<'_>,
        now: Millis,
        out: &mut Vec<Intent>,
    ) -> Result<(), Violation> {
        let pace = self.pace;
        if let Command::Ready { service } = command {
            if self.workers.contains_key(&peer) {
                return Err(Violation("ready twice"));
            }
            // `mmi.` is not for workers, and no valid name anyway.
            let service = name(service).ok_or(Violation("no service's name"))?;
            let worker = Worker { dialect, tag: None, heard: now, beat_at: now.plus(pace.heartbeat_ms) };
            self.workers.insert(peer, worker);
            out.push(Intent::Ready { worker: peer, service });
            return Ok(());
        }
        let Some(worker) = self.workers.get_mut(&peer) else { return Err(Violation("not ready")) };
        if worker.dialect != dialect {
            return Err(Violation("two dialects"));
        }
        worker.heard = now;
        match command {
            Command::Ready { .. } => {}
            Command::Heartbeat => out.push(Intent::Alive { worker: peer }),
            Command::Disconnect => {
                let tag = worker.tag;
                self.workers.remove(&peer);
                out.push(Intent::Gone { worker: peer, tag });
            }
            Command::Reply { client, body, last } => {
                let tag = worker.tag.filter(|tag| client == tag.0.to_be_bytes());
                let tag = tag.ok_or(Violation("an answer to nothing"))?;
                if last {
                    worker.tag = None;
                }
                out.push(Intent::Reply { worker: peer, tag, body, last });
            }
        }
        Ok(())
    }

    /// Hands a request to a worker that has room. False if it has none, or is gone.
    pub fn assign(&mut self, worker: PeerId, tag: Tag, body: &Body, now: Millis, queues: &mut impl Queues) -> bool {
        let heartbeat_ms = self.pace.heartbeat_ms;
        let Some(state) = self.workers.get_mut(&worker).filter(|w| w.tag.is_none()) else { return false };
        if queues.room(worker) == 0 {
            return false;
        }
        let wire = frames::request(state.dialect, tag, body);
        state.tag = Some(tag);
        // Whatever we say is a sign of life.
        state.beat_at = now.plus(heartbeat_ms);
        queues.push_copy(worker, &wire, 1);
        true
    }

    /// Answers a client. Unknown numbers, and clients that are gone, are passed over.
    pub fn answer(&mut self, id: RequestId, body: Body, last: bool, queues: &mut impl Queues) {
        let Some(request) = self.requests.get_mut(&id) else {
            self.undelivered += 1;
            return;
        };
        if request.dialect == Dialect::V01 && !last {
            // RFC 7 knows whole answers only.
            if request.gathered.len() + body.len() <= GATHERED_BYTES_MAX {
                request.gathered.append(body);
            }
            return;
        }
        let mut whole = std::mem::take(&mut request.gathered);
        whole.append(body);
        let wire = frames::answer(request.dialect, request.delimited, &request.service, &whole, last);
        if queues.room(request.client) > 0 {
            queues.push_copy(request.client, &wire, 1);
        } else {
            self.undelivered += 1;
        }
        if last {
            self.forget(id);
        }
    }

    /// Answers an MMI request with a code of RFC 8: 200, 404, 501.
    pub fn answer_status(&mut self, id: RequestId, code: u16, queues: &mut impl Queues) {
        self.answer(id, Body::of([code.to_string().as_bytes()]), true, queues);
    }

    /// Nothing will come for a request any more: it expired, or nobody serves it.
    pub fn forget(&mut self, id: RequestId) {
        if let Some(request) = self.requests.remove(&id)
            && let Some(count) = self.clients.get_mut(&request.client)
        {
            *count = count.saturating_sub(1);
        }
    }

    /// A peer's connection is gone. Its requests go on, unheard; what it had as a worker goes to another.
    pub fn detach(&mut self, peer: PeerId, out: &mut Vec<Intent>) {
        if let Some(worker) = self.workers.remove(&peer) {
            out.push(Intent::Gone { worker: peer, tag: worker.tag });
        }
        if self.clients.remove(&peer).is_some() {
            self.requests.retain(|_, request| request.client != peer);
        }
    }

    /// Whether the peer is to be read: it has not too many requests under way.
    #[must_use]
    pub fn wants(&self, peer: PeerId) -> bool {
        self.clients.get(&peer).is_none_or(|&count| count < CLIENT_REQUESTS_MAX)
    }

    /// Tells a worker that it is one no more, for instance because the server stops.
    pub fn dismiss(&mut self, peer: PeerId, queues: &mut impl Queues, out: &mut Vec<Intent>) {
        let Some(worker) = self.workers.remove(&peer) else { return };
        if queues.room(peer) > 0 {
            queues.push_copy(peer, &frames::disconnect(worker.dialect), 1);
        }
        out.push(Intent::Gone { worker: peer, tag: worker.tag });
    }

    /// When [`Session::tick`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        let silence_ms = self.silence_ms();
        self.workers.values().map(|worker| worker.beat_at.min(worker.heard.plus(silence_ms))).min()
    }

    /// Time has passed: heartbeats are sent, silent workers given up.
    pub fn tick(&mut self, now: Millis, queues: &mut impl Queues, out: &mut Vec<Intent>) {
        let silence_ms = self.silence_ms();
        let silent = |worker: &Worker| worker.heard.plus(silence_ms) <= now;
        let gone: Vec<PeerId> = self.workers.iter().filter(|(_, w)| silent(w)).map(|(&peer, _)| peer).collect();
        gone.into_iter().for_each(|peer| self.dismiss(peer, queues, out));
        for (&peer, worker) in &mut self.workers {
            if worker.beat_at <= now {
                worker.beat_at = now.plus(self.pace.heartbeat_ms);
                if queues.room(peer) > 0 {
                    queues.push_copy(peer, &frames::heartbeat(worker.dialect), 1);
                }
            }
        }
    }

    fn silence_ms(&self) -> u64 {
        self.pace.heartbeat_ms.saturating_mul(self.pace.liveness)
    }
}

/// A valid service name.
fn name(bytes: &[u8]) -> Option<Box<str>> {
    let fits = (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    fits.then(|| std::str::from_utf8(bytes).ok().map(Into::into)).flatten()
}
