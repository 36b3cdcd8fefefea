//! Topics that feed exchanges and services.

use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;
use serde_json::{Value as Json, json};
use waypost_broker::topology::{Access, Resource};

use super::super::json::{only, text};
use super::super::request::Failure;
use super::{Ask, Done, changed, list, nothing_there, show, wrong_method};
use crate::streams::forward::{Spec, Target};
use crate::streams::forwarders::View;

impl Ask {
    pub(super) fn forwarders(&self, path: &[&str]) -> Result<Done, Failure> {
        let all = || self.seen(self.node.forwarders.views(), |view| &view.spec.vhost);
        match (self.method(), path) {
            ("GET", ["forwarders"]) => list(all(), |view| self.forwarder(view)),
            ("GET", ["forwarders", vhost]) => {
                self.must_see(vhost)?;
                let here = all().into_iter().filter(|view| *view.spec.vhost == **vhost);
                list(here.collect(), |view| self.forwarder(view))
            }
            ("GET", ["forwarders", vhost, name]) => {
                self.must_see(vhost)?;
                let found = all().into_iter().find(|v| *v.spec.vhost == **vhost && *v.spec.name == **name);
                let none = || Failure::new(StatusCode::NOT_FOUND, format!("no forwarder `{name}` in vhost `{vhost}`"));
                show(self.forwarder(&found.ok_or_else(none)?))
            }
            ("PUT", ["forwarders", vhost, name]) => {
                let spec = self.forwarder_spec(vhost, name)?;
                changed(self.node.forwarders.declare(&self.node, &spec, self.now))
            }
            ("DELETE", ["forwarders", vhost, name]) => {
                self.may(vhost, Access::Configure, Resource::Queue, name)?;
                changed(self.node.forwarders.remove(&self.node, vhost, name, self.now))
            }
            (_, ["forwarders"] | ["forwarders", _] | ["forwarders", _, _]) => Err(wrong_method()),
            _ => Err(nothing_there()),
        }
    }

    /// Refuses who may not do something in a vhost.
    pub(super) fn may(&self, vhost: &str, access: Access, resource: Resource, name: &str) -> Result<(), Failure> {
        self.must_see(vhost)?;
        Ok(self.node.broker.check_permission(self.who.actor(), vhost, access, resource, name)?)
    }

    /// It publishes in the name of whoever runs the node: who declares it must be allowed to do the same himself.
    fn forwarder_spec(&self, vhost: &str, name: &str) -> Result<Spec, Failure> {
        only(&self.body, &["topic", "exchange", "routing_key", "from"])?;
        let needed = |field| text(&self.body, field)?.ok_or_else(|| Failure::bad(format!("`{field}` is missing")));
        let (topic, exchange) = (needed("topic")?, needed("exchange")?);
        self.may(vhost, Access::Configure, Resource::Queue, name)?;
        self.may(vhost, Access::Read, Resource::Queue, topic)?;
        self.may(vhost, Access::Write, Resource::Exchange, exchange)?;
        let from_latest = match text(&self.body, "from")? {
            None | Some("earliest") => false,
            Some("latest") => true,
            Some(_) => return Err(Failure::bad("`from` must be earliest or latest")),
        };
        let routing_key = text(&self.body, "routing_key")?;
        if routing_key.is_some_and(|key| key.len() > 255) {
            return Err(Failure::bad("`routing_key` has at most 255 bytes"));
        }
        Ok(Spec {
            vhost: vhost.into(),
            name: name.into(),
            topic: topic.into(),
            target: Target::Exchange { exchange: exchange.into(), routing_key: routing_key.map(Into::into) },
            from_latest,
        })
    }

    fn forwarder(&self, view: &View) -> Json {
        let (spec, figures) = (&view.spec, &view.figures);
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let target = match &spec.target {
            Target::Exchange { exchange, routing_key } => json!({ "exchange": exchange, "routing_key": routing_key }),
            Target::Service(service) => json!({ "service": service }),
        };
        json!({
            "vhost": &*spec.vhost, "name": spec.name, "topic": spec.topic, "to": target,
            "from": if spec.from_latest { "latest" } else { "earliest" },
            "group": spec.group(), "lag": self.lag(&spec.vhost, &spec.group()), "waits_for": figures.waits_for(),
            "forwarded": count(&figures.forwarded), "unroutable": count(&figures.unroutable),
            "refused": count(&figures.refused), "looped": count(&figures.looped),
            "hop_limit_exceeded": count(&figures.hop_limit_exceeded), "unreadable": count(&figures.unreadable),
        })
    }
}
