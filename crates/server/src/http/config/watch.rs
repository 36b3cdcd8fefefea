//! Watching: a long poll, or a stream of events.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde_json::{Value as Json, json};
use waypost_broker::topology::Access;
use waypost_model::Lsn;
use waypost_registry::config::{Chosen, Look, Store, Watch, What, join};

use super::super::auth::Who;
use super::super::body::Answer;
use super::super::request::{Failure, pairs};
use super::super::{json, sse};
use super::read::Asker;
use super::show::{self, Values};
use super::{Ask, is_permitted, with_revision};
use crate::node::Node;

/// Paths and prefixes of one watch.
const WHATS_MAX: usize = 64;

/// How long a poll waits unless it says so, and at most.
const WAIT: Duration = Duration::from_secs(30);
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Values above this are made into events one at a time, when the one before has left, bytes.
const WEIGHT_AHEAD: usize = 16 * 1024;

/// What a client watches.
struct Wanted {
    node: Arc<Node>,
    who: Who,
    store: Arc<Store>,
    vhost: Arc<str>,
    whats: Vec<What>,
    asker: Asker,
}

/// What has changed, to be shown piece by piece: shown at once it may be as large as all that there is.
struct News {
    paths: Vec<(Arc<str>, Look)>,
    revision: u64,
    lsn: Lsn,
}

impl Wanted {
    fn begin(&self) -> Vec<Watch> {
        self.whats.iter().map(|what| self.store.watch(&self.vhost, what.clone())).collect()
    }

    /// What has changed behind a revision, in order of the changes.
    fn since(&self, revision: u64) -> News {
        let mut news = News { paths: Vec::new(), revision: 1, lsn: Lsn(0) };
        for what in &self.whats {
            let listing = self.store.since(&self.vhost, what, revision);
            news.revision = news.revision.max(listing.index);
            news.lsn = news.lsn.max(listing.lsn);
            news.paths.extend(listing.items);
        }
        news.paths.sort_by(|(a, l), (b, r)| (l.changed, a).cmp(&(r.changed, b)));
        news.paths.dedup_by(|(a, _), (b, _)| a == b);
        news.paths.retain(|(path, _)| is_permitted(&self.node, &self.who, &self.vhost, Access::Read, path));
        news
    }

    /// A path as the asker gets it; with everything, if nobody in particular asks.
    fn show(&self, path: &str, look: &Look) -> Json {
        if self.asker.is_nobody() {
            return show::entry(path, look, Values::Shown);
        }
        match Store::choose(look, path, &self.asker.subject()) {
            Some(Chosen::Candidate(gray)) => show::candidate(path, gray),
            _ => show::entry(path, &Look { gray: None, ..look.clone() }, Values::Shown),
        }
    }

    /// The same as an event.
    fn event(&self, path: &str, look: &Look) -> Bytes {
        let key = self.show(path, look);
        let revision = key.get("changed").or_else(|| key.get("revision")).and_then(Json::as_u64);
        sse::encode("change", revision, &key.to_string())
    }
}

/// The bytes of the values that showing a path may show.
fn weight(look: &Look) -> usize {
    look.item.as_ref().map_or(0, |i| i.value.len()) + look.gray.as_ref().map_or(0, |g| g.value.len())
}

/// Completes when one of them has something.
async fn any(watches: &mut [Watch]) {
    let each: Vec<_> = watches.iter_mut().map(|w| Box::pin(w.changed())).collect();
    first(each).await;
}

async fn first<F: Future<Output = ()> + Unpin>(mut all: Vec<F>) {
    std::future::poll_fn(|cx| {
        let ready = all.iter_mut().any(|f| std::pin::Pin::new(f).poll(cx).is_ready());
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

impl Ask<'_> {
    /// Tells what changes: as events for those who take them, else once.
    pub(super) async fn watch(&self, headers: &HeaderMap) -> Result<Answer, Failure> {
        let wanted = self.wanted()?;
        if sse::wanted(headers) {
            let last = headers.get("last-event-id").and_then(|v| v.to_str().ok()?.parse().ok());
            let since = last.or(self.number("revision")?).unwrap_or_default();
            return Ok(stream(wanted, since, self.cx.stop()));
        }
        self.poll(&wanted).await
    }

    fn wanted(&self) -> Result<Wanted, Failure> {
        let mut whats = Vec::new();
        for (name, value) in pairs(&self.uri) {
            match &*name {
                "path" => whats.push(What::Path(value.into())),
                "prefix" => whats.push(What::Below(value.into())),
                "namespace" => whats.push(What::Below(join(&value, "").into())),
                _ => {}
            }
        }
        if whats.is_empty() || whats.len() > WHATS_MAX {
            return Err(Failure::bad(format!("a watch has 1 to {WHATS_MAX} of `path`, `prefix` and `namespace`")));
        }
        // Below a prefix each path is looked at when it is told of.
        for what in &whats {
            if let What::Path(path) = what {
                self.may(Access::Read, path)?;
            }
        }
        let (node, store) = (Arc::clone(self.cx.node), Arc::clone(&self.store));
        let (who, vhost, asker) = (self.cx.who.clone(), self.vhost.clone(), Asker::of(&self.uri)?);
        Ok(Wanted { node, who, store, vhost, whats, asker })
    }

    /// Answers as soon as something has changed behind the revision that the client has seen; without one, at once.
    async fn poll(&self, wanted: &Wanted) -> Result<Answer, Failure> {
        let seen = self.number("revision")?.unwrap_or_default();
        let wait = self.number("wait_ms")?.map_or(WAIT, Duration::from_millis).min(WAIT_MAX);
        let mut watches = wanted.begin();
        let patience = self.cx.patience(wait);
        tokio::pin!(patience);
        let news = loop {
            let news = wanted.since(seen);
            // A revision from before a restart may be ahead of what is there: nothing is new then, and the client goes
            // on with what it is told.
            if !news.paths.is_empty() || seen == 0 {
                break news;
            }
            tokio::select! {
                () = any(&mut watches) => {}
                () = &mut patience => break wanted.since(seen),
            }
        };
        self.durable(news.lsn).await?;
        let keys: Vec<Json> = news.paths.iter().map(|(path, look)| wanted.show(path, look)).collect();
        let body = json!({ "revision": news.revision, "keys": keys });
        Ok(with_revision(json::answer(StatusCode::OK, &body), news.revision))
    }
}

/// An event per change, beginning with those behind `since`.
fn stream(wanted: Wanted, mut since: u64, mut stop: tokio::sync::watch::Receiver<bool>) -> Answer {
    let (events, answer) = sse::stream();
    let mut watches = wanted.begin();
    tokio::spawn(async move {
        loop {
            let news = wanted.since(since);
            if !wanted.node.reached(Some(news.lsn)).await {
                return;
            }
            for (path, look) in news.paths {
                // Who does not read has no large values made and kept for him.
                if weight(&look) > WEIGHT_AHEAD && !events.room().await {
                    return;
                }
                if !events.send(wanted.event(&path, &look)).await {
                    return;
                }
            }
            since = since.max(news.revision);
            loop {
                tokio::select! {
                    () = any(&mut watches) => break,
                    () = events.closed() => return,
                    _ = stop.changed() => return,
                    () = tokio::time::sleep(sse::KEEP_ALIVE) => if !events.keep_alive().await { return },
                }
            }
        }
    });
    answer
}
