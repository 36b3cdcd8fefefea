use waypost_model::RefusalKind;

use super::*;

#[test]
fn an_instance_lives_by_its_connection() {
    let w = World::new();
    let claimed = w.claim("cart", instance("a"), 1).unwrap();
    assert_eq!(claimed.standing, Standing::PASSING);
    assert_eq!(w.list("cart"), ["a passing"]);
    assert!(w.services.view("cart").instances[0].connected);
    w.leave(&claimed, Ending::Left);
    assert!(w.list("cart").is_empty());
    assert_eq!(w.words(), ["cart wanted", "cart/a passing", "cart/a gone"]);
}

#[test]
fn it_goes_with_its_last_claim() {
    let w = World::new();
    let first = w.claim("cart", instance("a"), 1).unwrap();
    let second = w.claim("cart", Instance::new("a"), 1).unwrap();
    assert_eq!(second.incarnation, first.incarnation);
    w.leave(&first, Ending::Left);
    assert_eq!(w.list("cart"), ["a passing"]);
    w.leave(&first, Ending::Left);
    assert_eq!(w.list("cart"), ["a passing"], "a claim ends once");
    w.leave(&second, Ending::Left);
    assert!(w.list("cart").is_empty());
}

#[test]
fn an_id_is_one_connections() {
    let w = World::new();
    w.claim("cart", instance("a"), 1).unwrap();
    assert_eq!(w.claim("cart", instance("a"), 2).unwrap_err().kind, RefusalKind::ResourceLocked);
    let refusal = w.services.register("cart", plain("a"), w.now).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::ResourceLocked);
    assert_eq!(w.services.deregister("cart", "a", w.now).unwrap_err().kind, RefusalKind::ResourceLocked);
    assert!(w.claim("order", instance("a"), 2).is_ok(), "ids are per service");
}

#[test]
fn the_id_of_a_broken_connection_is_held_for_its_user() {
    let mut w = World::new();
    let claimed = w.claim("cart", instance("a"), 1).unwrap();
    w.leave(&claimed, Ending::Broken);
    assert!(w.list("cart").is_empty(), "hidden at once");
    w.pass(1_000);
    assert_eq!(w.claim_as("cart", instance("a"), 2, "eve").unwrap_err().kind, RefusalKind::ResourceLocked);
    let back = w.claim("cart", instance("a"), 3).unwrap();
    assert!(back.incarnation > claimed.incarnation);
    w.leave(&back, Ending::Broken);
    w.pass(2_000);
    assert!(w.claim_as("cart", instance("a"), 4, "eve").is_ok());
}

#[test]
fn an_orderly_end_holds_nothing() {
    let w = World::new();
    let claimed = w.claim("cart", instance("a"), 1).unwrap();
    w.leave(&claimed, Ending::Left);
    assert!(w.claim_as("cart", instance("a"), 2, "eve").is_ok());
}

#[test]
fn who_breaks_again_and_again_is_held_back() {
    let mut w = World::new();
    for conn in 0..4 {
        let claimed = w.claim("cart", instance("a"), conn).unwrap();
        assert_eq!(claimed.standing, Standing::PASSING, "{conn}");
        w.pass(500);
        w.leave(&claimed, Ending::Broken);
        w.pass(500);
    }
    let claimed = w.claim("cart", instance("a"), 9).unwrap();
    assert_eq!(claimed.standing.health, Health::Warning);
    assert_eq!(w.list("cart"), ["a warning damped"]);
    w.pass(130_000);
    assert_eq!(w.list("cart"), ["a passing"]);
}

#[test]
fn a_registered_instance_is_claimed_by_its_id_alone() {
    let mut w = World::new();
    w.register("cart", leased("a", 6000));
    let claimed = w.claim("cart", Instance::new("a"), 1).unwrap();
    assert_eq!(claimed.instance.port, 80);
    assert!(w.claim("cart", instance("a"), 1).is_ok(), "the same words are no other description");
    let other = Instance { port: 81, ..instance("a") };
    assert_eq!(w.claim("cart", other, 1).unwrap_err().kind, RefusalKind::PreconditionFailed);
    assert_eq!(w.claim("cart", Instance::new("a"), 2).unwrap_err().kind, RefusalKind::ResourceLocked);
    w.pass(60_000);
    assert_eq!(w.list("cart"), ["a passing"], "the connection is its lease");
    w.services.register("cart", leased("a", 7000), w.now).unwrap();
    assert!(w.services.view("cart").instances[0].connected, "registering anew leaves the connection");
    w.registry.leave(claimed.claim, Ending::Broken, w.now);
    w.registry.leave(waypost_model::service::ClaimId(claimed.claim.0 + 1), Ending::Broken, w.now);
    assert_eq!(w.list("cart"), ["a passing"], "its lease begins anew");
    w.pass(7_000);
    assert_eq!(w.list("cart"), ["a critical expired"]);
}

#[test]
fn a_claim_revives_who_was_silent() {
    let mut w = World::new();
    w.register("cart", leased("a", 6000));
    w.pass(7_000);
    let claimed = w.claim("cart", Instance::new("a"), 1).unwrap();
    assert_eq!(claimed.standing, Standing::PASSING);
    assert_eq!(w.list("cart"), ["a passing"]);
}

#[test]
fn a_connection_may_describe_itself_anew() {
    let w = World::new();
    let first = w.claim("cart", instance("a"), 1).unwrap();
    let second = w.claim("cart", Instance { port: 81, ..instance("a") }, 1).unwrap();
    assert_eq!((second.instance.port, second.incarnation), (81, first.incarnation));
    w.leave(&first, Ending::Left);
    assert_eq!(w.list("cart"), ["a passing"]);
    w.leave(&second, Ending::Left);
    assert!(w.list("cart").is_empty());
}

#[test]
fn ejection_is_shown_and_wakes_nobody() {
    let w = World::new();
    w.register("cart", plain("a"));
    let index = w.index("cart");
    let name = ServiceName { vhost: "/".into(), service: "cart".into() };
    w.registry.ejected(&name, "a", true, w.now);
    assert!(w.services.view("cart").instances[0].ejected);
    assert_eq!(w.index("cart"), index);
}

#[test]
fn names_are_checked() {
    let w = World::new();
    assert_eq!(w.claim("Cart", instance("a"), 1).unwrap_err().kind, RefusalKind::PreconditionFailed);
    assert_eq!(w.claim("cart", instance(""), 1).unwrap_err().kind, RefusalKind::PreconditionFailed);
}
