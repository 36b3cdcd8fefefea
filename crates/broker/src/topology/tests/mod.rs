//! Rules by example, and the router against a naive one.

mod codec;
mod declare;
mod policies;
mod routing;
mod security;
mod streams;
mod users;

use waypost_model::command::{Binding, Destination, ExchangeDeclare, QueueDeclare};
use waypost_model::journal::Op;
use waypost_model::table::Table;
use waypost_model::{ConnId, QueueId, Refusal, Route};

use super::{Change, Routed, Topology};

pub(super) const ME: ConnId = ConnId(1);
pub(super) const OTHER: ConnId = ConnId(2);
pub(super) const SEED: [u8; 32] = [7; 32];

/// A topology, and the journal that its changes went to.
pub(super) struct Node {
    pub t: Topology,
    pub journal: std::collections::BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Node {
    pub fn new() -> Node {
        let (t, first) = Topology::load(&[], SEED).unwrap();
        let mut node = Node { t, journal: Default::default() };
        node.keep(first);
        node
    }

    pub fn keep(&mut self, change: Change) -> Change {
        for op in &change.ops {
            match op {
                Op::Define { key, value: Some(v) } => {
                    assert!(key.len() <= 4096);
                    self.journal.insert(key.clone(), v.clone());
                }
                Op::Define { key, value: None } => {
                    assert!(self.journal.remove(key).is_some(), "removed twice: {key:?}")
                }
                other => panic!("{other:?}"),
            }
        }
        change
    }

    pub fn reload(&self) -> Node {
        let all: Vec<_> = self.journal.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let (t, first) = Topology::load(&all, [8; 32]).unwrap();
        assert!(first.is_empty());
        Node { t, journal: self.journal.clone() }
    }

    pub fn exchange(&mut self, name: &str, kind: &str, arguments: Table) -> Result<Change, Refusal> {
        let d = exchange(name, kind, arguments);
        self.t.declare_exchange("guest", "/", &d).map(|c| self.keep(c))
    }

    pub fn queue(&mut self, name: &str, arguments: Table) -> Result<QueueId, Refusal> {
        self.declare(&queue(name, arguments))
    }

    pub fn declare(&mut self, d: &QueueDeclare) -> Result<QueueId, Refusal> {
        let (s, change) = self.t.declare_queue("guest", "/", d, ME, None)?;
        self.keep(change);
        Ok(s.id)
    }

    pub fn bind(&mut self, source: &str, to: Destination, key: &str, arguments: Table) -> Result<(), Refusal> {
        let change = self.t.bind("guest", "/", &binding(source, to, key, arguments), ME)?;
        self.keep(change);
        Ok(())
    }

    pub fn unbind(&mut self, source: &str, to: Destination, key: &str, arguments: Table) -> Result<(), Refusal> {
        let change = self.t.unbind("guest", "/", &binding(source, to, key, arguments), ME)?;
        self.keep(change);
        Ok(())
    }

    pub fn delete_exchange(&mut self, name: &str) -> Result<Change, Refusal> {
        self.t.delete_exchange("guest", "/", name, false).map(|c| self.keep(c))
    }

    pub fn delete_queue(&mut self, id: QueueId) -> Change {
        let change = self.t.delete_queue_by_id(id);
        self.keep(change)
    }

    /// The names of the queues that a key leads to.
    pub fn route(&self, exchange: &str, key: &str) -> Vec<String> {
        match self.t.route("/", exchange, key.as_bytes()).unwrap() {
            Routed::Queues(q) => self.names(&q),
            Routed::PerMessage | Routed::Service => panic!("needs the message"),
        }
    }

    pub fn names(&self, queues: &[QueueId]) -> Vec<String> {
        let mut names: Vec<String> = queues.iter().map(|q| self.t.queue_name(*q).unwrap().to_string()).collect();
        names.sort();
        names
    }
}

pub(super) fn exchange(name: &str, kind: &str, arguments: Table) -> ExchangeDeclare {
    ExchangeDeclare {
        name: name.into(),
        kind: kind.into(),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments,
    }
}

pub(super) fn queue(name: &str, arguments: Table) -> QueueDeclare {
    QueueDeclare { name: name.into(), passive: false, durable: true, exclusive: false, auto_delete: false, arguments }
}

pub(super) fn binding(source: &str, destination: Destination, key: &str, arguments: Table) -> Binding {
    Binding { source: source.into(), destination, routing_key: key.as_bytes().into(), arguments }
}

pub(super) fn to_queue(name: &str) -> Destination {
    Destination::Queue(name.into())
}

pub(super) fn to_exchange(name: &str) -> Destination {
    Destination::Exchange(name.into())
}

pub(super) fn route(exchange: &str, key: &str) -> Route {
    Route::new(exchange, key)
}
