//! Deliveries that await a verdict, as runs of delivery tags: what came as one stays one entry however long it is.

use std::collections::BTreeMap;

use waypost_model::{ConsumerId, QueueId, Seq};

/// Consecutive delivery tags for consecutive messages of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TagRun {
    pub first: u64,
    pub last: u64,
    pub queue: QueueId,
    pub consumer: ConsumerId,
    /// The place of the message with tag `first`.
    pub seq: Seq,
}

impl TagRun {
    fn has(&self, tag: u64) -> bool {
        (self.first..=self.last).contains(&tag)
    }

    /// How many messages; saturates where nobody will ever come.
    pub fn count(&self) -> u32 {
        u32::try_from(self.last - self.first + 1).unwrap_or(u32::MAX)
    }

    /// The part up to `tag` and the part after it.
    fn split_after(self, tag: u64) -> (TagRun, Option<TagRun>) {
        if tag >= self.last {
            return (self, None);
        }
        let behind = TagRun { first: tag + 1, seq: self.seq.plus(tag + 1 - self.first), ..self };
        (TagRun { last: tag, ..self }, Some(behind))
    }
}

/// What a channel has delivered and the peer has not settled.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// By last tag, which does not change when a run is settled from its front. All below `tail`.
    closed: BTreeMap<u64, TagRun>,
    /// The newest run, which further deliveries may prolong.
    tail: Option<TagRun>,
}

impl Unsettled {
    /// Notes deliveries with tags above all earlier ones.
    pub fn add(&mut self, run: TagRun) {
        match &mut self.tail {
            Some(tail)
                if tail.queue == run.queue
                    && tail.consumer == run.consumer
                    && tail.last + 1 == run.first
                    && tail.seq.plus(tail.last + 1 - tail.first) == run.seq =>
            {
                tail.last = run.last;
            }
            _ => {
                self.close_tail();
                self.tail = Some(run);
            }
        }
    }

    /// Puts back what was taken, as a rollback does.
    pub fn restore(&mut self, run: TagRun) {
        self.close_tail();
        self.closed.insert(run.last, run);
    }

    /// Takes one tag; `None` if it is not there.
    pub fn take_one(&mut self, tag: u64) -> Option<TagRun> {
        if let Some(tail) = self.tail.filter(|tail| tail.has(tag)) {
            let (before, one, behind) = cut_out(tail, tag);
            match behind {
                Some(_) => {
                    self.closed.extend(before.map(|run| (run.last, run)));
                    self.tail = behind;
                }
                None => self.tail = before,
            }
            return Some(one);
        }
        let (&last, run) = self.closed.range_mut(tag..).next()?;
        if !run.has(tag) {
            return None;
        }
        let (before, one, behind) = cut_out(*run, tag);
        match behind {
            Some(behind) => *run = behind,
            None => {
                self.closed.remove(&last);
            }
        }
        self.closed.extend(before.map(|run| (run.last, run)));
        Some(one)
    }

    /// Takes all tags up to and with `tag`, which must be there itself; `false` and nothing taken if it is not.
    pub fn take_through(&mut self, tag: u64, mut each: impl FnMut(TagRun)) -> bool {
        let there = self.tail.is_some_and(|tail| tail.has(tag))
            || self.closed.range(tag..).next().is_some_and(|(_, run)| run.has(tag));
        if !there {
            return false;
        }
        while let Some(mut entry) = self.closed.first_entry() {
            let run = *entry.get();
            if run.first > tag {
                return true;
            }
            let (taken, left) = run.split_after(tag);
            each(taken);
            match left {
                Some(left) => *entry.get_mut() = left,
                None => {
                    entry.remove();
                }
            }
        }
        if let Some(tail) = self.tail.take_if(|tail| tail.first <= tag) {
            let (taken, left) = tail.split_after(tag);
            each(taken);
            self.tail = left;
        }
        true
    }

    /// Takes everything.
    pub fn take_all(&mut self, mut each: impl FnMut(TagRun)) {
        std::mem::take(&mut self.closed).into_values().for_each(&mut each);
        self.tail.take().into_iter().for_each(each);
    }

    fn close_tail(&mut self) {
        self.closed.extend(self.tail.take().map(|tail| (tail.last, tail)));
    }
}

/// What is before `tag`, `tag` itself, and what is behind it.
fn cut_out(run: TagRun, tag: u64) -> (Option<TagRun>, TagRun, Option<TagRun>) {
    let (through, behind) = run.split_after(tag);
    if tag == through.first {
        return (None, through, behind);
    }
    let (before, one) = through.split_after(tag - 1);
    match one {
        Some(one) => (Some(before), one, behind),
        None => (None, before, behind),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Deliver { queue: u64, count: u64, gap: bool },
        One(u64),
        Through(u64),
        Restore,
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0u64..2, 1u64..20, any::<bool>())
                .prop_map(|(queue, count, gap)| Op::Deliver { queue, count, gap }),
            4 => (0u64..150).prop_map(Op::One),
            1 => (0u64..150).prop_map(Op::Through),
            1 => Just(Op::Restore),
        ]
    }

    proptest! {
        /// Against a map of single tags.
        #[test]
        fn behaves_like_a_map_of_tags(ops in prop::collection::vec(any_op(), 0..60)) {
            let mut unsettled = Unsettled::default();
            let mut model: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
            let mut seqs = [0u64; 2];
            let mut next = 1u64;
            let mut taken: Vec<TagRun> = Vec::new();
            for op in ops {
                match op {
                    Op::Deliver { queue, count, gap } => {
                        let seq = &mut seqs[queue as usize];
                        *seq += u64::from(gap);
                        unsettled.add(TagRun {
                            first: next,
                            last: next + count - 1,
                            queue: QueueId(queue),
                            consumer: ConsumerId(queue),
                            seq: Seq(*seq),
                        });
                        for i in 0..count {
                            model.insert(next + i, (queue, *seq + i));
                        }
                        next += count;
                        *seq += count;
                    }
                    Op::One(tag) => {
                        let one = unsettled.take_one(tag);
                        let expected = model.remove(&tag);
                        prop_assert_eq!(one.map(|r| (r.queue.0, r.seq.0)), expected);
                        prop_assert!(one.is_none_or(|r| r.first == tag && r.last == tag));
                        taken.extend(one);
                    }
                    Op::Through(tag) => {
                        let mut runs = Vec::new();
                        let there = unsettled.take_through(tag, |run| runs.push(run));
                        prop_assert_eq!(there, model.contains_key(&tag));
                        if there {
                            let above = model.split_off(&(tag + 1));
                            let below = std::mem::replace(&mut model, above);
                            prop_assert_eq!(spread(&runs), below);
                            taken.extend(runs);
                        }
                    }
                    Op::Restore => {
                        let runs = std::mem::take(&mut taken);
                        model.extend(spread(&runs));
                        runs.into_iter().for_each(|run| unsettled.restore(run));
                    }
                }
            }
            let mut rest = Vec::new();
            unsettled.take_all(|run| rest.push(run));
            prop_assert_eq!(spread(&rest), model);
        }
    }

    fn spread(runs: &[TagRun]) -> BTreeMap<u64, (u64, u64)> {
        let each = |r: &TagRun| {
            let r = *r;
            (0..u64::from(r.count())).map(move |i| (r.first + i, (r.queue.0, r.seq.0 + i)))
        };
        runs.iter().flat_map(each).collect()
    }
}
