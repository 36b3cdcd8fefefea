use proptest::prelude::*;
use waypost_model::table::Table;

use super::*;
use crate::topology::LoadError;

fn full() -> Node {
    let mut n = Node::new();
    n.exchange("t", "topic", Table::new().with("alternate-exchange", "amq.fanout")).unwrap();
    n.exchange("d", "x-delayed-message", Table::new().with("x-delayed-type", "direct")).unwrap();
    n.queue("q", Table::new().with("x-max-length", 5)).unwrap();
    n.queue("r", Table::new().with("x-queue-type", "quorum")).unwrap();
    n.bind("t", to_queue("q"), "a.*.#", Table::new().with("note", 1)).unwrap();
    n.bind("t", to_exchange("d"), "b", Table::new()).unwrap();
    n.bind("d", to_queue("r"), "b", Table::new()).unwrap();
    n
}

#[test]
fn what_is_durable_comes_back() {
    let n = full();
    let again = n.reload();
    assert_eq!(again.t.exchanges("/"), n.t.exchanges("/"));
    assert_eq!(again.t.queues("/"), n.t.queues("/"));
    assert_eq!(again.t.bindings("/"), n.t.bindings("/"));
    assert_eq!(again.t.users(), n.t.users());
    assert_eq!(again.t.permissions(), n.t.permissions());
    assert_eq!(again.route("t", "a.b"), ["q"]);
}

#[test]
fn later_versions_and_kinds_are_refused() {
    let load = |k: &[u8], v: &[u8]| Topology::load(&[(k.into(), v.into())], SEED).unwrap_err();
    assert!(matches!(load(&[0x10, 1, b'/'], &[2, 0, 0, 0]), LoadError::UnknownVersion { version: 2, .. }));
    assert!(matches!(load(&[0xee], &[1]), LoadError::UnknownKind(0xee)));
    assert!(matches!(load(&[0x50, 1, b'/', 1, b'q'], &[1, 0, 7]), LoadError::Malformed(_)));
}

proptest! {
    #[test]
    fn damage_is_an_error_or_harmless(entry in 0usize..64, at in 0usize..200, bit in 0u8..8, cut in any::<bool>()) {
        let n = full();
        let mut all: Vec<_> = n.journal.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let entry = entry % all.len();
        let value = &mut all[entry].1;
        let at = at % value.len();
        if cut {
            *value = value[..at].into();
        } else {
            value[at] ^= 1 << bit;
        }
        let _ = Topology::load(&all, SEED);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(k in proptest::collection::vec(any::<u8>(), 0..40), v in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = Topology::load(&[(k.into(), v.into())], SEED);
    }
}
