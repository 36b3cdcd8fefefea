//! Sockets of both transports behind one face, never blocking.

use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use super::endpoint::Endpoint;

/// A connected byte stream, or one that is about to be.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Begins to connect.
    pub(super) fn connect(endpoint: &Endpoint) -> io::Result<Stream> {
        match endpoint {
            Endpoint::Tcp(address) => {
                let socket = TcpStream::connect(*address)?;
                Ok(Stream::Tcp(socket))
            }
            Endpoint::TcpName(..) => Err(io::Error::other("a name is looked up first")),
            Endpoint::Ipc(path) => UnixStream::connect(path).map(Stream::Unix),
        }
    }

    /// Why connecting failed, once the socket is writable.
    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(socket) => socket.take_error(),
            Self::Unix(socket) => socket.take_error(),
        }
    }

    /// Whether the peer is there. `false` while connecting.
    pub(super) fn is_connected(&self) -> bool {
        match self {
            Self::Tcp(socket) => socket.peer_addr().is_ok(),
            Self::Unix(socket) => socket.peer_addr().is_ok(),
        }
    }

    /// Small messages must not wait for the answer to the last one.
    pub(super) fn no_delay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Reads once, behind what `into` holds, as much as it has spare room. 0 is the end.
    pub(super) fn fill(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            match rustix::io::read(self, rustix::buffer::spare_capacity(into)) {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Writes once.
    pub(super) fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write_vectored(slices),
            Self::Unix(socket) => socket.write_vectored(slices),
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        source(self).register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }

    pub(super) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        source(self).deregister(registry)
    }

    /// Who is at the other end, for logs.
    pub(super) fn remote(&self) -> String {
        match self {
            Self::Tcp(socket) => socket.peer_addr().map_or_else(|_| "?".to_owned(), |a| format!("tcp://{a}")),
            Self::Unix(_) => "ipc".to_owned(),
        }
    }
}

fn source(stream: &mut Stream) -> &mut dyn Source {
    match stream {
        Stream::Tcp(socket) => socket,
        Stream::Unix(socket) => socket,
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// A bound socket.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(TcpListener),
    /// With its file, which goes when this is dropped.
    Unix(UnixListener, PathBuf),
}

impl Bound {
    /// Binds and listens.
    pub(super) fn bind(endpoint: &Endpoint) -> io::Result<Bound> {
        match endpoint {
            Endpoint::Tcp(address) => TcpListener::bind(*address).map(Bound::Tcp),
            Endpoint::TcpName(..) => Err(io::ErrorKind::AddrNotAvailable.into()),
            Endpoint::Ipc(path) => {
                clear_stale(path)?;
                UnixListener::bind(path).map(|listener| Bound::Unix(listener, path.clone()))
            }
        }
    }

    /// Where it really is.
    pub(super) fn endpoint(&self) -> io::Result<Endpoint> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Endpoint::Tcp),
            Self::Unix(_, path) => Ok(Endpoint::Ipc(path.clone())),
        }
    }

    pub(super) fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(socket, _)| Stream::Tcp(socket)),
            Self::Unix(listener, _) => listener.accept().map(|(socket, _)| Stream::Unix(socket)),
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.register(registry, token, Interest::READABLE),
            Self::Unix(listener, _) => listener.register(registry, token, Interest::READABLE),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket's file that nobody listens on is left from a process that was killed.
fn clear_stale(path: &Path) -> io::Result<()> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "there is a file that is no socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}
