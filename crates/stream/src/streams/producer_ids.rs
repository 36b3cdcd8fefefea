//! Ids of producers: never one twice, also not after a crash.

use waypost_model::Lsn;
use waypost_model::journal::AppendError;

use super::{Streams, keep, lock};

/// Ids that are reserved by one definition.
const BLOCK: u64 = 1000;

#[derive(Debug, Default)]
pub(super) struct ProducerIds {
    pub next: u64,
    /// Ids below this are reserved, by the definition of this ticket.
    pub reserved: u64,
    pub lsn: Option<Lsn>,
}

impl Streams {
    /// A new producer id, and what must be durable before it is told.
    ///
    /// # Errors
    /// The journal takes nothing.
    pub fn new_producer_id(&self) -> Result<(i64, Option<Lsn>), AppendError> {
        // Held: of two definitions the later one must say the higher number.
        let topics = self.read();
        let mut ids = lock(&self.producer_ids);
        if ids.next >= ids.reserved {
            let reserved = ids.next + BLOCK;
            ids.lsn = Some(self.journal.append(vec![keep::numbers(reserved, topics.queues)])?);
            ids.reserved = reserved;
        }
        let id = ids.next;
        ids.next += 1;
        Ok((i64::try_from(id).unwrap_or(i64::MAX), ids.lsn))
    }
}
