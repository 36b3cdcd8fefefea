//! Consumers, gets, settlements, and the end of channels.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use waypost_model::command::{Consume, Sent, Settle};
use waypost_model::service::Ending;
use waypost_model::{Body, ChannelId, ConsumerId, Event, Lsn, Refusal, Reply, ShardId};

use super::peer::{Channel, Connection};
use super::publish::identity;
use super::services::{Directory, Held};
use super::{Broker, Work, replies};
use crate::settings::{QueueKind, QueueSettings};
use crate::shard::{Got, NewConsumer};
use crate::topology::Access;

/// The list of a channel's consumers is not looked through before it is so long.
const PRUNE_AT_LEAST: usize = 64;

impl Broker {
    pub(super) fn settle(&self, conn: &mut Connection, s: &Settle, w: &mut Work<'_>) {
        let Some(channel) = conn.live(s.channel) else { return };
        if s.queue.is_stream() {
            self.with_streams(|k| k.settled(s.consumer, s.count));
            return;
        }
        self.with_shard(s.queue.shard(), w, |shard, cx| shard.settle(s, cx));
        if channel.credit.wanted() {
            self.poke(channel.consumers.clone(), w);
        }
    }

    pub(super) fn sent(&self, s: &Sent, w: &mut Work<'_>) {
        if s.queue == replies::REPLY_QUEUE {
            self.replies.sent(s.consumer, s.bytes);
        } else if s.queue.is_stream() {
            self.with_streams(|k| k.sent(s.consumer, s.bytes));
        } else {
            self.with_shard(s.queue.shard(), w, |shard, cx| shard.sent(s, cx));
        }
    }

    pub(super) fn poke(&self, consumers: Vec<ConsumerId>, w: &mut Work<'_>) {
        for c in consumers {
            self.with_shard(c.shard(), w, |shard, cx| shard.poke(c, cx));
        }
    }

    /// The queue behind a name that a consumer, get or purge gave, if the user may do that and nobody else has it for
    /// their own.
    pub(super) fn usable_settings(
        &self,
        conn: &Connection,
        name: &str,
        access: Access,
    ) -> Result<Arc<QueueSettings>, Refusal> {
        let (user, vhost) = identity(conn)?;
        let t = self.topology_read();
        t.check(user, vhost, access, crate::topology::Resource::Queue, name)?;
        t.usable_queue(vhost, name, conn.id())
    }

    pub(super) fn consume(
        &self,
        conn: &mut Connection,
        channel: ChannelId,
        token: u32,
        c: &Consume,
        w: &mut Work<'_>,
    ) -> Result<(), Refusal> {
        if c.queue.as_ref() == replies::PSEUDO_QUEUE {
            return self.consume_replies(conn, channel, token, c);
        }
        let settings = self.usable_settings(conn, &c.queue, Access::Read)?;
        if settings.kind == QueueKind::Stream {
            return self.consume_stream(conn, channel, token, c, &settings, w.now);
        }
        let queue = settings.id;
        let arguments = crate::shard::ConsumerArguments::parse(&c.arguments)?;
        let (id, outbox) = (conn.id(), Arc::clone(&conn.peer.outbox));
        if conn.live(channel).is_none() {
            return Ok(());
        }
        let claimed = self.claim_for(conn, c, &settings, w)?;
        let Some(state) = conn.live(channel) else { return Ok(()) };
        let mut consumer = NewConsumer {
            conn: id,
            channel,
            tag: c.tag.clone(),
            outbox,
            token,
            no_ack: c.no_ack,
            exclusive: c.exclusive,
            arguments,
            prefetch: (state.prefetch > 0).then_some(u32::from(state.prefetch)),
            credit: Arc::clone(&state.credit),
            window_bytes: c.window_bytes,
            instance: None,
        };
        let (held, claimant) = claimed.unzip();
        let started = {
            // Held until it has started: what changes meanwhile is either known now or told to it.
            let mut directory = held.is_some().then(|| self.directory());
            let latest = |d: &mut Directory, h: &Held, c| d.latest(&h.name, c);
            consumer.instance = match (directory.as_deref_mut(), &held, claimant) {
                (Some(d), Some(held), Some(claimant)) => Some(latest(d, held, claimant)),
                _ => None,
            };
            self.with_shard(queue.shard(), w, |s, cx| s.consume(queue, consumer, cx))
        };
        match (started, held) {
            (Ok(started), held) => {
                self.remember(state, started);
                if let Some(held) = held {
                    conn.claims.hold(started, held);
                }
            }
            (Err(refusal), held) => {
                if let Some(held) = held {
                    self.leave(&held, Ending::Left, w);
                }
                return Err(refusal);
            }
        }
        self.note_channels(conn);
        Ok(())
    }

    fn consume_replies(
        &self,
        conn: &mut Connection,
        channel: ChannelId,
        token: u32,
        c: &Consume,
    ) -> Result<(), Refusal> {
        if !c.no_ack {
            return Err(Refusal::precondition_failed("reply consumer cannot acknowledge"));
        }
        let outbox = Arc::clone(&conn.peer.outbox);
        let Some(state) = conn.live(channel) else { return Ok(()) };
        if state.replies.is_some() {
            return Err(Refusal::precondition_failed("reply consumer already set"));
        }
        let consumer = ConsumerId(self.next_reply_consumer.fetch_add(1, Ordering::Relaxed));
        state.replies = Some(consumer);
        let secret = self.topology_read().unguessable(consumer.0);
        self.replies.add(&secret, Arc::clone(&outbox), channel, consumer, c.window_bytes);
        outbox.push(Event::Reply {
            channel,
            token,
            reply: Reply::Consuming {
                consumer,
                tag: c.tag.clone(),
                no_ack: true,
                reply_to: Some(format!("{}.{secret}", replies::PSEUDO_QUEUE).into()),
            },
            after: None,
        });
        Ok(())
    }

    pub(super) fn cancel(&self, conn: &mut Connection, channel: ChannelId, consumer: ConsumerId, w: &mut Work<'_>) {
        let Some(state) = conn.live(channel) else { return };
        if state.replies == Some(consumer) {
            state.replies = None;
            self.replies.remove(consumer);
        } else if consumer.is_stream() {
            // One of another channel is none of its own.
            let before = state.streams.len();
            state.streams.retain(|c| *c != consumer);
            if state.streams.len() < before {
                self.cancel_streams(&[consumer]);
            }
        } else if state.consumers.contains(&consumer) {
            // What it holds unsettled is its own until the channel closes: it stays in the list for that long.
            let holds = self.with_shard(consumer.shard(), w, |s, cx| {
                s.cancel(consumer, cx);
                s.knows(consumer)
            });
            if !holds {
                state.consumers.retain(|c| *c != consumer);
            }
            self.leave_consumer(conn, consumer, w);
        }
        self.note_channels(conn);
    }

    pub(super) fn get(
        &self,
        conn: &mut Connection,
        channel: ChannelId,
        queue: &str,
        no_ack: bool,
        w: &mut Work<'_>,
    ) -> Result<(Reply, Option<Lsn>), Refusal> {
        let settings = self.usable_settings(conn, queue, Access::Read)?;
        if settings.kind == QueueKind::Stream {
            let text =
                format!("basic.get not supported by stream queues queue '{queue}' in vhost '{}'", settings.vhost);
            return Err(Refusal::not_implemented(text));
        }
        let queue = settings.id;
        let id = conn.id();
        let Some(state) = conn.live(channel) else { return Ok((Reply::Empty, None)) };
        let got = self.with_shard(queue.shard(), w, |s, cx| s.get(queue, id, channel, no_ack, cx))?;
        Ok(match got {
            Some(mut got) => {
                if !no_ack && !state.consumers.contains(&got.delivery.consumer) {
                    self.remember(state, got.delivery.consumer);
                }
                if got.leaving {
                    self.bring(&mut got, w)?;
                }
                (Reply::Got { delivery: got.delivery, no_ack, remaining: got.remaining }, got.after)
            }
            None => (Reply::Empty, None),
        })
    }

    /// Loads a message that is settled by being handed out: until it is in memory it is not.
    fn bring(&self, got: &mut Got, w: &mut Work<'_>) -> Result<(), Refusal> {
        let d = &mut got.delivery;
        let loaded = match d.body {
            Body::Mem { .. } => Ok(d.body.clone()),
            Body::Stored => self.bodies.load(d.queue, d.first, 1).map(|l| Body::Mem { batch: l.batch, from: l.from }),
            Body::Spilled { at, skip } => self.bodies.load_spilled(at).map(|batch| Body::Mem { batch, from: skip }),
        };
        d.body = loaded.map_err(|e| Refusal::internal(format!("cannot read the message: {e}")))?;
        let (queue, first) = (d.queue, d.first);
        self.with_shard(queue.shard(), w, |s, cx| s.left(queue, first, 1, cx));
        Ok(())
    }

    /// Adds a consumer or stand-in to its channel.
    fn remember(&self, state: &mut Channel, consumer: ConsumerId) {
        if state.consumers.len() >= state.prune_at {
            // Those whose queue was deleted, or that have settled all since they were cancelled.
            state.consumers.retain(|c| self.lock(c.shard()).knows(*c));
            state.prune_at = (state.consumers.len() * 2).max(PRUNE_AT_LEAST);
        }
        state.consumers.push(consumer);
    }

    /// Ends a channel: its consumers go, what they hold returns to its queues.
    pub(super) fn close_channel(&self, conn: &mut Connection, channel: ChannelId, w: &mut Work<'_>) {
        if let Some(state) = conn.channels.remove(&channel.0) {
            self.close_channels(conn, vec![state], w);
        }
    }

    /// Ends channels that were taken from their connection, all at once: what one gives back is not for another that
    /// goes too, which would count as a delivery.
    pub(super) fn close_channels(&self, conn: &mut Connection, channels: Vec<Channel>, w: &mut Work<'_>) {
        let mut consumers = Vec::new();
        for state in channels {
            self.counters.channels_closed.fetch_add(1, Ordering::Relaxed);
            if let Some(c) = state.replies {
                self.replies.remove(c);
            }
            consumers.extend(state.consumers);
            self.cancel_streams(&state.streams);
        }
        consumers.sort_unstable_by_key(|c| (c.shard(), *c));
        for group in consumers.chunk_by(|a, b| a.shard() == b.shard()) {
            let shard: ShardId = group[0].shard();
            self.with_shard(shard, w, |s, cx| s.release_channel(group, cx));
        }
        for consumer in &consumers {
            self.leave_consumer(conn, *consumer, w);
        }
        self.note_channels(conn);
    }

    /// Tells listings which channels are open.
    pub(super) fn note_channels(&self, conn: &Connection) {
        let channels =
            conn.channels.iter().map(|(id, c)| (*id, (c.consumers.len() + c.streams.len()) as u32)).collect();
        conn.peer.with_known(|k| k.channels = channels);
    }

    /// Queues that were the connection's alone go with it.
    pub(super) fn delete_exclusive(&self, conn: &Connection, w: &mut Work<'_>) -> Option<Lsn> {
        let id = conn.id();
        if self.topology_read().queues_of(id).is_empty() {
            return None;
        }
        self.remove(w, |t| Ok(((), t.delete_queues_of(id)))).ok().and_then(|((), lsn)| lsn)
    }
}
