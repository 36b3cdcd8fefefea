use super::*;

#[test]
fn a_lease_that_ends_makes_critical_and_then_forgotten() {
    let mut w = World::new();
    w.register("cart", leased("a", 6000));
    let writes = w.journal.writes.load(Ordering::Relaxed);
    for _ in 0..10 {
        w.pass(5000);
        assert!(w.services.heartbeat("cart", "a", w.now));
    }
    assert_eq!(w.journal.writes.load(Ordering::Relaxed), writes, "a heartbeat is not written");
    assert_eq!(w.words(), ["cart wanted", "cart/a passing"]);
    w.pass(5999);
    assert_eq!(w.list("cart"), ["a passing"]);
    w.pass(1);
    assert_eq!(w.list("cart"), ["a critical expired"]);
    w.pass(5999);
    assert_eq!(w.list("cart"), ["a critical expired"]);
    w.pass(1);
    assert!(w.list("cart").is_empty());
    assert_eq!(w.words(), ["cart/a critical", "cart/a gone"]);
    assert!(w.journal.kept.lock().unwrap().is_empty());
    assert!(!w.services.heartbeat("cart", "a", w.now));
}

#[test]
fn a_late_heartbeat_revives() {
    let mut w = World::new();
    w.register("cart", leased("a", 6000));
    w.pass(8000);
    assert_eq!(w.list("cart"), ["a critical expired"]);
    w.services.heartbeat("cart", "a", w.now);
    assert_eq!(w.list("cart"), ["a passing"]);
    w.pass(5999);
    assert_eq!(w.list("cart"), ["a passing"]);
}

#[test]
fn half_of_all_gone_at_once_is_our_fault() {
    let mut w = World::new();
    for i in 0..10 {
        w.register("cart", leased(&format!("{i}"), 10_000));
    }
    w.pass(9_000);
    for i in 0..4 {
        w.services.heartbeat("cart", &format!("{i}"), w.now);
    }
    w.words();
    w.pass(1_500);
    let list = w.list("cart");
    assert_eq!(list.iter().filter(|l| l.ends_with("warning panic")).count(), 6, "{list:?}");
    // The window is over: those that are still silent are critical, and forgotten a lease later, unless they return.
    for _ in 0..9 {
        w.pass(1_000);
        for i in 0..4 {
            w.services.heartbeat("cart", &format!("{i}"), w.now);
        }
    }
    w.services.heartbeat("cart", "4", w.now);
    assert_eq!(w.list("cart").len(), 10, "nobody is forgotten in a panic");
    w.pass(1_000);
    let list = w.list("cart");
    assert_eq!(list.iter().filter(|l| l.ends_with("passing")).count(), 5, "{list:?}");
    w.pass(8_000);
    assert_eq!(w.list("cart").len(), 5, "{:?}", w.list("cart"));
}

#[test]
fn short_leases_are_no_eviction_storm_when_the_panic_is_over() {
    let mut w = World::new();
    for i in 0..100 {
        w.register("cart", leased(&format!("{i}"), 1_000));
    }
    w.pass(1_000);
    assert!(w.list("cart").iter().all(|l| l.ends_with("warning panic")));
    w.pass(limits::PANIC_WINDOW_MS);
    assert!(w.list("cart").iter().all(|l| l.ends_with("critical expired")), "{:?}", w.list("cart"));
    for i in 0..50 {
        w.services.heartbeat("cart", &format!("{i}"), w.now);
    }
    w.pass(900);
    assert_eq!(w.list("cart").len(), 100);
    for _ in 0..8 {
        for i in 0..50 {
            w.services.heartbeat("cart", &format!("{i}"), w.now);
        }
        w.pass(900);
    }
    assert_eq!(w.list("cart").len(), 50);
}

#[test]
fn few_losses_and_goodbyes_are_no_panic() {
    let mut w = World::new();
    for i in 0..10 {
        w.register("cart", leased(&format!("{i}"), 10_000));
    }
    for i in 0..6 {
        w.services.deregister("cart", &format!("{i}"), w.now).unwrap();
    }
    assert_eq!(w.list("cart").len(), 4);
    w.register("two", leased("a", 1000));
    w.register("two", leased("b", 1000));
    w.pass(1_500);
    assert_eq!(w.list("two"), ["a critical expired", "b critical expired"], "two of two are too few to panic");
}

#[test]
fn losses_far_apart_are_no_panic() {
    let mut w = World::new();
    for i in 0..4 {
        w.register("cart", leased(&format!("{i}"), 60_000));
        w.pass(11_000);
    }
    w.pass(60_000);
    assert!(w.list("cart").iter().all(|l| l.ends_with("critical expired")), "{:?}", w.list("cart"));
}

#[test]
fn who_comes_and_goes_too_often_is_held_back_for_a_while() {
    let mut w = World::new();
    w.register("cart", with_checks("a", vec![CheckSpec::new("c", CheckKind::Manual)]));
    let say = |w: &World, health| assert!(w.services.report("cart", "a", "c", health, "", w.now));
    for fall in 0..4 {
        say(&w, Health::Passing);
        assert_eq!(w.list("cart"), ["a passing"], "{fall}");
        w.pass(100);
        say(&w, Health::Critical);
        assert_eq!(w.list("cart"), ["a critical check"], "{fall}");
        w.pass(100);
    }
    say(&w, Health::Passing);
    assert_eq!(w.list("cart"), ["a warning damped"]);
    // From 4,000 to 1,000 it takes two half-lives.
    w.pass(118_000);
    assert_eq!(w.list("cart"), ["a warning damped"]);
    w.pass(3_000);
    assert_eq!(w.list("cart"), ["a passing"]);
}

#[test]
fn a_drain_ends_with_its_time() {
    let mut w = World::new();
    w.register("cart", plain("a"));
    w.words();
    let until = w.now.plus(5000);
    assert!(w.services.drain("cart", "a", until, w.now).unwrap().is_some());
    assert!(w.services.drain("cart", "b", until, w.now).unwrap().is_none());
    assert!(w.services.view("cart").instances[0].standing.draining);
    assert!(w.services.choose("cart", None).is_none());
    let index = w.index("cart");
    w.services.drain("cart", "a", until, w.now).unwrap();
    assert_eq!(w.index("cart"), index, "the same again is no change");
    w.services.drain("cart", "a", until.plus(1000), w.now).unwrap();
    w.pass(5999);
    assert_eq!(w.list("cart").len(), 1);
    w.pass(1);
    assert!(w.list("cart").is_empty());
    assert_eq!(w.words(), ["cart/a passing draining", "cart/a gone, drained"]);
    assert!(w.journal.kept.lock().unwrap().is_empty());
}

#[test]
fn a_drain_can_be_taken_back_or_be_over_at_once() {
    let mut w = World::new();
    w.register("cart", plain("a"));
    w.services.drain("cart", "a", w.now.plus(5000), w.now).unwrap();
    w.services.undrain("cart", "a", w.now).unwrap();
    w.pass(10_000);
    assert_eq!(w.list("cart"), ["a passing"]);
    w.services.drain("cart", "a", w.now, w.now).unwrap();
    assert!(w.list("cart").is_empty());
}

#[test]
fn maintenance_is_critical_until_it_is_over() {
    let w = World::new();
    w.register("cart", plain("a"));
    w.words();
    w.services.maintain("cart", "a", Some("disk"), w.now).unwrap();
    assert_eq!(w.list("cart"), ["a critical maintenance"]);
    assert_eq!(w.services.view("cart").instances[0].maintenance.as_deref(), Some("disk"));
    w.services.maintain("cart", "a", None, w.now).unwrap();
    assert_eq!(w.list("cart"), ["a passing"]);
    assert_eq!(w.words(), ["cart/a critical", "cart/a passing"]);
}

#[test]
fn deadlines_of_who_is_gone_do_not_pile_up() {
    let w = World::new();
    for i in 0..20_000 {
        w.register("cart", leased(&format!("{}", i % 7), 80_000_000));
        w.services.deregister("cart", &format!("{}", i % 7), w.now).unwrap();
    }
    let deadlines = w.registry.lock().timers.len();
    assert!(deadlines < 3_000, "{deadlines}");
}
