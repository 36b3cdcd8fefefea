//! `/v1/query`: prepared queries, kept in a file of the data directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use waypost_broker::topology::Access;
use waypost_registry::watch::Topic;

use super::super::body::Answer;
use super::super::request::Failure;
use super::lenient::{Object, decode};
use super::shared::lock;
use super::{Ask, definitions, events, no_endpoint, params, render};

/// Most prepared queries of a node.
const QUERIES_MAX: usize = 10_000;

/// Longest text in a query, in bytes, and most texts in a list.
const TEXT_MAX: usize = 512;
const LIST_MAX: usize = 64;

/// The file.
const FILE: &str = "prepared-queries.json";

/// Which instances a query gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Service {
    pub service: String,
    pub only_passing: bool,
    pub near: String,
    /// Tags that there must be; those after `!` must not be.
    pub tags: Vec<String>,
    pub node_meta: BTreeMap<String, String>,
    pub service_meta: BTreeMap<String, String>,
    /// Checks that do not count.
    #[serde(rename = "IgnoreCheckIDs")]
    pub ignore_check_ids: Vec<String>,
    pub connect: bool,
    pub failover: Failover,
}

/// Other data centers. There are none: it is kept, and comes to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Failover {
    pub nearest_n: u64,
    pub datacenters: Vec<String>,
}

/// How answers over DNS are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dns {
    #[serde(rename = "TTL")]
    pub ttl: String,
}

/// A query for many names: all that begin with its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Template {
    #[serde(rename = "Type")]
    pub kind: String,
    pub regexp: String,
}

/// The only kind of template there is, in Consul too.
const PREFIX_MATCH: &str = "name_prefix_match";

/// A prepared query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Prepared {
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    pub session: String,
    pub token: String,
    pub template: Template,
    pub service: Service,
    #[serde(rename = "DNS")]
    pub dns: Dns,
    pub create_index: u64,
    pub modify_index: u64,
    /// Of which vhost; not told.
    #[serde(rename = "Vhost", skip_serializing_if = "String::is_empty")]
    pub vhost: String,
}

impl Prepared {
    fn is_template(&self) -> bool {
        !self.template.kind.is_empty()
    }
}

/// All prepared queries.
pub(crate) struct Queries {
    path: PathBuf,
    all: Mutex<Arc<Kept>>,
    /// Moves with every change.
    changed: Arc<Topic>,
    /// Held while the file is written, so that the last state is the last one written.
    writing: Mutex<()>,
}

/// Shared by those who look; replaced by those who change it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    index: u64,
    queries: Vec<Prepared>,
}

impl Queries {
    pub(super) fn open(data_dir: &Path) -> io::Result<Queries> {
        let path = data_dir.join(FILE);
        let kept: Kept = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept { index: 1, queries: Vec::new() },
            Err(error) => return Err(error),
        };
        let changed = Arc::new(Topic::new(kept.index));
        Ok(Queries { path, all: Mutex::new(Arc::new(kept)), changed, writing: Mutex::default() })
    }

    fn kept(&self) -> Arc<Kept> {
        Arc::clone(&lock(&self.all))
    }

    /// A query of a vhost by its name, whatever the case of its letters, or by its id.
    pub(crate) fn find(&self, vhost: &str, name: &str) -> Option<Prepared> {
        let kept = self.kept();
        let ours = || kept.queries.iter().filter(|q| q.vhost == vhost);
        let exact = ours().find(|q| q.id == name || (!q.is_template() && q.name.eq_ignore_ascii_case(name)));
        // Of templates the one with the longest name counts.
        let begins = |q: &&Prepared| name.get(..q.name.len()).is_some_and(|start| start.eq_ignore_ascii_case(&q.name));
        let by_prefix = || ours().filter(|q| q.is_template()).filter(begins).max_by_key(|q| q.name.len());
        exact.or_else(by_prefix).cloned()
    }

    /// Changes the queries, and returns when that is on disk.
    fn change<T>(&self, change: impl FnOnce(&mut Kept) -> Result<T, Failure>) -> Result<T, Failure> {
        let _writing = lock(&self.writing);
        let mut next = (*self.kept()).clone();
        next.index += 1;
        let result = change(&mut next)?;
        self.write(&next).map_err(|error| {
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write {FILE}: {error}"))
        })?;
        let index = next.index;
        *lock(&self.all) = Arc::new(next);
        self.changed.raise(index);
        self.changed.tell();
        Ok(result)
    }

    fn write(&self, kept: &Kept) -> io::Result<()> {
        let fresh = self.path.with_extension("json.new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(kept)?)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        // The name is on disk only once its directory is.
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

impl Ask<'_> {
    /// `/v1/query…`
    pub(super) async fn query(&self, path: &[&str]) -> Result<Answer, Failure> {
        match path {
            [] if self.method == Method::GET => {
                let (index, kept) = self.queries_changed().await;
                let ours = |q: &&Prepared| q.vhost == **self.cx.vhost() && self.sees(&q.service.service);
                let shown: Vec<Prepared> = kept.queries.iter().filter(ours).map(told).collect();
                Ok(self.own(render::json(&shown), index))
            }
            [] if self.method == Method::POST => self.query_create().await,
            [] => Err(Failure::wrong_method("GET, POST")),
            [name, "execute"] => {
                self.must_be(Method::GET, "GET")?;
                self.query_execute(name)
            }
            [name, "explain"] => {
                self.must_be(Method::GET, "GET")?;
                let found = self.query_find(name)?;
                Ok(self.told(render::json(&serde_json::json!({ "Query": told(&found) }))))
            }
            [id] => self.query_one(id).await,
            _ => Err(no_endpoint()),
        }
    }

    /// The queries, once there is something newer than what the client has seen.
    async fn queries_changed(&self) -> (u64, Arc<Kept>) {
        let queries = &self.cx.node.consul.queries;
        let look = || {
            let kept = queries.kept();
            (kept.index, kept)
        };
        self.wait(look, |since| queries.changed.changed(since)).await
    }

    async fn query_one(&self, id: &str) -> Result<Answer, Failure> {
        let queries = Arc::clone(&self.cx.node.consul);
        let (vhost, wanted) = (self.cx.vhost().to_string(), id.to_owned());
        match self.method {
            Method::GET => {
                // Nobody waits for one that is not there.
                self.query_find(id)?;
                let (index, _) = self.queries_changed().await;
                Ok(self.own(render::json(&[told(&self.query_find(id)?)]), index))
            }
            Method::PUT => {
                let mut new = self.query_read()?;
                self.may_prepare(&new.service.service)?;
                self.may_prepare(&self.query_find(id)?.service.service)?;
                self.aside(move || {
                    queries.queries.change(|kept| {
                        is_free(kept, &vhost, &new.name, &wanted)?;
                        let index = kept.index;
                        let old = kept.queries.iter_mut().find(|q| q.id == wanted && q.vhost == vhost);
                        let old = old.ok_or_else(not_found)?;
                        (new.id, new.vhost) = (wanted, vhost);
                        (new.create_index, new.modify_index) = (old.create_index, index);
                        *old = new;
                        Ok(())
                    })
                })
                .await?;
                Ok(self.told("".into()))
            }
            Method::DELETE => {
                self.may_prepare(&self.query_find(id)?.service.service)?;
                self.aside(move || {
                    queries.queries.change(|kept| {
                        kept.queries.retain(|q| q.id != wanted || q.vhost != vhost);
                        Ok(())
                    })
                })
                .await?;
                Ok(self.told("".into()))
            }
            _ => Err(Failure::wrong_method("GET, PUT, DELETE")),
        }
    }

    async fn query_create(&self) -> Result<Answer, Failure> {
        let mut new = self.query_read()?;
        self.may_prepare(&new.service.service)?;
        (new.id, new.vhost) = (events::uuid()?, self.cx.vhost().to_string());
        let (id, shared) = (new.id.clone(), Arc::clone(&self.cx.node.consul));
        self.aside(move || {
            shared.queries.change(|kept| {
                is_free(kept, &new.vhost, &new.name, &new.id)?;
                if kept.queries.len() >= QUERIES_MAX {
                    return Err(Failure::bad(format!("there are {QUERIES_MAX} prepared queries already")));
                }
                (new.create_index, new.modify_index) = (kept.index, kept.index);
                kept.queries.push(new);
                Ok(())
            })
        })
        .await?;
        Ok(self.told(render::json(&serde_json::json!({ "ID": id }))))
    }

    async fn aside(&self, work: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> Result<(), Failure> {
        self.cx.listener.aside(&self.method, work).await?
    }

    /// Whether who asks may decide who is given when a service is asked for.
    fn may_prepare(&self, service: &str) -> Result<(), Failure> {
        Ok(self.cx.may_service(self.cx.vhost(), Access::Write, service)?)
    }

    /// A query by its name or id, where who asks may see its service.
    pub(super) fn query_find(&self, name: &str) -> Result<Prepared, Failure> {
        let found = self.cx.node.consul.queries.find(self.cx.vhost(), name).ok_or_else(not_found)?;
        self.may_see(&found.service.service)?;
        Ok(found)
    }

    fn query_read(&self) -> Result<Prepared, Failure> {
        let value = decode(&self.body)?;
        let body = Object::of(&value, "the body")?;
        if !body.text("Session")?.is_empty() {
            return Err(super::operator::not_here("prepared queries do not end with sessions"));
        }
        let service = body.object("Service")?.ok_or_else(|| Failure::bad("Must provide a Service"))?;
        let query = Prepared {
            name: short(body.text("Name")?)?,
            template: read_template(body)?,
            service: read_service(service)?,
            dns: Dns {
                ttl: body.object("DNS")?.map(|dns| dns.text("TTL")).transpose()?.unwrap_or_default().to_owned(),
            },
            ..Prepared::default()
        };
        if !query.dns.ttl.is_empty() && params::duration(&query.dns.ttl).is_none() {
            return Err(Failure::bad(format!("Bad DNS TTL {:?}", query.dns.ttl)));
        }
        Ok(query)
    }
}

fn told(query: &Prepared) -> Prepared {
    Prepared { vhost: String::new(), ..query.clone() }
}

fn not_found() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "Query not found")
}

fn is_free(kept: &Kept, vhost: &str, name: &str, id: &str) -> Result<(), Failure> {
    let same = |q: &Prepared| q.vhost == vhost && q.id != id && q.name.eq_ignore_ascii_case(name);
    if !name.is_empty() && kept.queries.iter().any(same) {
        return Err(Failure::new(StatusCode::CONFLICT, format!("name {name:?} already refers to an existing query")));
    }
    Ok(())
}

fn short(text: &str) -> Result<String, Failure> {
    if text.len() > TEXT_MAX {
        Err(Failure::bad(format!("a text has more than {TEXT_MAX} bytes")))
    } else {
        Ok(text.to_owned())
    }
}

fn list(texts: Vec<&str>) -> Result<Vec<String>, Failure> {
    if texts.len() > LIST_MAX {
        return Err(Failure::bad(format!("a list has more than {LIST_MAX} elements")));
    }
    texts.into_iter().map(short).collect()
}

fn map(pairs: Vec<(&str, &str)>) -> Result<BTreeMap<String, String>, Failure> {
    if pairs.len() > LIST_MAX {
        return Err(Failure::bad(format!("an object has more than {LIST_MAX} members")));
    }
    pairs.into_iter().map(|(key, value)| Ok((short(key)?, short(value)?))).collect()
}

fn read_template(body: Object<'_>) -> Result<Template, Failure> {
    let Some(template) = body.object("Template")? else { return Ok(Template::default()) };
    let kind = template.text("Type")?;
    if !kind.is_empty() && kind != PREFIX_MATCH {
        return Err(Failure::bad(format!("Bad Template.Type {kind:?}: it must be {PREFIX_MATCH}")));
    }
    if !template.text("Regexp")?.is_empty() {
        return Err(super::operator::not_here("templates have no regular expressions"));
    }
    Ok(Template { kind: kind.to_owned(), regexp: String::new() })
}

fn read_service(body: Object<'_>) -> Result<Service, Failure> {
    let name = body.text("Service")?;
    if name.is_empty() {
        return Err(Failure::bad("Must provide a Service name to query"));
    }
    if body.flag("Connect")? {
        return Err(super::operator::no_mesh());
    }
    let failover = body.object("Failover")?;
    Ok(Service {
        service: definitions::service_name(name)?,
        only_passing: body.flag("OnlyPassing")?,
        near: short(body.text("Near")?)?,
        tags: list(body.texts("Tags")?)?,
        node_meta: map(body.pairs("NodeMeta")?)?,
        service_meta: map(body.pairs("ServiceMeta")?)?,
        ignore_check_ids: list(body.texts("IgnoreCheckIDs")?)?,
        connect: false,
        failover: match failover {
            None => Failover::default(),
            Some(failover) => Failover {
                nearest_n: failover.number("NearestN", 1000)?.unwrap_or(0),
                datacenters: list(failover.texts("Datacenters")?)?,
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let queries = Queries::open(dir.path()).unwrap();
        let query = Prepared { id: "1".into(), name: "A".into(), vhost: "/".into(), ..Prepared::default() };
        let added = queries.change(|kept| {
            kept.queries.push(query.clone());
            Ok(())
        });
        assert!(added.is_ok());
        assert!(queries.change(|kept| is_free(kept, "/", "a", "2")).is_err());
        let template = Template { kind: PREFIX_MATCH.into(), regexp: String::new() };
        let begins = |name: &str| Prepared {
            name: name.into(),
            vhost: "/".into(),
            template: template.clone(),
            ..Prepared::default()
        };
        let added = queries.change(|kept| {
            kept.queries.extend([begins("geo-"), begins("geo-db-")]);
            Ok(())
        });
        assert!(added.is_ok());
        assert_eq!(queries.find("/", "GEO-DB-1").unwrap().name, "geo-db-");
        assert_eq!(queries.find("/", "geo-x").unwrap().name, "geo-");
        assert_eq!(queries.find("/", "ge"), None);
        let again = Queries::open(dir.path()).unwrap();
        assert_eq!(again.find("/", "a"), Some(query));
        assert_eq!(again.find("other", "a"), None);
        assert_eq!(again.kept().index, 3);
    }
}
