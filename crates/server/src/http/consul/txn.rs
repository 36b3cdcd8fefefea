//! The verbs of `/v1/txn` that are not about keys: nodes, services and checks.

use serde_json::Value;
use waypost_registry::services::{Change, CheckKind, CheckSpec, NodeSpec, Outcome, Source, Target, Verb};

use super::super::cx::Cx;
use super::super::request::Failure;
use super::Ask;
use super::checks;
use super::definitions;
use super::lenient::{Json, Object};
use super::render::{Node, Service};

/// What reads and shows operations on the catalog.
pub(in crate::http) struct Catalog<'a>(Ask<'a>);

impl<'a> Catalog<'a> {
    pub(in crate::http) fn new(cx: &'a Cx<'a>) -> Catalog<'a> {
        let services = cx.node.registry.services(cx.vhost());
        let (headers, params, body) = Default::default();
        Catalog(Ask { cx, services, method: hyper::Method::PUT, headers, params, body })
    }

    /// An operation, if it is one on the catalog and may be done.
    ///
    /// # Errors
    /// 400, 403.
    pub(in crate::http) fn change(&self, operation: &Value) -> Result<Option<Change>, Failure> {
        let operation = Json::from(operation);
        let operation = Object::of(&operation, "an operation")?;
        if let Some(node) = operation.object("Node")? {
            return self.node(node).map(Some);
        }
        if let Some(service) = operation.object("Service")? {
            return self.service(service).map(Some);
        }
        operation.object("Check")?.map(|check| self.check(check)).transpose()
    }

    fn node(&self, body: Object<'_>) -> Result<Change, Failure> {
        let node = inner(body, "Node")?;
        let verb = verb(body, node)?;
        let name = node.text("Node")?;
        must_be_given(name, "node")?;
        if !verb.is_look() {
            self.0.cx.who.must_administrate()?;
        }
        let mut spec: NodeSpec = definitions::node(node)?;
        // Here it is called as the catalog shows it.
        let meta = node.pairs("Meta")?;
        if !meta.is_empty() {
            spec.meta = meta.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        }
        Ok(Change { verb, target: Target::Node(spec) })
    }

    fn service(&self, body: Object<'_>) -> Result<Change, Failure> {
        let service = inner(body, "Service")?;
        let verb = verb(body, service)?;
        let node = body.text("Node")?;
        must_be_given(node, "node")?;
        if matches!(verb, Verb::Set | Verb::Cas(_)) {
            let definition = definitions::service(service, "Service", self.0.owner(), Source::Catalog)?;
            let registration = definition.registration;
            self.0.may_change(&definition.service, &registration.instance.id)?;
            self.0.cx.may_check(&registration.checks)?;
            let id = registration.instance.id.clone();
            let wanted = Some((definition.service.into(), Box::new(registration)));
            return Ok(Change { verb, target: Target::Instance { node: node.into(), id, wanted } });
        }
        let id = service.text("ID")?;
        must_be_given(id, "service ID")?;
        self.may_touch(verb, node, id)?;
        Ok(Change { verb, target: Target::Instance { node: node.into(), id: id.into(), wanted: None } })
    }

    fn check(&self, body: Object<'_>) -> Result<Change, Failure> {
        let check = inner(body, "Check")?;
        let verb = verb(body, check)?;
        let (node, instance) = (check.text("Node")?, check.text("ServiceID")?);
        must_be_given(node, "node")?;
        let (id, name) = (check.text("CheckID")?, check.text("Name")?);
        let id = if id.is_empty() { name } else { id };
        must_be_given(id, "check ID")?;
        if instance.is_empty() {
            if !verb.is_look() {
                self.0.cx.who.must_administrate()?;
            }
        } else {
            self.may_touch(verb, node, instance)?;
        }
        let spec = if matches!(verb, Verb::Set | Verb::Cas(_)) {
            let spec = definitions::check(check, id, id)?;
            self.0.cx.may_check(std::slice::from_ref(&spec))?;
            spec
        } else {
            CheckSpec::new(id, CheckKind::Manual)
        };
        let (node, instance, output) = (node.into(), instance.into(), check.text("Output")?.into());
        Ok(Change { verb, target: Target::Check { node, instance, check: Box::new(spec), output } })
    }

    /// Whether who asks may look at or change what is registered on a node. What is not there yet, and so may be made
    /// by an operation before this one, has no service to look at.
    fn may_touch(&self, verb: Verb, node: &str, id: &str) -> Result<(), Failure> {
        let service = self.0.services.find_on(node, id).map(|(service, _)| service);
        match (verb.is_look(), service) {
            (true, Some(service)) => self.0.may_see(&service),
            (true, None) => Ok(()),
            (false, Some(service)) => self.0.may_change(&service, id),
            (false, None) => Ok(self.0.cx.may_claim(self.0.cx.vhost(), id)?),
        }
    }

    /// What came of an operation, as a member of `Results`.
    pub(in crate::http) fn show(&self, outcome: &Outcome) -> Option<Value> {
        let scene = self.0.scene();
        let (kind, value) = match outcome {
            Outcome::Done => return None,
            Outcome::Node(node) => ("Node", serde_json::to_value(Node(&scene, node))),
            Outcome::Instance(name, listed) => {
                ("Service", serde_json::to_value(Service { name, listed, datacenter: None, hash: None }))
            }
            Outcome::Check(check, node, of) => {
                let of = of.as_ref().map(|(name, listed)| (&**name, &**listed));
                ("Check", serde_json::to_value(checks::of_check(check, node, of)))
            }
        };
        // Texts, numbers, lists and maps with texts for keys can always be written.
        Some(Value::Object([(kind.to_owned(), value.unwrap_or_default())].into_iter().collect()))
    }
}

fn must_be_given(text: &str, what: &str) -> Result<(), Failure> {
    if text.is_empty() { Err(Failure::bad(format!("Must provide {what}"))) } else { Ok(()) }
}

fn inner<'a>(body: Object<'a>, name: &str) -> Result<Object<'a>, Failure> {
    body.object(name)?.ok_or_else(|| Failure::bad(format!("Request decode failed: {name} is missing")))
}

/// The verb of an operation; conditions are about the index of what it is about.
fn verb(body: Object<'_>, about: Object<'_>) -> Result<Verb, Failure> {
    let index = about.number("ModifyIndex", u64::MAX)?.unwrap_or(0);
    match body.text("Verb")? {
        "get" => Ok(Verb::Get),
        "set" => Ok(Verb::Set),
        "cas" => Ok(Verb::Cas(index)),
        "delete" => Ok(Verb::Delete),
        "delete-cas" => Ok(Verb::DeleteCas(index)),
        other => Err(Failure::bad(format!("unknown verb {other:?}: it must be get, set, cas, delete or delete-cas"))),
    }
}
