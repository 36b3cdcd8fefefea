//! The broker: topology, shards and journal put together, behind calls that drivers make.
//!
//! Locks, in the order in which they may be taken: the topology, the directory of instances, a shard, an outbox. Effects
//! are carried out with none of them held.

pub mod admin;
mod alarm;
mod calls;
mod consuming;
pub mod death;
mod doubt;
mod effects;
mod local;
mod neighbours;
mod open;
mod peer;
mod publish;
pub mod replies;
mod routes;
mod services;
mod streams;
mod timers;
mod transaction;
mod waiting;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use waypost_model::journal::{AppendError, BodyStore, Journal, Op};
use waypost_model::{Command, ConnId, Lsn, Millis, Outbox, ShardId, Turn};

pub use alarm::Alarm;
pub use open::{BrokerConfig, OpenError};
pub use peer::{Connection, Known, Peer, PeerInfo};

use crate::context::{Cx, MemoryBudget, Wakes};
use crate::effect::Effect;
use crate::settings::QueueKind;
use crate::shard::Shard;
use crate::streams::Streams;
use crate::topology::{Change, Topology};
use timers::Timers;

/// The core of a node. Shared by all drivers.
pub struct Broker {
    journal: Arc<dyn Journal>,
    bodies: Arc<dyn BodyStore>,
    topology: RwLock<Topology>,
    /// The topology's generation, to be compared without its lock.
    generation: AtomicU64,
    shards: Box<[Padded]>,
    memory: MemoryBudget,
    peers: Mutex<BTreeMap<ConnId, Arc<Peer>>>,
    next_conn: AtomicU64,
    next_reply_consumer: AtomicU64,
    replies: replies::Replies,
    alarm: AtomicU8,
    timers: Timers,
    waiting: waiting::Waiting,
    registrar: services::Registrar,
    directory: Mutex<services::Directory>,
    /// Who keeps the queues that are streams.
    streams: OnceLock<Arc<dyn Streams>>,
    /// Room for messages to services that are handed over together.
    spare: Mutex<Vec<services::Gathered>>,
    /// Effects that the journal had no room for.
    stuck: Mutex<Vec<Effect>>,
    /// What happened so far.
    pub counters: Counters,
}

/// One call from outside, and what it leaves to be done.
struct Work<'a> {
    now: Millis,
    journal: &'a dyn Journal,
    effects: Vec<Effect>,
    wakes: Wakes,
}

/// On a cache line of its own: neighbours are worked on by other cores.
#[repr(align(128))]
struct Padded {
    shard: Mutex<Shard>,
    /// The lowest ticket that it waits for, to be looked at without its lock; `u64::MAX` is none.
    waits_for: AtomicU64,
}

impl Padded {
    fn new(id: ShardId) -> Padded {
        Padded { shard: Mutex::new(Shard::new(id)), waits_for: AtomicU64::new(u64::MAX) }
    }
}

/// Totals since the start.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "named as RabbitMQ's rabbitmq_global_messages_*_total")]
pub struct Counters {
    /// Published without asking for a confirm. Together with the next one: all that were published.
    pub received_no_confirm: AtomicU64,
    pub received_confirm: AtomicU64,
    pub confirmed: AtomicU64,
    pub routed: AtomicU64,
    pub unroutable_dropped: AtomicU64,
    pub unroutable_returned: AtomicU64,
    pub dead_lettered: AtomicU64,
    pub dead_letters_dropped: AtomicU64,
    pub unreadable: AtomicU64,
    pub connections_opened: AtomicU64,
    pub connections_closed: AtomicU64,
    pub channels_opened: AtomicU64,
    pub channels_closed: AtomicU64,
    pub queues_declared: AtomicU64,
    pub queues_created: AtomicU64,
    pub queues_deleted: AtomicU64,
    pub authentication_failures: AtomicU64,
}

impl Broker {
    /// A peer has connected. Its events go to `outbox`.
    pub fn connect(&self, info: PeerInfo, outbox: Arc<Outbox>, now: Millis) -> Connection {
        let id = ConnId(self.next_conn.fetch_add(1, Ordering::Relaxed));
        let peer = Arc::new(Peer {
            id,
            info,
            since: now,
            outbox,
            known: Mutex::default(),
            waits: waiting::Waits::default(),
            published: false.into(),
            messages_in: AtomicU64::new(0),
        });
        self.peers_lock().insert(id, Arc::clone(&peer));
        self.counters.connections_opened.fetch_add(1, Ordering::Relaxed);
        Connection::new(peer)
    }

    /// Carries out the commands of a turn, in order. Answers and deliveries go to outboxes.
    pub fn execute(&self, conn: &mut Connection, turn: &mut Turn, now: Millis) {
        let mut w = self.work(now);
        conn.spread = false;
        let batch = turn.batch.take();
        let mut commands = turn.commands.drain(..).peekable();
        // Where the next publish leads, if that was looked up with the one before it.
        let mut known_next = None;
        while let Some(command) = commands.next() {
            let known = std::mem::take(&mut known_next);
            match command {
                Command::Publish(p) => match (&p.batch, &batch) {
                    (Some(own), _) => self.publish(conn, &p, own, &mut w),
                    (None, Some(batch)) => {
                        known_next = self.publish_with_neighbours(conn, p, known, &mut commands, (batch, &mut w));
                    }
                    (None, None) => {}
                },
                Command::Settle(s) => {
                    self.hand_gathered(conn, &mut w);
                    self.settle(conn, &s, &mut w);
                }
                Command::Sent(s) => self.sent(&s, &mut w),
                Command::Call { channel, token, call } => {
                    self.hand_gathered(conn, &mut w);
                    self.call(conn, channel, token, call, &mut w);
                }
            }
            self.carry_out(&mut w);
        }
        self.hand_gathered(conn, &mut w);
        self.carry_out(&mut w);
    }

    /// The peer is gone: its consumers end, what it held goes back, what was its alone is deleted.
    pub fn disconnect(&self, mut conn: Connection, now: Millis) {
        conn.peer.outbox.close();
        conn.claims.lost = !conn.claims.left;
        let mut w = self.work(now);
        let channels = std::mem::take(&mut conn.channels);
        self.close_channels(&mut conn, channels.into_values().collect(), &mut w);
        self.delete_exclusive(&conn, &mut w);
        self.carry_out(&mut w);
        self.leave_connection(&mut conn, &w);
        // One of this process was never listed.
        if self.peers_lock().remove(&conn.id()).is_some() {
            self.counters.connections_closed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The journal's watermark has moved: what waited for the disk becomes deliverable, and drivers that hold back
    /// confirms or answers are woken.
    pub fn advance(&self, now: Millis) {
        let durable = self.journal.durable();
        // Between moving the watermark and looking who waits; its counterpart is the store in `with_shard`.
        std::sync::atomic::fence(Ordering::SeqCst);
        let mut w = self.work(now);
        for i in 0..self.shards.len() {
            if self.shards[i].waits_for.load(Ordering::SeqCst) <= durable.0 {
                self.with_shard(ShardId(i as u8), &mut w, |s, cx| s.durable(durable, cx));
            }
        }
        self.carry_out(&mut w);
        self.waiting.wake(durable);
    }

    /// The watermark of the journal.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.journal.durable()
    }

    /// The budget of message bytes in memory.
    #[must_use]
    pub fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// The connections, in order of their coming.
    #[must_use]
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers_lock().values().cloned().collect()
    }

    fn work(&self, now: Millis) -> Work<'_> {
        Work { now, journal: &*self.journal, effects: Vec::new(), wakes: Wakes::default() }
    }

    /// Runs `f` on a shard while it is held.
    fn with_shard<R>(&self, shard: ShardId, w: &mut Work<'_>, f: impl FnOnce(&mut Shard, &mut Cx<'_>) -> R) -> R {
        let mut held = self.lock(shard);
        let Work { now, journal, effects, wakes } = w;
        let mut cx = Cx { now: *now, journal: *journal, effects, memory: &self.memory, wakes };
        let result = f(&mut held, &mut cx);
        held.flush(&mut cx);
        let padded = &self.shards[usize::from(shard.0)];
        loop {
            let ticket = held.waits_for().map_or(u64::MAX, |l| l.0);
            padded.waits_for.store(ticket, Ordering::SeqCst);
            // The watermark may have passed the ticket before it was to be seen: then nobody else will come.
            let durable = self.journal.durable();
            if durable.0 < ticket {
                break;
            }
            held.durable(durable, &mut cx);
            held.flush(&mut cx);
        }
        // Still held: what two threads note must come in the order in which they were here.
        self.timers.note(shard, held.next_deadline());
        drop(held);
        w.wakes.wake();
        result
    }

    fn lock(&self, shard: ShardId) -> MutexGuard<'_, Shard> {
        // A panic while a shard was held leaves its queues in doubt; going on with the other queues is better than
        // stopping them all, and the journal still has everything that was confirmed.
        self.shards[usize::from(shard.0)].shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn topology_read(&self) -> RwLockReadGuard<'_, Topology> {
        self.topology.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers_lock(&self) -> MutexGuard<'_, BTreeMap<ConnId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the topology: the definitions are appended and the shards follow before anybody can see the change.
    /// Nothing is changed when the disk has no room for definitions either.
    fn change<R>(
        &self,
        w: &mut Work<'_>,
        f: impl FnOnce(&mut Topology) -> Result<(R, Change), waypost_model::Refusal>,
    ) -> Result<(R, Option<Lsn>), waypost_model::Refusal> {
        // Asked first: the topology keeps no way back. Whoever else appends meanwhile does no harm, see `define`.
        self.journal.room_for_definitions().map_err(not_stored)?;
        self.remove(w, f)
    }

    /// The same for what only takes away: that makes room, and much of it has happened already.
    fn remove<R>(
        &self,
        w: &mut Work<'_>,
        f: impl FnOnce(&mut Topology) -> Result<(R, Change), waypost_model::Refusal>,
    ) -> Result<(R, Option<Lsn>), waypost_model::Refusal> {
        let mut topology = self.topology.write().unwrap_or_else(PoisonError::into_inner);
        let (result, change) = f(&mut topology)?;
        let lsn = self.apply(change, w)?;
        self.generation.store(topology.generation(), Ordering::Release);
        Ok((result, lsn))
    }

    fn apply(&self, change: Change, w: &mut Work<'_>) -> Result<Option<Lsn>, waypost_model::Refusal> {
        let lsn = if change.ops.is_empty() { None } else { Some(self.define(change.ops).map_err(not_stored)?) };
        for settings in change.created_queues {
            self.counters.queues_created.fetch_add(1, Ordering::Relaxed);
            if settings.kind == QueueKind::Stream {
                self.with_streams(|s| _ = s.configure(&settings));
                continue;
            }
            self.with_shard(settings.id.shard(), w, |s, cx| s.create_queue(settings, cx));
        }
        for settings in change.reconfigured {
            if settings.kind == QueueKind::Stream {
                self.with_streams(|s| _ = s.configure(&settings));
                continue;
            }
            self.with_shard(settings.id.shard(), w, |s, cx| s.configure(settings, cx));
        }
        for queue in change.deleted_queues {
            self.counters.queues_deleted.fetch_add(1, Ordering::Relaxed);
            if queue.is_stream() {
                self.with_streams(|s| s.delete(queue));
                continue;
            }
            self.with_shard(queue.shard(), w, |s, cx| s.delete_queue(queue, cx));
        }
        Ok(lsn)
    }

    /// Appends definitions that hold already, with room or without.
    fn define(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        match self.journal.append(ops.clone()) {
            Err(AppendError::Full) => {
                let ticket = self.journal.reserve();
                self.journal.fill(ticket, ops).map(|()| ticket)
            }
            done => done,
        }
    }
}

/// A disk without room is no fault of ours and passes; the connection may go on with other things.
fn not_stored(e: AppendError) -> waypost_model::Refusal {
    let text = format!("cannot store definitions: {e}");
    match e {
        AppendError::Full => waypost_model::Refusal::resource_error(text).soft(),
        AppendError::Stopped | AppendError::Fenced => waypost_model::Refusal::internal(text),
    }
}
