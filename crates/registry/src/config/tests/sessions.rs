//! Sessions and locks.

use waypost_model::Millis;

use super::world::{VHOST, World, delete, lock, put, unlock};
use crate::config::*;

fn world() -> World {
    World::new(1, Settings::default())
}

#[test]
fn a_lock_has_one_holder() {
    let mut w = world();
    let (a, b) = (w.session(NewSession::default()), w.session(NewSession::default()));
    w.one(lock("k", "a", &a)).unwrap();
    assert_eq!(w.one(lock("k", "b", &b)).unwrap_err(), Fault::Locked("k".into()));
    assert_eq!(w.one(unlock("k", "b", &b)).unwrap_err(), Fault::NotHolder("k".into()));
    w.one(lock("k", "again", &a)).unwrap();
    let item = w.item("k").unwrap();
    assert_eq!((item.lock_index, item.session.as_deref()), (1, Some(&*a)), "taking what one has counts once");
    w.one(put("k", "anybody may write")).unwrap();
    assert_eq!(w.item("k").unwrap().session.as_deref(), Some(&*a));
    w.one(unlock("k", "done", &a)).unwrap();
    w.one(lock("k", "b", &b)).unwrap();
    assert_eq!(w.item("k").unwrap().lock_index, 2);
    assert_eq!(w.one(lock("k", "c", "nobody")).unwrap_err(), Fault::NoSession("nobody".into()));
}

#[test]
fn the_end_of_a_session_gives_its_locks_back_after_the_delay() {
    let mut w = world();
    let spec = NewSession { ttl_ms: Some(10_000), ..NewSession::default() };
    let (a, b) = (w.session(spec), w.session(NewSession::default()));
    w.one(lock("k", "a", &a)).unwrap();
    let held = w.item("k").unwrap().revision;
    w.now = w.now.plus(9_000);
    assert!(w.store.renew_session(VHOST, &a, w.now).is_some());
    w.now = w.now.plus(10_000);
    w.store.advance(w.now);
    assert_eq!(w.store.sessions(VHOST).items.len(), 2, "never before its time to live");
    w.now = w.now.plus(10_000);
    w.store.advance(w.now);
    assert_eq!(w.store.sessions(VHOST).items.len(), 1, "at most twice as late");
    let item = w.item("k").unwrap();
    assert!(item.session.is_none() && item.revision > held && item.version == 1);
    assert!(matches!(w.one(lock("k", "b", &b)), Err(Fault::Delayed { .. })));
    w.now = w.now.plus(15_000);
    w.one(lock("k", "b", &b)).unwrap();
}

#[test]
fn a_session_may_take_its_keys_with_it() {
    let mut w = world();
    let spec = NewSession { behavior: Behavior::Delete, lock_delay_ms: 0, ..NewSession::default() };
    let a = w.session(spec);
    w.one(lock("k", "a", &a)).unwrap();
    w.put("other", "stays");
    w.store.destroy_session(VHOST, &a, w.now).unwrap();
    assert_eq!((w.value("k"), w.value("other").as_deref()), (None, Some("stays")));
    let b = w.session(NewSession::default());
    w.one(lock("k", "b", &b)).unwrap();
}

#[test]
fn sessions_and_locks_survive_and_get_their_whole_time_again() {
    let mut w = world();
    let spec = NewSession { ttl_ms: Some(10_000), name: "n".into(), ..NewSession::default() };
    let a = w.session(spec);
    w.one(lock("k", "a", &a)).unwrap();
    w.sync();
    let before = (w.store.sessions(VHOST).items, w.item("k"));
    w.now = w.now.plus(100_000);
    w.disk.crash();
    w.reopen();
    assert_eq!((w.store.sessions(VHOST).items, w.item("k")), before);
    w.now = w.now.plus(9_999);
    w.store.advance(w.now);
    assert_eq!(w.item("k").unwrap().session.as_deref(), Some(&*a));
    w.now = w.now.plus(20_000);
    w.store.advance(w.now);
    assert!(w.item("k").unwrap().session.is_none());
    w.sync();
    w.disk.crash();
    w.reopen();
    assert!(w.item("k").unwrap().session.is_none() && w.store.sessions(VHOST).items.is_empty());
}

#[test]
fn releasing_copies_no_value() {
    let mut w = world();
    let a = w.session(NewSession::default());
    w.one(lock("k", &"x".repeat(100_000), &a)).unwrap();
    let before = w.store.totals(None).history_bytes;
    w.store.destroy_session(VHOST, &a, w.now).unwrap();
    assert!(w.store.totals(None).history_bytes - before < 200);
}

#[test]
fn a_deleted_key_is_nobodys() {
    let mut w = world();
    let (a, b) = (w.session(NewSession::default()), w.session(NewSession::default()));
    w.one(lock("k", "a", &a)).unwrap();
    w.one(delete("k")).unwrap();
    w.one(lock("k", "b", &b)).unwrap();
    assert_eq!(w.item("k").unwrap().lock_index, 1);
    w.store.destroy_session(VHOST, &a, w.now).unwrap();
    assert_eq!(w.item("k").unwrap().session.as_deref(), Some(&*b));
}

#[test]
fn sessions_are_bounded() {
    let mut w = World::new(1, Settings { sessions_max: 1, ..Settings::default() });
    w.session(NewSession::default());
    let refused = w.store.create_session(VHOST, NewSession::default(), [9; 16], Millis(0));
    assert!(matches!(refused, Err(Fault::Limit(_))));
}
