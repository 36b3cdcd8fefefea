use super::*;

const CLOSE_OK: [u8; 12] = [1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 51, 0xCE];

fn closes_with(bytes: &[u8], code: u16) -> Script {
    let mut script = Script::channel();
    script.bytes(bytes);
    let closed = script.closed();
    assert_eq!((closed.0, closed.1), (0, code), "{}", closed.2);
    assert_eq!(script.session.state(), SessionState::Open);
    script
}

#[test]
fn s4_2_3_wrong_frame_end_closes_with_501() {
    closes_with(b"\x01\0\x01\0\0\0\x04\0\x5a\0\x0a\xff", 501);
}

#[test]
fn s4_2_3_unknown_frame_type_closes_with_501() {
    closes_with(b"\x04", 501);
}

#[test]
fn s2_3_7_a_frame_beyond_the_negotiated_size_closes_with_501() {
    closes_with(b"\x03\0\x01\0\x02\0\0", 501);
}

#[test]
fn s4_2_3_after_a_broken_frame_only_the_answer_is_listened_for() {
    for cut in 0..=CLOSE_OK.len() {
        let mut script = closes_with(b"\x04", 501);
        script.bytes(&[b'x'; 30]);
        script.bytes(&CLOSE_OK[..cut]);
        script.bytes(&CLOSE_OK[cut..]);
        assert_eq!(script.session.state(), SessionState::Closed, "{cut}");
    }
    let mut script = closes_with(b"\x04", 501);
    let until = script.session.deadline().unwrap();
    script.at(until.0);
    assert_eq!(script.session.state(), SessionState::Closed);
}

#[test]
fn s4_2_7_a_heartbeat_on_a_channel_closes_with_501() {
    closes_with(b"\x08\0\x01\0\0\0\0\xce", 501);
    closes_with(b"\x08\0\0\0\0\0\x01x\xce", 501);
}

#[test]
fn s4_2_6_content_where_none_is_due_closes_with_505() {
    closes_with(b"\x03\0\x01\0\0\0\x01x\xce", 505);
    closes_with(b"\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\0\0\0\xce", 505);
    closes_with(b"\x03\0\0\0\0\0\x01x\xce", 505);
    // A body frame that looks like an ack is still a body frame.
    closes_with(b"\x03\0\x01\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\0\x01\0\xce", 505);
}

#[test]
fn s4_2_6_a_publish_must_be_followed_by_its_content() {
    let whole = publish_frames(1, "k", PROPS_EMPTY, b"body");
    let method_len = Frame::parse(&whole, 4096).unwrap().unwrap().wire_len();
    let header_len = Frame::parse(&whole[method_len..], 4096).unwrap().unwrap().wire_len();
    let twice = [&whole[..method_len], &whole[..]].concat();
    let script = closes_with(&twice, 505);
    assert!(script.commands.is_empty());
    let body_first = [&whole[..method_len], &whole[method_len + header_len..]].concat();
    closes_with(&body_first, 505);
    let header_twice = [&whole[..method_len + header_len], &whole[method_len..]].concat();
    closes_with(&header_twice, 505);
    let mut foreign = whole.clone();
    foreign[method_len + 8] = 61;
    closes_with(&foreign, 505);
}

#[test]
fn s4_2_6_a_body_larger_than_announced_closes_with_501() {
    let mut bytes = publish_frames(1, "k", PROPS_EMPTY, b"body");
    let at = bytes.len() - 4 - 1 - 7 - 1 - 2 - 8;
    bytes[at + 7] = 3;
    closes_with(&bytes, 501);
}

#[test]
fn unknown_methods_are_540_and_malformed_ones_502() {
    let mut bytes = Vec::new();
    encode(&mut bytes, FrameKind::Method, 1, |out| out.extend_from_slice(b"\0\x3c\0\xc8"));
    closes_with(&bytes, 540);
    bytes.clear();
    encode(&mut bytes, FrameKind::Method, 1, |out| out.extend_from_slice(b"\0\x3c\0\x0a\0"));
    closes_with(&bytes, 502);
}

#[test]
fn s4_2_3_channels_must_be_open_and_channel_0_is_the_connections() {
    closes_with(&publish_frames(2, "k", PROPS_EMPTY, b""), 504);
    let mut bytes = Vec::new();
    Method::BasicQos(basic::Qos::default()).encode_frame(&mut bytes, 0);
    closes_with(&bytes, 504);
    bytes.clear();
    Method::ConnectionOpen(connection::Open::default()).encode_frame(&mut bytes, 1);
    closes_with(&bytes, 503);
    bytes.clear();
    Method::ChannelOpen(channel::Open::default()).encode_frame(&mut bytes, 1);
    closes_with(&bytes, 504);
}

#[test]
fn s1_4_2_9_after_our_close_everything_but_the_answer_is_discarded() {
    let mut script = closes_with(b"\x08\0\x01\0\0\0\0\xce", 501);
    script.bytes(&publish_frames(1, "k", PROPS_EMPTY, b"late"));
    script.event(Event::Deliver(delivery(0, &[b"late"])));
    assert!(script.commands.is_empty());
    assert_eq!(script.frames(), []);
    script.bytes(&CLOSE_OK);
    assert_eq!(script.session.state(), SessionState::Closed);
}

#[test]
fn s1_4_2_8_a_peers_close_is_answered_at_once() {
    let mut script = Script::channel();
    script.method(0, Method::ConnectionClose(connection::Close::default()));
    assert_eq!(script.replies(), ["0 ConnectionCloseOk(CloseOk)"]);
    assert_eq!(script.session.state(), SessionState::Closed);
    script.bytes(b"whatever comes then");
    assert_eq!(script.frames(), []);
}

#[test]
fn an_operators_close_is_told() {
    let mut script = Script::channel();
    let refusal = Refusal::new(waypost_model::RefusalKind::ConnectionForced, "x".repeat(400));
    script.event(Event::Close { refusal });
    let (channel, code, text, _) = script.closed();
    assert_eq!((channel, code, text.len()), (0, 320, 255));
}
