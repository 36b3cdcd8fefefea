//! Client quotas, asked for and set.

use waypost_broker::topology::{AclOperation, QuotaEntity, QuotaName, QuotaRates};
use waypost_kafka::messages::security::*;
use waypost_kafka::wire::Malformed;
use waypost_model::Lsn;

use super::{Answer, Ask, Session, codes};

const USER: &str = "user";
const CLIENT_ID: &str = "client-id";
const PRODUCER: &str = "producer_byte_rate";
const CONSUMER: &str = "consumer_byte_rate";
/// How a filter means a name.
const EXACT: i8 = 0;
const DEFAULT: i8 = 1;
const ANY: i8 = 2;

type Refused = (i16, String);

fn invalid<T>(why: &str) -> Result<T, Refused> {
    Err((codes::INVALID_REQUEST, why.to_owned()))
}

impl Session {
    pub(super) fn describe_quotas(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DescribeClientQuotasRequest = ask.read()?;
        let found = if self.may_cluster(AclOperation::DescribeConfigs) {
            check(&request.components)
        } else {
            Err((codes::CLUSTER_AUTHORIZATION_FAILED, "not permitted".to_owned()))
        };
        if let Err((error_code, why)) = found {
            let error_message = Some(why.into());
            return Ok(ask.now(&DescribeClientQuotasResponse {
                error_code,
                error_message,
                entries: None,
                ..Default::default()
            }));
        }
        let all = self.node.broker.quotas().into_iter();
        let wanted = all.filter(|(entity, _)| matches(&request.components, request.strict, entity));
        let entries = wanted.map(|(entity, rates)| EntryData { entity: named(&entity), values: values(rates) });
        let entries = Some(entries.collect());
        Ok(ask.now(&DescribeClientQuotasResponse { error_message: None, entries, ..Default::default() }))
    }

    pub(super) fn alter_quotas(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: AlterClientQuotasRequest = ask.read()?;
        let allowed = self.may_cluster(AclOperation::AlterConfigs);
        let mut lsn = None;
        let mut one = |entry: AlteredEntry| {
            let done = if allowed {
                self.alter(&entry, request.validate_only, &mut lsn)
            } else {
                Err((codes::CLUSTER_AUTHORIZATION_FAILED, "not permitted".to_owned()))
            };
            let (error_code, error_message) = match done {
                Ok(()) => (codes::NONE, None),
                Err((code, why)) => (code, Some(why.into())),
            };
            AlteredEntryResult { error_code, error_message, entity: entry.entity }
        };
        let entries = request.entries.into_iter().map(&mut one).collect();
        Ok(ask.after(lsn, &AlterClientQuotasResponse { entries, ..AlterClientQuotasResponse::default() }))
    }

    fn alter(&self, entry: &AlteredEntry, only_check: bool, lsn: &mut Option<Lsn>) -> Result<(), Refused> {
        let entity = entity(&entry.entity)?;
        let mut rates = self.node.broker.quota_of(&entity).unwrap_or_default();
        for op in &entry.ops {
            let rate = match &*op.key {
                PRODUCER => &mut rates.producer,
                CONSUMER => &mut rates.consumer,
                _ => return invalid("quotas are producer_byte_rate and consumer_byte_rate; others are not kept here"),
            };
            let is_rate = op.value.is_finite() && op.value > 0.0;
            if !op.remove && !is_rate {
                return invalid("a rate is above 0");
            }
            *rate = (!op.remove).then_some(op.value);
        }
        if only_check {
            return Ok(());
        }
        let written = self.node.broker.put_quota(entity, rates, self.node.clock.now());
        *lsn = (*lsn).max(written.map_err(|e| (codes::INVALID_REQUEST, e.text))?);
        Ok(())
    }
}

fn entity(parts: &[EntityData]) -> Result<QuotaEntity, Refused> {
    let mut entity = QuotaEntity::default();
    for part in parts {
        let place = match &*part.entity_type {
            USER => &mut entity.user,
            CLIENT_ID => &mut entity.client_id,
            _ => return invalid("quotas are for a user, a client-id, or both"),
        };
        let name = part.entity_name.as_deref().map_or(QuotaName::Default, |name| QuotaName::Named(name.into()));
        if place.replace(name).is_some() {
            return invalid("the same kind of name twice");
        }
    }
    if parts.is_empty() { invalid("a quota is for somebody") } else { Ok(entity) }
}

fn check(components: &[ComponentData]) -> Result<(), Refused> {
    for (i, component) in components.iter().enumerate() {
        if !matches!(&*component.entity_type, USER | CLIENT_ID) {
            // Of addresses we keep none; to ask for them is no mistake in Kafka, and answered so.
            if &*component.entity_type != "ip" {
                return invalid("no such kind of name");
            }
        }
        if components.iter().take(i).any(|other| other.entity_type == component.entity_type) {
            return invalid("the same kind of name twice");
        }
        if !(EXACT..=ANY).contains(&component.match_type)
            || (component.match_type == EXACT) != component._match.is_some()
        {
            return invalid("a name is exact, the default, or any");
        }
    }
    Ok(())
}

/// `strict`: nothing beside what the filter names.
fn matches(components: &[ComponentData], strict: bool, entity: &QuotaEntity) -> bool {
    let of = |kind: &str| match kind {
        USER => entity.user.as_ref(),
        CLIENT_ID => entity.client_id.as_ref(),
        _ => None,
    };
    let met = |c: &ComponentData| match (of(&c.entity_type), c.match_type) {
        (None, _) => false,
        (Some(name), EXACT) => matches!(name, QuotaName::Named(n) if c._match.as_deref() == Some(&**n)),
        (Some(name), DEFAULT) => *name == QuotaName::Default,
        (Some(_), _) => true,
    };
    let parts = usize::from(entity.user.is_some()) + usize::from(entity.client_id.is_some());
    components.iter().all(met) && (!strict || parts == components.len())
}

fn named(entity: &QuotaEntity) -> Vec<EntityData> {
    let one = |kind: &str, name: &Option<QuotaName>| {
        let entity_name = match name.as_ref()? {
            QuotaName::Default => None,
            QuotaName::Named(name) => Some((**name).into()),
        };
        Some(EntityData { entity_type: kind.into(), entity_name })
    };
    [one(USER, &entity.user), one(CLIENT_ID, &entity.client_id)].into_iter().flatten().collect()
}

fn values(rates: QuotaRates) -> Vec<ValueData> {
    let value = |key: &str, rate: Option<f64>| rate.map(|value| ValueData { key: key.into(), value });
    [value(CONSUMER, rates.consumer), value(PRODUCER, rates.producer)].into_iter().flatten().collect()
}
