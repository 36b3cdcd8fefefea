//! Who asks, and what they may do.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use waypost_broker::broker::admin::Actor;
use waypost_broker::topology::UserView;

use super::request::{Failure, Peer};
use super::tokens::Tokens;
use crate::config::HttpAuth;
use crate::node::Node;

/// Consul's clients send their token here.
pub(super) const CONSUL_TOKEN: &str = "x-consul-token";

/// Under this name permissions of [`Who::Anyone`] are looked up, and not found.
const NOBODY: &str = "\0anyone";

/// Somebody who may come in.
#[derive(Debug, Clone)]
pub(super) enum Who {
    /// Somebody on this machine, where that is enough.
    Operator,
    /// A user.
    User {
        name: String,
        /// May do everything.
        administrator: bool,
        /// Has one of the tags that management needs.
        manages: bool,
    },
    /// Somebody without a name. Comes only to pages that are open to everybody; see [`Need::Nothing`].
    Anyone,
}

/// What a page asks of those who come, off loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: looking at the registry.
    Nothing,
    /// To be a user, whose permissions are then looked at.
    User,
    /// To be a user with a tag for management.
    Management,
}

impl Who {
    /// For the broker's own checks.
    pub(super) fn actor(&self) -> Actor<'_> {
        match self {
            Who::User { name, administrator: false, .. } => Actor::User(name),
            Who::Anyone => Actor::User(NOBODY),
            Who::Operator | Who::User { .. } => Actor::Operator,
        }
    }

    /// The name, for people to read who did something.
    pub(super) fn name(&self) -> &str {
        match self {
            Who::User { name, .. } => name,
            Who::Operator => "operator",
            Who::Anyone => "anyone",
        }
    }

    /// The user, for what is kept about whose something is; empty for whoever runs the node.
    pub(super) fn owner(&self) -> &str {
        match self {
            Who::User { name, .. } => name,
            Who::Operator => "",
            Who::Anyone => NOBODY,
        }
    }

    /// Refuses those who may not do everything.
    pub(super) fn must_administrate(&self) -> Result<(), Failure> {
        match self {
            Who::Operator | Who::User { administrator: true, .. } => Ok(()),
            _ => Err(Failure::new(StatusCode::FORBIDDEN, "this needs the tag administrator")),
        }
    }

    fn user(view: &UserView) -> Who {
        let has = |tag: &str| view.spec.tags.iter().any(|t| t == tag);
        Who::User {
            name: view.name.to_string(),
            administrator: has("administrator"),
            manages: ["administrator", "monitoring", "policymaker", "management"].into_iter().any(has),
        }
    }
}

fn denied(why: &str) -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, why)
}

/// Finds out who asks. Credentials that are given are looked at also where none are needed.
pub(super) fn who(
    node: &Node,
    listener: SocketAddr,
    headers: &HeaderMap,
    peer: Peer,
    need: Need,
) -> Result<Who, Failure> {
    let open = match node.config.http.auth {
        HttpAuth::Auto => listener.ip().is_loopback() && peer.loopback,
        HttpAuth::Always => false,
        HttpAuth::Never => true,
    };
    let Some(found) = credentials(node, headers, peer, open)? else {
        return match need {
            _ if open => Ok(Who::Operator),
            Need::Nothing if node.config.http.auth != HttpAuth::Always => Ok(Who::Anyone),
            _ => Err(denied("user and password, or a token, are needed")),
        };
    };
    if need == Need::Management && !matches!(found, Who::User { manages: true, .. }) {
        return Err(Failure::new(StatusCode::FORBIDDEN, "this user has none of the tags that management needs"));
    }
    Ok(found)
}

/// The user whose credentials are there, if any are.
fn credentials(node: &Node, headers: &HeaderMap, peer: Peer, open: bool) -> Result<Option<Who>, Failure> {
    if let Some(given) = headers.get(AUTHORIZATION) {
        return match scheme(given) {
            // Prometheus sends empty ones for a configuration without any.
            Some(("basic", "Og==")) => Ok(None),
            Some(("basic", pair)) => basic(node, pair, peer).map(Some),
            Some(("bearer", token)) => bearer(node, token, peer).map(Some),
            _ => Err(denied("the credentials are neither Basic nor Bearer")),
        };
    }
    match headers.get(CONSUL_TOKEN).and_then(|v| v.to_str().ok()).filter(|token| !token.is_empty()) {
        None => Ok(None),
        Some(token) => match bearer(node, token, peer) {
            Ok(who) => Ok(Some(who)),
            // Consul without access control ignores tokens, and clients have one in their configuration anyway.
            Err(_) if open => Ok(None),
            Err(failure) => Err(failure),
        },
    }
}

fn scheme(given: &HeaderValue) -> Option<(&'static str, &str)> {
    let (scheme, rest) = given.to_str().ok()?.split_once(' ')?;
    let scheme = ["basic", "bearer"].into_iter().find(|s| s.eq_ignore_ascii_case(scheme))?;
    Some((scheme, rest.trim()))
}

fn basic(node: &Node, pair: &str, peer: Peer) -> Result<Who, Failure> {
    let pair = STANDARD.decode(pair).map_err(|_| denied("the credentials are no base64"))?;
    let colon = pair.iter().position(|b| *b == b':').ok_or_else(|| denied("the credentials have no password"))?;
    let name = std::str::from_utf8(&pair[..colon]).map_err(|_| denied("the user name is no UTF-8"))?;
    let view = node.broker.login(name, &pair[colon + 1..], peer.loopback).map_err(|r| denied(&r.text))?;
    Ok(Who::user(&view))
}

fn bearer(node: &Node, token: &str, peer: Peer) -> Result<Who, Failure> {
    let refused = || denied("the token is not valid, or no more");
    let claimed = Tokens::read(token, node.clock.now()).ok_or_else(refused)?;
    let view = node.broker.user(&claimed.user).map_err(|_| refused())?;
    if !node.http.tokens.verify(&claimed, &view) {
        return Err(refused());
    }
    if view.spec.loopback_only && !peer.loopback {
        return Err(denied("this user may come from this machine only"));
    }
    Ok(Who::user(&view))
}
