//! Streams as the topology knows them.

use std::sync::atomic::{AtomicU64, Ordering};

use waypost_model::journal::Journal;
use waypost_model::table::Value;
use waypost_model::{ConsumerId, RefusalKind};

use super::*;
use crate::settings::{QueueKind, QueueSettings};
use crate::shard::{Enqueued, Incoming, QueueInfo};
use crate::streams::{StreamConsumer, StreamSpec, Streams};
use crate::topology::{ApplyTo, PolicySort, PolicySpec};

/// Gives out ids, and refuses one name.
#[derive(Default)]
struct Keeper(AtomicU64);

impl Streams for Keeper {
    fn open(&self, spec: &StreamSpec<'_>) -> Result<QueueId, Refusal> {
        match spec.name {
            "bad name" => Err(Refusal::precondition_failed("no")),
            _ => Ok(QueueId(QueueId::STREAMS_FROM.0 + self.0.fetch_add(1, Ordering::Relaxed))),
        }
    }

    fn configure(&self, _: &QueueSettings) -> bool {
        true
    }

    fn delete(&self, _: QueueId) {}

    fn delete_vhost(&self, _: &str) {}

    fn append(&self, _: QueueId, _: &Incoming, _: &dyn Journal) -> Enqueued {
        Enqueued::default()
    }

    fn consume(&self, _: StreamConsumer) -> Result<ConsumerId, Refusal> {
        Err(Refusal::not_found("nobody reads"))
    }

    fn settled(&self, _: ConsumerId, _: u32) {}

    fn sent(&self, _: ConsumerId, _: u64) {}

    fn cancel(&self, _: ConsumerId) {}

    fn info(&self, _: QueueId) -> Option<QueueInfo> {
        None
    }
}

fn stream(name: &str) -> QueueDeclare {
    queue(name, Table::new().with("x-queue-type", "stream"))
}

impl Node {
    fn declare_stream(&mut self, d: &QueueDeclare, keeper: &Keeper) -> Result<QueueId, Refusal> {
        let (s, change) = self.t.declare_queue("guest", "/", d, ME, Some(keeper))?;
        self.keep(change);
        Ok(s.id)
    }
}

#[test]
fn a_stream_is_a_queue_that_no_shard_has() {
    let (mut n, keeper) = (Node::new(), Keeper::default());
    let id = n.declare_stream(&stream("s"), &keeper).unwrap();
    assert!(id.is_stream());
    assert_eq!(n.declare_stream(&stream("s"), &keeper), Ok(id));
    assert!(n.declare_stream(&stream("bad name"), &keeper).is_err());
    let plain = n.queue("q", Table::new()).unwrap();
    n.bind("amq.fanout", to_queue("s"), "", Table::new()).unwrap();
    n.bind("amq.fanout", to_queue("q"), "", Table::new()).unwrap();
    assert_eq!(n.route("amq.fanout", "k"), ["q", "s"]);
    assert_eq!(n.route("", "s"), ["s"]);
    // After a restart too, and numbers of other queues are not led astray by its own.
    let mut n = n.reload();
    assert_eq!(n.route("amq.fanout", "k"), ["q", "s"]);
    assert_eq!(n.t.queue(id).unwrap().kind, QueueKind::Stream);
    let next = n.queue("r", Table::new()).unwrap();
    assert!(!next.is_stream() && next > plain);
    assert_eq!(n.delete_queue(id).deleted_queues, [id]);
    assert_eq!(n.route("amq.fanout", "k"), ["q"]);
}

#[test]
fn without_a_keeper_there_are_none() {
    let refusal = Node::new().declare(&stream("s")).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::PreconditionFailed);
}

#[test]
fn a_stream_is_nobody_s_mailbox() {
    let (mut n, keeper) = (Node::new(), Keeper::default());
    n.declare_stream(&stream("cart-queue"), &keeper).unwrap();
    assert!(n.t.mailbox("/", "cart").is_none() && n.t.make_mailbox("/", "cart").is_err());
    assert!(n.reload().t.mailbox("/", "cart").is_none());
    let (made, change) = n.t.make_mailbox("/", "shop").unwrap();
    n.keep(change);
    assert!(made.implicit && n.declare_stream(&stream("shop-queue"), &keeper).is_err());
}

#[test]
fn policies_say_what_they_may() {
    let (mut n, keeper) = (Node::new(), Keeper::default());
    let arguments = stream("s").arguments.with("x-max-length-bytes", 5_i32);
    let id = n.declare_stream(&queue("s", arguments), &keeper).unwrap();
    assert_eq!(n.t.queue(id).unwrap().max_length_bytes, None);
    let definition = Table::new()
        .with("max-age", "1h")
        .with("max-length-bytes", 9_i32)
        .with("message-ttl", 1_i32)
        .with("expires", 1_i32);
    let spec = PolicySpec { pattern: "s".into(), apply_to: ApplyTo::Streams, priority: 0, definition };
    let change = n.t.put_policy("/", "p", &spec, PolicySort::User).unwrap();
    let s = &change.reconfigured[0];
    assert_eq!(
        (s.max_age_ms, s.max_length_bytes, s.message_ttl_ms, s.expires_ms),
        (Some(3_600_000), Some(9), None, None)
    );
    let other = PolicySpec { definition: Table::new().with("max-age", Value::I32(1)), ..spec };
    assert!(n.t.put_policy("/", "q", &other, PolicySort::User).is_err());
}
