//! Groups that go on after a crash, over the storage engine.

use super::tests::{NOW, Node};
use super::*;
use crate::groups::{
    Beaten, GroupFault, Groups, Heartbeat, Join, Joined, Leaving, Parts, Resolved, State, Sync as Syncing, Who,
};

const SESSION_MS: i32 = 10_000;

fn at(ms: u64) -> Millis {
    NOW.plus(ms)
}

fn join(member_id: &str, instance: Option<&str>) -> Join {
    Join {
        member_id: member_id.into(),
        instance: instance.map(Into::into),
        who: Who { client_id: "c".into(), host: "h".into() },
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: 1_000,
        protocol_type: "consumer".into(),
        protocols: vec![("other".into(), b"else".to_vec()), ("range".into(), b"said".to_vec())],
        id_required: false,
        may_skip_assignment: true,
    }
}

fn sync(joined: &Joined, assignments: Vec<(Box<str>, Vec<u8>)>) -> Syncing {
    Syncing {
        member_id: joined.member_id.clone(),
        instance: None,
        generation: joined.generation,
        protocol: None,
        assignments,
    }
}

impl Node {
    fn groups(&self, ms: u64) -> Groups {
        self.streams.groups(ms, at(ms))
    }

    /// Stops without a word, after what was written was committed, and starts again.
    fn restarted(self, ms: u64) -> (Node, Groups) {
        self.sync();
        let node = self.killed();
        let groups = node.groups(ms);
        (node, groups)
    }
}

/// Members of a group who have come together: each reads its own id.
fn stable(groups: &Groups, group: &str, joins: Vec<Join>, ms: u64) -> Vec<Joined> {
    let waiting: Vec<_> = joins.into_iter().map(|join| groups.join("/", group, join, at(ms))).collect();
    groups.tick(at(ms + 250));
    let joined: Vec<Joined> = waiting.iter().map(|w| w.take().unwrap()).collect();
    let leader = joined.iter().find(|j| j.leader == j.member_id).unwrap();
    let parts = joined.iter().map(|j| (j.member_id.clone(), j.member_id.as_bytes().to_vec())).collect();
    let synced = groups.sync("/", group, sync(leader, parts), at(ms + 250)).take().unwrap();
    assert_eq!(synced.assignment, leader.member_id.as_bytes());
    joined
}

fn beat(groups: &Groups, group: &str, who: &Joined, ms: u64) -> Result<(), GroupFault> {
    groups.heartbeat("/", group, &who.member_id, None, who.generation, at(ms))
}

#[test]
fn members_go_on_after_a_crash_as_before_it() {
    let node = Node::new();
    let groups = node.groups(0);
    let joined = stable(&groups, "g", vec![join("", None), join("", Some("i"))], 0);
    let before = groups.describe("/", "g", usize::MAX).unwrap().unwrap().view;
    let (_node, groups) = node.restarted(5_000);
    assert_eq!(groups.describe("/", "g", usize::MAX).unwrap().unwrap().view, before);
    for who in &joined {
        assert_eq!(beat(&groups, "g", who, 5_001), Ok(()));
        assert!(groups.may_commit("/", "g", &who.member_id, None, who.generation, at(5_001)).is_ok());
        assert!(groups.may_commit_with("/", "g", &who.member_id, None, who.generation, at(5_001)).is_ok());
        // Who lost the connection while it asked, asks again.
        let synced = groups.sync("/", "g", sync(who, Vec::new()), at(5_002)).take().unwrap();
        assert_eq!(synced.assignment, who.member_id.as_bytes());
    }
    let instance = groups.may_commit("/", "g", "another", Some("i"), 1, at(5_001));
    assert_eq!(instance, Err(GroupFault::FencedInstance));
    assert_eq!(groups.tick(at(5_010)).changed.len(), 1, "it is noted that the group has members");
    // A newcomer has everybody join again, and is understood by what they said.
    let newcomer = groups.join("/", "g", join("", None), at(5_100));
    assert_eq!(beat(&groups, "g", &joined[0], 5_101), Err(GroupFault::RebalanceInProgress));
    for who in &joined {
        let instance = before.members.iter().find(|m| m.id == who.member_id).unwrap().instance.clone();
        drop(groups.join("/", "g", join(&who.member_id, instance.as_deref()), at(5_102)));
    }
    assert_eq!(newcomer.take().unwrap().generation, 2);
}

#[test]
fn who_does_not_come_back_is_out_and_forgotten() {
    let node = Node::new();
    let joined = stable(&node.groups(0), "g", vec![join("", None), join("", None)], 0);
    let (node, groups) = node.restarted(0);
    assert_eq!(beat(&groups, "g", &joined[0], 9_999), Ok(()));
    groups.tick(at(u64::from(SESSION_MS.unsigned_abs())));
    assert_eq!(beat(&groups, "g", &joined[0], 10_001), Err(GroupFault::RebalanceInProgress));
    assert_eq!(beat(&groups, "g", &joined[1], 10_001), Err(GroupFault::UnknownMember));
    groups.tick(at(20_000));
    assert!(!groups.has_members("/", "g"));
    let (_node, groups) = node.restarted(30_000);
    assert!(groups.describe("/", "g", usize::MAX).unwrap().is_none(), "all have gone");
}

#[test]
fn members_of_an_earlier_generation_are_not_let_in_again() {
    let node = Node::new();
    let groups = node.groups(0);
    let [zombie] = &stable(&groups, "g", vec![join("", None)], 0)[..] else { panic!() };
    let leaving = Leaving { member_id: zombie.member_id.clone(), instance: None };
    let next = groups.join("/", "g", join("", None), at(1_000));
    groups.leave("/", "g", &[leaving], at(1_001)).unwrap();
    let next = next.take().unwrap();
    let parts = vec![(next.member_id.clone(), b"all".to_vec())];
    assert!(groups.sync("/", "g", sync(&next, parts), at(1_002)).take().unwrap().fault.is_none());
    let (_node, groups) = node.restarted(2_000);
    assert_eq!(beat(&groups, "g", zombie, 2_001), Err(GroupFault::UnknownMember));
    assert_eq!((next.generation, beat(&groups, "g", &next, 2_001)), (2, Ok(())));
}

#[test]
fn an_instance_that_goes_on_under_another_id_is_known_by_that() {
    let node = Node::new();
    let groups = node.groups(0);
    let [first] = &stable(&groups, "g", vec![join("", Some("i"))], 0)[..] else { panic!() };
    let second = groups.join("/", "g", join("", Some("i")), at(1_000)).take().unwrap();
    assert_eq!((second.generation, second.skip_assignment), (first.generation, true));
    let (_node, groups) = node.restarted(2_000);
    assert_eq!(beat(&groups, "g", &second, 2_001), Ok(()));
    assert_eq!(beat(&groups, "g", first, 2_001), Err(GroupFault::UnknownMember));
}

#[test]
fn groups_that_were_left_or_deleted_are_not_recalled_nor_those_that_are_too_large() {
    let node = Node::new();
    let groups = node.groups(0);
    for group in ["left", "deleted"] {
        let joined = stable(&groups, group, vec![join("", None)], 0);
        let leaving = Leaving { member_id: joined[0].member_id.clone(), instance: None };
        groups.leave("/", group, &[leaving], at(300)).unwrap();
    }
    groups.forget("/", "deleted").unwrap();
    groups.tick(at(300));
    let large = Join { protocols: vec![("range".into(), vec![7; 900_000])], ..join("", None) };
    let large = stable(&groups, "large", vec![large.clone(), large], 400);
    let (_node, groups) = node.restarted(1_000);
    for group in ["left", "deleted", "large"] {
        assert!(groups.describe("/", group, usize::MAX).unwrap().is_none(), "{group}");
    }
    assert_eq!(beat(&groups, "large", &large[0], 1_001), Err(GroupFault::UnknownMember));
}

#[test]
fn whoever_was_still_joining_joins_again() {
    let node = Node::new();
    let groups = node.groups(0);
    let waiting = groups.join("/", "g", join("", None), at(0));
    groups.tick(at(250));
    let joined = waiting.take().unwrap();
    let (_node, groups) = node.restarted(300);
    assert_eq!(beat(&groups, "g", &joined, 301), Err(GroupFault::UnknownMember));
    let [again] = &stable(&groups, "g", vec![join("", None)], 400)[..] else { panic!() };
    let state = groups.describe("/", "g", usize::MAX).unwrap().unwrap().view.state;
    assert_eq!((again.generation, state), (1, State::Stable));
}

/// A heartbeat of the newer protocol, with what is known of topic `t`.
fn speaks(node: &Node, groups: &Groups, id: &str, epoch: i32, ms: u64) -> Result<Beaten, GroupFault> {
    let joins = epoch == 0;
    let beat = Heartbeat {
        member_id: id.into(),
        epoch,
        names: joins.then(|| vec!["t".into()]),
        owned: joins.then(Parts::new),
        rebalance_timeout_ms: joins.then_some(30_000),
        ..Heartbeat::default()
    };
    let resolved = groups.wants("/", "g", &beat, node.streams.version(), at(ms)).map(|wanted| {
        let topic = node.streams.topic("/", "t").unwrap();
        let topics = [("t".into(), (topic.id, topic.partitions().len() as u32))].into();
        Resolved { wanted, topics, version: node.streams.version(), ..Resolved::default() }
    });
    groups.consumer_heartbeat("/", "g", beat, resolved, at(ms))
}

#[test]
fn members_of_the_newer_protocol_go_on_after_a_crash_with_all_that_they_were_told() {
    let node = Node::new();
    node.topic("t", 4);
    let groups = node.groups(0);
    assert_eq!(speaks(&node, &groups, "a", 0, 0).unwrap().epoch, 1);
    let told = speaks(&node, &groups, "b", 0, 1).unwrap();
    node.sync();
    assert!(told.lsn.is_some_and(|lsn| node.streams.journal.durable() >= lsn));
    let before = groups.describe_consumers("/", "g", usize::MAX).unwrap();
    // It is heard, and nobody is told of it before it is durable.
    let lost = speaks(&node, &groups, "c", 0, 2).unwrap();
    assert!(lost.lsn.is_some_and(|lsn| node.streams.journal.durable() < lsn));
    let node = node.killed();
    let groups = node.groups(3);
    assert_eq!(groups.describe_consumers("/", "g", usize::MAX).unwrap(), before);
    assert_eq!(groups.tick(at(4)).changed.len(), 1, "it is noted that the group has members");
    assert_eq!(speaks(&node, &groups, "c", lost.epoch, 5), Err(GroupFault::UnknownMember));
    let [a, b] = [speaks(&node, &groups, "a", 1, 5), speaks(&node, &groups, "b", told.epoch, 5)];
    assert_eq!((a.unwrap().epoch, b.unwrap().epoch), (1, told.epoch));
    for id in ["a", "b"] {
        speaks(&node, &groups, id, -1, 6).unwrap();
    }
    let (_node, groups) = node.restarted(7);
    assert!(groups.describe_consumers("/", "g", usize::MAX).unwrap().is_none(), "all have left");
}

#[test]
fn a_group_that_went_over_to_the_newer_protocol_is_none_of_the_classic_one_after_a_crash() {
    let node = Node::new();
    node.topic("t", 1);
    let groups = node.groups(0);
    let joined = stable(&groups, "g", vec![join("", None)], 0);
    let leaving = Leaving { member_id: joined[0].member_id.clone(), instance: None };
    groups.leave("/", "g", &[leaving], at(300)).unwrap();
    // At once, before it was looked whose members have gone.
    let told = speaks(&node, &groups, "m", 0, 301).unwrap();
    groups.tick(at(1_000));
    let (node, groups) = node.restarted(2_000);
    assert_eq!(groups.describe("/", "g", usize::MAX).unwrap(), None);
    assert!(speaks(&node, &groups, "m", told.epoch, 2_001).is_ok());
}
