//! Groups of the newer protocol that go on after a crash.

use std::sync::Mutex;

use waypost_model::journal::{AppendError, Journal, Op, SpillRef};

use super::tests::{G, OTHER, TOPIC, World, at, beat, has, joins, some};
use super::*;
use crate::codec::Writer;
use crate::groups::{Committer, Groups, Kinds, Recalled, Who, name};

pub(super) const KINDS: Kinds = Kinds { classic: 1, epochs: 2, said: 3, has: 4 };

type Definitions = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// A journal in memory: its appends, and the definitions that they leave.
#[derive(Default)]
pub(super) struct Memory(Mutex<(Vec<Vec<Op>>, Definitions)>);

fn define(definitions: &mut Definitions, ops: &[Op]) {
    for op in ops {
        match op {
            Op::Define { key, value: Some(value) } => drop(definitions.insert(key.clone(), value.clone())),
            Op::Define { key, value: None } => drop(definitions.remove(key)),
            _ => unreachable!(),
        }
    }
}

impl Journal for Memory {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        let (appends, definitions) = &mut *self.0.lock().unwrap();
        define(definitions, &ops);
        appends.push(ops);
        Ok(Lsn(appends.len() as u64))
    }

    fn reserve(&self) -> Lsn {
        unreachable!()
    }

    fn fill(&self, _: Lsn, _: Vec<Op>) -> Result<(), AppendError> {
        unreachable!()
    }

    fn durable(&self) -> Lsn {
        Lsn(self.0.lock().unwrap().0.len() as u64)
    }

    fn spill(&self, _: &waypost_model::Batch, _: u32, _: u32) -> std::io::Result<SpillRef> {
        unreachable!()
    }

    fn release_spill(&self, _: SpillRef) {}
}

impl Memory {
    pub fn recalled(&self) -> Recalled {
        let mut recalled = Recalled::default();
        for (key, value) in &self.0.lock().unwrap().1 {
            recalled.read(&KINDS, key, value).unwrap();
        }
        recalled
    }

    fn crash(&self, left: usize) {
        let (appends, definitions) = &mut *self.0.lock().unwrap();
        appends.truncate(left);
        definitions.clear();
        appends.iter().for_each(|ops| define(definitions, ops));
    }
}

impl World {
    /// A crash that leaves so many appends of the journal, and a start.
    pub fn restarts(&mut self, appends: usize, ms: u64) {
        self.journal.crash(appends);
        let recalled = self.journal.recalled();
        self.groups = Groups::recall(8 + ms, Arc::clone(&self.journal) as _, KINDS, recalled, at(ms));
    }

    pub fn appends(&self) -> usize {
        self.journal.0.lock().unwrap().0.len()
    }

    /// What is written of the group is what it is.
    pub fn check_what_is_kept(&self) {
        let key = name("/", G);
        let is = self.groups.lock().consumers.get(&key).map(ConsumerGroup::pieces).unwrap_or_default();
        assert_eq!(self.journal.recalled().pieces.remove(&key).unwrap_or_default(), is);
    }
}

#[test]
fn members_go_on_after_a_crash_where_they_were() {
    let mut w = World::new(4);
    w.told(joins("a"), 0);
    w.told(Heartbeat { instance: Some("i".into()), rack: Some("r".into()), ..joins("b") }, 10);
    // One is about to let go, and the other one waits for that.
    let kept = w.told(beat("a", 1), 20).1.unwrap();
    let before = w.view();
    assert_eq!(before.state, "Reconciling");
    w.restarts(w.appends(), 40_000);
    assert_eq!(w.view(), before);
    assert_eq!(w.told(beat("a", 1), 40_001), (1, None));
    let may = |id: &str, epoch| w.groups.may_commit("/", G, id, None, epoch, at(40_002));
    assert_eq!((may("a", 1), may("b", 2)), (Ok(Committer::Group), Ok(Committer::Group)));
    assert_eq!(w.told(has("a", 1, &kept), 40_003), (2, Some(kept.clone())));
    let given = w.told(beat("b", 2), 40_004).1.unwrap();
    assert!(given.len() == 2 && given.iter().all(|p| !kept.contains(p)));
    w.restarts(w.appends(), 50_000);
    // As many clients do after they have lost the connection: all that there is to say.
    let full = |id: &str, epoch, parts: &[i32]| Heartbeat { epoch, owned: has(id, epoch, parts).owned, ..joins(id) };
    assert_eq!(w.told(full("a", 2, &kept), 50_001), (2, Some(kept)));
    assert_eq!((w.view().epoch, w.view().state), (2, "Stable"));
    let twin = Heartbeat { instance: Some("i".into()), ..joins("c") };
    assert_eq!(w.says(twin, 50_002), Err(GroupFault::UnreleasedInstance));
}

#[test]
fn a_node_starts_without_groups_of_which_no_sense_can_be_made() {
    let mut w = World::new(4);
    w.told(joins("a"), 0);
    w.told(joins("b"), 10);
    let names: Vec<Box<[u8]>> = w.journal.0.lock().unwrap().1.keys().cloned().collect();
    let said = names.iter().find(|key| key[0] == KINDS.said).unwrap().clone();
    let classic = Writer::beginning(&[KINDS.classic]).bytes(b"/").bytes(b"classic").finish();
    let spoilt = [(said, None), (classic, Some(Box::from(&b"spoilt"[..])))];
    w.journal.append(spoilt.map(|(key, value)| Op::Define { key, value }).into()).unwrap();
    w.restarts(w.appends(), 20);
    assert_eq!(w.groups.unreadable(), [name("/", "classic"), name("/", G)]);
    assert!(w.journal.0.lock().unwrap().1.is_empty());
    assert_eq!(w.says(beat("a", 1), 30), Err(GroupFault::UnknownMember));
    assert_eq!(w.told(joins("a"), 40), (1, some(&[0, 1, 2, 3])));
    w.restarts(w.appends(), 50);
    assert!(w.groups.unreadable().is_empty() && w.view().members.len() == 1);
}

#[test]
fn who_does_not_come_back_after_a_crash_is_out_and_who_has_left_does_not_come_back() {
    let mut w = World::new(4);
    ["a", "b", "c"].into_iter().for_each(|id| drop(w.told(joins(id), 0)));
    w.says(beat("c", -1), 10).unwrap();
    w.restarts(w.appends(), 20);
    assert_eq!(w.view().members.len(), 2);
    let kept = w.told(beat("a", 1), 40_000).1.unwrap();
    w.groups.tick(at(20 + SESSION_TIMEOUT_MS));
    w.check_what_is_kept();
    assert_eq!(w.told(has("a", 1, &kept), 50_000).1, some(&[0, 1, 2, 3]));
    w.restarts(w.appends(), 50_001);
    assert_eq!(w.view().members.len(), 1);
    let epoch = w.view().members[0].epoch;
    w.says(beat("a", epoch), 50_002).unwrap();
    w.says(beat("a", -1), 50_003).unwrap();
    w.restarts(w.appends(), 50_004);
    assert!(w.groups.list("/").is_empty() && w.journal.recalled().pieces.is_empty());
}

#[test]
fn who_does_not_let_go_after_a_crash_has_its_time_again_for_that() {
    let mut w = World::new(2);
    w.told(joins("a"), 0);
    w.told(joins("b"), 10);
    w.told(beat("a", 1), 20);
    w.restarts(w.appends(), 25_000);
    w.groups.tick(at(54_999));
    assert_eq!(w.told(has("a", 1, &[0, 1]), 54_999).0, 1);
    w.groups.tick(at(55_000));
    assert_eq!(w.says(beat("a", 1), 55_001), Err(GroupFault::UnknownMember));
}

#[test]
fn what_has_changed_of_topics_while_the_node_was_down_is_dealt_out() {
    let mut w = World::new(2);
    let pattern = |id: &str| Heartbeat { pattern: Some("t".into()), names: Some(Vec::new()), ..joins(id) };
    w.told(pattern("a"), 0);
    w.restarts(w.appends(), 10);
    // What its members read is not known before one has spoken.
    assert!(w.groups.unread("/", G, ["t".into(), "u".into()].into()).is_empty());
    assert_eq!(w.told(beat("a", 1), 20), (1, None), "nothing has changed");
    assert_eq!(w.groups.unread("/", G, ["t".into(), "u".into()].into()), ["u".into()].into());
    w.topics.insert("t".into(), (TOPIC, 3));
    w.restarts(w.appends(), 30);
    assert_eq!(w.told(beat("a", 1), 40), (2, some(&[0, 1, 2])));
    // The same name, and as many partitions.
    w.topics.insert("t".into(), (OTHER, 3));
    w.restarts(w.appends(), 50);
    assert_eq!(w.told(beat("a", 2), 60), (2, some(&[])));
}

#[test]
fn what_was_kept_is_read_as_a_whole_or_not_at_all() {
    let w = World::new(4);
    w.told(joins("a"), 0);
    let told =
        Heartbeat { pattern: Some("t".into()), rack: Some("r".into()), assignor: Some("range".into()), ..joins("b") };
    w.told(told, 10);
    w.told(beat("a", 1), 20);
    let pieces = w.groups.lock().consumers.get(&name("/", G)).unwrap().pieces();
    assert_eq!(ConsumerGroup::recalled(pieces.clone()).unwrap().pieces(), pieces);
    for piece in pieces.keys() {
        let but = |value: Option<Box<[u8]>>| {
            let mut pieces = pieces.clone();
            pieces.remove(piece);
            pieces.extend(value.map(|value| (piece.clone(), value)));
            ConsumerGroup::recalled(pieces)
        };
        let value = &pieces[piece];
        assert!(but(None).is_err() && but(Some([&value[..], &[0]].concat().into())).is_err());
        assert!((0..value.len()).all(|cut| but(Some(value[..cut].into())).is_err()), "{piece:?}");
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] = 0xff;
            let _ = but(Some(damaged));
        }
    }
    // Two that have the same.
    let twice = (Piece::Has("b".into()), pieces[&Piece::Has("a".into())].clone());
    assert!(ConsumerGroup::recalled(pieces.into_iter().chain([twice]).collect()).is_err());
}

#[test]
fn a_client_of_a_long_name_is_given_an_id_that_is_none_of_it() {
    let w = World::new(1);
    let who = Who { client_id: "c".repeat(30_000).into(), host: "h".into() };
    let id = w.says(Heartbeat { who, ..joins("") }, 0).unwrap().member_id;
    assert!(id.len() <= MEMBER_ID_BYTES_MAX);
}
