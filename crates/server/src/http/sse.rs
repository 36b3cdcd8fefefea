//! Server-sent events (the WHATWG HTML standard, "Server-sent events"): an answer that goes on.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

use super::body::{Answer, Body};

/// Events that wait for a client that reads slowly. Whoever tells of states rather than of steps sends the newest next.
const EVENTS_AHEAD: usize = 4;

/// A client that takes nothing for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Without events, a comment goes out so often, so that nobody on the way takes the connection for dead.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The teller's end of a stream.
#[derive(Debug)]
pub(super) struct Events(mpsc::Sender<Bytes>);

/// Whether a client asks for a stream of events.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    accepted.flat_map(|v| v.split(',')).any(|v| {
        let media = v.split(';').next().unwrap_or_default();
        media.trim().eq_ignore_ascii_case("text/event-stream")
    })
}

/// A stream of events, and the answer that carries it. The stream ends when [`Events`] is dropped.
pub(super) fn stream() -> (Events, Answer) {
    let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
    let mut answer = Response::new(Body::Stream(receiver));
    *answer.status_mut() = StatusCode::OK;
    let headers = answer.headers_mut();
    headers.insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies such as nginx would otherwise keep events until a buffer is full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    (Events(sender), answer)
}

impl Events {
    /// Sends an encoded event (see [`encode`]). False when the client is gone or has taken nothing for too long.
    pub(super) async fn send(&self, event: Bytes) -> bool {
        matches!(tokio::time::timeout(STALL_TIMEOUT, self.0.send(event)).await, Ok(Ok(())))
    }

    /// Waits until no event waits any more. False as in [`Events::send`].
    pub(super) async fn room(&self) -> bool {
        matches!(tokio::time::timeout(STALL_TIMEOUT, self.0.reserve_many(EVENTS_AHEAD)).await, Ok(Ok(_)))
    }

    /// Sends a comment. False as in [`Events::send`].
    pub(super) async fn keep_alive(&self) -> bool {
        self.send(Bytes::from_static(b":\n\n")).await
    }

    /// Completes when the client is gone.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// One event. `data` may have several lines; `event` and `id` must not.
pub(super) fn encode(event: &str, id: Option<u64>, data: &str) -> Bytes {
    let mut out = String::with_capacity(data.len() + event.len() + 48);
    out.push_str("event: ");
    out.push_str(event);
    if let Some(id) = id {
        out.push_str("\nid: ");
        out.push_str(&id.to_string());
    }
    for line in data.lines() {
        out.push_str("\ndata: ");
        out.push_str(line);
    }
    out.push_str("\n\n");
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_on_the_wire() {
        assert_eq!(encode("change", Some(7), "{\n}"), "event: change\nid: 7\ndata: {\ndata: }\n\n");
        assert_eq!(encode("gone", None, "x"), "event: gone\ndata: x\n\n");
    }

    #[tokio::test]
    async fn room_is_what_nobody_waits_in() {
        let (events, answer) = stream();
        let Body::Stream(mut parts) = answer.into_body() else { unreachable!("a stream") };
        assert!(events.room().await && events.send(Bytes::from_static(b"x")).await);
        let waits = tokio::time::timeout(Duration::from_millis(50), events.room()).await;
        assert!(waits.is_err(), "one event waits");
        parts.recv().await.unwrap();
        assert!(events.room().await);
        drop(parts);
        assert!(!events.room().await, "the client is gone");
    }

    #[test]
    fn who_wants_events() {
        let with = |accept: &'static str| HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
        assert!(wanted(&with("text/event-stream")));
        assert!(wanted(&with("application/json;q=0.1, Text/Event-Stream; q=1")));
        assert!(!wanted(&with("*/*")));
        assert!(!wanted(&HeaderMap::new()));
    }
}
