//! Services from outside: messages by name and selector, instances by what consumers say of themselves, mailboxes.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod support;

use std::sync::{Arc, Mutex};

use support::{Client, Node, body, message, text};
use waypost_broker::broker::admin::Actor;
use waypost_broker::shard::Chosen;
use waypost_model::command::Outcome;
use waypost_model::service::{
    Claim, ClaimId, Claimed, Ending, Health, Instance, InstanceChange, Presence, ServiceName, Standing,
};
use waypost_model::table::{Table, Value};
use waypost_model::{Call, Event, Millis, Refusal, Route};

fn says(entries: &[(&str, &str)]) -> Table {
    let table = entries.iter().fold(Table::new(), |t, (k, v)| t.with(*k, text(v)));
    Table::new().with("x-service", Value::Table(table))
}

fn service(name: &str) -> ServiceName {
    ServiceName { vhost: "/".into(), service: name.into() }
}

impl Client {
    fn serve(&mut self, queue: &str, entries: &[(&str, &str)]) {
        self.consume_with(1, queue, false, says(entries));
    }

    fn prefetch(&mut self, n: u16) {
        self.call(1, Call::Qos { prefetch_count: n, global: false });
        self.expect_done(1);
    }
}

fn returned(c: &mut Client) -> (usize, usize) {
    let events = c.events();
    let at = |f: fn(&Event) -> bool| events.iter().position(f).unwrap_or(usize::MAX);
    (at(|e| matches!(e, Event::Returned { .. })), at(|e| matches!(e, Event::Accepted { .. })))
}

#[test]
fn a_message_waits_for_an_instance_that_matches() {
    let node = Node::new();
    let (mut sender, mut old, mut new) = (node.client(), node.client(), node.client());
    sender.publish("services", "cart?version=^2&tag=gpu", message("m"));
    assert_eq!(node.ready("cart-queue"), 1);
    old.serve("cart-queue", &[("id", "old"), ("version", "1.9.0"), ("tags", "gpu")]);
    assert_eq!(old.bodies(), [""; 0]);
    new.serve("cart-queue", &[("id", "new"), ("version", "2.0.1"), ("tags", "gpu,x")]);
    let d = new.deliveries();
    assert_eq!(d.iter().map(body).collect::<Vec<_>>(), ["m"]);
    // What routing chose is nobody's business: the message is as it came.
    assert_eq!((&*d[0].route.exchange, &*d[0].route.routing_key), ("services", &b"cart?version=^2&tag=gpu"[..]));
    new.settle(&d[0], Outcome::Accepted);
    assert_eq!(node.ready("cart-queue"), 0);
}

#[test]
fn headers_say_the_same_as_the_routing_key() {
    let node = Node::new();
    let (mut sender, mut eu, mut us) = (node.client(), node.client(), node.client());
    eu.serve("cart-queue", &[("id", "eu"), ("zone", "eu")]);
    // Nothing of that name is there yet.
    assert_eq!(eu.refusal().kind.code(), 404);
    drop(eu);
    sender.queue("cart-queue", Table::new());
    let mut eu = node.client();
    eu.serve("cart-queue", &[("id", "eu"), ("zone", "eu")]);
    us.serve("cart-queue", &[("id", "us"), ("zone", "us")]);
    let all = |m: &str| message(m).header("x-zone", text("us"));
    sender.publish("amq.services", "cart", all("a"));
    sender.publish("amq.services", "cart", message("b").header("x-select", text("zone == us")));
    sender.publish("amq.services", "cart", message("c").header("x-instance", text("us")));
    sender.publish("amq.services", "cart?zone=us", all("d"));
    assert_eq!(us.bodies(), ["a", "b", "c", "d"]);
    assert_eq!(eu.bodies(), [""; 0]);
}

#[test]
fn what_makes_no_sense_closes_the_channel_only() {
    let node = Node::new();
    let huge = "a".repeat(1 << 20);
    let with = |k: &str, v: &str| message("m").header(k, text(v));
    for (key, m) in [
        ("Cart", message("m")),
        ("cart?colour=red", message("m")),
        ("cart?version=two", message("m")),
        ("cart", with("x-deliver", "some")),
        ("cart", with("x-deliver", "key")),
        ("cart", with("x-wait", "soon")),
        ("cart", with("x-select", "secret == 1")),
        ("cart", with("x-select", &huge)),
        ("cart?zone=a", with("x-zone", "b")),
        ("cart", with("x-key", "k").header("x-deliver", text("all"))),
    ] {
        let mut c = node.client();
        c.publish("amq.services", key, m);
        let refusal = c.refusal();
        assert_eq!((refusal.kind.code(), refusal.hard), (406, false), "{key}: {refusal}");
        c.call(1, Call::CloseChannel);
        c.call(2, Call::OpenChannel);
        c.expect_done(2);
    }
    assert!(node.broker.service(&service("cart")).is_err());
}

#[test]
fn a_service_that_nobody_knows_is_returned_or_made() {
    let node = Node::new();
    let mut c = node.client();
    c.publish_confirmed("amq.services", "cart", &[message("m").mandatory()]);
    let (back, confirmed) = returned(&mut c);
    assert!(back < confirmed && confirmed < usize::MAX);
    assert!(node.broker.mailbox("/", "cart").is_err());
    c.publish_confirmed("amq.services", "cart", &[message("m").persistent()]);
    assert!(matches!(&c.events()[..], [Event::Accepted { lsn: Some(_), .. }]));
    let made = node.broker.mailbox("/", "cart").unwrap();
    assert!(made.view.settings.durable && made.view.settings.implicit);
    // Known from now on.
    c.publish_confirmed("amq.services", "cart", &[message("n").mandatory()]);
    assert_eq!(returned(&mut c).0, usize::MAX);
    assert_eq!(node.ready("cart-queue"), 2);
    let node = node.restart(true);
    assert_eq!(node.ready("cart-queue"), 1);
}

#[test]
fn undeclared_mailboxes_go_when_they_are_idle() {
    let mut node = Node::new();
    let mut c = node.client();
    c.publish("services", "cart", message("m"));
    c.publish("services", "order", message("m"));
    assert!(c.get("cart-queue", true).is_some());
    node.pass(299_000);
    assert!(node.broker.mailbox("/", "cart").is_ok());
    node.pass(300_001);
    assert!(node.broker.mailbox("/", "cart").is_err());
    // The other one still has something.
    assert!(node.broker.mailbox("/", "order").is_ok());
}

#[test]
fn the_first_declaration_takes_the_mailbox_as_it_comes() {
    let node = Node::new();
    let mut c = node.client();
    c.publish("services", "cart", message("m").persistent());
    let arguments = || Table::new().with("x-max-priority", Value::I32(3)).with("x-message-ttl", Value::I32(60_000));
    c.declare("cart-queue", false, false, true, arguments());
    c.expect_done(1);
    let settings = node.broker.mailbox("/", "cart").unwrap().view.settings;
    assert!(settings.durable && !settings.auto_delete && !settings.implicit);
    assert_eq!((settings.max_priority, settings.message_ttl_ms), (Some(3), Some(60_000)));
    // The same once more is the same; another one is not.
    c.declare("cart-queue", false, false, true, arguments());
    c.expect_done(1);
    let node = node.restart(true);
    let mut c = node.client();
    c.declare("cart-queue", false, false, true, arguments());
    c.expect_done(1);
    assert_eq!(c.get("cart-queue", true).map(|(d, _)| d.count), Some(1));
    c.declare("cart-queue", true, false, false, arguments());
    assert_eq!(c.refusal().kind.code(), 406);
}

#[test]
fn any_queue_can_be_the_mailbox_and_exclusive_ones_are_not() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("my-carts", Table::new().with("x-service", text("cart")));
    c.publish("services", "cart", message("m"));
    assert_eq!(node.ready("my-carts"), 1);
    c.declare("other", true, false, false, Table::new().with("x-service", text("cart")));
    assert_eq!(c.refusal().kind.code(), 406);
    let mut c = node.client();
    c.declare("order-queue", false, true, false, Table::new());
    c.expect_done(1);
    c.publish("services", "order", message("m"));
    assert_eq!(c.refusal().kind.code(), 405);
    let node = node.restart(true);
    assert_eq!(&*node.broker.mailbox("/", "cart").unwrap().view.settings.name, "my-carts");
}

#[test]
fn the_alias_yields_to_a_clients_own_exchange() {
    let node = Node::new();
    let mut c = node.client();
    c.publish("services", "cart", message("a"));
    c.exchange("services", "fanout", Table::new());
    c.queue("q", Table::new());
    c.bind("services", "q", "");
    c.publish("services", "cart", message("b"));
    assert_eq!((node.ready("cart-queue"), node.ready("q")), (1, 1));
    c.publish("amq.services", "cart", message("c"));
    assert_eq!(node.ready("cart-queue"), 2);
}

#[test]
fn plain_clients_get_what_is_for_any_instance() {
    let node = Node::new();
    let mut c = node.client();
    for (key, m) in [
        ("cart?zone=eu", message("selected")),
        ("cart", message("keyed").header("x-key", text("k"))),
        ("cart", message("plain")),
    ] {
        c.publish("services", key, m);
    }
    c.publish("", "cart-queue", message("direct"));
    c.consume("cart-queue");
    assert_eq!(c.bodies(), ["plain", "direct"]);
    let mut other = node.client();
    assert!(other.get("cart-queue", true).is_none());
    other.serve("cart-queue", &[("zone", "eu")]);
    assert_eq!(other.bodies(), ["selected", "keyed"]);
}

#[test]
fn all_instances_get_a_durable_copy_each() {
    let node = Node::new();
    let mut c = node.client();
    let all = |m: &str| message(m).persistent().header("x-deliver", text("all"));
    c.publish_confirmed("services", "cart", &[all("m").mandatory()]);
    assert!(returned(&mut c).0 < usize::MAX);
    c.queue("cart-queue", Table::new());
    let (mut a, mut b, mut far) = (node.client(), node.client(), node.client());
    a.serve("cart-queue", &[("id", "a"), ("zone", "eu")]);
    b.serve("cart-queue", &[("id", "b"), ("zone", "eu")]);
    far.serve("cart-queue", &[("id", "far"), ("zone", "us")]);
    c.publish("services", "cart?zone=eu", all("m"));
    assert_eq!((a.bodies(), b.bodies(), far.bodies().len()), (vec!["m".to_owned()], vec!["m".to_owned()], 0));
    assert_eq!(node.journal.live(), 2);
    // A copy ends with its recipient; nobody else gets it.
    a.disconnect();
    assert_eq!((node.ready("cart-queue"), node.journal.live()), (0, 1));
    assert_eq!(node.broker.service(&service("cart")).unwrap().state.ended, 1);
    assert_eq!(b.bodies(), [""; 0]);
}

#[test]
fn lanes_and_keys_survive_a_restart() {
    let node = Node::new();
    let mut c = node.client();
    for i in 0..3 {
        c.publish("services", "cart?zone=eu", message(&format!("lane {i}")).persistent());
        let keyed = message(&format!("key {i}")).persistent().header("x-key", text("customer"));
        c.publish("services", "cart?tag=x", keyed);
    }
    let node = node.restart(false);
    let mut us = node.client();
    us.serve("cart-queue", &[("zone", "us")]);
    assert_eq!(us.bodies(), [""; 0]);
    let (mut eu, mut x) = (node.client(), node.client());
    eu.serve("cart-queue", &[("zone", "eu")]);
    x.serve("cart-queue", &[("tags", "x")]);
    let got = |c: &mut Client| c.deliveries().iter().map(|d| d.count).sum::<u32>();
    assert_eq!((got(&mut eu), got(&mut x)), (3, 3));
}

#[test]
fn what_waits_too_long_dies_of_it() {
    let mut node = Node::new();
    let mut c = node.client();
    let dead = Table::new().with("x-dead-letter-exchange", text("")).with("x-dead-letter-routing-key", text("dead"));
    c.queue("cart-queue", dead);
    c.queue("dead", Table::new());
    c.publish("services", "cart?zone=eu", message("m").header("x-wait", Value::I32(500)));
    c.publish("services", "cart?zone=eu", message("n").header("x-wait", text("1500")).expiring(60_000));
    node.pass(501);
    assert_eq!((node.ready("cart-queue"), node.ready("dead")), (1, 1));
    node.pass(1000);
    assert_eq!((node.ready("cart-queue"), node.ready("dead")), (0, 2));
    let (d, _) = c.get("dead", true).unwrap();
    let deaths = support::headers(&d);
    let first = deaths.get("x-death").and_then(Value::as_array).unwrap()[0].as_table().unwrap().clone();
    assert_eq!(first.get("reason").and_then(Value::as_str), Some("expired"));
}

#[test]
fn what_comes_by_other_ways_is_addressed_too() {
    let node = Node::new();
    let mut c = node.client();
    // By a binding between exchanges, and as a dead letter.
    c.exchange("front", "topic", Table::new());
    let bind = waypost_model::command::Binding {
        source: "front".into(),
        destination: waypost_model::command::Destination::Exchange("amq.services".into()),
        routing_key: b"#".as_slice().into(),
        arguments: Table::new(),
    };
    c.call(1, Call::Bind(bind));
    c.expect_done(1);
    let to = Table::new()
        .with("x-dead-letter-exchange", text("amq.services"))
        .with("x-dead-letter-routing-key", text("cart?zone=eu"));
    c.queue("q", to);
    c.publish("front", "cart?zone=eu", message("bound"));
    c.publish("", "q", message("dead"));
    let (d, _) = c.get("q", false).unwrap();
    c.settle(&d, Outcome::Rejected);
    c.publish("front", "cart", message("copied").header("CC", Value::Array(vec![text("cart?zone=eu")])));
    assert_eq!(node.ready("cart-queue"), 4);
    let mut eu = node.client();
    eu.serve("cart-queue", &[("zone", "eu")]);
    assert_eq!(eu.bodies(), ["bound", "dead", "copied", "copied"]);
}

#[test]
fn nothing_can_be_bound_to_services() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new());
    c.call(
        1,
        Call::Bind(waypost_model::command::Binding {
            source: "amq.services".into(),
            destination: waypost_model::command::Destination::Queue("q".into()),
            routing_key: b"cart".as_slice().into(),
            arguments: Table::new(),
        }),
    );
    assert_eq!(c.refusal().kind.code(), 406);
}

#[test]
fn instances_come_and_go_with_their_connections() {
    let node = Node::new();
    let said = Table::new().with("name", text("cart")).with("id", text("c1")).with("address", text("10.0.0.1"));
    let mut idle = node.client_saying(Table::new().with("service", Value::Table(said)));
    idle.expect_done(3);
    let report = node.broker.service(&service("cart")).unwrap();
    assert_eq!((report.instances.len(), report.state.members.len()), (1, 0));
    assert!(report.mailbox.is_some());
    // The same id on another connection is not to be had.
    let mut twin = node.client();
    twin.serve("cart-queue", &[("id", "c1")]);
    assert_eq!(twin.refusal().kind.code(), 405);
    // It consumes as what it said when it came.
    idle.consume("cart-queue");
    let members = node.broker.service(&service("cart")).unwrap().state.members;
    assert_eq!((members.len(), members[0].instance.address.as_deref()), (1, Some("10.0.0.1")));
    idle.disconnect();
    assert!(node.broker.service(&service("cart")).unwrap().instances.is_empty());
    // What is no identity keeps the connection from coming about.
    let mut wrong = node.client_saying(Table::new().with("service", text("No Service")));
    assert!(wrong.refusal().hard);
}

#[test]
fn a_consumer_of_a_plain_queue_is_no_instance() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("plain", Table::new());
    c.serve("plain", &[("id", "x")]);
    assert_eq!(c.refusal().kind.code(), 406);
}

/// Writes down what it is told, and decides as it is told to.
#[derive(Default)]
struct Book {
    notes: Mutex<Vec<String>>,
    health: Mutex<Option<Health>>,
}

impl Book {
    fn note(&self, text: String) {
        self.notes.lock().unwrap().push(text);
    }

    fn notes(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().unwrap())
    }
}

impl Presence for Book {
    fn claim(&self, claim: Claim<'_>, _: Millis) -> Result<Claimed, Refusal> {
        self.note(format!("claim {} {} {}", claim.name.service, claim.instance.id, claim.described));
        let health = self.health.lock().unwrap().unwrap_or(Health::Passing);
        let instance = Arc::new(claim.instance.checked()?);
        Ok(Claimed { claim: ClaimId(1), instance, standing: Standing { health, draining: false }, incarnation: 1 })
    }

    fn leave(&self, claim: ClaimId, ending: Ending, _: Millis) {
        self.note(format!("leave {} {ending:?}", claim.0));
    }

    fn ejected(&self, name: &ServiceName, instance: &str, ejected: bool, _: Millis) {
        self.note(format!("ejected {} {instance} {ejected}", name.service));
    }
}

fn told(node: &Node, instance: Instance, health: Health, draining: bool) {
    let change =
        InstanceChange::Is { instance: Arc::new(instance), standing: Standing { health, draining }, incarnation: 1 };
    node.broker.instance_changed(&service("cart"), &change, node.now);
}

#[test]
fn a_registry_decides_who_is_well() {
    let node = Node::new();
    let book = Arc::new(Book { health: Mutex::new(Some(Health::Starting)), ..Book::default() });
    node.broker.set_presence(Arc::clone(&book) as Arc<dyn Presence>);
    node.broker.instance_changed(&service("cart"), &InstanceChange::Wanted, node.now);
    let (mut sender, mut c) = (node.client(), node.client());
    c.prefetch(1);
    c.serve("cart-queue", &[("id", "c1")]);
    sender.publish("services", "cart", message("m"));
    assert_eq!(c.bodies(), [""; 0]);
    told(&node, Instance::new("c1"), Health::Passing, false);
    let d = c.deliveries();
    assert_eq!(d.len(), 1);
    told(&node, Instance::new("c1"), Health::Passing, true);
    sender.publish("services", "cart", message("n"));
    // Draining: what it has it may finish.
    c.settle(&d[0], Outcome::Accepted);
    assert_eq!((c.bodies().len(), node.ready("cart-queue")), (0, 1));
    c.disconnect();
    let mut c = node.client();
    c.serve("cart-queue", &[]);
    c.conn.say_goodbye();
    c.disconnect();
    let notes = book.notes();
    assert_eq!(notes[0], "claim cart c1 false");
    assert_eq!(notes[1], "leave 1 Broken");
    assert!(notes[2].starts_with("claim cart c") && notes[2].ends_with(" false"));
    assert_eq!(notes[3], "leave 1 Left");
}

#[test]
fn what_keeps_failing_is_told() {
    let mut node = Node::new();
    let book = Arc::new(Book::default());
    node.broker.set_presence(Arc::clone(&book) as Arc<dyn Presence>);
    let mut sender = node.client();
    sender.queue("cart-queue", Table::new());
    let mut bad = node.client();
    bad.prefetch(1);
    bad.serve("cart-queue", &[("id", "bad"), ("zone", "x")]);
    let mut good = node.client();
    good.serve("cart-queue", &[("id", "good")]);
    for i in 0..6 {
        sender.publish("services", "cart?zone=x", message(&i.to_string()));
    }
    for _ in 0..5 {
        let d = bad.deliveries();
        bad.settle(&d[0], Outcome::Rejected);
    }
    assert!(bad.deliveries().is_empty() && book.notes().contains(&"ejected cart bad true".to_owned()));
    node.pass(1001);
    let d = bad.deliveries();
    assert_eq!(d.len(), 1);
    bad.settle(&d[0], Outcome::Accepted);
    assert!(book.notes().contains(&"ejected cart bad false".to_owned()));
}

#[test]
fn explaining_changes_nothing_and_says_why() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("cart-queue", Table::new());
    let (mut a, mut b, mut full) = (node.client(), node.client(), node.client());
    a.serve("cart-queue", &[("id", "a"), ("version", "1.0.0")]);
    b.serve("cart-queue", &[("id", "b"), ("version", "2.0.0")]);
    full.prefetch(1);
    full.serve("cart-queue", &[("id", "full"), ("version", "2.0.0")]);
    c.publish("services", "cart?instance=full", message("m"));
    told(&node, Instance::new("idle"), Health::Passing, false);
    let explain = |key: &str| {
        let route = Route::new("services", key);
        node.broker.service_explain(Actor::Operator, "/", &route, &[], node.now).unwrap()
    };
    let e = explain("cart?version=^2");
    assert_eq!(e.chosen, [Chosen::Instance("b".into())]);
    assert_eq!(e.rule, "deliver one of service 'cart': instances with version=^2");
    let why = |id: &str| e.candidates.iter().find(|c| &*c.instance.id == id).unwrap().verdict.clone();
    assert_eq!(why("a"), Err("version ^2, it has 1.0.0".into()));
    assert_eq!(why("full"), Err("no credit: it holds 1".into()));
    assert_eq!(why("idle"), Err("version ^2, it has none".into()));
    assert!(why("b").is_ok());
    assert!(explain("cart?version=^9").chosen.is_empty());
    assert_eq!(explain("none").candidates.len(), 0);
    assert!(node.broker.mailbox("/", "none").is_err());
    assert!(b.deliveries().is_empty());
    let nobody =
        node.broker.service_explain(Actor::User("nobody"), "/", &Route::new("services", "cart"), &[], node.now);
    assert_eq!(nobody.unwrap_err().kind.code(), 403);
}

#[test]
fn a_zone_is_preferred_and_left_when_it_is_crowded() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("cart-queue", Table::new());
    let (mut eu, mut us) = (node.client(), node.client());
    for (client, zone) in [(&mut eu, "eu"), (&mut us, "us")] {
        client.prefetch(5);
        client.serve("cart-queue", &[("id", zone), ("zone", zone)]);
    }
    let said = Table::new().with("name", text("order")).with("zone", text("us"));
    let mut order = node.client_saying(Table::new().with("service", Value::Table(said)));
    for _ in 0..8 {
        order.publish("services", "cart", message("m"));
    }
    // Up to 80 % of its own zone, then by load.
    let (eu, us) = (eu.bodies().len(), us.bodies().len());
    assert!(us >= 5 && eu == 8 - us, "{us} {eu}");
}

#[test]
fn a_transaction_with_an_invalid_selector_does_nothing() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new());
    let good = c.publishing("", "q", &[message("m")], false);
    let bad = c.publishing("services", "cart", &[message("m").header("x-version", text("two"))], false);
    c.call(1, Call::Commit(vec![good, bad]));
    assert_eq!(c.refusal().kind.code(), 406);
    assert_eq!(node.ready("q"), 0);
}
