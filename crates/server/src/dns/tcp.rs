//! DNS over TCP: each message with its length before it (RFC 1035 §4.2.2), as many as the client likes (RFC 7766).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use waypost_dns::{Asker, Responder, Transport};

use super::Answerers;
use super::directory::NodeDirectory;

/// How long a client may be silent, and how long it may take to read an answer.
const IDLE_TIME: Duration = Duration::from_secs(10);

/// Octets of answers that are gathered before they are sent.
const GATHERED_BYTES_MAX: usize = 64 * 1024;

/// Octets that are read at once. A query is a few dozen; a message of more than this is no query.
const READ_BYTES: usize = 8 * 1024;

/// Serves a connection until the client goes, is silent for too long, or `stop` says so.
pub(super) async fn serve(answerers: &Answerers, socket: TcpStream, peer: SocketAddr, mut stop: watch::Receiver<bool>) {
    let _ = socket.set_nodelay(true);
    let ended = tokio::select! {
        ended = talk(answerers, socket, peer) => ended,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a DNS connection ended");
    }
}

async fn talk(answerers: &Answerers, mut socket: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let mut connection = Connection { responder: answerers.make(), answer: Vec::new(), gathered: Vec::new() };
    let (mut inbound, mut len) = (vec![0; READ_BYTES], 0);
    loop {
        let room = inbound.get_mut(len..).unwrap_or_default();
        let count = tokio::time::timeout(IDLE_TIME, socket.read(room)).await??;
        if count == 0 {
            return Ok(());
        }
        len += count;
        let mut taken = 0;
        while let Some(message) = first(inbound.get(taken..len).unwrap_or_default())? {
            taken += 2 + message.len();
            let asker = Asker { address: peer.ip(), transport: Transport::Tcp, now_s: answerers.now_s() };
            connection.answer(message, asker);
            if connection.gathered.len() >= GATHERED_BYTES_MAX {
                connection.send(&mut socket).await?;
            }
        }
        inbound.copy_within(taken..len, 0);
        len -= taken;
        connection.send(&mut socket).await?;
    }
}

/// The first message, if it is there as a whole.
fn first(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let [high, low, rest @ ..] = bytes else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    if len + 2 > READ_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long for a query"));
    }
    Ok(rest.get(..len))
}

struct Connection {
    responder: Responder<NodeDirectory>,
    answer: Vec<u8>,
    /// Answers to the queries that came together.
    gathered: Vec<u8>,
}

impl Connection {
    fn answer(&mut self, message: &[u8], asker: Asker) {
        if self.responder.answer(message, asker, &mut self.answer) {
            // The responder keeps to what fits.
            let len = u16::try_from(self.answer.len()).unwrap_or(u16::MAX);
            self.gathered.extend_from_slice(&len.to_be_bytes());
            self.gathered.extend_from_slice(&self.answer);
        }
    }

    async fn send(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        if !self.gathered.is_empty() {
            tokio::time::timeout(IDLE_TIME, socket.write_all(&self.gathered)).await??;
            self.gathered.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_by_their_lengths() {
        let two = b"\x00\x02ab\x00\x01c";
        for end in 0..4 {
            assert_eq!(first(&two[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(first(two).unwrap(), Some(&b"ab"[..]));
        assert_eq!(first(&two[4..]).unwrap(), Some(&b"c"[..]));
        assert!(first(b"\xff\xff").is_err());
    }
}
