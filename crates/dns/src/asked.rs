//! What a name asks for.
//!
//! ```text
//! [tag. | key-value.meta.]… NAME.service[.DC | .DC.dc].DOMAIN
//! _NAME._TAG[.service][.DC | .DC.dc].DOMAIN                      RFC 2782; `tcp` and `udp` are no tags
//! NODE.node[…].DOMAIN   QUERY.query[…].DOMAIN   HEX.addr[…].DOMAIN   ns.DOMAIN   DOMAIN
//! d.c.b.a.in-addr.arpa   (32 digits).ip6.arpa
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::directory::Host;
use crate::name::Name;

/// A condition on metadata, as one label: key and value with `-` between, wherever that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaPair<'a>(&'a [u8]);

impl MetaPair<'_> {
    fn fits(self, host: &Host) -> bool {
        host.meta.iter().any(|(key, value)| {
            let (key, value) = (key.as_bytes(), value.as_bytes());
            let dash = key.len();
            self.0.len() == dash + 1 + value.len()
                && self.0.get(dash) == Some(&b'-')
                && self.0[..dash].eq_ignore_ascii_case(key)
                && self.0[dash + 1..].eq_ignore_ascii_case(value)
        })
    }
}

/// Which hosts of a service are meant.
#[derive(Clone, Debug)]
pub struct Criteria<'a> {
    name: &'a Name,
    /// Labels with tags and metadata.
    labels: Range<usize>,
    /// Whether the tag has the underscore of RFC 2782 before it.
    underscored: bool,
}

impl Criteria<'_> {
    /// Whether every host fits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Whether a host has all tags and metadata. Labels may also be one tag with dots in it.
    #[must_use]
    pub fn fits(&self, host: &Host) -> bool {
        if self.underscored {
            let wanted = self.name.label(self.labels.start).get(1..).unwrap_or_default();
            return has_tag(host, wanted);
        }
        self.each_fits(host) || (self.labels.len() > 1 && host.tags.iter().any(|tag| self.is_joined(tag)))
    }

    fn each_fits(&self, host: &Host) -> bool {
        let mut at = self.labels.start;
        while at < self.labels.end {
            let label = self.name.label(at);
            if at + 1 < self.labels.end && self.name.label(at + 1) == b"meta" {
                if !MetaPair(label).fits(host) {
                    return false;
                }
                at += 2;
            } else {
                if !has_tag(host, label) {
                    return false;
                }
                at += 1;
            }
        }
        true
    }

    fn is_joined(&self, tag: &str) -> bool {
        let mut parts = tag.split('.');
        let all = self
            .labels
            .clone()
            .all(|at| parts.next().is_some_and(|part| part.as_bytes().eq_ignore_ascii_case(self.name.label(at))));
        all && parts.next().is_none()
    }
}

fn has_tag(host: &Host, wanted: &[u8]) -> bool {
    host.tags.iter().any(|tag| tag.as_bytes().eq_ignore_ascii_case(wanted))
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Asked<'a> {
    /// The domain itself.
    Apex,
    /// Its name server by the name that stands in the start of authority.
    NameServer,
    /// A service.
    Service(&'a str, Criteria<'a>),
    /// A node, by these labels.
    Node(Range<usize>),
    /// A prepared query, by these labels.
    Query(Range<usize>),
    /// The name that spells an address.
    Address(IpAddr),
    /// Whose address it is.
    Owner(IpAddr),
    /// Nothing of the kind, though it is in our domain.
    Nothing,
}

/// What a name asks for, and in which of the domains (the number of its first label, and its index); nothing for names of
/// others. Names under `arpa` are in no domain.
#[must_use]
pub fn asked<'a>(name: &'a Name, domains: &[Vec<Box<str>>], datacenter: &str) -> Option<(Asked<'a>, Option<Domain>)> {
    if let Some(asked) = reverse(name) {
        return Some((asked, None));
    }
    let ends_in = |domain: &Vec<Box<str>>| {
        let start = name.labels().checked_sub(domain.len())?;
        domain.iter().enumerate().all(|(i, label)| name.label(start + i) == label.as_bytes()).then_some(start)
    };
    let (index, start) = domains.iter().enumerate().find_map(|(i, domain)| Some((i, ends_in(domain)?)))?;
    Some((inside(name, start, datacenter), Some(Domain { index, label: start })))
}

/// Which domain a name is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Which of those that are served.
    pub index: usize,
    /// The number of its first label in the name.
    pub label: usize,
}

fn inside<'a>(name: &'a Name, end: usize, datacenter: &str) -> Asked<'a> {
    if end == 0 {
        return Asked::Apex;
    }
    let end = without_datacenter(name, end, datacenter);
    let Some(last) = end.checked_sub(1) else { return Asked::Nothing };
    match name.label(last) {
        b"service" => service(name, last),
        b"node" if last > 0 => Asked::Node(0..last),
        b"query" if last > 0 => Asked::Query(0..last),
        b"addr" if last == 1 => spelled(name.label(0)).map_or(Asked::Nothing, Asked::Address),
        b"ns" if last == 0 => Asked::NameServer,
        _ if is_rfc_2782(name, end) => service(name, end),
        _ => Asked::Nothing,
    }
}

/// Where the labels end, that of the data center taken off. Only ours is known: others lead to nothing, since what they
/// leave here is none of the words.
fn without_datacenter(name: &Name, end: usize, datacenter: &str) -> usize {
    let is_ours = |at: usize| name.label(at).eq_ignore_ascii_case(datacenter.as_bytes());
    match end {
        3.. if name.label(end - 1) == b"dc" && is_ours(end - 2) => end - 2,
        2.. if is_ours(end - 1) => end - 1,
        _ => end,
    }
}

fn is_rfc_2782(name: &Name, end: usize) -> bool {
    end == 2 && name.label(0).starts_with(b"_") && name.label(1).starts_with(b"_")
}

fn service(name: &Name, end: usize) -> Asked<'_> {
    if is_rfc_2782(name, end) {
        let Some(text) = name.text(0).and_then(|text| text.get(1..)) else { return Asked::Nothing };
        let labels = if matches!(name.label(1), b"_tcp" | b"_udp") { 0..0 } else { 1..2 };
        return Asked::Service(text, Criteria { name, underscored: !labels.is_empty(), labels });
    }
    match end.checked_sub(1).and_then(|at| Some((at, name.text(at)?))) {
        Some((at, text)) => Asked::Service(text, Criteria { name, labels: 0..at, underscored: false }),
        None => Asked::Nothing,
    }
}

/// `7f000001`, or 32 digits for IPv6.
fn spelled(label: &[u8]) -> Option<IpAddr> {
    if !label.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let text = std::str::from_utf8(label).ok()?;
    match text.len() {
        8 => u32::from_str_radix(text, 16).ok().map(|bits| Ipv4Addr::from_bits(bits).into()),
        32 => u128::from_str_radix(text, 16).ok().map(|bits| Ipv6Addr::from_bits(bits).into()),
        _ => None,
    }
}

/// RFC 1035 §3.5, RFC 3596 §2.5.
fn reverse(name: &Name) -> Option<Asked<'_>> {
    let last = name.labels().checked_sub(2)?;
    match (name.label(last), name.label(last + 1)) {
        (b"in-addr", b"arpa") => Some(reverse_v4(name, last).map_or(Asked::Nothing, Asked::Owner)),
        (b"ip6", b"arpa") => Some(reverse_v6(name, last).map_or(Asked::Nothing, Asked::Owner)),
        _ => None,
    }
}

fn reverse_v4(name: &Name, end: usize) -> Option<IpAddr> {
    if end != 4 {
        return None;
    }
    let mut octets = [0; 4];
    for (at, octet) in octets.iter_mut().rev().enumerate() {
        *octet = name.text(at)?.parse().ok()?;
    }
    Some(Ipv4Addr::from(octets).into())
}

fn reverse_v6(name: &Name, end: usize) -> Option<IpAddr> {
    if end != 32 {
        return None;
    }
    let mut bits = 0_u128;
    for at in (0..32).rev() {
        let [digit] = name.label(at) else { return None };
        bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
    }
    Some(Ipv6Addr::from_bits(bits).into())
}
