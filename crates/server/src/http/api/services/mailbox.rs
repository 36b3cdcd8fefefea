//! What waits for a service, who holds what, and why a message would go where it would.

use std::collections::BTreeMap;

use hyper::Request;
use hyper::body::Incoming;
use serde_json::{Value as Json, json};
use waypost_broker::broker::admin::ServiceExplanation;
use waypost_broker::shard::{Chosen, LaneInfo, MemberInfo};
use waypost_model::service::ServiceName;

use super::super::super::body::Answer;
use super::super::super::request::Failure;
use super::{Ask, look, ok, only, refused};

impl Ask<'_> {
    pub(super) fn mailbox(&self, service: &str, request: &Request<Incoming>) -> Result<Answer, Failure> {
        only(request.uri(), &[])?;
        self.may_see(service)?;
        let name = ServiceName { vhost: self.vhost.as_str().into(), service: service.into() };
        let report = self.cx.node.broker.service(&name)?;
        // What the mailbox does not know has never consumed, and holds nothing.
        let mut instances: BTreeMap<Box<str>, Json> = BTreeMap::new();
        for known in &report.instances {
            let i = &known.instance;
            instances.insert(i.id.clone(), json!({ "id": &*i.id, "consumers": 0, "in_flight": 0, "acked": 0 }));
        }
        instances.extend(report.state.members.iter().map(|m| (m.instance.id.clone(), member(m))));
        let in_flight: u64 = report.state.members.iter().map(|m| u64::from(m.in_flight)).sum();
        Ok(ok(&json!({
            "service": service, "queue": report.mailbox.as_ref().map(|q| &*q.name), "waiting": report.waiting,
            "in_flight": in_flight, "ended_copies": report.state.ended,
            "instances": instances.into_values().collect::<Vec<_>>(),
            "lanes": report.state.lanes.iter().map(lane).collect::<Vec<_>>(),
        })))
    }

    pub(super) fn explain(&self, service: &str, request: &Request<Incoming>) -> Result<Answer, Failure> {
        let (route, props, _) = self.address(service, request, &[])?;
        let broker = &self.cx.node.broker;
        let (actor, now) = (self.cx.who.actor(), self.cx.node.clock.now());
        let explained = broker.service_explain(actor, &self.vhost, &route, &props.to_bytes(), now).map_err(refused)?;
        Ok(ok(&explanation(&explained)))
    }
}

/// Who would get a message, and why the others would not.
pub(in super::super) fn explanation(explained: &ServiceExplanation) -> Json {
    let chosen: Vec<Json> = explained.chosen.iter().map(chosen).collect();
    let candidates = explained.candidates.iter().map(|c| {
        let mut json = json!({ "instance": look::description(&c.instance) });
        match &c.verdict {
            Ok(cost) => json["cost"] = json!(cost),
            Err(why) => json["rejected"] = json!(why),
        }
        json
    });
    json!({
        "service": &*explained.service, "rule": explained.rule,
        "mailbox": explained.mailbox.as_ref().map(|q| &*q.name), "behind": explained.behind,
        "waits": chosen.is_empty(), "chosen": chosen, "candidates": candidates.collect::<Vec<_>>(),
    })
}

fn member(m: &MemberInfo) -> Json {
    json!({
        "id": &*m.instance.id, "consumers": m.consumers, "in_flight": m.in_flight, "acked": m.acked,
        "latency_ms": m.latency_ms, "ejected": m.ejected, "cost": m.cost, "health": m.standing.health.as_str(),
        "draining": m.standing.draining,
    })
}

fn lane(lane: &LaneInfo) -> Json {
    json!({
        "selector": lane.selector.as_deref(), "recipient": lane.recipient.as_deref(), "waiting": lane.waiting,
        "waiting_keyed": lane.waiting_keyed, "in_flight": lane.unsettled, "candidates": lane.candidates,
    })
}

fn chosen(chosen: &Chosen) -> Json {
    match chosen {
        Chosen::Instance(id) => json!({ "instance": &**id }),
        Chosen::Anonymous => json!({ "anonymous": true }),
    }
}
