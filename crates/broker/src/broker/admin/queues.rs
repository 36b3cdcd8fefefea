//! Queues and their consumers.

use std::collections::BTreeMap;
use std::sync::Arc;

use waypost_model::command::QueueDeclare;
use waypost_model::table::Table;
use waypost_model::{ConnId, Lsn, Millis, Refusal};

use super::{Actor, NOBODY, no_such};
use crate::broker::Broker;
use crate::settings::QueueSettings;
use crate::shard::{ConsumerInfo, QueueInfo};
use crate::topology::{Access, QueueView, Resource};

/// Queues that are looked at while a shard is held.
const QUEUES_PER_LOOK: usize = 64;

/// A queue.
#[derive(Debug, Clone)]
pub struct QueueReport {
    /// What it is: settings in force, arguments, policies.
    pub view: QueueView,
    /// How it stands: counts, counters, memory, consumers.
    pub state: QueueInfo,
}

/// A consumer.
#[derive(Debug, Clone)]
pub struct ConsumerReport {
    /// The vhost.
    pub vhost: Arc<str>,
    /// The queue.
    pub queue: Arc<str>,
    /// The connection's name; `None` while it goes.
    pub connection_name: Option<String>,
    /// The connection's user.
    pub user: Option<Arc<str>>,
    /// What the queue knows of it.
    pub info: ConsumerInfo,
}

impl Broker {
    /// The queues of a vhost, or of all, in order of vhost and name.
    ///
    /// # Errors
    /// 404 (no such vhost).
    pub fn queues(&self, vhost: Option<&str>) -> Result<Vec<QueueReport>, Refusal> {
        let views = self.in_vhosts(vhost, |t, v| t.queues(v))?;
        Ok(self.with_states(views.into_iter().map(|v| v.item).collect()))
    }

    /// One queue.
    ///
    /// # Errors
    /// 404.
    pub fn queue(&self, vhost: &str, name: &str) -> Result<QueueReport, Refusal> {
        let view = self.topology_read().queue_view(vhost, name);
        let report = view.and_then(|view| self.with_states(vec![view]).pop());
        report.ok_or_else(|| no_such("queue", name, vhost))
    }

    /// What policy and operator policy come to for a queue; empty if none matches.
    #[must_use]
    pub fn effective_policy(&self, vhost: &str, queue: &str) -> Table {
        self.topology_read().effective_policy(vhost, queue)
    }

    /// The consumers of a vhost, or of all, in order of queue and coming.
    ///
    /// # Errors
    /// 404 (no such vhost).
    pub fn consumers(&self, vhost: Option<&str>) -> Result<Vec<ConsumerReport>, Refusal> {
        let peers: BTreeMap<ConnId, _> = self.peers().into_iter().map(|p| (p.id, p)).collect();
        let mut all = Vec::new();
        for report in self.queues(vhost)? {
            let QueueSettings { vhost, name, .. } = &*report.view.settings;
            all.extend(report.state.consumers.into_iter().map(|info| {
                let peer = peers.get(&info.conn);
                ConsumerReport {
                    vhost: Arc::clone(vhost),
                    queue: Arc::clone(name),
                    connection_name: peer.map(|p| p.name()),
                    user: peer.and_then(|p| p.with_known(|k| k.user.clone())),
                    info,
                }
            }));
        }
        Ok(all)
    }

    /// Declares a queue, as clients do; none that is exclusive, since no connection would own it.
    ///
    /// # Errors
    /// As for clients: 403, 405, 406, 530 (no such vhost).
    pub fn put_queue(
        &self,
        actor: Actor<'_>,
        vhost: &str,
        declare: &QueueDeclare,
        now: Millis,
    ) -> Result<(Arc<QueueSettings>, Option<Lsn>), Refusal> {
        if declare.exclusive {
            return Err(Refusal::precondition_failed(
                "an exclusive queue can only be declared by the connection that is to own it",
            ));
        }
        self.alter(now, |t| t.declare_queue(actor.name(), vhost, declare, NOBODY, self.streams()))
    }

    /// Deletes a queue. Gives the number of ready messages that went with it.
    ///
    /// # Errors
    /// 404, 403, 405 (it is some connection's alone), or 406 with `if_unused` (it has consumers) or `if_empty` (it has
    /// ready messages).
    pub fn delete_queue_of(
        &self,
        actor: Actor<'_>,
        vhost: &str,
        name: &str,
        if_unused: bool,
        if_empty: bool,
        now: Millis,
    ) -> Result<(u64, Option<Lsn>), Refusal> {
        self.alter(now, |t| {
            t.vhost_view(vhost).ok_or_else(|| super::no_vhost(vhost))?;
            t.check(actor.name(), vhost, Access::Configure, Resource::Queue, name)?;
            let settings = t.usable_queue(vhost, name, NOBODY)?;
            let ready = self.deletable(&settings, if_unused, if_empty)?;
            Ok((ready, t.delete_queue_by_id(settings.id)))
        })
    }

    /// Removes all ready messages of a queue; how many.
    ///
    /// # Errors
    /// 404, 403, 405 (it is some connection's alone), 540 (a stream).
    pub fn purge_queue(&self, actor: Actor<'_>, vhost: &str, name: &str, now: Millis) -> Result<u64, Refusal> {
        let settings = {
            let t = self.topology_read();
            t.vhost_view(vhost).ok_or_else(|| super::no_vhost(vhost))?;
            t.check(actor.name(), vhost, Access::Read, Resource::Queue, name)?;
            t.usable_queue(vhost, name, NOBODY)?
        };
        let mut w = self.work(now);
        let purged = self.purge(&settings, &mut w);
        self.carry_out(&mut w);
        purged
    }

    /// Adds to each queue how it stands; leaves out what is gone. Keeps the order.
    fn with_states(&self, views: Vec<QueueView>) -> Vec<QueueReport> {
        let mut order: Vec<usize> = (0..views.len()).collect();
        order.sort_unstable_by_key(|i| views[*i].settings.id.shard());
        let mut states: Vec<Option<QueueInfo>> = views.iter().map(|_| None).collect();
        for of_shard in order.chunk_by(|a, b| views[*a].settings.id.shard() == views[*b].settings.id.shard()) {
            for look in of_shard.chunks(QUEUES_PER_LOOK) {
                let shard = self.lock(views[look[0]].settings.id.shard());
                for i in look.iter().filter(|i| !views[**i].settings.id.is_stream()) {
                    states[*i] = shard.info(views[*i].settings.id);
                }
            }
        }
        for (view, state) in views.iter().zip(&mut states).filter(|(v, _)| v.settings.id.is_stream()) {
            *state = self.streams().and_then(|s| s.info(view.settings.id));
        }
        let both = views.into_iter().zip(states);
        both.filter_map(|(view, state)| state.map(|state| QueueReport { view, state })).collect()
    }
}
