//! What sessions depend on: the checks that they name. A session ends when one of them turns critical, or is no more.

use std::collections::HashMap;
use std::sync::Arc;

use waypost_model::Millis;
use waypost_model::service::Health;
use waypost_registry::config::{NewSession, Session, Store};
use waypost_registry::services::{NodeView, Services};

use super::checks::{self, SERVICE_CHECK};

/// What was seen when sessions were looked at last: nothing is to be done as long as it stays.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    checks: u64,
    sessions: u64,
}

/// The checks of nodes, looked up as they are asked for.
struct Checks<'a> {
    services: &'a Services,
    /// By node: itself, and once a check was not found otherwise, all checks on it by id.
    nodes: HashMap<Box<str>, Option<Known>>,
}

struct Known {
    node: Arc<NodeView>,
    all: Option<HashMap<Box<str>, Health>>,
}

/// Why a session cannot be.
///
/// # Errors
/// The reason, as Consul tells it.
pub(crate) fn may_begin(services: &Services, spec: &NewSession) -> Result<(), String> {
    let mut checks = Checks { services, nodes: HashMap::new() };
    if checks.node(&spec.node).is_none() {
        return Err("Missing node registration".to_owned());
    }
    for id in spec.node_checks.iter().chain(&spec.service_checks) {
        match checks.status(&spec.node, id) {
            None => return Err(format!("Missing check '{id}' registration")),
            Some(Health::Critical | Health::Starting) => return Err(format!("Check '{id}' is in critical state")),
            Some(Health::Passing | Health::Warning) => {}
        }
    }
    Ok(())
}

/// Ends the sessions of a vhost whose checks say so. Returns what it saw.
pub(crate) fn end_sessions(services: &Services, store: &Store, seen: Seen, now: Millis) -> Seen {
    let sessions = store.sessions(services.vhost());
    if sessions.items.is_empty() {
        return seen;
    }
    let sees = Seen { checks: services.checks_index().max(services.nodes().0), sessions: sessions.index };
    if sees == seen {
        return sees;
    }
    let mut checks = Checks { services, nodes: HashMap::new() };
    let lost = sessions.items.iter().filter_map(|session| Some((session, checks.lost(session)?)));
    for (session, why) in lost {
        tracing::info!(session = %session.id, why, "a session ends");
        if let Err(error) = store.destroy_session(services.vhost(), &session.id, now) {
            tracing::warn!(session = %session.id, %error, "a session whose check is critical goes on for now");
            // To be looked at again.
            return seen;
        }
    }
    sees
}

impl Checks<'_> {
    /// Why a session is to end, if it is.
    fn lost(&mut self, session: &Session) -> Option<String> {
        let spec = &session.spec;
        if self.node(&spec.node).is_none() {
            return Some(format!("node {} is gone", spec.node));
        }
        spec.node_checks.iter().chain(&spec.service_checks).find_map(|id| match self.status(&spec.node, id) {
            None => Some(format!("check {id} is gone")),
            Some(Health::Critical) => Some(format!("check {id} is critical")),
            // After a restart nothing has been heard of it yet.
            Some(Health::Starting | Health::Warning | Health::Passing) => None,
        })
    }

    fn node(&mut self, name: &str) -> Option<&mut Known> {
        let services = self.services;
        let known = || services.node_alone(name).map(|node| Known { node, all: None });
        self.nodes.entry(name.into()).or_insert_with(known).as_mut()
    }

    /// How a check of a node is, or of a service on it.
    fn status(&mut self, name: &str, id: &str) -> Option<Health> {
        let services = self.services;
        let known = self.node(name)?;
        let node = Arc::clone(&known.node);
        if let Some(item) = checks::of_node(&node).into_iter().find(|item| item.id == id) {
            return Some(item.status);
        }
        // By far the most are of a service's only check.
        if let Some((service, listed)) = id.strip_prefix(SERVICE_CHECK).and_then(|id| services.find(id))
            && listed.node.as_ref().map_or(node.is_self, |on| on.spec.name == node.spec.name)
            && let Some(item) = checks::of_service(&service, &listed, &node).into_iter().find(|item| item.id == id)
        {
            return Some(item.status);
        }
        let all = known.all.get_or_insert_with(|| {
            let on_it = services.node(name).map(|(_, _, on_it)| on_it).unwrap_or_default();
            let of = |service: &Arc<str>, listed| {
                let items = checks::of_service(service, listed, &node).into_iter();
                items.map(|item| (item.id.as_ref().into(), item.status)).collect::<Vec<(Box<str>, Health)>>()
            };
            on_it.iter().flat_map(|(service, listed)| of(service, listed)).collect()
        });
        all.get(id).copied()
    }
}
