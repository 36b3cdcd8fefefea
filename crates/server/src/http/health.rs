//! `/livez` and `/readyz`.

use std::sync::atomic::Ordering;

use hyper::StatusCode;

use super::request::Failure;
use super::{Answer, text};
use crate::node::Node;

const PLAIN: &str = "text/plain; charset=utf-8";

/// The process answers.
pub(super) fn livez() -> Result<Answer, Failure> {
    Ok(text(StatusCode::OK, PLAIN, "ok\n".to_owned()))
}

/// The node takes connections and messages.
pub(super) fn readyz(node: &Node) -> Result<Answer, Failure> {
    let alarm = node.broker.alarm();
    let why = if !node.ready.load(Ordering::SeqCst) {
        "starting or stopping"
    } else if node.store.failed() {
        "the journal has stopped"
    } else if node.store.full() {
        "the store has no room for messages"
    } else if alarm.memory {
        "low on memory"
    } else if alarm.disk {
        "low on disk"
    } else {
        return Ok(text(StatusCode::OK, PLAIN, "ok\n".to_owned()));
    };
    Ok(text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")))
}
