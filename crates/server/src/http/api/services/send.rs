//! Sending a message to a service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::json;
use waypost_broker::topology::Access;
use waypost_model::Route;
use waypost_model::props::PropsOwned;

use super::super::super::body::Answer;
use super::super::super::cx::SERVICES;
use super::super::super::envelope;
use super::super::super::json;
use super::super::super::request::{self, Failure};
use super::terms::{self, Terms};
use super::{Ask, refused};
use crate::local::{Message, Posted};

/// How long a sender is held back while memory or disk run short, before it is told to come again.
const HOLD_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether that is over.
const HOLD_STEP: Duration = Duration::from_millis(50);

impl Ask<'_> {
    pub(super) async fn send(&self, service: &str, request: Request<Incoming>) -> Result<Answer, Failure> {
        let (route, props, terms) = self.address(service, &request, &["mandatory"])?;
        let message = self.message(request, props, HOLD_MAX).await?;
        let posted = self.cx.node.clients.publishers.publish(&self.vhost, &route, &message, terms.mandatory);
        match posted.map_err(refused)? {
            Posted::Taken(lsn) => {
                self.cx.durable(lsn).await?;
                Ok(json::answer(StatusCode::ACCEPTED, &json!({ "service": service, "durable": lsn.is_some() })))
            }
            Posted::Unroutable => Err(nobody(service)),
            Posted::Full => Err(full(service)),
        }
    }

    /// Where the request's message goes and with what properties, once it is clear that it may.
    pub(super) fn address(
        &self,
        service: &str,
        request: &Request<Incoming>,
        more: &[&str],
    ) -> Result<(Arc<Route>, PropsOwned, Terms), Failure> {
        self.cx.may_service(&self.vhost, Access::Write, service)?;
        let mut props = envelope::properties(request.headers()).map_err(Failure::bad)?;
        let terms = terms::read(request.uri(), &mut props, more)?;
        Ok((Arc::new(Route::new(SERVICES, service)), props, terms))
    }

    /// The request's body as a message, once there is room for it; `patience` is how long that may take.
    pub(super) async fn message(
        &self,
        request: Request<Incoming>,
        props: PropsOwned,
        patience: Duration,
    ) -> Result<Message, Failure> {
        let broker = &self.cx.node.broker;
        let (began, patience) = (Instant::now(), patience.min(HOLD_MAX));
        while broker.publishing_paused() {
            let left = patience.saturating_sub(began.elapsed());
            if left.is_zero() {
                let why = "memory or disk run short: messages are not taken for now";
                return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(5));
            }
            self.cx.patience(left.min(HOLD_STEP)).await;
        }
        let config = &self.cx.node.config;
        let max = config.http.body_max.0.min(config.amqp.message_bytes_max.0);
        Ok(Message { props, body: request::bytes(request, max).await? })
    }
}

/// 404.
pub(super) fn nobody(service: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, format!("nobody is there for this message to service '{service}'"))
}

/// 429.
pub(super) fn full(service: &str) -> Failure {
    Failure::new(StatusCode::TOO_MANY_REQUESTS, format!("the mailbox of service '{service}' is full")).retry_after(1)
}
