//! What Consul's clients say in the query, and how they wait.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode};
use waypost_model::Lsn;
use waypost_registry::config::{Store, What};

use super::super::body::Answer;
use super::super::config::may;
use super::super::consul::{self, duration};
use super::super::cx::Cx;
use super::super::request::{Failure, form};
use waypost_broker::topology::Access;

/// Where Consul's clients look for the index.
const INDEX: HeaderName = HeaderName::from_static("x-consul-index");

/// How long a blocking query waits unless it says so, and at most; a sixteenth is added so that not all come at once.
const WAIT: Duration = Duration::from_secs(300);
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Most parameters of a query.
const PARAMETERS_MAX: usize = 64;

/// A request.
pub(super) struct Ask<'a> {
    pub cx: &'a Cx<'a>,
    pub store: Arc<Store>,
    pub vhost: Arc<str>,
    pub headers: HeaderMap,
    pairs: Vec<(String, String)>,
    /// The index that the client has seen; 0 for none.
    index: u64,
    wait: Duration,
    consistency: &'static str,
}

impl<'a> Ask<'a> {
    /// Reads the query.
    ///
    /// # Errors
    /// 400, as Consul says it.
    pub fn of<B>(cx: &'a Cx<'a>, request: &Request<B>) -> Result<Ask<'a>, Failure> {
        let pairs: Vec<_> = form(request.uri().query().unwrap_or_default()).take(PARAMETERS_MAX + 1).collect();
        if pairs.len() > PARAMETERS_MAX {
            return Err(Failure::bad("too many parameters"));
        }
        let mut ask = Ask {
            cx,
            store: Arc::clone(&cx.node.config_center),
            vhost: Arc::clone(cx.vhost()),
            headers: request.headers().clone(),
            pairs,
            index: 0,
            wait: WAIT,
            consistency: "leader",
        };
        // A name without a value has the value `true`.
        let data_center = ask.value("dc").filter(|dc| *dc != "true").unwrap_or_default();
        consul::is_here(data_center, &cx.node.config.consul.datacenter)?;
        ask.index = match ask.value("index") {
            // Spring asks so for what it has not seen yet.
            None | Some("-1") => 0,
            Some(text) => text.parse().map_err(|_| Failure::bad("Invalid index"))?,
        };
        if let Some(text) = ask.value("wait") {
            let wait = duration(text).ok_or_else(|| Failure::bad("Invalid wait time"))?;
            ask.wait = if wait.is_zero() { WAIT } else { wait.min(WAIT_MAX) };
        }
        ask.consistency = match (ask.has("stale"), ask.has("consistent")) {
            (true, true) => {
                return Err(Failure::bad("Cannot specify ?stale with ?consistent, conflicting semantics."));
            }
            (true, false) => "stale",
            (false, true) => "consistent",
            (false, false) => "leader",
        };
        Ok(ask)
    }

    /// Whether a parameter is there, with a value or without.
    pub fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(key, _)| key == name)
    }

    /// The value of a parameter.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let wrong = |_| Failure::bad(format!("Invalid {name} value"));
        self.value(name).map(|text| text.parse().map_err(wrong)).transpose()
    }

    pub fn may(&self, access: Access, path: &str) -> Result<(), Failure> {
        may(self.cx, &self.vhost, access, path)
    }

    pub async fn durable(&self, lsn: Lsn) -> Result<(), Failure> {
        self.cx.durable(Some(lsn)).await
    }

    pub async fn aside<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        let store = Arc::clone(&self.store);
        self.cx.listener.aside(&Method::PUT, move || work(&store)).await
    }

    /// Looks; and as long as the index has not moved past the one that the client has seen, waits and looks again.
    pub async fn blocking<T>(&self, what: What, look: impl Fn() -> (T, u64, Lsn)) -> Result<(T, u64), Failure> {
        let mut watch = (self.index > 0).then(|| self.store.watch(&self.vhost, what));
        // Who is ahead of us has it from another data directory: any change is news.
        let mut since = self.index;
        let patience = self.cx.patience(self.wait + self.wait / 16 * spread() / 256);
        tokio::pin!(patience);
        let mut over = false;
        loop {
            let (found, index, lsn) = look();
            match &mut watch {
                Some(watch) if index <= since && !over => {
                    since = index;
                    tokio::select! {
                        () = watch.changed() => {}
                        () = &mut patience => over = true,
                    }
                }
                _ => {
                    self.durable(lsn).await?;
                    return Ok((found, index));
                }
            }
        }
    }

    /// The headers that every read of Consul's carries.
    pub fn with_index(&self, mut answer: Answer, index: u64) -> Answer {
        let headers = answer.headers_mut();
        headers.insert(INDEX, HeaderValue::from(index));
        headers.insert("x-consul-knownleader", HeaderValue::from_static("true"));
        headers.insert("x-consul-lastcontact", HeaderValue::from_static("0"));
        headers.insert("x-consul-effective-consistency", HeaderValue::from_static(self.consistency));
        headers.insert(hyper::header::VARY, HeaderValue::from_static("Accept-Encoding"));
        answer
    }

    /// An answer without a body.
    pub fn empty(&self, status: StatusCode, index: u64) -> Answer {
        self.with_index(super::super::json::empty(status), index)
    }
}

/// 0 to 255, different from one to the next.
fn spread() -> u32 {
    static TURN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let turn = TURN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    u32::try_from(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).unwrap_or(0)
}
