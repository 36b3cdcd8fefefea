use super::*;

fn state(script: &Script) -> SessionState {
    script.session.state()
}

#[test]
fn s4_2_2_a_foreign_protocol_is_answered_with_ours() {
    for foreign in [&b"GET / HTTP/1.1\r\n"[..], b"AMQP\x03\x01\0\0", b"AMQP\0\0\x09\x02", b"\x16"] {
        let mut script = Script::new();
        script.bytes(foreign);
        assert_eq!(script.sent, PROTOCOL_HEADER);
        assert_eq!(state(&script), SessionState::Closed);
    }
}

#[test]
fn s1_4_2_1_start_tells_what_the_server_can_do() {
    let mut script = Script::new();
    script.bytes(&PROTOCOL_HEADER[..5]);
    assert!(script.sent.is_empty());
    script.bytes(&PROTOCOL_HEADER[5..]);
    let (_, payload) = script.methods().pop().unwrap();
    let Method::ConnectionStart(start) = decode(&payload) else { panic!() };
    assert_eq!((start.version_major, start.version_minor), (0, 9));
    assert_eq!(start.mechanisms.0, b"PLAIN AMQPLAIN");
    let properties = start.server_properties;
    assert_eq!(properties.get("product").unwrap().as_str(), Some("Waypost"));
    assert!(properties.get("version").unwrap().as_str().unwrap().starts_with("4."));
    let capabilities = properties.get("capabilities").unwrap().as_table().unwrap();
    assert_eq!(capabilities.get("basic.nack").unwrap().as_bool(), Some(true));
    assert_eq!(capabilities.len(), 9);
    assert_eq!(state(&script), SessionState::Opening);
}

#[test]
fn plain_and_amqplain_name_user_and_password() {
    let mut table = Table::new().with("LOGIN", "ada").with("PASSWORD", "s\0t").to_bytes();
    table.drain(..4);
    for (mechanism, response) in [("PLAIN", &b"ignored\0ada\0s\0t"[..]), ("AMQPLAIN", &table)] {
        let mut script = Script::new();
        script.bytes(&PROTOCOL_HEADER);
        script.login(mechanism, response, Table::new());
        let (0, _, Call::Authenticate { mechanism: m, username, password }) = script.call() else { panic!() };
        assert_eq!((&*m, &*username, &*password), (mechanism, "ada", &b"s\0t"[..]));
        assert_eq!(script.session.user(), "ada");
    }
}

#[test]
fn external_takes_the_name_from_the_certificate() {
    let peer = Peer { certificate_user: Some("cert".into()), ..Peer::default() };
    let mut script = Script::with(SessionConfig::default(), peer);
    script.bytes(&PROTOCOL_HEADER);
    script.login("EXTERNAL", b"", Table::new());
    assert!(matches!(script.call(), (0, _, Call::Authenticate { username, .. }) if username.is_empty()));
    assert_eq!(script.session.user(), "cert");
    // Without one it is not offered.
    let mut script = Script::new();
    script.bytes(&PROTOCOL_HEADER);
    script.frames();
    script.login("EXTERNAL", b"", Table::new());
    assert_eq!(script.closed().1, 503);
}

#[test]
fn malformed_credentials_are_502() {
    for (mechanism, response) in [("PLAIN", &b"guest"[..]), ("AMQPLAIN", b"\x05LOG")] {
        let mut script = Script::new();
        script.bytes(&PROTOCOL_HEADER);
        script.frames();
        script.login(mechanism, response, Table::new());
        assert_eq!(script.closed().1, 502);
    }
}

#[test]
fn a_refused_login_is_told_only_to_those_who_asked_for_it() {
    for told in [true, false] {
        let mut script = Script::new();
        script.bytes(&PROTOCOL_HEADER);
        script.frames();
        let capabilities = Table::new().with("authentication_failure_close", told);
        script.login("PLAIN", b"\0guest\0wrong", capabilities);
        let (_, token, _) = script.call();
        script.refuse(0, token, Refusal::access_refused("bad password"));
        if told {
            let (channel, code, text, _) = script.closed();
            assert_eq!((channel, code), (0, 403));
            assert_eq!(
                text,
                "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. \
                 For details see the broker logfile."
            );
        } else {
            assert_eq!(script.frames(), []);
            assert_eq!(state(&script), SessionState::Closed);
        }
    }
}

#[test]
fn s1_4_2_6_limits_may_be_lowered_not_raised() {
    let cases = [
        (2047, 131_072, None),
        (5, 4096, None),
        (0, 131_072, Some("negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)")),
        (3000, 131_072, Some("negotiated channel_max = 3000 is higher than the maximum allowed value (2047)")),
        (9, 4095, Some("negotiated frame_max = 4095 is lower than the minimum allowed value (4096)")),
        (9, 0, Some("negotiated frame_max = 0 (no limit) is higher than the maximum allowed value (131072)")),
    ];
    for (channel_max, frame_max, refused) in cases {
        let mut script = Script::new();
        script.bytes(&PROTOCOL_HEADER);
        script.login("PLAIN", b"\0guest\0guest", Table::new());
        script.done();
        script.frames();
        let tune_ok = connection::TuneOk { channel_max, frame_max, heartbeat: 0 };
        script.method(0, Method::ConnectionTuneOk(tune_ok));
        match refused {
            Some(text) => {
                let closed = script.closed();
                assert_eq!((closed.1, closed.3), (530, (10, 31)));
                assert_eq!(closed.2, format!("NOT_ALLOWED - {text}"));
            }
            None => assert_eq!(script.frames(), []),
        }
    }
}

#[test]
fn a_vhost_that_is_not_there_is_530() {
    let mut script = Script::new();
    script.bytes(&PROTOCOL_HEADER);
    script.login("PLAIN", b"\0guest\0guest", Table::new());
    script.done();
    let tune_ok = connection::TuneOk { channel_max: 9, frame_max: 4096, heartbeat: 0 };
    script.method(0, Method::ConnectionTuneOk(tune_ok));
    let open = connection::Open { virtual_host: "nope", ..Default::default() };
    script.method(0, Method::ConnectionOpen(open));
    script.frames();
    let (0, token, Call::OpenVhost { vhost, client_properties }) = script.call() else { panic!() };
    assert_eq!(&*vhost, "nope");
    assert!(client_properties.get("capabilities").is_some());
    script.refuse(0, token, Refusal::not_allowed("vhost nope not found"));
    assert_eq!(script.closed(), (0, 530, "NOT_ALLOWED - vhost nope not found".into(), (10, 40)));
    script.method(0, Method::ConnectionCloseOk(connection::CloseOk {}));
    assert_eq!(state(&script), SessionState::Closed);
}

#[test]
fn methods_out_of_order_are_503() {
    let mut script = Script::new();
    script.bytes(&PROTOCOL_HEADER);
    script.login("PLAIN", b"\0guest\0guest", Table::new());
    script.done();
    script.frames();
    script.method(0, Method::ConnectionOpen(connection::Open::default()));
    assert_eq!(script.closed().1, 503);
    let mut script = Script::open();
    script.method(0, Method::ConnectionTuneOk(connection::TuneOk::default()));
    assert_eq!(script.closed().1, 503);
}

#[test]
fn a_peer_that_pipelines_its_whole_handshake_is_served() {
    let mut script = Script::new();
    script.bytes(&PROTOCOL_HEADER);
    let mut bytes = Vec::new();
    let start_ok = connection::StartOk { mechanism: "PLAIN", response: Long(b"\0guest\0guest"), ..Default::default() };
    let tune_ok = connection::TuneOk { channel_max: 9, frame_max: 4096, heartbeat: 0 };
    Method::ConnectionStartOk(start_ok).encode_frame(&mut bytes, 0);
    Method::ConnectionTuneOk(tune_ok).encode_frame(&mut bytes, 0);
    Method::ConnectionOpen(connection::Open::default()).encode_frame(&mut bytes, 0);
    Method::ChannelOpen(channel::Open::default()).encode_frame(&mut bytes, 1);
    bytes.extend_from_slice(&publish_frames(1, "k", PROPS_EMPTY, b"early"));
    script.bytes(&bytes);
    script.done();
    script.done();
    let (1, _, Call::OpenChannel) = script.call() else { panic!() };
    assert_eq!(bodies(&script.publish()), ["early"]);
}

#[test]
fn s4_2_7_heartbeats_go_out_and_silence_ends_the_connection() {
    let mut script = Script::new();
    script.bytes(&PROTOCOL_HEADER);
    script.login("PLAIN", b"\0guest\0guest", Table::new());
    script.done();
    let tune_ok = connection::TuneOk { channel_max: 9, frame_max: 4096, heartbeat: 10 };
    script.method(0, Method::ConnectionTuneOk(tune_ok));
    script.method(0, Method::ConnectionOpen(connection::Open::default()));
    script.done();
    script.frames();
    assert_eq!(script.session.deadline(), Some(Millis(5_000)));
    script.at(5_000);
    let beat = Sent { kind: FrameKind::Heartbeat, channel: 0, payload: Vec::new() };
    assert_eq!(script.frames(), [beat]);
    script.at(15_000);
    script.bytes(&HEARTBEAT_FRAME);
    script.at(20_001);
    assert_eq!(state(&script), SessionState::Open);
    script.at(35_000);
    assert_eq!(state(&script), SessionState::Closed);
}

#[test]
fn update_secret_and_blocked() {
    let mut script = Script::open();
    let update = connection::UpdateSecret { new_secret: Long(b"fresh"), reason: Short(b"old") };
    script.method(0, Method::ConnectionUpdateSecret(update));
    let (0, token, Call::UpdateSecret { secret }) = script.call() else { panic!() };
    assert_eq!(&*secret, b"fresh");
    script.answer(0, token, Reply::Done);
    script.event(Event::Blocked { reason: "low on memory".into() });
    script.event(Event::Unblocked);
    assert_eq!(
        script.replies(),
        [
            "0 ConnectionUpdateSecretOk(UpdateSecretOk)",
            "0 ConnectionBlocked(Blocked { reason: \"low on memory\" })",
            "0 ConnectionUnblocked(Unblocked)",
        ]
    );
}
