//! Vhosts: the tenants of a node.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use waypost_model::command::QueueDeclare;
use waypost_model::{QueueId, Refusal};

use super::exchange::Exchange;
use super::kinds::{ExchangeId, ExchangeKind, service};
use super::limits::VhostLimits;
use super::policy::Policies;
use super::queue::Queue;
use super::{Change, NAME_BYTES_MAX, Topology, definitions};
use crate::settings::QueueKind;
use waypost_model::Seeded;

/// What a vhost is beside its contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VhostMetadata {
    /// For people.
    pub description: String,
    /// For people and tools.
    pub tags: Vec<String>,
    /// The type of queues that are declared without one; `None` is classic.
    pub default_queue_type: Option<QueueKind>,
}

#[derive(Debug)]
pub(crate) struct Vhost {
    pub name: Arc<str>,
    pub metadata: VhostMetadata,
    pub limits: VhostLimits,
    pub exchange_ids: BTreeMap<Arc<str>, ExchangeId>,
    pub exchanges: HashMap<ExchangeId, Exchange, Seeded>,
    pub queues: BTreeMap<Arc<str>, Queue>,
    /// The mailbox of each service that has one.
    pub mailboxes: BTreeMap<Arc<str>, Arc<str>>,
    /// How many of them nobody has declared.
    pub implicit: usize,
    pub policies: Policies,
    pub operator_policies: Policies,
    /// How many bindings there are, beside those of the default exchange.
    pub bindings: usize,
}

/// Where changes of the configuration are told.
const CONFIG: &str = "amq.config";

/// Names that stand in for predeclared exchanges, unless a client has declared exchanges of these names.
const ALIASES: [(&str, &str); 2] = [(service::ALIAS, service::EXCHANGE), ("config", CONFIG)];

/// What a name stands in for.
pub(crate) fn alias_of(name: &str) -> Option<&'static str> {
    ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, exchange)| *exchange)
}

/// The exchanges that every vhost has from its beginning.
const PREDECLARED: [(&str, ExchangeKind, Internal); 9] = [
    ("", ExchangeKind::Direct, Internal::No),
    (CONFIG, ExchangeKind::Topic, Internal::No),
    ("amq.direct", ExchangeKind::Direct, Internal::No),
    ("amq.fanout", ExchangeKind::Fanout, Internal::No),
    ("amq.headers", ExchangeKind::Headers, Internal::No),
    ("amq.match", ExchangeKind::Headers, Internal::No),
    ("amq.rabbitmq.trace", ExchangeKind::Topic, Internal::Yes),
    (service::EXCHANGE, ExchangeKind::Service, Internal::No),
    ("amq.topic", ExchangeKind::Topic, Internal::No),
];

#[derive(PartialEq, Eq, Clone, Copy)]
enum Internal {
    Yes,
    No,
}

/// A vhost as listings show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostView {
    /// Its name.
    pub name: Arc<str>,
    /// What was said of it.
    pub metadata: VhostMetadata,
    /// Its limits.
    pub limits: VhostLimits,
    /// How many queues it has.
    pub queues: usize,
    /// How many exchanges.
    pub exchanges: usize,
    /// How many bindings, without those of the default exchange.
    pub bindings: usize,
}

impl Vhost {
    pub fn exchange(&self, name: &str) -> Option<&Exchange> {
        self.exchanges.get(self.exchange_ids.get(name)?)
    }

    /// The same, with what stands in for an exchange that nobody has declared.
    pub fn exchange_or_alias(&self, name: &str) -> Option<&Exchange> {
        self.exchange(name).or_else(|| self.exchange(alias_of(name)?))
    }

    pub fn exchange_by_id(&self, id: ExchangeId) -> Option<&Exchange> {
        self.exchanges.get(&id)
    }
}

impl Topology {
    pub(crate) fn vhost(&self, name: &str) -> Result<&Vhost, Refusal> {
        self.vhosts.get(name).ok_or_else(|| super::no_vhost(name))
    }

    pub(crate) fn vhost_mut(&mut self, name: &str) -> Result<&mut Vhost, Refusal> {
        self.vhosts.get_mut(name).ok_or_else(|| super::no_vhost(name))
    }

    /// Creates a vhost with its predeclared exchanges, or changes what is said of one that exists.
    ///
    /// # Errors
    /// 406 if the name is empty or too long.
    pub fn put_vhost(&mut self, name: &str, metadata: VhostMetadata) -> Result<Change, Refusal> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Refusal::precondition_failed(format!("vhost names have 1 to {NAME_BYTES_MAX} bytes")));
        }
        let mut change = Change::default();
        match self.vhosts.get_mut(name) {
            Some(v) => v.metadata = metadata,
            None => self.insert_vhost(name, metadata),
        }
        let v = self.vhost(name)?;
        change.ops.push(definitions::put_vhost(v));
        self.touch();
        Ok(change)
    }

    pub(crate) fn insert_vhost(&mut self, name: &str, metadata: VhostMetadata) {
        let name: Arc<str> = name.into();
        let mut v = Vhost {
            name: Arc::clone(&name),
            metadata,
            limits: VhostLimits::default(),
            exchange_ids: BTreeMap::new(),
            exchanges: HashMap::with_hasher(self.seeded),
            queues: BTreeMap::new(),
            mailboxes: BTreeMap::new(),
            implicit: 0,
            policies: Policies::default(),
            operator_policies: Policies::default(),
            bindings: 0,
        };
        for (name, kind, internal) in PREDECLARED {
            let x = Exchange::predeclared(self.next_exchange_id(), name, kind, internal == Internal::Yes, self.seeded);
            v.exchange_ids.insert(Arc::clone(&x.name), x.id);
            v.exchanges.insert(x.id, x);
        }
        self.vhosts.insert(name, v);
    }

    /// Deletes a vhost with all that is in it, permissions, policies and parameters included. The caller closes the
    /// connections that work there.
    ///
    /// # Errors
    /// 404.
    pub fn delete_vhost(&mut self, name: &str) -> Result<Change, Refusal> {
        let Some(v) = self.vhosts.remove(name) else {
            return Err(Refusal::not_found(format!("no vhost '{name}'")));
        };
        let mut change = Change::default();
        // Bindings first, the vhost last: the order does not matter to an atomic append, but it reads well in a dump.
        for x in v.exchanges.values() {
            change.ops.extend(x.outgoing.iter().filter(|b| b.durable).map(|b| definitions::remove_binding(name, b)));
        }
        let hidden = v.exchanges.values().filter_map(|x| x.delay_queue);
        let gone: Vec<QueueId> = v.queues.values().map(|q| q.settings.id).chain(hidden).collect();
        for q in v.queues.values().filter(|q| q.settings.durable) {
            change.ops.push(definitions::remove_queue(name, &q.settings.name));
        }
        for x in v.exchanges.values().filter(|x| x.is_defined()) {
            change.ops.push(definitions::remove_exchange(name, &x.name));
        }
        self.forget_queues(&gone);
        change.deleted_queues = gone;
        change.deleted_queues.sort_unstable();
        change.ops.extend(v.policies.iter().map(|p| definitions::remove_policy(name, &p.name, false)));
        change.ops.extend(v.operator_policies.iter().map(|p| definitions::remove_policy(name, &p.name, true)));
        self.forget_permissions(name, &mut change);
        self.forget_parameters(name, &mut change);
        self.forget_acls(name, &mut change);
        if v.limits != VhostLimits::default() {
            change.ops.push(definitions::remove_vhost_limits(name));
        }
        change.ops.push(definitions::remove_vhost(name));
        self.touch();
        Ok(change)
    }

    /// All vhosts, in order of name.
    #[must_use]
    pub fn vhosts(&self) -> Vec<VhostView> {
        self.vhosts.values().map(view).collect()
    }

    /// One vhost.
    #[must_use]
    pub fn vhost_view(&self, name: &str) -> Option<VhostView> {
        self.vhosts.get(name).map(view)
    }
}

impl Vhost {
    /// The type of a queue that is declared without one: the vhost's default where the other properties allow it.
    pub fn default_kind(&self, d: &QueueDeclare) -> QueueKind {
        match self.metadata.default_queue_type {
            Some(QueueKind::Quorum) if d.durable && !d.exclusive => QueueKind::Quorum,
            Some(QueueKind::Stream) if d.durable && !d.exclusive && !d.auto_delete => QueueKind::Stream,
            _ => QueueKind::Classic,
        }
    }
}

fn view(v: &Vhost) -> VhostView {
    VhostView {
        name: Arc::clone(&v.name),
        metadata: v.metadata.clone(),
        limits: v.limits,
        queues: v.queues.len(),
        exchanges: v.exchanges.len(),
        bindings: v.bindings,
    }
}
