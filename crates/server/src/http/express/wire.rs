//! Answers as octets, as hyper writes them.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::StatusCode;

use super::super::body::{Answer, Body};

/// The head of an answer but for its date and the empty line, which [`finish`] adds; and its body. `None` for what has no
/// end that is known.
pub(in crate::http) fn parts(answer: Answer) -> Option<(Vec<u8>, Bytes)> {
    let (parts, body) = answer.into_parts();
    let Body::Whole(body) = body else { return None };
    let mut head = Vec::with_capacity(64 + 48 * parts.headers.len());
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(parts.status.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(parts.status.canonical_reason().unwrap_or("<none>").as_bytes());
    head.extend_from_slice(b"\r\n");
    for (name, value) in &parts.headers {
        line(&mut head, name.as_str(), value.as_bytes());
    }
    // RFC 9110 §8.6: these have none.
    if parts.status != StatusCode::NO_CONTENT && parts.status != StatusCode::NOT_MODIFIED {
        line(&mut head, "content-length", body.len().to_string().as_bytes());
    }
    Some((head, body))
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Length of a date (RFC 9110 §5.6.7).
const DATE_BYTES: usize = 29;

thread_local! {
    /// The second for which a date was written last, and the date.
    static DATE: Cell<(u64, [u8; DATE_BYTES])> = const { Cell::new((u64::MAX, [b' '; DATE_BYTES])) };
}

/// Ends a head: with the date, and with what says that no more requests are taken if `last`.
pub(super) fn finish(out: &mut Vec<u8>, last: bool) {
    let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (known, mut date) = DATE.get();
    if known != second {
        let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
        if let Ok(new) = <[u8; DATE_BYTES]>::try_from(text.as_bytes()) {
            date = new;
            DATE.set((second, date));
        }
    }
    if last {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"date: ");
    out.extend_from_slice(&date);
    out.extend_from_slice(b"\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let answer = hyper::Response::builder().header("x-a", "1").body(Body::Whole("body".into())).unwrap();
        let (mut head, body) = parts(answer).unwrap();
        finish(&mut head, false);
        let text = String::from_utf8(head).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 4\r\ndate: "), "{text}");
        assert!(text.ends_with(" GMT\r\n\r\n"), "{text}");
        assert_eq!(body, "body");
        let empty = hyper::Response::builder().status(204).body(Body::default()).unwrap();
        assert_eq!(parts(empty).unwrap().0, b"HTTP/1.1 204 No Content\r\n");
    }
}
