//! A forwarder with an exchange: publishers publish to it, subscribers get what it routes.

use std::sync::Arc;

use waypost_model::command::{Binding, Destination, ExchangeDeclare, QueueDeclare};
use waypost_model::table::Table;
use waypost_model::{AttrFlags, BatchBuilder, Call, Millis, Refusal, RefusalKind, Reply, Route};
use waypost_zmtp::device::{Counters, End, Gone};
use waypost_zmtp::engine::PeerInfo;
use waypost_zmtp::pattern::fanout::{Fanout, Overflow};
use waypost_zmtp::wire::frame;
use waypost_zmtp::{Chunk, Event, Fault, PeerId, Queues, Wish};

use super::convert::Forms;
use super::inlet::Inlet;
use super::link::{Link, Place};
use super::outlet::{Form, Outlet};
use super::sides::{Ends, Sides};
use crate::zmtp::machine::Machine;
use crate::zmtp::peers::Peers;

/// The device.
pub(crate) struct ExchangeBridge {
    exchange: Box<str>,
    sides: Sides,
    fanout: Fanout,
    overflow: Overflow,
    /// That of the run before, so that runs with the same key share it.
    route: Arc<Route>,
    forms: Forms,
    now: Millis,
    counters: Counters,
}

impl ExchangeBridge {
    /// A bridge to an exchange of type topic or fanout, which is made a durable topic exchange if there is none.
    ///
    /// # Errors
    /// What the broker says, or that the exchange is of another type.
    pub(crate) fn open(
        place: &Place,
        exchange: &str,
        ends: Ends,
        overflow: Overflow,
    ) -> Result<ExchangeBridge, Refusal> {
        declare(place, exchange)?;
        let kind = place.core.broker().exchange(&place.vhost, exchange)?.kind;
        if ends.back && !matches!(kind, "topic" | "fanout") {
            let text = format!("exchange '{exchange}' is of type {kind}: subscribers need one of type topic or fanout");
            return Err(Refusal::precondition_failed(text));
        }
        let inlet = ends.front.then(|| Inlet::open(place, AttrFlags::default())).transpose()?;
        let outlet = ends.back.then(|| outlet(place, exchange)).transpose()?;
        Ok(ExchangeBridge {
            exchange: exchange.into(),
            sides: Sides { inlet, outlet },
            fanout: Fanout::default(),
            overflow,
            route: Arc::new(Route::new(exchange, "")),
            forms: Forms::transient(),
            now: place.clock.now(),
            counters: Counters::default(),
        })
    }

    /// Publishes runs of messages with the same key.
    fn publish(&mut self, chunk: &Chunk) {
        let Some(inlet) = &mut self.sides.inlet else { return };
        let mut batch = BatchBuilder::default();
        for message in chunk.each() {
            let Some((key, props, body)) = self.forms.for_exchange(message) else {
                self.counters.unroutable += 1;
                continue;
            };
            if *key != *self.route.routing_key {
                if !batch.is_empty() {
                    inlet.publish(&self.route, std::mem::take(&mut batch), self.now);
                }
                self.route = Arc::new(Route::new(&self.exchange, key));
            }
            batch.push(props, body);
        }
        if !batch.is_empty() {
            inlet.publish(&self.route, batch, self.now);
        }
    }

    fn wish(&mut self, peer: PeerId, prefix: &[u8], wish: Wish) -> Result<(), Fault> {
        let subscriptions = &mut self.fanout.subscriptions;
        match wish {
            Wish::Subscribe => {
                subscriptions.subscribe(peer, prefix).map_err(|over| Fault::Subscriptions(over.0))?;
            }
            Wish::Cancel => {
                subscriptions.cancel(peer, prefix);
            }
        }
        Ok(())
    }

    /// ZMTP 3.0 has subscriptions in messages; an exchange has nobody to hear anything else.
    fn subscriber_says(&mut self, peer: PeerId, chunk: &Chunk) -> Result<(), Fault> {
        for message in chunk.each() {
            let Some(first) = frame::first(message) else { continue };
            match first.body.split_first() {
                Some((1, prefix)) if !first.more() => self.wish(peer, prefix, Wish::Subscribe)?,
                Some((0, prefix)) if !first.more() => self.wish(peer, prefix, Wish::Cancel)?,
                _ => self.counters.unroutable += 1,
            }
        }
        Ok(())
    }
}

/// Takes an exchange that is there as it is.
fn declare(place: &Place, exchange: &str) -> Result<(), Refusal> {
    let wish = ExchangeDeclare {
        name: exchange.into(),
        kind: "topic".into(),
        passive: true,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::new(),
    };
    match Link::open(place)?.call(Call::ExchangeDeclare(wish.clone())) {
        Err(refusal) if refusal.kind == RefusalKind::NotFound => {
            Link::open(place)?.call(Call::ExchangeDeclare(ExchangeDeclare { passive: false, ..wish })).map(drop)
        }
        done => done.map(drop),
    }
}

/// A queue of our own that gets everything: prefixes are matched here.
fn outlet(place: &Place, exchange: &str) -> Result<Outlet, Refusal> {
    let mut link = Link::open(place)?;
    let declared = link.call(Call::QueueDeclare(QueueDeclare {
        name: "".into(),
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: true,
        arguments: Table::new(),
    }))?;
    let Reply::QueueDeclared { name, .. } = declared else {
        return Err(Refusal::internal("the broker gave the queue no name"));
    };
    link.call(Call::Bind(Binding {
        source: exchange.into(),
        destination: Destination::Queue(name.clone()),
        routing_key: (*b"#").into(),
        arguments: Table::new(),
    }))?;
    Outlet::open(place, link, &name)
}

impl Machine for ExchangeBridge {
    fn start(&mut self, waker: &Arc<mio::Waker>) {
        self.sides.wake_by(waker);
    }

    fn announce(&mut self, _: End, _: PeerId) {}

    /// Who consumes from the exchange is not known here: publishers are asked for everything.
    fn attach(&mut self, end: End, peer: PeerId, _: &PeerInfo, peers: &mut Peers) -> Result<Option<PeerId>, Fault> {
        if end == End::Front {
            peers.subscription(peer, b"", Wish::Subscribe);
        }
        Ok(None)
    }

    fn detach(&mut self, end: End, peer: PeerId, _: Gone, _: &mut Peers) {
        if end == End::Back {
            self.fanout.subscriptions.remove(peer, |_| ());
        }
    }

    fn receive(&mut self, end: End, peer: PeerId, event: Event, _: &mut Peers) -> Result<(), Fault> {
        match (end, event) {
            (End::Front, Event::Messages(chunk)) => {
                self.counters.received += u64::from(chunk.messages());
                self.publish(&chunk);
                Ok(())
            }
            (End::Back, Event::Messages(chunk)) => self.subscriber_says(peer, &chunk),
            (End::Back, Event::Subscribe(prefix)) => self.wish(peer, &prefix, Wish::Subscribe),
            (End::Back, Event::Cancel(prefix)) => self.wish(peer, &prefix, Wish::Cancel),
            _ => Ok(()),
        }
    }

    fn pump(&mut self, peers: &mut Peers) -> bool {
        let Some(outlet) = &mut self.sides.outlet else { return false };
        let (fanout, overflow, counters) = (&mut self.fanout, self.overflow, &mut self.counters);
        outlet.publish(|chunk| counters.note(fanout.publish(chunk, overflow, peers)))
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
        self.sides.turn(now, Form::Exchange)
    }

    fn deadline(&self) -> Option<Millis> {
        self.sides.deadline()
    }
}
