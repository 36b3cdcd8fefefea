//! Writing: values, gray releases, rollbacks, transactions.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, IF_MATCH, IF_NONE_MATCH};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value as Json, json};
use waypost_broker::topology::Access;
use waypost_registry::config::{
    Answer as Outcome, By, Committed, Fault, Rule, TXN_BYTES_MAX, TXN_OPS_MAX, VALUE_BYTES_MAX, VersionReq, When, Write,
};

use super::super::body::Answer;
use super::super::json::{self, number, only, text, texts};
use super::super::request::{self, Failure};
use super::show::{self, Values};
use super::{Ask, failure, status, with_revision};

/// Largest body of a gray release: a value in base64, and the rule.
const GRAY_BODY_MAX: u64 = 2 << 20;

/// Largest body of a transaction: its values in base64, and what is around them.
const TXN_BODY_MAX: u64 = TXN_BYTES_MAX as u64 / 3 * 4 + (1 << 20);

/// How a gray release ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GrayEnd {
    /// All get the candidate.
    Promote,
    /// Nobody gets it any more.
    Abandon,
}

impl Ask<'_> {
    /// Sets a value: the body, as it is.
    pub(super) async fn put(&self, path: &str, request: Request<Incoming>) -> Result<Answer, Failure> {
        self.may(Access::Write, path)?;
        let when = condition(request.headers())?;
        let content_type = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let flags = self.number("flags")?;
        // One byte more, so that the store says what is too large.
        let value = request::bytes(request, VALUE_BYTES_MAX as u64).await?;
        let path = path.to_owned();
        self.commit(Write::Put { path, value, content_type, flags, when }).await
    }

    /// Deletes a value.
    pub(super) async fn delete(&self, path: &str, headers: &HeaderMap) -> Result<Answer, Failure> {
        self.may(Access::Write, path)?;
        let when = match condition(headers)? {
            When::Always if self.store.get(&self.vhost, path).gray.is_none() => When::Exists,
            when => when,
        };
        self.commit(Write::Delete { path: path.to_owned(), when }).await
    }

    /// Brings an earlier value back.
    pub(super) async fn rollback(&self, path: &str, headers: &HeaderMap) -> Result<Answer, Failure> {
        self.may(Access::Write, path)?;
        let when = condition(headers)?;
        let version = self.number("version")?.ok_or_else(|| Failure::bad("`version` is missing"))?;
        let (vhost, path) = (self.vhost.clone(), path.to_owned());
        let (author, comment, now) = (self.cx.who.name().to_owned(), self.comment(), self.cx.node.clock.now());
        let done = self.aside(Method::POST, move |store| {
            store.rollback(&vhost, By { author: &author, comment: &comment }, &path, version, when, now)
        });
        self.done(done.await?).await
    }

    /// Begins a gray release, or changes the one that is under way.
    pub(super) async fn put_gray(&self, path: &str, request: Request<Incoming>) -> Result<Answer, Failure> {
        self.may(Access::Write, path)?;
        let when = condition(request.headers())?;
        let body = request::body(request, GRAY_BODY_MAX).await?;
        only(&body, &["value", "value_base64", "content_type", "rule"])?;
        let write = Write::Gray {
            path: path.to_owned(),
            value: value(&body)?,
            content_type: text(&body, "content_type")?.map(str::to_owned),
            rule: rule(body.get("rule").unwrap_or(&Json::Null))?,
            when,
        };
        self.commit(write).await
    }

    /// Ends a gray release.
    pub(super) async fn end_gray(&self, path: &str, how: GrayEnd) -> Result<Answer, Failure> {
        self.may(Access::Write, path)?;
        let path = path.to_owned();
        self.commit(match how {
            GrayEnd::Promote => Write::Promote { path },
            GrayEnd::Abandon => Write::Abandon { path },
        })
        .await
    }

    /// Several operations: all, or none.
    pub(super) async fn txn(&self, request: Request<Incoming>) -> Result<Answer, Failure> {
        let body = request::body(request, TXN_BODY_MAX).await?;
        only(&body, &["comment", "operations"])?;
        let comment = text(&body, "comment")?.map_or_else(|| self.comment(), str::to_owned);
        let operations = body.get("operations").and_then(Json::as_array);
        let operations = operations.ok_or_else(|| Failure::bad("`operations` must be an array"))?;
        if operations.len() > TXN_OPS_MAX {
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {TXN_OPS_MAX} operations")));
        }
        let writes: Vec<Write> = operations.iter().map(|o| self.operation(o)).collect::<Result<_, _>>()?;
        let (vhost, author, now) = (self.vhost.clone(), self.cx.who.name().to_owned(), self.cx.node.clock.now());
        let done = self.aside(Method::POST, move |store| {
            store.commit(&vhost, By { author: &author, comment: &comment }, &writes, now)
        });
        match done.await? {
            Ok(committed) => {
                self.durable(committed.lsn).await?;
                let results: Vec<Json> = committed.answers.iter().map(outcome).collect();
                let body = json!({ "revision": committed.revision, "changed": committed.changed, "results": results });
                Ok(with_revision(json::answer(StatusCode::OK, &body), committed.revision))
            }
            Err(faults) => {
                let errors: Vec<Json> =
                    faults.iter().map(|(n, fault)| json!({ "operation": n, "reason": fault.to_string() })).collect();
                let code = faults.first().map_or(StatusCode::CONFLICT, |(_, fault)| status(fault));
                let reason = faults.first().map(|(_, fault)| fault.to_string()).unwrap_or_default();
                let body = json!({ "error": "the transaction was refused", "reason": reason, "errors": errors });
                Ok(json::answer(code, &body))
            }
        }
    }

    fn operation(&self, o: &Json) -> Result<Write, Failure> {
        let missing = |what: &str| Failure::bad(format!("an operation has no `{what}`"));
        let path = text(o, "path")?.ok_or_else(|| missing("path"))?.to_owned();
        let when = match (number(o, "if_revision")?, json::flag(o, "if_exists", false)?) {
            (Some(revision), _) => When::Revision(revision),
            (None, true) => When::Exists,
            (None, false) => When::Always,
        };
        let op = text(o, "op")?.ok_or_else(|| missing("op"))?;
        let access = if matches!(op, "get" | "check") { Access::Read } else { Access::Write };
        self.may(access, &path)?;
        match op {
            "put" => {
                only(o, &["op", "path", "value", "value_base64", "content_type", "flags", "if_revision", "if_exists"])?;
                let value = value(o)?.ok_or_else(|| missing("value"))?;
                let content_type = text(o, "content_type")?.map(str::to_owned);
                Ok(Write::Put { path, value, content_type, flags: number(o, "flags")?, when })
            }
            "delete" | "check" | "get" => {
                only(o, &["op", "path", "if_revision", "if_exists"])?;
                Ok(match op {
                    "delete" => Write::Delete { path, when },
                    "check" => Write::Check { path, when },
                    _ => Write::Get { path },
                })
            }
            other => Err(Failure::bad(format!("`op` must be put, delete, check or get, not `{other}`"))),
        }
    }

    fn comment(&self) -> String {
        self.parameter("comment").unwrap_or_default()
    }

    async fn commit(&self, write: Write) -> Result<Answer, Failure> {
        let (vhost, now) = (self.vhost.clone(), self.cx.node.clock.now());
        let (author, comment) = (self.cx.who.name().to_owned(), self.comment());
        let done = self.aside(Method::PUT, move |store| {
            store.commit_one(&vhost, By { author: &author, comment: &comment }, write, now)
        });
        self.done(done.await?).await
    }

    async fn done(&self, done: Result<Committed, Fault>) -> Result<Answer, Failure> {
        let committed = done.map_err(|fault| failure(&fault))?;
        self.durable(committed.lsn).await?;
        let mut body = json!({ "revision": committed.revision, "changed": committed.changed });
        let mut tag = committed.revision;
        match committed.answers.first() {
            Some(Outcome::Item(item)) => {
                body["version"] = json!(item.version);
                tag = item.revision;
                body["revision"] = json!(tag);
            }
            Some(Outcome::Gray(gray)) => body["version"] = json!(gray.version),
            _ => {}
        }
        Ok(with_revision(json::answer(StatusCode::OK, &body), tag))
    }
}

fn outcome(outcome: &Outcome) -> Json {
    match outcome {
        Outcome::Item(item) => {
            let (path, item) = (item.path.to_string(), std::sync::Arc::clone(item));
            let look = waypost_registry::config::Look {
                changed: item.revision,
                version: item.version,
                index: item.revision,
                lsn: waypost_model::Lsn(0),
                gray: None,
                item: Some(item),
            };
            show::entry(&path, &look, Values::Shown)
        }
        Outcome::Gray(gray) => show::gray(gray, Values::Left),
        Outcome::Items(_) | Outcome::Done => json!({}),
    }
}

/// `If-Match` and `If-None-Match`, where the entity tag is the revision.
fn condition(headers: &HeaderMap) -> Result<When, Failure> {
    let header = |name| headers.get(name).map(|v: &hyper::header::HeaderValue| v.to_str().unwrap_or("?").trim());
    match (header(IF_MATCH), header(IF_NONE_MATCH)) {
        (None, None) => Ok(When::Always),
        (None, Some("*")) => Ok(When::Revision(0)),
        (Some("*"), None) => Ok(When::Exists),
        (Some(tag), None) => {
            let revision = tag.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(tag).parse();
            let wrong = |_| Failure::bad("If-Match must be one entity tag that was given, or *");
            revision.map(When::Revision).map_err(wrong)
        }
        _ => Err(Failure::bad("of If-Match and If-None-Match: * there can be one")),
    }
}

/// A value in JSON: `value` as text, or `value_base64`.
fn value(json: &Json) -> Result<Option<Bytes>, Failure> {
    match (text(json, "value")?, text(json, "value_base64")?) {
        (None, None) => Ok(None),
        (Some(value), None) => Ok(Some(Bytes::copy_from_slice(value.as_bytes()))),
        (None, Some(value)) => {
            let decoded = STANDARD.decode(value).map_err(|_| Failure::bad("`value_base64` is no base64"))?;
            Ok(Some(decoded.into()))
        }
        _ => Err(Failure::bad("of `value` and `value_base64` there can be one")),
    }
}

fn rule(json: &Json) -> Result<Rule, Failure> {
    only(json, &["ids", "version", "zones", "tags", "percent"])
        .map_err(|f| Failure::bad(format!("`rule`: {}", f.reason)))?;
    let list = |name: &str| -> Result<Vec<Box<str>>, Failure> {
        Ok(texts(json, name)?.unwrap_or_default().into_iter().map(String::into_boxed_str).collect())
    };
    let version = text(json, "version")?.map(VersionReq::parse).transpose();
    let percent = number(json, "percent")?.map(u8::try_from).transpose();
    Ok(Rule {
        ids: list("ids")?,
        version: version.map_err(|e| Failure::bad(format!("`version` is no range of versions: {e}")))?,
        zones: list("zones")?,
        tags: list("tags")?,
        percent: percent.map_err(|_| Failure::bad("`percent` must be 0 to 100"))?,
    })
}
