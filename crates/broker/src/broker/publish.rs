//! The life of a publish: permission, route, queues, verdict.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use waypost_model::journal::AppendError;
use waypost_model::{
    AttrFlags, Attrs, Batch, ChannelId, Event, Lsn, Millis, Publish, QueueId, Refusal, Route, Seq, ShardId,
};

use super::peer::Connection;
use super::services::{Origin, ServiceRoute};
use super::{Broker, Work, replies};
use crate::shard::{Enqueued, Incoming};
use crate::topology::{MessageRoute, Routed};

/// Where messages with some route lead, as long as the topology does not change.
#[derive(Debug)]
pub(super) enum Resolved {
    /// To these queues, grouped by shard; none at all makes a message unroutable.
    Queues(Targets),
    /// Different for each message.
    PerMessage,
    /// To the mailbox of a service.
    Service(Arc<ServiceRoute>),
    /// To whoever waits for a direct reply under this token.
    Reply(Box<str>),
}

/// Queues grouped by the shard that owns them, in order of shard; streams last.
pub(super) type Targets = Box<[(ShardId, Box<[QueueId]>)]>;

/// Messages `from..to` of a batch on their way to queues.
pub(super) struct Run<'a> {
    pub route: &'a Arc<Route>,
    pub batch: &'a Arc<Batch>,
    pub from: u32,
    pub to: u32,
    pub attrs: Attrs,
}

impl Run<'_> {
    /// As it comes to queues at `at`; to a delay queue with the time when it is due.
    pub fn incoming(&self, at: Millis, due: Option<Millis>) -> Incoming {
        let (route, batch) = (Arc::clone(self.route), Arc::clone(self.batch));
        Incoming { route, batch, from: self.from, to: self.to, attrs: self.attrs, at, due }
    }
}

/// What the queues said to a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verdict {
    /// How many of its messages, from the first, every queue took.
    pub accepted: u32,
    /// What must be on disk before they count as taken.
    pub lsn: Option<Lsn>,
    /// Why the journal took no more.
    pub error: Option<AppendError>,
    /// Whether the publisher is far ahead of the consumers of a queue.
    pub ahead: bool,
    /// The place of the first, in one of the queues.
    pub first: Seq,
}

impl From<Enqueued> for Verdict {
    fn from(said: Enqueued) -> Verdict {
        let Enqueued { lsn, accepted, error, ahead, first, missing: _ } = said;
        Verdict { accepted, lsn, error, ahead, first }
    }
}

impl Verdict {
    /// There was nothing to take.
    pub const NOTHING: Verdict = Verdict { accepted: 0, lsn: None, error: None, ahead: false, first: Seq(0) };

    /// All of a run was taken, and nothing is to be waited for.
    pub fn all(run: &Run<'_>) -> Verdict {
        Verdict { accepted: run.to - run.from, ..Verdict::NOTHING }
    }

    /// What one queue said to messages one after the other.
    pub fn then(self, other: Verdict) -> Verdict {
        Verdict { accepted: self.accepted + other.accepted, ..self.and(other) }
    }

    /// What several queues said, together.
    pub fn and(self, other: Verdict) -> Verdict {
        Verdict {
            accepted: self.accepted.min(other.accepted),
            lsn: self.lsn.max(other.lsn),
            error: self.error.or(other.error),
            ahead: self.ahead || other.ahead,
            first: other.first,
        }
    }
}

/// Stands for who keeps streams where targets are grouped by shard.
pub(super) const STREAMS: ShardId = ShardId(u8::MAX);
const _: () = assert!(waypost_model::SHARDS <= STREAMS.0 as usize);

fn place(queue: QueueId) -> ShardId {
    if queue.is_stream() { STREAMS } else { queue.shard() }
}

pub(super) fn by_shard(mut queues: Vec<QueueId>) -> Targets {
    queues.sort_unstable_by_key(|q| (place(*q), *q));
    queues.dedup();
    queues.chunk_by(|a, b| place(*a) == place(*b)).map(|g| (place(g[0]), g.into())).collect()
}

impl Broker {
    pub(super) fn publish(&self, conn: &mut Connection, p: &Publish, batch: &Arc<Batch>, w: &mut Work<'_>) {
        if conn.live(p.channel).is_none() || p.from >= p.to {
            return;
        }
        match self.resolve(conn, &p.route) {
            Ok(resolved) => self.publish_resolved(conn, p, &resolved, batch, w),
            Err(refusal) => self.refuse_publish(conn, p, refusal, w),
        }
    }

    /// A publish that leads nowhere since it may not.
    pub(super) fn refuse_publish(&self, conn: &mut Connection, p: &Publish, refusal: Refusal, w: &mut Work<'_>) {
        self.note_publish(conn, p);
        self.hand_gathered(conn, w);
        self.refuse(conn, p.channel, Event::PUBLISH_TOKEN, refusal);
    }

    pub(super) fn publish_resolved(
        &self,
        conn: &mut Connection,
        p: &Publish,
        resolved: &Resolved,
        batch: &Arc<Batch>,
        w: &mut Work<'_>,
    ) {
        let run = Run { route: &p.route, batch, from: p.from, to: p.to, attrs: p.attrs };
        if !matches!(resolved, Resolved::Service(_)) {
            self.note_publish(conn, p);
            // They may lead to the same queue.
            self.hand_gathered(conn, w);
        }
        match resolved {
            Resolved::Queues(targets) if !p.attrs.flags.has(AttrFlags::SENDER_SELECTED) => {
                self.publish_run(conn, p, &run, targets, w);
            }
            Resolved::Service(base) => self.publish_service(conn, p, &run, base, w),
            Resolved::Reply(token) => self.publish_reply(conn, p, &run, token),
            Resolved::Queues(_) | Resolved::PerMessage => self.publish_each(conn, p, &run, w),
        }
    }

    fn publish_run(&self, conn: &mut Connection, p: &Publish, run: &Run<'_>, targets: &Targets, w: &mut Work<'_>) {
        let count = run.to - run.from;
        if targets.is_empty() {
            self.unroutable(conn, p, run);
            self.confirm(conn, p, run, Verdict::all(run));
            return;
        }
        self.counters.routed.fetch_add(u64::from(count), Ordering::Relaxed);
        let verdict = self.enqueue(targets, run, None, w);
        self.confirm(conn, p, run, verdict);
    }

    /// Hands a run to its queues, shard by shard.
    pub(super) fn enqueue(&self, targets: &Targets, run: &Run<'_>, due: Option<Millis>, w: &mut Work<'_>) -> Verdict {
        let mut verdict = Verdict::all(run);
        for (shard, queues) in targets {
            if *shard == STREAMS {
                verdict = verdict.and(self.append_to_streams(queues, run, w));
                continue;
            }
            let incoming = run.incoming(w.now, due);
            let said = self.with_shard(*shard, w, |s, cx| s.enqueue(queues, incoming, cx));
            verdict = verdict.and(said.into());
        }
        verdict
    }

    /// Messages whose way depends on themselves: each is routed, neighbours with the same way go together.
    pub(super) fn publish_each(&self, conn: &mut Connection, p: &Publish, run: &Run<'_>, w: &mut Work<'_>) {
        let mut from = run.from;
        let mut way = self.route_one(conn, run, from);
        loop {
            let this = match way {
                Ok(r) => r,
                Err(refusal) => return self.refuse(conn, p.channel, Event::PUBLISH_TOKEN, refusal),
            };
            let mut to = from + 1;
            let next = loop {
                if to == run.to {
                    break None;
                }
                if this.strip_bcc.is_none() && run.batch.props(to) == run.batch.props(to - 1) {
                    to += 1;
                    continue;
                }
                let next = self.route_one(conn, run, to);
                if this.strip_bcc.is_some() || next.as_ref() != Ok(&this) {
                    break Some(next);
                }
                to += 1;
            };
            self.publish_routed(conn, p, run, from..to, this, w);
            let Some(next) = next else { return };
            (from, way) = (to, next);
        }
    }

    fn publish_routed(
        &self,
        conn: &mut Connection,
        p: &Publish,
        run: &Run<'_>,
        range: std::ops::Range<u32>,
        way: MessageRoute,
        w: &mut Work<'_>,
    ) {
        let part = Run { from: range.start, to: range.end, ..*run };
        let verdict = match identity(conn) {
            Ok((user, vhost)) => {
                let near = conn.claims.zone.as_ref();
                let origin = Origin { vhost, user: Some(user), near, make: !p.mandatory };
                self.follow(way, &part, origin, w)
            }
            Err(_) => None,
        };
        if verdict.is_some() {
            self.counters.routed.fetch_add(u64::from(part.to - part.from), Ordering::Relaxed);
        } else {
            self.unroutable(conn, p, &part);
        }
        self.confirm(conn, p, &part, verdict.unwrap_or_else(|| Verdict::all(&part)));
    }

    /// Hands messages with one way to its queues, those where they wait first included. `None` if it leads nowhere.
    pub(super) fn follow(
        &self,
        way: MessageRoute,
        run: &Run<'_>,
        origin: Origin<'_>,
        w: &mut Work<'_>,
    ) -> Option<Verdict> {
        if way.delayed.is_empty() && way.queues.is_empty() && way.services.is_empty() {
            return None;
        }
        let stripped = way.strip_bcc.map(|props| Arc::new(Batch::single(&props, run.batch.body(run.from))));
        let bare = match &stripped {
            Some(batch) => Run { batch, from: 0, to: 1, ..*run },
            None => Run { ..*run },
        };
        let mut verdict = Verdict::all(run);
        if !way.services.is_empty() {
            match self.follow_services(&way.services, &bare, origin, w) {
                Some(said) => verdict = verdict.and(said),
                None if way.delayed.is_empty() && way.queues.is_empty() => return None,
                None => {}
            }
        }
        for delay in way.delayed {
            let attrs = Attrs { expiration: Some(delay.delay_ms), ..run.attrs };
            let due = Some(w.now.plus(u64::from(delay.delay_ms)));
            verdict = verdict.and(self.enqueue(&by_shard(vec![delay.queue]), &Run { attrs, ..*run }, due, w));
        }
        if way.queues.is_empty() {
            return Some(verdict);
        }
        let targets = by_shard(way.queues);
        Some(verdict.and(self.enqueue(&targets, &bare, None, w)))
    }

    fn publish_reply(&self, conn: &mut Connection, p: &Publish, run: &Run<'_>, token: &str) {
        match self.replies.find(token) {
            Some(asker) => self.replies.deliver(&asker, run.route, run.batch, run.from, run.to),
            None => self.unroutable(conn, p, run),
        }
        self.confirm(conn, p, run, Verdict::all(run));
    }

    /// Where messages with `route` lead, from the connection's memory if nothing changed.
    pub(super) fn resolve(&self, conn: &mut Connection, route: &Arc<Route>) -> Result<Arc<Resolved>, Refusal> {
        let generation = self.generation.load(Ordering::Acquire);
        if let Some(known) = conn.routes.find(route, generation) {
            return Ok(known);
        }
        let (user, vhost) = identity(conn)?;
        let token = replies::token_of(&route.routing_key).filter(|_| route.exchange.is_empty());
        let routed = self.topology_read().route_publish(user, vhost, route)?;
        let resolved = match (token, routed) {
            (Some(token), _) => Arc::new(Resolved::Reply(token.into())),
            (None, Routed::Queues(queues)) => conn.routes.set(queues),
            (None, Routed::PerMessage) => Arc::new(Resolved::PerMessage),
            (None, Routed::Service) => {
                let base = self.resolve_service(conn, route).map_err(Refusal::soft)?;
                Arc::new(Resolved::Service(Arc::new(base)))
            }
        };
        conn.routes.remember(route, &resolved);
        Ok(resolved)
    }

    /// Where one message leads, from the connection's memory if such a one has come before.
    pub(super) fn route_one(&self, conn: &mut Connection, run: &Run<'_>, i: u32) -> Result<MessageRoute, Refusal> {
        let selected = run.attrs.flags.has(AttrFlags::SENDER_SELECTED);
        let props = run.batch.props(i);
        if !selected && let Some(way) = conn.routes.way(run.route, props) {
            return Ok(way.clone());
        }
        let (_, vhost) = identity(conn)?;
        let way = self.topology_read().route_message(vhost, run.route, props, selected)?;
        if !selected {
            conn.routes.remember_way(run.route, props, &way);
        }
        Ok(way)
    }

    pub(super) fn note_publish(&self, conn: &Connection, p: &Publish) {
        self.note_published(conn, u64::from(p.to - p.from), p.confirm.is_some());
    }

    /// So many messages came, on channels in confirm mode or on others.
    pub(super) fn note_published(&self, conn: &Connection, count: u64, confirm: bool) {
        let c = &self.counters;
        let received = if confirm { &c.received_confirm } else { &c.received_no_confirm };
        received.fetch_add(count, Ordering::Relaxed);
        conn.peer.messages_in.fetch_add(count, Ordering::Relaxed);
        if !conn.peer.published.load(Ordering::Relaxed) {
            conn.peer.published.store(true, Ordering::Relaxed);
            self.tell_alarm(&conn.peer);
        }
    }

    pub(super) fn unroutable(&self, conn: &Connection, p: &Publish, run: &Run<'_>) {
        let count = u64::from(run.to - run.from);
        if !p.mandatory {
            self.counters.unroutable_dropped.fetch_add(count, Ordering::Relaxed);
            return;
        }
        self.counters.unroutable_returned.fetch_add(count, Ordering::Relaxed);
        conn.peer.outbox.push(Event::Returned {
            channel: p.channel,
            route: Arc::clone(run.route),
            batch: Arc::clone(run.batch),
            from: run.from,
            to: run.to,
        });
    }

    /// Tells the publisher of a run (or of a part of its run) what became of it.
    pub(super) fn confirm(&self, conn: &mut Connection, p: &Publish, run: &Run<'_>, verdict: Verdict) {
        conn.ahead |= verdict.ahead;
        let Some(last_of_all) = p.confirm else {
            if let Some(e) = verdict.error {
                let refusal = Refusal::precondition_failed(format!("cannot store persistent messages: {e}"));
                self.refuse(conn, p.channel, Event::PUBLISH_TOKEN, refusal);
            }
            return;
        };
        let first = last_of_all - u64::from(p.to - run.from - 1);
        let last = last_of_all - u64::from(p.to - run.to);
        let split = first + u64::from(verdict.accepted);
        let outbox = &conn.peer.outbox;
        if split > first {
            if let Some(lsn) = verdict.lsn {
                self.waiting.add(&conn.peer, lsn);
            }
            outbox.push(Event::Accepted { channel: p.channel, first, last: split - 1, lsn: verdict.lsn });
            self.counters.confirmed.fetch_add(split - first, Ordering::Relaxed);
        }
        if split <= last {
            outbox.push(Event::Rejected { channel: p.channel, first: split, last });
        }
    }

    pub(super) fn refuse(&self, conn: &mut Connection, channel: ChannelId, token: u32, refusal: Refusal) {
        if refusal.hard {
            conn.failed = true;
        } else if let Some(c) = conn.channels.get_mut(&channel.0) {
            c.failed = true;
        }
        conn.peer.outbox.push(Event::Refused { channel, token, refusal });
    }
}

/// User and vhost of a connection that has opened one.
pub(super) fn identity(conn: &Connection) -> Result<(&str, &str), Refusal> {
    match (&conn.user, &conn.vhost) {
        (Some(u), Some(v)) => Ok((u, v)),
        _ => Err(Refusal::command_invalid("no vhost is open on this connection")),
    }
}
