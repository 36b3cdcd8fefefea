//! Kafka's access control lists.

use std::str::FromStr;

use serde_json::{Value as Json, json};
use waypost_broker::topology::{Acl, AclEffect, AclFilter, AclNames, AclOperation, AclPattern, AclResource};

use super::super::json::{only, text};
use super::super::request::Failure;
use super::{Ask, Done, changed, nothing_there, wrong_method};

/// What rules are filtered by.
pub(super) const PARAMETERS: &[&str] = &["resource", "name", "pattern", "principal", "host", "operation", "effect"];

/// The same, with the vhost whose rules are meant.
pub(super) const WITH_VHOST: &[&str] =
    &["vhost", "resource", "name", "pattern", "principal", "host", "operation", "effect"];

impl Ask {
    pub(super) fn acls(&self, path: &[&str]) -> Result<Done, Failure> {
        self.who.must_administrate()?;
        let broker = &self.node.broker;
        match (self.method(), path) {
            ("GET", ["acls"]) => {
                let asked = self.filters();
                let filter = asked.filter()?;
                let vhosts = match self.parameter("vhost") {
                    Some(vhost) => vec![broker.vhost(&vhost)?],
                    None => broker.vhosts(),
                };
                Ok(Done::Show(vhosts.iter().flat_map(|v| self.rules_of(&v.name, &filter)).collect()))
            }
            (method, ["acls", vhost]) => {
                broker.vhost(vhost)?;
                let asked = self.filters();
                match method {
                    "GET" => Ok(Done::Show(self.rules_of(vhost, &asked.filter()?).into())),
                    "POST" => changed(broker.put_acl(vhost, &self.posted_acl()?, self.now)),
                    "DELETE" if asked.is_empty() => {
                        Err(Failure::bad(format!("say which rules go, by one of {}", PARAMETERS.join(", "))))
                    }
                    "DELETE" => {
                        let (gone, lsn) = broker.remove_acls(vhost, &asked.filter()?, self.now)?;
                        Ok(Done::Told(gone.iter().map(|acl| rule(vhost, acl)).collect(), lsn))
                    }
                    _ => Err(wrong_method()),
                }
            }
            (_, ["acls"]) => Err(wrong_method()),
            _ => Err(nothing_there()),
        }
    }

    fn rules_of(&self, vhost: &str, filter: &AclFilter<'_>) -> Vec<Json> {
        let rules = self.node.broker.acls(vhost);
        rules.iter().filter(|acl| filter.matches(acl)).map(|acl| rule(vhost, acl)).collect()
    }

    fn filters(&self) -> Filters {
        Filters(PARAMETERS.iter().filter_map(|name| Some((*name, self.parameter(name)?))).collect())
    }

    fn posted_acl(&self) -> Result<Acl, Failure> {
        only(&self.body, PARAMETERS)?;
        let needed = |field| text(&self.body, field)?.ok_or_else(|| Failure::bad(format!("`{field}` is missing")));
        let host = text(&self.body, "host")?.unwrap_or("*");
        Ok(Acl {
            resource: one_of("resource", needed("resource")?, AclResource::EVERY, AclResource::name)?,
            pattern: match text(&self.body, "pattern")? {
                None => AclPattern::Literal,
                Some(pattern) => one_of("pattern", pattern, AclPattern::EVERY, AclPattern::name)?,
            },
            name: needed("name")?.into(),
            principal: needed("principal")?.into(),
            host: host.into(),
            operation: one_of("operation", needed("operation")?, AclOperation::EVERY, AclOperation::name)?,
            effect: one_of("effect", needed("effect")?, AclEffect::EVERY, AclEffect::name)?,
        })
    }
}

/// What a query asks for.
struct Filters(Vec<(&'static str, String)>);

impl Filters {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn filter(&self) -> Result<AclFilter<'_>, Failure> {
        let resource = self.get("resource");
        let resource = resource.map(|text| one_of("resource", text, AclResource::EVERY, AclResource::name));
        let operation = self.get("operation");
        let operation = operation.map(|text| one_of("operation", text, AclOperation::EVERY, AclOperation::name));
        let effect = self.get("effect").map(|text| one_of("effect", text, AclEffect::EVERY, AclEffect::name));
        // `match`: whatever speaks of the name.
        let matching = self.get("pattern") == Some("match");
        let pattern = self.get("pattern").filter(|_| !matching);
        let pattern = pattern.map(|text| one_of("pattern", text, AclPattern::EVERY, AclPattern::name));
        let names = match self.get("name") {
            None => AclNames::All,
            Some(name) if matching => AclNames::Matching(name),
            Some(name) => AclNames::Written(name),
        };
        Ok(AclFilter {
            resource: resource.transpose()?,
            names,
            pattern: pattern.transpose()?,
            principal: self.get("principal"),
            host: self.get("host"),
            operation: operation.transpose()?,
            effect: effect.transpose()?,
        })
    }
}

fn one_of<T: FromStr + Copy>(
    field: &str,
    text: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T, Failure> {
    let known = || all.iter().map(|one| name(*one)).collect::<Vec<_>>().join(", ");
    text.parse().map_err(|_| Failure::bad(format!("`{field}` is one of {}", known())))
}

fn rule(vhost: &str, acl: &Acl) -> Json {
    json!({
        "vhost": vhost, "resource": acl.resource.name(), "name": &*acl.name, "pattern": acl.pattern.name(),
        "principal": &*acl.principal, "host": &*acl.host, "operation": acl.operation.name(),
        "effect": acl.effect.name(),
    })
}
