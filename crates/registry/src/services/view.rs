//! What those who look see: snapshots that never change, shared by all who look at the same time.

use std::any::Any;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use waypost_model::Millis;
use waypost_model::service::{Health, Instance, ServiceName, Standing};

use super::spec::{CheckSpec, Detail, NodeSpec, Source};

/// Why an instance has the health that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Why {
    /// Nothing special: as its checks say.
    Plain,
    /// No check has said anything yet.
    Starting,
    /// A check says so.
    Check,
    /// Its lease is over.
    Expired,
    /// An operator says so.
    Maintenance,
    /// Its node is not well.
    Node,
    /// It comes and goes too often; used only where nothing better is.
    Damped,
    /// Too many went at once: that is taken for our fault, and nobody is given up.
    Panic,
    /// The server was restarted, and its connection is not back yet.
    Returning,
}

impl Why {
    /// As APIs write it; empty for [`Why::Plain`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Starting => "starting",
            Self::Check => "check",
            Self::Expired => "expired",
            Self::Maintenance => "maintenance",
            Self::Node => "node",
            Self::Damped => "damped",
            Self::Panic => "panic",
            Self::Returning => "returning",
        }
    }
}

/// A health check and what it said last.
#[derive(Clone, Debug)]
pub struct CheckView {
    /// What it is.
    pub spec: Arc<CheckSpec>,
    /// What it says.
    pub status: Health,
    /// What it gave out last.
    pub output: Arc<str>,
    /// Index of its last change.
    pub modified: u64,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// What it says of itself.
    pub spec: Arc<NodeSpec>,
    /// Its checks.
    pub checks: Arc<[CheckView]>,
    /// The worst of its checks.
    pub health: Health,
    /// Why it is in maintenance; `None` if it is not.
    pub maintenance: Option<Arc<str>>,
    /// Whether it is this server.
    pub is_self: bool,
    /// Index at which it came.
    pub created: u64,
    /// Index of its last change.
    pub modified: u64,
}

/// An instance and how it is.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What it says of itself.
    pub instance: Arc<Instance>,
    /// Its fitness.
    pub standing: Standing,
    /// Why.
    pub why: Why,
    /// The broker holds it back, since it keeps failing its deliveries.
    pub ejected: bool,
    /// Counts registrations of its id anew.
    pub incarnation: u64,
    /// Index at which it came.
    pub created: u64,
    /// Index of its last change.
    pub modified: u64,
    /// Through which door it came.
    pub source: Source,
    /// Who registered it.
    pub owner: Arc<str>,
    /// How often it renews, ms; `None` if it need not.
    pub lease_ms: Option<u64>,
    /// Whether a connection claims to be it.
    pub connected: bool,
    /// When a drain ends.
    pub drain_until: Option<Millis>,
    /// Why it is in maintenance; `None` if it is not.
    pub maintenance: Option<Arc<str>>,
    /// What few have.
    pub detail: Option<Arc<Detail>>,
    /// Its checks.
    pub checks: Arc<[CheckView]>,
    /// Where it runs; `None`: on this server's node.
    pub node: Option<Arc<NodeView>>,
}

impl Listed {
    /// Where it can be reached: its own address, or its node's if it was registered on one.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        let own = self.instance.address.as_deref().filter(|a| !a.is_empty());
        own.or_else(|| self.node.as_deref().map(|node| &*node.spec.address))
    }

    /// Whether it is to be named to those who ask for a healthy one: passing or with a warning, not draining.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self.standing.draining && matches!(self.standing.health, Health::Passing | Health::Warning)
    }

    /// Its share of the work as it is now.
    #[must_use]
    pub fn weight(&self) -> u16 {
        let own = self.instance.weight;
        match self.standing.health {
            Health::Warning => self.detail.as_ref().and_then(|d| d.warning_weight).unwrap_or(own),
            _ => own,
        }
    }
}

/// A service at one moment.
#[derive(Debug)]
pub struct ServiceView {
    /// Which.
    pub name: ServiceName,
    /// Index of its last change. Rises when an instance comes, goes, says something else or fares otherwise.
    pub index: u64,
    /// Counts also what wakes nobody, such as a check's output.
    pub(super) revision: u64,
    /// Sorted by id.
    pub instances: Box<[Listed]>,
    made: Made,
}

impl ServiceView {
    pub(super) fn new(name: ServiceName, index: u64, revision: u64, instances: Vec<Listed>) -> ServiceView {
        ServiceView { name, index, revision, instances: instances.into(), made: Made::default() }
    }

    /// Whether there is anything of that name.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.instances.is_empty()
    }

    /// An instance by its id.
    #[must_use]
    pub fn instance(&self, id: &str) -> Option<&Listed> {
        let i = self.instances.binary_search_by(|listed| (*listed.instance.id).cmp(id)).ok()?;
        self.instances.get(i)
    }

    /// The answer to a query, rendered once for all who ask it while the view lasts. `query` must say everything on
    /// which the answer depends, format and all.
    pub fn rendered(&self, query: &str, render: impl FnOnce(&ServiceView) -> Bytes) -> Bytes {
        self.made.bytes(query, || render(self))
    }

    /// Something that is made of the view once, per type.
    pub fn derived<T: Send + Sync + 'static>(&self, make: impl FnOnce(&ServiceView) -> T) -> Arc<T> {
        self.made.derived(|| make(self))
    }
}

/// A service in a list of services.
#[derive(Clone, Debug)]
pub struct ServiceEntry {
    /// Its name.
    pub name: Arc<str>,
    /// The tags of all its instances, sorted, each once.
    pub tags: Arc<[Box<str>]>,
}

/// The services of a vhost that have instances.
#[derive(Debug)]
pub struct ServiceList {
    /// Index of its last change: when a service or a tag came or went.
    pub index: u64,
    /// Sorted by name.
    pub services: Box<[ServiceEntry]>,
    made: Made,
}

impl ServiceList {
    pub(super) fn new(index: u64, services: Vec<ServiceEntry>) -> ServiceList {
        ServiceList { index, services: services.into(), made: Made::default() }
    }

    /// As [`ServiceView::rendered`].
    pub fn rendered(&self, query: &str, render: impl FnOnce(&ServiceList) -> Bytes) -> Bytes {
        self.made.bytes(query, || render(self))
    }
}

/// How many instances of a service are how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The service.
    pub name: Arc<str>,
    /// Instances, all together.
    pub instances: usize,
    /// Of them passing.
    pub passing: usize,
    /// With a warning.
    pub warning: usize,
    /// Critical.
    pub critical: usize,
    /// Starting.
    pub starting: usize,
    /// Draining, whatever their health.
    pub draining: usize,
    /// Index of its last change.
    pub index: u64,
}

/// An answer, and whether it is being rendered.
type Rendering = Arc<OnceLock<Bytes>>;

/// What was made of a snapshot. Beyond a number of queries answers are made anew each time.
#[derive(Debug, Default)]
struct Made {
    bytes: Mutex<Vec<(Box<str>, Rendering)>>,
    derived: Mutex<Vec<Arc<dyn Any + Send + Sync>>>,
}

const QUERIES_MAX: usize = 16;

impl Made {
    fn bytes(&self, query: &str, render: impl FnOnce() -> Bytes) -> Bytes {
        let rendering = {
            let mut all = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            match all.iter().find(|(q, _)| **q == *query) {
                Some((_, rendering)) => match rendering.get() {
                    Some(bytes) => return bytes.clone(),
                    None => Arc::clone(rendering),
                },
                None if all.len() >= QUERIES_MAX => Arc::default(),
                None => {
                    let rendering = Rendering::default();
                    all.push((query.into(), Arc::clone(&rendering)));
                    rendering
                }
            }
        };
        rendering.get_or_init(render).clone()
    }

    fn derived<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let find = |all: &[Arc<dyn Any + Send + Sync>]| all.iter().find_map(|one| Arc::clone(one).downcast::<T>().ok());
        if let Some(found) = find(&self.derived.lock().unwrap_or_else(PoisonError::into_inner)) {
            return found;
        }
        let made = Arc::new(make());
        let mut all = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have made it meanwhile; then theirs is everybody's.
        find(&all).unwrap_or_else(|| {
            all.push(Arc::clone(&made) as Arc<dyn Any + Send + Sync>);
            made
        })
    }
}
