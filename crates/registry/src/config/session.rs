//! Consul's sessions: whose end gives back the locks that they hold.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use waypost_model::Millis;
use waypost_model::journal::Op;

use super::fault::Fault;
use super::limits::SESSION_TEXT_BYTES_MAX;
use waypost_model::record::{Malformed, Reader, Writer};

/// First byte of the key of a session's definition.
pub(super) const KEY: u8 = 0xc1;
const FORMAT: u8 = 1;

/// Shortest time to live, milliseconds.
const TTL_MS_MIN: u64 = 10_000;
/// Longest time to live, milliseconds.
const TTL_MS_MAX: u64 = 86_400_000;
/// Longest lock delay, milliseconds.
const LOCK_DELAY_MS_MAX: u64 = 60_000;
/// Lock delay of those who do not say, milliseconds.
const LOCK_DELAY_MS: u64 = 15_000;
/// Most checks of a session.
const CHECKS_MAX: usize = 64;

/// What becomes of the keys whose lock an ended session held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Behavior {
    /// They stay, unlocked.
    #[default]
    Release,
    /// They are deleted.
    Delete,
}

/// A session as its owner wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSession {
    /// For people.
    pub name: String,
    /// The node that it belongs to.
    pub node: String,
    /// How long it lives without being renewed, milliseconds; at least 10 s, at most a day. Without one it lives until
    /// it is destroyed.
    pub ttl_ms: Option<u64>,
    /// What becomes of its keys.
    pub behavior: Behavior,
    /// How long what it held cannot be locked after it ended without unlocking, milliseconds; at most a minute.
    pub lock_delay_ms: u64,
    /// Health checks of its node that it depends on, by id.
    pub node_checks: Vec<Box<str>>,
    /// Health checks of services that it depends on, by id.
    pub service_checks: Vec<Box<str>>,
}

impl Default for NewSession {
    fn default() -> NewSession {
        NewSession {
            name: String::new(),
            node: String::new(),
            ttl_ms: None,
            behavior: Behavior::Release,
            lock_delay_ms: LOCK_DELAY_MS,
            node_checks: Vec::new(),
            service_checks: Vec::new(),
        }
    }
}

impl NewSession {
    pub(super) fn check(&self) -> Result<(), Fault> {
        let bad = |what: String| Err(Fault::Bad(what));
        if self.ttl_ms.is_some_and(|ttl| !(TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl)) {
            return bad("Invalid Session TTL, must be between [10s=24h0m0s]".into());
        }
        if self.lock_delay_ms > LOCK_DELAY_MS_MAX {
            return bad("lock delay must not be longer than 60 seconds".into());
        }
        let checks = [&self.node_checks, &self.service_checks];
        let texts = [&*self.name, &*self.node].into_iter().chain(checks.into_iter().flatten().map(|c| &**c));
        if texts.into_iter().any(|t| t.len() > SESSION_TEXT_BYTES_MAX) || checks.iter().any(|c| c.len() > CHECKS_MAX) {
            return bad(format!(
                "a session has at most {CHECKS_MAX} checks, and texts of {SESSION_TEXT_BYTES_MAX} bytes"
            ));
        }
        Ok(())
    }
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// A UUID.
    pub id: Arc<str>,
    /// As its owner wanted it.
    pub spec: NewSession,
    /// The revision at which it came.
    pub created: u64,
}

/// A session while it lives.
#[derive(Debug)]
pub(super) struct Live {
    pub session: Arc<Session>,
    /// When it ends unless it is renewed. Later than its time to live: the owner's clock may be slower, and its
    /// renewal under way.
    pub deadline: Option<Millis>,
    /// Paths whose lock it holds.
    pub held: BTreeSet<Arc<str>>,
}

impl Live {
    pub fn new(session: Arc<Session>, now: Millis) -> Live {
        let mut live = Live { session, deadline: None, held: BTreeSet::new() };
        live.renew(now);
        live
    }

    pub fn renew(&mut self, now: Millis) {
        self.deadline = self.session.spec.ttl_ms.map(|ttl| now.plus(ttl + ttl / 2));
    }
}

impl Session {
    /// The definition that keeps it.
    pub(super) fn define(&self, vhost: &str) -> Op {
        let s = &self.spec;
        let mut w = Writer::default();
        w.u8(FORMAT);
        w.varint(self.created);
        w.str(&s.name);
        w.str(&s.node);
        w.varint(s.ttl_ms.unwrap_or_default());
        w.u8(u8::from(s.behavior == Behavior::Delete));
        w.varint(s.lock_delay_ms);
        w.strings(&s.node_checks);
        w.strings(&s.service_checks);
        Op::Define { key: key(vhost, &self.id), value: Some(w.finish()) }
    }

    /// What a definition tells: vhost and session.
    pub(super) fn read(key: &[u8], value: &[u8]) -> Result<(Arc<str>, Session), Malformed> {
        let mut k = Reader::new(key);
        k.u8()?;
        let (vhost, id) = (k.str()?.into(), k.str()?.into());
        k.end()?;
        let mut r = Reader::new(value);
        if r.u8()? != FORMAT {
            return Err(Malformed("format of a session"));
        }
        let created = r.varint()?;
        let spec = NewSession {
            name: r.str()?.into(),
            node: r.str()?.into(),
            ttl_ms: Some(r.varint()?).filter(|ttl| *ttl > 0),
            behavior: if r.u8()? == 1 { Behavior::Delete } else { Behavior::Release },
            lock_delay_ms: r.varint()?,
            node_checks: r.strings()?,
            service_checks: r.strings()?,
        };
        r.end()?;
        Ok((vhost, Session { id, spec, created }))
    }
}

/// The definition that takes a session away.
pub(super) fn undefine(vhost: &str, id: &str) -> Op {
    Op::Define { key: key(vhost, id), value: None }
}

fn key(vhost: &str, id: &str) -> Box<[u8]> {
    let mut w = Writer::default();
    w.u8(KEY);
    w.str(vhost);
    w.str(id);
    w.finish()
}

/// A random UUID (version 4) out of random bytes.
pub(super) fn uuid(mut bytes: [u8; 16]) -> Arc<str> {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (i, b) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            text.push('-');
        }
        // Writing to a string does not fail.
        let _ = write!(text, "{b:02x}");
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_there_and_back() {
        let spec = NewSession {
            name: "n".into(),
            node: "node".into(),
            ttl_ms: Some(15_000),
            behavior: Behavior::Delete,
            node_checks: vec!["serfHealth".into()],
            ..NewSession::default()
        };
        let session = Session { id: uuid([7; 16]), spec, created: 12 };
        let Op::Define { key, value: Some(value) } = session.define("/") else { panic!("a definition") };
        assert_eq!(Session::read(&key, &value), Ok(("/".into(), session)));
    }

    #[test]
    fn ids_are_random_uuids() {
        assert_eq!(&*uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn times_are_bounded() {
        let with = |ttl_ms, lock_delay_ms| NewSession { ttl_ms, lock_delay_ms, ..NewSession::default() }.check();
        assert!(with(None, 0).is_ok() && with(Some(10_000), 60_000).is_ok());
        assert!(with(Some(9_999), 0).is_err() && with(Some(86_400_001), 0).is_err() && with(None, 60_001).is_err());
    }
}
