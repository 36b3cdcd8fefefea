//! Everything that is answered.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use waypost_model::command::QueueDeclare;
use waypost_model::{Call, ChannelId, Event, Lsn, Refusal, Reply};

use super::peer::{Channel, Connection};
use super::publish::identity;
use super::{Broker, Work, replies};
use crate::settings::{QueueKind, QueueSettings};
use crate::topology::{Access, Resource};

/// The answer to a call, and what must be on disk before it may be given. `None` when it was given already.
type Answer = Result<Option<(Reply, Option<Lsn>)>, Refusal>;

impl Broker {
    pub(super) fn call(&self, conn: &mut Connection, channel: ChannelId, token: u32, call: Call, w: &mut Work<'_>) {
        let ends_channel = matches!(call, Call::CloseChannel);
        let needs_channel = channel != ChannelId::CONNECTION && !matches!(call, Call::OpenChannel | Call::CloseChannel);
        if conn.failed || (needs_channel && conn.live(channel).is_none()) {
            if ends_channel {
                self.close_channel(conn, channel, w);
            }
            return;
        }
        match self.answer(conn, channel, token, call, w) {
            Ok(Some((reply, after))) => {
                if let Some(lsn) = after {
                    self.waiting.add(&conn.peer, lsn);
                }
                conn.peer.outbox.push(Event::Reply { channel, token, reply, after });
            }
            Ok(None) => {}
            Err(refusal) => self.refuse(conn, channel, token, refusal),
        }
    }

    fn answer(&self, conn: &mut Connection, channel: ChannelId, token: u32, call: Call, w: &mut Work<'_>) -> Answer {
        let id = conn.id();
        let done = Ok(Some((Reply::Done, None)));
        match call {
            Call::Authenticate { mechanism, username, password } => {
                self.authenticate(conn, &mechanism, &username, &password)?;
                done
            }
            Call::OpenVhost { vhost, client_properties } => {
                self.open_vhost(conn, &vhost)?;
                self.introduce(conn, &client_properties, w).map_err(hard)?;
                conn.peer.with_known(|k| k.client_properties = client_properties);
                done
            }
            // For credentials that expire. Passwords do not: there is nothing to prolong, as in RabbitMQ's own backend.
            Call::UpdateSecret { .. } => done,
            Call::Goodbye => {
                conn.say_goodbye();
                Ok(None)
            }
            Call::OpenChannel => self.open_channel(conn, channel),
            Call::CloseChannel => {
                self.close_channel(conn, channel, w);
                done
            }
            Call::ExchangeDeclare(d) => {
                let (user, vhost) = identity(conn)?;
                let ((), lsn) = self.change(w, |t| Ok(((), t.declare_exchange(user, vhost, &d)?)))?;
                Ok(Some((Reply::Done, lsn)))
            }
            Call::ExchangeDelete { name, if_unused } => {
                let (user, vhost) = identity(conn)?;
                let ((), lsn) = self.remove(w, |t| Ok(((), t.delete_exchange(user, vhost, &name, if_unused)?)))?;
                Ok(Some((Reply::Done, lsn)))
            }
            Call::Bind(b) => {
                let (user, vhost) = identity(conn)?;
                let ((), lsn) = self.change(w, |t| Ok(((), t.bind(user, vhost, &b, id)?)))?;
                Ok(Some((Reply::Done, lsn)))
            }
            Call::Unbind(b) => {
                let (user, vhost) = identity(conn)?;
                let ((), lsn) = self.remove(w, |t| Ok(((), t.unbind(user, vhost, &b, id)?)))?;
                Ok(Some((Reply::Done, lsn)))
            }
            Call::QueueDeclare(d) => self.declare_queue(conn, &d, w),
            Call::QueuePurge { queue } => {
                let settings = self.usable_settings(conn, &queue, Access::Read)?;
                let purged = self.purge(&settings, w)?;
                Ok(Some((Reply::Count(purged), None)))
            }
            Call::QueueDelete { queue, if_unused, if_empty } => self.delete_queue(conn, &queue, if_unused, if_empty, w),
            Call::Consume(c) => self.consume(conn, channel, token, &c, w).map(|()| None),
            Call::Cancel { consumer } => {
                self.cancel(conn, channel, consumer, w);
                done
            }
            Call::Get { queue, no_ack } => self.get(conn, channel, &queue, no_ack, w).map(Some),
            Call::Qos { prefetch_count, global } => {
                self.qos(conn, channel, prefetch_count, global, w);
                done
            }
            Call::Commit(commands) => {
                let lsn = self.commit(conn, channel, commands, w)?;
                Ok(Some((Reply::Done, lsn)))
            }
        }
    }

    fn authenticate(
        &self,
        conn: &mut Connection,
        mechanism: &str,
        username: &str,
        password: &[u8],
    ) -> Result<(), Refusal> {
        let name: Arc<str> = if mechanism == "EXTERNAL" {
            let named = conn.peer.info.certificate_name.clone();
            named.ok_or_else(|| Refusal::access_refused("no certificate names the peer"))?.into()
        } else {
            username.into()
        };
        let t = self.topology_read();
        let verdict = if mechanism == "EXTERNAL" {
            t.admit(&name, conn.peer.info.loopback)
        } else {
            t.authenticate(&name, password, conn.peer.info.loopback)
        };
        drop(t);
        verdict.inspect_err(|_| {
            self.counters.authentication_failures.fetch_add(1, Ordering::Relaxed);
        })?;
        conn.peer.with_known(|k| k.user = Some(Arc::clone(&name)));
        conn.user = Some(name);
        Ok(())
    }

    fn open_vhost(&self, conn: &mut Connection, vhost: &str) -> Result<(), Refusal> {
        let user = conn.user.clone().ok_or_else(|| Refusal::not_allowed("not authenticated"))?;
        // Counted and entered under one lock: two that come together cannot both take the last place.
        let peers = self.peers_lock();
        let (mut of_vhost, mut of_user) = (0, 0);
        for peer in peers.values() {
            peer.with_known(|k| {
                of_vhost += u64::from(k.vhost.as_deref() == Some(vhost));
                of_user += u64::from(k.vhost.is_some() && k.user.as_deref() == Some(&user));
            });
        }
        let name = self.topology_read().enter_vhost(&user, vhost, of_vhost, of_user)?;
        conn.peer.with_known(|k| k.vhost = Some(Arc::clone(&name)));
        drop(peers);
        conn.vhost = Some(name);
        Ok(())
    }

    fn open_channel(&self, conn: &mut Connection, channel: ChannelId) -> Answer {
        let (user, _) = identity(conn)?;
        if let Some(max) = self.topology_read().channels_max(user) {
            let user: Arc<str> = user.into();
            let mut open = 0;
            for peer in self.peers_lock().values() {
                peer.with_known(|k| {
                    if k.user.as_deref() == Some(&user) {
                        open += k.channels.len() as u64;
                    }
                });
            }
            if open >= max {
                return Err(Refusal::not_allowed(format!(
                    "number of channels opened for user '{user}' has reached the maximum allowed limit of ({max})"
                )));
            }
        }
        conn.channels.insert(channel.0, Channel::default());
        self.counters.channels_opened.fetch_add(1, Ordering::Relaxed);
        self.note_channels(conn);
        Ok(Some((Reply::Done, None)))
    }

    fn declare_queue(&self, conn: &Connection, d: &QueueDeclare, w: &mut Work<'_>) -> Answer {
        if let Some(token) = replies::token_of(d.name.as_bytes()) {
            // Clients ask in this way whether the asker is still there.
            return match self.replies.find(token) {
                Some(_) => Ok(Some((Reply::QueueDeclared { name: d.name.clone(), messages: 0, consumers: 1 }, None))),
                None => Err(Refusal::not_found(format!("no queue '{}'", d.name))),
            };
        }
        self.counters.queues_declared.fetch_add(1, Ordering::Relaxed);
        let (user, vhost) = identity(conn)?;
        // Most declarations name what is there: those need no exclusive lock.
        let found = self.topology_read().find_declared(user, vhost, d, conn.id())?;
        let (settings, lsn) = match found {
            Some(settings) => (settings, None),
            None => self.change(w, |t| t.declare_queue(user, vhost, d, conn.id(), self.streams()))?,
        };
        let counts = if settings.kind == QueueKind::Stream {
            self.streams().and_then(|s| s.info(settings.id)).map(|info| info.counts)
        } else {
            self.with_shard(settings.id.shard(), w, |s, cx| {
                s.touch(settings.id, cx);
                s.counts(settings.id)
            })
        };
        let (messages, consumers) = counts.map_or((0, 0), |c| (c.ready, c.consumers));
        Ok(Some((Reply::QueueDeclared { name: (*settings.name).into(), messages, consumers }, lsn)))
    }

    fn delete_queue(&self, conn: &Connection, name: &str, if_unused: bool, if_empty: bool, w: &mut Work<'_>) -> Answer {
        let (user, vhost) = identity(conn)?;
        self.topology_read().check(user, vhost, Access::Configure, Resource::Queue, name)?;
        if !self.topology_read().has_queue(vhost, name) {
            return Ok(Some((Reply::Count(0), None)));
        }
        let (messages, lsn) = self.remove(w, |t| {
            let settings = t.usable_queue(vhost, name, conn.id())?;
            let ready = self.deletable(&settings, if_unused, if_empty)?;
            Ok((ready, t.delete_queue_by_id(settings.id)))
        })?;
        Ok(Some((Reply::Count(messages), lsn)))
    }

    /// Whether a queue may be deleted on these conditions, and how many ready messages would go with it.
    ///
    /// # Errors
    /// 406.
    pub(super) fn deletable(&self, settings: &QueueSettings, if_unused: bool, if_empty: bool) -> Result<u64, Refusal> {
        let counts = match settings.kind {
            QueueKind::Stream => self.streams().and_then(|s| s.info(settings.id)).map(|info| info.counts),
            QueueKind::Classic | QueueKind::Quorum => self.lock(settings.id.shard()).counts(settings.id),
        };
        let counts = counts.unwrap_or_default();
        let what = format!("queue '{}' in vhost '{}'", settings.name, settings.vhost);
        if if_unused && counts.consumers > 0 {
            return Err(Refusal::precondition_failed(format!("{what} in use")));
        }
        if if_empty && counts.ready > 0 {
            return Err(Refusal::precondition_failed(format!("{what} not empty")));
        }
        Ok(counts.ready)
    }

    /// Removes all ready messages; how many.
    ///
    /// # Errors
    /// 540: a stream.
    pub(super) fn purge(&self, settings: &QueueSettings, w: &mut Work<'_>) -> Result<u64, Refusal> {
        if settings.kind == QueueKind::Stream {
            let text = format!(
                "queue.purge not supported by stream queues queue '{}' in vhost '{}'",
                settings.name, settings.vhost
            );
            return Err(Refusal::not_implemented(text));
        }
        Ok(self.with_shard(settings.id.shard(), w, |s, cx| s.purge(settings.id, cx)))
    }

    fn qos(&self, conn: &mut Connection, channel: ChannelId, count: u16, global: bool, w: &mut Work<'_>) {
        let Some(state) = conn.live(channel) else { return };
        if !global {
            state.prefetch = count;
            return;
        }
        state.credit.limit(u32::from(count));
        let consumers = state.consumers.clone();
        for c in consumers {
            self.with_shard(c.shard(), w, |s, cx| s.poke(c, cx));
        }
    }
}

/// A connection that cannot be what it says it is does not come about.
fn hard(refusal: Refusal) -> Refusal {
    Refusal { hard: true, ..refusal }
}
