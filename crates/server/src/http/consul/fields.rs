//! What filters can ask about.

use waypost_model::filter::{Fields, Filter, Kind, Path, Value};
use waypost_registry::services::{Listed, NodeView};

use super::super::request::Failure;
use super::checks::{self, Item};
use super::render::{self, Scene};

/// See [`Fields::look`].
type See<'a> = dyn FnMut(Value<'_>) -> bool + 'a;

/// A filter as a request gives it.
///
/// # Errors
/// 400 with what is wrong.
pub(super) fn parse(text: Option<&str>, kind: fn(&Path) -> Option<Kind>) -> Result<Option<Filter>, Failure> {
    let parsed = text.map(|text| Filter::parse(text, kind)).transpose();
    parsed.map_err(|error| Failure::bad(format!("Failed to create boolean expression evaluator: {error}")))
}

fn words(path: &Path) -> Vec<&str> {
    path.iter().map(|part| &**part).collect()
}

/// Fields of `/v1/health/service`.
pub(super) fn entry_kind(path: &Path) -> Option<Kind> {
    match words(path).as_slice() {
        ["Node", rest @ ..] => node_kind(rest),
        ["Service", rest @ ..] => service_kind(rest),
        ["Checks"] => Some(Kind::List),
        ["Checks", rest @ ..] => check_kind(rest),
        _ => None,
    }
}

/// Fields of `/v1/catalog/service`.
pub(super) fn catalog_kind(path: &Path) -> Option<Kind> {
    match words(path).as_slice() {
        ["NodeMeta", rest @ ..] => map_kind(rest),
        ["ServiceMeta", rest @ ..] => map_kind(rest),
        ["ServiceTags"] => Some(Kind::List),
        ["ServicePort" | "CreateIndex" | "ModifyIndex"] => Some(Kind::Number),
        ["ServiceWeights", "Passing" | "Warning"] => Some(Kind::Number),
        ["ID" | "Node" | "Address" | "Datacenter" | "ServiceID" | "ServiceName" | "ServiceAddress" | "ServiceKind"] => {
            Some(Kind::Text)
        }
        _ => None,
    }
}

/// Fields of `/v1/agent/services`.
pub(super) fn agent_service_kind(path: &Path) -> Option<Kind> {
    service_kind(&words(path))
}

/// Fields of lists of checks.
pub(super) fn item_kind(path: &Path) -> Option<Kind> {
    check_kind(&words(path))
}

/// Fields of lists of nodes.
pub(super) fn node_list_kind(path: &Path) -> Option<Kind> {
    node_kind(&words(path))
}

fn map_kind(rest: &[&str]) -> Option<Kind> {
    match rest {
        [] => Some(Kind::Map),
        [_] => Some(Kind::Text),
        _ => None,
    }
}

fn node_kind(rest: &[&str]) -> Option<Kind> {
    match rest {
        ["Meta", rest @ ..] => map_kind(rest),
        ["CreateIndex" | "ModifyIndex"] => Some(Kind::Number),
        ["ID" | "Node" | "Address" | "Datacenter"] => Some(Kind::Text),
        _ => None,
    }
}

fn service_kind(rest: &[&str]) -> Option<Kind> {
    match rest {
        ["Meta", rest @ ..] => map_kind(rest),
        ["Tags"] => Some(Kind::List),
        ["Port" | "CreateIndex" | "ModifyIndex"] => Some(Kind::Number),
        ["Weights", "Passing" | "Warning"] => Some(Kind::Number),
        ["ID" | "Service" | "Address" | "Kind"] => Some(Kind::Text),
        _ => None,
    }
}

fn check_kind(rest: &[&str]) -> Option<Kind> {
    match rest {
        ["ServiceTags"] => Some(Kind::List),
        ["CreateIndex" | "ModifyIndex"] => Some(Kind::Number),
        ["Node" | "CheckID" | "Name" | "Status" | "Notes" | "Output" | "ServiceID" | "ServiceName" | "Type"] => {
            Some(Kind::Text)
        }
        _ => None,
    }
}

fn number(n: u64) -> Value<'static> {
    Value::Number(i64::try_from(n).unwrap_or(i64::MAX))
}

fn in_map(pairs: &[(Box<str>, Box<str>)], rest: &[&str], see: &mut See<'_>) -> bool {
    match rest {
        [key] => see(pairs.iter().find(|(k, _)| **k == **key).map_or(Value::Absent, |(_, value)| Value::Text(value))),
        _ => see(Value::Map(pairs)),
    }
}

fn of_node(scene: &Scene, node: &NodeView, rest: &[&str], see: &mut See<'_>) -> bool {
    match rest {
        ["Meta", rest @ ..] => in_map(&node.spec.meta, rest, see),
        ["ID"] => see(Value::Text(&node.spec.id)),
        ["Node"] => see(Value::Text(&node.spec.name)),
        ["Address"] => see(Value::Text(&node.spec.address)),
        ["Datacenter"] => see(Value::Text(&scene.datacenter)),
        ["CreateIndex"] => see(number(node.created)),
        ["ModifyIndex"] => see(number(node.modified)),
        _ => see(Value::Absent),
    }
}

fn of_service(name: &str, listed: &Listed, rest: &[&str], see: &mut See<'_>) -> bool {
    let instance = &listed.instance;
    match rest {
        ["Meta", rest @ ..] => in_map(&instance.meta, rest, see),
        ["Tags"] => see(Value::List(&instance.tags)),
        ["ID"] => see(Value::Text(&instance.id)),
        ["Service"] => see(Value::Text(name)),
        ["Address"] => see(Value::Text(render::address(listed))),
        ["Kind"] => see(Value::Text("")),
        ["Port"] => see(number(instance.port.into())),
        ["Weights", "Passing"] => see(number(instance.weight.into())),
        ["Weights", "Warning"] => {
            let warning = listed.detail.as_ref().and_then(|detail| detail.warning_weight);
            see(number(warning.unwrap_or(instance.weight).into()))
        }
        ["CreateIndex"] => see(number(listed.created)),
        ["ModifyIndex"] => see(number(listed.modified)),
        _ => see(Value::Absent),
    }
}

fn of_check(item: &Item<'_>, rest: &[&str], see: &mut See<'_>) -> bool {
    see(match rest {
        ["ServiceTags"] => Value::List(item.tags),
        ["Node"] => Value::Text(item.node),
        ["CheckID"] => Value::Text(&item.id),
        ["Name"] => Value::Text(&item.name),
        ["Status"] => Value::Text(checks::status(item.status)),
        ["Notes"] => Value::Text(item.notes),
        ["Output"] => Value::Text(item.output),
        ["ServiceID"] => Value::Text(item.service_id),
        ["ServiceName"] => Value::Text(item.service_name),
        ["Type"] => Value::Text(item.kind),
        ["CreateIndex"] => number(item.created),
        ["ModifyIndex"] => number(item.modified),
        _ => Value::Absent,
    })
}

/// An instance, its node and its checks.
pub(super) struct EntryFields<'a>(pub &'a Scene, pub &'a str, pub &'a Listed);

impl Fields for EntryFields<'_> {
    fn look(&self, path: &Path, see: &mut dyn FnMut(Value<'_>) -> bool) -> bool {
        let EntryFields(scene, name, listed) = self;
        let node = scene.node(listed);
        match words(path).as_slice() {
            ["Node", rest @ ..] => of_node(scene, node, rest, see),
            ["Service", rest @ ..] => of_service(name, listed, rest, see),
            ["Checks", rest @ ..] => {
                let all: Vec<_> =
                    checks::of_node(node).into_iter().chain(checks::of_service(name, listed, node)).collect();
                match rest {
                    [] => {
                        let ids: Vec<Box<str>> = all.iter().map(|item| (&*item.id).into()).collect();
                        see(Value::List(&ids))
                    }
                    rest => all.iter().any(|item| of_check(item, rest, see)),
                }
            }
            _ => see(Value::Absent),
        }
    }
}

/// An instance as the catalog names its fields.
pub(super) struct CatalogFields<'a>(pub &'a Scene, pub &'a str, pub &'a Listed);

impl Fields for CatalogFields<'_> {
    fn look(&self, path: &Path, see: &mut dyn FnMut(Value<'_>) -> bool) -> bool {
        let CatalogFields(scene, name, listed) = self;
        let node = scene.node(listed);
        match words(path).as_slice() {
            ["NodeMeta", rest @ ..] => in_map(&node.spec.meta, rest, see),
            ["ServiceName"] => see(Value::Text(name)),
            ["ServiceWeights", which] => of_service(name, listed, &["Weights", which], see),
            ["ServiceMeta", rest @ ..] => in_map(&listed.instance.meta, rest, see),
            [own @ ("CreateIndex" | "ModifyIndex")] => of_service(name, listed, &[own], see),
            [field] => match field.strip_prefix("Service") {
                Some(own) => of_service(name, listed, &[own], see),
                None => of_node(scene, node, &[field], see),
            },
            _ => see(Value::Absent),
        }
    }
}

/// An instance as the agent names its fields.
pub(super) struct ServiceFields<'a>(pub &'a str, pub &'a Listed);

impl Fields for ServiceFields<'_> {
    fn look(&self, path: &Path, see: &mut dyn FnMut(Value<'_>) -> bool) -> bool {
        of_service(self.0, self.1, &words(path), see)
    }
}

/// A node.
pub(super) struct NodeFields<'a>(pub &'a Scene, pub &'a NodeView);

impl Fields for NodeFields<'_> {
    fn look(&self, path: &Path, see: &mut dyn FnMut(Value<'_>) -> bool) -> bool {
        of_node(self.0, self.1, &words(path), see)
    }
}

impl Fields for Item<'_> {
    fn look(&self, path: &Path, see: &mut dyn FnMut(Value<'_>) -> bool) -> bool {
        of_check(self, &words(path), see)
    }
}
