//! Members by what they read: those that name the same topics are a class, and so are those that have the same pattern. There
//! are few of them where there are many members, and a topic that is dealt out is compared with classes, not with members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::streams::TopicId;

/// See the module. A member is in one class by the topics that it names, and in another one by its pattern, if it has one.
#[derive(Debug, Default)]
pub(super) struct Classes {
    named: BTreeMap<BTreeSet<Arc<str>>, usize>,
    matching: BTreeMap<Box<str>, usize>,
    /// What each class reads.
    topics_of: Vec<BTreeSet<TopicId>>,
    /// The classes of each member.
    members: Vec<[Option<usize>; 2]>,
    /// How many partitions topics have, and which classes read them.
    topics: BTreeMap<TopicId, (u32, Vec<usize>)>,
}

impl Classes {
    /// The class of those that name these topics.
    pub fn named(&mut self, names: &BTreeSet<Arc<str>>, topics: impl FnOnce() -> BTreeMap<TopicId, u32>) -> usize {
        if let Some(class) = self.named.get(names) {
            return *class;
        }
        let class = self.new_class(topics());
        self.named.insert(names.clone(), class);
        class
    }

    /// The class of those that have a pattern.
    pub fn matching(&mut self, pattern: &str, topics: impl FnOnce() -> BTreeMap<TopicId, u32>) -> usize {
        if let Some(class) = self.matching.get(pattern) {
            return *class;
        }
        let class = self.new_class(topics());
        self.matching.insert(pattern.into(), class);
        class
    }

    fn new_class(&mut self, topics: BTreeMap<TopicId, u32>) -> usize {
        let class = self.topics_of.len();
        for (topic, count) in &topics {
            self.topics.entry(*topic).or_insert_with(|| (*count, Vec::new())).1.push(class);
        }
        self.topics_of.push(topics.into_keys().collect());
        class
    }

    /// The next member is in these.
    pub fn add(&mut self, classes: [Option<usize>; 2]) {
        self.members.push(classes);
    }

    pub fn len(&self) -> usize {
        self.topics_of.len()
    }

    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// The classes of a member.
    pub fn of(&self, at: usize) -> impl Iterator<Item = usize> + use<> {
        self.members.get(at).copied().unwrap_or_default().into_iter().flatten()
    }

    pub fn reads(&self, at: usize, topic: TopicId) -> bool {
        self.of(at).any(|class| self.topics_of.get(class).is_some_and(|topics| topics.contains(&topic)))
    }

    /// All topics, with how many partitions they have and which classes read them.
    pub fn topics(&self) -> impl Iterator<Item = (TopicId, u32, &[usize])> {
        self.topics.iter().map(|(topic, (count, reading))| (*topic, *count, &**reading))
    }

    /// The members of each class, in an order: their place in it, and which they are.
    pub fn in_order(&self, order: &[usize]) -> Vec<Vec<(usize, usize)>> {
        let mut all = vec![Vec::new(); self.len()];
        for (place, at) in order.iter().enumerate() {
            for class in self.of(*at) {
                if let Some(members) = all.get_mut(class) {
                    members.push((place, *at));
                }
            }
        }
        all
    }
}
