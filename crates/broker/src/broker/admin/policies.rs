//! Policies and operator policies.

use waypost_model::{Lsn, Millis, Refusal};

use super::{InVhost, no_such};
use crate::broker::Broker;
use crate::topology::{PolicySort, PolicySpec, PolicyView};

impl Broker {
    /// The policies of one sort, of a vhost or of all, in order of name.
    ///
    /// # Errors
    /// 404 (no such vhost).
    pub fn policies(&self, vhost: Option<&str>, sort: PolicySort) -> Result<Vec<InVhost<PolicyView>>, Refusal> {
        self.in_vhosts(vhost, |t, v| t.policies(v, sort))
    }

    /// One policy.
    ///
    /// # Errors
    /// 404.
    pub fn policy(&self, vhost: &str, name: &str, sort: PolicySort) -> Result<PolicyView, Refusal> {
        let found = self.topology_read().policies(vhost, sort).into_iter().find(|p| &*p.name == name);
        found.ok_or_else(|| no_such("policy", name, vhost))
    }

    /// Sets a policy and applies it to all queues and exchanges that it matches, at once.
    ///
    /// # Errors
    /// 404 (no such vhost), 406.
    pub fn put_policy(
        &self,
        vhost: &str,
        name: &str,
        spec: &PolicySpec,
        sort: PolicySort,
        now: Millis,
    ) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.put_policy(vhost, name, spec, sort))
    }

    /// Removes a policy; what else matches applies at once.
    ///
    /// # Errors
    /// 404.
    pub fn delete_policy(
        &self,
        vhost: &str,
        name: &str,
        sort: PolicySort,
        now: Millis,
    ) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.delete_policy(vhost, name, sort))
    }
}
