//! What falls due when: one heap, one deadline per instance or node, looked at lazily. A renewed lease does not touch it;
//! the old deadline comes, finds that it is not due yet, and is put off.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use waypost_model::Millis;

/// Whose deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Subject {
    /// An instance, by its place.
    Instance(u32),
    /// A node, by its place.
    Node(u32),
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Millis, Subject)>>,
}

impl Timers {
    /// Sets a deadline. One that was set before stays and comes too.
    pub fn set(&mut self, at: Millis, subject: Subject) {
        self.heap.push(Reverse((at, subject)));
    }

    /// The next that is due.
    pub fn pop(&mut self, now: Millis) -> Option<(Millis, Subject)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(due)| due)
    }

    pub fn next(&self) -> Option<Millis> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Drops the deadlines for which `stands` says no, and all but one of equal ones. Those of who is gone would
    /// otherwise stay until they come.
    pub fn retain(&mut self, stands: impl Fn(Millis, Subject) -> bool) {
        let mut all = std::mem::take(&mut self.heap).into_vec();
        all.retain(|Reverse((at, subject))| stands(*at, *subject));
        all.sort_unstable();
        all.dedup();
        self.heap = all.into();
    }
}
