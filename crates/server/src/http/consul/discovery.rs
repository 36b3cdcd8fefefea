//! Discovery for others than Consul's clients: Prometheus (`http_sd`) and Envoy (`EDS` over REST).

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};
use serde_json::{Value, json};
use waypost_broker::topology::Access;
use waypost_model::selector::Selector;
use waypost_model::service::Health;
use waypost_registry::services::{Listed, Services};

use super::super::auth::Who;
use super::super::body::{Answer, Body};
use super::super::cx::Cx;
use super::super::rendered::Rendered;
use super::super::request::{self, Failure};
use super::checks;
use super::health::is_visible;
use super::render::json as to_json;

/// Where Prometheus' `http_sd` asks.
pub(in super::super) const HTTP_SD: &str = "/api/v1/prometheus/http_sd";

/// Where Envoy's `EDS` asks.
pub(in super::super) const EDS: &str = "/v3/discovery:endpoints";

/// Envoy sends a description of itself with each request, of 77 KiB and growing.
const EDS_BODY_MAX: u64 = 1 << 20;

/// Clusters that one request may name.
const CLUSTERS_MAX: usize = 10_000;

/// What Envoy calls the endpoints of a cluster.
const CLUSTER_TYPE: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

fn sees(cx: &Cx<'_>, service: &str) -> bool {
    !matches!(cx.who, Who::User { administrator: false, .. })
        || cx.may_service(cx.vhost(), Access::Read, service).is_ok()
}

/// `host:port`, with brackets around IPv6.
fn target(listed: &Listed, own: &str) -> String {
    let address = listed.address().unwrap_or(own);
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => format!("[{v6}]:{}", listed.instance.port),
        _ => format!("{address}:{}", listed.instance.port),
    }
}

/// All instances as targets. `service=` (several) and `tag=` (all of them) choose, `passing` leaves out who is not well.
pub(in super::super) async fn http_sd(cx: &Cx<'_>, request: Request<Incoming>) -> Result<Answer, Failure> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Failure::wrong_method("GET"));
    }
    let (mut wanted, mut tags, mut passing) = (HashSet::new(), Vec::new(), false);
    for (key, value) in request::pairs(request.uri()) {
        match &*key {
            "service" => {
                wanted.insert(value);
            }
            "tag" => tags.push(value),
            "passing" => passing = matches!(&*value, "" | "1" | "true"),
            other => return Err(Failure::bad(format!("unknown parameter `{other}`: there are service, tag, passing"))),
        }
    }
    let services = cx.node.registry.services(cx.vhost());
    let own = services.own_node();
    let seen = |service: &str| (wanted.is_empty() || wanted.contains(service)) && sees(cx, service);
    let fits = |listed: &Listed| {
        is_visible(listed)
            && tags.iter().all(|tag| listed.instance.has_tag(tag))
            && (!passing || checks::of_instance(listed) == Health::Passing)
    };
    let list = services.list();
    let mut targets = Vec::new();
    for entry in list.services.iter().filter(|entry| seen(&entry.name)) {
        let view = services.view(&entry.name);
        let shown = view.instances.iter().filter(|listed| fits(listed));
        targets.extend(shown.map(|listed| prometheus_target(&entry.name, listed, &own.spec.address)));
    }
    let rendered = Rendered::new("application/json", to_json(&targets));
    Ok(rendered.answer(request.headers()))
}

fn prometheus_target(service: &str, listed: &Listed, own: &str) -> Value {
    let instance = &listed.instance;
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    let mut label = |name: &str, value: String| labels.insert(format!("__meta_waypost_{name}"), value);
    label("service", service.to_owned());
    label("instance", instance.id.to_string());
    label("health", checks::of_instance(listed).as_str().to_owned());
    label("zone", instance.zone.to_string());
    label("version", instance.version.as_ref().map(ToString::to_string).unwrap_or_default());
    // Separators at both ends too, so that a regular expression finds whole tags.
    label("tags", format!(",{},", instance.tags.join(",")));
    for (key, value) in instance.meta.iter() {
        let name: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        label(&format!("meta_{name}"), value.to_string());
    }
    json!({ "targets": [target(listed, own)], "labels": labels })
}

/// The endpoints of the clusters that Envoy asks for. A cluster's name is that of a service, or a service and a selector as
/// messages have it: `cart?version=^2`.
pub(in super::super) async fn eds(cx: &Cx<'_>, request: Request<Incoming>) -> Result<Answer, Failure> {
    if request.method() != Method::POST {
        return Err(Failure::wrong_method("POST"));
    }
    let asked: Value = request::body(request, EDS_BODY_MAX).await?;
    let names = asked.get("resource_names").or_else(|| asked.get("resourceNames"));
    let names: Vec<&str> = match names {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(names)) if names.len() <= CLUSTERS_MAX => names.iter().filter_map(Value::as_str).collect(),
        Some(_) => {
            return Err(Failure::bad(format!("resource_names must be an array of at most {CLUSTERS_MAX} texts")));
        }
    };
    let services = cx.node.registry.services(cx.vhost());
    let (mut resources, mut version) = (Vec::with_capacity(names.len()), 0);
    for name in names {
        let (service, selector) = name.split_once('?').unwrap_or((name, ""));
        let selector = Selector::parse(selector).map_err(|error| Failure::bad(format!("cluster {name:?}: {error}")))?;
        let (index, resource) = cluster(&services, name, service, &selector, sees(cx, service));
        version = version.max(index);
        resources.push(resource);
    }
    let answer = json!({ "version_info": version.to_string(), "type_url": CLUSTER_TYPE, "resources": resources });
    let mut answer = Response::new(Body::Whole(to_json(&answer)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

fn cluster(services: &Services, name: &str, service: &str, selector: &Selector, seen: bool) -> (u64, Value) {
    let view = services.view(service);
    let own = services.own_node();
    let mut zones: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for listed in view.instances.iter().filter(|l| seen && is_visible(l) && selector.is_match(&l.instance)) {
        let address = listed.address().unwrap_or(&own.spec.address);
        // Envoy takes addresses only here; names are for clusters that ask DNS.
        if address.parse::<IpAddr>().is_ok() {
            zones.entry(&listed.instance.zone).or_default().push(endpoint(listed, address));
        }
    }
    let endpoints: Vec<Value> = zones
        .into_iter()
        .map(|(zone, endpoints)| {
            let locality = if zone.is_empty() { json!({}) } else { json!({ "zone": zone }) };
            json!({ "locality": locality, "lb_endpoints": endpoints })
        })
        .collect();
    (view.index, json!({ "@type": CLUSTER_TYPE, "cluster_name": name, "endpoints": endpoints }))
}

fn endpoint(listed: &Listed, address: &str) -> Value {
    let health = match listed.standing.health {
        _ if listed.standing.draining || listed.maintenance.is_some() => "DRAINING",
        Health::Passing => "HEALTHY",
        Health::Warning => "DEGRADED",
        Health::Starting | Health::Critical => "UNHEALTHY",
    };
    let socket = json!({ "address": address, "port_value": listed.instance.port });
    json!({
        "endpoint": { "address": { "socket_address": socket } },
        "health_status": health,
        "load_balancing_weight": listed.weight().max(1),
    })
}
