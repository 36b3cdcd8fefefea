use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

use super::*;
use crate::watch::Changed;

#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(wait: &mut Changed, bell: &Arc<Bell>) -> Poll<u64> {
    Pin::new(wait).poll(&mut Context::from_waker(&Waker::from(Arc::clone(bell))))
}

pub(super) fn ready(mut wait: Changed) -> bool {
    poll(&mut wait, &Arc::default()).is_ready()
}

#[test]
fn all_watchers_of_a_service_are_told_and_share_one_rendering() {
    let w = World::new();
    w.register("cart", plain("a"));
    let (index, bell) = (w.index("cart"), Arc::<Bell>::default());
    let mut waits: Vec<_> = (0..5000).map(|_| w.services.changed("cart", index)).collect();
    assert!(waits.iter_mut().all(|wait| poll(wait, &bell).is_pending()));
    w.register("cart", plain("a"));
    w.register("order", plain("a"));
    assert_eq!(bell.0.load(Ordering::SeqCst), 0, "nothing of theirs has changed");
    w.register("cart", plain("b"));
    assert_eq!(bell.0.load(Ordering::SeqCst), 5000);
    let rendered = AtomicUsize::new(0);
    for wait in &mut waits {
        assert!(poll(wait, &bell).is_ready());
        let view = w.services.view("cart");
        let body = view.rendered("json", |view| {
            rendered.fetch_add(1, Ordering::SeqCst);
            bytes::Bytes::from(format!("{} instances", view.instances.len()))
        });
        assert_eq!(body, "2 instances");
    }
    assert_eq!(rendered.load(Ordering::SeqCst), 1);
}

#[test]
fn who_waits_for_a_name_that_nobody_knows_is_woken_by_it_alone() {
    let w = World::new();
    let unknown = w.services.view("cart");
    assert!(!unknown.is_known() && unknown.index > 0);
    let (mut wait, bell) = (w.services.changed("cart", unknown.index), Arc::<Bell>::default());
    assert!(poll(&mut wait, &bell).is_pending());
    w.register("order", plain("a"));
    assert!(!ready(w.services.changed("cart", unknown.index)));
    assert_eq!(bell.0.load(Ordering::SeqCst), 0);
    w.register("cart", plain("a"));
    assert_eq!(bell.0.load(Ordering::SeqCst), 1);
    assert!(poll(&mut wait, &bell).is_ready());
}

#[test]
fn who_watches_what_goes_is_woken_and_can_wait_on() {
    let w = World::new();
    w.register("cart", plain("a"));
    let index = w.index("cart");
    w.services.deregister("cart", "a", w.now).unwrap();
    assert!(ready(w.services.changed("cart", index)));
    let gone = w.services.view("cart");
    assert!(!gone.is_known() && gone.index > index);
    w.register("order", plain("a"));
    assert!(!ready(w.services.changed("cart", gone.index)));
}

#[test]
fn names_that_nobody_needs_are_forgotten_and_indices_never_go_back() {
    let mut w = World::new();
    w.register("cart", plain("a"));
    w.services.deregister("cart", "a", w.now).unwrap();
    let gone = w.index("cart");
    let mut kept = w.services.changed("kept", w.index("kept"));
    assert!(poll(&mut kept, &Arc::default()).is_pending());
    w.pass(limits::EMPTY_NAME_KEPT_MS + 60_000);
    assert_eq!(w.registry.lock().services.len(), 1, "only the one that somebody waits for");
    assert!(w.index("cart") >= gone);
    assert!(ready(w.services.changed("cart", gone - 1)), "what has gone meanwhile is not missed");
    w.register("kept", plain("a"));
    assert!(poll(&mut kept, &Arc::default()).is_ready());
}

#[test]
fn names_without_instances_are_bounded() {
    let w = World::new();
    for i in 0..limits::EMPTY_NAMES_MAX + 100 {
        assert!(!ready(w.services.changed(&format!("n{i}"), u64::MAX)));
        let _ = w.services.view(&format!("m{i}"));
    }
    assert!(w.registry.lock().services.len() <= limits::EMPTY_NAMES_MAX);
    let known = w.registry.lock().services.len();
    assert!(!ready(w.services.changed(&"X".repeat(8000), 0)));
    assert_eq!(w.registry.lock().services.len(), known, "what is no name is not remembered");
}

#[test]
fn lists_of_services_nodes_and_checks_wake_for_their_own() {
    let w = World::new();
    w.register("cart", with_checks("a", vec![ttl("c", 5000)]));
    let indices = || (w.services.list().index, w.services.nodes().0, w.services.everything().0);
    let (list, nodes, checks) = indices();
    w.services.report("cart", "a", "c", Health::Passing, "", w.now);
    assert_eq!((indices().0, indices().1), (list, nodes));
    assert!(ready(w.services.checks_changed(checks)) && !ready(w.services.list_changed(list)));
    w.register("order", plain("a"));
    assert!(ready(w.services.list_changed(list)) && !ready(w.services.nodes_changed(nodes)));
    w.services.register_node(NodeSpec { name: "n".into(), ..settings().own_node }, w.now).unwrap();
    assert!(ready(w.services.nodes_changed(nodes)));
    assert!(ready(w.services.node_changed("n", nodes)));
}

#[test]
fn events_come_in_order_and_can_be_read_back_as_far_as_they_are_kept() {
    let w = World::new();
    let from = w.services.events_index();
    w.register("cart", plain("a"));
    w.services.deregister("cart", "a", w.now).unwrap();
    let events = w.services.events(from).unwrap();
    assert!(events.windows(2).all(|pair| pair[0].index < pair[1].index));
    assert!(matches!(
        &events.iter().map(|e| &e.change).collect::<Vec<_>>()[..],
        [InstanceChange::Wanted, InstanceChange::Is { .. }, InstanceChange::Gone { .. }]
    ));
    assert_eq!(w.services.events(events[1].index).unwrap().len(), 1);
    assert!(!ready(w.services.events_changed(w.services.events_index())));
    for _ in 0..limits::EVENTS_MAX {
        w.register("cart", plain("a"));
        w.services.deregister("cart", "a", w.now).unwrap();
    }
    let lost = w.services.events(from).unwrap_err();
    assert_eq!(lost.index, w.services.events_index());
    assert!(w.services.events(lost.index).unwrap().is_empty());
}

#[test]
fn who_serves_endpoints_hears_of_those_that_have_or_had_one_and_of_nobody_else() {
    let w = World::new();
    let push = Push {
        url: "http://10.0.0.1/in".into(),
        secret: None,
        concurrency: 1,
        timeout_ms: 1000,
        format: PushFormat::Headers,
    };
    let served = || Registration {
        detail: Detail { push: Some(Arc::new(push.clone())), ..Detail::default() },
        ..plain("served")
    };
    let seen = |since: u64| {
        let of = |event: Event| match event.change {
            InstanceChange::Is { instance, .. } => instance.id.to_string(),
            InstanceChange::Gone { id, .. } => format!("-{id}"),
            InstanceChange::Wanted => "?".to_owned(),
        };
        w.services.pushed_events(since).unwrap().into_iter().map(of).collect::<Vec<_>>()
    };
    let mut from = w.services.pushed_events_index();
    w.register("cart", plain("a"));
    w.services.deregister("cart", "a", w.now).unwrap();
    assert!(!ready(w.services.pushed_events_changed(from)) && seen(from).is_empty());
    let mut told = |expected: &str| {
        assert!(ready(w.services.pushed_events_changed(from)), "{expected}");
        assert_eq!(seen(from), [expected]);
        from = w.services.pushed_events_index();
    };
    w.register("cart", served());
    told("served");
    w.register("cart", plain("served"));
    told("served");
    w.register("cart", served());
    told("served");
    w.services.deregister("cart", "served", w.now).unwrap();
    told("-served");
}

#[test]
fn old_snapshots_are_dropped_and_made_again() {
    let w = World::new();
    w.register("cart", plain("a"));
    let first = w.services.view("cart");
    w.registry.drop_old_views();
    assert!(Arc::ptr_eq(&first, &w.services.view("cart")), "it was used");
    w.registry.drop_old_views();
    w.registry.drop_old_views();
    let again = w.services.view("cart");
    assert!(!Arc::ptr_eq(&first, &again));
    assert_eq!(again.index, first.index);
}

#[test]
fn what_is_made_of_a_view_is_made_once_per_kind() {
    let w = World::new();
    w.register("cart", plain("a"));
    let view = w.services.view("cart");
    let count = view.derived(|view| view.instances.len());
    assert!(Arc::ptr_eq(&count, &view.derived::<usize>(|_| unreachable!())));
    assert_eq!(*view.derived(|_| "other".to_owned()), "other");
}

/// Deregisters whatever is registered.
struct Grumpy(Services);

impl Followers for Grumpy {
    fn changed(&self, _: &ServiceName, change: &InstanceChange, now: Millis) {
        if let InstanceChange::Is { instance, .. } = change {
            assert!(self.0.deregister("cart", &instance.id, now).unwrap().is_some());
        }
    }
}

#[test]
fn who_is_told_may_change_something_itself() {
    let journal: Arc<dyn Journal> = Arc::<Memory>::default();
    let registry = Registry::open(settings(), journal, [], Millis(1)).unwrap();
    let services = registry.services("/");
    registry.follow(Arc::new(Grumpy(services.clone())), Millis(1));
    services.register("cart", plain("a"), Millis(1)).unwrap();
    assert!(!services.view("cart").is_known());
}
