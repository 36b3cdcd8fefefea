//! `/api/v1/services…`: who is there, coming and going, watching, sending and asking.

mod ask;
mod drain;
mod look;
mod mailbox;
mod register;
mod send;
mod terms;
mod tokens;
mod watch;

pub(super) use mailbox::explanation;

use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, StatusCode, Uri};
use serde_json::Value as Json;
use waypost_broker::topology::Access;
use waypost_model::service::is_service_name;
use waypost_model::{Lsn, Refusal, RefusalKind};
use waypost_registry::services::Services;

use super::super::body::Answer;
use super::super::cx::Cx;
use super::super::json;
use super::super::request::{self, Failure};
use crate::config::Setting;

pub(in crate::http) use ask::Answers;

/// A request for a service, taken apart.
struct Ask<'a> {
    cx: &'a Cx<'a>,
    vhost: String,
    services: Services,
}

/// Where the pages begin.
const ROOT: &str = "/api/v1/";

/// Answers a request below `/api/v1/services` and the pages beside.
pub(in crate::http) async fn answer(cx: &Cx<'_>, request: Request<Incoming>) -> Result<Answer, Failure> {
    let path = request.uri().path().strip_prefix(ROOT).unwrap_or_default();
    let segments = request::segments(path)?;
    let path: Vec<&str> = segments.iter().map(String::as_str).collect();
    match path[..] {
        ["tokens"] => return tokens::answer(cx, request).await,
        ["openapi.json"] => return super::super::openapi::answer(cx, &request),
        _ => {}
    }
    let ask = Ask::new(cx, request.uri())?;
    if let Some(name) = path.get(1)
        && !is_service_name(name)
    {
        return Err(Failure::bad(format!("`{name}` is no name of a service: 1 to 63 of a-z, 0-9 and -")));
    }
    let method = request.method().clone();
    match (method.as_str(), &path[1..]) {
        ("GET" | "HEAD", []) => ask.list(&request).await,
        ("GET" | "HEAD", [name]) => ask.show(name, &request).await,
        ("GET" | "HEAD", [name, "mailbox"]) => ask.mailbox(name, &request),
        ("GET" | "POST", [name, "explain"]) => ask.explain(name, &request),
        ("POST", [name, "send"]) => ask.send(name, request).await,
        ("POST", [name, "request"]) => ask.request(name, request).await,
        ("GET" | "DELETE", [name, "requests", id]) => ask.answer_of(name, id, &request).await,
        ("GET" | "HEAD", [name, "instances", id]) => ask.instance(name, id, &request),
        ("PUT", [name, "instances", id]) => ask.register(name, id, request).await,
        ("DELETE", [name, "instances", id]) => ask.deregister(name, id, &request).await,
        ("POST" | "PUT", [name, "instances", id, "heartbeat"]) => ask.heartbeat(name, id, &request),
        ("GET" | "HEAD", [name, "instances", id, "drain"]) => ask.drained(name, id, &request).await,
        ("POST", [name, "instances", id, "drain"]) => ask.drain(name, id, request).await,
        ("DELETE", [name, "instances", id, "drain"]) => ask.undrain(name, id, &request).await,
        ("PUT", [name, "instances", id, "maintenance"]) => ask.maintain(name, id, request).await,
        ("DELETE", [name, "instances", id, "maintenance"]) => ask.resume(name, id, &request).await,
        ("PUT" | "POST", [name, "instances", id, "checks", check]) => ask.report(name, id, check, request).await,
        _ => Err(allowed(&path).map_or_else(Failure::no_page, Failure::wrong_method)),
    }
}

/// The pages below [`ROOT`], and their methods.
pub(in crate::http) const PAGES: &[(&str, &str)] = &[
    ("services", "GET"),
    ("services/{service}", "GET"),
    ("services/{service}/mailbox", "GET"),
    ("services/{service}/explain", "GET, POST"),
    ("services/{service}/send", "POST"),
    ("services/{service}/request", "POST"),
    ("services/{service}/requests/{request}", "GET, DELETE"),
    ("services/{service}/instances/{instance}", "GET, PUT, DELETE"),
    ("services/{service}/instances/{instance}/heartbeat", "POST, PUT"),
    ("services/{service}/instances/{instance}/drain", "GET, POST, DELETE"),
    ("services/{service}/instances/{instance}/maintenance", "PUT, DELETE"),
    ("services/{service}/instances/{instance}/checks/{check}", "POST, PUT"),
    ("tokens", "POST"),
    ("openapi.json", "GET"),
];

/// The methods of a page, if it is one.
fn allowed(path: &[&str]) -> Option<&'static str> {
    let is = |pattern: &str| {
        let mut segments = pattern.split('/');
        path.iter().all(|given| segments.next().is_some_and(|s| s.starts_with('{') || s == *given))
            && segments.next().is_none()
    };
    PAGES.iter().find(|(pattern, _)| is(pattern)).map(|(_, methods)| *methods)
}

impl<'a> Ask<'a> {
    /// In the vhost that the query names, or the listener's.
    fn new(cx: &'a Cx<'a>, uri: &Uri) -> Result<Ask<'a>, Failure> {
        let vhost = match request::query(uri, "vhost") {
            None => cx.vhost().to_string(),
            Some(vhost) => vhost,
        };
        let services = cx.services(&vhost)?;
        Ok(Ask { cx, vhost, services })
    }

    /// The answer to a change of an instance, once it is durable; nothing was changed if there is none of that id.
    async fn done_to(&self, service: &str, id: &str, lsn: Result<Option<Lsn>, Refusal>) -> Result<Answer, Failure> {
        let lsn = lsn.map_err(refused)?.ok_or_else(|| no_instance(service, id))?;
        done(self.cx, Some(lsn)).await
    }

    /// Whether who asks may see a service.
    fn may_see(&self, service: &str) -> Result<(), Failure> {
        Ok(self.cx.may_service(&self.vhost, Access::Read, service)?)
    }
}

/// What the registry and the broker refuse, as this API tells it: what is invalid is the request's fault.
fn refused(refusal: Refusal) -> Failure {
    match refusal.kind {
        RefusalKind::PreconditionFailed => Failure::bad(refusal.text),
        RefusalKind::ResourceError => Failure::new(StatusCode::INSUFFICIENT_STORAGE, refusal.text),
        _ => refusal.into(),
    }
}

fn no_instance(service: &str, id: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, format!("service '{service}' has no instance '{id}'"))
}

/// Refuses parameters that are not among those known: nothing is taken and ignored.
fn only(uri: &Uri, known: &[&str]) -> Result<(), Failure> {
    request::only(uri, &[known, &["vhost"]].concat())
}

/// A length of time: `500ms`, `15s`, `2m`, `1h`.
pub(super) fn duration(name: &str, text: &str) -> Result<Duration, Failure> {
    Duration::read(&[text.to_owned()]).map_err(|why| Failure::bad(format!("`{name}`: {why}")))
}

/// A length of time in the query.
fn span(uri: &Uri, name: &str) -> Result<Option<Duration>, Failure> {
    request::query(uri, name).map(|text| duration(name, &text)).transpose()
}

/// A change that is made and durable.
async fn done(cx: &Cx<'_>, lsn: Option<Lsn>) -> Result<Answer, Failure> {
    cx.durable(lsn).await?;
    Ok(json::empty(StatusCode::NO_CONTENT))
}

fn ok(body: &Json) -> Answer {
    json::answer(StatusCode::OK, body)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
