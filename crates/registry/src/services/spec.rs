//! What can be registered.

use std::sync::Arc;

use waypost_model::Refusal;
use waypost_model::service::{Health, Instance};

use super::limits::{
    CHECK_HEADERS_MAX, CHECK_INTERVAL_MIN_MS, CHECK_TEXT_MAX, CHECKS_PER_OWNER_MAX, DURATION_MAX_MS, EXTRA_MAX,
    LEASE_MIN_MS,
};

/// Through which door an instance came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Source {
    /// `/api/v1/services`.
    Api = 0,
    /// The plain verbs.
    Plain = 1,
    /// Consul's agent.
    Agent = 2,
    /// Consul's catalog.
    Catalog = 3,
    /// Its connection: it goes when that does.
    Connection = 4,
}

impl Source {
    /// As APIs write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Plain => "plain",
            Self::Agent => "agent",
            Self::Catalog => "catalog",
            Self::Connection => "connection",
        }
    }

    pub(super) fn of(byte: u8) -> Option<Source> {
        [Self::Api, Self::Plain, Self::Agent, Self::Catalog, Self::Connection].into_iter().find(|s| *s as u8 == byte)
    }
}

/// An instance as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// What it says of itself.
    pub instance: Instance,
    /// The user who registers it.
    pub owner: Arc<str>,
    /// Through which door.
    pub source: Source,
    /// It lives while it renews this often, ms; `None`: until it is deregistered.
    pub lease_ms: Option<u64>,
    /// Its health checks.
    pub checks: Vec<CheckSpec>,
    /// What few have.
    pub detail: Detail,
}

impl Registration {
    /// An instance without checks or lease: passing until it is deregistered.
    #[must_use]
    pub fn new(instance: Instance, owner: impl Into<Arc<str>>, source: Source) -> Registration {
        Registration {
            instance,
            owner: owner.into(),
            source,
            lease_ms: None,
            checks: Vec::new(),
            detail: Detail::default(),
        }
    }
}

/// What few instances have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// Where its messages are sent to.
    pub push: Option<Arc<Push>>,
    /// On which node it runs; `None`: this server's. The node must be registered.
    pub node: Option<Arc<str>>,
    /// Its weight while its health is a warning.
    pub warning_weight: Option<u16>,
    /// What the API keeps with it for itself: opaque.
    pub extra: Option<Arc<str>>,
}

impl Detail {
    pub(super) fn is_empty(&self) -> bool {
        *self == Detail::default()
    }
}

/// An endpoint to which an instance's messages are sent over HTTP. Checked for permission by the API.
#[derive(Clone, PartialEq, Eq)]
pub struct Push {
    /// Where to.
    pub url: Box<str>,
    /// Signs what is sent, if there is one.
    pub secret: Option<Box<str>>,
    /// Most requests at once.
    pub concurrency: u16,
    /// How long an answer may take, ms.
    pub timeout_ms: u32,
    /// How messages become requests.
    pub format: PushFormat,
}

impl std::fmt::Debug for Push {
    // A secret has no place in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Push { url, secret, concurrency, timeout_ms, format } = self;
        let secret = secret.as_ref().map(|_| "…");
        f.debug_struct("Push")
            .field("url", url)
            .field("secret", &secret)
            .field("concurrency", concurrency)
            .field("timeout_ms", timeout_ms)
            .field("format", format)
            .finish()
    }
}

/// How messages become requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum PushFormat {
    /// Properties as headers of our names.
    #[default]
    Headers = 0,
    /// Headers as CloudEvents' binary mode names them.
    CloudEvents = 1,
}

/// A health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckSpec {
    /// Unique within its instance or node.
    pub id: Box<str>,
    /// For people.
    pub name: Box<str>,
    /// For people.
    pub notes: Box<str>,
    /// How it is done.
    pub kind: CheckKind,
    /// So many successes in a row make it passing; 0 is as 1.
    pub success_before_passing: u16,
    /// So many failures in a row make it a warning; 0: none do.
    pub failures_before_warning: u16,
    /// So many failures in a row make it critical; 0 is as 1.
    pub failures_before_critical: u16,
    /// What has been critical for so long is deregistered, ms.
    pub deregister_after_ms: Option<u64>,
    /// What it says before its first result.
    pub initial: Health,
}

impl CheckSpec {
    /// A check with defaults: one success makes it passing, two failures critical.
    #[must_use]
    pub fn new(id: impl Into<Box<str>>, kind: CheckKind) -> CheckSpec {
        let id = id.into();
        CheckSpec {
            name: id.clone(),
            id,
            notes: "".into(),
            kind,
            success_before_passing: 1,
            failures_before_warning: 0,
            failures_before_critical: 2,
            deregister_after_ms: None,
            initial: Health::Starting,
        }
    }
}

/// How a check is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Somebody says how it is; silence for so long is critical, ms.
    Ttl {
        /// How long.
        ttl_ms: u64,
    },
    /// The server asks over HTTP: 2xx is passing, 429 a warning, else critical.
    Http(Box<HttpProbe>),
    /// The server connects to `host:port`.
    Tcp {
        /// Where to.
        address: Box<str>,
        /// How often, ms.
        interval_ms: u64,
        /// How long it may take, ms.
        timeout_ms: u64,
    },
    /// Somebody says how it is, and that holds.
    Manual,
}

/// An HTTP check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// `http://…`.
    pub url: Box<str>,
    /// Its method.
    pub method: Box<str>,
    /// Headers.
    pub headers: Box<[(Box<str>, Box<str>)]>,
    /// Body.
    pub body: Box<str>,
    /// How often, ms.
    pub interval_ms: u64,
    /// How long it may take, ms.
    pub timeout_ms: u64,
}

impl CheckKind {
    /// How often the server runs it, ms; `None` if it does not.
    #[must_use]
    pub fn interval_ms(&self) -> Option<u64> {
        match self {
            Self::Http(probe) => Some(probe.interval_ms),
            Self::Tcp { interval_ms, .. } => Some(*interval_ms),
            Self::Ttl { .. } | Self::Manual => None,
        }
    }
}

/// A node as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Unique within its vhost, whatever the case of its letters.
    pub name: Box<str>,
    /// A UUID, or empty.
    pub id: Box<str>,
    /// Its host name or IP address.
    pub address: Box<str>,
    /// Sorted by key.
    pub meta: Arc<[(Box<str>, Box<str>)]>,
    /// What the API keeps with it for itself: opaque.
    pub extra: Option<Arc<str>>,
}

fn wrong(what: impl std::fmt::Display) -> Refusal {
    Refusal::precondition_failed(format!("invalid registration: {what}"))
}

fn duration(what: &str, ms: u64, min: u64) -> Result<(), Refusal> {
    if (min..=DURATION_MAX_MS).contains(&ms) {
        return Ok(());
    }
    Err(wrong(format_args!("{what} must be {min} ms to 24 hours")))
}

fn text(what: &str, text: &str, max: usize) -> Result<(), Refusal> {
    if text.len() > max || text.chars().any(|c| c.is_control() && c != '\n' && c != '\t' && c != '\r') {
        return Err(wrong(format_args!("{what} has more than {max} bytes or control characters")));
    }
    Ok(())
}

impl Registration {
    /// Brings everything into order and checks every bound.
    pub(super) fn checked(mut self) -> Result<Registration, Refusal> {
        self.instance = self.instance.checked()?;
        if let Some(ms) = self.lease_ms {
            duration("the lease", ms, LEASE_MIN_MS)?;
        }
        check_list(&self.checks)?;
        let Detail { push, node, warning_weight: _, extra } = &self.detail;
        if let Some(push) = push {
            text("`url` of `push`", &push.url, CHECK_TEXT_MAX)?;
            text("`secret` of `push`", push.secret.as_deref().unwrap_or_default(), 512)?;
            if push.concurrency == 0 || push.concurrency > 1000 {
                return Err(wrong("`concurrency` of `push` must be 1 to 1000"));
            }
        }
        text("the node's name", node.as_deref().unwrap_or_default(), 255)?;
        text("what is kept besides", extra.as_deref().unwrap_or_default(), EXTRA_MAX)?;
        Ok(self)
    }
}

pub(super) fn check_list(checks: &[CheckSpec]) -> Result<(), Refusal> {
    if checks.len() > CHECKS_PER_OWNER_MAX {
        return Err(wrong(format_args!("at most {CHECKS_PER_OWNER_MAX} checks")));
    }
    for (i, check) in checks.iter().enumerate() {
        check.check()?;
        if checks.iter().take(i).any(|other| other.id == check.id) {
            return Err(wrong(format_args!("check `{}` is given twice", check.id)));
        }
    }
    Ok(())
}

impl CheckSpec {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.id.is_empty() {
            return Err(wrong("a check needs an id"));
        }
        for (what, value) in [("id", &self.id), ("name", &self.name), ("notes", &self.notes)] {
            text(&format!("`{what}` of a check"), value, CHECK_TEXT_MAX)?;
        }
        if let Some(ms) = self.deregister_after_ms {
            duration("the time until a critical instance is deregistered", ms, LEASE_MIN_MS)?;
        }
        match &self.kind {
            CheckKind::Manual => Ok(()),
            CheckKind::Ttl { ttl_ms } => duration("`ttl` of a check", *ttl_ms, LEASE_MIN_MS),
            CheckKind::Tcp { address, interval_ms, timeout_ms } => {
                text("`tcp` of a check", address, CHECK_TEXT_MAX)?;
                duration("`interval` of a check", *interval_ms, CHECK_INTERVAL_MIN_MS)?;
                duration("`timeout` of a check", *timeout_ms, 1)
            }
            CheckKind::Http(probe) => {
                text("`http` of a check", &probe.url, CHECK_TEXT_MAX)?;
                text("`body` of a check", &probe.body, CHECK_TEXT_MAX)?;
                text("`method` of a check", &probe.method, 16)?;
                if probe.headers.len() > CHECK_HEADERS_MAX {
                    return Err(wrong(format_args!("a check has at most {CHECK_HEADERS_MAX} headers")));
                }
                for (name, value) in &probe.headers {
                    text("a header's name", name, 128)?;
                    text("a header's value", value, CHECK_TEXT_MAX)?;
                }
                duration("`interval` of a check", probe.interval_ms, CHECK_INTERVAL_MIN_MS)?;
                duration("`timeout` of a check", probe.timeout_ms, 1)
            }
        }
    }
}

impl NodeSpec {
    pub(super) fn checked(mut self) -> Result<NodeSpec, Refusal> {
        if self.name.is_empty() || self.address.is_empty() {
            return Err(wrong("a node needs a name and an address"));
        }
        for (what, value) in [("name", &self.name), ("id", &self.id), ("address", &self.address)] {
            text(&format!("`{what}` of a node"), value, 255)?;
        }
        let as_instance = Instance { meta: Arc::clone(&self.meta), ..Instance::new("node") }.checked()?;
        self.meta = as_instance.meta;
        text("what is kept besides", self.extra.as_deref().unwrap_or_default(), EXTRA_MAX)?;
        Ok(self)
    }
}
