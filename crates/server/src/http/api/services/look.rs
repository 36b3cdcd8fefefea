//! Listing and showing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, body::Incoming};
use serde_json::{Value as Json, json};
use waypost_registry::services::{CheckKind, CheckView, Listed, PushFormat, ServiceView, Summary};

use super::super::super::body::Answer;
use super::super::super::rendered::Rendered;
use super::super::super::request::Failure;
use super::super::super::sse;
use super::{Ask, no_instance, ok, only};

/// The index of what is shown, for long polls.
pub(super) const INDEX: HeaderName = HeaderName::from_static("waypost-index");

const JSON: &str = "application/json";

/// A service's page, made once per snapshot.
struct Page(Rendered);

impl Ask<'_> {
    pub(super) async fn list(&self, request: &Request<Incoming>) -> Result<Answer, Failure> {
        if sse::wanted(request.headers()) {
            return self.watch_all(request);
        }
        only(request.uri(), &["index", "wait"])?;
        let index = self.wait_for_list(request.uri()).await?;
        // Messages may wait for a service that has no instance, and instances need no mailbox.
        let mut all: BTreeMap<Arc<str>, Json> = BTreeMap::new();
        for (name, waiting) in self.cx.node.broker.waiting(&self.vhost) {
            let mut shown = summary(&Summary { name: Arc::clone(&name), ..Summary::default() });
            shown["waiting"] = json!(waiting);
            all.insert(name, shown);
        }
        for known in self.services.summaries() {
            let mut shown = summary(&known);
            shown["waiting"] = all.get(&*known.name).map_or(json!(0), |before| before["waiting"].clone());
            all.insert(Arc::clone(&known.name), shown);
        }
        let seen = all.into_iter().filter(|(name, _)| self.may_see(name).is_ok());
        let mut answer = ok(&seen.map(|(_, shown)| shown).collect());
        answer.headers_mut().insert(INDEX, HeaderValue::from(index));
        Ok(answer)
    }

    pub(super) async fn show(&self, service: &str, request: &Request<Incoming>) -> Result<Answer, Failure> {
        self.may_see(service)?;
        if sse::wanted(request.headers()) {
            return self.watch(service, request);
        }
        only(request.uri(), &["index", "wait"])?;
        let view = self.wait_for_service(service, request.uri()).await?;
        if !view.is_known() && request.uri().query().is_none_or(|q| !q.contains("index=")) {
            return Err(Failure::new(hyper::StatusCode::NOT_FOUND, format!("no service '{service}'")));
        }
        Ok(page(&view, request.headers()))
    }

    pub(super) fn instance(&self, service: &str, id: &str, request: &Request<Incoming>) -> Result<Answer, Failure> {
        only(request.uri(), &[])?;
        self.may_see(service)?;
        let view = self.services.view(service);
        Ok(ok(&instance(view.instance(id).ok_or_else(|| no_instance(service, id))?)))
    }
}

fn page(view: &ServiceView, asked: &HeaderMap) -> Answer {
    let page = view.derived(|view| Page(Rendered::new(JSON, text(view))));
    let mut answer = page.0.answer(asked);
    answer.headers_mut().insert(INDEX, HeaderValue::from(view.index));
    answer
}

/// The text of a service's page.
pub(super) fn text(view: &ServiceView) -> Bytes {
    let instances: Vec<Json> = view.instances.iter().map(instance).collect();
    let page = json!({ "vhost": &*view.name.vhost, "service": &*view.name.service, "index": view.index, "instances": instances });
    Bytes::from(page.to_string() + "\n")
}

fn summary(s: &Summary) -> Json {
    json!({
        "service": &*s.name, "index": s.index, "instances": s.instances, "passing": s.passing, "warning": s.warning,
        "critical": s.critical, "starting": s.starting, "draining": s.draining,
    })
}

/// An instance as pages and events show it. Secrets are not among it.
pub(super) fn instance(listed: &Listed) -> Json {
    let i = &listed.instance;
    let mut json = description(i);
    let more = json!({
        "health": listed.standing.health.as_str(), "why": listed.why.as_str(),
        "draining": listed.standing.draining, "drain_until": listed.drain_until.map(|at| at.0),
        "maintenance": listed.maintenance.as_deref(), "ejected": listed.ejected, "connected": listed.connected,
        "source": listed.source.as_str(), "owner": &*listed.owner, "ttl_ms": listed.lease_ms,
        "incarnation": listed.incarnation, "created_index": listed.created, "modified_index": listed.modified,
        "node": listed.node.as_ref().map(|n| &*n.spec.name), "node_address": listed.node.as_ref().map(|n| &*n.spec.address),
        "warning_weight": listed.detail.as_ref().and_then(|d| d.warning_weight),
        "checks": listed.checks.iter().map(check).collect::<Vec<_>>(),
        "push": listed.detail.as_ref().and_then(|d| d.push.as_deref()).map(|push| json!({
            "url": &*push.url, "signed": push.secret.is_some(), "concurrency": push.concurrency,
            "timeout_ms": push.timeout_ms, "format": match push.format {
                PushFormat::Headers => "headers",
                PushFormat::CloudEvents => "cloudevents",
            },
        })),
    });
    if let (Json::Object(json), Json::Object(more)) = (&mut json, more) {
        json.extend(more);
    }
    json
}

/// What an instance says of itself.
pub(super) fn description(i: &waypost_model::service::Instance) -> Json {
    let meta: serde_json::Map<String, Json> = i.meta.iter().map(|(k, v)| (k.to_string(), json!(&**v))).collect();
    json!({
        "id": &*i.id, "address": i.address.as_deref(), "port": i.port,
        "version": i.version.as_ref().map(ToString::to_string), "zone": &*i.zone,
        "tags": i.tags.iter().map(|t| &**t).collect::<Vec<_>>(), "meta": meta, "weight": i.weight,
        "max_in_flight": i.max_in_flight,
    })
}

fn check(check: &CheckView) -> Json {
    let kind = match &check.spec.kind {
        CheckKind::Ttl { .. } => "ttl",
        CheckKind::Http(_) => "http",
        CheckKind::Tcp { .. } => "tcp",
        CheckKind::Manual => "manual",
    };
    json!({
        "id": &*check.spec.id, "name": &*check.spec.name, "kind": kind, "status": check.status.as_str(),
        "output": &*check.output,
    })
}
