//! Limits per user and vhost, and parameters.

use std::sync::Arc;

use waypost_model::Refusal;

use super::{Change, NAME_BYTES_MAX, Topology, definitions};

/// How many parameters a node may have. Further ones are refused with 406.
pub const PARAMETERS_MAX: usize = 100_000;
/// Longest value of a parameter, bytes.
pub const PARAMETER_BYTES_MAX: usize = 1 << 20;

/// Limits of a vhost; `None` is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VhostLimits {
    /// Connections at a time.
    pub max_connections: Option<u64>,
    /// Queues.
    pub max_queues: Option<u64>,
}

/// Limits of a user; `None` is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserLimits {
    /// Connections at a time.
    pub max_connections: Option<u64>,
    /// Channels at a time, over all connections.
    pub max_channels: Option<u64>,
}

/// Names a parameter: something that tools keep here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParameterKey {
    /// The vhost; `None` for global parameters.
    pub vhost: Option<Arc<str>>,
    /// What it belongs to; empty for global parameters.
    pub component: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Topology {
    /// Sets the limits of a vhost; they hold for what comes after.
    ///
    /// # Errors
    /// 404.
    pub fn put_vhost_limits(&mut self, vhost: &str, limits: VhostLimits) -> Result<Change, Refusal> {
        let v = self.vhosts.get_mut(vhost).ok_or_else(|| Refusal::not_found(format!("no vhost '{vhost}'")))?;
        v.limits = limits;
        Ok(Change::define(match limits == VhostLimits::default() {
            true => definitions::remove_vhost_limits(vhost),
            false => definitions::put_vhost_limits(vhost, limits),
        }))
    }

    /// Sets the limits of a user; they hold for what comes after.
    ///
    /// # Errors
    /// 404.
    pub fn put_user_limits(&mut self, user: &str, limits: UserLimits) -> Result<Change, Refusal> {
        self.user_mut(user)?.limits = limits;
        Ok(Change::define(match limits == UserLimits::default() {
            true => definitions::remove_user_limits(user),
            false => definitions::put_user_limits(user, limits),
        }))
    }

    /// Whether a user may enter a vhost in which `of_vhost` connections are, while he has `of_user` himself. Gives the
    /// vhost's name.
    ///
    /// # Errors
    /// 530.
    pub fn enter_vhost(&self, user: &str, vhost: &str, of_vhost: u64, of_user: u64) -> Result<Arc<str>, Refusal> {
        let v = self.vhost(vhost)?;
        let refused = || Refusal::not_allowed(format!("access to vhost '{vhost}' refused for user '{user}'"));
        let u = self.users.get(user).ok_or_else(refused)?;
        if !u.permissions.contains_key(vhost) {
            return Err(refused());
        }
        if let Some(max) = v.limits.max_connections.filter(|max| of_vhost >= *max) {
            return Err(Refusal::not_allowed(format!(
                "access to vhost '{vhost}' refused for user '{user}': connection limit ({max}) is reached"
            )));
        }
        if let Some(max) = u.limits.max_connections.filter(|max| of_user >= *max) {
            return Err(Refusal::not_allowed(format!(
                "connection refused for user '{user}': user connection limit ({max}) is reached"
            )));
        }
        Ok(Arc::clone(&v.name))
    }

    /// How many channels a user may have open.
    #[must_use]
    pub fn channels_max(&self, user: &str) -> Option<u64> {
        self.users.get(user)?.limits.max_channels
    }

    /// Sets a parameter. The value is the tool's own, JSON by custom.
    ///
    /// # Errors
    /// 404 (vhost), 406 (too long, too many).
    pub fn put_parameter(&mut self, key: ParameterKey, value: &str) -> Result<Change, Refusal> {
        if let Some(vhost) = &key.vhost
            && !self.vhosts.contains_key(vhost)
        {
            return Err(Refusal::not_found(format!("no vhost '{vhost}'")));
        }
        let long = key.name.len() > NAME_BYTES_MAX || key.component.len() > NAME_BYTES_MAX;
        if long || key.name.is_empty() || value.len() > PARAMETER_BYTES_MAX {
            return Err(Refusal::precondition_failed(format!(
                "parameters have names of 1 to {NAME_BYTES_MAX} bytes and values of at most {PARAMETER_BYTES_MAX}"
            )));
        }
        if self.parameters.len() >= PARAMETERS_MAX && !self.parameters.contains_key(&key) {
            return Err(Refusal::precondition_failed(format!("there are {PARAMETERS_MAX} parameters already")));
        }
        let change = Change::define(definitions::put_parameter(&key, value));
        self.parameters.insert(key, value.into());
        Ok(change)
    }

    /// Removes a parameter.
    ///
    /// # Errors
    /// 404.
    pub fn delete_parameter(&mut self, key: &ParameterKey) -> Result<Change, Refusal> {
        match self.parameters.remove(key) {
            Some(_) => Ok(Change::define(definitions::remove_parameter(key))),
            None => Err(Refusal::not_found(format!("no parameter '{}'", key.name))),
        }
    }

    /// All parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = (&ParameterKey, &str)> {
        self.parameters.iter().map(|(k, v)| (k, &**v))
    }

    /// Removes the parameters of a vhost.
    pub(crate) fn forget_parameters(&mut self, vhost: &str, change: &mut Change) {
        self.parameters.retain(|key, _| {
            let goes = key.vhost.as_deref() == Some(vhost);
            if goes {
                change.ops.push(definitions::remove_parameter(key));
            }
            !goes
        });
    }
}
