use proptest::prelude::*;

use super::*;

/// Any value; floats never NaN, so that equality is usable.
pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Void),
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<i64>().prop_map(Value::LongLong),
        (-1e9f32..1e9).prop_map(Value::F32),
        (-1e9f64..1e9).prop_map(Value::F64),
        (any::<u8>(), any::<i32>()).prop_map(|(scale, value)| Value::Decimal { scale, value }),
        any::<Vec<u8>>().prop_map(Value::LongStr),
        any::<Vec<u8>>().prop_map(Value::Bytes),
        any::<u64>().prop_map(Value::Timestamp),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::vec((any::<String>(), inner), 0..8).prop_map(|entries| Value::Table(short_keys(entries))),
        ]
    })
}

fn short_keys(entries: Vec<(String, Value)>) -> Table {
    entries.into_iter().map(|(k, v)| (k.chars().take(60).collect::<String>(), v)).collect()
}

pub(crate) fn any_table() -> impl Strategy<Value = Table> {
    prop::collection::vec((any::<String>(), any_value()), 0..8).prop_map(short_keys)
}

proptest! {
    #[test]
    fn any_table_comes_back_as_it_went(table in any_table()) {
        let bytes = table.to_bytes();
        let (back, read) = Table::decode(&bytes).unwrap();
        prop_assert_eq!(read, bytes.len());
        prop_assert_eq!(&back, &table);
        prop_assert_eq!(&back.to_bytes(), &bytes);
        prop_assert!(back.equivalent(&table));
        let mut keys = Vec::new();
        prop_assert_eq!(walk(&bytes, |key, letter, _| keys.push((key, letter))), Ok(bytes.len()));
        prop_assert_eq!(keys, table.iter().map(|(k, v)| (k, v.letter())).collect::<Vec<_>>());
    }

    #[test]
    fn any_cut_table_is_truncated(table in any_table(), cut in any::<prop::sample::Index>()) {
        let bytes = table.to_bytes();
        let cut = cut.index(bytes.len());
        prop_assert_eq!(Table::decode(&bytes[..cut]), Err(TableError::Truncated));
    }

    #[test]
    fn any_bytes_never_panic_and_settle_after_one_pass(mut bytes in any::<Vec<u8>>()) {
        let len = bytes.len() as u32;
        let mut framed = len.to_be_bytes().to_vec();
        framed.append(&mut bytes);
        let walked = walk(&framed, |_, _, _| {});
        prop_assert_eq!(walked, Table::decode(&framed).map(|(_, read)| read));
        if let Ok((table, read)) = Table::decode(&framed) {
            prop_assert_eq!(read, framed.len());
            let once = table.to_bytes();
            let (again, _) = Table::decode(&once).unwrap();
            prop_assert_eq!(again.to_bytes(), once);
        }
    }
}

fn nested(depth: usize) -> Vec<u8> {
    let mut table = Table::new();
    for _ in 1..depth {
        table = Table::new().with("t", table);
    }
    table.to_bytes()
}

#[test]
fn nesting_is_bounded() {
    assert!(Table::decode(&nested(TABLE_DEPTH_MAX)).is_ok());
    assert_eq!(Table::decode(&nested(TABLE_DEPTH_MAX + 1)), Err(TableError::TooDeep));
    // Arrays count too.
    let mut value = Value::Array(Vec::new());
    for _ in 0..TABLE_DEPTH_MAX {
        value = Value::Array(vec![value]);
    }
    let bytes = Table::new().with("a", value).to_bytes();
    assert_eq!(Table::decode(&bytes), Err(TableError::TooDeep));
}

#[test]
fn letters_of_the_dialect() {
    let bytes = b"\0\0\0\x1e\x01as\xff\xfe\x01bl\0\0\0\0\0\0\0\x07\x01cL\0\0\0\0\0\0\0\x08\x01dV";
    let (table, read) = Table::decode(bytes).unwrap();
    assert_eq!(read, bytes.len());
    assert_eq!(table.get("a"), Some(&Value::I16(-2)));
    assert_eq!(table.get("b"), Some(&Value::I64(7)));
    assert_eq!(table.get("c"), Some(&Value::LongLong(8)));
    assert_eq!(table.get("d"), Some(&Value::Void));
    assert_eq!(table.to_bytes(), bytes);
}

#[test]
fn refused_input() {
    assert_eq!(Table::decode(b"\0\0\0\x03\x01aZ"), Err(TableError::UnknownType(b'Z')));
    assert_eq!(Table::decode(b"\0\0\0\x03\x01\xffV"), Err(TableError::KeyNotUtf8));
    // A length that claims more than there is must not be believed.
    assert_eq!(Table::decode(b"\xff\xff\xff\xff\x01aV"), Err(TableError::Truncated));
    assert_eq!(Table::decode(b"\0\0\0\x09\x01aS\xff\xff\xff\xffxx"), Err(TableError::Truncated));
}

#[test]
fn duplicates_are_kept_and_the_first_wins() {
    let table: Table = [("k", Value::I8(1)), ("j", Value::I8(2)), ("k", Value::I8(3))].into_iter().collect();
    assert_eq!(table.len(), 3);
    assert_eq!(table.get("k"), Some(&Value::I8(1)));
    let (mut back, _) = Table::decode(&table.to_bytes()).unwrap();
    assert_eq!(back, table);
    assert_eq!(back.remove("k"), Some(Value::I8(1)));
    assert_eq!(back.len(), 1);
    assert_eq!(back.remove("k"), None);
}

#[test]
fn equivalence_ignores_width_and_order() {
    let a = Table::new().with("x", Value::I32(5)).with("y", "text");
    let b = Table::new().with("y", "text").with("x", Value::U8(5));
    assert!(a.equivalent(&b) && b.equivalent(&a));
    assert!(!a.equivalent(&b.clone().with("x", Value::I64(6))));
    assert!(!a.equivalent(&b.clone().with("z", Value::Void)));
    assert!(!Value::Bool(true).equivalent(&Value::I8(1)));
    assert!(Value::F32(1.5).equivalent(&Value::F64(1.5)));
    assert!(!Value::LongStr(b"x".to_vec()).equivalent(&Value::Bytes(b"x".to_vec())));
}

#[test]
fn a_long_key_is_cut_at_a_character() {
    let key = "é".repeat(200);
    let (back, _) = Table::decode(&Table::new().with(key, true).to_bytes()).unwrap();
    assert_eq!(back.iter().next().unwrap().0, "é".repeat(127));
}
