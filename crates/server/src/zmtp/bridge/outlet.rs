//! From a queue of the broker to peers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use waypost_model::command::{Consume, Outcome, Sent, Settle};
use waypost_model::journal::BodyStore;
use waypost_model::table::Table;
use waypost_model::{
    Batch, Body, Call, Command, ConsumerId, Delivery, Event, QueueId, Refusal, Reply, Route, Seq, Turn,
};
use waypost_zmtp::{Chunk, PeerId};

use super::convert;
use super::link::{CHANNEL, Link, Place};

/// Bytes of messages that are with us at a time, about.
const WINDOW_BYTES: u64 = 2 * 1024 * 1024;
/// Flat cost of a message beside its payload, as the core counts it.
const MESSAGE_COST: u64 = 64;

/// A consumer.
pub(super) struct Outlet {
    link: Link,
    consumer: ConsumerId,
    ready: VecDeque<Ready>,
    /// What each peer was given and has not taken yet.
    owed: BTreeMap<PeerId, VecDeque<Owed>>,
    commands: Vec<Command>,
    /// The queue is gone.
    pub(super) over: bool,
}

/// Messages that wait for a peer with room.
struct Ready {
    chunk: Chunk,
    queue: QueueId,
    first: Seq,
    /// Of each message.
    costs: VecDeque<u64>,
}

/// Messages with consecutive places.
struct Owed {
    queue: QueueId,
    first: Seq,
    /// Of each message.
    costs: VecDeque<u64>,
}

/// How a message looks to peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// See [`convert::from_queue`].
    Queue,
    /// See [`convert::from_exchange`].
    Exchange,
}

impl Outlet {
    pub(super) fn open(place: &Place, mut link: Link, queue: &str) -> Result<Outlet, Refusal> {
        let consume = Consume {
            queue: queue.into(),
            tag: "zmtp".into(),
            no_ack: false,
            exclusive: false,
            arguments: Table::new(),
            window_bytes: WINDOW_BYTES,
        };
        debug_assert!(!place.vhost.is_empty(), "every vhost has a name");
        let Reply::Consuming { consumer, .. } = link.call(Call::Consume(consume))? else {
            return Err(Refusal::internal("the broker gave no consumer"));
        };
        Ok(Outlet { link, consumer, ready: VecDeque::new(), owed: BTreeMap::new(), commands: Vec::new(), over: false })
    }

    pub(super) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Whether messages wait for room.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes what the broker has delivered, and tells it what has left. Returns how many messages came.
    pub(super) fn turn(&mut self, form: Form) -> u64 {
        self.flush();
        let mut came = 0;
        while let Some(event) = self.link.next() {
            match event {
                Event::Deliver(delivery) => {
                    came += u64::from(delivery.count);
                    self.take(delivery, form);
                }
                Event::Cancelled { .. } | Event::Refused { .. } => self.over = true,
                _ => {}
            }
        }
        came
    }

    fn take(&mut self, delivery: Delivery, form: Form) {
        let store = Arc::clone(self.link.bodies());
        let (mut rest, mut cost) = (delivery.clone(), delivery.cost);
        while rest.count > 0 {
            let (batch, from, n) = match load(&rest, &*store) {
                Ok(found) => found,
                Err(error) => {
                    // The queue was deleted meanwhile, or the disk fails, which the node will notice.
                    tracing::warn!(queue = rest.queue.0, first = rest.first.0, %error, "a message cannot be read");
                    self.give_back(rest.queue, rest.count, cost);
                    return;
                }
            };
            let mut costs = VecDeque::with_capacity(n as usize);
            for i in 0..n {
                let own = (batch.payload_len(from + i, from + i + 1) + MESSAGE_COST).min(cost);
                // The last takes what is left, so that the sum is what the core took.
                let own = if i + 1 == rest.count { cost } else { own };
                cost -= own;
                costs.push_back(own);
            }
            let wire = encode(&rest.route, &batch, from, n, form);
            if let Some(chunk) = convert::chunk(wire) {
                self.ready.push_back(Ready { chunk, queue: rest.queue, first: rest.first, costs });
            }
            rest.first = rest.first.plus(u64::from(n));
            rest.count -= n;
            if let Body::Mem { from, .. } = &mut rest.body {
                *from += n;
            }
        }
    }

    /// Gives what is ready to `send`, which says how many messages of the chunk went to whom, in order. Returns whether
    /// anything went.
    pub(super) fn pump(&mut self, mut send: impl FnMut(&mut Chunk, &mut Vec<(PeerId, u32)>)) -> bool {
        let (mut any, mut given) = (false, Vec::new());
        while let Some(front) = self.ready.front_mut() {
            given.clear();
            send(&mut front.chunk, &mut given);
            for &(peer, n) in &given {
                any = true;
                owe(self.owed.entry(peer).or_default(), front, n);
            }
            if !front.chunk.is_empty() {
                break;
            }
            self.ready.pop_front();
        }
        any
    }

    /// Everything that is ready goes to whoever wants it: nothing is owed.
    pub(super) fn publish(&mut self, mut send: impl FnMut(&mut Chunk)) -> bool {
        let mut any = false;
        while let Some(front) = self.ready.front_mut() {
            let before = front.chunk.messages();
            send(&mut front.chunk);
            let n = before - front.chunk.messages();
            any |= n > 0;
            let mut gone = VecDeque::new();
            owe(&mut gone, front, n);
            let over = front.chunk.is_empty();
            gone.into_iter().for_each(|owed| self.settle(owed, Outcome::Accepted));
            if !over {
                break;
            }
            self.ready.pop_front();
        }
        any
    }

    /// That many messages have left for a peer.
    pub(super) fn left(&mut self, peer: PeerId, mut n: u32) {
        let mut done = Vec::new();
        let Some(owed) = self.owed.get_mut(&peer) else { return };
        while n > 0
            && let Some(front) = owed.front_mut()
        {
            let count = (front.costs.len() as u32).min(n);
            let costs: VecDeque<u64> = front.costs.drain(..count as usize).collect();
            done.push(Owed { queue: front.queue, first: front.first, costs });
            front.first = front.first.plus(u64::from(count));
            if front.costs.is_empty() {
                owed.pop_front();
            }
            n -= count;
        }
        done.into_iter().for_each(|owed| self.settle(owed, Outcome::Accepted));
    }

    /// A peer is gone: what it was given and has not taken goes back to the queue.
    pub(super) fn detach(&mut self, peer: PeerId) {
        for owed in self.owed.remove(&peer).unwrap_or_default() {
            self.settle(owed, Outcome::Released);
        }
        self.flush();
    }

    fn settle(&mut self, owed: Owed, outcome: Outcome) {
        let count = u32::try_from(owed.costs.len()).unwrap_or(u32::MAX);
        self.give_back(owed.queue, count, owed.costs.iter().sum());
        let (queue, first) = (owed.queue, owed.first);
        if let Some(Command::Settle(last)) = self.commands.iter_mut().rev().find(|c| matches!(c, Command::Settle(_)))
            && (last.queue, last.outcome) == (queue, outcome)
            && last.first.plus(u64::from(last.count)) == first
        {
            last.count += count;
            return;
        }
        let settle = Settle { channel: CHANNEL, queue, consumer: self.consumer, first, count, outcome };
        self.commands.push(Command::Settle(settle));
    }

    fn give_back(&mut self, queue: QueueId, messages: u32, bytes: u64) {
        if let Some(Command::Sent(last)) = self.commands.iter_mut().find(|c| matches!(c, Command::Sent(_)))
            && last.queue == queue
        {
            last.messages += messages;
            last.bytes += bytes;
            return;
        }
        self.commands.insert(0, Command::Sent(Sent { consumer: self.consumer, queue, messages, bytes }));
    }

    fn flush(&mut self) {
        if !self.commands.is_empty() {
            let mut turn = Turn { batch: None, commands: std::mem::take(&mut self.commands) };
            self.link.execute(&mut turn);
            turn.commands.clear();
            self.commands = turn.commands;
        }
    }
}

/// Moves the next `n` messages from what is ready to what is owed.
fn owe(to: &mut VecDeque<Owed>, front: &mut Ready, n: u32) {
    let n = (n as usize).min(front.costs.len());
    let (queue, first) = (front.queue, front.first);
    let costs = front.costs.drain(..n);
    match to.back_mut() {
        Some(last) if last.queue == queue && last.first.plus(last.costs.len() as u64) == first => {
            last.costs.extend(costs);
        }
        _ => to.push_back(Owed { queue, first, costs: costs.collect() }),
    }
    front.first = front.first.plus(n as u64);
}

/// The bytes of the first messages of a delivery: batch, first message, how many.
pub(super) fn load(delivery: &Delivery, store: &dyn BodyStore) -> std::io::Result<(Arc<Batch>, u32, u32)> {
    let wrong = || std::io::Error::new(std::io::ErrorKind::InvalidData, "the store gave too few messages");
    let (batch, from, n) = match &delivery.body {
        Body::Mem { batch, from } => (Arc::clone(batch), *from, delivery.count),
        Body::Spilled { at, skip } => (store.load_spilled(*at)?, *skip, delivery.count),
        Body::Stored => {
            let loaded = store.load(delivery.queue, delivery.first, delivery.count)?;
            let n = loaded.to.saturating_sub(loaded.from).min(delivery.count);
            (loaded.batch, loaded.from, n)
        }
    };
    let end = from.checked_add(n).ok_or_else(wrong)?;
    if n == 0 || end as usize > batch.len() { Err(wrong()) } else { Ok((batch, from, n)) }
}

fn encode(route: &Route, batch: &Batch, from: u32, n: u32, form: Form) -> Vec<u8> {
    let mut wire = Vec::with_capacity(usize::try_from(batch.payload_len(from, from + n)).unwrap_or(0) + 2 * n as usize);
    for i in from..from + n {
        match form {
            Form::Queue => convert::from_queue(batch.props(i), batch.body(i), &mut wire),
            Form::Exchange => convert::from_exchange(&route.routing_key, batch.props(i), batch.body(i), &mut wire),
        }
    }
    wire
}
