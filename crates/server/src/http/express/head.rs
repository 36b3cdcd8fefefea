//! The head of a request, as far as it is one of the usual kind.

use std::mem::MaybeUninit;

use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::super::auth::CONSUL_TOKEN;

/// Headers of a request of the usual kind.
const HEADERS_MAX: usize = 32;

/// Headers on which no answer that is given here depends, and no framing.
const WITHOUT_MEANING: [&str; 10] = [
    "user-agent",
    "accept",
    "accept-language",
    "content-type",
    "cache-control",
    "pragma",
    "traceparent",
    "tracestate",
    "x-request-id",
    "keep-alive",
];

/// A head whose end and whose body's length are beyond doubt.
#[derive(Debug)]
pub(in crate::http) struct Head<'a> {
    pub method: &'a str,
    /// Before the question mark.
    pub path: &'a str,
    /// Behind it.
    pub query: &'a str,
    pub host: &'a str,
    /// Those that answers depend on, and credentials.
    pub headers: HeaderMap,
    /// Its length, with the empty line.
    pub len: usize,
    pub body_len: usize,
    /// Whether everything in it is known here: then it may be answered here, else hyper does that.
    pub is_known: bool,
}

impl<'a> Head<'a> {
    /// The head at the beginning of `bytes`. `None` for whatever is not complete, not HTTP/1.1, wrong, or has anything to
    /// do with framing but one `Content-Length` of digits: where such a request ends is for hyper alone to say. The parser
    /// is hyper's, so that there are no two opinions of a head.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Head<'a>> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let Ok(httparse::Status::Complete(len)) = request.parse_with_uninit_headers(bytes, &mut headers) else {
            return None;
        };
        let (method, target) = (request.method?, request.path?);
        if request.version != Some(1) || method == "CONNECT" {
            return None;
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let is_known = path.starts_with('/') && target.bytes().all(is_plain);
        let mut head = Head { method, path, query, host: "", headers: HeaderMap::new(), len, body_len: 0, is_known };
        let mut seen = Seen::default();
        for header in request.headers.iter() {
            head.take(header, &mut seen)?;
        }
        head.is_known &= seen.host;
        Some(head)
    }

    /// Notes a header; `None` if it makes the framing doubtful.
    fn take(&mut self, header: &httparse::Header<'a>, seen: &mut Seen) -> Option<()> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let text = std::str::from_utf8(header.value).ok()?;
        match header.name.len() {
            4 if is("host") => {
                self.is_known &= !std::mem::replace(&mut seen.host, true);
                self.host = text;
            }
            14 if is("content-length") => {
                if std::mem::replace(&mut seen.length, true) || text.is_empty() || text.len() > 9 {
                    return None;
                }
                self.body_len = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())??;
            }
            10 if is("connection") => {
                if !text.eq_ignore_ascii_case("keep-alive") {
                    return None;
                }
            }
            15 if is("accept-encoding") => self.keep(ACCEPT_ENCODING, header.value),
            13 if is("authorization") => self.keep(AUTHORIZATION, header.value),
            14 if is(CONSUL_TOKEN) => self.keep(HeaderName::from_static(CONSUL_TOKEN), header.value),
            _ if is("transfer-encoding") || is("te") || is("trailer") || is("upgrade") || is("expect") => return None,
            _ => self.is_known &= WITHOUT_MEANING.into_iter().any(is),
        }
        Some(())
    }

    fn keep(&mut self, name: HeaderName, value: &[u8]) {
        match HeaderValue::from_bytes(value) {
            Ok(value) => {
                self.headers.append(name, value);
            }
            Err(_) => self.is_known = false,
        }
    }
}

/// Which of the headers that may stand once have been seen.
#[derive(Default)]
struct Seen {
    host: bool,
    length: bool,
}

/// What may stand in a target without making it another one for anybody.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b'?' | b'&' | b'=' | b':' | b',' | b'+' | b'%')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(more: &str) -> String {
        format!("GET /v1/x?a=b HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
    }

    #[test]
    fn a_usual_head() {
        let text = head("Accept-Encoding: gzip\r\nX-Consul-Token: t\r\nuser-agent: x\r\ncontent-length: 12\r\n");
        let with_more = format!("{text}rest");
        let head = Head::read(with_more.as_bytes()).unwrap();
        assert_eq!((head.method, head.path, head.query, head.host), ("GET", "/v1/x", "a=b", "localhost"));
        assert_eq!((head.len, head.body_len, head.is_known, head.headers.len()), (text.len(), 12, true, 2));
        for end in 0..text.len() {
            assert!(Head::read(&text.as_bytes()[..end]).is_none(), "{end}");
        }
    }

    #[test]
    fn what_could_end_elsewhere_than_it_seems_is_hypers() {
        for more in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: 1000000000\r\n",
            "Transfer-Encoding: chunked\r\n",
            "transfer-encoding: identity\r\n",
            "TE: trailers\r\n",
            "Connection: close\r\n",
            "Connection: keep-alive, upgrade\r\n",
            "Upgrade: h2c\r\n",
            "Expect: 100-continue\r\n",
            " folded: x\r\n",
            "Content-Length : 1\r\n",
            "Content-Length\t: 1\r\n",
            "x: a\rb\r\n",
            "x: \0\r\n",
        ] {
            assert!(Head::read(head(more).as_bytes()).is_none(), "{more:?}");
        }
        for whole in [
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            assert!(Head::read(whole.as_bytes()).is_none(), "{whole:?}");
        }
    }

    #[test]
    fn what_is_not_known_here_ends_where_it_says_and_is_answered_elsewhere() {
        for more in ["Origin: http://a\r\n", "Cookie: a\r\n", "host: b\r\n", "X-Forwarded-For: a\r\n"] {
            assert!(!Head::read(head(more).as_bytes()).unwrap().is_known, "{more:?}");
        }
        for whole in [
            "GET /a HTTP/1.1\r\n\r\n",
            "GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a\"b HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(!Head::read(whole.as_bytes()).unwrap().is_known, "{whole:?}");
        }
    }
}
