//! `/v1/session`.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Map, Value as Json, json};
use waypost_broker::topology::Access;
use waypost_registry::config::{Behavior, NewSession, Session, What};

use super::super::body::Answer;
use super::super::consul::{duration, may_begin};
use super::super::request::{self, Failure};
use super::ask::Ask;
use super::{json, kv};

/// Largest body of a session's creation.
const BODY_MAX: u64 = 64 << 10;

/// The name that permissions know sessions by: they are no keys.
const RESOURCE: &str = "session";

/// Which sessions are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    Id(&'a str),
    Node(&'a str),
    All,
}

impl Ask<'_> {
    pub async fn create_session(&self, request: Request<Incoming>) -> Result<Answer, Failure> {
        self.may(Access::Write, RESOURCE)?;
        let body = request::bytes(request, BODY_MAX).await?;
        let mut spec = if body.is_empty() { NewSession::default() } else { spec(&body)? };
        if spec.node.is_empty() {
            spec.node = self.cx.services(&self.vhost)?.own_node().spec.name.to_string();
        }
        let services = self.cx.services(&self.vhost)?;
        may_begin(&services, &spec).map_err(|why| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, why))?;
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("no random bytes: {e}")))?;
        let (vhost, now) = (self.vhost.clone(), self.cx.node.clock.now());
        let made = self.aside(move |store| store.create_session(&vhost, spec, random, now)).await?;
        let (session, lsn) = made.map_err(|fault| kv::failure(&fault))?;
        self.durable(lsn).await?;
        Ok(json(StatusCode::OK, &json!({ "ID": &*session.id })))
    }

    pub async fn destroy_session(&self, id: &str) -> Result<Answer, Failure> {
        self.may(Access::Write, RESOURCE)?;
        if id.is_empty() {
            return Err(Failure::bad("Missing session"));
        }
        let (vhost, id, now) = (self.vhost.clone(), id.to_owned(), self.cx.node.clock.now());
        let ended = self.aside(move |store| store.destroy_session(&vhost, &id, now)).await?;
        self.durable(ended.map_err(|fault| kv::failure(&fault))?).await?;
        Ok(json(StatusCode::OK, &json!(true)))
    }

    pub async fn renew_session(&self, id: &str) -> Result<Answer, Failure> {
        self.may(Access::Write, RESOURCE)?;
        match self.store.renew_session(&self.vhost, id, self.cx.node.clock.now()) {
            Some(session) => Ok(json(StatusCode::OK, &json!([show(&session)]))),
            None => Err(Failure::new(StatusCode::NOT_FOUND, format!("Session id '{id}' not found"))),
        }
    }

    pub async fn show_sessions(&self, which: Which<'_>) -> Result<Answer, Failure> {
        self.may(Access::Read, RESOURCE)?;
        let look = || {
            let listing = self.store.sessions_where(&self.vhost, |s| match which {
                Which::Id(id) => *s.id == *id,
                Which::Node(node) => s.spec.node == node,
                Which::All => true,
            });
            (listing.items, listing.index, listing.lsn)
        };
        let (sessions, index) = self.blocking(What::Sessions, look).await?;
        let all: Vec<Json> = sessions.iter().map(|session| show(session)).collect();
        Ok(self.with_index(json(StatusCode::OK, &Json::Array(all)), index))
    }
}

/// A session as Consul shows it.
fn show(session: &Session) -> Json {
    let s = &session.spec;
    let ttl = s.ttl_ms.map(|ms| if ms % 1000 == 0 { format!("{}s", ms / 1000) } else { format!("{ms}ms") });
    let services: Vec<Json> = s.service_checks.iter().map(|id| json!({ "ID": id, "Namespace": "" })).collect();
    let services = if services.is_empty() { Json::Null } else { Json::Array(services) };
    json!({
        "ID": &*session.id, "Name": s.name, "Node": s.node, "LockDelay": s.lock_delay_ms * 1_000_000,
        "Behavior": if s.behavior == Behavior::Delete { "delete" } else { "release" },
        "TTL": ttl.unwrap_or_default(), "NodeChecks": s.node_checks, "ServiceChecks": services,
        "CreateIndex": session.created, "ModifyIndex": session.created,
    })
}

/// What a client wants: names in any case, unknown ones passed over, since newer clients send newer fields.
fn spec(body: &[u8]) -> Result<NewSession, Failure> {
    let failed = |what: String| Failure::bad(format!("Request decode failed: {what}"));
    let parsed: Map<String, Json> = serde_json::from_slice(body).map_err(|e| failed(e.to_string()))?;
    let mut spec = NewSession::default();
    let mut checks = None;
    for (name, value) in &parsed {
        let text = || value.as_str().map(str::to_owned).ok_or_else(|| failed(format!("{name} must be a string")));
        let list = || list(value).ok_or_else(|| failed(format!("{name} must be an array of strings")));
        match &*name.to_ascii_lowercase() {
            _ if value.is_null() => {}
            "name" => spec.name = text()?,
            "node" => spec.node = text()?,
            "ttl" => spec.ttl_ms = milliseconds(value).ok_or_else(|| failed(format!("{name} is no duration")))?,
            "lockdelay" => {
                let delay = milliseconds(value).ok_or_else(|| failed(format!("{name} is no duration")))?;
                spec.lock_delay_ms = delay.unwrap_or(spec.lock_delay_ms);
            }
            "behavior" => {
                spec.behavior = match &*text()? {
                    "" | "release" => Behavior::Release,
                    "delete" => Behavior::Delete,
                    other => return Err(Failure::bad(format!("Invalid Behavior setting '{other}'"))),
                }
            }
            "checks" => checks = Some(list()?),
            "nodechecks" => spec.node_checks = list()?,
            "servicechecks" => spec.service_checks = list()?,
            _ => {}
        }
    }
    if spec.node_checks.is_empty() {
        // Without checks of its own a session depends on its node's.
        spec.node_checks = checks.unwrap_or_else(|| vec!["serfHealth".into()]);
    }
    Ok(spec)
}

/// `["id", …]` or `[{"ID": "id"}, …]`.
fn list(value: &Json) -> Option<Vec<Box<str>>> {
    let id = |v: &Json| v.as_str().or_else(|| v.get("ID")?.as_str()).map(Box::from);
    value.as_array()?.iter().map(id).collect()
}

/// A duration as text (`10s`, `10`: seconds), or as number: nanoseconds, or seconds where that would be less than one
/// nanosecond's worth. Nothing for an empty text.
fn milliseconds(value: &Json) -> Option<Option<u64>> {
    if let Some(text) = value.as_str() {
        if text.is_empty() {
            return Some(None);
        }
        let seconds = || text.parse::<u64>().ok().map(|s| std::time::Duration::from_secs(s.min(1 << 32)));
        let parsed = duration(text).or_else(seconds)?;
        return u64::try_from(parsed.as_millis()).ok().map(Some);
    }
    let number = value.as_u64()?;
    // Nobody waits for microseconds; clients that write `15` mean seconds, as Consul takes it.
    Some(Some(if number < 1_000_000 { number.saturating_mul(1000) } else { number / 1_000_000 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_send() {
        let sent = br#"{"name":"n","TTL":"15s","LockDelay":"0s","Behavior":"delete","Checks":["a"],"Unknown":1}"#;
        let read = spec(sent).unwrap();
        assert_eq!((read.name.as_str(), read.ttl_ms, read.lock_delay_ms), ("n", Some(15_000), 0));
        assert_eq!((read.behavior, read.node_checks.len()), (Behavior::Delete, 1));
        assert_eq!(spec(br#"{"LockDelay":15000000000}"#).unwrap().lock_delay_ms, 15_000);
        assert_eq!(spec(br#"{"LockDelay":20}"#).unwrap().lock_delay_ms, 20_000);
        assert_eq!(spec(b"{}").unwrap().lock_delay_ms, 15_000);
        assert!(spec(br#"{"TTL":"x"}"#).is_err() && spec(b"[]").is_err());
    }
}
