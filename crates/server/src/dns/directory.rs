//! The registry as DNS sees it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use waypost_dns::{Directory, Host, Hosts, Node as DnsNode, Owner, Target};
use waypost_registry::services::{Listed, NodeView, ServiceView, Services, Source};

use crate::http::consul;
use crate::node::Node;

/// How old the table of addresses may be. Asking for an address's name is rare, and making the table is not cheap.
const OWNERS_AGE_MAX: Duration = Duration::from_secs(2);

/// The services of a vhost.
pub(super) struct NodeDirectory {
    node: Arc<Node>,
    services: Services,
    owners: Option<(Instant, HashMap<IpAddr, Owner>)>,
}

impl NodeDirectory {
    pub(super) fn new(node: &Arc<Node>, vhost: &str) -> NodeDirectory {
        NodeDirectory { services: node.registry.services(vhost), node: Arc::clone(node), owners: None }
    }

    /// Whose addresses are known: nodes come before services.
    fn owners(&self) -> HashMap<IpAddr, Owner> {
        let (_, all) = self.services.everything();
        let of_services = all.iter().filter(|(_, listed)| listed.is_usable()).filter_map(|(service, listed)| {
            let address = listed.instance.address.as_deref()?.parse().ok()?;
            Some((address, Owner::Service((&**service).into())))
        });
        let (_, nodes) = self.services.nodes();
        // The later of two is kept: this server is the first of the nodes, and goes last.
        let of_nodes = nodes
            .iter()
            .rev()
            .filter_map(|node| Some((node.spec.address.parse().ok()?, Owner::Node(node.spec.name.clone()))));
        of_services.chain(of_nodes).collect()
    }
}

impl Directory for NodeDirectory {
    fn service(&mut self, name: &str) -> Option<Arc<Hosts>> {
        let view = self.services.view(name);
        if !view.is_known() {
            return None;
        }
        let services = &self.services;
        Some(view.derived(|view| hosts(view, services)))
    }

    fn query(&mut self, name: &str, _client: IpAddr) -> Option<Arc<Hosts>> {
        let found = consul::carry_out(&self.node.consul, &self.services, name)?;
        let own = self.services.own_node();
        Some(Arc::new(Hosts::new(found.iter().filter_map(|listed| host(listed, &own)).collect())))
    }

    fn node(&mut self, name: &str) -> Option<Arc<DnsNode>> {
        let own = self.services.own_node();
        let known = if own.spec.name.eq_ignore_ascii_case(name) {
            own
        } else {
            let (_, nodes) = self.services.nodes();
            nodes.into_iter().find(|node| node.spec.name.eq_ignore_ascii_case(name))?
        };
        Some(Arc::new(node(&known)))
    }

    fn owner(&mut self, address: IpAddr) -> Option<Owner> {
        if self.owners.as_ref().is_none_or(|(made, _)| made.elapsed() > OWNERS_AGE_MAX) {
            self.owners = Some((Instant::now(), self.owners()));
        }
        self.owners.as_ref()?.1.get(&address).cloned()
    }
}

/// A node as DNS tells of it.
pub(super) fn node(view: &NodeView) -> DnsNode {
    let address = &*view.spec.address;
    let target = address.parse().map_or_else(|_| Target::Name(address.into()), Target::Address);
    DnsNode { name: view.spec.name.clone(), target, meta: view.spec.meta.to_vec().into() }
}

fn hosts(view: &ServiceView, services: &Services) -> Hosts {
    let own = services.own_node();
    Hosts::new(view.instances.iter().filter(|listed| listed.is_usable()).filter_map(|l| host(l, &own)).collect())
}

/// An instance, if it can be reached.
fn host(listed: &Listed, own: &NodeView) -> Option<Host> {
    let instance = &listed.instance;
    Some(Host {
        target: target(listed, own)?,
        port: instance.port,
        weight: listed.weight(),
        zone: instance.zone.clone(),
        tags: Arc::clone(&instance.tags),
        meta: Arc::clone(&instance.meta),
    })
}

/// Where an instance is: at its own address, or at that of the node that it was registered on. What was registered with us
/// as an agent is on ours.
fn target(listed: &Listed, own: &NodeView) -> Option<Target> {
    if let Some(address) = listed.instance.address.as_deref().filter(|address| !address.is_empty()) {
        return Some(address.parse().map_or_else(|_| Target::Name(address.into()), Target::Address));
    }
    let node = match &listed.node {
        Some(node) => node,
        None if matches!(listed.source, Source::Agent | Source::Catalog) => own,
        None => return None,
    };
    let (name, address) = (node.spec.name.clone(), &*node.spec.address);
    Some(match address.parse() {
        Ok(address) => Target::Node { name, address },
        Err(_) => Target::Name(address.into()),
    })
}
