//! Services: who is an instance, and messages on their way to mailboxes.
//!
//! The registry owns the truth about instances; the broker keeps a copy per service ([`Directory`]), so that a mailbox that
//! is made later, and whoever asks, knows them. Locks in order: registry, topology, directory, shard, outbox.

mod addressing;
mod claims;
mod directory;
mod gather;
mod identity;
mod presence;
mod publish;

use std::sync::{Arc, MutexGuard, PoisonError};

use waypost_model::service::{InstanceChange, Presence, ServiceName};
use waypost_model::{Lsn, Millis, QueueId, Refusal};

pub(super) use addressing::{ServiceRoute, Variants, explain_route};
pub(super) use claims::{Claims, Held};
pub(super) use directory::Directory;
pub(super) use gather::{Gathered, gather_neighbours};
pub(super) use presence::Registrar;
pub(super) use publish::Origin;

use super::{Broker, Work};
use crate::settings::QueueSettings;

impl Broker {
    /// Hands instances over to a registry. To be called before the first peer connects: without one the broker accepts
    /// every claim itself.
    pub fn set_presence(&self, presence: Arc<dyn Presence>) {
        self.registrar.set(presence);
    }

    /// The registry says that an instance has changed. May be called with the registry's lock held, in order per service.
    pub fn instance_changed(&self, name: &ServiceName, change: &InstanceChange, now: Millis) {
        let mut w = self.work(now);
        let mut mailbox = self.topology_read().mailbox(&name.vhost, &name.service);
        if mailbox.is_none() && !matches!(change, InstanceChange::Gone { .. }) {
            // Without one (a limit, a name that is taken) the instance is known all the same, and a declaration or a
            // message makes up for it, or tells its sender why it cannot.
            mailbox = self.make_mailbox(name, &mut w).ok().map(|(settings, _)| settings);
        }
        {
            // Held while the shard follows: a consumer that starts meanwhile learns of the change in one way or the other.
            let mut directory = self.directory();
            directory.apply(name, change);
            if let Some(settings) = mailbox {
                let id = settings.id;
                self.with_shard(id.shard(), &mut w, |s, cx| s.instance_changed(id, change, cx));
            }
        }
        self.carry_out(&mut w);
    }

    /// The mailbox of a service; made if there is none.
    ///
    /// # Errors
    /// 530 (no such vhost), 405, 406, 506: see [`crate::topology::Topology::make_mailbox`].
    pub fn ensure_mailbox(
        &self,
        name: &ServiceName,
        now: Millis,
    ) -> Result<(Arc<QueueSettings>, Option<Lsn>), Refusal> {
        let mut w = self.work(now);
        let made = self.make_mailbox(name, &mut w);
        self.carry_out(&mut w);
        made
    }

    fn make_mailbox(&self, name: &ServiceName, w: &mut Work<'_>) -> Result<(Arc<QueueSettings>, Option<Lsn>), Refusal> {
        if let Some(found) = self.topology_read().mailbox(&name.vhost, &name.service) {
            return Ok((found, None));
        }
        self.change(w, |t| t.make_mailbox(&name.vhost, &name.service))
    }

    /// A mailbox that nobody has declared has been idle for long: it goes, unless its service has instances.
    pub(super) fn drop_idle_mailbox(&self, id: QueueId, w: &mut Work<'_>) {
        // Refused only if it is gone already, or was declared meanwhile.
        let _ = self.remove(w, |t| {
            let service = t.queue(id).and_then(|s| Some((Arc::clone(&s.vhost), s.service.clone()?)));
            let wanted =
                service.is_some_and(|(vhost, service)| self.directory().has_instances(&ServiceName { vhost, service }));
            let idle = !wanted && self.lock(id.shard()).is_idle(id);
            Ok(((), if idle { t.delete_implicit(id) } else { Default::default() }))
        });
    }

    pub(super) fn tell_ejected(&self, settings: &QueueSettings, instance: &str, ejected: bool, now: Millis) {
        if let Some(service) = settings.service.clone() {
            let name = ServiceName { vhost: Arc::clone(&settings.vhost), service };
            self.registrar.ejected(&name, instance, ejected, now);
        }
    }

    pub(super) fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
