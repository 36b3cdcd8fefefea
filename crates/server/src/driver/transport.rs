//! Byte streams as the driver uses them: polled, written from several pieces at once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

/// A connected byte stream.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Ready when a read is worth a buffer. May be ready although nothing is there.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads once, up to `room` bytes, behind what `into` holds. 0 is the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>, into: &mut Vec<u8>, room: usize) -> Poll<io::Result<usize>> {
        into.reserve(room);
        poll_read_buf(Pin::new(self), cx, &mut into.limit(room))
    }

    /// Writes once.
    fn poll_send(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match pieces {
            [one] => Pin::new(self).poll_write(cx, one),
            many => Pin::new(self).poll_write_vectored(cx, many),
        }
    }
}

impl Transport for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }
}

// Boxed, so that the state of encryption does not enlarge the tasks of plain connections.
impl Transport for Box<TlsStream<TcpStream>> {
    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Decrypted bytes may wait where the socket knows nothing of them.
        Poll::Ready(Ok(()))
    }
}
