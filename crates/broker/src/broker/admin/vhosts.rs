//! Vhosts and their limits.

use waypost_model::{Lsn, Millis, Refusal};

use super::no_vhost;
use crate::broker::Broker;
use crate::topology::{VhostLimits, VhostMetadata, VhostView};

impl Broker {
    /// The vhosts, in order of name.
    #[must_use]
    pub fn vhosts(&self) -> Vec<VhostView> {
        self.topology_read().vhosts()
    }

    /// One vhost.
    ///
    /// # Errors
    /// 404.
    pub fn vhost(&self, name: &str) -> Result<VhostView, Refusal> {
        self.topology_read().vhost_view(name).ok_or_else(|| no_vhost(name))
    }

    /// Creates a vhost, or changes what is said of one.
    ///
    /// # Errors
    /// 406.
    pub fn put_vhost(&self, name: &str, metadata: VhostMetadata, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.put_vhost(name, metadata))
    }

    /// Deletes a vhost with all that is in it. Connections that work there are closed.
    ///
    /// # Errors
    /// 404.
    pub fn delete_vhost(&self, name: &str, now: Millis) -> Result<Option<Lsn>, Refusal> {
        let lsn = self.set(now, |t| t.delete_vhost(name))?;
        self.with_streams(|s| s.delete_vhost(name));
        self.close_connections(&format!("vhost '{name}' was deleted"), |peer| {
            peer.with_known(|k| k.vhost.as_deref() == Some(name))
        });
        Ok(lsn)
    }

    /// Sets the limits of a vhost; they hold for what comes after.
    ///
    /// # Errors
    /// 404.
    pub fn put_vhost_limits(&self, name: &str, limits: VhostLimits, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.put_vhost_limits(name, limits))
    }
}
