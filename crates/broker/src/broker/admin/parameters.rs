//! Parameters: what other parts of the server, and tools, keep with a vhost.

use std::sync::Arc;

use waypost_model::{Lsn, Millis, Refusal};

use crate::broker::Broker;
use crate::topology::ParameterKey;

fn key(vhost: Option<&str>, component: &str, name: &str) -> ParameterKey {
    ParameterKey { vhost: vhost.map(Into::into), component: component.into(), name: name.into() }
}

impl Broker {
    /// The parameters of a component in all vhosts, in order: vhost, name, value. Global ones are left out.
    #[must_use]
    pub fn parameters_of(&self, component: &str) -> Vec<(Arc<str>, Box<str>, Box<str>)> {
        let t = self.topology_read();
        let of = t.parameters().filter(|(key, _)| &*key.component == component);
        of.filter_map(|(k, value)| Some((Arc::clone(k.vhost.as_ref()?), (*k.name).into(), value.into()))).collect()
    }

    /// Sets a parameter; without a vhost, a global one.
    ///
    /// # Errors
    /// 404 (no such vhost), 406 (too long, too many).
    pub fn put_parameter(
        &self,
        vhost: Option<&str>,
        component: &str,
        name: &str,
        value: &str,
        now: Millis,
    ) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.put_parameter(key(vhost, component, name), value))
    }

    /// Removes a parameter.
    ///
    /// # Errors
    /// 404.
    pub fn delete_parameter(
        &self,
        vhost: Option<&str>,
        component: &str,
        name: &str,
        now: Millis,
    ) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.delete_parameter(&key(vhost, component, name)))
    }

    /// Whether a service has a mailbox.
    #[must_use]
    pub fn has_mailbox(&self, vhost: &str, service: &str) -> bool {
        self.topology_read().mailbox(vhost, service).is_some()
    }
}
