//! `/v1/agent/monitor`: the log, line by line, as it is written.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::{mpsc, watch};
use tracing::level_filters::LevelFilter;

use super::super::body::{Answer, Body};
use super::super::request::Failure;
use super::Ask;
use super::params::truth;
use crate::logging::monitor::{self, Closed, Form, Reader};

/// Lines under way to a client; further ones wait where the log keeps them.
const LINES_AHEAD: usize = 16;

/// A client that takes nothing for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

impl Ask<'_> {
    /// The log from now on, for administrators.
    pub(super) fn agent_monitor(&self) -> Result<Answer, Failure> {
        self.cx.who.must_administrate()?;
        let level = level(self.params.other("loglevel").unwrap_or_default())?;
        let form = match self.params.other("logjson").map(|text| (text, truth(text))) {
            None | Some((_, Some(false))) => Form::Text,
            Some(("", _) | (_, Some(true))) => Form::Json,
            Some((text, None)) => return Err(Failure::bad(format!("Invalid value for logjson: {text:?}"))),
        };
        let reader = monitor::read(form, level).map_err(|closed| match closed {
            Closed::NotOurs => super::operator::not_here("the log is not this server's"),
            Closed::Full => Failure::new(StatusCode::TOO_MANY_REQUESTS, "too many read the log already"),
        })?;
        let (lines, body) = mpsc::channel(LINES_AHEAD);
        tokio::spawn(forward(reader, lines, self.cx.stop()));
        let mut answer = Response::new(Body::Stream(body));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(answer)
    }
}

/// Until the client or the server goes.
async fn forward(mut reader: Reader, to: mpsc::Sender<Bytes>, mut stop: watch::Receiver<bool>) {
    loop {
        let line = tokio::select! {
            line = reader.next() => line,
            () = to.closed() => return,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let line = match line {
            Some(Ok(line)) => line,
            Some(Err(missed)) => format!("[{missed} lines were not read in time and are left out]\n").into(),
            None => return,
        };
        if !matches!(tokio::time::timeout(STALL_TIMEOUT, to.send(line)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// A level as Consul names it.
fn level(name: &str) -> Result<LevelFilter, Failure> {
    match &*name.to_ascii_lowercase() {
        "trace" => Ok(LevelFilter::TRACE),
        "debug" => Ok(LevelFilter::DEBUG),
        "" | "info" => Ok(LevelFilter::INFO),
        "warn" => Ok(LevelFilter::WARN),
        "err" | "error" => Ok(LevelFilter::ERROR),
        _ => Err(Failure::bad(format!("Unknown log level: {name}"))),
    }
}
