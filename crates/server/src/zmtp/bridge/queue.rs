//! A streamer with a durable queue: what is read from producers is written to the log, what consumers took is settled.

use std::sync::Arc;

use waypost_model::command::QueueDeclare;
use waypost_model::table::Table;
use waypost_model::{AttrFlags, BatchBuilder, Call, Millis, Refusal, RefusalKind, Route};
use waypost_zmtp::device::{Counters, End, Gone};
use waypost_zmtp::engine::PeerInfo;
use waypost_zmtp::pattern::balance::Balancer;
use waypost_zmtp::{Chunk, Event, Fault, PeerId, Queues, Wish};

use super::convert::Forms;
use super::inlet::Inlet;
use super::link::{Link, Place};
use super::outlet::{Form, Outlet};
use super::sides::{Ends, Sides};
use crate::zmtp::machine::Machine;
use crate::zmtp::peers::Peers;

/// The device.
pub(crate) struct QueueBridge {
    sides: Sides,
    balancer: Balancer,
    route: Arc<Route>,
    forms: Forms,
    now: Millis,
    counters: Counters,
}

impl QueueBridge {
    /// A bridge to a queue, which is made durable if there is none.
    ///
    /// # Errors
    /// What the broker says.
    pub(crate) fn open(place: &Place, queue: &str, ends: Ends) -> Result<QueueBridge, Refusal> {
        declare(place, queue)?;
        let inlet = ends.front.then(|| Inlet::open(place, AttrFlags::PERSISTENT)).transpose()?;
        let outlet = ends.back.then(|| Outlet::open(place, Link::open(place)?, queue)).transpose()?;
        Ok(QueueBridge {
            sides: Sides { inlet, outlet },
            balancer: Balancer::default(),
            route: Arc::new(Route::new("", queue)),
            forms: Forms::persistent(),
            now: place.clock.now(),
            counters: Counters::default(),
        })
    }
}

/// Takes a queue that is there as it is.
fn declare(place: &Place, queue: &str) -> Result<(), Refusal> {
    let wish = QueueDeclare {
        name: queue.into(),
        passive: true,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: Table::new(),
    };
    match Link::open(place)?.call(Call::QueueDeclare(wish.clone())) {
        Err(refusal) if refusal.kind == RefusalKind::NotFound => {
            Link::open(place)?.call(Call::QueueDeclare(QueueDeclare { passive: false, ..wish })).map(drop)
        }
        done => done.map(drop),
    }
}

impl Machine for QueueBridge {
    fn start(&mut self, waker: &Arc<mio::Waker>) {
        self.sides.wake_by(waker);
    }

    // A peer that is not there gets nothing: what it did not take would come late.
    fn announce(&mut self, _: End, _: PeerId) {}

    fn attach(&mut self, end: End, peer: PeerId, _: &PeerInfo, _: &mut Peers) -> Result<Option<PeerId>, Fault> {
        if end == End::Back {
            self.balancer.attach(peer);
        }
        Ok(None)
    }

    fn detach(&mut self, end: End, peer: PeerId, _: Gone, peers: &mut Peers) {
        if end == End::Back {
            self.balancer.detach(peer);
            if let Some(peer) = peers.get_mut(peer) {
                peer.out.clear();
            }
            if let Some(outlet) = &mut self.sides.outlet {
                outlet.detach(peer);
            }
        }
    }

    fn receive(&mut self, end: End, _: PeerId, event: Event, _: &mut Peers) -> Result<(), Fault> {
        let Event::Messages(chunk) = event else { return Ok(()) };
        self.counters.received += u64::from(chunk.messages());
        match &mut self.sides.inlet {
            Some(inlet) if end == End::Front => {
                let mut batch = BatchBuilder::with_capacity(chunk.len() * 2, chunk.messages() as usize);
                for message in chunk.each() {
                    let (props, body) = self.forms.for_queue(message);
                    batch.push(props, body);
                }
                inlet.publish(&self.route, batch, self.now);
            }
            _ => self.counters.unroutable += u64::from(chunk.messages()),
        }
        Ok(())
    }

    fn pump(&mut self, peers: &mut Peers) -> bool {
        let Some(outlet) = &mut self.sides.outlet else { return false };
        let (balancer, counters) = (&mut self.balancer, &mut self.counters);
        outlet.pump(|chunk, given| {
            counters.sent += balancer.send(chunk, &mut Recorder { peers, given });
        })
    }

    fn wants(&self, end: End, _: PeerId) -> bool {
        self.sides.wants(end)
    }

    fn is_blocked(&self) -> bool {
        self.sides.is_blocked()
    }

    fn is_settled(&self) -> bool {
        self.sides.is_settled()
    }

    fn counters(&self) -> Counters {
        self.sides.counters(self.counters)
    }

    fn turn(&mut self, _: &mut Peers, now: Millis) -> bool {
        self.now = now;
        self.sides.turn(now, Form::Queue)
    }

    fn deadline(&self) -> Option<Millis> {
        self.sides.deadline()
    }

    fn left(&mut self, peer: PeerId, messages: u32) {
        if let Some(outlet) = &mut self.sides.outlet {
            outlet.left(peer, messages);
        }
    }
}

/// Queues that note who got how many messages.
struct Recorder<'a> {
    peers: &'a mut Peers,
    given: &'a mut Vec<(PeerId, u32)>,
}

impl Queues for Recorder<'_> {
    fn room(&self, peer: PeerId) -> u32 {
        self.peers.room(peer)
    }

    fn push(&mut self, peer: PeerId, chunk: Chunk) {
        self.given.push((peer, chunk.messages()));
        self.peers.push(peer, chunk);
    }

    fn push_copy(&mut self, peer: PeerId, bytes: &[u8], messages: u32) {
        self.given.push((peer, messages));
        self.peers.push_copy(peer, bytes, messages);
    }

    fn subscription(&mut self, peer: PeerId, prefix: &[u8], wish: Wish) {
        self.peers.subscription(peer, prefix, wish);
    }
}
