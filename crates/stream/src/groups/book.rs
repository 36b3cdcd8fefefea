//! Groups of one kind, with what is noted of each so that nobody has to look at all of them: when something is due, how
//! much its members have said, and whether it was told that it has any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::Millis;

use super::PARTITIONS_OF_ALL_MAX;

/// A group's vhost and name.
pub(super) type Name = (Arc<str>, Arc<str>);

/// What a group of either kind tells of itself.
pub(super) trait Kept: Default {
    /// What is kept of its members, bytes, about.
    fn bytes(&self) -> usize;
    /// How many partitions are dealt out in it, as far as the server knows.
    fn partitions(&self) -> u64;
    /// When it is to be looked at again, at the latest.
    fn deadline(&self) -> Option<Millis>;
    fn has_members(&self) -> bool;
    /// Nothing would be lost with it.
    fn is_forgotten(&self) -> bool;
    /// Does what is due.
    fn tick(&mut self, now: Millis);
}

#[derive(Debug, Default)]
struct Entry<G> {
    group: G,
    /// What of it is in [`Book::bytes`].
    bytes: usize,
    /// And of what is in [`Book::partitions`].
    partitions: u64,
    /// Where it is in [`Book::due`].
    due: Option<Millis>,
    /// Whether it was told that it has members, and whether it had any since.
    told: bool,
    populated: bool,
}

/// See the module. Whoever changes a group does so by [`Book::change`], or settles it afterwards; what only puts a deadline
/// off need not: the group is looked at in vain then, and finds the later one.
#[derive(Debug)]
pub(super) struct Book<G> {
    groups: BTreeMap<Name, Entry<G>>,
    due: BTreeSet<(Millis, Name)>,
    bytes: usize,
    partitions: u64,
    /// Most of them: [`PARTITIONS_OF_ALL_MAX`].
    pub partitions_max: u64,
}

impl<G> Default for Book<G> {
    fn default() -> Book<G> {
        let (groups, due) = (BTreeMap::new(), BTreeSet::new());
        Book { groups, due, bytes: 0, partitions: 0, partitions_max: PARTITIONS_OF_ALL_MAX }
    }
}

impl<G: Kept> Book<G> {
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// What members of all groups have said, bytes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same of one group.
    pub fn bytes_of(&self, name: &Name) -> usize {
        self.groups.get(name).map_or(0, |e| e.bytes)
    }

    /// Whether a group may have so many partitions dealt out. One that has as many goes on, however many there are.
    pub fn has_room_for(&self, name: &Name, partitions: u64) -> bool {
        let more = partitions.saturating_sub(self.groups.get(name).map_or(0, |e| e.partitions));
        more == 0 || self.partitions + more <= self.partitions_max
    }

    /// Notes how many partitions a group has now, where nothing else has changed.
    pub fn count(&mut self, name: &Name) {
        let Some(entry) = self.groups.get_mut(name) else { return };
        let partitions = entry.group.partitions();
        self.partitions = self.partitions - entry.partitions + partitions;
        entry.partitions = partitions;
    }

    pub fn get(&self, name: &Name) -> Option<&G> {
        self.groups.get(name).map(|e| &e.group)
    }

    pub fn get_mut(&mut self, name: &Name) -> Option<&mut G> {
        self.groups.get_mut(name).map(|e| &mut e.group)
    }

    pub fn has_members(&self, name: &Name) -> bool {
        self.get(name).is_some_and(G::has_members)
    }

    /// The groups of a vhost, by name.
    pub fn of<'a>(&'a self, vhost: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a G)> {
        let from = (Arc::from(vhost), Arc::from(""));
        self.groups.range(from..).take_while(move |((v, _), _)| **v == *vhost).map(|((_, n), e)| (n, &e.group))
    }

    /// Changes a group, which is made if there is none.
    pub fn change<R>(&mut self, name: &Name, now: Millis, change: impl FnOnce(&mut G) -> R) -> R {
        let entry = self.groups.entry(name.clone()).or_default();
        let changed = change(&mut entry.group);
        self.settle(name, now);
        changed
    }

    /// Notes what a group that was changed is now.
    pub fn settle(&mut self, name: &Name, now: Millis) {
        self.count(name);
        let Some(entry) = self.groups.get_mut(name) else { return };
        let bytes = entry.group.bytes();
        self.bytes = self.bytes - entry.bytes + bytes;
        entry.bytes = bytes;
        let has_members = entry.group.has_members();
        entry.populated |= has_members;
        let news = entry.told != has_members || entry.populated != has_members || entry.group.is_forgotten();
        let due = if news { Some(now) } else { entry.group.deadline() };
        self.put_at(name, due);
    }

    /// Something in a group may be due so early.
    pub fn due_by(&mut self, name: &Name, at: Millis) {
        let known = self.groups.get(name).map(|e| e.due);
        if known.is_some_and(|due| due.is_none_or(|due| due > at)) {
            self.put_at(name, Some(at));
        }
    }

    fn put_at(&mut self, name: &Name, due: Option<Millis>) {
        let Some(entry) = self.groups.get_mut(name).filter(|e| e.due != due) else { return };
        let before = std::mem::replace(&mut entry.due, due);
        if let Some(before) = before {
            self.due.remove(&(before, name.clone()));
        }
        self.due.extend(due.map(|at| (at, name.clone())));
    }

    pub fn forget(&mut self, name: &Name) {
        self.put_at(name, None);
        if let Some(entry) = self.groups.remove(name) {
            self.bytes -= entry.bytes;
            self.partitions -= entry.partitions;
        }
    }

    /// Does what is due in those groups where anything is, and `then` something with each; whose members have come, or all
    /// gone, goes to `changed`.
    pub fn tick(&mut self, now: Millis, changed: &mut BTreeSet<Name>, mut then: impl FnMut(&Name, &mut G)) {
        let due: Vec<Name> = self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, name)| name.clone()).collect();
        for name in due {
            let Some(entry) = self.groups.get_mut(&name) else { continue };
            entry.group.tick(now);
            then(&name, &mut entry.group);
            let has_members = entry.group.has_members();
            if has_members != entry.told || has_members != entry.populated {
                changed.insert(name.clone());
            }
            (entry.told, entry.populated) = (has_members, has_members);
            if entry.group.is_forgotten() {
                self.forget(&name);
            } else {
                self.settle(&name, now);
            }
        }
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Millis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// What is noted is what is: counted anew.
    #[cfg(test)]
    pub fn check(&self) {
        let counted: usize = self.groups.values().map(|e| e.group.bytes()).sum();
        assert_eq!(self.bytes, counted, "bytes");
        assert_eq!(self.partitions, self.groups.values().map(|e| e.group.partitions()).sum::<u64>(), "partitions");
        for (name, entry) in &self.groups {
            let due = entry.due;
            assert_eq!(due.is_some(), due.is_some_and(|at| self.due.contains(&(at, name.clone()))));
            let deadline = entry.group.deadline();
            assert!(deadline.is_none_or(|at| due.is_some_and(|due| due <= at)), "{name:?}: {due:?} for {deadline:?}");
        }
        assert_eq!(self.due.len(), self.groups.values().filter(|e| e.due.is_some()).count());
    }
}
