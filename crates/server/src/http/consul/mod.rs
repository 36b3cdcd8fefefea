//! Consul's HTTP API over our registry: `/v1`, but for keys and sessions, which belong to the configuration center.
//!
//! There is one server and one data center, and the server is its own agent: what `/v1/agent` registers is in the catalog at
//! once. Answers are rendered once per query and change, and shared by all who ask. What is answered, and what is refused,
//! stands in `docs/compatibility-consul.md`.

mod agent;
mod agent_checks;
mod catalog;
mod checks;
mod definitions;
pub(super) mod discovery;
mod events;
mod extra;
mod fields;
mod health;
mod hot;
mod lenient;
mod liveness;
mod monitor;
mod operator;
mod params;
mod queries;
mod query_execute;
mod read;
mod render;
mod shared;
mod txn;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use waypost_broker::topology::{Access, Resource};
use waypost_model::Lsn;
use waypost_registry::services::Services;

use super::auth::Who;
use super::body::{Answer, Body};
use super::cx::Cx;
use super::request::{self, Failure};
use params::Params;
use render::Scene;

pub(in crate::http) use hot::{Hot, express};
pub(in crate::http) use liveness::may_begin;
pub(crate) use liveness::{Seen, end_sessions};
pub(in crate::http) use params::{duration, is_here};
pub(crate) use query_execute::carry_out;
pub(crate) use shared::Shared;
pub(in crate::http) use txn::Catalog;

/// Largest body: that of Envoy and of transactions are larger, and not ours.
const BODY_MAX: u64 = 1 << 20;

/// The version that is told to clients which choose by it what they may use.
const CONSUL_VERSION: &str = "1.20.0";

/// A request, taken apart.
struct Ask<'a> {
    cx: &'a Cx<'a>,
    services: Services,
    method: Method,
    headers: HeaderMap,
    params: Params,
    body: Bytes,
}

/// Answers a request below `/v1/`. Failures are texts, as Consul's are.
pub(super) async fn answer(cx: &Cx<'_>, request: Request<Incoming>) -> Result<Answer, Failure> {
    Ok(dispatch(cx, request).await.unwrap_or_else(in_words))
}

/// A failure as a text.
fn in_words(failure: Failure) -> Answer {
    let reason = failure.reason.clone();
    let mut answer = failure.into_answer();
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    *answer.body_mut() = Body::Whole(reason.into());
    answer
}

async fn dispatch(cx: &Cx<'_>, request: Request<Incoming>) -> Result<Answer, Failure> {
    let uri = request.uri().clone();
    let path = uri.path().strip_prefix("/v1/").ok_or_else(no_endpoint)?;
    let method = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
    let ask = Ask::new(cx, method, uri.query().unwrap_or_default())?;
    Box::pin(by_path(ask, path, request)).await
}

async fn by_path(mut ask: Ask<'_>, path: &str, request: Request<Incoming>) -> Result<Answer, Failure> {
    let segments = request::segments(path)?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (parts, body) = request.into_parts();
    ask.headers = parts.headers;
    if ask.method == Method::PUT || ask.method == Method::POST {
        ask.body = request::bytes_of(&ask.headers, body, BODY_MAX).await?;
    }
    match segments.as_slice() {
        ["agent", rest @ ..] => ask.agent(rest).await,
        ["catalog", rest @ ..] => ask.catalog(rest).await,
        ["health", rest @ ..] => ask.health(rest).await,
        ["event", rest @ ..] => ask.event(rest).await,
        ["query", rest @ ..] => ask.query(rest).await,
        _ => ask.operator(&segments).await,
    }
}

/// 404 for a path that Consul does not have, or that is not here.
fn no_endpoint() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "Invalid URL path: not a recognized HTTP API endpoint")
}

impl<'a> Ask<'a> {
    /// A request with this query; headers and body are to be put in.
    ///
    /// # Errors
    /// Those of [`Params::read`].
    fn new(cx: &'a Cx<'a>, method: Method, query: &str) -> Result<Ask<'a>, Failure> {
        let params = Params::read(query, &cx.node.config.consul.datacenter)?;
        Ok(Ask::with(cx, method, params))
    }

    /// The same with parameters that were read before.
    fn with(cx: &'a Cx<'a>, method: Method, params: Params) -> Ask<'a> {
        let services = cx.node.registry.services(cx.vhost());
        Ask { cx, services, method, headers: HeaderMap::new(), params, body: Bytes::new() }
    }
}

impl Ask<'_> {
    /// Refuses other methods.
    fn must_be(&self, method: Method, allowed: &'static str) -> Result<(), Failure> {
        if self.method == method { Ok(()) } else { Err(Failure::wrong_method(allowed)) }
    }

    /// This server, and what it calls its data center.
    fn scene(&self) -> Scene {
        Scene { datacenter: self.cx.node.config.consul.datacenter.as_str().into(), own: self.services.own_node() }
    }

    fn now(&self) -> waypost_model::Millis {
        self.cx.node.clock.now()
    }

    /// In whose name something is registered; empty for whoever runs the server.
    fn owner(&self) -> &str {
        match &self.cx.who {
            Who::User { name, .. } => name,
            Who::Operator | Who::Anyone => "",
        }
    }

    /// Whether who asks sees only some services.
    fn is_restricted(&self) -> bool {
        matches!(self.cx.who, Who::User { administrator: false, .. })
    }

    /// Whether who asks may see a service.
    fn sees(&self, service: &str) -> bool {
        !self.is_restricted() || self.cx.may_service(self.cx.vhost(), Access::Read, service).is_ok()
    }

    /// Whether who asks may be an instance of a service, and change what is registered of it.
    ///
    /// # Errors
    /// 403.
    fn may_change(&self, service: &str, id: &str) -> Result<(), Failure> {
        self.cx.may(self.cx.vhost(), Access::Configure, Resource::Queue, id)?;
        self.may_see(service)
    }

    /// Whether who asks may see a service.
    ///
    /// # Errors
    /// 403.
    fn may_see(&self, service: &str) -> Result<(), Failure> {
        if !self.is_restricted() {
            return Ok(());
        }
        Ok(self.cx.may_service(self.cx.vhost(), Access::Read, service)?)
    }

    /// The answer to a change, once it is durable: nothing.
    async fn changed(&self, lsn: Option<Lsn>) -> Result<Answer, Failure> {
        self.cx.durable(lsn).await?;
        Ok(Response::new(Body::default()))
    }

    /// JSON that is no read of the catalog: it has no index.
    fn told(&self, body: Bytes) -> Answer {
        let body = if self.params.other("pretty").is_some() { read::pretty(&body) } else { body };
        let mut answer = Response::new(Body::Whole(body));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }
}
