//! Push: instances that are plain web services. What their mailbox gives them is posted to their endpoint; 2xx
//! acknowledges it. docs/http-api.md says what a request looks like.
//!
//! A task per vhost follows the registry and keeps a worker per instance with an endpoint.

mod backoff;
mod client;
mod post;
mod target;
mod worker;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ring::hmac;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use waypost_model::service::InstanceChange;
use waypost_registry::services::{Listed, Push, Registry, Services};

use self::client::Client;
pub(crate) use self::client::system_tls;
use self::post::Style;
pub(crate) use self::target::{Allowed, Endpoint, permitted, resolve};
use self::worker::Worker;
use crate::clock::Clock;
use crate::config::Config;
use crate::local::{Clients, Local, Publishers};
use crate::node::Node;

/// How long an answer may take, if nothing is said, and at most, ms.
pub(crate) const TIMEOUT_MS: u32 = 30_000;
pub(crate) const TIMEOUT_MS_MAX: u32 = 600_000;

/// Requests at once, if nothing is said.
pub(crate) const CONCURRENCY: u16 = 8;

/// Endpoints per vhost that are served at a time; further ones get no messages, which the log says.
const WORKERS_MAX: usize = 10_000;

/// How often it is looked whether a vhost is still the same.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Largest answer that is taken.
const ANSWER_MAX: usize = 8 * 1024 * 1024;

/// Idle connections that are kept per endpoint.
const IDLE_MAX: usize = 8;

/// Whether an endpoint may be registered.
///
/// # Errors
/// Why not.
pub(crate) fn check(url: &str, config: &Config) -> Result<(), String> {
    Endpoint::parse(url, &config.targets.allow).map(drop)
}

/// What all workers share.
pub(crate) struct Shared {
    local: Local,
    publishers: Arc<Publishers>,
    clock: Clock,
    allow: Arc<[Allowed]>,
    /// Made when the first endpoint needs it.
    tls: OnceLock<Option<TlsConnector>>,
}

/// Serves the endpoints of all vhosts.
pub(crate) struct Pushes {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    /// Vhosts that are followed.
    followed: Arc<Mutex<HashSet<Box<str>>>>,
    /// Vhosts to follow.
    begin: tokio::sync::mpsc::UnboundedSender<Box<str>>,
    begun: Mutex<Option<tokio::sync::mpsc::UnboundedReceiver<Box<str>>>>,
}

impl Pushes {
    /// For a node.
    pub(crate) fn new(clients: &Clients, registry: Arc<Registry>, clock: Clock, config: &Config) -> Pushes {
        let (local, publishers) = (clients.local.clone(), Arc::clone(&clients.publishers));
        let allow = config.targets.allow.clone().into();
        let shared = Arc::new(Shared { local, publishers, clock, allow, tls: OnceLock::new() });
        // As many entries as vhosts, at most: each is sent once.
        let (begin, begun) = tokio::sync::mpsc::unbounded_channel();
        Pushes { shared, registry, followed: Arc::default(), begin, begun: Mutex::new(Some(begun)) }
    }

    /// An instance of that vhost may have an endpoint. Whether one has, the registry says.
    pub(crate) fn follow(&self, vhost: &str) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if !followed.contains(vhost) && self.begin.send(vhost.into()).is_ok() {
            followed.insert(vhost.into());
        }
    }

    async fn run(&self, mut stop: watch::Receiver<bool>) {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut begun) = begun else { return };
        for vhost in self.shared.local.broker().vhosts() {
            self.follow(&vhost.name);
        }
        let mut vhosts = JoinSet::new();
        let end = stop.clone();
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                Some(vhost) = begun.recv() => {
                    let follower = Follower {
                        shared: Arc::clone(&self.shared),
                        services: self.registry.services(&vhost),
                        registry: Arc::clone(&self.registry),
                        workers: HashMap::new(),
                        tasks: JoinSet::new(),
                        stop: end.clone(),
                    };
                    let followed = Arc::clone(&self.followed);
                    vhosts.spawn(async move {
                        follower.run().await;
                        followed.lock().unwrap_or_else(PoisonError::into_inner).remove(&vhost);
                    });
                }
                Some(_) = vhosts.join_next() => {}
            }
        }
        while vhosts.join_next().await.is_some() {}
    }
}

/// Serves endpoints until `stop` says so, and then until what is under way has ended.
pub(crate) async fn run(node: Arc<Node>, stop: watch::Receiver<bool>) {
    node.pushes.run(stop).await;
}

/// Completes when it says so, or nobody can say so any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Keeps the workers of a vhost.
struct Follower {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    services: Services,
    workers: HashMap<Key, Running>,
    tasks: JoinSet<()>,
    stop: watch::Receiver<bool>,
}

/// A service and an instance of it.
type Key = (Box<str>, Box<str>);

struct Running {
    push: Arc<Push>,
    owner: Arc<str>,
    stop: watch::Sender<bool>,
}

impl Follower {
    /// Until the vhost goes, or the server.
    async fn run(mut self) {
        let mut stop = self.stop.clone();
        let mut since = self.services.pushed_events_index();
        self.look_at_everything();
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                _ = self.services.pushed_events_changed(since) => {}
                Some(_) = self.tasks.join_next() => continue,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            if self.shared.local.broker().vhost(self.services.vhost()).is_err() {
                break;
            }
            // A vhost that went and came again has services of its own.
            self.services = self.registry.services(&Arc::clone(self.services.vhost()));
            match self.services.pushed_events(since) {
                Ok(events) => {
                    for event in events {
                        since = event.index;
                        self.look(&event.service, &event.change);
                    }
                }
                Err(lost) => {
                    since = lost.index;
                    self.look_at_everything();
                }
            }
        }
        for running in self.workers.values() {
            let _ = running.stop.send(true);
        }
        while self.tasks.join_next().await.is_some() {}
    }

    fn look_at_everything(&mut self) {
        let (_, all) = self.services.everything();
        let mut gone: HashSet<Key> = self.workers.keys().cloned().collect();
        for (service, listed) in all {
            gone.remove(&(Box::from(&*service), listed.instance.id.clone()));
            self.see(&service, &listed);
        }
        gone.into_iter().for_each(|key| self.end(&key));
    }

    fn look(&mut self, service: &str, change: &InstanceChange) {
        match change {
            InstanceChange::Is { instance, .. } => {
                // Not by a view of the service: it would be made anew for each of its instances that comes.
                match self.services.instance(service, &instance.id) {
                    Some(listed) => self.see(service, &listed),
                    None => self.end(&(service.into(), instance.id.clone())),
                }
            }
            // It may be back already.
            InstanceChange::Gone { id, .. } if self.services.instance(service, id).is_none() => {
                self.end(&(service.into(), id.clone()));
            }
            InstanceChange::Gone { .. } | InstanceChange::Wanted => {}
        }
    }

    fn end(&mut self, key: &Key) {
        if let Some(running) = self.workers.remove(key) {
            let _ = running.stop.send(true);
        }
    }

    /// Sees to it that the instance has a worker for its endpoint, and no other.
    fn see(&mut self, service: &str, listed: &Listed) {
        let key: Key = (service.into(), listed.instance.id.clone());
        let Some(push) = listed.detail.as_ref().and_then(|detail| detail.push.clone()) else {
            return self.end(&key);
        };
        if self.workers.get(&key).is_some_and(|running| running.push == push && running.owner == listed.owner) {
            return;
        }
        self.end(&key);
        if self.workers.len() >= WORKERS_MAX {
            tracing::warn!(service, instance = %key.1, "no messages are pushed to it: there are {WORKERS_MAX} endpoints already");
            return;
        }
        let (stop, stopped) = watch::channel(false);
        match self.shared.worker(self.services.vhost(), service, listed, &push, stopped) {
            Ok(worker) => {
                self.tasks.spawn(worker.run());
                self.workers.insert(key, Running { push, owner: Arc::clone(&listed.owner), stop });
            }
            // The allow-list is another one than when it was registered.
            Err(why) => tracing::warn!(service, instance = %key.1, why, "no messages are pushed to it"),
        }
    }
}

impl Shared {
    fn worker(
        self: &Arc<Self>,
        vhost: &str,
        service: &str,
        listed: &Listed,
        push: &Push,
        stop: watch::Receiver<bool>,
    ) -> Result<Worker, String> {
        let endpoint = Endpoint::parse(&push.url, &self.allow)?;
        let tls = if endpoint.tls { self.tls() } else { None };
        let concurrency = push.concurrency.max(1);
        let idle_max = usize::from(concurrency).min(IDLE_MAX);
        let style = Style {
            vhost: vhost.into(),
            service: service.into(),
            instance: listed.instance.id.clone(),
            format: push.format,
            secret: push.secret.as_ref().map(|s| hmac::Key::new(hmac::HMAC_SHA256, s.as_bytes())),
        };
        Ok(Worker {
            shared: Arc::clone(self),
            style: Arc::new(style),
            client: Arc::new(Client::new(endpoint, Arc::clone(&self.allow), tls, idle_max, ANSWER_MAX)),
            concurrency,
            timeout: Duration::from_millis(u64::from(push.timeout_ms)),
            owner: Arc::clone(&listed.owner),
            stop,
        })
    }

    fn tls(&self) -> Option<TlsConnector> {
        let made = self.tls.get_or_init(|| {
            client::system_tls().inspect_err(|error| tracing::warn!(%error, "no encrypted endpoints")).ok()
        });
        made.clone()
    }
}
