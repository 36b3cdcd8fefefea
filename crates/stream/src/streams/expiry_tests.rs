//! Offsets that expire, over the storage engine.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use waypost_model::journal::Op;

use super::expiry::{LOOKED_AT_MAX, TOGETHER_MAX};
use super::tests::{NOW, Node, Watched, open_over};
use super::*;
use crate::groups::{Change, Committer, Groups, Join, Leaving, Sync as Syncing, Who};
use crate::partition::Marker;

const KEPT_MS: u64 = 100_000;
const SESSION_MS: u64 = 1_000_000;

fn at(ms: u64) -> Millis {
    NOW.plus(ms)
}

fn committed(at: Millis) -> Committed {
    Committed { offset: 1, leader_epoch: -1, metadata: "".into(), at, ends: None }
}

impl Node {
    fn commits(&self, group: &str, topic: &str, ms: u64, committer: Committer) {
        self.streams.commit("/", group, vec![(topic.into(), 0, committed(at(ms)))], committer).unwrap();
    }

    fn notes(&self, group: &str, has_members: bool, ms: u64) {
        let change = Change { vhost: "/".into(), group: group.into(), has_members };
        self.streams.note_members(&[change], at(ms)).unwrap();
    }

    fn expires(&self, groups: &Groups, ms: u64) -> u64 {
        let is_in_use: &dyn Fn(&str, &str) -> bool = &|_, group| group == "inside";
        let by = Expiry { groups, retention_ms: KEPT_MS, now: at(ms), is_in_use, stop: &|| false };
        self.streams.expire_offsets(&by).unwrap()
    }

    fn topics_of(&self, group: &str) -> Vec<String> {
        self.streams.all_committed("/", group).into_iter().map(|(topic, ..)| topic.to_string()).collect()
    }

    fn standings(&self) -> usize {
        lock(&self.streams.offsets).standings.names_behind(None).count()
    }
}

fn join(topics: &[&str]) -> Join {
    let mut said = vec![0, 0];
    said.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        said.extend((topic.len() as i16).to_be_bytes());
        said.extend(topic.as_bytes());
    }
    Join {
        member_id: "".into(),
        instance: None,
        who: Who::default(),
        session_timeout_ms: SESSION_MS as i32,
        rebalance_timeout_ms: 1_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), said)],
        id_required: false,
        may_skip_assignment: false,
    }
}

/// A member that reads topics: a stable group of one; its id.
fn reader(groups: &Groups, group: &str, topics: &[&str], ms: u64) -> Box<str> {
    let joining = groups.join("/", group, join(topics), at(ms));
    groups.tick(at(ms + 250));
    let joined = joining.take().unwrap();
    let (member_id, generation) = (joined.member_id.clone(), joined.generation);
    let sync = Syncing { member_id, instance: None, generation, protocol: None, assignments: vec![] };
    assert_eq!(groups.sync("/", group, sync, at(ms + 250)).take().unwrap().fault, None);
    joined.member_id
}

#[test]
fn without_members_each_offset_expires_by_its_own_time_and_is_gone_for_good() {
    let node = Node::new();
    let groups = Groups::new(1);
    node.commits("alone", "a", 0, Committer::Standalone);
    node.commits("alone", "b", 10_000, Committer::Standalone);
    node.commits("inside", "a", 0, Committer::Standalone);
    assert_eq!(node.expires(&groups, KEPT_MS - 1), 0);
    assert_eq!((node.expires(&groups, KEPT_MS), node.topics_of("alone")), (1, vec!["b".to_owned()]));
    node.sync();
    let node = node.killed();
    assert_eq!(node.topics_of("alone"), ["b"]);
    assert_eq!(node.expires(&groups, KEPT_MS + 10_000), 1);
    assert_eq!((node.streams.offsets_expired(), node.streams.offsets_kept()), (1, 1));
    assert_eq!(node.streams.groups_with_offsets("/"), ["inside".into()]);
    node.sync();
    assert_eq!(node.killed().streams.groups_with_offsets("/"), ["inside".into()]);
}

#[test]
fn who_has_said_when_an_offset_ends_is_heard_across_a_restart() {
    let node = Node::new();
    let ends = |at| Committed { ends: Some(at), ..committed(NOW) };
    let two = vec![("soon".into(), 0, ends(at(50))), ("late".into(), 0, ends(at(5 * KEPT_MS)))];
    node.streams.commit("/", "g", two, Committer::Standalone).unwrap();
    node.sync();
    let (node, groups) = (node.killed(), Groups::new(1));
    assert_eq!((node.expires(&groups, 49), node.expires(&groups, 50)), (0, 1));
    assert_eq!((node.expires(&groups, 5 * KEPT_MS - 1), node.topics_of("g")), (0, vec!["late".to_owned()]));
    assert_eq!((node.expires(&groups, 5 * KEPT_MS), node.topics_of("g").len()), (1, 0));
}

#[test]
fn what_a_group_has_committed_expires_so_long_after_its_last_member_has_gone() {
    let (node, groups) = (Node::new(), Groups::new(1));
    let member = reader(&groups, "g", &["a", "b"], 0);
    node.commits("g", "a", 0, Committer::Group);
    node.commits("g", "b", 50_000, Committer::Group);
    assert_eq!(node.expires(&groups, 10 * KEPT_MS), 0, "somebody reads it");
    groups.leave("/", "g", &[Leaving { member_id: member, instance: None }], at(10 * KEPT_MS)).unwrap();
    let changed = groups.tick(at(10 * KEPT_MS)).changed;
    node.streams.note_members(&changed, at(10 * KEPT_MS)).unwrap();
    assert_eq!(node.streams.gone_since("/", "g"), Some(at(10 * KEPT_MS)));
    node.sync();
    // Since when it has none is known after a restart, too.
    let node = node.killed();
    assert_eq!(node.expires(&groups, 11 * KEPT_MS - 1), 0);
    assert_eq!((node.expires(&groups, 11 * KEPT_MS), node.topics_of("g").len(), node.standings()), (2, 0, 0));
    node.sync();
    assert_eq!(node.killed().standings(), 0);
}

#[test]
fn what_is_committed_after_the_last_member_has_gone_has_its_own_time() {
    let (node, groups) = (Node::new(), Groups::new(1));
    node.commits("g", "old", 0, Committer::Group);
    node.notes("g", false, 1_000);
    node.commits("g", "set", 60_000, Committer::Standalone);
    assert_eq!((node.expires(&groups, KEPT_MS + 1_000), node.topics_of("g")), (1, vec!["set".to_owned()]));
    assert_eq!(node.expires(&groups, KEPT_MS + 60_000), 1);
}

#[test]
fn a_group_that_was_cut_off_with_the_node_counts_as_empty_from_when_that_is_seen() {
    let node = Node::new();
    node.commits("g", "a", 0, Committer::Group);
    node.sync();
    let (node, groups) = (node.killed(), Groups::new(1));
    // Long ago; nobody has come back.
    assert_eq!(node.expires(&groups, 50 * KEPT_MS), 0);
    node.sync();
    let node = node.killed();
    assert_eq!((node.expires(&groups, 51 * KEPT_MS - 1), node.expires(&groups, 51 * KEPT_MS)), (0, 1));
}

#[test]
fn members_that_do_not_come_back_after_a_restart_have_gone_when_their_time_is_over() {
    let node = Node::new();
    let groups = node.streams.groups(1, at(0));
    let _member = reader(&groups, "g", &["a"], 0);
    node.commits("g", "a", 300, Committer::Group);
    node.sync();
    let node = node.killed();
    let groups = node.streams.groups(2, at(5 * KEPT_MS));
    let ticks = |ms| node.streams.note_members(&groups.tick(at(ms)).changed, at(ms)).unwrap();
    ticks(5 * KEPT_MS);
    assert_eq!((node.expires(&groups, 7 * KEPT_MS), node.streams.gone_since("/", "g")), (0, None));
    let out = 5 * KEPT_MS + SESSION_MS;
    ticks(out);
    assert_eq!(node.streams.gone_since("/", "g"), Some(at(out)));
    assert_eq!((node.expires(&groups, out + KEPT_MS - 1), node.expires(&groups, out + KEPT_MS)), (0, 1));
}

#[test]
fn members_that_come_and_commit_nothing_put_it_off() {
    let (node, groups) = (Node::new(), Groups::new(1));
    node.commits("g", "a", 0, Committer::Group);
    node.notes("g", false, 0);
    node.notes("g", true, KEPT_MS - 1);
    node.sync();
    let node = node.killed();
    assert_eq!(node.expires(&groups, KEPT_MS), 0);
    // Nobody had told: it is seen when it is looked.
    let _member = reader(&groups, "g", &["a"], KEPT_MS);
    assert_eq!((node.expires(&groups, 9 * KEPT_MS), node.streams.gone_since("/", "g")), (0, None));
}

#[test]
fn with_members_only_what_nobody_reads_expires() {
    let (node, groups) = (Node::new(), Groups::new(1));
    let _member = reader(&groups, "g", &["read"], 0);
    for (topic, ms) in [("read", 0), ("left", 0), ("left.lately", 50_000)] {
        node.commits("g", topic, ms, Committer::Group);
    }
    assert_eq!(
        (node.expires(&groups, KEPT_MS), node.topics_of("g")),
        (1, vec!["left.lately".to_owned(), "read".to_owned()])
    );
    // Somebody joins: for now it is not known what is read.
    let _joining = groups.join("/", "g", join(&["other"]), at(2 * KEPT_MS));
    assert_eq!(node.expires(&groups, 2 * KEPT_MS), 0);
}

#[test]
fn what_a_transaction_may_still_set_is_kept_until_it_ends() {
    let (node, groups) = (Node::new(), Groups::new(1));
    node.topic("t", 1);
    node.commits("g", "t", 0, Committer::Standalone);
    node.commits("g", "u", 0, Committer::Standalone);
    let who = node.streams.init_producer("/", "id", 900_000, None, NOW).unwrap().0;
    node.streams.add_group("/", "id", who, "g", NOW).unwrap();
    node.streams.commit_with("/", "id", who, ("g", Committer::Group), vec![("t".into(), 0, committed(NOW))]).unwrap();
    node.notes("g", false, 0);
    node.sync();
    let node = node.killed();
    assert_eq!((node.expires(&groups, KEPT_MS), node.topics_of("g")), (1, vec!["t".to_owned()]));
    node.streams.end_transaction("/", "id", who, Marker::Abort, at(KEPT_MS)).unwrap();
    assert_eq!((node.expires(&groups, KEPT_MS), node.standings()), (1, 0));
}

#[test]
fn of_a_group_of_which_nothing_is_left_nothing_is_known() {
    let (node, groups) = (Node::new(), Groups::new(1));
    node.topic("t", 1);
    for group in ["deleted", "expired", "of the topic"] {
        node.commits(group, "t", 0, Committer::Group);
    }
    node.streams.forget_offsets("/", "deleted", None).unwrap();
    assert_eq!(node.standings(), 2);
    node.streams.delete("/", "t").unwrap();
    node.notes("of the topic", false, 0);
    node.expires(&groups, 0);
    assert_eq!((node.standings(), node.streams.offsets_kept()), (0, 0));
    node.sync();
    assert_eq!(node.killed().standings(), 0);
}

#[test]
fn many_expire_in_portions_and_a_stop_is_heard() {
    let largest = Arc::new(AtomicUsize::new(0));
    let disk = waypost_storage::fault::FaultDisk::new(1);
    let seen = Arc::clone(&largest);
    let watch = move |ops: &[Op]| {
        seen.fetch_max(ops.len(), Ordering::Relaxed);
    };
    let node = open_over(disk, |engine| Arc::new(Watched { journal: engine, watch }));
    let groups = Groups::new(1);
    let count = 2 * LOOKED_AT_MAX + 1;
    // Every second one is young.
    let one = |n: usize| ("t".into(), n as i32, committed(at(if n.is_multiple_of(2) { 0 } else { KEPT_MS })));
    node.streams.commit("/", "g", (0..count).map(one).collect(), Committer::Standalone).unwrap();
    largest.store(0, Ordering::Relaxed);
    let stop = AtomicBool::new(true);
    let is_in_use: &dyn Fn(&str, &str) -> bool = &|_, _| false;
    let by = Expiry {
        groups: &groups,
        retention_ms: KEPT_MS,
        now: at(KEPT_MS),
        is_in_use,
        stop: &|| stop.load(Ordering::Relaxed),
    };
    assert_eq!(node.streams.expire_offsets(&by), Ok(0));
    stop.store(false, Ordering::Relaxed);
    assert_eq!(node.streams.expire_offsets(&by), Ok(LOOKED_AT_MAX as u64 + 1));
    assert_eq!(node.streams.offsets_kept(), LOOKED_AT_MAX);
    assert_eq!(largest.load(Ordering::Relaxed), TOGETHER_MAX);
}

#[test]
fn a_group_of_very_many_offsets_is_forgotten_in_no_time() {
    let node = Node::new();
    let one = |n: i32| ("t".into(), n, committed(NOW));
    node.streams.commit("/", "g", (0..200_000).map(one).collect(), Committer::Standalone).unwrap();
    let half: Vec<(Arc<str>, i32)> = (0..200_000).step_by(2).map(|n| ("t".into(), n)).collect();
    // While every group's offsets are held: with lists that are searched for each of them, this does not end.
    node.streams.forget_offsets("/", "g", Some(&half)).unwrap();
    assert_eq!(node.streams.offsets_kept(), 100_000);
    node.streams.forget_offsets("/", "g", None).unwrap();
    assert_eq!(node.streams.offsets_kept(), 0);
}
