//! All forwarders of a node: which there are to be, and which run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use waypost_model::{Lsn, Millis, Refusal};
use waypost_stream::streams::{OF_SERVICES, is_topic_name};

use super::forward::{self, COMPONENT, Figures, Spec, Target};
use crate::node::Node;

/// How often it is looked whether topics of services have come or gone.
const LOOK: Duration = Duration::from_millis(500);
/// Most forwarders of a node.
pub(crate) const FORWARDERS_MAX: usize = 10_000;

type Key = (Arc<str>, Box<str>);

/// See the module.
#[derive(Default)]
pub(crate) struct Forwarders {
    running: Mutex<BTreeMap<Key, Running>>,
    changed: Notify,
}

struct Running {
    spec: Spec,
    figures: Arc<Figures>,
    task: AbortHandle,
}

/// A forwarder, for those who look.
pub(crate) struct View {
    pub spec: Spec,
    pub figures: Arc<Figures>,
}

impl Forwarders {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that run, by vhost and name.
    pub(crate) fn views(&self) -> Vec<View> {
        let view = |r: &Running| View { spec: r.spec.clone(), figures: Arc::clone(&r.figures) };
        self.lock().values().map(view).collect()
    }

    /// Whether the one of that name reads that topic.
    pub(super) fn reads(&self, vhost: &Arc<str>, name: &str, topic: &str) -> bool {
        self.lock().get(&(Arc::clone(vhost), name.into())).is_some_and(|r| *r.spec.topic == *topic)
    }

    /// Whether one keeps its position in a group, also one that waits for its topic.
    pub(crate) fn keeps(&self, vhost: &str, group: &str) -> bool {
        Spec::of_group(group).is_some_and(|name| self.lock().contains_key(&(vhost.into(), name.into())))
    }

    /// Declares one, or declares it anew.
    ///
    /// # Errors
    /// 404 (no such vhost), 406.
    pub(crate) fn declare(&self, node: &Node, spec: &Spec, now: Millis) -> Result<Option<Lsn>, Refusal> {
        if spec.name.starts_with(OF_SERVICES) || !is_topic_name(&spec.name) {
            let text = format!("`{}` is no name of a forwarder: as of a topic, and not `{OF_SERVICES}…`", spec.name);
            return Err(Refusal::precondition_failed(text));
        }
        if !is_topic_name(&spec.topic) {
            return Err(Refusal::precondition_failed(format!("`{}` is no name of a topic", spec.topic)));
        }
        let known = self.lock();
        if known.len() >= FORWARDERS_MAX && !known.contains_key(&(Arc::clone(&spec.vhost), spec.name.clone())) {
            return Err(Refusal::precondition_failed(format!("a node has at most {FORWARDERS_MAX} forwarders")));
        }
        drop(known);
        let lsn = node.broker.put_parameter(Some(&spec.vhost), COMPONENT, &spec.name, &written(spec), now)?;
        self.reconcile(node);
        self.changed.notify_one();
        Ok(lsn)
    }

    /// Ends one, and forgets its position.
    ///
    /// # Errors
    /// 404.
    pub(crate) fn remove(&self, node: &Node, vhost: &str, name: &str, now: Millis) -> Result<Option<Lsn>, Refusal> {
        let lsn = node.broker.delete_parameter(Some(vhost), COMPONENT, name, now)?;
        let gone = self.lock().remove(&(vhost.into(), name.into()));
        if let Some(gone) = gone {
            gone.task.abort();
            let _ = node.streams.forget_offsets(vhost, &gone.spec.group(), None);
        }
        Ok(lsn)
    }

    /// Ends those that are not to run, or not like that.
    fn reconcile(&self, node: &Node) -> Vec<Spec> {
        let mut wanted: BTreeMap<Key, Spec> = BTreeMap::new();
        for (vhost, name, value) in node.broker.parameters_of(COMPONENT) {
            // Written by us, or by a later release: then it is not ours to run.
            if let Some(spec) = read(&vhost, &name, &value) {
                wanted.insert((vhost, name), spec);
            }
        }
        for topic in node.streams.topics_beginning(OF_SERVICES) {
            if let Some(spec) = Spec::of_service(&topic.vhost, &topic.name) {
                wanted.insert((Arc::clone(&topic.vhost), spec.name.clone()), spec);
            }
        }
        let mut running = self.lock();
        running.retain(|key, one| {
            let stays = wanted.get(key) == Some(&one.spec) && !one.task.is_finished();
            if !stays {
                one.task.abort();
            }
            stays
        });
        wanted.retain(|key, _| !running.contains_key(key));
        wanted.into_values().take(FORWARDERS_MAX.saturating_sub(running.len())).collect()
    }

    fn start(&self, node: &Arc<Node>) {
        for spec in self.reconcile(node) {
            let figures = Arc::<Figures>::default();
            let task = tokio::spawn(forward::run(Arc::clone(node), spec.clone(), Arc::clone(&figures)));
            let key = (Arc::clone(&spec.vhost), spec.name.clone());
            self.lock().insert(key, Running { spec, figures, task: task.abort_handle() });
        }
    }
}

/// Keeps forwarders running until `stop` says so.
pub(crate) async fn run(node: Arc<Node>, mut stop: watch::Receiver<bool>) {
    loop {
        node.forwarders.start(&node);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = node.forwarders.changed.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    for one in node.forwarders.lock().values() {
        one.task.abort();
    }
}

fn written(spec: &Spec) -> String {
    let mut json = json!({ "topic": &*spec.topic, "from": if spec.from_latest { "latest" } else { "earliest" } });
    if let Target::Exchange { exchange, routing_key } = &spec.target {
        json["exchange"] = Json::from(&**exchange);
        json["routing_key"] = Json::from(routing_key.as_deref());
    }
    json.to_string()
}

fn read(vhost: &Arc<str>, name: &str, value: &str) -> Option<Spec> {
    let json: Json = serde_json::from_str(value).ok()?;
    let text = |field: &str| json.get(field).and_then(Json::as_str);
    Some(Spec {
        vhost: Arc::clone(vhost),
        name: name.into(),
        topic: text("topic")?.into(),
        target: Target::Exchange {
            exchange: text("exchange")?.into(),
            routing_key: text("routing_key").map(Into::into),
        },
        from_latest: text("from") == Some("latest"),
    })
}
