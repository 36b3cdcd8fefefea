//! One message as one request: what is sent, and what the answer means.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use ring::hmac;
use waypost_model::props::ShortStr;
use waypost_registry::services::PushFormat;

use super::client::Answered;
use crate::http::envelope::{Envelope, deadline_of, properties};
use crate::local::{Message, Received};

/// A wait that an endpoint asks for is cut to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// What an instance's requests have in common.
#[derive(Debug)]
pub(super) struct Style {
    pub vhost: Box<str>,
    pub service: Box<str>,
    pub instance: Box<str>,
    pub format: PushFormat,
    /// Signs what is sent.
    pub secret: Option<hmac::Key>,
}

/// What an attempt came to.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Done; with an answer for who asked, if there is one.
    Done(Option<Message>),
    /// It will never be taken.
    Refused(String),
    /// Perhaps later; not before the time that the endpoint names.
    Later { after: Option<Duration>, why: String },
    /// Nobody answered there.
    Unreachable(String),
}

impl Style {
    /// The headers of a message's request. `unix_s` is the time, for the signature.
    pub(super) fn headers(&self, received: &Received, unix_s: u64) -> HeaderMap {
        let mut envelope = Envelope::default();
        let (props, id) = (received.props(), received.receipt.id());
        match self.format {
            PushFormat::Headers => envelope.message(props),
            PushFormat::CloudEvents => {
                let source = format!("/services/{}", self.service);
                envelope.event(props, &source, &received.route.routing_key, &id);
            }
        }
        for (name, value) in [
            ("waypost-vhost", self.vhost.as_bytes()),
            ("waypost-service", self.service.as_bytes()),
            ("waypost-instance", self.instance.as_bytes()),
            ("waypost-exchange", received.route.exchange.as_bytes()),
            ("waypost-routing-key", &received.route.routing_key),
            ("waypost-delivery-id", id.as_bytes()),
        ] {
            envelope.add(name, value);
        }
        if received.redelivered {
            envelope.add("waypost-redelivered", b"true");
        }
        if received.delivery_count > 0 {
            envelope.number("waypost-delivery-count", Some(received.delivery_count.into()));
        }
        if let Some(key) = &self.secret {
            envelope.add("waypost-signature", signature(key, unix_s, received.body()).as_bytes());
        }
        let mut headers = envelope.finish();
        if !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        }
        headers
    }
}

/// `t=<time>,v1=<HMAC-SHA256 of "<time>.<body>" in hex>`: the time is signed too, so that nobody can send it again later.
pub(super) fn signature(key: &hmac::Key, unix_s: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(unix_s.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    let hex: String = context.sign().as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("t={unix_s},v1={hex}")
}

/// When a message is of no use any more, ms since the Unix epoch, as far as it says so itself.
pub(super) fn deadline(received: &Received, taken_ms: u64) -> Option<u64> {
    let props = received.props();
    // When it was published is not known any more: it expires no later than so long after it was taken.
    let expires = props.expiration().and_then(|e| std::str::from_utf8(e).ok()?.parse::<u64>().ok());
    let expires = expires.map(|ms| taken_ms.saturating_add(ms));
    let told = deadline_of(props.headers().ok().flatten().as_ref());
    expires.into_iter().chain(told).min()
}

/// What an answer means.
pub(super) fn verdict(answered: Answered, asked: &Received) -> Verdict {
    let status = answered.status;
    if status.is_success() {
        return Verdict::Done(reply(answered, asked));
    }
    let retry = status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    if retry {
        return Verdict::Later { after: retry_after(&answered.headers), why: format!("answered {status}") };
    }
    Verdict::Refused(format!("answered {status}"))
}

/// The answer as a message for who asked.
fn reply(answered: Answered, asked: &Received) -> Option<Message> {
    asked.props().reply_to()?;
    if answered.body.is_empty() {
        return None;
    }
    let mut props = properties(&answered.headers).unwrap_or_default();
    // Answers are as transient as their askers.
    (props.delivery_mode, props.reply_to, props.expiration) = (None, None, None);
    props.correlation_id = asked.props().correlation_id().and_then(ShortStr::new);
    Some(Message { props, body: answered.body })
}

/// `Retry-After`: seconds or a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// The body of a request.
pub(super) fn body(received: &Received) -> Bytes {
    received.body_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, headers: &[(&'static str, &'static str)]) -> Answered {
        let headers = headers.iter().map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v))).collect();
        Answered { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::new() }
    }

    #[test]
    fn a_signature_can_be_computed_by_others() {
        // As by: printf '1700000000.hello' | openssl dgst -sha256 -hmac secret
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        assert_eq!(
            signature(&key, 1_700_000_000, b"hello"),
            "t=1700000000,v1=47b1df0ab12338b2685470b0d2b37033add7c3b2bc8172f313e77413f1bb78c8"
        );
    }

    #[test]
    fn waits_that_endpoints_ask_for() {
        let of = |text| retry_after(&answered(503, &[("retry-after", text)]).headers);
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("86400"), Some(RETRY_AFTER_MAX));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(of("soon"), None);
    }

    #[test]
    fn what_answers_mean() {
        let received = Received::for_test(&[0, 0], b"x");
        for (status, want) in
            [(200, "done"), (204, "done"), (404, "refused"), (301, "refused"), (429, "later"), (503, "later")]
        {
            let got = match verdict(answered(status, &[]), &received) {
                Verdict::Done(_) => "done",
                Verdict::Refused(_) => "refused",
                Verdict::Later { .. } => "later",
                Verdict::Unreachable(_) => "unreachable",
            };
            assert_eq!(got, want, "{status}");
        }
    }
}
