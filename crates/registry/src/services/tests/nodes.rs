use super::*;

fn node(name: &str) -> NodeSpec {
    NodeSpec { name: name.into(), address: "10.1.1.1".into(), ..settings().own_node }
}

fn on(node: &str, id: &str) -> Registration {
    let mut registration = Registration::new(Instance::new(id), "guest", Source::Catalog);
    registration.detail.node = Some(node.into());
    registration
}

#[test]
fn what_has_no_address_has_its_nodes() {
    let w = World::new();
    w.services.register_node(node("N1"), w.now).unwrap();
    w.register("db", on("n1", "a"));
    let view = w.services.view("db");
    assert_eq!(view.instances[0].address(), Some("10.1.1.1"));
    let (index, seen, on_it) = w.services.node("n1").unwrap();
    assert_eq!((&*seen.spec.name, on_it.len()), ("N1", 1));
    w.services.register_node(NodeSpec { address: "10.2.2.2".into(), ..node("N1") }, w.now).unwrap();
    assert_eq!(w.services.view("db").instances[0].address(), Some("10.2.2.2"));
    assert!(w.services.view("db").index > view.index && w.services.node("n1").unwrap().0 > index);
    assert_eq!(w.services.nodes().1.len(), 2);
}

#[test]
fn the_same_node_again_moves_nothing() {
    let w = World::new();
    w.services.register_node(node("n1"), w.now).unwrap();
    w.register("db", on("n1", "a"));
    let before = (w.index("db"), w.services.nodes().0, w.services.node("n1").unwrap().0);
    w.services.register_node(node("n1"), w.now).unwrap();
    w.services.register_node(node("HERE"), w.now).unwrap();
    assert_eq!((w.index("db"), w.services.nodes().0, w.services.node("n1").unwrap().0), before);
}

#[test]
fn a_nodes_check_is_its_instances_too() {
    let mut w = World::new();
    w.services.register_node(node("n1"), w.now).unwrap();
    w.register("db", on("n1", "a"));
    w.services.add_node_check("n1", ttl("alive", 5000), w.now).unwrap().unwrap();
    assert_eq!(w.list("db"), ["a critical node"]);
    assert!(w.services.report_node("n1", "alive", Health::Passing, "", w.now));
    assert_eq!(w.list("db"), ["a passing"]);
    w.pass(5000);
    assert_eq!(w.list("db"), ["a critical node"]);
    assert_eq!(w.services.view("db").instances[0].node.as_ref().unwrap().checks.len(), 1);
    w.services.remove_node_check("n1", "alive", w.now).unwrap().unwrap();
    assert_eq!(w.list("db"), ["a passing"]);
    w.services.maintain_node("n1", Some("moved"), w.now).unwrap().unwrap();
    assert_eq!(w.list("db"), ["a critical maintenance"]);
}

#[test]
fn a_node_goes_with_all_that_is_on_it() {
    let w = World::new();
    w.services.register_node(node("n1"), w.now).unwrap();
    w.register("db", on("n1", "a"));
    w.register("db", plain("b"));
    assert!(w.services.deregister_node("n1", w.now).unwrap().is_some());
    assert!(w.services.deregister_node("n1", w.now).unwrap().is_none());
    assert!(w.services.deregister_node("here", w.now).unwrap().is_none(), "ourselves we cannot give up");
    assert_eq!(w.list("db"), ["b passing"]);
    assert_eq!(w.journal.kept.lock().unwrap().len(), 1);
    assert_eq!(w.services.nodes().1.len(), 1);
}

#[test]
fn our_own_node_is_that_of_consuls_agents() {
    let w = World::new();
    w.register("api", plain("a"));
    w.register("agent", Registration { source: Source::Agent, ..plain("a") });
    w.services.maintain_node("here", Some("x"), w.now).unwrap().unwrap();
    assert_eq!((w.list("api"), w.list("agent")), (vec!["a passing".into()], vec!["a critical maintenance".into()]));
    let (_, seen, on_it) = w.services.node("here").unwrap();
    assert!(seen.is_self && on_it.len() == 2);
}
