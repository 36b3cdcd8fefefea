//! Reads: headers that every one has, waiting for a change, answers that are shared.

use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use hyper::Response;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, VARY};

use super::super::body::{Answer, Body};
use super::super::rendered::{self, Form, Rendered};
use super::Ask;
use super::params::Consistency;

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
const CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");

/// Answers to different queries that are kept with a snapshot.
const KEPT_MAX: usize = 32;

/// An answer made of a snapshot.
pub(super) struct Page {
    pub rendered: Rendered,
    /// How its heads are encoded, by form and consistency.
    heads: [OnceLock<Bytes>; 6],
}

impl Page {
    fn new(body: Bytes) -> Page {
        Page { rendered: Rendered::new("application/json", body), heads: Default::default() }
    }

    /// The head of the answer, encoded by the first who asks for it so.
    pub(super) fn head(&self, form: Form, consistency: Consistency, encode: impl FnOnce() -> Vec<u8>) -> Bytes {
        let consistency = match consistency {
            Consistency::Default => 0,
            Consistency::Stale => 1,
            Consistency::Consistent => 2,
        };
        match self.heads.get(if form == Form::Gzip { 3 } else { 0 } + consistency) {
            Some(head) => head.get_or_init(|| encode().into()).clone(),
            None => encode().into(),
        }
    }
}

/// Answers made of a snapshot, by query.
#[derive(Default)]
pub(super) struct Kept(Mutex<Vec<(String, Arc<Page>)>>);

impl Kept {
    /// The answer to a query, if it is there.
    pub(super) fn known(&self, query: &str) -> Option<Arc<Page>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(known, _)| known == query).map(|(_, found)| Arc::clone(found))
    }

    /// The answer to a query, made if it is not there yet.
    pub(super) fn get(&self, query: &str, make: impl FnOnce() -> Bytes) -> Arc<Page> {
        // Held while it is made: who asks the same waits for it, and does not make it too.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = kept.iter().find(|(known, _)| known == query) {
            return Arc::clone(found);
        }
        let made = Arc::new(Page::new(make()));
        if kept.len() < KEPT_MAX {
            kept.push((query.to_owned(), Arc::clone(&made)));
        }
        made
    }
}

/// The same JSON for people.
pub(super) fn pretty(body: &Bytes) -> Bytes {
    let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    value.and_then(|value| serde_json::to_vec_pretty(&value).ok()).map_or_else(|| body.clone(), Bytes::from)
}

impl Ask<'_> {
    /// Looks, and as long as there is nothing newer than what the client has seen, waits and looks again, until its
    /// patience ends. `look` gives the index of what it has seen; `changed` waits for a higher one than that given to it.
    pub(super) async fn wait<V, C: Future>(&self, look: impl Fn() -> (u64, V), changed: impl Fn(u64) -> C) -> (u64, V) {
        let (mut index, mut seen) = look();
        if self.params.index == 0 || self.params.index < index {
            return (index, seen);
        }
        let patience = self.cx.patience(self.params.patience());
        let mut patience = std::pin::pin!(patience);
        loop {
            // Whoever is ahead of us has it from before a restart: any change is news.
            let since = self.params.index.min(index);
            tokio::select! {
                _ = changed(since) => {}
                () = &mut patience => return (index, seen),
            }
            (index, seen) = look();
            if index > since {
                return (index, seen);
            }
        }
    }

    /// An answer with what every read tells.
    pub(super) fn with_index(&self, mut answer: Answer, index: u64) -> Answer {
        let headers = answer.headers_mut();
        headers.reserve(5);
        headers.insert(INDEX, HeaderValue::from(index.max(1)));
        headers.insert(LEADER, HeaderValue::from_static("true"));
        headers.insert(CONTACT, HeaderValue::from_static("0"));
        headers.insert(CONSISTENCY, HeaderValue::from_static(self.params.consistency.effective()));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        answer
    }

    /// A shared answer.
    pub(super) fn shared(&self, rendered: &Rendered, index: u64) -> Answer {
        if self.params.other("pretty").is_some() {
            return self.with_index(self.plain(pretty(rendered.plain())), index);
        }
        self.with_index(rendered.plain_or_gzip(&self.headers), index)
    }

    /// An answer of one's own.
    pub(super) fn own(&self, body: Bytes, index: u64) -> Answer {
        if self.params.other("pretty").is_some() {
            return self.with_index(self.plain(pretty(&body)), index);
        }
        self.shared(&Rendered::new("application/json", body), index)
    }

    /// An answer of which both forms are kept.
    pub(super) fn both(&self, plain: Bytes, zipped: impl FnOnce() -> Bytes, index: u64) -> Answer {
        if self.params.other("pretty").is_some() || !rendered::is_worth_gzip(&plain, &self.headers) {
            return self.own(plain, index);
        }
        let mut answer = self.plain(zipped());
        answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        self.with_index(answer, index)
    }

    fn plain(&self, body: Bytes) -> Answer {
        let mut answer = Response::new(Body::Whole(body));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }
}
