use super::*;
use crate::codec::method::{exchange, queue, tx};

#[test]
fn s1_5_2_5_a_channels_number_is_free_again_after_its_close() {
    let mut script = Script::channel();
    script.method(1, Method::ChannelClose(channel::Close::default()));
    let (1, token, Call::CloseChannel) = script.call() else { panic!() };
    assert_eq!(script.frames(), []);
    script.answer(1, token, Reply::Done);
    assert_eq!(script.replies(), ["1 ChannelCloseOk(CloseOk)"]);
    script.open_channel(1);
}

#[test]
fn a_refusal_of_the_core_closes_the_channel_and_is_confirmed_by_the_peer() {
    let mut script = Script::channel();
    script.method(1, Method::QueueDeclare(queue::Declare { queue: "q", ..Default::default() }));
    let (_, token, _) = script.call();
    script.refuse(1, token, Refusal::precondition_failed("inequivalent arg"));
    let text = "PRECONDITION_FAILED - inequivalent arg".to_owned();
    assert_eq!(script.closed(), (1, 406, text, (50, 10)));
    // Everything is discarded until the answer.
    script.bytes(&publish_frames(1, "k", PROPS_EMPTY, b"late"));
    script.method(1, Method::BasicQos(basic::Qos::default()));
    script.event(Event::Deliver(delivery(0, &[b"late"])));
    assert!(script.commands.is_empty());
    script.method(1, Method::ChannelCloseOk(channel::CloseOk {}));
    let (1, release, Call::CloseChannel) = script.call() else { panic!() };
    // The number can be used again at once; the answer for the old channel is not for the new one.
    script.method(1, Method::ChannelOpen(channel::Open::default()));
    script.answer(1, release, Reply::Done);
    assert_eq!(script.frames(), []);
    script.done();
    assert_eq!(script.replies().len(), 1);
}

#[test]
fn a_refusal_that_the_peers_close_was_behind_comes_before_the_close_ok() {
    let mut script = Script::channel();
    let mut bytes = publish_frames(1, "k", PROPS_EMPTY, b"to nowhere");
    // Not carried out, and therefore not answered.
    Method::BasicQos(basic::Qos::default()).encode_frame(&mut bytes, 1);
    Method::TxSelect(tx::Select {}).encode_frame(&mut bytes, 1);
    Method::ChannelClose(channel::Close::default()).encode_frame(&mut bytes, 1);
    script.bytes(&bytes);
    script.publish();
    let (1, _, Call::Qos { .. }) = script.call() else { panic!() };
    let (1, close, Call::CloseChannel) = script.call() else { panic!() };
    script.refuse(1, Event::PUBLISH_TOKEN, Refusal::not_found("no exchange 'x' in vhost '/'"));
    let text = "NOT_FOUND - no exchange 'x' in vhost '/'".to_owned();
    assert_eq!(script.closed(), (1, 404, text, (60, 40)));
    script.answer(1, close, Reply::Done);
    assert_eq!(script.replies(), ["1 ChannelCloseOk(CloseOk)"]);
    // The peer answers our close too, and may use the number again.
    script.method(1, Method::ChannelCloseOk(channel::CloseOk {}));
    assert!(script.commands.is_empty());
    script.open_channel(1);
    script.method(1, Method::ChannelCloseOk(channel::CloseOk {}));
    assert_eq!(script.frames(), []);
}

#[test]
fn closes_that_cross_are_answered_both() {
    let mut script = Script::channel();
    script.method(1, Method::BasicAck(basic::Ack { delivery_tag: 5, multiple: false }));
    assert_eq!(script.closed().1, 406);
    script.done();
    script.method(1, Method::ChannelClose(channel::Close::default()));
    assert_eq!(script.replies(), ["1 ChannelCloseOk(CloseOk)"]);
    script.method(1, Method::ChannelCloseOk(channel::CloseOk {}));
    assert_eq!((script.frames().len(), script.commands.len()), (0, 0));
    script.open_channel(1);
}

#[test]
fn a_fault_that_the_session_finds_releases_the_channel_at_once() {
    let mut script = Script::channel();
    script.method(1, Method::BasicAck(basic::Ack { delivery_tag: 5, multiple: false }));
    let text = "PRECONDITION_FAILED - unknown delivery tag 5".to_owned();
    assert_eq!(script.closed(), (1, 406, text, (60, 80)));
    let (1, release, Call::CloseChannel) = script.call() else { panic!() };
    script.answer(1, release, Reply::Done);
    script.method(1, Method::ChannelCloseOk(channel::CloseOk {}));
    assert!(script.commands.is_empty());
    script.open_channel(1);
}

#[test]
fn hard_refusals_close_the_connection() {
    let mut script = Script::channel();
    script.method(1, Method::ExchangeDelete(exchange::Delete::default()));
    let (_, token, _) = script.call();
    script.refuse(1, token, Refusal::not_implemented("no"));
    let closed = script.closed();
    assert_eq!((closed.0, closed.1, closed.3), (0, 540, (40, 20)));
}

#[test]
fn channels_are_bounded_by_what_was_negotiated() {
    let mut script = Script::open_with(SessionConfig { channel_max: 2, ..SessionConfig::default() });
    script.open_channel(1);
    script.open_channel(2);
    script.method(3, Method::ChannelOpen(channel::Open::default()));
    let text = "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)";
    assert_eq!(script.closed(), (0, 530, text.into(), (20, 10)));
}

#[test]
fn consumers_are_bounded_over_all_channels() {
    let mut script = Script::open_with(SessionConfig { consumers_max: 2, ..SessionConfig::default() });
    for number in [1, 2] {
        script.open_channel(number);
        script.method(number, Method::BasicConsume(basic::Consume { queue: "q", ..Default::default() }));
        script.call();
    }
    script.method(1, Method::BasicConsume(basic::Consume { queue: "q", ..Default::default() }));
    let text = "NOT_ALLOWED - reached maximum (2) of consumers per connection";
    assert_eq!(script.closed(), (0, 530, text.into(), (60, 20)));
}

#[test]
fn s1_7_2_1_an_empty_name_is_the_queue_declared_last() {
    let mut script = Script::channel();
    script.method(1, Method::QueuePurge(queue::Purge::default()));
    assert_eq!(script.closed().2, "NOT_FOUND - no previously declared queue");

    let mut script = Script::channel();
    // The server's choice is awaited, and what follows waits with it, on any channel.
    let mut bytes = Vec::new();
    Method::QueueDeclare(queue::Declare::default()).encode_frame(&mut bytes, 1);
    let bind = queue::Bind { exchange: "x", ..Default::default() };
    Method::QueueBind(bind).encode_frame(&mut bytes, 1);
    Method::BasicGet(basic::Get::default()).encode_frame(&mut bytes, 1);
    bytes.extend_from_slice(&publish_frames(1, "k", PROPS_EMPTY, b"after"));
    let half = bytes.len() - 5;
    script.bytes(&bytes[..half]);
    let (1, token, Call::QueueDeclare(_)) = script.call() else { panic!() };
    assert!(script.commands.is_empty());
    let declared = Reply::QueueDeclared { name: "amq.gen-1".into(), messages: 3, consumers: 1 };
    script.answer(1, token, declared);
    assert_eq!(
        script.replies(),
        ["1 QueueDeclareOk(DeclareOk { queue: \"amq.gen-1\", message_count: 3, consumer_count: 1 })"]
    );
    let (1, _, Call::Bind(binding)) = script.call() else { panic!() };
    assert_eq!(&*binding.routing_key, b"amq.gen-1");
    let (1, _, Call::Get { queue, .. }) = script.call() else { panic!() };
    assert_eq!(&*queue, "amq.gen-1");
    assert!(script.commands.is_empty());
    script.bytes(&bytes[half..]);
    assert_eq!(bodies(&script.publish()), ["after"]);
}

#[test]
fn own_answers_do_not_overtake_the_cores() {
    let mut script = Script::channel();
    script.method(1, Method::QueueDeclare(queue::Declare { queue: "q", ..Default::default() }));
    script.method(1, Method::TxSelect(tx::Select {}));
    assert_eq!(script.frames(), []);
    let (_, token, _) = script.call();
    let declared = Reply::QueueDeclared { name: "q".into(), messages: 0, consumers: 0 };
    script.answer(1, token, declared);
    let replies = script.replies();
    assert!(replies[0].starts_with("1 QueueDeclareOk") && replies[1] == "1 TxSelectOk(SelectOk)");
}

#[test]
fn answers_wait_for_the_disk_and_hold_back_what_is_behind_them() {
    let mut script = Script::channel();
    script.consume(true);
    script.method(1, Method::QueueDeclare(queue::Declare { queue: "q", ..Default::default() }));
    let (_, token, _) = script.call();
    let reply = Reply::QueueDeclared { name: "q".into(), messages: 0, consumers: 0 };
    script.event(Event::Reply { channel: ChannelId(1), token, reply, after: Some(Lsn(9)) });
    script.event(Event::Deliver(delivery(0, &[b"behind"])));
    assert_eq!(script.frames(), []);
    assert_eq!(script.session.waits_for(), Some(Lsn(9)));
    script.durable(8);
    assert_eq!(script.frames(), []);
    script.durable(9);
    assert_eq!(script.session.waits_for(), None);
    let replies = script.replies();
    assert!(replies[0].contains("DeclareOk") && replies[1].contains("Deliver"), "{replies:?}");
}

#[test]
fn no_wait_is_not_answered() {
    let mut script = Script::channel();
    let declare = queue::Declare { queue: "q", no_wait: true, ..Default::default() };
    script.method(1, Method::QueueDeclare(declare));
    script.method(1, Method::ExchangeDelete(exchange::Delete { no_wait: true, ..Default::default() }));
    let (_, token, _) = script.call();
    script.answer(1, token, Reply::QueueDeclared { name: "q".into(), messages: 0, consumers: 0 });
    script.done();
    assert_eq!(script.frames(), []);
}

#[test]
fn what_we_do_not_do_is_540() {
    let cases = [
        Method::ChannelFlow(channel::Flow { active: false }),
        Method::BasicQos(basic::Qos { prefetch_size: 1, ..Default::default() }),
        Method::BasicRecover(basic::Recover { requeue: false }),
        Method::BasicPublish(basic::Publish { immediate: true, ..Default::default() }),
    ];
    for method in cases {
        let mut script = Script::channel();
        let id = method.id();
        script.method(1, method);
        let closed = script.closed();
        assert_eq!((closed.0, closed.1, closed.3), (0, 540, (id.class_id, id.method_id)));
    }
    let mut script = Script::channel();
    script.method(1, Method::ChannelFlow(channel::Flow { active: true }));
    assert_eq!(script.replies(), ["1 ChannelFlowOk(FlowOk { active: true })"]);
}
