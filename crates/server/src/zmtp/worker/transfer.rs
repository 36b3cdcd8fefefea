//! Reading from peers and writing to them.

use std::io::{self, IoSlice};

use waypost_zmtp::{Event, Fault, PeerId};

use super::Worker;

/// Room for one read. Messages that are larger get what they need.
const READ_BYTES: usize = 64 * 1024;
/// The same before the handshake is done.
const READ_BYTES_OPENING: usize = 4 * 1024;
/// Pieces of one write.
const SLICES: usize = 64;

impl Worker {
    /// Readiness of a peer's socket.
    pub(super) fn note(&mut self, id: PeerId, event: &mio::event::Event) {
        let Some(conn) = self.peers.get_mut(id).and_then(|peer| peer.conn.as_mut()) else { return };
        if conn.connecting {
            if event.is_writable() || event.is_error() || event.is_read_closed() {
                self.connected(id);
            }
            return;
        }
        conn.ending |= event.is_read_closed() || event.is_error();
        if event.is_writable() {
            conn.writable = true;
            self.peers.touch(id);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            if let Some(conn) = self.peers.get_mut(id).and_then(|peer| peer.conn.as_mut()) {
                conn.readable = true;
            }
            self.list(id);
        }
    }

    /// The peer is to be read.
    fn list(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(id)
            && !peer.listed
        {
            peer.listed = true;
            self.readable.push_back(id);
        }
    }

    /// Reads once from a peer that has its turn. Returns whether anything came.
    pub(super) fn read(&mut self, id: PeerId) -> bool {
        let Some(peer) = self.peers.get_mut(id) else { return false };
        peer.listed = false;
        let (end, listens) = (peer.end, peer.listens());
        let Some(conn) = peer.conn.as_mut().filter(|conn| conn.readable) else { return false };
        if conn.attached && !(listens && self.machine.wants(end, id)) {
            self.parked.push(id);
            return false;
        }
        let room = if conn.attached { READ_BYTES } else { READ_BYTES_OPENING };
        let input = conn.engine.input(&mut self.pool, room);
        let spare = input.capacity() - input.len();
        match conn.stream.fill(input) {
            Ok(0) => {
                self.disconnected(id, None);
                true
            }
            Ok(n) => {
                self.figures.received_bytes += n as u64;
                // Less than there was room for: the rest will be announced, unless it is the end.
                conn.readable = n == spare || conn.ending;
                if conn.readable {
                    self.list(id);
                }
                self.understand(id);
                true
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                conn.readable = false;
                false
            }
            Err(e) => {
                self.disconnected(id, Some(&e));
                true
            }
        }
    }

    /// Hands on what a read brought.
    fn understand(&mut self, id: PeerId) {
        let mut events = std::mem::take(&mut self.scratch);
        let Some(conn) = self.peers.get_mut(id).and_then(|peer| peer.conn.as_mut()) else { return };
        let mut done = conn.engine.receive(&mut self.pool, self.now, &mut events);
        let (deadline, control) = (conn.engine.deadline(), conn.engine.has_control());
        if deadline < self.check_at || self.check_at.is_none() {
            self.wake_at(deadline);
        }
        if control {
            self.peers.touch(id);
        }
        for event in events.drain(..) {
            // A fault of the peer's does not undo what it sent before.
            if let Err(fault) = self.hand_on(id, event) {
                done = Err(fault);
                break;
            }
        }
        events.clear();
        self.scratch = events;
        if let Err(fault) = done {
            self.fail(id, &fault);
        }
    }

    fn hand_on(&mut self, id: PeerId, event: Event) -> Result<(), Fault> {
        let Some(end) = self.peers.get(id).map(|peer| peer.end) else { return Ok(()) };
        let Event::Opened(info) = event else { return self.machine.receive(end, id, event, &mut self.peers) };
        let replaced = self.machine.attach(end, id, &info, &mut self.peers)?;
        if let Some(old) = replaced {
            self.fail(old, &Fault::IdentityTaken);
        }
        if let Some(peer) = self.peers.get_mut(id) {
            if let Some(dial) = &mut peer.dial {
                dial.opened();
            }
            if let Some(conn) = &mut peer.conn {
                conn.attached = true;
                let (remote, kind, user) = (conn.stream.remote(), info.socket_type.name(), info.user.as_deref());
                tracing::debug!(device = self.stats.name, ?end, remote, kind, user, "peer attached");
            }
            self.figures.connections += 1;
        }
        // What waited for it may go.
        self.peers.touch(id);
        Ok(())
    }

    /// Writes to everybody who has something to be written. Returns whether anything went.
    pub(super) fn write_all(&mut self) -> bool {
        let mut any = false;
        while let Some(id) = self.peers.pop_dirty() {
            any |= self.write(id);
        }
        any
    }

    fn write(&mut self, id: PeerId) -> bool {
        let mut any = false;
        loop {
            let Some(peer) = self.peers.get_mut(id) else { return any };
            let Some(conn) = &mut peer.conn else { return any };
            let fault = conn.fault.take();
            if fault.is_none() && (!conn.writable || conn.connecting) {
                return any;
            }
            if let Some(fault) = fault.or_else(|| conn.engine.transmit(&mut peer.out).err()) {
                self.fail(id, &fault);
                return any;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let n = peer.out.slices(&mut slices);
            let slices = slices.get(..n).unwrap_or_default();
            if slices.is_empty() {
                return any;
            }
            match conn.stream.send(slices) {
                Ok(written) => {
                    self.figures.sent_bytes += written as u64;
                    let all = slices.iter().map(|slice| slice.len()).sum::<usize>();
                    conn.writable = written == all;
                    let left = peer.out.advance(written);
                    any = true;
                    if left > 0 {
                        self.machine.left(id, left);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => conn.writable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.disconnected(id, Some(&e));
                    return true;
                }
            }
        }
    }
}
