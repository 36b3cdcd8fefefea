//! Queues as the topology knows them: by name, with their arguments, settings and bindings.

use std::sync::Arc;

use waypost_model::command::QueueDeclare;
use waypost_model::table::{Table, Value};
use waypost_model::{ConnId, QueueId, Refusal, SHARDS};

use super::arguments::{self, QueueArguments, assert_field, assert_queue_arguments};
use super::binding::{Bindings, clean, no_such, object};
use super::permission::{Access, Resource};
use super::policy::{Policy, PolicyValues, merged};
use super::streams::{check_properties, open_stream, stream_settings};
use super::{Change, NAME_BYTES_MAX, Topology, definitions};
use crate::settings::{DeadLetterTo, QueueKind, QueueSettings};
use crate::streams::Streams;

/// Failed deliveries that a quorum queue allows unless told otherwise.
const QUORUM_DELIVERY_LIMIT: u32 = 20;
/// Prefix of the names that the server makes up.
const SERVER_NAMED: &str = "amq.gen";
/// Longest `x-name-prefix`, bytes.
const NAME_PREFIX_BYTES_MAX: usize = 64;
/// How many queues a node may have. Further ones are refused with 406.
pub const QUEUES_MAX: usize = 4_000_000;

#[derive(Debug)]
pub(crate) struct Queue {
    pub settings: Arc<QueueSettings>,
    pub arguments: Table,
    pub policy: Option<Arc<Policy>>,
    pub operator_policy: Option<Arc<Policy>>,
    pub incoming: Bindings,
    /// What was asked for by the first who declared a queue that was there already, made for its service: that may be
    /// less than it is, and others may ask the same.
    pub asked: Option<Asked>,
}

/// See [`Queue::asked`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub durable: bool,
    pub auto_delete: bool,
}

/// A queue as listings show it.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueView {
    /// Its settings in force.
    pub settings: Arc<QueueSettings>,
    /// The arguments of its declaration.
    pub arguments: Table,
    /// The policy that applies.
    pub policy: Option<Arc<str>>,
    /// The operator policy that applies.
    pub operator_policy: Option<Arc<str>>,
}

impl Queue {
    /// Whether a connection may use the queue.
    ///
    /// # Errors
    /// 405.
    pub fn check_access(&self, conn: ConnId) -> Result<(), Refusal> {
        match self.settings.exclusive {
            Some(owner) if owner != conn => Err(locked(&self.settings)),
            _ => Ok(()),
        }
    }

    /// Whether a declaration describes this queue.
    fn assert_equivalent(&self, d: &QueueDeclare, conn: ConnId, default: QueueKind) -> Result<(), Refusal> {
        let s = &self.settings;
        if s.exclusive != d.exclusive.then_some(conn) {
            return Err(locked(s));
        }
        let what = object("queue", &s.name, &s.vhost);
        let known = self.asked.unwrap_or(Asked { durable: s.durable, auto_delete: s.auto_delete });
        assert_field(known.durable, d.durable && !d.exclusive, "durable", &what)?;
        assert_field(known.auto_delete, d.auto_delete, "auto_delete", &what)?;
        // A type that is not ours is another one than the queue's, and is named as it came.
        let asked = d.arguments.get("x-queue-type").and_then(Value::as_str);
        let asked = asked.unwrap_or(arguments::kind_name(default));
        assert_field(arguments::kind_name(s.kind), asked, "x-queue-type", &what)?;
        if d.arguments.get("x-name-prefix").is_some() {
            let mut rest = d.arguments.clone();
            rest.remove("x-name-prefix");
            return assert_queue_arguments(&self.arguments, &rest, &what);
        }
        assert_queue_arguments(&self.arguments, &d.arguments, &what)
    }

    pub fn view(&self) -> QueueView {
        QueueView {
            settings: Arc::clone(&self.settings),
            arguments: self.arguments.clone(),
            policy: self.policy.as_ref().map(|p| Arc::clone(&p.name)),
            operator_policy: self.operator_policy.as_ref().map(|p| Arc::clone(&p.name)),
        }
    }
}

pub(super) fn locked(s: &QueueSettings) -> Refusal {
    Refusal::resource_locked(format!(
        "cannot obtain exclusive access to locked {}. It could be originally declared on another connection or the \
         exclusive property value does not match that of the original declaration.",
        object("queue", &s.name, &s.vhost)
    ))
}

/// What a declaration fixes once and for all.
pub(crate) struct Declared {
    pub id: QueueId,
    pub vhost: Arc<str>,
    pub name: Arc<str>,
    pub durable: bool,
    pub exclusive: Option<ConnId>,
    pub auto_delete: bool,
    pub kind: QueueKind,
    pub service: Option<Arc<str>>,
    pub implicit: bool,
}

impl Declared {
    pub fn of(s: &QueueSettings) -> Declared {
        Declared {
            id: s.id,
            vhost: Arc::clone(&s.vhost),
            name: Arc::clone(&s.name),
            durable: s.durable,
            exclusive: s.exclusive,
            auto_delete: s.auto_delete,
            kind: s.kind,
            service: s.service.clone(),
            implicit: s.implicit,
        }
    }
}

/// The smaller of what is there.
fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Of two limits, of which negative ones mean none: the stricter, unless one asks for none at all.
pub(crate) fn stricter_delivery_limit(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    match (a, b) {
        // RabbitMQ's rule: with a negative one among them the greater counts.
        (Some(a), Some(b)) if a < 0 || b < 0 => Some(a.max(b)),
        (a, b) => least(a, b),
    }
}

/// Declaration, arguments and policies put together: arguments win over policies, except that of two limits the smaller
/// counts, and that a policy decides the overflow of quorum queues.
pub(crate) fn settings(d: Declared, a: QueueArguments, p: &PolicyValues) -> QueueSettings {
    if d.kind == QueueKind::Stream {
        return stream_settings(d, p);
    }
    let overflow = match d.kind {
        QueueKind::Classic | QueueKind::Stream => a.overflow.or(p.overflow),
        QueueKind::Quorum => p.overflow.or(a.overflow),
    };
    let exchange = a.dead_letter_exchange.or_else(|| p.dead_letter_exchange.clone());
    let routing_key = a.dead_letter_routing_key.or_else(|| p.dead_letter_routing_key.clone());
    let delivery_limit = match stricter_delivery_limit(a.delivery_limit, p.delivery_limit) {
        Some(n) => u32::try_from(n.min(i64::from(u32::MAX))).ok(),
        None => (d.kind == QueueKind::Quorum).then_some(QUORUM_DELIVERY_LIMIT),
    };
    QueueSettings {
        id: d.id,
        vhost: d.vhost,
        name: d.name,
        durable: d.durable,
        exclusive: d.exclusive,
        auto_delete: d.auto_delete,
        kind: d.kind,
        message_ttl_ms: least(a.message_ttl_ms, p.message_ttl_ms),
        expires_ms: least(a.expires_ms, p.expires_ms),
        max_length: least(a.max_length, p.max_length),
        max_length_bytes: least(a.max_length_bytes, p.max_length_bytes),
        max_age_ms: None,
        overflow: overflow.unwrap_or_default(),
        dead_letter: exchange.map(|exchange| DeadLetterTo { exchange, routing_key }),
        max_priority: a.max_priority,
        single_active_consumer: a.single_active_consumer,
        delivery_limit,
        consumer_timeout_ms: least(a.consumer_timeout_ms, p.consumer_timeout_ms).filter(|ms| *ms > 0),
        delay_of: None,
        service: d.service,
        implicit: d.implicit,
    }
}

/// The shard of a queue: names decide, so that a load spreads the same way on every start.
pub(crate) fn shard_of(vhost: &str, name: &str) -> u64 {
    let bytes = vhost.bytes().chain([0]).chain(name.bytes());
    let h = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    // The low bits of FNV are its weakest.
    (h ^ (h >> 32) ^ (h >> 17)) % SHARDS as u64
}

impl Topology {
    /// The queue that a declaration describes, if there is one: all that a passive declaration wants, and the common end
    /// of the others. `None`: [`Topology::declare_queue`] would make it.
    ///
    /// # Errors
    /// 403 (permission, reserved name), 404 (passive, and there is none), 405 (another connection's), 406 (it is
    /// different).
    pub fn find_declared(
        &self,
        user: &str,
        vhost: &str,
        d: &QueueDeclare,
        conn: ConnId,
    ) -> Result<Option<Arc<QueueSettings>>, Refusal> {
        let v = self.vhost(vhost)?;
        let name = clean(&d.name);
        if d.passive {
            self.check_any(user, vhost, Resource::Queue, &name)?;
            return self.usable_queue(vhost, &name, conn).map(Some);
        }
        if name.is_empty() {
            return Ok(None);
        }
        super::check_name("queue", &name)?;
        self.check(user, vhost, Access::Configure, Resource::Queue, &name)?;
        let Some(q) = v.queues.get(&*name).filter(|q| !q.settings.implicit) else {
            return Ok(None);
        };
        q.assert_equivalent(d, conn, v.default_kind(d))?;
        Ok(Some(Arc::clone(&q.settings)))
    }

    /// Declares a queue: the one that is there, or a new one. Streams are made or found by their keeper.
    ///
    /// # Errors
    /// As [`Topology::find_declared`], and 406 for arguments that are wrong or not ours, properties that the type does not
    /// go with, and limits.
    pub fn declare_queue(
        &mut self,
        user: &str,
        vhost: &str,
        d: &QueueDeclare,
        conn: ConnId,
        streams: Option<&dyn Streams>,
    ) -> Result<(Arc<QueueSettings>, Change), Refusal> {
        if let Some(found) = self.find_declared(user, vhost, d, conn)? {
            return Ok((found, Change::default()));
        }
        let mut arguments = d.arguments.clone();
        let prefix = arguments.remove("x-name-prefix");
        let name = match clean(&d.name) {
            n if n.is_empty() => self.server_name(prefix.as_ref())?,
            n => n.into_owned(),
        };
        if d.name.is_empty() {
            self.check(user, vhost, Access::Configure, Resource::Queue, &name)?;
        }
        let what = object("queue", &name, vhost);
        self.check_dead_letter_access(user, vhost, &arguments, &name, &what)?;
        let parsed = QueueArguments::parse(&arguments, &what)?;
        let v = self.vhost(vhost)?;
        let kind = arguments::kind(&arguments, v.default_kind(d));
        check_properties(d, kind, &what)?;
        arguments::check_kind(&arguments, kind, &what)?;
        self.check_service(vhost, &name, &parsed, &what)?;
        if self.vhost(vhost)?.queues.contains_key(&*name) {
            return self.adopt_mailbox(vhost, &name, d, parsed, kind);
        }
        self.check_queue_limits(vhost, &name)?;
        let mut change = Change::default();
        let id = match kind {
            QueueKind::Stream => open_stream(streams, vhost, &name, &parsed, &what)?,
            _ => self.ids.take(shard_of(vhost, &name), &mut change.ops),
        };
        if self.queues.contains_key(&id) {
            return Err(Refusal::internal(format!("{what} has the id of another")));
        }
        let declared = Declared {
            id,
            vhost: Arc::clone(&self.vhost(vhost)?.name),
            name: name.into(),
            durable: d.durable && !d.exclusive,
            exclusive: d.exclusive.then_some(conn),
            auto_delete: d.auto_delete,
            kind,
            service: None,
            implicit: false,
        };
        let settings = self.insert_queue(declared, parsed, arguments)?;
        let settings = self.assign_mailbox(&settings);
        if settings.durable {
            let q = &self.vhost(vhost)?.queues[&settings.name];
            change.ops.push(definitions::put_queue(q));
        }
        change.created_queues.push(Arc::clone(&settings));
        self.touch();
        Ok((settings, change))
    }

    fn server_name(&mut self, prefix: Option<&Value>) -> Result<String, Refusal> {
        let prefix = match prefix.and_then(Value::as_str) {
            None | Some("") => SERVER_NAMED.into(),
            Some(p) if p.len() <= NAME_PREFIX_BYTES_MAX => clean(p),
            Some(p) => {
                let text = format!("Queue name prefix '{p}' exceeds the {NAME_PREFIX_BYTES_MAX}-byte limit");
                return Err(Refusal::precondition_failed(text));
            }
        };
        Ok(format!("{prefix}-{}", self.names.fresh()))
    }

    /// Whoever lets a queue send to an exchange must be allowed to send there himself.
    fn check_dead_letter_access(
        &self,
        user: &str,
        vhost: &str,
        arguments: &Table,
        queue: &str,
        what: &str,
    ) -> Result<(), Refusal> {
        let key = "x-dead-letter-exchange";
        let Some(value) = arguments.get(key) else {
            return Ok(());
        };
        let Some(exchange) = value.as_str() else {
            let text = format!("invalid type '{}' for arg '{key}' in {what}", super::binding::type_name(value));
            return Err(Refusal::precondition_failed(text));
        };
        self.check(user, vhost, Access::Read, Resource::Queue, queue)?;
        self.check(user, vhost, Access::Write, Resource::Exchange, exchange)
    }

    pub(super) fn check_queue_limits(&self, vhost: &str, name: &str) -> Result<(), Refusal> {
        let v = self.vhost(vhost)?;
        if name.len() > NAME_BYTES_MAX {
            return Err(Refusal::precondition_failed(format!("queue names have at most {NAME_BYTES_MAX} bytes")));
        }
        if let Some(max) = v.limits.max_queues.filter(|max| v.queues.len() as u64 >= *max) {
            return Err(Refusal::precondition_failed(format!(
                "cannot declare queue '{name}': queue limit in vhost '{vhost}' ({max}) is reached"
            )));
        }
        if self.queues.len() >= QUEUES_MAX {
            return Err(Refusal::precondition_failed(format!(
                "cannot declare queue '{name}': queue limit in cluster ({QUEUES_MAX}) is reached"
            )));
        }
        Ok(())
    }

    /// Puts a queue in its places and under its policies.
    pub(crate) fn insert_queue(
        &mut self,
        declared: Declared,
        parsed: QueueArguments,
        arguments: Table,
    ) -> Result<Arc<QueueSettings>, Refusal> {
        let vhost = Arc::clone(&declared.vhost);
        let v = self.vhost_mut(&vhost)?;
        let policy = v.policies.for_queue(&declared.name, declared.kind);
        let operator_policy = v.operator_policies.for_queue(&declared.name, declared.kind);
        let values = merged(policy.as_deref(), operator_policy.as_deref());
        let settings = Arc::new(settings(declared, parsed, &values));
        let queue = Queue {
            settings: Arc::clone(&settings),
            arguments,
            policy,
            operator_policy,
            incoming: Bindings::new(),
            asked: None,
        };
        v.queues.insert(Arc::clone(&settings.name), queue);
        self.queues.insert(settings.id, Arc::clone(&settings));
        if let Some(conn) = settings.exclusive {
            self.exclusive.entry(conn).or_default().insert(settings.id);
        }
        Ok(settings)
    }

    /// Deletes a queue with its bindings, and the auto-delete exchanges that this leaves without any. Deleting what is
    /// not there, or the hidden queue of an exchange, changes nothing.
    pub fn delete_queue_by_id(&mut self, id: QueueId) -> Change {
        let mut change = Change::default();
        let Some(settings) = self.queues.get(&id).filter(|s| s.delay_of.is_none()).cloned() else {
            return change;
        };
        let mut emptied = Vec::new();
        if let Some(v) = self.vhosts.get_mut(&settings.vhost)
            && let Some(q) = v.queues.remove(&settings.name)
        {
            for bound in &q.incoming {
                emptied.extend(v.unlink(bound, &mut change.ops));
            }
            v.forget_mailbox(&settings);
        }
        if settings.durable {
            change.ops.push(definitions::remove_queue(&settings.vhost, &settings.name));
        }
        self.forget_queues(&[id]);
        change.deleted_queues.push(id);
        self.auto_delete(&settings.vhost, emptied, &mut change);
        self.touch();
        change
    }

    /// Takes queues out of the tables that go by id and by connection.
    pub(crate) fn forget_queues(&mut self, ids: &[QueueId]) {
        for id in ids {
            let Some(settings) = self.queues.remove(id) else {
                continue;
            };
            if let Some(conn) = settings.exclusive
                && let Some(owned) = self.exclusive.get_mut(&conn)
            {
                owned.remove(id);
                if owned.is_empty() {
                    self.exclusive.remove(&conn);
                }
            }
        }
    }

    /// The queue of a name, if a connection may use it.
    ///
    /// # Errors
    /// 404, 405.
    pub fn usable_queue(&self, vhost: &str, name: &str, conn: ConnId) -> Result<Arc<QueueSettings>, Refusal> {
        let name = clean(name);
        let q = self.vhost(vhost)?.queues.get(&*name).ok_or_else(|| no_such("queue", &name, vhost))?;
        q.check_access(conn)?;
        Ok(Arc::clone(&q.settings))
    }

    /// Whether there is a queue of that name.
    #[must_use]
    pub fn has_queue(&self, vhost: &str, name: &str) -> bool {
        self.vhosts.get(vhost).is_some_and(|v| v.queues.contains_key(&*clean(name)))
    }

    /// The exclusive queues of a connection, in order of creation per shard.
    #[must_use]
    pub fn queues_of(&self, conn: ConnId) -> Vec<QueueId> {
        self.exclusive.get(&conn).map(|q| q.iter().copied().collect()).unwrap_or_default()
    }

    /// A connection is gone: deletes the queues that were its own.
    pub fn delete_queues_of(&mut self, conn: ConnId) -> Change {
        let mut change = Change::default();
        for id in self.queues_of(conn) {
            change.merge(self.delete_queue_by_id(id));
        }
        change
    }

    /// The name behind an id, hidden queues included.
    #[must_use]
    pub fn queue_name(&self, id: QueueId) -> Option<Arc<str>> {
        self.queues.get(&id).map(|s| Arc::clone(&s.name))
    }

    /// The settings behind an id, hidden queues included.
    #[must_use]
    pub fn queue(&self, id: QueueId) -> Option<&Arc<QueueSettings>> {
        self.queues.get(&id)
    }

    /// The settings of all queues, hidden ones included, in order of id.
    #[must_use]
    pub fn queue_settings(&self) -> Vec<Arc<QueueSettings>> {
        let mut all: Vec<_> = self.queues.values().cloned().collect();
        all.sort_unstable_by_key(|s| s.id);
        all
    }

    /// The queues of a vhost that clients see, in order of name.
    #[must_use]
    pub fn queues(&self, vhost: &str) -> Vec<QueueView> {
        self.vhosts.get(vhost).map(|v| v.queues.values().map(Queue::view).collect()).unwrap_or_default()
    }

    /// One queue.
    #[must_use]
    pub fn queue_view(&self, vhost: &str, name: &str) -> Option<QueueView> {
        self.vhosts.get(vhost)?.queues.get(name).map(Queue::view)
    }
}
