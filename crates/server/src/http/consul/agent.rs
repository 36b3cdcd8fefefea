//! `/v1/agent`: this server as the agent of everything that is registered with it.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use serde_json::json;
use waypost_model::Lsn;
use waypost_registry::services::{Listed, Registration, Source};

use super::super::body::Answer;
use super::super::metrics;
use super::super::request::Failure;
use super::checks;
use super::fields::{self, ServiceFields};
use super::health::is_visible;
use super::lenient::{Object, decode};
use super::params::truth;
use super::render::{self, Scene, Service};
use super::{Ask, CONSUL_VERSION, definitions, no_endpoint};

/// Where Consul's servers and agents speak to each other. Nobody listens there: clients only show it.
const SERVER_PORT: u16 = 8300;
const GOSSIP_PORT: u16 = 8301;

/// A service and how it is, as an agent tells.
pub(super) struct Verdict<'a> {
    pub scene: &'a Scene,
    pub service: &'a str,
    pub listed: &'a Listed,
}

impl Serialize for Verdict<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut out = to.serialize_struct("Verdict", 3)?;
        let is = checks::of_instance(self.listed);
        let word = if self.listed.maintenance.is_some() { "maintenance" } else { checks::status(is) };
        out.serialize_field("AggregatedStatus", word)?;
        let datacenter = Some(&*self.scene.datacenter);
        out.serialize_field("Service", &Service { name: self.service, listed: self.listed, datacenter, hash: None })?;
        out.serialize_field("Checks", &checks::of_service(self.service, self.listed, self.scene.node(self.listed)))?;
        out.end()
    }
}

impl Ask<'_> {
    /// `/v1/agent/…`
    pub(super) async fn agent(&self, path: &[&str]) -> Result<Answer, Failure> {
        match path {
            // Before what is asked of an instance: none can be looked up that is called so, in Consul neither.
            ["service", verb @ ("register" | "deregister" | "maintenance"), rest @ ..] => {
                self.must_be(Method::PUT, "PUT")?;
                self.agent_service(verb, rest).await
            }
            ["self" | "services" | "checks" | "members" | "version" | "metrics" | "host"]
            | ["service" | "health", ..]
                if self.method == Method::GET =>
            {
                self.agent_look(path).await
            }
            ["check", rest @ ..] => {
                self.must_be(Method::PUT, "PUT")?;
                self.agent_check(rest).await
            }
            ["maintenance"] => {
                self.must_be(Method::PUT, "PUT")?;
                self.agent_maintenance().await
            }
            ["reload" | "leave"] | ["join" | "force-leave", _] => {
                self.must_be(Method::PUT, "PUT")?;
                // There is nobody to join or to leave, and what is configured is read at the start.
                self.cx.who.must_administrate()?;
                Ok(self.told("".into()))
            }
            ["token", ..] => Err(super::operator::acl_disabled()),
            ["monitor"] => {
                self.must_be(Method::GET, "GET")?;
                self.agent_monitor()
            }
            ["connect", ..] => Err(super::operator::no_mesh()),
            ["self" | "services" | "checks" | "members" | "version" | "metrics" | "host"] | ["health", ..] => {
                Err(Failure::wrong_method("GET"))
            }
            ["service", _] => Err(Failure::wrong_method("GET")),
            _ => Err(no_endpoint()),
        }
    }

    async fn agent_look(&self, path: &[&str]) -> Result<Answer, Failure> {
        match path {
            ["self"] => Ok(self.told(render::json(&self.agent_self()))),
            ["version"] => {
                let version = json!({ "SHA": "", "BuildDate": "0001-01-01T00:00:00Z", "HumanVersion": CONSUL_VERSION, "FIPS": "" });
                Ok(self.told(render::json(&version)))
            }
            ["members"] => Ok(self.told(render::json(&[self.member()]))),
            ["host"] => Err(super::operator::not_here("see /metrics for the machine")),
            ["metrics"] => self.agent_metrics().await,
            ["services"] => self.cx.listener.in_turn(|| self.agent_services()).await?,
            ["service", id] => self.agent_service_by_id(id).await,
            ["checks"] => self.cx.listener.in_turn(|| self.agent_checks()).await?,
            ["health", "service", rest @ ..] => self.agent_health(rest),
            _ => Err(no_endpoint()),
        }
    }

    fn agent_self(&self) -> serde_json::Value {
        let (scene, config) = (self.scene(), &self.cx.node.config);
        let own = &scene.own.spec;
        let meta: BTreeMap<&str, &str> = own.meta.iter().map(|(key, value)| (&**key, &**value)).collect();
        json!({
            "Config": {
                "Datacenter": config.consul.datacenter, "PrimaryDatacenter": config.consul.datacenter,
                "NodeName": *own.name, "NodeID": *own.id, "Revision": "", "Server": true, "Version": CONSUL_VERSION,
            },
            "DebugConfig": { "ACLsEnabled": false, "Datacenter": config.consul.datacenter, "Bootstrap": true },
            "Coord": super::operator::coordinate(),
            "Member": self.member(),
            "Stats": {
                "agent": { "check_ttls": "0" },
                "build": { "version": CONSUL_VERSION, "product": format!("waypost {}", env!("CARGO_PKG_VERSION")) },
                "consul": { "bootstrap": "true", "known_datacenters": "1", "leader": "true", "leader_addr": self.leader() },
            },
            "Meta": meta,
        })
    }

    /// Where the leader is: here.
    pub(super) fn leader(&self) -> String {
        format!("{}:{SERVER_PORT}", self.services.own_node().spec.address)
    }

    fn member(&self) -> serde_json::Value {
        let own = self.services.own_node();
        json!({
            "Name": *own.spec.name, "Addr": *own.spec.address, "Port": GOSSIP_PORT,
            "Tags": {
                "role": "consul", "dc": self.cx.node.config.consul.datacenter, "id": *own.spec.id, "port": SERVER_PORT.to_string(),
                "build": CONSUL_VERSION, "bootstrap": "1", "segment": "", "vsn": "2",
            },
            // 1 is alive.
            "Status": 1, "ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2, "DelegateMin": 2, "DelegateMax": 5, "DelegateCur": 4,
        })
    }

    async fn agent_metrics(&self) -> Result<Answer, Failure> {
        if self.params.other("format") == Some("prometheus") {
            let node = Arc::clone(self.cx.node);
            return self.cx.listener.aside(&Method::GET, move || metrics::page(&node)).await;
        }
        let all = self.services.summaries();
        let gauge = |name: &str, value: usize| json!({ "Name": name, "Value": value, "Labels": {} });
        let sum = |of: fn(&waypost_registry::services::Summary) -> usize| all.iter().map(of).sum::<usize>();
        let gauges = [
            gauge("consul.state.services", all.len()),
            gauge("consul.state.service_instances", sum(|one| one.instances)),
            gauge("consul.state.service_instances.passing", sum(|one| one.passing)),
            gauge("consul.state.service_instances.critical", sum(|one| one.critical)),
            gauge("consul.state.nodes", self.services.nodes().1.len()),
        ];
        let seconds = self.now().0 / 1000;
        let metrics =
            json!({ "Timestamp": seconds.to_string(), "Gauges": gauges, "Points": [], "Counters": [], "Samples": [] });
        Ok(self.told(render::json(&metrics)))
    }

    /// Everything that is registered with us, by id.
    fn agent_services(&self) -> Result<Answer, Failure> {
        let filter = fields::parse(self.params.filter.as_deref(), fields::agent_service_kind)?;
        let (scene, (_, all)) = (self.scene(), self.services.everything());
        let shown: BTreeMap<&str, Service<'_>> = all
            .iter()
            .filter(|(service, listed)| {
                listed.node.is_none()
                    && is_visible(listed)
                    && self.sees(service)
                    && filter.as_ref().is_none_or(|filter| filter.matches(&ServiceFields(service, listed)))
            })
            .map(|(service, listed)| {
                let datacenter = Some(&*scene.datacenter);
                (&*listed.instance.id, Service { name: service, listed, datacenter, hash: None })
            })
            .collect();
        Ok(self.told(render::json(&shown)))
    }

    fn agent_checks(&self) -> Result<Answer, Failure> {
        let filter = fields::parse(self.params.filter.as_deref(), fields::item_kind)?;
        let (scene, (_, all)) = (self.scene(), self.services.everything());
        let of_services = all
            .iter()
            .filter(|(service, listed)| listed.node.is_none() && is_visible(listed) && self.sees(service))
            .flat_map(|(service, listed)| checks::of_service(service, listed, &scene.own));
        // That the agent is there is no check of its own, but the catalog's.
        let of_node = checks::of_node(&scene.own).into_iter().filter(|item| item.id != checks::SERF_HEALTH);
        let shown: BTreeMap<String, checks::Item<'_>> = of_node
            .chain(of_services)
            .filter(|item| filter.as_ref().is_none_or(|filter| filter.matches(item)))
            .map(|item| (item.id.to_string(), item))
            .collect();
        Ok(self.told(render::json(&shown)))
    }

    /// A service by its id. With the hash of what the client has seen, it waits until that is another one.
    async fn agent_service_by_id(&self, id: &str) -> Result<Answer, Failure> {
        let unknown = || Failure::new(StatusCode::NOT_FOUND, format!("unknown service ID: {id}"));
        let known = self.params.other("hash").unwrap_or_default();
        let patience = self.cx.patience(self.params.patience());
        let mut patience = std::pin::pin!(patience);
        let scene = self.scene();
        loop {
            let (service, listed) = self.services.find(id).filter(|(_, l)| is_visible(l)).ok_or_else(unknown)?;
            self.may_see(&service)?;
            let datacenter = Some(&*scene.datacenter);
            let hash = hash(&render::json(&Service { name: &service, listed: &listed, datacenter, hash: None }));
            let told = || {
                let shown = Service { name: &service, listed: &listed, datacenter, hash: Some(&hash) };
                let mut answer = self.told(render::json(&shown));
                if let Ok(value) = HeaderValue::from_str(&hash) {
                    answer.headers_mut().insert(HeaderName::from_static("x-consul-contenthash"), value);
                }
                Ok(answer)
            };
            if known != hash {
                return told();
            }
            let index = self.services.view(&service).index;
            tokio::select! {
                _ = self.services.changed(&service, index) => {}
                () = &mut patience => return told(),
            }
        }
    }

    async fn agent_service(&self, verb: &str, rest: &[&str]) -> Result<Answer, Failure> {
        match (verb, rest) {
            ("register", []) => self.changed(Some(self.agent_register(&self.body)?)).await,
            ("deregister", [id]) => {
                let (service, _) = self.agent_find(id)?;
                self.may_change(&service, id)?;
                self.changed(self.services.deregister(&service, id, self.now())?).await
            }
            ("maintenance", [id]) => {
                let (service, _) = self.agent_find(id)?;
                self.may_change(&service, id)?;
                let reason = self.maintenance_reason()?;
                self.changed(self.services.maintain(&service, id, reason, self.now())?).await
            }
            _ => Err(no_endpoint()),
        }
    }

    /// An instance by its id.
    ///
    /// # Errors
    /// 404.
    fn agent_find(&self, id: &str) -> Result<(Arc<str>, Listed), Failure> {
        self.services.find(id).ok_or_else(|| {
            let text =
                format!("Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name.");
            Failure::new(StatusCode::NOT_FOUND, text)
        })
    }

    /// Registers what `body` describes; it is durable once the journal has reached what comes out.
    pub(super) fn agent_register(&self, body: &[u8]) -> Result<Lsn, Failure> {
        let value = decode(body)?;
        let body = Object::of(&value, "the body")?;
        let mut definition = definitions::service(body, "Name", self.owner(), Source::Agent)?;
        let (id, now) = (definition.registration.instance.id.clone(), self.now());
        self.may_change(&definition.service, &id)?;
        self.cx.may_check(&definition.registration.checks)?;
        // An agent knows services by their ids: the same id is the same instance, whatever it is called now.
        let known = self.services.find(&id);
        if let Some((before, listed)) = &known
            && listed.source == Source::Agent
            && **before != *definition.service
        {
            self.may_change(before, &id)?;
            self.services.deregister(before, &id, now)?;
        }
        if !self.params.flag("replace-existing-checks")? {
            keep_checks(known.as_ref(), &definition.service, &mut definition.registration);
        }
        let registered = self.services.register(&definition.service, definition.registration, now)?;
        Ok(registered.lsn)
    }

    async fn agent_maintenance(&self) -> Result<Answer, Failure> {
        self.cx.who.must_administrate()?;
        let (own, reason) = (self.services.own_node(), self.maintenance_reason()?);
        self.changed(self.services.maintain_node(&own.spec.name, reason, self.now())?).await
    }

    /// `Some` with a reason if maintenance is to begin, `None` if it is to end.
    fn maintenance_reason(&self) -> Result<Option<&str>, Failure> {
        match self.params.other("enable") {
            None => Err(Failure::bad("Missing value for enable")),
            Some(enable) => match truth(enable) {
                Some(true) => Ok(Some(self.params.other("reason").unwrap_or_default())),
                Some(false) => Ok(None),
                None => Err(Failure::bad(format!("Invalid value for enable: {enable:?}"))),
            },
        }
    }
}

/// Checks that were added to an instance after it was registered stay when it is registered again.
pub(super) fn keep_checks(known: Option<&(Arc<str>, Listed)>, service: &str, registration: &mut Registration) {
    let Some((_, listed)) = known.filter(|(name, _)| **name == *service) else { return };
    for check in listed.checks.iter() {
        if registration.checks.iter().all(|new| new.id != check.spec.id) {
            registration.checks.push((*check.spec).clone());
        }
    }
}

fn hash(bytes: &[u8]) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(bytes);
    format!("{:016x}", hasher.finish())
}
