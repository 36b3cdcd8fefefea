//! Which page a path names, and what it asks of those who come.
//!
//! A face is a function `async fn answer(cx: &Cx<'_>, request: Request<Incoming>) -> Result<Answer, Failure>` in a module of
//! its own. It runs on the workers and never blocks one: what may take long goes through [`HttpListener::aside`], what
//! waits is a future (see [`Cx::patience`]; it is dropped when the client goes), what goes on is a stream (see
//! [`super::sse`]). Failures are told as JSON; a face whose protocol has another form makes answers of them itself.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request};

use super::auth::{Need, who};
use super::body::Answer;
use super::cx::{Cx, StopSeenBy};
use super::express::{Head, Verdict};
use super::request::{Failure, Peer};
use super::{HttpListener, api, config, consul, consul_kv, verbs};

/// The faces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Face {
    /// Values under keys: `/api/v1/config`.
    Config,
    /// Consul's way to them: `/v1/kv`, `/v1/txn`, `/v1/session`.
    ConsulKv,
    /// Management: `/api/v1/…` but for what others take.
    Management,
    /// Consul's API: `/v1/…` but for what others take.
    Consul,
    /// Prometheus' `http_sd`.
    PrometheusSd,
    /// Envoy's `EDS`.
    EnvoyEds,
    /// `/api/v1/services…`, tokens, and what describes them.
    Services,
    /// `/register`, `/query`, `/deregister`.
    Verbs,
}

impl Face {
    /// Whose a path is.
    fn of(path: &str) -> Option<Face> {
        let below = |prefix: &str| path.strip_prefix(prefix).is_some_and(|r| r.is_empty() || r.starts_with('/'));
        if matches!(path, "/register" | "/query" | "/deregister") {
            return Some(Face::Verbs);
        }
        if below("/api/v1/services") || matches!(path, "/api/v1/tokens" | "/api/v1/openapi.json") {
            return Some(Face::Services);
        }
        if below("/api/v1/config") {
            return Some(Face::Config);
        }
        if ["/v1/kv", "/v1/txn", "/v1/session"].into_iter().any(below) {
            return Some(Face::ConsulKv);
        }
        match path {
            consul::discovery::HTTP_SD => Some(Face::PrometheusSd),
            consul::discovery::EDS => Some(Face::EnvoyEds),
            _ if below("/api/v1") => Some(Face::Management),
            _ if below("/v1") => Some(Face::Consul),
            _ => None,
        }
    }

    /// What it asks of those who come. Where [`Need::Nothing`] comes out, off-loopback clients without credentials are let
    /// in as [`super::auth::Who::Anyone`]: only what shows the registry may be so.
    fn need(self, method: &Method, path: &str) -> Need {
        match self {
            // Whoever has a name may learn it.
            Face::Management if path == "/api/v1/whoami" => Need::User,
            // Values may be secrets.
            Face::Config | Face::ConsulKv => Need::User,
            Face::Management => Need::Management,
            // What was fired is a message, with what it carries.
            Face::Consul if path == "/v1/event" || path.starts_with("/v1/event/") => Need::User,
            Face::Consul if matches!(*method, Method::GET | Method::HEAD) => Need::Nothing,
            Face::Consul => Need::User,
            Face::PrometheusSd | Face::EnvoyEds => Need::Nothing,
            Face::Services => Need::User,
            Face::Verbs if path == "/query" => Need::Nothing,
            Face::Verbs => Need::User,
        }
    }
}

/// Finds the face, sees who comes, and has it answer.
pub(super) async fn answer(listener: &HttpListener, request: Request<Incoming>, peer: Peer) -> Result<Answer, Failure> {
    let path = request.uri().path();
    let face = Face::of(path).ok_or_else(Failure::no_page)?;
    let need = face.need(request.method(), path);
    let who = who(&listener.node, listener.address, request.headers(), peer, need)?;
    let cx = Cx { node: &listener.node, listener, who, stop_seen_by: StopSeenBy::Wait };
    // Futures are moved to where they run: those that are large and seldom must not make the frequent ones large.
    match face {
        Face::Config => Box::pin(config::answer(&cx, request)).await,
        Face::ConsulKv => Box::pin(consul_kv::answer(&cx, request)).await,
        Face::Management => Box::pin(api::answer(&cx, request)).await,
        Face::Consul => consul::answer(&cx, request).await,
        Face::PrometheusSd => Box::pin(consul::discovery::http_sd(&cx, request)).await,
        Face::EnvoyEds => Box::pin(consul::discovery::eds(&cx, request)).await,
        Face::Services => Box::pin(api::services::answer(&cx, request)).await,
        Face::Verbs => Box::pin(verbs::answer(&cx, request)).await,
    }
}

/// Answers a frequent request as [`answer`] would; `None` if it is none of them, or is to be refused.
pub(super) fn express(listener: &Arc<HttpListener>, head: &Head<'_>, body: &[u8], peer: Peer) -> Option<Verdict> {
    let hot = consul::Hot::of(head.method, head.path)?;
    let face = Face::Consul;
    let need = if hot.is_look() { face.need(&Method::GET, head.path) } else { face.need(&Method::PUT, head.path) };
    let who = who(&listener.node, listener.address, &head.headers, peer, need).ok()?;
    consul::express(listener, who, hot, head, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_see_the_registry_and_no_messages() {
        let need = |path: &str| Face::of(path).unwrap().need(&Method::GET, path);
        for open in ["/v1/catalog/services", "/v1/health/service/cart", "/v1/eventual", "/query"] {
            assert_eq!(need(open), Need::Nothing, "{open}");
        }
        for closed in ["/v1/event/list", "/v1/event", "/v1/kv/a", "/api/v1/services/cart", "/api/v1/whoami"] {
            assert_eq!(need(closed), Need::User, "{closed}");
        }
        assert_eq!(Face::of("/v1/health/state/any").unwrap().need(&Method::PUT, "/v1/health/state/any"), Need::User);
        assert_eq!(need("/api/v1/queues"), Need::Management);
    }
}
