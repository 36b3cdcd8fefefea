//! How many bytes per second clients may send and take, as Kafka's client quotas have it: by user, by what the client calls
//! itself, by both, or by default.

use std::sync::Arc;

use waypost_model::Refusal;

use super::{Change, NAME_BYTES_MAX, Topology, definitions};

/// How many a node may have. Further ones are refused with 406.
pub const QUOTAS_MAX: usize = 100_000;

/// Whom a quota means, in one respect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuotaName {
    /// All that are not named; each of them for itself.
    Default,
    /// This one.
    Named(Arc<str>),
}

impl QuotaName {
    fn key(name: Option<&QuotaName>) -> Vec<u8> {
        match name {
            None => Vec::new(),
            Some(QuotaName::Default) => b"d".to_vec(),
            Some(QuotaName::Named(name)) => [b"n", name.as_bytes()].concat(),
        }
    }

    fn of_key(key: &[u8]) -> Option<Option<QuotaName>> {
        match key.split_first() {
            None => Some(None),
            Some((b'd', [])) => Some(Some(QuotaName::Default)),
            Some((b'n', name)) => Some(Some(QuotaName::Named(std::str::from_utf8(name).ok()?.into()))),
            Some(_) => None,
        }
    }
}

/// Whom a quota means: at least one of both is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuotaEntity {
    /// Whom by name of user.
    pub user: Option<QuotaName>,
    /// Whom by what it calls itself.
    pub client_id: Option<QuotaName>,
}

impl QuotaEntity {
    pub(crate) fn keys(&self) -> [Vec<u8>; 2] {
        [QuotaName::key(self.user.as_ref()), QuotaName::key(self.client_id.as_ref())]
    }

    pub(crate) fn of_keys(user: &[u8], client_id: &[u8]) -> Option<QuotaEntity> {
        let entity = QuotaEntity { user: QuotaName::of_key(user)?, client_id: QuotaName::of_key(client_id)? };
        (entity.user.is_some() || entity.client_id.is_some()).then_some(entity)
    }
}

/// Bytes per second; `None` leaves it to less particular quotas.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct QuotaRates {
    /// That may be produced.
    pub producer: Option<f64>,
    /// That may be fetched.
    pub consumer: Option<f64>,
}

impl QuotaRates {
    pub(crate) fn is_sound(&self) -> bool {
        [self.producer, self.consumer].into_iter().flatten().all(|rate| rate.is_finite() && rate > 0.0)
    }
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuotaKind {
    /// What is produced.
    Producer,
    /// What is fetched.
    Consumer,
}

/// A quota that holds for a client.
#[derive(Debug, Clone, PartialEq)]
pub struct QuotaShare {
    /// Bytes per second.
    pub rate: f64,
    /// With whom it is shared: all of this user, if any.
    pub user: Option<Arc<str>>,
    /// And all that call themselves so, if any.
    pub client_id: Option<Arc<str>>,
}

impl Topology {
    /// The most particular quota that holds for a client.
    #[must_use]
    pub fn quota(&self, user: &str, client_id: &str, kind: QuotaKind) -> Option<QuotaShare> {
        if self.quotas.is_empty() {
            return None;
        }
        let named = |name: &str| Some(QuotaName::Named(name.into()));
        let (user_named, client_named, default) = (named(user), named(client_id), Some(QuotaName::Default));
        // KIP-55, from the most particular to the least.
        let order = [
            (&user_named, &client_named),
            (&user_named, &default),
            (&user_named, &None),
            (&default, &client_named),
            (&default, &default),
            (&default, &None),
            (&None, &client_named),
            (&None, &default),
        ];
        order.into_iter().find_map(|(of_user, of_client)| {
            let entity = QuotaEntity { user: of_user.clone(), client_id: of_client.clone() };
            let rates = self.quotas.get(&entity)?;
            let rate = match kind {
                QuotaKind::Producer => rates.producer,
                QuotaKind::Consumer => rates.consumer,
            }?;
            let user = entity.user.map(|_| user.into());
            Some(QuotaShare { rate, user, client_id: entity.client_id.map(|_| client_id.into()) })
        })
    }

    /// All quotas, in order.
    #[must_use]
    pub fn quotas(&self) -> Vec<(QuotaEntity, QuotaRates)> {
        self.quotas.iter().map(|(entity, rates)| (entity.clone(), *rates)).collect()
    }

    /// What is set for just these.
    #[must_use]
    pub fn quota_of(&self, entity: &QuotaEntity) -> Option<QuotaRates> {
        self.quotas.get(entity).copied()
    }

    /// Sets a quota; one without rates is gone.
    ///
    /// # Errors
    /// 406.
    pub fn put_quota(&mut self, entity: QuotaEntity, rates: QuotaRates) -> Result<Change, Refusal> {
        let names = [&entity.user, &entity.client_id];
        let long = |n: &&Option<QuotaName>| matches!(n, Some(QuotaName::Named(n)) if n.len() > NAME_BYTES_MAX);
        if names.iter().all(|n| n.is_none()) || names.iter().any(long) || !rates.is_sound() {
            return Err(Refusal::precondition_failed("a quota is a positive rate for a user, a client id, or both"));
        }
        if rates == QuotaRates::default() {
            return Ok(match self.quotas.remove(&entity) {
                Some(_) => Change::define(definitions::remove_quota(&entity)),
                None => Change::default(),
            });
        }
        if self.quotas.len() >= QUOTAS_MAX && !self.quotas.contains_key(&entity) {
            return Err(Refusal::precondition_failed(format!("there are {QUOTAS_MAX} quotas already")));
        }
        let change = Change::define(definitions::put_quota(&entity, rates));
        self.quotas.insert(entity, rates);
        Ok(change)
    }
}
