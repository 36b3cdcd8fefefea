//! Exchange types: what each makes of a routing key or of a message's headers.
//!
//! An [`Index`] is the part of an exchange that decides. It knows bindings only by what they match and where they lead;
//! identity, durability and reverse links are the exchange's business.

pub(crate) mod consistent_hash;
pub(crate) mod delayed;
pub(crate) mod direct;
pub(crate) mod fanout;
pub(crate) mod headers;
pub(crate) mod service;
pub(crate) mod topic;

use waypost_model::QueueId;
use waypost_model::Refusal;
use waypost_model::command::Binding;
use waypost_model::props::Props;
use waypost_model::table::Table;

use super::binding::Bound;
use waypost_model::Seeded;

/// The number of an exchange's incarnation, unique while the process lives.
pub(crate) type ExchangeId = u64;

/// Where a binding leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Target {
    Queue(QueueId),
    Exchange(ExchangeId),
}

/// Targets with the number of bindings that lead to each; sorted, so that order is that of creation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Targets(Vec<(Target, u32)>);

impl Targets {
    pub fn add(&mut self, target: Target) {
        match self.0.binary_search_by_key(&target, |(t, _)| *t) {
            Ok(i) => self.0[i].1 += 1,
            Err(i) => {
                if self.0.is_empty() {
                    // Most lists have one entry for ever: without this, a vector begins with room for four.
                    self.0.reserve_exact(1);
                }
                self.0.insert(i, (target, 1));
            }
        }
    }

    pub fn remove(&mut self, target: Target) {
        if let Ok(i) = self.0.binary_search_by_key(&target, |(t, _)| *t) {
            self.0[i].1 -= 1;
            if self.0[i].1 == 0 {
                self.0.remove(i);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn give(&self, out: &mut Sink) {
        for (target, _) in &self.0 {
            out.take(*target);
        }
    }
}

/// Collects what exchanges choose.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    /// Queues, perhaps repeated.
    pub queues: Vec<QueueId>,
    /// Exchanges still to be asked, perhaps repeated.
    pub exchanges: Vec<ExchangeId>,
}

impl Sink {
    pub fn take(&mut self, target: Target) {
        match target {
            Target::Queue(q) => self.queues.push(q),
            Target::Exchange(x) => self.exchanges.push(x),
        }
    }

    pub fn len(&self) -> usize {
        self.queues.len() + self.exchanges.len()
    }
}

/// What of a message routing may look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// The routing key, then those of `CC` and `BCC`. At least one.
    pub keys: &'a [&'a [u8]],
    /// The header table.
    pub headers: Option<&'a Table>,
    /// All properties.
    pub props: Props<'a>,
}

/// The exchange types that decide; `x-delayed-message` wraps one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExchangeKind {
    /// Equal routing keys.
    Direct,
    /// Everything.
    Fanout,
    /// Patterns with `*` and `#`.
    Topic,
    /// Header tables.
    Headers,
    /// One destination per hash, by weight.
    ConsistentHash,
    /// The mailbox of the service that the routing key names.
    Service,
}

impl ExchangeKind {
    /// As clients write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::ConsistentHash => "x-consistent-hash",
            Self::Service => service::NAME,
        }
    }

    /// The type of a name, `x-delayed-message` not among them.
    #[must_use]
    pub fn parse(name: &str) -> Option<ExchangeKind> {
        [Self::Direct, Self::Fanout, Self::Topic, Self::Headers, Self::ConsistentHash, Self::Service]
            .into_iter()
            .find(|k| k.as_str() == name)
    }
}

/// What an exchange looks up in.
#[derive(Debug)]
pub(crate) enum Index {
    Direct(direct::Direct),
    Fanout(fanout::Fanout),
    Topic(topic::Topic),
    Headers(headers::Headers),
    ConsistentHash(consistent_hash::ConsistentHash),
    /// Decides nothing here: whoever meets it routes by the vhost's mailboxes.
    Service,
}

impl Index {
    /// An empty index. `arguments` are those of the exchange, validated.
    pub fn new(kind: ExchangeKind, arguments: &Table, seeded: Seeded) -> Index {
        match kind {
            ExchangeKind::Direct => Index::Direct(direct::Direct::new(seeded)),
            ExchangeKind::Fanout => Index::Fanout(fanout::Fanout::default()),
            ExchangeKind::Topic => Index::Topic(topic::Topic::new(seeded)),
            ExchangeKind::Headers => Index::Headers(headers::Headers::default()),
            ExchangeKind::ConsistentHash => Index::ConsistentHash(consistent_hash::ConsistentHash::new(arguments)),
            ExchangeKind::Service => Index::Service,
        }
    }

    pub fn add(&mut self, b: &Bound) {
        match self {
            Index::Direct(i) => i.add(&b.key, b.target),
            Index::Fanout(i) => i.add(b.target),
            Index::Topic(i) => i.add(&b.key, b.target),
            Index::Headers(i) => i.add(b),
            Index::ConsistentHash(i) => i.add(b),
            Index::Service => {}
        }
    }

    pub fn remove(&mut self, b: &Bound) {
        match self {
            Index::Direct(i) => i.remove(&b.key, b.target),
            Index::Fanout(i) => i.remove(b.target),
            Index::Topic(i) => i.remove(&b.key, b.target),
            Index::Headers(i) => i.remove(b),
            Index::ConsistentHash(i) => i.remove(b),
            Index::Service => {}
        }
    }

    /// Whether more than the routing key counts.
    pub fn looks_at_message(&self) -> bool {
        match self {
            Index::Direct(_) | Index::Fanout(_) | Index::Topic(_) => false,
            Index::Headers(_) | Index::Service => true,
            Index::ConsistentHash(i) => i.looks_at_message(),
        }
    }

    pub fn route(&self, facts: &Facts<'_>, out: &mut Sink) {
        match self {
            Index::Direct(i) => facts.keys.iter().for_each(|k| i.route(k, out)),
            Index::Fanout(i) => i.route(out),
            Index::Topic(i) => facts.keys.iter().for_each(|k| i.route(k, out)),
            Index::Headers(i) => i.route(facts.headers, out),
            Index::ConsistentHash(i) => i.route(facts, out),
            Index::Service => {}
        }
    }
}

/// Whether an exchange of this type can have the binding.
///
/// # Errors
/// 406.
pub(crate) fn validate_binding(kind: ExchangeKind, b: &Binding) -> Result<(), Refusal> {
    match kind {
        ExchangeKind::Headers => headers::validate(&b.arguments),
        ExchangeKind::ConsistentHash => consistent_hash::weight(&b.routing_key).map(|_| ()),
        ExchangeKind::Service => service::validate(),
        ExchangeKind::Direct | ExchangeKind::Fanout | ExchangeKind::Topic => Ok(()),
    }
}
