//! Numbers of queues: never used twice, also not after a restart.

use waypost_model::journal::Op;
use waypost_model::{QueueId, SHARDS};

use super::definitions;

/// How many numbers are set aside at once. A restart skips what is left of them.
const BLOCK: u64 = 4096;

/// Gives out numbers from a block that the journal knows to be taken.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    next: u64,
    /// The journal says that numbers below this are taken.
    reserved: u64,
}

impl Ids {
    /// Begins behind all that may have been given out before.
    pub fn new(reserved: u64) -> Ids {
        Ids { next: reserved, reserved }
    }

    /// Begins behind a queue that exists, should the reservation not cover it.
    pub fn skip(&mut self, id: QueueId) {
        self.next = self.next.max(id.0 / SHARDS as u64 + 1);
    }

    /// The id of a new queue of a shard. Adds an operation when a new block is begun.
    pub fn take(&mut self, shard: u64, ops: &mut Vec<Op>) -> QueueId {
        if self.next >= self.reserved {
            self.reserved = self.next + BLOCK;
            ops.push(definitions::put_ids(self.reserved));
        }
        let n = self.next;
        self.next += 1;
        QueueId(n * SHARDS as u64 + shard)
    }
}
