use proptest::prelude::*;
use waypost_model::AttrFlags;
use waypost_model::props::{Props, PropsOwned, ShortStr};
use waypost_model::table::Value;

use super::*;
use crate::codec::method::{confirm, tx};

fn props(edit: impl FnOnce(&mut PropsOwned)) -> Vec<u8> {
    let mut props = PropsOwned::default();
    edit(&mut props);
    props.to_bytes()
}

#[test]
fn equal_publishes_are_one_run() {
    let mut script = Script::channel();
    let mut bytes = Vec::new();
    for body in [&b"aaaa"[..], b"bbbb", b"cccc", b"longer", b"", b""] {
        bytes.extend_from_slice(&publish_frames(1, "k", PROPS_EMPTY, body));
    }
    bytes.extend_from_slice(&publish_frames(1, "other", PROPS_EMPTY, b"dddd"));
    script.bytes(&bytes);
    let publish = script.publish();
    assert_eq!(bodies(&publish), ["aaaa", "bbbb", "cccc", "longer", "", ""]);
    assert_eq!(*publish.route, Route::new("x", "k"));
    assert_eq!(publish.confirm, None);
    assert_eq!(bodies(&script.publish()), ["dddd"]);
    assert!(script.commands.is_empty() && script.session.has_published());
}

#[test]
fn whoever_sent_half_a_message_has_not_published() {
    let bytes = publish_frames(1, "k", PROPS_EMPTY, b"body");
    for cut in 1..bytes.len() {
        let mut script = Script::channel();
        script.bytes(&bytes[..cut]);
        assert!(!script.session.has_published(), "after {cut} bytes");
        script.bytes(&bytes[cut..]);
        assert!(script.session.has_published());
        script.publish();
    }
}

#[test]
fn routes_are_shared_from_read_to_read() {
    let mut script = Script::channel();
    let mut routes = Vec::new();
    for key in ["a", "b", "a"] {
        script.bytes(&publish_frames(1, key, PROPS_EMPTY, b"x"));
        routes.push(script.publish().route);
    }
    assert!(Arc::ptr_eq(&routes[0], &routes[2]));
    assert!(!Arc::ptr_eq(&routes[0], &routes[1]));
}

#[test]
fn runs_end_where_attributes_differ() {
    let mut script = Script::channel();
    let persistent = props(|p| p.delivery_mode = Some(2));
    let with_id = props(|p| (p.delivery_mode, p.message_id) = (Some(2), ShortStr::new("1")));
    let copies = Table::new().with("CC", Value::Array(vec!["q".into()]));
    let copied = props(|p| p.headers = Some(copies));
    let mut bytes = Vec::new();
    for props in [PROPS_EMPTY, &persistent, &with_id, &copied, &copied] {
        bytes.extend_from_slice(&publish_frames(1, "k", props, b"x"));
    }
    script.bytes(&bytes);
    let runs: Vec<Publish> = (0..4).map(|_| script.publish()).collect();
    assert!(script.commands.is_empty());
    let lens: Vec<u32> = runs.iter().map(|p| p.to - p.from).collect();
    assert_eq!(lens, [1, 2, 1, 1]);
    assert!(runs[1].attrs.persistent());
    assert!(runs[2].attrs.flags.has(AttrFlags::SENDER_SELECTED));
    let batch = runs[1].batch.as_ref().unwrap();
    assert_eq!(batch.props(runs[1].from + 1), with_id);
}

#[test]
fn a_run_goes_on_across_acks_but_not_across_calls() {
    let mut script = Script::channel();
    script.consume(false);
    script.event(Event::Deliver(delivery(0, &[&b"x"[..]; 4])));
    let mut bytes = Vec::new();
    for delivery_tag in 1..=3 {
        bytes.extend_from_slice(&publish_frames(1, "k", PROPS_EMPTY, b"p"));
        Method::BasicAck(basic::Ack { delivery_tag, multiple: false }).encode_frame(&mut bytes, 1);
    }
    Method::BasicQos(basic::Qos::default()).encode_frame(&mut bytes, 1);
    bytes.extend_from_slice(&publish_frames(1, "k", PROPS_EMPTY, b"p"));
    script.bytes(&bytes);
    assert_eq!(bodies(&script.publish()).len(), 3);
    assert_eq!(script.settle(), (0, 3, Outcome::Accepted));
    let (1, _, Call::Qos { .. }) = script.call() else { panic!() };
    assert_eq!(bodies(&script.publish()).len(), 1);
}

/// The same route under another publish that went another way must not stick to the short cut.
#[test]
fn the_short_cut_forgets_routes_that_were_left() {
    let mut script = Script::channel();
    let short = publish_frames(1, "short", PROPS_EMPTY, b"body");
    let mut bytes = [&short[..], &short[..]].concat();
    // In two body frames, so that it is put together.
    let method_len = Frame::parse(&short, 4096).unwrap().unwrap().wire_len();
    let other = publish_frames(1, "other", PROPS_EMPTY, b"");
    let other_len = Frame::parse(&other, 4096).unwrap().unwrap().wire_len();
    bytes.extend_from_slice(&other[..other_len]);
    content_frames(&mut bytes, 1, PROPS_EMPTY, b"body", 10);
    bytes.extend_from_slice(&short);
    assert!(method_len > 0);
    script.bytes(&bytes);
    let keys: Vec<(String, usize)> =
        (0..3).map(|_| script.publish()).map(|p| (p.route.key_lossy().into_owned(), bodies(&p).len())).collect();
    assert_eq!(keys, [("short".into(), 2), ("other".into(), 1), ("short".into(), 1)]);
}

/// What is equal but for the route is compared rather than read, and means the same.
#[test]
fn contents_that_are_known_keep_their_attributes_and_their_end() {
    let mut script = Script::channel();
    let persistent = props(|p| p.delivery_mode = Some(2));
    let mut bytes = Vec::new();
    // The persistent ones take the place of the others once two of them have come in a row.
    for (key, list) in ["a", "b", "c", "d", "e", "f"].into_iter().zip([0, 0, 0, 1, 1, 1]) {
        bytes.extend_from_slice(&publish_frames(1, key, if list == 1 { &persistent } else { PROPS_EMPTY }, b"body"));
    }
    let broken = publish_frames(1, "g", &persistent, b"body");
    script.bytes(&bytes);
    for (key, durable) in [("a", false), ("b", false), ("c", false), ("d", true), ("e", true), ("f", true)] {
        let publish = script.publish();
        assert_eq!((&*publish.route.key_lossy(), publish.attrs.persistent()), (key, durable));
        assert_eq!(bodies(&publish), ["body"]);
    }
    script.bytes(&[&broken[..broken.len() - 1], b"!"].concat());
    assert_eq!(script.closed().1, 501);
    assert!(script.commands.iter().all(|c| !matches!(c, Command::Publish(_))));
}

#[test]
fn s4_2_6_a_known_content_of_another_channel_is_no_content_of_this_one() {
    let mut script = Script::channel();
    script.open_channel(2);
    let mut bytes = ["a", "b", "c"].map(|key| publish_frames(1, key, PROPS_EMPTY, b"body")).concat();
    let other = publish_frames(2, "d", PROPS_EMPTY, b"body");
    bytes.extend_from_slice(&other[..Frame::parse(&other, 4096).unwrap().unwrap().wire_len()]);
    content_frames(&mut bytes, 1, PROPS_EMPTY, b"body", 4096);
    script.bytes(&bytes);
    (0..3).for_each(|_| assert_eq!(script.publish().channel.0, 1));
    assert_eq!(script.closed().1, 505);
    assert!(script.commands.iter().all(|c| !matches!(c, Command::Publish(_))));
}

#[test]
fn s4_2_6_contents_of_several_channels_may_interleave() {
    let mut script = Script::channel();
    script.open_channel(2);
    let (one, two) = (publish_frames(1, "k", PROPS_EMPTY, b"one"), publish_frames(2, "k", PROPS_EMPTY, b"two"));
    let frames = |bytes: &[u8]| {
        let (mut rest, mut all) = (bytes.to_vec(), Vec::new());
        while let Some(frame) = Frame::parse(&rest.clone(), 4096).unwrap() {
            all.push(rest.drain(..frame.wire_len()).collect::<Vec<u8>>());
        }
        all
    };
    let mixed: Vec<u8> = frames(&one).into_iter().zip(frames(&two)).flat_map(|(a, b)| [a, b]).flatten().collect();
    script.bytes(&mixed);
    let (a, b) = (script.publish(), script.publish());
    assert_eq!((a.channel.0, bodies(&a)), (1, vec!["one".to_owned()]));
    assert_eq!((b.channel.0, bodies(&b)), (2, vec!["two".to_owned()]));
}

#[test]
fn bodies_beyond_a_frame_are_put_together() {
    let mut script = Script::channel();
    let body = vec![b'z'; 10_000];
    script.bytes(&publish_frames(1, "k", PROPS_EMPTY, &body));
    let publish = script.publish();
    assert_eq!(publish.batch.as_ref().unwrap().body(publish.from), body);
    // And one frame of them lies where it came.
    let mut bytes = Vec::new();
    let method = basic::Publish::default();
    frame::encode_method(&mut bytes, 1, &method);
    content_frames(&mut bytes, 1, PROPS_EMPTY, &body, 131_072);
    script.bytes(&bytes);
    assert_eq!(bodies(&script.publish())[0].len(), 10_000);
}

#[test]
fn a_body_beyond_the_maximum_is_406() {
    let config = SessionConfig { message_bytes_max: 1000, ..SessionConfig::default() };
    let mut script = Script::open_with(config);
    script.open_channel(1);
    let mut bytes = Vec::new();
    frame::encode_method(&mut bytes, 1, &basic::Publish::default());
    let header = ContentHeader { class_id: 60, body_size: 1 << 31, props: PROPS_EMPTY };
    encode(&mut bytes, FrameKind::Header, 1, |out| header.encode(out));
    script.bytes(&bytes);
    let text = "PRECONDITION_FAILED - message size 2147483648 is larger than configured max size 1000";
    assert_eq!(script.closed(), (1, 406, text.into(), (60, 40)));
    script.call();
    script.bytes(b"\x03\0\x01\0\0\0\x01x\xce");
    assert_eq!(script.frames(), []);
}

#[test]
fn bodies_under_assembly_are_bounded_per_connection() {
    let config = SessionConfig { message_bytes_max: 1000, ..SessionConfig::default() };
    let mut script = Script::open_with(config);
    for number in 1..=3 {
        script.open_channel(number);
        let mut bytes = Vec::new();
        frame::encode_method(&mut bytes, number, &basic::Publish::default());
        content_frames(&mut bytes, number, PROPS_EMPTY, &[0; 900], 400);
        // Without the last frame of the body.
        bytes.truncate(bytes.len() - (116 + 8));
        script.bytes(&bytes);
    }
    assert_eq!(script.closed().1, 506);
}

#[test]
fn a_foreign_user_id_is_406() {
    let mut script = Script::channel();
    let foreign = props(|p| p.user_id = ShortStr::new("root"));
    let own = props(|p| p.user_id = ShortStr::new("guest"));
    script.bytes(&publish_frames(1, "k", &own, b"x"));
    script.publish();
    script.bytes(&publish_frames(1, "k", &foreign, b"x"));
    let (1, 406, text, (60, 40)) = script.closed() else { panic!() };
    assert!(text.contains("user_id property set to 'root' but authenticated user was 'guest'"));
}

#[test]
fn confirms_are_numbered_and_coalesced() {
    let mut script = Script::channel();
    script.bytes(&publish_frames(1, "k", PROPS_EMPTY, b"x"));
    script.method(1, Method::ConfirmSelect(confirm::Select::default()));
    assert_eq!(script.replies(), ["1 ConfirmSelectOk(SelectOk)"]);
    assert_eq!(script.publish().confirm, None);
    let three = publish_frames(1, "k", PROPS_EMPTY, b"x").repeat(3);
    script.bytes(&three);
    script.bytes(&three);
    assert_eq!((script.publish().confirm, script.publish().confirm), (Some(3), Some(6)));
    let channel = ChannelId(1);
    script.event(Event::Accepted { channel, first: 1, last: 3, lsn: None });
    script.event(Event::Accepted { channel, first: 4, last: 5, lsn: Some(Lsn(2)) });
    script.event(Event::Rejected { channel, first: 6, last: 6 });
    assert_eq!(script.frames(), []);
    script.flush();
    assert_eq!(script.replies(), ["1 BasicAck(Ack { delivery_tag: 3, multiple: true })"]);
    assert_eq!(script.session.waits_for(), Some(Lsn(2)));
    script.durable(2);
    assert_eq!(
        script.replies(),
        [
            "1 BasicAck(Ack { delivery_tag: 5, multiple: true })",
            "1 BasicNack(Nack { delivery_tag: 6, multiple: false, requeue: false })"
        ]
    );
    assert_eq!(script.session.waits_for(), None);
}

#[test]
fn returns_come_before_acks() {
    let mut script = Script::channel();
    script.method(1, Method::ConfirmSelect(confirm::Select::default()));
    script.frames();
    let mut bytes = Vec::new();
    let publish = basic::Publish { exchange: "x", mandatory: true, ..Default::default() };
    frame::encode_method(&mut bytes, 1, &publish);
    content_frames(&mut bytes, 1, PROPS_EMPTY, b"back", 4096);
    script.bytes(&bytes);
    let publish = script.publish();
    assert!(publish.mandatory);
    let (channel, batch) = (ChannelId(1), publish.batch.unwrap());
    script.event(Event::Returned { channel, route: publish.route, batch, from: 0, to: 1 });
    script.event(Event::Accepted { channel, first: 1, last: 1, lsn: None });
    script.flush();
    let frames = script.frames();
    assert!(matches!(
        decode(&frames[0].payload),
        Method::BasicReturn(r) if r.reply_code == 312 && r.reply_text == Short(b"NO_ROUTE")
    ));
    assert_eq!(frames[2].payload, b"back");
    assert!(matches!(decode(&frames[3].payload), Method::BasicAck(_)));
}

#[test]
fn direct_replies_name_the_channels_own_address() {
    let mut script = Script::channel();
    let request = props(|p| p.reply_to = ShortStr::new("amq.rabbitmq.reply-to"));
    // Consume without waiting for the answer, then publish: the publish waits.
    let consume = basic::Consume {
        queue: "amq.rabbitmq.reply-to",
        consumer_tag: "r",
        no_ack: true,
        no_wait: true,
        ..Default::default()
    };
    let mut bytes = Vec::new();
    Method::BasicConsume(consume).encode_frame(&mut bytes, 1);
    bytes.extend_from_slice(&publish_frames(1, "k", &request, b"ask"));
    script.bytes(&bytes);
    let (_, token, Call::Consume(_)) = script.call() else { panic!() };
    assert!(script.commands.is_empty());
    let reply_to = Some("amq.rabbitmq.reply-to.token".into());
    let (consumer, tag) = (ConsumerId(9), "r".into());
    script.answer(1, token, Reply::Consuming { consumer, tag, no_ack: true, reply_to });
    let publish = script.publish();
    let batch = publish.batch.as_ref().unwrap();
    assert_eq!(Props(batch.props(0)).reply_to(), Some(&b"amq.rabbitmq.reply-to.token"[..]));
    assert_eq!(bodies(&publish), ["ask"]);

    let mut script = Script::channel();
    script.bytes(&publish_frames(1, "k", &request, b"ask"));
    assert_eq!(script.closed().2, "PRECONDITION_FAILED - fast reply consumer does not exist");
}

#[test]
fn s1_9_transactions_keep_back_until_commit() {
    let mut script = Script::channel();
    script.consume(false);
    script.event(Event::Deliver(delivery(0, &[&b"x"[..]; 4])));
    script.method(1, Method::TxSelect(tx::Select {}));
    let publish = publish_frames(1, "k", PROPS_EMPTY, b"p");
    script.bytes(&publish);
    script.bytes(&publish);
    script.method(1, Method::BasicAck(basic::Ack { delivery_tag: 2, multiple: true }));
    assert!(script.commands.is_empty());
    // Rolled back, the messages are unsettled again.
    script.method(1, Method::TxRollback(tx::Rollback {}));
    script.bytes(&publish);
    script.method(1, Method::BasicAck(basic::Ack { delivery_tag: 1, multiple: false }));
    script.frames();
    script.method(1, Method::TxCommit(tx::Commit {}));
    let (1, token, Call::Commit(commands)) = script.call() else { panic!() };
    assert_eq!(commands.len(), 2);
    assert!(matches!(&commands[0], Command::Publish(p) if bodies(p) == ["p"]));
    assert!(matches!(&commands[1], Command::Settle(s) if (s.first.0, s.count) == (0, 1)));
    script.answer(1, token, Reply::Done);
    assert_eq!(script.replies(), ["1 TxCommitOk(CommitOk)"]);
    script.method(1, Method::ConfirmSelect(confirm::Select::default()));
    assert_eq!(script.closed().2, "PRECONDITION_FAILED - cannot switch from tx to confirm mode");
}

#[test]
fn modes_exclude_each_other() {
    let mut script = Script::channel();
    script.method(1, Method::ConfirmSelect(confirm::Select::default()));
    script.frames();
    script.method(1, Method::TxSelect(tx::Select {}));
    assert_eq!(script.closed().2, "PRECONDITION_FAILED - cannot switch from confirm to tx mode");
    let mut script = Script::channel();
    script.method(1, Method::TxCommit(tx::Commit {}));
    assert_eq!(script.closed().2, "PRECONDITION_FAILED - channel is not transactional");
}

/// Messages as a core would see them: key, properties, body.
fn seen(script: &mut Script) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    while !script.commands.is_empty() {
        let publish = script.publish();
        let batch = publish.batch.as_ref().unwrap();
        for i in publish.from..publish.to {
            let key = publish.route.key_lossy().into_owned();
            all.push((key, batch.props(i).to_vec(), batch.body(i).to_vec()));
        }
    }
    all
}

#[test]
fn cut_anywhere_the_same_messages_arrive() {
    let persistent = props(|p| p.delivery_mode = Some(2));
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for (key, props, body) in [
        ("k", PROPS_EMPTY, &b"one"[..]),
        ("k", PROPS_EMPTY, b"two"),
        ("k", &persistent, b"three"),
        ("l", &persistent, b""),
        ("l", &persistent, b""),
        ("k", PROPS_EMPTY, b"six"),
    ] {
        bytes.extend_from_slice(&publish_frames(1, key, props, body));
        expected.push((key.to_owned(), props.to_vec(), body.to_vec()));
    }
    for cut in 0..bytes.len() {
        let mut script = Script::channel();
        script.bytes(&bytes[..cut]);
        script.bytes(&bytes[cut..]);
        assert_eq!(seen(&mut script), expected, "cut at {cut}");
    }
    let mut script = Script::channel();
    bytes.iter().for_each(|byte| script.bytes(&[*byte]));
    assert_eq!(seen(&mut script), expected);
}

proptest! {
    #[test]
    fn any_messages_in_any_pieces_arrive(
        messages in prop::collection::vec(
            (prop::sample::select(vec!["a", "b"]), any::<bool>(), 0usize..40, any::<u8>()),
            1..30,
        ),
        frame_max in 9u32..60,
        pieces in prop::collection::vec(1usize..200, 1..20),
    ) {
        let persistent = props(|p| p.delivery_mode = Some(2));
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for (key, durable, len, fill) in messages {
            let props = if durable { &persistent[..] } else { PROPS_EMPTY };
            let body = vec![fill; len];
            let publish = basic::Publish { routing_key: Short(key.as_bytes()), ..Default::default() };
            frame::encode_method(&mut bytes, 1, &publish);
            content_frames(&mut bytes, 1, props, &body, frame_max);
            expected.push((key.to_owned(), props.to_vec(), body));
        }
        let mut script = Script::channel();
        let (mut rest, mut pieces) = (&bytes[..], pieces.into_iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(pieces.next().unwrap().min(rest.len()));
            script.bytes(piece);
            rest = after;
        }
        prop_assert_eq!(seen(&mut script), expected);
    }
}
