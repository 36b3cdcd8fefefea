//! Consuming, with credit and settlement.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use waypost_broker::broker::Connection;
use waypost_broker::broker::admin::Actor;
use waypost_model::command::{Consume, Outcome, Sent, Settle};
use waypost_model::props::Props;
use waypost_model::table::Table;
use waypost_model::{
    Batch, Body, Call, ChannelId, Command, ConsumerId, Delivery, Event, Outbox, QueueId, Refusal, Reply, Route, Seq,
    Turn,
};

use super::Local;
use crate::driver::Core;
use crate::driver::bodies::{Loading, Resolved};

const CHANNEL: ChannelId = ChannelId(1);
const TOKEN: u32 = 0;

/// On what terms messages are taken.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// From which queue.
    pub queue: Box<str>,
    /// Under which tag, for listings.
    pub tag: Box<str>,
    /// Settled when they are handed out.
    pub no_ack: bool,
    /// Messages unsettled at a time; 0 is no limit.
    pub prefetch: u16,
    /// Bytes of messages unsettled at a time, about: the last one may exceed it.
    pub window_bytes: u64,
    /// Further arguments.
    pub arguments: Table,
}

/// Consumes one queue. Ends when it is dropped: what it holds unsettled returns to the queue.
pub(crate) struct Subscriber {
    local: Local,
    /// Taken when it ends.
    conn: Option<Connection>,
    outbox: Arc<Outbox>,
    events: VecDeque<Event>,
    loading: Option<Loading>,
    /// Handed out message by message.
    current: Option<Delivery>,
    consumer: ConsumerId,
    no_ack: bool,
    /// For direct reply-to: what askers write into `reply-to`.
    pub(crate) reply_to: Option<Box<str>>,
}

/// What comes.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A message.
    Message(Received),
    /// The end: the queue is gone, or the server goes.
    Over(Refusal),
}

/// A message, and what is needed to settle it.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// Where it was published to.
    pub route: Arc<Route>,
    batch: Arc<Batch>,
    index: u32,
    /// May have been delivered before.
    pub redelivered: bool,
    /// Failed deliveries so far.
    pub delivery_count: u32,
    /// For [`Subscriber::settle`].
    pub receipt: Receipt,
}

/// Names a message that was handed out, until it is settled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Receipt {
    queue: QueueId,
    /// Its place in the queue.
    pub seq: Seq,
    cost: u64,
}

impl Receipt {
    /// A text for it, the same at every delivery of the message.
    pub(crate) fn id(&self) -> String {
        format!("{:x}-{:x}", self.queue.0, self.seq.0)
    }
}

impl Received {
    /// A message that came from nowhere.
    #[cfg(test)]
    pub(crate) fn for_test(props: &[u8], body: &[u8]) -> Received {
        Received {
            route: Arc::default(),
            batch: Arc::new(Batch::single(props, body)),
            index: 0,
            redelivered: false,
            delivery_count: 0,
            receipt: Receipt { queue: QueueId(1), seq: Seq(1), cost: 0 },
        }
    }

    /// Its properties.
    pub(crate) fn props(&self) -> Props<'_> {
        Props(self.batch.props(self.index))
    }

    /// Its body.
    pub(crate) fn body(&self) -> &[u8] {
        self.batch.body(self.index)
    }

    /// The same in a buffer of its own, for what is kept for long: it came in one that others share.
    pub(crate) fn compact(self) -> Received {
        let batch = Arc::new(Batch::single(self.batch.props(self.index), self.body()));
        Received { batch, index: 0, ..self }
    }

    /// Its body, without copying it.
    pub(crate) fn body_bytes(&self) -> bytes::Bytes {
        bytes::Bytes::from_owner(OwnedBody { batch: Arc::clone(&self.batch), index: self.index })
    }
}

struct OwnedBody {
    batch: Arc<Batch>,
    index: u32,
}

impl AsRef<[u8]> for OwnedBody {
    fn as_ref(&self) -> &[u8] {
        self.batch.body(self.index)
    }
}

impl Subscriber {
    /// Starts to consume.
    ///
    /// # Errors
    /// What the broker says: no such vhost or queue, in exclusive use, invalid arguments.
    pub(crate) fn start(local: &Local, actor: Actor<'_>, vhost: &str, terms: &Terms) -> Result<Subscriber, Refusal> {
        let outbox = Arc::new(Outbox::default());
        let conn = local.core.broker().connect_local(actor, vhost, Arc::clone(&outbox), local.clock.now())?;
        let mut subscriber = Subscriber {
            local: local.clone(),
            conn: Some(conn),
            outbox,
            events: VecDeque::new(),
            loading: None,
            current: None,
            consumer: ConsumerId(0),
            no_ack: terms.no_ack,
            reply_to: None,
        };
        let consume = Consume {
            queue: terms.queue.clone(),
            tag: terms.tag.clone(),
            no_ack: terms.no_ack,
            exclusive: false,
            arguments: terms.arguments.clone(),
            window_bytes: terms.window_bytes,
        };
        let qos = Call::Qos { prefetch_count: terms.prefetch, global: false };
        subscriber.execute([Call::OpenChannel, qos, Call::Consume(consume)].map(call));
        subscriber.started()?;
        Ok(subscriber)
    }

    /// Reads the answers to the calls; the last comes at once, before its deliveries.
    fn started(&mut self) -> Result<(), Refusal> {
        self.outbox.drain(&mut self.events, None);
        while let Some(event) = self.events.pop_front() {
            match event {
                Event::Reply { reply: Reply::Consuming { consumer, reply_to, .. }, .. } => {
                    (self.consumer, self.reply_to) = (consumer, reply_to);
                    return Ok(());
                }
                Event::Refused { refusal, .. } | Event::Close { refusal } => return Err(refusal),
                _ => {}
            }
        }
        Err(Refusal::internal("the broker said nothing to a consume"))
    }

    /// The next message, or the end.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Incoming {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            if let Some(received) = self.hand_out() {
                return Poll::Ready(Incoming::Message(received));
            }
            if let Some(loading) = &mut self.loading {
                let Poll::Ready(result) = loading.poll(cx) else { return Poll::Pending };
                self.loading = None;
                match result {
                    Ok(resolved) => self.loaded(resolved),
                    Err(error) => return Poll::Ready(Incoming::Over(Refusal::internal(error.to_string()))),
                }
                continue;
            }
            if self.events.is_empty() {
                self.outbox.drain(&mut self.events, Some(cx.waker()));
            }
            let core = &self.local.core;
            if let Some(loading) = Loading::start(&mut self.events, core.durable(), core.bodies()) {
                self.loading = Some(loading);
                continue;
            }
            match self.events.pop_front() {
                None => return Poll::Pending,
                Some(Event::Deliver(delivery)) => self.current = Some(delivery),
                Some(Event::Cancelled { tag, .. }) => {
                    let text = format!(
                        "consumer '{tag}' is cancelled: its queue is gone, or the drain of its instance is over"
                    );
                    return Poll::Ready(Incoming::Over(Refusal::not_found(text)));
                }
                Some(Event::Refused { refusal, .. } | Event::Close { refusal }) => {
                    return Poll::Ready(Incoming::Over(refusal));
                }
                Some(_) => {}
            }
        }
    }

    fn loaded(&mut self, resolved: VecDeque<Resolved>) {
        for one in resolved.into_iter().rev() {
            match one {
                Resolved::Ready(event) => self.events.push_front(event),
                // The queue was deleted meanwhile, which an event will tell; or the disk fails, which the node will notice.
                Resolved::Failed(delivery, error) => {
                    tracing::warn!(queue = delivery.queue.0, first = delivery.first.0, %error, "a message cannot be read");
                    self.execute([Command::Sent(Sent {
                        consumer: delivery.consumer,
                        queue: delivery.queue,
                        messages: delivery.count,
                        bytes: delivery.cost,
                    })]);
                }
            }
        }
    }

    /// The next message of the delivery under way.
    fn hand_out(&mut self) -> Option<Received> {
        let mut delivery = self.current.take()?;
        let Body::Mem { batch, from } = &delivery.body else { return None };
        let (batch, index) = (Arc::clone(batch), *from);
        let last = delivery.count == 1;
        // The last takes what is left, so that the sum is what the core took.
        let cost = if last { delivery.cost } else { (batch.payload_len(index, index + 1) + 64).min(delivery.cost) };
        let received = Received {
            route: Arc::clone(&delivery.route),
            batch: Arc::clone(&batch),
            index,
            redelivered: delivery.redelivered,
            delivery_count: delivery.delivery_count,
            receipt: Receipt { queue: delivery.queue, seq: delivery.first, cost },
        };
        if !last {
            delivery.body = Body::Mem { batch, from: index + 1 };
            delivery.first = delivery.first.plus(1);
            delivery.count -= 1;
            delivery.cost -= cost;
            self.current = Some(delivery);
        }
        if self.no_ack {
            self.give_back(received.receipt, None);
        }
        Some(received)
    }

    /// Sets how many messages may be unsettled at a time, for the consumer that there is already.
    pub(crate) fn limit(&mut self, messages: u16) {
        self.execute([call(Call::Qos { prefetch_count: messages, global: true })]);
    }

    /// Says what becomes of a message, and gives its credit back. Not for those that need no settlement.
    pub(crate) fn settle(&mut self, receipt: Receipt, outcome: Outcome) {
        self.give_back(receipt, Some(outcome));
    }

    fn give_back(&mut self, receipt: Receipt, outcome: Option<Outcome>) {
        let Receipt { queue, seq, cost } = receipt;
        let sent = Command::Sent(Sent { consumer: self.consumer, queue, messages: 1, bytes: cost });
        let settle = outcome.map(|outcome| {
            Command::Settle(Settle { channel: CHANNEL, queue, consumer: self.consumer, first: seq, count: 1, outcome })
        });
        self.execute(std::iter::once(sent).chain(settle));
    }

    fn execute(&mut self, commands: impl IntoIterator<Item = Command>) {
        let mut turn = Turn { batch: None, commands: commands.into_iter().collect() };
        if let Some(conn) = &mut self.conn {
            self.local.core.execute(conn, &mut turn, self.local.clock.now());
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.local.core.disconnect(conn, self.local.clock.now());
        }
    }
}

fn call(call: Call) -> Command {
    Command::Call { channel: CHANNEL, token: TOKEN, call }
}
