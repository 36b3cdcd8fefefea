//! Requests, cut out of what a peer sends.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout, timeout_at};
use waypost_kafka::frame;
use waypost_model::Buffers;

use super::room::{Held, Room};

/// How long a connection may be silent: as Kafka's `connections.max.idle.ms`.
const IDLE: Duration = Duration::from_secs(600);
/// How long the rest of a request may take to come, and each MiB of it.
const STALL: Duration = Duration::from_secs(120);
/// How long a peer has to say who it is, where that matters: those who do not would keep others' places.
const STRANGER: Duration = Duration::from_secs(60);
/// A longer request is given room in steps that grow, whatever length it claims; what is beyond comes out of the room of all
/// connections.
const FIRST_STEP: usize = 1 << 20;
/// How long a request waits for that room. Longer, and requests that have some could wait for each other for ever.
const ROOM_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked for.
const ROOM_LOOK: Duration = Duration::from_millis(20);
/// Bytes of a length.
const HEAD: usize = 4;

/// The reading half of a connection.
pub(super) struct Requests<S> {
    socket: S,
    /// Room for long requests.
    buffers: Arc<Buffers>,
    /// Of the next request's length, what came with the last request.
    head: [u8; HEAD],
    have: usize,
    /// Until when the peer has to say who it is.
    stranger_until: Instant,
    room: Room,
    /// How long it is waited for room.
    room_wait: Duration,
    /// What the present request takes of it.
    held: Held,
}

fn late(what: &'static str) -> impl FnOnce(tokio::time::error::Elapsed) -> io::Error {
    move |_| io::Error::new(ErrorKind::TimedOut, what)
}

impl<S: AsyncRead + Unpin> Requests<S> {
    /// `room`, `buffers`: for the long requests of all connections.
    pub fn new(socket: S, room: Room, buffers: Arc<Buffers>) -> Requests<S> {
        let (stranger_until, held) = (Instant::now() + STRANGER, room.take(0));
        Requests { socket, buffers, head: [0; HEAD], have: 0, stranger_until, room, room_wait: ROOM_WAIT, held }
    }

    /// Reads a request, without its length; false if the peer is through. `max`: the longest that is taken, bytes.
    ///
    /// # Errors
    /// The connection broke, the peer is silent for too long, a length that is not allowed.
    pub async fn next(&mut self, request: &mut Vec<u8>, max: usize) -> io::Result<bool> {
        request.clear();
        self.held = self.room.take(0);
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

    /// The same of a peer that has not said who it is: it has a minute for all of that.
    ///
    /// # Errors
    /// Those of [`Requests::next`]; the minute is over.
    pub async fn next_of_stranger(&mut self, request: &mut Vec<u8>, max: usize) -> io::Result<bool> {
        timeout_at(self.stranger_until, self.next(request, max))
            .await
            .map_err(late("has not said in time who it is"))?
    }

    /// Reads the rest, straight to where it stays, and with it the length of the request behind it if that has come.
    async fn body(&mut self, length: usize, request: &mut Vec<u8>) -> io::Result<()> {
        let megabytes = u32::try_from(length >> 20).unwrap_or(u32::MAX);
        let deadline = Instant::now() + STALL.saturating_mul(megabytes.saturating_add(1));
        if request.capacity() < length + HEAD
            && let Some(buffer) = self.buffers.take(length + HEAD)
        {
            *request = buffer;
        }
        while request.len() < length {
            let step = request.len().saturating_mul(2).max(FIRST_STEP).min(length + HEAD);
            let room = step - request.len();
            if step > FIRST_STEP + HEAD {
                self.take_room(room).await?;
            }
            request.reserve_exact(room);
            let into = &mut (&mut *request).limit(room);
            let read = timeout_at(deadline, self.socket.read_buf(into)).await;
            if read.map_err(late("a request does not end"))?? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        self.keep_surplus(length, request);
        Ok(())
    }

    async fn take_room(&mut self, bytes: usize) -> io::Result<()> {
        let begun = Instant::now();
        while !self.held.grow(bytes) {
            if begun.elapsed() >= self.room_wait {
                return Err(io::Error::new(ErrorKind::OutOfMemory, "no room for so long a request at the moment"));
            }
            tokio::time::sleep(ROOM_LOOK).await;
        }
        Ok(())
    }

    fn keep_surplus(&mut self, length: usize, request: &mut Vec<u8>) {
        let surplus = request.get(length..).unwrap_or_default();
        self.have = surplus.len();
        if let Some(head) = self.head.get_mut(..surplus.len()) {
            head.copy_from_slice(surplus);
        }
        request.truncate(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn framed(body: &[u8]) -> Vec<u8> {
        [&(body.len() as i32).to_be_bytes()[..], body].concat()
    }

    fn buffers() -> Arc<Buffers> {
        Arc::new(Buffers::new(1 << 24))
    }

    #[tokio::test]
    async fn requests_come_out_as_they_went_in_however_they_are_cut() {
        let long = (1 << 20) + 500;
        let bodies = [vec![1; 3], vec![], vec![2; 70_000], vec![3; 1], vec![4; long], vec![6; long - 70], vec![5; 9]];
        let wire: Vec<u8> = bodies.iter().flat_map(|b| framed(b)).collect();
        for cut in [1_usize << 30, 4, 5, 65_536, 1001] {
            let (peer, mut sender) = tokio::io::duplex(100_000);
            let wire = wire.clone();
            tokio::spawn(async move {
                for part in wire.chunks(cut.min(wire.len())) {
                    sender.write_all(part).await.unwrap();
                }
            });
            let buffers = buffers();
            let mut requests = Requests::new(peer, Room::default(), Arc::clone(&buffers));
            let (mut request, mut last) = (Vec::new(), std::ptr::null::<u8>());
            for body in &bodies {
                assert!(requests.next(&mut request, 2 << 20).await.unwrap());
                assert!(request == *body, "{cut} {}", body.len());
                if body.len() > 1 << 20 {
                    // What the long one before it came in.
                    assert!(last.is_null() || last == request.as_ptr());
                    last = request.as_ptr();
                    buffers.give(std::mem::take(&mut request));
                }
            }
            assert!(!requests.next(&mut request, 2 << 20).await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_length_that_is_only_claimed_takes_little_room() {
        let (peer, mut sender) = tokio::io::duplex(1000);
        sender.write_all(&[5, 0, 0, 0, 1, 2, 3]).await.unwrap();
        drop(sender);
        let (mut requests, mut request) = (Requests::new(peer, Room::default(), buffers()), Vec::new());
        assert_eq!(requests.next(&mut request, 100 << 20).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert!(request.capacity() <= 2 * FIRST_STEP, "{}", request.capacity());
        for head in [[0x7f, 0, 0, 0], [0xff; 4]] {
            let (peer, mut sender) = tokio::io::duplex(1000);
            sender.write_all(&head).await.unwrap();
            let mut requests = Requests::new(peer, Room::default(), buffers());
            assert_eq!(requests.next(&mut request, 100 << 20).await.unwrap_err().kind(), ErrorKind::InvalidData);
        }
    }

    #[tokio::test]
    async fn who_does_not_say_who_he_is_has_a_minute_however_much_he_asks() {
        let (peer, mut sender) = tokio::io::duplex(1000);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(30)).await;
                sender.write_all(&framed(b"versions")).await.unwrap();
            }
        });
        let (mut requests, mut request) = (Requests::new(peer, Room::default(), buffers()), Vec::new());
        requests.stranger_until = Instant::now() + Duration::from_millis(200);
        let ended = loop {
            match requests.next_of_stranger(&mut request, 100).await {
                Ok(more) => assert!(more),
                Err(ended) => break ended,
            }
        };
        assert_eq!((ended.kind(), Instant::now() >= requests.stranger_until), (ErrorKind::TimedOut, true));
        // Others have ten.
        assert!(requests.next(&mut request, 100).await.unwrap());
    }

    /// Sends two megabytes of a request that claims to be longer, and stays.
    async fn begun(claimed: i32, room: &Room) -> (Requests<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (peer, mut sender) = tokio::io::duplex(4 << 20);
        sender.write_all(&claimed.to_be_bytes()).await.unwrap();
        sender.write_all(&vec![0; 2 << 20]).await.unwrap();
        (Requests::new(peer, room.clone(), buffers()), sender)
    }

    #[tokio::test]
    async fn long_requests_share_their_room_and_none_waits_for_ever() {
        let room = Room::default();
        let (mut first, _sender) = begun(100 << 20, &room).await;
        let mut request = Vec::new();
        assert!(timeout(Duration::from_millis(300), first.next(&mut request, 100 << 20)).await.is_err());
        assert_eq!(first.held.bytes(), 3 << 20);
        // Somebody else has the rest.
        let mut other = room.take(0);
        while other.grow(1 << 20) {}
        let (mut second, _sender) = begun(100 << 20, &room).await;
        second.room_wait = Duration::from_millis(100);
        let refused = timeout(Duration::from_secs(10), second.next(&mut request, 100 << 20)).await.unwrap();
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::OutOfMemory);
        drop(other);
        let (mut third, _sender) = begun(2 << 20, &room).await;
        assert!(third.next(&mut request, 100 << 20).await.unwrap());
        assert!(third.held.bytes() > 0);
        // Once the next one is read for, the room is given back.
        assert!(timeout(Duration::from_millis(300), third.next(&mut request, 100 << 20)).await.is_err());
        assert_eq!(third.held.bytes(), 0);
    }
}
