//! JSON of the core's tables and of answers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::{Response, StatusCode};
use serde_json::{Map, Number, Value as Json, json};
use waypost_model::table::{Table, Value};

use super::body::{Answer, Body};
use super::request::Failure;

/// How deep a table from JSON may be nested, like one from the wire.
const DEPTH_MAX: usize = waypost_model::table::TABLE_DEPTH_MAX;

/// An answer with a JSON body.
pub(super) fn answer(status: StatusCode, body: &Json) -> Answer {
    super::text(status, "application/json", body.to_string() + "\n")
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::default());
    *answer.status_mut() = status;
    answer
}

/// A table as an object. Octets that are no text become `{"base64": …}`.
pub(super) fn from_table(table: &Table) -> Json {
    Json::Object(table.iter().map(|(key, value)| (key.to_owned(), from_value(value))).collect::<Map<_, _>>())
}

pub(super) fn from_value(value: &Value) -> Json {
    match value {
        Value::Void => Json::Null,
        Value::Bool(b) => json!(b),
        Value::F32(f) => Number::from_f64(f64::from(*f)).map_or(Json::Null, Json::Number),
        Value::F64(f) => Number::from_f64(*f).map_or(Json::Null, Json::Number),
        Value::Decimal { scale, value } => json!({ "decimal": value, "scale": scale }),
        Value::LongStr(bytes) | Value::Bytes(bytes) => from_octets(bytes),
        Value::Timestamp(t) => json!(t),
        Value::Array(items) => Json::Array(items.iter().map(from_value).collect()),
        Value::Table(table) => from_table(table),
        number => number.as_i64().map_or(Json::Null, Json::from),
    }
}

/// Text, or base64 where it is none.
pub(super) fn from_octets(bytes: &[u8]) -> Json {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

/// An object as a table; nothing as an empty one.
pub(super) fn to_table(json: Option<&Json>) -> Result<Table, Failure> {
    match json {
        None | Some(Json::Null) => Ok(Table::new()),
        Some(Json::Object(map)) => table(map, DEPTH_MAX),
        Some(_) => Err(Failure::bad("arguments must be an object")),
    }
}

fn table(map: &Map<String, Json>, depth: usize) -> Result<Table, Failure> {
    let mut table = Table::new();
    for (key, json) in map {
        if key.len() > waypost_model::table::TABLE_KEY_BYTES_MAX {
            return Err(Failure::bad("a key is too long"));
        }
        table.set(key.as_str(), value(json, depth)?);
    }
    Ok(table)
}

fn value(json: &Json, depth: usize) -> Result<Value, Failure> {
    let Some(below) = depth.checked_sub(1) else { return Err(Failure::bad("nested too deep")) };
    Ok(match json {
        Json::Null => Value::Void,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(i), _) => Value::I64(i),
            (None, Some(f)) => Value::F64(f),
            (None, None) => return Err(Failure::bad("a number is too large")),
        },
        Json::String(s) => Value::LongStr(s.clone().into_bytes()),
        Json::Array(items) => Value::Array(items.iter().map(|i| value(i, below)).collect::<Result<_, _>>()?),
        Json::Object(map) => Value::Table(self::table(map, below)?),
    })
}

/// A text field.
pub(super) fn text<'a>(json: &'a Json, field: &str) -> Result<Option<&'a str>, Failure> {
    match json.get(field) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(s)) => Ok(Some(s)),
        Some(_) => Err(Failure::bad(format!("`{field}` must be a text"))),
    }
}

/// A yes-or-no field.
pub(super) fn flag(json: &Json, field: &str, default: bool) -> Result<bool, Failure> {
    match json.get(field) {
        None | Some(Json::Null) => Ok(default),
        Some(Json::Bool(b)) => Ok(*b),
        Some(_) => Err(Failure::bad(format!("`{field}` must be true or false"))),
    }
}

/// A field with a number that is not negative.
pub(super) fn number(json: &Json, field: &str) -> Result<Option<u64>, Failure> {
    match json.get(field) {
        None | Some(Json::Null) => Ok(None),
        Some(n) => n.as_u64().map(Some).ok_or_else(|| Failure::bad(format!("`{field}` must be a number from 0"))),
    }
}

/// A field with texts.
pub(super) fn texts(json: &Json, field: &str) -> Result<Option<Vec<String>>, Failure> {
    let wrong = || Failure::bad(format!("`{field}` must be an array of texts"));
    match json.get(field) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Array(items)) => {
            items.iter().map(|i| i.as_str().map(str::to_owned).ok_or_else(wrong)).collect::<Result<_, _>>().map(Some)
        }
        Some(_) => Err(wrong()),
    }
}

/// Refuses fields that are not among those known: nothing is taken and ignored.
pub(super) fn only(json: &Json, known: &[&str]) -> Result<(), Failure> {
    let map = json.as_object().ok_or_else(|| Failure::bad("the body must be an object"))?;
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Failure::bad(format!("unknown field `{key}`"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_there_and_back() {
        let json = json!({ "a": 1, "b": [true, null, "x"], "c": { "d": 1.5 } });
        assert_eq!(from_table(&to_table(Some(&json)).unwrap()), json);
    }

    #[test]
    fn depth_is_bounded() {
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        assert!(to_table(Some(&json!({ "a": deep }))).is_err());
    }

    #[test]
    fn unknown_fields_are_named() {
        assert!(only(&json!({ "a": 1, "b": 2 }), &["a"]).is_err());
        assert!(only(&json!({ "a": 1 }), &["a", "b"]).is_ok());
    }
}
