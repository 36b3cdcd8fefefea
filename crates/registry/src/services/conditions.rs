//! What somebody says of an instance after it is registered: signs of life, results of checks, drains, maintenance.

use std::sync::Arc;

use waypost_model::service::Health;
use waypost_model::{Lsn, Millis, Refusal};

use super::entry::{Check, CheckTicket, Entry, put_check};
use super::limits::{CHECK_OUTPUT_MAX, CHECKS_PER_OWNER_MAX, DURATION_MAX_MS};
use super::settle::Settled;
use super::spec::{CheckKind, CheckSpec};
use super::state::State;
use super::timers::Subject;
use super::{Registry, Services, persist};

/// The output of a check, cut to what is kept.
pub(super) fn cut(output: &str) -> &str {
    let mut end = output.len().min(CHECK_OUTPUT_MAX);
    while !output.is_char_boundary(end) {
        end -= 1;
    }
    output.get(..end).unwrap_or_default()
}

impl Services {
    /// A sign of life: the lease begins anew. False if there is no such instance. Nothing is written.
    pub fn heartbeat(&self, service: &str, id: &str, now: Millis) -> bool {
        self.registry.change(now, |state| {
            let Some(place) = self.instance_place(state, service, id) else { return false };
            state.renew(place, now);
            true
        })
    }

    /// Somebody says how a check of an instance is: TTL checks and manual ones live by that. The instance is looked up by
    /// its id alone, as Consul's agent does. False if there is no such instance or check.
    pub fn report_by_id(&self, id: &str, check: &str, status: Health, output: &str, now: Millis) -> bool {
        self.registry.change(now, |state| {
            let place = state.find_by_id(self.tenant.number, id);
            place.is_some_and(|place| self.report_in(state, place, check, status, output, now))
        })
    }

    /// The same for an instance of a service.
    pub fn report(&self, service: &str, id: &str, check: &str, status: Health, output: &str, now: Millis) -> bool {
        self.registry.change(now, |state| {
            let place = self.instance_place(state, service, id);
            place.is_some_and(|place| self.report_in(state, place, check, status, output, now))
        })
    }

    fn report_in(&self, state: &mut State, place: u32, check: &str, status: Health, output: &str, now: Millis) -> bool {
        let Some(entry) = state.entries.get_mut(place as usize) else { return false };
        let service = entry.service;
        let Some(check) = entry.checks.iter_mut().find(|c| *c.spec.id == *check) else { return false };
        let before = Arc::clone(&check.output);
        let changed = check.set(status, cut(output), false, now);
        if let CheckKind::Ttl { ttl_ms } = check.spec.kind {
            check.due = now.plus(ttl_ms);
        }
        let (quiet, due) = (!Arc::ptr_eq(&before, &check.output), check.due);
        if changed {
            self.after_verdict(state, place, now);
        } else if quiet {
            state.touch_quietly(service);
        }
        state.schedule(Subject::Instance(place), due);
        state.renew(place, now);
        true
    }

    /// A check has another status: the instance is judged anew, and its verdict is kept for a restart.
    fn after_verdict(&self, state: &mut State, place: u32, now: Millis) {
        self.registry.after_verdict(state, place, now);
    }

    /// Gives an instance nothing new, and removes it at `until`. A second drain sets the time anew. `None` if there is no
    /// such instance.
    ///
    /// # Errors
    /// 406 if the time is more than a day off, 506 when the journal takes nothing.
    pub fn drain(&self, service: &str, id: &str, until: Millis, now: Millis) -> Result<Option<Lsn>, Refusal> {
        if until.since(now) > DURATION_MAX_MS {
            return Err(Refusal::precondition_failed("a drain ends within 24 hours"));
        }
        self.alter(service, id, now, |entry| entry.rare_mut().drain_until = Some(until))
    }

    /// Ends a drain before its time.
    ///
    /// # Errors
    /// 506 when the journal takes nothing.
    pub fn undrain(&self, service: &str, id: &str, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.alter(service, id, now, |entry| entry.rare_mut().drain_until = None)
    }

    /// Takes an instance out of use (`Some` with a reason, which may be empty) or back into it.
    ///
    /// # Errors
    /// 506 when the journal takes nothing.
    pub fn maintain(&self, service: &str, id: &str, reason: Option<&str>, now: Millis) -> Result<Option<Lsn>, Refusal> {
        let reason: Option<Arc<str>> = reason.map(|reason| cut(reason).into());
        self.alter(service, id, now, |entry| entry.rare_mut().maintenance = reason)
    }

    /// Adds a check to an instance, or replaces the one of its id.
    ///
    /// # Errors
    /// 406 for an invalid one, 506 beyond a limit or when the journal takes nothing.
    pub fn add_check(&self, service: &str, id: &str, check: CheckSpec, now: Millis) -> Result<Option<Lsn>, Refusal> {
        check.check()?;
        self.registry.change(now, |state| {
            let Some(place) = self.instance_place(state, service, id) else { return Ok(None) };
            let Some(entry) = state.entries.get(place as usize) else { return Ok(None) };
            let known = entry.checks.iter().find(|c| c.spec.id == check.id);
            if known.is_some_and(|c| *c.spec == check) {
                return Ok(Some(entry.lsn));
            }
            if known.is_none() {
                if entry.checks.len() >= CHECKS_PER_OWNER_MAX {
                    let text = format!("an instance has at most {CHECKS_PER_OWNER_MAX} checks");
                    return Err(Refusal::resource_error(text).soft());
                }
                self.room_for_checks(state, 1)?;
            }
            let status = check.initial;
            let mut new = Check::new(Arc::new(check), status, now);
            new.restart(now, state.jitter(place, entry.checks.len()), super::limits::FIRST_RUN_WITHIN_MS);
            let mut checks = entry.checks.to_vec();
            put_check(&mut checks, new);
            self.with_checks(state, place, checks, now)
        })
    }

    /// Removes a check of an instance. `None` if there is no such instance or check.
    ///
    /// # Errors
    /// 506 when the journal takes nothing.
    pub fn remove_check(&self, service: &str, id: &str, check: &str, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.registry.change(now, |state| {
            let Some(place) = self.instance_place(state, service, id) else { return Ok(None) };
            let Some(entry) = state.entries.get(place as usize) else { return Ok(None) };
            let checks: Vec<Check> = entry.checks.iter().filter(|c| *c.spec.id != *check).cloned().collect();
            if checks.len() == entry.checks.len() {
                return Ok(None);
            }
            self.with_checks(state, place, checks, now)
        })
    }

    fn with_checks(
        &self,
        state: &mut State,
        place: u32,
        checks: Vec<Check>,
        now: Millis,
    ) -> Result<Option<Lsn>, Refusal> {
        let Some(entry) = state.entries.get_mut(place as usize) else { return Ok(None) };
        let (service, had, has) = (entry.service, entry.checks.len(), checks.len());
        let before = std::mem::replace(&mut entry.checks, checks.into());
        let Some(entry) = state.entries.get(place as usize) else { return Ok(None) };
        let lsn = match self.keep(state, service, entry) {
            Ok(lsn) => lsn,
            Err(refusal) => {
                if let Some(entry) = state.entries.get_mut(place as usize) {
                    entry.checks = before;
                }
                return Err(refusal);
            }
        };
        if let Some(entry) = state.entries.get_mut(place as usize) {
            entry.lsn = lsn;
        }
        if let Some(tenant) = state.tenants.get_mut(self.tenant.number as usize) {
            tenant.checks = tenant.checks + has - had;
        }
        state.note_checks(place);
        state.settle(place, now);
        Ok(Some(lsn))
    }

    /// Changes something of an instance that is kept across restarts.
    fn alter(
        &self,
        service: &str,
        id: &str,
        now: Millis,
        change: impl FnOnce(&mut Entry),
    ) -> Result<Option<Lsn>, Refusal> {
        self.registry.change(now, |state| {
            let Some(place) = self.instance_place(state, service, id) else { return Ok(None) };
            let Some(entry) = state.entries.get_mut(place as usize) else { return Ok(None) };
            let before = entry.rare().map(|rare| (rare.drain_until, rare.maintenance.clone())).unwrap_or_default();
            let standing = entry.standing();
            change(entry);
            let after = entry.rare().map(|rare| (rare.drain_until, rare.maintenance.clone())).unwrap_or_default();
            let (lsn, service) = (entry.lsn, entry.service);
            if before == after {
                return Ok(Some(lsn));
            }
            let Some(entry) = state.entries.get(place as usize) else { return Ok(None) };
            let kept = self.keep(state, service, entry);
            let Some(entry) = state.entries.get_mut(place as usize) else { return Ok(None) };
            match kept {
                Ok(lsn) => entry.lsn = lsn,
                Err(refusal) => {
                    let rare = entry.rare_mut();
                    (rare.drain_until, rare.maintenance) = before;
                    return Err(refusal);
                }
            }
            let (lsn, drained) = (entry.lsn, entry.standing().draining != standing.draining);
            state.note_checks(place);
            if state.settle(place, now) == Settled::Over {
                self.registry.forget_instance(state, place);
                state.remove(place, now);
            } else if drained {
                state.announce(place);
            }
            Ok(Some(lsn))
        })
    }
}

impl Registry {
    /// The result of a run that [`Registry::tick`] asked for. `silent`: nothing was heard, as opposed to an answer that
    /// says no.
    pub fn checked(&self, ticket: CheckTicket, result: Health, output: &str, silent: bool, now: Millis) {
        self.change(now, |state| {
            let checks = match ticket.subject {
                Subject::Instance(place) => state.entries.get_mut(place as usize).map(|e| &mut e.checks),
                Subject::Node(place) => state.nodes.get_mut(place as usize).map(|n| &mut n.checks),
            };
            // It may have been removed while it ran.
            let Some(check) = checks.into_iter().flatten().find(|c| c.run == ticket.run) else { return };
            check.run = 0;
            let before = Arc::clone(&check.output);
            let changed = check.count(result, cut(output), silent, now);
            let quiet = !Arc::ptr_eq(&before, &check.output);
            let lost = changed && check.silent;
            match ticket.subject {
                Subject::Instance(place) => {
                    let service = state.entries.get(place as usize).map_or(0, |e| e.service);
                    if changed {
                        if lost {
                            state.count_loss(service, now);
                        }
                        self.after_verdict(state, place, now);
                    } else if quiet {
                        state.touch_quietly(service);
                    }
                }
                Subject::Node(place) if changed => {
                    self.keep_node(state, place);
                    state.node_changed(place, now);
                }
                Subject::Node(_) => {}
            }
        });
    }

    pub(super) fn after_verdict(&self, state: &mut State, place: u32, now: Millis) {
        self.keep_quietly(state, place);
        state.note_checks(place);
        if state.settle(place, now) == Settled::Over {
            self.forget_instance(state, place);
            state.remove(place, now);
        }
    }

    /// Writes an instance down without anybody who waits for it. If the journal takes nothing, the next start knows a
    /// little less.
    pub(super) fn keep_quietly(&self, state: &mut State, place: u32) {
        let Some(entry) = state.entries.get(place as usize).filter(|e| e.is_kept()) else { return };
        let Some(service) = state.services.get(entry.service as usize) else { return };
        if let Ok(lsn) = self.append(vec![persist::put_instance(&service.name, entry)])
            && let Some(entry) = state.entries.get_mut(place as usize)
        {
            entry.lsn = lsn;
        }
    }

    /// The definition of an instance goes, if it has one. If the journal takes nothing it has stopped for good.
    pub(super) fn forget_instance(&self, state: &State, place: u32) {
        let Some(entry) = state.entries.get(place as usize).filter(|e| e.is_kept()) else { return };
        if let Some(service) = state.services.get(entry.service as usize) {
            let (vhost, service) = (&service.name.vhost, &service.name.service);
            let _ = self.append(vec![persist::remove_instance(vhost, service, &entry.instance.id)]);
        }
    }
}
