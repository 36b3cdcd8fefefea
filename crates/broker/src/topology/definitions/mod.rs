//! What is durable of a topology, as keys and values in the journal. The format is described in
//! `docs/definitions-format.md`; this module and that page change together.

mod load;

pub use load::LoadError;

use sha2::{Digest as _, Sha256};
use waypost_model::journal::Op;

use super::acl::Acl;
use super::arguments::kind_name;
use super::binding::Bound;
use super::exchange::Exchange;
use super::limits::{ParameterKey, UserLimits, VhostLimits};
use super::permission::{PermissionSpec, TopicPermissionSpec};
use super::policy::Policy;
use super::queue::{Asked, Queue};
use super::quota::{QuotaEntity, QuotaRates};
use super::scram::ScramKeys;
use super::user::{HashingAlgorithm, User};
use super::vhost::Vhost;
use waypost_model::record::Writer;

/// The version that stands in front of every value. A release reads its own and refuses others.
pub(crate) const VERSION: u8 = 1;

/// The first byte of a key. Kinds load in this order: what others refer to comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    Ids = 0x01,
    Vhost = 0x10,
    VhostLimits = 0x11,
    User = 0x20,
    UserLimits = 0x21,
    Permission = 0x22,
    TopicPermission = 0x23,
    Scram = 0x24,
    Acl = 0x25,
    Quota = 0x26,
    Parameter = 0x28,
    Policy = 0x30,
    OperatorPolicy = 0x31,
    Exchange = 0x40,
    Queue = 0x50,
    Binding = 0x60,
}

impl Kind {
    const ALL: [Kind; 16] = [
        Kind::Ids,
        Kind::Vhost,
        Kind::VhostLimits,
        Kind::User,
        Kind::UserLimits,
        Kind::Permission,
        Kind::TopicPermission,
        Kind::Scram,
        Kind::Acl,
        Kind::Quota,
        Kind::Parameter,
        Kind::Policy,
        Kind::OperatorPolicy,
        Kind::Exchange,
        Kind::Queue,
        Kind::Binding,
    ];

    pub fn of(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| *k as u8 == byte)
    }
}

/// A key: the kind, then each part with its length.
fn key(kind: Kind, parts: &[&[u8]]) -> Box<[u8]> {
    let mut w = Writer::with_capacity(1 + parts.iter().map(|p| p.len() + 2).sum::<usize>());
    w.u8(kind as u8);
    parts.iter().for_each(|p| w.bytes(p));
    w.finish()
}

fn put(kind: Kind, parts: &[&[u8]], write: impl FnOnce(&mut Writer)) -> Op {
    let mut w = Writer::with_capacity(64);
    w.u8(VERSION);
    write(&mut w);
    Op::Define { key: key(kind, parts), value: Some(w.finish()) }
}

fn remove(kind: Kind, parts: &[&[u8]]) -> Op {
    Op::Define { key: key(kind, parts), value: None }
}

macro_rules! removals {
    ($($name:ident($($arg:ident),*) => $kind:ident;)*) => {
        $(pub(crate) fn $name($($arg: &str),*) -> Op { remove(Kind::$kind, &[$($arg.as_bytes()),*]) })*
    };
}

removals! {
    remove_vhost(vhost) => Vhost;
    remove_vhost_limits(vhost) => VhostLimits;
    remove_user(user) => User;
    remove_user_limits(user) => UserLimits;
    remove_permission(user, vhost) => Permission;
    remove_topic_permission(user, vhost, exchange) => TopicPermission;
    remove_scram(user, mechanism) => Scram;
    remove_exchange(vhost, exchange) => Exchange;
    remove_queue(vhost, queue) => Queue;
}

pub(crate) fn put_ids(reserved: u64) -> Op {
    put(Kind::Ids, &[], |w| w.varint(reserved))
}

pub(crate) fn put_vhost(v: &Vhost) -> Op {
    let m = &v.metadata;
    put(Kind::Vhost, &[v.name.as_bytes()], |w| {
        w.str(&m.description);
        w.strings(&m.tags);
        w.str(m.default_queue_type.map_or("", kind_name));
    })
}

pub(crate) fn put_vhost_limits(vhost: &str, l: VhostLimits) -> Op {
    put(Kind::VhostLimits, &[vhost.as_bytes()], |w| {
        w.optional(l.max_connections);
        w.optional(l.max_queues);
    })
}

pub(crate) fn put_user(u: &User) -> Op {
    put(Kind::User, &[u.name.as_bytes()], |w| {
        match &u.password {
            None => w.u8(0),
            Some(p) => {
                w.u8(match p.algorithm() {
                    HashingAlgorithm::Sha256 => 1,
                    HashingAlgorithm::Sha512 => 2,
                });
                w.bytes(p.as_bytes());
            }
        }
        w.strings(&u.tags);
        w.flags(&[u.loopback_only]);
    })
}

pub(crate) fn put_user_limits(user: &str, l: UserLimits) -> Op {
    put(Kind::UserLimits, &[user.as_bytes()], |w| {
        w.optional(l.max_connections);
        w.optional(l.max_channels);
    })
}

pub(crate) fn put_permission(user: &str, vhost: &str, p: &PermissionSpec) -> Op {
    put(Kind::Permission, &[user.as_bytes(), vhost.as_bytes()], |w| {
        [&p.configure, &p.write, &p.read].into_iter().for_each(|s| w.str(s));
    })
}

pub(crate) fn put_topic_permission(user: &str, vhost: &str, exchange: &str, p: &TopicPermissionSpec) -> Op {
    put(Kind::TopicPermission, &[user.as_bytes(), vhost.as_bytes(), exchange.as_bytes()], |w| {
        w.str(&p.write);
        w.str(&p.read);
    })
}

pub(crate) fn put_scram(user: &str, k: &ScramKeys) -> Op {
    put(Kind::Scram, &[user.as_bytes(), k.mechanism.as_str().as_bytes()], |w| {
        w.varint(u64::from(k.iterations));
        [&k.salt, &k.stored_key, &k.server_key].into_iter().for_each(|bytes| w.bytes(bytes));
    })
}

/// All that a rule is stands in its key.
fn with_acl_key(vhost: &str, a: &Acl, f: impl FnOnce(&[&[u8]]) -> Op) -> Op {
    let codes = [a.resource as u8, a.pattern as u8, a.operation as u8, a.effect as u8];
    f(&[vhost.as_bytes(), a.name.as_bytes(), a.principal.as_bytes(), a.host.as_bytes(), &codes])
}

pub(crate) fn put_acl(vhost: &str, a: &Acl) -> Op {
    with_acl_key(vhost, a, |parts| put(Kind::Acl, parts, |_| {}))
}

pub(crate) fn remove_acl(vhost: &str, a: &Acl) -> Op {
    with_acl_key(vhost, a, |parts| remove(Kind::Acl, parts))
}

pub(crate) fn put_quota(entity: &QuotaEntity, rates: QuotaRates) -> Op {
    let [user, client_id] = entity.keys();
    put(Kind::Quota, &[&user, &client_id], |w| {
        [rates.producer, rates.consumer].into_iter().for_each(|r| w.optional(r.map(f64::to_bits)));
    })
}

pub(crate) fn remove_quota(entity: &QuotaEntity) -> Op {
    let [user, client_id] = entity.keys();
    remove(Kind::Quota, &[&user, &client_id])
}

pub(crate) fn put_parameter(k: &ParameterKey, value: &str) -> Op {
    with_parameter_key(k, |parts| put(Kind::Parameter, parts, |w| w.str(value)))
}

pub(crate) fn remove_parameter(k: &ParameterKey) -> Op {
    with_parameter_key(k, |parts| remove(Kind::Parameter, parts))
}

/// A vhost's name is never empty, so that the empty one can stand for global parameters.
fn with_parameter_key(k: &ParameterKey, f: impl FnOnce(&[&[u8]]) -> Op) -> Op {
    let vhost = k.vhost.as_deref().unwrap_or_default();
    f(&[vhost.as_bytes(), k.component.as_bytes(), k.name.as_bytes()])
}

const fn policy_kind(operator: bool) -> Kind {
    if operator { Kind::OperatorPolicy } else { Kind::Policy }
}

pub(crate) fn put_policy(vhost: &str, p: &Policy, operator: bool) -> Op {
    put(policy_kind(operator), &[vhost.as_bytes(), p.name.as_bytes()], |w| {
        w.str(p.pattern.source());
        w.str(p.apply_to.as_str());
        w.signed(p.priority);
        w.table(&p.definition);
    })
}

pub(crate) fn remove_policy(vhost: &str, name: &str, operator: bool) -> Op {
    remove(policy_kind(operator), &[vhost.as_bytes(), name.as_bytes()])
}

pub(crate) fn put_exchange(vhost: &str, x: &Exchange) -> Op {
    put(Kind::Exchange, &[vhost.as_bytes(), x.name.as_bytes()], |w| {
        w.str(x.kind.as_str());
        w.flags(&[x.auto_delete, x.internal, x.delay_queue.is_some()]);
        if let Some(id) = x.delay_queue {
            w.varint(id.0);
        }
        w.table(&x.arguments);
    })
}

pub(crate) fn put_queue(q: &Queue) -> Op {
    let s = &q.settings;
    put(Kind::Queue, &[s.vhost.as_bytes(), s.name.as_bytes()], |w| {
        w.varint(s.id.0);
        w.str(kind_name(s.kind));
        let asked = q.asked.unwrap_or(Asked { durable: false, auto_delete: false });
        w.flags(&[s.auto_delete, s.implicit, q.asked.is_some(), asked.durable, asked.auto_delete]);
        w.table(&q.arguments);
    })
}

pub(crate) fn put_binding(vhost: &str, b: &Bound) -> Op {
    with_binding_key(vhost, b, |parts| put(Kind::Binding, parts, |w| w.table(&b.arguments)))
}

pub(crate) fn remove_binding(vhost: &str, b: &Bound) -> Op {
    with_binding_key(vhost, b, |parts| remove(Kind::Binding, parts))
}

/// Arguments are part of what a binding is, but may be too long for a key: their hash stands for them.
fn with_binding_key(vhost: &str, b: &Bound, f: impl FnOnce(&[&[u8]]) -> Op) -> Op {
    let sort: &[u8] = if b.destination.is_queue() { b"q" } else { b"e" };
    let hash = Sha256::digest(&b.canonical);
    let arguments: &[u8] = if b.canonical.is_empty() { b"" } else { &hash };
    f(&[vhost.as_bytes(), b.source.as_bytes(), sort, b.destination.name().as_bytes(), &b.key, arguments])
}
