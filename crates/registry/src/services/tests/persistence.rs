use super::*;

fn full() -> Registration {
    let instance = Instance {
        version: Some(std::sync::Arc::new("1.2.3-rc.1+b".parse().unwrap())),
        zone: "eu".into(),
        tags: ["a".into(), "b".into()].into(),
        meta: [("k".into(), "v".into())].into(),
        weight: 7,
        max_in_flight: Some(0),
        ..instance("a")
    };
    let http = HttpProbe {
        url: "http://x/".into(),
        method: "GET".into(),
        headers: [("a".into(), "b".into())].into(),
        body: "".into(),
        interval_ms: 10_000,
        timeout_ms: 1_000,
    };
    let push = Push {
        url: "http://x/".into(),
        secret: Some("s".into()),
        concurrency: 4,
        timeout_ms: 5,
        format: PushFormat::CloudEvents,
    };
    let http = CheckSpec { initial: Health::Passing, ..CheckSpec::new("http", CheckKind::Http(Box::new(http))) };
    let tcp = CheckSpec { deregister_after_ms: Some(60_000), initial: Health::Passing, ..tcp("tcp", 5_000) };
    let checks =
        vec![http, tcp, CheckSpec { initial: Health::Passing, notes: "n".into(), name: "N".into(), ..ttl("t", 5_000) }];
    let detail = Detail {
        push: Some(Arc::new(push)),
        node: Some("n1".into()),
        warning_weight: Some(2),
        extra: Some("{}".into()),
    };
    Registration { instance, owner: "alice".into(), source: Source::Catalog, lease_ms: Some(9_000), checks, detail }
}

#[test]
fn everything_survives_a_restart() {
    let w = World::new();
    w.services
        .register_node(NodeSpec { name: "n1".into(), extra: Some("x".into()), ..settings().own_node }, w.now)
        .unwrap();
    w.services.add_node_check("n1", CheckSpec { initial: Health::Passing, ..ttl("alive", 5000) }, w.now).unwrap();
    w.services.maintain_node("here", Some("us"), w.now).unwrap();
    w.register("cart", full());
    w.services.drain("cart", "a", w.now.plus(60_000), w.now).unwrap();
    let before = w.services.view("cart").instances[0].clone();
    let w = w.restart(1_000);
    let after = w.services.view("cart").instances[0].clone();
    assert_eq!(after.instance, before.instance);
    assert_eq!(after.standing, before.standing);
    assert_eq!((&after.owner, after.source, after.lease_ms), (&before.owner, before.source, before.lease_ms));
    assert_eq!((&after.detail, after.drain_until), (&before.detail, before.drain_until));
    let specs = |l: &Listed| l.checks.iter().map(|c| (Arc::clone(&c.spec), c.status)).collect::<Vec<_>>();
    assert_eq!(specs(&after), specs(&before));
    let n1 = after.node.unwrap();
    assert_eq!((n1.spec.extra.as_deref(), n1.checks.len()), (Some("x"), 1));
    assert_eq!(w.services.node("here").unwrap().1.maintenance.as_deref(), Some("us"));
    assert_eq!(w.words()[..1], ["cart wanted"]);
    assert!(!w.register("cart", full()).changed, "the same registration is still the same");
}

#[test]
fn indices_are_higher_after_a_restart() {
    let w = World::new();
    w.register("cart", plain("a"));
    let index = w.index("cart");
    let w = w.restart(1_000);
    assert!(w.index("cart") > index);
}

#[test]
fn leases_begin_anew() {
    let mut w = World::new();
    w.register("cart", leased("a", 10_000));
    w.pass(9_000);
    let mut w = w.restart(60_000);
    assert_eq!(w.list("cart"), ["a passing"]);
    w.pass(9_999);
    assert_eq!(w.list("cart"), ["a passing"]);
    w.pass(1);
    assert_eq!(w.list("cart"), ["a critical expired"]);
}

#[test]
fn checks_keep_their_last_verdict() {
    let mut w = World::new();
    w.register("cart", with_checks("a", vec![ttl("c", 5_000)]));
    w.register("cart", with_checks("b", vec![ttl("c", 5_000)]));
    w.register("cart", with_checks("c", vec![ttl("c", 5_000)]));
    for id in ["a", "b"] {
        w.services.report("cart", id, "c", Health::Passing, "", w.now);
    }
    w.pass(4_000);
    w.services.report("cart", "a", "c", Health::Passing, "", w.now);
    w.pass(2_000);
    let mut w = w.restart(60_000);
    assert_eq!(w.list("cart"), ["a passing", "b critical check", "c critical check"]);
    w.pass(4_999);
    assert_eq!(w.list("cart")[0], "a passing");
    w.pass(1);
    assert_eq!(w.list("cart")[0], "a critical check");
}

#[test]
fn who_lived_by_a_connection_stays_listed_for_a_moment() {
    let w = World::new();
    w.claim("cart", instance("a"), 1).unwrap();
    w.claim("cart", instance("b"), 2).unwrap();
    w.claim("cart", Instance::new("nowhere"), 3).unwrap();
    let mut w = w.restart(5_000);
    assert_eq!(w.list("cart"), ["a warning returning", "b warning returning"]);
    assert!(w.claim_as("cart", instance("a"), 9, "eve").is_err(), "it is held for its user");
    w.claim("cart", instance("a"), 9).unwrap();
    assert_eq!(w.list("cart"), ["a passing", "b warning returning"]);
    w.pass(limits::RETURN_MS);
    assert_eq!(w.list("cart"), ["a passing"]);
    assert_eq!(w.journal.kept.lock().unwrap().len(), 1);
}

#[test]
fn who_goes_because_we_stop_is_remembered() {
    let w = World::new();
    let (a, b) = (w.claim("cart", instance("a"), 1).unwrap(), w.claim("cart", instance("b"), 2).unwrap());
    w.leave(&b, Ending::Left);
    w.registry.stopping();
    w.leave(&a, Ending::Left);
    let w = w.restart(5_000);
    assert_eq!(w.list("cart"), ["a warning returning"]);
}

#[test]
fn we_may_be_called_what_another_node_was_called() {
    let w = World::new();
    w.services.register_node(NodeSpec { name: "n1".into(), ..settings().own_node }, w.now).unwrap();
    w.register("cart", full());
    w.services.maintain_node("here", Some("us"), w.now).unwrap();
    let own_node = NodeSpec { name: "N1".into(), ..settings().own_node };
    let w = World::with(Settings { own_node, ..settings() }, w.journal, w.now);
    assert!(w.services.node("n1").unwrap().1.is_self && w.services.view("cart").instances[0].node.is_none());
    assert_eq!(w.services.nodes().1.len(), 1);
}

#[test]
fn damaged_definitions_end_the_start() {
    let w = World::new();
    w.services.register_node(NodeSpec { name: "n1".into(), ..settings().own_node }, w.now).unwrap();
    w.register("cart", full());
    let good = w.journal.kept.lock().unwrap().clone();
    let open = |kept: &BTreeMap<Box<[u8]>, Box<[u8]>>| {
        let definitions = kept.iter().map(|(k, v)| (&**k, &**v));
        Registry::open(settings(), Arc::<Memory>::default(), definitions, Millis(1)).map(drop)
    };
    assert!(open(&good).is_ok());
    for (key, value) in &good {
        for len in 0..value.len() {
            // A value may end before what few have, and be whole.
            let mut cut = good.clone();
            cut.insert(key.clone(), value[..len].into());
            let _ = open(&cut);
        }
        for at in 0..value.len() {
            let mut flipped = value.clone();
            flipped[at] ^= 0x55;
            let mut other = good.clone();
            other.insert(key.clone(), flipped);
            let _ = open(&other);
        }
        let mut other = good.clone();
        other.insert(key.clone(), [9].into());
        assert!(matches!(open(&other), Err(LoadError::Version { version: 9, .. })));
        let mut other = good.clone();
        other.insert(key.clone(), [].into());
        assert!(matches!(open(&other), Err(LoadError::Malformed(_))));
    }
    let orphan: BTreeMap<_, _> = good.iter().skip(1).map(|(k, v)| (k.clone(), v.clone())).collect();
    assert!(matches!(open(&orphan), Err(LoadError::Dangling(what)) if what == "'//cart/a'"));
    assert!(!is_definition(&[0x50]) && is_definition(good.keys().next().unwrap()));
}
