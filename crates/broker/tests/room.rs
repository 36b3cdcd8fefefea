//! A disk without any room: nothing that consumers settled is forgotten.

mod support;

use std::sync::atomic::Ordering;

use support::{Node, message};
use waypost_model::command::Outcome;
use waypost_model::table::Table;

#[test]
fn settlements_that_found_no_room_are_handed_in_again() {
    let mut node = Node::new();
    let mut c = node.client();
    c.queue("q", Table::new());
    c.publish("", "q", message("x").persistent());
    let (d, _) = c.get("q", false).unwrap();
    node.journal.crammed.store(true, Ordering::SeqCst);
    c.settle(&d, Outcome::Accepted);
    assert_eq!(node.journal.live(), 1);
    node.pass(1000);
    assert_eq!(node.journal.live(), 1);
    node.journal.crammed.store(false, Ordering::SeqCst);
    node.pass(1000);
    assert_eq!(node.journal.live(), 0);
}
