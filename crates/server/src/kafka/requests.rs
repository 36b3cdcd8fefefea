//! Requests, cut out of what a peer sends.

use std::io::{self, ErrorKind};
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout, timeout_at};
use waypost_kafka::frame;

/// How long a connection may be silent: as Kafka's `connections.max.idle.ms`.
const IDLE: Duration = Duration::from_secs(600);
/// How long the rest of a request may take to come, and each MiB of it.
const STALL: Duration = Duration::from_secs(120);
/// A longer request is given room in steps that grow, whatever length it claims.
const FIRST_STEP: usize = 1 << 20;
/// Bytes of a length.
const HEAD: usize = 4;

/// The reading half of a connection.
pub(super) struct Requests<S> {
    socket: S,
    /// Of the next request's length, what came with the last request.
    head: [u8; HEAD],
    have: usize,
}

fn late(what: &'static str) -> impl FnOnce(tokio::time::error::Elapsed) -> io::Error {
    move |_| io::Error::new(ErrorKind::TimedOut, what)
}

impl<S: AsyncRead + Unpin> Requests<S> {
    pub fn new(socket: S) -> Requests<S> {
        Requests { socket, head: [0; HEAD], have: 0 }
    }

    /// Reads a request, without its length; false if the peer is through. `max`: the longest that is taken, bytes.
    ///
    /// # Errors
    /// The connection broke, the peer is silent for too long, a length that is not allowed.
    pub async fn next(&mut self, request: &mut Vec<u8>, max: usize) -> io::Result<bool> {
        request.clear();
        while self.have < HEAD {
            let rest = self.head.get_mut(self.have..).unwrap_or_default();
            match timeout(IDLE, self.socket.read(rest)).await.map_err(late("silent for too long"))?? {
                0 if self.have == 0 => return Ok(false),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => self.have += n,
            }
        }
        let length = frame::length(&self.head, max).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
        self.have = 0;
        self.body(length.unwrap_or(0), request).await.map(|()| true)
    }

    /// Reads the rest, straight to where it stays, and with it the length of the request behind it if that has come.
    async fn body(&mut self, length: usize, request: &mut Vec<u8>) -> io::Result<()> {
        let megabytes = u32::try_from(length >> 20).unwrap_or(u32::MAX);
        let deadline = Instant::now() + STALL.saturating_mul(megabytes.saturating_add(1));
        while request.len() < length {
            let step = request.len().saturating_mul(2).max(FIRST_STEP).min(length + HEAD);
            let room = step - request.len();
            request.reserve_exact(room);
            let into = &mut (&mut *request).limit(room);
            let read = timeout_at(deadline, self.socket.read_buf(into)).await;
            if read.map_err(late("a request does not end"))?? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        let surplus = request.get(length..).unwrap_or_default();
        self.have = surplus.len();
        if let Some(head) = self.head.get_mut(..surplus.len()) {
            head.copy_from_slice(surplus);
        }
        request.truncate(length);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn framed(body: &[u8]) -> Vec<u8> {
        [&(body.len() as i32).to_be_bytes()[..], body].concat()
    }

    #[tokio::test]
    async fn requests_come_out_as_they_went_in_however_they_are_cut() {
        let bodies = [vec![1; 3], vec![], vec![2; 70_000], vec![3; 1], vec![4; (1 << 20) + 5], vec![5; 9]];
        let wire: Vec<u8> = bodies.iter().flat_map(|b| framed(b)).collect();
        for cut in [1_usize << 30, 4, 5, 65_536, 1001] {
            let (peer, mut sender) = tokio::io::duplex(100_000);
            let wire = wire.clone();
            tokio::spawn(async move {
                for part in wire.chunks(cut.min(wire.len())) {
                    sender.write_all(part).await.unwrap();
                }
            });
            let (mut requests, mut request) = (Requests::new(peer), Vec::new());
            for body in &bodies {
                assert!(requests.next(&mut request, 2 << 20).await.unwrap());
                assert!(request == *body, "{cut} {}", body.len());
            }
            assert!(!requests.next(&mut request, 2 << 20).await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_length_that_is_only_claimed_takes_little_room() {
        let (peer, mut sender) = tokio::io::duplex(1000);
        sender.write_all(&[5, 0, 0, 0, 1, 2, 3]).await.unwrap();
        drop(sender);
        let (mut requests, mut request) = (Requests::new(peer), Vec::new());
        assert_eq!(requests.next(&mut request, 100 << 20).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert!(request.capacity() <= 2 * FIRST_STEP, "{}", request.capacity());
        for head in [[0x7f, 0, 0, 0], [0xff; 4]] {
            let (peer, mut sender) = tokio::io::duplex(1000);
            sender.write_all(&head).await.unwrap();
            let mut requests = Requests::new(peer);
            assert_eq!(requests.next(&mut request, 100 << 20).await.unwrap_err().kind(), ErrorKind::InvalidData);
        }
    }
}
