//! What a topic's retention no longer keeps.
//!
//! What is beyond a size goes at once. What is too old goes some time after that was seen: records may come with times of long
//! ago, and whoever reads close behind them is to have them. With Kafka it is chance, since it looks every five minutes.

use std::ops::ControlFlow;

use waypost_model::Millis;
use waypost_model::journal::Op;

use super::Partition;
use crate::config::TopicConfig;

/// So long are records kept that were seen to be too old, ms: as Kafka's `log.retention.check.interval.ms`. Where less is to be
/// kept than that, as long again.
const GRACE_MS: u64 = 300_000;

/// Records that were seen to be too old.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overdue {
    /// One behind the last of them.
    upto: u64,
    since: Millis,
}

impl Overdue {
    /// Up to where records go, if any do now.
    fn ripe(self, grace_ms: u64, now: Millis) -> Option<u64> {
        (now.0.saturating_sub(self.since.0) >= grace_ms).then_some(self.upto)
    }
}

impl Partition {
    /// Removes what the topic's retention no longer keeps. Empty, if it keeps everything.
    pub fn retain(&mut self, config: &TopicConfig, now: Millis) -> Vec<Op> {
        if !config.deletes {
            return Vec::new();
        }
        let old = config.retention_ms.map(|ms| Millis(now.0.saturating_sub(ms)));
        let grace_ms = config.retention_ms.map_or(GRACE_MS, |ms| ms.min(GRACE_MS));
        let ripe = self.overdue.and_then(|overdue| overdue.ripe(grace_ms, now));
        let (mut cut, mut seen) = (self.start, self.start);
        let mut bytes = self.index.bytes();
        let _ = self.index.iter().take_while(|e| e.last < self.durable).try_for_each(|entry| {
            let expired = old.is_some_and(|old| entry.time < old);
            let surplus = config.retention_bytes.is_some_and(|max| bytes - u64::from(entry.bytes) >= max);
            if !expired && !surplus {
                return ControlFlow::Break(());
            }
            bytes -= u64::from(entry.bytes);
            seen = entry.last + 1;
            if surplus || ripe.is_some_and(|upto| seen <= upto) {
                cut = seen;
            }
            ControlFlow::Continue(())
        });
        if ripe.is_some() || self.overdue.is_none() {
            self.overdue = (seen > cut).then_some(Overdue { upto: seen, since: now });
        }
        self.delete_before(cut).unwrap_or_default()
    }
}
