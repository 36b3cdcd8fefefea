//! Answers that are made once and given to many: with an entity tag, and compressed for those who like it so.

use std::hash::Hasher;
use std::io::Write;
use std::sync::OnceLock;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY,
};
use hyper::{Response, StatusCode};

use super::body::{Answer, Body};

/// Shorter bodies fit one packet anyway.
const GZIP_BYTES_MIN: usize = 1400;

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Gzip,
}

/// A body, to be shared by all who ask for the same.
#[derive(Debug)]
pub(super) struct Rendered {
    content_type: HeaderValue,
    plain: Bytes,
    gzip: OnceLock<Bytes>,
    etag: OnceLock<HeaderValue>,
}

impl Rendered {
    /// A body of a type.
    pub(super) fn new(content_type: &'static str, plain: impl Into<Bytes>) -> Rendered {
        Rendered {
            content_type: HeaderValue::from_static(content_type),
            plain: plain.into(),
            gzip: OnceLock::new(),
            etag: OnceLock::new(),
        }
    }

    /// The answer to a request with these headers: 200 with the body, compressed if that is welcome and worth while, or
    /// 304 if the client has it.
    pub(super) fn answer(&self, asked: &HeaderMap) -> Answer {
        let has_it = asked.get(IF_NONE_MATCH).is_some_and(|known| matches(known, self.etag()));
        if has_it {
            let mut answer = Response::new(Body::default());
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            answer.headers_mut().insert(ETAG, self.etag().clone());
            return answer;
        }
        let mut answer = self.plain_or_gzip(asked);
        answer.headers_mut().insert(ETAG, self.etag().clone());
        answer
    }

    /// The form in which a request with these headers gets it, and the body in that form.
    pub(super) fn form(&self, asked: &HeaderMap) -> (Form, &Bytes) {
        if is_worth_gzip(&self.plain, asked) {
            (Form::Gzip, self.gzip.get_or_init(|| gzip(&self.plain)))
        } else {
            (Form::Plain, &self.plain)
        }
    }

    /// The same without an entity tag, for those whose clients do not ask again with one: saves the hash.
    pub(super) fn plain_or_gzip(&self, asked: &HeaderMap) -> Answer {
        let (form, body) = self.form(asked);
        let mut answer = Response::new(Body::Whole(body.clone()));
        let headers = answer.headers_mut();
        // With those that Consul's clients are told beside: grown once.
        headers.reserve(8);
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        if form == Form::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }

    /// As it is, not compressed.
    pub(super) fn plain(&self) -> &Bytes {
        &self.plain
    }

    fn etag(&self) -> &HeaderValue {
        self.etag.get_or_init(|| etag(&self.plain))
    }
}

/// A weak entity tag of a body: the compressed form has the same.
pub(super) fn etag(body: &[u8]) -> HeaderValue {
    // Seeded the same in every process, so that a restart invalidates nothing.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(body);
    let text = format!("W/\"{:016x}\"", hasher.finish());
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("W/\"\""))
}

/// Whether a list of entity tags names `tag`, by weak comparison (RFC 9110 §13.1.2).
pub(super) fn matches(list: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(list), Ok(tag)) = (list.to_str(), tag.to_str()) else { return false };
    let opaque = |t: &str| t.trim().trim_start_matches("W/").to_owned();
    list.trim() == "*" || list.split(',').any(|t| opaque(t) == opaque(tag))
}

/// Whether a body is long enough to be compressed, for a client that takes it so.
pub(super) fn is_worth_gzip(body: &[u8], asked: &HeaderMap) -> bool {
    body.len() >= GZIP_BYTES_MIN && takes_gzip(asked)
}

/// Whether a client takes gzip (RFC 9110 §12.5.3).
pub(super) fn takes_gzip(asked: &HeaderMap) -> bool {
    let lists = asked.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    lists.flat_map(|v| v.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|p| matches!(p.strip_prefix("q=").map(str::parse::<f32>), Some(Ok(q)) if q <= 0.0));
        (name.eq_ignore_ascii_case("gzip") || name == "*") && !refused
    })
}

/// Compresses.
pub(super) fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
    // A vector takes everything.
    let _ = encoder.write_all(plain);
    Bytes::from(encoder.finish().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn with(pairs: &[(hyper::header::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.clone(), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn gzip_only_where_welcome_and_worth_while() {
        let (short, long) = (Rendered::new("text/plain", "x"), Rendered::new("text/plain", "x".repeat(10_000)));
        let asks = with(&[(ACCEPT_ENCODING, "br, gzip;q=0.5")]);
        assert!(!short.answer(&asks).headers().contains_key(CONTENT_ENCODING));
        assert!(!long.answer(&HeaderMap::new()).headers().contains_key(CONTENT_ENCODING));
        assert!(!long.answer(&with(&[(ACCEPT_ENCODING, "gzip;q=0")])).headers().contains_key(CONTENT_ENCODING));
        let answer = long.answer(&asks);
        assert_eq!(answer.headers()[CONTENT_ENCODING], "gzip");
        let Body::Whole(body) = answer.into_body() else { panic!("a stream") };
        let mut plain = String::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut plain).unwrap();
        assert_eq!(plain, "x".repeat(10_000));
    }

    #[test]
    fn who_has_it_gets_304() {
        let page = Rendered::new("text/plain", "hello");
        let first = page.answer(&HeaderMap::new());
        let tag = first.headers()[ETAG].clone();
        let again = HeaderMap::from_iter([(IF_NONE_MATCH, tag.clone())]);
        assert_eq!(page.answer(&again).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(Rendered::new("text/plain", "hallo").answer(&again).status(), StatusCode::OK);
        assert!(matches(&HeaderValue::from_static("\"a\", W/\"b\""), &HeaderValue::from_static("\"b\"")));
    }
}
