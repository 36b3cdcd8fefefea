//! Groups of the newer protocol as scripts, and as random histories.

use super::kept_tests::{KINDS, Memory};
use super::*;
use crate::groups::{Committer, Groups, Join, Recalled, Who};
use crate::random::random;

pub(super) const T: Millis = Millis(1_000_000);
pub(super) const G: &str = "g";
pub(super) const TOPIC: TopicId = TopicId([7; 16]);
pub(super) const OTHER: TopicId = TopicId([8; 16]);

pub(super) fn at(ms: u64) -> Millis {
    T.plus(ms)
}

pub(super) fn joins(id: &str) -> Heartbeat {
    Heartbeat {
        member_id: id.into(),
        rebalance_timeout_ms: Some(30_000),
        names: Some(vec!["t".into()]),
        owned: Some(Parts::new()),
        ..Heartbeat::default()
    }
}

pub(super) fn beat(id: &str, epoch: i32) -> Heartbeat {
    Heartbeat { member_id: id.into(), epoch, ..Heartbeat::default() }
}

pub(super) fn has(id: &str, epoch: i32, partitions: &[i32]) -> Heartbeat {
    let owned = Parts::from([(TOPIC, partitions.iter().copied().collect())]);
    Heartbeat { owned: Some(owned), ..beat(id, epoch) }
}

pub(super) struct World {
    pub groups: Groups,
    pub topics: BTreeMap<Arc<str>, (TopicId, u32)>,
    pub journal: Arc<Memory>,
}

impl World {
    pub fn new(partitions: u32) -> World {
        let journal = Arc::new(Memory::default());
        let groups = Groups::recall(7, Arc::clone(&journal) as _, KINDS, Recalled::default(), T);
        World { groups, topics: [("t".into(), (TOPIC, partitions))].into(), journal }
    }

    /// Another number when topics come or grow.
    fn version(&self) -> u64 {
        self.topics.values().map(|(_, count)| u64::from(*count)).sum()
    }

    pub fn says(&self, beat: Heartbeat, ms: u64) -> Result<Beaten, GroupFault> {
        let version = self.version();
        let resolved = self.groups.wants("/", G, &beat, version, at(ms)).map(|wanted| {
            // A pattern is a prefix here.
            let matching = |p: &str| self.topics.keys().filter(|n| n.starts_with(p)).cloned().collect::<Vec<_>>();
            let matches: BTreeMap<_, _> = wanted.patterns.iter().map(|p| (p.clone(), matching(p))).collect();
            let names = wanted.names.iter().chain(matches.values().flatten());
            let topics = names.filter_map(|n| Some((Arc::clone(n), *self.topics.get(n)?))).collect();
            Resolved { topics, matches, wanted, version }
        });
        self.groups.consumer_heartbeat("/", G, beat, resolved, at(ms))
    }

    /// Epoch and partitions of the topic; `None` where nothing is said of them.
    pub fn told(&self, beat: Heartbeat, ms: u64) -> (i32, Option<Vec<i32>>) {
        let beaten = self.says(beat, ms).unwrap();
        let of = |parts: Parts| parts.into_values().flatten().collect();
        (beaten.epoch, beaten.assignment.map(of))
    }

    pub fn view(&self) -> ConsumerGroupView {
        self.groups.describe_consumers("/", G, usize::MAX).unwrap().unwrap().view
    }
}

pub(super) fn some(partitions: &[i32]) -> Option<Vec<i32>> {
    Some(partitions.to_vec())
}

#[test]
fn what_one_is_to_have_another_lets_go_of_first() {
    let w = World::new(4);
    assert_eq!(w.told(joins("a"), 0), (1, some(&[0, 1, 2, 3])));
    assert_eq!(w.told(beat("a", 1), 10), (1, None));
    // Nothing is free yet: it is a member, and waits.
    assert_eq!(w.told(joins("b"), 20), (2, some(&[])));
    assert_eq!(w.view().state, "Reconciling");
    assert_eq!(w.told(beat("b", 2), 30), (2, None));
    let (epoch, kept) = w.told(beat("a", 1), 40);
    let kept = kept.unwrap();
    assert_eq!((epoch, kept.len()), (1, 2), "it stays at its epoch until it has let go");
    assert_eq!(w.told(has("a", 1, &[0, 1, 2, 3]), 50), (1, Some(kept.clone())));
    assert_eq!(w.told(beat("b", 2), 60), (2, None));
    assert_eq!(w.told(has("a", 1, &kept), 70), (2, Some(kept.clone())));
    let (epoch, given) = w.told(beat("b", 2), 80);
    let given = given.unwrap();
    assert_eq!((epoch, given.len()), (2, 2));
    assert!(given.iter().all(|p| !kept.contains(p)));
    assert_eq!((w.view().state, w.view().epoch), ("Stable", 2));
}

#[test]
fn who_leaves_is_silent_or_does_not_let_go_is_out() {
    let w = World::new(4);
    w.told(joins("a"), 0);
    w.told(joins("b"), 10);
    assert_eq!(w.says(beat("b", -1), 20).unwrap().epoch, -1);
    assert_eq!(w.says(beat("b", 2), 30), Err(GroupFault::UnknownMember));
    assert_eq!(w.told(beat("a", 1), 40), (3, None), "it has what it is to have");
    w.told(joins("b"), 50);
    assert_eq!(w.told(beat("a", 3), 60).1.unwrap().len(), 2);
    // It goes on speaking, and never lets go.
    for second in 1..30 {
        w.groups.tick(at(second * 1_000));
        assert_eq!(w.told(has("a", 3, &[0, 1, 2, 3]), second * 1_000).0, 3);
        w.told(beat("b", 4), second * 1_000);
    }
    w.groups.tick(at(30_060));
    assert_eq!(w.says(beat("a", 3), 30_070), Err(GroupFault::UnknownMember));
    assert_eq!(w.told(beat("b", 4), 30_080), (5, some(&[0, 1, 2, 3])));
    w.groups.tick(at(30_080 + SESSION_TIMEOUT_MS));
    assert_eq!(w.groups.describe_consumers("/", G, usize::MAX).unwrap(), None);
    assert_eq!(w.says(beat("b", 5), 90_000), Err(GroupFault::UnknownMember));
}

#[test]
fn epochs() {
    let w = World::new(2);
    w.told(joins("a"), 0);
    assert_eq!(w.says(beat("a", 2), 10), Err(GroupFault::FencedEpoch));
    // An answer that was lost: at the epoch before, with nothing that it should not have.
    w.told(joins("b"), 20);
    let (_, kept) = w.told(beat("a", 1), 30);
    let kept = kept.unwrap();
    assert_eq!(w.told(has("a", 1, &kept), 40).0, 2);
    assert_eq!(w.told(has("a", 1, &kept), 50), (2, Some(kept)));
    assert_eq!(w.says(beat("a", 1), 60), Err(GroupFault::FencedEpoch));
    assert_eq!(w.says(has("a", 1, &[0, 1]), 60), Err(GroupFault::FencedEpoch));
    // Who joins again has nothing any more.
    assert_eq!(w.told(joins("a"), 70).1.unwrap().len(), 1);
    let may = |member: &str, epoch| w.groups.may_commit("/", G, member, None, epoch, at(80));
    assert_eq!(
        (may("a", 2), may("a", 1), may("x", 2)),
        (Ok(Committer::Group), Err(GroupFault::StaleEpoch), Err(GroupFault::UnknownMember))
    );
    assert_eq!(may("", -1), Err(GroupFault::UnknownMember));
    let with = |epoch| w.groups.may_commit_with("/", G, "a", None, epoch, at(80));
    assert_eq!((with(2), with(1)), (Ok(Committer::Group), Err(GroupFault::IllegalGeneration)));
    let fetch = |member, epoch| w.groups.may_fetch("/", G, member, epoch);
    assert_eq!(
        (fetch(None, -1), fetch(Some("a"), 2), fetch(Some("a"), 1)),
        (Ok(()), Ok(()), Err(GroupFault::StaleEpoch))
    );
}

#[test]
fn an_instance_that_comes_back_finds_its_partitions() {
    let w = World::new(4);
    let named = |id: &str| Heartbeat { instance: Some("i".into()), ..joins(id) };
    let leaves = |id: &str, epoch| Heartbeat { instance: Some("i".into()), ..beat(id, epoch) };
    w.told(named("a"), 0);
    assert_eq!(w.says(named("b"), 10), Err(GroupFault::UnreleasedInstance));
    w.says(leaves("a", -2), 20).unwrap();
    // Nobody else gets them meanwhile.
    assert_eq!(w.told(joins("c"), 30).1, some(&[]));
    let (epoch, parts) = w.told(named("b"), 40);
    assert_eq!((epoch, parts.unwrap().len()), (2, 2));
    assert_eq!(w.told(beat("c", 2), 50).1.unwrap().len(), 2);
    assert_eq!(w.says(leaves("a", 1), 60), Err(GroupFault::FencedInstance));
    assert_eq!(w.says(beat("b", -2), 60), Err(GroupFault::InvalidRequest("only an instance leaves for a while")));
    // Gone for too long.
    w.says(leaves("b", -2), 70).unwrap();
    w.says(beat("c", 2), 40_000).unwrap();
    w.groups.tick(at(70 + SESSION_TIMEOUT_MS));
    assert_eq!(w.told(beat("c", 2), 50_000).1, some(&[0, 1, 2, 3]));
}

#[test]
fn topics_that_grow_and_come_are_dealt_out() {
    let mut w = World::new(2);
    assert_eq!(w.told(joins("a"), 0).1, some(&[0, 1]));
    w.topics.insert("t".into(), (TOPIC, 3));
    assert_eq!(w.told(beat("a", 1), 500), (1, None), "what is known is young enough");
    assert_eq!(w.told(beat("a", 1), 1_500), (2, some(&[0, 1, 2])));
    let pattern = |p: &str| Heartbeat { pattern: Some(p.into()), names: Some(Vec::new()), ..beat("a", 2) };
    w.topics.insert("other".into(), (OTHER, 1));
    assert_eq!(w.told(pattern("oth"), 1_600), (2, some(&[])), "it is to let go of the others");
    w.says(has("a", 2, &[]), 1_700).unwrap();
    let view = w.view();
    assert_eq!(view.members[0].assigned, Parts::from([(OTHER, [0].into())]));
    assert_eq!(&*view.members[0].pattern, "oth");
    // Deleted: it goes.
    w.topics.remove("other");
    let told = w.says(beat("a", view.members[0].epoch), 3_000).unwrap();
    assert_eq!(told.assignment, Some(Parts::new()));
    // As long as topics do not change nobody looks through them, but now and then.
    let wants = |ms| w.groups.wants("/", G, &beat("a", told.epoch), w.version(), at(ms)).is_some();
    assert!(!wants(32_999) && wants(33_000));
}

#[test]
fn very_many_partitions_are_dealt_out_for_several_changes_at_once() {
    let w = World::new(64_000);
    let parts = |told: (i32, Option<Vec<i32>>)| told.1.map_or(0, |parts| parts.len());
    assert_eq!(parts(w.told(joins("a"), 0)), 64_000);
    // Two come; the first one is dealt out for when the time has come, with the second one.
    assert_eq!((parts(w.told(joins("b"), 1)), parts(w.told(joins("c"), 2))), (0, 0));
    assert_eq!(w.view().state, "Assigning");
    w.says(beat("b", 1), 999).unwrap();
    assert_eq!(w.view().epoch - w.view().target_epoch, 2);
    assert_eq!(w.told(beat("a", 1), 1_000).1.map(|parts| parts.len()), Some(21_334));
    assert_eq!(w.view().target_epoch, w.view().epoch);
}

#[test]
fn what_is_dealt_out_in_all_groups_has_a_limit_and_gives_its_room_back() {
    let groups = Groups::new(1);
    groups.lock().consumers.partitions_max = 100;
    let says = |group: &str, beat: Heartbeat, partitions: u32, ms| {
        let wanted = groups.wants("/", group, &beat, 1, at(ms));
        let topics = BTreeMap::from([(Arc::from("t"), (TOPIC, partitions))]);
        let resolved = wanted.map(|wanted| Resolved { wanted, topics, version: 1, ..Resolved::default() });
        groups.consumer_heartbeat("/", group, beat, resolved, at(ms))
    };
    assert!(says("a", joins("m"), 60, 0).is_ok() && says("b", joins("m"), 40, 0).is_ok());
    assert_eq!(says("c", joins("m"), 1, 0), Err(GroupFault::GroupFull));
    // Who is there goes on, others may help, and topics grow as they like.
    assert!(says("a", joins("n"), 60, 1).is_ok());
    let later = UNCHANGED_FOR_MS + 1;
    assert_eq!(says("b", beat("m", 1), 41, later).unwrap().epoch, 2);
    says("a", beat("m", -1), 60, later).unwrap();
    says("a", beat("n", -1), 60, later).unwrap();
    groups.tick(at(later));
    assert!(says("c", joins("m"), 59, later).is_ok());
    assert_eq!(says("d", joins("m"), 1, later), Err(GroupFault::GroupFull));
    groups.tick(at(later + SESSION_TIMEOUT_MS));
    assert!(says("d", joins("m"), 100, later + SESSION_TIMEOUT_MS).is_ok());
}

#[test]
fn kinds_do_not_mix() {
    let w = World::new(2);
    let classic = |id: &str, ms| {
        let join = Join {
            member_id: id.into(),
            instance: None,
            who: Who::default(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 10_000,
            protocol_type: "consumer".into(),
            protocols: vec![("range".into(), vec![])],
            id_required: false,
            may_skip_assignment: false,
        };
        w.groups.join("/", G, join, at(ms))
    };
    let member = classic("", 0);
    w.groups.tick(at(300));
    let member = member.take().unwrap();
    assert_eq!(w.says(joins("a"), 400), Err(GroupFault::ClassicGroup));
    let leaving = crate::groups::Leaving { member_id: member.member_id, instance: None };
    w.groups.leave("/", G, &[leaving], at(500)).unwrap();
    w.says(joins("a"), 600).unwrap();
    assert_eq!(classic("", 700).take().unwrap().fault, Some(GroupFault::InconsistentProtocol));
    let [listed] = &w.groups.list("/")[..] else { panic!() };
    assert_eq!((listed.kind, listed.state), (crate::groups::Kind::Consumer, "Stable"));
    assert_eq!(w.groups.forget("/", G), Err(GroupFault::NotEmpty));
    w.says(beat("a", -1), 800).unwrap();
    assert!(classic("", 900).take().is_none(), "it is gathering");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let w = World::new(1);
    let refused = |b: Heartbeat| matches!(w.says(b, 0), Err(GroupFault::InvalidRequest(_)));
    assert!(refused(Heartbeat { owned: None, ..joins("a") }));
    assert!(refused(Heartbeat { rebalance_timeout_ms: None, ..joins("a") }));
    assert!(refused(Heartbeat { names: None, ..joins("a") }));
    assert!(refused(beat("", 1)) && refused(beat("a", -3)) && refused(joins(&"x".repeat(MEMBER_ID_BYTES_MAX + 1))));
    let assignor = |name: &str| Heartbeat { assignor: Some(name.into()), ..joins("a") };
    assert_eq!(w.says(assignor("sticky"), 0), Err(GroupFault::UnsupportedAssignor));
    let many = |n: usize| Heartbeat { names: Some((0..n).map(|n| format!("t{n}").into()).collect()), ..joins("a") };
    assert_eq!(w.says(many(NAMES_MAX + 1), 0), Err(GroupFault::GroupFull));
    assert!(w.says(beat("a", 1), 0).is_err() && w.groups.list("/").is_empty());
    assert!(!w.says(joins(""), 0).unwrap().member_id.is_empty());
}

#[test]
fn range_gives_neighbours_and_uniform_even_shares() {
    for (assignor, sizes) in [("range", [4, 3, 3]), ("uniform", [4, 3, 3])] {
        let w = World::new(10);
        let join = |id: &str| Heartbeat { assignor: Some(assignor.into()), ..joins(id) };
        ["a", "b", "c"].into_iter().for_each(|id| drop(w.says(join(id), 0).unwrap()));
        let view = w.view();
        let mut shares: Vec<Vec<i32>> =
            view.members.iter().map(|m| m.target.values().flatten().copied().collect()).collect();
        shares.sort_by_key(|s| std::cmp::Reverse(s.len()));
        assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "{assignor}");
        if assignor == "range" {
            assert_eq!((view.assignor, &shares[0][..]), ("range", &[0, 1, 2, 3][..]));
            assert!(shares.iter().all(|s| s.windows(2).all(|w| w[0] + 1 == w[1])));
        }
    }
}

/// What a client believes.
#[derive(Default)]
struct Client {
    epoch: i32,
    has: BTreeSet<i32>,
    /// What it was told to let go of, and has not yet.
    keeps: BTreeSet<i32>,
}

impl Client {
    fn holds(&self) -> impl Iterator<Item = i32> + '_ {
        self.has.union(&self.keeps).copied()
    }

    fn full(&self, id: &str) -> Heartbeat {
        Heartbeat {
            rebalance_timeout_ms: Some(30_000),
            names: Some(vec!["t".into()]),
            ..has(id, self.epoch, &self.holds().collect::<Vec<_>>())
        }
    }

    fn hears(&mut self, beaten: Beaten) {
        self.epoch = beaten.epoch;
        if let Some(parts) = beaten.assignment {
            let parts: BTreeSet<i32> = parts.into_values().flatten().collect();
            self.keeps = self.holds().filter(|p| !parts.contains(p)).collect();
            self.has = parts;
        }
    }
}

/// Whatever happens in whatever order, answers lost among it, and crashes that leave less of the journal than was written but all
/// that anybody was told of: no partition is had by two that the group takes for members, and once it is quiet everything is
/// had, in even shares.
#[test]
fn random_histories() {
    for seed in 0..400_u64 {
        let mut next = random(seed);
        let (mut w, mut told) = (World::new(8), 0);
        let mut clients: BTreeMap<String, Client> = BTreeMap::new();
        let mut now = 0;
        for step in 0..300 {
            now += next(1_500);
            w.groups.tick(at(now));
            let id = format!("m{}", next(6));
            let quiet = step >= 220;
            if step % 5 == 0 {
                w.check_what_is_kept();
            }
            if seed % 2 == 1 && !quiet && next(20) == 0 {
                let more = w.appends() - told;
                w.restarts(told + next(more as u64 + 1) as usize, now);
                w.check_what_is_kept();
            }
            match (next(12), clients.get_mut(&id)) {
                (0, _) if !quiet => w.topics = [("t".into(), (TOPIC, 4 + next(8) as u32))].into(),
                (1, Some(_)) if !quiet => {
                    let _ = w.says(beat(&id, LEAVES), now);
                    clients.remove(&id);
                }
                // The process dies.
                (2, Some(_)) if !quiet && next(3) == 0 => drop(clients.remove(&id)),
                (3, None) if !quiet => drop(clients.insert(id.clone(), Client::default())),
                (_, Some(client)) => {
                    if next(3) > 0 {
                        client.keeps.clear();
                    }
                    let says = match client.epoch {
                        0 => joins(&id),
                        epoch if next(2) == 0 && client.keeps.is_empty() => beat(&id, epoch),
                        _ => client.full(&id),
                    };
                    let lost = !quiet && next(8) == 0;
                    match w.says(says, now) {
                        Ok(_) if lost => {}
                        Ok(beaten) => {
                            told = told.max(beaten.lsn.map_or(0, |lsn| lsn.0 as usize));
                            client.hears(beaten);
                        }
                        // It lets go of everything and joins again.
                        Err(_) => *client = Client::default(),
                    }
                }
                _ => {}
            }
            let members: BTreeMap<Box<str>, i32> =
                match w.groups.describe_consumers("/", G, usize::MAX).unwrap().map(|d| d.view) {
                    Some(view) => view.members.iter().map(|m| (m.id.clone(), m.epoch)).collect(),
                    None => BTreeMap::new(),
                };
            let mut had = BTreeSet::new();
            // Who joins anew under an id has nothing, whatever one who died had.
            for (id, client) in clients.iter().filter(|(id, c)| c.epoch > 0 && members.contains_key(id.as_str())) {
                for partition in client.holds() {
                    assert!(had.insert(partition), "seed {seed} step {step}: {partition} is had by two, one is {id}");
                }
            }
        }
        // Everybody speaks, again and again.
        for _ in 0..60 {
            now += 1_100;
            w.groups.tick(at(now));
            for (id, client) in &mut clients {
                client.keeps.clear();
                let says = if client.epoch == 0 { joins(id) } else { client.full(id) };
                match w.says(says, now) {
                    Ok(beaten) => client.hears(beaten),
                    Err(_) => *client = Client::default(),
                }
            }
        }
        if clients.is_empty() {
            continue;
        }
        let count = w.topics.values().map(|(_, n)| *n as usize).sum::<usize>();
        let sizes: Vec<usize> = clients.values().map(|c| c.has.len()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), count, "seed {seed}: {sizes:?}");
        assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "seed {seed}: {sizes:?}");
        assert_eq!(w.view().state, "Stable", "seed {seed}");
    }
}
