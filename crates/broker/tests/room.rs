//! A disk without any room: nothing that consumers settled is forgotten.

mod support;

use std::sync::atomic::Ordering;

use support::{Node, message};
use waypost_model::command::{Outcome, QueueDeclare};
use waypost_model::table::Table;
use waypost_model::{Call, RefusalKind};

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

#[test]
fn definitions_that_found_no_room_close_only_the_channel_and_leave_nothing_behind() {
    let node = Node::new();
    let mut c = node.client();
    c.queue("old", Table::new());
    node.journal.crammed.store(true, Ordering::SeqCst);
    let declare = QueueDeclare {
        name: "new".into(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: Table::new(),
    };
    c.call(1, Call::QueueDeclare(declare));
    let refusal = c.refusal();
    assert_eq!((refusal.kind, refusal.hard), (RefusalKind::ResourceError, false));
    assert_eq!(names(&node), ["old"]);
    // What takes away is not refused: it makes room.
    let mut other = node.client();
    other.call(1, Call::QueueDelete { queue: "old".into(), if_unused: false, if_empty: false });
    other.expect_done(1);
    assert_eq!(names(&node), [""; 0]);
    node.journal.crammed.store(false, Ordering::SeqCst);
    assert_eq!(names(&node.restart(false)), [""; 0]);
}

fn names(node: &Node) -> Vec<String> {
    node.broker.queues(None).into_iter().flatten().map(|q| q.view.settings.name.to_string()).collect()
}
