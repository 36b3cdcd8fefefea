//! The last changes of a vhost, for those who follow all of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use waypost_model::service::InstanceChange;

use super::limits::EVENTS_MAX;
use crate::watch::Topic;

/// A change of an instance.
#[derive(Clone, Debug)]
pub struct Event {
    /// When, on the scale of the indices; rises from event to event.
    pub index: u64,
    /// The service.
    pub service: Arc<str>,
    /// What has changed.
    pub change: InstanceChange,
}

/// Some events that were asked for are no longer kept: look at everything anew and go on from the index given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Where to go on.
    pub index: u64,
}

#[derive(Debug)]
pub(super) struct Feed {
    pub topic: Arc<Topic>,
    /// Events and the index up to which they are not all here any more.
    kept: Mutex<(VecDeque<Event>, u64)>,
}

impl Feed {
    pub fn new(index: u64) -> Feed {
        Feed { topic: Arc::new(Topic::new(index)), kept: Mutex::new((VecDeque::new(), index)) }
    }

    pub fn push(&self, event: Event) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        self.topic.raise(event.index);
        if kept.0.len() >= EVENTS_MAX
            && let Some(oldest) = kept.0.pop_front()
        {
            kept.1 = oldest.index;
        }
        kept.0.push_back(event);
    }

    pub fn since(&self, index: u64) -> Result<Vec<Event>, Lost> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if index < kept.1 {
            return Err(Lost { index: self.topic.index() });
        }
        let from = kept.0.partition_point(|event| event.index <= index);
        Ok(kept.0.range(from..).cloned().collect())
    }
}
