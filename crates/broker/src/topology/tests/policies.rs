use waypost_model::table::Table;

use super::*;
use crate::topology::{ApplyTo, PolicySort, PolicySpec};

fn spec(pattern: &str, priority: i64, definition: Table) -> PolicySpec {
    PolicySpec { pattern: pattern.into(), apply_to: ApplyTo::All, priority, definition }
}

#[test]
fn the_best_policy_applies_at_once_and_limits_only_become_stricter() {
    let mut n = Node::new();
    let id = n.queue("work.1", Table::new().with("x-max-length", 50)).unwrap();
    let put = |n: &mut Node, name: &str, s: &PolicySpec, sort| {
        let c = n.t.put_policy("/", name, s, sort).unwrap();
        n.keep(c)
    };
    let c = put(&mut n, "low", &spec("^work", 1, Table::new().with("message-ttl", 10)), PolicySort::User);
    assert_eq!(c.reconfigured[0].message_ttl_ms, Some(10));
    let high = Table::new().with("max-length", 100).with("dead-letter-exchange", "dlx");
    let c = put(&mut n, "high", &spec(r"^(?!amq\.)", 9, high), PolicySort::User);
    assert_eq!((c.reconfigured[0].message_ttl_ms, c.reconfigured[0].max_length), (None, Some(50)));
    let c = put(&mut n, "op", &spec("", 0, Table::new().with("max-length", 7)), PolicySort::Operator);
    assert_eq!(c.reconfigured[0].max_length, Some(7));
    assert_eq!(&*c.reconfigured[0].dead_letter.as_ref().unwrap().exchange, "dlx");
    let effective = Table::new().with("max-length", 7).with("dead-letter-exchange", "dlx");
    assert!(n.t.effective_policy("/", "work.1").equivalent(&effective));
    let again = n.reload();
    assert_eq!(again.t.queue(id), n.t.queue(id));
    assert_eq!(again.t.policies("/", PolicySort::User), n.t.policies("/", PolicySort::User));
    for (name, sort) in [("high", PolicySort::User), ("low", PolicySort::User), ("op", PolicySort::Operator)] {
        let c = n.t.delete_policy("/", name, sort).unwrap();
        n.keep(c);
    }
    assert_eq!((n.t.queue(id).unwrap().max_length, n.t.queue(id).unwrap().message_ttl_ms), (Some(50), None));
}

#[test]
fn keys_that_we_do_not_have_are_refused() {
    let mut n = Node::new();
    let mut refused = |definition: Table, sort| {
        assert!(n.t.put_policy("/", "p", &spec(".*", 0, definition), sort).is_err());
    };
    refused(Table::new().with("federation-upstream", "a"), PolicySort::User);
    refused(Table::new().with("message-ttl", "soon"), PolicySort::User);
    refused(Table::new().with("overflow", "explode"), PolicySort::User);
    refused(Table::new().with("dead-letter-exchange", "x"), PolicySort::Operator);
    refused(Table::new(), PolicySort::User);
    assert!(n.t.put_policy("/", "p", &spec("(", 0, Table::new().with("expires", 1)), PolicySort::User).is_err());
}

#[test]
fn policies_give_alternate_exchanges() {
    let mut n = Node::new();
    n.exchange("x", "direct", Table::new()).unwrap();
    n.queue("lost", Table::new()).unwrap();
    n.bind("amq.fanout", to_queue("lost"), "", Table::new()).unwrap();
    assert!(n.route("x", "k").is_empty());
    let before = n.t.generation();
    let definition = Table::new().with("alternate-exchange", "amq.fanout");
    n.t.put_policy("/", "ae", &spec("^x$", 0, definition), PolicySort::User).unwrap();
    assert!(n.t.generation() > before);
    assert_eq!(n.route("x", "k"), ["lost"]);
}
