//! DNS over UDP: threads that read a query, answer it and read the next.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use waypost_dns::{Asker, Transport, UDP_BYTES_MAX};

use super::{Answerers, UDP_THREADS_MAX};

/// How often a thread that nobody asks looks whether it is to stop.
const STOP_LOOK_TIME: Duration = Duration::from_millis(100);

/// Queries between two looks at the clock and at whether to stop.
const LOOK_EVERY: u32 = 256;

/// Starts the threads of a socket.
pub(super) fn start(
    answerers: &Arc<Answerers>,
    socket: UdpSocket,
    stopped: &Arc<AtomicBool>,
) -> io::Result<Vec<JoinHandle<()>>> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(STOP_LOOK_TIME))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let start = |_| {
        let (answerers, socket, stopped) = (Arc::clone(answerers), socket.try_clone()?, Arc::clone(stopped));
        std::thread::Builder::new().name("waypost-dns".to_owned()).spawn(move || run(&answerers, &socket, &stopped))
    };
    (0..(cores / 2).clamp(1, UDP_THREADS_MAX)).map(start).collect()
}

fn run(answerers: &Answerers, socket: &UdpSocket, stopped: &AtomicBool) {
    let mut responder = answerers.make();
    let (mut query, mut answer) = (vec![0; UDP_BYTES_MAX], Vec::with_capacity(UDP_BYTES_MAX));
    let (mut now_s, mut left) = (answerers.now_s(), LOOK_EVERY);
    while !stopped.load(Ordering::Relaxed) {
        let (len, peer) = match socket.recv_from(&mut query) {
            Ok(received) => received,
            Err(error) => {
                // Nothing came in time, or what a peer that is gone was sent came back.
                if !is_passing(&error) {
                    tracing::error!(%error, "DNS over UDP has ended");
                    return;
                }
                (now_s, left) = (answerers.now_s(), LOOK_EVERY);
                continue;
            }
        };
        left -= 1;
        if left == 0 {
            (now_s, left) = (answerers.now_s(), LOOK_EVERY);
        }
        let asker = Asker { address: peer.ip(), transport: Transport::Udp, now_s };
        if responder.answer(&query[..len.min(query.len())], asker, &mut answer) {
            // Who cannot be sent to asks again, or does not care.
            let _ = socket.send_to(&answer, peer);
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | Interrupted | TimedOut | WouldBlock)
}
