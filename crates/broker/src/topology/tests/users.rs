use waypost_model::RefusalKind;

use super::*;
use crate::topology::{
    Access, HashingAlgorithm, PasswordHash, PermissionSpec, Resource, TopicPermissionSpec, UserSpec,
};

#[test]
fn guest_comes_from_this_machine_only() {
    let n = Node::new();
    assert!(n.t.authenticate("guest", b"guest", true).is_ok());
    let r = n.t.authenticate("guest", b"guest", false).unwrap_err();
    assert_eq!((r.kind, &*r.text), (RefusalKind::AccessRefused, "user 'guest' can only connect via localhost"));
    assert!(n.t.authenticate("guest", b"Guest", true).is_err());
    assert!(n.t.authenticate("guest", b"", true).is_err());
    assert!(n.t.authenticate("nobody", b"guest", true).is_err());
    assert!(n.t.has_tag("guest", "administrator"));
}

#[test]
fn rabbitmqs_hashes_are_read() {
    // From RabbitMQ's documentation on passwords: salt 908DC60A, password test12.
    let h = PasswordHash::from_base64(HashingAlgorithm::Sha256, "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
    assert!(h.as_ref().unwrap().verify(b"test12"));
    assert!(!h.unwrap().verify(b"test13"));
    assert!(PasswordHash::from_base64(HashingAlgorithm::Sha512, "kI3GCqW5").is_err());
    assert!(PasswordHash::new(HashingAlgorithm::Sha512, [1; 4], b"").is_err());
    let h = PasswordHash::new(HashingAlgorithm::Sha512, [1; 4], b"p").unwrap();
    assert_eq!(PasswordHash::from_base64(h.algorithm(), &h.to_base64()).unwrap(), h);
}

#[test]
fn permissions_go_by_vhost_and_name() {
    let mut n = Node::new();
    let password = PasswordHash::new(HashingAlgorithm::Sha256, [1; 4], b"pw").unwrap();
    let spec = UserSpec { password: Some(password), tags: vec![], loopback_only: false };
    let c = n.t.put_user("ann", spec).unwrap();
    n.keep(c);
    assert!(n.t.enter_vhost("ann", "/", 0, 0).is_err());
    let p = PermissionSpec { configure: "^ann-".into(), write: ".*".into(), read: String::new() };
    let c = n.t.put_permission("ann", "/", &p).unwrap();
    n.keep(c);
    assert!(n.t.enter_vhost("ann", "/", 0, 0).is_ok());
    assert!(n.t.check("ann", "/", Access::Configure, Resource::Queue, "ann-1").is_ok());
    let r = n.t.check("ann", "/", Access::Read, Resource::Queue, "q").unwrap_err();
    assert_eq!(r.to_string(), "ACCESS_REFUSED - read access to queue 'q' in vhost '/' refused for user 'ann'");
    let r = n.t.declare_queue("ann", "/", &queue("bob", Default::default()), ME, None).unwrap_err();
    assert_eq!(r.text, "configure access to queue 'bob' in vhost '/' refused for user 'ann'");
    let topic = TopicPermissionSpec { write: "^{username}\\.".into(), read: ".*".into() };
    let c = n.t.put_topic_permission("ann", "/", "amq.topic", &topic).unwrap();
    n.keep(c);
    let n = n.reload();
    assert!(n.t.route_publish("ann", "/", &route("amq.topic", "ann.a")).is_ok());
    let r = n.t.route_publish("ann", "/", &route("amq.topic", "bob.a")).unwrap_err();
    assert_eq!(r.text, "write access to topic 'bob.a' in exchange 'amq.topic' in vhost '/' refused for user 'ann'");
    assert!(
        n.t.route_publish("ann", "/", &route("amq.rabbitmq.trace", "k"))
            .unwrap_err()
            .text
            .starts_with("cannot publish to internal exchange")
    );
    assert!(n.t.authenticate("ann", b"pw", false).is_ok());
}

#[test]
fn a_vhost_takes_everything_along() {
    let mut n = Node::new();
    let before = n.journal.len();
    let c = n.t.put_vhost("v", Default::default()).unwrap();
    n.keep(c);
    let all = PermissionSpec { configure: ".*".into(), write: ".*".into(), read: ".*".into() };
    let c = n.t.put_permission("guest", "v", &all).unwrap();
    n.keep(c);
    let (_, c) = n.t.declare_queue("guest", "v", &queue("q", Default::default()), ME, None).unwrap();
    n.keep(c);
    let b = binding("amq.direct", to_queue("q"), "k", Default::default());
    let c = n.t.bind("guest", "v", &b, ME).unwrap();
    n.keep(c);
    let c = n.t.delete_vhost("v").unwrap();
    assert_eq!(n.keep(c).deleted_queues.len(), 1);
    assert_eq!(n.journal.len(), before + 1, "only the reserved numbers stay");
    assert!(n.t.route("v", "", b"q").is_err());
}

#[test]
fn client_ids_stand_for_themselves_and_nobody_else_is_meant() {
    let mut n = Node::new();
    let spec = TopicPermissionSpec { write: "^{client_id}\\.".into(), read: ".*".into() };
    let c = n.t.put_topic_permission("guest", "/", "amq.topic", &spec).unwrap();
    n.keep(c);
    let n = n.reload();
    let write = |client| n.t.check_topic_of_client("guest", "/", Access::Write, "amq.topic", b"a.b.c", client);
    assert!(write(Some("a")).is_ok() && write(Some("a.b")).is_ok());
    assert!(write(Some("a.")).is_err() && write(Some(".")).is_err() && write(None).is_err());
}
