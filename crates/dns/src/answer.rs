//! Answering.

use std::net::IpAddr;

use crate::asked::{Asked, Domain, asked};
use crate::directory::{Directory, Node};
use crate::name::Name;
use crate::order::Dice;
use crate::query::{HEADER_BYTES, Query, QueryType, Subnet, opcode};
use crate::records::Answering;
use crate::writer::{self, TCP_BYTES_MAX, UDP_BYTES_DEFAULT, UDP_BYTES_MAX, Writer};
use crate::zones::Zones;

/// Flags of a header, third octet: this is an answer, it is ours to give, it is cut.
const QR: u8 = 0x80;
const AA: u8 = 0x04;
const TC: u8 = 0x02;
const RD: u8 = 0x01;

/// Codes of RFC 1035 §4.1.1 and RFC 6891 §9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rcode {
    NoError = 0,
    FormErr = 1,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// By which way a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As a datagram: what is too long for the client is cut, and says so.
    Udp,
    /// In a stream.
    Tcp,
}

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Its address.
    pub address: IpAddr,
    /// By which way.
    pub transport: Transport,
    /// Seconds since the Unix epoch: the serial number of the zone.
    pub now_s: u32,
}

/// What does not change while a server runs.
#[derive(Clone, Debug)]
pub struct Settings {
    domains: Vec<Vec<Box<str>>>,
    wires: Vec<Vec<u8>>,
    datacenter: Box<str>,
    node: Node,
    ttl_s: u32,
    zones: Zones,
}

impl Settings {
    /// For these domains. `node` is the server itself, which stands in the records of name servers.
    ///
    /// Nothing if a domain or the data center is no name.
    #[must_use]
    pub fn new(domains: &[&str], datacenter: &str, node: Node, ttl_s: u32, zones: Zones) -> Option<Settings> {
        let wires = domains.iter().map(|domain| writer::wire(domain)).collect::<Option<_>>()?;
        let mut label = Vec::new();
        if !writer::label(&mut label, datacenter.as_bytes()) {
            return None;
        }
        let lower = |domain: &&str| domain.split('.').map(|l| l.to_ascii_lowercase().into()).collect();
        let domains = domains.iter().map(lower).collect();
        Some(Settings { domains, wires, datacenter: datacenter.into(), node, ttl_s, zones })
    }

    /// A domain as on the wire.
    pub(crate) fn wire(&self, domain: usize) -> &[u8] {
        self.wires.get(domain).map_or(&[0], Vec::as_slice)
    }

    pub(crate) fn datacenter(&self) -> &str {
        &self.datacenter
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    pub(crate) fn ttl_s(&self) -> u32 {
        self.ttl_s
    }
}

/// Buffers that are used again from query to query.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub order: Vec<u64>,
    pub text: String,
    pub seen: std::collections::HashSet<IpAddr>,
    pub extra: Vec<(usize, IpAddr)>,
}

/// Answers queries, one after the other.
pub struct Responder<D> {
    directory: D,
    settings: Settings,
    dice: Dice,
    scratch: Scratch,
}

impl<D: Directory> Responder<D> {
    /// Over a directory. `seed` starts the draws.
    pub fn new(directory: D, settings: Settings, seed: u64) -> Responder<D> {
        Responder { directory, settings, dice: Dice::new(seed), scratch: Scratch::default() }
    }

    /// Writes the answer to `message` into `out`, in place of what was there. False if none is to be sent: it is no query.
    pub fn answer(&mut self, message: &[u8], asker: Asker, out: &mut Vec<u8>) -> bool {
        out.clear();
        let [id_high, id_low, flags, ..] = *message else { return false };
        if message.len() < HEADER_BYTES || flags & QR != 0 {
            return false;
        }
        let head = QR | flags & (0x78 | RD);
        out.extend_from_slice(&[id_high, id_low, head, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        if opcode(flags) != 0 {
            out[3] = Rcode::NotImp as u8;
            return true;
        }
        match Query::read(message) {
            Ok(query) => {
                out[5] = 1;
                out.extend_from_slice(&message[HEADER_BYTES..query.question_end]);
                self.answer_query(&query, asker, out);
            }
            Err(_) => out[3] = Rcode::FormErr as u8,
        }
        true
    }

    fn answer_query(&mut self, query: &Query, asker: Asker, out: &mut Vec<u8>) {
        let limit = match (asker.transport, query.edns) {
            (Transport::Tcp, _) => TCP_BYTES_MAX,
            (Transport::Udp, None) => UDP_BYTES_DEFAULT,
            (Transport::Udp, Some(edns)) => usize::from(edns.payload_bytes).clamp(UDP_BYTES_DEFAULT, UDP_BYTES_MAX),
        };
        let subnet = query.edns.and_then(|edns| edns.subnet);
        let found = self.settings.zones.of(subnet.map_or(asker.address, |subnet| subnet.address));
        let (options, options_len) = subnet.map_or(([0; 24], 0), |s| echo(s, found.map_or(0, |(_, bits)| bits)));
        let reserve = if query.edns.is_some() { 11 + options_len } else { 0 };
        let mut writer = Writer::new(out, limit.saturating_sub(reserve));
        let (rcode, flags) = if query.edns.is_some_and(|edns| edns.version != 0) {
            (Rcode::BadVers, 0)
        } else {
            let mut answering = Answering {
                settings: &self.settings,
                directory: &mut self.directory,
                dice: &mut self.dice,
                scratch: &mut self.scratch,
                writer: &mut writer,
                kind: query.kind,
                name: &query.name,
                zone: found.map(|(zone, _)| zone),
                asker,
                domain: Domain { index: 0, label: 0 },
                is_cut: false,
            };
            let rcode = answering.answer(query.class);
            let ours = if rcode == Rcode::Refused { 0 } else { AA };
            (rcode, if answering.is_cut { ours | TC } else { ours })
        };
        writer.release(reserve);
        if query.edns.is_some() {
            writer.opt(rcode as u8 >> 4, &options[..options_len]);
        }
        writer.finish();
        out[2] |= flags;
        out[3] = rcode as u8 & 0x0f;
        debug_assert!(out.len() <= limit);
    }
}

/// The client's subnet as it is given back, with how much of it mattered. RFC 7871 §7.2.1.
fn echo(subnet: Subnet, scope: u8) -> ([u8; 24], usize) {
    let mut out = [0; 24];
    let octets = usize::from(subnet.octets);
    let family = if subnet.address.is_ipv4() { 1 } else { 2 };
    out[..8].copy_from_slice(&[0, 8, 0, 4 + subnet.octets, 0, family, subnet.prefix, scope]);
    match subnet.address {
        IpAddr::V4(v4) => out[8..8 + octets].copy_from_slice(&v4.octets()[..octets]),
        IpAddr::V6(v6) => out[8..8 + octets].copy_from_slice(&v6.octets()[..octets]),
    }
    (out, 8 + octets)
}

impl<D: Directory> Answering<'_, '_, D> {
    fn answer(&mut self, class: u16) -> Rcode {
        // IN, or any.
        if !matches!(class, 1 | 255) {
            return Rcode::Refused;
        }
        let name: &Name = self.name;
        let Some((asked, domain)) = asked(name, &self.settings.domains, self.settings.datacenter()) else {
            return Rcode::Refused;
        };
        self.domain = domain.unwrap_or(Domain { index: 0, label: name.labels() });
        let known = match asked {
            Asked::Apex => self.apex(),
            Asked::NameServer => self.name_server(),
            Asked::Service(text, criteria) => self.service(text, &criteria),
            Asked::Node(labels) => self.node(labels),
            Asked::Query(labels) => self.prepared(labels),
            Asked::Address(address) => {
                self.address(address);
                true
            }
            Asked::Owner(address) => self.owner(address),
            Asked::Nothing => false,
        };
        if !self.writer.has_answers() && !self.is_cut {
            self.authority(domain.is_some());
        }
        if known { Rcode::NoError } else { Rcode::NxDomain }
    }
}

impl QueryType {
    /// Its number.
    pub(crate) const fn wire(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Ns => 2,
            Self::Soa => 6,
            Self::Ptr => 12,
            Self::Txt => 16,
            Self::Aaaa => 28,
            Self::Srv => 33,
            Self::Any => 255,
            Self::Other(other) => other,
        }
    }
}
