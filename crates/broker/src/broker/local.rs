//! Peers inside this process: other faces of the server that publish and consume as connections do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use waypost_model::{ConnId, Millis, Outbox, Refusal};

use super::admin::Actor;
use super::peer::{Connection, Known, Peer, PeerInfo};
use super::{Broker, waiting};
use crate::shard::Placed;

impl Broker {
    /// A peer of this process comes in, as somebody and into a vhost, without a handshake. It is in no list of
    /// connections, and is told neither of alarms nor of the server's stop: whoever drives it looks itself. To be ended by
    /// [`Broker::disconnect`] like every connection.
    ///
    /// # Errors
    /// 404 (no such vhost).
    pub fn connect_local(
        &self,
        actor: Actor<'_>,
        vhost: &str,
        outbox: Arc<Outbox>,
        now: Millis,
    ) -> Result<Connection, Refusal> {
        let vhost = self.vhost(vhost)?.name;
        let user: Arc<str> = actor.name().into();
        let info = PeerInfo { default_vhost: Arc::clone(&vhost), ..PeerInfo::on_this_machine("local") };
        let known = Known { user: Some(Arc::clone(&user)), vhost: Some(Arc::clone(&vhost)), ..Known::default() };
        let peer = Peer {
            id: ConnId(self.next_conn.fetch_add(1, Ordering::Relaxed)),
            info,
            since: now,
            outbox,
            known: known.into(),
            waits: waiting::Waits::default(),
            // Who has published is told of alarms.
            published: true.into(),
            messages_in: AtomicU64::new(0),
        };
        let mut conn = Connection::new(Arc::new(peer));
        conn.user = Some(user);
        conn.vhost = Some(vhost);
        conn.keeps_place = true;
        Ok(conn)
    }

    /// Takes a message back that nobody was given yet, for a sender who wants it no more. Whether it still waited.
    pub fn withdraw(&self, placed: &Placed, now: Millis) -> bool {
        let mut w = self.work(now);
        let withdrawn = self.with_shard(placed.queue.shard(), &mut w, |shard, cx| shard.withdraw(placed, cx));
        self.carry_out(&mut w);
        withdrawn
    }
}
