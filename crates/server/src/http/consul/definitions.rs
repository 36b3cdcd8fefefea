//! Registrations as Consul's clients write them.

use std::sync::Arc;

use waypost_model::service::{Instance, Version, WEIGHT_MAX, is_service_name};
use waypost_registry::services::{CheckKind, CheckSpec, Detail, HttpProbe, NodeSpec, Registration, Source};

use super::super::request::Failure;
use super::checks::{self, SERVICE_CHECK};
use super::extra::{Extra, Tagged};
use super::lenient::{Json, Object};

/// How long a check may take unless it says so.
const TIMEOUT_DEFAULT_MS: u64 = 10_000;

/// Largest number of results in a row that a check may ask for.
const IN_A_ROW_MAX: u64 = 1000;

/// Kinds of checks that are refused: they run programs, or need what is not here.
const REFUSED_CHECKS: [&str; 10] = [
    "Args",
    "Script",
    "ScriptArgs",
    "DockerContainerID",
    "GRPC",
    "H2PING",
    "UDP",
    "AliasService",
    "AliasNode",
    "OSService",
];

/// A name as it is kept: services have names in lower case here, and Consul does not tell them apart by case.
pub(super) fn service_name(name: &str) -> Result<String, Failure> {
    let name = name.to_ascii_lowercase();
    if is_service_name(&name) {
        return Ok(name);
    }
    Err(Failure::bad(format!("Invalid service name {name:?}: it must have 1 to 63 of the characters a-z, 0-9 and -")))
}

/// A service to be registered.
#[derive(Debug)]
pub(super) struct Definition {
    pub service: String,
    pub registration: Registration,
}

/// The members of a registration with the agent, or of `Service` in one with the catalog.
///
/// # Errors
/// 400.
pub(super) fn service(body: Object<'_>, name_member: &str, owner: &str, source: Source) -> Result<Definition, Failure> {
    let name = body.text(name_member)?;
    if name.is_empty() {
        return Err(Failure::bad("Missing service name"));
    }
    refuse_mesh(body)?;
    let id = Some(body.text("ID")?).filter(|id| !id.is_empty()).unwrap_or(name);
    let service = service_name(name)?;
    let (instance, extra) = instance(body, id)?;
    let mut registration = Registration::new(instance, owner, source);
    let (weight, warning_weight) = weights(body, source)?;
    registration.instance.weight = weight;
    registration.detail = Detail { warning_weight, extra: extra.text(), ..Detail::default() };
    registration.checks = service_checks(body, id, name)?;
    Ok(Definition { service, registration })
}

/// A proxy or a sidecar would be accepted and do nothing: there is no mesh.
fn refuse_mesh(body: Object<'_>) -> Result<(), Failure> {
    let refused = |what: &str| Err(Failure::bad(format!("{what} is not supported: there is no service mesh here")));
    let kind = body.text("Kind")?;
    if !kind.is_empty() && kind != "typical" {
        return refused(&format!("Service kind {kind:?}"));
    }
    if let Some(connect) = body.object("Connect")? {
        if connect.flag("Native")? {
            return refused("Connect.Native");
        }
        if connect.get("SidecarService").is_some() {
            return refused("Connect.SidecarService");
        }
    }
    Ok(())
}

fn instance(body: Object<'_>, id: &str) -> Result<(Instance, Extra), Failure> {
    let mut instance = Instance::new(id);
    let address = body.text("Address")?;
    instance.address = Some(address).filter(|address| !address.is_empty()).map(Into::into);
    instance.port = u16::try_from(body.number("Port", u16::MAX.into())?.unwrap_or(0)).unwrap_or(0);
    let given = body.texts("Tags")?;
    let sorted = given.is_sorted_by(|a, b| a < b);
    instance.tags = given.iter().map(|tag| (*tag).into()).collect();
    let meta: Vec<(Box<str>, Box<str>)> =
        body.pairs("Meta")?.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    let of = |key: &str| meta.iter().find(|(k, _)| **k == *key).map(|(_, value)| &**value);
    // What selectors of messages ask for, too.
    instance.version = of("version").and_then(|text| Version::parse(text.trim_start_matches('v')).ok().map(Arc::new));
    let locality = body.object("Locality")?.map(|locality| locality.text("Zone")).transpose()?.unwrap_or_default();
    instance.zone = if locality.is_empty() { of("zone").unwrap_or_default().into() } else { locality.into() };
    instance.meta = meta.into();
    let extra = Extra {
        tags: (!sorted).then(|| given.iter().map(|tag| (*tag).to_owned()).collect()),
        addresses: tagged_addresses(body)?,
        enable_tag_override: body.flag("EnableTagOverride")?,
        ..Extra::default()
    };
    Ok((instance, extra))
}

fn tagged_addresses(body: Object<'_>) -> Result<std::collections::BTreeMap<String, Tagged>, Failure> {
    let Some(all) = body.object("TaggedAddresses")? else { return Ok(Default::default()) };
    let read = |(kind, value)| {
        let one = Object::of(value, kind)?;
        let port = u16::try_from(one.number("Port", u16::MAX.into())?.unwrap_or(0)).unwrap_or(0);
        Ok((kind.to_owned(), Tagged { address: one.text("Address")?.to_owned(), port }))
    };
    all.members().into_iter().map(read).collect()
}

/// The weight, and the one while its health is a warning if that is another one.
fn weights(body: Object<'_>, source: Source) -> Result<(u16, Option<u16>), Failure> {
    let Some(weights) = body.object("Weights")? else { return Ok((1, None)) };
    let max = u64::from(WEIGHT_MAX);
    let small = |n: Option<u64>| n.and_then(|n| u16::try_from(n).ok());
    let given = [weights.number("Passing", max)?, weights.number("Warning", max)?];
    // Go's client says so in the catalog when nobody has said anything.
    if source == Source::Catalog && given == [Some(0); 2] {
        return Ok((1, None));
    }
    let passing = small(given[0]).unwrap_or(1);
    if passing == 0 {
        return Err(Failure::bad("Invalid Weights: Passing must be greater than 0"));
    }
    let warning = small(given[1]).unwrap_or(1);
    Ok((passing, (warning != passing).then_some(warning)))
}

fn service_checks(body: Object<'_>, id: &str, name: &str) -> Result<Vec<CheckSpec>, Failure> {
    let mut all = body.objects("Checks")?;
    all.extend(body.object("Check")?.filter(|check| !check.is_empty()));
    let several = all.len() > 1;
    let mut specs = Vec::with_capacity(all.len());
    for (number, definition) in (1..).zip(all) {
        let generated = if several { format!("{SERVICE_CHECK}{id}:{number}") } else { format!("{SERVICE_CHECK}{id}") };
        specs.push(check(definition, &generated, &format!("Service '{name}' check"))?);
    }
    Ok(specs)
}

/// A check, with an id and a name for when it has none.
///
/// # Errors
/// 400.
pub(super) fn check(body: Object<'_>, id: &str, name: &str) -> Result<CheckSpec, Failure> {
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let given = or(body.text("CheckID")?, body.text("ID")?);
    let mut spec = CheckSpec::new(or(&given, id), kind(body)?);
    spec.name = or(body.text("Name")?, name).into();
    spec.notes = body.text("Notes")?.into();
    let count = |member: &str| -> Result<u16, Failure> {
        Ok(body.number(member, IN_A_ROW_MAX)?.and_then(|n| u16::try_from(n).ok()).unwrap_or(0))
    };
    spec.success_before_passing = count("SuccessBeforePassing")?;
    spec.failures_before_warning = count("FailuresBeforeWarning")?;
    spec.failures_before_critical = count("FailuresBeforeCritical")?;
    spec.deregister_after_ms = body.duration_ms("DeregisterCriticalServiceAfter")?;
    let status = or(body.text("Status")?, "critical");
    spec.initial = checks::health(&status)
        .ok_or_else(|| Failure::bad(format!("Bad check status {status:?}: it must be passing, warning or critical")))?;
    Ok(spec)
}

fn kind(body: Object<'_>) -> Result<CheckKind, Failure> {
    if let Some(kind) = REFUSED_CHECKS.into_iter().find(|kind| is_given(body, kind)) {
        return Err(Failure::bad(format!("Checks of kind {kind} are not supported: use TTL, HTTP or TCP")));
    }
    let (http, tcp) = (body.text("HTTP")?, body.text("TCP")?);
    let ttl_ms = body.duration_ms("TTL")?;
    let kinds = usize::from(!http.is_empty()) + usize::from(!tcp.is_empty()) + usize::from(ttl_ms.is_some());
    if kinds > 1 {
        return Err(Failure::bad("Check must be of one kind: TTL, HTTP or TCP"));
    }
    if let Some(ttl_ms) = ttl_ms {
        return Ok(CheckKind::Ttl { ttl_ms });
    }
    if kinds == 0 {
        return Ok(CheckKind::Manual);
    }
    let interval_ms = body.duration_ms("Interval")?.filter(|ms| *ms > 0);
    let interval_ms = interval_ms.ok_or_else(|| Failure::bad("Interval must be > 0 for HTTP and TCP checks"))?;
    let timeout_ms = body.duration_ms("Timeout")?.filter(|ms| *ms > 0).unwrap_or(TIMEOUT_DEFAULT_MS);
    if !tcp.is_empty() {
        return Ok(CheckKind::Tcp { address: tcp.into(), interval_ms, timeout_ms });
    }
    if !http.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://")) {
        return Err(Failure::bad("HTTP checks must go to an http:// address: others are not supported"));
    }
    let method = Some(body.text("Method")?).filter(|method| !method.is_empty()).unwrap_or("GET");
    Ok(CheckKind::Http(Box::new(HttpProbe {
        url: http.into(),
        method: method.to_ascii_uppercase().into(),
        headers: headers(body)?.into(),
        body: body.text("Body")?.into(),
        interval_ms,
        timeout_ms,
    })))
}

fn is_given(body: Object<'_>, member: &str) -> bool {
    match body.get(member) {
        None => false,
        Some(Json::Text(text)) => !text.is_empty(),
        Some(Json::List(items)) => !items.is_empty(),
        Some(_) => true,
    }
}

/// `{"Name": ["value", …]}`
fn headers(body: Object<'_>) -> Result<Vec<(Box<str>, Box<str>)>, Failure> {
    let wrong = || Failure::bad("Request decode failed: Header must be an object of arrays of strings");
    let Some(value) = body.get("Header") else { return Ok(Vec::new()) };
    let mut headers = Vec::new();
    for (name, values) in Object::of(value, "Header").map_err(|_| wrong())?.members() {
        for value in values.as_list().ok_or_else(wrong)? {
            headers.push((name.into(), value.as_text().ok_or_else(wrong)?.into()));
        }
    }
    Ok(headers)
}

/// A node in a registration with the catalog.
///
/// # Errors
/// 400.
pub(super) fn node(body: Object<'_>) -> Result<NodeSpec, Failure> {
    let addresses = body.pairs("TaggedAddresses")?;
    let extra = Extra {
        node_addresses: addresses.into_iter().map(|(kind, address)| (kind.to_owned(), address.to_owned())).collect(),
        ..Extra::default()
    };
    let meta: Vec<(Box<str>, Box<str>)> =
        body.pairs("NodeMeta")?.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    Ok(NodeSpec {
        name: body.text("Node")?.into(),
        id: body.text("ID")?.into(),
        address: body.text("Address")?.into(),
        meta: Arc::from(meta),
        extra: extra.text(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use waypost_model::service::Health;

    use super::*;

    fn read(value: &Value) -> Result<Definition, String> {
        let value = Json::from(value);
        let body = Object::of(&value, "the body").unwrap();
        service(body, "Name", "operator", Source::Agent).map_err(|failure| failure.reason)
    }

    #[test]
    fn what_spring_registers() {
        let definition = read(&json!({
            "ID": "app-1", "Name": "App", "Tags": ["b", "a"], "Address": "host", "Meta": { "secure": "false", "version": "v1.2.3" },
            "Port": 8080, "Check": { "Interval": "10s", "HTTP": "http://host:8080/actuator/health", "Header": {} },
        }))
        .unwrap();
        let Registration { instance, checks, detail, .. } = definition.registration;
        assert_eq!((&*definition.service, &*instance.id, instance.port), ("app", "app-1", 8080));
        assert_eq!(instance.version.as_deref(), Some(&Version::new(1, 2, 3)));
        assert_eq!((&*checks[0].id, &*checks[0].name), ("service:app-1", "Service 'App' check"));
        assert_eq!((checks[0].initial, checks[0].kind.interval_ms()), (Health::Critical, Some(10_000)));
        assert_eq!(Extra::of(detail.extra.as_deref()).tags, Some(vec!["b".to_owned(), "a".to_owned()]));
    }

    #[test]
    fn no_weights_as_go_says_them_in_the_catalog() {
        let value = json!({ "Service": "a", "Weights": { "Passing": 0, "Warning": 0 } });
        let value = Json::from(&value);
        let body = Object::of(&value, "the body").unwrap();
        let definition = service(body, "Service", "", Source::Catalog).unwrap();
        assert_eq!(definition.registration.instance.weight, 1);
        assert!(service(body, "Service", "", Source::Agent).is_err());
    }

    #[test]
    fn several_checks_are_numbered() {
        let definition = read(
            &json!({ "name": "a", "checks": [{ "ttl": "15s", "status": "passing" }, { "TCP": "h:1", "Interval": 5_000_000_000_u64 }] }),
        );
        let checks = definition.unwrap().registration.checks;
        assert_eq!((&*checks[0].id, &*checks[1].id), ("service:a:1", "service:a:2"));
        assert_eq!((&checks[0].kind, checks[0].initial), (&CheckKind::Ttl { ttl_ms: 15_000 }, Health::Passing));
        assert_eq!(checks[1].kind, CheckKind::Tcp { address: "h:1".into(), interval_ms: 5_000, timeout_ms: 10_000 });
    }

    #[test]
    fn what_is_refused() {
        for (value, text) in [
            (json!({}), "Missing service name"),
            (json!({ "Name": "a_b" }), "Invalid service name"),
            (json!({ "Name": "a", "Port": 65536 }), "Port must be"),
            (json!({ "Name": "a", "Kind": "connect-proxy" }), "no service mesh"),
            (json!({ "Name": "a", "Connect": { "SidecarService": {} } }), "no service mesh"),
            (json!({ "Name": "a", "Check": { "GRPC": "h:1", "Interval": "1s" } }), "kind GRPC"),
            (json!({ "Name": "a", "Check": { "Args": ["x"] } }), "kind Args"),
            (json!({ "Name": "a", "Check": { "HTTP": "http://h" } }), "Interval must be"),
            (json!({ "Name": "a", "Check": { "HTTP": "https://h", "Interval": "1s" } }), "http:// address"),
            (json!({ "Name": "a", "Check": { "TTL": "1s", "TCP": "h:1" } }), "one kind"),
            (json!({ "Name": "a", "Check": { "TTL": "1s", "Status": "fine" } }), "Bad check status"),
            (json!({ "Name": "a", "Weights": { "Passing": 0 } }), "Passing must be"),
            (json!({ "Name": "a", "Tags": [1] }), "Tags must be"),
        ] {
            let reason = read(&value).unwrap_err();
            assert!(reason.contains(text), "{value}: {reason}");
        }
        assert!(
            read(&json!({ "Name": "a", "Tags": null, "Check": null, "Connect": {}, "Check": {}, "Ports": [] })).is_ok()
        );
    }
}
