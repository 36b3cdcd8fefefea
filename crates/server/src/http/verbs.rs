//! The three plain verbs: `POST /register`, `GET /query`, `POST /deregister`, in JSON or as a form, for shell scripts and
//! for clients of small registries. The id of an instance is `name-address-port`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value as Json, json};
use waypost_broker::topology::Access;
use waypost_model::service::{Instance, Version, is_service_name};
use waypost_model::{Refusal, RefusalKind};
use waypost_registry::services::{Registration, ServiceView, Source};

use super::body::{Answer, Body};
use super::cx::Cx;
use super::rendered::Rendered;
use super::request::{self, Failure};
use super::text;
use crate::config::Setting;

/// Largest body, bytes.
const BODY_MAX: u64 = 64 * 1024;

const PLAIN: &str = "text/plain; charset=utf-8";

/// What a verb is told.
#[derive(Debug, Default)]
struct Given {
    name: String,
    address: String,
    port: u16,
    version: Option<String>,
    zone: String,
    tags: Vec<String>,
    meta: BTreeMap<String, String>,
    ttl: Option<String>,
}

/// All usable instances, made once per snapshot.
struct All(Rendered);

/// Answers one of the verbs.
pub(super) async fn answer(cx: &Cx<'_>, request: Request<Incoming>) -> Result<Answer, Failure> {
    match (request.uri().path(), request.method()) {
        ("/query", &Method::GET | &Method::HEAD) => query(cx, &request),
        ("/query", _) => Err(Failure::wrong_method("GET")),
        ("/register", &Method::POST | &Method::PUT) => register(cx, request).await,
        ("/deregister", &Method::POST | &Method::PUT) => deregister(cx, request).await,
        _ => Err(Failure::wrong_method("POST")),
    }
}

fn query(cx: &Cx<'_>, request: &Request<Incoming>) -> Result<Answer, Failure> {
    let (mut name, mut all) = (None, false);
    for (key, value) in request::pairs(request.uri()) {
        match (key.as_str(), value.as_str()) {
            ("service_name", _) => name = Some(value),
            ("all", "true" | "1") => all = true,
            ("all", "false" | "0") => all = false,
            _ => return Err(Failure::bad(format!("unknown parameter `{key}`, or a value that it does not have"))),
        }
    }
    let name = checked(name.ok_or_else(|| Failure::bad("`service_name` is missing"))?)?;
    cx.may_service(cx.vhost(), Access::Read, &name)?;
    let services = cx.services(cx.vhost())?;
    if all {
        let view = services.view(&name);
        return Ok(view.derived(|view| All(Rendered::new("application/json", list(view)))).0.answer(request.headers()));
    }
    // Who consumes is known to be busy or not.
    let load = |i: &Instance| cx.node.broker.in_flight(cx.vhost(), &name, &i.id);
    let chosen = services.choose(&name, Some(&load));
    let place = chosen.as_ref().and_then(|one| Some(at(one.address()?, one.instance.port)));
    let place = place.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("no healthy instance of '{name}'")))?;
    let mut answer = Response::new(Body::Whole(Bytes::from(place)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PLAIN));
    Ok(answer)
}

fn list(view: &ServiceView) -> Bytes {
    let usable = view.instances.iter().filter(|one| one.is_usable());
    let all: Vec<Json> = usable
        .filter_map(|one| {
            let (i, address) = (&one.instance, one.address()?);
            let meta: BTreeMap<&str, &str> = i.meta.iter().map(|(k, v)| (&**k, &**v)).collect();
            Some(json!({
                "id": &*i.id, "service_name": &*view.name.service, "service_address": address, "service_port": i.port,
                "version": i.version.as_ref().map(ToString::to_string), "zone": &*i.zone,
                "tags": i.tags.iter().map(|t| &**t).collect::<Vec<_>>(), "meta": meta,
                "status": one.standing.health.as_str(), "weight": one.weight(),
            }))
        })
        .collect();
    Bytes::from(Json::Array(all).to_string() + "\n")
}

/// `address:port`, IPv6 in brackets; without a port the address alone.
fn at(address: &str, port: u16) -> String {
    match (address.contains(':'), port) {
        (false, 0) => address.to_owned(),
        (true, 0) => format!("[{address}]"),
        (false, port) => format!("{address}:{port}"),
        (true, port) => format!("[{address}]:{port}"),
    }
}

async fn register(cx: &Cx<'_>, request: Request<Incoming>) -> Result<Answer, Failure> {
    let given = read(request).await?;
    let id = given.id();
    cx.may_claim(cx.vhost(), &id)?;
    cx.may_service(cx.vhost(), Access::Read, &given.name)?;
    let version = given.version.as_deref().map(str::parse::<Version>).transpose();
    let instance = Instance {
        address: Some(given.address.as_str().into()),
        port: given.port,
        version: version.map_err(|e| Failure::bad(format!("`version` is not in semver's form: {e}")))?.map(Arc::new),
        zone: given.zone.as_str().into(),
        tags: given.tags.iter().map(|t| t.as_str().into()).collect(),
        meta: given.meta.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
        ..Instance::new(id)
    };
    let lease_ms = given.ttl.as_deref().map(ttl).transpose()?;
    let registration = Registration { lease_ms, ..Registration::new(instance, cx.who.owner(), Source::Plain) };
    let services = cx.services(cx.vhost())?;
    let done = services.register(&given.name, registration, cx.node.clock.now()).map_err(refused)?;
    cx.durable(Some(done.lsn)).await?;
    Ok(text(StatusCode::OK, PLAIN, "OK".to_owned()))
}

async fn deregister(cx: &Cx<'_>, request: Request<Incoming>) -> Result<Answer, Failure> {
    let given = read(request).await?;
    let id = given.id();
    cx.may_claim(cx.vhost(), &id)?;
    let lsn = cx.services(cx.vhost())?.deregister(&given.name, &id, cx.node.clock.now()).map_err(refused)?;
    let lsn = lsn.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("no instance '{id}'")))?;
    cx.durable(Some(lsn)).await?;
    Ok(text(StatusCode::OK, PLAIN, "OK".to_owned()))
}

fn refused(refusal: Refusal) -> Failure {
    match refusal.kind {
        RefusalKind::PreconditionFailed => Failure::bad(refusal.text),
        RefusalKind::ResourceError => Failure::new(StatusCode::INSUFFICIENT_STORAGE, refusal.text),
        _ => refusal.into(),
    }
}

fn checked(name: String) -> Result<String, Failure> {
    if is_service_name(&name) {
        Ok(name)
    } else {
        Err(Failure::bad(format!("`{name}` is no name of a service: 1 to 63 of a-z, 0-9 and -")))
    }
}

/// A lease: `15s`, or a number of seconds.
fn ttl(text: &str) -> Result<u64, Failure> {
    let text = if text.bytes().all(|b| b.is_ascii_digit()) { format!("{text}s") } else { text.to_owned() };
    let span = std::time::Duration::read(&[text]).map_err(|why| Failure::bad(format!("`ttl`: {why}")))?;
    Ok(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

async fn read(request: Request<Incoming>) -> Result<Given, Failure> {
    let is_form = is_form(request.headers());
    let mut pairs: Vec<(String, Json)> =
        request::pairs(request.uri()).map(|(key, value)| (key, Json::String(value))).collect();
    let body = request::bytes(request, BODY_MAX).await?;
    // What curl says of its bodies unless it is told otherwise.
    if is_form && !body.trim_ascii_start().starts_with(b"{") {
        let body = std::str::from_utf8(&body).map_err(|_| Failure::bad("the form is no UTF-8"))?;
        pairs.extend(request::form(body).map(|(key, value)| (key, Json::String(value))));
    } else if !body.is_empty() {
        match serde_json::from_slice(&body).map_err(|e| Failure::bad(format!("the body is no JSON: {e}")))? {
            Json::Object(map) => pairs.extend(map),
            _ => return Err(Failure::bad("the body must be an object")),
        }
    }
    let mut given = Given::default();
    for (key, value) in pairs {
        given.set(&key, value)?;
    }
    if given.address.is_empty() {
        return Err(Failure::bad("`service_address` is missing"));
    }
    if given.port == 0 {
        return Err(Failure::bad("`service_port` is missing"));
    }
    given.name = checked(std::mem::take(&mut given.name))?;
    Ok(given)
}

fn is_form(headers: &HeaderMap) -> bool {
    let media = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()?.split(';').next());
    media.is_some_and(|m| m.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}

impl Given {
    fn id(&self) -> String {
        format!("{}-{}-{}", self.name, self.address, self.port)
    }

    fn set(&mut self, key: &str, value: Json) -> Result<(), Failure> {
        let wrong = || Failure::bad(format!("`{key}` has no such value"));
        match key {
            "service_name" => self.name = word(value).ok_or_else(wrong)?,
            "service_address" => self.address = word(value).ok_or_else(wrong)?,
            "service_port" => self.port = word(value).and_then(|v| v.parse().ok()).ok_or_else(wrong)?,
            "version" => self.version = word(value).filter(|v| !v.is_empty()),
            "zone" => self.zone = word(value).ok_or_else(wrong)?,
            "ttl" => self.ttl = word(value).filter(|v| !v.is_empty()),
            "tags" => self.tags = words(value).ok_or_else(wrong)?,
            "meta" => self.meta = dictionary(value).ok_or_else(wrong)?,
            _ => return Err(Failure::bad(format!("unknown field `{key}`"))),
        }
        Ok(())
    }
}

/// A text; numbers as their digits.
fn word(value: Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text),
        Json::Number(number) => Some(number.to_string()),
        Json::Null => Some(String::new()),
        _ => None,
    }
}

/// A list, or a text with commas.
fn words(value: Json) -> Option<Vec<String>> {
    match value {
        Json::Array(items) => items.into_iter().map(word).collect(),
        other => Some(word(other)?.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect()),
    }
}

/// An object, one as text, or `key=value` with commas.
fn dictionary(value: Json) -> Option<BTreeMap<String, String>> {
    match value {
        Json::Object(map) => map.into_iter().map(|(k, v)| Some((k, word(v)?))).collect(),
        Json::String(text) if text.trim_start().starts_with('{') => dictionary(serde_json::from_str(&text).ok()?),
        other => {
            let pairs = words(other)?;
            pairs.iter().map(|p| p.split_once('=').map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_their_ports() {
        assert_eq!(at("10.0.0.1", 80), "10.0.0.1:80");
        assert_eq!(at("::1", 80), "[::1]:80");
        assert_eq!(at("host", 0), "host");
    }

    #[test]
    fn values_come_in_several_forms() {
        assert_eq!(words(json!("a, b,")).unwrap(), ["a", "b"]);
        assert_eq!(words(json!(["a", 1])).unwrap(), ["a", "1"]);
        let want = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        for form in [json!({ "k": "v" }), json!("{\"k\":\"v\"}"), json!("k=v")] {
            assert_eq!(dictionary(form).unwrap(), want);
        }
        assert_eq!((ttl("15").unwrap(), ttl("500ms").unwrap()), (15_000, 500));
        assert!(ttl("soon").is_err());
    }
}
