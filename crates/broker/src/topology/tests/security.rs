//! Keys of SCRAM, access control lists, quotas.

use super::Node;
use crate::topology::{
    Acl, AclEffect, AclFilter, AclNames, AclOperation, AclPattern, AclResource, AclSubject, HashingAlgorithm,
    PasswordHash, PermissionSpec, QuotaEntity, QuotaKind, QuotaName, QuotaRates, ScramKeys, ScramMechanism, UserSpec,
};

fn add(n: &mut Node, name: &str, password: &[u8]) {
    let password = PasswordHash::new(HashingAlgorithm::Sha256, [1; 4], password).ok();
    let change = n.t.put_user(name, UserSpec { password, tags: Vec::new(), loopback_only: false }).unwrap();
    n.keep(change);
}

fn permit(n: &mut Node, name: &str, pattern: &str) {
    let p = || pattern.to_owned();
    let change = n.t.put_permission(name, "/", &PermissionSpec { configure: p(), write: p(), read: p() }).unwrap();
    n.keep(change);
}

fn keys(mechanism: ScramMechanism, byte: u8) -> ScramKeys {
    let hash = || vec![byte; mechanism.bytes()].into_boxed_slice();
    ScramKeys { mechanism, iterations: 4096, salt: Box::new([byte; 16]), stored_key: hash(), server_key: hash() }
}

fn acl(pattern: AclPattern, name: &str, user: &str, operation: AclOperation, effect: AclEffect) -> Acl {
    let principal = format!("User:{user}").into();
    Acl { resource: AclResource::Topic, pattern, name: name.into(), principal, host: "*".into(), operation, effect }
}

fn put(n: &mut Node, acl: &Acl) {
    let change = n.t.put_acl("/", acl).unwrap();
    n.keep(change);
}

fn may(n: &Node, user: &str, operation: AclOperation, topic: &str) -> bool {
    n.t.allows(AclSubject { user, host: "10.0.0.1" }, "/", AclResource::Topic, topic, operation)
}

#[test]
fn keys_of_scram_go_with_the_password_they_were_made_of() {
    let mut n = Node::new();
    add(&mut n, "ann", b"one");
    for mechanism in ScramMechanism::ALL {
        let change = n.t.put_scram("ann", keys(mechanism, 1)).unwrap();
        n.keep(change);
    }
    let change = n.t.put_scram("ann", keys(ScramMechanism::Sha256, 2)).unwrap();
    n.keep(change);
    let mut n = n.reload();
    assert_eq!(n.t.scram("ann", ScramMechanism::Sha256), Some(keys(ScramMechanism::Sha256, 2)));
    assert_eq!(n.t.scram_users().len(), 1);
    // The same password again changes nothing.
    add(&mut n, "ann", b"one");
    let change = n.t.delete_scram("ann", ScramMechanism::Sha512).unwrap();
    n.keep(change);
    assert!(n.t.scram("ann", ScramMechanism::Sha512).is_none() && n.t.scram("ann", ScramMechanism::Sha256).is_some());
    assert!(n.t.delete_scram("ann", ScramMechanism::Sha512).is_err());
    add(&mut n, "ann", b"two");
    assert!(n.t.scram_users().is_empty() && n.reload().t.scram_users().is_empty());
    // With the user its keys go.
    let change = n.t.put_scram("ann", keys(ScramMechanism::Sha512, 3)).unwrap();
    n.keep(change);
    let change = n.t.delete_user("ann").unwrap();
    n.keep(change);
    assert!(n.reload().t.scram_users().is_empty());
}

#[test]
fn keys_that_are_none_are_refused() {
    let mut n = Node::new();
    let sound = || keys(ScramMechanism::Sha256, 1);
    for bad in [
        ScramKeys { iterations: 4095, ..sound() },
        ScramKeys { iterations: 16385, ..sound() },
        ScramKeys { salt: Box::default(), ..sound() },
        ScramKeys { stored_key: Box::new([0; 64]), ..sound() },
        ScramKeys { server_key: Box::default(), ..sound() },
    ] {
        assert_eq!(n.t.put_scram("guest", bad).unwrap_err().kind as u16, 406);
    }
    assert_eq!(n.t.put_scram("nobody", sound()).unwrap_err().kind as u16, 404);
}

#[test]
fn without_rules_permissions_decide_and_with_rules_they_do_not() {
    let mut n = Node::new();
    add(&mut n, "ann", b"pw");
    add(&mut n, "bob", b"pw");
    permit(&mut n, "ann", "^orders");
    assert!(may(&n, "ann", AclOperation::Write, "orders") && may(&n, "ann", AclOperation::Describe, "orders"));
    assert!(!may(&n, "ann", AclOperation::Read, "carts") && !may(&n, "bob", AclOperation::Read, "orders"));
    put(&mut n, &acl(AclPattern::Literal, "orders", "bob", AclOperation::Read, AclEffect::Allow));
    // Ann is not named where somebody is; other names are as they were.
    assert!(may(&n, "bob", AclOperation::Read, "orders") && !may(&n, "ann", AclOperation::Read, "orders"));
    assert!(may(&n, "ann", AclOperation::Read, "orders2"));
    // What is allowed implies that it may be seen, and no more.
    assert!(may(&n, "bob", AclOperation::Describe, "orders") && !may(&n, "bob", AclOperation::Write, "orders"));
    assert!(may(&n, "guest", AclOperation::Delete, "orders"), "an administrator");
    let stranger = acl(AclPattern::Literal, "orders", "*", AclOperation::All, AclEffect::Allow);
    put(&mut n, &stranger);
    assert!(may(&n, "ann", AclOperation::Alter, "orders") && !may(&n, "nobody", AclOperation::Read, "orders"));
}

#[test]
fn who_is_denied_is_denied_whatever_allows_him() {
    let mut n = Node::new();
    add(&mut n, "ann", b"pw");
    put(&mut n, &acl(AclPattern::Prefixed, "ord", "*", AclOperation::All, AclEffect::Allow));
    put(&mut n, &acl(AclPattern::Literal, "*", "ann", AclOperation::Delete, AclEffect::Deny));
    let n = n.reload();
    assert!(may(&n, "ann", AclOperation::Read, "orders") && !may(&n, "ann", AclOperation::Delete, "orders"));
    assert!(!may(&n, "ann", AclOperation::Delete, "carts"));
    // A prefix begins the name; a name that only shares letters is another.
    assert!(may(&n, "ann", AclOperation::Read, "ord") && !may(&n, "ann", AclOperation::Read, "or"));
    let denied =
        |operation| n.t.allows(AclSubject { user: "ann", host: "" }, "/", AclResource::Group, "orders", operation);
    assert!(!denied(AclOperation::Read), "rules of topics say nothing of groups");
}

#[test]
fn rules_may_be_for_a_place() {
    let mut n = Node::new();
    add(&mut n, "ann", b"pw");
    put(
        &mut n,
        &Acl { host: "10.0.0.1".into(), ..acl(AclPattern::Literal, "t", "ann", AclOperation::Read, AclEffect::Allow) },
    );
    let from = |host| n.t.allows(AclSubject { user: "ann", host }, "/", AclResource::Topic, "t", AclOperation::Read);
    assert!(from("10.0.0.1") && !from("10.0.0.2"));
}

#[test]
fn an_address_is_the_same_however_it_is_written() {
    let mut n = Node::new();
    add(&mut n, "ann", b"pw");
    let rule = |host: &str, effect| Acl {
        host: host.into(),
        ..acl(AclPattern::Literal, "t", "ann", AclOperation::Read, effect)
    };
    put(&mut n, &rule("*", AclEffect::Allow));
    put(&mut n, &rule("::ffff:10.0.0.1", AclEffect::Deny));
    put(&mut n, &rule("2001:DB8:0::0001", AclEffect::Deny));
    let mut n = n.reload();
    let from =
        |n: &Node, host| n.t.allows(AclSubject { user: "ann", host }, "/", AclResource::Topic, "t", AclOperation::Read);
    assert!(!from(&n, "10.0.0.1") && !from(&n, "2001:db8::1") && from(&n, "10.0.0.2"));
    // It is found as it was written.
    let (gone, _) = n.t.remove_acls("/", &AclFilter { host: Some("2001:DB8:0::0001"), ..AclFilter::ALL });
    assert_eq!(gone.len(), 1);
    assert!(from(&n, "2001:db8::1"));
}

fn of(names: AclNames<'_>) -> AclFilter<'_> {
    AclFilter { names, ..AclFilter::ALL }
}

#[test]
fn rules_of_a_name_are_found_among_many() {
    let mut n = Node::new();
    let rule = |pattern, name: &str| acl(pattern, name, "ann", AclOperation::Read, AclEffect::Allow);
    for i in 0..50_000 {
        n.t.put_acl("/", &rule(AclPattern::Literal, &format!("t{i}"))).unwrap();
    }
    n.t.put_acl("/", &rule(AclPattern::Prefixed, "t1")).unwrap();
    n.t.put_acl("/", &rule(AclPattern::Literal, "*")).unwrap();
    let (begun, mut gone) = (std::time::Instant::now(), 0);
    for i in 10_000..40_000 {
        gone += n.t.remove_acls("/", &of(AclNames::Written(&format!("t{i}")))).0.len();
    }
    assert_eq!((gone, n.t.acl_count()), (30_000, 20_002));
    // One by one they would have been looked at a thousand million times.
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(n.t.remove_acls("/", &of(AclNames::Written("t10000"))).0.is_empty());
    let names = |acls: Vec<Acl>| acls.iter().map(|a| a.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(n.t.remove_acls("/", &of(AclNames::Matching("t17"))).0), ["t17", "*", "t1"]);
    assert_eq!(n.t.remove_acls("/", &AclFilter::ALL).0.len(), 19_999);
}

#[test]
fn rules_go_one_by_one_and_with_their_vhost() {
    let mut n = Node::new();
    let one = acl(AclPattern::Literal, "a", "ann", AclOperation::Read, AclEffect::Allow);
    let other = acl(AclPattern::Prefixed, "a", "ann", AclOperation::Read, AclEffect::Deny);
    put(&mut n, &one);
    put(&mut n, &other);
    assert!(n.t.put_acl("/", &one).unwrap().is_empty(), "it is there");
    assert_eq!(n.reload().t.acls("/"), [one.clone(), other.clone()]);
    let (gone, change) = n.t.remove_acls("/", &AclFilter { effect: Some(AclEffect::Allow), ..AclFilter::ALL });
    n.keep(change);
    assert_eq!((gone, n.reload().t.acls("/")), (vec![one], vec![other]));
    let change = n.t.delete_vhost("/").unwrap();
    n.keep(change);
    assert!(n.t.acls("/").is_empty() && n.reload().t.acls("/").is_empty());
    let homeless = acl(AclPattern::Literal, "a", "ann", AclOperation::Read, AclEffect::Allow);
    assert_eq!(n.t.put_acl("/", &homeless).unwrap_err().kind as u16, 404);
}

#[test]
fn rules_that_mean_nobody_or_nothing_are_refused() {
    let mut n = Node::new();
    let sound = || acl(AclPattern::Literal, "a", "ann", AclOperation::Read, AclEffect::Allow);
    for bad in [
        Acl { principal: "ann".into(), ..sound() },
        Acl { principal: "User:".into(), ..sound() },
        Acl { host: "somewhere".into(), ..sound() },
        Acl { name: "".into(), ..sound() },
        Acl { name: "x".repeat(300).into(), ..sound() },
        Acl { resource: AclResource::Cluster, ..sound() },
    ] {
        assert_eq!(n.t.put_acl("/", &bad).unwrap_err().kind as u16, 406, "{bad:?}");
    }
}

#[test]
fn the_most_particular_quota_holds() {
    let mut n = Node::new();
    let named = |name: &str| Some(QuotaName::Named(name.into()));
    let default = || Some(QuotaName::Default);
    let all = [
        (named("ann"), named("app"), 1.0),
        (named("ann"), default(), 2.0),
        (named("ann"), None, 3.0),
        (default(), named("app"), 4.0),
        (default(), default(), 5.0),
        (default(), None, 6.0),
        (None, named("app"), 7.0),
        (None, default(), 8.0),
    ];
    for (user, client_id, rate) in all.clone() {
        let rates = QuotaRates { producer: Some(rate), consumer: None };
        let change = n.t.put_quota(QuotaEntity { user, client_id }, rates).unwrap();
        n.keep(change);
    }
    let mut n = n.reload();
    assert_eq!(n.t.quotas().len(), all.len());
    assert!(n.t.quota("ann", "app", QuotaKind::Consumer).is_none());
    let share = n.t.quota("ann", "other", QuotaKind::Producer).unwrap();
    assert_eq!((share.rate, share.user.as_deref(), share.client_id.as_deref()), (2.0, Some("ann"), Some("other")));
    // One after the other goes, and the next holds.
    for (i, (user, client_id, rate)) in all.into_iter().enumerate() {
        let share = n.t.quota("ann", "app", QuotaKind::Producer).unwrap();
        assert_eq!((share.rate, share.user.is_some(), share.client_id.is_some()), (rate, i < 6, client_id.is_some()));
        let change = n.t.put_quota(QuotaEntity { user, client_id }, QuotaRates::default()).unwrap();
        n.keep(change);
    }
    assert!(n.t.quotas().is_empty() && n.reload().t.quotas().is_empty());
    let somebody = QuotaEntity { user: named("ann"), client_id: None };
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let rates = QuotaRates { producer: Some(rate), consumer: None };
        assert!(n.t.put_quota(somebody.clone(), rates).is_err(), "{rate}");
    }
    assert!(n.t.put_quota(QuotaEntity::default(), QuotaRates { producer: Some(1.0), consumer: None }).is_err());
}
