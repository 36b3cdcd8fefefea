//! Consul's way to the configuration: `/v1/kv`, `/v1/txn` and `/v1/session`, over the same store as `/api/v1/config`.
//! Consul's keys are paths as they are. Failures are plain text, as Consul's clients expect them.

mod ask;
mod kv;
mod session;
mod txn;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};

use self::ask::Ask;
use super::body::Answer;
use super::cx::Cx;
use super::request::Failure;

/// Answers a request below `/v1/kv`, `/v1/txn` or `/v1/session`.
pub(super) async fn answer(cx: &Cx<'_>, request: Request<Incoming>) -> Result<Answer, Failure> {
    let answer = match Ask::of(cx, &request) {
        Ok(ask) => dispatch(&ask, request).await,
        Err(failure) => Err(failure),
    };
    Ok(answer.unwrap_or_else(plain))
}

async fn dispatch(ask: &Ask<'_>, request: Request<Incoming>) -> Result<Answer, Failure> {
    let method = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
    let path = request.uri().path().strip_prefix("/v1/").unwrap_or_default().to_owned();
    match path.split_once('/').unwrap_or((&path, "")) {
        ("kv", key) => {
            let key = super::request::decode(key).ok_or_else(|| Failure::bad("bad escape in the path"))?;
            match method {
                Method::GET => ask.get(&key).await,
                Method::PUT => ask.put(&key, request).await,
                Method::DELETE => ask.delete(&key).await,
                _ => Err(Failure::wrong_method("GET, PUT, DELETE")),
            }
        }
        ("txn", "") if method == Method::PUT => ask.txn(request).await,
        ("txn", "") => Err(Failure::wrong_method("PUT")),
        ("session", rest) => match (rest.split_once('/').unwrap_or((rest, "")), method) {
            (("create", ""), Method::PUT) => ask.create_session(request).await,
            (("destroy", id), Method::PUT) => ask.destroy_session(id).await,
            (("renew", id), Method::PUT) => ask.renew_session(id).await,
            (("info", id), Method::GET) => ask.show_sessions(session::Which::Id(id)).await,
            (("node", node), Method::GET) => ask.show_sessions(session::Which::Node(node)).await,
            (("list", ""), Method::GET) => ask.show_sessions(session::Which::All).await,
            (("create" | "destroy" | "renew", _), _) => Err(Failure::wrong_method("PUT")),
            (("info" | "node" | "list", _), _) => Err(Failure::wrong_method("GET")),
            _ => Err(Failure::no_page()),
        },
        _ => Err(Failure::no_page()),
    }
}

/// A failure as Consul tells it.
fn plain(failure: Failure) -> Answer {
    let reason = failure.reason.clone();
    let mut answer = failure.into_answer();
    *answer.body_mut() = super::body::Body::Whole(reason.into());
    let text = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, text);
    answer
}

/// JSON as Consul writes it.
fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    super::text(status, "application/json", value.to_string())
}
