//! The streams of a node: opened with what recovery found, and looked after while it runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use waypost_model::journal::{BodyStore, Journal, Recovered};
use waypost_stream::groups::{Groups, Ticked};
use waypost_stream::streams::{Expiry, Share, Streams};

use super::{Clock, Node, machine};
use crate::config::Config;
use crate::error::ServeError;

/// How often retention is looked at.
const TICK: Duration = Duration::from_secs(5);
/// How long it is waited between looks for committed offsets whose time is over: a tenth of that, within these. Kafka's
/// `offsets.retention.check.interval.ms` is ten minutes, too.
const EXPIRY_PAUSE_MIN: Duration = Duration::from_secs(1);
const EXPIRY_PAUSE_MAX: Duration = Duration::from_secs(600);

/// Opens them, and takes what they own out of what recovery found: before the broker sees it.
pub(super) fn open(
    config: &Config,
    journal: &Arc<dyn Journal>,
    bodies: &Arc<dyn BodyStore>,
    recovered: &mut Recovered,
) -> Result<Arc<Streams>, ServeError> {
    let share = Share::split_off(recovered);
    let mut seed = [0; 16];
    seed.copy_from_slice(&machine::seed()?[..16]);
    let streams = Streams::open(Arc::clone(journal), Arc::clone(bodies), share, seed);
    let path = config.server.data_dir.clone();
    streams.map(Arc::new).map_err(|e| ServeError::Storage { path, why: e.to_string() })
}

/// The groups that had members when the last node stopped.
pub(super) fn groups(streams: &Streams, clock: Clock) -> Groups {
    let groups = streams.groups(clock.now().0, clock.now());
    for (vhost, group) in groups.unreadable() {
        tracing::error!(
            vhost = &*vhost,
            group = &*group,
            "who the group's members were cannot be read: they join again"
        );
    }
    groups
}

/// Looks after what is kept, until `stop` says so.
pub(super) async fn run(node: Arc<Node>, stop: watch::Receiver<bool>) {
    every(TICK, Duration::ZERO, stop, move |_| {
        node.kafka_buffers.trim();
        node.streams.maintain(node.clock.now());
    })
    .await;
}

/// Compacts what is due, until `stop` says so: by itself, since a large partition takes its time, and retention does not wait.
pub(super) async fn compact(node: Arc<Node>, stop: watch::Receiver<bool>) {
    every(TICK, Duration::ZERO, stop, move |stop| {
        node.streams.compact(node.clock.now(), &|| *stop.borrow(), |topic, fault| {
            tracing::warn!(topic = &*topic.name, vhost = &*topic.vhost, %fault, "not compacted");
        });
    })
    .await;
}

/// Has work done where it may block, with pauses in between, the first time after `first`.
async fn every(
    pause: Duration,
    first: Duration,
    mut stop: watch::Receiver<bool>,
    work: impl Fn(&watch::Receiver<bool>) + Clone + Send + 'static,
) {
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + first, pause);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = tick.tick() => {
                let (work, stop) = (work.clone(), stop.clone());
                let _ = tokio::task::spawn_blocking(move || work(&stop)).await;
            }
        }
    }
}

/// Has groups and transactions do what is due, until `stop` says so.
pub(super) async fn regroup(node: Arc<Node>, mut stop: watch::Receiver<bool>) {
    loop {
        let Ticked { next, changed } = node.groups.tick(node.clock.now());
        // What the journal does not take now is found when it is looked what has expired.
        let _ = node.streams.note_members(&changed, node.clock.now());
        if node.streams.transactions_due(node.clock.now()) {
            let node = Arc::clone(&node);
            let _ = tokio::task::spawn_blocking(move || node.streams.expire_transactions(node.clock.now())).await;
        }
        let (soon, idle) = (node.clock.now().plus(1), node.clock.now().plus(1_000));
        let until = node.clock.instant(next.map_or(idle, |at| at.clamp(soon, idle)));
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = node.regroup.notified() => {}
            () = tokio::time::sleep_until(until.into()) => {}
        }
    }
}

/// Has committed offsets expire, until `stop` says so. Who was here when the node stopped has the first pause to come back.
pub(super) async fn expire(node: Arc<Node>, stop: watch::Receiver<bool>) {
    let pause = (node.config.kafka.offsets_retention / 10).clamp(EXPIRY_PAUSE_MIN, EXPIRY_PAUSE_MAX);
    every(pause, pause, stop, move |stop| expire_offsets(&node, stop)).await;
}

fn expire_offsets(node: &Node, stop: &watch::Receiver<bool>) {
    let by = Expiry {
        groups: &node.groups,
        retention_ms: node.config.kafka.offsets_retention_ms(),
        now: node.clock.now(),
        is_in_use: &|vhost, group| node.forwarders.keeps(vhost, group),
        stop: &|| *stop.borrow(),
    };
    match node.streams.expire_offsets(&by) {
        Ok(0) => {}
        Ok(expired) => tracing::info!(expired, "committed offsets have expired"),
        Err(error) => tracing::warn!(%error, "committed offsets cannot expire now"),
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
