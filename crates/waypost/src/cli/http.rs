//! The client of the management API: HTTP/1.0 requests, one connection each.
//!
//! The API answers a request with one JSON document of known size, and the command line makes a handful of requests per
//! run: what a client library would add (pools, redirects, cookies, transfer codings) is not wanted here. Asking in
//! HTTP/1.0 makes the end of the connection the end of the answer.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::address::{Address, encode_segment};
use super::net::{Security, Stream};
use crate::exit::Failure;

/// Largest answer that is taken.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Headers of an answer at most.
const HEADERS_MAX: usize = 64;

/// Where the API is and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiUrl {
    host: String,
    port: u16,
    tls: bool,
    login: Option<(String, String)>,
}

impl FromStr for ApiUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = Address::parse(text)?;
        let tls = match address.scheme.as_str() {
            "http" => false,
            "https" => true,
            other => return Err(format!("scheme {other} is not supported, only http and https")),
        };
        if address.path.is_some_and(|path| !path.is_empty()) {
            return Err("a path is not supported: the API is at /api/v1".to_owned());
        }
        if address.host.is_empty() {
            return Err("there is no host".to_owned());
        }
        Ok(Self { host: address.host, port: address.port.unwrap_or(8500), tls, login: address.login })
    }
}

/// The management API of one server.
#[derive(Debug)]
pub struct Api {
    url: ApiUrl,
    security: Security,
    timeout: Duration,
}

/// The body of a request.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// Its type, where there is one to tell.
    pub content_type: Option<&'a str>,
    /// The body.
    pub bytes: &'a [u8],
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; as text if it is none.
    pub fn json(&self) -> Value {
        document(&self.body)
    }
}

/// A body as JSON; as text if it is none.
fn document(body: &[u8]) -> Value {
    if body.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(body).trim()))
}

/// A path below `/api/v1`, segment by segment.
#[derive(Clone, Debug)]
pub struct ApiPath(String);

impl ApiPath {
    /// `/api/v1/<first>`.
    pub fn new(first: &str) -> Self {
        Self("/api/v1".to_owned()).at(first)
    }

    /// One segment further; encoded as needed.
    #[must_use]
    pub fn at(mut self, segment: &str) -> Self {
        self.0.push('/');
        self.0.push_str(&encode_segment(segment));
        self
    }

    /// With a parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(&encode_segment(name));
        self.0.push('=');
        self.0.push_str(&encode_segment(value));
        self
    }
}

impl Api {
    /// The API at `url`; authorities for TLS from `ca`.
    pub fn new(url: ApiUrl, ca: Option<PathBuf>, timeout: Duration) -> Self {
        let security = if url.tls { Security::Tls(ca) } else { Security::Plain };
        Self { url, security, timeout }
    }

    /// Reads something.
    ///
    /// # Errors
    /// By the kind of the server's answer, see [`Failure`].
    pub fn get(&self, path: ApiPath) -> Result<Value, Failure> {
        self.ask("GET", &path, None)
    }

    /// Creates or replaces something.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn put(&self, path: ApiPath, body: &Value) -> Result<Value, Failure> {
        self.ask("PUT", &path, Some(body))
    }

    /// Does something.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn post(&self, path: ApiPath, body: &Value) -> Result<Value, Failure> {
        self.ask("POST", &path, Some(body))
    }

    /// Deletes something.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn delete(&self, path: ApiPath) -> Result<Value, Failure> {
        self.ask("DELETE", &path, None)
    }

    /// Sends bytes as they are, and gives the answer as it came.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn send(
        &self,
        method: &str,
        path: &ApiPath,
        content: Option<Content<'_>>,
        headers: &[(&str, String)],
    ) -> Result<Answer, Failure> {
        let told = headers.iter().map(|(_, value)| value.as_str()).chain(content.and_then(|c| c.content_type));
        if told.into_iter().any(|value| value.chars().any(char::is_control)) {
            return Err(Failure::Usage("control characters cannot be sent in a header".to_owned()));
        }
        if path.0.ends_with('/') {
            // It would be taken for the page of all of them.
            return Err(Failure::Usage("a name is empty".to_owned()));
        }
        let deadline = Instant::now() + self.timeout;
        let mut stream = Stream::connect(&self.url.host, self.url.port, &self.security)?;
        let raw = self.exchange(&mut stream, &self.request(method, path, content, headers), deadline)?;
        let (status, answer) = split_answer(&raw).context("the answer is not HTTP")?;
        if (200..300).contains(&status) { Ok(answer) } else { Err(refused(status, &answer.json(), &self.url)) }
    }

    fn ask(&self, method: &str, path: &ApiPath, body: Option<&Value>) -> Result<Value, Failure> {
        let text = body.map(Value::to_string);
        let content =
            text.as_ref().map(|text| Content { content_type: Some("application/json"), bytes: text.as_bytes() });
        self.send(method, path, content, &[]).map(|answer| answer.json())
    }

    fn request(
        &self,
        method: &str,
        path: &ApiPath,
        content: Option<Content<'_>>,
        headers: &[(&str, String)],
    ) -> Vec<u8> {
        let host = if self.url.host.contains(':') { format!("[{}]", self.url.host) } else { self.url.host.clone() };
        let mut head = format!(
            "{method} {} HTTP/1.0\r\nHost: {host}:{}\r\nUser-Agent: waypost/{}\r\nAccept: application/json\r\n",
            path.0,
            self.url.port,
            env!("CARGO_PKG_VERSION"),
        );
        if let Some((user, password)) = &self.url.login {
            head.push_str(&format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}"))));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(content) = content {
            if let Some(content_type) = content.content_type {
                head.push_str(&format!("Content-Type: {content_type}\r\n"));
            }
            head.push_str(&format!("Content-Length: {}\r\n", content.bytes.len()));
        }
        head.push_str("\r\n");
        let mut request = head.into_bytes();
        request.extend_from_slice(content.map_or(&[][..], |content| content.bytes));
        request
    }

    fn exchange(&self, stream: &mut Stream, request: &[u8], deadline: Instant) -> Result<Vec<u8>, Failure> {
        let broken = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.too_late(),
            _ => {
                let what = format!("talking to {}:{}", self.url.host, self.url.port);
                Failure::Unavailable(anyhow::Error::new(error).context(what))
            }
        };
        // An answer may come, and the connection end, before all of the request is read.
        let sent = stream.write_all(request).and_then(|()| stream.flush());
        let mut raw = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.too_late());
            }
            stream.set_read_timeout(Some(left)).map_err(broken)?;
            match stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => raw.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if is_whole(&raw) => break,
                Err(error) => return Err(broken(error)),
            }
            if raw.len() > ANSWER_BYTES_MAX {
                return Err(anyhow!("the answer is larger than {ANSWER_BYTES_MAX} bytes").into());
            }
            if is_whole(&raw) {
                break;
            }
        }
        if raw.is_empty() {
            sent.map_err(broken)?;
        }
        Ok(raw)
    }

    fn too_late(&self) -> Failure {
        let Self { url, timeout, .. } = self;
        Failure::TimedOut(format!("{}:{} has not answered within {}s", url.host, url.port, timeout.as_secs_f32()))
    }
}

/// Status and body of an answer.
fn split_answer(raw: &[u8]) -> anyhow::Result<(u16, Answer)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(raw)? else {
        return Err(anyhow!("it ends too early"));
    };
    let status = head.code.ok_or_else(|| anyhow!("it has no status"))?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = head.headers.iter().map(|h| (h.name.to_owned(), text(h.value))).collect();
    Ok((status, Answer { headers, body: raw.get(length..).unwrap_or_default().to_vec() }))
}

/// Whether an answer of announced length has come to its end.
fn is_whole(raw: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(start)) = head.parse(raw) else { return false };
    let announced = head
        .headers
        .iter()
        .find(|h| h.name.eq_ignore_ascii_case("content-length"))
        .and_then(|h| std::str::from_utf8(h.value).ok()?.trim().parse::<usize>().ok());
    announced.is_some_and(|length| raw.len().saturating_sub(start) >= length)
}

/// What a status that is no success means to a script.
fn refused(status: u16, answer: &Value, url: &ApiUrl) -> Failure {
    let told = ["message", "reason", "error"].iter().find_map(|key| match answer.get(key) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Object(inner)) => inner.get("message").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    });
    let told = told.or_else(|| answer.as_str().map(str::to_owned)).filter(|text| !text.is_empty());
    let text = told.unwrap_or_else(|| format!("{}:{} answered with status {status}", url.host, url.port));
    match status {
        401 if url.login.is_none() => Failure::Denied(format!("{text} (put user:password@ into the --http URL)")),
        401 | 403 => Failure::Denied(text),
        404 => Failure::NotFound(text),
        408 | 504 => Failure::TimedOut(text),
        409 | 412 | 423 => Failure::Conflict(text),
        429 | 502 | 503 => Failure::Unavailable(anyhow!(text)),
        _ => Failure::Failed(anyhow!(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url: ApiUrl = "http://me:secret@localhost:1".parse().unwrap();
        assert_eq!(url.login, Some(("me".to_owned(), "secret".to_owned())));
        assert_eq!("https://[::1]".parse::<ApiUrl>().unwrap().port, 8500);
        for bad in ["ftp://h", "http://h/api", "http://", "localhost:8500"] {
            assert!(bad.parse::<ApiUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_encoded_into_paths() {
        let path = ApiPath::new("queues").at("/").at("a/b?c").with("if-empty", "true");
        assert_eq!(path.0, "/api/v1/queues/%2F/a%2Fb%3Fc?if-empty=true");
    }

    #[test]
    fn answers_end_where_they_say() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert!(is_whole(answer));
        assert!(!is_whole(&answer[..answer.len() - 1]));
        let (status, split) = split_answer(answer).unwrap();
        assert_eq!((status, &split.body[..], split.header("content-LENGTH")), (200, &b"{}"[..], Some("2")));
        assert!(split_answer(b"SSH-2.0-x\r\n").is_err());
    }

    #[test]
    fn statuses_become_exit_codes() {
        let url: ApiUrl = "http://h".parse().unwrap();
        let code = |status| refused(status, &serde_json::json!({"message": "why"}), &url).code();
        let codes = [400, 401, 403, 404, 409, 412, 500, 503].map(code);
        assert_eq!(codes, [1, 5, 5, 4, 6, 6, 1, 7]);
    }
}
