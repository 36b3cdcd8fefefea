//! What clients do with queues: consume, get, settle, and go.

use std::sync::Arc;

use waypost_model::command::{Sent, Settle};
use waypost_model::{ChannelId, ConnId, ConsumerId, Delivery, Event, Lsn, QueueId, Refusal, Reply, Route, SHARDS, Seq};

use super::consumer::{Consumer, NewConsumer};
use super::mailbox::{Bound, Verdict};
use super::{Place, Shard, at, dispatch, run};
use crate::context::Cx;

/// Where a message was put.
#[derive(Debug, Clone)]
pub struct Placed {
    /// In which queue.
    pub queue: QueueId,
    /// At which place.
    pub seq: Seq,
    /// With what address, which says in which part of a mailbox it waits.
    pub route: Arc<Route>,
}

/// A message that was asked for.
#[derive(Debug, Clone)]
pub struct Got {
    /// The message. `consumer` is the stand-in that settles it; 0 where no settlement is needed.
    pub delivery: Delivery,
    /// Ready messages left in the queue.
    pub remaining: u64,
    /// What must be durable before it is handed out.
    pub after: Option<Lsn>,
    /// Without acknowledgement, and its bytes are not in memory: it is settled by [`Shard::left`], to be called when
    /// they were loaded.
    pub leaving: bool,
}

impl Shard {
    /// A verdict on delivered messages. What the consumer does not hold (any more) is ignored.
    pub fn settle(&mut self, s: &Settle, cx: &mut Cx<'_>) {
        let Some(place) = self.place_in(s.consumer, s.queue) else {
            return;
        };
        if let Some(q) = at(&mut self.queues, place.queue) {
            q.settle(place.slot, s, &mut self.core, cx);
        }
        self.drop_spent(s.consumer, place, cx);
    }

    /// Deliveries have left for the socket: gives back byte credit, and settles what needs no acknowledgement.
    pub fn sent(&mut self, s: &Sent, cx: &mut Cx<'_>) {
        let Some(place) = self.place_in(s.consumer, s.queue) else {
            return;
        };
        if let Some(q) = at(&mut self.queues, place.queue) {
            q.sent(place.slot, s, &mut self.core, cx);
        }
        self.drop_spent(s.consumer, place, cx);
    }

    fn place_in(&self, consumer: ConsumerId, queue: QueueId) -> Option<Place> {
        let place = *self.consumers.get(&consumer)?;
        let q = self.queues.get(place.queue as usize)?.as_deref()?;
        (q.id() == queue).then_some(place)
    }

    fn drop_spent(&mut self, id: ConsumerId, place: Place, cx: &mut Cx<'_>) {
        if let Some(q) = at(&mut self.queues, place.queue).filter(|q| q.is_spent(place.slot)) {
            let held = q.remove_consumer(place.slot, Verdict::Returned, self.core.durable, cx);
            debug_assert!(held.is_empty());
            self.consumers.remove(&id);
        }
    }

    fn new_consumer_id(&mut self) -> ConsumerId {
        self.last_consumer += 1;
        ConsumerId(self.last_consumer * SHARDS as u64 + u64::from(self.core.id.0))
    }

    /// Starts a consumer. The reply is pushed here, so that it comes before the first delivery.
    ///
    /// # Errors
    /// 404 if the queue is gone; 403 if a consumer has it for itself, or if this one wants to and there are others.
    pub fn consume(&mut self, queue: QueueId, mut new: NewConsumer, cx: &mut Cx<'_>) -> Result<ConsumerId, Refusal> {
        let id = self.new_consumer_id();
        let Some(&index) = self.by_id.get(&queue) else {
            return Err(gone());
        };
        let Some(q) = at(&mut self.queues, index) else {
            return Err(gone());
        };
        let taken = q.roster.as_ref().is_some_and(|r| r.exclusive());
        if taken || new.exclusive && (q.consumers() > 0 || q.settings.single_active_consumer) {
            let text = format!("queue '{}' in vhost '{}' in exclusive use", q.settings.name, q.settings.vhost);
            return Err(Refusal::access_refused(text));
        }
        let outbox = Arc::clone(&new.outbox);
        let (channel, token) = (new.channel, new.token);
        let reply = Reply::Consuming { consumer: id, tag: new.tag.clone(), no_ack: new.no_ack, reply_to: None };
        outbox.push(Event::Reply { channel, token, reply, after: None });
        let sharing = q.sharing();
        let claim = new.instance.take();
        let bound = match (new.no_ack, new.prefetch) {
            (true, _) => Bound::Unsent,
            (false, None) => Bound::Soft,
            (false, Some(_)) => Bound::Own,
        };
        if claim.is_some() {
            q.mailbox_mut(cx);
        }
        let roster = q.roster.get_or_insert_default();
        let slot = roster.add(Consumer::new(id, new), sharing);
        roster.elect(sharing);
        if let Some(mb) = q.mailbox.as_deref_mut() {
            mb.seat_consumer(slot, claim.as_ref(), bound, cx.now);
        }
        self.consumers.insert(id, Place { queue: index, slot });
        q.last_used = cx.now;
        q.dispatch(&mut self.core, cx);
        q.reschedule(&mut self.core);
        Ok(id)
    }

    /// Ends a consumer; what it holds stays with it until settled or released. All its deliveries are in its outbox
    /// when this returns. `false` if there is no such consumer (any more).
    pub fn cancel(&mut self, consumer: ConsumerId, cx: &mut Cx<'_>) -> bool {
        let Some(&place) = self.consumers.get(&consumer) else {
            return false;
        };
        let Some(q) = at(&mut self.queues, place.queue) else {
            return false;
        };
        if !q.end_consumer(place.slot, cx) {
            return false;
        }
        q.dispatch(&mut self.core, cx);
        q.reschedule(&mut self.core);
        self.drop_spent(consumer, place, cx);
        true
    }

    /// Ends a consumer, and tells it; what it holds stays with it as after [`Shard::cancel`].
    pub(super) fn turn_away(&mut self, consumer: ConsumerId, cx: &mut Cx<'_>) {
        let place = self.consumers.get(&consumer).copied();
        let queue = place.and_then(|place| Some((at(&mut self.queues, place.queue)?, place.slot)));
        if let Some((q, slot)) = queue {
            q.tell_cancelled(slot);
            self.cancel(consumer, cx);
        }
    }

    /// Whether there is such a consumer (or stand-in), in use or ended and still holding something.
    #[must_use]
    pub fn knows(&self, consumer: ConsumerId) -> bool {
        self.consumers.contains_key(&consumer)
    }

    /// A channel is gone: ends its consumers and stand-ins in this shard, and puts back what they hold.
    pub fn release_channel(&mut self, consumers: &[ConsumerId], cx: &mut Cx<'_>) {
        let mut places = Vec::with_capacity(consumers.len());
        for id in consumers {
            let Some(place) = self.consumers.remove(id) else {
                continue;
            };
            // None of them is to get what another one gives back.
            if let Some(q) = at(&mut self.queues, place.queue) {
                q.end_consumer(place.slot, cx);
            }
            places.push(place);
        }
        for place in &places {
            if let Some(q) = at(&mut self.queues, place.queue) {
                // Whoever is lost has not failed; whether it is well is for others to say.
                q.release(place.slot, Verdict::Returned, &mut self.core, cx);
            }
        }
        let mut queues: Vec<u32> = places.iter().map(|p| p.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        for index in queues {
            if let Some(q) = at(&mut self.queues, index) {
                q.after_return(&mut self.core, cx);
            }
        }
    }

    /// Takes the message that is next in line, durable or not (see [`Got::after`]). `None` if there is none.
    ///
    /// # Errors
    /// 404 if the queue is gone.
    pub fn get(
        &mut self,
        queue: QueueId,
        conn: ConnId,
        channel: ChannelId,
        no_ack: bool,
        cx: &mut Cx<'_>,
    ) -> Result<Option<Got>, Refusal> {
        let Some((q, core)) = self.with_core(queue) else {
            return Err(gone());
        };
        q.last_used = cx.now;
        let Some(level) = q.expire_front(core, cx) else {
            q.stats.got_empty += 1;
            return Ok(None);
        };
        let Some(run) = q.ready.take_front(level, 1) else {
            return Ok(None);
        };
        core.durable = cx.journal.durable().max(core.durable);
        let after = Some(run.lsn).filter(|lsn| *lsn > core.durable);
        let delivery = dispatch::delivery(queue, q.settings.kind, &run);
        let delivery = Delivery { channel, ..delivery };
        q.stats.redelivered += u64::from(run.redelivered);
        let mut got = Got { delivery, remaining: q.ready.messages(), after, leaving: false };
        if no_ack {
            q.stats.got_no_ack += 1;
            if run.slots().is_some() {
                q.discard(run, core, cx);
            } else {
                let _ = q.leave(run);
                got.leaving = true;
            }
        } else {
            q.stats.got += 1;
            got.delivery.consumer = self.hold_in_stand_in(queue, conn, channel, run, cx);
        }
        Ok(Some(got))
    }

    /// Gives a message to the stand-in of a channel.
    fn hold_in_stand_in(
        &mut self,
        queue: QueueId,
        conn: ConnId,
        channel: ChannelId,
        mut run: run::Run,
        cx: &mut Cx<'_>,
    ) -> ConsumerId {
        let fresh = self.new_consumer_id();
        let Some(&index) = self.by_id.get(&queue) else {
            return fresh;
        };
        let Some(q) = at(&mut self.queues, index) else {
            return fresh;
        };
        let sharing = q.sharing();
        let roster = q.roster.get_or_insert_default();
        let slot = match roster.stand_in(conn, channel) {
            Some(slot) => slot,
            None => {
                let slot = roster.add(Consumer::stand_in(fresh, conn, channel), sharing);
                self.consumers.insert(fresh, Place { queue: index, slot });
                slot
            }
        };
        q.unsettled += u64::from(run.count);
        run.tighten(dispatch::HELD_PART);
        let Some(c) = roster.get_mut(slot) else {
            return fresh;
        };
        c.held.add(run, cx.now);
        let id = c.id;
        q.note_held(cx.now);
        q.reschedule(&mut self.core);
        id
    }

    /// Takes a message back that nobody was given yet: its sender wants it no more. Whether it still waited.
    pub fn withdraw(&mut self, placed: &Placed, cx: &mut Cx<'_>) -> bool {
        let Some((q, core)) = self.with_core(placed.queue) else {
            return false;
        };
        q.withdraw(placed, core, cx)
    }

    /// A consumer may have got credit from outside: see [`ChannelCredit`].
    pub fn poke(&mut self, consumer: ConsumerId, cx: &mut Cx<'_>) {
        let Some(&place) = self.consumers.get(&consumer) else {
            return;
        };
        if let Some(q) = at(&mut self.queues, place.queue) {
            q.poke(place.slot, &mut self.core, cx);
        }
    }
}

fn gone() -> Refusal {
    Refusal::not_found("the queue was deleted meanwhile")
}
