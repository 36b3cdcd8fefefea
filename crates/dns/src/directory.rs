//! What is answered from: the view that DNS has of the registry.

use std::net::IpAddr;
use std::sync::Arc;

/// Where a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// At an address.
    Address(IpAddr),
    /// At an address, which is that of a node: services that give no address of their own.
    Node {
        /// The node's name.
        name: Box<str>,
        /// Its address.
        address: IpAddr,
    },
    /// At a name, which somebody else resolves.
    Name(Box<str>),
}

impl Target {
    /// Its address, if it is known here.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) | Self::Node { address, .. } => Some(*address),
            Self::Name(_) => None,
        }
    }
}

/// An instance of a service, fit to be answered: it passes or warns, and has an address.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where it is.
    pub target: Target,
    /// Its port.
    pub port: u16,
    /// Its share, from 1; 0 is taken as 1.
    pub weight: u16,
    /// Where it runs; empty for unknown.
    pub zone: Arc<str>,
    /// Its tags.
    pub tags: Arc<[Box<str>]>,
    /// Its metadata.
    pub meta: Arc<[(Box<str>, Box<str>)]>,
}

/// The hosts of a service.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    /// In any order.
    pub hosts: Vec<Host>,
    /// Whether all have one weight, which makes drawing an order cheaper.
    pub even: bool,
    /// Whether no two have one address, which saves looking for records that repeat.
    pub distinct: bool,
}

impl Hosts {
    /// Notes whether weights and addresses differ.
    #[must_use]
    pub fn new(hosts: Vec<Host>) -> Hosts {
        let even = hosts.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let mut addresses: Vec<IpAddr> = hosts.iter().filter_map(|host| host.target.address()).collect();
        addresses.sort_unstable();
        let distinct = addresses.windows(2).all(|pair| pair[0] != pair[1]);
        Hosts { hosts, even, distinct }
    }
}

/// A node: a machine, or what stands for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Box<str>,
    /// An address or a name.
    pub target: Target,
    /// Told as texts.
    pub meta: Arc<[(Box<str>, Box<str>)]>,
}

/// Whose address it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A node of this name.
    Node(Box<str>),
    /// An instance of a service of this name.
    Service(Box<str>),
}

/// Looks names up. Calls are frequent: an answer that has not changed should be the same [`Arc`] again.
pub trait Directory {
    /// The hosts of a service; an empty list if it has none that is fit, nothing if nobody knows the name.
    fn service(&mut self, name: &str) -> Option<Arc<Hosts>>;

    /// What a prepared query comes to; nothing if there is no such query. Some queries want to know who asks.
    fn query(&mut self, name: &str, client: IpAddr) -> Option<Arc<Hosts>>;

    /// A node; names are compared without regard to case.
    fn node(&mut self, name: &str) -> Option<Arc<Node>>;

    /// Whose an address is.
    fn owner(&mut self, address: IpAddr) -> Option<Owner>;
}
