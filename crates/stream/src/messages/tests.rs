//! There and back.

use proptest::prelude::*;
use waypost_model::Route;
use waypost_model::props::{PropsOwned, ShortStr};
use waypost_model::table::{Table, Value};

use super::*;
use crate::batch::Batch;
use crate::records::{Record, Records};
use crate::writer::BatchWriter;

fn record_of(route: &Route, stream: &str, props: &PropsOwned, body: &[u8]) -> Record {
    let mut writer = BatchWriter::new(5_000, 0);
    assert!(push(&mut writer, (route, stream), &props.to_bytes(), body, &mut Scratch::default(), usize::MAX));
    let bytes = writer.finish().unwrap();
    let (batch, _) = Batch::split(&bytes).unwrap();
    assert_eq!(batch.check(), Ok(()));
    Records::of(&batch).unwrap().next().unwrap().unwrap()
}

fn there_and_back(route: &Route, props: &PropsOwned, body: &[u8]) {
    let record = record_of(route, "s", props, body);
    let (route_back, props_back, body_back) = to_message(record, "s", Told::Nothing);
    assert_eq!((&route_back, &body_back[..]), (route, body));
    assert_eq!(props_back.to_bytes(), props.to_bytes(), "{props:?} {props_back:?}");
}

fn text(t: &str) -> Value {
    Value::LongStr(t.as_bytes().to_vec())
}

fn header<'r>(record: &'r Record, name: &str) -> Option<&'r [u8]> {
    record.headers.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.as_deref())
}

#[test]
fn headers_keep_their_names_and_are_readable() {
    let table = Table::new()
        .with("kind", text("order"))
        .with("count", Value::I32(-7))
        .with("amqp.odd", text("x"))
        .with("none", Value::Void)
        .with("many", Value::Array(vec![text("a"), text("b")]));
    let props = PropsOwned {
        headers: Some(table),
        content_type: ShortStr::new("text/plain"),
        priority: Some(3),
        ..PropsOwned::default()
    };
    let record = record_of(&Route::new("x", "k.1"), "s", &props, b"body");
    assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"k.1"[..]), Some(&b"body"[..])));
    for (name, value) in [
        ("amqp.exchange", "x"),
        ("amqp.content-type", "text/plain"),
        ("amqp.priority", "3"),
        ("kind", "order"),
        ("count", "-7"),
        ("amqp.type.count", "I"),
        ("amqp.header.amqp.odd", "x"),
    ] {
        assert_eq!(header(&record, name), Some(value.as_bytes()), "{name}");
    }
    let many: Vec<_> = record.headers.iter().filter(|(n, _)| n == "many").map(|(_, v)| v.clone().unwrap()).collect();
    assert_eq!(many, [b"a", b"b"]);
    there_and_back(&Route::new("x", "k.1"), &props, b"body");
}

#[test]
fn the_key_is_the_routing_key_unless_it_names_the_stream() {
    for (exchange, key, expected) in
        [("", "s", None), ("", "t", Some("t")), ("x", "", None), ("x", "s", Some("s")), ("x", "k", Some("k"))]
    {
        let route = Route::new(exchange, key);
        assert_eq!(key_of(&route, "s"), expected.map(str::as_bytes), "{exchange} {key}");
        there_and_back(&route, &PropsOwned::default(), b"");
    }
}

#[test]
fn what_a_table_may_be_comes_back() {
    let twice: Table = [("a", text("1")), ("a", Value::I8(2))].into_iter().collect();
    let nan = Table::new().with("nan", Value::F64(f64::from_bits(0x7ff8_0000_0000_0001)));
    let odd = Table::new()
        .with("one", Value::Array(vec![text("a")]))
        .with("nothing", Value::Array(Vec::new()))
        .with("mixed", Value::Array(vec![text("a"), Value::I64(1)]))
        .with("inner", Value::Table(Table::new().with("x", Value::Bool(true))))
        .with("d", Value::Decimal { scale: 3, value: -12_345 })
        .with("f", Value::F32(-0.0))
        .with("inf", Value::F64(f64::NEG_INFINITY))
        .with("bytes", Value::Bytes(vec![0, 255]))
        .with("", text("no name"))
        .with("amqp.type.d", text("q"))
        .with("amqp.exchange", text("not it"));
    for table in [Table::new(), twice, nan, odd] {
        there_and_back(&Route::new("x", "k"), &PropsOwned { headers: Some(table), ..PropsOwned::default() }, b"b");
    }
}

#[test]
fn a_tombstone_crosses_both_ways() {
    let tombstone = Table::new().with("x-stream-tombstone", Value::Bool(true));
    let props = PropsOwned { headers: Some(tombstone), ..PropsOwned::default() };
    assert_eq!(record_of(&Route::new("x", "k"), "s", &props, b"").value, None);
    there_and_back(&Route::new("x", "k"), &props, b"");
    // With a body it is a header like any other.
    assert_eq!(record_of(&Route::new("x", "k"), "s", &props, b"b").value.as_deref(), Some(&b"b"[..]));
    there_and_back(&Route::new("x", "k"), &props, b"b");
}

fn produced(key: Option<Vec<u8>>, headers: Vec<(String, Option<Vec<u8>>)>) -> (Route, PropsOwned, Vec<u8>) {
    let record = Record { offset: 42, timestamp: 1_700_000_000_999, key, value: Some(b"v".to_vec()), headers };
    to_message(record, "topic", Told::Place { partition: 3 })
}

#[test]
fn what_kafka_s_producers_write_becomes_a_message() {
    let (route, props, body) = produced(
        Some(b"key".to_vec()),
        vec![
            ("h".into(), Some(b"1".to_vec())),
            ("h".into(), None),
            ("amqp.content-type".into(), Some(b"application/json".to_vec())),
            ("amqp.priority".into(), Some(b"high".to_vec())),
        ],
    );
    assert_eq!((route, &body[..]), (Route::new("", "key"), &b"v"[..]));
    assert_eq!((props.timestamp, props.delivery_mode), (Some(1_700_000_000), Some(2)));
    assert_eq!(props.content_type, ShortStr::new("application/json"));
    let headers = props.headers.unwrap();
    assert_eq!(headers.get("h"), Some(&Value::Array(vec![text("1"), Value::Void])));
    assert_eq!(headers.get("amqp.priority"), Some(&text("high")));
    assert_eq!(
        (headers.get("x-stream-offset"), headers.get("x-stream-partition")),
        (Some(&Value::I64(42)), Some(&Value::I32(3)))
    );
    assert_eq!(produced(None, Vec::new()).0, Route::new("", "topic"));
}

#[test]
fn what_does_not_fit_a_message_is_told_otherwise() {
    let (route, props, _) = produced(Some(vec![7; 300]), vec![("n".repeat(300), Some(b"v".to_vec()))]);
    let headers = props.headers.unwrap();
    assert_eq!(route, Route::new("", ""));
    assert_eq!(headers.get("x-record-key"), Some(&Value::Bytes(vec![7; 300])));
    assert!(matches!(headers.get("x-record-headers"), Some(Value::Array(all)) if all.len() == 1));
    let (_, props, _) = produced(None, vec![("big".into(), Some(vec![1; 200_000]))]);
    let headers = props.headers.unwrap();
    assert_eq!(headers.get("x-record-headers-cut"), Some(&Value::Bool(true)));
    assert_eq!(headers.get("x-stream-offset"), Some(&Value::I64(42)));
    assert!(headers.get("big").is_none());
}

#[test]
fn what_is_no_text_is_not_called_text() {
    let blob = vec![0xff, 0, 0xfe];
    let headers = vec![("h".into(), Some(blob.clone())), ("t".into(), Some("\u{e4}".into()))];
    let (route, props, _) = produced(Some(blob.clone()), headers);
    let headers = props.headers.unwrap();
    assert_eq!(route, Route::new("", ""));
    assert_eq!(headers.get("x-record-key"), Some(&Value::Bytes(blob.clone())));
    assert_eq!(headers.get("h"), Some(&Value::Bytes(blob.clone())));
    assert_eq!(headers.get("t"), Some(&text("\u{e4}")));
    // What was a message is the same again, whatever its sender called it.
    let headers = vec![("amqp.exchange".into(), Some(b"x".to_vec())), ("h".into(), Some(blob.clone()))];
    let (route, props, _) = produced(Some(blob.clone()), headers);
    assert_eq!(&*route.routing_key, &blob[..]);
    assert_eq!(props.headers.unwrap().get("h"), Some(&Value::LongStr(blob)));
}

#[test]
fn a_batch_does_not_grow_past_its_limit() {
    let mut writer = BatchWriter::new(0, 0);
    let (route, mut scratch) = (Route::new("x", "k"), Scratch::default());
    let mut taken = 0;
    while push(&mut writer, (&route, "s"), &[0, 0], &[b'b'; 100], &mut scratch, 2_000) {
        taken += 1;
    }
    assert!(taken > 5 && writer.bytes() <= 2_000);
    assert!(!push(&mut BatchWriter::new(0, 0), (&route, "s"), &[0, 0], &[b'b'; 2_000], &mut scratch, 2_000));
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Void),
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i64>().prop_map(Value::I64),
        any::<i64>().prop_map(Value::LongLong),
        any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
        any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
        (any::<u8>(), any::<i32>()).prop_map(|(scale, value)| Value::Decimal { scale, value }),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::LongStr),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bytes),
        any::<u64>().prop_map(Value::Timestamp),
    ];
    leaf.prop_recursive(2, 10, 4, |inner| {
        let names = prop::collection::vec(("[a-c]{0,2}", inner.clone()), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::Array),
            names.prop_map(|all| Value::Table(all.into_iter().collect())),
        ]
    })
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-d]{0,2}", "amqp\\.(header\\.|type\\.|)[a-d]{0,2}", Just("amqp.table".to_owned()), "\\PC{0,8}"]
}

fn any_short() -> impl Strategy<Value = Option<ShortStr>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..=255).prop_map(|b| ShortStr::new(b).unwrap()))
}

proptest! {
    #[test]
    fn every_message_comes_back_as_it_was(
        headers in prop::option::of(prop::collection::vec((any_name(), any_value()), 0..6)),
        (message_id, type_, reply_to) in (any_short(), any_short(), any_short()),
        (delivery_mode, priority, timestamp) in
            (prop::option::of(any::<u8>()), prop::option::of(any::<u8>()), prop::option::of(any::<u64>())),
        exchange in "[a-z]{0,3}",
        key in "[a-z]{1,3}",
        body in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let headers = headers.map(|all| all.into_iter().collect::<Table>());
        let props =
            PropsOwned { headers, message_id, type_, reply_to, delivery_mode, priority, timestamp, ..PropsOwned::default() };
        there_and_back(&Route::new(&exchange, key), &props, &body);
    }

    #[test]
    fn no_record_is_too_odd(
        headers in prop::collection::vec((any_name(), prop::option::of(prop::collection::vec(any::<u8>(), 0..30))), 0..8),
        key in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        timestamp in any::<i64>(),
    ) {
        let record = Record { offset: 1, timestamp, key, value: None, headers };
        let (_, props, _) = to_message(record, "s", Told::Offset);
        PropsOwned::decode(&props.to_bytes()).unwrap();
    }
}
