//! Vhosts and policies.

use serde_json::{Value as Json, json};
use waypost_broker::broker::admin::InVhost;
use waypost_broker::topology::{
    ApplyTo, PolicySort, PolicySpec, PolicyView, VhostLimits, VhostMetadata, VhostView, kind_name, parse_kind,
};

use super::super::json::{from_table, number, only, text, texts, to_table};
use super::super::request::Failure;
use super::{Ask, Done, changed, list, nothing_there, show, wrong_method};

impl Ask {
    pub(super) fn rules(&self, path: &[&str]) -> Result<Done, Failure> {
        let broker = &self.node.broker;
        match (self.method(), path) {
            ("GET", ["vhosts"]) => list(self.seen(broker.vhosts(), |v| &v.name), vhost),
            (_, ["vhosts", name]) => self.vhost(name),
            ("PUT", ["vhosts", name, "limits"]) => {
                self.who.must_administrate()?;
                only(&self.body, &["max_connections", "max_queues"])?;
                let limits = VhostLimits {
                    max_connections: number(&self.body, "max_connections")?,
                    max_queues: number(&self.body, "max_queues")?,
                };
                changed(broker.put_vhost_limits(name, limits, self.now))
            }
            ("GET", [sort @ ("policies" | "operator-policies")]) => {
                let vhost = self.parameter("vhost");
                list(self.seen(broker.policies(vhost.as_deref(), sort_of(sort))?, |p| &p.vhost), policy)
            }
            ("GET", [sort @ ("policies" | "operator-policies"), vhost]) => {
                list(self.seen(broker.policies(Some(vhost), sort_of(sort))?, |p| &p.vhost), policy)
            }
            (_, [sort @ ("policies" | "operator-policies"), vhost, name]) => self.policy(sort_of(sort), vhost, name),
            (_, ["vhosts" | "policies" | "operator-policies"] | ["vhosts", _, "limits"]) => Err(wrong_method()),
            _ => Err(nothing_there()),
        }
    }

    fn vhost(&self, name: &str) -> Result<Done, Failure> {
        let broker = &self.node.broker;
        match self.method() {
            "GET" => {
                self.must_see(name)?;
                show(vhost(&broker.vhost(name)?))
            }
            "PUT" => {
                self.who.must_administrate()?;
                only(&self.body, &["description", "tags", "default_queue_type"])?;
                let metadata =
                    VhostMetadata {
                        description: text(&self.body, "description")?.unwrap_or_default().to_owned(),
                        tags: texts(&self.body, "tags")?.unwrap_or_default(),
                        default_queue_type: match text(&self.body, "default_queue_type")? {
                            None => None,
                            Some(name) => Some(parse_kind(name).ok_or_else(|| {
                                Failure::bad("`default_queue_type` must be classic, quorum or stream")
                            })?),
                        },
                    };
                changed(broker.put_vhost(name, metadata, self.now))
            }
            "DELETE" => {
                self.who.must_administrate()?;
                let deleted = broker.delete_vhost(name, self.now)?;
                self.node.registry.forget_vhost(name, self.now);
                // What a crash or a full disk leaves of it goes at the next start.
                let _ = self.node.config_center.forget_vhost(name);
                changed(Ok(deleted))
            }
            _ => Err(wrong_method()),
        }
    }

    fn policy(&self, sort: PolicySort, vhost: &str, name: &str) -> Result<Done, Failure> {
        let broker = &self.node.broker;
        self.must_see(vhost)?;
        if self.method() != "GET" {
            self.who.must_administrate()?;
        }
        match self.method() {
            "GET" => show(policy_view(vhost, &broker.policy(vhost, name, sort)?)),
            "PUT" => {
                only(&self.body, &["pattern", "apply_to", "priority", "definition"])?;
                let apply_to = text(&self.body, "apply_to")?.unwrap_or("all");
                let pattern = text(&self.body, "pattern")?.ok_or_else(|| Failure::bad("`pattern` is missing"))?;
                let priority = match self.body.get("priority") {
                    None => 0,
                    Some(n) => n.as_i64().ok_or_else(|| Failure::bad("`priority` must be a whole number"))?,
                };
                let spec = PolicySpec {
                    pattern: pattern.to_owned(),
                    apply_to: ApplyTo::parse(apply_to).ok_or_else(|| Failure::bad("`apply_to` is unknown"))?,
                    priority,
                    definition: to_table(self.body.get("definition"))?,
                };
                changed(broker.put_policy(vhost, name, &spec, sort, self.now))
            }
            "DELETE" => changed(broker.delete_policy(vhost, name, sort, self.now)),
            _ => Err(wrong_method()),
        }
    }
}

fn sort_of(list: &str) -> PolicySort {
    if list == "policies" { PolicySort::User } else { PolicySort::Operator }
}

fn vhost(v: &VhostView) -> Json {
    let default = v.metadata.default_queue_type.map(kind_name);
    json!({
        "name": &*v.name, "description": v.metadata.description, "tags": v.metadata.tags,
        "default_queue_type": default, "queues": v.queues, "exchanges": v.exchanges, "bindings": v.bindings,
        "limits": { "max_connections": v.limits.max_connections, "max_queues": v.limits.max_queues },
    })
}

fn policy(p: &InVhost<PolicyView>) -> Json {
    policy_view(&p.vhost, &p.item)
}

fn policy_view(vhost: &str, p: &PolicyView) -> Json {
    json!({
        "vhost": vhost, "name": &*p.name, "pattern": p.spec.pattern, "apply_to": p.spec.apply_to.as_str(),
        "priority": p.spec.priority, "definition": from_table(&p.spec.definition),
    })
}
