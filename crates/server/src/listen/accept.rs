//! Accepting connections, also when the system runs out of something.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How long to wait when no connection can be accepted for want of files or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Hands every connection to `take` until `stop` says so. Never fails.
pub async fn accept(
    listener: &TcpListener,
    mut stop: watch::Receiver<bool>,
    mut take: impl FnMut(TcpStream, SocketAddr),
) {
    let mut complained = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                complained = false;
                take(socket, peer);
            }
            // The peer went away while it waited.
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                if !complained {
                    tracing::warn!(%error, "no connection can be accepted for now");
                }
                complained = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
