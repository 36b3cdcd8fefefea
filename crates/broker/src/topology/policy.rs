//! Policies: settings that operators give to all queues and exchanges of a name pattern, applied at once to what exists.

use std::sync::Arc;

use waypost_model::Refusal;
use waypost_model::table::{Table, Value};

use super::arguments::{QueueArguments, parse_overflow};
use super::pattern::Pattern;
use super::queue::{Declared, settings, stricter_delivery_limit};
use super::vhost::Vhost;
use super::{Change, NAME_BYTES_MAX, Topology, definitions};
use crate::settings::{Overflow, QueueKind};

/// Policies that a vhost may have, of each sort. Further ones are refused with 406.
pub const POLICIES_MAX: usize = 10_000;

/// What a policy applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyTo {
    /// `queues`
    Queues,
    /// `exchanges`
    Exchanges,
    /// `all`
    All,
    /// `classic_queues`
    ClassicQueues,
    /// `quorum_queues`
    QuorumQueues,
    /// `streams`
    Streams,
}

impl ApplyTo {
    const ALL: [(ApplyTo, &'static str); 6] = [
        (Self::Queues, "queues"),
        (Self::Exchanges, "exchanges"),
        (Self::All, "all"),
        (Self::ClassicQueues, "classic_queues"),
        (Self::QuorumQueues, "quorum_queues"),
        (Self::Streams, "streams"),
    ];

    /// The name that clients of the management API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(a, _)| *a == self).map_or("all", |(_, name)| name)
    }

    /// The value of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<ApplyTo> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(a, _)| *a)
    }

    fn has_queue(self, kind: QueueKind) -> bool {
        match self {
            Self::Queues | Self::All => true,
            Self::Exchanges => false,
            Self::ClassicQueues => kind == QueueKind::Classic,
            Self::QuorumQueues => kind == QueueKind::Quorum,
            Self::Streams => kind == QueueKind::Stream,
        }
    }

    fn has_exchanges(self) -> bool {
        matches!(self, Self::Exchanges | Self::All)
    }
}

/// A policy as operators write it.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicySpec {
    /// Regular expression on names.
    pub pattern: String,
    /// What it applies to.
    pub apply_to: ApplyTo,
    /// Of several that match, the highest counts, and only that one.
    pub priority: i64,
    /// The settings.
    pub definition: Table,
}

#[derive(Debug)]
pub(crate) struct Policy {
    pub name: Arc<str>,
    pub pattern: Pattern,
    pub apply_to: ApplyTo,
    pub priority: i64,
    pub definition: Table,
    pub values: PolicyValues,
}

/// What a definition says, as far as it changes what we do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PolicyValues {
    pub alternate_exchange: Option<Arc<str>>,
    pub dead_letter_exchange: Option<Arc<str>>,
    pub dead_letter_routing_key: Option<Arc<[u8]>>,
    pub delivery_limit: Option<i64>,
    pub expires_ms: Option<u64>,
    pub max_length: Option<u64>,
    pub max_length_bytes: Option<u64>,
    pub message_ttl_ms: Option<u64>,
    pub overflow: Option<Overflow>,
    pub consumer_timeout_ms: Option<u64>,
    pub max_age_ms: Option<u64>,
}

/// A policy as listings show it.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyView {
    /// Its name.
    pub name: Arc<str>,
    /// What it says.
    pub spec: PolicySpec,
}

/// The policies of one sort in a vhost, the first that matches counting: by priority, then by name.
#[derive(Debug, Default)]
pub(crate) struct Policies(Vec<Arc<Policy>>);

impl Policies {
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.0.iter()
    }

    pub fn for_queue(&self, name: &str, kind: QueueKind) -> Option<Arc<Policy>> {
        self.0.iter().find(|p| p.apply_to.has_queue(kind) && p.pattern.is_match(name)).cloned()
    }

    pub fn for_exchange(&self, name: &str) -> Option<Arc<Policy>> {
        self.0.iter().find(|p| p.apply_to.has_exchanges() && p.pattern.is_match(name)).cloned()
    }

    pub fn put(&mut self, policy: Policy) {
        self.remove(&policy.name);
        let rank = |p: &Policy| (std::cmp::Reverse(p.priority), Arc::clone(&p.name));
        let at = self.0.partition_point(|p| rank(p) < rank(&policy));
        self.0.insert(at, Arc::new(policy));
    }

    fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|p| &*p.name != name);
        self.0.len() < before
    }

    fn views(&self) -> Vec<PolicyView> {
        let mut all: Vec<PolicyView> = self.0.iter().map(|p| p.view()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

impl Policy {
    /// Compiles a policy. `Err` says what is wrong with it.
    pub fn new(name: &str, spec: &PolicySpec, operator: bool) -> Result<Policy, String> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(format!("policy names have 1 to {NAME_BYTES_MAX} bytes"));
        }
        let pattern = Pattern::new(&spec.pattern).map_err(|e| format!("pattern is no regular expression: {e}"))?;
        if spec.definition.is_empty() {
            return Err("no policy provided".into());
        }
        let mut values = PolicyValues::default();
        for (key, value) in spec.definition.iter() {
            if operator && !OPERATOR_KEYS.contains(&key) {
                return Err(format!("'{key}' is not recognised as an operator policy setting"));
            }
            values.set(key, value)?;
        }
        Ok(Policy {
            name: name.into(),
            pattern,
            apply_to: spec.apply_to,
            priority: spec.priority,
            definition: spec.definition.clone(),
            values,
        })
    }

    fn view(&self) -> PolicyView {
        PolicyView {
            name: Arc::clone(&self.name),
            spec: PolicySpec {
                pattern: self.pattern.source().to_owned(),
                apply_to: self.apply_to,
                priority: self.priority,
                definition: self.definition.clone(),
            },
        }
    }
}

/// What operator policies may set: limits, which can only become stricter.
const OPERATOR_KEYS: [&str; 9] = [
    "expires",
    "message-ttl",
    "max-length",
    "max-length-bytes",
    "max-in-memory-length",
    "max-in-memory-bytes",
    "delivery-limit",
    "queue-version",
    "overflow",
];

impl PolicyValues {
    fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        let invalid = |what: &str| format!("{} is not a valid {what}", super::binding::value_text(value));
        let text = |what: &str| value.as_str().ok_or_else(|| invalid(what));
        let at_least = |least: u64, what: &str| {
            let n = value.as_i64().and_then(|n| u64::try_from(n).ok());
            n.filter(|n| *n >= least).ok_or_else(|| invalid(what))
        };
        let one_of = |options: &[&str], what: &str| match value.as_str() {
            Some(t) if options.contains(&t) => Ok(()),
            _ => Err(invalid(what)),
        };
        match key {
            "alternate-exchange" => self.alternate_exchange = Some(text("alternate exchange name")?.into()),
            "dead-letter-exchange" => self.dead_letter_exchange = Some(text("dead letter exchange name")?.into()),
            "dead-letter-routing-key" => {
                self.dead_letter_routing_key = Some(Arc::from(text("dead letter routing key")?.as_bytes()));
            }
            "delivery-limit" => {
                self.delivery_limit = Some(value.as_i64().ok_or_else(|| invalid("delivery limit"))?);
            }
            "expires" => self.expires_ms = Some(at_least(1, "queue expiry")?),
            "max-length" => self.max_length = Some(at_least(0, "maximum length")?),
            "max-length-bytes" => self.max_length_bytes = Some(at_least(0, "maximum length in bytes")?),
            "message-ttl" => self.message_ttl_ms = Some(at_least(0, "message TTL")?),
            "consumer-timeout" => self.consumer_timeout_ms = Some(at_least(0, "consumer timeout")?),
            "max-age" => {
                let age = super::arguments::age_ms(text("maximum age")?);
                self.max_age_ms = Some(age.ok_or_else(|| invalid("maximum age"))?);
            }
            "overflow" => {
                let mode = text("overflow value")?;
                self.overflow = Some(parse_overflow(mode).ok_or_else(|| invalid("overflow value"))?);
            }
            // What concerns the places of a cluster is satisfied by one node, and dead letters are never lost anyway.
            "dead-letter-strategy" => one_of(&["at-most-once", "at-least-once"], "dead letter strategy")?,
            "queue-mode" => one_of(&["default", "lazy"], "queue-mode value")?,
            "queue-leader-locator" => {
                one_of(&["client-local", "balanced", "random", "least-leaders"], "queue leader locator value")?;
            }
            "queue-version" => match value.as_i64() {
                Some(1 | 2) => {}
                _ => return Err(invalid("queue-version value")),
            },
            "initial-cluster-size" | "target-group-size" => {
                at_least(0, "cluster size")?;
            }
            // Retention goes by batches and filters are exact: there is nothing to be sized.
            "stream-max-segment-size-bytes" | "stream-filter-size-bytes" => {
                at_least(1, "size in bytes")?;
            }
            "max-in-memory-length" | "max-in-memory-bytes" => {
                at_least(0, "maximum memory in bytes")?;
            }
            "consumer-disconnected-timeout" => {
                at_least(0, "consumer disconnected timeout")?;
            }
            _ => {
                return Err(format!(
                    "[{{<<\"{key}\">>,{}}}] are not recognised policy settings",
                    super::binding::value_text(value)
                ));
            }
        }
        Ok(())
    }
}

/// Policy and operator policy put together: of two limits the smaller counts, and the operator decides the overflow.
pub(crate) fn merged(policy: Option<&Policy>, operator: Option<&Policy>) -> PolicyValues {
    let (mut p, o) = match (policy, operator) {
        (None, None) => return PolicyValues::default(),
        (Some(p), None) | (None, Some(p)) => return p.values.clone(),
        (Some(p), Some(o)) => (p.values.clone(), &o.values),
    };
    let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    p.expires_ms = least(p.expires_ms, o.expires_ms);
    p.max_length = least(p.max_length, o.max_length);
    p.max_length_bytes = least(p.max_length_bytes, o.max_length_bytes);
    p.message_ttl_ms = least(p.message_ttl_ms, o.message_ttl_ms);
    p.max_age_ms = least(p.max_age_ms, o.max_age_ms);
    p.delivery_limit = stricter_delivery_limit(p.delivery_limit, o.delivery_limit);
    p.overflow = o.overflow.or(p.overflow);
    p
}

fn same(a: &Option<Arc<Policy>>, b: &Option<Arc<Policy>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

/// Which of the two sorts of policies is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicySort {
    /// Those of the vhost's users.
    User,
    /// Those of the operator of the node.
    Operator,
}

impl Topology {
    /// Sets a policy and applies it.
    ///
    /// # Errors
    /// 404 (no such vhost), 406: the pattern is none, or the definition has keys or values that are not ours.
    pub fn put_policy(
        &mut self,
        vhost: &str,
        name: &str,
        spec: &PolicySpec,
        sort: PolicySort,
    ) -> Result<Change, Refusal> {
        let operator = sort == PolicySort::Operator;
        let policy = Policy::new(name, spec, operator)
            .map_err(|e| Refusal::precondition_failed(format!("Validation failed: {e}")))?;
        let v = self.vhosts.get_mut(vhost).ok_or_else(|| Refusal::not_found(format!("no vhost '{vhost}'")))?;
        let set = v.policies_of(sort);
        if set.0.len() >= POLICIES_MAX && !set.0.iter().any(|p| &*p.name == name) {
            return Err(Refusal::precondition_failed(format!("a vhost has at most {POLICIES_MAX} policies")));
        }
        let mut change = Change::default();
        change.ops.push(definitions::put_policy(vhost, &policy, operator));
        set.put(policy);
        self.apply_policies(vhost, &mut change);
        Ok(change)
    }

    /// Removes a policy, and applies what matches then.
    ///
    /// # Errors
    /// 404.
    pub fn delete_policy(&mut self, vhost: &str, name: &str, sort: PolicySort) -> Result<Change, Refusal> {
        let missing = || Refusal::not_found(format!("no policy '{name}' in vhost '{vhost}'"));
        let v = self.vhosts.get_mut(vhost).ok_or_else(missing)?;
        if !v.policies_of(sort).remove(name) {
            return Err(missing());
        }
        let mut change = Change::default();
        change.ops.push(definitions::remove_policy(vhost, name, sort == PolicySort::Operator));
        self.apply_policies(vhost, &mut change);
        Ok(change)
    }

    /// The policies of a vhost, in order of name.
    #[must_use]
    pub fn policies(&self, vhost: &str, sort: PolicySort) -> Vec<PolicyView> {
        let Some(v) = self.vhosts.get(vhost) else {
            return Vec::new();
        };
        match sort {
            PolicySort::User => v.policies.views(),
            PolicySort::Operator => v.operator_policies.views(),
        }
    }

    /// The settings that policies give a queue, merged as they apply; empty if none does.
    #[must_use]
    pub fn effective_policy(&self, vhost: &str, queue: &str) -> Table {
        let found = self.vhosts.get(vhost).and_then(|v| v.queues.get(queue));
        let Some(q) = found else { return Table::new() };
        let definition = |p: &Option<Arc<Policy>>| p.as_ref().map(|p| p.definition.clone()).unwrap_or_default();
        let (mut shown, operator) = (definition(&q.policy), definition(&q.operator_policy));
        for (key, theirs) in operator.iter() {
            let limit = shown.get(key).and_then(Value::as_i64).zip(theirs.as_i64());
            let stays = match key {
                "overflow" | "queue-version" => false,
                "delivery-limit" => limit.is_some_and(|(a, b)| stricter_delivery_limit(Some(a), Some(b)) == Some(a)),
                _ => limit.is_some_and(|(a, b)| a <= b),
            };
            if !stays {
                shown.set(key, theirs.clone());
            }
        }
        shown
    }

    /// Matches every queue and exchange anew; those whose settings come out different are in the change.
    fn apply_policies(&mut self, vhost: &str, change: &mut Change) {
        self.touch();
        let Some(v) = self.vhosts.get_mut(vhost) else {
            return;
        };
        for q in v.queues.values_mut() {
            let policy = v.policies.for_queue(&q.settings.name, q.settings.kind);
            let operator = v.operator_policies.for_queue(&q.settings.name, q.settings.kind);
            if same(&policy, &q.policy) && same(&operator, &q.operator_policy) {
                continue;
            }
            let values = merged(policy.as_deref(), operator.as_deref());
            (q.policy, q.operator_policy) = (policy, operator);
            let new = settings(Declared::of(&q.settings), QueueArguments::read(&q.arguments), &values);
            if new != *q.settings {
                q.settings = Arc::new(new);
                self.queues.insert(q.settings.id, Arc::clone(&q.settings));
                change.reconfigured.push(Arc::clone(&q.settings));
            }
        }
        for x in v.exchanges.values_mut() {
            x.set_policy(v.policies.for_exchange(&x.name));
        }
    }
}

impl Vhost {
    pub(crate) fn policies_of(&mut self, sort: PolicySort) -> &mut Policies {
        match sort {
            PolicySort::User => &mut self.policies,
            PolicySort::Operator => &mut self.operator_policies,
        }
    }
}
