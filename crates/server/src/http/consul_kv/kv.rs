//! `/v1/kv`.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Map, Value as Json, json};
use waypost_broker::topology::Access;
use waypost_registry::config::{By, Committed, Fault, Item, Stale, VALUE_BYTES_MAX, What, When, Write};

use super::super::body::Answer;
use super::super::config::{self, may_all, readable};
use super::super::request::{self, Failure};
use super::ask::Ask;
use super::json;

/// Parameters that choose how a write is done; there can be one.
const HOW: [&str; 3] = ["cas", "acquire", "release"];

impl Ask<'_> {
    /// Reads: one key, all with a prefix, or their names.
    pub async fn get(&self, key: &str) -> Result<Answer, Failure> {
        if self.has("keys") {
            return self.keys(key).await;
        }
        if self.has("recurse") {
            return self.recurse(key).await;
        }
        if key.is_empty() {
            return Err(Failure::bad("Missing key name"));
        }
        self.may(Access::Read, key)?;
        let look = || {
            let look = self.store.get(&self.vhost, key);
            (look.item, look.index, look.lsn)
        };
        let (item, index) = self.blocking(What::Path(key.into()), look).await?;
        let Some(item) = item else { return Ok(self.empty(StatusCode::NOT_FOUND, index)) };
        if self.has("raw") {
            return Ok(self.with_index(config::raw(&item.content_type, &item.value, &self.headers), index));
        }
        Ok(self.with_index(self.list(&[item]), index))
    }

    async fn recurse(&self, prefix: &str) -> Result<Answer, Failure> {
        let look = || {
            let listing = self.store.list(&self.vhost, prefix);
            (listing.items, listing.index, listing.lsn)
        };
        let (items, index) = self.blocking(What::Below(prefix.into()), look).await?;
        let items = readable(self.cx, &self.vhost, items, |item: &Arc<Item>| &item.path);
        if items.is_empty() {
            return Ok(self.empty(StatusCode::NOT_FOUND, index));
        }
        Ok(self.with_index(self.list(&items), index))
    }

    /// Names; up to a separator behind the prefix, if one is given, each once.
    async fn keys(&self, prefix: &str) -> Result<Answer, Failure> {
        let look = || {
            let listing = self.store.paths(&self.vhost, prefix);
            (listing.items, listing.index, listing.lsn)
        };
        let (paths, index) = self.blocking(What::Below(prefix.into()), look).await?;
        let paths = readable(self.cx, &self.vhost, paths, |path: &Arc<str>| path);
        if paths.is_empty() {
            return Ok(self.empty(StatusCode::NOT_FOUND, index));
        }
        let separator = self.value("separator").filter(|s| !s.is_empty() && *s != "true");
        let names: BTreeSet<&str> = paths.iter().map(|path| upto(path, prefix.len(), separator)).collect();
        Ok(self.with_index(self.rendered(Json::from(names.into_iter().collect::<Vec<_>>()).to_string()), index))
    }

    fn list(&self, items: &[Arc<Item>]) -> Answer {
        let all: Vec<Json> = items.iter().map(|item| entry(item, Value::Shown)).collect();
        self.rendered(Json::Array(all).to_string())
    }

    fn rendered(&self, text: String) -> Answer {
        config::raw("application/json", &Bytes::from(text), &self.headers)
    }

    /// Writes; answers whether it was done.
    pub async fn put(&self, key: &str, request: Request<Incoming>) -> Result<Answer, Failure> {
        if key.is_empty() {
            return Err(Failure::bad("Missing key name"));
        }
        if HOW.into_iter().filter(|how| self.has(how)).count() > 1 {
            return Err(Failure::bad("Conflicting flags: cas, acquire and release"));
        }
        self.may(Access::Write, key)?;
        let (flags, cas) = (self.number("flags")?, self.number("cas")?);
        let value = body(request).await?;
        let path = key.to_owned();
        let session = |name| self.value(name).unwrap_or_default().to_owned();
        let write = if self.has("acquire") {
            Write::Lock { path, value, flags: flags.unwrap_or_default(), session: session("acquire") }
        } else if self.has("release") {
            Write::Unlock { path, value, flags: flags.unwrap_or_default(), session: session("release") }
        } else {
            put(path, value, flags.unwrap_or_default(), cas.map_or(When::Always, When::Revision))
        };
        self.done(self.commit(write).await?).await
    }

    /// Deletes; answers whether it was done.
    pub async fn delete(&self, key: &str) -> Result<Answer, Failure> {
        if self.has("recurse") {
            if self.has("cas") {
                return Err(Failure::bad("Conflicting flags: recurse and cas"));
            }
            let write = self.delete_below(key)?;
            return self.done(self.commit(write).await?).await;
        }
        if key.is_empty() {
            return Err(Failure::bad("Missing key name"));
        }
        self.may(Access::Write, key)?;
        let write = match self.number("cas")? {
            // Other than for writing, 0 is the revision of nothing.
            Some(0) if self.store.get(&self.vhost, key).item.is_some() => {
                return Ok(json(StatusCode::OK, &json!(false)));
            }
            Some(cas) => Write::Delete { path: key.to_owned(), when: When::RevisionOrGone(cas) },
            None => Write::Delete { path: key.to_owned(), when: When::Always },
        };
        self.done(self.commit(write).await?).await
    }

    /// Deletes all with a prefix. Who may not delete all that is there deletes nothing.
    ///
    /// # Errors
    /// 403.
    pub fn delete_below(&self, prefix: &str) -> Result<Write, Failure> {
        if may_all(&self.cx.who) {
            return Ok(Write::DeleteBelow { prefix: prefix.to_owned() });
        }
        let paths = self.store.paths(&self.vhost, prefix).items;
        paths.iter().try_for_each(|path| self.may(Access::Write, path))?;
        Ok(Write::DeletePaths { paths })
    }

    async fn commit(&self, write: Write) -> Result<Result<Committed, Fault>, Failure> {
        let (vhost, author, now) = (self.vhost.clone(), self.cx.who.name().to_owned(), self.cx.node.clock.now());
        self.aside(move |store| store.commit_one(&vhost, By { author: &author, comment: "" }, write, now)).await
    }

    async fn done(&self, done: Result<Committed, Fault>) -> Result<Answer, Failure> {
        match done {
            Ok(committed) => {
                self.durable(committed.lsn).await?;
                Ok(json(StatusCode::OK, &json!(true)))
            }
            Err(fault) if is_no(&fault) => Ok(json(StatusCode::OK, &json!(false))),
            Err(fault) => Err(failure(&fault)),
        }
    }
}

/// A write as Consul means it: flags that are not given are 0, and the content type is nobody's.
pub(super) fn put(path: String, value: Bytes, flags: u64, when: When) -> Write {
    Write::Put { path, value, content_type: None, flags: Some(flags), when }
}

/// Whether a fault is an answer: it was not done since something else is there.
fn is_no(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Locked(_)
            | Fault::Delayed { .. }
            | Fault::NotHolder(_)
            | Fault::Stale { why: Stale::Exists | Stale::Missing | Stale::Revision(_), .. }
    )
}

/// A fault as Consul tells it.
pub(super) fn failure(fault: &Fault) -> Failure {
    match fault {
        Fault::TooLarge { .. } => {
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("Value exceeds {VALUE_BYTES_MAX} byte limit"))
        }
        // Clients take this one to learn that their session is over.
        Fault::NoSession(_) => Failure::new(StatusCode::INTERNAL_SERVER_ERROR, fault.to_string()),
        _ => Failure::new(config::status(fault), fault.to_string()),
    }
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Failure> {
    request::bytes(request, VALUE_BYTES_MAX as u64).await.map_err(|failure| match failure.status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("Value exceeds {VALUE_BYTES_MAX} byte limit"))
        }
        _ => failure,
    })
}

/// Up to the first separator behind `from`, with it.
fn upto<'a>(path: &'a str, from: usize, separator: Option<&str>) -> &'a str {
    let cut = separator.and_then(|s| path.get(from..)?.find(s).map(|at| from + at + s.len()));
    cut.and_then(|end| path.get(..end)).unwrap_or(path)
}

/// Whether the value stands in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Shown,
    Null,
}

/// A key as Consul shows it.
pub(super) fn entry(item: &Item, value: Value) -> Json {
    // Consul shows an empty value as none.
    let shown = value == Value::Shown && !item.value.is_empty();
    let mut object = Map::new();
    object.insert("LockIndex".into(), json!(item.lock_index));
    object.insert("Key".into(), json!(&*item.path));
    object.insert("Flags".into(), json!(item.flags));
    object.insert("Value".into(), if shown { json!(STANDARD.encode(&item.value)) } else { Json::Null });
    if let Some(session) = &item.session {
        object.insert("Session".into(), json!(&**session));
    }
    object.insert("CreateIndex".into(), json!(item.created));
    object.insert("ModifyIndex".into(), json!(item.revision));
    Json::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_at_the_separator_behind_the_prefix() {
        assert_eq!(upto("a/b/c", 2, Some("/")), "a/b/");
        assert_eq!(upto("a/b", 2, Some("/")), "a/b");
        assert_eq!(upto("a/b/c", 0, Some("/")), "a/");
        assert_eq!(upto("a--b--c", 2, Some("--")), "a--b--");
        assert_eq!(upto("a/b/c", 0, None), "a/b/c");
    }
}
