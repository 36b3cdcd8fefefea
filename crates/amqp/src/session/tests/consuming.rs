use super::*;

fn ack(script: &mut Script, delivery_tag: u64, multiple: bool) {
    script.method(1, Method::BasicAck(basic::Ack { delivery_tag, multiple }));
}

#[test]
fn s1_8_3_13_deliveries_are_method_header_and_body() {
    let mut script = Script::channel();
    script.consume(false);
    script.event(Event::Deliver(delivery(0, &[b"one", b"", b"three"])));
    let frames = script.frames();
    let kinds: Vec<FrameKind> = frames.iter().map(|f| f.kind).collect();
    use FrameKind::{Body, Header, Method as M};
    assert_eq!(kinds, [M, Header, Body, M, Header, M, Header, Body]);
    let Method::BasicDeliver(third) = decode(&frames[5].payload) else { panic!() };
    assert_eq!((third.consumer_tag, third.delivery_tag, third.exchange), ("t", 3, "x"));
    let header = ContentHeader::decode(&frames[6].payload).unwrap();
    assert_eq!((header.body_size, header.props), (5, PROPS_EMPTY));
    assert_eq!(frames[7].payload, b"three");
}

#[test]
fn s4_2_6_2_large_bodies_are_cut_and_spliced() {
    let mut script = Script::channel();
    script.consume(true);
    let large = vec![b'x'; 300_000];
    script.event(Event::Deliver(delivery(0, &[&large, b"small", &large[..9000]])));
    let frames = script.frames();
    let bodies: Vec<usize> = frames.iter().filter(|f| f.kind == FrameKind::Body).map(|f| f.payload.len()).collect();
    assert_eq!(bodies, [131_064, 131_064, 37_872, 5, 9000]);
    assert_eq!(frames.iter().filter(|f| f.kind == FrameKind::Method).count(), 3);
}

#[test]
fn s1_8_3_13_acks_become_ranges() {
    let mut script = Script::channel();
    script.consume(false);
    script.event(Event::Deliver(delivery(10, &[&b"x"[..]; 10])));
    script.frames();
    ack(&mut script, 3, true);
    assert_eq!(script.settle(), (10, 3, Outcome::Accepted));
    let mut bytes = Vec::new();
    for delivery_tag in 4..=6 {
        Method::BasicAck(basic::Ack { delivery_tag, multiple: false }).encode_frame(&mut bytes, 1);
    }
    script.bytes(&bytes);
    assert_eq!(script.settle(), (13, 3, Outcome::Accepted));
    script.method(1, Method::BasicReject(basic::Reject { delivery_tag: 8, requeue: false }));
    assert_eq!(script.settle(), (17, 1, Outcome::Rejected));
    let nack = basic::Nack { delivery_tag: 9, multiple: true, requeue: true };
    script.method(1, Method::BasicNack(nack));
    assert_eq!(script.settle(), (16, 1, Outcome::Released));
    assert_eq!(script.settle(), (18, 1, Outcome::Released));
    ack(&mut script, 0, true);
    assert_eq!(script.settle(), (19, 1, Outcome::Accepted));
    ack(&mut script, 0, true);
    assert!(script.commands.is_empty() && script.frames().is_empty());
    ack(&mut script, 10, false);
    assert_eq!(script.closed().2, "PRECONDITION_FAILED - unknown delivery tag 10");
}

#[test]
fn s1_8_3_14_recover_releases_all() {
    let mut script = Script::channel();
    script.consume(false);
    script.event(Event::Deliver(delivery(0, &[&b"x"[..]; 3])));
    script.frames();
    script.method(1, Method::BasicRecover(basic::Recover { requeue: true }));
    assert_eq!(script.settle(), (0, 3, Outcome::Released));
    assert_eq!(script.replies(), ["1 BasicRecoverOk(RecoverOk)"]);
}

#[test]
fn without_acks_nothing_is_unsettled() {
    let mut script = Script::channel();
    script.consume(true);
    script.event(Event::Deliver(delivery(0, &[b"x"])));
    script.frames();
    ack(&mut script, 1, false);
    assert_eq!(script.closed().1, 406);
}

#[test]
fn redelivered_and_count_are_told() {
    let mut script = Script::channel();
    script.consume(false);
    let mut again = delivery(0, &[b"x"]);
    (again.redelivered, again.delivery_count) = (true, 4);
    script.event(Event::Deliver(again));
    let frames = script.frames();
    assert!(matches!(decode(&frames[0].payload), Method::BasicDeliver(d) if d.redelivered));
    let props = ContentHeader::decode(&frames[1].payload).unwrap().props;
    let headers = waypost_model::props::Props(props).headers().unwrap().unwrap();
    assert_eq!(headers.get("x-delivery-count").unwrap().as_i64(), Some(4));
}

#[test]
fn s1_8_3_3_consumer_tags_are_unique_and_invented_if_empty() {
    let mut script = Script::channel();
    script.consume(false);
    script.method(1, Method::BasicConsume(basic::Consume { queue: "q", ..Default::default() }));
    let (_, _, Call::Consume(consume)) = script.call() else { panic!() };
    assert!(consume.tag.starts_with("amq.ctag-") && consume.tag.len() == 31);
    let again = basic::Consume { queue: "q", consumer_tag: "t", ..Default::default() };
    script.method(1, Method::BasicConsume(again));
    let text = "NOT_ALLOWED - attempt to reuse consumer tag 't'".to_owned();
    assert_eq!(script.closed(), (0, 530, text, (60, 20)));
}

#[test]
fn s1_8_3_5_cancel_ends_after_the_last_delivery() {
    let mut script = Script::channel();
    script.consume(false);
    let cancel = || Method::BasicCancel(basic::Cancel { consumer_tag: "t", no_wait: false });
    script.method(1, cancel());
    let (1, token, Call::Cancel { consumer: ConsumerId(7) }) = script.call() else { panic!() };
    script.event(Event::Deliver(delivery(0, &[b"crossing"])));
    script.answer(1, token, Reply::Done);
    let replies = script.replies();
    assert!(replies[0].contains("Deliver") && replies[1].contains("CancelOk"));
    // What it held can still be settled; cancelling again does no harm.
    ack(&mut script, 1, false);
    assert_eq!(script.settle(), (0, 1, Outcome::Accepted));
    script.method(1, cancel());
    assert_eq!(script.replies(), ["1 BasicCancelOk(CancelOk { consumer_tag: \"t\" })"]);
}

#[test]
fn a_cancel_by_the_server_is_told() {
    let mut script = Script::channel();
    script.consume(false);
    let (channel, consumer) = (ChannelId(1), ConsumerId(7));
    script.event(Event::Cancelled { channel, consumer, tag: "t".into() });
    assert_eq!(script.replies(), ["1 BasicCancel(Cancel { consumer_tag: \"t\", no_wait: true })"]);
    script.consume(false);
}

#[test]
fn s1_8_3_10_get() {
    let mut script = Script::channel();
    let get = || Method::BasicGet(basic::Get { queue: "q", ..Default::default() });
    script.method(1, get());
    let (_, token, _) = script.call();
    script.answer(1, token, Reply::Empty);
    assert_eq!(script.replies(), ["1 BasicGetEmpty(GetEmpty { reserved_1: Short([]) })"]);
    script.method(1, get());
    let (_, token, _) = script.call();
    let got = Reply::Got { delivery: delivery(5, &[b"hi"]), no_ack: false, remaining: 2 };
    script.answer(1, token, got);
    let frames = script.frames();
    assert!(
        matches!(decode(&frames[0].payload), Method::BasicGetOk(ok) if ok.message_count == 2 && ok.delivery_tag == 1)
    );
    assert_eq!(frames[2].payload, b"hi");
    ack(&mut script, 1, false);
    assert_eq!(script.settle(), (5, 1, Outcome::Accepted));
}

#[test]
fn deliveries_for_an_earlier_channel_are_not_for_the_new_one() {
    let mut script = Script::channel();
    script.consume(false);
    ack(&mut script, 99, false);
    script.call();
    script.method(1, Method::ChannelCloseOk(channel::CloseOk {}));
    script.method(1, Method::ChannelOpen(channel::Open::default()));
    script.frames();
    script.event(Event::Deliver(delivery(0, &[b"old"])));
    let refusal = Refusal::not_found("old");
    script.refuse(1, Event::PUBLISH_TOKEN, refusal);
    assert_eq!(script.frames(), []);
}
