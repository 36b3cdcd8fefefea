use proptest::prelude::*;
use waypost_model::table::{Table, TableError};

use super::*;
use crate::codec::field::{Long, Short};
use crate::codec::frame::Frame;

fn round_trip(method: Method<'_>) {
    let mut bytes = Vec::new();
    method.encode_frame(&mut bytes, 3);
    let frame = Frame::parse(&bytes, 4096).unwrap().unwrap();
    assert_eq!(frame.wire_len(), bytes.len());
    let back = Method::decode(frame.payload).unwrap();
    assert_eq!(back, method);
    assert_eq!(back.id(), method.id());
    for cut in 0..frame.payload.len() {
        let cut = Method::decode(&frame.payload[..cut]);
        let truncated = [DecodeError::Truncated, DecodeError::Table(TableError::Truncated)];
        assert!(truncated.map(Err).contains(&cut), "{method:?}: {cut:?}");
    }
    let mut longer = frame.payload.to_vec();
    longer.push(0);
    assert_eq!(Method::decode(&longer), Err(DecodeError::Trailing(1)));
}

#[test]
fn s4_2_4_methods_come_back_as_they_went() {
    let arguments = Table::new().with("x-max-length", 5);
    round_trip(Method::ConnectionStart(connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties: arguments.clone(),
        mechanisms: Long(b"PLAIN AMQPLAIN"),
        locales: Long(b"en_US"),
    }));
    round_trip(Method::ConnectionTuneOk(connection::TuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 60 }));
    round_trip(Method::ConnectionClose(connection::Close {
        reply_code: 320,
        reply_text: Short(b"bye"),
        class_id: 1,
        method_id: 2,
    }));
    round_trip(Method::QueueDeclare(queue::Declare {
        queue: "q",
        durable: true,
        auto_delete: true,
        arguments: arguments.clone(),
        ..Default::default()
    }));
    round_trip(Method::ExchangeDeclare(exchange::Declare {
        exchange: "x",
        r#type: "topic",
        no_wait: true,
        internal: true,
        arguments,
        ..Default::default()
    }));
    round_trip(Method::BasicPublish(basic::Publish {
        exchange: "x",
        routing_key: Short(b"\xff"),
        mandatory: true,
        ..Default::default()
    }));
    round_trip(Method::BasicNack(basic::Nack { delivery_tag: 7, multiple: false, requeue: true }));
    round_trip(Method::TxCommit(tx::Commit {}));
}

#[test]
fn s4_2_5_2_bits_share_an_octet_lowest_first() {
    let declare = queue::Declare { durable: true, no_wait: true, ..Default::default() };
    let mut bytes = Vec::new();
    encode_args(&mut bytes, &declare);
    assert_eq!(bytes, b"\0\x32\0\x0a\0\0\0\x12\0\0\0\0");
}

#[test]
fn unknown_methods_and_bad_names_are_told_apart() {
    let unknown = |bytes| matches!(Method::decode(bytes), Err(DecodeError::UnknownMethod { .. }));
    assert!(unknown(b"\0\x0a\0\x63"));
    assert!(unknown(b"\xff\xff\0\x0a"));
    let bad_name = b"\0\x3c\0\x28\0\0\x01\xff\0\0";
    assert_eq!(Method::decode(bad_name), Err(DecodeError::NotUtf8));
}

/// Every id of the specification and of RabbitMQ's extensions is known.
#[test]
fn all_methods_are_known() {
    let known: &[(u16, &[u16])] = &[
        (10, &[10, 11, 20, 21, 30, 31, 40, 41, 50, 51, 60, 61, 70, 71]),
        (20, &[10, 11, 20, 21, 40, 41]),
        (40, &[10, 11, 20, 21, 30, 31, 40, 51]),
        (50, &[10, 11, 20, 21, 30, 31, 40, 41, 50, 51]),
        (60, &[10, 11, 20, 21, 30, 31, 40, 50, 60, 70, 71, 72, 80, 90, 100, 110, 111, 120]),
        (85, &[10, 11]),
        (90, &[10, 11, 20, 21, 30, 31]),
    ];
    for &(class_id, methods) in known {
        for method_id in 0..=200u16 {
            let mut payload = class_id.to_be_bytes().to_vec();
            payload.extend_from_slice(&method_id.to_be_bytes());
            // Zeros are valid arguments of every method; too many of them are trailing.
            payload.extend_from_slice(&[0; 64]);
            let result = Method::decode(&payload);
            let unknown = matches!(result, Err(DecodeError::UnknownMethod { .. }));
            assert_eq!(!unknown, methods.contains(&method_id), "{class_id}.{method_id}: {result:?}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_decode_or_not_but_never_panic(
        class in prop::sample::select(vec![10u8, 20, 40, 50, 60, 85, 90]),
        method in 0u8..130,
        args in any::<Vec<u8>>(),
    ) {
        let mut payload = vec![0, class, 0, method];
        payload.extend_from_slice(&args);
        if let Ok(method) = Method::decode(&payload) {
            let mut bytes = Vec::new();
            method.encode_frame(&mut bytes, 1);
            let frame = Frame::parse(&bytes, u32::MAX).unwrap().unwrap();
            let again = Method::decode(frame.payload).unwrap();
            let mut twice = Vec::new();
            again.encode_frame(&mut twice, 1);
            prop_assert_eq!(bytes, twice);
        }
    }
}
