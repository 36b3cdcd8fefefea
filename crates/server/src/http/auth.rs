//! Who asks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::{Request, StatusCode};
use waypost_broker::broker::admin::Actor;

use super::HttpListener;
use super::request::{Failure, Peer};
use crate::config::HttpAuth;

/// Somebody who may use the API.
#[derive(Debug, Clone)]
pub(super) enum Who {
    /// Somebody on this machine, where that is enough.
    Operator,
    /// A user.
    User {
        name: String,
        /// May do everything.
        administrator: bool,
    },
}

impl Who {
    /// For the broker's own checks.
    pub(super) fn actor(&self) -> Actor<'_> {
        match self {
            Who::User { name, administrator: false } => Actor::User(name),
            _ => Actor::Operator,
        }
    }

    /// Refuses those who may not do everything.
    pub(super) fn must_administrate(&self) -> Result<(), Failure> {
        match self {
            Who::User { administrator: false, .. } => {
                Err(Failure::new(StatusCode::FORBIDDEN, "this needs the tag administrator"))
            }
            _ => Ok(()),
        }
    }
}

/// Finds out who asks. Credentials that are given are looked at also where none are needed.
pub(super) fn who(listener: &HttpListener, request: &Request<Incoming>, peer: Peer) -> Result<Who, Failure> {
    let denied = |why: &str| Failure::new(StatusCode::UNAUTHORIZED, why);
    let Some(given) = request.headers().get(AUTHORIZATION) else {
        let open = match listener.node.config.http.auth {
            HttpAuth::Auto => listener.address.ip().is_loopback() && peer.loopback,
            HttpAuth::Always => false,
            HttpAuth::Never => true,
        };
        return if open { Ok(Who::Operator) } else { Err(denied("user and password are needed")) };
    };
    let pair = given.to_str().ok().and_then(|v| v.strip_prefix("Basic ")).and_then(|v| STANDARD.decode(v.trim()).ok());
    let pair = pair.ok_or_else(|| denied("the credentials are not of the form Basic"))?;
    let colon = pair.iter().position(|b| *b == b':').ok_or_else(|| denied("the credentials have no password"))?;
    let name = String::from_utf8(pair[..colon].to_vec()).map_err(|_| denied("the user name is no UTF-8"))?;
    let view = listener.node.broker.login(&name, &pair[colon + 1..], peer.loopback).map_err(|r| denied(&r.text))?;
    let has = |tag: &str| view.spec.tags.iter().any(|t| t == tag);
    if !["administrator", "monitoring", "policymaker", "management"].into_iter().any(has) {
        return Err(Failure::new(StatusCode::FORBIDDEN, "this user has none of the tags that management needs"));
    }
    Ok(Who::User { administrator: has("administrator"), name })
}
