//! One socket of the generator: an engine over a blocking stream.

use crate::bench::amqp::fault::Fault;
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use waypost_model::Millis;
use waypost_zmtp::security::{ENTROPY_BYTES, Entropy};
use waypost_zmtp::{Engine, EngineConfig, Event, Limits, Outgoing, Pool, SocketType, Wish};

/// How long a device may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Octets of one read.
const READ_BYTES: usize = 128 * 1024;

/// Where a device listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `HOST:PORT`.
    Tcp(String),
    /// A socket's file.
    Ipc(PathBuf),
}

impl Endpoint {
    /// Reads `tcp://HOST:PORT` or `ipc://PATH`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Endpoint, String> {
        match text.split_once("://") {
            Some(("tcp", address)) if address.contains(':') => Ok(Endpoint::Tcp(address.to_owned())),
            Some(("ipc", path)) if !path.is_empty() => Ok(Endpoint::Ipc(path.into())),
            _ => Err(format!("{text} is neither tcp://HOST:PORT nor ipc://PATH")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

/// A byte stream of either transport.
#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(endpoint: &Endpoint) -> io::Result<Stream> {
        match endpoint {
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Stream::Tcp(stream))
            }
            Endpoint::Ipc(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Stream::Unix(stream))
            }
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }

    fn closer(&self) -> io::Result<Closer> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Stream::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Stream::Unix),
        }
        .map(Closer)
    }
}

/// Ends a peer from another thread: whatever blocks there returns.
#[derive(Debug)]
pub struct Closer(Stream);

impl Closer {
    pub fn close(&self) {
        // It may be closed already.
        let _ = match &self.0 {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

/// A connected socket.
pub struct Peer {
    stream: Stream,
    engine: Engine,
    out: Outgoing,
    pool: Pool,
    events: Vec<Event>,
    read: Vec<u8>,
}

impl Peer {
    /// Connects and shakes hands.
    pub fn open(endpoint: &Endpoint, kind: SocketType) -> Result<Peer, Fault> {
        let unavailable = |source| Fault::Unavailable { address: endpoint.to_string(), source };
        let stream = Stream::connect(endpoint).map_err(unavailable)?;
        // Without security nothing secret is made of it.
        let entropy = Entropy([0; ENTROPY_BYTES]);
        let config = Arc::new(EngineConfig::new(kind));
        let mut peer = Peer {
            stream,
            engine: Engine::new(config, entropy, Millis(0)),
            out: Outgoing::new(Limits::default()),
            pool: Pool::default(),
            events: Vec::new(),
            read: vec![0; READ_BYTES],
        };
        peer.flush()?;
        while !peer.engine.is_open() {
            if !peer.receive()? {
                return Err(Fault::Dropped("shaking hands"));
            }
            peer.flush()?;
        }
        Ok(peer)
    }

    /// What ends it from elsewhere.
    pub fn closer(&self) -> Result<Closer, Fault> {
        self.stream.closer().map_err(Fault::io("share a socket"))
    }

    /// Subscribes to everything.
    pub fn subscribe_all(&mut self) -> Result<(), Fault> {
        self.engine.subscription(b"", Wish::Subscribe).map_err(|fault| Fault::protocol(fault.to_string()))?;
        self.flush()
    }

    /// Writes octets as they are: whole messages.
    pub fn write(&mut self, wire: &[u8]) -> io::Result<()> {
        self.stream.write_all(wire)
    }

    /// Reads once; false at the end of the stream. What came is in [`Peer::take`].
    pub fn receive(&mut self) -> Result<bool, Fault> {
        let n = match self.stream.read(&mut self.read) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(Fault::Silent { seconds: PATIENCE.as_secs(), doing: "waiting for messages" });
            }
            Err(source) => return Err(Fault::Io { doing: "read from the device".to_owned(), source }),
        };
        let came = self.read.get(..n).unwrap_or_default();
        self.engine.input(&mut self.pool, n).extend_from_slice(came);
        let done = self.engine.receive(&mut self.pool, Millis(0), &mut self.events);
        done.map_err(|fault| Fault::protocol(fault.to_string()))?;
        Ok(n > 0)
    }

    /// What came since the last call.
    pub fn take(&mut self) -> impl Iterator<Item = Event> {
        self.events.drain(..)
    }

    /// How many messages came since the last call.
    pub fn count(&mut self) -> u64 {
        let count = |event: Event| if let Event::Messages(chunk) = event { u64::from(chunk.messages()) } else { 0 };
        self.events.drain(..).map(count).sum()
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.engine.transmit(&mut self.out).map_err(|fault| Fault::protocol(fault.to_string()))?;
        let mut slices = [IoSlice::new(&[]); 4];
        let n = self.out.slices(&mut slices);
        let wire: Vec<u8> = slices.iter().take(n).flat_map(|slice| slice.iter().copied()).collect();
        self.out.advance(wire.len());
        self.stream.write_all(&wire).map_err(Fault::io("write to the device"))
    }
}
