//! Many connections on one thread, each with one request under way.

use super::http::{Answer, Head, Heads};
use super::{Goal, Outcome};
use crate::bench::amqp::fault::Fault;
use crate::bench::amqp::ready::{Event, Interest, Ready};
use crate::bench::amqp::usage::allow_sockets;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Octets that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// The largest answer that is taken.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Nothing has moved for so long: the server is given up.
const STALL_TIME: Duration = Duration::from_secs(20);

/// When a connection ended. Servers have limits: Consul's is 200 per address (`limits.http_max_conns_per_client`), Waypost's
/// `http.connections_max`.
const DROPPED: &str = "a request was under way (it may allow fewer connections of a client)";

/// Text of a wrong answer that is told.
const FAILURE_BYTES: usize = 200;

/// One connection.
pub struct Conn {
    stream: TcpStream,
    out: Vec<u8>,
    sent: usize,
    inbound: Vec<u8>,
    head: Option<Head>,
    started: Instant,
}

impl Conn {
    fn open(address: SocketAddr) -> Result<Conn, Fault> {
        let failed = |source| Fault::Unavailable { address: address.to_string(), source };
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(failed)?;
        stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).map_err(Fault::io("set up a socket"))?;
        let (out, inbound) = (Vec::new(), Vec::new());
        Ok(Conn { stream, out, sent: 0, inbound, head: None, started: Instant::now() })
    }

    /// Sends what is in `out`; false if there is no room for all of it.
    fn flush(&mut self) -> Result<bool, Fault> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(Fault::io("send a request")(error)),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(true)
    }

    /// Reads what there is, and gives the answer with its octets to `told` once it is there as a whole. Most come with one
    /// read, and are not copied.
    fn read(
        &mut self,
        room: &mut [u8],
        heads: &mut Heads,
        told: impl FnOnce(&Conn, Answer, &[u8]),
    ) -> Result<(), Fault> {
        loop {
            let count = match self.stream.read(room) {
                Ok(0) => return Err(Fault::Dropped(DROPPED)),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(Fault::Dropped(DROPPED)),
                Err(error) => return Err(Fault::io("read an answer")(error)),
            };
            let came = &room[..count];
            if self.inbound.is_empty()
                && let Some(answer) = complete(&mut self.head, heads, came)?
            {
                self.head = None;
                told(self, answer, &came[..answer.end.min(count)]);
                self.inbound.extend_from_slice(&came[answer.end.min(count)..]);
                return Ok(());
            }
            self.inbound.extend_from_slice(came);
            if self.inbound.len() > ANSWER_BYTES_MAX {
                return Err(Fault::protocol("an answer of more than 256 MiB"));
            }
            if let Some(answer) = complete(&mut self.head, heads, &self.inbound)? {
                self.head = None;
                let end = answer.end.min(self.inbound.len());
                told(self, answer, &self.inbound[..end]);
                self.inbound.drain(..end);
                return Ok(());
            }
            if count < room.len() {
                return Ok(());
            }
        }
    }
}

fn complete(known: &mut Option<Head>, heads: &mut Heads, bytes: &[u8]) -> Result<Option<Answer>, Fault> {
    if known.is_none() {
        *known = heads.read(bytes)?;
    }
    known.map_or(Ok(None), |head| head.complete(bytes))
}

/// Connections to one server.
pub struct Client {
    ready: Ready,
    conns: Vec<Conn>,
    events: Vec<Event>,
    room: Vec<u8>,
    heads: Heads,
}

impl Client {
    /// Opens so many connections.
    ///
    /// # Errors
    /// One cannot be opened.
    pub fn open(address: SocketAddr, connections: usize) -> Result<Client, Fault> {
        allow_sockets(connections as u64)?;
        let mut ready = Ready::new()?;
        let conns = (0..connections).map(|_| Conn::open(address)).collect::<Result<Vec<_>, _>>()?;
        for (key, conn) in conns.iter().enumerate() {
            ready.add(key, &conn.stream)?;
        }
        Ok(Client { ready, conns, events: Vec::new(), room: vec![0; READ_BYTES], heads: Heads::default() })
    }

    /// Sends a request on a connection that has none under way; `write` writes it.
    pub fn send(&mut self, key: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Fault> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        write(&mut conn.out);
        conn.started = Instant::now();
        if !conn.flush()? {
            self.ready.change(key, &conn.stream, Interest::ReadWrite)?;
        }
        Ok(())
    }

    /// Waits for answers, and tells of each: connection, answer, its octets, how long it took.
    pub fn wait(&mut self, mut told: impl FnMut(usize, Answer, &[u8], Duration)) -> Result<(), Fault> {
        self.ready.wait(STALL_TIME, &mut self.events)?;
        if self.events.is_empty() {
            return Err(Fault::Silent { seconds: STALL_TIME.as_secs(), doing: "waiting for answers" });
        }
        for event in &self.events {
            let Some(conn) = self.conns.get_mut(event.key) else { continue };
            if event.writable && !conn.out.is_empty() && conn.flush()? {
                self.ready.change(event.key, &conn.stream, Interest::Read)?;
            }
            if event.readable {
                conn.read(&mut self.room, &mut self.heads, |conn, answer, bytes| {
                    told(event.key, answer, bytes, conn.started.elapsed());
                })?;
            }
        }
        Ok(())
    }

    /// Keeps every connection busy until the goal is reached: `make` writes the n-th request.
    pub fn drive(&mut self, goal: Goal, mut make: impl FnMut(&mut Vec<u8>, u64)) -> Result<Outcome, Fault> {
        let (mut outcome, mut started) = (Outcome::default(), 0_u64);
        let begin = Instant::now();
        let more = |started: u64| match goal {
            Goal::Time(time) => begin.elapsed() < time,
            Goal::Count(count) => started < count,
        };
        let mut under_way = 0_usize;
        let mut free: Vec<usize> = (0..self.conns.len()).rev().collect();
        loop {
            while let (true, Some(key)) = (!free.is_empty() && more(started), free.last().copied()) {
                free.pop();
                self.send(key, |out| make(out, started))?;
                started += 1;
                under_way += 1;
            }
            if under_way == 0 {
                break;
            }
            self.wait(|key, answer, bytes, took| {
                outcome.note(answer, bytes, took);
                free.push(key);
                under_way -= 1;
            })?;
        }
        outcome.seconds = begin.elapsed().as_secs_f64();
        Ok(outcome)
    }

    /// One request on the first connection: the answer, and its body.
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<(Answer, Vec<u8>), Fault> {
        self.send(0, |out| super::http::request(out, method, path, body))?;
        let mut found = None;
        while found.is_none() {
            self.wait(|key, answer, bytes, _| {
                if key == 0 {
                    found = Some((answer, bytes.get(answer.body..).unwrap_or_default().to_vec()));
                }
            })?;
        }
        found.ok_or(Fault::Dropped(DROPPED))
    }
}

impl Outcome {
    /// Counts an answer.
    pub fn note(&mut self, answer: Answer, bytes: &[u8], took: Duration) {
        self.bytes += (answer.end - answer.body) as u64;
        if answer.status == 200 {
            self.done += 1;
            self.times.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        } else {
            self.failed += 1;
            self.first_failure.get_or_insert_with(|| {
                let body = bytes.get(answer.body..).unwrap_or_default();
                let text = String::from_utf8_lossy(&body[..body.len().min(FAILURE_BYTES)]);
                format!("{} {}", answer.status, text.trim())
            });
        }
    }
}
