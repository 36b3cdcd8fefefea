use waypost_model::RefusalKind;

use super::*;

#[test]
fn what_is_registered_is_listed_and_told() {
    let w = World::new();
    let done = w.register("cart", plain("b"));
    assert!(done.created && done.changed);
    w.register("cart", plain("a"));
    assert_eq!(w.list("cart"), ["a passing", "b passing"]);
    assert_eq!(w.words(), ["cart wanted", "cart/b passing", "cart/a passing"]);
    assert_eq!(w.services.list().services.len(), 1);
    assert_eq!(w.services.view("cart").instance("a").unwrap().address(), Some("10.0.0.1"));
}

#[test]
fn an_instance_is_found_in_its_service_only() {
    let w = World::new();
    w.register("cart", plain("a"));
    w.register("order", plain("b"));
    let found = w.services.instance("cart", "a").unwrap();
    assert_eq!((&*found.instance.id, found.address()), ("a", Some("10.0.0.1")));
    assert!(w.services.instance("cart", "b").is_none() && w.services.instance("nobody", "a").is_none());
    w.services.deregister("cart", "a", w.now).unwrap();
    assert!(w.services.instance("cart", "a").is_none());
}

#[test]
fn registering_again_what_is_there_changes_nothing() {
    let w = World::new();
    let first = w.register("cart", leased("a", 5000));
    let (index, list, checks) = (w.index("cart"), w.services.list().index, w.services.everything().0);
    let (writes, view) = (w.journal.writes.load(Ordering::Relaxed), w.services.view("cart"));
    w.words();
    let again = w.register("cart", leased("a", 5000));
    assert_eq!((again.created, again.changed, again.lsn), (false, false, first.lsn));
    assert_eq!((w.index("cart"), w.services.list().index, w.services.everything().0), (index, list, checks));
    assert_eq!(w.journal.writes.load(Ordering::Relaxed), writes);
    assert!(Arc::ptr_eq(&view, &w.services.view("cart")));
    assert!(w.words().is_empty());
}

#[test]
fn instances_that_say_the_same_of_themselves_share_it() {
    let w = World::new();
    let said = |id: &str, extra: &str| {
        let mut registration = plain(id);
        registration.detail.extra = Some(extra.into());
        registration
    };
    w.register("cart", plain("a"));
    w.register("cart", said("b", "x"));
    w.register("cart", said("c", "x"));
    w.register("cart", said("d", "y"));
    let detail = |w: &World, id: &str| w.services.view("cart").instance(id).unwrap().detail.clone();
    let same = |w: &World, a: &str, b: &str| Arc::ptr_eq(&detail(w, a).unwrap(), &detail(w, b).unwrap());
    assert!(detail(&w, "a").is_none() && same(&w, "b", "c") && !same(&w, "c", "d"));
    let again = w.register("cart", said("b", "y"));
    assert!(again.changed && same(&w, "b", "d"));
    assert_eq!(detail(&w, "c").unwrap().extra.as_deref(), Some("x"));
    let w = w.restart(1000);
    assert!(detail(&w, "a").is_none() && detail(&w, "c").unwrap().extra.as_deref() == Some("x"));
    assert_eq!(detail(&w, "b"), detail(&w, "d"));
}

#[test]
fn another_description_moves_its_service_and_no_other() {
    let w = World::new();
    w.register("cart", plain("a"));
    w.register("order", plain("a"));
    let (cart, order, list) = (w.index("cart"), w.index("order"), w.services.list().index);
    let changed = Registration::new(Instance { port: 81, ..instance("a") }, "guest", Source::Api);
    let done = w.register("cart", changed);
    assert!(done.changed && !done.created);
    assert!(w.index("cart") > cart);
    assert_eq!((w.index("order"), w.services.list().index), (order, list));
    assert_eq!(w.services.view("cart").instances[0].instance.port, 81);
}

#[test]
fn the_list_moves_with_services_and_tags_only() {
    let w = World::new();
    let tagged = |id: &str, tag: &str| {
        Registration::new(Instance { tags: [tag.into()].into(), ..instance(id) }, "guest", Source::Api)
    };
    w.register("cart", tagged("a", "x"));
    let first = w.services.list();
    w.register("cart", tagged("b", "x"));
    assert_eq!(w.services.list().index, first.index);
    w.register("cart", tagged("b", "y"));
    let second = w.services.list();
    assert!(second.index > first.index);
    assert_eq!(&*second.services[0].tags, &["x".into(), "y".into()]);
    w.services.deregister("cart", "a", w.now).unwrap();
    assert_eq!(&*w.services.list().services[0].tags, &["y".into()]);
    w.services.deregister("cart", "b", w.now).unwrap();
    assert!(w.services.list().services.is_empty());
}

#[test]
fn who_is_deregistered_is_gone() {
    let w = World::new();
    w.register("cart", plain("a"));
    let index = w.index("cart");
    assert!(w.services.deregister("cart", "a", w.now).unwrap().is_some());
    assert!(w.services.deregister("cart", "a", w.now).unwrap().is_none());
    assert!(w.services.deregister("none", "a", w.now).unwrap().is_none());
    assert!(w.list("cart").is_empty() && w.index("cart") > index);
    assert_eq!(w.words().last().unwrap(), "cart/a gone");
    let again = w.register("cart", plain("a"));
    assert!(again.created && again.incarnation > 1);
}

#[test]
fn an_id_alone_finds_its_instance() {
    let w = World::new();
    w.register("cart", plain("a"));
    w.register("order", plain("b"));
    assert_eq!(w.services.find("b").map(|(service, _)| service.to_string()), Some("order".to_owned()));
    assert!(w.services.find("c").is_none());
    w.services.deregister("order", "b", w.now).unwrap();
    assert!(w.services.find("b").is_none());
}

#[test]
fn vhosts_know_nothing_of_each_other() {
    let w = World::new();
    let other = w.registry.services("other");
    w.register("cart", plain("a"));
    assert!(!other.view("cart").is_known() && other.find("a").is_none() && other.list().services.is_empty());
    other.register("cart", plain("b"), w.now).unwrap();
    assert_eq!(w.list("cart"), ["a passing"]);
    other.register_node(NodeSpec { name: "n".into(), ..settings().own_node }, w.now).unwrap();
    other.maintain_node("here", Some("x"), w.now).unwrap();
    assert_eq!(w.registry.vhosts().len(), 2);
    w.registry.forget_vhost("other", w.now);
    assert_eq!(w.registry.vhosts(), ["/".into()]);
    assert_eq!((other.nodes().1.len(), &other.nodes().1[0].maintenance), (1, &None));
    other.register_node(NodeSpec { name: "again".into(), ..settings().own_node }, w.now).unwrap();
    assert!(other.node("here").unwrap().1.is_self && !other.node("again").unwrap().1.is_self);
    other.deregister_node("again", w.now).unwrap();
    assert!(!other.view("cart").is_known());
    assert_eq!(w.list("cart"), ["a passing"]);
    assert_eq!(w.journal.kept.lock().unwrap().len(), 1);
}

#[test]
fn what_is_invalid_is_refused() {
    let w = World::new();
    let refused =
        |service: &str, registration: Registration| w.services.register(service, registration, w.now).unwrap_err().kind;
    assert_eq!(refused("Cart", plain("a")), RefusalKind::PreconditionFailed);
    assert_eq!(refused("cart", plain("")), RefusalKind::PreconditionFailed);
    assert_eq!(refused("cart", leased("a", 10)), RefusalKind::PreconditionFailed);
    assert_eq!(refused("cart", with_checks("a", vec![ttl("x", 1)])), RefusalKind::PreconditionFailed);
    assert_eq!(
        refused("cart", with_checks("a", vec![ttl("x", 5000), ttl("x", 5000)])),
        RefusalKind::PreconditionFailed
    );
    let many = (0..=limits::CHECKS_PER_OWNER_MAX).map(|i| ttl(&format!("{i}"), 5000)).collect();
    assert_eq!(refused("cart", with_checks("a", many)), RefusalKind::PreconditionFailed);
    let mut nowhere = plain("a");
    nowhere.detail.node = Some("nowhere".into());
    assert_eq!(refused("cart", nowhere), RefusalKind::NotFound);
    assert!(!w.services.view("cart").is_known());
}

#[test]
fn a_vhost_takes_so_much_and_no_more() {
    let limits = Limits { services_max: 2, instances_max: 3, checks_max: 2, nodes_max: 1 };
    let w = World::with(Settings { limits, ..settings() }, Arc::default(), Millis(1));
    let refused = |service: &str, registration: Registration| {
        let refusal = w.services.register(service, registration, w.now).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::ResourceError);
        refusal.text
    };
    w.register("a", with_checks("1", vec![ttl("x", 5000), ttl("y", 5000)]));
    w.register("b", plain("1"));
    assert!(refused("c", plain("1")).contains("2 services"));
    assert!(refused("a", with_checks("2", vec![ttl("x", 5000)])).contains("2 checks"));
    w.register("a", plain("2"));
    assert!(refused("a", plain("3")).contains("3 instances"));
    assert!(w.claim("a", instance("3"), 1).unwrap_err().text.contains("3 instances"));
    w.services.deregister("a", "1", w.now).unwrap();
    w.services.deregister("a", "2", w.now).unwrap();
    w.register("c", with_checks("1", vec![ttl("x", 5000), ttl("y", 5000)]));
    let node = |name: &str| NodeSpec { name: name.into(), ..settings().own_node };
    w.services.register_node(node("n1"), w.now).unwrap();
    assert!(w.services.register_node(node("n2"), w.now).unwrap_err().text.contains("1 nodes"));
}

#[test]
fn a_journal_that_takes_nothing_leaves_everything_as_it_was() {
    let w = World::new();
    w.register("cart", plain("a"));
    let index = w.index("cart");
    w.words();
    w.journal.stopped.store(true, Ordering::Relaxed);
    let changed = Registration::new(Instance { port: 81, ..instance("a") }, "guest", Source::Api);
    assert!(w.services.register("cart", changed, w.now).is_err());
    assert!(w.services.register("cart", plain("b"), w.now).is_err());
    assert!(w.services.deregister("cart", "a", w.now).is_err());
    assert!(w.services.drain("cart", "a", w.now.plus(1000), w.now).is_err());
    assert!(w.services.maintain("cart", "a", Some("x"), w.now).is_err());
    assert!(w.services.add_check("cart", "a", ttl("x", 5000), w.now).is_err());
    assert_eq!((w.list("cart"), w.index("cart")), (vec!["a passing".to_owned()], index));
    assert!(w.words().is_empty());
}

#[test]
fn one_of_several_by_weight_and_load() {
    let w = World::new();
    let weighted = |id: &str, weight| Registration::new(Instance { weight, ..instance(id) }, "guest", Source::Api);
    w.register("cart", weighted("heavy", 3));
    w.register("cart", weighted("light", 1));
    w.register("cart", Registration::new(Instance::new("nowhere"), "guest", Source::Api));
    let count = |load: Option<Load<'_>>| {
        (0..4000).filter(|_| &*w.services.choose("cart", load).unwrap().instance.id == "heavy").count()
    };
    let heavy = count(None);
    assert!((2850..3150).contains(&heavy), "{heavy}");
    let busy = count(Some(&|i: &Instance| Some(if &*i.id == "heavy" { 90 } else { 0 })));
    assert!((2100..2400).contains(&busy), "9/16 of the draws see only the heavy one: {busy}");
    w.services.maintain("cart", "heavy", Some(""), w.now).unwrap();
    w.services.maintain("cart", "light", Some(""), w.now).unwrap();
    assert!(w.services.choose("cart", None).is_none());
    assert!(w.services.choose("none", None).is_none());
}
