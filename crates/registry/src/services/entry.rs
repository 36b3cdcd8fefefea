//! What is known of one instance, and of its checks and a node's.

use std::sync::Arc;

use waypost_model::service::{Health, Instance, Standing};
use waypost_model::{ConnId, Lsn, Millis};

use super::spec::{CheckSpec, Detail, Source};
use super::state::NEVER;
use super::timers::Subject;
use super::view::{CheckView, Listed, NodeView, Why};

/// An instance.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub instance: Arc<Instance>,
    pub owner: Arc<str>,
    pub service: u32,
    /// Place among the service's members.
    pub seat: u32,
    pub incarnation: u64,
    pub created: u64,
    pub modified: u64,
    /// Its last definition.
    pub lsn: Lsn,
    /// When its lease is over.
    pub expires: Millis,
    /// The deadline that is set for it.
    pub scheduled: Millis,
    /// 0: no lease.
    pub lease_ms: u32,
    pub source: Source,
    pub health: Health,
    pub why: Why,
    /// Its lease is over, and that has been counted.
    pub lapsed: bool,
    pub checks: Box<[Check]>,
    /// What few say of themselves; instances of a service that say the same share it.
    pub detail: Option<Arc<Detail>>,
    pub rare: Option<Box<Rare>>,
}

/// Whether messages are pushed to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    None,
    Some,
}

/// What few instances have.
#[derive(Clone, Debug, Default)]
pub(super) struct Rare {
    /// The node that it is registered on, if it is not ours.
    pub node: Option<u32>,
    /// The connection that claims to be it, and how often.
    pub bound: Option<(ConnId, u32)>,
    pub flap: Flap,
    pub drain_until: Option<Millis>,
    pub maintenance: Option<Arc<str>>,
    pub ejected: bool,
    /// Listed without its connection until then.
    pub returning_until: Option<Millis>,
}

/// How often something has gone down lately.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flap {
    pub penalty: f32,
    pub at: Millis,
    pub suppressed: bool,
}

impl Default for Flap {
    fn default() -> Flap {
        Flap { penalty: 0.0, at: Millis(0), suppressed: false }
    }
}

/// A health check.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub spec: Arc<CheckSpec>,
    pub output: Arc<str>,
    pub status: Health,
    /// Critical because nothing was heard, not because somebody said so.
    pub silent: bool,
    pub good: u16,
    pub bad: u16,
    /// When silence makes it critical, or when it is run next.
    pub due: Millis,
    /// Since when it is critical; [`NEVER`] if it is not.
    pub critical_since: Millis,
    /// The run that is under way; 0 for none.
    pub run: u64,
    /// Index of its last change; 0 until that has its number.
    pub modified: u64,
}

/// A health check that is to be run now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckRun {
    /// For the report.
    pub ticket: CheckTicket,
    /// What to do.
    pub spec: Arc<CheckSpec>,
}

/// Names a run of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CheckTicket {
    pub(super) subject: Subject,
    pub(super) run: u64,
}

impl Entry {
    pub fn rare(&self) -> Option<&Rare> {
        self.rare.as_deref()
    }

    pub fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub fn is_bound(&self) -> bool {
        self.rare().is_some_and(|rare| rare.bound.is_some())
    }

    pub fn is_draining(&self) -> bool {
        self.rare().is_some_and(|rare| rare.drain_until.is_some())
    }

    pub fn standing(&self) -> Standing {
        Standing { health: self.health, draining: self.is_draining() }
    }

    pub fn endpoint(&self) -> Endpoint {
        let has = self.detail().is_some_and(|detail| detail.push.is_some());
        if has { Endpoint::Some } else { Endpoint::None }
    }

    pub fn detail(&self) -> Option<&Arc<Detail>> {
        self.detail.as_ref()
    }

    /// As it is shown, on that node.
    pub fn shown(&self, node: Option<Arc<NodeView>>) -> Listed {
        let rare = self.rare();
        Listed {
            instance: Arc::clone(&self.instance),
            standing: self.standing(),
            why: self.why,
            ejected: rare.is_some_and(|r| r.ejected),
            incarnation: self.incarnation,
            created: self.created,
            modified: self.modified,
            source: self.source,
            owner: Arc::clone(&self.owner),
            lease_ms: (self.lease_ms > 0).then_some(u64::from(self.lease_ms)),
            connected: self.is_bound(),
            drain_until: rare.and_then(|r| r.drain_until),
            maintenance: rare.and_then(|r| r.maintenance.clone()),
            detail: self.detail.clone(),
            checks: check_views(&self.checks),
            node,
        }
    }

    /// Whether it is kept across restarts. Of those that live by their connection only such as appear in lists are, so
    /// that lists do not become empty because we restart.
    pub fn is_kept(&self) -> bool {
        self.source != Source::Connection || self.instance.address.is_some()
    }
}

impl Check {
    /// One that says this from now on.
    pub fn new(spec: Arc<CheckSpec>, status: Health, now: Millis) -> Check {
        Check {
            spec,
            output: "".into(),
            status,
            silent: false,
            good: 0,
            bad: 0,
            due: NEVER,
            critical_since: if status == Health::Critical { now } else { NEVER },
            run: 0,
            modified: 0,
        }
    }

    pub fn view(&self) -> CheckView {
        CheckView {
            spec: Arc::clone(&self.spec),
            status: self.status,
            output: Arc::clone(&self.output),
            modified: self.modified,
        }
    }
}

/// Gives what has changed of checks its number.
pub(super) fn number(checks: &mut [Check], index: u64) {
    checks.iter_mut().filter(|check| check.modified == 0).for_each(|check| check.modified = index);
}

pub(super) fn check_views(checks: &[Check]) -> Arc<[CheckView]> {
    if checks.is_empty() { Arc::default() } else { checks.iter().map(Check::view).collect() }
}

/// Puts a check in the place of the one with its id, or behind the others.
pub(super) fn put_check(checks: &mut Vec<Check>, new: Check) {
    match checks.iter_mut().find(|check| check.spec.id == new.spec.id) {
        Some(old) => *old = new,
        None => checks.push(new),
    }
}
