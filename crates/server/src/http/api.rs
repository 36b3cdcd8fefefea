//! `/api/v1`: what operators see and set. The page docs/http-api.md describes it.

mod access;
mod acls;
mod backlogs;
mod contents;
mod devices;
mod explain;
mod forwarders;
pub(super) mod groups;
mod listings;
mod quotas;
mod rules;
pub(super) mod services;
mod topics;

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode, Uri};
use serde_json::{Value as Json, json};
use waypost_model::{Lsn, Millis, Refusal};

use super::auth::Who;
use super::body::Answer;
use super::cx::Cx;
use super::json;
use super::request::{self, Failure};
use crate::node::Node;

/// The pages of streams, with their methods: as `docs/openapi.json` describes them.
#[cfg(test)]
pub(super) const STREAM_PAGES: &[(&str, &str)] = &[
    ("backlogs", "GET"),
    ("backlogs/{vhost}", "GET"),
    ("topics", "GET"),
    ("topics/{vhost}", "GET"),
    ("topics/{vhost}/{topic}", "GET, PUT, DELETE"),
    ("topics/{vhost}/{topic}/config", "GET, PUT"),
    ("topics/{vhost}/{topic}/records", "GET"),
    ("groups", "GET"),
    ("groups/{vhost}", "GET"),
    ("groups/{vhost}/{group}", "GET, DELETE"),
    ("groups/{vhost}/{group}/reset", "POST"),
    ("forwarders", "GET"),
    ("forwarders/{vhost}", "GET"),
    ("forwarders/{vhost}/{forwarder}", "GET, PUT, DELETE"),
    ("acls", "GET"),
    ("acls/{vhost}", "GET, POST, DELETE"),
    ("quotas", "GET, PUT, DELETE"),
];

/// A request, taken apart.
struct Ask {
    node: Arc<Node>,
    who: Who,
    method: Method,
    uri: Uri,
    body: Json,
    now: Millis,
}

/// What a request came to.
enum Done {
    /// Something to show.
    Show(Json),
    /// A change; it is reported once it is durable.
    Changed(Option<Lsn>),
    /// A change with something to tell.
    Told(Json, Option<Lsn>),
}

/// Answers a request below `/api/v1/` that no other face takes.
pub(super) async fn answer(cx: &Cx<'_>, request: Request<Incoming>) -> Result<Answer, Failure> {
    let node = Arc::clone(cx.node);
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let segments = request::segments(uri.path().strip_prefix("/api/v1/").unwrap_or_default())?;
    let body = match method {
        Method::PUT | Method::POST => request::body(request, node.config.http.body_max.0).await?,
        _ => json!({}),
    };
    let who = cx.who.clone();
    let ask = Ask { who, method: method.clone(), uri, body, now: node.clock.now(), node: Arc::clone(&node) };
    let (answer, lsn) = cx.listener.aside(&method, move || ask.carry_out(&segments)).await??;
    cx.durable(lsn).await?;
    Ok(answer)
}

/// The parameters that a page has. Of a filter that is spelled wrong nobody would notice that it is left out, but by what
/// is gone then.
fn parameters(method: &str, path: &[&str]) -> &'static [&'static str] {
    match (method, path) {
        ("GET", ["queues" | "exchanges" | "bindings" | "consumers" | "policies" | "operator-policies"])
        | ("GET", ["topics" | "groups"]) => &["vhost"],
        ("GET", ["backlogs"]) => &["vhost", "type"],
        ("GET", ["backlogs", _]) => &["type"],
        ("DELETE", ["queues", _, _]) => &["if_unused", "if_empty"],
        ("DELETE", ["exchanges", _, _]) => &["if_unused"],
        ("DELETE", ["bindings", _]) => &["source", "destination", "destination_type", "routing_key", "arguments"],
        ("DELETE", ["connections", _]) => &["reason"],
        ("PUT" | "DELETE", ["topic-permissions", _, _]) => &["exchange"],
        ("GET", ["topics", _, _, "records"]) => &["partition", "offset", "limit"],
        ("GET", ["acls"]) => acls::WITH_VHOST,
        ("GET" | "DELETE", ["acls", _]) => acls::PARAMETERS,
        ("DELETE", ["quotas"]) => &["user", "client_id", "user_default", "client_id_default"],
        _ => &[],
    }
}

impl Ask {
    /// The answer, and what must be durable before it may be given.
    fn carry_out(&self, segments: &[String]) -> Result<(Answer, Option<Lsn>), Failure> {
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        // Explaining looks at each itself: the headers of a message have any names.
        if !matches!(segments[..], ["exchanges", _, _, "explain"]) {
            request::only(&self.uri, parameters(self.method(), &segments))?;
        }
        Ok(match self.dispatch(&segments)? {
            Done::Show(json) => (json::answer(StatusCode::OK, &json), None),
            Done::Changed(lsn) => (json::empty(StatusCode::NO_CONTENT), lsn),
            Done::Told(json, lsn) => (json::answer(StatusCode::OK, &json), lsn),
        })
    }

    fn dispatch(&self, path: &[&str]) -> Result<Done, Failure> {
        match path {
            ["queues" | "exchanges" | "bindings", ..] => self.contents(path),
            ["users" | "permissions" | "topic-permissions" | "whoami", ..] => self.access(path),
            ["acls", ..] => self.acls(path),
            ["quotas", ..] => self.quotas(path),
            ["vhosts" | "policies" | "operator-policies", ..] => self.rules(path),
            ["devices", ..] => self.devices(path),
            ["forwarders", ..] => self.forwarders(path),
            ["topics", ..] => self.topics(path),
            ["groups", ..] => self.groups(path),
            ["backlogs", ..] => self.backlogs(path),
            ["overview" | "connections" | "channels" | "consumers", ..] => self.listings(path),
            _ => Err(nothing_there()),
        }
    }

    /// A parameter of the query.
    fn parameter(&self, name: &str) -> Option<String> {
        request::query(&self.uri, name)
    }

    /// A parameter that is there and true.
    fn is_set(&self, name: &str) -> Result<bool, Failure> {
        match self.parameter(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Failure::bad(format!("`{name}` must be true or false"))),
        }
    }

    /// The method, for matching.
    fn method(&self) -> &str {
        // HEAD is GET without its body.
        if self.method == Method::HEAD { "GET" } else { self.method.as_str() }
    }
}

fn show(json: impl Into<Json>) -> Result<Done, Failure> {
    Ok(Done::Show(json.into()))
}

fn list<T>(items: Vec<T>, each: impl Fn(&T) -> Json) -> Result<Done, Failure> {
    Ok(Done::Show(Json::Array(items.iter().map(each).collect())))
}

fn changed(result: Result<Option<Lsn>, Refusal>) -> Result<Done, Failure> {
    Ok(Done::Changed(result?))
}

fn nothing_there() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "no such page")
}

fn wrong_method() -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this cannot be done with it")
}
