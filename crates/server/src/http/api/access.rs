//! Users and permissions.

use hyper::StatusCode;
use serde_json::{Value as Json, json};
use waypost_broker::broker::admin::{NewPassword, UserUpdate};
use waypost_broker::topology::{
    HashingAlgorithm, PasswordHash, PermissionSpec, TopicPermissionSpec, UserLimits, UserView,
};

use super::super::auth::Who;
use super::super::json::{number, only, text, texts};
use super::super::request::Failure;
use super::{Ask, Done, changed, list, nothing_there, show, wrong_method};

impl Ask {
    pub(super) fn access(&self, path: &[&str]) -> Result<Done, Failure> {
        if let ("GET", ["whoami"]) = (self.method(), path) {
            return show(match &self.who {
                Who::Operator => json!({ "name": null, "administrator": true }),
                Who::User { name, administrator, .. } => json!({ "name": name, "administrator": administrator }),
                Who::Anyone => json!({ "name": null, "administrator": false }),
            });
        }
        self.who.must_administrate()?;
        let broker = &self.node.broker;
        match (self.method(), path) {
            ("GET", ["users"]) => list(broker.users(), user),
            (_, ["users", name]) => self.user(name),
            ("PUT", ["users", name, "limits"]) => {
                only(&self.body, &["max_connections", "max_channels"])?;
                let limits = UserLimits {
                    max_connections: number(&self.body, "max_connections")?,
                    max_channels: number(&self.body, "max_channels")?,
                };
                changed(broker.put_user_limits(name, limits, self.now))
            }
            ("GET", ["permissions"]) => list(broker.permissions(), |(user, vhost, p)| permission(user, vhost, p)),
            (_, ["permissions", vhost, name]) => self.permission(vhost, name),
            ("GET", ["topic-permissions"]) => list(
                broker.topic_permissions(),
                |(user, vhost, exchange, p)| json!({ "user": &**user, "vhost": &**vhost, "exchange": &**exchange, "write": p.write, "read": p.read }),
            ),
            (_, ["topic-permissions", vhost, name]) => self.topic_permission(vhost, name),
            (_, ["users" | "permissions" | "topic-permissions" | "whoami"] | ["users", _, "limits"]) => {
                Err(wrong_method())
            }
            _ => Err(nothing_there()),
        }
    }

    fn user(&self, name: &str) -> Result<Done, Failure> {
        let broker = &self.node.broker;
        match self.method() {
            "GET" => show(user(&broker.user(name)?)),
            "PUT" => {
                only(&self.body, &["password", "password_hash", "hashing_algorithm", "tags", "loopback_only"])?;
                let loopback_only = match self.body.get("loopback_only") {
                    None => None,
                    Some(_) => Some(super::super::json::flag(&self.body, "loopback_only", false)?),
                };
                let update = UserUpdate { password: self.password()?, tags: texts(&self.body, "tags")?, loopback_only };
                // A password that is said once can be asked for by proof from then on.
                let scram = match &update.password {
                    NewPassword::Plain(plain) => crate::scram::keys(plain)
                        .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?,
                    _ => Vec::new(),
                };
                changed(broker.put_user_with(name, &update, scram, self.now))
            }
            "DELETE" => changed(broker.delete_user(name, self.now)),
            _ => Err(wrong_method()),
        }
    }

    fn password(&self) -> Result<NewPassword<'_>, Failure> {
        let algorithm = match text(&self.body, "hashing_algorithm")? {
            None => HashingAlgorithm::Sha256,
            Some(name) => HashingAlgorithm::parse(name).ok_or_else(|| Failure::bad("unknown hashing algorithm"))?,
        };
        match (text(&self.body, "password")?, text(&self.body, "password_hash")?) {
            (None, None) => Ok(NewPassword::Keep),
            (Some(plain), None) => Ok(NewPassword::Plain(plain.as_bytes())),
            (None, Some("")) => Ok(NewPassword::Clear),
            (None, Some(hash)) => Ok(NewPassword::Hash(PasswordHash::from_base64(algorithm, hash)?)),
            (Some(_), Some(_)) => Err(Failure::bad("give either `password` or `password_hash`")),
        }
    }

    fn permission(&self, vhost: &str, name: &str) -> Result<Done, Failure> {
        let broker = &self.node.broker;
        match self.method() {
            "GET" => show(permission(name, vhost, &broker.permission(name, vhost)?)),
            "PUT" => {
                only(&self.body, &["configure", "write", "read"])?;
                let spec = PermissionSpec {
                    configure: self.pattern("configure")?,
                    write: self.pattern("write")?,
                    read: self.pattern("read")?,
                };
                changed(broker.put_permission(name, vhost, &spec, self.now))
            }
            "DELETE" => changed(broker.delete_permission(name, vhost, self.now)),
            _ => Err(wrong_method()),
        }
    }

    fn topic_permission(&self, vhost: &str, name: &str) -> Result<Done, Failure> {
        let broker = &self.node.broker;
        let exchange = self.parameter("exchange");
        match self.method() {
            "PUT" => {
                only(&self.body, &["write", "read"])?;
                let exchange = exchange.ok_or_else(|| Failure::bad("parameter `exchange` is missing"))?;
                let spec = TopicPermissionSpec { write: self.pattern("write")?, read: self.pattern("read")? };
                changed(broker.put_topic_permission(name, vhost, &exchange, &spec, self.now))
            }
            "DELETE" => changed(broker.delete_topic_permission(name, vhost, exchange.as_deref(), self.now)),
            _ => Err(wrong_method()),
        }
    }

    fn pattern(&self, field: &str) -> Result<String, Failure> {
        text(&self.body, field)?.map(str::to_owned).ok_or_else(|| Failure::bad(format!("`{field}` is missing")))
    }
}

fn user(u: &UserView) -> Json {
    json!({
        "name": &*u.name, "tags": u.spec.tags, "loopback_only": u.spec.loopback_only,
        "has_password": u.spec.password.is_some(),
        "limits": { "max_connections": u.limits.max_connections, "max_channels": u.limits.max_channels },
    })
}

fn permission(user: &str, vhost: &str, p: &PermissionSpec) -> Json {
    json!({ "user": user, "vhost": vhost, "configure": p.configure, "write": p.write, "read": p.read })
}
