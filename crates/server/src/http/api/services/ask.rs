//! Requests: sent to a service, answered now or fetched later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::Notify;
use waypost_model::props::ShortStr;
use waypost_model::table::Value;

use super::super::super::body::{Answer, Body};
use super::super::super::envelope::{DEADLINE, Envelope};
use super::super::super::json;
use super::super::super::request::Failure;
use super::send::{full, nobody};
use super::{Ask, millis, only, refused, span};
use crate::local::{AskError, Asked, Received};

/// How long an answer is waited for, if nothing is said, and at most.
const TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUT_MAX: Duration = Duration::from_secs(86_400);

/// How long an answer is kept for who fetches it later, if nothing is said, and at most.
const KEEP: Duration = Duration::from_secs(600);
const KEEP_MAX: Duration = Duration::from_secs(86_400);

/// How long a fetch waits at most.
const FETCH_WAIT_MAX: Duration = Duration::from_secs(600);

/// Requests whose answers are fetched later, at a time.
const LATER_MAX: usize = 10_000;

/// Bytes of answers that are kept; what comes beyond is told as too large.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Flat cost of a kept answer.
const KEPT_COST: usize = 512;

/// Answers to be fetched.
#[derive(Debug, Default)]
pub(in crate::http) struct Answers {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<Box<str>, Arc<Later>>,
    bytes: usize,
}

/// A request whose answer is fetched later.
#[derive(Debug)]
struct Later {
    /// Only who asked may fetch it.
    owner: Box<str>,
    vhost: Box<str>,
    service: Box<str>,
    state: Mutex<State>,
    changed: Notify,
    /// Told once when nobody will fetch it any more.
    forgotten: Notify,
}

#[derive(Debug, Clone)]
enum State {
    Waiting,
    Answered(Received),
    Expired,
    TooLarge,
}

impl Ask<'_> {
    pub(super) async fn request(&self, service: &str, request: Request<Incoming>) -> Result<Answer, Failure> {
        let more = &["mandatory", "async", "timeout", "keep"];
        let (route, mut props, terms) = self.address(service, &request, more)?;
        if terms.keep.is_some() && !terms.is_async {
            return Err(Failure::bad("`keep` belongs to `async`: for how long the answer is kept"));
        }
        if props.reply_to.is_some() {
            return Err(Failure::bad("`waypost-reply-to` is set by the server; to have answers elsewhere, use send"));
        }
        let timeout = terms.timeout.unwrap_or(TIMEOUT).min(TIMEOUT_MAX);
        let deadline = self.cx.node.clock.now().plus(millis(timeout));
        let mut headers = props.headers.take().unwrap_or_default();
        if headers.get(DEADLINE).is_none() {
            headers.set(DEADLINE, Value::I64(i64::try_from(deadline.0).unwrap_or(i64::MAX)));
        }
        props.headers = Some(headers);
        let mut message = self.message(request, props, timeout).await?;
        // It may have waited for room, and the body for its sender.
        let timeout = Duration::from_millis(deadline.since(self.cx.node.clock.now()));
        if timeout.is_zero() {
            return Err(no_answer(service));
        }
        // A request that nobody waits for any more is not delivered.
        let ms = u32::try_from(millis(timeout)).unwrap_or(u32::MAX);
        let props = &mut message.props;
        let own = props.expiration.as_ref().and_then(|e| e.as_str()?.parse::<u32>().ok());
        props.expiration = ShortStr::new(own.map_or(ms, |own| own.min(ms)).to_string());
        let answers = &self.cx.node.http.answers;
        let place = if terms.is_async { Some(answers.reserve(self, service)?) } else { None };
        let requests = &self.cx.node.clients.requests;
        let asked = requests.ask(&self.vhost, &route, message, terms.mandatory);
        let asked = asked.map_err(|error| {
            if let Some((id, _)) = &place {
                answers.forget(id);
            }
            not_asked(service, error)
        })?;
        match place {
            None => match asked.answer(timeout).await {
                Some(received) => Ok(answer(&received)),
                None => Err(no_answer(service)),
            },
            Some((id, later)) => {
                let keep = terms.keep.unwrap_or(KEEP).min(KEEP_MAX);
                Ok(self.later(service, &id, later, asked, timeout, keep))
            }
        }
    }

    /// Waits for the answer behind the request's back.
    fn later(
        &self,
        service: &str,
        id: &str,
        later: Arc<Later>,
        asked: Asked,
        timeout: Duration,
        keep: Duration,
    ) -> Answer {
        let correlation = String::from_utf8_lossy(asked.correlation()).into_owned();
        let (node, key) = (Arc::clone(self.cx.node), id.to_owned());
        let mut stop = self.cx.stop();
        tokio::spawn(async move {
            let received = tokio::select! {
                received = asked.answer(timeout) => received,
                () = later.forgotten.notified() => return,
            };
            node.http.answers.settle(&key, &later, received);
            tokio::select! {
                () = tokio::time::sleep(keep) => {}
                () = later.forgotten.notified() => return,
                () = super::super::super::stopped(&mut stop) => {}
            }
            node.http.answers.forget(&key);
        });
        let place = format!("/api/v1/services/{service}/requests/{id}");
        let place = if *self.vhost == **self.cx.vhost() {
            place
        } else {
            format!("{place}?vhost={}", self.vhost.replace('%', "%25").replace('/', "%2F").replace('&', "%26"))
        };
        let mut answer =
            json::answer(StatusCode::ACCEPTED, &json!({ "id": id, "location": place, "correlation_id": correlation }));
        if let Ok(value) = HeaderValue::from_str(&place) {
            answer.headers_mut().insert(LOCATION, value);
        }
        answer
    }

    /// Gives the answer of an earlier request, or forgets it.
    pub(super) async fn answer_of(
        &self,
        service: &str,
        id: &str,
        request: &Request<Incoming>,
    ) -> Result<Answer, Failure> {
        let answers = &self.cx.node.http.answers;
        let gone =
            || Failure::new(StatusCode::NOT_FOUND, "no such request, or its answer was read or is no longer kept");
        let later = answers.find(id, self.cx.who.owner(), &self.vhost, service).ok_or_else(gone)?;
        if *request.method() == Method::DELETE {
            only(request.uri(), &[])?;
            answers.forget(id);
            return Ok(json::empty(StatusCode::NO_CONTENT));
        }
        only(request.uri(), &["wait"])?;
        let wait = span(request.uri(), "wait")?.unwrap_or_default().min(FETCH_WAIT_MAX);
        match later.settled(self.cx.patience(wait)).await {
            State::Waiting => Ok(json::answer(StatusCode::ACCEPTED, &json!({ "id": id, "state": "waiting" }))),
            State::Answered(received) => {
                // Of two who fetch at the same time one gets it.
                if !answers.forget(id) {
                    return Err(gone());
                }
                Ok(answer(&received))
            }
            State::Expired => {
                answers.forget(id);
                Err(no_answer(service))
            }
            State::TooLarge => {
                answers.forget(id);
                Err(Failure::new(StatusCode::INSUFFICIENT_STORAGE, "there was no room to keep the answer"))
            }
        }
    }
}

fn not_asked(service: &str, error: AskError) -> Failure {
    match error {
        AskError::Refused(refusal) => refused(refusal),
        AskError::Unroutable => nobody(service),
        AskError::Full => full(service),
        AskError::Twice => Failure::new(StatusCode::CONFLICT, "a request with this correlation id waits already"),
        AskError::TooMany => too_many(),
    }
}

fn too_many() -> Failure {
    Failure::new(StatusCode::TOO_MANY_REQUESTS, "too many requests wait for answers").retry_after(1)
}

fn no_answer(service: &str) -> Failure {
    Failure::new(StatusCode::GATEWAY_TIMEOUT, format!("service '{service}' did not answer in time"))
}

/// A message as an answer: its body, its properties as headers.
fn answer(received: &Received) -> Answer {
    let mut envelope = Envelope::default();
    envelope.message(received.props());
    let mut answer = Response::new(Body::Whole(received.body_bytes()));
    *answer.headers_mut() = envelope.finish();
    if !answer.headers().contains_key(CONTENT_TYPE) {
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    }
    // What a service answers is no page of ours: a browser must not run it with our rights.
    answer.headers_mut().insert("content-security-policy", HeaderValue::from_static("sandbox"));
    answer.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

impl Answers {
    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for an answer that will come.
    fn reserve(&self, ask: &Ask<'_>, service: &str) -> Result<(String, Arc<Later>), Failure> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the system gives no random bytes"))?;
        let id = format!("{:032x}", u128::from_be_bytes(bytes));
        let later = Arc::new(Later {
            owner: ask.cx.who.owner().into(),
            vhost: ask.vhost.as_str().into(),
            service: service.into(),
            state: Mutex::new(State::Waiting),
            changed: Notify::new(),
            forgotten: Notify::new(),
        });
        let mut kept = self.lock();
        if kept.by_id.len() >= LATER_MAX {
            return Err(too_many());
        }
        kept.by_id.insert(id.as_str().into(), Arc::clone(&later));
        Ok((id, later))
    }

    fn find(&self, id: &str, owner: &str, vhost: &str, service: &str) -> Option<Arc<Later>> {
        let later = self.lock().by_id.get(id).cloned()?;
        (*later.owner == *owner && *later.vhost == *vhost && *later.service == *service).then_some(later)
    }

    /// The answer has come, or will not.
    fn settle(&self, id: &str, later: &Later, received: Option<Received>) {
        let mut kept = self.lock();
        if !kept.by_id.contains_key(id) {
            return;
        }
        let state = match received {
            None => State::Expired,
            Some(received) => {
                let received = received.compact();
                let cost = cost(&received);
                if kept.bytes.saturating_add(cost) > KEPT_BYTES_MAX {
                    State::TooLarge
                } else {
                    kept.bytes += cost;
                    State::Answered(received)
                }
            }
        };
        *later.lock() = state;
        drop(kept);
        later.changed.notify_waiters();
    }

    /// Whether it was there.
    fn forget(&self, id: &str) -> bool {
        let mut kept = self.lock();
        let Some(later) = kept.by_id.remove(id) else { return false };
        if let State::Answered(received) = &*later.lock() {
            kept.bytes = kept.bytes.saturating_sub(cost(received));
        }
        later.forgotten.notify_one();
        true
    }
}

fn cost(received: &Received) -> usize {
    received.body().len() + received.props().as_bytes().len() + KEPT_COST
}

impl Later {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands, once it is settled or `patience` is over.
    async fn settled(&self, patience: impl Future<Output = ()>) -> State {
        let mut changed = std::pin::pin!(self.changed.notified());
        // Listen first, then look.
        changed.as_mut().enable();
        let now = self.lock().clone();
        if !matches!(now, State::Waiting) {
            return now;
        }
        tokio::select! {
            () = changed => {}
            () = patience => {}
        }
        self.lock().clone()
    }
}
