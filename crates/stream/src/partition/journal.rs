//! Batches as the journal has them.

use std::sync::Arc;

use waypost_model::journal::{Enqueue, Op, RecoveredRun};
use waypost_model::{AttrFlags, Attrs, Batch as Messages, Millis, QueueId, Route, Seq, SeqRange};

use super::Entry;
use super::index::Index;
use super::packed::NO_PROPERTIES;

/// A message, and which of its batch it is.
pub(crate) type Part = (Arc<Messages>, u32);

/// What the journal is to be told of one batch.
pub(super) fn enqueue(place: (QueueId, Seq), batch: Arc<Messages>, from: u32, route: &Arc<Route>, at: Millis) -> Op {
    Op::Enqueue(Enqueue {
        targets: Box::new([place]),
        batch,
        from,
        to: from.saturating_add(1),
        route: Arc::clone(route),
        attrs: Attrs { flags: AttrFlags::PERSISTENT, ..Attrs::default() },
        at,
    })
}

/// All places from `first` to `last` are settled.
pub(super) fn settle(queue: QueueId, first: u64, last: u64, ops: &mut Vec<Op>) {
    let mut at = first;
    while at <= last {
        let count = u32::try_from(last - at + 1).unwrap_or(u32::MAX);
        ops.push(Op::Settle(SeqRange { queue, first: Seq(at), count }));
        at = at.saturating_add(u64::from(count));
    }
}

/// Enters the batches that recovery found. `base`: the first offset of the first one; one behind the last comes back.
pub(super) fn recover(index: &mut Index, runs: &[RecoveredRun], mut base: u64) -> u64 {
    for run in runs {
        let (count, first) = (u64::from(run.range.count), run.range.first.0);
        let mut left = run.payload_bytes.saturating_sub(count * NO_PROPERTIES.len() as u64);
        for at in 0..count {
            let last = first + at;
            // Batches of one record each that came together are told together: each is taken for the average.
            let bytes = u32::try_from(left / (count - at)).unwrap_or(u32::MAX);
            left -= u64::from(bytes);
            index.push(Entry { base: base.min(last), last, time: run.at, bytes });
            base = last + 1;
        }
    }
    base
}
