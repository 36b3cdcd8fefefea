//! Reading: values, lists, history, differences.

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value as Json, json};
use waypost_broker::topology::Access;
use waypost_model::service::Version;
use waypost_registry::config::{Chosen, Difference, Fault, Look, Store, Subject, join};

use super::super::body::{Answer, Body};
use super::super::rendered::{gzip, matches, takes_gzip};
use super::super::request::{Failure, pairs};
use super::show::{self, Values};
use super::{Ask, failure, with_revision};

/// Most keys and versions in one answer, beyond what is asked for.
const LIMIT_MAX: usize = 1_000;

/// Versions in an answer if nobody says how many.
const HISTORY_LIMIT: usize = 20;

/// Shorter bodies fit one packet anyway.
const GZIP_BYTES_MIN: usize = 1400;

/// Whoever asks for a value, as it says itself.
#[derive(Debug, Default)]
pub(super) struct Asker {
    id: String,
    version: Option<Version>,
    zone: String,
    tags: Vec<Box<str>>,
}

impl Asker {
    /// As the query has it.
    ///
    /// # Errors
    /// 400.
    pub(super) fn of(uri: &hyper::Uri) -> Result<Asker, Failure> {
        let mut asker = Asker::default();
        for (name, value) in pairs(uri) {
            match &*name {
                "instance" => asker.id = value,
                "instance-version" => {
                    let wrong = |e| Failure::bad(format!("`instance-version` is no semantic version: {e}"));
                    asker.version = Some(Version::parse(&value).map_err(wrong)?);
                }
                "instance-zone" => asker.zone = value,
                "instance-tag" => asker.tags.push(value.into()),
                _ => {}
            }
        }
        Ok(asker)
    }

    pub(super) fn subject(&self) -> Subject<'_> {
        Subject { id: &self.id, version: self.version.as_ref(), zone: &self.zone, tags: &self.tags }
    }

    /// Whether nothing is said.
    pub(super) fn is_nobody(&self) -> bool {
        self.id.is_empty() && self.version.is_none() && self.zone.is_empty() && self.tags.is_empty()
    }
}

impl Ask<'_> {
    /// A value as it is, or what is known of it as JSON.
    pub(super) async fn get(&self, path: &str, headers: &HeaderMap) -> Result<Answer, Failure> {
        self.may(Access::Read, path)?;
        let metadata = self.parameter("metadata").is_some_and(|v| v != "false");
        if let Some(version) = self.number("version")? {
            return self.get_version(path, version, metadata, headers).await;
        }
        let look = self.store.get(&self.vhost, path);
        self.durable(look.lsn).await?;
        let asker = Asker::of(&self.uri)?;
        let none = || Failure::new(StatusCode::NOT_FOUND, Fault::NotFound(path.to_owned()).to_string());
        if metadata && asker.is_nobody() {
            if look.item.is_none() && look.gray.is_none() {
                return Err(none());
            }
            let body = show::entry(path, &look, Values::Shown);
            return Ok(with_revision(super::super::json::answer(StatusCode::OK, &body), look.changed));
        }
        let chosen = Store::choose(&look, path, &asker.subject()).ok_or_else(none)?;
        let (content_type, value, revision, candidate) = match chosen {
            Chosen::Stable(i) => (&i.content_type, &i.value, i.revision, None),
            Chosen::Candidate(g) => (&g.content_type, &g.value, g.revision, Some(g)),
        };
        if metadata {
            let body = match candidate {
                Some(g) => show::candidate(path, g),
                None => show::entry(path, &Look { gray: None, ..look.clone() }, Values::Shown),
            };
            return Ok(with_revision(super::super::json::answer(StatusCode::OK, &body), revision));
        }
        let mut answer = with_revision(raw(content_type, value, headers), revision);
        if candidate.is_some() {
            answer.headers_mut().insert("x-config-candidate", HeaderValue::from_static("true"));
        }
        Ok(unless_known(answer, headers))
    }

    async fn get_version(
        &self,
        path: &str,
        version: u64,
        metadata: bool,
        headers: &HeaderMap,
    ) -> Result<Answer, Failure> {
        let (vhost, name) = (self.vhost.clone(), path.to_owned());
        let past = self.aside(Method::GET, move |store| store.version(&vhost, &name, version)).await?;
        let past = past.map_err(|fault| failure(&fault))?;
        if metadata {
            let body = show::past(&past, Values::Shown);
            return Ok(with_revision(super::super::json::answer(StatusCode::OK, &body), past.revision));
        }
        let deleted = || Failure::new(StatusCode::NOT_FOUND, format!("version {version} of {path:?} is a deletion"));
        let (content_type, _, value) = past.content.as_ref().ok_or_else(deleted)?;
        Ok(with_revision(raw(content_type, value, headers), past.revision))
    }

    /// What there is, by prefix.
    pub(super) async fn list(&self, headers: &HeaderMap) -> Result<Answer, Failure> {
        let namespace = self.parameter("namespace").filter(|n| !n.is_empty());
        let prefix = self.parameter("prefix").unwrap_or_default();
        let prefix = namespace.map_or(prefix.clone(), |n| join(&n, &prefix));
        let after = self.parameter("after").unwrap_or_default();
        let limit = self.number("limit")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(LIMIT_MAX).min(LIMIT_MAX);
        let values = if self.parameter("values").is_some_and(|v| v != "false") { Values::Shown } else { Values::Left };
        let listing = self.store.list_all(&self.vhost, &prefix);
        self.durable(listing.lsn).await?;
        let mut items = self.readable(listing.items, |(path, _)| path);
        items.retain(|(path, _)| **path > *after);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|(path, _)| path.to_string());
        let keys: Vec<Json> = items.iter().map(|(path, look)| show::entry(path, look, values)).collect();
        let body = json!({ "revision": listing.index, "keys": keys, "after": next });
        let body = Bytes::from(body.to_string() + "\n");
        // No entity tag: what is shown depends on who asks, and on candidates.
        let mut answer = raw("application/json", &body, headers);
        answer.headers_mut().insert(super::INDEX, HeaderValue::from(listing.index));
        Ok(answer)
    }

    /// The versions of a path, newest first.
    pub(super) async fn history(&self, path: &str) -> Result<Answer, Failure> {
        self.may(Access::Read, path)?;
        let before = self.number("before")?;
        let limit = self.number("limit")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(HISTORY_LIMIT).min(LIMIT_MAX);
        let (vhost, name) = (self.vhost.clone(), path.to_owned());
        let found = self.aside(Method::GET, move |store| store.history(&vhost, &name, before, limit)).await?;
        let versions: Vec<Json> =
            found.map_err(|fault| failure(&fault))?.iter().map(|p| show::past(p, Values::Left)).collect();
        let look = self.store.get(&self.vhost, path);
        let body = json!({ "path": path, "last_version": look.version, "versions": versions });
        Ok(super::super::json::answer(StatusCode::OK, &body))
    }

    /// What changed between two versions; without them, what the last one changed.
    pub(super) async fn diff(&self, path: &str) -> Result<Answer, Failure> {
        self.may(Access::Read, path)?;
        let to = self.number("to")?.unwrap_or_else(|| self.store.get(&self.vhost, path).version);
        let from = self.number("from")?.unwrap_or(to.saturating_sub(1));
        let (vhost, name) = (self.vhost.clone(), path.to_owned());
        let diff = self.aside(Method::GET, move |store| store.diff(&vhost, &name, from, to)).await?;
        let text = match diff.map_err(|fault| failure(&fault))? {
            Difference::Same => String::new(),
            Difference::Text(text) => text,
            Difference::Binary => format!("Binary versions {path}@{from} and {path}@{to} differ\n"),
        };
        Ok(super::super::text(StatusCode::OK, "text/x-diff; charset=utf-8", text))
    }

    /// The candidate of a gray release.
    pub(super) async fn show_gray(&self, path: &str) -> Result<Answer, Failure> {
        self.may(Access::Read, path)?;
        let look = self.store.get(&self.vhost, path);
        self.durable(look.lsn).await?;
        let gray = look.gray.ok_or_else(|| failure(&Fault::NoGray(path.to_owned())))?;
        let body = show::gray(&gray, Values::Shown);
        Ok(with_revision(super::super::json::answer(StatusCode::OK, &body), gray.revision))
    }
}

/// A value as the answer's body, compressed where that is welcome. Nothing in it runs in a browser.
pub(in crate::http) fn raw(content_type: &str, value: &Bytes, asked: &HeaderMap) -> Answer {
    let zip = value.len() >= GZIP_BYTES_MIN && takes_gzip(asked);
    let body = if zip { gzip(value) } else { value.clone() };
    let mut answer = Response::new(Body::Whole(body));
    let headers = answer.headers_mut();
    let stated = HeaderValue::from_str(content_type).ok().filter(|_| !content_type.is_empty());
    headers.insert(CONTENT_TYPE, stated.unwrap_or(HeaderValue::from_static("application/octet-stream")));
    headers.insert("content-security-policy", HeaderValue::from_static("sandbox"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    if zip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}

/// 304 for those who have it.
fn unless_known(mut answer: Answer, asked: &HeaderMap) -> Answer {
    let known = asked.get(IF_NONE_MATCH).zip(answer.headers().get(hyper::header::ETAG));
    if known.is_some_and(|(list, tag)| matches(list, tag)) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        *answer.body_mut() = Body::default();
        for header in [CONTENT_TYPE, CONTENT_ENCODING] {
            answer.headers_mut().remove(header);
        }
    }
    answer
}
