//! Services and their instances, as registry, broker and everything between them speak of them.
//!
//! The registry owns the truth about instances. The broker tells it of instances that live by their connection
//! ([`Presence`]); it tells the broker what has changed ([`InstanceChange`], through whatever the server puts between).
//! Locks are taken in this order: registry, topology, shard, outbox. So the broker calls [`Presence`] with none held, and
//! the registry may hand on a change while it holds its own.

use std::sync::Arc;

pub use semver::Version;

use crate::ids::{ConnId, Millis};
use crate::refusal::Refusal;

/// Longest name of a service, in bytes.
pub const SERVICE_NAME_MAX: usize = 63;

/// Longest id of an instance, in bytes.
pub const INSTANCE_ID_MAX: usize = 255;

/// Most tags of an instance.
pub const TAGS_MAX: usize = 64;

/// Most pairs of metadata of an instance.
pub const META_MAX: usize = 64;

/// Longest tag, zone or metadata key, in bytes.
pub const WORD_MAX: usize = 128;

/// Longest metadata value, in bytes.
pub const META_VALUE_MAX: usize = 512;

/// Largest weight.
pub const WEIGHT_MAX: u16 = 1000;

/// Whether a text may name a service: `[a-z0-9-]{1,63}`.
#[must_use]
pub fn is_service_name(name: &str) -> bool {
    (1..=SERVICE_NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The queue that is the mailbox of a service, unless another one was declared to be.
#[must_use]
pub fn mailbox_name(service: &str) -> String {
    format!("{service}-queue")
}

/// What an instance says of itself. Immutable: a change is a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Unique within its service.
    pub id: Box<str>,
    /// A host name or an IP address. Without one it appears in no DNS answer, query or catalog.
    pub address: Option<Box<str>>,
    /// Its port; 0 for none.
    pub port: u16,
    /// Its version, if it says so in semver's form. This, zone, tags and metadata are shared by instances that say the same.
    pub version: Option<Arc<Version>>,
    /// Where it runs; empty for unknown.
    pub zone: Arc<str>,
    /// Sorted, each once.
    pub tags: Arc<[Box<str>]>,
    /// Sorted by key.
    pub meta: Arc<[(Box<str>, Box<str>)]>,
    /// Share of the work: 1 to [`WEIGHT_MAX`].
    pub weight: u16,
    /// Most messages that it holds unsettled, whatever its consumers' prefetch says.
    pub max_in_flight: Option<u32>,
}

impl Instance {
    /// An instance of which nothing but the id is known.
    #[must_use]
    pub fn new(id: impl Into<Box<str>>) -> Instance {
        Instance {
            id: id.into(),
            address: None,
            port: 0,
            version: None,
            zone: "".into(),
            tags: Arc::default(),
            meta: Arc::default(),
            weight: 1,
            max_in_flight: None,
        }
    }

    /// Whether it has a tag. Case matters.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.binary_search_by(|t| (**t).cmp(tag)).is_ok()
    }

    /// A value of its metadata.
    #[must_use]
    pub fn meta(&self, key: &str) -> Option<&str> {
        let i = self.meta.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        self.meta.get(i).map(|(_, v)| &**v)
    }

    /// Brings tags and metadata into order and checks every limit of this module.
    ///
    /// # Errors
    /// 406 with the field that is wrong.
    pub fn checked(mut self) -> Result<Instance, Refusal> {
        let wrong = |what: &str| Err(Refusal::precondition_failed(format!("invalid instance: {what}")));
        if self.id.is_empty() || self.id.len() > INSTANCE_ID_MAX || self.id.chars().any(char::is_control) {
            return wrong("`id` must have 1 to 255 bytes and no control characters");
        }
        if self.address.as_ref().is_some_and(|a| a.len() > 255 || a.chars().any(|c| c.is_control() || c == ' ')) {
            return wrong("`address` is no host name or IP address");
        }
        if self.weight == 0 || self.weight > WEIGHT_MAX {
            return wrong("`weight` must be 1 to 1000");
        }
        if self.tags.len() > TAGS_MAX || self.tags.iter().any(|t| t.is_empty() || t.len() > WORD_MAX) {
            return wrong("at most 64 `tags` of 1 to 128 bytes each");
        }
        if self.zone.len() > WORD_MAX {
            return wrong("`zone` has more than 128 bytes");
        }
        let fits = |(k, v): &(Box<str>, Box<str>)| (1..=WORD_MAX).contains(&k.len()) && v.len() <= META_VALUE_MAX;
        if self.meta.len() > META_MAX || !self.meta.iter().all(fits) {
            return wrong("at most 64 pairs of `meta`, keys of 1 to 128 bytes, values of at most 512");
        }
        if !self.tags.is_sorted_by(|a, b| a < b) {
            let mut tags = self.tags.to_vec();
            tags.sort_unstable();
            tags.dedup();
            self.tags = tags.into();
        }
        if !self.meta.is_sorted() {
            let mut meta = self.meta.to_vec();
            meta.sort_unstable();
            self.meta = meta.into();
        }
        if self.meta.windows(2).any(|w| w[0].0 == w[1].0) {
            return wrong("a key of `meta` is given twice");
        }
        Ok(self)
    }
}

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Registered; no check has said anything yet.
    Starting,
    /// All is well.
    Passing,
    /// It serves, but something is amiss: used when no passing instance matches.
    Warning,
    /// It does not serve.
    Critical,
}

impl Health {
    /// As APIs write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What the registry says of an instance's fitness for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its health.
    pub health: Health,
    /// Gets nothing new, and may finish what it has.
    pub draining: bool,
}

impl Standing {
    /// Well, and to be used.
    pub const PASSING: Standing = Standing { health: Health::Passing, draining: false };
}

/// A vhost and a service in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// The vhost.
    pub vhost: Arc<str>,
    /// The service.
    pub service: Arc<str>,
}

/// What has changed, for those who follow: in order per service.
#[derive(Clone, Debug)]
pub enum InstanceChange {
    /// An instance is there or is another one than before.
    Is {
        /// What it says of itself.
        instance: Arc<Instance>,
        /// What the registry says of it.
        standing: Standing,
        /// Counts registrations of this id anew: an instance that was gone and came back has a higher one.
        incarnation: u64,
    },
    /// An instance is gone.
    Gone {
        /// Its id.
        id: Box<str>,
        /// Which one.
        incarnation: u64,
        /// Why.
        why: Parting,
    },
    /// The service is to have a mailbox, with instances or without.
    Wanted,
}

/// Why an instance is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// It left, was removed, or was silent for too long: one of the same id may come, and goes on where it consumed.
    Ended,
    /// It was drained, and its time is over: who consumes as that instance is to get nothing any more, and is told.
    Drained,
}

/// Names a claim on an instance until it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimId(pub u64);

/// Somebody is an instance.
#[derive(Debug)]
pub struct Claim<'a> {
    /// Of which service.
    pub name: &'a ServiceName,
    /// Which connection it lives by.
    pub conn: ConnId,
    /// The user, who needs the permission to configure the instance's id.
    pub user: &'a str,
    /// What it says of itself. If it says no more than the id of an instance that is registered otherwise, then it is
    /// that one, and its health stays what its checks say.
    pub instance: Instance,
    /// Whether it says more than its id.
    pub described: bool,
    /// Whether `instance.id` was given by the peer or made up by the broker.
    pub named: bool,
}

/// An accepted claim.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// For [`Presence::leave`].
    pub claim: ClaimId,
    /// The instance as the registry knows it.
    pub instance: Arc<Instance>,
    /// What the registry says of it.
    pub standing: Standing,
    /// Which one.
    pub incarnation: u64,
}

/// How an instance's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order: cancelled, or closed by the protocol's own words.
    Left,
    /// Without a word. Its id is held for a moment for its return; it is hidden and ineligible at once.
    Broken,
}

/// What the broker tells the registry. Called with no lock of the broker's held.
pub trait Presence: Send + Sync {
    /// A consumer or a connection is an instance.
    ///
    /// # Errors
    /// 406 if what it says is invalid, 405 if another connection is that instance, 403 without permission.
    fn claim(&self, claim: Claim<'_>, now: Millis) -> Result<Claimed, Refusal>;

    /// A claim is over. The instance goes with its last one, unless it is registered otherwise.
    fn leave(&self, claim: ClaimId, ending: Ending, now: Millis);

    /// The broker's verdict on an instance that keeps failing its deliveries, or does so no more; only for those who look.
    fn ejected(&self, name: &ServiceName, instance: &str, ejected: bool, now: Millis);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["cart", "a", "cart-2", "0", &"x".repeat(63)] {
            assert!(is_service_name(good), "{good}");
        }
        for bad in ["", "Cart", "cart.x", "cart_x", "ä", &"x".repeat(64)] {
            assert!(!is_service_name(bad), "{bad}");
        }
    }

    #[test]
    fn tags_and_metadata_are_found_whatever_their_order() {
        let instance = Instance {
            tags: ["b", "a", "b"].map(Into::into).into(),
            meta: [("z", "1"), ("k", "2")].map(|(k, v)| (k.into(), v.into())).into(),
            ..Instance::new("i")
        };
        let instance = instance.checked().unwrap();
        assert_eq!(&*instance.tags, &["a".into(), "b".into()]);
        assert!(instance.has_tag("a") && instance.has_tag("b") && !instance.has_tag("c"));
        assert_eq!((instance.meta("k"), instance.meta("z"), instance.meta("y")), (Some("2"), Some("1"), None));
    }

    #[test]
    fn what_is_too_much_is_refused_by_name() {
        let refused = |i: Instance, what: &str| {
            let text = i.checked().unwrap_err().text;
            assert!(text.contains(what), "{text}");
        };
        refused(Instance::new(""), "`id`");
        refused(Instance { weight: 0, ..Instance::new("i") }, "`weight`");
        refused(Instance { zone: "z".repeat(129).into(), ..Instance::new("i") }, "`zone`");
        refused(Instance { tags: vec!["t".into(); 65].into(), ..Instance::new("i") }, "`tags`");
        let meta = |k: &str, v: &str| Instance { meta: [(k.into(), v.into())].into(), ..Instance::new("i") };
        refused(meta("", "v"), "`meta`");
        refused(meta("k", &"v".repeat(513)), "`meta`");
        let twice = [("k", "1"), ("k", "2")].map(|(k, v)| (k.into(), v.into())).into();
        refused(Instance { meta: twice, ..Instance::new("i") }, "twice");
    }
}
