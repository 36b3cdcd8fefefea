//! `/v1/health`: services with their checks.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use waypost_model::filter::Filter;
use waypost_model::service::Health;
use waypost_registry::services::{Listed, NodeView, ServiceView, Source};

use super::super::body::Answer;
use super::super::request::Failure;
use super::checks::{self, Item};
use super::fields::{self, EntryFields};
use super::params::Params;
use super::read::{Kept, Page};
use super::render::{Entry, Scene, array};
use super::{Ask, definitions, no_endpoint};

/// What pages with entries are kept under.
pub(super) const HEALTH: &str = "health";

/// Whether an instance is in catalogs: those that cannot be reached are not, but for what was registered here.
pub(super) fn is_visible(listed: &Listed) -> bool {
    matches!(listed.source, Source::Agent | Source::Catalog) || listed.address().is_some()
}

/// Whether an instance and its node have what the query asks for, filters not counted.
pub(super) fn fits(listed: &Listed, node: &NodeView, params: &Params) -> bool {
    let has_tag = |tag: &str| listed.instance.tags.iter().any(|own| own.eq_ignore_ascii_case(tag));
    is_visible(listed)
        && params.tags.iter().filter(|tag| !tag.is_empty()).all(|tag| has_tag(tag))
        && has_meta(node, params)
}

/// Whether a node has the metadata that the query asks for.
pub(super) fn has_meta(node: &NodeView, params: &Params) -> bool {
    let has = |key: &str, value: &str| node.spec.meta.iter().any(|(k, v)| **k == *key && **v == *value);
    params.node_meta.iter().all(|(key, value)| has(key, value))
}

/// Whether an instance and its node pass all checks.
pub(super) fn passes(listed: &Listed, node: &NodeView) -> bool {
    checks::of_instance(listed) == Health::Passing
        && node.maintenance.is_none()
        && matches!(node.health, Health::Passing)
}

impl Ask<'_> {
    /// `/v1/health/…`
    pub(super) async fn health(&self, path: &[&str]) -> Result<Answer, Failure> {
        self.must_be(Method::GET, "GET")?;
        match path {
            ["service", service] => self.health_service(service).await,
            ["checks", service] => self.health_checks(service).await,
            ["node", node] => self.health_node(node).await,
            ["state", state] => self.health_state(state).await,
            ["connect", _] | ["ingress", _] => Ok(self.own("[]".into(), self.services.list().index)),
            _ => Err(no_endpoint()),
        }
    }

    /// The instances of a service.
    pub(super) async fn health_service(&self, service: &str) -> Result<Answer, Failure> {
        let found = self.health_page(service).await?;
        Ok(found.map_or_else(|| self.health_of_none(), |(page, index)| self.shared(&page.rendered, index)))
    }

    /// What is told of a service that cannot be registered: it is not there, and never will be.
    pub(super) fn health_of_none(&self) -> Answer {
        self.own("[]".into(), self.services.list().index)
    }

    /// The page that shows the instances of a service, and its index, once the client has not seen it; nothing if it has
    /// no name of a service.
    pub(super) async fn health_page(&self, service: &str) -> Result<Option<(Arc<Page>, u64)>, Failure> {
        let Ok(service) = definitions::service_name(service) else { return Ok(None) };
        self.may_see(&service)?;
        let key = self.params.key(HEALTH);
        if let Some(known) = self.known(&service, &key) {
            return Ok(Some(known));
        }
        let filter = fields::parse(self.params.filter.as_deref(), fields::entry_kind)?;
        let (index, view) = self.wait_for_service(&service).await;
        let kept = view.derived(|_| Kept::default());
        Ok(Some((kept.get(&key, || self.entries(&view, filter.as_ref())), index)))
    }

    /// The answer to a query that need not wait, if somebody has asked it since the service changed: then there is
    /// nothing to parse either.
    pub(super) fn known(&self, service: &str, key: &str) -> Option<(Arc<Page>, u64)> {
        let view = self.services.view(service);
        let is_news = self.params.index == 0 || self.params.index < view.index;
        let page = is_news.then(|| view.derived(|_| Kept::default()).known(key))??;
        Some((page, view.index))
    }

    /// A service, once it is newer than what the client has seen.
    pub(super) async fn wait_for_service(&self, service: &str) -> (u64, Arc<ServiceView>) {
        let look = || {
            let view = self.services.view(service);
            (view.index, view)
        };
        self.wait(look, |since| self.services.changed(service, since)).await
    }

    fn entries(&self, view: &ServiceView, filter: Option<&Filter>) -> bytes::Bytes {
        let (scene, name) = (self.scene(), &*view.name.service);
        array(self.chosen(view, &scene, filter).map(|listed| Entry(&scene, name, listed)))
    }

    /// The instances that the query asks for.
    pub(super) fn chosen<'a>(
        &'a self,
        view: &'a ServiceView,
        scene: &'a Scene,
        filter: Option<&'a Filter>,
    ) -> impl Iterator<Item = &'a Listed> {
        let name = &*view.name.service;
        view.instances.iter().filter(move |listed| {
            let node = scene.node(listed);
            fits(listed, node, &self.params)
                && (!self.params.passing || passes(listed, node))
                && filter.is_none_or(|filter| filter.matches(&EntryFields(scene, name, listed)))
        })
    }

    /// The checks of a service.
    async fn health_checks(&self, service: &str) -> Result<Answer, Failure> {
        let Ok(service) = definitions::service_name(service) else {
            return Ok(self.own("[]".into(), self.services.list().index));
        };
        self.may_see(&service)?;
        let filter = fields::parse(self.params.filter.as_deref(), fields::item_kind)?;
        let (index, view) = self.wait_for_service(&service).await;
        let scene = self.scene();
        let instances = view.instances.iter().filter(|listed| fits(listed, scene.node(listed), &self.params));
        let items = instances.flat_map(|listed| checks::of_service(&service, listed, scene.node(listed)));
        let items = items.filter(|item| filter.as_ref().is_none_or(|filter| filter.matches(item)));
        Ok(self.own(array(items), index))
    }

    /// The checks of a node and of everything on it.
    async fn health_node(&self, name: &str) -> Result<Answer, Failure> {
        let filter = fields::parse(self.params.filter.as_deref(), fields::item_kind)?;
        let look = || match self.services.node(name) {
            Some((index, node, on_it)) => (index, Some((node, on_it))),
            None => (self.services.nodes().0, None),
        };
        let (index, found) = self.wait(look, |since| self.services.node_changed(name, since)).await;
        let Some((node, on_it)) = found else { return Ok(self.own("[]".into(), index)) };
        let of_services = on_it
            .iter()
            .filter(|(service, listed)| is_visible(listed) && self.sees(service))
            .flat_map(|(service, listed)| checks::of_service(service, listed, &node));
        let items = checks::of_node(&node).into_iter().chain(of_services);
        let items = items.filter(|item| filter.as_ref().is_none_or(|filter| filter.matches(item)));
        Ok(self.own(array(items), index))
    }

    /// All checks that are in a state.
    async fn health_state(&self, state: &str) -> Result<Answer, Failure> {
        let wanted = match state {
            "any" => None,
            _ => Some(
                checks::health(state).filter(|_| state != "pass" && state != "warn" && state != "fail").ok_or_else(
                    || Failure::bad(format!("Invalid state {state:?}: it must be any, passing, warning or critical")),
                )?,
            ),
        };
        let filter = fields::parse(self.params.filter.as_deref(), fields::item_kind)?;
        let look = || (self.services.checks_index(), ());
        let (index, ()) = self.wait(look, |since| self.services.checks_changed(since)).await;
        let body = self.cx.listener.in_turn(|| self.items_in_state(wanted, filter.as_ref())).await?;
        Ok(self.own(body, index))
    }

    fn items_in_state(&self, wanted: Option<Health>, filter: Option<&Filter>) -> Bytes {
        let scene = self.scene();
        let (_, all) = self.services.everything();
        let (_, nodes) = self.services.nodes();
        let is_wanted = |item: &Item<'_>| {
            wanted.is_none_or(|wanted| checks::status(wanted) == checks::status(item.status))
                && filter.is_none_or(|filter| filter.matches(item))
        };
        let of_nodes = nodes.iter().filter(|node| has_meta(node, &self.params)).flat_map(|node| checks::of_node(node));
        let of_services = all
            .iter()
            .filter(|(service, listed)| self.sees(service) && fits(listed, scene.node(listed), &self.params))
            .flat_map(|(service, listed)| checks::of_service(service, listed, scene.node(listed)));
        array(of_nodes.chain(of_services).filter(is_wanted))
    }

    /// An agent's own view of a service's health: 200, 429, 503 or 404.
    pub(super) fn agent_health(&self, path: &[&str]) -> Result<Answer, Failure> {
        let found: Vec<(Arc<str>, Listed)> = match path {
            ["name", name] => {
                let name = definitions::service_name(name)?;
                let view = self.services.view(&name);
                view.instances
                    .iter()
                    .filter(|l| is_visible(l))
                    .map(|l| (Arc::clone(&view.name.service), l.clone()))
                    .collect()
            }
            ["id", id] => self.services.find(id).into_iter().collect(),
            _ => return Err(no_endpoint()),
        };
        for (service, _) in &found {
            self.may_see(service)?;
        }
        let scene = self.scene();
        let text = self.params.other("format") == Some("text")
            || self.headers.get(hyper::header::ACCEPT).is_some_and(|accept| accept == "text/plain");
        self.agent_verdict(&scene, &found, text, path.first() == Some(&"id"))
    }

    fn agent_verdict(
        &self,
        scene: &Scene,
        found: &[(Arc<str>, Listed)],
        text: bool,
        one: bool,
    ) -> Result<Answer, Failure> {
        let worst = found.iter().map(|(_, listed)| checks::of_instance(listed)).max();
        let status = match worst {
            None => StatusCode::NOT_FOUND,
            Some(Health::Passing) => StatusCode::OK,
            Some(Health::Warning) => StatusCode::TOO_MANY_REQUESTS,
            Some(Health::Critical | Health::Starting) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let is_maintained = found.iter().any(|(_, listed)| listed.maintenance.is_some());
        let word = match worst {
            _ if is_maintained => "maintenance",
            Some(health) => checks::status(health),
            None => "critical",
        };
        if text || found.is_empty() {
            let known = if found.is_empty() && !text { "Service not found".to_owned() } else { word.to_owned() };
            return Ok(super::in_words(Failure::new(status, known)));
        }
        let shown: Vec<_> =
            found.iter().map(|(service, listed)| super::agent::Verdict { scene, service, listed }).collect();
        let body = match shown.first() {
            Some(first) if one => super::render::json(first),
            _ => super::render::json(&shown),
        };
        let mut answer = self.told(body);
        *answer.status_mut() = status;
        Ok(answer)
    }
}
