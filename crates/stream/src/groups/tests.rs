//! Groups as scripts.

use super::*;
use crate::random::random;

const T: Millis = Millis(1_000_000);
const G: &str = "g";

fn at(ms: u64) -> Millis {
    T.plus(ms)
}

fn join(member_id: &str) -> Join {
    Join {
        member_id: member_id.into(),
        instance: None,
        who: Who { client_id: "c".into(), host: "h".into() },
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), b"meta".to_vec())],
        id_required: false,
        may_skip_assignment: false,
    }
}

fn sync(joined: &Joined, assignments: &[(&Joined, &str)]) -> Sync {
    Sync {
        member_id: joined.member_id.clone(),
        instance: None,
        generation: joined.generation,
        protocol: None,
        assignments: assignments.iter().map(|(j, a)| (j.member_id.clone(), a.as_bytes().to_vec())).collect(),
    }
}

fn groups() -> Groups {
    Groups::new(7)
}

impl Groups {
    fn joins(&self, join: Join, ms: u64) -> Awaited<Joined> {
        self.join("/", G, join, at(ms))
    }

    fn syncs(&self, sync: Sync, ms: u64) -> Awaited<Synced> {
        self.sync("/", G, sync, at(ms))
    }

    fn beats(&self, j: &Joined, ms: u64) -> Result<(), GroupFault> {
        self.heartbeat("/", G, &j.member_id, None, j.generation, at(ms))
    }

    /// A stable group of that many; the first one leads.
    fn stable(&self, count: usize) -> Vec<Joined> {
        let waiting: Vec<_> = (0..count).map(|_| self.joins(join(""), 0)).collect();
        self.tick(at(GATHER_MS));
        let joined: Vec<Joined> = waiting.iter().map(|w| w.take().unwrap()).collect();
        let leader = joined.iter().find(|j| j.leader == j.member_id).unwrap();
        let parts: Vec<(&Joined, &str)> = joined.iter().map(|j| (j, "part")).collect();
        let synced: Vec<_> = joined.iter().filter(|j| j != &leader).map(|j| self.syncs(sync(j, &[]), 300)).collect();
        assert!(synced.iter().all(|s| s.take().is_none()), "nothing is dealt out yet");
        assert_eq!(self.syncs(sync(leader, &parts), 300).take().unwrap().assignment, b"part");
        assert!(synced.iter().all(|s| s.take().unwrap().assignment == b"part"));
        joined
    }
}

#[test]
fn members_gather_and_the_leader_deals_out() {
    let groups = groups();
    let joined = groups.stable(3);
    assert!(joined.iter().all(|j| j.generation == 1 && j.protocol == "range".into() && j.fault.is_none()));
    assert_eq!(joined.iter().filter(|j| j.members.len() == 3).count(), 1, "only the leader hears of everybody");
    let view = groups.describe("/", G, usize::MAX).unwrap().unwrap().view;
    assert_eq!((view.state, view.members.len(), view.members[0].metadata.as_slice()), (State::Stable, 3, &b"meta"[..]));
    assert!(joined.iter().all(|j| groups.beats(j, 500).is_ok()));
}

#[test]
fn a_newcomer_makes_everybody_join_again() {
    let groups = groups();
    let before = groups.stable(2);
    let newcomer = groups.joins(join(""), 1_000);
    assert!(newcomer.take().is_none());
    assert_eq!(groups.beats(&before[0], 1_000), Err(GroupFault::RebalanceInProgress));
    let again: Vec<_> = before.iter().map(|j| groups.joins(join(&j.member_id), 1_100)).collect();
    let joined = newcomer.take().unwrap();
    assert_eq!((joined.generation, again[0].take().unwrap().generation), (2, 2));
    assert_eq!(groups.beats(&before[0], 1_200), Err(GroupFault::IllegalGeneration));
    assert_eq!(groups.syncs(sync(&before[1], &[]), 1_200).take().unwrap().fault, Some(GroupFault::IllegalGeneration));
}

#[test]
fn whoever_is_silent_is_out() {
    let groups = groups();
    let joined = groups.stable(2);
    groups.beats(&joined[0], 9_000).unwrap();
    assert!(groups.tick(at(10_299)).next.unwrap() <= at(10_300));
    groups.tick(at(10_300));
    assert_eq!(groups.beats(&joined[0], 10_301), Err(GroupFault::RebalanceInProgress));
    let alone = groups.joins(join(&joined[0].member_id), 10_400).take().unwrap();
    assert_eq!((alone.generation, alone.leader, alone.members.len()), (2, joined[0].member_id.clone(), 1));
    assert_eq!(groups.beats(&joined[1], 10_500), Err(GroupFault::UnknownMember));
}

#[test]
fn whoever_does_not_join_again_in_time_is_out() {
    let groups = groups();
    let joined = groups.stable(2);
    let newcomer = groups.joins(join(""), 1_000);
    groups.joins(join(&joined[0].member_id), 1_000);
    // It still beats, but never joins.
    for second in 2..31 {
        let _ = groups.beats(&joined[1], second * 1_000);
        groups.tick(at(second * 1_000));
    }
    groups.tick(at(31_000));
    assert_eq!(newcomer.take().unwrap().generation, 2);
    assert_eq!(groups.describe("/", G, usize::MAX).unwrap().unwrap().view.members.len(), 2);
}

#[test]
fn a_leader_that_does_not_deal_out_is_replaced() {
    let groups = groups();
    let waiting: Vec<_> = (0..2).map(|_| groups.joins(join(""), 0)).collect();
    groups.tick(at(250));
    let joined: Vec<Joined> = waiting.iter().map(|w| w.take().unwrap()).collect();
    let follower = joined.iter().find(|j| j.leader != j.member_id).unwrap();
    let waits = groups.syncs(sync(follower, &[]), 300);
    groups.tick(at(10_250));
    assert_eq!(waits.take().unwrap().fault, Some(GroupFault::RebalanceInProgress));
    let alone = groups.joins(join(&follower.member_id), 10_300).take().unwrap();
    assert_eq!((alone.leader, alone.generation), (follower.member_id.clone(), 2));
}

#[test]
fn new_clients_are_given_an_id_first() {
    let groups = groups();
    let refused = groups.joins(Join { id_required: true, ..join("") }, 0).take().unwrap();
    assert_eq!(refused.fault, Some(GroupFault::MemberIdRequired));
    let waits = groups.joins(Join { id_required: true, ..join(&refused.member_id) }, 10);
    groups.tick(at(260));
    assert_eq!(waits.take().unwrap().member_id, refused.member_id);
    // Given and never used: it holds nobody up for ever.
    let unused = groups.joins(Join { id_required: true, ..join("") }, 300).take().unwrap();
    groups.tick(at(10_300));
    assert_eq!(groups.joins(join(&unused.member_id), 10_301).take().unwrap().fault, Some(GroupFault::UnknownMember));
}

#[test]
fn the_last_one_to_leave_empties_the_group() {
    let groups = groups();
    let joined = groups.stable(1);
    let leaving = |j: &Joined| [Leaving { member_id: j.member_id.clone(), instance: None }];
    assert_eq!(groups.forget("/", G), Err(GroupFault::NotEmpty));
    assert_eq!(groups.leave("/", G, &leaving(&joined[0]), at(1)).unwrap(), [Ok(())]);
    assert_eq!(groups.leave("/", G, &leaving(&joined[0]), at(1)).unwrap(), [Err(GroupFault::UnknownMember)]);
    assert_eq!(groups.describe("/", G, usize::MAX).unwrap().unwrap().view.state, State::Empty);
    assert_eq!(groups.forget("/", G), Ok(()));
    assert_eq!(groups.leave("/", G, &leaving(&joined[0]), at(1)), Err(GroupFault::UnknownMember));
}

#[test]
fn an_instance_keeps_its_part_when_it_comes_back() {
    let groups = groups();
    let named = |id: &str| Join { instance: Some("i".into()), may_skip_assignment: true, ..join(id) };
    let first = groups.joins(named(""), 0);
    groups.tick(at(250));
    let first = first.take().unwrap();
    groups.syncs(sync(&first, &[(&first, "mine")]), 300);
    // The process is another one: no rebalance, and it hears that it has nothing to deal out.
    let second = groups.joins(named(""), 5_000).take().unwrap();
    assert_eq!((second.generation, second.skip_assignment, second.leader == second.member_id), (1, true, true));
    assert_eq!(groups.syncs(sync(&second, &[]), 5_100).take().unwrap().assignment, b"mine");
    // The one before is locked out.
    let beat = groups.heartbeat("/", G, &first.member_id, Some("i"), 1, at(5_200));
    assert_eq!(beat, Err(GroupFault::FencedInstance));
    assert_eq!(groups.joins(named(&first.member_id), 5_300).take().unwrap().fault, Some(GroupFault::FencedInstance));
}

#[test]
fn protocols_must_fit() {
    let groups = groups();
    groups.stable(1);
    let other = Join { protocols: vec![("roundrobin".into(), vec![])], ..join("") };
    assert_eq!(groups.joins(other, 400).take().unwrap().fault, Some(GroupFault::InconsistentProtocol));
    let kind = Join { protocol_type: "connect".into(), ..join("") };
    assert_eq!(groups.joins(kind, 400).take().unwrap().fault, Some(GroupFault::InconsistentProtocol));
    let short = Join { session_timeout_ms: 10, ..join("") };
    assert_eq!(groups.joins(short, 400).take().unwrap().fault, Some(GroupFault::InvalidSessionTimeout));
    assert_eq!(groups.join("/", "", join(""), T).take().unwrap().fault, Some(GroupFault::InvalidGroup));
}

#[test]
fn only_members_of_this_generation_commit() {
    let groups = groups();
    let may = |member: &str, generation| groups.may_commit("/", G, member, None, generation, at(500));
    assert_eq!((may("", -1), may("x", 3)), (Ok(Committer::Standalone), Err(GroupFault::IllegalGeneration)));
    let joined = groups.stable(1);
    let id = &*joined[0].member_id;
    assert_eq!((may(id, 1), may(id, 0)), (Ok(Committer::Group), Err(GroupFault::IllegalGeneration)));
    assert_eq!((may("", -1), may("x", 1)), (Err(GroupFault::UnknownMember), Err(GroupFault::UnknownMember)));
}

#[test]
fn a_hundred_members_settle_as_soon_as_the_last_one_is_back() {
    let groups = groups();
    let members = groups.stable(100);
    let newcomer = groups.joins(join(""), 1_000);
    let again: Vec<_> = members.iter().map(|j| groups.joins(join(&j.member_id), 1_500)).collect();
    let joined = newcomer.take().unwrap();
    assert!(again.iter().all(|a| a.take().unwrap().generation == joined.generation));
}

#[test]
fn what_members_say_has_a_limit_each_and_together_and_gives_its_room_back() {
    let groups = groups();
    let saying = |bytes: usize| Join { protocols: vec![("range".into(), vec![0; bytes])], ..join("") };
    let fault = |awaited: Awaited<Joined>| awaited.take().and_then(|j| j.fault);
    assert!(matches!(fault(groups.joins(saying(MEMBER_BYTES_MAX), 0)), Some(GroupFault::InvalidRequest(_))));
    let large = MEMBER_BYTES_MAX - 1000;
    let in_group = |n: usize| groups.join("/", &format!("g{n}"), saying(large), at(0));
    let waiting: Vec<_> = (0..ALL_BYTES_MAX / MEMBER_BYTES_MAX).map(in_group).collect();
    assert_eq!(fault(in_group(1000)), Some(GroupFault::GroupFull));
    // Who is a member goes on.
    groups.tick(at(GATHER_MS));
    let first = waiting[0].take().unwrap();
    assert_eq!(first.fault, None);
    let again = Join { member_id: first.member_id.clone(), ..saying(large) };
    assert_eq!(fault(groups.join("/", "g0", again, at(300))), None);
    // What is dealt out counts.
    let much = Sync { assignments: vec![(first.member_id.clone(), vec![0; MEMBER_BYTES_MAX])], ..sync(&first, &[]) };
    assert_eq!(groups.sync("/", "g0", much, at(300)).take().unwrap().fault, Some(GroupFault::GroupFull));
    let beat = Heartbeat { names: Some(vec!["t".repeat(large).into()]), ..new_consumer() };
    let beaten = groups.consumer_heartbeat("/", "c", beat.clone(), None, at(300));
    assert_eq!(beaten.unwrap_err(), GroupFault::GroupFull);
    let leaving = Leaving { member_id: first.member_id, instance: None };
    groups.leave("/", "g0", &[leaving], at(400)).unwrap();
    groups.tick(at(400));
    assert!(groups.consumer_heartbeat("/", "c", beat, None, at(400)).is_ok());
}

#[test]
fn who_knows_very_many_protocols_is_refused_before_anybody_is_asked_for_them() {
    let knows = |from: usize, count: usize| {
        let protocols = (from..from + count).map(|n| (format!("p{n}").into(), Vec::new())).collect();
        Join { protocols, ..join("") }
    };
    let (groups, fault) = (groups(), |joined: Awaited<Joined>| joined.take().and_then(|j| j.fault));
    let too_many = fault(groups.joins(knows(0, PROTOCOLS_MAX + 1), 0));
    assert!(matches!(too_many, Some(GroupFault::InvalidRequest(_))));
    // What the members share is the last of each; the vote finds it however many there are.
    let waiting: Vec<_> = (0..500)
        .map(|n| {
            let mut join = knows(1_000 * n, PROTOCOLS_MAX - 2);
            join.protocols.extend([("shared".into(), vec![]), ("shared".into(), vec![])]);
            groups.joins(join, 0)
        })
        .collect();
    assert_eq!(fault(groups.joins(knows(0, PROTOCOLS_MAX), 0)), Some(GroupFault::InconsistentProtocol));
    groups.tick(at(GATHER_MS));
    assert!(waiting.iter().all(|w| *w.take().unwrap().protocol == *"shared"));
}

#[test]
fn who_ticks_is_told_once_that_members_came_and_that_all_have_gone() {
    let told = |groups: &Groups, ms| groups.tick(at(ms)).changed.into_iter().map(|c| c.has_members).collect::<Vec<_>>();
    let groups = groups();
    let joined = groups.stable(2);
    // The first tick, which let the members in, has told of them.
    assert_eq!((told(&groups, 400), groups.has_members("/", G)), (vec![], true));
    let leaving = |j: &Joined| Leaving { member_id: j.member_id.clone(), instance: None };
    groups.leave("/", G, &[leaving(&joined[0])], at(500)).unwrap();
    assert_eq!(told(&groups, 500), []);
    groups.leave("/", G, &[leaving(&joined[1])], at(600)).unwrap();
    assert_eq!((told(&groups, 600), told(&groups, 600), groups.has_members("/", G)), (vec![false], vec![], false));
    // Between two ticks somebody has come and gone: that it was there counts.
    let one = groups.joins(join(""), 700);
    assert!(one.take().is_none());
    let id = groups.members("/", G).remove(0).id;
    groups.leave("/", G, &[Leaving { member_id: id, instance: None }], at(700)).unwrap();
    groups.tick(at(700 + GATHER_MS));
    let beat = |epoch| Heartbeat { member_id: "m".into(), names: Some(vec!["t".into()]), epoch, ..new_consumer() };
    let says = |epoch, ms| groups.consumer_heartbeat("/", "c", beat(epoch), None, at(ms));
    says(0, 2_000).unwrap();
    says(-1, 2_000).unwrap();
    assert_eq!((told(&groups, 2_000), told(&groups, 2_000)), (vec![false], vec![]));
    // From one protocol to the other it has members all the time.
    says(0, 3_000).unwrap();
    assert_eq!(told(&groups, 3_000), [true]);
    says(-1, 3_000).unwrap();
    let classic = groups.join("/", "c", join(""), at(3_000));
    assert_eq!(told(&groups, 3_000 + GATHER_MS), [true]);
    assert_eq!(classic.take().unwrap().fault, None);
}

#[test]
fn what_nobody_reads_is_told_where_it_is_known() {
    let asked = || BTreeSet::from(["a".into(), "b".into()]);
    let unread =
        |groups: &Groups, group: &str| groups.unread("/", group, asked()).into_iter().collect::<Vec<Arc<str>>>();
    let groups = groups();
    assert_eq!(unread(&groups, G).len(), 2);
    let reads_a = vec![("range".into(), b"\0\0\0\0\0\x01\0\x01a".to_vec())];
    let member = groups.joins(Join { protocols: reads_a, ..join("") }, 0);
    assert_eq!(unread(&groups, G).len(), 0, "members join");
    groups.tick(at(GATHER_MS));
    let leader = member.take().unwrap();
    groups.syncs(sync(&leader, &[]), 300);
    assert_eq!(unread(&groups, G), ["b".into()]);
    // Members that are no consumers, and such as say what cannot be read.
    for (n, protocol_type) in ["connect", "consumer"].into_iter().enumerate() {
        let group = format!("other{n}");
        let other = groups.join("/", &group, Join { protocol_type: protocol_type.into(), ..join("") }, at(0));
        groups.tick(at(GATHER_MS));
        groups.sync("/", &group, sync(&other.take().unwrap(), &[]), at(300));
        assert_eq!(unread(&groups, &group).len(), 0);
    }
    let beat =
        |pattern: &str| Heartbeat { names: Some(vec!["a".into()]), pattern: Some(pattern.into()), ..new_consumer() };
    groups.consumer_heartbeat("/", "c", beat(""), None, at(0)).unwrap();
    assert_eq!(unread(&groups, "c"), ["b".into()]);
    let matches = [("b.*".into(), vec!["b".into()])].into();
    let resolved = Resolved { matches, ..Resolved::default() };
    groups.consumer_heartbeat("/", "p", beat("b.*"), Some(resolved), at(0)).unwrap();
    assert_eq!(unread(&groups, "p").len(), 0);
}

#[test]
fn what_is_too_long_to_be_described_is_not_copied() {
    let groups = groups();
    groups.stable(2);
    let whole = groups.describe("/", G, 10_000).unwrap().unwrap();
    assert_eq!(whole.view.members.len(), 2);
    let TooLong(bytes) = groups.describe("/", G, 100).unwrap_err();
    assert_eq!(groups.describe("/", G, bytes), Ok(Some(whole)));
    assert_eq!(groups.describe("/", G, bytes - 1), Err(TooLong(bytes)));
    groups.consumer_heartbeat("/", "c", Heartbeat { names: Some(vec![]), ..new_consumer() }, None, at(0)).unwrap();
    assert!(groups.describe_consumers("/", "c", 0).is_err() && groups.describe_consumers("/", "c", 1_000).is_ok());
    let summary = Summary { state: "Stable", protocol: Some("range".into()), members: 2 };
    assert_eq!((groups.summary("/", G), groups.summary("/", "none")), (Some(summary), None));
}

#[test]
fn what_the_members_of_a_group_say_has_a_limit_of_its_own() {
    let (groups, fault) = (groups(), |joined: Awaited<Joined>| joined.take().and_then(|j| j.fault));
    let large = Join { protocols: vec![("range".into(), vec![7; MEMBER_BYTES_MAX - 1_000])], ..join("") };
    for _ in 0..GROUP_BYTES_MAX / MEMBER_BYTES_MAX {
        assert_eq!(fault(groups.joins(large.clone(), 0)), None);
    }
    assert_eq!(fault(groups.joins(large.clone(), 0)), Some(GroupFault::GroupFull));
    assert_eq!(fault(groups.join("/", "another", large, at(0))), None);
}

fn new_consumer() -> Heartbeat {
    Heartbeat { owned: Some(Parts::new()), rebalance_timeout_ms: Some(1000), ..Heartbeat::default() }
}

/// Whatever happens in whatever order: every answer comes in time, and of those who were told their part in one
/// generation no two were told the same.
#[test]
fn random_histories() {
    for seed in 0..200_u64 {
        let mut next = random(seed);
        let groups = groups();
        let (mut joining, mut syncing): (Vec<(Awaited<Joined>, u64)>, Vec<(Awaited<Synced>, u64)>) = (vec![], vec![]);
        let mut joined: Vec<Joined> = Vec::new();
        let mut now = 0;
        for _ in 0..400 {
            now += next(2_000);
            groups.tick(at(now));
            match next(6) {
                0 => joining.push((groups.joins(join(""), now), now)),
                1 | 2 if !joined.is_empty() => {
                    let j = joined.swap_remove(next(joined.len() as u64) as usize);
                    let all: Vec<(&Joined, &str)> = Vec::new();
                    let mut s = sync(&j, &all);
                    s.assignments = j.members.iter().map(|(id, ..)| (id.clone(), id.as_bytes().to_vec())).collect();
                    syncing.push((groups.syncs(s, now), now));
                    if next(2) == 0 {
                        joining.push((groups.joins(join(&j.member_id), now), now));
                    }
                }
                3 if !joined.is_empty() => {
                    let j = joined.swap_remove(next(joined.len() as u64) as usize);
                    let _ = groups.leave("/", G, &[Leaving { member_id: j.member_id, instance: None }], at(now));
                }
                4 if !joined.is_empty() => drop(groups.beats(&joined[next(joined.len() as u64) as usize], now)),
                _ => {}
            }
            joining.retain(|(waits, _)| match waits.take() {
                Some(answer) => {
                    if answer.fault.is_none() {
                        joined.push(answer);
                    }
                    false
                }
                None => true,
            });
            syncing.retain(|(waits, _)| waits.take().is_none());
            // Nobody waits longer than joining and dealing out may take together.
            assert!(joining.iter().all(|(_, since)| now - since <= 62_500), "seed {seed}: a join is not answered");
            assert!(syncing.iter().all(|(_, since)| now - since <= 32_500), "seed {seed}: a sync is not answered");
        }
        if let Some(view) =
            groups.describe("/", G, usize::MAX).unwrap().map(|d| d.view).filter(|v| v.state == State::Stable)
        {
            let mut parts: Vec<_> = view.members.iter().map(|m| &m.assignment).filter(|a| !a.is_empty()).collect();
            parts.sort();
            assert!(parts.windows(2).all(|w| w[0] != w[1]), "seed {seed}");
        }
    }
}

#[test]
fn what_was_kept_is_read_as_a_whole_or_not_at_all() {
    let groups = groups();
    groups.stable(2);
    let kept = groups.lock().groups.get(&name("/", G)).unwrap().to_keep().unwrap();
    let again = Group::recalled(&kept, T).unwrap();
    assert_eq!(again.to_keep().unwrap(), kept);
    assert!((0..kept.len()).all(|cut| Group::recalled(&kept[..cut], T).is_err()));
    assert!(Group::recalled(&[&kept[..], &[0]].concat(), T).is_err());
    for at in 0..kept.len() {
        let mut damaged = kept.to_vec();
        damaged[at] = 0xff;
        let _ = Group::recalled(&damaged, T);
    }
}
