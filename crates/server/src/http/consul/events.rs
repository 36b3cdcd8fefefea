//! `/v1/event`: an event goes to every instance that it is for, through the mailboxes of their services.
//!
//! Consul's agents hear of events by asking; they can here too. Beyond that each instance that consumes gets a copy as a
//! message, once, and also if it is away for a moment.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::{Method, StatusCode};
use regex::RegexBuilder;
use serde_json::{Value, json};
use waypost_broker::topology::Access;
use waypost_model::Route;
use waypost_model::props::{DELIVERY_MODE_PERSISTENT, PropsOwned};
use waypost_model::table::{Table, Value as Field};

use super::super::body::Answer;
use super::super::request::Failure;
use super::render;
use super::{Ask, no_endpoint};
use crate::local::{Message, Posted};

/// Largest payload of an event.
const PAYLOAD_MAX: usize = 64 * 1024;

/// Longest name and longest filter of an event, in bytes.
const TEXT_MAX: usize = 255;

/// Largest compiled filter, in bytes.
const REGEX_BYTES_MAX: usize = 64 * 1024;

/// Services that one event may go to.
const SERVICES_MAX: usize = 1000;

/// The exchange of services.
const SERVICES: &str = "amq.services";

/// An event.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub vhost: Arc<str>,
    pub id: String,
    pub name: String,
    pub payload: bytes::Bytes,
    pub node: String,
    pub service: String,
    pub tag: String,
    /// Counts events.
    pub index: u64,
}

impl Event {
    fn json(&self) -> Value {
        let payload = (!self.payload.is_empty()).then(|| STANDARD.encode(&self.payload));
        json!({
            "ID": self.id, "Name": self.name, "Payload": payload, "NodeFilter": self.node,
            "ServiceFilter": self.service, "TagFilter": self.tag, "Version": 1, "LTime": self.index,
        })
    }
}

fn pattern(what: &str, text: &str) -> Result<Option<regex::Regex>, Failure> {
    if text.len() > TEXT_MAX {
        return Err(Failure::bad(format!("the {what} has more than {TEXT_MAX} bytes")));
    }
    if text.is_empty() {
        return Ok(None);
    }
    let built = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build();
    built.map(Some).map_err(|error| Failure::bad(format!("Invalid {what}: {error}")))
}

impl Ask<'_> {
    /// `/v1/event/…`
    pub(super) async fn event(&self, path: &[&str]) -> Result<Answer, Failure> {
        match path {
            ["fire", name] => {
                self.must_be(Method::PUT, "PUT")?;
                self.fire(name).await
            }
            ["list"] => {
                self.must_be(Method::GET, "GET")?;
                self.events().await
            }
            _ => Err(no_endpoint()),
        }
    }

    async fn fire(&self, name: &str) -> Result<Answer, Failure> {
        if name.is_empty() || name.len() > TEXT_MAX {
            return Err(Failure::bad(format!("the event's name must have 1 to {TEXT_MAX} bytes")));
        }
        if self.body.len() > PAYLOAD_MAX {
            let text = format!("an event has at most {PAYLOAD_MAX} bytes: send a message for more");
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        let of = |name: &str| self.params.other(name).unwrap_or_default().to_owned();
        let (service, node) = (of("service"), of("node"));
        // The tag is a parameter of reads too.
        let tag = self.params.tags.first().cloned().unwrap_or_default();
        if !tag.is_empty() && service.is_empty() {
            return Err(Failure::bad("Cannot provide tag filter without service filter"));
        }
        let (services, tags, nodes) =
            (pattern("service filter", &service)?, pattern("tag filter", &tag)?, pattern("node filter", &node)?);
        let event = Event {
            vhost: Arc::clone(self.cx.vhost()),
            id: uuid()?,
            name: name.to_owned(),
            payload: self.body.clone(),
            node,
            service,
            tag,
            index: 0,
        };
        let is_for_us = nodes.is_none_or(|nodes| nodes.is_match(&self.services.own_node().spec.name));
        let mut durable = None;
        if let Some(services) = services.filter(|_| is_for_us) {
            durable = self.broadcast(&event, &services, tags.as_ref())?;
        } else {
            self.cx.who.must_administrate().or_else(|_| self.may_fire(name))?;
        }
        let event = self.cx.node.consul.keep_event(event);
        self.cx.durable(durable).await?;
        Ok(self.told(render::json(&event.json())))
    }

    /// Without a service nobody gets a message; it is only listed. Whoever may write to the exchange may do that.
    fn may_fire(&self, name: &str) -> Result<(), Failure> {
        Ok(self.cx.may_service(self.cx.vhost(), Access::Write, name)?)
    }

    /// A copy to every instance of the services that match, with a tag that matches.
    fn broadcast(
        &self,
        event: &Event,
        services: &regex::Regex,
        tags: Option<&regex::Regex>,
    ) -> Result<Option<waypost_model::Lsn>, Failure> {
        let list = self.services.list();
        let mut last = None;
        let matching = list.services.iter().filter(|entry| services.is_match(&entry.name)).take(SERVICES_MAX);
        for entry in matching {
            self.cx.may_service(self.cx.vhost(), Access::Write, &entry.name)?;
            let select = match tags {
                None => None,
                Some(tags) => {
                    let wanted: Vec<_> =
                        entry.tags.iter().filter(|t| tags.is_match(t)).map(|t| format!("{t:?} in tags")).collect();
                    if wanted.is_empty() {
                        continue;
                    }
                    Some(wanted.join(" or "))
                }
            };
            let route = Arc::new(Route::new(SERVICES, &*entry.name));
            let posted = self.cx.node.clients.publishers.publish(
                self.cx.vhost(),
                &route,
                &message(event, select.as_deref()),
                false,
            )?;
            match posted {
                Posted::Taken(lsn) => last = last.max(lsn),
                // Nobody consumes: an event is for those who are there.
                Posted::Unroutable => {}
                Posted::Full => {
                    let text = format!("the mailbox of {} is full", entry.name);
                    return Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, text));
                }
            }
        }
        Ok(last)
    }

    async fn events(&self) -> Result<Answer, Failure> {
        let name = self.params.other("name").filter(|name| !name.is_empty());
        let shared = &self.cx.node.consul;
        let (vhost, fired) = (self.cx.vhost(), &shared.fired);
        let look = || (fired.index(), ());
        let (index, ()) = self.wait(look, |since| fired.changed(since)).await;
        let shown: Vec<Value> = shared.events(vhost, name).iter().map(Event::json).collect();
        Ok(self.own(render::json(&shown), index))
    }
}

fn message(event: &Event, select: Option<&str>) -> Message {
    let mut headers = Table::new();
    let text = |text: &str| Field::LongStr(text.as_bytes().to_vec());
    headers.set("x-deliver", text("all"));
    headers.set("x-consul-event", text(&event.name));
    headers.set("x-consul-event-id", text(&event.id));
    if let Some(select) = select {
        headers.set("x-select", text(select));
    }
    let props =
        PropsOwned { delivery_mode: Some(DELIVERY_MODE_PERSISTENT), headers: Some(headers), ..PropsOwned::default() };
    Message { props, body: event.payload.clone() }
}

/// A random UUID. RFC 9562 §5.4.
pub(super) fn uuid() -> Result<String, Failure> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "there is no randomness"))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| hex.get(range).unwrap_or_default().to_owned());
    Ok(parts.join("-"))
}
