//! Bindings, and the words in which RabbitMQ speaks of objects and values.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use waypost_model::command::{Binding, Destination};
use waypost_model::table::{Table, Value};
use waypost_model::{ConnId, Refusal};

use super::exchange::Exchange;
use super::kinds::{self, ExchangeId, Target};
use super::permission::{Access, Resource};
use super::vhost::Vhost;
use super::{Change, Topology, definitions};

/// How many bindings a vhost may have. Further ones are refused with 406.
pub const BINDINGS_MAX: usize = 4_000_000;

/// Bindings in order of source, destination, key and arguments.
pub(crate) type Bindings = BTreeSet<Arc<Bound>>;

/// A binding in force. What makes it itself are source, destination, key and arguments.
#[derive(Debug)]
pub(crate) struct Bound {
    pub source: Arc<str>,
    pub destination: DestinationName,
    pub key: Arc<[u8]>,
    pub arguments: Table,
    /// The arguments with their keys sorted, encoded; empty if there are none.
    pub canonical: Box<[u8]>,
    pub target: Target,
    /// Both ends are durable.
    pub durable: bool,
}

/// A queue's or an exchange's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DestinationName {
    Queue(Arc<str>),
    Exchange(Arc<str>),
}

impl DestinationName {
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Queue(n) | Self::Exchange(n) => n,
        }
    }

    pub fn is_queue(&self) -> bool {
        matches!(self, Self::Queue(_))
    }

    pub fn to_destination(&self) -> Destination {
        match self {
            Self::Queue(n) => Destination::Queue((**n).into()),
            Self::Exchange(n) => Destination::Exchange((**n).into()),
        }
    }
}

impl Bound {
    fn identity(&self) -> (&str, &DestinationName, &[u8], &[u8]) {
        (&self.source, &self.destination, &self.key, &self.canonical)
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> Ordering {
        self.identity().cmp(&other.identity())
    }
}

/// The arguments as they count for identity.
pub(crate) fn canonical(arguments: &Table) -> Box<[u8]> {
    if arguments.is_empty() {
        return Box::default();
    }
    let mut entries: Vec<(&str, &Value)> = arguments.iter().collect();
    entries.sort_by_key(|(k, _)| *k);
    entries.into_iter().map(|(k, v)| (k, v.clone())).collect::<Table>().to_bytes().into()
}

/// A binding as listings show it.
#[derive(Debug, Clone, PartialEq)]
pub struct BindingView {
    /// The source exchange; empty for the default exchange.
    pub source: Arc<str>,
    /// Where it leads.
    pub destination: Destination,
    /// The binding key.
    pub routing_key: Arc<[u8]>,
    /// Further arguments.
    pub arguments: Table,
}

impl BindingView {
    pub(crate) fn of(b: &Bound) -> BindingView {
        BindingView {
            source: Arc::clone(&b.source),
            destination: b.destination.to_destination(),
            routing_key: Arc::clone(&b.key),
            arguments: b.arguments.clone(),
        }
    }
}

/// `kind 'name' in vhost 'vhost'`.
pub(crate) fn object(kind: &str, name: &str, vhost: &str) -> String {
    format!("{kind} '{name}' in vhost '{vhost}'")
}

pub(crate) fn no_such(kind: &str, name: &str, vhost: &str) -> Refusal {
    Refusal::not_found(format!("no {}", object(kind, name, vhost)))
}

/// RabbitMQ's word for the type of a value.
pub(crate) fn type_name(v: &Value) -> &'static str {
    match v {
        Value::Void => "void",
        Value::Bool(_) => "bool",
        Value::I8(_) => "byte",
        Value::U8(_) => "unsignedbyte",
        Value::I16(_) => "short",
        Value::U16(_) => "unsignedshort",
        Value::I32(_) => "signedint",
        Value::U32(_) => "unsignedint",
        Value::I64(_) | Value::LongLong(_) => "long",
        Value::F32(_) => "float",
        Value::F64(_) => "double",
        Value::Decimal { .. } => "decimal",
        Value::LongStr(_) => "longstr",
        Value::Bytes(_) => "binary",
        Value::Timestamp(_) => "timestamp",
        Value::Array(_) => "array",
        Value::Table(_) => "table",
    }
}

/// A value for people, as RabbitMQ's messages have it where clients can be expected to look.
pub(crate) fn value_text(v: &Value) -> String {
    match v {
        Value::Bool(b) => b.to_string(),
        Value::LongStr(s) | Value::Bytes(s) => String::from_utf8_lossy(s).into_owned(),
        Value::Timestamp(t) => t.to_string(),
        Value::F32(f) => f.to_string(),
        Value::F64(f) => f.to_string(),
        other => match other.as_i64() {
            Some(n) => n.to_string(),
            None => type_name(other).to_owned(),
        },
    }
}

/// RabbitMQ takes line ends out of names.
pub(crate) fn clean(name: &str) -> std::borrow::Cow<'_, str> {
    if name.contains(['\r', '\n']) { name.replace(['\r', '\n'], "").into() } else { name.into() }
}

fn not_default(name: &str) -> Result<(), Refusal> {
    match name {
        "" => Err(Refusal::access_refused("operation not permitted on the default exchange")),
        _ => Ok(()),
    }
}

/// Both ends of a binding, found.
struct Ends {
    bound: Bound,
    source: ExchangeId,
}

impl Topology {
    /// Binds. An equal binding that is there already is fine. Needs write permission on the destination, read permission
    /// on the source and, if that is a topic exchange, on the binding key.
    ///
    /// # Errors
    /// 403 (permission, default exchange), 404 (an end is missing), 405 (another connection's exclusive queue), 406
    /// (arguments that the exchange's type does not take, too many bindings).
    pub fn bind(&mut self, user: &str, vhost: &str, b: &Binding, conn: ConnId) -> Result<Change, Refusal> {
        self.authorize_binding(user, vhost, b)?;
        let ends = self.ends(vhost, b)?;
        let mut change = Change::default();
        let Some(v) = self.vhosts.get_mut(vhost) else {
            return Err(super::no_vhost(vhost));
        };
        let source = v.exchange_by_id(ends.source).ok_or_else(|| no_such("exchange", &b.source, vhost))?;
        kinds::validate_binding(source.kind, b)?;
        if let DestinationName::Queue(name) = &ends.bound.destination {
            v.queues[name].check_access(conn)?;
        }
        if source.outgoing.contains(&ends.bound) {
            return Ok(change);
        }
        if v.bindings >= BINDINGS_MAX {
            let text = format!(
                "cannot bind to exchange '{}': binding limit in vhost '{vhost}' ({BINDINGS_MAX}) is reached",
                b.source
            );
            return Err(Refusal::precondition_failed(text));
        }
        if ends.bound.durable {
            change.ops.push(definitions::put_binding(vhost, &ends.bound));
        }
        v.link(ends.source, ends.bound);
        self.touch();
        Ok(change)
    }

    /// Unbinds. That there is no such binding, or not even such a queue or exchange, is fine. Permissions as for
    /// [`Topology::bind`].
    ///
    /// # Errors
    /// 403, 405.
    pub fn unbind(&mut self, user: &str, vhost: &str, b: &Binding, conn: ConnId) -> Result<Change, Refusal> {
        self.authorize_binding(user, vhost, b)?;
        let mut change = Change::default();
        let Ok(ends) = self.ends(vhost, b) else {
            return Ok(change);
        };
        let Some(v) = self.vhosts.get_mut(vhost) else {
            return Err(super::no_vhost(vhost));
        };
        if let DestinationName::Queue(name) = &ends.bound.destination {
            v.queues[name].check_access(conn)?;
        }
        let found = v.exchange_by_id(ends.source).and_then(|x| x.outgoing.get(&ends.bound).cloned());
        let Some(bound) = found else {
            return Ok(change);
        };
        let emptied = v.unlink(&bound, &mut change.ops);
        self.auto_delete(vhost, emptied, &mut change);
        self.touch();
        Ok(change)
    }

    fn authorize_binding(&self, user: &str, vhost: &str, b: &Binding) -> Result<(), Refusal> {
        let (resource, name) = match &b.destination {
            Destination::Queue(name) => (Resource::Queue, name),
            Destination::Exchange(name) => (Resource::Exchange, name),
        };
        self.check(user, vhost, Access::Write, resource, &clean(name))?;
        if resource == Resource::Exchange {
            not_default(name)?;
        }
        not_default(&b.source)?;
        let source = clean(&b.source);
        let source = self.exchange_meant(vhost, &source);
        self.check(user, vhost, Access::Read, Resource::Exchange, source)?;
        self.check_topic(user, vhost, Access::Read, source, &b.routing_key)
    }

    /// The ends of a binding, as far as they exist; RabbitMQ names the source first.
    fn ends(&self, vhost: &str, b: &Binding) -> Result<Ends, Refusal> {
        let v = self.vhost(vhost)?;
        let name = clean(&b.source);
        let source = v.exchange_or_alias(&name).ok_or_else(|| no_such("exchange", &name, vhost))?;
        let (destination, target, durable) = match &b.destination {
            Destination::Queue(name) => {
                let name = clean(name);
                let q = v.queues.get(&*name).ok_or_else(|| no_such("queue", &name, vhost))?;
                let s = &q.settings;
                (DestinationName::Queue(Arc::clone(&s.name)), Target::Queue(s.id), s.durable)
            }
            Destination::Exchange(name) => {
                let name = clean(name);
                let x = v.exchange(&name).ok_or_else(|| no_such("exchange", &name, vhost))?;
                (DestinationName::Exchange(Arc::clone(&x.name)), Target::Exchange(x.id), x.durable)
            }
        };
        let bound = Bound {
            source: Arc::clone(&source.name),
            destination,
            key: Arc::from(&*b.routing_key),
            arguments: b.arguments.clone(),
            canonical: canonical(&b.arguments),
            target,
            durable: durable && source.durable,
        };
        Ok(Ends { bound, source: source.id })
    }

    /// Deletes auto-delete exchanges whose last binding went, and what that causes.
    pub(crate) fn auto_delete(&mut self, vhost: &str, mut emptied: Vec<ExchangeId>, change: &mut Change) {
        while let Some(id) = emptied.pop() {
            emptied.extend(self.remove_exchange(vhost, id, change));
        }
    }
}

impl Vhost {
    /// Puts a binding into force.
    pub(crate) fn link(&mut self, source: ExchangeId, bound: Bound) {
        let bound = Arc::new(bound);
        if let Some(x) = self.exchanges.get_mut(&source) {
            x.index.add(&bound);
            x.outgoing.insert(Arc::clone(&bound));
        }
        if let Some(incoming) = self.incoming_of(&bound) {
            incoming.insert(Arc::clone(&bound));
        }
        self.bindings += 1;
    }

    /// Takes a binding out of force. Gives the exchange that now deserves to be deleted, if any.
    pub(crate) fn unlink(&mut self, bound: &Arc<Bound>, ops: &mut Vec<waypost_model::journal::Op>) -> Vec<ExchangeId> {
        let mut emptied = Vec::new();
        if let Some(incoming) = self.incoming_of(bound) {
            incoming.remove(bound);
        }
        let source = self.exchange_ids.get(&bound.source).copied();
        if let Some(x) = source.and_then(|id| self.exchanges.get_mut(&id))
            && x.outgoing.remove(bound)
        {
            x.index.remove(bound);
            self.bindings -= 1;
            if bound.durable {
                ops.push(definitions::remove_binding(&self.name, bound));
            }
            if x.auto_delete && x.outgoing.is_empty() {
                emptied.push(x.id);
            }
        }
        emptied
    }

    fn incoming_of(&mut self, bound: &Bound) -> Option<&mut Bindings> {
        match bound.target {
            Target::Queue(_) => self.queues.get_mut(bound.destination.name()).map(|q| &mut q.incoming),
            Target::Exchange(id) => self.exchanges.get_mut(&id).map(|x: &mut Exchange| &mut x.incoming),
        }
    }
}
