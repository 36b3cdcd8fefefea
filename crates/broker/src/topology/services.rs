//! Services as the topology knows them: by their mailboxes.
//!
//! A mailbox is a queue. One that was declared with the argument `x-service` is that service's; else the queue with the
//! service's default name is, unless it is exclusive. A service has one mailbox at most. What nobody has declared is made
//! when it is needed, and taken over as it is by the first who declares it.

use std::sync::Arc;

use waypost_model::command::QueueDeclare;
use waypost_model::service::{is_service_name, mailbox_name};
use waypost_model::table::Table;
use waypost_model::{QueueId, Refusal, Route};

use super::arguments::{self, QueueArguments};
use super::binding::object;
use super::exchange::Exchange;
use super::kinds::{ExchangeKind, service};
use super::permission::{Access, Resource};
use super::policy::merged;
use super::queue::{Asked, Declared, locked, settings, shard_of};
use super::vhost::{Vhost, alias_of};
use super::{Change, Topology, definitions};
use crate::settings::{QueueKind, QueueSettings};

/// Mailboxes of a vhost that nobody has declared. Messages to further services that nobody knows are refused with 406.
pub const IMPLICIT_MAILBOXES_MAX: usize = 10_000;

/// The part of a routing key that names the service.
pub(crate) fn name_part(key: &[u8]) -> &[u8] {
    key.split(|b| *b == b'?').next().unwrap_or_default()
}

impl Vhost {
    /// The mailbox of a service.
    pub fn mailbox(&self, service: &str) -> Option<&Arc<QueueSettings>> {
        self.queues.get(self.mailboxes.get(service)?).map(|q| &q.settings)
    }

    /// A queue is gone.
    pub fn forget_mailbox(&mut self, s: &QueueSettings) {
        if let Some(service) = &s.service {
            self.mailboxes.remove(service);
            self.implicit -= usize::from(s.implicit);
        }
    }

    /// The service whose mailbox a queue is to be, if that one has none.
    fn service_of(&self, name: &str, exclusive: bool, arguments: &Table) -> Option<Arc<str>> {
        let asked = arguments.get(arguments::SERVICE).and_then(|v| v.as_str());
        let by_name = || name.strip_suffix("-queue").filter(|s| is_service_name(s));
        let service = asked.or_else(by_name).filter(|_| !exclusive)?;
        (!self.mailboxes.contains_key(service)).then(|| service.into())
    }
}

impl Topology {
    /// The exchange that a name means: its own, unless it stands in for another one.
    pub(crate) fn exchange_meant<'n>(&self, vhost: &str, name: &'n str) -> &'n str {
        let yields = || self.vhosts.get(vhost).is_none_or(|v| v.exchange(name).is_some());
        alias_of(name).filter(|_| !yields()).unwrap_or(name)
    }

    /// Whether messages to an exchange go to the service that their routing key names.
    #[must_use]
    pub fn routes_to_services(&self, vhost: &str, exchange: &str) -> bool {
        let found = self.vhosts.get(vhost).and_then(|v| v.exchange_or_alias(exchange));
        found.is_some_and(|x: &Exchange| x.kind == ExchangeKind::Service)
    }

    /// The mailbox of a service, if it has one.
    #[must_use]
    pub fn mailbox(&self, vhost: &str, service: &str) -> Option<Arc<QueueSettings>> {
        self.vhosts.get(vhost)?.mailbox(service).cloned()
    }

    /// The mailboxes of a vhost, in order of service.
    #[must_use]
    pub fn mailboxes(&self, vhost: &str) -> Vec<Arc<QueueSettings>> {
        let v = self.vhosts.get(vhost);
        v.map(|v| v.mailboxes.keys().filter_map(|s| v.mailbox(s)).cloned().collect()).unwrap_or_default()
    }

    /// Whether a user may have a service's mailbox made by sending to it.
    ///
    /// # Errors
    /// 403.
    pub fn check_mailbox(&self, user: &str, vhost: &str, service: &str) -> Result<(), Refusal> {
        self.check(user, vhost, Access::Write, Resource::Queue, &mailbox_name(service))
    }

    /// Whether a user may write to a service, by name: as to a routing key of the exchange of services.
    ///
    /// # Errors
    /// 403.
    pub fn check_service_write(&self, user: &str, vhost: &str, service: &str) -> Result<(), Refusal> {
        self.route_publish(user, vhost, &Route::new(service::EXCHANGE, service)).map(drop)
    }

    /// The mailbox of a service; made if there is none.
    ///
    /// # Errors
    /// 530 (no such vhost), 405 (its name is that of an exclusive queue), 406 (it is another service's; limits).
    pub fn make_mailbox(&mut self, vhost: &str, service: &str) -> Result<(Arc<QueueSettings>, Change), Refusal> {
        let v = self.vhost(vhost)?;
        if let Some(found) = v.mailbox(service) {
            return Ok((Arc::clone(found), Change::default()));
        }
        let name = mailbox_name(service);
        if let Some(q) = v.queues.get(&*name) {
            if q.settings.kind == QueueKind::Stream {
                let text = format!("no mailbox for service '{service}': {} is a stream", object("queue", &name, vhost));
                return Err(Refusal::precondition_failed(text));
            }
            return match (&q.settings.service, q.settings.exclusive) {
                (None, None) => {
                    let settings = Arc::clone(&q.settings);
                    Ok(self.reassign(&settings, service))
                }
                (None, Some(_)) => Err(locked(&q.settings)),
                (Some(other), _) => Err(Refusal::precondition_failed(format!(
                    "no mailbox for service '{service}': {} is that of service '{other}'",
                    object("queue", &name, vhost)
                ))),
            };
        }
        if v.implicit >= IMPLICIT_MAILBOXES_MAX {
            return Err(Refusal::precondition_failed(format!(
                "no mailbox for service '{service}': limit of {IMPLICIT_MAILBOXES_MAX} undeclared mailboxes in vhost \
                 '{vhost}' is reached"
            )));
        }
        self.check_queue_limits(vhost, &name)?;
        let mut change = Change::default();
        let kind = v_default(self.vhost(vhost)?, &name);
        let declared = Declared {
            id: self.ids.take(shard_of(vhost, &name), &mut change.ops),
            vhost: Arc::clone(&self.vhost(vhost)?.name),
            name: name.into(),
            durable: true,
            exclusive: None,
            auto_delete: false,
            kind,
            service: Some(service.into()),
            implicit: true,
        };
        let made = self.insert_queue(declared, QueueArguments::default(), Table::new())?;
        let v = self.vhost_mut(vhost)?;
        v.mailboxes.insert(service.into(), Arc::clone(&made.name));
        v.implicit += 1;
        if let Some(q) = v.queues.get(&made.name) {
            change.ops.push(definitions::put_queue(q));
        }
        change.created_queues.push(Arc::clone(&made));
        self.touch();
        Ok((made, change))
    }

    /// A plain queue becomes a service's mailbox: the one that it had is gone.
    fn reassign(&mut self, plain: &QueueSettings, service: &str) -> (Arc<QueueSettings>, Change) {
        let new = Arc::new(QueueSettings { service: Some(service.into()), ..plain.clone() });
        self.replace_settings(&new);
        if let Some(v) = self.vhosts.get_mut(&new.vhost) {
            v.mailboxes.insert(service.into(), Arc::clone(&new.name));
        }
        self.touch();
        (Arc::clone(&new), Change { reconfigured: vec![new], ..Change::default() })
    }

    fn replace_settings(&mut self, new: &Arc<QueueSettings>) {
        self.queues.insert(new.id, Arc::clone(new));
        if let Some(q) = self.vhosts.get_mut(&new.vhost).and_then(|v| v.queues.get_mut(&new.name)) {
            q.settings = Arc::clone(new);
        }
    }

    /// Whether a queue may be the mailbox that its arguments ask for.
    ///
    /// # Errors
    /// 406.
    pub(super) fn check_service(
        &self,
        vhost: &str,
        name: &str,
        asked: &QueueArguments,
        what: &str,
    ) -> Result<(), Refusal> {
        let Some(service) = &asked.service else {
            return Ok(());
        };
        let v = self.vhost(vhost)?;
        if let Some(other) = v.mailboxes.get(service).filter(|other| ***other != *name) {
            let text = format!("invalid arg 'x-service' for {what}: service '{service}' has its mailbox in '{other}'");
            return Err(Refusal::precondition_failed(text));
        }
        match v.queues.get(name).and_then(|q| q.settings.service.as_ref()).filter(|own| *own != service) {
            Some(own) => Err(Refusal::precondition_failed(format!(
                "invalid arg 'x-service' for {what}: it is the mailbox of service '{own}'"
            ))),
            None => Ok(()),
        }
    }

    /// A queue that was declared just now becomes the mailbox of a service that has none.
    pub(super) fn assign_mailbox(&mut self, made: &Arc<QueueSettings>) -> Arc<QueueSettings> {
        let Some(v) = self.vhosts.get_mut(&made.vhost).filter(|_| made.kind != QueueKind::Stream) else {
            return Arc::clone(made);
        };
        let arguments = v.queues.get(&made.name).map(|q| &q.arguments);
        let service = arguments.and_then(|a| v.service_of(&made.name, made.exclusive.is_some(), a));
        let Some(service) = service else {
            return Arc::clone(made);
        };
        v.mailboxes.insert(Arc::clone(&service), Arc::clone(&made.name));
        let new = Arc::new(QueueSettings { service: Some(service), ..(**made).clone() });
        self.replace_settings(&new);
        new
    }

    /// After a start: those that say whose mailbox they are come first, the others by name.
    pub(super) fn assign_mailboxes(&mut self) {
        let mut found: Vec<(bool, Arc<QueueSettings>)> = Vec::new();
        for v in self.vhosts.values_mut() {
            v.implicit = v.queues.values().filter(|q| q.settings.implicit).count();
            let by_argument = |q: &super::queue::Queue| q.arguments.get(arguments::SERVICE).is_some();
            found.extend(v.queues.values().map(|q| (!by_argument(q), Arc::clone(&q.settings))));
        }
        found.sort_by_key(|(by_name, _)| *by_name);
        for (_, settings) in found {
            self.assign_mailbox(&settings);
        }
    }

    /// The first declaration of a queue that was made for its service: it becomes what was declared, except that it stays
    /// durable.
    pub(super) fn adopt_mailbox(
        &mut self,
        vhost: &str,
        name: &str,
        d: &QueueDeclare,
        parsed: QueueArguments,
        kind: QueueKind,
    ) -> Result<(Arc<QueueSettings>, Change), Refusal> {
        let v = self.vhost_mut(vhost)?;
        let policy = v.policies.for_queue(name, kind);
        let operator_policy = v.operator_policies.for_queue(name, kind);
        let Some(q) = v.queues.get_mut(name) else {
            return Err(super::binding::no_such("queue", name, vhost));
        };
        if d.exclusive {
            return Err(locked(&q.settings));
        }
        if kind == QueueKind::Stream {
            let text = format!("{} is the mailbox of a service", object("queue", name, vhost));
            return Err(Refusal::precondition_failed(text));
        }
        let values = merged(policy.as_deref(), operator_policy.as_deref());
        let declared = Declared { kind, implicit: false, ..Declared::of(&q.settings) };
        let new = Arc::new(settings(declared, parsed, &values));
        (q.policy, q.operator_policy, q.arguments) = (policy, operator_policy, d.arguments.clone());
        q.asked = Some(Asked { durable: d.durable, auto_delete: d.auto_delete });
        q.settings = Arc::clone(&new);
        let op = definitions::put_queue(q);
        v.implicit -= 1;
        self.queues.insert(new.id, Arc::clone(&new));
        self.touch();
        Ok((Arc::clone(&new), Change { ops: vec![op], reconfigured: vec![new], ..Change::default() }))
    }

    /// Deletes a mailbox if still nobody has declared it.
    pub fn delete_implicit(&mut self, id: QueueId) -> Change {
        let implicit = self.queues.get(&id).is_some_and(|s| s.implicit);
        if implicit { self.delete_queue_by_id(id) } else { Change::default() }
    }
}

fn v_default(v: &Vhost, name: &str) -> QueueKind {
    v.default_kind(&QueueDeclare {
        name: name.into(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: Table::new(),
    })
}
