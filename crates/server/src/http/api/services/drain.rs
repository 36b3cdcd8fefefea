//! Draining: an instance finishes what it has, and gets nothing new.

use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use super::super::super::body::Answer;
use super::super::super::request::Failure;
use super::register::{Span, read};
use super::{Ask, no_instance, ok, only, span};

/// How long an instance may finish what it has, if nothing is said.
const DRAIN: Duration = Duration::from_secs(30);

/// How long somebody may wait until it has.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// How often it is looked whether it has.
const STEP: Duration = Duration::from_millis(50);

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct DrainBody {
    deadline: Option<Span>,
}

impl Ask<'_> {
    pub(super) async fn drain(&self, service: &str, id: &str, request: Request<Incoming>) -> Result<Answer, Failure> {
        only(request.uri(), &[])?;
        self.may_claim(service, id)?;
        let body: DrainBody = read(request).await?;
        let now = self.cx.node.clock.now();
        let until = now.plus(body.deadline.map_or(super::millis(DRAIN), |deadline| deadline.0));
        let lsn = self.services.drain(service, id, until, now);
        self.done_to(service, id, lsn).await
    }

    pub(super) async fn undrain(
        &self,
        service: &str,
        id: &str,
        request: &Request<Incoming>,
    ) -> Result<Answer, Failure> {
        only(request.uri(), &[])?;
        self.may_claim(service, id)?;
        let lsn = self.services.undrain(service, id, self.cx.node.clock.now());
        self.done_to(service, id, lsn).await
    }

    /// How far a drain has come: at once, or when the instance holds nothing any more, within `wait`.
    pub(super) async fn drained(
        &self,
        service: &str,
        id: &str,
        request: &Request<Incoming>,
    ) -> Result<Answer, Failure> {
        only(request.uri(), &["wait"])?;
        self.may_see(service)?;
        let wait = span(request.uri(), "wait")?.unwrap_or_default().min(WAIT_MAX);
        let (began, broker) = (Instant::now(), &self.cx.node.broker);
        loop {
            let listed = self.services.instance(service, id);
            let held = broker.in_flight(&self.vhost, service, id);
            if listed.is_none() && held.is_none() {
                return Err(no_instance(service, id));
            }
            let (held, left) = (held.unwrap_or(0), wait.saturating_sub(began.elapsed()));
            if held == 0 || left.is_zero() || self.cx.is_stopping() {
                return Ok(ok(&json!({
                    "service": service, "id": id, "in_flight": held, "empty": held == 0,
                    "draining": listed.is_some_and(|one| one.standing.draining),
                })));
            }
            self.cx.patience(left.min(STEP)).await;
        }
    }
}
