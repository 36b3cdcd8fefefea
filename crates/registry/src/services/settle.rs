//! What time and evidence do to an instance: leases that end, checks that are due, drains, evictions.

use std::hash::BuildHasher as _;

use waypost_model::Millis;
use waypost_model::service::{Health, InstanceChange, Parting};

use super::entry::{Check, CheckRun, CheckTicket, Entry, number};
use super::health::judge;
use super::limits::EVICT_MIN_MS;
use super::spec::{CheckKind, Source};
use super::state::{NEVER, State};
use super::timers::Subject;
use super::view::Why;

/// What became of an instance that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It stays.
    Stays,
    /// Its time is over: it is to be removed.
    Over,
}

/// What looking at checks came to.
struct Looked {
    /// A status has changed.
    changed: bool,
    /// So many fell silent.
    silent: usize,
    /// One has been critical for too long.
    over: bool,
    next: Millis,
}

impl Check {
    /// When its result is old, or when it is run next, from now on: within so much time, and within its interval.
    pub fn restart(&mut self, now: Millis, jitter: u64, within_ms: u64) {
        self.due = match (&self.spec.kind, self.spec.kind.interval_ms()) {
            (CheckKind::Ttl { ttl_ms }, _) => now.plus(*ttl_ms),
            // Not all first runs at once.
            (_, Some(interval)) => now.plus(jitter % interval.min(within_ms).max(1)),
            (_, None) => NEVER,
        };
    }

    /// Takes a status as it is. True if it is another one than before: then somebody has to give the change its number.
    pub fn set(&mut self, status: Health, output: &str, silent: bool, now: Millis) -> bool {
        if *self.output != *output {
            self.output = output.into();
        }
        self.silent = silent;
        self.critical_since = match (status, self.status) {
            (Health::Critical, Health::Critical) => self.critical_since.min(now),
            (Health::Critical, _) => now,
            _ => NEVER,
        };
        let changed = std::mem::replace(&mut self.status, status) != status;
        if changed {
            self.modified = 0;
        }
        changed
    }

    /// Takes a result of a run and counts it. True if the status changes.
    pub fn count(&mut self, result: Health, output: &str, silent: bool, now: Millis) -> bool {
        let spec = &self.spec;
        let status = if result == Health::Passing {
            (self.good, self.bad) = (self.good.saturating_add(1), 0);
            if self.good >= spec.success_before_passing.max(1) { Health::Passing } else { self.status }
        } else if result == Health::Warning {
            (self.good, self.bad) = (0, 0);
            Health::Warning
        } else {
            (self.good, self.bad) = (0, self.bad.saturating_add(1));
            let warns = spec.failures_before_warning > 0 && self.bad >= spec.failures_before_warning;
            match self.status {
                _ if self.bad >= spec.failures_before_critical.max(1) => Health::Critical,
                Health::Passing if warns => Health::Warning,
                // What has never been well gets no benefit of the doubt.
                Health::Starting => Health::Critical,
                as_before => as_before,
            }
        };
        self.set(status, output, silent && status == Health::Critical, now)
    }
}

impl State {
    /// Looks at the checks of somebody: who is silent, what is to be run.
    fn look_at_checks(&mut self, subject: Subject, now: Millis, frozen: bool) -> Looked {
        let mut looked = Looked { changed: false, silent: 0, over: false, next: NEVER };
        let checks = match subject {
            Subject::Instance(place) => self.entries.get_mut(place as usize).map(|e| &mut e.checks),
            Subject::Node(place) => self.nodes.get_mut(place as usize).map(|n| &mut n.checks),
        };
        for check in checks.into_iter().flatten() {
            match check.spec.kind.interval_ms() {
                Some(interval) if check.due <= now => {
                    check.due = now.plus(interval);
                    if check.run == 0 {
                        self.runs += 1;
                        check.run = self.runs;
                        let ticket = CheckTicket { subject, run: check.run };
                        self.due.push(CheckRun { ticket, spec: std::sync::Arc::clone(&check.spec) });
                    }
                }
                None if check.due <= now => {
                    check.due = NEVER;
                    looked.silent += usize::from(check.status != Health::Critical);
                    looked.changed |= check.set(Health::Critical, "TTL expired", true, now);
                }
                _ => {}
            }
            looked.next = looked.next.min(check.due);
            if let Some(after) = check.spec.deregister_after_ms
                && check.critical_since != NEVER
            {
                let over = check.critical_since.plus(after);
                if over > now {
                    looked.next = looked.next.min(over);
                } else if !frozen || !check.silent {
                    looked.over = true;
                }
            }
        }
        looked
    }

    /// Looks at an instance: what is due for it, and how it is. Sets its next deadline.
    pub fn settle(&mut self, place: u32, now: Millis) -> Settled {
        let Some(entry) = self.entries.get(place as usize) else { return Settled::Stays };
        let (service, bound) = (entry.service, entry.is_bound());
        let mut panics = self.services.get(service as usize).is_some_and(|s| s.panics(now));
        let looked = self.look_at_checks(Subject::Instance(place), now, panics);
        let mut next = looked.next;
        let Some(entry) = self.entries.get_mut(place as usize) else { return Settled::Stays };
        let mut lost = looked.silent;
        if entry.lease_ms > 0 && !bound {
            if entry.expires > now {
                next = next.min(entry.expires);
            } else if !std::mem::replace(&mut entry.lapsed, true) {
                lost += 1;
            }
        }
        let (evict_at, lapsed) = (entry.expires.plus(u64::from(entry.lease_ms).max(EVICT_MIN_MS)), entry.lapsed);
        let mut over = looked.over;
        if let Some(rare) = entry.rare.as_deref_mut() {
            for until in [rare.drain_until, rare.returning_until].into_iter().flatten() {
                over |= until <= now;
                next = next.min(until);
            }
            if let Some(at) = rare.flap.look(now) {
                next = next.min(at);
            }
        }
        if looked.changed {
            self.note_checks(place);
        }
        for _ in 0..lost {
            panics |= self.count_loss(service, now);
        }
        if lapsed && !panics {
            // After a panic nobody is forgotten before it was seen to be critical.
            let panic_until = self.services.get(service as usize).map_or(Millis(0), |s| s.panic_until);
            let evict_at = evict_at.max(if panic_until.0 > 0 { panic_until.plus(EVICT_MIN_MS) } else { Millis(0) });
            over |= evict_at <= now;
            next = next.min(evict_at);
        }
        if over {
            return Settled::Over;
        }
        if panics {
            next = next.min(self.services.get(service as usize).map_or(NEVER, |s| s.panic_until));
        }
        self.evaluate(place, now);
        if next != NEVER {
            self.schedule(Subject::Instance(place), next.max(now.plus(1)));
        }
        Settled::Stays
    }

    /// Looks at a node. The same, without leases.
    pub fn settle_node(&mut self, place: u32, now: Millis) -> Settled {
        let looked = self.look_at_checks(Subject::Node(place), now, false);
        if looked.changed {
            self.node_changed(place, now);
        }
        if looked.next != NEVER {
            self.schedule(Subject::Node(place), looked.next.max(now.plus(1)));
        }
        // A node that is critical for too long goes with all that is on it; ourselves we cannot give up.
        let is_self = self.nodes.get(place as usize).is_none_or(|n| n.is_self);
        if looked.over && !is_self { Settled::Over } else { Settled::Stays }
    }

    /// Counts an instance that fell silent. In a panic that begins now those that fell before it are looked at again.
    pub fn count_loss(&mut self, service: u32, now: Millis) -> bool {
        let begins = self.services.get_mut(service as usize).is_some_and(|s| s.count_loss(now));
        if begins {
            let members = self.services.get(service as usize).map(|s| s.members.clone()).unwrap_or_default();
            let until = self.services.get(service as usize).map_or(NEVER, |s| s.panic_until);
            for place in members {
                let silent = |e: &Entry| e.lapsed || e.checks.iter().any(|c| c.silent);
                if self.entries.get(place as usize).is_some_and(silent) {
                    self.evaluate(place, now);
                    self.schedule(Subject::Instance(place), until);
                }
            }
        }
        begins
    }

    /// A check of an instance has another status: those who look at checks are told.
    pub fn note_checks(&mut self, place: u32) {
        let Some(service) = self.entries.get(place as usize).map(|e| e.service) else { return };
        let (index, tenant) = (self.next_index(), self.tenant_of(service).unwrap_or_default());
        if let Some(entry) = self.entries.get_mut(place as usize) {
            entry.modified = index;
            number(&mut entry.checks, index);
        }
        self.touch_service(service, index);
        self.touch_checks(tenant, index);
        self.touch_node_of(place, index);
    }

    /// Judges an instance anew, and tells whoever must know if it fares otherwise than before.
    pub fn evaluate(&mut self, place: u32, now: Millis) {
        let Some(judged) = self.judged(place, now) else { return };
        let Some(entry) = self.entries.get(place as usize) else { return };
        let was = (entry.health, entry.why);
        let fell = matches!(was.0, Health::Passing | Health::Warning)
            && judged.0 == Health::Critical
            && judged.1 != Why::Maintenance;
        let service = entry.service;
        let tenant = self.tenant_of(service).unwrap_or_default();
        if fell && let Some(entry) = self.entries.get_mut(place as usize) {
            entry.rare_mut().flap.fall(now);
        }
        if judged == was {
            return;
        }
        let index = self.next_index();
        let Some(entry) = self.entries.get_mut(place as usize) else { return };
        (entry.health, entry.why, entry.modified) = (judged.0, judged.1, index);
        self.touch_service(service, index);
        self.touch_node_of(place, index);
        if judged.0 != was.0 {
            self.touch_checks(tenant, index);
            self.announce(place);
        }
    }

    /// Gives an instance its health before anybody has heard of it.
    pub fn judge_quietly(&mut self, place: u32, now: Millis) {
        if let Some((health, why)) = self.judged(place, now)
            && let Some(entry) = self.entries.get_mut(place as usize)
        {
            (entry.health, entry.why) = (health, why);
        }
    }

    fn judged(&self, place: u32, now: Millis) -> Option<(Health, Why)> {
        let entry = self.entries.get(place as usize)?;
        let service = self.services.get(entry.service as usize)?;
        let node = entry.rare().and_then(|rare| rare.node).and_then(|node| self.nodes.get(node as usize));
        // Consul's clients mean the node of their agent, which is us.
        let own = self.tenants.get(service.tenant as usize).filter(|_| entry.source == Source::Agent);
        let own = own.and_then(|tenant| self.nodes.get(tenant.own_node as usize));
        Some(judge(entry, service, node.or(own), now))
    }

    /// Removes an instance and tells whoever must know.
    pub fn remove(&mut self, place: u32, now: Millis) {
        let Some(entry) = self.take(place) else { return };
        let index = self.next_index();
        let tenant = self.tenant_of(entry.service).unwrap_or_default();
        self.uncount(&entry, tenant, index, now);
        if let Some(node) = entry.rare().and_then(|rare| rare.node)
            && let Some(node) = self.nodes.get_mut(node as usize)
        {
            node.members.retain(|member| *member != place);
            node.topic.raise(index);
            let topic = std::sync::Arc::clone(&node.topic);
            self.tell(topic);
        }
        self.touch_service(entry.service, index);
        self.touch_checks(tenant, index);
        let drain_until = entry.rare().and_then(|rare| rare.drain_until);
        let why = if drain_until.is_some_and(|until| until <= now) { Parting::Drained } else { Parting::Ended };
        let change = InstanceChange::Gone { id: entry.instance.id.clone(), incarnation: entry.incarnation, why };
        self.emit(entry.service, change, entry.endpoint());
    }

    /// What an instance counted for is counted no more.
    fn uncount(&mut self, entry: &Entry, tenant: u32, index: u64, now: Millis) {
        let mut list_changed = self.count_tags(entry.service, &entry.instance.tags, Sign::Less);
        if let Some(tenant) = self.tenants.get_mut(tenant as usize) {
            tenant.instances -= 1;
            tenant.checks -= entry.checks.len();
            if let Some(service) = self.services.get_mut(entry.service as usize)
                && service.members.is_empty()
            {
                tenant.services -= 1;
                service.empty_since = now;
                service.losses = Default::default();
                self.empty_services += 1;
                list_changed = true;
            }
        }
        if list_changed {
            self.touch_list(tenant, index);
        }
    }

    /// Counts the tags of an instance of a service. True if one is new or gone.
    pub fn count_tags(&mut self, service: u32, tags: &[Box<str>], sign: Sign) -> bool {
        let Some(service) = self.services.get_mut(service as usize) else { return false };
        let mut changed = false;
        for tag in tags {
            match (sign, service.tags.get_mut(tag)) {
                (Sign::More, Some(count)) => *count += 1,
                (Sign::More, None) => {
                    service.tags.insert(tag.clone(), 1);
                    changed = true;
                }
                (Sign::Less, Some(count)) if *count > 1 => *count -= 1,
                (Sign::Less, _) => changed |= service.tags.remove(tag).is_some(),
            }
        }
        changed
    }

    /// A number that spreads what would otherwise happen at once.
    pub fn jitter(&self, place: u32, nth: usize) -> u64 {
        self.seed.hash_one((place, nth, "jitter"))
    }
}

/// Up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    More,
    Less,
}
