//! Who is to read what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::classes::Classes;
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
        let classes = self.classes();
        let targets = if self.assignor() == RANGE {
            range(&classes, &self.order())
        } else {
            uniform(&classes, self.members.values().map(|m| &m.target))
        };
        for ((id, member), target) in self.members.iter_mut().zip(targets) {
            if member.target != target {
                member.target = target;
                self.changes.has(id);
            }
        }
        self.target_epoch = self.epoch;
        self.changes.epochs();
    }

    fn classes(&self) -> Classes {
        let found = |name: &Arc<str>| self.topics.get(name).copied();
        let matching: BTreeMap<&str, BTreeMap<TopicId, u32>> =
            self.matches.iter().map(|(p, names)| (&**p, names.iter().filter_map(found).collect())).collect();
        let mut classes = Classes::default();
        for member in self.members.values() {
            let names = classes.named(&member.names, || member.names.iter().filter_map(found).collect());
            let pattern = matching.get(&*member.pattern);
            let pattern = pattern.map(|topics| classes.matching(&member.pattern, || topics.clone()));
            classes.add([Some(names), pattern]);
        }
        classes
    }

    /// The places of members in order: instances first, by their names.
    fn order(&self) -> Vec<usize> {
        let mut members: Vec<_> = self.members.iter().enumerate().collect();
        members.sort_by_key(|(_, (id, m))| (m.instance.is_none(), m.instance.as_ref().unwrap_or(id)));
        members.into_iter().map(|(at, _)| at).collect()
    }
}

/// Per topic, its subscribers in order share neighbours.
fn range(classes: &Classes, order: &[usize]) -> Vec<Parts> {
    let mut targets = vec![Parts::new(); order.len()];
    let in_order = classes.in_order(order);
    for (topic, count, reading) in classes.topics() {
        // Of more readers than partitions only the first get any.
        let firsts = reading.iter().filter_map(|class| in_order.get(*class));
        let readers: BTreeSet<(usize, usize)> =
            firsts.flat_map(|members| members.iter().take(count as usize).copied()).collect();
        let (each, more) = (count as usize / readers.len().max(1), count as usize % readers.len().max(1));
        let mut next = 0_i32;
        for (place, (_, at)) in readers.into_iter().take(count as usize).enumerate() {
            let share = i32::try_from(if each == 0 { 1 } else { each + usize::from(place < more) }).unwrap_or(i32::MAX);
            if let Some(target) = targets.get_mut(at) {
                target.insert(topic, (next..next + share).collect());
            }
            next += share;
        }
    }
    targets
}

/// Shares that differ by one at most, where subscriptions allow it. What was dealt out before stays where it may.
fn uniform<'a>(classes: &Classes, before: impl Iterator<Item = &'a Parts>) -> Vec<Parts> {
    let mut shares = Shares::new(classes);
    before.enumerate().for_each(|(at, parts)| shares.keep(at, parts));
    shares.weigh_all();
    shares.give_the_rest();
    for _ in 0..PASSES_MAX {
        if !shares.even_out() {
            break;
        }
    }
    shares.targets
}

/// How much a member has, and which it is.
type Load = (usize, usize);

struct Shares<'a> {
    classes: &'a Classes,
    /// Who has what, by partition.
    owners: BTreeMap<TopicId, Vec<Option<usize>>>,
    targets: Vec<Parts>,
    loads: Vec<usize>,
    /// Members of each class by what they have.
    by_load: Vec<BTreeSet<Load>>,
    /// Of the classes that read the topic that is dealt out now: who has least.
    least: BTreeSet<(Load, usize)>,
    least_of: BTreeMap<usize, Load>,
}

impl<'a> Shares<'a> {
    fn new(classes: &'a Classes) -> Shares<'a> {
        let members = classes.members();
        Shares {
            classes,
            owners: classes.topics().map(|(topic, count, _)| (topic, vec![None; count as usize])).collect(),
            targets: vec![Parts::new(); members],
            loads: vec![0; members],
            by_load: vec![BTreeSet::new(); classes.len()],
            least: BTreeSet::new(),
            least_of: BTreeMap::new(),
        }
    }

    /// What a member had stays where it may. Nothing is weighed yet: that is most of it, and most of it stays.
    fn keep(&mut self, at: usize, parts: &Parts) {
        let (Some(target), Some(load)) = (self.targets.get_mut(at), self.loads.get_mut(at)) else { return };
        for (topic, all) in parts.iter().filter(|(topic, _)| self.classes.reads(at, **topic)) {
            let Some(owners) = self.owners.get_mut(topic) else { continue };
            let mut is_free = |partition: &i32| {
                let owner = usize::try_from(*partition).ok().and_then(|place| owners.get_mut(place));
                owner.filter(|owner| owner.is_none()).map(|owner| *owner = Some(at)).is_some()
            };
            let kept: BTreeSet<i32> = all.iter().copied().filter(|partition| is_free(partition)).collect();
            if !kept.is_empty() {
                *load += kept.len();
                target.insert(*topic, kept);
            }
        }
    }

    fn weigh_all(&mut self) {
        for (at, load) in self.loads.iter().enumerate() {
            for class in self.classes.of(at) {
                if let Some(set) = self.by_load.get_mut(class) {
                    set.insert((*load, at));
                }
            }
        }
    }

    /// From now on it is about a topic that these classes read.
    fn turn_to(&mut self, reading: &[usize]) {
        self.least.clear();
        self.least_of.clear();
        for class in reading {
            if let Some(load) = self.by_load.get(*class).and_then(BTreeSet::first) {
                self.least.insert((*load, *class));
                self.least_of.insert(*class, *load);
            }
        }
    }

    /// Who has least of those that read the topic.
    fn least(&self) -> Option<Load> {
        self.least.first().map(|(load, _)| *load)
    }

    fn weigh(&mut self, at: usize, change: impl FnOnce(usize) -> usize) {
        let Some(load) = self.loads.get_mut(at) else { return };
        let before = (*load, at);
        *load = change(*load);
        let after = (*load, at);
        for class in self.classes.of(at) {
            let Some(set) = self.by_load.get_mut(class) else { continue };
            set.remove(&before);
            set.insert(after);
            if let (Some(known), Some(first)) = (self.least_of.get_mut(&class), set.first()) {
                self.least.remove(&(*known, class));
                self.least.insert((*first, class));
                *known = *first;
            }
        }
    }

    fn give(&mut self, at: usize, topic: TopicId, partition: i32) {
        if let Some(target) = self.targets.get_mut(at) {
            target.entry(topic).or_default().insert(partition);
            self.weigh(at, |load| load + 1);
        }
    }

    fn give_the_rest(&mut self) {
        let mut all = std::mem::take(&mut self.owners);
        for (topic, _, reading) in self.classes.topics() {
            let Some(owners) = all.get_mut(&topic).filter(|owners| owners.contains(&None)) else { continue };
            self.turn_to(reading);
            for (partition, owner) in (0..).zip(owners).filter(|(_, owner)| owner.is_none()) {
                if let Some((_, at)) = self.least() {
                    *owner = Some(at);
                    self.give(at, topic, partition);
                }
            }
        }
        self.owners = all;
    }

    /// Moves what would be better elsewhere; whether anything was.
    fn even_out(&mut self) -> bool {
        let (mut all, mut moved) = (std::mem::take(&mut self.owners), false);
        for (topic, _, reading) in self.classes.topics() {
            let Some(owners) = all.get_mut(&topic) else { continue };
            self.turn_to(reading);
            for (partition, owner) in (0..).zip(owners) {
                let Some(from) = *owner else { continue };
                let load = self.loads.get(from).copied().unwrap_or(0);
                let Some((_, to)) = self.least().filter(|(least, _)| load > least + 1) else { continue };
                if let Some(parts) = self.targets.get_mut(from).and_then(|t| t.get_mut(&topic)) {
                    parts.remove(&partition);
                }
                self.weigh(from, |load| load - 1);
                *owner = Some(to);
                self.give(to, topic, partition);
                moved = true;
            }
        }
        self.owners = all;
        if moved {
            self.targets.iter_mut().for_each(|target| target.retain(|_, parts| !parts.is_empty()));
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::random;

    fn topic(n: usize) -> TopicId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        TopicId(id)
    }

    /// Members that read topics, given by their numbers; some by a pattern that stands for topics, too.
    fn classes(members: &[(BTreeSet<usize>, Option<BTreeSet<usize>>)], partitions: impl Fn(usize) -> u32) -> Classes {
        let found = |topics: &BTreeSet<usize>| topics.iter().map(|t| (topic(*t), partitions(*t))).collect();
        let hash = |topics: &BTreeSet<usize>| topics.iter().fold(7_usize, |h, t| h.wrapping_mul(31).wrapping_add(*t));
        let hashed = |topics: &BTreeSet<usize>| hash(topics).to_string();
        let mut classes = Classes::default();
        for (names, pattern) in members {
            let texts = names.iter().map(|t| Arc::from(t.to_string())).collect();
            let named = classes.named(&texts, || found(names));
            let matching = pattern.as_ref().map(|topics| classes.matching(&hashed(topics), || found(topics)));
            classes.add([Some(named), matching]);
        }
        classes
    }

    #[test]
    fn every_partition_has_one_reader_and_none_would_be_better_elsewhere() {
        for seed in 1..300_u64 {
            let mut below = random(seed);
            let mut next = |bound| below(bound) as usize;
            let mut topics = |most| -> BTreeSet<usize> { (0..next(most)).map(|_| next(6)).collect() };
            let members: Vec<_> =
                (0..1 + seed as usize % 9).map(|n| (topics(4), (n % 3 == 0).then(|| topics(5)))).collect();
            let partitions = |t: usize| [1, 2, 5, 9, 0, 17][t];
            let classes = classes(&members, partitions);
            let reads = |at: usize, t: usize| {
                members[at].0.contains(&t) || members[at].1.as_ref().is_some_and(|topics| topics.contains(&t))
            };
            let order: Vec<usize> = (0..members.len()).collect();
            let nothing = vec![Parts::new(); members.len()];
            let even = uniform(&classes, nothing.iter());
            for targets in [&even, &range(&classes, &order)] {
                for t in 0..6 {
                    let mut all: Vec<i32> = Vec::new();
                    for (at, target) in targets.iter().enumerate() {
                        let here = target.get(&topic(t)).into_iter().flatten();
                        all.extend(here.inspect(|_| assert!(reads(at, t), "{seed}")));
                    }
                    all.sort_unstable();
                    let whole = if order.iter().any(|at| reads(*at, t)) { partitions(t) } else { 0 };
                    assert_eq!(all, (0..whole as i32).collect::<Vec<_>>(), "{seed}");
                }
            }
            let load = |at: usize| even[at].values().map(BTreeSet::len).sum::<usize>();
            for (from, to) in order.iter().flat_map(|from| order.iter().map(move |to| (*from, *to))) {
                let would = (0..6).any(|t| reads(to, t) && even[from].contains_key(&topic(t)));
                assert!(!would || load(from) <= load(to) + 1, "{seed}: {from} has {}, {to} {}", load(from), load(to));
            }
            assert_eq!(uniform(&classes, even.iter()), even, "{seed}: nothing has changed, and something moves");
        }
    }

    #[test]
    fn very_many_members_of_which_each_reads_something_else_are_dealt_out_in_no_time() {
        let members: Vec<_> = (0..2_000).map(|n| ([n, (n + 1) % 2_000, (n + 2) % 2_000].into(), None)).collect();
        // Whoever asks each member for each partition does not come to an end.
        let classes = classes(&members, |_| 20);
        let targets = uniform(&classes, vec![Parts::new(); 2_000].iter());
        assert_eq!(targets.iter().flat_map(Parts::values).map(BTreeSet::len).sum::<usize>(), 2_000 * 20);
        assert!(targets.iter().all(|t| !t.is_empty()));
    }

    #[test]
    fn members_with_a_pattern_for_very_many_topics_share_what_is_known_of_them() {
        let all: BTreeSet<usize> = (0..20_000).collect();
        let members: Vec<_> = (0..2_000).map(|n| ([n].into(), Some(all.clone()))).collect();
        let classes = classes(&members, |_| 1);
        let targets = uniform(&classes, vec![Parts::new(); 2_000].iter());
        assert!(targets.iter().all(|t| t.len() == 10));
        let order: Vec<usize> = (0..2_000).collect();
        assert_eq!(range(&classes, &order).iter().map(Parts::len).sum::<usize>(), 20_000);
    }
}
