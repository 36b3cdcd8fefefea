//! What may have been delivered before a crash. After an unclean stop nobody knows what consumers had seen, so that all
//! that was recovered is flagged redelivered; a clean stop after it must not make that forgotten. The journal therefore
//! keeps a place per queue, below which messages are in doubt for as long as there are any.

use std::collections::BTreeMap;

use waypost_model::journal::{Op, Recovered, RecoveredRun};
use waypost_model::{QueueId, Seq, ShardId};

use crate::topology::LoadError;

/// The first byte of the keys; see `docs/definitions-format.md`.
const KIND: u8 = 0x02;
const VERSION: u8 = 1;

type Definition = (Box<[u8]>, Box<[u8]>);

/// Per queue, the place below which its messages may have been delivered before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Doubts(BTreeMap<QueueId, Seq>);

impl Doubts {
    /// Takes what is ours out of the definitions.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn take_from(definitions: &mut Vec<Definition>) -> Result<Doubts, LoadError> {
        let mut doubts = Doubts::default();
        let mut failed = None;
        definitions.retain(|(key, value)| {
            let ours = key.first() == Some(&KIND);
            if ours && let Err(e) = doubts.read(key, value) {
                failed.get_or_insert(e);
            }
            !ours
        });
        failed.map_or(Ok(doubts), Err)
    }

    fn read(&mut self, key: &[u8], value: &[u8]) -> Result<(), LoadError> {
        let what = || key.escape_ascii().to_string();
        let Some((&version, pairs)) = value.split_first() else {
            return Err(LoadError::Malformed(what()));
        };
        if version != VERSION {
            return Err(LoadError::UnknownVersion { what: what(), version });
        }
        let (pairs, rest) = pairs.as_chunks::<16>();
        if !rest.is_empty() {
            return Err(LoadError::Malformed(what()));
        }
        for pair in pairs {
            let both = u128::from_be_bytes(*pair);
            self.0.insert(QueueId((both >> 64) as u64), Seq(both as u64));
        }
        Ok(())
    }

    /// What is in doubt now, after what was in doubt before the last stop. Queues whose messages are all gone are not.
    pub fn after(before: &Doubts, recovered: &Recovered) -> Doubts {
        let mut doubts = Doubts::default();
        for run in &recovered.runs {
            let queue = run.range.queue;
            if recovered.clean {
                let below = before.0.get(&queue).filter(|below| run.range.first < **below);
                doubts.0.extend(below.map(|below| (queue, *below)));
            } else {
                doubts.0.insert(queue, run.range.first.plus(u64::from(run.range.count)));
            }
        }
        doubts
    }

    /// What makes the journal know these instead of `before`.
    pub fn changes(&self, before: &Doubts) -> Vec<Op> {
        let (old, new) = (before.by_shard(), self.by_shard());
        let gone = old.keys().filter(|shard| !new.contains_key(*shard)).map(|shard| (*shard, None));
        let changed = new.iter().filter(|(shard, value)| old.get(*shard) != Some(value));
        let changes = gone.chain(changed.map(|(shard, value)| (*shard, Some(value.clone().into()))));
        changes.map(|(shard, value)| Op::Define { key: [KIND, 1, shard.0].into(), value }).collect()
    }

    fn by_shard(&self) -> BTreeMap<ShardId, Vec<u8>> {
        let mut values = BTreeMap::new();
        for (queue, below) in &self.0 {
            let value: &mut Vec<u8> = values.entry(queue.shard()).or_insert_with(|| vec![VERSION]);
            value.extend_from_slice(&queue.0.to_be_bytes());
            value.extend_from_slice(&below.0.to_be_bytes());
        }
        values
    }

    /// A queue's runs: those in doubt, and the others.
    pub fn split(&self, queue: QueueId, runs: &[RecoveredRun]) -> (Vec<RecoveredRun>, Vec<RecoveredRun>) {
        let below = self.0.get(&queue).copied().unwrap_or_default();
        let (mut doubtful, mut others) = (Vec::new(), Vec::new());
        for run in runs {
            match below.0.saturating_sub(run.range.first.0) {
                0 => others.push(run.clone()),
                n if n >= u64::from(run.range.count) => doubtful.push(run.clone()),
                n => {
                    let (front, rest) = split_run(run, n as u32);
                    doubtful.push(front);
                    others.push(rest);
                }
            }
        }
        (doubtful, others)
    }
}

/// The first `n` messages of a run, and the rest. Only the sum of their sizes is known.
fn split_run(run: &RecoveredRun, n: u32) -> (RecoveredRun, RecoveredRun) {
    let (mut front, mut rest) = (run.clone(), run.clone());
    front.range.count = n;
    front.payload_bytes = (u128::from(run.payload_bytes) * u128::from(n) / u128::from(run.range.count.max(1))) as u64;
    rest.range.first = run.range.first.plus(u64::from(n));
    rest.range.count -= n;
    rest.payload_bytes -= front.payload_bytes;
    (front, rest)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use waypost_model::journal::RecoveredRuns;
    use waypost_model::{Attrs, Millis, Route, SeqRange};

    use super::*;

    fn run(queue: u64, first: u64, count: u32) -> RecoveredRun {
        RecoveredRun {
            range: SeqRange { queue: QueueId(queue), first: Seq(first), count },
            route: Arc::new(Route::new("", "q")),
            attrs: Attrs::default(),
            at: Millis(0),
            delivery_count: 0,
            payload_bytes: u64::from(count) * 10,
        }
    }

    fn recovered(clean: bool, runs: &[(u64, u64, u32)]) -> Recovered {
        let runs = runs.iter().map(|(queue, first, count)| run(*queue, *first, *count)).collect::<RecoveredRuns>();
        Recovered { definitions: Vec::new(), runs, next_seq: Vec::new(), clean }
    }

    /// Through the journal and back.
    fn reread(doubts: &Doubts) -> Doubts {
        let mut definitions: Vec<Definition> = vec![((*b"\x10x").into(), (*b"\x01").into())];
        for op in doubts.changes(&Doubts::default()) {
            let Op::Define { key, value: Some(value) } = op else { panic!() };
            definitions.push((key, value));
        }
        let read = Doubts::take_from(&mut definitions).unwrap();
        assert_eq!(definitions.len(), 1);
        read
    }

    #[test]
    fn doubts_last_until_the_messages_are_gone() {
        let none = Doubts::default();
        let crashed = Doubts::after(&none, &recovered(false, &[(1, 3, 2), (1, 8, 4), (65, 0, 1), (2, 5, 1)]));
        assert_eq!(crashed.0, BTreeMap::from([(QueueId(1), Seq(12)), (QueueId(65), Seq(1)), (QueueId(2), Seq(6))]));
        assert_eq!(reread(&crashed), crashed);
        assert_eq!(crashed.changes(&crashed).len(), 0);
        let later = Doubts::after(&crashed, &recovered(true, &[(1, 11, 9), (65, 1, 3), (3, 0, 1)]));
        assert_eq!(later.0, BTreeMap::from([(QueueId(1), Seq(12))]));
        // One key changes, one goes.
        assert_eq!(later.changes(&crashed).len(), 2);
        let (doubtful, others) = later.split(QueueId(1), &[run(1, 4, 2), run(1, 11, 9)]);
        let ranges = |runs: &[RecoveredRun]| -> Vec<_> {
            runs.iter().map(|r| (r.range.first.0, r.range.count, r.payload_bytes)).collect()
        };
        assert_eq!(ranges(&doubtful), [(4, 2, 20), (11, 1, 10)]);
        assert_eq!(ranges(&others), [(12, 8, 80)]);
        assert_eq!(Doubts::after(&later, &recovered(true, &[(1, 12, 8)])), none);
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        for value in [&b""[..], b"\x02", b"\x01123"] {
            let mut definitions: Vec<Definition> = vec![([KIND, 1, 0].into(), value.into())];
            assert!(Doubts::take_from(&mut definitions).is_err(), "{value:?}");
        }
    }
}
