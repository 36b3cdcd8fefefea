//! A topic: its name, its id, its configuration, its partitions.

use std::sync::{Arc, PoisonError, RwLock};

use super::Cell;
use crate::config::TopicConfig;

/// The id of a topic: another one for a topic that was deleted and made again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

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
    partitions: RwLock<Arc<[Arc<Cell>]>>,
}

impl Topic {
    pub(super) fn new(id: TopicId, key: &(Arc<str>, Arc<str>), config: TopicConfig, cells: Vec<Arc<Cell>>) -> Topic {
        let (vhost, name) = (Arc::clone(&key.0), Arc::clone(&key.1));
        Topic { id, vhost, name, config: RwLock::new(Arc::new(config)), partitions: RwLock::new(cells.into()) }
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

    pub(super) fn set_config(&self, config: TopicConfig) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    pub(super) fn set_partitions(&self, cells: Vec<Arc<Cell>>) {
        *self.partitions.write().unwrap_or_else(PoisonError::into_inner) = cells.into();
    }
}
