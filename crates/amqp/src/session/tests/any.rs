//! Anything a peer and a core may do, in any order: nothing panics, and what comes out is well-formed.

use proptest::prelude::*;

use super::*;
use crate::codec::method::{confirm, exchange, queue, tx};

#[derive(Debug, Clone)]
enum Op {
    Bytes(Vec<u8>),
    Method(u8, u16, Vec<u8>),
    Publish(u16, u16),
    Answer(bool),
    Deliver(u8),
    Refuse(bool),
    Durable,
    Time(u32),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Op::Bytes),
        6 => (0u8..24, 0u16..3, prop::collection::vec(any::<u8>(), 0..3)).prop_map(|(m, c, v)| Op::Method(m, c, v)),
        4 => (1u16..3, 0u16..300).prop_map(|(c, n)| Op::Publish(c, n)),
        6 => any::<bool>().prop_map(Op::Answer),
        4 => (0u8..6).prop_map(Op::Deliver),
        1 => any::<bool>().prop_map(Op::Refuse),
        1 => Just(Op::Durable),
        1 => (0u32..60_000).prop_map(Op::Time),
    ]
}

fn method(which: u8, value: u64) -> Method<'static> {
    match which {
        0 => Method::ChannelOpen(channel::Open::default()),
        1 => Method::ChannelClose(channel::Close::default()),
        2 => Method::ChannelCloseOk(channel::CloseOk {}),
        3 => Method::QueueDeclare(queue::Declare::default()),
        4 => Method::QueueBind(queue::Bind::default()),
        5 => Method::QueueDelete(queue::Delete::default()),
        6 => Method::ExchangeDeclare(exchange::Declare::default()),
        7 => Method::BasicConsume(basic::Consume { queue: "q", consumer_tag: "t", ..Default::default() }),
        8 => Method::BasicCancel(basic::Cancel { consumer_tag: "t", no_wait: value.is_multiple_of(2) }),
        9 => Method::BasicGet(basic::Get { queue: "q", ..Default::default() }),
        10..=12 => Method::BasicAck(basic::Ack { delivery_tag: value % 8, multiple: value.is_multiple_of(3) }),
        13 => {
            Method::BasicNack(basic::Nack { delivery_tag: value % 8, multiple: value.is_multiple_of(2), requeue: true })
        }
        14 => Method::BasicReject(basic::Reject { delivery_tag: value % 8, requeue: false }),
        15 => Method::BasicRecover(basic::Recover { requeue: true }),
        16 => Method::ConfirmSelect(confirm::Select::default()),
        17 => Method::TxSelect(tx::Select {}),
        18 => Method::TxCommit(tx::Commit {}),
        19 => Method::TxRollback(tx::Rollback {}),
        20 => Method::BasicQos(basic::Qos::default()),
        21 => {
            Method::BasicConsume(basic::Consume { queue: "amq.rabbitmq.reply-to", no_ack: true, ..Default::default() })
        }
        22 => Method::QueueDeclare(queue::Declare { queue: "q", ..Default::default() }),
        _ => Method::ConnectionClose(connection::Close::default()),
    }
}

/// What a core that says yes would answer.
fn answer(call: &Call, yes: bool, next: u64) -> Reply {
    match call {
        Call::QueueDeclare(_) => Reply::QueueDeclared { name: "amq.gen".into(), messages: 0, consumers: 0 },
        Call::QueueDelete { .. } | Call::QueuePurge { .. } => Reply::Count(next),
        Call::Consume(consume) => Reply::Consuming {
            consumer: ConsumerId(7),
            tag: consume.tag.clone(),
            no_ack: consume.no_ack,
            reply_to: yes.then(|| "reply".into()),
        },
        Call::Get { no_ack, .. } if yes => {
            Reply::Got { delivery: delivery(next, &[b"got"]), no_ack: *no_ack, remaining: 0 }
        }
        Call::Get { .. } => Reply::Empty,
        _ => Reply::Done,
    }
}

/// Lets the core answer the next command, if there is one.
fn serve(script: &mut Script, yes: bool, next: &mut u64) {
    match script.commands.pop_front() {
        Some(Command::Call { channel, token, call }) => {
            *next += 1;
            let reply = answer(&call, yes, *next);
            let after = yes.then_some(Lsn(*next));
            script.event(Event::Reply { channel, token, reply, after });
        }
        Some(Command::Publish(publish)) => {
            if let Some(last) = publish.confirm {
                let first = last + 1 - u64::from(publish.to - publish.from);
                let lsn = yes.then_some(Lsn(*next));
                script.event(Event::Accepted { channel: publish.channel, first, last, lsn });
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_operations_leave_a_well_formed_stream(ops in prop::collection::vec(any_op(), 0..60)) {
        let mut script = Script::channel();
        let mut next = 0;
        for op in ops {
            match op {
                Op::Bytes(bytes) => script.bytes(&bytes),
                Op::Method(which, number, value) => {
                    let value = value.iter().fold(0u64, |sum, v| sum * 256 + u64::from(*v));
                    script.method(number, method(which, value));
                }
                Op::Publish(number, len) => {
                    let body = vec![b'x'; len.into()];
                    script.bytes(&publish_frames(number, "k", PROPS_EMPTY, &body));
                }
                Op::Answer(yes) => serve(&mut script, yes, &mut next),
                Op::Deliver(count) if count > 0 => {
                    next += 10;
                    script.event(Event::Deliver(delivery(next, &vec![&b"d"[..]; count.into()])));
                }
                Op::Refuse(hard) => {
                    let mut refusal = Refusal::not_found("no");
                    refusal.hard = hard;
                    script.refuse(1, Event::PUBLISH_TOKEN, refusal);
                }
                Op::Durable => script.durable(next),
                Op::Time(ms) => {
                    let now = script.now.plus(ms.into());
                    script.at(now.0);
                }
                Op::Deliver(_) => script.flush(),
            }
        }
        // All that was sent is frames, and every method frame is a method.
        prop_assert_eq!(script.looked_at, script.sent.len());
        for frame in script.frames() {
            if frame.kind == FrameKind::Method {
                prop_assert!(Method::decode(&frame.payload).is_ok());
            }
        }
    }

    #[test]
    fn any_bytes_from_the_first_on_never_panic(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..10),
        greet in any::<bool>(),
    ) {
        let mut script = Script::new();
        if greet {
            script.bytes(&PROTOCOL_HEADER);
        }
        pieces.iter().for_each(|piece| script.bytes(piece));
    }
}
