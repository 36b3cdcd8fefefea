//! Permissions: what a user may do with which names, by regular expression per vhost.

use std::sync::Arc;

use waypost_model::Refusal;

use super::binding::object;
use super::exchange::Exchange;
use super::kinds::ExchangeKind;
use super::pattern::{self, Pattern};
use super::user::User;
use super::{Change, Topology, definitions};

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Create, delete, alter.
    Configure,
    /// Put messages in; be the destination of a binding.
    Write,
    /// Take messages out; be the source of a binding.
    Read,
}

impl Access {
    /// As messages have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// With what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A queue.
    Queue,
    /// An exchange.
    Exchange,
    /// An instance of a service, by its id.
    Instance,
}

impl Resource {
    /// As messages have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Exchange => "exchange",
            Self::Instance => "instance",
        }
    }
}

/// The patterns of names that a user may configure, write and read in a vhost. An empty one matches nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PermissionSpec {
    /// Create, delete, alter.
    pub configure: String,
    /// Publish, bind to.
    pub write: String,
    /// Consume, bind from.
    pub read: String,
}

/// The patterns of routing keys that a user may write and read on a topic exchange; `{username}`, `{vhost}` and
/// `{client_id}` stand for what they say; who has no client id is never meant by the last. An empty one matches nothing but the empty key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicPermissionSpec {
    /// Publish with.
    pub write: String,
    /// Bind with.
    pub read: String,
}

#[derive(Debug)]
pub(crate) struct Permission {
    configure: NamePattern,
    write: NamePattern,
    read: NamePattern,
}

/// A pattern in which nothing stands for the empty name.
#[derive(Debug)]
struct NamePattern(Option<Pattern>);

impl NamePattern {
    fn new(source: &str) -> Result<NamePattern, String> {
        let compiled = if source.is_empty() { None } else { Some(Pattern::new(source)?) };
        Ok(NamePattern(compiled))
    }

    fn is_match(&self, name: &str) -> bool {
        match &self.0 {
            Some(p) => p.is_match(name),
            None => name.is_empty(),
        }
    }

    fn source(&self) -> String {
        self.0.as_ref().map(|p| p.source().to_owned()).unwrap_or_default()
    }
}

impl Permission {
    /// Compiles. `Err` says what is wrong.
    pub fn new(spec: &PermissionSpec) -> Result<Permission, String> {
        Ok(Permission {
            configure: NamePattern::new(&spec.configure)?,
            write: NamePattern::new(&spec.write)?,
            read: NamePattern::new(&spec.read)?,
        })
    }

    fn allows(&self, access: Access, name: &str) -> bool {
        match access {
            Access::Configure => self.configure.is_match(name),
            Access::Write => self.write.is_match(name),
            Access::Read => self.read.is_match(name),
        }
    }

    pub fn spec(&self) -> PermissionSpec {
        PermissionSpec { configure: self.configure.source(), write: self.write.source(), read: self.read.source() }
    }
}

#[derive(Debug)]
pub(crate) struct TopicPermission {
    pub spec: TopicPermissionSpec,
    write: KeyPattern,
    read: KeyPattern,
}

/// The variable that has a value with some protocols only.
const CLIENT_ID: &str = "{client_id}";

/// A pattern of routing keys.
#[derive(Debug)]
enum KeyPattern {
    Fixed(NamePattern),
    /// Different for each client: compiled when it is asked for.
    PerClient(String),
}

impl KeyPattern {
    fn new(source: &str, user: &str, vhost: &str) -> Result<KeyPattern, String> {
        let source = source.replace("{username}", &pattern::escape(user)).replace("{vhost}", &pattern::escape(vhost));
        if !source.contains(CLIENT_ID) {
            return NamePattern::new(&source).map(KeyPattern::Fixed);
        }
        // Whether it will compile does not depend on the client: its id is escaped.
        NamePattern::new(&source.replace(CLIENT_ID, "id"))?;
        Ok(KeyPattern::PerClient(source))
    }

    fn is_match(&self, key: &str, client: Option<&str>) -> bool {
        match (self, client) {
            (KeyPattern::Fixed(p), _) => p.is_match(key),
            (KeyPattern::PerClient(p), Some(id)) => {
                NamePattern::new(&p.replace(CLIENT_ID, &pattern::escape(id))).is_ok_and(|p| p.is_match(key))
            }
            // Who has no client id cannot be meant.
            (KeyPattern::PerClient(_), None) => false,
        }
    }
}

impl TopicPermission {
    /// Compiles for a user and a vhost. `Err` says what is wrong.
    pub fn new(spec: &TopicPermissionSpec, user: &str, vhost: &str) -> Result<TopicPermission, String> {
        Ok(TopicPermission {
            spec: spec.clone(),
            write: KeyPattern::new(&spec.write, user, vhost)?,
            read: KeyPattern::new(&spec.read, user, vhost)?,
        })
    }
}

/// The name under which permissions know the default exchange.
const DEFAULT_EXCHANGE: &str = "amq.default";

impl Topology {
    /// The name under which whoever runs the node acts: everything is permitted to it. No user can have it, since users'
    /// names are not empty.
    pub const OPERATOR: &'static str = "";

    /// Whether a user may do something with a name, be there such an object or not.
    ///
    /// # Errors
    /// 403.
    pub fn check(
        &self,
        user: &str,
        vhost: &str,
        access: Access,
        resource: Resource,
        name: &str,
    ) -> Result<(), Refusal> {
        let name = if resource == Resource::Exchange && name.is_empty() { DEFAULT_EXCHANGE } else { name };
        let permission = self.users.get(user).and_then(|u| u.permissions.get(vhost));
        if user == Self::OPERATOR || permission.is_some_and(|p| p.allows(access, name)) {
            return Ok(());
        }
        Err(Refusal::access_refused(format!(
            "{} access to {} refused for user '{user}'",
            access.as_str(),
            object(resource.as_str(), name, vhost)
        )))
    }

    /// Whether a user may do anything at all with a name: enough to ask whether it exists.
    ///
    /// # Errors
    /// 403.
    pub fn check_any(&self, user: &str, vhost: &str, resource: Resource, name: &str) -> Result<(), Refusal> {
        let refused = self.check(user, vhost, Access::Configure, resource, name);
        let refused = refused.or_else(|e| self.check(user, vhost, Access::Write, resource, name).map_err(|_| e));
        refused.or_else(|e| self.check(user, vhost, Access::Read, resource, name).map_err(|_| e))
    }

    /// Whether a user may write or read with a routing key, where the exchange is a topic exchange and topic permissions
    /// are set. For protocols without client ids.
    ///
    /// # Errors
    /// 403.
    pub fn check_topic(
        &self,
        user: &str,
        vhost: &str,
        access: Access,
        exchange: &str,
        key: &[u8],
    ) -> Result<(), Refusal> {
        self.check_topic_of_client(user, vhost, access, exchange, key, None)
    }

    /// As [`Topology::check_topic`], with the value of `{client_id}`.
    ///
    /// # Errors
    /// 403.
    pub fn check_topic_of_client(
        &self,
        user: &str,
        vhost: &str,
        access: Access,
        exchange: &str,
        key: &[u8],
        client: Option<&str>,
    ) -> Result<(), Refusal> {
        let Some(u) = self.users.get(user).filter(|u| !u.topic_permissions.is_empty()) else {
            return Ok(());
        };
        let found = self.vhosts.get(vhost).and_then(|v| v.exchange_or_alias(exchange));
        let keyed = |x: &&Exchange| matches!(x.kind, ExchangeKind::Topic | ExchangeKind::Service);
        let Some(x) = found.filter(keyed) else {
            return Ok(());
        };
        let of_vhost = u.topic_permissions.get(vhost);
        let Some(permission) = of_vhost.and_then(|of_vhost| of_vhost.get(&x.name)) else {
            return Ok(());
        };
        // What follows a service's name selects among its instances: it is not checked.
        let key = if x.kind == ExchangeKind::Service { super::services::name_part(key) } else { key };
        let key = String::from_utf8_lossy(key);
        let allowed = match access {
            Access::Configure => true,
            Access::Write => permission.write.is_match(&key, client),
            Access::Read => permission.read.is_match(&key, client),
        };
        if allowed {
            return Ok(());
        }
        Err(Refusal::access_refused(format!(
            "{} access to topic '{key}' in {} refused for user '{user}'",
            access.as_str(),
            object("exchange", exchange, vhost)
        )))
    }

    /// Sets a user's permissions in a vhost.
    ///
    /// # Errors
    /// 404 (user, vhost), 406 (a pattern is none).
    pub fn put_permission(&mut self, user: &str, vhost: &str, spec: &PermissionSpec) -> Result<Change, Refusal> {
        let permission = Permission::new(spec).map_err(bad_pattern)?;
        let vhost = self.vhost_name(vhost)?;
        let u = self.user_mut(user)?;
        let change = Change::define(definitions::put_permission(user, &vhost, spec));
        u.permissions.insert(vhost, permission);
        self.touch();
        Ok(change)
    }

    /// Takes a user's permissions in a vhost away. That there are none is fine.
    ///
    /// # Errors
    /// 404 (user).
    pub fn delete_permission(&mut self, user: &str, vhost: &str) -> Result<Change, Refusal> {
        let u = self.user_mut(user)?;
        if u.permissions.remove(vhost).is_none() {
            return Ok(Change::default());
        }
        self.touch();
        Ok(Change::define(definitions::remove_permission(user, vhost)))
    }

    /// Sets a user's permissions on the routing keys of a topic exchange, which need not exist yet.
    ///
    /// # Errors
    /// 404 (user, vhost), 406 (a pattern is none).
    pub fn put_topic_permission(
        &mut self,
        user: &str,
        vhost: &str,
        exchange: &str,
        spec: &TopicPermissionSpec,
    ) -> Result<Change, Refusal> {
        let permission = TopicPermission::new(spec, user, vhost).map_err(bad_pattern)?;
        let vhost = self.vhost_name(vhost)?;
        let u = self.user_mut(user)?;
        let change = Change::define(definitions::put_topic_permission(user, &vhost, exchange, spec));
        u.topic_permissions.entry(vhost).or_default().insert(exchange.into(), permission);
        self.touch();
        Ok(change)
    }

    /// Takes topic permissions away: on one exchange, or on all of the vhost. That there are none is fine.
    ///
    /// # Errors
    /// 404 (user).
    pub fn delete_topic_permission(
        &mut self,
        user: &str,
        vhost: &str,
        exchange: Option<&str>,
    ) -> Result<Change, Refusal> {
        let u = self.user_mut(user)?;
        let mut change = Change::default();
        if let Some(of_vhost) = u.topic_permissions.get_mut(vhost) {
            of_vhost.retain(|x, _| {
                let goes = exchange.is_none_or(|named| named == &**x);
                if goes {
                    change.ops.push(definitions::remove_topic_permission(user, vhost, x));
                }
                !goes
            });
            if of_vhost.is_empty() {
                u.topic_permissions.remove(vhost);
            }
        }
        self.touch();
        Ok(change)
    }

    /// Takes all permissions in a vhost away.
    pub(crate) fn forget_permissions(&mut self, vhost: &str, change: &mut Change) {
        for u in self.users.values_mut() {
            if u.permissions.remove(vhost).is_some() {
                change.ops.push(definitions::remove_permission(&u.name, vhost));
            }
            for exchange in u.topic_permissions.remove(vhost).unwrap_or_default().keys() {
                change.ops.push(definitions::remove_topic_permission(&u.name, vhost, exchange));
            }
        }
    }

    /// The permissions of all users: user, vhost, patterns.
    #[must_use]
    pub fn permissions(&self) -> Vec<(Arc<str>, Arc<str>, PermissionSpec)> {
        let of = |u: &User| {
            let name = Arc::clone(&u.name);
            u.permissions.iter().map(move |(v, p)| (Arc::clone(&name), Arc::clone(v), p.spec())).collect::<Vec<_>>()
        };
        self.users.values().flat_map(of).collect()
    }

    /// The topic permissions of all users: user, vhost, exchange, patterns.
    #[must_use]
    pub fn topic_permissions(&self) -> Vec<(Arc<str>, Arc<str>, Arc<str>, TopicPermissionSpec)> {
        let mut all = Vec::new();
        for u in self.users.values() {
            for (v, of_vhost) in &u.topic_permissions {
                for (x, p) in of_vhost {
                    all.push((Arc::clone(&u.name), Arc::clone(v), Arc::clone(x), p.spec.clone()));
                }
            }
        }
        all
    }

    fn vhost_name(&self, vhost: &str) -> Result<Arc<str>, Refusal> {
        let found = self.vhosts.get(vhost).map(|v| Arc::clone(&v.name));
        found.ok_or_else(|| Refusal::not_found(format!("no vhost '{vhost}'")))
    }
}

fn bad_pattern(e: String) -> Refusal {
    Refusal::precondition_failed(format!("invalid regular expression: {e}"))
}
