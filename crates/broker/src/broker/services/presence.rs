//! Who decides about instances: the registry, or where there is none, the broker itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use waypost_model::service::{Claim, ClaimId, Claimed, Ending, Presence, ServiceName, Standing};
use waypost_model::{ConnId, Millis, Refusal};

/// See the module.
#[derive(Default)]
pub(in crate::broker) struct Registrar {
    registry: RwLock<Option<Arc<dyn Presence>>>,
    own: Mutex<BTreeMap<ClaimId, Own>>,
    last: AtomicU64,
}

/// A claim that the broker accepted itself.
struct Own {
    name: ServiceName,
    conn: ConnId,
    claimed: Claimed,
}

/// Who is gone with a claim, as far as the broker itself decides that.
pub(super) type Gone = Option<(Box<str>, u64)>;

impl Registrar {
    pub fn set(&self, presence: Arc<dyn Presence>) {
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Some(presence);
    }

    fn registry(&self) -> Option<Arc<dyn Presence>> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn own(&self) -> MutexGuard<'_, BTreeMap<ClaimId, Own>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Presence::claim`].
    pub fn claim(&self, claim: Claim<'_>, now: Millis) -> Result<Claimed, Refusal> {
        if let Some(registry) = self.registry() {
            return registry.claim(claim, now);
        }
        let instance = Arc::new(claim.instance.checked()?);
        let mut own = self.own();
        let same = own.values().find(|o| o.name == *claim.name && o.claimed.instance.id == instance.id);
        if same.is_some_and(|o| o.conn != claim.conn) {
            let text = format!("instance '{}' of service '{}' is another connection", instance.id, claim.name.service);
            return Err(Refusal::resource_locked(text));
        }
        let known = same.map(|o| (o.claimed.incarnation, Arc::clone(&o.claimed.instance)));
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (incarnation, instance) = match known {
            Some((incarnation, known)) => (incarnation, if claim.described { instance } else { known }),
            None => (id, instance),
        };
        let claimed = Claimed { claim: ClaimId(id), instance, standing: Standing::PASSING, incarnation };
        own.insert(ClaimId(id), Own { name: claim.name.clone(), conn: claim.conn, claimed: claimed.clone() });
        Ok(claimed)
    }

    /// See [`Presence::leave`].
    pub fn leave(&self, claim: ClaimId, ending: Ending, now: Millis) -> Gone {
        if let Some(registry) = self.registry() {
            registry.leave(claim, ending, now);
            return None;
        }
        let mut own = self.own();
        let left = own.remove(&claim)?;
        let id = &left.claimed.instance.id;
        let others = own.values().any(|o| o.name == left.name && o.claimed.instance.id == *id);
        (!others).then(|| (id.clone(), left.claimed.incarnation))
    }

    /// See [`Presence::ejected`].
    pub fn ejected(&self, name: &ServiceName, instance: &str, ejected: bool, now: Millis) {
        if let Some(registry) = self.registry() {
            registry.ejected(name, instance, ejected, now);
        }
    }
}
