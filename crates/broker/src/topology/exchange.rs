//! Exchanges: declaration, deletion, listings.

use std::sync::Arc;

use waypost_model::QueueId;
use waypost_model::Refusal;
use waypost_model::command::ExchangeDeclare;
use waypost_model::table::{Table, Value};

use super::arguments::{QueueArguments, assert_argument, assert_field};
use super::binding::{BindingView, Bindings, clean, no_such, object, type_name};
use super::kinds::{ExchangeId, ExchangeKind, Index, consistent_hash, delayed};
use super::permission::{Access, Resource};
use super::policy::{Policy, PolicyValues};
use super::queue::{Declared, settings, shard_of};
use super::{Change, NAME_BYTES_MAX, Topology, definitions};
use crate::settings::{QueueKind, QueueSettings};
use waypost_model::Seeded;

/// How many exchanges a vhost may have. Further ones are refused with 406.
pub const EXCHANGES_MAX: usize = 1_000_000;

const ALTERNATE: &str = "alternate-exchange";

/// Arguments by which other servers' exchanges do more than route. We do not have that, and whoever asks for it must know.
const REFUSED_ARGUMENTS: [&str; 10] = [
    "x-message-deduplication",
    "x-deduplication-header",
    "x-cache-size",
    "x-cache-ttl",
    "x-cache-persistence",
    "x-delayed-exchange",
    "x-algorithm",
    "x-hash-on",
    "x-recent-history-length",
    "x-recent-history-no-store",
];

#[derive(Debug)]
pub(crate) struct Exchange {
    pub id: ExchangeId,
    pub name: Arc<str>,
    /// The type that routes; of a delayed exchange, its inner one.
    pub kind: ExchangeKind,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Table,
    /// Where goes what matches no binding: from the arguments, else from the policy.
    pub alternate: Option<Arc<str>>,
    pub policy: Option<Arc<Policy>>,
    pub index: Index,
    pub outgoing: Bindings,
    pub incoming: Bindings,
    /// Where messages of an `x-delayed-message` exchange wait.
    pub delay_queue: Option<QueueId>,
}

/// An exchange as listings show it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeView {
    /// Its name; empty for the default exchange.
    pub name: Arc<str>,
    /// Its type, as clients write it.
    pub kind: &'static str,
    /// Survives a restart.
    pub durable: bool,
    /// Goes with its last binding.
    pub auto_delete: bool,
    /// Takes messages from exchanges only.
    pub internal: bool,
    /// The arguments of its declaration.
    pub arguments: Table,
    /// The policy that applies.
    pub policy: Option<Arc<str>>,
    /// The queue where its delayed messages wait.
    pub delay_queue: Option<QueueId>,
}

impl Exchange {
    pub fn predeclared(id: ExchangeId, name: &str, kind: ExchangeKind, internal: bool, seeded: Seeded) -> Exchange {
        Exchange {
            id,
            name: name.into(),
            kind,
            durable: true,
            auto_delete: false,
            internal,
            arguments: Table::new(),
            alternate: None,
            policy: None,
            index: Index::new(kind, &Table::new(), seeded),
            outgoing: Bindings::new(),
            incoming: Bindings::new(),
            delay_queue: None,
        }
    }

    pub fn is_default(&self) -> bool {
        self.name.is_empty()
    }

    /// Whether there is a definition of it in the journal: predeclared ones come with their vhost.
    pub fn is_defined(&self) -> bool {
        self.durable && !self.is_default() && !self.name.starts_with("amq.")
    }

    pub fn kind_name(&self) -> &'static str {
        if self.delay_queue.is_some() { delayed::NAME } else { self.kind.as_str() }
    }

    pub fn set_policy(&mut self, policy: Option<Arc<Policy>>) {
        let own = self.arguments.get(ALTERNATE).and_then(Value::as_str).map(Arc::from);
        self.alternate = own.or_else(|| policy.as_ref().and_then(|p| p.values.alternate_exchange.clone()));
        self.policy = policy;
    }

    pub fn view(&self) -> ExchangeView {
        ExchangeView {
            name: Arc::clone(&self.name),
            kind: self.kind_name(),
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
            arguments: self.arguments.clone(),
            policy: self.policy.as_ref().map(|p| Arc::clone(&p.name)),
            delay_queue: self.delay_queue,
        }
    }

    fn assert_equivalent(&self, d: &ExchangeDeclare, vhost: &str) -> Result<(), Refusal> {
        let what = object("exchange", &self.name, vhost);
        assert_field(self.kind_name(), &*d.kind, "type", &what)?;
        assert_field(self.durable, d.durable, "durable", &what)?;
        assert_field(self.auto_delete, d.auto_delete, "auto_delete", &what)?;
        assert_field(self.internal, d.internal, "internal", &what)?;
        assert_argument(&self.arguments, &d.arguments, ALTERNATE, &what)?;
        match self.delay_queue {
            Some(_) => assert_argument(&self.arguments, &d.arguments, delayed::TYPE_ARGUMENT, &what),
            None => Ok(()),
        }
    }
}

fn check_not_default(name: &str) -> Result<(), Refusal> {
    match name {
        "" => Err(Refusal::access_refused("operation not permitted on the default exchange")),
        _ => Ok(()),
    }
}

/// The type that routes, and whether messages can be delayed before.
///
/// # Errors
/// 406.
fn parse_kind(d: &ExchangeDeclare) -> Result<(ExchangeKind, bool), Refusal> {
    if &*d.kind == delayed::NAME {
        return Ok((delayed::inner(&d.arguments)?, true));
    }
    let known = ExchangeKind::parse(&d.kind);
    let kind = known.ok_or_else(|| Refusal::precondition_failed(format!("invalid exchange type '{}'", d.kind)))?;
    Ok((kind, false))
}

/// # Errors
/// 406.
fn check_arguments(d: &ExchangeDeclare, kind: ExchangeKind, what: &str) -> Result<(), Refusal> {
    if let Some(value) = d.arguments.get(ALTERNATE)
        && value.as_str().is_none()
    {
        let text = format!("invalid type '{}' for arg '{ALTERNATE}' in {what}", type_name(value));
        return Err(Refusal::precondition_failed(text));
    }
    if let Some((key, _)) = d.arguments.iter().find(|(k, _)| REFUSED_ARGUMENTS.contains(k)) {
        let text = format!("invalid arg '{key}' for {what}: \"this server does not have it\"");
        return Err(Refusal::precondition_failed(text));
    }
    match kind {
        ExchangeKind::ConsistentHash => consistent_hash::validate(&d.arguments),
        _ => Ok(()),
    }
}

impl Topology {
    /// Declares an exchange; an equivalent one that is there already is fine.
    ///
    /// # Errors
    /// 403 (permission, reserved name, default exchange), 404 (passive, and there is none), 406 (type, arguments, a
    /// different one is there, limit).
    pub fn declare_exchange(&mut self, user: &str, vhost: &str, d: &ExchangeDeclare) -> Result<Change, Refusal> {
        if self.find_exchange(user, vhost, d)? {
            return Ok(Change::default());
        }
        let name = clean(&d.name);
        let (kind, delayed) = parse_kind(d)?;
        super::check_name("exchange", &name)?;
        if name.len() > NAME_BYTES_MAX {
            return Err(Refusal::precondition_failed(format!("exchange names have at most {NAME_BYTES_MAX} bytes")));
        }
        let what = object("exchange", &name, vhost);
        check_arguments(d, kind, &what)?;
        if let Some(alternate) = d.arguments.get(ALTERNATE).and_then(Value::as_str) {
            self.check(user, vhost, Access::Read, Resource::Exchange, &name)?;
            self.check(user, vhost, Access::Write, Resource::Exchange, alternate)?;
        }
        if self.vhost(vhost)?.exchanges.len() >= EXCHANGES_MAX {
            let text = format!("cannot declare {what}: exchange limit of {EXCHANGES_MAX} is reached");
            return Err(Refusal::precondition_failed(text));
        }
        let mut change = Change::default();
        let delay_queue = delayed.then(|| self.ids.take(shard_of(vhost, &name), &mut change.ops));
        let mut x = Exchange::predeclared(self.next_exchange_id(), &name, kind, d.internal, self.seeded);
        x.durable = d.durable;
        x.auto_delete = d.auto_delete;
        x.arguments = d.arguments.clone();
        x.index = Index::new(kind, &d.arguments, self.seeded);
        x.delay_queue = delay_queue;
        if x.is_defined() {
            change.ops.push(definitions::put_exchange(vhost, &x));
        }
        change.created_queues.extend(self.insert_exchange(vhost, x)?);
        self.touch();
        Ok(change)
    }

    /// Whether an exchange equivalent to a declaration is there: all that most declarations need, without an exclusive
    /// lock. `false`: [`Topology::declare_exchange`] would make it.
    ///
    /// # Errors
    /// As [`Topology::declare_exchange`].
    pub fn find_exchange(&self, user: &str, vhost: &str, d: &ExchangeDeclare) -> Result<bool, Refusal> {
        let name = clean(&d.name);
        if d.passive {
            check_not_default(&name)?;
            let name = self.exchange_meant(vhost, &name);
            self.check_any(user, vhost, Resource::Exchange, name)?;
            return match self.vhost(vhost)?.exchange(name) {
                Some(_) => Ok(true),
                None => Err(no_such("exchange", name, vhost)),
            };
        }
        if &*d.kind != delayed::NAME {
            parse_kind(d)?;
        }
        check_not_default(&name)?;
        self.check(user, vhost, Access::Configure, Resource::Exchange, &name)?;
        match self.vhost(vhost)?.exchange(&name) {
            Some(x) => x.assert_equivalent(d, vhost).map(|()| true),
            None => Ok(false),
        }
    }

    /// Puts an exchange in its places and under its policy. Gives the hidden queue of a delayed one.
    pub(crate) fn insert_exchange(
        &mut self,
        vhost: &str,
        mut x: Exchange,
    ) -> Result<Option<Arc<QueueSettings>>, Refusal> {
        let v = self.vhost_mut(vhost)?;
        x.set_policy(v.policies.for_exchange(&x.name));
        let hidden = x.delay_queue.map(|id| {
            let declared = Declared {
                id,
                vhost: Arc::clone(&v.name),
                name: format!("delayed messages of {}", object("exchange", &x.name, vhost)).into(),
                durable: x.durable,
                exclusive: None,
                auto_delete: false,
                kind: QueueKind::Classic,
                service: None,
                implicit: false,
            };
            let plain = settings(declared, QueueArguments::default(), &PolicyValues::default());
            Arc::new(QueueSettings { delay_of: Some(x.id), ..plain })
        });
        v.exchange_ids.insert(Arc::clone(&x.name), x.id);
        v.exchanges.insert(x.id, x);
        if let Some(settings) = &hidden {
            self.queues.insert(settings.id, Arc::clone(settings));
        }
        Ok(hidden)
    }

    /// Deletes an exchange with its bindings and what waits in it. That there is none is fine.
    ///
    /// # Errors
    /// 403 (permission, predeclared or default exchange), 406 (`if_unused`, and something is bound to it).
    pub fn delete_exchange(&mut self, user: &str, vhost: &str, name: &str, if_unused: bool) -> Result<Change, Refusal> {
        let name = clean(name);
        check_not_default(&name)?;
        let what = object("exchange", &name, vhost);
        if name.starts_with("amq.") {
            return Err(Refusal::access_refused(format!("deletion of system {what} not allowed")));
        }
        self.check(user, vhost, Access::Configure, Resource::Exchange, &name)?;
        let mut change = Change::default();
        let Some(x) = self.vhost(vhost)?.exchange(&name) else {
            return Ok(change);
        };
        if if_unused && !x.outgoing.is_empty() {
            return Err(Refusal::precondition_failed(format!("{what} in use")));
        }
        let emptied = self.remove_exchange(vhost, x.id, &mut change);
        self.auto_delete(vhost, emptied, &mut change);
        Ok(change)
    }

    /// Takes an exchange out with its bindings. Gives the auto-delete exchanges that were bound to it only.
    pub(crate) fn remove_exchange(&mut self, vhost: &str, id: ExchangeId, change: &mut Change) -> Vec<ExchangeId> {
        let mut emptied = Vec::new();
        let Some(v) = self.vhosts.get_mut(vhost) else {
            return emptied;
        };
        let Some(x) = v.exchanges.get(&id) else {
            return emptied;
        };
        let (defined, delay_queue, name) = (x.is_defined(), x.delay_queue, Arc::clone(&x.name));
        let bindings: Vec<_> = x.outgoing.iter().chain(&x.incoming).cloned().collect();
        for bound in bindings {
            emptied.extend(v.unlink(&bound, &mut change.ops));
        }
        emptied.retain(|e| *e != id);
        v.exchanges.remove(&id);
        v.exchange_ids.remove(&name);
        if defined {
            change.ops.push(definitions::remove_exchange(vhost, &name));
        }
        if let Some(queue) = delay_queue {
            self.forget_queues(&[queue]);
            change.deleted_queues.push(queue);
        }
        self.touch();
        emptied
    }

    /// The exchanges of a vhost, in order of name.
    #[must_use]
    pub fn exchanges(&self, vhost: &str) -> Vec<ExchangeView> {
        let Some(v) = self.vhosts.get(vhost) else {
            return Vec::new();
        };
        v.exchange_ids.values().filter_map(|id| v.exchanges.get(id)).map(Exchange::view).collect()
    }

    /// One exchange.
    #[must_use]
    pub fn exchange_view(&self, vhost: &str, name: &str) -> Option<ExchangeView> {
        self.vhosts.get(vhost)?.exchange(name).map(Exchange::view)
    }

    /// The bindings of a vhost in order of source, those of the default exchange (each queue by its name) first.
    #[must_use]
    pub fn bindings(&self, vhost: &str) -> Vec<BindingView> {
        let Some(v) = self.vhosts.get(vhost) else {
            return Vec::new();
        };
        let default: Arc<str> = "".into();
        let implicit = v.queues.keys().map(|name| BindingView {
            source: Arc::clone(&default),
            destination: waypost_model::command::Destination::Queue((**name).into()),
            routing_key: Arc::from(name.as_bytes()),
            arguments: Table::new(),
        });
        let explicit = v.exchange_ids.values().filter_map(|id| v.exchanges.get(id));
        implicit.chain(explicit.flat_map(|x| x.outgoing.iter().map(|b| BindingView::of(b)))).collect()
    }
}
