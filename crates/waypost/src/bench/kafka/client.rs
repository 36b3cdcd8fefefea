//! One connection to a broker.

use crate::bench::amqp::fault::Fault;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use waypost_kafka::apis;
use waypost_kafka::frame::HeaderForm;
use waypost_kafka::wire::Message;

/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 << 20;
const CLIENT_ID: &str = "waypost-bench";

/// A connection over which requests go one after the other.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    answer: Vec<u8>,
    next: i32,
}

/// A request that is sent many times: only its number changes.
#[derive(Clone, Debug)]
pub struct Prepared(pub Vec<u8>);

/// Begins a request: room for its length, and its header.
pub fn begin(api: i16, version: i16) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend_from_slice(&api.to_be_bytes());
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(&0_i32.to_be_bytes());
    out.extend_from_slice(&(CLIENT_ID.len() as i16).to_be_bytes());
    out.extend_from_slice(CLIENT_ID.as_bytes());
    if apis::request_form(api, version) == HeaderForm::Tagged {
        out.push(0);
    }
    out
}

impl Prepared {
    /// Completes a request.
    pub fn of(mut request: Vec<u8>) -> Prepared {
        let length = (request.len() - 4) as i32;
        if let Some(head) = request.first_chunk_mut::<4>() {
            *head = length.to_be_bytes();
        }
        Prepared(request)
    }

    /// A request with a message as its body.
    pub fn message(api: i16, version: i16, message: &impl Message) -> Prepared {
        let mut request = begin(api, version);
        message.encode(&mut request, version);
        Prepared::of(request)
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn open(address: &str) -> Result<Client, Fault> {
        let unavailable = |source| Fault::Unavailable { address: address.to_owned(), source };
        let stream = TcpStream::connect(address).map_err(unavailable)?;
        stream.set_nodelay(true).map_err(unavailable)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(unavailable)?;
        Ok(Client { stream, answer: Vec::new(), next: 0 })
    }

    /// What ends it from another thread: whatever blocks there returns.
    ///
    /// # Errors
    /// The system gives no second handle.
    pub fn closer(&self) -> Result<Closer, Fault> {
        self.stream.try_clone().map(Closer).map_err(Fault::io("share a socket"))
    }

    /// Sends a request.
    ///
    /// # Errors
    /// The connection broke.
    pub fn send(&mut self, request: &mut Prepared) -> Result<(), Fault> {
        if let Some(number) = request.0.get_mut(8..12) {
            number.copy_from_slice(&self.next.to_be_bytes());
        }
        self.next = self.next.wrapping_add(1);
        self.stream.write_all(&request.0).map_err(Fault::io("write to the broker"))
    }

    /// Reads the next answer, without its header.
    ///
    /// # Errors
    /// The connection broke, or the broker is silent for too long.
    pub fn receive(&mut self, api: i16, version: i16) -> Result<&[u8], Fault> {
        let mut head = [0; 4];
        read(&mut self.stream, &mut head)?;
        let length = usize::try_from(i32::from_be_bytes(head)).ok().filter(|n| *n <= ANSWER_BYTES_MAX);
        let length = length.ok_or_else(|| Fault::protocol("an answer of an impossible length"))?;
        if self.answer.len() < length {
            self.answer.resize(length, 0);
        }
        let answer = self.answer.get_mut(..length).unwrap_or_default();
        read(&mut self.stream, answer)?;
        let header = if apis::answer_form(api, version) == HeaderForm::Tagged { 5 } else { 4 };
        answer.get(header..).map_or_else(|| Err(Fault::protocol("an answer without a header")), Ok)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// As [`Client::receive`], and an answer that is none.
    pub fn call<A: Message>(&mut self, api: i16, version: i16, message: &impl Message) -> Result<A, Fault> {
        self.send(&mut Prepared::message(api, version, message))?;
        let answer = self.receive(api, version)?;
        A::decode(answer, version).map_err(|e| Fault::protocol(e.to_string()))
    }
}

fn read(stream: &mut TcpStream, into: &mut [u8]) -> Result<(), Fault> {
    stream.read_exact(into).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Fault::Silent { seconds: PATIENCE.as_secs(), doing: "waiting for an answer" }
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Fault::Dropped("an answer was awaited"),
        _ => Fault::Io { doing: "read from the broker".to_owned(), source },
    })
}

/// See [`Client::closer`].
#[derive(Debug)]
pub struct Closer(TcpStream);

impl Closer {
    pub fn close(&self) {
        // It may be closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// An error code of the broker's.
///
/// # Errors
/// It is not 0.
pub fn check(doing: &str, error_code: i16) -> Result<(), Fault> {
    if error_code == 0 { Ok(()) } else { Err(Fault::protocol(format!("{doing}: error code {error_code}"))) }
}
