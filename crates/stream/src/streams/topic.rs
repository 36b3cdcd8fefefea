//! A topic: its name, its id, its configuration, its partitions.

use std::sync::{Arc, PoisonError, RwLock};

use super::Cell;
use crate::config::TopicConfig;

/// The id of a topic: another one for a topic that was deleted and made again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

/// Limits beside a topic's configuration: of two, the stricter one counts. They are told after every start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// For so long, ms.
    pub ms: Option<u64>,
    /// So many bytes of a partition.
    pub bytes: Option<u64>,
}

impl Retention {
    fn of(self, config: &Arc<TopicConfig>) -> Arc<TopicConfig> {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        if self == Retention::default() {
            return Arc::clone(config);
        }
        let mut kept = (**config).clone();
        kept.retention_ms = least(kept.retention_ms, self.ms);
        kept.retention_bytes = least(kept.retention_bytes, self.bytes);
        Arc::new(kept)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Topic {
    /// Its id.
    pub id: TopicId,
    /// Where it lives.
    pub vhost: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    config: RwLock<Arc<TopicConfig>>,
    /// What is kept of it: its configuration, and what others limit it to.
    kept: RwLock<(Retention, Arc<TopicConfig>)>,
    partitions: RwLock<Arc<[Arc<Cell>]>>,
}

impl Topic {
    pub(super) fn new(id: TopicId, key: &(Arc<str>, Arc<str>), config: TopicConfig, cells: Vec<Arc<Cell>>) -> Topic {
        let (vhost, name) = (Arc::clone(&key.0), Arc::clone(&key.1));
        let config = Arc::new(config);
        let kept = RwLock::new((Retention::default(), Arc::clone(&config)));
        Topic { id, vhost, name, config: RwLock::new(config), kept, partitions: RwLock::new(cells.into()) }
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> Arc<TopicConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its partitions, by number.
    #[must_use]
    pub fn partitions(&self) -> Arc<[Arc<Cell>]> {
        Arc::clone(&self.partitions.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// One of them.
    #[must_use]
    pub fn partition(&self, number: i32) -> Option<Arc<Cell>> {
        self.partitions().get(usize::try_from(number).ok()?).cloned()
    }

    /// Limits what is kept of it beside its configuration.
    pub fn limit(&self, retention: Retention) {
        let config = self.config();
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        *kept = (retention, retention.of(&config));
    }

    /// Its configuration, with what is kept as limits have it.
    pub(super) fn kept(&self) -> Arc<TopicConfig> {
        Arc::clone(&self.kept.read().unwrap_or_else(PoisonError::into_inner).1)
    }

    pub(super) fn set_config(&self, config: TopicConfig) {
        let config = Arc::new(config);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&config);
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        kept.1 = kept.0.of(&config);
    }

    pub(super) fn set_partitions(&self, cells: Vec<Arc<Cell>>) {
        *self.partitions.write().unwrap_or_else(PoisonError::into_inner) = cells.into();
    }
}
