//! Transactions: all or nothing, in memory as in the journal.

use std::collections::BTreeMap;

use super::*;

fn spec(name: &str, address: &str) -> NodeSpec {
    NodeSpec { name: name.into(), address: address.into(), ..settings().own_node }
}

fn node(verb: Verb, name: &str) -> Change {
    Change { verb, target: Target::Node(spec(name, "10.1.1.1")) }
}

fn put(verb: Verb, node: &str, service: &str, id: &str, tag: &str) -> Change {
    let instance = Instance { tags: [tag.into()].into(), ..Instance::new(id) };
    let wanted = Registration::new(instance, "guest", Source::Catalog);
    let wanted = Some((service.into(), Box::new(wanted)));
    Change { verb, target: Target::Instance { node: node.into(), id: id.into(), wanted } }
}

fn of(verb: Verb, node: &str, id: &str) -> Change {
    Change { verb, target: Target::Instance { node: node.into(), id: id.into(), wanted: None } }
}

fn check(verb: Verb, node: &str, instance: &str, id: &str, status: Health) -> Change {
    let check = Box::new(CheckSpec { initial: status, ..CheckSpec::new(id, CheckKind::Manual) });
    Change { verb, target: Target::Check { node: node.into(), instance: instance.into(), check, output: "".into() } }
}

impl World {
    fn transact(&self, changes: &[Change]) -> Result<Vec<Outcome>, Vec<(usize, String)>> {
        let append = |ops| self.journal.append(ops).map(|lsn| (lsn, ()));
        match self.services.transact(changes, self.now, append) {
            Ok(done) => Ok(done.outcomes),
            Err(Failed::Changes(faults)) => Err(faults.into_iter().map(|(n, fault)| (n, fault.to_string())).collect()),
            Err(Failed::Commit(error)) => Err(vec![(99, error.to_string())]),
        }
    }

    fn modified(&self, service: &str, id: &str) -> u64 {
        self.services.view(service).instance(id).unwrap().modified
    }
}

fn modified(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Done => 0,
        Outcome::Node(node) => node.modified,
        Outcome::Instance(_, listed) => listed.modified,
        Outcome::Check(check, ..) => check.modified,
    }
}

#[test]
fn a_node_a_service_and_its_check_come_together_in_one_write() {
    let w = World::new();
    let writes = w.journal.writes.load(Ordering::Relaxed);
    let changes = [
        node(Verb::Cas(0), "n1"),
        put(Verb::Set, "n1", "db", "a", "x"),
        check(Verb::Set, "N1", "a", "c", Health::Warning),
        check(Verb::Set, "n1", "", "alive", Health::Passing),
        of(Verb::Get, "n1", "a"),
    ];
    let outcomes = w.transact(&changes).unwrap();
    assert_eq!(w.journal.writes.load(Ordering::Relaxed), writes + 1);
    assert_eq!(w.list("db"), ["a warning check"]);
    let (_, seen, on_it) = w.services.node("n1").unwrap();
    assert_eq!((on_it.len(), seen.checks.len()), (1, 1));
    assert_eq!(w.words(), ["db wanted", "db/a warning"], "the broker hears of it once, as it is");
    let listed = w.services.view("db").instances[0].clone();
    let is: Vec<u64> = outcomes.iter().map(modified).collect();
    let should = [seen.modified, listed.modified, listed.checks[0].modified, seen.checks[0].modified, listed.modified];
    assert_eq!(is, should, "what is told is what a condition of the next transaction asks for");
    assert!(is.iter().all(|index| *index > 0));
    let w = w.restart(1_000);
    assert_eq!(w.list("db"), ["a warning check"]);
    assert_eq!(w.services.view("db").instances[0].node.as_ref().unwrap().checks.len(), 1);
}

#[test]
fn one_that_cannot_be_done_keeps_all_from_being_done() {
    let w = World::new();
    w.transact(&[node(Verb::Set, "n1"), put(Verb::Set, "n1", "db", "a", "x")]).unwrap();
    w.words();
    let state =
        || (w.index("db"), w.services.nodes().0, w.services.checks_index(), w.journal.kept.lock().unwrap().len());
    let before = state();
    let faults = w.transact(&[
        put(Verb::Set, "n1", "db", "a", "y"),
        node(Verb::Delete, "n1"),
        of(Verb::Get, "n1", "a"),
        put(Verb::Set, "n2", "db", "b", "x"),
        check(Verb::Set, "n2", "a", "c", Health::Passing),
        node(Verb::Set, "here"),
    ]);
    let faults = faults.unwrap_err();
    let texts: Vec<(usize, &str)> = faults.iter().map(|(n, text)| (*n, &**text)).collect();
    assert_eq!(
        texts,
        [
            (2, "service \"a\" on node \"n1\" doesn't exist"),
            (3, "Missing node registration"),
            (4, "Missing node registration"),
            (5, "this server's own node cannot be changed"),
        ]
    );
    w.journal.stopped.store(true, Ordering::Relaxed);
    assert_eq!(w.transact(&[put(Verb::Set, "n1", "db", "a", "y")]).unwrap_err()[0].0, 99);
    assert_eq!((state(), w.words()), (before, vec![]));
}

#[test]
fn conditions_are_about_the_index_of_the_last_change() {
    let w = World::new();
    w.transact(&[node(Verb::Set, "n1"), put(Verb::Cas(0), "n1", "db", "a", "x")]).unwrap();
    let stale = w.transact(&[put(Verb::Cas(0), "n1", "db", "a", "y")]).unwrap_err();
    assert_eq!(stale, [(0, "failed to set service \"a\" on node \"n1\", index is stale".to_owned())]);
    let at = w.modified("db", "a");
    assert!(w.transact(&[of(Verb::DeleteCas(at + 1), "n1", "a")]).is_err());
    assert!(w.transact(&[of(Verb::DeleteCas(at), "n1", "b")]).is_err(), "what is not there has no index");
    // The second one's condition is about what the first one makes of it.
    assert!(w.transact(&[put(Verb::Cas(at), "n1", "db", "a", "y"), put(Verb::Cas(at), "n1", "db", "a", "z")]).is_err());
    w.transact(&[put(Verb::Cas(at), "n1", "db", "a", "y")]).unwrap();
    let at = w.modified("db", "a");
    w.transact(&[check(Verb::Cas(0), "n1", "a", "c", Health::Passing)]).unwrap();
    assert!(w.transact(&[of(Verb::DeleteCas(at), "n1", "a")]).is_err(), "its check came");
    let check_at = w.services.view("db").instances[0].checks[0].modified;
    w.services.report("db", "a", "c", Health::Critical, "", w.now);
    assert!(w.transact(&[check(Verb::Cas(check_at), "n1", "a", "c", Health::Passing)]).is_err(), "its check fell");
    let check_at = w.services.view("db").instances[0].checks[0].modified;
    w.transact(&[check(Verb::DeleteCas(check_at), "n1", "a", "c", Health::Passing)]).unwrap();
    assert_eq!(w.list("db"), ["a passing"]);
}

#[test]
fn what_says_nothing_new_moves_nothing() {
    let w = World::new();
    let all = [
        node(Verb::Set, "n1"),
        put(Verb::Set, "n1", "db", "a", "x"),
        check(Verb::Set, "n1", "a", "c", Health::Passing),
        check(Verb::Set, "n1", "", "n", Health::Passing),
    ];
    w.transact(&all).unwrap();
    let state = || (w.index("db"), w.services.nodes().0, w.services.checks_index(), w.services.list().index);
    let before = state();
    w.words();
    w.transact(&all).unwrap();
    w.transact(&[node(Verb::Delete, "n9"), of(Verb::Delete, "n9", "a"), of(Verb::Delete, "n1", "z")]).unwrap();
    assert_eq!((state(), w.words()), (before, vec![]));
}

#[test]
fn what_is_removed_and_comes_again_is_another_one() {
    let w = World::new();
    w.transact(&[node(Verb::Set, "n1"), put(Verb::Set, "n1", "db", "a", "x"), put(Verb::Set, "n1", "db", "b", "x")])
        .unwrap();
    w.services.maintain("db", "a", Some("m"), w.now).unwrap();
    let was = w.services.view("db").instance("a").unwrap().incarnation;
    w.words();
    w.transact(&[node(Verb::Delete, "n1"), node(Verb::Set, "n1"), put(Verb::Set, "n1", "db", "a", "x")]).unwrap();
    let listed = w.services.view("db").instance("a").unwrap().clone();
    assert!(listed.incarnation > was && listed.maintenance.is_none());
    assert_eq!(w.list("db"), ["a passing"]);
    assert_eq!(w.words(), ["db/b gone", "db/a gone", "db wanted", "db/a passing"]);
    assert_eq!(w.restart(1).list("db"), ["a passing"]);
}

#[test]
fn an_instance_moves_off_a_node_that_is_removed() {
    let w = World::new();
    w.transact(&[node(Verb::Set, "n1"), put(Verb::Set, "n1", "db", "a", "x")]).unwrap();
    w.transact(&[node(Verb::Set, "n2"), put(Verb::Set, "n2", "db", "a", "x"), node(Verb::Delete, "n1")]).unwrap();
    assert!(w.services.node("n1").is_none());
    assert_eq!(w.services.node("n2").unwrap().2.len(), 1);
    w.transact(&[put(Verb::Set, "here", "db", "a", "x")]).unwrap();
    assert_eq!((w.services.node("n2").unwrap().2.len(), w.services.node("here").unwrap().2.len()), (0, 1));
    assert!(w.services.find_on("here", "a").is_some() && w.services.find_on("n2", "a").is_none());
}

#[test]
fn a_service_that_is_to_come_keeps_its_name_however_many_names_are_forgotten() {
    let w = World::new();
    for i in 0..limits::EMPTY_NAMES_MAX - 1 {
        assert!(!watching::ready(w.services.changed(&format!("n{i}"), u64::MAX)));
    }
    w.transact(&[node(Verb::Set, "n"), put(Verb::Set, "n", "db", "a", "x"), put(Verb::Set, "n", "web", "b", "y")])
        .unwrap();
    assert!(w.registry.lock().services.len() < 10, "names were forgotten in between");
    let ids = |service: &str| {
        w.services.view(service).instances.iter().map(|l| l.instance.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!((ids("db"), ids("web")), (vec!["a".to_owned()], vec!["b".to_owned()]));
}

#[test]
fn limits_count_what_is_to_come() {
    let limited =
        Settings { limits: Limits { services_max: 2, instances_max: 3, checks_max: 1, nodes_max: 1 }, ..settings() };
    let w = World::with(limited, Arc::default(), Millis(1_000_000));
    let sets = |ids: &[(&str, &str)]| ids.iter().map(|(s, id)| put(Verb::Set, "here", s, id, "x")).collect::<Vec<_>>();
    let refused = |changes: &[Change]| w.transact(changes).unwrap_err();
    assert_eq!(refused(&sets(&[("a", "1"), ("b", "1"), ("c", "1")]))[0].0, 2);
    assert_eq!(refused(&sets(&[("a", "1"), ("a", "2"), ("a", "3"), ("a", "4")]))[0].0, 3);
    assert_eq!(refused(&[node(Verb::Set, "n1"), node(Verb::Set, "n2")])[0].0, 1);
    let checks = ["c", "d"].map(|id| check(Verb::Set, "here", "", id, Health::Passing));
    assert_eq!(refused(&checks)[0].0, 1);
    w.transact(&sets(&[("a", "1"), ("a", "1"), ("b", "2"), ("b", "3")])).unwrap();
    w.transact(&[node(Verb::Set, "n1"), node(Verb::Delete, "n1"), checks[0].clone(), checks[0].clone()]).unwrap();
}

/// What should be there: nodes, and instances by service and id with their node, tag and checks.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    nodes: BTreeMap<String, BTreeMap<String, Health>>,
    instances: BTreeMap<(String, String), (String, String, BTreeMap<String, Health>)>,
}

impl Model {
    fn on(&self, node: &str, id: &str) -> Option<(String, String)> {
        self.instances.iter().find(|((_, i), (n, ..))| i == id && n == node).map(|(key, _)| key.clone())
    }

    /// Whether it can be done; then it is.
    fn run(&mut self, change: &Change) -> bool {
        let sets = matches!(change.verb, Verb::Set);
        match &change.target {
            Target::Node(spec) => {
                let name = spec.name.to_string();
                match change.verb {
                    Verb::Set => drop(self.nodes.entry(name).or_default()),
                    Verb::Get => return self.nodes.contains_key(&name),
                    _ => {
                        self.nodes.remove(&name);
                        self.instances.retain(|_, (node, ..)| *node != name);
                    }
                }
            }
            Target::Instance { node, wanted: Some((service, wanted)), id } if sets => {
                if !self.nodes.contains_key(&**node) {
                    return false;
                }
                let key = (service.to_string(), id.to_string());
                let checks = self.instances.get(&key).map(|(.., checks)| checks.clone()).unwrap_or_default();
                self.instances.insert(key, (node.to_string(), wanted.instance.tags[0].to_string(), checks));
            }
            Target::Instance { node, id, .. } => {
                let found = self.on(node, id);
                if change.verb == Verb::Get {
                    return found.is_some();
                }
                found.map(|key| self.instances.remove(&key));
            }
            Target::Check { node, instance, check, .. } => {
                let key = self.on(node, instance);
                let checks = match (instance.is_empty(), key) {
                    (true, _) => self.nodes.get_mut(&**node),
                    (false, Some(key)) => self.instances.get_mut(&key).map(|(.., checks)| checks),
                    (false, None) => None,
                };
                match (change.verb, checks) {
                    (Verb::Set, Some(checks)) => drop(checks.insert(check.id.to_string(), check.initial)),
                    (Verb::Get, Some(checks)) => return checks.contains_key(&*check.id),
                    (Verb::Set | Verb::Get, None) => return false,
                    (_, checks) => drop(checks.map(|checks| checks.remove(&*check.id))),
                }
            }
        }
        true
    }

    fn of(w: &World) -> Model {
        let checks = |all: &[CheckView]| all.iter().map(|c| (c.spec.id.to_string(), c.status)).collect();
        let mut model = Model::default();
        for node in w.services.nodes().1.iter().filter(|node| !node.is_self) {
            model.nodes.insert(node.spec.name.to_string(), checks(&node.checks));
        }
        for (service, listed) in w.services.everything().1 {
            let node = listed.node.as_ref().unwrap().spec.name.to_string();
            let key = (service.to_string(), listed.instance.id.to_string());
            model.instances.insert(key, (node, listed.instance.tags[0].to_string(), checks(&listed.checks)));
        }
        model
    }
}

fn any_change(random: &mut impl FnMut(usize) -> usize) -> Change {
    let verb = [Verb::Set, Verb::Set, Verb::Set, Verb::Get, Verb::Delete][random(5)];
    let node_name = ["n1", "n2", "n3"][random(3)];
    // An id is that of one service only, as it is in Consul on one node.
    let (service, id) = [("db", "a"), ("db", "b"), ("web", "c"), ("web", "d")][random(4)];
    match random(6) {
        0 => node(verb, node_name),
        1 | 2 if verb == Verb::Set => put(verb, node_name, service, id, ["x", "y"][random(2)]),
        1 | 2 => of(verb, node_name, id),
        3 => check(verb, node_name, "", ["p", "q"][random(2)], [Health::Passing, Health::Warning][random(2)]),
        _ => check(verb, node_name, id, ["p", "q"][random(2)], [Health::Passing, Health::Critical][random(2)]),
    }
}

#[test]
fn random_transactions_do_what_a_naive_model_does() {
    let mut done = 0;
    for seed in 1..=300_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % n
        };
        let (mut w, mut model) = (World::new(), Model::default());
        for round in 0..40 {
            let changes: Vec<Change> = (0..=random(3)).map(|_| any_change(&mut random)).collect();
            let mut next = model.clone();
            let refused: Vec<usize> = (0..).zip(&changes).filter(|(_, c)| !next.run(c)).map(|(n, _)| n).collect();
            match w.transact(&changes) {
                Ok(_) => {
                    assert!(refused.is_empty(), "seed {seed} round {round}: {changes:?} went in spite of {refused:?}");
                    (model, done) = (next, done + 1);
                }
                Err(faults) => {
                    assert_eq!(faults[0].0, *refused.first().unwrap(), "seed {seed} round {round}: {faults:?}")
                }
            }
            assert_eq!(Model::of(&w), model, "seed {seed} round {round}: {changes:?}");
            if random(4) == 0 {
                w = w.restart(100);
                assert_eq!(Model::of(&w), model, "seed {seed} round {round}, after a restart");
            }
        }
    }
    assert!(done > 2_000, "only {done} of 12000 could be done");
}
