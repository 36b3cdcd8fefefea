//! Waiting for changes: long polls and streams of events.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Uri};
use serde_json::json;
use tokio::sync::watch;
use waypost_model::service::InstanceChange;
use waypost_registry::services::{Event, ServiceView, Services};

use super::super::super::body::Answer;
use super::super::super::request::{self, Failure};
use super::super::super::sse::{self, Events, KEEP_ALIVE};
use super::super::super::stopped;
use super::{Ask, look, only, span};

/// How long a poll waits, if nothing is said, and at most.
const WAIT: Duration = Duration::from_secs(30);
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Events of one look at the feed; those who are further behind look again.
const LAST_EVENT_ID: &str = "last-event-id";

/// A service's event, made once per snapshot for all who watch.
struct Told(Bytes);

impl Ask<'_> {
    /// The service, once it is newer than the index that the query names.
    pub(super) async fn wait_for_service(&self, service: &str, uri: &Uri) -> Result<Arc<ServiceView>, Failure> {
        let view = self.services.view(service);
        let Some((since, wait)) = poll(uri)? else { return Ok(view) };
        if view.index > since {
            return Ok(view);
        }
        tokio::select! {
            _ = self.services.changed(service, since.max(view.index)) => {}
            () = self.cx.patience(wait) => {}
        }
        Ok(self.services.view(service))
    }

    /// The index of the list, once it is newer than the one that the query names.
    pub(super) async fn wait_for_list(&self, uri: &Uri) -> Result<u64, Failure> {
        let index = self.services.list().index;
        let Some((since, wait)) = poll(uri)? else { return Ok(index) };
        if index > since {
            return Ok(index);
        }
        tokio::select! {
            _ = self.services.list_changed(since.max(index)) => {}
            () = self.cx.patience(wait) => {}
        }
        Ok(self.services.list().index)
    }

    /// Streams a service: as it is, and again whenever it has changed.
    pub(super) fn watch(&self, service: &str, request: &Request<Incoming>) -> Result<Answer, Failure> {
        only(request.uri(), &["index"])?;
        let since = begin(request.uri(), request.headers())?.unwrap_or(0);
        let (events, answer) = sse::stream();
        tokio::spawn(tell_service(events, self.services.clone(), service.to_owned(), since, self.cx.stop()));
        Ok(answer)
    }

    /// Streams every change of the vhost's instances, or of those services that the query names.
    pub(super) fn watch_all(&self, request: &Request<Incoming>) -> Result<Answer, Failure> {
        only(request.uri(), &["index", "service"])?;
        let named: Vec<String> =
            request::pairs(request.uri()).filter(|(name, _)| name == "service").map(|(_, value)| value).collect();
        for service in &named {
            self.may_see(service)?;
        }
        if named.is_empty() {
            // Whoever may not see all of them names those that he may.
            self.cx.may_service(&self.vhost, waypost_broker::topology::Access::Read, "")?;
        }
        let since = begin(request.uri(), request.headers())?.unwrap_or_else(|| self.services.events_index());
        let (events, answer) = sse::stream();
        tokio::spawn(tell_all(events, self.services.clone(), named, since, self.cx.stop()));
        Ok(answer)
    }
}

/// What a poll asks for: newer than what, and for how long.
fn poll(uri: &Uri) -> Result<Option<(u64, Duration)>, Failure> {
    let wait = span(uri, "wait")?;
    match (number(uri)?, wait) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Failure::bad("`wait` needs `index`: newer than what?")),
        (Some(index), wait) => Ok(Some((index, wait.unwrap_or(WAIT).min(WAIT_MAX)))),
    }
}

fn number(uri: &Uri) -> Result<Option<u64>, Failure> {
    let parse = |text: String| text.parse().map_err(|_| Failure::bad("`index` must be a whole number"));
    request::query(uri, "index").map(parse).transpose()
}

/// Where a stream begins: browsers say what they have seen last when they come again.
fn begin(uri: &Uri, headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let seen = headers.get(LAST_EVENT_ID).and_then(|v| v.to_str().ok()?.trim().parse().ok());
    Ok(seen.or(number(uri)?))
}

async fn tell_service(
    events: Events,
    services: Services,
    service: String,
    mut since: u64,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        // A client that reads slowly is told the newest when it is its turn, not all in between.
        let view = services.view(&service);
        if view.index > since {
            since = view.index;
            let told = view.derived(|view| {
                let text = look::text(view);
                Told(sse::encode("service", Some(view.index), &String::from_utf8_lossy(&text)))
            });
            if !events.send(told.0.clone()).await {
                return;
            }
            continue;
        }
        tokio::select! {
            _ = services.changed(&service, since) => {}
            () = stopped(&mut stop) => return,
            () = events.closed() => return,
            () = tokio::time::sleep(KEEP_ALIVE) => {
                if !events.keep_alive().await {
                    return;
                }
            }
        }
    }
}

async fn tell_all(
    events: Events,
    services: Services,
    named: Vec<String>,
    mut since: u64,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        match services.events(since) {
            Err(lost) => {
                since = lost.index;
                let lost =
                    json!({ "index": since, "reason": "some events are no longer kept: look at everything anew" });
                if !events.send(sse::encode("reset", Some(since), &lost.to_string())).await {
                    return;
                }
            }
            Ok(list) => {
                for event in list {
                    since = event.index;
                    let wanted = named.is_empty() || named.iter().any(|name| **name == *event.service);
                    let Some(event) = encode(&event).filter(|_| wanted) else { continue };
                    if !events.send(event).await {
                        return;
                    }
                }
            }
        }
        tokio::select! {
            _ = services.events_changed(since) => {}
            () = stopped(&mut stop) => return,
            () = events.closed() => return,
            () = tokio::time::sleep(KEEP_ALIVE) => {
                if !events.keep_alive().await {
                    return;
                }
            }
        }
    }
}

/// A change as an event. That a service is to have a mailbox is no change of an instance.
fn encode(event: &Event) -> Option<Bytes> {
    let (name, what) = match &event.change {
        InstanceChange::Is { instance, standing, incarnation } => (
            "instance",
            json!({
                "service": &*event.service, "index": event.index, "incarnation": incarnation,
                "health": standing.health.as_str(), "draining": standing.draining,
                "instance": look::description(instance),
            }),
        ),
        InstanceChange::Gone { id, incarnation, .. } => (
            "gone",
            json!({ "service": &*event.service, "index": event.index, "incarnation": incarnation, "id": &**id }),
        ),
        InstanceChange::Wanted => return None,
    };
    Some(sse::encode(name, Some(event.index), &what.to_string()))
}
