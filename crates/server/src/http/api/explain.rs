//! Why a message would go where it would: the router itself, run without effect.

use serde_json::{Value as Json, json};
use waypost_broker::topology::SERVICES_EXCHANGE;
use waypost_model::Route;
use waypost_model::command::Destination;
use waypost_model::props::PropsOwned;
use waypost_model::table::Table;

use super::super::json::{from_octets, from_table};
use super::super::request::{Failure, pairs};
use super::services::explanation;
use super::{Ask, Done, show};

/// Longest routing key of AMQP, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// Most headers in a question.
const HEADERS_MAX: usize = 64;

impl Ask {
    /// `?key=` is the routing key, `header-<name>` a header.
    pub(super) fn explain(&self, vhost: &str, exchange: &str) -> Result<Done, Failure> {
        self.must_see(vhost)?;
        let (mut key, mut headers) = (String::new(), Table::new());
        for (name, value) in pairs(&self.uri) {
            match name.strip_prefix("header-") {
                Some(header) if headers.len() < HEADERS_MAX => headers.set(header, value),
                Some(_) => return Err(Failure::bad(format!("at most {HEADERS_MAX} headers"))),
                None if name == "key" && value.len() <= KEY_BYTES_MAX => key = value,
                None => return Err(Failure::bad(format!("unknown parameter `{name}`, or too long a key"))),
            }
        }
        let props = PropsOwned { headers: (!headers.is_empty()).then_some(headers), ..PropsOwned::default() };
        let route = Route::new(exchange, &key);
        let props = props.to_bytes();
        let explained = self.node.broker.route_explain(vhost, &route, &props)?;
        let services = explained.services.iter().map(|key| {
            let route = Route::new(SERVICES_EXCHANGE, key);
            let one = self.node.broker.service_explain(self.who.actor(), vhost, &route, &props, self.now)?;
            Ok(explanation(&one))
        });
        let services: Vec<Json> = services.collect::<Result<_, Failure>>()?;
        let hops: Vec<Json> = explained
            .hops
            .iter()
            .map(|hop| {
                let (sort, name) = end(&hop.destination);
                json!({ "exchange": &*hop.exchange, "destination_type": sort, "destination": name })
            })
            .collect();
        let unmatched: Vec<Json> = explained
            .unmatched
            .iter()
            .map(|missed| {
                let (b, (sort, name)) = (&missed.binding, end(&missed.binding.destination));
                json!({
                    "exchange": &*b.source, "destination_type": sort, "destination": name,
                    "routing_key": from_octets(&b.routing_key), "arguments": from_table(&b.arguments),
                    "reason": missed.reason,
                })
            })
            .collect();
        let waits: Vec<Json> = explained.delayed.iter().map(|d| json!({ "delay_ms": d.delay_ms })).collect();
        show(json!({
            "exchange": exchange, "routing_key": key, "queues": explained.queues.len(), "hops": hops,
            "services": services, "delayed": waits, "unmatched": unmatched,
        }))
    }
}

fn end(destination: &Destination) -> (&'static str, &str) {
    match destination {
        Destination::Queue(name) => ("queue", name),
        Destination::Exchange(name) => ("exchange", name),
    }
}
