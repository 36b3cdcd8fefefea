//! Vhosts, exchanges, bindings, queues by name, users, permissions, policies; and the router over them.
//!
//! [`Topology`] is plain data: reading takes `&self`, and whatever alters it takes `&mut self` and returns a [`Change`],
//! which says what is to be written to the journal and what the shards are to do. A refused alteration changed nothing.

pub mod acl;
pub mod acl_filter;
pub mod arguments;
pub mod binding;
pub mod definitions;
pub mod exchange;
mod ids;
pub mod kinds;
pub mod limits;
mod names;
pub mod pattern;
pub mod permission;
pub mod policy;
pub mod queue;
pub mod quota;
pub mod router;
pub mod scram;
pub mod services;
mod streams;
pub mod user;
pub mod vhost;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use waypost_model::journal::Op;
use waypost_model::{ConnId, QueueId, Refusal};

pub use acl::{Acl, AclEffect, AclOperation, AclPattern, AclResource, AclSubject};
pub use acl_filter::{AclFilter, AclNames};
pub use arguments::{age_ms, kind_name, parse_kind};
pub use binding::BindingView;
pub use definitions::LoadError;
pub use exchange::ExchangeView;
pub use kinds::service::EXCHANGE as SERVICES_EXCHANGE;
pub use limits::{ParameterKey, UserLimits, VhostLimits};
pub use permission::{Access, PermissionSpec, Resource, TopicPermissionSpec};
pub use policy::{ApplyTo, PolicySort, PolicySpec, PolicyView};
pub use queue::QueueView;
pub use quota::{QuotaEntity, QuotaKind, QuotaName, QuotaRates, QuotaShare};
pub use router::{Delayed, Explanation, MessageRoute, Routed, Unmatched};
pub use scram::{ScramKeys, ScramMechanism};
pub use user::{HashingAlgorithm, PasswordHash, UserSpec, UserView};
pub use vhost::{VhostMetadata, VhostView};

use crate::settings::QueueSettings;
use user::User;
use vhost::Vhost;
use waypost_model::Seeded;

/// Longest name of anything, bytes: what a short string of AMQP holds.
pub const NAME_BYTES_MAX: usize = 255;

/// Everything that is declared, and what follows from it for a message.
#[derive(Debug)]
pub struct Topology {
    pub(crate) vhosts: BTreeMap<Arc<str>, Vhost>,
    pub(crate) users: BTreeMap<Arc<str>, User>,
    /// All queues, hidden ones included.
    pub(crate) queues: HashMap<QueueId, Arc<QueueSettings>, Seeded>,
    pub(crate) exclusive: BTreeMap<ConnId, BTreeSet<QueueId>>,
    pub(crate) parameters: BTreeMap<ParameterKey, Box<str>>,
    pub(crate) acls: BTreeMap<Arc<str>, acl::Acls>,
    pub(crate) acl_count: usize,
    pub(crate) quotas: BTreeMap<QuotaEntity, QuotaRates>,
    pub(crate) ids: ids::Ids,
    pub(crate) names: names::Names,
    pub(crate) seeded: Seeded,
    /// What strangers' passwords are held against.
    pub(crate) nobody: PasswordHash,
    exchange_ids: u64,
    generation: u64,
}

/// What an alteration came to.
#[derive(Debug, Default)]
pub struct Change {
    /// What the journal has to take, as one append.
    pub ops: Vec<Op>,
    /// Queues that are new.
    pub created_queues: Vec<Arc<QueueSettings>>,
    /// Queues that are gone, with all that they held. Writing [`Op::Forget`] is left to their shard, which alone can do
    /// it behind the last message.
    pub deleted_queues: Vec<QueueId>,
    /// Queues whose settings are different now.
    pub reconfigured: Vec<Arc<QueueSettings>>,
}

impl Change {
    fn define(op: Op) -> Change {
        Change { ops: vec![op], ..Change::default() }
    }

    /// Takes in a later change.
    pub fn merge(&mut self, later: Change) {
        self.ops.extend(later.ops);
        self.created_queues.extend(later.created_queues);
        self.deleted_queues.extend(later.deleted_queues);
        self.reconfigured.extend(later.reconfigured);
    }

    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
            && self.created_queues.is_empty()
            && self.deleted_queues.is_empty()
            && self.reconfigured.is_empty()
    }
}

impl Topology {
    /// A topology without anything. `seed` is secret and different at each start.
    fn empty(seed: [u8; 32]) -> Result<Topology, Refusal> {
        let names = names::Names::new(seed);
        let word = |purpose: &[u8]| {
            let bytes = names.bytes(purpose, 0);
            u64::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
        };
        let seeded = Seeded(word(b"hash"));
        let nobody = names.bytes(b"nobody", 0);
        Ok(Topology {
            vhosts: BTreeMap::new(),
            users: BTreeMap::new(),
            queues: HashMap::with_hasher(seeded),
            exclusive: BTreeMap::new(),
            parameters: BTreeMap::new(),
            acls: BTreeMap::new(),
            acl_count: 0,
            quotas: BTreeMap::new(),
            ids: ids::Ids::default(),
            names,
            seeded,
            nobody: PasswordHash::new(HashingAlgorithm::Sha256, [0; 4], &nobody)?,
            exchange_ids: 0,
            generation: 1,
        })
    }

    /// Rises with every alteration that can change where a message goes or what somebody may do.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// 22 characters that nobody can guess; the same for the same number until the next start.
    #[must_use]
    pub fn unguessable(&self, n: u64) -> String {
        self.names.text(b"token", n)
    }

    fn touch(&mut self) {
        self.generation += 1;
    }

    fn next_exchange_id(&mut self) -> u64 {
        self.exchange_ids += 1;
        self.exchange_ids
    }
}

fn no_vhost(name: &str) -> Refusal {
    Refusal::not_allowed(format!("vhost {name} not found"))
}

/// Names that begin with `amq.` are the server's.
fn check_name(kind: &str, name: &str) -> Result<(), Refusal> {
    if name.starts_with("amq.") {
        return Err(Refusal::access_refused(format!("{kind} name '{name}' contains reserved prefix 'amq.*'")));
    }
    Ok(())
}
