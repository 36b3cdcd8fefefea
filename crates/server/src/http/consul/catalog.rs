//! `/v1/catalog`: services and nodes without their checks, and registrations on behalf of others.

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Serialize;
use waypost_model::Lsn;
use waypost_model::filter::Filter;
use waypost_registry::services::{CheckSpec, Listed, NodeView, ServiceList, Source};

use super::super::body::Answer;
use super::super::rendered::gzip;
use super::super::request::Failure;
use super::agent::keep_checks;
use super::definitions;
use super::fields::{self, CatalogFields, NodeFields, ServiceFields};
use super::health::{fits, has_meta, is_visible};
use super::lenient::{Json, Object, decode};
use super::params;
use super::read::Kept;
use super::render::{self, CatalogService, Node, Scene, Service, array};
use super::{Ask, no_endpoint};

impl Ask<'_> {
    /// `/v1/catalog/…`
    pub(super) async fn catalog(&self, path: &[&str]) -> Result<Answer, Failure> {
        match path {
            ["register"] => {
                self.must_be(Method::PUT, "PUT")?;
                self.catalog_changed(self.catalog_register(&self.body)?).await
            }
            ["deregister"] => {
                self.must_be(Method::PUT, "PUT")?;
                self.catalog_deregister().await
            }
            _ => {
                self.must_be(Method::GET, "GET")?;
                self.catalog_read(path).await
            }
        }
    }

    async fn catalog_read(&self, path: &[&str]) -> Result<Answer, Failure> {
        match path {
            ["datacenters"] => Ok(self.told(render::json(&[&self.cx.node.config.consul.datacenter]))),
            ["services"] => self.catalog_services().await,
            ["service", service] => self.catalog_service(service).await,
            ["nodes"] => self.catalog_nodes().await,
            ["node", node] => self.catalog_node(node, Shape::Map).await,
            ["node-services", node] => self.catalog_node(node, Shape::List).await,
            ["connect", _] | ["gateway-services", _] => Ok(self.own("[]".into(), self.services.list().index)),
            _ => Err(no_endpoint()),
        }
    }

    /// All services with their tags.
    async fn catalog_services(&self) -> Result<Answer, Failure> {
        let filter = fields::parse(self.params.filter.as_deref(), fields::catalog_kind)?;
        let look = || {
            let list = self.services.list();
            (list.index, list)
        };
        if filter.is_none() && self.params.node_meta.is_empty() {
            let (index, list) = self.wait(look, |since| self.services.list_changed(since)).await;
            if self.is_restricted() {
                return Ok(self.own(services_json(&list, |service| self.sees(service)), index));
            }
            let plain = list.rendered("consul", |list| services_json(list, |_| true));
            return Ok(self.both(plain.clone(), || list.rendered("consul gzip", |_| gzip(&plain)), index));
        }
        // Which instances there are decides, and any of them may change.
        let look = || (self.services.checks_index(), ());
        let (index, ()) = self.wait(look, |since| self.services.checks_changed(since)).await;
        let body = self.cx.listener.in_turn(|| self.services_of_chosen(filter.as_ref())).await?;
        Ok(self.own(body, index))
    }

    /// The services of those instances that the query chooses, with their tags.
    fn services_of_chosen(&self, filter: Option<&Filter>) -> Bytes {
        let (scene, (_, all)) = (self.scene(), self.services.everything());
        let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (service, listed) in &all {
            let chosen = fits(listed, scene.node(listed), &self.params)
                && self.sees(service)
                && filter.is_none_or(|filter| filter.matches(&CatalogFields(&scene, service, listed)));
            if chosen {
                found.entry(service).or_default().extend(listed.instance.tags.iter().map(|tag| &**tag));
            }
        }
        for tags in found.values_mut() {
            tags.sort_unstable();
            tags.dedup();
        }
        render::json(&found)
    }

    async fn catalog_service(&self, service: &str) -> Result<Answer, Failure> {
        let Ok(service) = definitions::service_name(service) else {
            return Ok(self.own("[]".into(), self.services.list().index));
        };
        self.may_see(&service)?;
        let key = self.params.key("catalog");
        if let Some((page, index)) = self.known(&service, &key) {
            return Ok(self.shared(&page.rendered, index));
        }
        let filter = fields::parse(self.params.filter.as_deref(), fields::catalog_kind)?;
        let (index, view) = self.wait_for_service(&service).await;
        let kept = view.derived(|_| Kept::default());
        let page = kept.get(&key, || {
            let scene = self.scene();
            let chosen = view.instances.iter().filter(|listed| {
                fits(listed, scene.node(listed), &self.params)
                    && filter.as_ref().is_none_or(|filter| filter.matches(&CatalogFields(&scene, &service, listed)))
            });
            array(chosen.map(|listed| CatalogService(&scene, &service, listed)))
        });
        Ok(self.shared(&page.rendered, index))
    }

    async fn catalog_nodes(&self) -> Result<Answer, Failure> {
        let filter = fields::parse(self.params.filter.as_deref(), fields::node_list_kind)?;
        let (index, nodes) = self.wait(|| self.services.nodes(), |since| self.services.nodes_changed(since)).await;
        let scene = self.scene();
        let chosen = nodes.iter().filter(|node| {
            has_meta(node, &self.params) && filter.as_ref().is_none_or(|f| f.matches(&NodeFields(&scene, node)))
        });
        Ok(self.own(array(chosen.map(|node| Node(&scene, node))), index))
    }

    async fn catalog_node(&self, name: &str, shape: Shape) -> Result<Answer, Failure> {
        let filter = fields::parse(self.params.filter.as_deref(), fields::agent_service_kind)?;
        let look = || match self.services.node(name) {
            Some((index, node, on_it)) => (index, Some((node, on_it))),
            None => (self.services.nodes().0, None),
        };
        let (index, found) = self.wait(look, |since| self.services.node_changed(name, since)).await;
        let Some((node, on_it)) = found else {
            let nothing = if shape == Shape::Map { "null" } else { "{}" };
            return Ok(self.own(nothing.into(), index));
        };
        let scene = self.scene();
        let chosen: Vec<_> = on_it
            .iter()
            .filter(|(service, listed)| {
                is_visible(listed)
                    && self.sees(service)
                    && filter.as_ref().is_none_or(|filter| filter.matches(&ServiceFields(service, listed)))
            })
            .map(|(service, listed)| Service { name: service, listed, datacenter: None, hash: None })
            .collect();
        Ok(self.own(node_json(&scene, &node, &chosen, shape), index))
    }

    /// Registers what `body` describes: a node, a service on it and checks, as far as they are given. It is durable once the
    /// journal has reached what comes out.
    pub(super) fn catalog_register(&self, body: &[u8]) -> Result<Option<Lsn>, Failure> {
        let value = decode(body)?;
        let body = Object::of(&value, "the body")?;
        params::is_here(body.text("Datacenter")?, &self.cx.node.config.consul.datacenter)?;
        let mut node = definitions::node(body)?;
        if node.name.is_empty() {
            return Err(Failure::bad("Must provide node"));
        }
        let checks = checks(body)?;
        let service = body.object("Service")?;
        let service = service
            .map(|service| definitions::service(service, "Service", self.owner(), Source::Catalog))
            .transpose()?;
        match &service {
            Some(definition) => {
                self.may_change(&definition.service, &definition.registration.instance.id)?;
                self.cx.may_check(&definition.registration.checks)?;
            }
            None => self.cx.who.must_administrate()?,
        }
        for check in &checks {
            if Object::of(check, "Check")?.text("ServiceID")?.is_empty() {
                // It speaks of everything on the node.
                self.cx.who.must_administrate()?;
            }
        }
        let known = self.services.node_alone(&node.name);
        let keep_node = body.flag("SkipNodeUpdate")? || node.address.is_empty();
        if node.address.is_empty() && known.is_none() {
            return Err(Failure::bad("Must provide address if SkipNodeUpdate is not set"));
        }
        let now = self.now();
        let mut lsn = None;
        if let Some(known) = known.filter(|known| keep_node || known.is_self) {
            node.name = known.spec.name.clone();
        } else if let Some(same) = self.services.node_is(node.clone()) {
            lsn = Some(same);
        } else {
            // All services on it have its address, unless they have their own.
            self.cx.who.must_administrate()?;
            lsn = Some(self.services.register_node(node.clone(), now)?);
        }
        if let Some(mut definition) = service {
            let is_own = node.name.eq_ignore_ascii_case(&self.services.own_node().spec.name);
            definition.registration.detail.node = (!is_own).then(|| (&*node.name).into());
            let known = self.services.find(&definition.registration.instance.id);
            keep_checks(known.as_ref(), &definition.service, &mut definition.registration);
            let registered = self.services.register(&definition.service, definition.registration, now)?;
            lsn = lsn.max(Some(registered.lsn));
        }
        for check in checks {
            lsn = lsn.max(Some(self.catalog_check(&node.name, check)?));
        }
        Ok(lsn)
    }

    /// The answer to a change, once it is durable.
    async fn catalog_changed(&self, lsn: Option<Lsn>) -> Result<Answer, Failure> {
        self.cx.durable(lsn).await?;
        Ok(self.told("true".into()))
    }

    fn catalog_check(&self, node: &str, check: &Json<'_>) -> Result<Lsn, Failure> {
        let body = Object::of(check, "Check")?;
        let id = body.text("CheckID")?;
        let name = body.text("Name")?;
        let id = if id.is_empty() { name } else { id };
        if id.is_empty() {
            return Err(Failure::bad("Must provide a name or an id for a check"));
        }
        let mut spec: CheckSpec = definitions::check(body, id, id)?;
        spec.notes = body.text("Notes")?.into();
        self.cx.may_check(std::slice::from_ref(&spec))?;
        let (service, now) = (body.text("ServiceID")?, self.now());
        let output = body.text("Output")?;
        if service.is_empty() {
            let (check, status) = (spec.id.clone(), spec.initial);
            let lsn = self.services.add_node_check(node, spec, now)?;
            self.services.report_node(node, &check, status, output, now);
            return lsn.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("Unknown node {node:?}")));
        }
        let unknown = || Failure::bad(format!("Unknown service ID {service:?} for check {id:?}"));
        let (name, _) = self.services.find(service).ok_or_else(unknown)?;
        self.may_change(&name, service)?;
        let (check, status) = (spec.id.clone(), spec.initial);
        let lsn = self.services.add_check(&name, service, spec, now)?.ok_or_else(unknown)?;
        self.services.report(&name, service, &check, status, output, now);
        Ok(lsn)
    }

    /// A check, a service or a node goes, whichever is named most exactly.
    async fn catalog_deregister(&self) -> Result<Answer, Failure> {
        let value = decode(&self.body)?;
        let body = Object::of(&value, "the body")?;
        params::is_here(body.text("Datacenter")?, &self.cx.node.config.consul.datacenter)?;
        let (node, service, check) = (body.text("Node")?, body.text("ServiceID")?, body.text("CheckID")?);
        if node.is_empty() {
            return Err(Failure::bad("Must provide node"));
        }
        let now = self.now();
        let lsn = if !service.is_empty() {
            match self.services.find_on(node, service) {
                Some((name, _)) => {
                    self.may_change(&name, service)?;
                    if check.is_empty() {
                        self.services.deregister(&name, service, now)?
                    } else {
                        self.services.remove_check(&name, service, check, now)?
                    }
                }
                None => None,
            }
        } else if !check.is_empty() {
            self.catalog_deregister_check(node, check)?
        } else {
            self.cx.who.must_administrate()?;
            self.services.deregister_node(node, now)?
        };
        self.catalog_changed(lsn).await
    }

    /// A check by its id: the node's own, or that of a service on it.
    fn catalog_deregister_check(&self, node: &str, check: &str) -> Result<Option<Lsn>, Failure> {
        let now = self.now();
        let Some((_, view, on_it)) = self.services.node(node) else { return Ok(None) };
        if view.checks.iter().any(|own| *own.spec.id == *check) {
            self.cx.who.must_administrate()?;
            return Ok(self.services.remove_node_check(node, check, now)?);
        }
        let has = |listed: &Listed| listed.checks.iter().any(|own| *own.spec.id == *check);
        match on_it.iter().find(|(_, listed)| has(listed)) {
            Some((service, listed)) => {
                self.may_change(service, &listed.instance.id)?;
                Ok(self.services.remove_check(service, &listed.instance.id, check, now)?)
            }
            None => Ok(None),
        }
    }
}

/// How the services of a node are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// By id.
    Map,
    /// One after the other.
    List,
}

fn services_json(list: &ServiceList, sees: impl Fn(&str) -> bool) -> Bytes {
    let shown: BTreeMap<&str, &[Box<str>]> =
        list.services.iter().filter(|entry| sees(&entry.name)).map(|entry| (&*entry.name, &*entry.tags)).collect();
    render::json(&shown)
}

fn node_json(scene: &Scene, node: &NodeView, services: &[Service<'_>], shape: Shape) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Shown<'a, S> {
        node: Node<'a>,
        services: S,
    }
    let node = Node(scene, node);
    match shape {
        Shape::List => render::json(&Shown { node, services }),
        Shape::Map => {
            let services: BTreeMap<&str, &Service<'_>> =
                services.iter().map(|service| (&*service.listed.instance.id, service)).collect();
            render::json(&Shown { node, services })
        }
    }
}

/// `Check` and `Checks`.
fn checks<'a>(body: Object<'a>) -> Result<Vec<&'a Json<'a>>, Failure> {
    let mut all = Vec::new();
    match body.get("Checks") {
        None => {}
        Some(Json::List(items)) => all.extend(items),
        Some(_) => return Err(Failure::bad("Request decode failed: Checks must be an array")),
    }
    all.extend(body.get("Check"));
    Ok(all)
}
