//! A device's thread: one loop over all of its sockets. It never waits but for events, and nothing in it is shared, so
//! that a message costs no lock and no wake-up of another thread.

mod links;
mod transfer;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use waypost_model::Millis;
use waypost_zmtp::device::End;
use waypost_zmtp::engine::Limits;
use waypost_zmtp::{EngineConfig, Event, PeerId, Pool};

use super::dial::Dial;
use super::endpoint::Endpoint;
use super::machine::Machine;
use super::peers::Peers;
use super::socket::Bound;
use super::stats::{DeviceStats, Figures};
use crate::clock::Clock;

const WAKER: Token = Token(usize::MAX);
/// Tokens of listeners follow; those of peers are below.
const LISTENERS: usize = usize::MAX / 2;

/// Reading and writing goes on that many times before new events are asked for.
const ROUNDS: usize = 16;
/// How long a listener rests after the system had no descriptor for it, ms.
const ACCEPT_PAUSE_MS: u64 = 100;
/// How long a device that is to stop waits for queues to become shorter, ms.
const DRAIN_IDLE_MS: u64 = 250;
/// How long it waits in all: a peer that takes a little again and again does not keep the node from stopping.
const DRAIN_MS: u64 = 10_000;

/// What a device's thread begins with.
pub(super) struct Worker {
    machine: Box<dyn Machine>,
    ends: [EndConfig; 2],
    listeners: Vec<Listener>,
    connections_max: usize,
    peers: Peers,
    pool: Pool,
    poll: Poll,
    clock: Clock,
    now: Millis,
    /// Peers that have something to read and may be read.
    readable: VecDeque<PeerId>,
    /// Peers that have something to read, which the device does not want now.
    parked: Vec<PeerId>,
    scratch: Vec<Event>,
    /// When a timer is due at the earliest.
    check_at: Option<Millis>,
    names: (mpsc::Sender<Looked>, mpsc::Receiver<Looked>),
    waker: Arc<Waker>,
    stopping: Arc<AtomicBool>,
    stats: Arc<DeviceStats>,
    figures: Figures,
}

/// The outcome of looking up a peer's name.
type Looked = (PeerId, io::Result<SocketAddr>);

/// What connections of an end have in common.
pub(super) struct EndConfig {
    pub(super) engine: Arc<EngineConfig>,
    pub(super) limits: Limits,
}

struct Listener {
    end: End,
    bound: Bound,
    again_at: Option<Millis>,
}

/// What stops a device's thread.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub(super) waker: Arc<Waker>,
    pub(super) stopping: Arc<AtomicBool>,
}

impl Handle {
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = self.waker.wake();
    }
}

impl Worker {
    pub(super) fn new(
        mut machine: Box<dyn Machine>,
        ends: [EndConfig; 2],
        connections_max: usize,
        clock: Clock,
        stats: Arc<DeviceStats>,
    ) -> io::Result<Worker> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        machine.start(&waker);
        let figures = stats.figures();
        Ok(Worker {
            machine,
            ends,
            listeners: Vec::new(),
            connections_max,
            peers: Peers::default(),
            pool: Pool::default(),
            poll,
            now: clock.now(),
            clock,
            readable: VecDeque::new(),
            parked: Vec::new(),
            scratch: Vec::new(),
            check_at: None,
            names: mpsc::channel(),
            waker,
            stopping: Arc::new(AtomicBool::new(false)),
            stats,
            figures,
        })
    }

    pub(super) fn handle(&self) -> Handle {
        Handle { waker: Arc::clone(&self.waker), stopping: Arc::clone(&self.stopping) }
    }

    pub(super) fn bind(&mut self, end: End, mut bound: Bound) -> io::Result<()> {
        bound.register(self.poll.registry(), Token(LISTENERS + self.listeners.len()))?;
        self.listeners.push(Listener { end, bound, again_at: None });
        Ok(())
    }

    pub(super) fn dial(&mut self, end: End, endpoint: Endpoint, seed: u64) {
        let id = self.peers.add(end, self.end(end).limits);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.dial = Some(Dial::new(endpoint, seed, self.now));
        }
        self.machine.announce(end, id);
        self.check_at = Some(self.now);
    }

    fn end(&self, end: End) -> &EndConfig {
        match end {
            End::Front => &self.ends[0],
            End::Back => &self.ends[1],
        }
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// Only if the system cannot say any more what happens on sockets.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        while !self.stopping.load(Ordering::SeqCst) {
            let more = self.work();
            self.publish();
            self.wait(&mut events, more)?;
        }
        self.drain(&mut events)
    }

    /// Waits for events, unless there is work, and notes what they say.
    fn wait(&mut self, events: &mut Events, more: bool) -> io::Result<()> {
        let due = [self.check_at, self.machine.deadline()].into_iter().flatten().min();
        let timeout = if more { Some(Duration::ZERO) } else { due.map(|at| self.until(at)) };
        match self.poll.poll(events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => other?,
        }
        self.now = self.clock.now();
        for event in events.iter() {
            match event.token() {
                WAKER => self.take_names(),
                Token(n) if n >= LISTENERS => self.accept(n - LISTENERS),
                Token(n) => self.note(PeerId(u32::try_from(n).unwrap_or(u32::MAX)), event),
            }
        }
        if self.check_at.is_some_and(|at| at <= self.now) {
            self.check_timers();
        }
        Ok(())
    }

    fn until(&self, at: Millis) -> Duration {
        // The clock counts whole milliseconds: one more, so as not to wake up too early again and again.
        Duration::from_millis(at.since(self.clock.now())) + Duration::from_millis(1)
    }

    /// Moves messages until nothing moves, or for a while. Returns whether there is more.
    fn work(&mut self) -> bool {
        for _ in 0..ROUNDS {
            let mut moved = self.machine.turn(&mut self.peers, self.now);
            for _ in 0..self.readable.len() {
                let Some(id) = self.readable.pop_front() else { break };
                moved |= self.read(id);
            }
            moved |= self.write_all();
            if self.machine.is_blocked() && self.machine.pump(&mut self.peers) {
                moved = true;
                self.write_all();
            }
            if !self.parked.is_empty() {
                self.unpark();
            }
            if !moved && self.readable.is_empty() {
                return false;
            }
        }
        true
    }

    /// Peers that the device wants again are read again.
    fn unpark(&mut self) {
        let (machine, peers, readable) = (&self.machine, &self.peers, &mut self.readable);
        self.parked.retain(|&id| match peers.get(id) {
            Some(peer) if peer.listens() && machine.wants(peer.end, id) => {
                readable.push_back(id);
                false
            }
            Some(_) => true,
            None => false,
        });
    }

    fn wake_at(&mut self, at: Option<Millis>) {
        self.check_at = [self.check_at, at].into_iter().flatten().min();
    }

    fn publish(&mut self) {
        self.figures.counters = self.machine.counters();
        self.stats.publish(&self.figures);
    }

    /// Writes what waits, as long as that makes progress. Nothing more is read.
    fn drain(&mut self, events: &mut Events) -> io::Result<()> {
        self.listeners.clear();
        let (mut last, mut left) = (self.now, u64::MAX);
        let until = self.now.plus(DRAIN_MS);
        loop {
            self.machine.turn(&mut self.peers, self.now);
            self.machine.pump(&mut self.peers);
            self.write_all();
            self.publish();
            let waiting = self.peers.iter().filter(|p| p.conn.is_some()).map(|p| p.out.bytes() as u64).sum();
            if waiting == 0 && self.machine.is_settled() {
                return Ok(());
            }
            if waiting < left {
                (last, left) = (self.now, waiting);
            }
            if self.now.since(last) >= DRAIN_IDLE_MS || self.now >= until {
                return Ok(());
            }
            match self.poll.poll(events, Some(Duration::from_millis(DRAIN_IDLE_MS))) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            self.now = self.clock.now();
            for event in events.iter() {
                if let Token(n @ 0..LISTENERS) = event.token() {
                    self.note(PeerId(u32::try_from(n).unwrap_or(u32::MAX)), event);
                }
            }
        }
    }
}
