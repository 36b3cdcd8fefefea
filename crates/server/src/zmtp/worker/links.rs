//! Connections coming and going.

use std::io;
use std::net::ToSocketAddrs;
use std::sync::Arc;

use mio::Token;
use waypost_zmtp::device::Gone;
use waypost_zmtp::security::{ENTROPY_BYTES, Entropy};
use waypost_zmtp::{Engine, Fault, PeerId};

use super::{ACCEPT_PAUSE_MS, Worker};
use crate::zmtp::dial::DialState;
use crate::zmtp::endpoint::Endpoint;
use crate::zmtp::peers::Conn;
use crate::zmtp::socket::Stream;

impl Worker {
    /// Takes all connections that wait at a listener.
    pub(super) fn accept(&mut self, index: usize) {
        loop {
            let Some(listener) = self.listeners.get_mut(index) else { return };
            listener.again_at = None;
            let end = listener.end;
            match listener.bound.accept() {
                Ok(stream) if self.peers.len() >= self.connections_max => {
                    tracing::warn!(device = self.stats.name, "closed: as many peers as server.connections_max allows");
                    drop(stream);
                }
                Ok(stream) => {
                    let limits = self.end(end).limits;
                    let id = self.peers.add(end, limits);
                    if let Err(error) = self.join(id, stream) {
                        tracing::info!(device = self.stats.name, %error, "connection not taken");
                        self.peers.remove(id);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The peer has gone again already.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted || e.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(device = self.stats.name, %error, "cannot accept connections");
                    let at = self.now.plus(ACCEPT_PAUSE_MS);
                    listener.again_at = Some(at);
                    return self.wake_at(Some(at));
                }
            }
        }
    }

    /// A socket becomes a connection of a peer; nothing stays behind if that fails.
    fn join(&mut self, id: PeerId, mut stream: Stream) -> io::Result<()> {
        let mut entropy = [0; ENTROPY_BYTES];
        getrandom::fill(&mut entropy).map_err(io::Error::other)?;
        stream.register(self.poll.registry(), Token(id.0 as usize))?;
        let Some(end) = self.peers.get(id).map(|peer| peer.end) else { return Ok(()) };
        let config = Arc::clone(&self.end(end).engine);
        let engine = Engine::new(config, Entropy(entropy), self.now);
        self.wake_at(engine.deadline());
        let Some(peer) = self.peers.get_mut(id) else { return Ok(()) };
        let connecting = peer.dial.is_some();
        if !connecting {
            stream.no_delay()?;
        }
        peer.conn = Some(Conn {
            stream,
            engine,
            readable: false,
            writable: !connecting,
            ending: false,
            connecting,
            attached: false,
            fault: None,
        });
        self.peers.touch(id);
        Ok(())
    }

    /// A connect of ours has come to an end, good or bad.
    pub(super) fn connected(&mut self, id: PeerId) {
        let Some(conn) = self.peers.get_mut(id).and_then(|peer| peer.conn.as_mut()) else { return };
        let outcome = match conn.stream.take_error() {
            Ok(Some(error)) | Err(error) => Err(error),
            // Not yet: another event will come.
            Ok(None) if !conn.stream.is_connected() => return,
            Ok(None) => conn.stream.no_delay(),
        };
        match outcome {
            Ok(()) => {
                (conn.connecting, conn.writable, conn.readable) = (false, true, true);
                if let Some(peer) = self.peers.get_mut(id)
                    && !peer.listed
                {
                    peer.listed = true;
                    self.readable.push_back(id);
                }
                self.peers.touch(id);
            }
            Err(error) => self.disconnected(id, Some(&error)),
        }
    }

    /// The peer broke a rule.
    pub(super) fn fail(&mut self, id: PeerId, fault: &Fault) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if let Some(conn) = &mut peer.conn {
            tracing::info!(device = self.stats.name, remote = conn.stream.remote(), reason = %fault, "peer refused");
            self.figures.refused += 1;
            conn.engine.fail(fault);
            // It may be told why, if that can be done at once.
            if !conn.connecting && conn.engine.transmit(&mut peer.out).is_ok() {
                let mut slices = [io::IoSlice::new(&[]); 1];
                if peer.out.slices(&mut slices) > 0 {
                    let _ = conn.stream.send(&slices);
                }
            }
        }
        self.disconnected(id, None);
    }

    /// A connection is over. Who connected to us is forgotten; whom we connected to keeps its queue.
    pub(super) fn disconnected(&mut self, id: PeerId, error: Option<&io::Error>) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let (end, dialled) = (peer.end, peer.dial.is_some());
        let conn = peer.conn.take();
        let attached = conn.as_ref().is_some_and(|conn| conn.attached);
        if let Some(mut conn) = conn {
            let _ = conn.stream.deregister(self.poll.registry());
            let error = error.map(tracing::field::display);
            tracing::debug!(device = self.stats.name, ?end, error, "peer disconnected");
        }
        let gone = if dialled { Gone::ForNow } else { Gone::ForGood };
        if attached {
            self.figures.connections = self.figures.connections.saturating_sub(1);
            self.machine.detach(end, id, gone, &mut self.peers);
        }
        let Some(peer) = self.peers.get_mut(id) else { return };
        if let Some(dial) = &mut peer.dial {
            self.figures.discarded += u64::from(peer.out.disconnect());
            dial.failed(self.now);
            let due = dial.due();
            self.wake_at(due);
        } else {
            self.figures.discarded += u64::from(peer.out.clear());
            self.peers.remove(id);
        }
    }

    /// Looks who has waited long enough, and when that will be so again.
    pub(super) fn check_timers(&mut self) {
        self.check_at = None;
        for index in 0..self.listeners.len() {
            match self.listeners.get(index).and_then(|listener| listener.again_at) {
                Some(at) if at <= self.now => self.accept(index),
                later => self.wake_at(later),
            }
        }
        for id in self.peers.ids() {
            self.check_peer(id);
        }
    }

    fn check_peer(&mut self, id: PeerId) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(id) else { return };
        if let Some(conn) = &mut peer.conn {
            if conn.engine.deadline().is_some_and(|at| at <= now) {
                if let Err(fault) = conn.engine.on_deadline(now) {
                    return self.fail(id, &fault);
                }
                self.peers.touch(id);
            }
        } else if peer.dial.as_ref().and_then(|dial| dial.due()).is_some_and(|at| at <= now) {
            self.try_connect(id);
        }
        let Some(peer) = self.peers.get(id) else { return };
        let engine = peer.conn.as_ref().and_then(|conn| conn.engine.deadline());
        let dial = peer.dial.as_ref().and_then(|dial| dial.due());
        self.wake_at([engine, dial].into_iter().flatten().min());
    }

    fn try_connect(&mut self, id: PeerId) {
        let Some(dial) = self.peers.get_mut(id).and_then(|peer| peer.dial.as_mut()) else { return };
        dial.state = DialState::Trying;
        match dial.endpoint.clone() {
            Endpoint::TcpName(host, port) => self.look_up(id, host, port),
            endpoint => self.connect(id, &endpoint),
        }
    }

    fn connect(&mut self, id: PeerId, endpoint: &Endpoint) {
        let done = Stream::connect(endpoint).and_then(|stream| self.join(id, stream));
        match done {
            // A local socket is connected at once, and no event may come.
            Ok(()) if matches!(endpoint, Endpoint::Ipc(_)) => self.connected(id),
            Ok(()) => {}
            Err(error) => self.disconnected(id, Some(&error)),
        }
    }

    /// The system looks names up while one waits, so somebody else has to.
    fn look_up(&mut self, id: PeerId, host: String, port: u16) {
        let (sender, waker) = (self.names.0.clone(), Arc::clone(&self.waker));
        let started = std::thread::Builder::new().name("zmtp-name".to_owned()).spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs().and_then(|mut all| {
                all.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
            });
            // Nobody listens any more when the device has stopped.
            let _ = sender.send((id, found));
            let _ = waker.wake();
        });
        if let Err(error) = started {
            self.disconnected(id, Some(&error));
        }
    }

    /// Names that were looked up.
    pub(super) fn take_names(&mut self) {
        while let Ok((id, found)) = self.names.1.try_recv() {
            let trying = |dial: &super::Dial| dial.state == DialState::Trying;
            if !self.peers.get(id).is_some_and(|peer| peer.conn.is_none() && peer.dial.as_ref().is_some_and(trying)) {
                continue;
            }
            match found {
                Ok(address) => self.connect(id, &Endpoint::Tcp(address)),
                Err(error) => self.disconnected(id, Some(&error)),
            }
        }
    }
}
