//! Which versions may go.

use std::sync::Arc;

use waypost_model::journal::Op;
use waypost_model::{Millis, QueueId, SeqRange};

use super::entry::{Entry, Mark, seq};
use super::limits::Settings;
use super::space::Space;

/// How full the history is after it was cut for being too large, percent.
const HISTORY_PERCENT_AFTER: u64 = 90;

/// Versions that nobody keeps: beyond the number that is kept, or replaced longer ago than they are kept. Never one of
/// `needed`, and never the last.
pub(super) fn superfluous<'a>(
    marks: impl DoubleEndedIterator<Item = &'a Mark> + ExactSizeIterator,
    needed: [u64; 2],
    settings: &Settings,
    now: Millis,
) -> Vec<u64> {
    let mut gone = Vec::new();
    let mut beyond = marks.len().saturating_sub(settings.revisions_max.max(1));
    let mut marks = marks.peekable();
    while let (Some(mark), Some(next)) = (marks.next(), marks.peek()) {
        let is_old = now.since(Millis(next.at)) > settings.history_ms;
        if (beyond > 0 || is_old) && !needed.contains(&mark.version) {
            gone.push(mark.version);
        }
        beyond = beyond.saturating_sub(1);
    }
    gone
}

/// Takes versions out of the journal. They are in order.
pub(super) fn settle(queue: QueueId, versions: &[u64]) -> Vec<Op> {
    let mut ranges: Vec<SeqRange> = Vec::new();
    for version in versions {
        let first = seq(*version);
        match ranges.last_mut() {
            Some(last) if last.first.plus(u64::from(last.count)) == first => last.count += 1,
            _ => ranges.push(SeqRange { queue, first, count: 1 }),
        }
    }
    ranges.into_iter().map(Op::Settle).collect()
}

/// The versions that hold what is in force.
pub(super) fn needed(entry: &Entry) -> [u64; 2] {
    let now = &entry.now;
    [now.item.as_ref().map_or(0, |i| i.version), now.gray.as_ref().map_or(0, |g| g.version)]
}

/// What a sweep does to a vhost.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Versions to drop, by path.
    pub versions: Vec<(Arc<str>, Vec<u64>)>,
    /// Paths to forget.
    pub paths: Vec<Arc<str>>,
}

impl Sweep {
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty() && self.paths.is_empty()
    }

    /// What time has made superfluous.
    pub fn of_age(space: &Space, settings: &Settings, now: Millis) -> Sweep {
        let mut sweep = Sweep::default();
        for (path, entry) in &space.entries {
            let last = entry.marks.back().map_or(0, |m| m.at);
            if entry.is_deleted() && now.since(Millis(last)) > settings.history_ms {
                sweep.paths.push(Arc::clone(path));
                continue;
            }
            let gone = superfluous(entry.marks.iter(), needed(entry), settings, now);
            if !gone.is_empty() {
                sweep.versions.push((Arc::clone(path), gone));
            }
        }
        sweep
    }

    /// Deleted paths beyond the number that is remembered, longest deleted first.
    pub fn of_graves(space: &Space, settings: &Settings) -> Sweep {
        let beyond = space.graves.len().saturating_sub(settings.tombstones_max);
        Sweep {
            paths: space.graves.iter().take(beyond).map(|(_, path)| Arc::clone(path)).collect(),
            ..Sweep::default()
        }
    }

    /// The oldest versions, until the history is as small as it has to be.
    pub fn of_size(space: &Space, settings: &Settings) -> Sweep {
        let mut sweep = Sweep::default();
        if space.history_bytes <= settings.history_bytes_max {
            return sweep;
        }
        let aim = settings.history_bytes_max / 100 * HISTORY_PERCENT_AFTER;
        let mut excess = space.history_bytes - aim;
        let mut all: Vec<(u64, &Arc<str>, Mark)> = Vec::new();
        for (path, entry) in &space.entries {
            let (needed, last) = (needed(entry), entry.version());
            let free = entry.marks.iter().filter(|m| m.version != last && !needed.contains(&m.version));
            all.extend(free.map(|m| (m.at, path, *m)));
        }
        all.sort_unstable_by_key(|(at, path, mark)| (*at, *path, mark.version));
        let mut by_path: std::collections::BTreeMap<&Arc<str>, Vec<u64>> = std::collections::BTreeMap::new();
        for (_, path, mark) in all {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(u64::from(mark.bytes));
            by_path.entry(path).or_default().push(mark.version);
        }
        for (path, mut versions) in by_path {
            versions.sort_unstable();
            sweep.versions.push((Arc::clone(path), versions));
        }
        sweep
    }

    /// The operations that carry it out in the journal.
    pub fn ops(&self, space: &Space) -> Vec<Op> {
        let of = |path: &Arc<str>| space.entries.get(path).map(|e| e.queue);
        let dropped = self.versions.iter().filter_map(|(path, versions)| Some(settle(of(path)?, versions)));
        let mut ops: Vec<Op> = dropped.flatten().collect();
        ops.extend(self.paths.iter().filter_map(of).map(Op::Forget));
        ops
    }

    /// Carries it out in memory.
    pub fn apply(&self, space: &mut Space) {
        for (path, versions) in &self.versions {
            if let Some(entry) = space.entries.get_mut(path) {
                space.history_bytes -= drop_marks(entry, versions).min(space.history_bytes);
            }
        }
        for path in &self.paths {
            space.forget(path);
        }
    }
}

/// Forgets versions, which are in order; says how many bytes they had.
pub(super) fn drop_marks(entry: &mut Entry, versions: &[u64]) -> u64 {
    let mut bytes = 0;
    entry.marks.retain(|m| {
        let goes = versions.binary_search(&m.version).is_ok();
        bytes += if goes { u64::from(m.bytes) } else { 0 };
        !goes
    });
    bytes
}

#[cfg(test)]
mod tests {
    use waypost_model::Seq;

    use super::*;

    fn marks(ats: &[u64]) -> Vec<Mark> {
        ats.iter().zip(1..).map(|(at, version)| Mark { version, at: *at, bytes: 1 }).collect()
    }

    #[test]
    fn the_last_versions_stay_and_those_in_force() {
        let settings = Settings { revisions_max: 2, history_ms: 1000, ..Settings::default() };
        let marks = marks(&[0, 0, 0, 0, 0]);
        assert_eq!(superfluous(marks.iter(), [0, 0], &settings, Millis(0)), [1, 2, 3]);
        assert_eq!(superfluous(marks.iter(), [2, 0], &settings, Millis(0)), [1, 3]);
    }

    #[test]
    fn age_counts_from_when_a_version_was_replaced() {
        let settings = Settings { revisions_max: 100, history_ms: 1000, ..Settings::default() };
        let marks = marks(&[0, 10, 2000]);
        assert_eq!(superfluous(marks.iter(), [0, 0], &settings, Millis(1010)), [0; 0]);
        assert_eq!(superfluous(marks.iter(), [0, 0], &settings, Millis(1011)), [1]);
        assert_eq!(superfluous(marks.iter(), [0, 0], &settings, Millis(1 << 40)), [1, 2]);
    }

    #[test]
    fn neighbours_leave_as_one_range() {
        let ops = settle(QueueId(9), &[1, 2, 5]);
        let ranges: Vec<_> =
            ops.iter().map(|op| if let Op::Settle(r) = op { (r.first, r.count) } else { panic!() }).collect();
        assert_eq!(ranges, [(Seq(0), 2), (Seq(4), 1)]);
    }
}
