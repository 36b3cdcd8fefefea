//! `POST /api/v1/tokens`.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::json;

use super::super::super::auth::Who;
use super::super::super::body::Answer;
use super::super::super::cx::Cx;
use super::super::super::json::{self, only, text};
use super::super::super::request::{self, Failure};
use super::{duration, millis};

/// How long a token is good, if nothing is said, and at most.
const TTL: Duration = Duration::from_secs(86_400);
const TTL_MAX: Duration = Duration::from_secs(366 * 86_400);

const BODY_MAX: u64 = 4096;

/// Gives a user a token: its own, or, to administrators, another's.
pub(super) async fn answer(cx: &Cx<'_>, request: Request<Incoming>) -> Result<Answer, Failure> {
    if *request.method() != Method::POST {
        return Err(Failure::wrong_method("POST"));
    }
    let body = request::body(request, BODY_MAX).await?;
    only(&body, &["user", "ttl"])?;
    let own = match &cx.who {
        Who::User { name, .. } => Some(name.as_str()),
        _ => None,
    };
    let name = text(&body, "user")?.or(own).ok_or_else(|| Failure::bad("`user` is missing: for whom?"))?;
    if Some(name) != own {
        cx.who.must_administrate()?;
    }
    let ttl = text(&body, "ttl")?.map(|ttl| duration("ttl", ttl)).transpose()?.unwrap_or(TTL);
    if ttl > TTL_MAX {
        return Err(Failure::bad("`ttl` is more than 366 days"));
    }
    let view = cx.node.broker.user(name)?;
    let until = cx.node.clock.now().plus(millis(ttl));
    let node = Arc::clone(cx.node);
    let issued = cx.listener.aside(&Method::POST, move || node.http.tokens.issue(&view, until)).await?;
    let token = issued.map_err(|e| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the key of the tokens cannot be written: {e}"))
    })?;
    Ok(json::answer(StatusCode::CREATED, &json!({ "token": token, "user": name, "expires_at": until.0 })))
}
