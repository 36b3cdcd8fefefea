//! The records of an answer.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use crate::answer::{Asker, Scratch, Settings};
use crate::asked::{Criteria, Domain};
use crate::directory::{Directory, Host, Hosts, Node, Owner, Target};
use crate::name::{LABEL_BYTES_MAX, NAME_BYTES_MAX, Name};
use crate::order::{self, Dice, draw};
use crate::query::{HEADER_BYTES, QueryType};
use crate::writer::{OwnerName, Section, Writer, label, labels, pointer, strings};

/// `CNAME`.
const TYPE_CNAME: u16 = 5;

/// What negative answers say of the zone: refresh, retry, expire, and how long "no" may be kept. The last is 0: who comes up
/// is to be found at once.
const SOA_TIMES: [u32; 4] = [3600, 600, 86_400, 0];

/// The smallest record of addresses: pointer, fixed fields, four octets.
const ADDRESS_RECORD_BYTES: usize = 16;

/// One answer that is being written.
pub(crate) struct Answering<'a, 'w, D> {
    pub settings: &'a Settings,
    pub directory: &'a mut D,
    pub dice: &'a mut Dice,
    pub scratch: &'a mut Scratch,
    pub writer: &'a mut Writer<'w>,
    pub kind: QueryType,
    pub name: &'a Name,
    /// Where the client is.
    pub zone: Option<&'a str>,
    pub asker: Asker,
    /// In which domain the name is.
    pub domain: Domain,
    /// Whether records of the answer did not fit.
    pub is_cut: bool,
}

/// What the question is about.
const QUESTION: OwnerName<'static> = OwnerName::At(HEADER_BYTES);

impl<D: Directory> Answering<'_, '_, D> {
    /// Adds a record to the answer; what does not fit is noted.
    fn add(&mut self, kind: u16, data: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let fits = self.writer.record(Section::Answer, QUESTION, kind, self.settings.ttl_s(), data);
        self.is_cut |= !fits;
        fits
    }

    /// The domain itself.
    pub fn apex(&mut self) -> bool {
        if self.kind.takes(QueryType::Soa) {
            self.start_of_authority(Section::Answer);
        }
        if self.kind.takes(QueryType::Ns) {
            let (domain, settings) = (self.domain.index, self.settings);
            let at = self.writer.at() + RECORD_HEAD_BYTES;
            let node = settings.node();
            self.add(QueryType::Ns.wire(), |out| node_name(out, settings, &node.name, domain));
            if let Some(address) = node.target.address() {
                self.extra(at, address);
            }
        }
        true
    }

    /// `ns`.
    pub fn name_server(&mut self) -> bool {
        self.target(&self.settings.node().target);
        true
    }

    /// A node; false if there is none of the name.
    pub fn node(&mut self, name: Range<usize>) -> bool {
        let Some(text) = self.text(name) else { return false };
        let node = self.directory.node(&text);
        self.scratch.text = text;
        let Some(node) = node else { return false };
        self.target(&node.target);
        if self.kind.takes(QueryType::Txt) {
            self.texts(&node);
        }
        true
    }

    /// A prepared query; false if there is none of the name.
    pub fn prepared(&mut self, name: Range<usize>) -> bool {
        let Some(text) = self.text(name) else { return false };
        let hosts = self.directory.query(&text, self.asker.address);
        self.scratch.text = text;
        hosts.is_some_and(|hosts| self.hosts(&hosts, |_| true))
    }

    /// Labels with dots between.
    fn text(&mut self, labels: Range<usize>) -> Option<String> {
        let mut text = std::mem::take(&mut self.scratch.text);
        text.clear();
        for at in labels.clone() {
            if at > labels.start {
                text.push('.');
            }
            text.push_str(self.name.text(at)?);
        }
        Some(text)
    }

    /// A service; false if nobody knows it, or none of its hosts fits the criteria.
    pub fn service(&mut self, name: &str, criteria: &Criteria<'_>) -> bool {
        let Some(hosts) = self.directory.service(name) else { return false };
        if criteria.is_empty() {
            return self.hosts(&hosts, |_| true);
        }
        self.hosts(&hosts, |host| criteria.fits(host))
    }

    /// Records of hosts. A service that is known but has none to answer is known all the same.
    fn hosts(&mut self, hosts: &Arc<Hosts>, fits: impl Fn(&Host) -> bool) -> bool {
        if self.kind.takes(QueryType::A) {
            self.addresses(hosts, QueryType::A, |host| is_v4(host) && fits(host));
        }
        if self.kind.takes(QueryType::Aaaa) {
            self.addresses(hosts, QueryType::Aaaa, |host| is_v6(host) && fits(host));
        }
        if matches!(self.kind, QueryType::A | QueryType::Aaaa) && !self.writer.has_answers() && !self.is_cut {
            self.alias(hosts, &fits);
        }
        if self.kind.takes(QueryType::Srv) {
            self.services(hosts, &fits);
        }
        self.writer.has_answers() || hosts.hosts.is_empty() || hosts.hosts.iter().any(fits)
    }

    fn addresses(&mut self, hosts: &Hosts, kind: QueryType, fits: impl FnMut(&Host) -> bool) {
        // One more than there is room for, so that a cut is noticed; where addresses repeat, all.
        let room = self.writer.left() / ADDRESS_RECORD_BYTES + 1;
        let wanted = if hosts.distinct { room } else { usize::MAX };
        draw(&hosts.hosts, hosts.even, self.zone, wanted, self.dice, &mut self.scratch.order, fits);
        let order = std::mem::take(&mut self.scratch.order);
        self.scratch.seen.clear();
        for host in order.iter().filter_map(|element| hosts.hosts.get(order::index(*element))) {
            let Some(address) = host.target.address() else { continue };
            if !hosts.distinct && !self.scratch.seen.insert(address) {
                continue;
            }
            if !self.add(kind.wire(), |out| octets(out, address)) {
                break;
            }
        }
        self.scratch.order = order;
    }

    /// Hosts that have names only: there can be but one alias.
    fn alias(&mut self, hosts: &Hosts, fits: &impl Fn(&Host) -> bool) {
        let is_alias = |host: &Host| matches!(&host.target, Target::Name(name) if is_name(name)) && fits(host);
        draw(&hosts.hosts, hosts.even, self.zone, 1, self.dice, &mut self.scratch.order, is_alias);
        let first = self.scratch.order.first().and_then(|element| hosts.hosts.get(order::index(*element)));
        if let Some(Host { target: Target::Name(name), .. }) = first {
            self.add(TYPE_CNAME, |out| foreign_name(out, name));
        }
    }

    fn services(&mut self, hosts: &Hosts, fits: &impl Fn(&Host) -> bool) {
        let room = self.writer.left() / SRV_RECORD_BYTES + 1;
        let has_target = |host: &Host| !matches!(&host.target, Target::Name(name) if !is_name(name));
        let fits = |host: &Host| has_target(host) && fits(host);
        draw(&hosts.hosts, hosts.even, self.zone, room, self.dice, &mut self.scratch.order, fits);
        let order = std::mem::take(&mut self.scratch.order);
        let mut extra = std::mem::take(&mut self.scratch.extra);
        extra.clear();
        self.scratch.seen.clear();
        for host in order.iter().filter_map(|element| hosts.hosts.get(order::index(*element))) {
            let (domain, settings) = (self.domain.index, self.settings);
            let at = self.writer.at() + RECORD_HEAD_BYTES + SRV_HEAD_BYTES;
            let fits = self.add(QueryType::Srv.wire(), |out| {
                out.extend_from_slice(&1_u16.to_be_bytes());
                out.extend_from_slice(&host.weight.max(1).to_be_bytes());
                out.extend_from_slice(&host.port.to_be_bytes());
                target_name(out, settings, &host.target, domain)
            });
            if !fits {
                break;
            }
            if let Some(address) = host.target.address()
                && (hosts.distinct || self.scratch.seen.insert(address))
            {
                extra.push((at, address));
            }
        }
        if self.is_cut {
            // It is asked again over TCP: what little room is left is no use to anybody.
            extra.clear();
        }
        for (at, address) in &extra {
            // What was asked stands in the answer; this only saves another question.
            if !self.extra(*at, *address) {
                break;
            }
        }
        (self.scratch.order, self.scratch.extra) = (order, extra);
    }

    /// An address of a name that stands at `at`.
    fn extra(&mut self, at: usize, address: IpAddr) -> bool {
        let kind = if address.is_ipv4() { QueryType::A } else { QueryType::Aaaa };
        let ttl_s = self.settings.ttl_s();
        self.writer.record(Section::Additional, OwnerName::At(at), kind.wire(), ttl_s, |out| octets(out, address))
    }

    /// Where the name asked for is.
    fn target(&mut self, target: &Target) {
        match target {
            Target::Address(address) | Target::Node { address, .. } => self.address(*address),
            Target::Name(name) if matches!(self.kind, QueryType::A | QueryType::Aaaa) && is_name(name) => {
                self.add(TYPE_CNAME, |out| foreign_name(out, name));
            }
            Target::Name(_) => {}
        }
    }

    /// The address of the name asked for.
    pub fn address(&mut self, address: IpAddr) {
        let kind = if address.is_ipv4() { QueryType::A } else { QueryType::Aaaa };
        if self.kind.takes(kind) {
            self.add(kind.wire(), |out| octets(out, address));
        }
    }

    fn texts(&mut self, node: &Node) {
        for (key, value) in node.meta.iter() {
            // RFC 1464; a key that begins so says that its value is the text.
            let bare = key.starts_with("rfc1035-");
            let fits = self.add(QueryType::Txt.wire(), |out| {
                match bare {
                    true => strings(out, value.as_bytes()),
                    false => strings(out, format!("{key}={value}").as_bytes()),
                }
                true
            });
            if !fits {
                break;
            }
        }
    }

    /// Whose address it is; false if it is nobody's.
    pub fn owner(&mut self, address: IpAddr) -> bool {
        let Some(owner) = self.directory.owner(address) else { return false };
        if self.kind.takes(QueryType::Ptr) {
            let settings = self.settings;
            self.add(QueryType::Ptr.wire(), |out| match &owner {
                Owner::Node(name) => node_name(out, settings, name, 0),
                Owner::Service(name) => {
                    let known = labels(out, name) && label(out, b"service");
                    out.extend_from_slice(settings.wire(0));
                    known
                }
            });
        }
        true
    }

    /// Who has the say, where there is nothing to answer.
    pub fn authority(&mut self, in_domain: bool) {
        if in_domain {
            self.start_of_authority(Section::Authority);
        } else {
            let (settings, serial) = (self.settings, self.asker.now_s);
            let owner = OwnerName::Wire(settings.wire(0));
            self.writer.record(Section::Authority, owner, QueryType::Soa.wire(), 0, |out| {
                for word in [&b"ns"[..], b"hostmaster"] {
                    label(out, word);
                    out.extend_from_slice(settings.wire(0));
                }
                times(out, serial);
                true
            });
        }
    }

    fn start_of_authority(&mut self, section: Section) {
        let (at, serial) = (HEADER_BYTES + self.name.offset(self.domain.label), self.asker.now_s);
        let fits = self.writer.record(section, OwnerName::At(at), QueryType::Soa.wire(), 0, |out| {
            for word in [&b"ns"[..], b"hostmaster"] {
                label(out, word);
                pointer(out, at);
            }
            times(out, serial);
            true
        });
        self.is_cut |= !fits && section == Section::Answer;
    }
}

/// A pointer, type, class, time to live, length.
const RECORD_HEAD_BYTES: usize = 12;

/// Priority, weight, port.
const SRV_HEAD_BYTES: usize = 6;

/// The smallest record of a service: its target has a letter, at least.
const SRV_RECORD_BYTES: usize = RECORD_HEAD_BYTES + SRV_HEAD_BYTES + 3;

/// Whether a text can be written as a name.
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() < NAME_BYTES_MAX - 1 && text.split('.').all(|label| (1..=LABEL_BYTES_MAX).contains(&label.len()))
}

fn is_v4(host: &Host) -> bool {
    host.target.address().is_some_and(|address| address.is_ipv4())
}

fn is_v6(host: &Host) -> bool {
    host.target.address().is_some_and(|address| address.is_ipv6())
}

fn octets(out: &mut Vec<u8>, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
    true
}

fn times(out: &mut Vec<u8>, serial: u32) {
    for number in std::iter::once(serial).chain(SOA_TIMES) {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

/// The name of a host for records of services.
fn target_name(out: &mut Vec<u8>, settings: &Settings, target: &Target, domain: usize) -> bool {
    match target {
        Target::Name(name) => foreign_name(out, name),
        Target::Node { name, address } => {
            let from = out.len();
            node_name(out, settings, name, domain) || {
                out.truncate(from);
                address_name(out, settings, *address, domain)
            }
        }
        Target::Address(address) => address_name(out, settings, *address, domain),
    }
}

fn foreign_name(out: &mut Vec<u8>, name: &str) -> bool {
    let known = labels(out, name);
    out.push(0);
    known
}

/// `NODE.node.DC.DOMAIN`
fn node_name(out: &mut Vec<u8>, settings: &Settings, name: &str, domain: usize) -> bool {
    let known = labels(out, name) && label(out, b"node") && label(out, settings.datacenter().as_bytes());
    out.extend_from_slice(settings.wire(domain));
    known
}

/// `7f000001.addr.DC.DOMAIN`
fn address_name(out: &mut Vec<u8>, settings: &Settings, address: IpAddr, domain: usize) -> bool {
    match address {
        IpAddr::V4(v4) => hex(out, &v4.octets()),
        IpAddr::V6(v6) => hex(out, &v6.octets()),
    }
    let known = label(out, b"addr") && label(out, settings.datacenter().as_bytes());
    out.extend_from_slice(settings.wire(domain));
    known
}

/// A label of hexadecimal digits.
fn hex(out: &mut Vec<u8>, octets: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(octets.len() as u8 * 2);
    for octet in octets {
        out.push(DIGITS[usize::from(octet >> 4)]);
        out.push(DIGITS[usize::from(octet & 15)]);
    }
}
