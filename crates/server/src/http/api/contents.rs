//! Exchanges, queues and bindings.

use serde_json::{Value as Json, json};
use waypost_broker::broker::admin::{InVhost, QueueReport};
use waypost_broker::topology::{BindingView, ExchangeView, kind_name};
use waypost_model::command::{Binding, Destination, ExchangeDeclare, QueueDeclare};

use super::super::json::{flag, from_octets, from_table, only, text, to_table};
use super::super::request::Failure;
use super::{Ask, Done, changed, list, nothing_there, show, wrong_method};

impl Ask {
    pub(super) fn contents(&self, path: &[&str]) -> Result<Done, Failure> {
        let vhost = self.parameter("vhost");
        let broker = &self.node.broker;
        match (self.method(), path) {
            ("GET", ["queues"]) => show(self.queue_rows(vhost.as_deref())?),
            ("GET", ["queues", vhost]) => show(self.queue_rows(Some(vhost))?),
            (_, ["queues", vhost, rest @ ..]) => self.queue(vhost, rest),
            ("GET", ["exchanges"]) => list(self.seen(broker.exchanges(vhost.as_deref())?, |x| &x.vhost), exchange),
            ("GET", ["exchanges", vhost]) => list(self.seen(broker.exchanges(Some(vhost))?, |x| &x.vhost), exchange),
            (_, ["exchanges", vhost, name]) => self.exchange(vhost, if *name == "amq.default" { "" } else { name }),
            ("GET", ["exchanges", vhost, name, "explain"]) => {
                self.explain(vhost, if *name == "amq.default" { "" } else { name })
            }
            ("GET", ["bindings"]) => list(self.seen(broker.bindings(vhost.as_deref())?, |b| &b.vhost), binding),
            ("GET", ["bindings", vhost]) => list(self.seen(broker.bindings(Some(vhost))?, |b| &b.vhost), binding),
            (_, ["bindings", vhost]) => self.binding(vhost),
            (_, ["queues" | "exchanges" | "bindings"]) => Err(wrong_method()),
            _ => Err(nothing_there()),
        }
    }

    /// All that messages wait in: queues, streams, and topics that no queue was declared for.
    pub(super) fn queue_rows(&self, vhost: Option<&str>) -> Result<Vec<Json>, Failure> {
        let reports = self.seen(self.node.broker.queues(vhost)?, |q| &q.view.settings.vhost);
        let declared = reports.iter().map(|q| q.view.settings.id).filter(|id| id.is_stream()).collect();
        let topics = self.other_topics(vhost, &declared);
        let mut all: Vec<Json> = reports.iter().map(queue).collect();
        all.extend(topics.iter().map(|t| self.topic_as_queue(t)));
        Ok(all)
    }

    fn queue(&self, vhost: &str, path: &[&str]) -> Result<Done, Failure> {
        let broker = &self.node.broker;
        self.must_see(vhost)?;
        match (self.method(), path) {
            ("GET", [name]) => {
                let mut report = queue(&broker.queue(vhost, name)?);
                report["effective_policy"] = from_table(&broker.effective_policy(vhost, name));
                show(report)
            }
            ("PUT", [name]) => {
                only(&self.body, &["durable", "auto_delete", "arguments"])?;
                let declare = QueueDeclare {
                    name: (*name).into(),
                    passive: false,
                    durable: flag(&self.body, "durable", true)?,
                    exclusive: false,
                    auto_delete: flag(&self.body, "auto_delete", false)?,
                    arguments: to_table(self.body.get("arguments"))?,
                };
                changed(broker.put_queue(self.who.actor(), vhost, &declare, self.now).map(|(_, lsn)| lsn))
            }
            ("DELETE", [name]) => {
                let (if_unused, if_empty) = (self.is_set("if_unused")?, self.is_set("if_empty")?);
                let (messages, lsn) =
                    broker.delete_queue_of(self.who.actor(), vhost, name, if_unused, if_empty, self.now)?;
                Ok(Done::Told(json!({ "messages": messages }), lsn))
            }
            ("POST", [name, "purge"]) => {
                let messages = broker.purge_queue(self.who.actor(), vhost, name, self.now)?;
                Ok(Done::Told(json!({ "messages": messages }), None))
            }
            (_, [_] | [_, "purge"]) => Err(wrong_method()),
            _ => Err(nothing_there()),
        }
    }

    fn exchange(&self, vhost: &str, name: &str) -> Result<Done, Failure> {
        let broker = &self.node.broker;
        self.must_see(vhost)?;
        match self.method() {
            "GET" => show(exchange_view(vhost, &broker.exchange(vhost, name)?)),
            "PUT" => {
                only(&self.body, &["type", "durable", "auto_delete", "internal", "arguments"])?;
                let declare = ExchangeDeclare {
                    name: name.into(),
                    kind: text(&self.body, "type")?.unwrap_or("direct").into(),
                    passive: false,
                    durable: flag(&self.body, "durable", true)?,
                    auto_delete: flag(&self.body, "auto_delete", false)?,
                    internal: flag(&self.body, "internal", false)?,
                    arguments: to_table(self.body.get("arguments"))?,
                };
                changed(broker.put_exchange(self.who.actor(), vhost, &declare, self.now))
            }
            "DELETE" => {
                changed(broker.delete_exchange(self.who.actor(), vhost, name, self.is_set("if_unused")?, self.now))
            }
            _ => Err(wrong_method()),
        }
    }

    fn binding(&self, vhost: &str) -> Result<Done, Failure> {
        let broker = &self.node.broker;
        self.must_see(vhost)?;
        match self.method() {
            "POST" => {
                only(&self.body, &["source", "destination", "destination_type", "routing_key", "arguments"])?;
                let given = |field| Ok::<_, Failure>(text(&self.body, field)?.map(str::to_owned));
                let binding = binding_of(given, to_table(self.body.get("arguments"))?)?;
                changed(broker.put_binding(self.who.actor(), vhost, &binding, self.now))
            }
            "DELETE" => {
                let arguments = match self.parameter("arguments") {
                    None => None,
                    Some(json) => Some(serde_json::from_str::<Json>(&json).map_err(|e| Failure::bad(e.to_string()))?),
                };
                let binding = binding_of(|field| Ok(self.parameter(field)), to_table(arguments.as_ref())?)?;
                changed(broker.delete_binding(self.who.actor(), vhost, &binding, self.now))
            }
            _ => Err(wrong_method()),
        }
    }
}

fn binding_of(
    given: impl Fn(&'static str) -> Result<Option<String>, Failure>,
    arguments: waypost_model::table::Table,
) -> Result<Binding, Failure> {
    let needed = |field| given(field)?.ok_or_else(|| Failure::bad(format!("`{field}` is missing")));
    let destination = needed("destination")?.into_boxed_str();
    let destination = match given("destination_type")?.as_deref() {
        None | Some("queue") => Destination::Queue(destination),
        Some("exchange") => Destination::Exchange(destination),
        Some(_) => return Err(Failure::bad("`destination_type` must be queue or exchange")),
    };
    Ok(Binding {
        source: needed("source")?.into(),
        destination,
        routing_key: given("routing_key")?.unwrap_or_default().into_bytes().into(),
        arguments,
    })
}

fn queue(q: &QueueReport) -> Json {
    let (s, c, n) = (&q.view.settings, &q.state.counts, &q.state.stats);
    json!({
        "name": &*s.name, "vhost": &*s.vhost, "type": kind_name(s.kind),
        "durable": s.durable, "auto_delete": s.auto_delete, "exclusive": s.exclusive.is_some(),
        "service": s.service.as_deref(), "arguments": from_table(&q.view.arguments),
        "policy": q.view.policy.as_deref(), "operator_policy": q.view.operator_policy.as_deref(),
        "messages": c.ready.saturating_add(c.unsettled),
        "messages_ready": c.ready, "messages_unacknowledged": c.unsettled,
        "message_bytes_ready": c.ready_bytes, "memory": q.state.memory, "consumers": c.consumers,
        "head_message_at": q.state.head_at.map(|at| at.0),
        "stats": {
            "published": n.published, "refused": n.refused, "delivered": n.delivered,
            "delivered_no_ack": n.delivered_no_ack, "got": n.got, "got_no_ack": n.got_no_ack,
            "got_empty": n.got_empty, "redelivered": n.redelivered, "acked": n.acked, "requeued": n.requeued,
            "expired": n.expired, "dropped": n.dropped, "rejected": n.rejected, "poisoned": n.poisoned,
            "dead_lettered": n.dead_lettered, "purged": n.purged,
        },
    })
}

fn exchange(x: &InVhost<ExchangeView>) -> Json {
    exchange_view(&x.vhost, &x.item)
}

fn exchange_view(vhost: &str, x: &ExchangeView) -> Json {
    json!({
        "name": &*x.name, "vhost": vhost, "type": x.kind, "durable": x.durable, "auto_delete": x.auto_delete,
        "internal": x.internal, "arguments": from_table(&x.arguments), "policy": x.policy.as_deref(),
    })
}

fn binding(b: &InVhost<BindingView>) -> Json {
    let (kind, destination) = match &b.item.destination {
        Destination::Queue(name) => ("queue", name),
        Destination::Exchange(name) => ("exchange", name),
    };
    json!({
        "vhost": &*b.vhost, "source": &*b.item.source, "destination": &**destination, "destination_type": kind,
        "routing_key": from_octets(&b.item.routing_key), "arguments": from_table(&b.item.arguments),
    })
}
