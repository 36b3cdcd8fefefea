//! `/api/v1/config`: values under keys, their history, gray releases, watches. The page docs/configuration-center.md
//! describes it.

mod read;
mod show;
mod watch;
mod write;

pub(super) use self::read::raw;

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use waypost_broker::topology::{Access, Resource};
use waypost_model::Lsn;
use waypost_registry::config::{Fault, Stale, Store};

use super::auth::Who;
use super::body::Answer;
use super::cx::Cx;
use super::request::{self, Failure};
use crate::node::Node;

/// Where the revision of a value, or of a list, is told.
pub(super) const INDEX: HeaderName = HeaderName::from_static("x-config-revision");

/// A request, with what is common to all.
struct Ask<'a> {
    cx: &'a Cx<'a>,
    store: Arc<Store>,
    vhost: Arc<str>,
    uri: Uri,
}

/// Answers a request at or below `/api/v1/config`.
pub(super) async fn answer(cx: &Cx<'_>, request: Request<Incoming>) -> Result<Answer, Failure> {
    let uri = request.uri().clone();
    let vhost = match request::query(&uri, "vhost") {
        None => Arc::clone(cx.vhost()),
        Some(name) => cx.node.broker.vhost(&name).map(|v| v.name)?,
    };
    let rest = uri.path().strip_prefix("/api/v1/config").unwrap_or_default().trim_start_matches('/');
    let (page, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = request::decode(path).ok_or_else(|| Failure::bad("bad escape in the path"))?;
    let page = page.to_owned();
    let ask = Ask { cx, store: Arc::clone(&cx.node.config_center), vhost, uri };
    let method = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
    request::only(&ask.uri, &[parameters(&method, &page, path.is_empty()), &["vhost"]].concat())?;
    match (&*page, &method, path.is_empty()) {
        ("keys", &Method::GET, true) => ask.list(request.headers()).await,
        ("keys", &Method::GET, false) => ask.get(&path, request.headers()).await,
        ("keys", &Method::PUT, false) => ask.put(&path, request).await,
        ("keys", &Method::DELETE, false) => ask.delete(&path, request.headers()).await,
        ("history", &Method::GET, false) => ask.history(&path).await,
        ("diff", &Method::GET, false) => ask.diff(&path).await,
        ("rollback", &Method::POST, false) => ask.rollback(&path, request.headers()).await,
        ("gray", &Method::GET, false) => ask.show_gray(&path).await,
        ("gray", &Method::PUT, false) => ask.put_gray(&path, request).await,
        ("gray", &Method::DELETE, false) => ask.end_gray(&path, write::GrayEnd::Abandon).await,
        ("promote", &Method::POST, false) => ask.end_gray(&path, write::GrayEnd::Promote).await,
        ("watch", &Method::GET, true) => ask.watch(request.headers()).await,
        ("txn", &Method::POST, true) => ask.txn(request).await,
        ("keys", ..) if path.is_empty() => Err(Failure::wrong_method("GET, HEAD")),
        ("keys", ..) => Err(Failure::wrong_method("GET, HEAD, PUT, DELETE")),
        ("gray", _, false) => Err(Failure::wrong_method("GET, HEAD, PUT, DELETE")),
        ("history" | "diff", _, false) | ("watch", _, true) => Err(Failure::wrong_method("GET, HEAD")),
        ("rollback" | "promote", _, false) | ("txn", _, true) => Err(Failure::wrong_method("POST")),
        _ => Err(Failure::no_page()),
    }
}

/// The parameters that a page has, beside the vhost. For a page that is not there: none.
fn parameters(method: &Method, page: &str, is_list: bool) -> &'static [&'static str] {
    match (page, method, is_list) {
        ("keys", &Method::GET, true) => &["prefix", "namespace", "values", "limit", "after"],
        ("keys", &Method::GET, false) => {
            &["metadata", "version", "instance", "instance-version", "instance-zone", "instance-tag"]
        }
        ("keys", &Method::PUT, false) => &["comment", "flags"],
        ("keys", &Method::DELETE, false) => &["comment"],
        ("history", ..) => &["limit", "before"],
        ("diff", ..) => &["from", "to"],
        ("rollback", ..) => &["version", "comment"],
        ("gray", &Method::PUT | &Method::DELETE, _) | ("promote" | "txn", ..) => &["comment"],
        ("watch", ..) => &[
            "path",
            "prefix",
            "namespace",
            "revision",
            "wait_ms",
            "instance",
            "instance-version",
            "instance-zone",
            "instance-tag",
        ],
        _ => &[],
    }
}

impl Ask<'_> {
    fn parameter(&self, name: &str) -> Option<String> {
        request::query(&self.uri, name)
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let wrong = |_| Failure::bad(format!("`{name}` must be a number from 0"));
        self.parameter(name).map(|text| text.parse().map_err(wrong)).transpose()
    }

    fn may(&self, access: Access, path: &str) -> Result<(), Failure> {
        may(self.cx, &self.vhost, access, path)
    }

    /// Those that may be read.
    fn readable<T>(&self, items: Vec<T>, path: impl Fn(&T) -> &str) -> Vec<T> {
        readable(self.cx, &self.vhost, items, path)
    }

    /// Waits until what was seen or done is durable.
    async fn durable(&self, lsn: Lsn) -> Result<(), Failure> {
        self.cx.durable(Some(lsn)).await
    }

    /// Runs what may wait for the disk or for room in the journal.
    async fn aside<R: Send + 'static>(
        &self,
        method: Method,
        work: impl FnOnce(&Store) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        let store = Arc::clone(&self.store);
        self.cx.listener.aside(&method, move || work(&store)).await
    }
}

/// Whether who asks may do everything in a vhost's configuration, without a look at each path.
pub(super) fn may_all(who: &Who) -> bool {
    matches!(who, Who::Operator | Who::User { administrator: true, .. })
}

/// Whether somebody may do something with a path: it is checked under the name `config:<path>`.
pub(super) fn is_permitted(node: &Node, who: &Who, vhost: &str, access: Access, path: &str) -> bool {
    let resource = || format!("config:{path}");
    may_all(who) || node.broker.check_permission(who.actor(), vhost, access, Resource::Exchange, &resource()).is_ok()
}

/// # Errors
/// 403.
pub(super) fn may(cx: &Cx<'_>, vhost: &str, access: Access, path: &str) -> Result<(), Failure> {
    if is_permitted(cx.node, &cx.who, vhost, access, path) {
        return Ok(());
    }
    let (user, what) = (cx.who.name(), if access == Access::Read { "read" } else { "write" });
    let text = format!("{what} access to configuration 'config:{path}' in vhost '{vhost}' refused for user '{user}'");
    Err(Failure::new(StatusCode::FORBIDDEN, text))
}

/// Those that who asks may read.
pub(super) fn readable<T>(cx: &Cx<'_>, vhost: &str, mut items: Vec<T>, path: impl Fn(&T) -> &str) -> Vec<T> {
    if !may_all(&cx.who) {
        items.retain(|item| is_permitted(cx.node, &cx.who, vhost, Access::Read, path(item)));
    }
    items
}

/// The revision of what is answered, as entity tag and for watches.
fn with_revision(mut answer: Answer, revision: u64) -> Answer {
    let headers = answer.headers_mut();
    headers.insert(INDEX, HeaderValue::from(revision));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        headers.insert(hyper::header::ETAG, tag);
    }
    answer
}

/// What a fault is in HTTP.
pub(super) fn status(fault: &Fault) -> StatusCode {
    use waypost_model::journal::AppendError;
    match fault {
        Fault::BadPath(_) | Fault::Bad(_) | Fault::NoSession(_) => StatusCode::BAD_REQUEST,
        Fault::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Fault::NotFound(_) | Fault::NoVersion { .. } | Fault::NoGray(_) => StatusCode::NOT_FOUND,
        Fault::Stale { why: Stale::Missing, .. } => StatusCode::NOT_FOUND,
        Fault::Stale { .. } => StatusCode::PRECONDITION_FAILED,
        Fault::Locked(_) | Fault::Delayed { .. } | Fault::NotHolder(_) | Fault::OtherSession { .. } => {
            StatusCode::CONFLICT
        }
        Fault::Limit(_) | Fault::Append(AppendError::Full) => StatusCode::INSUFFICIENT_STORAGE,
        Fault::Append(_) => StatusCode::SERVICE_UNAVAILABLE,
        Fault::Unreadable { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn failure(fault: &Fault) -> Failure {
    Failure::new(status(fault), fault.to_string())
}
