//! `/v1/agent/check`: checks that are registered on their own, and what is said of them.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use waypost_model::service::Health;

use super::super::body::Answer;
use super::super::request::Failure;
use super::checks::{self, SERVICE_CHECK};
use super::lenient::{Object, decode};
use super::{Ask, definitions, no_endpoint};

impl Ask<'_> {
    /// `/v1/agent/check/…`
    pub(super) async fn agent_check(&self, path: &[&str]) -> Result<Answer, Failure> {
        let note = || self.params.other("note").unwrap_or_default();
        match path {
            ["register"] => self.check_register().await,
            ["deregister", id] => self.check_deregister(id).await,
            ["pass", id] => self.check_report(id, Health::Passing, note()).await,
            ["warn", id] => self.check_report(id, Health::Warning, note()).await,
            ["fail", id] => self.check_report(id, Health::Critical, note()).await,
            ["update", id] => {
                let value = decode(&self.body)?;
                let body = Object::of(&value, "the body")?;
                let status = body.text("Status")?;
                let health = checks::health(status).filter(|_| status.ends_with("ing") || status == "critical");
                let health = health.ok_or_else(|| {
                    Failure::bad(format!("Invalid check status {status:?}: it must be passing, warning or critical"))
                })?;
                self.check_report(id, health, body.text("Output")?).await
            }
            _ => Err(no_endpoint()),
        }
    }

    async fn check_register(&self) -> Result<Answer, Failure> {
        let value = decode(&self.body)?;
        let body = Object::of(&value, "the body")?;
        let name = body.text("Name")?;
        if name.is_empty() {
            return Err(Failure::bad("Missing check name"));
        }
        let (spec, now) = (definitions::check(body, name, name)?, self.now());
        self.cx.may_check(std::slice::from_ref(&spec))?;
        let service_id = body.text("ServiceID")?;
        if service_id.is_empty() {
            self.cx.who.must_administrate()?;
            let own = self.services.own_node();
            return self.changed(self.services.add_node_check(&own.spec.name, spec, now)?).await;
        }
        let unknown = || Failure::new(StatusCode::NOT_FOUND, format!("ServiceID {service_id:?} does not exist"));
        let (service, _) = self.services.find(service_id).ok_or_else(unknown)?;
        self.may_change(&service, service_id)?;
        let lsn = self.services.add_check(&service, service_id, spec, now)?.ok_or_else(unknown)?;
        self.changed(Some(lsn)).await
    }

    async fn check_deregister(&self, check: &str) -> Result<Answer, Failure> {
        let (own, now) = (self.services.own_node(), self.now());
        if own.checks.iter().any(|known| *known.spec.id == *check) {
            self.cx.who.must_administrate()?;
            return self.changed(self.services.remove_node_check(&own.spec.name, check, now)?).await;
        }
        let (service, id) = self.owner_of(check).await.ok_or_else(|| unknown(check))?;
        self.may_change(&service, &id)?;
        let lsn = self.services.remove_check(&service, &id, check, now)?.ok_or_else(|| unknown(check))?;
        self.changed(Some(lsn)).await
    }

    /// Somebody says how a check is. Nothing is written for it, so that there is nothing to wait for.
    async fn check_report(&self, check: &str, status: Health, output: &str) -> Result<Answer, Failure> {
        let now = self.now();
        if let Some(answer) = self.report_simply(check, status, output) {
            return Ok(answer);
        }
        let own = self.services.own_node();
        if own.checks.iter().any(|known| *known.spec.id == *check) {
            self.cx.who.must_administrate()?;
            self.services.report_node(&own.spec.name, check, status, output, now);
            return Ok(Answer::default());
        }
        let (service, id) = self.owner_of(check).await.ok_or_else(|| unknown(check))?;
        self.may_change(&service, &id)?;
        if self.services.report(&service, &id, check, status, output, now) {
            Ok(Answer::default())
        } else {
            Err(unknown(check))
        }
    }

    /// The same for by far the most: those of a service's only check.
    fn report_simply(&self, check: &str, status: Health, output: &str) -> Option<Answer> {
        let id = check.strip_prefix(SERVICE_CHECK).filter(|_| !self.is_restricted())?;
        self.services.report_by_id(id, check, status, output, self.now()).then(Answer::default)
    }

    /// A beat of one of those.
    pub(super) fn beat(&self, check: &str) -> Option<Answer> {
        self.report_simply(check, Health::Passing, self.params.other("note").unwrap_or_default())
    }

    /// The instance that has a check of this id: told by the id where it is one that was made here, remembered else, and
    /// looked for among all when it is not.
    async fn owner_of(&self, check: &str) -> Option<(Arc<str>, Box<str>)> {
        let has = |id: &str| {
            let (service, listed) = self.services.find(id)?;
            listed.checks.iter().any(|known| *known.spec.id == *check).then(|| (service, listed.instance.id.clone()))
        };
        if let Some(id) = check.strip_prefix(SERVICE_CHECK) {
            let numbered = || id.rsplit_once(':').and_then(|(id, _)| has(id));
            if let Some(found) = has(id).or_else(numbered) {
                return Some(found);
            }
        }
        let shared = &self.cx.node.consul;
        if let Some(found) = shared.check_owner(self.cx.vhost(), check).and_then(|id| has(&id)) {
            return Some(found);
        }
        let (services, wanted) = (self.services.clone(), check.to_owned());
        let search = move || {
            let (_, all) = services.everything();
            all.into_iter().find(|(_, listed)| listed.checks.iter().any(|known| *known.spec.id == *wanted))
        };
        let (service, listed) = self.cx.listener.aside(&Method::GET, search).await.ok()??;
        shared.remember_check(self.cx.vhost(), check, &listed.instance.id);
        Some((service, listed.instance.id.clone()))
    }
}

fn unknown(check: &str) -> Failure {
    let text = format!("Unknown check ID {check:?}. Ensure that the check ID is passed, not the check name.");
    Failure::new(StatusCode::NOT_FOUND, text)
}
