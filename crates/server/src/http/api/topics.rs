//! Topics: listed, made, extended, configured, removed, looked into.

use std::collections::BTreeSet;
use std::sync::Arc;

use hyper::StatusCode;
use serde_json::{Map, Value as Json, json};
use waypost_broker::topology::{Access, Resource};
use waypost_model::QueueId;
use waypost_stream::config::{SETTINGS, TopicConfig};
use waypost_stream::records::Record;
use waypost_stream::streams::{Cell, Topic, TopicFault, partitions_or};

use super::super::json::{from_octets, number, only};
use super::super::request::Failure;
use super::{Ask, Done, changed, list, nothing_there, show, wrong_method};
use crate::streams::Look;

/// Records that are shown at once, at most and unless told otherwise.
const RECORDS_MAX: usize = 1000;
const RECORDS: usize = 20;

impl Ask {
    pub(super) fn topics(&self, path: &[&str]) -> Result<Done, Failure> {
        match (self.method(), path) {
            ("GET", ["topics"]) => {
                let all = match self.parameter("vhost") {
                    Some(vhost) => self.topics_of(&vhost)?,
                    None => self.all_topics(),
                };
                list(all, |t| self.topic_view(t))
            }
            ("GET", ["topics", vhost]) => list(self.topics_of(vhost)?, |t| self.topic_view(t)),
            // What a trailing slash leaves out is a name.
            ("PUT" | "DELETE", ["topics", _]) => Err(TopicFault::Name("".into()).into()),
            (_, ["topics", vhost, name, rest @ ..]) => self.topic(vhost, name, rest),
            (_, ["topics"] | ["topics", _]) => Err(wrong_method()),
            _ => Err(nothing_there()),
        }
    }

    fn topic(&self, vhost: &str, name: &str, path: &[&str]) -> Result<Done, Failure> {
        self.must_see(vhost)?;
        match (self.method(), path) {
            ("GET", []) => show(self.topic_detail(&*self.known_topic(vhost, name)?)),
            ("PUT", []) => self.put_topic(vhost, name),
            ("DELETE", []) => {
                self.may(vhost, Access::Configure, Resource::Queue, name)?;
                let topic = self.known_topic(vhost, name)?;
                let written = self.node.streams.delete(vhost, name)?;
                let queue = topic.partition(0).map(|cell| cell.queue());
                let gone = queue.and_then(|queue| self.node.broker.stream_gone(queue, self.now));
                changed(Ok(gone.max(Some(written))))
            }
            ("GET", ["config"]) => show(all_settings(&self.known_topic(vhost, name)?.config())),
            ("PUT", ["config"]) => {
                self.may(vhost, Access::Configure, Resource::Queue, name)?;
                let changes = settings(&self.body)?;
                changed(Ok(Some(self.configure(vhost, name, &changes)?)))
            }
            ("GET", ["records"]) => {
                self.may(vhost, Access::Read, Resource::Queue, name)?;
                self.records(&*self.known_topic(vhost, name)?)
            }
            (_, [] | ["config" | "records"]) => Err(wrong_method()),
            _ => Err(nothing_there()),
        }
    }

    pub(super) fn known_topic(&self, vhost: &str, name: &str) -> Result<Arc<Topic>, Failure> {
        let found = self.node.streams.topic(vhost, name);
        found.ok_or_else(|| TopicFault::Unknown(name.into()).into())
    }

    fn topics_of(&self, vhost: &str) -> Result<Vec<Arc<Topic>>, Failure> {
        self.must_see(vhost)?;
        self.node.broker.vhost(vhost)?;
        Ok(self.node.streams.topics(vhost))
    }

    /// The topics of all vhosts that may be seen.
    pub(super) fn all_topics(&self) -> Vec<Arc<Topic>> {
        self.seen(self.node.streams.topics_beginning(""), |t| &t.vhost)
    }

    /// Makes a topic, or makes one that is there what is asked for: more partitions, other settings.
    fn put_topic(&self, vhost: &str, name: &str) -> Result<Done, Failure> {
        only(&self.body, &["partitions", "config"])?;
        self.may(vhost, Access::Configure, Resource::Queue, name)?;
        self.node.broker.vhost(vhost)?;
        let asked = number(&self.body, "partitions")?;
        let partitions = asked.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let changes = settings(self.body.get("config").unwrap_or(&json!({})))?;
        let Some(topic) = self.node.streams.topic(vhost, name) else {
            let set = changes.iter().filter_map(|(name, value)| Some((&**name, value.as_deref()?)));
            let config = TopicConfig::parse(set).map_err(TopicFault::from)?;
            let partitions =
                partitions.unwrap_or_else(|| partitions_or(self.node.config.kafka.default_partitions, name));
            let (_, lsn) = self.node.streams.create(vhost, name, partitions, config)?;
            return changed(Ok(Some(lsn)));
        };
        let mut lsn = None;
        if let Some(more) = partitions.filter(|n| *n as usize != topic.partitions().len()) {
            lsn = Some(self.node.streams.grow(vhost, name, more)?);
        }
        if !changes.is_empty() {
            lsn = lsn.max(Some(self.configure(vhost, name, &changes)?));
        }
        changed(Ok(lsn))
    }

    fn configure(
        &self,
        vhost: &str,
        name: &str,
        changes: &[(String, Option<String>)],
    ) -> Result<waypost_model::Lsn, Failure> {
        let change = |config: &TopicConfig| config.with(changes.iter().map(|(n, v)| (&**n, v.as_deref())));
        Ok(self.node.streams.configure(vhost, name, change)?)
    }

    fn topic_view(&self, topic: &Topic) -> Json {
        let (mut messages, mut bytes) = (0_u64, 0_u64);
        let partitions = topic.partitions();
        for cell in partitions.iter() {
            let (offsets, held) = cell.with(|p| (p.offsets(), p.bytes()));
            messages += offsets.high_watermark.saturating_sub(offsets.start);
            bytes += held;
        }
        let queue = queue_of(topic).is_some_and(|id| self.node.broker.is_declared(id));
        let config: Map<String, Json> =
            topic.config().settings().map(|(name, value)| (name.to_owned(), value.into())).collect();
        json!({
            "vhost": &*topic.vhost, "name": &*topic.name, "partitions": partitions.len(), "messages": messages,
            "bytes": bytes, "queue": queue, "config": config,
        })
    }

    fn topic_detail(&self, topic: &Topic) -> Json {
        let mut view = self.topic_view(topic);
        let one = |(cell, number): (&Arc<Cell>, usize)| {
            let (offsets, bytes) = cell.with(|p| (p.offsets(), p.bytes()));
            json!({
                "partition": number, "start": offsets.start, "end": offsets.high_watermark,
                "last_stable": offsets.last_stable, "bytes": bytes,
            })
        };
        let partitions = topic.partitions();
        view["offsets"] = partitions.iter().zip(0..).map(one).collect();
        view["groups"] = self.groups_of(topic);
        view
    }

    /// A topic that no queue was declared for, as listings of queues show it.
    pub(super) fn topic_as_queue(&self, topic: &Topic) -> Json {
        let view = self.topic_view(topic);
        json!({
            "name": view["name"], "vhost": view["vhost"], "type": "topic", "durable": true, "auto_delete": false,
            "exclusive": false, "arguments": {}, "policy": null, "operator_policy": null,
            "messages": view["messages"], "messages_ready": view["messages"], "messages_unacknowledged": 0,
            "message_bytes_ready": view["bytes"], "consumers": 0, "partitions": view["partitions"],
        })
    }

    /// The topics that no queue of those was declared for.
    pub(super) fn other_topics(&self, vhost: Option<&str>, declared: &BTreeSet<QueueId>) -> Vec<Arc<Topic>> {
        let mut all = self.all_topics();
        let other = |t: &Topic| queue_of(t).is_none_or(|id| !declared.contains(&id));
        all.retain(|t| vhost.is_none_or(|v| *t.vhost == *v) && other(t));
        all
    }

    fn records(&self, topic: &Topic) -> Result<Done, Failure> {
        let count = |name: &str, otherwise: usize| match self.parameter(name) {
            None => Ok(otherwise),
            Some(text) => text.parse::<usize>().map_err(|_| Failure::bad(format!("`{name}` must be a number"))),
        };
        let partition = i32::try_from(count("partition", 0)?).unwrap_or(i32::MAX);
        let limit = count("limit", RECORDS)?.clamp(1, RECORDS_MAX);
        let missing = || Failure::new(StatusCode::NOT_FOUND, format!("there is no partition {partition}"));
        let cell = topic.partition(partition).ok_or_else(missing)?;
        let offsets = cell.with(|p| p.offsets());
        let from = match self.parameter("offset").as_deref() {
            None | Some("earliest") => offsets.start,
            Some("latest") => offsets.last_stable.saturating_sub(limit as u64).max(offsets.start),
            Some(text) => {
                text.parse().map_err(|_| Failure::bad("`offset` must be a number, `earliest` or `latest`"))?
            }
        };
        let look = Look { cell: &cell, streams: &self.node.streams, now: self.now };
        let records = look
            .records(from, limit)
            .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the topic cannot be read: {e}")))?;
        show(records.into_iter().map(record).collect::<Vec<_>>())
    }
}

fn record(record: Record) -> Json {
    let octets = |bytes: Option<Vec<u8>>| bytes.map_or(Json::Null, |bytes| from_octets(&bytes));
    let headers: Vec<Json> =
        record.headers.into_iter().map(|(name, value)| json!({ "name": name, "value": octets(value) })).collect();
    json!({
        "offset": record.offset, "timestamp": record.timestamp, "key": octets(record.key),
        "value": octets(record.value), "headers": headers,
    })
}

/// The queue that a topic is, if one is declared for it.
fn queue_of(topic: &Topic) -> Option<QueueId> {
    Some(topic.partition(0)?.queue())
}

/// All settings, as they are in force.
fn all_settings(config: &TopicConfig) -> Json {
    let one = |setting: &'static waypost_stream::config::Setting| {
        let (value, set) = config.value(setting);
        json!({ "name": setting.name, "value": value, "set": set, "default": setting.default, "about": setting.about })
    };
    SETTINGS.iter().map(one).collect()
}

/// Settings and their values; null takes a setting back.
fn settings(json: &Json) -> Result<Vec<(String, Option<String>)>, Failure> {
    let map = json.as_object().ok_or_else(|| Failure::bad("a configuration is an object"))?;
    let one = |(name, value): (&String, &Json)| {
        let value = match value {
            Json::Null => None,
            Json::String(text) => Some(text.clone()),
            Json::Number(_) | Json::Bool(_) => Some(value.to_string()),
            _ => return Err(Failure::bad(format!("`{name}` must be text, a number, true or false"))),
        };
        Ok((name.clone(), value))
    };
    map.iter().map(one).collect()
}

impl From<TopicFault> for Failure {
    fn from(fault: TopicFault) -> Failure {
        let status = match &fault {
            TopicFault::Name(_) | TopicFault::Partitions { .. } | TopicFault::Config(_) => StatusCode::BAD_REQUEST,
            TopicFault::Exists(_) => StatusCode::CONFLICT,
            TopicFault::Unknown(_) => StatusCode::NOT_FOUND,
            TopicFault::Limit(_) => StatusCode::INSUFFICIENT_STORAGE,
            TopicFault::Journal(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Failure::new(status, fault.to_string())
    }
}
