//! Looking at requests: hosts, paths, bodies, and saying no.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::HeaderMap;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};
use waypost_model::{Refusal, RefusalKind};

use super::body::Answer;

/// What is known of the client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// Whether it is on this machine.
    pub loopback: bool,
}

/// Why a request is not done: status and reason.
#[derive(Debug)]
pub(super) struct Failure {
    pub status: StatusCode,
    pub reason: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, reason: impl Into<String>) -> Failure {
        Failure { status, reason: reason.into(), headers: Vec::new() }
    }

    /// 504 for a change of which nobody can say whether it stays.
    pub(super) fn not_durable() -> Failure {
        let reason = "the change is made, but the disk has not confirmed it in time";
        Failure::new(StatusCode::GATEWAY_TIMEOUT, reason)
    }

    /// 404 for a path.
    pub(super) fn no_page() -> Failure {
        Failure::new(StatusCode::NOT_FOUND, "no such page")
    }

    /// 405 with the methods that there are.
    pub(super) fn wrong_method(allowed: &'static str) -> Failure {
        let failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, format!("this page takes {allowed}"));
        failure.with(ALLOW, HeaderValue::from_static(allowed))
    }

    /// The same with a header.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Failure {
        self.headers.push((name, value));
        self
    }

    /// The same, to be tried again after so many seconds.
    pub(super) fn retry_after(self, seconds: u16) -> Failure {
        self.with(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// 400.
    pub(super) fn bad(reason: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, reason)
    }

    pub(super) fn into_answer(self) -> Answer {
        let error = self.status.canonical_reason().unwrap_or("error").to_lowercase();
        let mut answer = super::json::answer(self.status, &json!({ "error": error, "reason": self.reason }));
        if self.status == StatusCode::UNAUTHORIZED {
            let value = HeaderValue::from_static("Basic realm=\"waypost\", Bearer realm=\"waypost\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, value);
        }
        answer.headers_mut().extend(self.headers);
        answer
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        use RefusalKind::{
            AccessRefused, ContentTooLarge, InternalError, NotFound, NotImplemented, PreconditionFailed, ResourceLocked,
        };
        let status = match refusal.kind {
            NotFound => StatusCode::NOT_FOUND,
            AccessRefused => StatusCode::FORBIDDEN,
            // 412 is about the request's own conditions (RFC 9110 §15.5.13); this is about what is there.
            PreconditionFailed | ResourceLocked => StatusCode::CONFLICT,
            ContentTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            NotImplemented => StatusCode::NOT_IMPLEMENTED,
            InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        Failure::new(status, refusal.text)
    }
}

/// The host of `host[:port]`, brackets of IPv6 taken off.
pub(super) fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

/// Whether the request is meant for us, and comes from no foreign web page. A page can have its own name point at a
/// loopback address, but it cannot choose what the browser sends as `Host` and `Origin`.
pub(super) fn host_is_ours<B>(request: &Request<B>, listener: SocketAddr, names: &[String]) -> bool {
    let header = |name: HeaderName| request.headers().get(name).map(|v| v.to_str().unwrap_or("?"));
    let authority = request.uri().authority().map(|a| a.as_str());
    let Some(host) = authority.or(header(HOST)) else { return false };
    // Whoever is on the way may look at the other one.
    let is_ours = |host: &str| is_known(host_of(host), listener, names);
    let is_for_us = is_ours(host) && header(HOST).is_none_or(is_ours);
    if !is_for_us && !is_of_envoy(request) {
        return false;
    }
    match header(ORIGIN) {
        None => true,
        Some(origin) => origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host)),
    }
}

/// Whether a request names its host twice (RFC 9112 §3.2): then it is for nobody.
pub(super) fn has_hosts<B>(request: &Request<B>) -> bool {
    request.headers().get_all(HOST).iter().nth(1).is_some()
}

/// Whether Envoy asks for endpoints: it calls us by the name that its configuration gives to our cluster. Behind a POST
/// without `Origin` there is no web page (Fetch standard, "append a request `Origin` header").
fn is_of_envoy<B>(request: &Request<B>) -> bool {
    let is_page = request.headers().contains_key(ORIGIN) || request.headers().contains_key("sec-fetch-site");
    request.method() == Method::POST && request.uri().path() == super::consul::discovery::EDS && !is_page
}

/// Whether this is the name of a host by which we are addressed.
pub(super) fn is_known(host: &str, listener: SocketAddr, names: &[String]) -> bool {
    if host.eq_ignore_ascii_case("localhost") || names.iter().any(|name| name.eq_ignore_ascii_case(host)) {
        return true;
    }
    // An address in digits cannot be pointed elsewhere; off loopback it may be a translated one.
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || !listener.ip().is_loopback())
}

/// The segments of a path, percent-decoded one by one, so that a name may have slashes.
pub(super) fn segments(path: &str) -> Result<Vec<String>, Failure> {
    path.trim_end_matches('/')
        .split('/')
        .map(|s| decode(s).ok_or_else(|| Failure::bad("bad escape in the path")))
        .collect()
}

/// One value of a query string.
pub(super) fn query(uri: &hyper::Uri, name: &str) -> Option<String> {
    pairs(uri).find(|(key, _)| key == name).map(|(_, value)| value)
}

/// Refuses parameters that are not among those known: nothing is taken and ignored.
pub(super) fn only(uri: &hyper::Uri, known: &[&str]) -> Result<(), Failure> {
    match pairs(uri).find(|(name, _)| !known.contains(&name.as_str())) {
        Some((name, _)) => Err(Failure::bad(format!("unknown parameter `{name}`"))),
        None => Ok(()),
    }
}

/// All pairs of a query string, percent-decoded; a name without a value has the value `true`. What cannot be decoded is
/// left out.
pub(super) fn pairs(uri: &hyper::Uri) -> impl Iterator<Item = (String, String)> + '_ {
    form(uri.query().unwrap_or_default())
}

/// Whether all of a query can be decoded: of what cannot, nobody would notice that it is left out.
pub(super) fn query_is_text(uri: &hyper::Uri) -> bool {
    uri.query().is_none_or(text_in_query)
}

/// The same of a query without the rest.
pub(super) fn text_in_query(query: &str) -> bool {
    !query.contains('%') || query.split(['&', '=']).all(|part| decode(part).is_some())
}

/// The pairs of a form (`application/x-www-form-urlencoded`), or of a query string.
pub(super) fn form(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    text.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
        // In a query and a form, and only there, a plus stands for a space.
        let word = |text: &str| if text.contains('+') { decode(&text.replace('+', " ")) } else { decode(text) };
        Some((word(key)?, word(value)?))
    })
}

/// Percent-decoded text; none if it cannot be.
pub(super) fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?].map(|d| char::from(d).to_digit(16));
                u8::try_from(digits[0]? * 16 + digits[1]?).ok()?
            }
            b => b,
        });
    }
    String::from_utf8(out).ok()
}

/// What is read of a body that is too large, so that its sender gets to read the refusal: whoever closes a connection with
/// unread bytes in it resets it.
const DISCARD_MAX: u64 = 32 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Bodies up to this size need no room to be set aside for them, bytes.
const SMALL: u64 = 64 * 1024;

/// Room for larger bodies on their way, of all connections together, KiB. It bounds what clients can make us hold that
/// send slowly.
const ROOM_KIB: u32 = 256 * 1024;
static ROOM: Semaphore = Semaphore::const_new(ROOM_KIB as usize);

/// How long a request waits for room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(300);

/// The body, up to a limit.
///
/// # Errors
/// 413 past the limit (without keeping any of it where the client has said so), 400 if it breaks off, 408 if it takes too
/// long, 503 if there is no room for it.
pub(super) async fn bytes(request: Request<Incoming>, max: u64) -> Result<Bytes, Failure> {
    let (parts, body) = request.into_parts();
    bytes_of(&parts.headers, body, max).await
}

/// The same of a request that was taken apart.
///
/// # Errors
/// As [`bytes`].
pub(super) async fn bytes_of(headers: &HeaderMap, mut body: Incoming, max: u64) -> Result<Bytes, Failure> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let too_large = || Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {max} bytes"));
    let told = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|length| length > max) {
        discard(&mut body, told).await;
        return Err(too_large());
    }
    let _room = room(told.unwrap_or(max)).await?;
    let collected = Limited::new(&mut body, usize::try_from(max).unwrap_or(usize::MAX)).collect();
    let Ok(collected) = tokio::time::timeout(BODY_TIMEOUT, collected).await else {
        return Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"));
    };
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => {
            discard(&mut body, None).await;
            Err(too_large())
        }
        Err(e) => Err(Failure::bad(format!("the body broke off: {e}"))),
    }
}

/// Sets room aside for a body, if it needs that.
async fn room(bytes: u64) -> Result<Option<SemaphorePermit<'static>>, Failure> {
    if bytes <= SMALL {
        return Ok(None);
    }
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(ROOM_KIB);
    match tokio::time::timeout(ROOM_TIMEOUT, ROOM.acquire_many(kib)).await {
        Ok(Ok(permit)) => Ok(Some(permit)),
        _ => {
            let why = "too many large bodies are on their way";
            Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(5))
        }
    }
}

/// Reads on for a moment, unless it is hopeless.
async fn discard(body: &mut Incoming, told: Option<u64>) {
    if told.is_some_and(|length| length > DISCARD_MAX) {
        return;
    }
    let all = async {
        let mut seen = 0;
        while seen <= DISCARD_MAX
            && let Some(Ok(frame)) = body.frame().await
        {
            seen += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, all).await;
}

/// The body, up to a limit, as JSON; `{}` if there is none.
pub(super) async fn body(request: Request<Incoming>, max: u64) -> Result<Value, Failure> {
    let bytes = bytes(request, max).await?;
    if bytes.is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(&bytes).map_err(|e| Failure::bad(format!("the body is no JSON: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoy_may_call_us_as_it_likes_and_no_page_may() {
        let listener: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let is_ours = |method: Method, path: &str, origin: Option<&str>| {
            let request = Request::builder().method(method).uri(path).header(HOST, "waypost");
            let request = origin.into_iter().fold(request, |request, origin| request.header(ORIGIN, origin));
            host_is_ours(&request.body(()).unwrap(), listener, &[])
        };
        assert!(is_ours(Method::POST, "/v3/discovery:endpoints", None));
        assert!(!is_ours(Method::POST, "/v3/discovery:endpoints", Some("http://waypost")));
        assert!(!is_ours(Method::GET, "/v3/discovery:endpoints", None));
        assert!(!is_ours(Method::POST, "/api/v1/services", None));
    }

    #[test]
    fn all_that_names_a_host_names_ours() {
        let listener: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let is_ours = |target: &str, host: &'static str| {
            let request = Request::builder().uri(target).header(HOST, host).body(()).unwrap();
            host_is_ours(&request, listener, &[])
        };
        assert!(is_ours("/v1/kv/a", "localhost") && is_ours("http://127.0.0.1:1/v1/kv/a", "localhost"));
        assert!(!is_ours("http://elsewhere.example/v1/kv/a", "localhost"));
        assert!(!is_ours("http://localhost/v1/kv/a", "elsewhere.example"));
    }

    #[test]
    fn hosts() {
        assert_eq!(host_of("[::1]:8500"), "::1");
        assert_eq!(host_of("a.example:1"), "a.example");
        assert_eq!(host_of("a.example"), "a.example");
        let loopback: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let open: SocketAddr = "0.0.0.0:1".parse().unwrap();
        let names = ["mq.example".to_owned()];
        for (host, listener, known) in [
            ("localhost", loopback, true),
            ("127.0.0.1", loopback, true),
            ("::1", loopback, true),
            ("evil.example", loopback, false),
            ("10.0.0.1", loopback, false),
            ("10.0.0.1", open, true),
            ("evil.example", open, false),
            ("MQ.example", loopback, true),
        ] {
            assert_eq!(is_known(host, listener, &names), known, "{host}");
        }
    }

    #[test]
    fn names_with_slashes() {
        assert_eq!(segments("queues/%2F/a%2fb/").unwrap(), ["queues", "/", "a/b"]);
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert!(segments(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn large_bodies_take_room_and_give_it_back() {
        assert!(room(SMALL).await.unwrap().is_none());
        let before = ROOM.available_permits();
        let held = room(1024 * 1024).await.unwrap();
        assert_eq!(ROOM.available_permits(), before - 1024);
        drop(held);
        assert_eq!(ROOM.available_permits(), before);
        assert!(room(u64::MAX).await.unwrap().is_some(), "no body waits for more room than there is");
    }
}
