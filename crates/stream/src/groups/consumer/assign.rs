//! Who is to read what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{ConsumerGroup, Parts};
use crate::streams::TopicId;

/// Even shares, of which as much as possible stays where it is.
const UNIFORM: &str = "uniform";
/// Of each topic a range of neighbours, so that equal partitions of equal topics meet.
const RANGE: &str = "range";
/// What members may ask for; the first is what those get who do not.
pub const ASSIGNORS: &[&str] = &[UNIFORM, RANGE];
/// How often shares are looked through for what would be better elsewhere.
const PASSES_MAX: usize = 16;

impl ConsumerGroup {
    /// What most members like best, of those that say.
    pub fn assignor(&self) -> &'static str {
        let votes = |name: &str| self.members.values().filter(|m| m.assignor.as_deref() == Some(name)).count();
        if votes(RANGE) > votes(UNIFORM) { RANGE } else { UNIFORM }
    }

    /// Deals out for the present epoch.
    pub(super) fn deal_out(&mut self) {
        let ids: Vec<Box<str>> = self.members.keys().cloned().collect();
        let subscribed: Vec<BTreeMap<TopicId, u32>> = self.members.values().map(|m| self.topics_of(m)).collect();
        let targets = if self.assignor() == RANGE {
            let order = |at: &usize| {
                let id = ids.get(*at);
                let instance = id.and_then(|id| self.members.get(id)?.instance.clone());
                (instance.is_none(), instance.or(id.cloned()))
            };
            let mut members: Vec<usize> = (0..ids.len()).collect();
            members.sort_by_key(order);
            range(&subscribed, &members)
        } else {
            uniform(&subscribed, self.members.values().map(|m| &m.target))
        };
        for (member, target) in self.members.values_mut().zip(targets) {
            member.target = target;
        }
        self.target_epoch = self.epoch;
    }

    fn topics_of(&self, member: &super::Member) -> BTreeMap<TopicId, u32> {
        let matching = self.matches.get(&member.pattern).into_iter().flatten();
        let names: BTreeSet<&Arc<str>> = member.names.iter().chain(matching).collect();
        names.into_iter().filter_map(|name| self.topics.get(name).copied()).collect()
    }
}

/// Per topic, its subscribers in order share neighbours.
fn range(subscribed: &[BTreeMap<TopicId, u32>], order: &[usize]) -> Vec<Parts> {
    let mut targets = vec![Parts::new(); subscribed.len()];
    let topics: BTreeMap<TopicId, u32> = subscribed.iter().flatten().map(|(t, n)| (*t, *n)).collect();
    for (topic, count) in topics {
        let readers: Vec<usize> =
            order.iter().copied().filter(|at| subscribed.get(*at).is_some_and(|s| s.contains_key(&topic))).collect();
        let (each, more) = (count as usize / readers.len().max(1), count as usize % readers.len().max(1));
        let mut next = 0_i32;
        for (place, at) in readers.into_iter().enumerate() {
            let share = i32::try_from(each + usize::from(place < more)).unwrap_or(i32::MAX);
            if let Some(target) = targets.get_mut(at).filter(|_| share > 0) {
                target.insert(topic, (next..next + share).collect());
            }
            next += share;
        }
    }
    targets
}

/// Shares that differ by one at most, where subscriptions allow it. What was dealt out before stays where it may.
fn uniform<'a>(subscribed: &[BTreeMap<TopicId, u32>], before: impl Iterator<Item = &'a Parts>) -> Vec<Parts> {
    let mut shares = Shares::new(subscribed);
    for (at, parts) in before.enumerate() {
        for (topic, all) in parts {
            all.iter().for_each(|p| shares.keep(at, *topic, *p));
        }
    }
    shares.give_the_rest();
    for _ in 0..PASSES_MAX {
        if !shares.even_out() {
            break;
        }
    }
    shares.targets
}

struct Shares<'a> {
    subscribed: &'a [BTreeMap<TopicId, u32>],
    /// What belongs to nobody yet.
    left: BTreeSet<(TopicId, i32)>,
    targets: Vec<Parts>,
    loads: Vec<usize>,
    /// Members by what they have.
    by_load: BTreeSet<(usize, usize)>,
}

impl<'a> Shares<'a> {
    fn new(subscribed: &'a [BTreeMap<TopicId, u32>]) -> Shares<'a> {
        let topics: BTreeMap<TopicId, u32> = subscribed.iter().flatten().map(|(t, n)| (*t, *n)).collect();
        let all =
            |(topic, count): (TopicId, u32)| (0..i32::try_from(count).unwrap_or(i32::MAX)).map(move |p| (topic, p));
        Shares {
            subscribed,
            left: topics.into_iter().flat_map(all).collect(),
            targets: vec![Parts::new(); subscribed.len()],
            loads: vec![0; subscribed.len()],
            by_load: (0..subscribed.len()).map(|at| (0, at)).collect(),
        }
    }

    fn reads(&self, at: usize, topic: TopicId) -> bool {
        self.subscribed.get(at).is_some_and(|s| s.contains_key(&topic))
    }

    fn weigh(&mut self, at: usize, change: impl FnOnce(usize) -> usize) {
        if let Some(load) = self.loads.get_mut(at) {
            self.by_load.remove(&(*load, at));
            *load = change(*load);
            self.by_load.insert((*load, at));
        }
    }

    fn give(&mut self, at: usize, topic: TopicId, partition: i32) {
        if let Some(target) = self.targets.get_mut(at) {
            target.entry(topic).or_default().insert(partition);
            self.weigh(at, |load| load + 1);
        }
    }

    fn keep(&mut self, at: usize, topic: TopicId, partition: i32) {
        if self.reads(at, topic) && self.left.remove(&(topic, partition)) {
            self.give(at, topic, partition);
        }
    }

    /// Who has least of those that read a topic.
    fn least(&self, topic: TopicId) -> Option<(usize, usize)> {
        self.by_load.iter().copied().find(|(_, at)| self.reads(*at, topic))
    }

    fn give_the_rest(&mut self) {
        for (topic, partition) in std::mem::take(&mut self.left) {
            if let Some((_, at)) = self.least(topic) {
                self.give(at, topic, partition);
            }
        }
    }

    /// Moves what would be better elsewhere; whether anything was.
    fn even_out(&mut self) -> bool {
        let mut moved = false;
        for from in 0..self.targets.len() {
            let all: Vec<(TopicId, i32)> =
                self.targets.get(from).into_iter().flatten().flat_map(|(t, ps)| ps.iter().map(|p| (*t, *p))).collect();
            for (topic, partition) in all {
                let load = self.loads.get(from).copied().unwrap_or(0);
                let Some((_, to)) = self.least(topic).filter(|(least, _)| load > least + 1) else { continue };
                if let Some(parts) = self.targets.get_mut(from).and_then(|t| t.get_mut(&topic)) {
                    parts.remove(&partition);
                }
                self.weigh(from, |load| load - 1);
                self.give(to, topic, partition);
                moved = true;
            }
        }
        for target in &mut self.targets {
            target.retain(|_, parts| !parts.is_empty());
        }
        moved
    }
}
