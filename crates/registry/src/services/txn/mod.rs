//! Several changes of nodes, instances and their checks at once: all of them, or none. What Consul's `/v1/txn` asks for.
//!
//! Operations are tried one after the other on copies of what they touch ([`stage`]), each seeing what those before it
//! would do. Only when all can be done, everything is handed over as one append, and then put in force ([`apply`]).

mod apply;
mod stage;

use std::sync::Arc;

use waypost_model::journal::Op;
use waypost_model::{Lsn, Millis, Refusal};

use super::Services;
use super::spec::{CheckSpec, NodeSpec, Registration};
use super::view::{CheckView, Listed, NodeView};

/// What is to be done with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Shows it; it must be there.
    Get,
    /// Sets it.
    Set,
    /// Sets it if its last change has this index; 0: if it is not there.
    Cas(u64),
    /// Removes it. That it is not there is fine.
    Delete,
    /// Removes it if its last change has this index.
    DeleteCas(u64),
}

impl Verb {
    /// Whether it only looks.
    #[must_use]
    pub const fn is_look(self) -> bool {
        matches!(self, Self::Get)
    }
}

/// What an operation is about.
#[derive(Clone, Debug)]
pub enum Target {
    /// A node. To look at it or to remove it its name is enough.
    Node(NodeSpec),
    /// An instance.
    Instance {
        /// The node that it is on, this server's too.
        node: Box<str>,
        /// Its id.
        id: Box<str>,
        /// Its service and what is registered, where it is to be set. The node of the registration does not count.
        wanted: Option<(Box<str>, Box<Registration>)>,
    },
    /// A check of a node or an instance. To look at it or to remove it its id is enough; `initial` is what it says.
    Check {
        /// The node.
        node: Box<str>,
        /// The instance on it; empty: it is the node's own.
        instance: Box<str>,
        /// The check.
        check: Box<CheckSpec>,
        /// What it gave out.
        output: Box<str>,
    },
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Change {
    /// What is to be done.
    pub verb: Verb,
    /// With what.
    pub target: Target,
}

/// Why an operation cannot be carried out, in Consul's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// What was to be shown is not there.
    #[error("{0} doesn't exist")]
    Missing(String),
    /// Its last change has another index, or it is not there, or it is.
    #[error("failed to {verb} {what}, index is stale")]
    Stale {
        /// `set` or `delete`.
        verb: &'static str,
        /// What.
        what: String,
    },
    /// The node is not registered.
    #[error("Missing node registration")]
    NoNode,
    /// The instance is not registered.
    #[error("Missing service registration")]
    NoInstance,
    /// It cannot be.
    #[error("{}", .0.text)]
    Refused(Refusal),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        Fault::Refused(refusal)
    }
}

/// What came of an operation.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is done; there is nothing to show.
    Done,
    /// The node.
    Node(Box<NodeView>),
    /// The instance with its service.
    Instance(Arc<str>, Box<Listed>),
    /// The check, its node, and the instance whose it is with its service.
    Check(Box<CheckView>, Box<NodeView>, Option<(Arc<str>, Box<Listed>)>),
}

/// A transaction that was carried out.
#[derive(Debug)]
pub struct Transacted<T> {
    /// One per operation.
    pub outcomes: Vec<Outcome>,
    /// When what was done, and what was seen, is durable.
    pub lsn: Lsn,
    /// What the commit gave.
    pub committed: T,
}

/// A transaction that was not: nothing of it was done.
#[derive(Debug)]
pub enum Failed<E> {
    /// What stands in the way, with the number of the operation.
    Changes(Vec<(usize, Fault)>),
    /// The commit did not succeed.
    Commit(E),
}

impl Services {
    /// Carries out all operations, or none. `commit` is called once all can be done, with what is to be written (nothing,
    /// perhaps): it appends that, with whatever else is to be part of the same transaction, and says where. The registry
    /// is locked meanwhile.
    ///
    /// # Errors
    /// [`Failed`].
    pub fn transact<T, E>(
        &self,
        changes: &[Change],
        now: Millis,
        commit: impl FnOnce(Vec<Op>) -> Result<(Lsn, T), E>,
    ) -> Result<Transacted<T>, Failed<E>> {
        self.registry.change(now, |state| {
            let mut stage = stage::Stage::new(self, state, now);
            let mut faults = Vec::new();
            for (n, change) in changes.iter().enumerate() {
                if let Err(fault) = stage.run(change) {
                    faults.push((n, fault));
                }
            }
            if !faults.is_empty() {
                return Err(Failed::Changes(faults));
            }
            let staged = stage.finish();
            let (lsn, committed) = commit(staged.ops(self, state)).map_err(Failed::Commit)?;
            let seen = staged.seen;
            let outcomes = staged.apply(self, state, lsn, now);
            Ok(Transacted { outcomes, lsn: lsn.max(seen), committed })
        })
    }

    /// An instance that is on a node, this server's too, with its service. Ids are unique on a node.
    #[must_use]
    pub fn find_on(&self, node: &str, id: &str) -> Option<(Arc<str>, Listed)> {
        let mut state = self.registry.lock();
        let node = self.node_place(&state, node).ok()?;
        let place = state.find_on(self.tenant.number, node, id)?;
        let listed = state.listed(place)?;
        let service = state.entries.get(place as usize)?.service;
        Some((Arc::clone(&state.services.get(service as usize)?.name.service), listed))
    }
}
