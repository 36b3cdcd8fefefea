//! Instances that live by a connection, as the broker tells us of them.

use std::sync::Arc;

use waypost_model::service::{Claim, ClaimId, Claimed, Ending, Presence, ServiceName};
use waypost_model::{ConnId, Millis, Refusal};

use super::limits::{GHOSTS_MAX, HOLD_MS};
use super::register::checked_name;
use super::spec::{Registration, Source};
use super::state::{Claimant, Ghost, State};
use super::{Caller, Registry};

impl Presence for Registry {
    fn claim(&self, claim: Claim<'_>, now: Millis) -> Result<Claimed, Refusal> {
        checked_name(&claim.name.service)?;
        let claim = Claim { instance: claim.instance.checked()?, ..claim };
        let services = self.tenant(&claim.name.vhost);
        self.change_for(Caller::Broker, now, |state| {
            let place = state.service(&services, &claim.name.service, 0);
            let found = state.find(place, &claim.instance.id);
            let place = match found {
                Some(place) => self.claim_again(state, place, &claim, now)?,
                None => self.claim_new(state, &services, place, &claim, now)?,
            };
            let named = claim.named;
            state.claimed(place, claim.conn, named, now).ok_or_else(|| Refusal::internal("an instance is gone"))
        })
    }

    fn leave(&self, claim: ClaimId, ending: Ending, now: Millis) {
        self.change_for(Caller::Broker, now, |state| {
            let Some(Claimant { entry: place, incarnation, named }) = state.claims.remove(&claim.0) else { return };
            let Some(entry) = state.entries.get_mut(place as usize).filter(|e| e.incarnation == incarnation) else {
                return;
            };
            let Some(rare) = entry.rare.as_deref_mut() else { return };
            match &mut rare.bound {
                Some((_, count)) if *count > 1 => *count -= 1,
                bound => {
                    *bound = None;
                    if entry.source == Source::Connection {
                        self.last_left(state, place, ending, named, now);
                    } else {
                        // Its lease lives again by itself.
                        state.renew(place, now);
                        let service = state.entries.get(place as usize).map_or(0, |e| e.service);
                        state.touch_quietly(service);
                    }
                }
            }
        });
    }

    fn ejected(&self, name: &ServiceName, instance: &str, ejected: bool, now: Millis) {
        let services = self.tenant(&name.vhost);
        self.change_for(Caller::Broker, now, |state| {
            let place = services.cells.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let Some(service) = place.get(&name.service).map(|cell| cell.service) else { return };
            drop(place);
            let Some(place) = state.find(service, instance) else { return };
            if let Some(entry) = state.entries.get_mut(place as usize) {
                entry.rare_mut().ejected = ejected;
            }
            state.touch_quietly(service);
        });
    }
}

impl Registry {
    /// A claim on an instance that is there.
    fn claim_again(&self, state: &mut State, place: u32, claim: &Claim<'_>, now: Millis) -> Result<u32, Refusal> {
        let id = &claim.instance.id;
        let Some(entry) = state.entries.get(place as usize) else {
            return Err(Refusal::internal("an instance is gone"));
        };
        let bound = entry.rare().and_then(|rare| rare.bound);
        if bound.is_some_and(|(conn, _)| conn != claim.conn) {
            return Err(in_use(id));
        }
        let same = !claim.described || *entry.instance == claim.instance;
        if entry.source != Source::Connection {
            if !same {
                let text = format!("instance '{id}' is registered with another description");
                return Err(Refusal::precondition_failed(text));
            }
            return Ok(place);
        }
        if bound.is_none() && *entry.owner != *claim.user {
            // It is held for the return of who had it before the restart.
            return Err(in_use(id));
        }
        if bound.is_some() && same {
            return Ok(place);
        }
        let instance = if claim.described { claim.instance.clone() } else { (*entry.instance).clone() };
        let service = entry.service;
        let (flap, carried) = (entry.rare().map(|r| r.flap).unwrap_or_default(), bound);
        let mut new = state.new_entry(service, Registration::new(instance, claim.user, Source::Connection), None, now);
        if carried.is_some()
            && let Some(old) = state.entries.get(place as usize)
        {
            new.incarnation = old.incarnation;
        }
        if let Some(old) = state.entries.get(place as usize) {
            (new.created, new.seat, new.scheduled) = (old.created, old.seat, old.scheduled);
        }
        (new.rare_mut().flap, new.rare_mut().bound) = (flap, carried);
        state.replace(place, new, now);
        self.keep_quietly(state, place);
        Ok(place)
    }

    fn claim_new(
        &self,
        state: &mut State,
        tenant: &Arc<super::state::TenantShared>,
        service: u32,
        claim: &Claim<'_>,
        now: Millis,
    ) -> Result<u32, Refusal> {
        let key = (tenant.number, ghost_id(&claim.name.service, &claim.instance.id));
        if let Some(ghost) = state.ghosts.get(&key)
            && ghost.held_until > now
            && *ghost.owner != *claim.user
        {
            return Err(in_use(&claim.instance.id));
        }
        self.room_for_claim(state, tenant.number, service)?;
        let registration = Registration::new(claim.instance.clone(), claim.user, Source::Connection);
        let mut entry = state.new_entry(service, registration, None, now);
        if let Some(ghost) = state.ghosts.remove(&key)
            && ghost.flap.penalty > 0.0
        {
            entry.rare_mut().flap = ghost.flap;
        }
        entry.rare_mut().bound = Some((claim.conn, 0));
        let place = state.add(entry, now);
        self.keep_quietly(state, place);
        Ok(place)
    }

    fn room_for_claim(&self, state: &State, tenant: u32, service: u32) -> Result<(), Refusal> {
        let (limits, Some(tenant)) = (&self.settings.limits, state.tenants.get(tenant as usize)) else { return Ok(()) };
        if state.services.get(service as usize).is_some_and(|s| s.members.is_empty())
            && tenant.services >= limits.services_max
        {
            return Err(super::register::beyond("services", limits.services_max));
        }
        if tenant.instances >= limits.instances_max {
            return Err(super::register::beyond("instances", limits.instances_max));
        }
        Ok(())
    }

    /// The last connection of an instance that lived by it is gone, and so is the instance.
    fn last_left(&self, state: &mut State, place: u32, ending: Ending, named: bool, now: Millis) {
        let Some(entry) = state.entries.get(place as usize) else { return };
        let Some(service) = state.services.get(entry.service as usize) else { return };
        if ending == Ending::Broken && named && !state.stopping {
            let mut flap = entry.rare().map(|r| r.flap).unwrap_or_default();
            flap.fall(now);
            let ghost = Ghost { owner: Arc::clone(&entry.owner), held_until: now.plus(HOLD_MS), flap };
            let key = (service.tenant, ghost_id(&service.name.service, &entry.instance.id));
            if state.ghosts.len() >= GHOSTS_MAX {
                state.ghosts.retain(|_, ghost| ghost.held_until > now);
            }
            if state.ghosts.len() < GHOSTS_MAX {
                state.ghosts.insert(key, ghost);
            }
        }
        // Who goes because we go is remembered, so that the next start has no empty lists.
        if !state.stopping {
            self.forget_instance(state, place);
        }
        state.remove(place, now);
    }
}

impl State {
    fn claimed(&mut self, place: u32, conn: ConnId, named: bool, now: Millis) -> Option<Claimed> {
        self.claim_ids += 1;
        let claim = self.claim_ids;
        let entry = self.entries.get_mut(place as usize)?;
        entry.lapsed = false;
        let bound = entry.rare_mut().bound.get_or_insert((conn, 0));
        bound.1 = bound.1.saturating_add(1);
        // Its connection is its lease now.
        self.settle(place, now);
        let entry = self.entries.get(place as usize)?;
        let claimed = Claimed {
            claim: ClaimId(claim),
            instance: Arc::clone(&entry.instance),
            standing: entry.standing(),
            incarnation: entry.incarnation,
        };
        let (incarnation, service) = (entry.incarnation, entry.service);
        self.claims.insert(claim, Claimant { entry: place, incarnation, named });
        self.touch_quietly(service);
        Some(claimed)
    }
}

/// One text for service and id: neither holds the sign between them.
fn ghost_id(service: &str, id: &str) -> Box<str> {
    format!("{service}\n{id}").into()
}

fn in_use(id: &str) -> Refusal {
    Refusal::resource_locked(format!("instance '{id}' is another connection's"))
}
