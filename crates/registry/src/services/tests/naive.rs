//! Random histories against a model that keeps it simple.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Register { id: u8, port: u16, lease: bool },
    Deregister { id: u8 },
    Heartbeat { id: u8 },
    Claim { id: u8, conn: u8 },
    Leave { nth: usize, broken: bool },
    Drain { id: u8, ms: u64 },
    Maintain { id: u8, on: bool },
    Pass { ms: u64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..4_u8;
    prop_oneof![
        4 => (id.clone(), 1..3_u16, any::<bool>()).prop_map(|(id, port, lease)| Step::Register { id, port, lease }),
        2 => id.clone().prop_map(|id| Step::Deregister { id }),
        2 => id.clone().prop_map(|id| Step::Heartbeat { id }),
        3 => (id.clone(), 0..3_u8).prop_map(|(id, conn)| Step::Claim { id, conn }),
        2 => (0..8_usize, any::<bool>()).prop_map(|(nth, broken)| Step::Leave { nth, broken }),
        1 => (id.clone(), 1..20_000_u64).prop_map(|(id, ms)| Step::Drain { id, ms }),
        1 => (id, any::<bool>()).prop_map(|(id, on)| Step::Maintain { id, on }),
        4 => (1..8_000_u64).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Restart),
    ]
}

const LEASE_MS: u64 = 6_000;

/// An instance as simply as can be. What makes it warned about instead of passing (panic, damping) is not in here.
#[derive(Clone, Debug)]
struct Simple {
    port: u16,
    /// When its lease ends, for one that was registered with one.
    lease: Option<u64>,
    leased: bool,
    conns: Vec<u64>,
    drain: Option<u64>,
    maintenance: bool,
    by_connection: bool,
    returning: Option<u64>,
}

impl Simple {
    fn new(port: u16) -> Simple {
        Simple {
            port,
            lease: None,
            leased: false,
            conns: Vec::new(),
            drain: None,
            maintenance: false,
            by_connection: false,
            returning: None,
        }
    }
}

fn check(w: &World, model: &BTreeMap<String, Simple>) -> Result<(), TestCaseError> {
    let view = w.services.view("cart");
    let ids: Vec<_> = view.instances.iter().map(|i| i.instance.id.to_string()).collect();
    prop_assert_eq!(&ids, &model.keys().cloned().collect::<Vec<_>>());
    for (id, simple) in model {
        let listed = view.instance(id).unwrap();
        prop_assert_eq!(listed.instance.port, simple.port);
        prop_assert_eq!(listed.standing.draining, simple.drain.is_some());
        prop_assert_eq!(listed.connected, !simple.conns.is_empty());
        prop_assert_eq!(listed.why == Why::Maintenance, simple.maintenance);
        let silent = simple.leased && simple.conns.is_empty() && simple.lease.is_some_and(|at| at <= w.now.0);
        let calm = matches!(listed.why, Why::Plain | Why::Damped | Why::Returning);
        if !simple.maintenance {
            prop_assert_eq!(calm, !silent, "{}: {:?}", id, listed);
        }
    }
    // What followers were told last is what there is.
    let told = w.follower.last.lock().unwrap();
    let told: Vec<_> = told.iter().map(|((_, id), (i, s, n))| (id.clone(), Arc::clone(i), *s, *n)).collect();
    let is: Vec<_> = view
        .instances
        .iter()
        .map(|i| (i.instance.id.clone(), Arc::clone(&i.instance), i.standing, i.incarnation))
        .collect();
    prop_assert_eq!(told, is);
    // What is counted is what there is.
    let state = w.registry.lock();
    let tenant = state.tenants.iter().next().unwrap().1;
    prop_assert_eq!((tenant.instances, tenant.services), (ids.len(), usize::from(!ids.is_empty())));
    prop_assert_eq!((state.by_name.len(), state.by_id.len(), state.entries.len()), (ids.len(), ids.len(), ids.len()));
    Ok(())
}

/// Forgets in the model what has had its time.
fn expire(model: &mut BTreeMap<String, Simple>, now: u64) {
    model.retain(|_, s| {
        let evicted = s.leased && s.conns.is_empty() && s.lease.is_some_and(|at| at + LEASE_MS <= now);
        !evicted && s.drain.is_none_or(|at| at > now) && s.returning.is_none_or(|at| at > now)
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_history(steps in proptest::collection::vec(step(), 1..60)) {
        let mut w = World::new();
        let mut model = BTreeMap::<String, Simple>::new();
        let mut claims: Vec<(String, u64, Claimed)> = Vec::new();
        for step in steps {
            match step {
                Step::Register { id, port, lease } => {
                    let id = format!("{id}");
                    let instance = Instance { port, ..instance(&id) };
                    let lease_ms = lease.then_some(LEASE_MS);
                    let known = w.services.view("cart").instance(&id).is_some();
                    let done = w.services.register("cart", Registration { instance, lease_ms, ..plain(&id) }, w.now);
                    let bound = model.get(&id).is_some_and(|s| s.by_connection && !s.conns.is_empty());
                    prop_assert_eq!(done.is_err(), bound);
                    if let Ok(done) = done {
                        prop_assert_eq!(done.created, !known);
                        let s = model.entry(id).or_insert_with(|| Simple::new(port));
                        (s.port, s.leased, s.by_connection, s.returning) = (port, lease, false, None);
                        s.lease = lease.then(|| w.now.0 + LEASE_MS);
                    }
                }
                Step::Deregister { id } => {
                    let id = format!("{id}");
                    let bound = model.get(&id).is_some_and(|s| s.by_connection && !s.conns.is_empty());
                    prop_assert_eq!(w.services.deregister("cart", &id, w.now).is_err(), bound);
                    if !bound {
                        model.remove(&id);
                    }
                }
                Step::Heartbeat { id } => {
                    let id = format!("{id}");
                    let alive = w.services.heartbeat("cart", &id, w.now);
                    match model.get_mut(&id) {
                        Some(s) => {
                            prop_assert!(alive);
                            s.lease = s.leased.then(|| w.now.0 + LEASE_MS);
                        }
                        None => prop_assert!(!alive),
                    }
                }
                Step::Claim { id, conn } => {
                    let (id, conn) = (format!("{id}"), u64::from(conn));
                    let known = w.services.view("cart").instance(&id).is_some();
                    let claimed = w.claim("cart", Instance::new(id.clone()), conn);
                    let other = model.get(&id).is_some_and(|s| s.conns.iter().any(|c| *c != conn));
                    prop_assert_eq!(claimed.is_err(), other);
                    if let Ok(claimed) = claimed {
                        let s = model.entry(id.clone()).or_insert_with(|| {
                            Simple { by_connection: !known, ..Simple::new(claimed.instance.port) }
                        });
                        s.conns.push(conn);
                        s.returning = None;
                        if s.by_connection && known {
                            s.port = claimed.instance.port;
                        }
                        claims.push((id, conn, claimed));
                    }
                }
                Step::Leave { nth, broken } if nth < claims.len() => {
                    let (id, conn, claimed) = claims.remove(nth);
                    // A claim of an instance that was removed under it concerns nobody any more.
                    let is = w.follower.last.lock().unwrap().get(&("cart".into(), id.as_str().into())).map(|l| l.2);
                    w.leave(&claimed, if broken { Ending::Broken } else { Ending::Left });
                    let now = w.now.0;
                    if is == Some(claimed.incarnation) && let Some(s) = model.get_mut(&id) {
                        if let Some(at) = s.conns.iter().position(|c| *c == conn) {
                            s.conns.remove(at);
                        }
                        if s.conns.is_empty() {
                            if s.by_connection {
                                model.remove(&id);
                            } else {
                                s.lease = s.leased.then(|| now + LEASE_MS);
                            }
                        }
                    }
                }
                Step::Leave { .. } => {}
                Step::Drain { id, ms } => {
                    let id = format!("{id}");
                    let done = w.services.drain("cart", &id, w.now.plus(ms), w.now).unwrap();
                    if let Some(s) = model.get_mut(&id) {
                        prop_assert!(done.is_some());
                        s.drain = Some(w.now.0 + ms);
                    }
                }
                Step::Maintain { id, on } => {
                    let id = format!("{id}");
                    w.services.maintain("cart", &id, on.then_some("x"), w.now).unwrap();
                    if let Some(s) = model.get_mut(&id) {
                        s.maintenance = on;
                    }
                }
                Step::Pass { ms } => {
                    w.pass(ms);
                }
                Step::Restart => {
                    w = w.restart(10);
                    claims.clear();
                    let now = w.now.0;
                    // What has had its time by then goes a millisecond later.
                    w.pass(1);
                    model.retain(|_, s| !s.by_connection || s.port > 0);
                    for s in model.values_mut() {
                        s.conns.clear();
                        s.lease = s.leased.then(|| now + LEASE_MS);
                        s.returning = s.by_connection.then(|| now + limits::RETURN_MS);
                    }
                }
            }
            expire(&mut model, w.now.0);
            // A panic keeps what the model forgets: the history ends here.
            if w.registry.lock().services.iter().any(|(_, s)| s.panic_until > Millis(0)) {
                return Ok(());
            }
            check(&w, &model)?;
        }
    }
}
