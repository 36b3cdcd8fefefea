//! Keys of SCRAM, access control lists, client quotas.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use waypost_model::{Lsn, Millis, Refusal};

use super::Actor;
use crate::broker::Broker;
use crate::topology::{
    Acl, AclFilter, AclOperation, AclResource, AclSubject, QuotaEntity, QuotaKind, QuotaRates, QuotaShare, ScramKeys,
    ScramMechanism, UserView,
};

impl Broker {
    /// The keys of a user for a mechanism.
    #[must_use]
    pub fn scram(&self, user: &str, mechanism: ScramMechanism) -> Option<ScramKeys> {
        self.topology_read().scram(user, mechanism)
    }

    /// All that have keys, by name: mechanisms and rounds of hashing.
    #[must_use]
    pub fn scram_users(&self) -> Vec<(Arc<str>, Vec<(ScramMechanism, u32)>)> {
        self.topology_read().scram_users()
    }

    /// Gives a user keys, in the place of those of the same mechanism.
    ///
    /// # Errors
    /// 404 (user), 406 (keys that are none).
    pub fn put_scram(&self, user: &str, keys: ScramKeys, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.put_scram(user, keys))
    }

    /// Takes a user's keys for a mechanism away.
    ///
    /// # Errors
    /// 404.
    pub fn delete_scram(&self, user: &str, mechanism: ScramMechanism, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.delete_scram(user, mechanism))
    }

    /// Lets somebody in whose identity is established otherwise than by a password that was said.
    ///
    /// # Errors
    /// 403. The text is for the log: tell a peer no more than that it was refused.
    pub fn admit(&self, user: &str, loopback: bool) -> Result<UserView, Refusal> {
        let t = self.topology_read();
        let admitted = t.admit(user, loopback);
        let found =
            admitted.and_then(|()| t.user_view(user).ok_or_else(|| Refusal::not_found(format!("no user '{user}'"))));
        drop(t);
        found.inspect_err(|_| self.note_authentication_failure())
    }

    /// Somebody was not who he said.
    pub fn note_authentication_failure(&self) {
        self.counters.authentication_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether somebody may do something: by access control lists, and where none speaks of the name, by permissions.
    /// `host`: where the peer comes from.
    #[must_use]
    pub fn allows(
        &self,
        actor: Actor<'_>,
        host: &str,
        vhost: &str,
        resource: AclResource,
        name: &str,
        operation: AclOperation,
    ) -> bool {
        let who = AclSubject { user: actor.name(), host };
        self.topology_read().allows(who, vhost, resource, name, operation)
    }

    /// All rules of a vhost, in order.
    #[must_use]
    pub fn acls(&self, vhost: &str) -> Vec<Acl> {
        self.topology_read().acls(vhost)
    }

    /// How many rules there are in all vhosts.
    #[must_use]
    pub fn acl_count(&self) -> usize {
        self.topology_read().acl_count()
    }

    /// Adds a rule. That it is there already is fine.
    ///
    /// # Errors
    /// 404 (vhost), 406.
    pub fn put_acl(&self, vhost: &str, acl: &Acl, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.put_acl(vhost, acl))
    }

    /// Removes rules of a vhost; those that went.
    ///
    /// # Errors
    /// The journal takes nothing.
    pub fn remove_acls(
        &self,
        vhost: &str,
        filter: &AclFilter<'_>,
        now: Millis,
    ) -> Result<(Vec<Acl>, Option<Lsn>), Refusal> {
        self.alter(now, |t| Ok(t.remove_acls(vhost, filter)))
    }

    /// The most particular quota that holds for a client.
    #[must_use]
    pub fn quota(&self, user: &str, client_id: &str, kind: QuotaKind) -> Option<QuotaShare> {
        self.topology_read().quota(user, client_id, kind)
    }

    /// All quotas, in order.
    #[must_use]
    pub fn quotas(&self) -> Vec<(QuotaEntity, QuotaRates)> {
        self.topology_read().quotas()
    }

    /// What is set for just these.
    #[must_use]
    pub fn quota_of(&self, entity: &QuotaEntity) -> Option<QuotaRates> {
        self.topology_read().quota_of(entity)
    }

    /// Sets a quota; one without rates is gone.
    ///
    /// # Errors
    /// 406.
    pub fn put_quota(&self, entity: QuotaEntity, rates: QuotaRates, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.put_quota(entity, rates))
    }
}
