//! What one version of a path says on disk.
//!
//! A record tells the whole state of its path: where the value in force and the candidate are to be found (in itself,
//! mostly), and who holds the lock. It is the body of a message without properties.
//!
//! ```text
//! format u8 = 1 | kind u8 | flags u8 (1: has a value, 2: has a rule) | vhost | path | revision | modified | created
//! | lock index | session | time | author | comment | stable | candidate | from
//! | [content type | flags | value] | [rule: version | percent + 1 | ids | zones | tags]
//! ```
//! Numbers are varints (LEB128), texts are a length and bytes, lists a count and texts.

use std::sync::Arc;

use bytes::Bytes;
use semver::VersionReq;

use super::gray::Rule;
use waypost_model::record::{Malformed, Reader, Writer};

/// The first byte of a record.
const FORMAT: u8 = 1;

const HAS_VALUE: u8 = 1;
const HAS_RULE: u8 = 2;

/// What a version did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A value was written.
    Put = 1,
    /// The value was deleted.
    Delete = 2,
    /// A session took the lock.
    Lock = 3,
    /// The lock was given back, or taken from its session.
    Unlock = 4,
    /// An earlier value came back.
    Rollback = 5,
    /// A candidate was set, or its rule or value changed.
    Gray = 6,
    /// The candidate became the value for all.
    Promote = 7,
    /// The candidate was given up.
    Abandon = 8,
}

impl Kind {
    const ALL: [Kind; 8] =
        [Kind::Put, Kind::Delete, Kind::Lock, Kind::Unlock, Kind::Rollback, Kind::Gray, Kind::Promote, Kind::Abandon];

    /// As listings write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Put => "put",
            Kind::Delete => "delete",
            Kind::Lock => "lock",
            Kind::Unlock => "unlock",
            Kind::Rollback => "rollback",
            Kind::Gray => "gray",
            Kind::Promote => "promote",
            Kind::Abandon => "abandon",
        }
    }
}

/// A value with what describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub content_type: Arc<str>,
    pub flags: u64,
    pub value: Bytes,
}

/// One version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub kind: Kind,
    pub vhost: Arc<str>,
    pub path: Arc<str>,
    /// Of the commit that wrote it.
    pub revision: u64,
    /// The revision at which what everybody sees changed last: this one, but for gray releases.
    pub modified: u64,
    /// The revision since which there is a value without a gap; 0 if there is none.
    pub created: u64,
    /// How often the lock was taken.
    pub lock_index: u64,
    /// Who holds it.
    pub session: Option<Arc<str>>,
    /// When, milliseconds of wall-clock time.
    pub at: u64,
    pub author: Arc<str>,
    pub comment: Arc<str>,
    /// Which version holds the value in force; 0 if there is none.
    pub stable: u64,
    /// Which version holds the candidate; 0 if there is none.
    pub candidate: u64,
    /// Which version was brought back; 0 if none was.
    pub from: u64,
    pub content: Option<Content>,
    pub rule: Option<Arc<Rule>>,
}

impl Record {
    /// Appends its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let value = self.content.as_ref().map_or(0, |c| c.value.len());
        let mut w = Writer::with_capacity(value + self.path.len() + self.comment.len() + 96);
        let flags = if self.content.is_some() { HAS_VALUE } else { 0 } | if self.rule.is_some() { HAS_RULE } else { 0 };
        [FORMAT, self.kind as u8, flags].into_iter().for_each(|b| w.u8(b));
        w.str(&self.vhost);
        w.str(&self.path);
        [self.revision, self.modified, self.created, self.lock_index].into_iter().for_each(|n| w.varint(n));
        w.str(self.session.as_deref().unwrap_or_default());
        w.varint(self.at);
        w.str(&self.author);
        w.str(&self.comment);
        [self.stable, self.candidate, self.from].into_iter().for_each(|n| w.varint(n));
        if let Some(c) = &self.content {
            w.str(&c.content_type);
            w.varint(c.flags);
            w.bytes(&c.value);
        }
        if let Some(rule) = &self.rule {
            w.str(&rule.version.as_ref().map(VersionReq::to_string).unwrap_or_default());
            w.varint(rule.percent.map_or(0, |p| u64::from(p) + 1));
            [&rule.ids, &rule.zones, &rule.tags].into_iter().for_each(|list| w.strings(list));
        }
        w.finish().into()
    }

    /// Reads one.
    pub fn decode(bytes: &[u8]) -> Result<Record, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8()? != FORMAT {
            return Err(Malformed("format of the record"));
        }
        let kind = r.u8()?;
        let kind = Kind::ALL.into_iter().find(|k| *k as u8 == kind).ok_or(Malformed("kind of the record"))?;
        let flags = r.u8()?;
        let record = Record {
            kind,
            vhost: r.str()?.into(),
            path: r.str()?.into(),
            revision: r.varint()?,
            modified: r.varint()?,
            created: r.varint()?,
            lock_index: r.varint()?,
            session: Some(r.str()?).filter(|s| !s.is_empty()).map(Arc::from),
            at: r.varint()?,
            author: r.str()?.into(),
            comment: r.str()?.into(),
            stable: r.varint()?,
            candidate: r.varint()?,
            from: r.varint()?,
            content: if flags & HAS_VALUE != 0 { Some(content(&mut r)?) } else { None },
            rule: if flags & HAS_RULE != 0 { Some(Arc::new(rule(&mut r)?)) } else { None },
        };
        r.end()?;
        Ok(record)
    }
}

fn content(r: &mut Reader<'_>) -> Result<Content, Malformed> {
    Ok(Content { content_type: r.str()?.into(), flags: r.varint()?, value: Bytes::copy_from_slice(r.bytes()?) })
}

fn rule(r: &mut Reader<'_>) -> Result<Rule, Malformed> {
    let version = Some(r.str()?).filter(|v| !v.is_empty()).map(VersionReq::parse).transpose();
    let percent = match r.varint()? {
        0 => None,
        p => Some(u8::try_from(p - 1).map_err(|_| Malformed("percentage"))?),
    };
    let version = version.map_err(|_| Malformed("range of versions"))?;
    Ok(Rule { version, percent, ids: r.strings()?, zones: r.strings()?, tags: r.strings()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> Record {
        Record {
            kind: Kind::Gray,
            vhost: "/".into(),
            path: "cart/limit".into(),
            revision: 300,
            modified: 299,
            created: 7,
            lock_index: 2,
            session: Some("s".into()),
            at: 1_800_000_000_000,
            author: "anna".into(),
            comment: "try it".into(),
            stable: 3,
            candidate: 4,
            from: 0,
            content: Some(Content {
                content_type: "text/plain".into(),
                flags: u64::MAX,
                value: Bytes::from_static(b"\0\xff"),
            }),
            rule: Some(Arc::new(Rule {
                ids: vec!["a".into()],
                version: VersionReq::parse(">=1.2, <3").ok(),
                percent: Some(0),
                ..Rule::default()
            })),
        }
    }

    #[test]
    fn there_and_back() {
        let bare = Record { content: None, rule: None, session: None, ..sample() };
        for record in [sample(), bare] {
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn cut_and_altered_bytes_are_refused_or_read_but_never_panic() {
        let bytes = sample().encode();
        for end in 0..bytes.len() {
            assert!(Record::decode(&bytes[..end]).is_err(), "{end}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut altered = bytes.clone();
                altered[at] ^= 1 << bit;
                let _ = Record::decode(&altered);
            }
        }
    }
}
