//! Permissions: what a user may do in a vhost.

use std::sync::Arc;

use waypost_model::{Lsn, Millis, Refusal};

use crate::broker::Broker;
use crate::topology::{Access, PermissionSpec, Resource, TopicPermissionSpec};

impl Broker {
    /// Whether somebody may do something with a name, be there such an object or not.
    ///
    /// # Errors
    /// 403.
    pub fn check_permission(
        &self,
        actor: super::Actor<'_>,
        vhost: &str,
        access: Access,
        resource: Resource,
        name: &str,
    ) -> Result<(), Refusal> {
        self.topology_read().check(actor.name(), vhost, access, resource, name)
    }

    /// Whether somebody may write or read with a routing key of an exchange, as far as topic permissions say so.
    ///
    /// # Errors
    /// 403.
    pub fn check_topic_permission(
        &self,
        actor: super::Actor<'_>,
        vhost: &str,
        access: Access,
        exchange: &str,
        key: &str,
    ) -> Result<(), Refusal> {
        self.topology_read().check_topic(actor.name(), vhost, access, exchange, key.as_bytes())
    }

    /// The permissions of all users: user, vhost, patterns.
    #[must_use]
    pub fn permissions(&self) -> Vec<(Arc<str>, Arc<str>, PermissionSpec)> {
        self.topology_read().permissions()
    }

    /// The permissions of a user in a vhost.
    ///
    /// # Errors
    /// 404.
    pub fn permission(&self, user: &str, vhost: &str) -> Result<PermissionSpec, Refusal> {
        let found = self.permissions().into_iter().find(|(u, v, _)| &**u == user && &**v == vhost);
        found.map(|(_, _, spec)| spec).ok_or_else(|| none(user, vhost))
    }

    /// Sets the permissions of a user in a vhost.
    ///
    /// # Errors
    /// 404 (user, vhost), 406 (a pattern is no regular expression).
    pub fn put_permission(
        &self,
        user: &str,
        vhost: &str,
        spec: &PermissionSpec,
        now: Millis,
    ) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.put_permission(user, vhost, spec))
    }

    /// Takes the permissions of a user in a vhost away.
    ///
    /// # Errors
    /// 404.
    pub fn delete_permission(&self, user: &str, vhost: &str, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| {
            let change = t.delete_permission(user, vhost)?;
            if change.is_empty() { Err(none(user, vhost)) } else { Ok(change) }
        })
    }

    /// The topic permissions of all users: user, vhost, exchange, patterns.
    #[must_use]
    pub fn topic_permissions(&self) -> Vec<(Arc<str>, Arc<str>, Arc<str>, TopicPermissionSpec)> {
        self.topology_read().topic_permissions()
    }

    /// Sets the permissions of a user on the routing keys of a topic exchange.
    ///
    /// # Errors
    /// 404 (user, vhost), 406.
    pub fn put_topic_permission(
        &self,
        user: &str,
        vhost: &str,
        exchange: &str,
        spec: &TopicPermissionSpec,
        now: Millis,
    ) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.put_topic_permission(user, vhost, exchange, spec))
    }

    /// Takes topic permissions away: on one exchange, or on all of the vhost.
    ///
    /// # Errors
    /// 404.
    pub fn delete_topic_permission(
        &self,
        user: &str,
        vhost: &str,
        exchange: Option<&str>,
        now: Millis,
    ) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| {
            let change = t.delete_topic_permission(user, vhost, exchange)?;
            let missing =
                || Refusal::not_found(format!("user '{user}' has no such topic permissions in vhost '{vhost}'"));
            if change.is_empty() { Err(missing()) } else { Ok(change) }
        })
    }
}

fn none(user: &str, vhost: &str) -> Refusal {
    Refusal::not_found(format!("user '{user}' has no permissions in vhost '{vhost}'"))
}
