//! The requests that clients send again and again, answered without what the others need.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderMap;
use waypost_model::Lsn;

use super::super::HttpListener;
use super::super::auth::Who;
use super::super::cx::{Cx, StopSeenBy};
use super::super::express::{Head, Reply, Verdict, wire};
use super::super::request::Failure;
use super::health::HEALTH;
use super::params::Params;
use super::read::Page;
use super::{Ask, definitions, in_words};

/// The head of an answer that says only that it was done.
const EMPTY_OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n";

/// A frequent request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Hot<'a> {
    /// The instances of a service: `GET /v1/health/service/…`
    Lookup(&'a str),
    /// A heartbeat: `PUT /v1/agent/check/pass/…`
    Beat(&'a str),
    /// A registration: `PUT /v1/agent/service/register`
    Register,
    /// One on behalf of somebody: `PUT /v1/catalog/register`
    RegisterOther,
}

impl<'a> Hot<'a> {
    /// Which a request is, if any.
    pub(in crate::http) fn of(method: &str, path: &'a str) -> Option<Hot<'a>> {
        let is_simple = |rest: &&str| !rest.is_empty() && !rest.contains(['%', '/']);
        let path = path.strip_prefix("/v1/")?;
        match method {
            "GET" => path.strip_prefix("health/service/").filter(is_simple).map(Hot::Lookup),
            "PUT" if path == "agent/service/register" => Some(Hot::Register),
            "PUT" if path == "catalog/register" => Some(Hot::RegisterOther),
            "PUT" => path.strip_prefix("agent/check/pass/").filter(is_simple).map(Hot::Beat),
            _ => None,
        }
    }

    /// Whether it changes nothing.
    pub(in crate::http) fn is_look(self) -> bool {
        matches!(self, Hot::Lookup(_))
    }
}

/// Answers one; `None` if it is not as they usually are.
pub(in crate::http) fn express(
    listener: &Arc<HttpListener>,
    who: Who,
    hot: Hot<'_>,
    head: &Head<'_>,
    body: &[u8],
) -> Option<Verdict> {
    let cx = Cx { node: &listener.node, listener, who, stop_seen_by: StopSeenBy::Connection };
    let mut ask = Ask::new(&cx, if hot.is_look() { Method::GET } else { Method::PUT }, head.query).ok()?;
    match hot {
        Hot::Lookup(service) => {
            ask.headers = head.headers.clone();
            if let Some(known) = ask.lookup_known(service) {
                return Some(Verdict::Now(known));
            }
            let (service, params, headers) = (service.to_owned(), ask.params, ask.headers);
            Some(Verdict::Later(Box::pin(lookup(Arc::clone(listener), cx.who, service, params, headers))))
        }
        Hot::Beat(check) => {
            body.is_empty().then(|| ask.beat(check))??;
            Some(Verdict::Now(Reply::Known { head: Bytes::from_static(EMPTY_OK), body: Bytes::new() }))
        }
        Hot::Register => {
            let done = ask.agent_register(body).map(Some);
            Some(registered(listener, done, Reply::Known { head: Bytes::from_static(EMPTY_OK), body: Bytes::new() }))
        }
        Hot::RegisterOther => {
            let done = ask.catalog_register(body);
            Some(registered(listener, done, Reply::New(ask.told("true".into()))))
        }
    }
}

/// The answer to a registration: at once if it was refused, else once it is durable.
fn registered(listener: &Arc<HttpListener>, done: Result<Option<Lsn>, Failure>, reply: Reply) -> Verdict {
    match done {
        Err(failure) => Verdict::Now(Reply::New(in_words(failure))),
        Ok(lsn) => {
            let listener = Arc::clone(listener);
            Verdict::Later(Box::pin(async move {
                if listener.node.reached(lsn).await { reply } else { Reply::New(in_words(Failure::not_durable())) }
            }))
        }
    }
}

async fn lookup(listener: Arc<HttpListener>, who: Who, service: String, params: Params, headers: HeaderMap) -> Reply {
    let cx = Cx { node: &listener.node, listener: &listener, who, stop_seen_by: StopSeenBy::Connection };
    let ask = Ask { headers, ..Ask::with(&cx, Method::GET, params) };
    match ask.health_page(&service).await {
        Ok(Some((page, index))) => ask.reply(&page, index),
        Ok(None) => Reply::New(ask.health_of_none()),
        Err(failure) => Reply::New(in_words(failure)),
    }
}

impl Ask<'_> {
    /// The answer to a lookup that need not wait, if somebody has asked it since the service changed.
    fn lookup_known(&self, service: &str) -> Option<Reply> {
        let service = definitions::service_name(service).ok()?;
        self.may_see(&service).ok()?;
        let (page, index) = self.known(&service, &self.params.key(HEALTH))?;
        Some(self.reply(&page, index))
    }

    /// A page, encoded once for all who ask for it in the same way.
    fn reply(&self, page: &Page, index: u64) -> Reply {
        if self.params.other("pretty").is_some() {
            return Reply::New(self.shared(&page.rendered, index));
        }
        let (form, body) = page.rendered.form(&self.headers);
        let answer = || wire::parts(self.shared(&page.rendered, index)).map(|(head, _)| head).unwrap_or_default();
        Reply::Known { head: page.head(form, self.params.consistency, answer), body: body.clone() }
    }
}
