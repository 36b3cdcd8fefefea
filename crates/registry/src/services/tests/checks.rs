use super::*;

#[test]
fn a_ttl_check_lives_by_what_is_said() {
    let mut w = World::new();
    w.register("cart", with_checks("a", vec![ttl("service:a", 6000)]));
    assert_eq!(w.list("cart"), ["a critical check"]);
    assert!(w.services.report_by_id("a", "service:a", Health::Passing, "fine", w.now));
    assert_eq!(w.list("cart"), ["a passing"]);
    assert!(w.services.report_by_id("a", "service:a", Health::Warning, "hm", w.now));
    assert_eq!(w.list("cart"), ["a warning check"]);
    w.services.report_by_id("a", "service:a", Health::Passing, "", w.now);
    w.pass(5999);
    assert_eq!(w.list("cart"), ["a passing"]);
    w.pass(1);
    assert_eq!(w.list("cart"), ["a critical check"]);
    assert_eq!(&*w.services.view("cart").instances[0].checks[0].output, "TTL expired");
    assert!(!w.services.report_by_id("a", "other", Health::Passing, "", w.now));
    assert!(!w.services.report_by_id("b", "service:b", Health::Passing, "", w.now));
}

#[test]
fn the_same_status_again_wakes_nobody_and_is_not_written() {
    let w = World::new();
    w.register("cart", with_checks("a", vec![ttl("c", 6000)]));
    w.services.report("cart", "a", "c", Health::Passing, "one", w.now);
    let (index, checks) = (w.index("cart"), w.services.everything().0);
    let writes = w.journal.writes.load(Ordering::Relaxed);
    w.services.report("cart", "a", "c", Health::Passing, "two", w.now);
    assert_eq!((w.index("cart"), w.services.everything().0), (index, checks));
    assert_eq!(w.journal.writes.load(Ordering::Relaxed), writes);
    assert_eq!(&*w.services.view("cart").instances[0].checks[0].output, "two", "who looks sees it");
}

#[test]
fn the_worst_check_counts() {
    let w = World::new();
    let manual = |id: &str| CheckSpec { initial: Health::Passing, ..CheckSpec::new(id, CheckKind::Manual) };
    w.register("cart", with_checks("a", vec![manual("1"), manual("2")]));
    w.services.report("cart", "a", "1", Health::Warning, "", w.now);
    assert_eq!(w.list("cart"), ["a warning check"]);
    w.services.report("cart", "a", "2", Health::Critical, "", w.now);
    assert_eq!(w.list("cart"), ["a critical check"]);
    w.services.remove_check("cart", "a", "2", w.now).unwrap().unwrap();
    assert_eq!(w.list("cart"), ["a warning check"]);
    assert!(w.services.remove_check("cart", "a", "2", w.now).unwrap().is_none());
    w.services.add_check("cart", "a", ttl("3", 5000), w.now).unwrap().unwrap();
    assert_eq!(w.list("cart"), ["a critical check"]);
}

fn run(w: &mut World, ms: u64) -> CheckRun {
    let mut runs = w.pass(ms);
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs.remove(0)
}

#[test]
fn a_run_check_counts_failures_and_successes() {
    let mut w = World::new();
    let check = CheckSpec { success_before_passing: 2, failures_before_critical: 3, ..tcp("c", 10_000) };
    w.register("cart", with_checks("a", vec![check]));
    assert_eq!(w.list("cart"), ["a starting starting"]);
    let answer = |w: &mut World, health| {
        let run = run(w, 10_000);
        w.registry.checked(run.ticket, health, "said", false, w.now);
    };
    answer(&mut w, Health::Passing);
    assert_eq!(w.list("cart"), ["a starting starting"]);
    answer(&mut w, Health::Passing);
    assert_eq!(w.list("cart"), ["a passing"]);
    answer(&mut w, Health::Critical);
    answer(&mut w, Health::Critical);
    assert_eq!(w.list("cart"), ["a passing"]);
    answer(&mut w, Health::Critical);
    assert_eq!(w.list("cart"), ["a critical check"]);
    answer(&mut w, Health::Passing);
    assert_eq!(w.list("cart"), ["a critical check"]);
    answer(&mut w, Health::Passing);
    assert_eq!(w.list("cart"), ["a passing"]);
}

#[test]
fn a_check_that_hangs_is_not_run_twice_at_once() {
    let mut w = World::new();
    w.register("cart", with_checks("a", vec![tcp("c", 1_000)]));
    let hangs = run(&mut w, 5_000);
    assert!(w.pass(5_000).is_empty());
    w.registry.checked(hangs.ticket, Health::Critical, "timeout", true, w.now);
    w.registry.checked(hangs.ticket, Health::Passing, "again", true, w.now);
    assert_eq!(w.list("cart"), ["a critical check"], "one that was never well gets no second chance");
    assert_eq!(w.pass(1_000).len(), 1);
}

#[test]
fn a_result_for_who_is_gone_is_nobodys() {
    let mut w = World::new();
    w.register("cart", with_checks("a", vec![tcp("c", 1_000)]));
    let old = run(&mut w, 5_000);
    w.services.deregister("cart", "a", w.now).unwrap();
    w.register("cart", with_checks("a", vec![tcp("c", 1_000)]));
    w.registry.checked(old.ticket, Health::Passing, "", false, w.now);
    assert_eq!(w.list("cart"), ["a starting starting"]);
}

#[test]
fn first_runs_are_soon_and_spread() {
    let mut w = World::new();
    for i in 0..100 {
        w.register("cart", with_checks(&format!("{i}"), vec![tcp("c", 60_000)]));
    }
    let runs: Vec<usize> = (0..10).map(|_| w.pass(100).len()).collect();
    assert_eq!(runs.iter().sum::<usize>(), 100, "{runs:?}");
    assert!(runs.iter().all(|n| *n < 30), "{runs:?}");
    let mut w = w.restart(1_000);
    assert!(w.pass(1_000).len() < 15, "there is no hurry: the last verdict holds");
    assert!(w.pass(29_000).len() > 85);
}

#[test]
fn what_is_critical_for_too_long_is_deregistered() {
    let mut w = World::new();
    let check = CheckSpec { deregister_after_ms: Some(60_000), ..ttl("c", 10_000) };
    w.register("cart", with_checks("a", vec![check]));
    w.services.report("cart", "a", "c", Health::Passing, "", w.now);
    w.pass(10_000);
    w.services.report("cart", "a", "c", Health::Critical, "still", w.now);
    w.pass(9_000);
    w.services.report("cart", "a", "c", Health::Passing, "", w.now);
    w.pass(10_000 + 59_999);
    assert_eq!(w.list("cart"), ["a critical check"]);
    w.pass(1);
    assert!(w.list("cart").is_empty() && w.journal.kept.lock().unwrap().is_empty());
}

#[test]
fn timeouts_of_most_checks_are_our_fault() {
    let mut w = World::new();
    for i in 0..4 {
        let check = CheckSpec { failures_before_critical: 1, initial: Health::Passing, ..tcp("c", 10_000) };
        w.register("cart", with_checks(&format!("{i}"), vec![check]));
    }
    let runs = w.pass(5_000);
    assert_eq!(runs.len(), 4);
    for run in &runs[..3] {
        w.registry.checked(run.ticket, Health::Critical, "timeout", true, w.now);
    }
    w.registry.checked(runs[3].ticket, Health::Critical, "connection refused", false, w.now);
    let list = w.list("cart");
    assert_eq!(list.iter().filter(|l| l.ends_with("warning panic")).count(), 3, "{list:?}");
    assert_eq!(list.iter().filter(|l| l.ends_with("critical check")).count(), 1, "an answer is an answer");
}

#[test]
fn registering_anew_keeps_what_checks_say() {
    let w = World::new();
    w.register("cart", with_checks("a", vec![ttl("c", 6000)]));
    w.services.report("cart", "a", "c", Health::Passing, "fine", w.now);
    w.register("cart", with_checks("a", vec![ttl("c", 6000), ttl("d", 6000)]));
    w.services.report("cart", "a", "d", Health::Passing, "", w.now);
    assert_eq!(w.list("cart"), ["a passing"]);
    w.register("cart", with_checks("a", vec![ttl("c", 7000)]));
    assert_eq!(w.list("cart"), ["a critical check"], "another check begins at its beginning");
}

#[test]
fn long_outputs_are_cut_at_a_character() {
    let w = World::new();
    w.register("cart", with_checks("a", vec![ttl("c", 6000)]));
    w.services.report("cart", "a", "c", Health::Passing, &"ä".repeat(5000), w.now);
    assert_eq!(w.services.view("cart").instances[0].checks[0].output.len(), limits::CHECK_OUTPUT_MAX);
}
