//! The configuration center of a node: opened with what recovery found, moved on by the clock, and its changes told on
//! the exchange `amq.config`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use waypost_model::Route;
use waypost_model::journal::{BodyStore, Journal, Recovered};
use waypost_model::props::{DELIVERY_MODE_PERSISTENT, PropsOwned, ShortStr};
use waypost_model::table::{Table, Value};
use waypost_registry::config::{Changed, Gray, Item, Settings, Share, Store, routing_key, split};

use super::Node;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::ServeError;
use crate::http::consul::{Seen, end_sessions};
use crate::local::Message;

/// Where changes are told.
const EXCHANGE: &str = "amq.config";

/// What stands before the routing key of a candidate, so that patterns for values do not catch what is not for all.
const CANDIDATES: &str = "gray:";

/// How often sessions and the history's age are looked at.
const TICK: Duration = Duration::from_secs(1);

/// How many changes are told in one go.
const TOLD_AT_ONCE: usize = 64;

/// Opens it, and takes what it owns out of what recovery found: before the broker sees it.
pub(super) fn open(
    config: &Config,
    journal: &Arc<dyn Journal>,
    bodies: &Arc<dyn BodyStore>,
    recovered: &mut Recovered,
    clock: Clock,
) -> Result<Arc<Store>, ServeError> {
    let share = Share::split_off(recovered);
    let (journal, bodies) = (Arc::clone(journal), Arc::clone(bodies));
    let store = Store::open(Settings::default(), journal, bodies, &share, clock.now());
    let path = config.server.data_dir.clone();
    store.map(Arc::new).map_err(|e| ServeError::Storage { path, why: e.to_string() })
}

/// Runs until `stop` says so.
pub(super) async fn run(node: Arc<Node>, mut stop: watch::Receiver<bool>) {
    forget_lost_vhosts(&node);
    let mut seen: HashMap<Arc<str>, Seen> = HashMap::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = tick.tick() => {
                let (node, before) = (Arc::clone(&node), std::mem::take(&mut seen));
                // It may wait for room in the journal.
                let work = tokio::task::spawn_blocking(move || {
                    node.config_center.advance(node.clock.now());
                    look_at_sessions(&node, &before)
                });
                seen = work.await.unwrap_or_default();
            }
            () = node.config_center.something_to_tell() => tell(&node).await,
        }
    }
}

/// Ends the sessions whose checks have turned critical.
fn look_at_sessions(node: &Node, seen: &HashMap<Arc<str>, Seen>) -> HashMap<Arc<str>, Seen> {
    let look = |vhost: &Arc<str>| {
        let before = seen.get(vhost).copied().unwrap_or_default();
        let services = node.registry.services(vhost);
        end_sessions(&services, &node.config_center, before, node.clock.now())
    };
    let vhosts = node.config_center.vhosts().into_iter().filter(|vhost| node.broker.vhost(vhost).is_ok());
    vhosts.map(|vhost| (Arc::clone(&vhost), look(&vhost))).collect()
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What is left of vhosts that were deleted in the moment of a crash.
fn forget_lost_vhosts(node: &Node) {
    for vhost in node.config_center.vhosts() {
        if node.broker.vhost(&vhost).is_err()
            && let Err(error) = node.config_center.forget_vhost(&vhost)
        {
            tracing::warn!(%vhost, %error, "configuration of a deleted vhost stays");
        }
    }
}

/// Tells what has changed, once it is durable.
async fn tell(node: &Arc<Node>) {
    for change in node.config_center.untold(TOLD_AT_ONCE) {
        if !node.reached(Some(change.lsn)).await {
            tracing::warn!(path = %change.path, "a change is not told: the disk has not confirmed it in time");
            continue;
        }
        if change.stable {
            publish(node, &change, routing_key(&change.path), stable(&change));
        }
        if change.candidate {
            let key = routing_key(&format!("{CANDIDATES}{}", change.path));
            publish(node, &change, key, candidate(&change));
        }
    }
}

fn publish(node: &Node, change: &Changed, key: String, message: Message) {
    let route = Arc::new(Route::new(EXCHANGE, key));
    if let Err(refusal) = node.clients.publishers.publish(&change.vhost, &route, &message, false) {
        tracing::warn!(path = %change.path, vhost = %change.vhost, reason = %refusal.text, "a change is not told");
    }
}

/// What everybody gets now.
fn stable(change: &Changed) -> Message {
    match change.item.as_deref() {
        Some(item) => of_item(change, item),
        None => Message { props: props(change, "config.delete", "", headers(change)), ..Message::default() },
    }
}

fn of_item(change: &Changed, item: &Item) -> Message {
    let headers = headers(change)
        .with("x-config-version", number(item.version))
        .with("x-config-flags", item.flags.to_string())
        .with("x-config-author", &*item.author)
        .with("x-config-comment", &*item.comment);
    Message { props: props(change, "config.put", &item.content_type, headers), body: item.value.clone() }
}

/// What those get whom the gray release chooses.
fn candidate(change: &Changed) -> Message {
    match change.gray.as_deref() {
        Some(gray) => of_gray(change, gray),
        None => Message { props: props(change, "config.gray-end", "", headers(change)), ..Message::default() },
    }
}

fn of_gray(change: &Changed, gray: &Gray) -> Message {
    let list = |values: &[Box<str>]| Value::Array(values.iter().map(|v| Value::from(&**v)).collect());
    let rule = &gray.rule;
    let mut table =
        Table::new().with("ids", list(&rule.ids)).with("zones", list(&rule.zones)).with("tags", list(&rule.tags));
    if let Some(version) = &rule.version {
        table.set("version", version.to_string());
    }
    if let Some(percent) = rule.percent {
        table.set("percent", i32::from(percent));
    }
    let headers = headers(change)
        .with("x-config-version", number(gray.version))
        .with("x-config-author", &*gray.author)
        .with("x-config-comment", &*gray.comment)
        .with("x-config-rule", table);
    Message { props: props(change, "config.gray", &gray.content_type, headers), body: gray.value.clone() }
}

fn headers(change: &Changed) -> Table {
    let (namespace, key) = split(&change.path);
    Table::new()
        .with("x-config-path", &*change.path)
        .with("x-config-namespace", namespace)
        .with("x-config-key", key)
        .with("x-config-revision", number(change.revision))
}

fn props(change: &Changed, type_: &str, content_type: &str, headers: Table) -> PropsOwned {
    let at = change.item.as_ref().map(|i| i.at).into_iter().chain(change.gray.as_ref().map(|g| g.at)).max();
    PropsOwned {
        content_type: ShortStr::new(content_type).filter(|t| !t.is_empty()),
        headers: Some(headers),
        delivery_mode: Some(DELIVERY_MODE_PERSISTENT),
        timestamp: at.map(|ms| ms / 1000),
        type_: ShortStr::new(type_),
        ..PropsOwned::default()
    }
}

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
