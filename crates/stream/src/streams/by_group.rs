//! What groups have in partitions, found by group and by topic: whoever deletes a topic does not look at all groups.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// A topic and a partition.
pub(super) type Key = (Arc<str>, i32);
/// A vhost and a group, or a topic.
pub(super) type Name = (Arc<str>, Arc<str>);
/// What one group has.
pub(super) type OfGroup<V> = BTreeMap<Key, V>;

/// See the module. A group that has nothing is not in it.
#[derive(Debug)]
pub(super) struct ByGroup<V> {
    groups: BTreeMap<Name, OfGroup<V>>,
    /// The groups that have anything in a topic. Nobody but this module changes either.
    in_topics: BTreeMap<Name, BTreeSet<Arc<str>>>,
}

impl<V> Default for ByGroup<V> {
    fn default() -> ByGroup<V> {
        ByGroup { groups: BTreeMap::new(), in_topics: BTreeMap::new() }
    }
}

fn in_topic<'a, V>(all: &'a OfGroup<V>, topic: &Arc<str>) -> impl Iterator<Item = (&'a Key, &'a V)> + use<'a, V> {
    all.range((Arc::clone(topic), i32::MIN)..=(Arc::clone(topic), i32::MAX))
}

impl<V> ByGroup<V> {
    pub fn of(&self, name: &Name) -> Option<&OfGroup<V>> {
        self.groups.get(name)
    }

    pub fn get(&self, name: &Name, key: &Key) -> Option<&V> {
        self.groups.get(name)?.get(key)
    }

    pub fn get_mut(&mut self, name: &Name, key: &Key) -> Option<&mut V> {
        self.groups.get_mut(name)?.get_mut(key)
    }

    /// The next group behind one.
    pub fn name_behind(&self, from: Option<&Name>) -> Option<&Name> {
        let from = from.map_or(Bound::Unbounded, Bound::Excluded);
        self.groups.range::<Name, _>((from, Bound::Unbounded)).next().map(|(name, _)| name)
    }

    /// The groups of a vhost.
    pub fn names_of<'a>(&'a self, vhost: &'a str) -> impl Iterator<Item = &'a Name> {
        let from: Name = (vhost.into(), "".into());
        self.groups.range(from..).map(|(name, _)| name).take_while(move |(v, _)| **v == *vhost)
    }

    /// What groups have in a topic, by group and partition.
    pub fn in_topic<'a>(
        &'a self,
        vhost: &Arc<str>,
        topic: &Arc<str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Key, &'a V)> + use<'a, V> {
        let (vhost, topic) = (Arc::clone(vhost), Arc::clone(topic));
        let groups = self.in_topics.get(&(Arc::clone(&vhost), Arc::clone(&topic))).into_iter().flatten();
        let found =
            groups.filter_map(move |group| Some((group, self.groups.get(&(Arc::clone(&vhost), Arc::clone(group)))?)));
        found.flat_map(move |(group, all)| in_topic(all, &topic).map(move |(key, value)| (group, key, value)))
    }

    /// Takes it out.
    pub fn take_topic(&mut self, vhost: &Arc<str>, topic: &Arc<str>) -> Vec<(Arc<str>, Key, V)> {
        let groups = self.in_topics.remove(&(Arc::clone(vhost), Arc::clone(topic)));
        let mut taken = Vec::new();
        for group in groups.into_iter().flatten() {
            let name = (Arc::clone(vhost), Arc::clone(&group));
            let Some(all) = self.groups.get_mut(&name) else { continue };
            let keys: Vec<Key> = in_topic(all, topic).map(|(key, _)| key.clone()).collect();
            let entries = keys.iter().filter_map(|key| all.remove_entry(key));
            taken.extend(entries.map(|(key, value)| (Arc::clone(&group), key, value)));
            if all.is_empty() {
                self.groups.remove(&name);
            }
        }
        taken
    }

    /// What was there before.
    pub fn insert(&mut self, name: &Name, key: Key, value: V) -> Option<V> {
        if let Some(there) = self.get_mut(name, &key) {
            return Some(std::mem::replace(there, value));
        }
        self.or_insert_with(name, key, || value);
        None
    }

    /// What is there, or else is put there.
    pub fn or_insert_with(&mut self, name: &Name, key: Key, value: impl FnOnce() -> V) -> &mut V {
        // The texts that are kept already.
        let (vhost, group) = self.groups.get_key_value(name).map_or(name, |(known, _)| known).clone();
        match self.groups.entry((Arc::clone(&vhost), Arc::clone(&group))).or_default().entry(key) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(free) => {
                self.in_topics.entry((vhost, Arc::clone(&free.key().0))).or_default().insert(group);
                free.insert(value())
            }
        }
    }

    pub fn remove(&mut self, name: &Name, key: &Key) -> Option<V> {
        let all = self.groups.get_mut(name)?;
        let value = all.remove(key)?;
        if in_topic(all, &key.0).next().is_none()
            && let Entry::Occupied(mut groups) = self.in_topics.entry((Arc::clone(&name.0), Arc::clone(&key.0)))
        {
            groups.get_mut().remove(&name.1);
            if groups.get().is_empty() {
                groups.remove();
            }
        }
        if all.is_empty() {
            self.groups.remove(name);
        }
        Some(value)
    }

    /// What is noted of topics is what groups have: noted anew.
    #[cfg(test)]
    pub fn check(&self) {
        let mut noted: BTreeMap<Name, BTreeSet<Arc<str>>> = BTreeMap::new();
        for ((vhost, group), all) in &self.groups {
            assert!(!all.is_empty(), "{group} has nothing");
            for (topic, _) in all.keys() {
                noted.entry((Arc::clone(vhost), Arc::clone(topic))).or_default().insert(Arc::clone(group));
            }
        }
        assert_eq!(self.in_topics, noted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::random;

    /// Whatever happens in whatever order, it is what a plain list of names and keys would be.
    #[test]
    fn random_histories() {
        for seed in 1..60_u64 {
            let mut next = random(seed);
            let mut text = |kind: &str, most| -> Arc<str> { format!("{kind}{}", next(most)).into() };
            let (mut all, mut model) = (ByGroup::default(), BTreeMap::new());
            for n in 0..400 {
                let (name, topic) = ((text("v", 2), text("g", 4)), text("t", 3));
                let key = (Arc::clone(&topic), text("", 3).parse().unwrap());
                match &*text("", 8) {
                    "0" => {
                        let taken: Vec<_> = all.take_topic(&name.0, &topic);
                        let goes = |(v, _, t, _): &(Arc<str>, Arc<str>, Arc<str>, i32)| *v == name.0 && *t == topic;
                        let before = model.len();
                        model.retain(|at, _| !goes(at));
                        assert_eq!(taken.len(), before - model.len(), "seed {seed}");
                    }
                    "1" | "2" => {
                        let at = (Arc::clone(&name.0), Arc::clone(&name.1), Arc::clone(&topic), key.1);
                        assert_eq!(all.remove(&name, &key), model.remove(&at), "seed {seed}");
                    }
                    how => {
                        let at = (Arc::clone(&name.0), Arc::clone(&name.1), Arc::clone(&topic), key.1);
                        if how == "3" {
                            let there = *all.or_insert_with(&name, key, || n);
                            assert_eq!(there, *model.entry(at).or_insert(n), "seed {seed}");
                        } else {
                            assert_eq!(all.insert(&name, key, n), model.insert(at, n), "seed {seed}");
                        }
                    }
                }
                all.check();
                let of = |(v, _, t, _): &(Arc<str>, Arc<str>, Arc<str>, i32)| *v == name.0 && *t == topic;
                let here: Vec<_> = model.iter().filter(|(at, _)| of(at)).map(|(at, n)| (&at.1, at.3, n)).collect();
                let found: Vec<_> = all.in_topic(&name.0, &topic).map(|(group, key, n)| (group, key.1, n)).collect();
                assert_eq!(found, here, "seed {seed}");
            }
        }
    }
}
