//! What is durable of services, as keys and values in the journal. The format is described in
//! `docs/definitions-format.md`; this module and that page change together.

use std::sync::Arc;

use waypost_model::Millis;
use waypost_model::journal::Op;
use waypost_model::service::{Health, Instance, ServiceName, Version};

use super::entry::{Check, Entry};
use super::spec::{CheckKind, CheckSpec, Detail, HttpProbe, NodeSpec, Push, PushFormat, Source};
use super::state::Node;
use waypost_model::record::{Malformed, Read, Reader, Writer};

/// The version that stands in front of every value.
pub(super) const VERSION: u8 = 1;

/// First byte of the key of a node. Nodes come before what is on them.
pub(super) const NODE: u8 = 0x70;

/// First byte of the key of an instance.
pub(super) const INSTANCE: u8 = 0x71;

fn key(kind: u8, parts: &[&str]) -> Box<[u8]> {
    let mut w = Writer::with_capacity(1 + parts.iter().map(|p| p.len() + 2).sum::<usize>());
    w.u8(kind);
    parts.iter().for_each(|part| w.str(part));
    w.finish()
}

pub(super) fn remove_instance(vhost: &str, service: &str, id: &str) -> Op {
    Op::Define { key: key(INSTANCE, &[vhost, service, id]), value: None }
}

pub(super) fn remove_node(vhost: &str, name: &str) -> Op {
    Op::Define { key: key(NODE, &[vhost, name]), value: None }
}

pub(super) fn put_instance(name: &ServiceName, entry: &Entry) -> Op {
    let instance = &*entry.instance;
    let mut w = Writer::with_capacity(96);
    w.u8(VERSION);
    w.u8(entry.source as u8);
    w.str(&entry.owner);
    w.varint(u64::from(entry.lease_ms));
    w.shifted_str(instance.address.as_deref());
    w.varint(u64::from(instance.port));
    w.str(&instance.version.as_ref().map(ToString::to_string).unwrap_or_default());
    w.str(&instance.zone);
    w.varint(u64::from(instance.weight));
    w.shifted(instance.max_in_flight.map(u64::from));
    w.varint(instance.tags.len() as u64);
    instance.tags.iter().for_each(|tag| w.str(tag));
    w.pairs(&instance.meta);
    put_checks(&mut w, &entry.checks);
    put_rare(&mut w, entry);
    Op::Define { key: key(INSTANCE, &[&name.vhost, &name.service, &instance.id]), value: Some(w.finish()) }
}

/// What few instances have stands at the end, each with a number in front of it.
fn put_rare(w: &mut Writer, entry: &Entry) {
    if let Some(Millis(until)) = entry.rare().and_then(|rare| rare.drain_until) {
        w.u8(1);
        w.varint(until);
    }
    if let Some(reason) = entry.rare().and_then(|rare| rare.maintenance.as_ref()) {
        w.u8(2);
        w.str(reason);
    }
    let Some(detail) = entry.detail() else { return };
    if let Some(push) = &detail.push {
        w.u8(3);
        w.str(&push.url);
        w.shifted_str(push.secret.as_deref());
        w.varint(u64::from(push.concurrency));
        w.varint(u64::from(push.timeout_ms));
        w.u8(push.format as u8);
    }
    if let Some(node) = &detail.node {
        w.u8(4);
        w.str(node);
    }
    if let Some(weight) = detail.warning_weight {
        w.u8(5);
        w.varint(u64::from(weight));
    }
    if let Some(extra) = &detail.extra {
        w.u8(6);
        w.str(extra);
    }
}

pub(super) fn put_node(vhost: &str, node: &Node) -> Op {
    let spec = &*node.spec;
    let mut w = Writer::with_capacity(64);
    w.u8(VERSION);
    w.u8(u8::from(node.is_self));
    w.str(&spec.id);
    w.str(&spec.address);
    w.pairs(&spec.meta);
    w.shifted_str(spec.extra.as_deref());
    w.shifted_str(node.maintenance.as_deref());
    put_checks(&mut w, &node.checks);
    Op::Define { key: key(NODE, &[vhost, &spec.name]), value: Some(w.finish()) }
}

fn put_checks(w: &mut Writer, checks: &[Check]) {
    w.varint(checks.len() as u64);
    for check in checks {
        let spec = &*check.spec;
        w.str(&spec.id);
        w.str(if spec.name == spec.id { "" } else { &spec.name });
        w.str(&spec.notes);
        w.u8(health_byte(check.status));
        w.u8(health_byte(spec.initial));
        w.varint(u64::from(spec.success_before_passing));
        w.varint(u64::from(spec.failures_before_warning));
        w.varint(u64::from(spec.failures_before_critical));
        w.shifted(spec.deregister_after_ms);
        match &spec.kind {
            CheckKind::Manual => w.u8(0),
            CheckKind::Ttl { ttl_ms } => {
                w.u8(1);
                w.varint(*ttl_ms);
            }
            CheckKind::Tcp { address, interval_ms, timeout_ms } => {
                w.u8(2);
                w.str(address);
                w.varint(*interval_ms);
                w.varint(*timeout_ms);
            }
            CheckKind::Http(probe) => {
                w.u8(3);
                w.str(&probe.url);
                w.str(&probe.method);
                w.pairs(&probe.headers);
                w.str(&probe.body);
                w.varint(probe.interval_ms);
                w.varint(probe.timeout_ms);
            }
        }
    }
}

const fn health_byte(health: Health) -> u8 {
    match health {
        Health::Starting => 0,
        Health::Passing => 1,
        Health::Warning => 2,
        Health::Critical => 3,
    }
}

fn health(byte: u8) -> Read<Health> {
    [Health::Starting, Health::Passing, Health::Warning, Health::Critical]
        .get(usize::from(byte))
        .copied()
        .ok_or(Malformed("health"))
}

/// An instance as it was written down.
#[derive(Debug)]
pub(super) struct KeptInstance {
    pub instance: Instance,
    pub source: Source,
    pub owner: Arc<str>,
    pub lease_ms: u32,
    /// With what they said last.
    pub checks: Vec<(CheckSpec, Health)>,
    pub drain_until: Option<Millis>,
    pub maintenance: Option<Arc<str>>,
    pub detail: Detail,
}

/// A node as it was written down.
#[derive(Debug)]
pub(super) struct KeptNode {
    pub spec: NodeSpec,
    pub is_self: bool,
    pub maintenance: Option<Arc<str>>,
    pub checks: Vec<(CheckSpec, Health)>,
}

/// The parts of a key behind its first byte.
pub(super) fn parts(key: &[u8]) -> Read<Vec<&str>> {
    let mut r = Reader::new(key);
    r.u8()?;
    let mut parts = Vec::with_capacity(3);
    while r.end().is_err() {
        parts.push(r.str()?);
    }
    Ok(parts)
}

/// Reads a value, whose version has been looked at, for the instance of an id.
pub(super) fn instance(id: &str, value: &[u8]) -> Read<KeptInstance> {
    let mut r = Reader::new(value);
    r.u8()?;
    let source = Source::of(r.u8()?).ok_or(Malformed("source"))?;
    let owner: Arc<str> = r.str()?.into();
    let lease_ms = r.number()?;
    let address = r.shifted_str()?.map(Into::into);
    let port = r.number()?;
    let version = match r.str()? {
        "" => None,
        text => Some(Arc::new(Version::parse(text).map_err(|_| Malformed("version"))?)),
    };
    let zone = r.str()?.into();
    let weight = r.number()?;
    let max_in_flight = r.shifted()?.map(u32::try_from).transpose().map_err(|_| Malformed("number"))?;
    let (tags, meta) = (r.strings()?, r.pairs()?);
    let instance = Instance { address, port, version, zone, tags, meta, weight, max_in_flight, ..Instance::new(id) };
    let checks = checks(&mut r)?;
    let mut kept = KeptInstance {
        instance,
        source,
        owner,
        lease_ms,
        checks,
        drain_until: None,
        maintenance: None,
        detail: Detail::default(),
    };
    while r.end().is_err() {
        match r.u8()? {
            1 => kept.drain_until = Some(Millis(r.varint()?)),
            2 => kept.maintenance = Some(r.str()?.into()),
            3 => kept.detail.push = Some(Arc::new(push(&mut r)?)),
            4 => kept.detail.node = Some(r.str()?.into()),
            5 => kept.detail.warning_weight = Some(r.number()?),
            6 => kept.detail.extra = Some(r.str()?.into()),
            _ => return Err(Malformed("kind")),
        }
    }
    Ok(kept)
}

fn push(r: &mut Reader<'_>) -> Read<Push> {
    Ok(Push {
        url: r.boxed()?,
        secret: r.shifted_str()?.map(Into::into),
        concurrency: r.number()?,
        timeout_ms: r.number()?,
        format: match r.u8()? {
            0 => PushFormat::Headers,
            1 => PushFormat::CloudEvents,
            _ => return Err(Malformed("kind")),
        },
    })
}

/// The same for a node.
pub(super) fn node(name: &str, value: &[u8]) -> Read<KeptNode> {
    let mut r = Reader::new(value);
    r.u8()?;
    let is_self = r.u8()? == 1;
    let spec = NodeSpec {
        name: name.into(),
        id: r.boxed()?,
        address: r.boxed()?,
        meta: r.pairs()?,
        extra: r.shifted_str()?.map(Into::into),
    };
    let maintenance = r.shifted_str()?.map(Into::into);
    let checks = checks(&mut r)?;
    r.end()?;
    Ok(KeptNode { spec, is_self, maintenance, checks })
}

fn checks(r: &mut Reader<'_>) -> Read<Vec<(CheckSpec, Health)>> {
    let n = r.count()?;
    (0..n).map(|_| check(r)).collect()
}

fn check(r: &mut Reader<'_>) -> Read<(CheckSpec, Health)> {
    let id = r.boxed()?;
    let name = match r.str()? {
        "" => id.clone(),
        name => name.into(),
    };
    let notes = r.boxed()?;
    let (status, initial) = (health(r.u8()?)?, health(r.u8()?)?);
    let success_before_passing = r.number()?;
    let failures_before_warning = r.number()?;
    let failures_before_critical = r.number()?;
    let deregister_after_ms = r.shifted()?;
    let kind = match r.u8()? {
        0 => CheckKind::Manual,
        1 => CheckKind::Ttl { ttl_ms: r.varint()? },
        2 => CheckKind::Tcp { address: r.boxed()?, interval_ms: r.varint()?, timeout_ms: r.varint()? },
        3 => CheckKind::Http(Box::new(HttpProbe {
            url: r.boxed()?,
            method: r.boxed()?,
            headers: r.pairs()?.to_vec().into(),
            body: r.boxed()?,
            interval_ms: r.varint()?,
            timeout_ms: r.varint()?,
        })),
        _ => return Err(Malformed("kind")),
    };
    let spec = CheckSpec {
        id,
        name,
        notes,
        kind,
        success_before_passing,
        failures_before_warning,
        failures_before_critical,
        deregister_after_ms,
        initial,
    };
    Ok((spec, status))
}
