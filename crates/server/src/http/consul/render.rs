//! Entries as Consul's JSON shows them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::ser::{SerializeMap, SerializeStruct, Serializer};
use waypost_registry::services::{Listed, NodeView};

use super::checks::{self, Item};
use super::extra::{Extra, Tagged};

/// What every entry is shown against.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub datacenter: Arc<str>,
    /// This server as a node.
    pub own: Arc<NodeView>,
}

impl Scene {
    /// The node of an instance.
    pub(super) fn node<'a>(&'a self, listed: &'a Listed) -> &'a NodeView {
        listed.node.as_deref().unwrap_or(&self.own)
    }
}

/// JSON of something.
pub(super) fn json(value: &impl Serialize) -> Bytes {
    // Texts, numbers, lists and maps with texts for keys can always be written.
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}

/// Pairs as an object.
pub(super) struct Pairs<'a>(pub &'a [(Box<str>, Box<str>)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// Members of a node's further addresses.
struct NodeAddresses<'a>(&'a NodeView, Extra);

impl Serialize for NodeAddresses<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let address = &*self.0.spec.address;
        let mut map = to.serialize_map(None)?;
        if self.1.node_addresses.is_empty() {
            let v4 = address.parse::<std::net::IpAddr>().map_or("", |ip| if ip.is_ipv4() { "_ipv4" } else { "_ipv6" });
            for kind in ["lan", "wan"] {
                map.serialize_entry(kind, address)?;
                if !v4.is_empty() {
                    map.serialize_entry(&format!("{kind}{v4}"), address)?;
                }
            }
        }
        for (kind, address) in &self.1.node_addresses {
            map.serialize_entry(kind, address)?;
        }
        map.end()
    }
}

fn extra_of_node(node: &NodeView) -> Extra {
    Extra::of(node.spec.extra.as_deref())
}

/// A node.
pub(super) struct Node<'a>(pub &'a Scene, pub &'a NodeView);

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Node(scene, node) = self;
        let mut out = to.serialize_struct("Node", 8)?;
        out.serialize_field("ID", &*node.spec.id)?;
        out.serialize_field("Node", &*node.spec.name)?;
        out.serialize_field("Address", &*node.spec.address)?;
        out.serialize_field("Datacenter", &*scene.datacenter)?;
        out.serialize_field("TaggedAddresses", &NodeAddresses(node, extra_of_node(node)))?;
        out.serialize_field("Meta", &Pairs(&node.spec.meta))?;
        out.serialize_field("CreateIndex", &node.created)?;
        out.serialize_field("ModifyIndex", &node.modified)?;
        out.end()
    }
}

/// Nothing is known of it here, but clients want to see it.
#[derive(Serialize)]
struct Nothing {}

/// How often an instance is chosen.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u16,
    warning: u16,
}

fn weights(listed: &Listed) -> Weights {
    let warning = listed.detail.as_ref().and_then(|detail| detail.warning_weight);
    Weights { passing: listed.instance.weight, warning: warning.unwrap_or(listed.instance.weight) }
}

fn extra_of(listed: &Listed) -> Extra {
    Extra::of(listed.detail.as_ref().and_then(|detail| detail.extra.as_deref()))
}

/// Tags in the order in which they were given.
enum Tags<'a> {
    Sorted(&'a [Box<str>]),
    Given(&'a [String]),
}

impl Serialize for Tags<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Sorted(tags) => to.collect_seq(tags.iter()),
            Self::Given(tags) => to.collect_seq(tags.iter()),
        }
    }
}

fn tags<'a>(listed: &'a Listed, extra: &'a Extra) -> Tags<'a> {
    extra.tags.as_deref().map_or(Tags::Sorted(&listed.instance.tags), Tags::Given)
}

/// A service's own address, which may be none.
pub(super) fn address(listed: &Listed) -> &str {
    listed.instance.address.as_deref().unwrap_or_default()
}

/// Further addresses, `null` where an agent has none.
fn addresses(extra: &Extra) -> &BTreeMap<String, Tagged> {
    &extra.addresses
}

/// A service as the agent and health endpoints show it.
pub(super) struct Service<'a> {
    pub name: &'a str,
    pub listed: &'a Listed,
    /// The agent says where it is, and not since when.
    pub datacenter: Option<&'a str>,
    /// The agent gives a hash of a service, by which a client waits for a change.
    pub hash: Option<&'a str>,
}

impl Serialize for Service<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (listed, extra) = (self.listed, extra_of(self.listed));
        let mut out = to.serialize_struct("Service", 16)?;
        out.serialize_field("ID", &*listed.instance.id)?;
        out.serialize_field("Service", self.name)?;
        out.serialize_field("Tags", &tags(listed, &extra))?;
        out.serialize_field("Meta", &Pairs(&listed.instance.meta))?;
        out.serialize_field("Port", &listed.instance.port)?;
        out.serialize_field("Address", address(listed))?;
        if !extra.addresses.is_empty() {
            out.serialize_field("TaggedAddresses", addresses(&extra))?;
        }
        out.serialize_field("Weights", &weights(listed))?;
        out.serialize_field("EnableTagOverride", &extra.enable_tag_override)?;
        match self.datacenter {
            Some(datacenter) => out.serialize_field("Datacenter", datacenter)?,
            None => {
                out.serialize_field("Proxy", &Nothing {})?;
                out.serialize_field("Connect", &Nothing {})?;
                out.serialize_field("CreateIndex", &listed.created)?;
                out.serialize_field("ModifyIndex", &listed.modified)?;
            }
        }
        if let Some(hash) = self.hash {
            out.serialize_field("ContentHash", hash)?;
        }
        out.end()
    }
}

/// A service as the catalog shows it.
pub(super) struct CatalogService<'a>(pub &'a Scene, pub &'a str, pub &'a Listed);

impl Serialize for CatalogService<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let CatalogService(scene, name, listed) = self;
        let (node, extra) = (scene.node(listed), extra_of(listed));
        let mut out = to.serialize_struct("CatalogService", 20)?;
        out.serialize_field("ID", &*node.spec.id)?;
        out.serialize_field("Node", &*node.spec.name)?;
        out.serialize_field("Address", &*node.spec.address)?;
        out.serialize_field("Datacenter", &*scene.datacenter)?;
        out.serialize_field("TaggedAddresses", &NodeAddresses(node, extra_of_node(node)))?;
        out.serialize_field("NodeMeta", &Pairs(&node.spec.meta))?;
        out.serialize_field("ServiceKind", "")?;
        out.serialize_field("ServiceID", &*listed.instance.id)?;
        out.serialize_field("ServiceName", name)?;
        out.serialize_field("ServiceTags", &tags(listed, &extra))?;
        out.serialize_field("ServiceAddress", address(listed))?;
        out.serialize_field("ServiceTaggedAddresses", addresses(&extra))?;
        out.serialize_field("ServiceWeights", &weights(listed))?;
        out.serialize_field("ServiceMeta", &Pairs(&listed.instance.meta))?;
        out.serialize_field("ServicePort", &listed.instance.port)?;
        out.serialize_field("ServiceEnableTagOverride", &extra.enable_tag_override)?;
        out.serialize_field("ServiceProxy", &Nothing {})?;
        out.serialize_field("ServiceConnect", &Nothing {})?;
        out.serialize_field("CreateIndex", &listed.created)?;
        out.serialize_field("ModifyIndex", &listed.modified)?;
        out.end()
    }
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let shown = |ms: Option<u64>| ms.map_or(String::new(), |ms| format!("{:?}", Duration::from_millis(ms)));
        let mut out = to.serialize_struct("Check", 16)?;
        out.serialize_field("Node", self.node)?;
        out.serialize_field("CheckID", &self.id)?;
        out.serialize_field("Name", &self.name)?;
        out.serialize_field("Status", checks::status(self.status))?;
        out.serialize_field("Notes", self.notes)?;
        out.serialize_field("Output", self.output)?;
        out.serialize_field("ServiceID", self.service_id)?;
        out.serialize_field("ServiceName", self.service_name)?;
        out.serialize_field("ServiceTags", self.tags)?;
        out.serialize_field("Type", self.kind)?;
        out.serialize_field("Interval", &shown(self.interval_ms))?;
        out.serialize_field("Timeout", &shown(self.timeout_ms))?;
        out.serialize_field("ExposedPort", &0)?;
        out.serialize_field("Definition", &Nothing {})?;
        out.serialize_field("CreateIndex", &self.created)?;
        out.serialize_field("ModifyIndex", &self.modified)?;
        out.end()
    }
}

/// An instance with its node and all checks.
pub(super) struct Entry<'a>(pub &'a Scene, pub &'a str, pub &'a Listed);

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Entry(scene, name, listed) = self;
        let node = scene.node(listed);
        let mut out = to.serialize_struct("Entry", 3)?;
        out.serialize_field("Node", &Node(scene, node))?;
        out.serialize_field("Service", &Service { name, listed, datacenter: None, hash: None })?;
        let mut all = checks::of_node(node);
        all.extend(checks::of_service(name, listed, node));
        out.serialize_field("Checks", &all)?;
        out.end()
    }
}

/// Entries as an array, without a list of their own in between.
pub(super) fn array<T: Serialize>(items: impl Iterator<Item = T>) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    out.push(b'[');
    for item in items {
        if out.len() > 1 {
            out.push(b',');
        }
        // As for `json`.
        let _ = serde_json::to_writer(&mut out, &item);
    }
    out.push(b']');
    out.into()
}
