//! Majordomo on service mailboxes: a worker is an instance of its service, a request a message to it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use waypost_model::command::{Consume, Outcome, Sent, Settle};
use waypost_model::props::{DELIVERY_MODE_PERSISTENT, Props, PropsOwned, ShortStr};
use waypost_model::service::{Health, ServiceName};
use waypost_model::table::{Table, Value};
use waypost_model::{
    AttrFlags, BatchBuilder, Call, Command, ConsumerId, Delivery, Event as Told, Millis, QueueId, Refusal, Reply,
    Route, Seq, Turn,
};
use waypost_zmtp::device::{Counters, End, Gone};
use waypost_zmtp::engine::PeerInfo;
use waypost_zmtp::majordomo::{Body, Intent, Pace, RequestId, Session, Tag};
use waypost_zmtp::wire::frame;
use waypost_zmtp::{Event, Fault, PeerId};

use super::convert;
use super::inlet::Inlet;
use super::link::{CHANNEL, Link, Place};
use super::outlet::load;
use crate::zmtp::machine::Machine;
use crate::zmtp::peers::Peers;

/// The exchange of services.
const SERVICES: &str = "amq.services";
/// Type of answers that are not the last.
const PARTIAL: &str = "mdp.partial";
/// Bytes of answers on their way to us; what comes beyond is dropped.
const REPLY_WINDOW_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of requests on their way to a worker; the last may exceed it.
const WORKER_WINDOW_BYTES: u64 = 1024 * 1024;
/// How long a request waits for a worker and its answer, ms.
const REQUEST_MS: u32 = 60_000;

/// The device.
pub(crate) struct MajordomoBridge {
    place: Place,
    name: String,
    session: Session,
    intents: Vec<Intent>,
    requests: Inlet,
    replies: Replies,
    answers: Inlet,
    workers: BTreeMap<PeerId, Worker>,
    /// When the requests that are under way expire; all have the same time.
    expiring: VecDeque<(Millis, RequestId)>,
    waker: Option<Arc<mio::Waker>>,
    /// Of the next instance, and of the next request to a worker.
    number: u64,
    now: Millis,
    counters: Counters,
}

/// Where answers come in.
struct Replies {
    link: Link,
    consumer: ConsumerId,
    reply_to: ShortStr,
}

/// A worker's part in the broker.
struct Worker {
    link: Link,
    consumer: ConsumerId,
    held: Option<Held>,
}

/// What a worker was given.
struct Held {
    tag: Tag,
    queue: QueueId,
    seq: Seq,
    cost: u64,
    reply_to: Option<ShortStr>,
    correlation_id: Option<ShortStr>,
}

impl MajordomoBridge {
    /// A broker for Majordomo's clients and workers, under this name.
    ///
    /// # Errors
    /// What the broker says.
    pub(crate) fn open(place: &Place, name: &str, pace: Pace) -> Result<MajordomoBridge, Refusal> {
        let mut requests = Inlet::open(place, AttrFlags::PERSISTENT)?;
        // Who is not there yet may come: the message waits for it.
        requests.waits_for_receivers(REQUEST_MS);
        Ok(MajordomoBridge {
            place: place.clone(),
            name: name.to_owned(),
            session: Session::new(pace),
            intents: Vec::new(),
            requests,
            replies: Replies::open(place)?,
            answers: Inlet::open(place, AttrFlags::default())?,
            workers: BTreeMap::new(),
            expiring: VecDeque::new(),
            waker: None,
            number: 0,
            now: place.clock.now(),
            counters: Counters::default(),
        })
    }

    /// Does what peers want.
    fn carry_out(&mut self, peers: &mut Peers) {
        while !self.intents.is_empty() {
            for intent in std::mem::take(&mut self.intents) {
                match intent {
                    Intent::Ready { worker, service } => self.ready(worker, &service, peers),
                    Intent::Request { id, service, body } => self.request(id, &service, &body),
                    Intent::Lookup { id, service } => {
                        let code = if self.is_served(&service) { 200 } else { 404 };
                        self.session.answer_status(id, code, peers);
                    }
                    Intent::Reply { worker, tag, body, last } => self.reply(worker, tag, &body, last),
                    // A worker's life is its connection's and its heartbeats', which the session looks after.
                    Intent::Alive { .. } => {}
                    // What it held returns to the mailbox with its link.
                    Intent::Gone { worker, .. } => drop(self.workers.remove(&worker)),
                }
            }
        }
    }

    /// A worker becomes an instance of its service.
    fn ready(&mut self, peer: PeerId, service: &str, peers: &mut Peers) {
        self.number += 1;
        let id = format!("{}-{}", self.name, self.number);
        match Worker::open(&self.place, service, &id) {
            Ok(mut worker) => {
                if let Some(waker) = &self.waker {
                    worker.link.wake_by(waker);
                }
                self.workers.insert(peer, worker);
            }
            Err(refusal) => {
                tracing::info!(device = self.name, service, %refusal, "a majordomo worker was refused");
                self.session.dismiss(peer, peers, &mut self.intents);
            }
        }
    }

    fn request(&mut self, id: RequestId, service: &str, body: &Body) {
        let (wire, content_type) = encode(body);
        let props = PropsOwned {
            content_type,
            delivery_mode: Some(DELIVERY_MODE_PERSISTENT),
            correlation_id: ShortStr::new(id.0.to_string()),
            reply_to: Some(self.replies.reply_to.clone()),
            expiration: ShortStr::new(REQUEST_MS.to_string()),
            ..PropsOwned::default()
        };
        let mut batch = BatchBuilder::default();
        batch.push(&props.to_bytes(), &wire);
        self.requests.publish(&Arc::new(Route::new(SERVICES, service)), batch, self.now);
        self.expiring.push_back((self.now.plus(u64::from(REQUEST_MS)), id));
    }

    fn is_served(&self, service: &str) -> bool {
        let name = ServiceName { vhost: Arc::clone(&self.place.vhost), service: service.into() };
        let found = self.place.core.broker().service(&name);
        found.is_ok_and(|report| report.instances.iter().any(|instance| instance.standing.health == Health::Passing))
    }

    /// A worker's answer goes to whoever asked, by whatever protocol that was.
    fn reply(&mut self, peer: PeerId, tag: Tag, body: &Body, last: bool) {
        let Some(worker) = self.workers.get_mut(&peer) else { return };
        let Some(held) = worker.held.as_ref().filter(|held| held.tag == tag) else { return };
        if let Some(reply_to) = &held.reply_to {
            let (wire, content_type) = encode(body);
            let props = PropsOwned {
                content_type,
                correlation_id: held.correlation_id.clone(),
                type_: (!last).then(|| ShortStr::new(PARTIAL)).flatten(),
                ..PropsOwned::default()
            };
            let mut batch = BatchBuilder::default();
            batch.push(&props.to_bytes(), &wire);
            self.answers.publish(&Arc::new(Route::new("", &**reply_to)), batch, self.now);
        }
        if last {
            worker.settle(Outcome::Accepted);
        }
    }

    /// Requests that wait for workers with room.
    fn assign(&mut self, peers: &mut Peers) -> bool {
        let mut any = false;
        for (&peer, worker) in &mut self.workers {
            while let Some(told) = worker.link.next() {
                let Told::Deliver(delivery) = told else { continue };
                any = true;
                self.number += 1;
                let Some(body) = worker.take(&delivery, Tag(self.number)) else { continue };
                if self.session.assign(peer, Tag(self.number), &body, self.now, peers) {
                    self.counters.sent += 1;
                } else {
                    worker.settle(Outcome::Released);
                }
            }
        }
        any
    }

    /// Answers that came for clients.
    fn deliver(&mut self, peers: &mut Peers) -> bool {
        let mut any = false;
        while let Some(told) = self.replies.link.next() {
            let Told::Deliver(delivery) = told else { continue };
            any = true;
            let Ok((batch, from, n)) = load(&delivery, &**self.replies.link.bodies()) else { continue };
            for i in from..from + n {
                let props = Props(batch.props(i));
                let id = props.correlation_id().and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
                let Some(id) = id.map(RequestId) else { continue };
                let last = props.type_() != Some(PARTIAL.as_bytes());
                self.session.answer(id, decode(props.0, batch.body(i)), last, peers);
                self.counters.sent += 1;
            }
            let (queue, messages, bytes) = (delivery.queue, delivery.count, delivery.cost);
            let sent = Sent { consumer: self.replies.consumer, queue, messages, bytes };
            self.replies.link.execute(&mut Turn { batch: None, commands: vec![Command::Sent(sent)] });
        }
        any
    }
}

impl Replies {
    fn open(place: &Place) -> Result<Replies, Refusal> {
        let mut link = Link::open(place)?;
        let consume = Consume {
            queue: waypost_broker::broker::replies::PSEUDO_QUEUE.into(),
            tag: "majordomo".into(),
            no_ack: true,
            exclusive: false,
            arguments: Table::new(),
            window_bytes: REPLY_WINDOW_BYTES,
        };
        match link.call(Call::Consume(consume))? {
            Reply::Consuming { consumer, reply_to: Some(reply_to), .. } => {
                let reply_to = ShortStr::new(reply_to.as_bytes());
                let reply_to = reply_to.ok_or_else(|| Refusal::internal("the address for answers is too long"))?;
                Ok(Replies { link, consumer, reply_to })
            }
            _ => Err(Refusal::internal("the broker gave no address for answers")),
        }
    }
}

impl Worker {
    fn open(place: &Place, service: &str, id: &str) -> Result<Worker, Refusal> {
        let name = ServiceName { vhost: Arc::clone(&place.vhost), service: service.into() };
        let (mailbox, _) = place.core.broker().ensure_mailbox(&name, place.clock.now())?;
        let mut link = Link::open(place)?;
        // One request at a time.
        link.call(Call::Qos { prefetch_count: 1, global: false })?;
        let identity = Table::new().with("id", Value::from(id));
        let consume = Consume {
            queue: (&*mailbox.name).into(),
            tag: id.into(),
            no_ack: false,
            exclusive: false,
            arguments: Table::new().with("x-service", Value::Table(identity)),
            window_bytes: WORKER_WINDOW_BYTES,
        };
        let Reply::Consuming { consumer, .. } = link.call(Call::Consume(consume))? else {
            return Err(Refusal::internal("the broker gave no consumer"));
        };
        Ok(Worker { link, consumer, held: None })
    }

    /// Notes what was delivered; its body, if it can be read.
    fn take(&mut self, delivery: &Delivery, tag: Tag) -> Option<Body> {
        let loaded = load(delivery, &**self.link.bodies());
        let mut held = Held {
            tag,
            queue: delivery.queue,
            seq: delivery.first,
            cost: delivery.cost,
            reply_to: None,
            correlation_id: None,
        };
        match loaded {
            Ok((batch, from, _)) => {
                let props = Props(batch.props(from));
                held.reply_to = props.reply_to().and_then(ShortStr::new);
                held.correlation_id = props.correlation_id().and_then(ShortStr::new);
                self.held = Some(held);
                Some(decode(props.0, batch.body(from)))
            }
            Err(error) => {
                tracing::warn!(queue = delivery.queue.0, %error, "a request cannot be read");
                self.held = Some(held);
                self.settle(Outcome::Rejected);
                None
            }
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        let Some(Held { queue, seq: first, cost: bytes, .. }) = self.held.take() else { return };
        let consumer = self.consumer;
        let commands = vec![
            Command::Sent(Sent { consumer, queue, messages: 1, bytes }),
            Command::Settle(Settle { channel: CHANNEL, queue, consumer, first, count: 1, outcome }),
        ];
        self.link.execute(&mut Turn { batch: None, commands });
    }
}

/// The body of a message, and its content type if it is not plain.
fn encode(body: &Body) -> (Vec<u8>, Option<ShortStr>) {
    if let Some(only) = body.only() {
        return (only.to_vec(), None);
    }
    let mut wire = Vec::new();
    frame::put_message(&mut wire, body.frames());
    let content_type = (!wire.is_empty()).then(|| ShortStr::new(convert::MULTIPART)).flatten();
    (wire, content_type)
}

fn decode(props: &[u8], body: &[u8]) -> Body {
    let mut wire = Vec::new();
    convert::from_queue(props, body, &mut wire);
    Body::of(frame::frames(&wire).map(|f| f.body))
}

impl Machine for MajordomoBridge {
    fn start(&mut self, waker: &Arc<mio::Waker>) {
        self.requests.link().wake_by(waker);
        self.answers.link().wake_by(waker);
        self.replies.link.wake_by(waker);
        self.waker = Some(Arc::clone(waker));
    }

    fn announce(&mut self, _: End, _: PeerId) {}

    fn attach(&mut self, _: End, _: PeerId, _: &PeerInfo, _: &mut Peers) -> Result<Option<PeerId>, Fault> {
        Ok(None)
    }

    fn detach(&mut self, _: End, peer: PeerId, _: Gone, peers: &mut Peers) {
        self.session.detach(peer, &mut self.intents);
        self.carry_out(peers);
    }

    fn receive(&mut self, _: End, peer: PeerId, event: Event, peers: &mut Peers) -> Result<(), Fault> {
        let Event::Messages(chunk) = event else { return Ok(()) };
        self.counters.received += u64::from(chunk.messages());
        self.session.receive(peer, &chunk, self.now, peers, &mut self.intents);
        self.carry_out(peers);
        Ok(())
    }

    fn pump(&mut self, _: &mut Peers) -> bool {
        false
    }

    fn wants(&self, _: End, peer: PeerId) -> bool {
        // A worker is always heard: its answers make room.
        self.workers.contains_key(&peer) || (self.requests.has_room() && self.session.wants(peer))
    }

    fn is_blocked(&self) -> bool {
        false
    }

    fn is_settled(&self) -> bool {
        self.requests.is_settled() && self.answers.is_settled()
    }

    fn counters(&self) -> Counters {
        let lost = self.session.undelivered + self.session.violations;
        let unroutable = self.requests.unroutable + self.answers.unroutable + lost;
        Counters { unroutable, ..self.counters }
    }

    fn turn(&mut self, peers: &mut Peers, now: Millis) -> bool {
        self.now = now;
        if self.session.deadline().is_some_and(|at| at <= now) {
            self.session.tick(now, peers, &mut self.intents);
            self.carry_out(peers);
        }
        while let Some(&(at, id)) = self.expiring.front()
            && at <= now
        {
            self.expiring.pop_front();
            self.session.forget(id);
        }
        let mut any = self.requests.turn(now);
        any |= self.answers.turn(now);
        any |= self.deliver(peers);
        any |= self.assign(peers);
        any
    }

    fn deadline(&self) -> Option<Millis> {
        let expiring = self.expiring.front().map(|&(at, _)| at);
        let inlets = [self.requests.deadline(), self.answers.deadline()];
        [self.session.deadline(), expiring].into_iter().chain(inlets).flatten().min()
    }
}
