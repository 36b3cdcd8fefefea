//! Health as Consul tells it: everything is a check.

use std::borrow::Cow;

use waypost_model::service::Health;
use waypost_registry::services::{CheckKind, CheckView, Listed, NodeView, Why};

/// The check that says that an agent is there.
pub(super) const SERF_HEALTH: &str = "serfHealth";

/// The check that puts a node into maintenance.
pub(super) const NODE_MAINTENANCE: &str = "_node_maintenance";

/// What the check begins with that puts an instance into maintenance.
pub(super) const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

/// What the ids of an instance's own checks begin with.
pub(super) const SERVICE_CHECK: &str = "service:";

/// A status. What has not been looked at yet does not serve.
pub(super) const fn status(health: Health) -> &'static str {
    match health {
        Health::Passing => "passing",
        Health::Warning => "warning",
        Health::Critical | Health::Starting => "critical",
    }
}

/// A status from its name.
pub(super) fn health(status: &str) -> Option<Health> {
    match status {
        "passing" | "pass" => Some(Health::Passing),
        "warning" | "warn" => Some(Health::Warning),
        "critical" | "fail" => Some(Health::Critical),
        _ => None,
    }
}

/// What an instance comes to.
pub(super) fn of_instance(listed: &Listed) -> Health {
    if listed.standing.draining || listed.maintenance.is_some() { Health::Critical } else { listed.standing.health }
}

/// A check.
#[derive(Clone, Debug)]
pub(super) struct Item<'a> {
    pub node: &'a str,
    pub id: Cow<'a, str>,
    pub name: Cow<'a, str>,
    pub status: Health,
    pub notes: &'a str,
    pub output: &'a str,
    /// Of the service that it is of; empty for a node's.
    pub service_id: &'a str,
    pub service_name: &'a str,
    pub tags: &'a [Box<str>],
    pub kind: &'static str,
    pub interval_ms: Option<u64>,
    pub timeout_ms: Option<u64>,
    pub created: u64,
    pub modified: u64,
}

/// The checks of a node.
pub(super) fn of_node(node: &NodeView) -> Vec<Item<'_>> {
    let item = |id: &'static str, name: &'static str, status, notes, output| Item {
        node: &node.spec.name,
        id: id.into(),
        name: name.into(),
        status,
        notes,
        output,
        service_id: "",
        service_name: "",
        tags: &[],
        kind: "",
        interval_ms: None,
        timeout_ms: None,
        created: node.created,
        modified: node.modified,
    };
    let mut items = Vec::with_capacity(1 + node.checks.len());
    if node.is_self {
        items.push(item(SERF_HEALTH, "Serf Health Status", Health::Passing, "", "Agent alive and reachable"));
    }
    if let Some(reason) = &node.maintenance {
        let reason = if reason.is_empty() {
            "Maintenance mode is enabled for this node, but no reason was provided."
        } else {
            reason
        };
        items.push(item(NODE_MAINTENANCE, "Node Maintenance Mode", Health::Critical, reason, ""));
    }
    items.extend(node.checks.iter().map(|check| of_check(check, node, None)));
    items
}

/// The checks of an instance, those of its node not among them.
pub(super) fn of_service<'a>(service: &'a str, listed: &'a Listed, node: &'a NodeView) -> Vec<Item<'a>> {
    let mut items: Vec<_> = listed.checks.iter().map(|check| of_check(check, node, Some((service, listed)))).collect();
    if listed.why == Why::Panic {
        // So many at once are our own fault: nobody is to be given up for it.
        items.iter_mut().for_each(|item| item.status = item.status.min(Health::Warning));
    }
    if let Some(reason) = &listed.maintenance {
        let reason = if reason.is_empty() {
            "Maintenance mode is enabled for this service, but no reason was provided."
        } else {
            reason
        };
        items.push(maintenance(service, listed, node, reason));
    } else if listed.standing.draining {
        items.push(maintenance(
            service,
            listed,
            node,
            "The instance is draining: it finishes what it has and gets nothing new.",
        ));
    }
    let worst = items.iter().map(|item| item.status).max().unwrap_or(Health::Passing);
    let told = if worst == Health::Starting { Health::Critical } else { worst };
    let is = if listed.standing.health == Health::Starting { Health::Critical } else { listed.standing.health };
    // What no check tells, the registry itself knows. What its node's checks tell stands there.
    if is > told && listed.why != Why::Node {
        items.push(Item {
            id: format!("_registry:{}", listed.instance.id).into(),
            name: "Registry".into(),
            status: is,
            output: output_of(listed.why),
            ..maintenance(service, listed, node, "")
        });
    }
    items
}

fn output_of(why: Why) -> &'static str {
    match why {
        Why::Expired => "The lease was not renewed in time.",
        Why::Damped => "The instance comes and goes too often.",
        Why::Panic => "Many instances fell silent at once; nobody is given up for that.",
        Why::Returning => "The server was restarted; the instance's connection is not back yet.",
        Why::Starting => "Nothing has been heard of the instance yet.",
        Why::Plain | Why::Check | Why::Maintenance | Why::Node => "",
    }
}

fn maintenance<'a>(service: &'a str, listed: &'a Listed, node: &'a NodeView, notes: &'a str) -> Item<'a> {
    Item {
        node: &node.spec.name,
        id: format!("{SERVICE_MAINTENANCE}{}", listed.instance.id).into(),
        name: "Service Maintenance Mode".into(),
        status: Health::Critical,
        notes,
        output: "",
        service_id: &listed.instance.id,
        service_name: service,
        tags: &listed.instance.tags,
        kind: "maintenance",
        interval_ms: None,
        timeout_ms: None,
        created: listed.created,
        modified: listed.modified,
    }
}

/// A check of a node, or of an instance on it with its service.
pub(super) fn of_check<'a>(check: &'a CheckView, node: &'a NodeView, of: Option<(&'a str, &'a Listed)>) -> Item<'a> {
    let (kind, timeout_ms) = match &check.spec.kind {
        CheckKind::Ttl { ttl_ms: _ } => ("ttl", None),
        CheckKind::Http(probe) => ("http", Some(probe.timeout_ms)),
        CheckKind::Tcp { timeout_ms, .. } => ("tcp", Some(*timeout_ms)),
        CheckKind::Manual => ("", None),
    };
    Item {
        node: &node.spec.name,
        id: (&*check.spec.id).into(),
        name: (&*check.spec.name).into(),
        status: check.status,
        notes: &check.spec.notes,
        output: &check.output,
        service_id: of.map_or("", |(_, listed)| &listed.instance.id),
        service_name: of.map_or("", |(service, _)| service),
        tags: of.map_or(&[], |(_, listed)| &listed.instance.tags),
        kind,
        interval_ms: check.spec.kind.interval_ms(),
        timeout_ms,
        created: of.map_or(node.created, |(_, listed)| listed.created),
        modified: check.modified,
    }
}
