//! Kafka's client quotas.

use hyper::StatusCode;
use serde_json::{Value as Json, json};
use waypost_broker::topology::{QuotaEntity, QuotaName, QuotaRates};

use super::super::json::only;
use super::super::request::Failure;
use super::{Ask, Done, changed, list, nothing_there, wrong_method};

const PRODUCER: &str = "producer_byte_rate";
const CONSUMER: &str = "consumer_byte_rate";

impl Ask {
    pub(super) fn quotas(&self, path: &[&str]) -> Result<Done, Failure> {
        self.who.must_administrate()?;
        let broker = &self.node.broker;
        match (self.method(), path) {
            ("GET", ["quotas"]) => list(broker.quotas(), |(entity, rates)| quota(entity, *rates)),
            ("PUT", ["quotas"]) => {
                only(&self.body, &["user", "client_id", PRODUCER, CONSUMER])?;
                let entity = QuotaEntity { user: name(&self.body, "user")?, client_id: name(&self.body, "client_id")? };
                let rates = QuotaRates { producer: rate(&self.body, PRODUCER)?, consumer: rate(&self.body, CONSUMER)? };
                if rates == QuotaRates::default() {
                    return Err(Failure::bad(format!("`{PRODUCER}` or `{CONSUMER}` is missing")));
                }
                changed(broker.put_quota(entity, rates, self.now))
            }
            ("DELETE", ["quotas"]) => {
                let entity = QuotaEntity {
                    user: self.named("user", "user_default")?,
                    client_id: self.named("client_id", "client_id_default")?,
                };
                if broker.quota_of(&entity).is_none() {
                    return Err(Failure::new(StatusCode::NOT_FOUND, "no such quota"));
                }
                changed(broker.put_quota(entity, QuotaRates::default(), self.now))
            }
            (_, ["quotas"]) => Err(wrong_method()),
            _ => Err(nothing_there()),
        }
    }

    fn named(&self, name: &str, default: &str) -> Result<Option<QuotaName>, Failure> {
        match (self.parameter(name), self.is_set(default)?) {
            (Some(_), true) => Err(Failure::bad(format!("give either `{name}` or `{default}`"))),
            (None, true) => Ok(Some(QuotaName::Default)),
            (given, false) => Ok(given.map(|given| QuotaName::Named(given.into()))),
        }
    }
}

/// A name; null for all that have no quota of their own.
fn name(body: &Json, field: &str) -> Result<Option<QuotaName>, Failure> {
    match body.get(field) {
        None => Ok(None),
        Some(Json::Null) => Ok(Some(QuotaName::Default)),
        Some(Json::String(name)) => Ok(Some(QuotaName::Named(name.as_str().into()))),
        Some(_) => Err(Failure::bad(format!("`{field}` must be text, or null for the default"))),
    }
}

fn rate(body: &Json, field: &str) -> Result<Option<f64>, Failure> {
    match body.get(field) {
        None | Some(Json::Null) => Ok(None),
        Some(rate) => {
            let rate = rate.as_f64().filter(|rate| rate.is_finite() && *rate > 0.0);
            rate.map(Some).ok_or_else(|| Failure::bad(format!("`{field}` must be a number above 0")))
        }
    }
}

fn quota(entity: &QuotaEntity, rates: QuotaRates) -> Json {
    let mut json = json!({ PRODUCER: rates.producer, CONSUMER: rates.consumer });
    for (field, name) in [("user", &entity.user), ("client_id", &entity.client_id)] {
        match name {
            None => {}
            Some(QuotaName::Default) => json[field] = Json::Null,
            Some(QuotaName::Named(name)) => json[field] = Json::from(&**name),
        }
    }
    json
}
