//! Topics that feed exchanges and services. A forwarder reads a topic like a consumer group of one, publishes its records,
//! and commits its position once they are on disk where they went: each record arrives at least once, in order.
//!
//! Those of operators are parameters of their vhost, by the component [`COMPONENT`]. A topic `services.<name>` has one
//! by itself, which sends to the service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use waypost_broker::topology::SERVICES_EXCHANGE;
use waypost_model::props::{DELIVERY_MODE_PERSISTENT, PropsOwned};
use waypost_model::table::{Table, Value};
use waypost_model::{Lsn, Refusal, RefusalKind, Route};
use waypost_stream::groups::Committer;
use waypost_stream::messages::{Told, text_or_bytes, to_message};
use waypost_stream::records::Record;
use waypost_stream::streams::{Committed, Grown, Topic, service_of};

use super::read::{Chunk, Cursor, DECODED_BYTES};
use super::reader::any;
use crate::local::{Message, Posted};
use crate::node::Node;

/// The component of the parameters that declare forwarders.
pub(crate) const COMPONENT: &str = "forwarder";
/// What the names of the groups begin with in which forwarders keep their positions.
const GROUPS: &str = "waypost.forward.";
/// Names of the forwarders that a message has come through.
const FORWARDED_BY: &str = "x-forwarded-by";
/// Most of them: what has come through so many is left out.
const HOPS_MAX: usize = 16;

/// How long it is waited before what does not go is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often it is looked whether somebody has set the position anew.
const LOOK: Duration = Duration::from_secs(1);

/// What a forwarder does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub vhost: Arc<str>,
    pub name: Box<str>,
    pub topic: Box<str>,
    pub target: Target,
    /// Begin at what comes, rather than at the beginning.
    pub from_latest: bool,
}

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// To an exchange, with their key as routing key if there is no other.
    Exchange { exchange: Box<str>, routing_key: Option<Box<str>> },
    /// To a service, with their headers as selector and their key as key.
    Service(Box<str>),
}

impl Spec {
    /// The forwarder of a topic that feeds a service, if its name says so.
    pub fn of_service(vhost: &Arc<str>, topic: &str) -> Option<Spec> {
        let service = service_of(topic)?;
        Some(Spec {
            vhost: Arc::clone(vhost),
            name: topic.into(),
            topic: topic.into(),
            target: Target::Service(service.into()),
            from_latest: false,
        })
    }

    /// The name of the forwarder that keeps its position in a group, if that is a forwarder's.
    pub fn of_group(group: &str) -> Option<&str> {
        group.strip_prefix(GROUPS)
    }

    /// The group in which it keeps its position.
    pub fn group(&self) -> String {
        format!("{GROUPS}{}", self.name)
    }
}

/// What a forwarder has done since it began.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Records published.
    pub forwarded: AtomicU64,
    /// Of them: no queue wanted it.
    pub unroutable: AtomicU64,
    /// Records that the exchange or the service refuses whatever one does, and that were left out.
    pub refused: AtomicU64,
    /// Records that had come through this forwarder, or another one of the same topic, before, and were left out.
    pub looped: AtomicU64,
    /// Records that had come through too many forwarders, and were left out.
    pub hop_limit_exceeded: AtomicU64,
    /// Batches whose records cannot be read, or not to their end, and were left out from there on.
    pub unreadable: AtomicU64,
    /// What it waits for, if it does.
    waits: Mutex<Option<String>>,
}

impl Figures {
    pub fn waits_for(&self) -> Option<String> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wait_for(&self, what: Option<String>) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}

/// What became of a record.
enum Sent {
    /// It is there once the journal has got so far.
    Taken(Option<Lsn>),
    /// It is left out.
    LeftOut,
    /// It does not go now.
    Later(String),
}

/// Forwards until the task is ended.
pub(super) async fn run(node: Arc<Node>, spec: Spec, figures: Arc<Figures>) {
    loop {
        match node.streams.topic(&spec.vhost, &spec.topic) {
            Some(topic) => {
                let work = Work { node: &node, spec: &spec, figures: &figures, topic: &topic, cursors: Vec::new() };
                work.forward().await;
                // Its position may have been noted once more after the topic was deleted: one of the same name is another.
                let _ = node.streams.forget_offsets(&spec.vhost, &spec.group(), None);
            }
            None => figures.wait_for(Some(format!("there is no topic `{}`", spec.topic))),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// One topic's forwarding, for as long as the topic lives.
struct Work<'a> {
    node: &'a Arc<Node>,
    spec: &'a Spec,
    figures: &'a Figures,
    topic: &'a Arc<Topic>,
    cursors: Vec<Cursor>,
}

impl Work<'_> {
    async fn forward(mut self) {
        loop {
            self.follow_partitions();
            self.follow_positions();
            let growing: Vec<Grown> = self.cursors.iter().map(|c| c.cell.grown()).collect();
            if self.cursors.iter().any(|c| c.cell.is_closed()) {
                return;
            }
            match self.step().await {
                Ok(true) => {}
                Ok(false) => {
                    self.figures.wait_for(None);
                    let _ = tokio::time::timeout(LOOK, any(growing)).await;
                }
                Err(error) => {
                    let (topic, name) = (&*self.spec.topic, &*self.spec.name);
                    tracing::error!(topic, forwarder = name, %error, "a topic cannot be read");
                    self.figures.wait_for(Some(format!("the topic cannot be read: {error}")));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// A cursor for each partition, where the group is or where the forwarder is to begin.
    fn follow_partitions(&mut self) {
        let cells = self.topic.partitions();
        for (cell, partition) in cells.iter().zip(0..).skip(self.cursors.len()) {
            let offsets = cell.with(|p| p.offsets());
            // Partitions that come later are new as a whole.
            let latest = self.spec.from_latest && self.cursors.is_empty();
            let next = match self.committed(partition).filter(|offset| *offset <= offsets.high_watermark) {
                Some(offset) => offset,
                None if latest => offsets.high_watermark,
                None => offsets.start,
            };
            self.cursors.push(Cursor { cell: Arc::clone(cell), partition, next, since: None });
            self.commit(partition, next);
        }
    }

    /// Somebody may have set the group's position anew; behind the end there is nothing to be waited for.
    fn follow_positions(&mut self) {
        for at in 0..self.cursors.len() {
            let Some((partition, next)) = self.cursors.get(at).map(|c| (c.partition, c.next)) else { break };
            let set = self.committed(partition).filter(|set| *set != next);
            if let (Some(set), Some(cursor)) = (set, self.cursors.get_mut(at))
                && set <= cursor.cell.with(|p| p.offsets().high_watermark)
            {
                cursor.next = set;
            }
        }
    }

    fn committed(&self, partition: i32) -> Option<u64> {
        let spec = self.spec;
        let committed = self.node.streams.committed(&spec.vhost, &spec.group(), &spec.topic, partition)?;
        u64::try_from(committed.offset).ok()
    }

    fn commit(&self, partition: i32, offset: u64) {
        let committed = Committed {
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
            leader_epoch: -1,
            metadata: Box::default(),
            at: self.node.clock.now(),
            ends: None,
        };
        let offsets = vec![(Arc::clone(&self.topic.name), partition, committed)];
        if let Err(error) =
            self.node.streams.commit(&self.spec.vhost, &self.spec.group(), offsets, Committer::Standalone)
        {
            // It goes on all the same, and begins earlier than it need after a restart.
            tracing::warn!(forwarder = &*self.spec.name, %error, "a position is not kept");
        }
    }

    /// Forwards what the next partition has; false if there is nothing.
    async fn step(&mut self) -> std::io::Result<bool> {
        let mut any = false;
        for at in 0..self.cursors.len() {
            let Some(cursor) = self.cursors.get_mut(at) else { break };
            let Some(planned) = cursor.plan(self.node.clock.now()) else { continue };
            let partition = cursor.partition;
            let streams = Arc::clone(&self.node.streams);
            let read = tokio::task::spawn_blocking(move || planned.read(&streams, DECODED_BYTES));
            let Chunk { records, next, unreadable, .. } = read.await.map_err(std::io::Error::other)??;
            if unreadable > 0 && self.figures.unreadable.fetch_add(unreadable, Ordering::Relaxed) == 0 {
                let (forwarder, topic) = (&*self.spec.name, &*self.spec.topic);
                tracing::warn!(forwarder, topic, partition, before = next, "records that cannot be read are left out");
            }
            let lsn = self.send_all(records).await;
            while !self.node.reached(lsn).await {
                self.figures.wait_for(Some("the disk is slow".to_owned()));
            }
            if let Some(cursor) = self.cursors.get_mut(at) {
                cursor.next = next;
            }
            self.commit(partition, next);
            any = true;
        }
        Ok(any)
    }

    /// Publishes records in their order; what must be durable for all of them to be safe.
    async fn send_all(&self, records: Vec<Record>) -> Option<Lsn> {
        let mut lsn = None;
        for record in records {
            let (route, message) = match self.message(record) {
                Ok(made) => made,
                Err(circle) => {
                    self.leave_out(circle);
                    continue;
                }
            };
            let route = Arc::new(route);
            loop {
                let sent = if self.node.broker.publishing_paused() {
                    Sent::Later("publishing is paused".to_owned())
                } else {
                    self.send(&route, &message)
                };
                match sent {
                    Sent::Taken(after) => {
                        lsn = lsn.max(after);
                        self.figures.forwarded.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    Sent::LeftOut => {
                        self.figures.refused.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    Sent::Later(why) => {
                        self.figures.wait_for(Some(why));
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        }
        lsn
    }

    /// Counts a record that goes no further; the first one is told.
    fn leave_out(&self, circle: Circle) {
        let (count, limit) = match circle {
            Circle::Closed => (&self.figures.looped, None),
            Circle::TooLong => (&self.figures.hop_limit_exceeded, Some(HOPS_MAX)),
        };
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            let (forwarder, topic) = (&*self.spec.name, &*self.spec.topic);
            tracing::warn!(forwarder, topic, limit, "forwarders go in a circle: a record that came before is left out");
        }
    }

    fn send(&self, route: &Arc<Route>, message: &Message) -> Sent {
        let mandatory = matches!(self.spec.target, Target::Exchange { .. });
        match self.node.clients.publishers.publish(&self.spec.vhost, route, message, mandatory) {
            Ok(Posted::Taken(lsn)) => Sent::Taken(lsn),
            Ok(Posted::Unroutable) => {
                self.figures.unroutable.fetch_add(1, Ordering::Relaxed);
                Sent::Taken(None)
            }
            Ok(Posted::Full) => Sent::Later("a queue has no room".to_owned()),
            Err(refusal) if self.is_hopeless(&refusal) => {
                tracing::warn!(forwarder = &*self.spec.name, %refusal, "a record is left out");
                Sent::LeftOut
            }
            Err(refusal) => Sent::Later(refusal.text),
        }
    }

    /// Whether it is the record's own fault.
    fn is_hopeless(&self, refusal: &Refusal) -> bool {
        let about_itself = refusal.kind == RefusalKind::PreconditionFailed;
        match &self.spec.target {
            Target::Exchange { .. } => about_itself,
            // Without a mailbox it may be that none can be made.
            Target::Service(service) => about_itself && self.node.broker.has_mailbox(&self.spec.vhost, service),
        }
    }

    /// The message that a record becomes.
    fn message(&self, record: Record) -> Result<(Route, Message), Circle> {
        let key = record.key.clone();
        let (origin, mut props, body) = to_message(record, &self.topic.name, Told::Nothing);
        // What was read from a disk is not to be lost with a restart.
        props.delivery_mode = Some(DELIVERY_MODE_PERSISTENT);
        let route = match &self.spec.target {
            Target::Exchange { exchange, routing_key } => {
                let same_topic = |name: &str| self.node.forwarders.reads(&self.spec.vhost, name, &self.spec.topic);
                mark(&mut props, &self.spec.name, same_topic)?;
                let key = routing_key.as_ref().map_or(origin.routing_key, |key| key.as_bytes().into());
                Route { exchange: exchange.clone(), routing_key: key, address: None }
            }
            Target::Service(service) => {
                address(&mut props, key);
                Route::new(SERVICES_EXCHANGE, &**service)
            }
        };
        Ok((route, Message { props, body: Bytes::from(body) }))
    }
}

/// Why a record goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Circle {
    /// It came from this topic before.
    Closed,
    /// It has come through [`HOPS_MAX`] forwarders.
    TooLong,
}

/// Notes in the headers that a message came this way. `same_topic`: whether the forwarder of a name reads the same topic:
/// two of them that lead back to it would otherwise make two of every one, each time.
fn mark(props: &mut PropsOwned, name: &str, same_topic: impl Fn(&str) -> bool) -> Result<(), Circle> {
    let headers = props.headers.get_or_insert_with(Table::new);
    let mut by = match headers.get(FORWARDED_BY) {
        Some(Value::Array(by)) => by.clone(),
        // One name alone may have become a plain text on its way.
        Some(Value::LongStr(one)) => vec![Value::LongStr(one.clone())],
        _ => Vec::new(),
    };
    if by.len() >= HOPS_MAX {
        return Err(Circle::TooLong);
    }
    let text = |v: &Value| match v {
        Value::LongStr(text) => String::from_utf8(text.clone()).ok(),
        _ => None,
    };
    if by.iter().filter_map(text).any(|one| one == name || same_topic(&one)) {
        return Err(Circle::Closed);
    }
    by.push(Value::LongStr(name.as_bytes().to_vec()));
    headers.set(FORWARDED_BY, Value::Array(by));
    Ok(())
}

/// A record's key is the key by which its service delivers, unless its headers say how.
fn address(props: &mut PropsOwned, key: Option<Vec<u8>>) {
    let Some(key) = key.filter(|key| !key.is_empty()) else { return };
    let headers = props.headers.get_or_insert_with(Table::new);
    if headers.get("x-deliver").is_none() && headers.get("x-key").is_none() {
        headers.set("x-deliver", Value::LongStr(b"key".to_vec()));
        headers.set("x-key", text_or_bytes(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_services_are_known_by_their_names() {
        let of = |topic: &str| Spec::of_service(&"/".into(), topic).map(|s| (s.target, s.name));
        assert_eq!(of("services.cart"), Some((Target::Service("cart".into()), "services.cart".into())));
        for other in ["services", "services.", "services.Cart", "services.a.b", "cart"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_circle_ends() {
        let alone = |_: &str| false;
        let mut props = PropsOwned::default();
        assert_eq!(mark(&mut props, "a", alone), Ok(()));
        assert_eq!(mark(&mut props, "b", alone), Ok(()));
        assert_eq!(mark(&mut props, "a", alone), Err(Circle::Closed));
        // Another one of the same topic.
        assert_eq!(mark(&mut props, "c", |name| name == "b"), Err(Circle::Closed));
        let text = Value::LongStr(b"a".to_vec());
        props.headers = Some(Table::new().with(FORWARDED_BY, text));
        assert_eq!(mark(&mut props, "a", alone), Err(Circle::Closed));
        let mut props = PropsOwned::default();
        for n in 0..HOPS_MAX {
            assert_eq!(mark(&mut props, &n.to_string(), alone), Ok(()));
        }
        assert_eq!(mark(&mut props, "z", alone), Err(Circle::TooLong));
    }

    #[test]
    fn a_key_counts_unless_headers_say_otherwise() {
        let text = |t: &str| Value::LongStr(t.as_bytes().to_vec());
        let mut props = PropsOwned::default();
        address(&mut props, Some(b"k".to_vec()));
        assert_eq!(props.headers, Some(Table::new().with("x-deliver", text("key")).with("x-key", text("k"))));
        let mut props = PropsOwned::default();
        address(&mut props, Some(vec![0xff]));
        assert_eq!(props.headers.unwrap().get("x-key"), Some(&Value::Bytes(vec![0xff])));
        let said = Some(Table::new().with("x-deliver", text("all")));
        let mut props = PropsOwned { headers: said.clone(), ..PropsOwned::default() };
        address(&mut props, Some(b"k".to_vec()));
        assert_eq!(props.headers, said);
    }
}
