//! Carrying prepared queries out, for HTTP and for DNS.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use waypost_model::service::Health;
use waypost_registry::services::{Listed, NodeView, Services};

use super::super::body::Answer;
use super::super::request::Failure;
use super::checks;
use super::health::is_visible;
use super::queries::{Dns, Prepared, Service};
use super::render::{self, Entry, Scene};
use super::{Ask, Shared};

/// Costs are compared as whole numbers.
const COST_SCALE: u64 = 1 << 16;

/// Whether a query gives an instance.
fn gives(query: &Service, name: &str, listed: &Listed, node: &NodeView) -> bool {
    let has_tag = |tag: &str| listed.instance.tags.iter().any(|own| own.eq_ignore_ascii_case(tag));
    let tags = query.tags.iter().all(|tag| match tag.strip_prefix('!') {
        Some(tag) => !has_tag(tag),
        None => has_tag(tag),
    });
    let has = |pairs: &[(Box<str>, Box<str>)], key: &str, value: &str| {
        pairs.iter().any(|(k, v)| **k == *key && **v == *value)
    };
    is_visible(listed)
        && tags
        && query.node_meta.iter().all(|(key, value)| has(&node.spec.meta, key, value))
        && query.service_meta.iter().all(|(key, value)| has(&listed.instance.meta, key, value))
        && health(query, name, listed, node) <= if query.only_passing { Health::Passing } else { Health::Warning }
}

/// How an instance is, checks left out that do not count.
fn health(query: &Service, name: &str, listed: &Listed, node: &NodeView) -> Health {
    let all = checks::of_node(node).into_iter().chain(checks::of_service(name, listed, node));
    let counted = all.filter(|item| query.ignore_check_ids.iter().all(|id| *id != *item.id));
    // What nobody has looked at yet is above a warning: see the order of `Health`.
    counted
        .map(|item| if item.status == Health::Starting { Health::Critical } else { item.status })
        .max()
        .unwrap_or(Health::Passing)
}

/// The instances that a query of this name gives; nothing if there is none.
pub(crate) fn carry_out(shared: &Shared, services: &Services, name: &str) -> Option<Vec<Listed>> {
    let query = shared.queries.find(services.vhost(), name)?;
    Some(instances(&query, services, &services.own_node()))
}

fn instances(query: &Prepared, services: &Services, own: &NodeView) -> Vec<Listed> {
    let view = services.view(&query.service.service);
    let node = |listed: &Listed| listed.node.clone();
    view.instances
        .iter()
        .filter(|listed| gives(&query.service, &view.name.service, listed, node(listed).as_deref().unwrap_or(own)))
        .cloned()
        .collect()
}

struct Executed<'a> {
    scene: &'a Scene,
    service: &'a str,
    instances: &'a [Listed],
    dns: &'a Dns,
}

impl Serialize for Executed<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let nodes: Vec<_> = self.instances.iter().map(|listed| Entry(self.scene, self.service, listed)).collect();
        let mut out = to.serialize_struct("Executed", 5)?;
        out.serialize_field("Service", self.service)?;
        out.serialize_field("Nodes", &nodes)?;
        out.serialize_field("DNS", self.dns)?;
        out.serialize_field("Datacenter", &*self.scene.datacenter)?;
        out.serialize_field("Failovers", &0)?;
        out.end()
    }
}

impl Ask<'_> {
    /// `/v1/query/NAME/execute`
    pub(super) fn query_execute(&self, name: &str) -> Result<Answer, Failure> {
        let query = self.query_find(name)?;
        let limit = match self.params.other("limit") {
            None | Some("" | "0") => usize::MAX,
            Some(text) => text.parse().map_err(|_| Failure::bad("Invalid limit"))?,
        };
        let scene = self.scene();
        let mut found = instances(&query, &self.services, &scene.own);
        // In another order each time, so that who takes the first does not take always the same.
        shuffle(&mut found, u64::from(std::process::id()) ^ self.now().0 ^ Arc::as_ptr(&scene.own) as u64);
        self.least_loaded_first(&query.service.service, &mut found);
        found.truncate(limit);
        let shown = Executed { scene: &scene, service: &query.service.service, instances: &found, dns: &query.dns };
        let index = self.services.view(&query.service.service).index;
        Ok(self.own(render::json(&shown), index))
    }
}

impl Ask<'_> {
    /// Those first that have the least in hand for their weight, where all of them take messages and thus are known.
    fn least_loaded_first(&self, service: &str, found: &mut [Listed]) {
        let cost = |listed: &Listed| {
            let held = self.cx.node.broker.in_flight(self.cx.vhost(), service, &listed.instance.id)?;
            Some((listed.instance.id.clone(), (u64::from(held) + 1) * COST_SCALE / u64::from(listed.weight().max(1))))
        };
        let costs: Option<HashMap<Box<str>, u64>> = found.iter().map(cost).collect();
        if let Some(costs) = costs {
            // Equals stay as they were shuffled.
            found.sort_by_key(|listed| costs.get(&listed.instance.id).copied());
        }
    }
}

fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed | 1;
    for last in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let other = usize::try_from(state % (last as u64 + 1)).unwrap_or(0);
        items.swap(last, other);
    }
}
