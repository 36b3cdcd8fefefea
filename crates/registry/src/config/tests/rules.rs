//! Rule by rule.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use bytes::Bytes;
use waypost_model::Millis;

use super::world::{VHOST, World, delete, gray, put, put_when};
use crate::config::*;

fn world() -> World {
    World::new(1, Settings::default())
}

fn fired(watch: &mut Watch) -> bool {
    pin!(watch.changed()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn kinds(w: &World, path: &str) -> Vec<(u64, Kind)> {
    w.history(path).into_iter().map(|p| (p.version, p.kind)).collect()
}

#[test]
fn every_write_is_a_version_and_a_revision() {
    let w = world();
    let first = w.put("a/x", "1");
    let second = w.put("a/x", "2");
    w.put("a/y", "3");
    assert!(first.revision < second.revision);
    let item = w.item("a/x").unwrap();
    assert_eq!((item.version, item.revision, item.created), (2, second.revision, first.revision));
    assert_eq!(w.item("a/y").unwrap().version, 1);
    let history = w.history("a/x");
    assert_eq!(history[0].content.as_ref().unwrap().2, Bytes::from_static(b"2"));
    assert_eq!((&*history[1].author, &*history[1].comment, history[1].at), ("anna", "why", w.now.0));
}

#[test]
fn the_first_write_of_all_is_news_to_who_saw_nothing() {
    let w = World::new(1, Settings::default());
    let nothing = w.store.get("/", "a").index;
    let first = w.one(put("a", "1")).unwrap();
    assert!(first.revision > nothing && w.store.get("/", "a").index > nothing);
}

#[test]
fn what_changes_nothing_is_no_revision_and_wakes_nobody() {
    let w = world();
    let first = w.put("a", "1");
    let mut watch = w.store.watch(VHOST, What::Below("".into()));
    let again = w.put("a", "1");
    assert!(!again.changed && again.revision == first.revision);
    assert!(!fired(&mut watch));
    w.put("a", "2");
    assert!(fired(&mut watch) && !fired(&mut watch));
}

#[test]
fn compare_and_set() {
    let w = world();
    let created = w.one(put_when("a", "1", When::Revision(0))).unwrap();
    let stale = |why| Fault::Stale { path: "a".into(), why };
    let refused = |write| w.one(write).unwrap_err();
    assert_eq!(refused(put_when("a", "2", When::Revision(0))), stale(Stale::Exists));
    assert_eq!(refused(put_when("a", "2", When::Revision(99))), stale(Stale::Revision(created.revision)));
    w.one(put_when("a", "2", When::Revision(created.revision))).unwrap();
    assert_eq!(w.value("a").unwrap(), "2");
    let gone = Write::Delete { path: "b".into(), when: When::Exists };
    assert_eq!(w.one(gone).unwrap_err(), Fault::Stale { path: "b".into(), why: Stale::Missing });
    w.one(Write::Delete { path: "b".into(), when: When::RevisionOrGone(7) }).unwrap();
}

#[test]
fn a_transaction_is_all_or_nothing_and_names_each_fault() {
    let w = world();
    w.put("a", "1");
    let before = w.store.totals(None);
    let ops = [put("b", "1"), put_when("a", "x", When::Revision(99)), Write::Get { path: "c".into() }];
    let faults = w.store.commit(VHOST, By::default(), &ops, w.now).unwrap_err();
    assert_eq!(faults.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(w.store.totals(None), before);
    let ops = [put("b", "1"), Write::Get { path: "b".into() }, delete("a"), Write::GetBelow { prefix: "".into() }];
    let done = w.store.commit(VHOST, By::default(), &ops, w.now).unwrap();
    let Answer::Items(left) = &done.answers[3] else { panic!("a list") };
    assert_eq!(left.iter().map(|i| (&*i.path, i.revision)).collect::<Vec<_>>(), [("b", done.revision)]);
}

#[test]
fn a_transaction_is_bounded() {
    let w = world();
    let many = vec![put("a", "1"); TXN_OPS_MAX + 1];
    assert!(w.store.commit(VHOST, By::default(), &many, w.now).is_err());
    let big = Write::Put {
        path: "a".into(),
        value: Bytes::from(vec![0; VALUE_BYTES_MAX + 1]),
        content_type: None,
        flags: None,
        when: When::Always,
    };
    assert!(matches!(w.one(big), Err(Fault::TooLarge { .. })));
}

#[test]
fn deleting_is_a_version_and_bringing_back_too() {
    let w = world();
    w.put("a", "1");
    w.put("a", "2");
    w.one(delete("a")).unwrap();
    assert_eq!(w.value("a"), None);
    w.sync();
    let back = w.store.rollback(VHOST, By::default(), "a", 1, When::Revision(0), w.now).unwrap();
    assert_eq!(w.value("a").unwrap(), "1");
    assert_eq!(w.item("a").unwrap().created, back.revision);
    assert_eq!(kinds(&w, "a"), [(4, Kind::Rollback), (3, Kind::Delete), (2, Kind::Put), (1, Kind::Put)]);
    assert_eq!(w.history("a")[0].from, Some(1));
    let refused = w.store.rollback(VHOST, By::default(), "a", 3, When::Always, w.now);
    assert!(matches!(refused, Err(Fault::Bad(_))));
    let refused = w.store.rollback(VHOST, By::default(), "a", 9, When::Always, w.now);
    assert_eq!(refused.unwrap_err(), Fault::NoVersion { path: "a".into(), version: 9 });
}

#[test]
fn differences_of_any_two_versions() {
    let w = world();
    ["1\n", "1\n2\n"].into_iter().for_each(|v| drop(w.put("a", v)));
    w.one(delete("a")).unwrap();
    w.sync();
    let diff = |from, to| w.store.diff(VHOST, "a", from, to).unwrap();
    assert_eq!(diff(1, 2), Difference::Text("--- a@1\n+++ a@2\n@@ -1,1 +1,2 @@\n 1\n+2\n".into()));
    assert_eq!(diff(2, 3), Difference::Text("--- a@2\n+++ a@3\n@@ -1,2 +0,0 @@\n-1\n-2\n".into()));
    assert_eq!(diff(1, 1), Difference::Same);
}

#[test]
fn gray_from_candidate_to_all() {
    let w = world();
    w.put("a", "old");
    let index = w.store.get(VHOST, "a").index;
    w.one(gray("a", Some("new"), 100)).unwrap();
    let look = w.store.get(VHOST, "a");
    assert_eq!(look.index, index, "what everybody sees has not changed");
    let subject = Subject { id: "i", ..Subject::default() };
    let Some(Chosen::Candidate(chosen)) = Store::choose(&look, "a", &subject) else { panic!("the candidate") };
    assert_eq!(chosen.value, Bytes::from_static(b"new"));
    assert!(matches!(Store::choose(&look, "a", &Subject::default()), Some(Chosen::Stable(_))));
    w.one(gray("a", None, 0)).unwrap();
    assert!(matches!(Store::choose(&w.store.get(VHOST, "a"), "a", &subject), Some(Chosen::Stable(_))));
    w.put("a", "fixed");
    assert!(w.store.get(VHOST, "a").gray.is_some(), "a new stable value leaves the candidate alone");
    w.one(Write::Promote { path: "a".into() }).unwrap();
    assert_eq!(w.value("a").unwrap(), "new");
    assert!(w.store.get(VHOST, "a").gray.is_none());
    assert!(matches!(w.one(Write::Abandon { path: "a".into() }), Err(Fault::NoGray(_))));
}

#[test]
fn an_abandoned_candidate_leaves_the_old_value() {
    let mut w = world();
    w.put("a", "old");
    w.one(gray("a", Some("new"), 50)).unwrap();
    w.one(Write::Abandon { path: "a".into() }).unwrap();
    w.sync();
    let (before, item) = (w.store.get(VHOST, "a").index, w.item("a"));
    w.disk.crash();
    w.reopen();
    assert_eq!((w.store.get(VHOST, "a").index, w.item("a")), (before, item));
    assert_eq!(kinds(&w, "a"), [(3, Kind::Abandon), (2, Kind::Gray), (1, Kind::Put)]);
    assert_eq!(w.store.version(VHOST, "a", 3).unwrap().content.unwrap().2, Bytes::from_static(b"old"));
}

#[test]
fn retention_keeps_the_last_and_what_is_in_force() {
    let mut w = World::new(1, Settings { revisions_max: 3, ..Settings::default() });
    w.put("a", "stable");
    for n in 0..6 {
        w.one(gray("a", Some(&format!("candidate {n}")), 10)).unwrap();
    }
    assert_eq!(w.history("a").iter().map(|p| p.version).collect::<Vec<_>>(), [7, 6, 5, 1]);
    w.disk.crash();
    w.reopen();
    assert_eq!(w.value("a").unwrap(), "stable");
    w.put("a", "next");
    assert_eq!(w.history("a").iter().map(|p| p.version).collect::<Vec<_>>(), [8, 7, 6]);
}

#[test]
fn age_takes_history_and_graves_but_never_a_value() {
    let mut w = World::new(1, Settings { history_ms: 1000, ..Settings::default() });
    w.put("a", "1");
    w.put("a", "2");
    w.put("b", "1");
    w.one(delete("b")).unwrap();
    let index = w.store.get(VHOST, "b").index;
    w.now = Millis(w.now.0 + 10_000_000);
    w.store.advance(w.now);
    assert_eq!(w.history("a").len(), 1);
    assert_eq!(w.value("a").unwrap(), "2");
    w.sync();
    assert!(matches!(w.store.history(VHOST, "b", None, 9), Err(Fault::NotFound(_))));
    assert!(w.store.get(VHOST, "b").index >= index, "an index never goes back");
    let revision = w.store.totals(None).revision;
    w.disk.crash();
    w.reopen();
    assert_eq!(w.store.totals(None).revision, revision, "what is forgotten takes no number with it");
    let again = w.put("b", "new");
    assert_eq!((w.item("b").unwrap().version, again.revision), (1, revision + 1));
    w.sync();
    w.disk.crash();
    w.reopen();
    assert_eq!(w.value("b").unwrap(), "new");
}

#[test]
fn graves_and_history_are_bounded() {
    let settings = Settings { tombstones_max: 2, history_bytes_max: 20_000, ..Settings::default() };
    let w = World::new(1, settings);
    for n in 0..5 {
        w.put(&format!("k{n}"), "1");
        w.one(delete(&format!("k{n}"))).unwrap();
    }
    assert_eq!(w.store.totals(None).tombstones, 2);
    for n in 0..50 {
        w.put("big", &format!("{n}").repeat(500));
    }
    let totals = w.store.totals(None);
    assert!(totals.history_bytes <= 20_000, "{totals:?}");
    assert!(w.history("big").len() > 3);
    assert_eq!(w.value("big").unwrap(), "49".repeat(500));
}

#[test]
fn keys_and_bytes_are_bounded_but_what_is_there_can_shrink() {
    let w = World::new(1, Settings { keys_max: 2, bytes_max: 100, ..Settings::default() });
    w.put("a", "1");
    w.put("b", &"x".repeat(90));
    assert_eq!(w.one(put("c", "1")).unwrap_err(), Fault::Limit("keys per vhost"));
    assert_eq!(w.one(put("a", &"x".repeat(20))).unwrap_err(), Fault::Limit("bytes of configuration per vhost"));
    w.put("b", "small");
    w.one(delete("a")).unwrap();
    w.put("c", "1");
}

#[test]
fn indices_of_prefixes_know_deletions() {
    let w = world();
    w.put("a/1", "x");
    let other = w.put("b/1", "x");
    let gone = w.one(delete("a/1")).unwrap();
    assert_eq!(w.store.list(VHOST, "a/").index, gone.revision);
    assert_eq!(w.store.list(VHOST, "b/").index, other.revision);
    assert_eq!(w.store.list(VHOST, "never/").index, 1);
    assert_eq!(w.store.paths(VHOST, "").items.len(), 1);
}

#[test]
fn vhosts_know_nothing_of_each_other_and_go_as_a_whole() {
    let mut w = world();
    w.put("a", "1");
    w.store.commit("two", By::default(), &[put("a", "other")], w.now).unwrap();
    assert_eq!(w.value("a").unwrap(), "1");
    w.store.forget_vhost("two").unwrap();
    assert_eq!(w.store.vhosts(), [VHOST.into()]);
    w.sync();
    w.disk.crash();
    w.reopen();
    assert_eq!(w.store.vhosts(), [VHOST.into()]);
    assert_eq!(w.value("a").unwrap(), "1");
}

#[test]
fn changes_are_told_once_and_the_last_state_wins() {
    let w = world();
    w.put("a", "1");
    w.put("b", "1");
    w.put("a", "2");
    let told = w.store.untold(10);
    let seen: Vec<_> = told.iter().map(|c| (&*c.path, c.item.as_ref().unwrap().value.clone())).collect();
    assert_eq!(seen, [("a", Bytes::from_static(b"2")), ("b", Bytes::from_static(b"1"))]);
    assert!(w.store.untold(10).is_empty());
    w.one(gray("a", Some("3"), 1)).unwrap();
    let told = w.store.untold(10);
    assert!(!told[0].stable && told[0].candidate);
    let mut waiting = pin!(w.store.something_to_tell());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    w.one(delete("b")).unwrap();
    assert!(waiting.as_mut().poll(&mut cx).is_ready());
}

#[test]
fn a_disk_without_room_refuses_and_leaves_everything_as_it_was() {
    use waypost_storage::fault::Faults;
    let w = world();
    w.put("a", "1");
    w.sync();
    w.disk.set_faults(Faults { capacity: Some(0), ..Faults::default() });
    let value = "x".repeat(40_000);
    let refused = (0..100).find_map(|n| {
        let result = w.one(put(&format!("fill{n}"), &value));
        let _ = w.engine.commit_once();
        w.engine.maintain_once();
        result.err()
    });
    assert!(matches!(refused, Some(Fault::Append(_))), "{refused:?}");
    let before = w.store.totals(None);
    assert!(w.one(put("a", &value)).is_err());
    assert_eq!(w.store.totals(None), before);
    assert_eq!(w.value("a").unwrap(), "1");
}
