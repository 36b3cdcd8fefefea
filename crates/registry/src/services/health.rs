//! From evidence to health: the worst of lease, checks and node, softened by panic, damping and return.

use waypost_model::Millis;
use waypost_model::service::Health;

use super::entry::{Entry, Flap};
use super::limits::{PANIC_INSTANCES_MIN, PANIC_WINDOW_MS};
use super::state::{Node, Service};
use super::view::Why;

/// What a fall costs.
const PENALTY: f32 = 1000.0;
/// More than this, and one is held back.
const SUPPRESS: f32 = 3000.0;
/// Less than this, and one is used again.
const REUSE: f32 = 1000.0;
/// In this time a penalty is halved, ms.
const HALF_LIFE_MS: f32 = 60_000.0;

/// How bad a health is. What has not spoken is worse than a warning: it may never speak.
const fn badness(health: Health) -> u8 {
    match health {
        Health::Passing => 0,
        Health::Warning => 1,
        Health::Starting => 2,
        Health::Critical => 3,
    }
}

/// The worse of two.
pub(super) fn worse(a: Health, b: Health) -> Health {
    if badness(b) > badness(a) { b } else { a }
}

impl Service {
    pub fn panics(&self, now: Millis) -> bool {
        self.panic_until > now
    }

    /// Counts an instance that fell silent. True if that begins a panic: more than half of the instances within the
    /// window.
    pub fn count_loss(&mut self, now: Millis) -> bool {
        // What goes during a panic must not prolong it.
        if self.panics(now) {
            return false;
        }
        while self.losses.front().is_some_and(|at| now.since(*at) > PANIC_WINDOW_MS) {
            self.losses.pop_front();
        }
        self.losses.push_back(now);
        let enough = self.members.len() >= PANIC_INSTANCES_MIN && self.losses.len() * 2 > self.members.len();
        if !enough {
            return false;
        }
        self.losses.clear();
        self.panic_until = now.plus(PANIC_WINDOW_MS);
        true
    }
}

impl Flap {
    pub fn now(&self, now: Millis) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "a minute more or less of days")]
        let halvings = now.since(self.at) as f32 / HALF_LIFE_MS;
        self.penalty * (-halvings).exp2()
    }

    /// Counts a fall.
    pub fn fall(&mut self, now: Millis) {
        self.penalty = self.now(now) + PENALTY;
        self.at = now;
        self.suppressed |= self.penalty > SUPPRESS;
    }

    /// Looks whether the penalty is over; else says when it will be.
    pub fn look(&mut self, now: Millis) -> Option<Millis> {
        if !self.suppressed {
            return None;
        }
        let penalty = self.now(now);
        if penalty < REUSE {
            self.suppressed = false;
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and minutes")]
        let wait_ms = ((penalty / REUSE).log2() * HALF_LIFE_MS) as u64;
        Some(now.plus(wait_ms + 1))
    }
}

/// What an instance's evidence comes to.
pub(super) fn judge(entry: &Entry, service: &Service, node: Option<&Node>, now: Millis) -> (Health, Why) {
    let rare = entry.rare();
    if rare.is_some_and(|r| r.maintenance.is_some()) || node.is_some_and(|n| n.maintenance.is_some()) {
        return (Health::Critical, Why::Maintenance);
    }
    let panics = service.panics(now);
    let mut worst = (Health::Passing, Why::Plain);
    let mut see = |health: Health, why: Why| {
        if badness(health) > badness(worst.0) {
            worst = (health, why);
        }
    };
    let silence = |why: Why| if panics { (Health::Warning, Why::Panic) } else { (Health::Critical, why) };
    if entry.lapsed {
        let (health, why) = silence(Why::Expired);
        see(health, why);
    }
    for check in &entry.checks {
        match check.status {
            Health::Critical if check.silent => {
                let (health, why) = silence(Why::Check);
                see(health, why);
            }
            Health::Starting => see(Health::Starting, Why::Starting),
            status => see(status, Why::Check),
        }
    }
    if let Some(node) = node {
        see(node.health, Why::Node);
    }
    if worst.0 == Health::Passing {
        if rare.is_some_and(|r| r.returning_until.is_some()) {
            return (Health::Warning, Why::Returning);
        }
        if rare.is_some_and(|r| r.flap.suppressed) {
            return (Health::Warning, Why::Damped);
        }
    }
    worst
}
