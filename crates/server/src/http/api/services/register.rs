//! Coming, staying and going of instances.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use waypost_broker::topology::{Access, Resource};
use waypost_model::service::{Health, Instance, Version, mailbox_name};
use waypost_registry::services::{CheckKind, CheckSpec, Detail, HttpProbe, Push, PushFormat, Registration, Source};

use super::super::super::body::Answer;
use super::super::super::json;
use super::super::super::request::{self, Failure};
use super::{Ask, no_instance, only, refused};
use crate::config::Setting;

/// Largest description of an instance, bytes: twice what the limits of its parts allow for.
const BODY_MAX: u64 = 256 * 1024;

/// A length of time in JSON.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(pub(super) u64);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Span, D::Error> {
        let text = String::deserialize(from)?;
        let span = Duration::read(&[text]).map_err(D::Error::custom)?;
        Ok(Span(super::millis(span)))
    }
}

/// What is written as an object. A derived reader takes arrays as well, member by member.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Object<T>, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(Object)
            }
        }
        from.deserialize_map(Members(PhantomData))
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct InstanceBody {
    address: Option<String>,
    port: u16,
    version: Option<String>,
    zone: String,
    tags: Vec<String>,
    meta: BTreeMap<String, String>,
    weight: Option<u16>,
    warning_weight: Option<u16>,
    max_in_flight: Option<u32>,
    ttl: Option<Span>,
    checks: Vec<Object<CheckBody>>,
    push: Option<Object<PushBody>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckBody {
    id: Option<String>,
    name: Option<String>,
    notes: Option<String>,
    http: Option<String>,
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    tcp: Option<String>,
    ttl: Option<Span>,
    interval: Option<Span>,
    timeout: Option<Span>,
    success_before_passing: Option<u16>,
    failures_before_warning: Option<u16>,
    failures_before_critical: Option<u16>,
    deregister_after: Option<Span>,
    initial: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PushBody {
    url: String,
    secret: Option<String>,
    concurrency: Option<u16>,
    timeout: Option<Span>,
    format: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct MaintenanceBody {
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportBody {
    status: String,
    #[serde(default)]
    output: String,
}

impl Ask<'_> {
    /// Whether who asks may be or command an instance: to claim an id is to configure it.
    pub(super) fn may_claim(&self, service: &str, id: &str) -> Result<(), Failure> {
        self.cx.may_claim(&self.vhost, id)?;
        Ok(self.cx.may_service(&self.vhost, Access::Read, service)?)
    }

    pub(super) async fn register(
        &self,
        service: &str,
        id: &str,
        request: Request<Incoming>,
    ) -> Result<Answer, Failure> {
        only(request.uri(), &[])?;
        self.may_claim(service, id)?;
        let body: InstanceBody = read(request).await?;
        if body.push.is_some() {
            // Its messages are taken out of the mailbox for it.
            self.cx.may(&self.vhost, Access::Read, Resource::Queue, &mailbox_name(service))?;
        }
        let pushes = body.push.is_some();
        let registration = self.registration(id, body)?;
        let now = self.cx.node.clock.now();
        let done = self.services.register(service, registration, now).map_err(refused)?;
        if pushes {
            self.cx.node.pushes.follow(&self.vhost);
        }
        self.cx.durable(Some(done.lsn)).await?;
        let status = if done.created { StatusCode::CREATED } else { StatusCode::OK };
        Ok(json::answer(
            status,
            &json!({ "service": service, "id": id, "created": done.created, "changed": done.changed }),
        ))
    }

    fn registration(&self, id: &str, body: InstanceBody) -> Result<Registration, Failure> {
        let version = body.version.map(|v| v.parse::<Version>());
        let version =
            version.transpose().map_err(|e| Failure::bad(format!("`version` is not in semver's form: {e}")))?;
        if body.max_in_flight == Some(0) {
            return Err(Failure::bad("`max_in_flight` is at least 1; leave it out for no limit"));
        }
        let push = body.push.map(|push| self.push(push.0)).transpose()?;
        let instance = Instance {
            address: body.address.filter(|a| !a.is_empty()).map(Into::into),
            port: body.port,
            version: version.map(Arc::new),
            zone: body.zone.into(),
            tags: body.tags.into_iter().map(Into::into).collect(),
            meta: body.meta.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
            weight: body.weight.unwrap_or(1),
            max_in_flight: body.max_in_flight,
            ..Instance::new(id)
        };
        let checks = body.checks.into_iter().enumerate();
        let checks: Vec<CheckSpec> =
            checks.map(|(i, check)| check.0.spec(i)).collect::<Result<_, _>>().map_err(Failure::bad)?;
        self.cx.may_check(&checks)?;
        let detail = Detail { push, warning_weight: body.warning_weight, ..Detail::default() };
        let lease_ms = body.ttl.map(|ttl| ttl.0);
        Ok(Registration { lease_ms, checks, detail, ..Registration::new(instance, self.cx.who.owner(), Source::Api) })
    }

    fn push(&self, body: PushBody) -> Result<Arc<Push>, Failure> {
        let format = match body.format.as_deref() {
            None | Some("headers") => PushFormat::Headers,
            Some("cloudevents") => PushFormat::CloudEvents,
            Some(_) => return Err(Failure::bad("`format` of `push` must be headers or cloudevents")),
        };
        crate::push::check(&body.url, &self.cx.node.config).map_err(Failure::bad)?;
        let timeout_ms = body.timeout.map_or(crate::push::TIMEOUT_MS, |t| u32::try_from(t.0).unwrap_or(u32::MAX));
        if !(1..=crate::push::TIMEOUT_MS_MAX).contains(&timeout_ms) {
            return Err(Failure::bad("`timeout` of `push` must be 1ms to 10m"));
        }
        Ok(Arc::new(Push {
            url: body.url.into(),
            secret: body.secret.map(Into::into),
            concurrency: body.concurrency.unwrap_or(crate::push::CONCURRENCY),
            timeout_ms,
            format,
        }))
    }

    pub(super) async fn deregister(
        &self,
        service: &str,
        id: &str,
        request: &Request<Incoming>,
    ) -> Result<Answer, Failure> {
        only(request.uri(), &[])?;
        self.may_claim(service, id)?;
        let lsn = self.services.deregister(service, id, self.cx.node.clock.now());
        self.done_to(service, id, lsn).await
    }

    pub(super) fn heartbeat(&self, service: &str, id: &str, request: &Request<Incoming>) -> Result<Answer, Failure> {
        only(request.uri(), &[])?;
        self.may_claim(service, id)?;
        if self.services.heartbeat(service, id, self.cx.node.clock.now()) {
            Ok(json::empty(StatusCode::NO_CONTENT))
        } else {
            // Whoever is told so registers again.
            Err(no_instance(service, id))
        }
    }

    pub(super) async fn maintain(
        &self,
        service: &str,
        id: &str,
        request: Request<Incoming>,
    ) -> Result<Answer, Failure> {
        only(request.uri(), &[])?;
        self.may_claim(service, id)?;
        let body: MaintenanceBody = read(request).await?;
        let lsn = self.services.maintain(service, id, Some(&body.reason), self.cx.node.clock.now());
        self.done_to(service, id, lsn).await
    }

    pub(super) async fn resume(&self, service: &str, id: &str, request: &Request<Incoming>) -> Result<Answer, Failure> {
        only(request.uri(), &[])?;
        self.may_claim(service, id)?;
        let lsn = self.services.maintain(service, id, None, self.cx.node.clock.now());
        self.done_to(service, id, lsn).await
    }

    pub(super) async fn report(
        &self,
        service: &str,
        id: &str,
        check: &str,
        request: Request<Incoming>,
    ) -> Result<Answer, Failure> {
        only(request.uri(), &[])?;
        self.may_claim(service, id)?;
        let body: ReportBody = read(request).await?;
        let status = health(&body.status).map_err(Failure::bad)?;
        if self.services.report(service, id, check, status, &body.output, self.cx.node.clock.now()) {
            Ok(json::empty(StatusCode::NO_CONTENT))
        } else {
            let what = format!("instance '{id}' of service '{service}' has no check '{check}' that is reported");
            Err(Failure::new(StatusCode::NOT_FOUND, what))
        }
    }
}

/// Reads a body; none is as `{}`.
pub(super) async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Failure> {
    let bytes = request::bytes(request, BODY_MAX).await?;
    let bytes = if bytes.is_empty() { &b"{}"[..] } else { &bytes };
    let Object(body) = serde_json::from_slice(bytes).map_err(|e| Failure::bad(format!("the body: {e}")))?;
    Ok(body)
}

fn health(text: &str) -> Result<Health, String> {
    match text {
        "passing" => Ok(Health::Passing),
        "warning" => Ok(Health::Warning),
        "critical" => Ok(Health::Critical),
        _ => Err(format!("`{text}` is no status: passing, warning or critical")),
    }
}

impl CheckBody {
    /// How often the server looks, if nothing is said.
    const INTERVAL_MS: u64 = 10_000;
    /// How long it waits.
    const TIMEOUT_MS: u64 = 10_000;

    fn spec(self, number: usize) -> Result<CheckSpec, String> {
        let id = self.id.clone().unwrap_or_else(|| format!("check-{}", number + 1));
        let mut spec = CheckSpec::new(id.as_str(), self.kind(&id)?);
        if let Some(name) = self.name {
            spec.name = name.into();
        }
        spec.notes = self.notes.unwrap_or_default().into();
        spec.success_before_passing = self.success_before_passing.unwrap_or(spec.success_before_passing);
        spec.failures_before_warning = self.failures_before_warning.unwrap_or(spec.failures_before_warning);
        spec.failures_before_critical = self.failures_before_critical.unwrap_or(spec.failures_before_critical);
        spec.deregister_after_ms = self.deregister_after.map(|span| span.0);
        if let Some(initial) = self.initial {
            spec.initial = health(&initial)?;
        }
        Ok(spec)
    }

    fn kind(&self, id: &str) -> Result<CheckKind, String> {
        let of_http = self.method.is_some() || !self.headers.is_empty() || self.body.is_some();
        let of_server = self.interval.is_some() || self.timeout.is_some();
        let interval_ms = self.interval.map_or(Self::INTERVAL_MS, |span| span.0);
        let timeout_ms = self.timeout.map_or(Self::TIMEOUT_MS, |span| span.0);
        let misplaced = |what| Err(format!("check `{id}`: {what}"));
        match (&self.http, &self.tcp, self.ttl) {
            (Some(url), None, None) => Ok(CheckKind::Http(Box::new(HttpProbe {
                url: url.as_str().into(),
                method: self.method.as_deref().unwrap_or("GET").into(),
                headers: self.headers.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
                body: self.body.as_deref().unwrap_or_default().into(),
                interval_ms,
                timeout_ms,
            }))),
            _ if of_http => misplaced("`method`, `headers` and `body` belong to `http`"),
            (None, Some(address), None) => {
                Ok(CheckKind::Tcp { address: address.as_str().into(), interval_ms, timeout_ms })
            }
            _ if of_server => misplaced("`interval` and `timeout` belong to `http` and `tcp`"),
            (None, None, Some(ttl)) => Ok(CheckKind::Ttl { ttl_ms: ttl.0 }),
            (None, None, None) => Ok(CheckKind::Manual),
            _ => misplaced("only one of `http`, `tcp` and `ttl`"),
        }
    }
}
