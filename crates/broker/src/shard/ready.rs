//! The messages of a queue that wait for a consumer: levels by priority, counts, and deadlines.

use std::collections::BTreeSet;

use waypost_model::{Lsn, Millis};

use super::level::{Kept, Level, Merge};
use super::run::{NEVER, Run, Sizes};

/// See the module.
#[derive(Debug)]
pub(super) struct Ready {
    base: Level,
    upper: Option<Box<Upper>>,
    deadlines: Option<BTreeSet<Deadline>>,
    messages: u64,
    payload: u64,
    body: u64,
    memory: u64,
    /// How precisely sizes are kept.
    pub sizes: Sizes,
}

/// Levels above 0, of queues with priorities.
#[derive(Debug)]
struct Upper {
    levels: Box<[Level]>,
    /// A bit per level that is not empty.
    occupied: [u64; 4],
}

/// A run by its deadline. Runs are named by their last place, which does not change while messages leave at the front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Deadline {
    at: Millis,
    last: u64,
    level: u8,
}

/// What is to be delivered next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Empty,
    /// What is there waits for the journal.
    Blocked(Lsn),
    /// The first run of this level.
    Level(u8),
}

impl Ready {
    pub fn new(max_priority: Option<u8>) -> Ready {
        let upper = max_priority.filter(|p| *p > 0).map(|p| {
            let levels = (0..p).map(|_| Level::default()).collect();
            Box::new(Upper { levels, occupied: [0; 4] })
        });
        let base = Level::default();
        Ready { base, upper, deadlines: None, messages: 0, payload: 0, body: 0, memory: 0, sizes: Sizes::Near }
    }

    pub fn messages(&self) -> u64 {
        self.messages
    }

    pub fn payload(&self) -> u64 {
        self.payload
    }

    pub fn body(&self) -> u64 {
        self.body
    }

    pub fn memory(&self) -> u64 {
        self.memory
    }

    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Levels, from the least urgent.
    pub fn levels(&self) -> impl Iterator<Item = u8> + use<> {
        let upper = self.upper.as_ref().map_or(0, |u| u.levels.len());
        0..=u8::try_from(upper).unwrap_or(u8::MAX)
    }

    fn level_of(&self, run: &Run) -> u8 {
        let top = self.upper.as_ref().map_or(0, |u| u.levels.len());
        run.attrs.priority.min(u8::try_from(top).unwrap_or(u8::MAX))
    }

    fn level(&self, i: u8) -> &Level {
        match &self.upper {
            Some(u) if i > 0 => u.levels.get(usize::from(i) - 1).unwrap_or(&self.base),
            _ => &self.base,
        }
    }

    pub fn level_mut(&mut self, i: u8) -> &mut Level {
        match &mut self.upper {
            Some(u) if i > 0 => u.levels.get_mut(usize::from(i) - 1).unwrap_or(&mut self.base),
            _ => &mut self.base,
        }
    }

    fn note_occupied(&mut self, i: u8) {
        if i == 0 {
            return;
        }
        let empty = self.level(i).is_empty();
        if let Some(u) = &mut self.upper
            && let Some(word) = u.occupied.get_mut(usize::from(i) / 64)
        {
            let bit = 1u64 << (i % 64);
            *word = if empty { *word & !bit } else { *word | bit };
        }
    }

    /// The most urgent level below `bound` (of 256) that has messages.
    fn occupied_below(&self, bound: u16) -> Option<u8> {
        let upper = self.upper.as_deref().and_then(|u| {
            (0..4u16).rev().find_map(|w| {
                let mask = match bound.saturating_sub(w * 64) {
                    0 => return None,
                    n if n >= 64 => u64::MAX,
                    n => (1 << n) - 1,
                };
                let word = u.occupied.get(usize::from(w))? & mask;
                (word != 0).then(|| w * 64 + 63 - word.leading_zeros() as u16)
            })
        });
        match upper {
            Some(i) => u8::try_from(i).ok(),
            None => (bound > 0 && !self.base.is_empty()).then_some(0),
        }
    }

    /// What is next, given how far the journal is durable.
    pub fn next(&self, durable: Lsn) -> Next {
        let (mut bound, mut blocked) = (256, None::<Lsn>);
        while let Some(i) = self.occupied_below(bound) {
            if let Some(front) = self.level(i).front() {
                if front.lsn <= durable {
                    return Next::Level(i);
                }
                blocked = Some(blocked.map_or(front.lsn, |b| b.min(front.lsn)));
            }
            bound = u16::from(i);
        }
        blocked.map_or(Next::Empty, Next::Blocked)
    }

    /// The most urgent level that has messages.
    pub fn top(&self) -> Option<u8> {
        self.occupied_below(256)
    }

    /// The first run of a level.
    pub fn front(&self, i: u8) -> Option<&Run> {
        self.level(i).front()
    }

    /// The first run of a level, readable.
    pub fn front_sealed(&mut self, i: u8) -> Option<&Run> {
        self.level_mut(i).front_sealed()
    }

    fn count_in(&mut self, run: &Run) {
        self.messages += u64::from(run.count);
        self.payload += run.payload;
        self.body += run.body;
        self.memory += run.memory();
    }

    fn count_out(&mut self, i: u8, run: &Run) {
        self.messages = self.messages.saturating_sub(u64::from(run.count));
        self.payload = self.payload.saturating_sub(run.payload);
        self.body = self.body.saturating_sub(run.body);
        self.memory = self.memory.saturating_sub(run.memory());
        self.note_occupied(i);
        if self.messages == 0 {
            self.deadlines = None;
        }
    }

    /// Keeps a run of fresh messages.
    pub fn keep(&mut self, run: Run, merge: Merge) {
        self.count_in(&run);
        let i = self.level_of(&run);
        let (at, last) = (run.deadline, run.last());
        let sorted = at == NEVER || self.upper.is_none() && self.base.back().is_none_or(|b| b.deadline <= at);
        self.index_unless(sorted);
        let sizes = self.sizes;
        let kept = self.level_mut(i).keep(run, merge, sizes);
        self.note_occupied(i);
        self.index(i, at, last, kept);
    }

    /// Keeps a run that came back.
    pub fn give_back(&mut self, run: Run) {
        self.count_in(&run);
        let i = self.level_of(&run);
        let (at, last) = (run.deadline, run.last());
        let sorted = if self.upper.is_some() {
            at == NEVER
        } else {
            let (before, after) = self.base.neighbours(run.first.0);
            before.is_none_or(|b| b.deadline <= at) && after.is_none_or(|a| at <= a.deadline)
        };
        self.index_unless(sorted);
        let sizes = self.sizes;
        let kept = self.level_mut(i).give_back(run, sizes);
        self.note_occupied(i);
        self.index(i, at, last, kept);
    }

    /// From the moment on that deadlines do not rise with places, or that there are any beside priorities, they are
    /// kept sorted.
    fn index_unless(&mut self, sorted: bool) {
        if sorted || self.deadlines.is_some() {
            return;
        }
        let mut all = BTreeSet::new();
        for level in self.levels() {
            let runs = self.level(level).iter().filter(|r| r.deadline != NEVER);
            all.extend(runs.map(|r| Deadline { at: r.deadline, last: r.last(), level }));
        }
        self.deadlines = Some(all);
    }

    fn index(&mut self, level: u8, at: Millis, last: u64, kept: Kept) {
        let Some(all) = self.deadlines.as_mut().filter(|_| at != NEVER) else {
            return;
        };
        if let Kept::Merged { old_last } = kept {
            all.remove(&Deadline { at, last: old_last, level });
        }
        all.insert(Deadline { at, last, level });
    }

    fn unindex(&mut self, level: u8, run: &Run) {
        if let Some(all) = &mut self.deadlines {
            all.remove(&Deadline { at: run.deadline, last: run.last(), level });
        }
    }

    /// Takes the first messages of a level, at most `n` of its first run.
    pub fn take_front(&mut self, i: u8, n: u32) -> Option<Run> {
        let whole = n >= self.level(i).front()?.count;
        let taken = self.level_mut(i).take_front(n)?;
        if whole {
            self.unindex(i, &taken);
        }
        self.count_out(i, &taken);
        Some(taken)
    }

    /// Takes the last fresh run of a level.
    pub fn take_back(&mut self, i: u8) -> Option<Run> {
        let taken = self.level_mut(i).take_back()?;
        self.unindex(i, &taken);
        self.count_out(i, &taken);
        Some(taken)
    }

    /// Keeps a run that was taken with [`Ready::take_back`], in order.
    pub fn put_back(&mut self, level: u8, run: Run) {
        debug_assert_eq!(level, self.level_of(&run));
        self.keep(run, Merge::Allowed);
    }

    /// The last fresh run of a level.
    pub fn back(&self, level: u8) -> Option<&Run> {
        self.level(level).back()
    }

    /// When the next message dies.
    pub fn next_deadline(&self) -> Millis {
        match &self.deadlines {
            Some(all) => all.first().map_or(NEVER, |d| d.at),
            None => self.base.fronts().map(|r| r.deadline).min().unwrap_or(NEVER),
        }
    }

    /// Takes a run whose deadline has come, the earliest first.
    pub fn take_expired(&mut self, now: Millis) -> Option<Run> {
        if self.next_deadline() > now {
            return None;
        }
        let (level, place) = match &mut self.deadlines {
            Some(all) => {
                let d = all.pop_first()?;
                (d.level, d.last)
            }
            None => (0, self.base.fronts().filter(|r| r.deadline <= now).min_by_key(|r| (r.deadline, r.first))?.last()),
        };
        let taken = self.level_mut(level).take_at(place)?;
        self.count_out(level, &taken);
        Some(taken)
    }

    /// Takes the run that holds a place.
    pub fn take_at(&mut self, place: u64) -> Option<Run> {
        let (level, taken) = self.levels().find_map(|i| Some((i, self.level_mut(i).take_at(place)?)))?;
        self.unindex(level, &taken);
        self.count_out(level, &taken);
        Some(taken)
    }

    /// Takes everything, the most urgent first.
    pub fn take_all(&mut self) -> Vec<Run> {
        let mut all = Vec::new();
        while let Some(i) = self.top() {
            all.extend(self.level_mut(i).take_all());
            self.note_occupied(i);
        }
        self.deadlines = None;
        (self.messages, self.payload, self.body, self.memory) = (0, 0, 0, 0);
        all
    }

    /// When the oldest of those next in line came.
    pub fn head_at(&self) -> Option<Millis> {
        self.front(self.top()?).map(|r| r.at)
    }
}
