//! Crashes over the storage engine: what comes back is what there was at some moment, and never earlier than what was
//! known to be durable.

use proptest::prelude::*;
use waypost_storage::fault::FaultDisk;
use waypost_storage::{CommitOutcome, Engine, EngineConfig};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Register { service: u8, id: u8, port: u16 },
    Deregister { service: u8, id: u8 },
    Maintain { service: u8, id: u8, on: bool },
    Report { service: u8, id: u8, status: Health },
    Node { name: u8, gone: bool },
    Commit,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let at = (0..2_u8, 0..3_u8);
    let status = prop_oneof![Just(Health::Passing), Just(Health::Critical)];
    prop_oneof![
        5 => (at.clone(), 1..4_u16).prop_map(|((service, id), port)| Step::Register { service, id, port }),
        2 => at.clone().prop_map(|(service, id)| Step::Deregister { service, id }),
        2 => (at.clone(), any::<bool>()).prop_map(|((service, id), on)| Step::Maintain { service, id, on }),
        2 => (at, status).prop_map(|((service, id), status)| Step::Report { service, id, status }),
        2 => (0..2_u8, any::<bool>()).prop_map(|(name, gone)| Step::Node { name, gone }),
        3 => Just(Step::Commit),
        1 => Just(Step::Crash),
    ]
}

fn open(disk: &FaultDisk) -> (Arc<Engine>, Services) {
    let (engine, recovered) = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap();
    let engine = Arc::new(engine);
    let definitions = recovered.definitions.iter().map(|(key, value)| (&**key, &**value));
    let registry = Registry::open(settings(), Arc::clone(&engine) as _, definitions, Millis(1)).unwrap();
    let services = registry.services("/");
    (engine, services)
}

/// Everything that is to survive.
fn picture(services: &Services) -> Vec<String> {
    let (_, all) = services.everything();
    let instance = |(service, i): &(Arc<str>, Listed)| {
        let node = i.node.as_ref().map(|node| node.spec.name.clone());
        let checks: Vec<_> = i.checks.iter().map(|c| c.status).collect();
        format!("{service}/{} {} {:?} {node:?} {checks:?}", i.instance.id, i.instance.port, i.maintenance)
    };
    let nodes = services.nodes().1.into_iter().map(|node| format!("node {}", node.spec.name));
    all.iter().map(instance).chain(nodes).collect()
}

fn carry_out(services: &Services, step: &Step) {
    let now = Millis(2);
    let name = |service: &u8| format!("s{service}");
    match step {
        Step::Register { service, id, port } => {
            let mut registration = with_checks(&format!("{id}"), vec![ttl("c", 60_000)]);
            registration.instance.port = *port;
            // Some are on a node, if it is there.
            let node = format!("n{}", port % 2);
            registration.detail.node = (services.node(&node).is_some() && *id > 0).then(|| node.into());
            services.register(&name(service), registration, now).unwrap();
        }
        Step::Deregister { service, id } => {
            services.deregister(&name(service), &format!("{id}"), now).unwrap();
        }
        Step::Maintain { service, id, on } => {
            services.maintain(&name(service), &format!("{id}"), on.then_some("x"), now).unwrap();
        }
        Step::Report { service, id, status } => {
            services.report(&name(service), &format!("{id}"), "c", *status, "", now);
        }
        Step::Node { name, gone: false } => {
            let node = NodeSpec { name: format!("n{name}").into(), ..settings().own_node };
            services.register_node(node, now).unwrap();
        }
        Step::Node { name, gone: true } => {
            services.deregister_node(&format!("n{name}"), now).unwrap();
        }
        Step::Commit | Step::Crash => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_was_durable_survives(seed: u64, steps in proptest::collection::vec(step(), 1..80)) {
        let disk = FaultDisk::new(seed);
        let (mut engine, mut services) = open(&disk);
        // What there was after each step, and up to which step all is durable.
        let (mut pictures, mut durable) = (vec![picture(&services)], 0);
        for step in steps {
            match step {
                Step::Commit => {
                    while matches!(engine.commit_once(), CommitOutcome::Committed(_)) {}
                    durable = pictures.len() - 1;
                }
                Step::Crash => {
                    disk.crash();
                    (engine, services) = open(&disk);
                    let now = picture(&services);
                    prop_assert!(
                        pictures[durable..].contains(&now),
                        "{now:#?} is none of {:#?}",
                        &pictures[durable..]
                    );
                    (pictures, durable) = (vec![now], 0);
                }
                step => {
                    carry_out(&services, &step);
                    pictures.push(picture(&services));
                }
            }
        }
    }
}
